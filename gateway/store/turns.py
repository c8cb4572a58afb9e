"""Blocking calls of a store in one thread, those that wait together in one turn and one commit.

    call, call, call --> waiting --> one turn in a thread: each call, then commit --> answers

The theory of operation is that of `turn_taking.py`. An error that a call raises is that call's; an error of the commit
is everybody's.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from gateway.errors import StoreError
from gateway.store.turn_taking import Call, TurnTaking

_T = TypeVar("_T")
#: Calls of one turn. A call is a slice of rows, a millisecond or so: what came later waits half a second at most.
TURN_CALLS_MAX = 256


class _Call(Call):
    __slots__ = ("answer", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self.work = work
        self.answer: Any = None


def _oldest(waiting: deque[_Call]) -> list[_Call]:
    calls: list[_Call] = []
    # A call that is cancelled meanwhile is gone.
    with contextlib.suppress(IndexError):
        while waiting and len(calls) < TURN_CALLS_MAX:
            calls.append(waiting.popleft())
    return calls


class Turns:
    """commit: makes durable what the calls of a turn did; undo: takes it back after an error. Both block."""

    def __init__(self, place: str, *, commit: Callable[[], None], undo: Callable[[], None]) -> None:
        self._commit = commit
        self._undo = undo
        self._turns: TurnTaking[_Call] = TurnTaking(place, choose=_oldest, perform=self._perform)

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work` returned, in the thread; what it wrote is durable. Raises StoreError.

        If cancelled: all of it happened, or nothing.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call(work)
        await self._turns.take_part(call)
        answer: _T = call.answer
        return answer

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
