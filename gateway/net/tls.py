"""TLS streams to vendors: TLS 1.2 or newer, ALPN, a fresh look-up of the name each time, perhaps through a proxy, and
an earlier session resumed where the peer allows it (RFC 8446 section 2.2, RFC 5077). And the contexts of both sides.

Foreign exceptions (socket, ssl, trio) are mapped here and nowhere else: `ConnectFailed` while connecting,
`close_reason_of` afterwards.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence

import trio

from gateway.errors import CloseReason, GatewayError
from gateway.net.addresses import open_tcp
from gateway.net.proxy import HttpProxy, ProxyRefused, ask_for_tunnel
from gateway.net.tls_stream import TlsStream, is_cut_off

#: RFC 9113 section 3.2: HTTP/2 over TLS.
ALPN_H2 = "h2"
#: RFC 7301. A server that knows no ALPN speaks HTTP/1.1, so that silence is an answer too.
ALPN_HTTP1 = "http/1.1"
#: RFC 9113 section 9.2.2 and appendix A: with TLS 1.2 only ephemeral key exchange and AEAD.
_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class ConnectFailed(GatewayError):
    """No usable connection came about; the world is at fault. `reason` counts it."""

    def __init__(self, host: str, port: int, reason: CloseReason, detail: str) -> None:
        self.reason = reason
        super().__init__(f"{host}:{port}: {reason.value}: {detail}")


def client_context(
    *,
    ca_file: str | os.PathLike[str] | None = None,
    certificate_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    alpn: Sequence[str] = (ALPN_H2,),
) -> ssl.SSLContext:
    """A context for connections to vendors; peers and their names are always verified.

    ca_file: trusted instead of the system's store. certificate_file, key_file: a client certificate in PEM; the key
    may be in the same file. Made once and shared: it holds the sessions and the parsed certificates.
    Raises OSError or ssl.SSLError for files that cannot be read.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    _set_options(context)
    context.set_alpn_protocols(list(alpn))
    if certificate_file is not None:
        # Without a password here OpenSSL would ask the terminal for that of an encrypted key, and wait.
        context.load_cert_chain(certificate_file, key_file, password="")
    return context


def server_context(cert_file: str, key_file: str | None) -> ssl.SSLContext:
    """A context for those who connect to us: TLS 1.2 or newer, forward secrecy only, no renegotiation (RFC 9325).

    key_file: None when the key is in cert_file.
    Raises OSError or ssl.SSLError for files that cannot be read, or that do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    _set_options(context)
    # Without a password here OpenSSL would ask the terminal for that of an encrypted key, and wait.
    context.load_cert_chain(cert_file, key_file, password="")
    return context


def _set_options(context: ssl.SSLContext) -> None:
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # Python before 3.11.3 has it set: a stream that was cut off would look like one that ended (RFC 8446 section 6.1).
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF


class TlsSessions:
    """The session of the newest stream to one place, for the next one. Owned by whoever opens the streams; for one
    context, host and server name.

    With TLS 1.3 the ticket comes some time after the handshake, so the stream is asked when the next one is opened. It
    is kept alive until then, which costs some 50 KiB per place.
    """

    def __init__(self) -> None:
        self._newest: TlsStream | None = None
        self._session: ssl.SSLSession | None = None
        #: Handshakes that resumed a session, and all of them.
        self.resumed = 0
        self.handshakes = 0

    def offer(self, stream: TlsStream) -> None:
        """The stream, not yet shaken hands, will ask to resume the session that is known."""
        if self._newest is not None:
            session = self._newest.tls.session
            if session is not None and session.has_ticket:
                self._session = session
        if self._session is not None:
            stream.tls.session = self._session

    def on_handshake(self, stream: TlsStream) -> None:
        self._newest = stream
        self.handshakes += 1
        self.resumed += bool(stream.tls.session_reused)

    def forget(self) -> None:
        """A handshake failed: the next one is to be a full one."""
        self._newest = self._session = None


async def open_tls_stream(
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    server_hostname: str | None = None,
    connect_timeout_s: float,
    alpn: str = ALPN_H2,
    sessions: TlsSessions | None = None,
    proxy: HttpProxy | None = None,
    turns: Iterator[int] | None = None,
) -> TlsStream:
    """A stream whose handshake is done and whose ALPN is `alpn` (or nothing, where that means HTTP/1.1). The name is
    looked up anew (net/addresses.py).

    connect_timeout_s: for look-up, TCP, proxy and TLS together. sessions: where the session of the last stream is
    found and that of this one will be. proxy: asked for a tunnel (CONNECT); then it looks the name up. turns: numbers
    of the connections to this place; each begins with another address.
    Raises ConnectFailed. If cancelled: nothing stays open.
    """
    try:
        with trio.fail_after(connect_timeout_s):
            tcp = await _open_tcp(host, port, proxy, 0 if turns is None else next(turns))
            stream = TlsStream(tcp, context, server_hostname or host)
            if sessions is not None:
                sessions.offer(stream)
            try:
                await stream.do_handshake()
            except BaseException:
                if sessions is not None:
                    sessions.forget()
                await trio.aclose_forcefully(stream)
                raise
    except trio.TooSlowError as error:
        raise ConnectFailed(host, port, CloseReason.CONNECT_TIMEOUT, f"over {connect_timeout_s:g} s") from error
    except ProxyRefused as error:
        raise ConnectFailed(host, port, CloseReason.CONNECT_FAILED, str(error)) from error
    except trio.BrokenResourceError as error:
        reason = close_reason_of(error)
        raise ConnectFailed(host, port, reason, str(error.__cause__ or error)) from error
    except OSError as error:
        raise ConnectFailed(host, port, CloseReason.CONNECT_FAILED, str(error)) from error
    if sessions is not None:
        sessions.on_handshake(stream)
    chosen = stream.tls.selected_alpn_protocol()
    if chosen != alpn and not (chosen is None and alpn == ALPN_HTTP1):
        await trio.aclose_forcefully(stream)
        raise ConnectFailed(host, port, CloseReason.ALPN_MISMATCH, f"peer chose {chosen}, wanted {alpn}")
    return stream


async def _open_tcp(host: str, port: int, proxy: HttpProxy | None, turn: int) -> trio.SocketStream:
    if proxy is None:
        return await open_tcp(host, port, turn)
    tcp = await open_tcp(proxy.host, proxy.port, turn)
    try:
        await ask_for_tunnel(tcp, host, port, proxy)
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise
    return tcp


def close_reason_of(error: trio.BrokenResourceError | trio.ClosedResourceError) -> CloseReason:
    """What a broken stream is counted as."""
    match error.__cause__:
        case ssl.SSLCertVerificationError():
            return CloseReason.CERTIFICATE_INVALID
        case ssl.SSLZeroReturnError():
            return CloseReason.PEER_CLOSED
        case ssl.SSLError() as cause:
            return CloseReason.PEER_CLOSED if is_cut_off(cause) else CloseReason.TLS_ERROR
        case _:
            return CloseReason.PEER_RESET
