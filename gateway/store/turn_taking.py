"""Calls that block, taken into turns in one thread: those that wait together go together.

    call, call, call --> waiting --> turn, turn, ... in a thread --> answers

Theory of operation. A call that finds no thread at work starts one with a turn. The thread takes those that come
meanwhile into its next, until none wait; only then it ends. So a commit is as large as what arrived during the last,
an idle store commits at once, there is no task and no timer of its own, and a call that comes during a turn needs no
turn of the loop before its own begins: on a busy loop that was most of what an append behind a commit waited for. A
call that a turn has taken ends with it; until then it may be cancelled, and never happens.

The queue is the one thing that loop and thread share. Each takes calls out of it by one operation of the deque that
the interpreter does as a whole (`popleft` in the thread, `remove` in the loop), so whoever gets a call has it alone,
and there is no lock.

What a turn does with its calls is its owner's: `turns.py` (calls of one kind and one commit) and `threaded.py` (the
journal's three kinds).
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import trio

from gateway.errors import StoreError


class Call:
    """One call. error: what became of it, when it is done. bug: where that was none of the store's errors."""

    __slots__ = ("bug", "error", "task")

    def __init__(self) -> None:
        self.error: StoreError | None = None
        self.bug: BaseException | None = None
        #: Who waits for it.
        self.task: trio.lowlevel.Task | None = None


CallT = TypeVar("CallT", bound=Call)


class TurnTaking(Generic[CallT]):
    """choose: takes the calls of the next turn out of those that wait, the oldest first; none where none wait; in the
    loop for a thread's first turn, else in the thread. perform: does them, in the thread; an error of a call is its
    `error`."""

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

    async def take_part(self, call: CallT) -> None:
        """The call was part of a turn. Raises StoreError.

        If cancelled: it was part of none and never will be. A call that a turn has taken is not cancelled.
        """
        call.task = trio.lowlevel.current_task()
        self._waiting.append(call)
        if not self._is_turning:
            self._begin()
        await trio.lowlevel.wait_task_rescheduled(functools.partial(self._leave, call))
        if call.bug is not None:
            raise call.bug
        if call.error is not None:
            # Each caller has an exception of his own; one raised by several tasks would collect their tracebacks.
            raise type(call.error)(call.error.place, call.error.what) from call.error

    def _leave(self, call: CallT, _raise_cancel: object) -> trio.lowlevel.Abort:
        try:
            self._waiting.remove(call)
        except ValueError:
            # A write cannot be called back.
            return trio.lowlevel.Abort.FAILED
        return trio.lowlevel.Abort.SUCCEEDED

    def _begin(self) -> None:
        """Not by `trio.to_thread`: it lets the loop have a turn before it starts a thread, and each call would wait."""
        calls = self._choose(self._waiting)
        self._is_turning = True
        token = trio.lowlevel.current_trio_token()
        turns = functools.partial(self._take_turns, calls, token)
        trio.lowlevel.start_thread_soon(turns, lambda outcome: token.run_sync_soon(self._ended, outcome), "turns")

    def _take_turns(self, calls: list[CallT], token: trio.lowlevel.TrioToken) -> list[CallT]:
        """In the thread: these calls' turn, and more until no call waits. The calls of the last, which are told of with
        the end."""
        while True:
            try:
                self._perform(calls)
            except BaseException as error:
                crash = StoreError(self._place, "the turn crashed; nobody knows what was written")
                for call in calls:
                    call.error = call.error or crash
                calls[0].bug = error
            following = self._choose(self._waiting)
            if not following:
                return calls
            token.run_sync_soon(_tell, calls)
            calls = following

    def _ended(self, outcome: Any) -> None:
        """outcome: of `_take_turns`, as trio hands it over."""
        self._is_turning = False
        _tell(outcome.unwrap())
        if self._waiting:
            # It came after the thread had looked for the last time.
            self._begin()


def _tell(calls: Sequence[Call]) -> None:
    for call in calls:
        assert call.task is not None, "a call in a turn has somebody who waits for it"
        trio.lowlevel.reschedule(call.task)
