"""Bell: how one actor tells another that there is something to do, without queueing anything.

Ringing a rung bell changes nothing, so a bell needs no bound and nobody ever waits for its listener. One listener.
"""

from __future__ import annotations

import trio

from gateway.actors.precedence import Precedence


class Bell:
    """What a `trio.Event` per ring would do, at half of its cost: bells ring several times per burst.

    precedence: of those whom the listener lets go first; None where he waits for nobody.
    """

    __slots__ = ("_is_rung", "_listener", "_precedence")

    def __init__(self, precedence: Precedence | None = None) -> None:
        self._precedence = precedence
        self._is_rung = False
        #: The task in `wait`, as long as nobody has rung for it.
        self._listener: trio.lowlevel.Task | None = None

    def ring(self) -> None:
        """The listener's present or next `wait` returns."""
        self._is_rung = True
        if self._listener is not None:
            trio.lowlevel.reschedule(self._listener)
            self._listener = None

    async def wait(self) -> None:
        """Returns once the bell has been rung since the last return. If cancelled: the ring is not lost."""
        if self._is_rung:
            await trio.lowlevel.checkpoint()
        else:
            assert self._listener is None, "a bell has one listener"
            self._listener = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)
        if self._precedence is not None and self._precedence.is_wanted:
            await self._precedence.give()
        self._is_rung = False

    async def pause(self) -> None:
        """Between two steps of the listener's: a turn for others, and more while somebody goes first."""
        await trio.lowlevel.checkpoint()
        if self._precedence is not None and self._precedence.is_wanted:
            await self._precedence.give()

    def _leave(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._listener = None
        return trio.lowlevel.Abort.SUCCEEDED
