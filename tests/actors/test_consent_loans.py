"""Consents of several workers: what is lent, refused, used, given back and lost, between two of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.consent_loans import ConsentLender, ConsentLoans
from gateway.actors.consents import Admitted, ConsentGate, ConsentRules, Consents
from gateway.actors.worker_links import AnswerAsk, DeathWatcher, WorkerGone
from gateway.batch import Batch, OwnershipEpoch
from gateway.content import Variant
from gateway.core.rendered import TokenGroup
from gateway.core.segments import HashKey
from gateway.core.shadow import Life
from gateway.ledger import NO_VERDICT, Burst, Channel, LedgerPage, State
from gateway.message_id import BatchAddress
from gateway.verdict import Verdict

CHANNEL = Channel.WECHAT
RULES = ConsentRules(lambda variant: variant.category, "43101_no_consent", is_strict=True)
KEY = HashKey(bytes(16))


class Observer:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def consents(self, app_key: str, what: str, count: int) -> None:
        self.counts[what] = self.counts.get(what, 0) + count

    def written(self) -> None: ...

    def not_written(self, error: Exception) -> None:
        raise AssertionError(error)


class Wire:
    """Questions of one borrower to the lender; none arrives while it is cut."""

    def __init__(self) -> None:
        self.answerers: dict[str, AnswerAsk] = {}
        self.watchers: list[DeathWatcher] = []
        self.is_cut = False
        self.life = Life(1, 1)

    def answer_with(self, what: str, answer: AnswerAsk) -> None:
        self.answerers[what] = answer

    def watch_deaths(self, watcher: DeathWatcher) -> None:
        self.watchers.append(watcher)

    async def ask(self, worker: int, what: str, head: dict[str, Any], body: bytes | memoryview = b"") -> memoryview:
        await trio.sleep(0.001)
        if self.is_cut:
            raise WorkerGone(worker)
        answers: list[bytes | memoryview] = []
        self.answerers[what](self.life, head, memoryview(bytes(body)), answers.append)
        return memoryview(bytes(answers[0]))


class Pair:
    def __init__(self) -> None:
        self.wire, self.observer = Wire(), Observer()
        self.counter = self.new_counter()
        self.loans = ConsentLoans(keys_max=100, write_s=1.0, key=KEY, lender=0, observer=self.observer)
        self.loans.connect(self.wire)
        self.gate = self.loans.gate("shop", CHANNEL, RULES)
        self.own = self.counter.gate("shop", CHANNEL, RULES)

    def new_counter(self) -> Consents:
        counter = Consents(
            keys_max=100, write_s=1.0, key=KEY, epoch=OwnershipEpoch(1), store=None, observer=self.observer
        )
        ConsentLender(counter, 100, self.wire)
        return counter

    async def report(self, number: int, count: int) -> int:
        users = [(np.arange(1), np.frombuffer(b"o%027d" % number, np.uint8).reshape(1, 28))]
        counts, index = np.full(1, count, np.uint64), np.zeros(1, np.int64)
        return int((await self.counter.report("shop", users, ["T"], index, counts, is_total=False))[0])


@pytest.fixture
async def pair(autojump_clock: Any) -> AsyncIterator[Pair]:
    made = Pair()

    @asynccontextmanager
    async def running() -> AsyncIterator[Pair]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.loans.run)
            yield made
            nursery.cancel_scope.cancel()

    async with running() as one:
        yield one


def page_of(n: int) -> LedgerPage:
    ids = np.zeros((n, 16), np.uint8)
    variants = (Variant("t", "b", category="T"),)
    page = LedgerPage(Batch(BatchAddress(0, 0, 0), 0, 0.0, n, device_ids=ids, message_ids=ids, variants=variants))
    page.channel[:] = CHANNEL
    return page


def admit(gate: ConsentGate, page: LedgerPage, users: list[int]) -> Admitted:
    tokens = np.frombuffer(b"".join(b"o%027d" % user for user in users), np.uint8).reshape(-1, 28)
    return gate.admit(page, np.arange(len(users)), [TokenGroup(np.arange(len(users)), tokens)])


async def fate(gate: ConsentGate, page: LedgerPage, users: list[int]) -> list[str]:
    """of each row, once nobody waits any more: it goes, or is barred."""
    said = admit(gate, page, users)
    while len(said.waiting):
        await trio.sleep(said.wait_s)
        said = admit(gate, page, users)
    return ["barred" if row in said.barred else "goes" for row in range(len(users))]


def end(page: LedgerPage, row: int, verdict: Verdict, state: State, name: str = "") -> None:
    page.move(np.array([row]), State.IN_FLIGHT)
    verdicts = np.full(1, NO_VERDICT, np.uint8)
    names = {0: name} if name else {}
    burst = Burst(0, 1, CHANNEL, 1, np.array([row], np.uint16), 0.0, np.zeros(1, np.uint32), verdicts, names)
    page.bursts.append(burst)
    verdicts[0] = verdict
    page.move(np.array([row]), state)


async def test_rows_of_two_workers_share_one_users_consents(pair: Pair, autojump_clock: Any) -> None:
    await pair.report(1, 2)
    here, there = page_of(3), page_of(1)
    assert await fate(pair.own, there, [1]) == ["goes"]
    assert await fate(pair.gate, here, [1, 1, 2]) == ["goes", "barred", "barred"]
    assert await pair.report(1, 0) == 0
    end(here, 0, Verdict.ACCEPTED, State.VENDOR_ACCEPTED)
    end(there, 0, Verdict.REJECTED, State.FAILED)
    await trio.sleep(1.5)
    assert await pair.report(1, 0) == 1
    assert pair.observer.counts == {"reported": 2, "refused": 2, "used": 1, "given_back": 1}


async def test_a_consent_that_came_back_serves_the_next_row_here_and_later_any_worker(
    pair: Pair, autojump_clock: Any
) -> None:
    await pair.report(1, 1)
    first = page_of(1)
    assert await fate(pair.gate, first, [1]) == ["goes"]
    end(first, 0, Verdict.REJECTED, State.FAILED)
    # No question: what was lent is still here.
    said = admit(pair.gate, again := page_of(1), [1])
    assert (len(said.waiting), len(said.barred)) == (0, 0)
    end(again, 0, Verdict.REJECTED, State.FAILED)
    await trio.sleep(3.5)
    assert await pair.report(1, 0) == 1
    assert await fate(pair.own, page_of(1), [1]) == ["goes"]


async def test_rows_that_never_come_again_keep_no_consent(pair: Pair, autojump_clock: Any) -> None:
    await pair.report(1, 1)
    assert len(admit(pair.gate, page_of(1), [1]).waiting) == 1
    await trio.sleep(0.1)
    assert await pair.report(1, 0) == 0
    await trio.sleep(3.5)
    assert await pair.report(1, 0) == 1
    # Nor does a refusal bar a later row.
    assert len(admit(pair.gate, page_of(1), [2]).waiting) == 1
    await trio.sleep(3.5)
    await pair.report(2, 1)
    assert await fate(pair.gate, page_of(1), [2]) == ["goes"]


async def test_43101_at_one_worker_empties_the_count_of_all(pair: Pair, autojump_clock: Any) -> None:
    await pair.report(1, 5)
    page = page_of(2)
    assert await fate(pair.gate, page, [1, 1]) == ["goes", "goes"]
    end(page, 0, Verdict.REJECTED, State.FAILED, "43101_no_consent")
    end(page, 1, Verdict.REJECTED, State.FAILED)
    await trio.sleep(3.5)
    assert await pair.report(1, 0) == 0
    statistics = pair.counter.table.statistics()
    assert (statistics.keys, statistics.held) == (0, 0)


async def test_the_loans_of_a_worker_that_died_come_back(pair: Pair, autojump_clock: Any) -> None:
    await pair.report(1, 3)
    assert await fate(pair.gate, page_of(2), [1, 1]) == ["goes", "goes"]
    assert await pair.report(1, 0) == 1
    for watcher in pair.wire.watchers:
        watcher.on_died(pair.wire.life)
    assert await pair.report(1, 0) == 3


async def test_rows_wait_for_a_counter_that_is_away_and_what_they_used_is_told_later(
    pair: Pair, autojump_clock: Any
) -> None:
    await pair.report(1, 2)
    page = page_of(1)
    assert await fate(pair.gate, page, [1]) == ["goes"]
    pair.wire.is_cut = True
    end(page, 0, Verdict.ACCEPTED, State.VENDOR_ACCEPTED)
    late = page_of(1)
    assert len(admit(pair.gate, late, [1]).waiting) == 1
    await trio.sleep(2)
    assert admit(pair.gate, late, [1]).wait_s > 0.1
    # It comes back as another process, which knows what its store kept: the two that were reported.
    pair.counter = pair.new_counter()
    await pair.report(1, 2)
    pair.wire.is_cut = False
    assert await fate(pair.gate, late, [1]) == ["goes"]
    await trio.sleep(1)
    assert await pair.report(1, 0) == 0


async def test_who_trusts_the_vendor_waits_for_no_counter_that_is_away(pair: Pair, autojump_clock: Any) -> None:
    trusting = pair.loans.gate("shop", CHANNEL, RULES._replace(is_strict=False))
    await pair.report(1, 1)
    assert await fate(trusting, page_of(2), [1, 2]) == ["goes", "goes"]
    pair.wire.is_cut = True
    said = admit(trusting, page := page_of(1), [3])
    assert len(said.waiting) == 1
    await trio.sleep(1)
    assert await fate(trusting, page, [3]) == ["goes"]


async def test_where_nobody_agreed_to_anything_trusting_rows_do_not_ask(pair: Pair, autojump_clock: Any) -> None:
    trusting = pair.loans.gate("shop", CHANNEL, RULES._replace(is_strict=False))
    assert len(admit(trusting, page := page_of(1), [1]).waiting) == 1
    assert await fate(trusting, page, [1]) == ["goes"]
    assert len(admit(trusting, page_of(1), [2]).waiting) == 0
    await pair.report(2, 1)
    await trio.sleep(1.5)
    assert len(admit(trusting, page_of(1), [2]).waiting) == 1
