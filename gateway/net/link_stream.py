"""A stream over a Unix socket for many small messages, which costs one turn of the loop where trio's own costs two.

trio's SocketStream gives its turn away after each call that succeeds at once, and tries to read before it waits. For a
link between workers that is half of its cost: a message of a hundred bytes, a turn of the loop to go on after it, and a
read that finds nothing. Here

* `send_all` returns at once when the kernel took a small message, **without a checkpoint**: whoever uses it waits for
  something else before the next one. After large ones, and where the kernel has no room, others have their turn.
* `receive_some` waits first, and always: so a peer that never stops sending gives others theirs.
"""

from __future__ import annotations

import os

import numpy as np
import trio

from gateway.columns import U8

#: Less is written without giving the turn away: some hundred rows, about ten microseconds.
SMALL_BYTES = 8 << 10


class LinkStream(trio.abc.Stream):
    """stream: whose socket it is; closed with this one. One task may send and one receive at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._fd = stream.socket.fileno()

    async def send_all(self, data: bytes | bytearray | memoryview | U8) -> None:
        """The kernel has all of it. Not always a checkpoint. data: contiguous.

        Raises BrokenResourceError where the peer is gone, ClosedResourceError where this end is. If cancelled: some of
        it may have been sent.
        """
        left = data.data if isinstance(data, np.ndarray) else memoryview(data)
        is_large = len(left) > SMALL_BYTES
        while left:
            try:
                left = left[os.write(self._open_fd(), left) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._fd)
            except OSError as error:
                raise trio.BrokenResourceError(f"socket is broken: {error}") from error
        if is_large:
            await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """There is room for something. If cancelled: nothing changes."""
        await trio.lowlevel.wait_writable(self._open_fd())

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come, b"" at the end.

        Raises BrokenResourceError where the peer broke off, ClosedResourceError where this end is closed. If cancelled:
        nothing is lost.
        """
        while True:
            await trio.lowlevel.wait_readable(self._open_fd())
            try:
                return os.read(self._fd, max_bytes or SMALL_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"socket is broken: {error}") from error

    async def aclose(self) -> None:
        """Who waits for it hears of it. Idempotent. If cancelled: it is closed all the same."""
        self._fd = -1
        await self._stream.aclose()

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise trio.ClosedResourceError("this end was closed")
        return self._fd
