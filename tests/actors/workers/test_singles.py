"""Things of which there is one: a credential that one worker makes for all, a rate that one worker lends out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from gateway.actors.borrowed_credential import BorrowedCredential, CredentialMakers
from gateway.actors.credentials import CredentialKeeper
from gateway.actors.rate_sharing import WHAT, WISHES_MAX, RateSharing, SharedRate
from gateway.core.bucket import TokenBucket
from vendors.auth.credential import Issued

LEASE_S = 3.0


class Signer:
    """Numbered values, each good for `lasts_s`."""

    gap_s = 1.0

    def __init__(self, name: str, lasts_s: float = 100.0) -> None:
        self.name = name
        self.n = 0
        self.lasts_s = lasts_s

    def issue(self, now_unix_s: float, *, fresh: bool = False) -> Issued:
        self.n += 1
        value = f"{self.name} {self.n}".encode()
        return Issued(value, now_unix_s + self.lasts_s * 0.9, now_unix_s + self.lasts_s)


def make_keeper(world: Any, source: Signer) -> CredentialKeeper:
    return CredentialKeeper(
        "shop/apns",
        source,
        clock=world.clock,
        report=lambda event: None,
        random=lambda: 0.5,
        open_client=httpx.AsyncClient,
    )


class Pair:
    """Worker 0 makes, worker 1 borrows."""

    def __init__(self, cluster: Any, lasts_s: float = 100.0) -> None:
        self.cluster = cluster
        self.maker = self.add_maker("maker", lasts_s)
        self.own = Signer("own", lasts_s)
        borrower = cluster.workers[1]
        self.borrowed = BorrowedCredential(
            "shop/apns",
            make_keeper(borrower.world, self.own),
            maker=0,
            links=borrower.links,
            clock=borrower.world.clock,
            lease_s=LEASE_S,
        )
        self.values: list[bytes | None] = []
        self.borrowed.on_value = lambda: self.values.append(self.borrowed.get_nowait())
        borrower.nursery.start_soon(self.borrowed.run)

    def add_maker(self, name: str, lasts_s: float = 100.0) -> CredentialKeeper:
        worker = self.cluster.workers[0]
        keeper = make_keeper(worker.world, Signer(name, lasts_s))
        CredentialMakers(worker.links).add("shop/apns", keeper)
        return keeper


async def test_all_workers_send_the_same_value_and_follow_when_it_changes(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    pair = Pair(cluster)
    await cluster.settle()
    assert pair.borrowed.get_nowait() == pair.maker.get_nowait() == b"maker 1"
    assert pair.values == [b"maker 1"]
    assert pair.borrowed.expires_in_s() == pytest.approx(100, abs=2)
    pair.maker.refused(b"maker 1")
    assert pair.maker.get_nowait() == b"maker 2"
    await trio.sleep(LEASE_S)
    assert pair.borrowed.get_nowait() == b"maker 2"
    assert pair.own.n == 0


async def test_value_that_the_vendor_refused_is_replaced_by_its_maker_for_everybody(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    pair = Pair(cluster)
    await cluster.settle()
    pair.borrowed.refused(b"maker 1")
    assert pair.borrowed.get_nowait() is None
    await trio.sleep(1)
    assert pair.borrowed.get_nowait() == pair.maker.get_nowait() == b"maker 2"
    pair.borrowed.refused(b"maker 1")
    await trio.sleep(1)
    assert pair.borrowed.get_nowait() == b"maker 2"


async def test_last_value_serves_while_its_maker_is_away_and_then_the_worker_makes_its_own(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    pair = Pair(cluster, lasts_s=20.0)
    await cluster.settle()
    await cluster.kill(0)
    await trio.sleep(15)
    assert pair.borrowed.get_nowait() == b"maker 1"
    assert not pair.borrowed.is_alone
    await trio.sleep(6)
    assert pair.borrowed.get_nowait() == b"own 1"
    await cluster.revive(0)
    pair.add_maker("next")
    await trio.sleep(LEASE_S)
    assert pair.borrowed.get_nowait() == b"next 1"
    assert not pair.borrowed.is_alone


async def borrow_without_maker(cluster: Any) -> BorrowedCredential:
    """Worker 1 borrows from worker 0, which is dead."""
    await cluster.kill(0)
    worker = cluster.workers[1]
    borrowed = BorrowedCredential(
        "shop/apns",
        make_keeper(worker.world, Signer("own")),
        maker=0,
        links=worker.links,
        clock=worker.world.clock,
        lease_s=LEASE_S,
    )
    worker.nursery.start_soon(borrowed.run)
    return borrowed


async def test_worker_whose_maker_never_comes_makes_its_own_after_a_lease(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    borrowed = await borrow_without_maker(cluster)
    await trio.sleep(LEASE_S - 0.5)
    assert borrowed.get_nowait() is None
    await trio.sleep(1)
    assert borrowed.get_nowait() == b"own 1"


async def test_worker_that_asked_before_it_had_a_link_asks_again_when_it_has_one(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    """Rows of a worker that has just begun waited half a second for what it could have heard at once."""
    cluster = await make_cluster()
    borrowed = await borrow_without_maker(cluster)
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    maker = cluster.workers[0] = cluster._make(0)
    CredentialMakers(maker.links).add("shop/apns", make_keeper(maker.world, Signer("maker")))
    await cluster._up(maker)
    assert trio.current_time() - began < 0.4, "before it would ask again by itself"
    assert borrowed.get_nowait() == b"maker 1"


class Rates:
    """One rate of 1,000 per second over the cluster, lent by worker 0. waiting: rows that each worker holds."""

    def __init__(self, cluster: Any, *, started: bool = True) -> None:
        self.cluster = cluster
        n = cluster.ownership.workers
        self.waiting = [0] * n
        self.buckets: list[TokenBucket] = []
        self.rings = [0] * n
        for index in range(n):
            self.buckets.append(None)
            if started:
                self.start(index)

    def start(self, index: int, rates: int = 1) -> None:
        worker = self.cluster.workers[index]
        n = self.cluster.ownership.workers
        bucket = self.buckets[index] = TokenBucket(1000.0 / n, 100, now=worker.world.clock.monotonic())

        def ring() -> None:
            self.rings[index] += 1

        shared = [
            SharedRate(f"shop/fcm/{number}", 1000.0, 100, bucket, lambda: self.waiting[index], ring)
            for number in range(rates)
        ]
        sharing = RateSharing(
            shared,
            lender_of=lambda name: 0,
            me=index,
            workers=n,
            links=worker.links,
            clock=worker.world.clock,
            lease_s=LEASE_S,
        )
        if worker.nursery is not None:
            worker.nursery.start_soon(sharing.run)

    def per_s(self) -> list[float]:
        return [bucket.statistics().rate_per_s for bucket in self.buckets]


async def test_rate_goes_to_the_worker_that_has_rows_and_never_adds_up_to_more(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    rates = Rates(cluster)
    rates.waiting[1] = 1_000_000
    for _ in range(100):
        await trio.sleep(0.1)
        assert sum(rates.per_s()) <= 1000.001
    assert rates.per_s() == pytest.approx([125.0, 875.0])
    assert rates.rings[1] > 0
    rates.waiting = [1_000_000, 1_000_000]
    for _ in range(100):
        await trio.sleep(0.1)
        assert sum(rates.per_s()) <= 1000.001
    assert rates.per_s() == pytest.approx([500.0, 500.0])


async def test_workers_go_on_at_their_fair_share_when_the_lender_is_gone(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster(n=3)
    rates = Rates(cluster)
    rates.waiting[1] = 1_000_000
    await trio.sleep(10)
    assert rates.per_s()[1] > 700
    await cluster.kill(0)
    assert rates.per_s()[1] > 700
    await trio.sleep(LEASE_S + 1.1)
    assert rates.per_s()[1:] == pytest.approx([1000 / 3] * 2)
    await cluster.revive(0)
    rates.start(0)
    for _ in range(100):
        await trio.sleep(0.1)
        assert sum(rates.per_s()) <= 1000.001
    assert rates.per_s()[1] > 700


def questions_to(worker: Any) -> list[tuple[float, int]]:
    """When that worker is asked for rates from now on, and for how many."""
    asked: list[tuple[float, int]] = []
    answer = worker.links._answerers[WHAT]

    def count(life: Any, head: dict[str, Any], body: memoryview, reply: Any) -> None:
        asked.append((trio.current_time(), len(head["wishes"])))
        answer(life, head, body, reply)

    worker.links.answer_with(WHAT, count)
    return asked


async def test_rates_of_one_lender_are_one_question_and_not_always_at_the_same_time(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    rates = Rates(cluster, started=False)
    for index in (0, 1):
        rates.start(index, rates=WISHES_MAX + 3)
    asked = questions_to(cluster.workers[0])
    await trio.sleep(20 * LEASE_S)
    assert {n for _, n in asked} == {WISHES_MAX, 3}
    times = [at for at, n in asked if n == WISHES_MAX]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    # A fifth of a lease at most, and drawn by lot: else all workers that began together would ask together.
    assert max(pauses) <= LEASE_S / 5 + 0.05
    assert min(pauses) >= LEASE_S / 5 * 0.8 - 0.05
    assert max(pauses) - min(pauses) > 0.05


async def test_lender_that_is_away_is_asked_ever_less_often_and_at_once_when_there_is_a_link(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    rates = Rates(cluster)
    await trio.sleep(LEASE_S)
    await cluster.kill(0)
    await trio.sleep(10 * LEASE_S)
    tries: list[float] = []
    ask = cluster.workers[1].links.ask

    async def count(worker: int, what: str, head: Any, *rest: Any, **more: Any) -> Any:
        if what == WHAT:
            tries.append(trio.current_time())
        return await ask(worker, what, head, *rest, **more)

    cluster.workers[1].links.ask = count
    await trio.sleep(10 * LEASE_S)
    assert len(tries) < 10 * LEASE_S / 0.2 / 2, "every 0.2 s it would be 150"
    lender = cluster.workers[0] = cluster._make(0)
    rates.start(0)  # It answers as soon as it is there.
    asked = questions_to(lender)
    began = trio.current_time()
    await cluster._up(lender)
    while not asked:
        await trio.sleep(0.001)
    assert asked[0][0] - began < 0.1
