"""Calls that block, taken into turns in one thread: those that wait together go together.

    call, call, call --> waiting --> one turn in a thread --> answers

Theory of operation. A call that finds no turn under way begins one and takes waiting calls into it; those that come
meanwhile wait and go together in the next turn. So a commit is as large as what arrived during the last one, an idle
store commits at once, and there is no task and no timer of its own. A turn, once begun, ends: a cancelled call that is
part of it has happened, one that only waited has not.

What a turn does with its calls is its owner's: `turns.py` (calls of one kind and one commit) and `threaded.py` (the
journal's three kinds).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from gateway.errors import StoreError


class Call:
    """One call. error: what became of it, when it is done."""

    __slots__ = ("error", "event", "is_done")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.error: StoreError | None = None
        self.is_done = False


CallT = TypeVar("CallT", bound=Call)


class TurnTaking(Generic[CallT]):
    """choose: takes the calls of the next turn out of those that wait, the oldest first, at least one. perform: does
    them, in the thread; an error of a call is its `error`."""

    def __init__(
        self,
        place: str,
        *,
        choose: Callable[[deque[CallT]], list[CallT]],
        perform: Callable[[list[CallT]], None],
    ) -> None:
        self._place = place
        self._choose = choose
        self._perform = perform
        self._waiting: deque[CallT] = deque()
        self._is_turning = False
        # Of our own: a turn must not wait behind forty other uses of threads.
        self._limiter = trio.CapacityLimiter(1)

    async def take_part(self, call: CallT) -> None:
        """The call was part of a turn. Raises StoreError.

        If cancelled: it was part of one, or of none and never will be.
        """
        self._waiting.append(call)
        while not call.is_done:
            if not self._is_turning:
                await self._turn()
                continue
            call.event = trio.Event()
            try:
                await call.event.wait()
            except trio.Cancelled:
                if call in self._waiting:
                    self._waiting.remove(call)
                    # It may have been this call's part to begin the next turn.
                    self._wake_next()
                raise
        if call.error is not None:
            # Each caller has an exception of his own; one raised by several tasks would collect their tracebacks.
            raise type(call.error)(call.error.place, call.error.what) from call.error

    async def _turn(self) -> None:
        """What waits, up to a turn's limits, is done. Not cancellable: a write cannot be called back."""
        calls = self._choose(self._waiting)
        self._is_turning = True
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._perform, calls, limiter=self._limiter)
        except BaseException:
            for call in calls:
                call.error = call.error or StoreError(self._place, "the turn crashed; nobody knows what was written")
            raise
        finally:
            self._is_turning = False
            for call in calls:
                call.is_done = True
                call.event.set()
            self._wake_next()

    def _wake_next(self) -> None:
        """The oldest waiting call begins the next turn and takes the others along."""
        if self._waiting and not self._is_turning:
            self._waiting[0].event.set()
