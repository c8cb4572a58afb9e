"""OutcomePolls: asks a vendor that sends no receipts what became of its messages (DingTalk), one task per app.

    OwnIdTap.told() --> queue by time --run()--> question --answer--> receipts --> ReceiptDesk.take()
                           ^                        |
                           +--- not settled, or later (at most `asks_max` times)

A request is asked for once `after_s` is over, and again every `again_s` until its outcome is settled. The queue holds a
number and an address per request (not per message); when it is full the oldest make room, counted. One question is
under way at a time, and `rate_per_s` bounds them. Whatever the vendor answers, the task goes on: an answer that says
nothing costs its request one of its questions, and a vendor that is down or wants to be left alone is not asked for
a while. In memory only: what is not asked for when the process ends is never asked.

Waits for: the vendor. Is waited for by: nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol

import httpx
import trio

from gateway.actors.bell import Bell
from gateway.actors.credentials import WholeBody
from gateway.actors.own_ids import address_of
from gateway.clock import Clock
from gateway.message_id import BatchAddress
from gateway.receipts import Outcome, OutcomeAsker, Question, Told, VendorReceipt

#: An outcome of a hundred persons is some 6 KB.
ANSWER_BYTES_MAX = 1 << 20
#: Where the vendor is down or there is no credential.
_PAUSE_S = 30.0
#: For one answer, however slowly it drips.
_ANSWER_S = 30.0


class PollObserver(Protocol):
    def asked(self, outcome: str, questions: int = 1) -> None:
        """settled, open, later, refused, failed (no answer), dropped (no room), given_up."""


class AskCredentials(Protocol):
    def get_nowait(self) -> bytes | None: ...

    def refused(self, value: bytes) -> None: ...


class _Waiting(NamedTuple):
    """A request that will be asked for. asks: how often it was."""

    due: float
    batch: BatchAddress
    own_id: str
    asks: int


class OutcomePolls:
    """take: where receipts go; False: no room, which is as if the vendor had said nothing."""

    def __init__(
        self,
        asker: OutcomeAsker,
        *,
        base_url: str,
        secret: bytes,
        credentials: AskCredentials,
        open_client: Callable[[], httpx.AsyncClient],
        take: Callable[[list[VendorReceipt]], bool],
        clock: Clock,
        observer: PollObserver,
    ) -> None:
        self._asker = asker
        self._times = asker.times
        self._base_url = base_url
        self._secret = secret
        self._credentials = credentials
        self._open_client = open_client
        self._take = take
        self._clock = clock
        self._observer = observer
        #: Those that were not asked for yet, and those that were: each in the order of their time.
        self._queues: tuple[deque[_Waiting], deque[_Waiting]] = (deque(), deque())
        self._bell = Bell()

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def told(self, batch: BatchAddress, ids: Sequence[str]) -> None:
        """The vendor took messages of the batch, and calls their requests so."""
        due = self._clock.monotonic() + self._times.after_s
        for own_id in ids if self._times.asks_max else ():
            self._put(0, _Waiting(due, batch, own_id, 0))
        self._bell.ring()

    def _put(self, queue: int, one: _Waiting) -> None:
        if len(self) >= self._times.waiting_max:
            # Those that were asked for have told something already.
            (self._queues[1] or self._queues[0]).popleft()
            self._observer.asked("dropped")
        self._queues[queue].append(one)

    def _next(self) -> deque[_Waiting] | None:
        """The queue whose first is due first."""
        return min((queue for queue in self._queues if queue), key=lambda queue: queue[0].due, default=None)

    async def run(self) -> None:
        """Asks until cancelled. If cancelled: a question under way is lost, its request with it."""
        self._bell.ring()
        async with self._open_client() as client:
            while True:
                queue = self._next()
                if queue is None:
                    await self._bell.wait()
                elif queue[0].due > self._clock.monotonic():
                    with self._clock.move_on_at(queue[0].due):
                        await self._bell.wait()
                else:
                    pause_s = await self._ask(client, queue.popleft())
                    await trio.sleep(pause_s)

    async def _ask(self, client: httpx.AsyncClient, one: _Waiting) -> float:
        """One question. Returns for how long nobody is to be asked."""
        authorization = self._credentials.get_nowait()
        if authorization is None:
            self._later(one, "later", costs=False)
            return _PAUSE_S
        answer = await self._post(client, self._asker.question(one.own_id, authorization))
        if answer is None:
            self._later(one, "failed")
            return _PAUSE_S
        told = self._asker.read(*answer)
        if isinstance(told, Outcome):
            address = address_of(self._secret, one.batch)
            is_taken = self._take([receipt._replace(address=address) for receipt in told.receipts])
            if told.is_settled and is_taken:
                self._observer.asked("settled")
            else:
                self._later(one, "open")
        elif told is Told.REFUSED:
            self._observer.asked("refused")
        else:
            if told is Told.CREDENTIAL:
                self._credentials.refused(authorization)
            self._later(one, "later")
            return _PAUSE_S
        return 1 / self._times.rate_per_s

    def _later(self, one: _Waiting, outcome: str, *, costs: bool = True) -> None:
        """It is asked for again, unless it was often enough. costs: a question was asked."""
        asks = one.asks + costs
        if asks >= self._times.asks_max:
            self._observer.asked("given_up")
            return
        self._observer.asked(outcome)
        self._put(1, one._replace(due=self._clock.monotonic() + self._times.again_s, asks=asks))

    async def _post(self, client: httpx.AsyncClient, question: Question) -> tuple[int, bytes] | None:
        """Status and body; None: there is no answer, or none that would be kept."""
        url, headers = self._base_url + question.path, dict(question.headers)
        with trio.move_on_after(_ANSWER_S):
            try:
                request = client.build_request("POST", url, headers=headers, content=question.body)
                request.stream = WholeBody(question.body)
                answer = await client.send(request, stream=True)
                body = bytearray()
                async with aclosing(answer):
                    # Read to its end in any case, so that httpx leaves nothing open.
                    async for part in answer.aiter_bytes():
                        body += part[: ANSWER_BYTES_MAX + 1 - len(body)]
            except httpx.HTTPError:
                return None
            return None if len(body) > ANSWER_BYTES_MAX else (answer.status_code, bytes(body))
        return None
