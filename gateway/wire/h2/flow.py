"""Flow control (RFC 9113 section 5.2 and 6.9): how much we may send, and the credit we give back.

Algorithm of the receiving side: bytes count against the window when they arrive and are consumed at once (bodies are
collected under a limit or dropped, never queued), so the credit is due at once; it is sent when half of the window
has been used, so that a thousand small answers cost one WINDOW_UPDATE.
"""

from __future__ import annotations

import numpy as np

from gateway.columns import I64
from gateway.errors import RemoteProtocolError
from gateway.wire.h2.frames import WINDOW_DEFAULT, WINDOW_MAX, ErrorCode


class SendWindow:
    """Bytes of DATA the peer takes. May be negative after it lowers INITIAL_WINDOW_SIZE (section 6.9.2)."""

    __slots__ = ("size",)

    def __init__(self, size: int = WINDOW_DEFAULT) -> None:
        self.size = size

    def consume(self, n: int) -> None:
        self.size -= n

    def grow(self, increment: int) -> None:
        """Raises RemoteProtocolError when the window would be larger than 2**31 - 1."""
        if self.size + increment > WINDOW_MAX:
            text = f"window of {self.size} bytes grown by {increment}, limit {WINDOW_MAX}"
            raise RemoteProtocolError(text, wire_code=ErrorCode.FLOW_CONTROL_ERROR)
        self.size += increment


class ReceiveWindow:
    """Bytes of DATA we take before the peer needs credit.

    left: what the peer may still send. target: what it may send when all credit is given.
    """

    __slots__ = ("left", "target")

    def __init__(self, target: int, left: int | None = None) -> None:
        self.target = target
        self.left = target if left is None else left

    def consume(self, n: int) -> None:
        """Raises RemoteProtocolError when the peer sends more than it was allowed."""
        if n > self.left:
            text = f"{n} bytes of DATA into a window of {self.left}"
            raise RemoteProtocolError(text, wire_code=ErrorCode.FLOW_CONTROL_ERROR)
        self.left -= n

    def credit(self) -> int:
        """The increment to send now, or 0 while less than half of the window is used. Counts it as sent."""
        used = self.target - self.left
        if 2 * used < self.target or used <= 0:
            return 0
        self.left = self.target
        return used

    def consume_frames(self, sizes: I64) -> list[int]:
        """The same as `consume` and `credit` for each of the sizes in turn; returns the increments to send.

        Raises RemoteProtocolError when one of the frames is more than what was allowed.
        """
        increments: list[int] = []
        total = int(sizes.sum())
        if 2 * (self.target - self.left + total) < self.target:
            self.left -= total
            return increments
        ends = np.cumsum(sizes)
        n = len(ends)
        at = done = 0
        while at < n:
            # Frames up to the one that uses half of the window, at least one, and never beyond what is left.
            until_half = (self.target + 1) // 2 - (self.target - self.left)
            stop = int(np.searchsorted(ends, done + max(1, until_half))) + 1
            fitting = int(np.searchsorted(ends, done + self.left, side="right"))
            at = min(stop, n, max(fitting, at + 1))
            self.consume(int(ends[at - 1]) - done)
            done = int(ends[at - 1])
            increment = self.credit()
            if increment:
                increments.append(increment)
        return increments
