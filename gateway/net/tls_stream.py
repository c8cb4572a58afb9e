"""TLS on a socket, driven through `ssl.SSLObject`: what a connection under load needs and `trio.SSLStream` does not do.

One `receive_some` hands over all records that are there, where trio's hands over one at a time (16 KiB at most); a
write is one step from plain text to the kernel. Behaviour at the edges is that of
`trio.SSLStream(https_compatible=True)`: an end of file without a TLS goodbye is an end of file, and `aclose` says
goodbye without waiting for the peer's.

One task may receive while another sends. The `SSLObject` is only touched between awaits, so it needs no lock; what it
puts out goes through one buffer, so that order is kept whoever sends.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

#: Taken off the socket at once: more than a vendor answers in one turn of the loop.
_READ_BYTES = 32 << 10
#: Plain text read from the TLS object at once; a record has at most 16 KiB.
_RECORD_BYTES = 16 << 10
_T = TypeVar("_T")


def is_cut_off(error: ssl.SSLError) -> bool:
    """Whether the stream ended without a goodbye. Python has a type for that since 3.11.3; errors made by hand have no
    reason."""
    return isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", "") == "UNEXPECTED_EOF_WHILE_READING"


class TlsStream(trio.abc.HalfCloseableStream):
    """The client's side. Owns its socket."""

    def __init__(self, tcp: trio.SocketStream, context: ssl.SSLContext, server_hostname: str) -> None:
        """`tcp` is taken over and must not be used any more."""
        self.socket = socket.socket(fileno=tcp.socket.detach())
        self.socket.setblocking(False)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        #: Records that the kernel has not taken yet.
        self._unsent = memoryview(b"")
        self._is_broken = False
        #: The peer has ended its side with the TLS goodbye, so nobody has cut off what it said (RFC 8446 section 6.1).
        self.said_goodbye = False

    async def do_handshake(self) -> None:
        """Raises BrokenResourceError, from the ssl.SSLError or OSError that tells why."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError as error:
                # The peer is to hear why, if it still listens.
                self._send_nowait()
                raise self._broken(error) from error
            else:
                await self._flush()
                return

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """All that has come, up to max_bytes; waits for at least one byte. Empty: the peer has closed."""
        self._check()
        await trio.lowlevel.checkpoint_if_cancelled()
        limit = _READ_BYTES if max_bytes is None else max_bytes
        while True:
            data = self._read(limit)
            if data is not None:
                # Not cancelled here: what was read would be lost.
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data
            await self._fill()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """If cancelled: part of the data may be on its way, and the stream is of no more use for sending."""
        self._check()
        await trio.lowlevel.checkpoint_if_cancelled()
        if len(data):
            try:
                self.tls.write(data)
            except ssl.SSLError as error:
                raise self._broken(error) from error
        await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        self._check()
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """The peer is told that nothing follows; what it sends can still be received.

        If cancelled: it may not have been told.
        """
        self._check()
        await trio.lowlevel.checkpoint_if_cancelled()
        with contextlib.suppress(ssl.SSLError):  # it wants the peer's goodbye, which comes, if at all, by receiving
            self.tls.unwrap()
        await self._flush()
        with contextlib.suppress(OSError):  # dead already, which receiving tells
            self.socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """The peer is told, if its window has room for it; then the socket is closed, whatever happens."""
        try:
            if not self._is_closed and not self._is_broken and not len(self._unsent):
                # It wants the peer's goodbye, for which nobody waits; or the handshake never came to an end.
                with contextlib.suppress(ssl.SSLError):
                    self.tls.unwrap()
                self._send_nowait()
        finally:
            if not self._is_closed:
                trio.lowlevel.notify_closing(self.socket)
                self.socket.close()
        await trio.lowlevel.checkpoint()

    @property
    def _is_closed(self) -> bool:
        return self.socket.fileno() < 0

    def _check(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this stream is closed")
        if self._is_broken:
            raise trio.BrokenResourceError("this stream is broken")

    def _broken(self, error: Exception) -> trio.BrokenResourceError:
        """For `raise ... from error`; nothing works on this stream afterwards."""
        self._is_broken = True
        return trio.BrokenResourceError(str(error))

    def _read(self, limit: int) -> bytes | None:
        """The records that are there as plain text; None when a whole one has yet to come."""
        parts: list[bytes] = []
        size = 0
        while size < limit:
            try:
                part = self.tls.read(min(limit - size, _RECORD_BYTES))
                # An SSLObject tells of a goodbye by an empty read (by SSLZeroReturnError when it was told before).
                self.said_goodbye = self.said_goodbye or not part
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                part = b""
            except ssl.SSLError as error:
                if is_cut_off(error):
                    part = b""
                elif not parts:
                    raise self._broken(error) from error
                else:
                    break  # told at the next call
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
        self._send_nowait()  # an answer to the peer's key update, or nothing
        return b"".join(parts) if parts else None

    async def _fill(self) -> None:
        """More bytes for the TLS object, or the end."""
        data = await self._do(lambda: self.socket.recv(_READ_BYTES), trio.lowlevel.wait_readable)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        """All that the TLS object put out is with the kernel."""
        while self._has_unsent:
            await self._do(self._send_part, trio.lowlevel.wait_writable)
        await trio.lowlevel.cancel_shielded_checkpoint()

    @property
    def _has_unsent(self) -> bool:
        return len(self._unsent) > 0 or self._outgoing.pending > 0

    def _send_part(self) -> None:
        if self._outgoing.pending:
            records = self._outgoing.read()
            self._unsent = memoryview(bytes(self._unsent) + records if len(self._unsent) else records)
        self._unsent = self._unsent[self.socket.send(self._unsent) :]

    def _send_nowait(self) -> None:
        """What the kernel takes now; the rest goes with the next `send_all`."""
        if self._has_unsent:
            try:
                self._send_part()
            except OSError:
                return  # full, or dead, which whoever reads or sends next will see

    async def _do(self, call: Callable[[], _T], wait: Callable[[socket.socket], Awaitable[None]]) -> _T:
        """The result of a call on the socket, made again whenever `wait` says so."""
        while True:
            try:
                return call()
            except BlockingIOError:
                await wait(self.socket)
            except OSError as error:
                if self._is_closed:
                    raise trio.ClosedResourceError("this stream was closed by another task") from error
                raise self._broken(error) from error
