"""Patience: how long submits wait for company before a batch is made of them.

    first submit --gather_s--> [the loop does what was accepted before] --it rests, or gather_busy_s since the last--> batch

Theory of operation. What follows a batch (routing, three lanes and a long link with renderings, marks and bursts, the
ledger) costs the loop some six milliseconds however few rows it has, and forty to fifty microseconds for each of them.
A loop that makes a batch of whatever is there makes them the smaller the faster it is, until these milliseconds fill
it: at half of the rate that it can take it is as busy as at all of it, and an append, which needs a turn of the loop at
each of its ends, waits in each for steps of batches before it. So the next batch is made when the loop has nothing else
to do. Then few stand between a submit and its answer, batches are as large as the hour's rate asks for, and a loop
that is idle makes them at once.

Not for ever: a loop that never rests makes one every `gather_busy_s`; and so many rows that more would not make any of
them cheaper wait for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

# It stands among trio's tests because waiting for others to be through is not how programs are synchronised; here it
# decides when work is cheapest, and nothing depends on it.
from trio.testing import wait_all_tasks_blocked


class Patience:
    """gather_s: from the first submit, at least. gather_busy_s: between two batches, at most."""

    def __init__(self, gather_s: float, gather_busy_s: float) -> None:
        self._gather_s = gather_s
        self._gather_busy_s = gather_busy_s
        self._made_at = -math.inf
        self._has_enough = False
        self._scope: trio.CancelScope | None = None

    def end(self) -> None:
        """The present wait, or the next, is over: there is enough for a batch, or no more will come."""
        self._has_enough = True
        if self._scope is not None:
            self._scope.cancel()

    async def wait_company(self) -> None:
        """What arrives together has: the rest of this turn of the loop, or gather_s, whichever is longer."""
        await self._wait(trio.current_time() + self._gather_s, trio.sleep_forever)

    async def wait_rest(self) -> None:
        """The loop has done what there was to do, or has had its time. A batch is to be made now."""
        await self._wait(self._made_at + self._gather_busy_s, wait_all_tasks_blocked)
        self._made_at = trio.current_time()
        self._has_enough = False

    async def _wait(self, deadline: float, wait: Callable[[], Awaitable[None]]) -> None:
        if self._has_enough:
            await trio.lowlevel.checkpoint()
            return
        with trio.CancelScope(deadline=deadline) as self._scope:
            await wait()
        self._scope = None
