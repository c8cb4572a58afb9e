"""Patience: how long submits wait for company before a batch is made of them.

    first submit --gather_s--> [the loop does what was accepted before] --it rests, or gather_busy_s is over--> batch

Theory of operation. What follows a batch (routing, lanes and long link with their renderings, marks and bursts, the
ledger) costs the loop some five milliseconds however few rows it has, and forty microseconds for each of them. A loop
that makes a batch of whatever is there makes them the smaller the faster it is, until these milliseconds fill it: at
half of the rate that it can take it is as busy as at all of it, and an append, which needs a turn of the loop at each
of its ends, waits there for steps of the batches before. So the next batch is made when the loop has nothing else to
do, and has not been busy for more than a share of the time since the last. Then few stand between a submit and its
answer, batches are as large as the hour's rate asks for, and an idle loop makes them at once.

Not for ever: a loop that never rests makes one every `gather_busy_s`; and so many rows that more would not make any of
them cheaper wait for nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable

import trio

from gateway.actors.precedence import Precedence, wait_rest

#: Of the time since the last batch. What is left is what a submit finds free on its way to its answer; at the whole of
#: it a batch was made in each gap that a commit leaves, and the next one found a busy loop.
_BUSY_SHARE_MAX = 0.85


class Patience:
    """gather_s: from the first submit, at least. gather_busy_s: between two batches, at most. cpu_clock: of the loop's
    thread, seconds. precedence: told when a batch is due, so that nothing keeps the loop from it."""

    def __init__(
        self,
        gather_s: float,
        gather_busy_s: float,
        cpu_clock: Callable[[], float] = time.thread_time,
        precedence: Precedence | None = None,
    ) -> None:
        self._precedence = precedence or Precedence()
        self._gather_s = gather_s
        self._gather_busy_s = gather_busy_s
        self._cpu_clock = cpu_clock
        #: The last batch: when, and the thread's CPU time by then.
        self._made_at = -math.inf
        self._cpu_at = 0.0
        self._is_over = False
        self._scope: trio.CancelScope | None = None

    def end(self) -> None:
        """The present wait, or the next, is over: there is enough for a batch, or no more will come."""
        self._is_over = True
        if self._scope is not None:
            self._scope.cancel()

    async def wait_company(self) -> None:
        """What arrives together has: the rest of this turn of the loop, or gather_s, whichever is longer."""
        await self._wait(trio.current_time() + self._gather_s, trio.sleep_forever)

    async def wait_rest(self) -> None:
        """The loop has done what there was to do, or has had its time. A batch is to be made now."""
        due_at = self._made_at + self._gather_busy_s
        self._precedence.batch_due(self, due_at)
        try:
            await self._wait(due_at, self._rest)
        finally:
            self._precedence.batch_due(self, math.inf)
        self._made_at, self._cpu_at = trio.current_time(), self._cpu_clock()
        self._is_over = False

    async def _rest(self) -> None:
        while True:
            await wait_rest()
            free_at = self._made_at + (self._cpu_clock() - self._cpu_at) / _BUSY_SHARE_MAX
            if trio.current_time() >= free_at:
                return
            await trio.sleep_until(free_at)

    async def _wait(self, deadline: float, wait: Callable[[], Awaitable[None]]) -> None:
        if self._is_over:
            await trio.lowlevel.checkpoint()
            return
        with trio.CancelScope(deadline=deadline) as self._scope:
            await wait()
        self._scope = None
