"""The ledger archive's part of the contract of the store ports; see contract.py."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from contract import CUTS, EPOCH, Cut, EpochsContract, ids_of, together
from hypothesis import given, settings

from gateway.batch import Batch, OwnershipEpoch
from gateway.content import Variant
from gateway.ledger import LedgerPage, State
from gateway.message_id import BatchAddress
from gateway.store.inbox_filing import device_hash
from gateway.store.page_changes import encode_changes
from gateway.store.page_rows import ROWS_MIN
from gateway.store.pages import page_parts
from gateway.store.ports import ArchivedPage, DayCounts, HeldPage, LedgerArchive, PageChanges, PageKey
from gateway.tally import PageTally, TallyKey, add_tallies

tallies = st.builds(
    PageTally,
    st.dictionaries(
        st.builds(
            TallyKey,
            st.integers(0, 3),
            st.integers(0, 1),
            st.sampled_from(["", "春"]),
            st.sampled_from(["", "g"]),
            st.just(0),
        ),
        st.dictionaries(st.integers(0, 5), st.integers(1, 9), min_size=1),
        max_size=2,
    ),
    st.booleans(),
)


def page_for(
    sequence: int, content: bytes = b"page", *, unix_ms: int = 1000, app: int = 0, devices: int = 2, task: bytes = b""
) -> ArchivedPage:
    """A page whose devices are `sequence * 10`, `sequence * 10 + 1`, ..."""
    ids = ids_of([bytes([sequence * 10 + at]) * 16 for at in range(devices)])
    return ArchivedPage(PageKey(unix_ms, sequence), app, devices, ids, [task] if task else [], [content, content])


def changes_for(
    sequence: int, record: bytes, *, in_place: bool = False, held: int = 0, tally: PageTally | None = None
) -> PageChanges:
    return PageChanges(PageKey(1000, sequence), 0, record, in_place, held, 77, tally or PageTally({}))


class LedgerArchiveContract(EpochsContract):
    @abstractmethod
    def open(self) -> LedgerArchive: ...

    def writes(self, store: LedgerArchive, epoch: OwnershipEpoch) -> list[Callable[[], Awaitable[Any]]]:
        return [
            lambda: store.write(epoch, [page_for(3)]),
            lambda: store.amend(epoch, [changes_for(3, b"x")]),
            lambda: store.forget(epoch, [PageKey(1000, 3)]),
            lambda: store.retain(epoch, 0, 1 << 40),
            lambda: store.forget_days(epoch, 0),
            lambda: store.tell(epoch, 0, 5),
        ]

    async def content(self, store: LedgerArchive) -> Any:
        return [await store.read(PageKey(1000, sequence)) for sequence in range(6)]

    async def test_rows_are_read_without_their_page_where_it_can_be_and_with_their_log(self) -> None:
        archive, key = self.open(), PageKey(1000, 3)
        batch = Batch(
            BatchAddress(1000, 0, 3),
            0,
            0.0,
            ROWS_MIN,
            device_ids=np.arange(16 * ROWS_MIN, dtype=np.uint64).astype(np.uint8).reshape(ROWS_MIN, 16),
            variants=[Variant(title="t", body="b")],
        )
        page, tally, rows = LedgerPage(batch), PageTally({TallyKey(0, 0, "", "", 0): {1: ROWS_MIN}}), np.array([5, 900])
        await archive.write(EPOCH, [page_for(2), page_for(3)._replace(parts=page_parts(page), tally=tally)])
        found = await archive.read_rows(key, rows)
        assert found is not None
        assert (found.tally, found.records, found.states["state"].tolist()) == (tally, 0, [0, 0])
        assert found.columns["device_ids"].tolist() == batch.device_ids[rows].tolist()
        page.state[900] = State.DEVICE_ACKED
        tally = PageTally({TallyKey(0, 0, "", "", 0): {1: ROWS_MIN - 1, 2: 1}})
        await archive.amend(EPOCH, [changes_for(3, encode_changes(page, np.array([900]), 0, 0), tally=tally)])
        found = await archive.read_rows(key, rows)
        assert found is not None
        assert (found.tally, found.records) == (tally, 1)
        assert found.states["state"].tolist() == [State.QUEUED, State.DEVICE_ACKED]
        # One of a few rows, one that is not there, a row that is not.
        for missing, asked in ((PageKey(1000, 2), [0]), (PageKey(1001, 3), [5]), (key, [5, ROWS_MIN])):
            assert await archive.read_rows(missing, np.array(asked)) is None

    @given(
        st.lists(
            st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=5)), max_size=3).map(dict)
            | st.lists(st.integers(0, 5), max_size=4),
            max_size=12,
        )
    )
    async def test_archive_agrees_with_a_dict(self, steps: list) -> None:
        archive = self.open()
        model: dict[int, bytes] = {}
        for step in steps:
            if isinstance(step, dict):
                await archive.write(EPOCH, [page_for(*page) for page in step.items()])
                model |= {sequence: content * 2 for sequence, content in step.items()}
            else:
                await archive.forget(EPOCH, [PageKey(1000, sequence) for sequence in step])
                model = {sequence: page for sequence, page in model.items() if sequence not in step}
            assert await self.content(archive) == [model.get(sequence) for sequence in range(6)]

    @settings(max_examples=20)
    @given(
        st.lists(
            st.lists(
                st.tuples(st.integers(0, 4), st.binary(min_size=1, max_size=3), st.booleans(), tallies), max_size=4
            )
            | st.integers(0, 4),
            max_size=10,
        )
    )
    async def test_records_stand_behind_their_page_until_it_is_written_again(self, steps: list) -> None:
        """What a page counts, and whether rows of it wait, is what its newest record says."""
        archive = self.open()
        model: dict[int, list[bytes]] = {0: [b"own", b"own"], 1: [b"own", b"own"]}
        counted = dict.fromkeys(model, PageTally({}))
        await archive.write(EPOCH, [page_for(at, b"own") for at in model])
        for step in steps:
            if isinstance(step, int):
                await archive.write(EPOCH, [page_for(step, b"new")])
                model[step], counted[step] = [b"new", b"new"], PageTally({})
                continue
            made = [
                changes_for(at, record, in_place=in_place, held=len(record), tally=tally)
                for at, record, in_place, tally in {one[0]: one for one in step}.values()
            ]
            missing = await archive.amend(EPOCH, made)
            assert missing == {one.key for one in made} - {PageKey(1000, at) for at in model}
            for one in made:
                if one.key.sequence in model:
                    log = model[one.key.sequence]
                    model[one.key.sequence] = [*(log[:2] if one.in_place else log), one.record]
                    counted[one.key.sequence] = one.tally
        assert (await self.content(archive))[:5] == [b"".join(model[at]) if at in model else None for at in range(5)]
        assert await archive.tallies([PageKey(1000, at) for at in model]) == list(counted.values())
        assert (await archive.counts(0, 3)).kept == add_tallies(counted.values(), range(4))
        waiting = [(page.key.sequence, page.held) for page in await archive.held(None, 10)]
        assert waiting == [(at, len(log[-1])) for at, log in sorted(model.items()) if len(log) > 2]
        await archive.forget(EPOCH, [PageKey(1000, at) for at in model])
        await archive.write(EPOCH, [page_for(at, b"next") for at in range(5)])
        assert (await self.content(archive))[:5] == [b"nextnext"] * 5

    @pytest.mark.parametrize("cut", CUTS)
    async def test_a_cut_amendment_is_there_or_not_and_may_be_repeated(self, cut: int) -> None:
        archive = self.open()
        await archive.write(EPOCH, [page_for(1, b"own"), page_for(2, b"own")])
        tally = PageTally({TallyKey(1, 0, "", "", 0): {3: 2}})
        made = [changes_for(at, b"!", held=2, tally=tally) for at in (1, 2)]
        done, _ = await Cut(cut).run(lambda: archive.amend(EPOCH, made))
        found = await archive.read(PageKey(1000, 1))
        assert found in (b"ownown", b"ownown!")
        assert (await self.content(archive))[1:3] == [found, found]
        assert [bool(one and one.cells) for one in await archive.tallies([made[0].key])] == [found != b"ownown"]
        assert len(await archive.held(None, 9)) == (2 if found != b"ownown" else 0)
        assert not done or found == b"ownown!"
        await archive.amend(EPOCH, [one._replace(in_place=True) for one in made])
        assert (await self.content(archive))[1:3] == [b"ownown!"] * 2

    async def test_records_count_as_bytes_of_their_pages(self) -> None:
        archive = self.open()
        await archive.write(EPOCH, [page_for(at, unix_ms=999 + at) for at in range(3)])
        await archive.amend(EPOCH, [changes_for(1, bytes(5000))])
        assert await archive.retain(EPOCH, 0, 4000) == 2
        assert await archive.newest(None) == PageKey(1001, 2)
        await archive.write(EPOCH, [page_for(1)])
        assert await archive.read(PageKey(1000, 1)) == b"pagepage"

    async def test_pages_are_found_by_when_they_changed_and_apps_by_when_they_were_told(self) -> None:
        archive = self.open()
        pages = [page_for(s, unix_ms=1000 - s, app=s % 2)._replace(changed_unix_ms=2000 + s * s) for s in range(6)]
        await archive.write(EPOCH, [*pages, page_for(7), page_for(8)._replace(changed_unix_ms=2050)])
        await archive.write(EPOCH, [page_for(8)._replace(changed_unix_ms=2060)])
        assert await archive.changed(0, 2004, None, 10) == [PageKey(996, 4), PageKey(998, 2), PageKey(1000, 8)]
        assert await archive.changed(0, 2004, None, 1) == [PageKey(996, 4)]
        assert await archive.changed(0, 2004, PageKey(996, 4), 10) == [PageKey(998, 2), PageKey(1000, 8)]
        assert await archive.changed(1, 2026, None, 10) == []
        await archive.forget(EPOCH, [PageKey(998, 2)])
        assert await archive.changed(0, 2004, None, 10) == [PageKey(996, 4), PageKey(1000, 8)]
        assert await archive.told(0) is None
        await archive.tell(EPOCH, 0, 5)
        await archive.tell(EPOCH, 0, 7)
        await archive.tell(EPOCH, 1, 6)
        assert (await archive.told(0), await archive.told(1)) == (7, 6)

    async def test_a_sequence_that_comes_again_is_another_page(self) -> None:
        archive = self.open()
        await archive.write(EPOCH, [page_for(1, b"old", unix_ms=1000), page_for(1, b"new", unix_ms=2000), page_for(2)])
        assert await archive.read(PageKey(1000, 1)) == b"oldold"
        assert await archive.read(PageKey(2000, 1)) == b"newnew"
        assert await archive.newest(1) == PageKey(2000, 1)
        assert await archive.newest(2) == PageKey(1000, 2)
        assert await archive.newest(3) is None
        assert await archive.newest(None) == PageKey(2000, 1)

    async def test_pages_with_held_rows_are_listed_in_order_until_they_have_none_and_do_not_grow_old(self) -> None:
        archive = self.open()
        pages = [page_for(s, unix_ms=1000 + s // 2)._replace(held=s % 3, deadline_unix_ms=5000 + s) for s in range(9)]
        await archive.write(EPOCH, pages)
        held = [HeldPage(page.key, page.held, page.deadline_unix_ms) for page in pages if page.held]
        assert await archive.held(None, 100) == held
        assert await archive.held(None, 2) == held[:2]
        assert await archive.held(held[1].key, 2) == held[2:4]
        assert await archive.held(held[-1].key, 2) == []
        assert await archive.retain(EPOCH, 10_000, 1 << 40) == 3
        assert await archive.held(None, 100) == held
        await archive.write(EPOCH, [page._replace(held=0) for page in pages[:3]])
        assert await archive.held(None, 100) == held[2:]
        await archive.forget(EPOCH, [page.key for page in pages[3:5]])
        assert await archive.held(None, 100) == held[3:]

    async def test_those_of_many_pages_that_are_there_are_known(self) -> None:
        archive = self.open()
        await archive.write(EPOCH, [page_for(1), page_for(2, unix_ms=2000)])
        asked = [PageKey(1000, 1), PageKey(1000, 2), PageKey(2000, 2), PageKey(1000, 3)]
        assert await archive.known(asked) == {PageKey(1000, 1), PageKey(2000, 2)}
        assert await archive.known([]) == set()

    async def test_pages_of_a_long_task_are_found_until_they_are_forgotten(self) -> None:
        archive = self.open()
        for sequence in (4, 2, 3):
            await archive.write(EPOCH, [page_for(sequence, unix_ms=1000 + sequence, task=b"long" * 4)])
        await archive.write(EPOCH, [page_for(5)])
        assert await archive.parts(b"long" * 4) == [PageKey(1002, 2), PageKey(1003, 3), PageKey(1004, 4)]
        await archive.forget(EPOCH, [PageKey(1003, 3)])
        assert await archive.parts(b"long" * 4) == [PageKey(1002, 2), PageKey(1004, 4)]
        assert await archive.parts(b"none" * 4) == []

    async def test_a_device_is_found_among_named_pages_and_among_an_apps_newest(self) -> None:
        archive = self.open()
        pages = [page_for(sequence, unix_ms=1000 + sequence, app=sequence % 2) for sequence in range(1, 7)]
        await archive.write(EPOCH, pages)
        wanted = device_hash(bytes([41]) * 16)
        keys = [page.key for page in pages]
        assert await archive.with_device(keys, wanted, 0) == [PageKey(1004, 4)]
        assert await archive.with_device(keys[:3], wanted, 0) == []
        assert await archive.with_device(0, wanted, 100) == [PageKey(1004, 4)]
        assert await archive.with_device(1, wanted, 100) == []
        # Two rows a page: the newest of app 0 is 6, then 4.
        assert await archive.with_device(0, wanted, 2) == []
        assert await archive.with_device(0, wanted, 3) == [PageKey(1004, 4)]

    async def test_old_pages_go_by_age_and_the_oldest_by_bytes(self) -> None:
        archive = self.open()
        noise = np.random.default_rng(1).bytes(1000)
        await archive.write(EPOCH, [page_for(sequence, noise, unix_ms=1000 + sequence) for sequence in range(6)])
        assert await archive.retain(EPOCH, 1002, 1 << 40) == 2
        assert [await archive.read(PageKey(1000 + at, at)) is None for at in range(6)] == [True] * 2 + [False] * 4
        # A store may compress: 1,000 bytes of noise, twice, are 1,000 to 2,100 bytes there.
        assert 1 <= await archive.retain(EPOCH, 0, 3900) <= 3
        assert await archive.newest(None) == PageKey(1005, 5)
        assert await archive.retain(EPOCH, 0, 0) >= 1
        assert await archive.newest(None) is None

    @given(
        st.lists(
            st.lists(st.tuples(st.integers(0, 4), tallies), max_size=3).map(dict)
            | st.lists(st.integers(0, 4), max_size=2)
            | st.integers(0, 3),
            max_size=10,
        )
    )
    async def test_the_counts_of_days_are_those_of_the_pages_and_of_what_is_gone(self, steps: list) -> None:
        archive = self.open()
        kept: dict[int, PageTally] = {}
        gone: list[PageTally] = []
        for step in steps:
            if isinstance(step, dict):
                await archive.write(EPOCH, [page_for(at)._replace(tally=tally) for at, tally in step.items()])
                kept |= step
            elif isinstance(step, list):
                await archive.forget(EPOCH, [PageKey(1000, at) for at in step])
                gone += [kept.pop(at) for at in dict.fromkeys(step) if at in kept]
            else:
                await archive.forget_days(EPOCH, step)
                gone = [
                    PageTally({key: cells for key, cells in tally.cells.items() if key.day >= step}) for tally in gone
                ]
        for days in (range(4), range(1, 2)):
            counts = await archive.counts(days.start, days.stop - 1)
            assert counts.kept == add_tallies(kept.values(), days)
            assert counts.gone == add_tallies(gone, days)
        found = await archive.tallies([PageKey(1000, at) for at in range(5)])
        assert found == [kept.get(at) for at in range(5)]

    async def test_pages_are_listed_by_app_and_time_from_one_on(self) -> None:
        archive = self.open()
        await archive.write(EPOCH, [page_for(at, unix_ms=1000 + at // 2, app=at % 2) for at in range(8)])
        keys = [PageKey(1000 + at // 2, at) for at in range(8)]
        assert await archive.keys(None, range(2000), None, 100) == keys
        assert await archive.keys(None, range(1001, 1003), None, 100) == keys[2:6]
        assert await archive.keys(1, range(2000), None, 100) == keys[1::2]
        assert await archive.keys(None, range(2000), keys[2], 3) == keys[3:6]
        assert await archive.keys(0, range(2000), PageKey(1001, 1), 2) == [keys[2], keys[4]]

    async def test_rows_of_pages_that_retention_deletes_stay_counted(self) -> None:
        archive = self.open()
        tally = PageTally({TallyKey(5, 0, "plan", "group", 1): {7: 2}}, is_one_task=True)
        await archive.write(EPOCH, [page_for(1)._replace(tally=tally)])
        assert await archive.retain(EPOCH, 2000, 1 << 40) == 1
        assert await archive.counts(0, 9) == DayCounts({}, dict(tally.cells))

    @pytest.mark.parametrize(("cut", "is_there"), list(itertools.product(CUTS, [False, True])))
    async def test_a_cut_write_leaves_the_old_page_or_the_new(self, cut: int, is_there: bool) -> None:
        archive = self.open()
        key = PageKey(1000, 1)
        if is_there:
            await archive.write(EPOCH, [page_for(1, b"old")])
        done, _ = await Cut(cut).run(lambda: archive.write(EPOCH, [page_for(1, b"new" * 1000)]))
        found = await archive.read(key)
        assert found in (b"oldold" if is_there else None, b"new" * 2000)
        assert not done or found == b"new" * 2000
        await archive.write(EPOCH, [page_for(1, b"new")])
        assert await archive.read(key) == b"newnew"

    @pytest.mark.parametrize("cut", CUTS)
    async def test_a_cut_forget_can_be_repeated(self, cut: int) -> None:
        archive = self.open()
        await archive.write(EPOCH, [page_for(sequence) for sequence in range(4)])
        keys = [PageKey(1000, 1), PageKey(1000, 2)]
        await Cut(cut).run(lambda: archive.forget(EPOCH, keys))
        await archive.forget(EPOCH, [*keys, keys[1], PageKey(1000, 99)])
        assert (await self.content(archive))[:4] == [b"pagepage", None, None, b"pagepage"]

    async def test_calls_side_by_side_lose_nothing(self) -> None:
        archive = self.open()
        await together(*(lambda s=s: archive.write(EPOCH, [page_for(s, b"%d" % s)]) for s in range(6)))
        assert await self.content(archive) == [b"%d%d" % (sequence, sequence) for sequence in range(6)]
