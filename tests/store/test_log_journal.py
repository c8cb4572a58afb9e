"""The log journal keeps the contract, and what is a log's own: segments, torn tails, damage, disks that fail."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import hypothesis.strategies as st
import pytest
from contract import EPOCH, NEWER, OLDER, JournalContract, plain_record, record_of, replayed, together
from faulty_files import Disk
from hypothesis import given

from gateway.batch import OwnershipEpoch
from gateway.errors import StaleEpoch, StoreCorrupt, StoreError, StoreFull, StoreInUse, StoreReadOnly
from gateway.store.log_journal import LogJournal
from gateway.store.log_segment import RECORD_HEADER_BYTES
from gateway.store.ports import MARKS_RECORD, JournalRecord

#: Small, so that a test with a few records has several.
SEGMENT_BYTES = 4096


class Folder:
    """Where journals of one test live; open ones are closed at its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers = itertools.count()
        self._open: list[LogJournal] = []

    def fresh(self) -> Path:
        return self.path / str(next(self._numbers))

    def open(self, path: Path | None = None, **options: object) -> LogJournal:
        journal = LogJournal(path or self.fresh(), **({"segment_bytes": SEGMENT_BYTES} | options))  # type: ignore[arg-type]
        self._open.append(journal)
        return journal

    def close(self, journal: LogJournal) -> None:
        self._open.remove(journal)
        journal.close()

    def close_all(self) -> None:
        while self._open:
            self._open.pop().close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    yield folder
    folder.close_all()


class TestLogJournal(JournalContract):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: Folder) -> None:
        self.folder = folder

    def open(self) -> LogJournal:
        return self.folder.open()


def big(name: int, size: int = 1000) -> JournalRecord:
    return JournalRecord(1, (bytes([name]) * size,))


def logs(path: Path) -> list[Path]:
    return sorted(path.glob("*.log"))


def names(found: list[tuple[int, tuple[int, bytes]]]) -> list[int]:
    return [payload[0] for _, (_, payload) in found]


def change(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as stream:
        stream.seek(at)
        stream.write(data)


# what is there after a restart


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), max_size=8), st.sets(st.integers(0, 20)))
async def test_a_reopened_journal_has_what_was_appended_and_not_released(
    tmp_path_factory: pytest.TempPathFactory, appends: list[list[int]], gone: set[int]
) -> None:
    path = tmp_path_factory.mktemp("journal")
    journal = LogJournal(path, segment_bytes=512)
    for group in appends:
        await journal.append(EPOCH, [record_of(name, 20) for name in group])
    found = await replayed(journal)
    released = [at for index, (at, _) in enumerate(found) if index in gone]
    await journal.release(EPOCH, released)
    journal.close()
    journal = LogJournal(path, segment_bytes=512)
    left = [one for one in found if one[0] not in released]
    assert await replayed(journal) == left
    (at,) = await journal.append(EPOCH, [record_of(3)])
    assert all(at > before for before, _ in found)
    assert await replayed(journal) == [*left, (at, plain_record(record_of(3)))]
    journal.close()


@pytest.mark.parametrize("write", ["append", "release"])
async def test_the_epoch_survives_a_restart(folder: Folder, write: str) -> None:
    path = folder.fresh()
    journal = folder.open(path)
    await (journal.append(NEWER, [record_of(1)]) if write == "append" else journal.release(NEWER, [0]))
    folder.close(journal)
    journal = folder.open(path)
    for epoch in (OLDER, EPOCH):
        with pytest.raises(StaleEpoch):
            await journal.append(epoch, [record_of(1)])
    await journal.append(NEWER, [record_of(1)])


async def test_a_segment_whose_records_are_released_is_deleted(folder: Folder) -> None:
    path = folder.fresh()
    journal = folder.open(path)
    positions = [(await journal.append(EPOCH, [big(name)]))[0] for name in range(12)]
    before = logs(path)
    assert len(before) >= 4
    # One record of the first segment stays; the rest goes.
    await journal.release(EPOCH, positions[1:])
    assert logs(path) == [before[0], before[-1]]
    assert journal.statistics().records == 1
    folder.close(journal)
    journal = folder.open(path)
    assert names(await replayed(journal)) == [0]
    await journal.release(EPOCH, positions[:1])
    assert logs(path) == [before[-1]]
    assert (await journal.append(EPOCH, [big(9)]))[0] > positions[-1]


async def test_a_record_larger_than_a_segment_gets_a_segment_of_its_own(folder: Folder) -> None:
    path = folder.fresh()
    journal = folder.open(path)
    await journal.append(EPOCH, [big(1), big(2, 3 * SEGMENT_BYTES)])
    await journal.append(EPOCH, [big(3)])
    folder.close(journal)
    assert names(await replayed(folder.open(path))) == [1, 2, 3]


async def test_more_records_than_a_segment_has_flags_begin_a_new_one(folder: Folder) -> None:
    path = folder.fresh()
    journal = folder.open(path)
    tiny = [JournalRecord(1, ()) for _ in range(40)]
    positions = [at for _ in range(3) for at in await journal.append(EPOCH, tiny)]
    assert len(logs(path)) == 3
    await journal.release(EPOCH, positions[5:])
    folder.close(journal)
    assert [at for at, _ in await replayed(folder.open(path))] == positions[:5]


async def test_a_journal_is_opened_once(folder: Folder) -> None:
    path = folder.fresh()
    journal = folder.open(path)
    with pytest.raises(StoreInUse):
        LogJournal(path)
    folder.close(journal)
    folder.open(path)


async def test_a_closed_journal_says_so(folder: Folder) -> None:
    journal = folder.open()
    await journal.append(EPOCH, [big(1)])
    folder.close(journal)
    with pytest.raises(StoreError, match="closed"):
        await journal.append(EPOCH, [big(1)])
    with pytest.raises(StoreError, match="closed"):
        await journal.release(EPOCH, [1 << 32])


# group commit


async def test_every_append_is_synced_and_those_that_wait_share_one_sync(folder: Folder) -> None:
    disk = Disk()
    journal = folder.open(segment_bytes=1 << 20, file_type=disk.file_type)
    disk.syncs = 0
    for name in range(5):
        await journal.append(EPOCH, [record_of(name)])
    assert disk.syncs == 5
    await disk.together(*(lambda n=name: journal.append(EPOCH, [record_of(n)]) for name in range(50)))
    # The first goes alone or with those that its thread found, all others together.
    assert disk.syncs in (6, 7)
    assert len(await replayed(journal)) == 55


async def test_a_commit_writes_once(folder: Folder) -> None:
    """With the beginning of the thread's turn, and the look whether the file is still there, these are three entries
    into the interpreter; so many are allowed."""
    disk = Disk()
    journal = folder.open(segment_bytes=1 << 20, file_type=disk.file_type)
    disk.calls.clear()
    await journal.append(EPOCH, [big(name, 20_000) for name in range(10)])
    assert disk.calls == ["write_durable"]
    positions = [at for at, _ in await replayed(journal)]
    disk.calls.clear()
    await journal.release(EPOCH, positions)
    assert disk.calls == ["write_durable"]


async def test_the_system_is_asked_for_the_disk_and_not_for_its_cache(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the machine's own files: what stands in an append is written with RWF_DSYNC, and nothing else is."""
    journal = folder.open(segment_bytes=1 << 20)
    calls: list[tuple[int, int]] = []
    pwritev = os.pwritev

    def watched(fd: int, buffers: Sequence[bytes], offset: int, flags: int = 0) -> int:
        written = pwritev(fd, buffers, offset, flags)
        calls.append((written, flags))
        return written

    monkeypatch.setattr(os, "pwritev", watched)
    for name in range(3):
        await journal.append(EPOCH, [big(name)])
    assert [flags for _, flags in calls] == [os.RWF_DSYNC] * 3
    assert all(written > 1000 for written, _ in calls)


# torn tails and damage


def cuts_of(data: bytes, start: int, end: int) -> Iterator[bytes]:
    """The file as it may be when the write of start..end did not end: cut anywhere, or any sector missing."""
    for at in range(start, end, 7):
        yield data[:at] + bytes(end - at) + data[end:]
    for at in range(start - start % 512, end, 512):
        low, high = max(at, start), min(at + 512, end)
        yield data[:low] + bytes(high - low) + data[high:]


async def test_a_torn_append_is_cut_as_a_whole_wherever_it_was_torn(folder: Folder) -> None:
    path = folder.fresh()
    journal = folder.open(path, segment_bytes=16_384)
    await journal.append(EPOCH, [big(1), big(2)])
    first = await journal.append(EPOCH, [big(3, 300), big(4, 900), big(5, 200)])
    start = first[0] & 0xFFFFFFFF
    end = (first[-1] & 0xFFFFFFFF) + RECORD_HEADER_BYTES + 200
    folder.close(journal)
    (log,) = logs(path)
    whole = log.read_bytes()
    for torn in cuts_of(whole, start, end):
        log.write_bytes(torn)
        journal = folder.open(path, segment_bytes=16_384)
        assert names(await replayed(journal)) == [1, 2]
        left = journal.statistics().cut_bytes
        assert 0 <= left <= end - start
        # Nothing of it is left for the next one to be taken for.
        (at,) = await journal.append(EPOCH, [big(6, 100)])
        assert at == first[0]
        folder.close(journal)
        journal = folder.open(path, segment_bytes=16_384)
        assert names(await replayed(journal)) == [1, 2, 6]
        assert journal.statistics().cut_bytes == 0
        folder.close(journal)


@pytest.mark.parametrize("which", range(4))
async def test_a_damaged_record_in_the_middle_is_named_and_the_others_are_read(folder: Folder, which: int) -> None:
    path = folder.fresh()
    journal = folder.open(path)
    positions = [(await journal.append(EPOCH, [big(name, 900)]))[0] for name in range(9)]
    folder.close(journal)
    log = logs(path)[(positions[which] >> 32) - 1]
    at = positions[which] & 0xFFFFFFFF
    untouched = log.read_bytes()
    for offset in (0, 5, 9, 17, 40, 46, RECORD_HEADER_BYTES, RECORD_HEADER_BYTES + 899):
        change(log, at + offset, bytes([untouched[at + offset] ^ 0x40]))
        journal = folder.open(path)
        found: list[int] = []
        with pytest.raises(StoreCorrupt, match=f"{log.name}.*byte {at}") as damage:  # noqa: PT012
            async for _, record in journal.replay(0):
                found.append(bytes(record.buffers[0])[0])
        assert found == list(range(which))
        assert damage.value.position == positions[which]
        assert names(await replayed(journal, damage.value.position + 1)) == list(range(which + 1, 9))
        # What comes later goes behind everything.
        folder.close(journal)
        log.write_bytes(untouched)


async def test_a_damaged_record_costs_none_of_its_neighbours_in_one_append(folder: Folder) -> None:
    path = folder.fresh()
    journal = folder.open(path, segment_bytes=16_384)
    positions = await journal.append(EPOCH, [big(name, 300) for name in range(4)])
    await journal.append(EPOCH, [big(9, 300)])
    folder.close(journal)
    (log,) = logs(path)
    change(log, positions[1] & 0xFFFFFFFF, b"gone")
    journal = folder.open(path, segment_bytes=16_384)
    with pytest.raises(StoreCorrupt) as damage:
        await replayed(journal)
    assert names(await replayed(journal, damage.value.position + 1)) == [2, 3, 9]
    await journal.release(EPOCH, [positions[0], *positions[2:]])
    await journal.append(EPOCH, [big(10, 300)])
    folder.close(journal)
    assert names(await replayed(folder.open(path, segment_bytes=16_384), positions[1] + 1)) == [9, 10]


async def test_a_lost_sector_between_whole_appends_is_damage_and_not_a_tail(folder: Folder) -> None:
    path = folder.fresh()
    journal = folder.open(path, segment_bytes=16_384)
    positions = [(await journal.append(EPOCH, [big(name, 2000)]))[0] for name in range(4)]
    folder.close(journal)
    (log,) = logs(path)
    change(log, positions[1] & 0xFFFFFFFF, bytes(2000 + RECORD_HEADER_BYTES))
    journal = folder.open(path, segment_bytes=16_384)
    with pytest.raises(StoreCorrupt):
        await replayed(journal)
    assert names(await replayed(journal, positions[1] + 1)) == [2, 3]
    (at,) = await journal.append(EPOCH, [big(7)])
    assert at > positions[3]


async def test_a_payload_that_holds_a_journal_is_not_taken_for_one(folder: Folder) -> None:
    """Somebody submits the bytes of a record for the very place where they will lie, and the append is torn."""
    path = folder.fresh()
    journal = folder.open(path)
    _, at = [(await journal.append(EPOCH, [record]))[0] for record in (JournalRecord(1, ()), big(1, 100))]
    folder.close(journal)
    (log,) = logs(path)
    at &= 0xFFFFFFFF
    forged = log.read_bytes()[at : at + 1000]
    other = folder.fresh()
    journal = folder.open(other)
    (begin,) = await journal.append(EPOCH, [JournalRecord(1, (forged,))])
    assert (begin & 0xFFFFFFFF) + RECORD_HEADER_BYTES == at
    folder.close(journal)
    (log,) = logs(other)
    change(log, begin & 0xFFFFFFFF, bytes(8))
    assert await replayed(folder.open(other)) == []


async def test_a_segment_that_is_none_is_refused_by_name(folder: Folder) -> None:
    path = folder.fresh()
    folder.close(folder.open(path))
    (log,) = logs(path)
    whole = log.read_bytes()
    for damaged in (b"", whole[:63], b"x" + whole[1:], whole[:20] + b"x" + whole[21:], whole[:100]):
        log.write_bytes(damaged)
        with pytest.raises(StoreCorrupt, match=log.name):
            LogJournal(path)
        # It is left as it was found.
        assert log.read_bytes() == damaged


async def test_a_segment_that_was_being_prepared_is_not_one(folder: Folder) -> None:
    path = folder.fresh()
    journal = folder.open(path)
    await journal.append(EPOCH, [big(1)])
    folder.close(journal)
    (path / "0000000002.log.new").write_bytes(b"half")
    assert names(await replayed(folder.open(path))) == [1]
    assert sorted(one.suffix for one in path.iterdir()) == ["", ".log", ".spare"]


# power loss


@pytest.mark.parametrize("seed", range(40))
async def test_what_was_answered_survives_a_disk_that_forgets_what_was_not_synced(folder: Folder, seed: int) -> None:
    chance = random.Random(seed)
    path, disk = folder.fresh(), Disk()
    journal = folder.open(path, file_type=disk.file_type)
    disk.fails_after = chance.randrange(30)
    answered: dict[int, int] = {}
    released: set[int] = set()
    group: list[int] = []
    names_left = itertools.count()
    with pytest.raises(StoreError):  # noqa: PT012 - the failure is somewhere in the loop
        while True:
            group = [next(names_left) % 256 for _ in range(chance.randint(1, 4))]
            found = await journal.append(EPOCH, [big(name, chance.choice([10, 700, 1500])) for name in group])
            answered |= zip(found, group, strict=True)
            if chance.random() < 0.3:
                gone = chance.sample(sorted(answered), k=min(len(answered), 2))
                released |= set(gone)
                await journal.release(EPOCH, gone)
    folder.close(journal)
    disk.forget(chance)
    journal = folder.open(path)
    there = {at: payload[0] for at, (_, payload) in await replayed(journal)}
    held = {at: name for at, name in answered.items() if at not in released}
    assert held.items() <= there.items()
    # A release may be forgotten; of the append that failed all records are there, or none.
    rest = [name for at, name in there.items() if at not in answered]
    assert rest in ([], group)
    await journal.append(EPOCH, [big(1)])


# disks that refuse


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EROFS, StoreReadOnly)]
)
@pytest.mark.parametrize("size", [100, 5000])
async def test_a_disk_that_refuses_is_named_and_what_was_there_stays(
    folder: Folder, number: int, error: type[StoreError], size: int
) -> None:
    """size: within the segment, or so that a new one must be made."""
    path, disk = folder.fresh(), Disk()
    journal = folder.open(path, file_type=disk.file_type)
    (at,) = await journal.append(EPOCH, [big(1)])
    disk.errno = number
    with pytest.raises(error, match=str(path)):
        await journal.append(EPOCH, [big(2, size)])
    with pytest.raises(error):
        await journal.release(EPOCH, [at])
    assert names(await replayed(journal)) == [1]
    folder.close(journal)
    # Whatever the refused write left in the file, a restart does not see it.
    assert names(await replayed(folder.open(path))) == [1]


async def test_a_disk_that_has_room_again_is_written_to_again(folder: Folder) -> None:
    path, disk = folder.fresh(), Disk()
    journal = folder.open(path, file_type=disk.file_type)
    await journal.append(EPOCH, [big(1)])
    disk.errno = errno.ENOSPC
    with pytest.raises(StoreFull):
        await journal.append(EPOCH, [big(2, 5000)])
    disk.errno = None
    await journal.append(EPOCH, [big(3, 5000)])
    folder.close(journal)
    assert names(await replayed(folder.open(path))) == [1, 3]
    assert not list(path.glob("*.new"))


async def test_after_a_sync_that_failed_nothing_more_is_promised(folder: Folder) -> None:
    """The kernel drops pages it could not write: a second sync would succeed and prove nothing."""
    path, disk = folder.fresh(), Disk()
    journal = folder.open(path, file_type=disk.file_type)
    await journal.append(EPOCH, [big(1)])
    disk.errno, disk.refuses_sync = errno.EIO, True
    with pytest.raises(StoreError):
        await journal.append(EPOCH, [big(2)])
    disk.errno, disk.refuses_sync = None, False
    with pytest.raises(StoreError):
        await journal.append(EPOCH, [big(3)])
    assert names(await replayed(journal)) == [1]


@pytest.mark.parametrize("has_spare", [True, False])
async def test_a_segment_that_could_not_be_put_into_its_folder_leaves_nothing_behind(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, has_spare: bool
) -> None:
    """What was left of it would stand in the way of the next one, which has its number."""
    path, disk = folder.fresh(), Disk()
    journal = folder.open(path, file_type=disk.file_type)
    (at,) = await journal.append(EPOCH, [big(1)])
    mark = JournalRecord(MARKS_RECORD, (bytes(2 * SEGMENT_BYTES),))
    if not has_spare:
        disk.refuses_new = True
        # Uses up the segment that was kept.
        while logs(path)[1:] == []:
            await journal.append(EPOCH, [JournalRecord(MARKS_RECORD, (bytes(500),))])
        disk.refuses_new = False
    open_files = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:

        def fails() -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr(journal, "_sync_folder", fails)
        with pytest.raises(StoreError):
            await journal.append(EPOCH, [mark])
    assert len(os.listdir("/proc/self/fd")) == open_files
    await journal.append(EPOCH, [mark])
    await journal.append(EPOCH, [big(2)])
    batches = [one for one in await replayed(journal) if one[1][0] == big(1).kind]
    assert names(batches) == names([(at, plain_record(big(1))), (0, plain_record(big(2)))])


async def test_a_release_in_a_newer_epoch_may_need_a_segment_and_end_the_one_before(folder: Folder) -> None:
    path = folder.fresh()
    journal = folder.open(path)
    # As many flags as there are in a segment: it has no room for one record more.
    positions = [(await journal.append(EPOCH, [JournalRecord(1, ())]))[0] for _ in range(SEGMENT_BYTES // 256)]
    assert len(logs(path)) == 1
    await journal.release(NEWER, positions)
    assert len(logs(path)) == 1
    assert logs(path)[0].name == "0000000002.log"
    with pytest.raises(StaleEpoch):
        await journal.append(EPOCH, [record_of(1)])
    await journal.append(NEWER, [big(2)])
    assert names(await replayed(journal)) == names([(0, plain_record(big(2)))])


async def test_callers_that_share_a_failed_commit_are_all_told(folder: Folder) -> None:
    disk = Disk()
    journal = folder.open(file_type=disk.file_type)
    disk.errno = errno.ENOSPC

    async def refused() -> StoreFull:
        with pytest.raises(StoreFull) as told:
            await journal.append(EPOCH, [big(1)])
        return told.value

    told = await together(*[refused] * 5)
    assert len({id(error) for error in told}) == 5


async def test_the_journals_own_limit_is_kept_and_release_makes_room(folder: Folder) -> None:
    path = folder.fresh()
    journal = folder.open(path, bytes_max=3 * SEGMENT_BYTES)
    positions: list[int] = []
    with pytest.raises(StoreFull, match=f"limit {3 * SEGMENT_BYTES}"):  # noqa: PT012
        for name in range(100):
            positions += await journal.append(EPOCH, [big(name)])
    assert sum(log.stat().st_size for log in logs(path)) <= 3 * SEGMENT_BYTES
    assert len(await replayed(journal)) == len(positions)
    await journal.release(EPOCH, positions[:3])
    await journal.append(EPOCH, [big(7)])
    epoch = OwnershipEpoch(EPOCH.number + 3)
    await journal.release(epoch, positions)


async def test_a_full_disk_has_room_left_for_what_is_about_earlier_batches(folder: Folder) -> None:
    path, disk = folder.fresh(), Disk()
    journal = folder.open(path, file_type=disk.file_type)
    positions = list(await journal.append(EPOCH, [big(1)]))
    disk.refuses_new = True
    with pytest.raises(StoreFull):  # noqa: PT012 - the disk is full somewhere in the loop
        while True:
            positions += await journal.append(EPOCH, [big(2)])
    mark = JournalRecord(MARKS_RECORD, (bytes(500),))
    for _ in range(5):
        await journal.append(EPOCH, [mark])

    async def refused() -> None:
        with pytest.raises(StoreFull):
            await journal.append(EPOCH, [big(3)])

    # Side by side in one commit the mark is taken and the batch is not.
    await together(refused, lambda: journal.append(EPOCH, [mark]))
    folder.close(journal)
    found = await replayed(folder.open(path))
    assert [kind for _, (kind, _) in found].count(MARKS_RECORD) == 6
    assert {at for at, (kind, _) in found if kind == 1} == set(positions)


async def test_a_full_disk_takes_batches_again_when_it_has_room(folder: Folder) -> None:
    path, disk = folder.fresh(), Disk()
    journal = folder.open(path, file_type=disk.file_type)
    disk.refuses_new = True
    with pytest.raises(StoreFull):  # noqa: PT012 - the disk is full somewhere in the loop
        while True:
            await journal.append(EPOCH, [big(2)])
    # Marks use up the segment that was kept for them.
    for _ in range(5):
        await journal.append(EPOCH, [JournalRecord(MARKS_RECORD, (bytes(500),))])
    with pytest.raises(StoreFull):
        await journal.append(EPOCH, [JournalRecord(1, (b"small",))])
    disk.refuses_new = False
    await journal.append(EPOCH, [big(3)])
    assert names(await replayed(journal))[-1] == 3


@pytest.mark.parametrize("how", ["deleted", "moved"])
async def test_nothing_is_promised_in_a_folder_that_was_taken_away(folder: Folder, how: str) -> None:
    path = folder.fresh()
    journal = folder.open(path)
    await journal.append(EPOCH, [big(1)])
    if how == "deleted":
        shutil.rmtree(path)
    else:
        path.rename(path.with_name("elsewhere"))
    for _ in range(2):
        with pytest.raises(StoreError, match="removed while it was in use"):
            await journal.append(EPOCH, [big(2)])


async def test_an_older_segment_that_was_taken_away_stops_the_journal(folder: Folder) -> None:
    """Its batches were accepted, and nobody writes to it any more."""
    path = folder.fresh()
    journal = folder.open(path, segment_bytes=16_384)
    number = 0
    while len(logs(path)) < 4:
        number += 1
        await journal.append(EPOCH, [big(number)])
    sorted(logs(path))[1].unlink()
    with pytest.raises(StoreError, match=r"2.*removed while it was in use"):  # noqa: PT012 - a few appends later
        for more in range(number + 1, number + 5):
            await journal.append(EPOCH, [big(more)])
    with pytest.raises(StoreError, match="removed while it was in use"):
        await journal.append(EPOCH, [big(0)])
