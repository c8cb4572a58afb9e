"""Revoking: takes back what a task shows, or puts another content in its place, and says by channel what cannot be.

    Service --revoke--> the task is stopped --> its pages in turn --> core/revoking.py --> Intake: a task of its own

What devices are told goes like any submit: durable where the app's is, to the inbox of those that are away, with states
and receipts to look at. A call that was cut off is made again: a device takes a message back once, and a replacement
replaces itself. Waits for: the intake's answers, the page source, TaskControl. Is waited for by: Service.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import NamedTuple

import numpy as np
import trio

from gateway.actors.intake import Accepted, Intake
from gateway.actors.page_source import PageSource
from gateway.actors.task_control import Ended, TaskControl
from gateway.batch import Submission
from gateway.clock import Clock
from gateway.columns import I64
from gateway.content import Variant
from gateway.core import revoking
from gateway.errors import GatewayError, Overloaded
from gateway.ledger import Channel, LedgerPage

#: Rows decided and submitted in one step.
REVOKE_ROWS = 8192


class Revoked(NamedTuple):
    """task_id: of what devices are told, empty where there was nothing to tell. counts: (channels, outcomes) rows."""

    task_id: bytes
    ended: Ended
    counts: I64


class Revoking:
    def __init__(self, *, pages: PageSource, control: TaskControl, intake: Intake, clock: Clock) -> None:
        self._pages = pages
        self._control = control
        self._intake = intake
        self._clock = clock

    async def revoke(self, task_id: bytes, replacement: Variant | None) -> Revoked:
        """The task is stopped, and whoever shows it is on his way to know better.

        Raises: Overloaded, StoreError, WorkerGone, or what the intake answers. If cancelled: some are told.
        """
        ended = await self._control.stop(task_id)
        counts = np.zeros((len(Channel), len(revoking.Outcome)), np.int64)
        told = _Told()
        async with aclosing(self._pages.task_slices(task_id)) as slices:
            async for page, segment in slices:
                for first in range(segment.first, segment.first + segment.n, REVOKE_ROWS):
                    rows = np.arange(first, min(first + REVOKE_ROWS, segment.first + segment.n))
                    chosen = revoking.choose(page, rows, has_replacement=replacement is not None)
                    counts += revoking.count(page, rows, chosen.outcomes)
                    await trio.lowlevel.checkpoint()
                    if len(chosen.told):
                        await self._send(page, revoking.revokes(page, chosen.told, told.rows), told)
                    if replacement is not None and len(chosen.replaced):
                        made = revoking.replacements(page, chosen.replaced, told.rows, replacement)
                        await self._send(page, made, told)
        return Revoked(told.task_id, ended, counts)

    async def _send(self, page: LedgerPage, submission: Submission, told: _Told) -> None:
        """The rows are accepted as part of the task. Raises what the intake answers, but for Overloaded."""
        while True:
            answers: list[Accepted | GatewayError] = []
            answered = trio.Event()

            def reply(answer: Accepted | GatewayError, answers: list[Accepted | GatewayError] = answers) -> None:
                answers.append(answer)
                answered.set()  # noqa: B023 - called before the next turn makes another

            try:
                self._intake.submit(page.batch.app, submission, reply, task_id=told.task_id, is_part=True)
            except Overloaded as error:
                await self._clock.sleep_until(self._clock.monotonic() + max(error.retry_after_s, 0.05))
                continue
            await answered.wait()
            answer = answers[0]
            if isinstance(answer, GatewayError):
                raise answer
            told.task_id, told.rows = answer.task_id, told.rows + submission.n
            return


class _Told:
    """The task of what devices are told, as far as it has come."""

    def __init__(self) -> None:
        self.task_id = b""
        self.rows = 0


def outcomes_by_channel(counts: I64) -> dict[str, dict[str, int]]:
    """channel -> outcome -> rows, where there are any."""
    return {
        channel.name.lower(): {
            outcome.name.lower(): int(counts[channel, outcome])
            for outcome in revoking.Outcome
            if counts[channel, outcome]
        }
        for channel in Channel
        if counts[channel].any()
    }
