"""TLS streams to vendors: TLS 1.2 or newer, ALPN, a fresh look-up of the name each time.

Foreign exceptions (socket, ssl, trio) are mapped here and nowhere else: `ConnectFailed` while connecting,
`close_reason_of` afterwards.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence

import trio

from gateway.errors import CloseReason, GatewayError

#: RFC 9113 section 3.2: HTTP/2 over TLS.
ALPN_H2 = "h2"
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
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(alpn))
    if certificate_file is not None:
        context.load_cert_chain(certificate_file, key_file)
    return context


async def open_tls_stream(
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    server_hostname: str | None = None,
    connect_timeout_s: float,
    alpn: str = ALPN_H2,
) -> trio.SSLStream[trio.SocketStream]:
    """A stream whose handshake is done and whose ALPN is `alpn`. The name is looked up anew, all its addresses are
    tried in a staggered race (RFC 8305), and TCP_NODELAY is on (trio's default for a SocketStream).

    connect_timeout_s: for look-up, TCP and TLS together.
    Raises ConnectFailed. If cancelled: nothing stays open.
    """
    try:
        with trio.fail_after(connect_timeout_s):
            tcp = await trio.open_tcp_stream(host, port)
            stream = trio.SSLStream(tcp, context, server_hostname=server_hostname or host, https_compatible=True)
            try:
                await stream.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
    except trio.TooSlowError as error:
        raise ConnectFailed(host, port, CloseReason.CONNECT_TIMEOUT, f"over {connect_timeout_s:g} s") from error
    except trio.BrokenResourceError as error:
        reason = close_reason_of(error)
        raise ConnectFailed(host, port, reason, str(error.__cause__ or error)) from error
    except OSError as error:
        raise ConnectFailed(host, port, CloseReason.CONNECT_FAILED, str(error)) from error
    chosen = stream.selected_alpn_protocol()
    if chosen != alpn:
        await trio.aclose_forcefully(stream)
        raise ConnectFailed(host, port, CloseReason.ALPN_MISMATCH, f"peer chose {chosen}, wanted {alpn}")
    return stream


def close_reason_of(error: trio.BrokenResourceError | trio.ClosedResourceError) -> CloseReason:
    """What a broken stream is counted as."""
    match error.__cause__:
        case ssl.SSLCertVerificationError():
            return CloseReason.CERTIFICATE_INVALID
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return CloseReason.PEER_CLOSED
        case ssl.SSLError():
            return CloseReason.TLS_ERROR
        case _:
            return CloseReason.PEER_RESET
