"""Blocking calls of a store in one thread, those that wait together in one turn and one commit.

    call, call, call --> waiting --> one turn in a thread: each call, then commit --> answers

The theory of operation is that of `threaded.py` (the journal, whose turns have three kinds of call and limits in
bytes): a call that finds no turn under way begins one and takes the waiting ones along; a turn, once begun, ends; a
cancelled call that was part of a turn has happened, one that only waited has not. An error that a call raises is that
call's; an error of the commit is everybody's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from gateway.errors import StoreError

_T = TypeVar("_T")
#: Calls of one turn. A call is a slice of rows, a millisecond or so: what came later waits half a second at most.
TURN_CALLS_MAX = 256


class _Call:
    __slots__ = ("answer", "error", "event", "is_done", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.event = trio.Event()
        self.answer: Any = None
        self.error: StoreError | None = None
        self.is_done = False


class Turns:
    """commit: makes durable what the calls of a turn did; undo: takes it back after an error. Both block."""

    def __init__(self, place: str, *, commit: Callable[[], None], undo: Callable[[], None]) -> None:
        self._place = place
        self._commit = commit
        self._undo = undo
        self._waiting: deque[_Call] = deque()
        self._is_turning = False
        # Of our own: a turn must not wait behind forty other uses of threads.
        self._limiter = trio.CapacityLimiter(1)

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work` returned, in the thread; what it wrote is durable. Raises StoreError.

        If cancelled: all of it happened, or nothing.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call(work)
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
        answer: _T = call.answer
        return answer

    async def _turn(self) -> None:
        calls = [self._waiting.popleft() for _ in range(min(len(self._waiting), TURN_CALLS_MAX))]
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

    def _perform(self, calls: list[_Call]) -> None:
        """In the thread. A call that failed may have written a half: then all are undone and done one by one."""
        if self._attempt(calls):
            return
        for call in calls:
            self._attempt([call])

    def _attempt(self, calls: list[_Call]) -> bool:
        """Whether the calls, or the only one, have their answer or error."""
        is_alone = len(calls) == 1
        try:
            for call in calls:
                call.answer = call.work()
            self._commit()
        except StoreError as error:
            self._undo()
            if is_alone:
                calls[0].error = error
            return is_alone
        except BaseException:
            self._undo()
            raise
        return True
