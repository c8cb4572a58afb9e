"""TLS streams on real sockets: what works, and each way it can fail, by its close reason."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from gateway.errors import CloseReason
from gateway.net.proxy import HttpProxy
from gateway.net.tls import ConnectFailed, TlsSessions, client_context, close_reason_of, open_tls_stream


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory, write_certificate: Callable[..., Path]) -> Path:
    return write_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


def server_context(certificate: Path, alpn: list[str]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(alpn)
    return context


async def start_echo(nursery: trio.Nursery, context: ssl.SSLContext) -> int:
    """A TLS server that sends back what comes; its port."""

    async def echo(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            async for data in stream:
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass

    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
    nursery.start_soon(trio.serve_listeners, echo, listeners)
    return listeners[0].transport_listener.socket.getsockname()[1]


async def connect_fails(port: int, context: ssl.SSLContext, *, name: str = "localhost") -> ConnectFailed:
    with pytest.raises(ConnectFailed) as caught:
        await open_tls_stream("127.0.0.1", port, context, server_hostname=name, connect_timeout_s=5)
    assert caught.value.reason.value in str(caught.value)
    return caught.value


async def test_stream_speaks_h2_over_modern_tls_without_delay(nursery: trio.Nursery, certificate: Path) -> None:
    port = await start_echo(nursery, server_context(certificate, ["h2"]))
    context = client_context(ca_file=certificate)
    stream = await open_tls_stream("127.0.0.1", port, context, server_hostname="localhost", connect_timeout_s=5)
    assert stream.tls.selected_alpn_protocol() == "h2"
    assert stream.tls.version() in {"TLSv1.2", "TLSv1.3"}
    assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    await stream.send_all(b"hello")
    assert await stream.receive_some() == b"hello"
    await stream.aclose()


async def test_old_tls_is_refused(nursery: trio.Nursery, certificate: Path) -> None:
    assert client_context().minimum_version is ssl.TLSVersion.TLSv1_2


async def test_peer_without_h2_is_an_alpn_mismatch(nursery: trio.Nursery, certificate: Path) -> None:
    port = await start_echo(nursery, server_context(certificate, ["http/1.1"]))
    error = await connect_fails(port, client_context(ca_file=certificate, alpn=["h2", "http/1.1"]))
    assert error.reason is CloseReason.ALPN_MISMATCH


async def test_unknown_issuer_is_an_invalid_certificate(nursery: trio.Nursery, certificate: Path) -> None:
    port = await start_echo(nursery, server_context(certificate, ["h2"]))
    assert (await connect_fails(port, client_context())).reason is CloseReason.CERTIFICATE_INVALID


async def test_wrong_name_is_an_invalid_certificate(nursery: trio.Nursery, certificate: Path) -> None:
    port = await start_echo(nursery, server_context(certificate, ["h2"]))
    error = await connect_fails(port, client_context(ca_file=certificate), name="push.example")
    assert error.reason is CloseReason.CERTIFICATE_INVALID


async def test_expired_certificate_is_invalid(
    nursery: trio.Nursery, tmp_path: Path, write_certificate: Callable[..., Path]
) -> None:
    expired = write_certificate(tmp_path / "expired.pem", until_days=-1)
    port = await start_echo(nursery, server_context(expired, ["h2"]))
    assert (await connect_fails(port, client_context(ca_file=expired))).reason is CloseReason.CERTIFICATE_INVALID


async def test_client_certificate_is_shown(
    nursery: trio.Nursery, certificate: Path, tmp_path: Path, write_certificate: Callable[..., Path]
) -> None:
    ours = write_certificate(tmp_path / "client.pem", "client")
    context = server_context(certificate, ["h2"])
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ours)
    port = await start_echo(nursery, context)
    client = client_context(ca_file=certificate, certificate_file=ours)
    stream = await open_tls_stream("127.0.0.1", port, client, server_hostname="localhost", connect_timeout_s=5)
    await stream.send_all(b"hello")
    assert await stream.receive_some() == b"hello"
    await stream.aclose()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_session_is_resumed_by_the_next_stream(
    nursery: trio.Nursery, certificate: Path, version: ssl.TLSVersion
) -> None:
    context = server_context(certificate, ["h2"])
    context.minimum_version = context.maximum_version = version
    port = await start_echo(nursery, context)
    client, sessions = client_context(ca_file=certificate), TlsSessions()

    async def talk() -> bool:
        stream = await open_tls_stream(
            "127.0.0.1", port, client, server_hostname="localhost", connect_timeout_s=5, sessions=sessions
        )
        assert stream.tls.version() == version.name.replace("v1_", "v1.")
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.aclose()
        return bool(stream.tls.session_reused)

    assert [await talk() for _ in range(4)] == [False, True, True, True]
    assert (sessions.handshakes, sessions.resumed) == (4, 3)


async def test_session_that_the_peer_does_not_know_costs_a_full_handshake(
    nursery: trio.Nursery, certificate: Path
) -> None:
    client, sessions = client_context(ca_file=certificate), TlsSessions()
    # Each server has ticket keys of its own.
    for _ in range(2):
        port = await start_echo(nursery, server_context(certificate, ["h2"]))
        stream = await open_tls_stream(
            "127.0.0.1", port, client, server_hostname="localhost", connect_timeout_s=5, sessions=sessions
        )
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.aclose()
    assert (sessions.handshakes, sessions.resumed) == (2, 0)


async def test_failed_handshake_forgets_the_session(
    nursery: trio.Nursery, certificate: Path, tmp_path: Path, write_certificate: Callable[..., Path]
) -> None:
    client, sessions = client_context(ca_file=certificate), TlsSessions()
    expired = write_certificate(tmp_path / "expired.pem", until_days=-1)
    good = await start_echo(nursery, server_context(certificate, ["h2"]))
    bad = await start_echo(nursery, server_context(expired, ["h2"]))
    for port in (good, bad, good):
        try:
            stream = await open_tls_stream(
                "127.0.0.1", port, client, server_hostname="localhost", connect_timeout_s=5, sessions=sessions
            )
        except ConnectFailed:
            assert port == bad
        else:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
            await stream.aclose()
    assert (sessions.handshakes, sessions.resumed) == (2, 0)


async def start_proxy(nursery: trio.Nursery, answer: bytes) -> tuple[HttpProxy, list[bytes]]:
    """A proxy that answers so and connects to 127.0.0.1, whatever name it is asked for; with what it was asked."""
    asked: list[bytes] = []

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()

    async def serve(client: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await client.receive_some()
        asked.append(request)
        await client.send_all(answer)
        if b" 200 " in answer:
            place = request.split()[1].decode()
            server = await trio.open_tcp_stream("127.0.0.1", int(place.rpartition(":")[2]))
            async with server, trio.open_nursery() as inner:
                inner.start_soon(pump, client, server)
                inner.start_soon(pump, server, client)

    listeners = await nursery.start(trio.serve_tcp, serve, 0)
    return HttpProxy("127.0.0.1", listeners[0].socket.getsockname()[1], "user", "password"), asked


async def test_stream_goes_through_a_proxy_which_looks_the_name_up(nursery: trio.Nursery, certificate: Path) -> None:
    port = await start_echo(nursery, server_context(certificate, ["h2"]))
    proxy, asked = await start_proxy(nursery, b"HTTP/1.1 200 OK\r\n\r\n")
    context = client_context(ca_file=certificate)
    stream = await open_tls_stream(
        "push.example", port, context, server_hostname="localhost", connect_timeout_s=5, proxy=proxy
    )
    await stream.send_all(b"hello")
    assert await stream.receive_some() == b"hello"
    await stream.aclose()
    assert asked[0].startswith(f"CONNECT push.example:{port} HTTP/1.1\r\n".encode())


async def test_proxy_that_refuses_is_a_failed_connect(nursery: trio.Nursery, certificate: Path) -> None:
    proxy, _ = await start_proxy(nursery, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    with pytest.raises(ConnectFailed) as caught:
        await open_tls_stream("push.example", 443, client_context(), connect_timeout_s=5, proxy=proxy)
    assert caught.value.reason is CloseReason.CONNECT_FAILED
    assert "407" in str(caught.value)
    assert "password" not in str(caught.value)


async def test_closed_port_is_a_failed_connect() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        # Still bound: nobody else can listen there meanwhile.
        assert (await connect_fails(port, client_context())).reason is CloseReason.CONNECT_FAILED


async def test_unknown_host_is_a_failed_connect() -> None:
    class NoSuchHost(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *args: object, **kwargs: object) -> list[object]:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

        async def getnameinfo(self, *args: object, **kwargs: object) -> tuple[str, str]:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(NoSuchHost())
    with pytest.raises(ConnectFailed) as caught:
        await open_tls_stream("push.example", 443, client_context(), connect_timeout_s=5)
    assert caught.value.reason is CloseReason.CONNECT_FAILED


async def test_silent_peer_is_a_connect_timeout(autojump_clock: trio.testing.MockClock) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        await open_tls_stream("127.0.0.1", port, client_context(), connect_timeout_s=30)
    assert caught.value.reason is CloseReason.CONNECT_TIMEOUT
    assert trio.current_time() >= 30
    await listeners[0].aclose()


async def test_peer_that_is_no_tls_server_is_a_tls_error(nursery: trio.Nursery) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail.example ESMTP\r\n" * 10)
        await stream.receive_some()

    listeners = await nursery.start(trio.serve_tcp, talk, 0)
    error = await connect_fails(listeners[0].socket.getsockname()[1], client_context())
    assert error.reason is CloseReason.TLS_ERROR


def cut_off_before_3_11_3() -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL: UNEXPECTED_EOF_WHILE_READING] unexpected eof while reading")
    error.reason = "UNEXPECTED_EOF_WHILE_READING"
    return error


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (lambda: ssl.SSLCertVerificationError("x"), CloseReason.CERTIFICATE_INVALID),
        (lambda: ssl.SSLEOFError("x"), CloseReason.PEER_CLOSED),
        (cut_off_before_3_11_3, CloseReason.PEER_CLOSED),
        (lambda: ssl.SSLError("x"), CloseReason.TLS_ERROR),
        (lambda: ConnectionResetError("x"), CloseReason.PEER_RESET),
        (lambda: None, CloseReason.PEER_RESET),
    ],
)
def test_broken_stream_has_a_close_reason(cause: Callable[[], Exception | None], reason: CloseReason) -> None:
    error = trio.BrokenResourceError()
    error.__cause__ = cause()
    assert close_reason_of(error) is reason
