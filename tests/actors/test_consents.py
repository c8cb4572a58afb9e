"""The gate of consents: who may go, and what pages say became of those that did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.consents import ConsentGate, ConsentRules, Consents
from gateway.batch import Batch, OwnershipEpoch
from gateway.columns import TextColumn
from gateway.consent_columns import Changed
from gateway.content import Variant
from gateway.core.rendered import TokenGroup
from gateway.core.segments import HashKey
from gateway.errors import Overloaded, StoreError
from gateway.ledger import NO_VERDICT, Burst, Channel, LedgerPage, Reason, State
from gateway.message_id import BatchAddress
from gateway.verdict import Verdict

EPOCH = OwnershipEpoch(1)
CHANNEL = Channel.WECHAT


class Observer:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.errors: list[StoreError] = []

    def consents(self, app_key: str, what: str, count: int) -> None:
        self.counts[what] = self.counts.get(what, 0) + count

    def written(self) -> None: ...

    def not_written(self, error: StoreError) -> None:
        self.errors.append(error)


class Store:
    """In memory; refuses while `is_broken`."""

    def __init__(self) -> None:
        self.left: dict[bytes, int] = {}
        self.is_broken = False

    async def write(self, epoch: OwnershipEpoch, changed: Changed) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_broken:
            raise StoreError("somewhere", "is broken")
        self.left |= {key.tobytes(): int(left) for key, left in zip(changed.keys, changed.left, strict=True)}

    async def load(self) -> Changed:
        await trio.lowlevel.checkpoint()
        kept = {key: left for key, left in self.left.items() if left}
        keys = np.frombuffer(b"".join(kept), np.uint64).reshape(-1, 2)
        return Changed(keys, np.array(list(kept.values()), np.uint16))


def user(number: int) -> bytes:
    return b"o%027d" % number


class Site:
    def __init__(self, *, is_strict: bool = True, keys_max: int = 100, store: Store | None = None) -> None:
        self.observer = Observer()
        self.consents = Consents(
            keys_max=keys_max, write_s=1.0, key=HashKey(bytes(16)), epoch=EPOCH, store=store, observer=self.observer
        )
        rules = ConsentRules(lambda variant: variant.category, "43101_no_consent", is_strict)
        self.gate: ConsentGate = self.consents.gate("shop", CHANNEL, rules)

    async def report(self, numbers: list[int], count: int = 1, *, template: str = "T") -> list[int]:
        n = len(numbers)
        users = [(np.arange(n), np.frombuffer(b"".join(map(user, numbers)), np.uint8).reshape(n, 28))]
        counts = np.full(n, count, np.uint64)
        index = np.zeros(n, np.int64)
        left = await self.consents.report("shop", users, [template], index, counts, is_total=False)
        answer: list[int] = left.tolist()
        return answer

    async def left(self, *numbers: int) -> list[int]:
        return await self.report(list(numbers), 0)


def page_of(n: int, *variants: Variant, index: list[int] | None = None) -> LedgerPage:
    ids = np.zeros((n, 16), np.uint8)
    made = variants or (Variant("t", "b", category="T"),)
    column = None if index is None else np.array(index, np.uint16)
    page = LedgerPage(
        Batch(BatchAddress(0, 0, 0), 0, 0.0, n, device_ids=ids, message_ids=ids, variants=made, variant_index=column)
    )
    page.channel[:] = CHANNEL
    return page


def admit(site: Site, page: LedgerPage, users: list[int], rows: list[int] | None = None) -> list[int]:
    """Rows that the gate bars. users: of these rows."""
    at = np.arange(len(users)) if rows is None else np.array(rows)
    tokens = np.frombuffer(b"".join(map(user, users)), np.uint8).reshape(-1, 28)
    groups, barred, waiting, _ = site.gate.admit(page, at, [TokenGroup(np.arange(len(users)), tokens)])
    assert not len(waiting)
    kept = sorted(position for group in groups for position in group.positions.tolist())
    if site.gate._rules.is_strict:
        assert kept == sorted(set(range(len(users))) - set(barred.tolist()))
    result: list[int] = at[barred].tolist()
    return result


def send(page: LedgerPage, rows: list[int]) -> Burst:
    """The rows are in flight."""
    at = np.array(rows)
    page.move(at, State.IN_FLIGHT)
    n = len(rows)
    burst = Burst(
        0, 1, CHANNEL, 1, at.astype(np.uint16), 0.0, np.zeros(n, np.uint32), np.full(n, NO_VERDICT, np.uint8), {}
    )
    page.bursts.append(burst)
    return burst


#: How rows end: verdict of the attempt, its name, state of the row -> what became of the consent.
ENDS: list[tuple[Verdict | None, str, State, str]] = [
    (Verdict.ACCEPTED, "", State.VENDOR_ACCEPTED, "used"),
    (Verdict.UNCERTAIN, "TimedOut", State.UNCERTAIN, "used"),
    (Verdict.REJECTED, "43101_no_consent", State.FAILED, "emptied"),
    (Verdict.REJECTED, "47003_argument", State.FAILED, "given_back"),
    (Verdict.TOKEN_DEAD, "40003_openid", State.FAILED, "given_back"),
    (None, "", State.CANCELLED, "given_back"),
    (None, "", State.EXPIRED, "given_back"),
    # Taken, and its chain waits for a receipt.
    (Verdict.ACCEPTED, "", State.WAITING, "used"),
    (Verdict.UNAVAILABLE, "-1_busy", State.WAITING, "held"),
    (None, "", State.IN_FLIGHT, "held"),
]


@pytest.mark.parametrize(("verdict", "name", "state", "fate"), ENDS)
async def test_a_page_says_what_became_of_a_consent(
    verdict: Verdict | None, name: str, state: State, fate: str
) -> None:
    site, page = Site(), page_of(2)
    await site.report([1, 2], 3)
    assert admit(site, page, [1, 2]) == []
    assert await site.left(1, 2) == [2, 2]
    if verdict is not None or state is State.IN_FLIGHT:
        burst = send(page, [0])
        if verdict is not None:
            burst.verdicts[0] = verdict
            if name:
                burst.names[0] = name
    if page.state[0] != state:
        page.move(np.array([0]), state, Reason.FALLBACK if state is State.WAITING else Reason.NONE)
    # The other row is queued all the while.
    assert await site.left(1, 2) == [{"used": 2, "emptied": 0, "given_back": 3, "held": 2}[fate], 2]
    assert site.gate.held_rows == (2 if fate == "held" else 1)
    assert site.observer.counts.get(fate, 0) == (0 if fate == "held" else 1)


async def test_a_row_that_went_to_another_channel_gives_its_consent_back() -> None:
    site, page = Site(), page_of(1)
    await site.report([1])
    assert admit(site, page, [1]) == []
    page.channel[0] = Channel.ALIYUN_SMS
    assert await site.left(1) == [1]


async def test_a_row_that_is_rendered_again_holds_one_consent() -> None:
    site, page = Site(), page_of(2)
    await site.report([1])
    for _ in range(3):
        assert admit(site, page, [1]) == []
    assert site.gate.held_rows == 1
    # Another row of its page wants the same one.
    assert admit(site, page, [1, 1]) == [1]
    assert admit(site, page, [1], rows=[1]) == [1]


async def test_a_consent_that_another_row_has_given_back_is_found_at_once() -> None:
    site, first, second = Site(), page_of(1), page_of(1)
    await site.report([1])
    assert admit(site, first, [1]) == []
    assert admit(site, second, [1]) == [0]
    first.move(np.array([0]), State.CANCELLED)
    assert admit(site, second, [1]) == []


async def test_templates_count_apart_and_contents_without_one_do_not_count() -> None:
    variants = [Variant("t", "b", category=name) for name in ("T", "U", "")]
    site, page = Site(), page_of(6, *variants, index=[0, 1, 2, 0, 1, 2])
    await site.report([1], template="U")
    assert admit(site, page, [1] * 6) == [0, 3, 4]
    assert (await site.report([1], 0, template="U"), await site.left(1)) == ([0], [0])


async def test_users_of_several_lengths_are_told_apart() -> None:
    """Openids have one; a target that a variable names is checked by the vendor, and must not be mistaken here."""
    site, page = Site(), page_of(3)
    await site.report([1])
    texts = TextColumn.from_rows([user(1)[:27], user(1), user(1) + b"x"])
    groups, barred, *_ = site.gate.admit(page, np.arange(3), [TokenGroup(np.arange(3), texts)])
    assert barred.tolist() == [0, 2]
    assert [group.positions.tolist() for group in groups] == [[1]]


async def test_who_trusts_the_vendor_bars_nobody() -> None:
    site, page = Site(is_strict=False), page_of(2)
    assert admit(site, page, [1, 2]) == []
    assert site.gate.held_rows == 0
    await site.report([1])
    assert admit(site, page, [1, 2]) == []
    assert site.gate.held_rows == 1


async def test_a_full_table_refuses_the_report_and_counts_nothing() -> None:
    site = Site(keys_max=2)
    await site.report([1, 2])
    with pytest.raises(Overloaded, match=r"consents\.keys_max"):
        await site.report([1, 3])
    assert await site.left(1, 2, 3) == [1, 1, 0]


async def test_what_a_broken_store_did_not_take_is_written_later(autojump_clock: Any) -> None:
    store = Store()
    site, page = Site(store=store), page_of(1)
    await site.report([1, 2], 2)
    assert sorted(store.left.values()) == [2, 2]
    store.is_broken = True
    with pytest.raises(StoreError):
        await site.report([1])
    # Who is told so reports again, and nothing counts twice.
    assert await site.left(1) == [2]
    assert admit(site, page, [2]) == []
    send(page, [0]).verdicts[0] = Verdict.ACCEPTED
    page.move(np.array([0]), State.VENDOR_ACCEPTED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.consents.run)
        await trio.sleep(2.5)
        assert len(site.observer.errors) == 2
        store.is_broken = False
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert sorted(store.left.values()) == [1, 2]
    again = Site(store=store)
    await again.consents.load()
    assert await again.left(1, 2) == [2, 1]


async def test_a_cancelled_report_is_counted_and_written_with_the_next() -> None:
    store = Store()
    site = Site(store=store)
    with trio.CancelScope() as scope:
        scope.cancel()
        await site.report([1])
    counted = (await site.left(1))[0]
    await site.consents.flush()
    assert sum(store.left.values()) == counted
