"""Precedence: what stands between a submit and its answer goes before work on batches that were answered.

    journal's thread: an append is durable --+
                                             +--> is_wanted --> others have a turn, and no step, until it is over
    intake: a batch is due to be made -------+

Theory of operation. An answer needs a few turns of the loop that do next to nothing: the thread's word is heard, the
batch is opened, the connection writes. Beside them in each turn stand steps of lanes, long link, router and ledger with
batches of before, a millisecond or two each, and an answer that met some in every turn was late by a dozen. Work that
nobody waits for asks here before each step, and lets turns pass while somebody is on his way. It cannot starve: an
answer is through after three turns, a batch after one, and nobody lets more than a few pass.
"""

from __future__ import annotations

import math

import trio

# It stands among trio's tests because waiting for others to be through is not how programs are synchronised; here it
# decides when work is cheapest, and nothing depends on it.
from trio.testing import wait_all_tasks_blocked

#: What an answer needs: the loop hears of the append, its batch is opened, the connection writes; and one to spare.
_TURNS_MAX = 4


async def wait_rest(at_most_s: float = math.inf) -> None:
    """Returns when the loop has nothing else to do, or after so long."""
    with trio.move_on_after(at_most_s):
        await wait_all_tasks_blocked()


class Precedence:
    """One for a loop."""

    def __init__(self) -> None:
        self._is_answer_due = False
        #: When whoever gathers makes his next batch at the latest, while some wait for it.
        self._batches: dict[object, float] = {}
        self._batch_due_at = math.inf

    def append_done(self) -> None:
        """Rows are durable and not answered yet. Called in the journal's thread, which asks no turn of the loop."""
        self._is_answer_due = True

    def answered(self) -> None:
        """All that is durable is answered, as far as the loop has heard."""
        self._is_answer_due = False

    def batch_due(self, who: object, at: float) -> None:
        """He makes a batch of what waits at that time (trio's clock), or sooner; inf: nothing waits."""
        self._batches[who] = at
        self._batch_due_at = min(self._batches.values())

    @property
    def is_wanted(self) -> bool:
        return self._is_answer_due or trio.current_time() >= self._batch_due_at

    async def give(self) -> None:
        """Lets turns pass while somebody is on his way."""
        for _ in range(_TURNS_MAX):
            if not self.is_wanted:
                return
            await trio.lowlevel.checkpoint()
