"""TLS ended in the process for the long link: a layer over memory buffers, and certificates that are read again.

Sources: RFC 8446, RFC 5246, RFC 9325 (TLS 1.2 or newer, no renegotiation, no compression, forward secrecy only).

Certificates are looked at again when a handshake begins, at most every `certificate_check_s`: no watcher, no signal,
and a renewed one is in use from the next device on (docs/decisions.md). Connections keep the context they began with.
One that cannot be loaded, for instance because only one of its two files has been replaced yet, changes nothing and is
counted.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable

from gateway.errors import CloseReason
from gateway.net.edge_table import Count
from gateway.net.tls import server_context

#: One record (RFC 8446 section 5.1). Written one by one, so that OpenSSL's buffer never grows beyond one.
_RECORD_BYTES = 16_384


class ServerCertificate:
    """The context of one listener, made anew when its files have changed."""

    def __init__(self, cert_file: str, key_file: str | None, check_s: float) -> None:
        """Raises OSError or ssl.SSLError as `server_context` does."""
        self._cert_file = cert_file
        self._key_file = key_file
        self._check_s = check_s
        self._check_at = 0.0
        self._stamps = self._stamp()
        self._context = server_context(cert_file, key_file)
        self._told: object = None

    def context(self, now: float, counts: memoryview[int], on_read: Callable[[str, str], None]) -> ssl.SSLContext:
        """The context for a handshake that begins now. counts: of the edge, by `Count`. on_read: told the file, and ""
        where the changed certificate is in use, else why it is not; once for each change."""
        if now >= self._check_at:
            self._check_at = now + self._check_s
            stamps: object = None
            try:
                # Before loading: what changes in between is seen the next time.
                stamps = self._stamp()
                if stamps != self._stamps:
                    self._context = server_context(self._cert_file, self._key_file)
                    self._stamps = stamps
                    counts[Count.CERTIFICATE_RELOADS] += 1
                    self._tell(on_read, stamps, "")
            except (OSError, ssl.SSLError) as error:
                counts[Count.CERTIFICATE_RELOADS_FAILED] += 1
                self._tell(on_read, stamps, str(error))
        return self._context

    def _tell(self, on_read: Callable[[str, str], None], stamps: object, fault: str) -> None:
        if (stamps, fault) != self._told:
            self._told = (stamps, fault)
            on_read(self._cert_file, fault)

    def _stamp(self) -> list[tuple[int, int, int]]:
        """What changes with a file's contents; links are followed, as they are what is replaced in most set-ups."""
        found = [os.stat(name) for name in (self._cert_file, self._key_file) if name is not None]
        return [(one.st_mtime_ns, one.st_size, one.st_ino) for one in found]


class TlsLayer:
    """One connection (see `Layer` in edge_codec.py)."""

    opened_as = Count.TLS_HANDSHAKES
    failed_as = Count.TLS_HANDSHAKES_FAILED

    def __init__(self, context: ssl.SSLContext, handshake_bytes_max: int) -> None:
        self._handshake_bytes_left = handshake_bytes_max
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_open = False
        self.is_spent = False
        self.close_reason: CloseReason | None = None

    def receive_data(self, data: bytes) -> bytes:
        if self.close_reason is not None:
            return b""
        self._incoming.write(data)
        try:
            if not self.is_open:
                self._handshake_bytes_left -= len(data)
                self._tls.do_handshake()
                self.is_open = True
        except ssl.SSLWantReadError:
            if self._handshake_bytes_left < 0:
                self.close_reason = CloseReason.TLS_HANDSHAKE_FAILED
            return b""
        except ssl.SSLError:
            self.close_reason = CloseReason.TLS_HANDSHAKE_FAILED
            return b""
        return self._read()

    def _read(self) -> bytes:
        pieces: list[bytes] = []
        try:
            while piece := self._tls.read(_RECORD_BYTES):
                pieces.append(piece)
            self.close_reason = CloseReason.PEER_CLOSED
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.close_reason = CloseReason.PEER_CLOSED
        except ssl.SSLError:
            self.close_reason = CloseReason.TLS_ERROR
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def send(self, data: bytes) -> bytes:
        if self.close_reason is not None:
            return b""
        if len(data) <= _RECORD_BYTES:
            self._tls.write(data)
            return self._outgoing.read()
        rows = memoryview(data)
        records = []
        for at in range(0, len(data), _RECORD_BYTES):
            self._tls.write(rows[at : at + _RECORD_BYTES])
            records.append(self._outgoing.read())
        return b"".join(records)

    def data_to_send(self) -> bytes:
        return self._outgoing.read()

    def close(self, reason: CloseReason) -> bytes:
        """close_notify, so that the peer can tell an end from a cut."""
        # SSLWantReadError: the peer's own close_notify is not waited for. Other errors: it is broken already.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        return self._outgoing.read()
