"""A tunnel through an HTTP proxy: the CONNECT method (RFC 9110 section 9.3.6), read and written by h11.

Only the proxy is spoken to in clear text; TLS with the vendor begins inside of the tunnel, so the proxy sees host and
port, sizes and times, and nothing else.
"""

from __future__ import annotations

import base64
from typing import NamedTuple

import h11
import trio

from gateway.errors import GatewayError

_READ_BYTES_MAX = 4096
#: The head of the proxy's answer; nobody needs more for "200 Connection established".
_HEAD_BYTES_MAX = 16 << 10


class HttpProxy(NamedTuple):
    """Where the proxy listens. user: empty without authentication (Basic, RFC 7617)."""

    host: str
    port: int
    user: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"HttpProxy({self.host}:{self.port})"  # without the password


class ProxyRefused(GatewayError):
    """The proxy would not open the tunnel, or does not speak HTTP; the operator's configuration or the proxy is at
    fault."""


async def ask_for_tunnel(stream: trio.abc.Stream, host: str, port: int, proxy: HttpProxy) -> None:
    """The stream goes to host:port from now on; nothing of what comes through has been read.

    Raises ProxyRefused, or BrokenResourceError as the stream. If cancelled: the stream is of no more use.
    """
    machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES_MAX)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = [("host", place)]
    if proxy.user:
        credentials = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        headers.append(("proxy-authorization", f"Basic {credentials}"))
    request = machine.send(h11.Request(method="CONNECT", target=place, headers=headers))
    end = machine.send(h11.EndOfMessage())
    await stream.send_all((request or b"") + (end or b""))
    try:
        event = machine.next_event()
        while event is h11.NEED_DATA or isinstance(event, h11.InformationalResponse):
            if event is h11.NEED_DATA:
                machine.receive_data(bytes(await stream.receive_some(_READ_BYTES_MAX)))
            event = machine.next_event()
    except h11.RemoteProtocolError as error:
        raise ProxyRefused(f"proxy {proxy.host}:{proxy.port} does not answer as HTTP: {error}") from error
    if not isinstance(event, h11.Response):
        raise ProxyRefused(f"proxy {proxy.host}:{proxy.port} closed the connection")
    if not 200 <= event.status_code < 300:
        raise ProxyRefused(f"proxy {proxy.host}:{proxy.port} answered CONNECT with {event.status_code}")
    if machine.trailing_data[0]:
        # The peer of the tunnel is a TLS server, which waits for the client's hello.
        raise ProxyRefused(f"proxy {proxy.host}:{proxy.port} sent bytes behind its answer")
