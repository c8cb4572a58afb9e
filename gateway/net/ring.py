"""Many sends or receives in one system call: Linux's io_uring, as a plain function call.

A call fills the submission ring with one operation per socket, enters the kernel once, and takes all results before it
returns. Every operation has MSG_DONTWAIT, so each is done or refused while it is submitted; nothing stays under way,
no buffer is the kernel's afterwards, and what a result says is what send(2) or recv(2) would have said.

    columns --> submission entries (64 bytes each) --io_uring_enter--> completions (16 bytes each) --> column of results

Why: a system call per message costs more in Python than in the kernel (arguments, the GIL let go and taken, a `bytes`
object). Figures are in docs/decisions.md. Nothing is taken for granted: kernels before 5.18 do not have what is asked
for, and containers often forbid the call, so whoever opens a ring must be able to do without.

Memory order: the kernel looks at the rings only inside `io_uring_enter`, called by this thread (there is no polling
thread of the kernel's), so plain loads and stores are enough.

Source: io_uring(7), io_uring_setup(2), io_uring_enter(2); structures of include/uapi/linux/io_uring.h, Linux 5.18.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import numpy as np

from gateway.columns import I32, I64, U8, Rows

#: The numbers are the same on every architecture that Linux has had since 2019.
_SYS_IO_URING_SETUP, _SYS_IO_URING_ENTER = 425, 426
#: An operation that is wrong does not keep those behind it from being submitted.
_SETUP_SUBMIT_ALL = 1 << 7
_ENTER_GETEVENTS = 1
_OFFSET_SQES = 0x10000000
_OP_SEND, _OP_RECV = 26, 27
_MSG_DONTWAIT, _MSG_NOSIGNAL = 0x40, 0x4000
#: struct io_uring_params as 32-bit words: where its two tables of offsets begin, and where these have what.
_PARAMS_WORDS, _FLAGS_WORD, _SQ_WORD, _CQ_WORD = 30, 2, 10, 20
_HEAD, _TAIL, _SQ_ARRAY, _CQES = 0, 1, 6, 5

_SQE = np.dtype(
    [
        ("opcode", "u1"),
        ("flags", "u1"),
        ("ioprio", "<u2"),
        ("fd", "<i4"),
        ("off", "<u8"),
        ("addr", "<u8"),
        ("len", "<u4"),
        ("msg_flags", "<u4"),
        ("user_data", "<u8"),
        ("rest", "<u8", 3),
    ]
)
_CQE = np.dtype([("user_data", "<u8"), ("res", "<i4"), ("flags", "<u4")])
#: A signal came, or the kernel has no memory for a moment: what was not submitted is submitted again.
_TRY_AGAIN = frozenset({errno.EINTR, errno.EAGAIN})


class Ring:
    """One ring. Owned by one actor. Not thread-safe."""

    def __init__(self, entries: int, receive_bytes: int) -> None:
        """entries: sockets per system call, a power of two. receive_bytes: room for each in `receive`.

        Raises: OSError where the system has no io_uring or does not let this process use it.
        """
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        params = (ctypes.c_uint32 * _PARAMS_WORDS)()
        params[_FLAGS_WORD] = _SETUP_SUBMIT_ALL
        self._fd = int(self._syscall(_SYS_IO_URING_SETUP, entries, params))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), f"io_uring_setup: {os.strerror(ctypes.get_errno())}")
        self.entries, n_results = int(params[0]), int(params[1])
        sq, cq = list(params[_SQ_WORD:_CQ_WORD]), list(params[_CQ_WORD:])
        size = max(sq[_SQ_ARRAY] + 4 * self.entries, cq[_CQES] + _CQE.itemsize * n_results)
        try:
            rings = mmap.mmap(self._fd, size)
            sqes = mmap.mmap(self._fd, _SQE.itemsize * self.entries, offset=_OFFSET_SQES)
        except OSError:
            os.close(self._fd)
            raise
        words = np.frombuffer(rings, np.uint32, count=size // 4)
        self._sq_tail = words[sq[_TAIL] // 4 :][:1]
        self._sq_array = words[sq[_SQ_ARRAY] // 4 :][: self.entries]
        self._cq_head = words[cq[_HEAD] // 4 :][:1]
        self._cq_tail = words[cq[_TAIL] // 4 :][:1]
        self._results = np.frombuffer(rings, _CQE, count=n_results, offset=cq[_CQES])
        self._sqes = np.frombuffer(sqes, _SQE)
        self._sqes["msg_flags"] = _MSG_DONTWAIT | _MSG_NOSIGNAL
        self._sqes["user_data"] = np.arange(self.entries)
        # Looked up by name each costs as much as filling it for fifty sockets.
        self._opcodes, self._fds = self._sqes["opcode"], self._sqes["fd"]
        self._addresses, self._lengths = self._sqes["addr"], self._sqes["len"]
        self._result_users, self._result_codes = self._results["user_data"], self._results["res"]
        # Entry i is always operation i of a call; which slot of the ring names it moves on with every call.
        self._order = np.arange(self.entries, dtype=np.uint32)
        self._submitted = self._taken = 0
        self._buffer = np.zeros((self.entries, receive_bytes), np.uint8)
        self._buffer_at = self._buffer.ctypes.data + np.arange(self.entries, dtype=np.uint64) * np.uint64(receive_bytes)

    def close(self) -> None:
        """Gives the descriptor back. The memory goes with the last reference. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def send(self, fds: I32, blob: bytes | U8, offsets: Rows, lengths: I64 | int) -> I32:
        """(n,) what each socket took of its bytes, or minus the error number.

        Row i is the `lengths[i]` bytes of the C-contiguous blob from `offsets[i]` on. No socket twice: of two
        operations on one socket the second may come first.
        """
        flat = np.frombuffer(blob, np.uint8) if isinstance(blob, bytes) else blob
        addresses = flat.ctypes.data + offsets.astype(np.uint64)
        n, step = len(fds), self.entries
        if n <= step:
            return self._run(_OP_SEND, fds, addresses, lengths)
        parts = []
        for at in range(0, n, step):
            part = slice(at, at + step)
            long = lengths if isinstance(lengths, int) else lengths[part]
            parts.append(self._run(_OP_SEND, fds[part], addresses[part], long))
        return np.concatenate(parts)

    def receive(self, fds: I32) -> tuple[I32, U8]:
        """(n,) how many bytes came from each socket, 0 at its end, or minus the error number; and (n, receive_bytes)
        the bytes, a view that the next call overwrites. At most `entries` sockets, none twice."""
        n = len(fds)
        return self._run(_OP_RECV, fds, self._buffer_at[:n], self._buffer.shape[1]), self._buffer[:n]

    def _run(self, opcode: int, fds: I32, addresses: Rows, lengths: I64 | int) -> I32:
        n, mask = len(fds), self.entries - 1
        self._opcodes[:n] = opcode
        self._fds[:n] = fds
        self._addresses[:n] = addresses
        self._lengths[:n] = lengths
        first = self._submitted & mask
        before_end = min(n, self.entries - first)
        self._sq_array[first : first + before_end] = self._order[:before_end]
        if before_end < n:
            self._sq_array[: n - before_end] = self._order[before_end:n]
        self._submitted = self._submitted + n & 0xFFFFFFFF
        self._sq_tail[0] = self._submitted
        results = np.empty(n, np.int32)
        left, to_submit = n, n
        while left:
            done = int(self._syscall(_SYS_IO_URING_ENTER, self._fd, to_submit, left, _ENTER_GETEVENTS, None, 0))
            if done < 0:
                error = ctypes.get_errno()
                if error not in _TRY_AGAIN:
                    raise OSError(error, f"io_uring_enter: {os.strerror(error)}")
            else:
                to_submit -= done
            left -= self._take(results)
        return results

    def _take(self, results: I32) -> int:
        """Puts the completions that have come to their places and returns how many."""
        n_slots = len(self._results)
        count = (int(self._cq_tail[0]) - self._taken) & 0xFFFFFFFF
        first = self._taken & (n_slots - 1)
        stop = min(first + count, n_slots)
        results[self._result_users[first:stop]] = self._result_codes[first:stop]
        if rest := first + count - stop:
            results[self._result_users[:rest]] = self._result_codes[:rest]
        self._taken = self._taken + count & 0xFFFFFFFF
        self._cq_head[0] = self._taken
        return count
