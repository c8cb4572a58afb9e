"""The log of request ids: what was written is read, oldest first; torn ends are passed over; old files go."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from faulty_files import Disk

from gateway.errors import StoreFull
from gateway.store.request_log import Entries, RequestLog


def entries(*numbers: int, unix_ms: int = 1000) -> Entries:
    return np.array([(number, unix_ms << 16, 0) for number in numbers], np.uint64)


def keys(log: RequestLog) -> list[int]:
    return [int(key) for part in log.load() for key in part[:, 0]]


def opened(path: Path, **options: object) -> RequestLog:
    return RequestLog(path / "ids", **({"ids_max": 100, "file_entries": 4} | options))  # type: ignore[arg-type]


def test_entries_of_several_runs_are_read_oldest_first(tmp_path: Path) -> None:
    for run in range(3):
        log = opened(tmp_path)
        assert keys(log) == list(range(3 * run))
        for number in range(3):
            log.append(entries(3 * run + number), 0)
        log.close()
    assert keys(opened(tmp_path)) == list(range(9))


def test_a_torn_end_is_passed_over_and_the_next_run_writes_elsewhere(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append(entries(1, 2), 0)
    log.append(entries(3), 0)
    log.close()
    (path,) = (tmp_path / "ids").glob("*.ids")
    whole = path.read_bytes()
    for cut in range(64, len(whole)):
        path.write_bytes(whole[:cut])
        assert keys(opened(tmp_path)) == [1, 2]
    path.write_bytes(whole[:-1] + b"\xff")
    log = opened(tmp_path)
    assert keys(log) == [1, 2]
    log.append(entries(4), 0)
    log.close()
    assert keys(opened(tmp_path)) == [1, 2, 4]


def test_a_damaged_block_before_others_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    log = opened(tmp_path, file_entries=100)
    for number in range(6):
        log.append(entries(number), 0)
    log.close()
    (path,) = (tmp_path / "ids").glob("*.ids")
    whole = path.read_bytes()
    for bit in range(8 * 40, 8 * 80, 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        log = opened(tmp_path)
        assert keys(log) == [0, 2, 3, 4, 5]
        assert log.damaged == [path]
    # A torn end is no damage: the entries of a block that was never finished were never promised.
    path.write_bytes(whole[:-3])
    log = opened(tmp_path)
    assert keys(log) == [0, 1, 2, 3, 4]
    assert log.damaged == []


def test_blocks_of_one_entry_are_read_in_large_portions(tmp_path: Path) -> None:
    """A quiet gateway writes a million of them a day, and an index takes 120 us for a portion, however small."""
    log = opened(tmp_path, ids_max=10_000, file_entries=10_000)
    for number in range(300):
        log.append(entries(number), 0)
    log.close()
    portions = list(opened(tmp_path).load())
    assert [len(portion) for portion in portions] == [300]


def test_files_go_when_they_are_too_old_or_enough_newer_entries_follow(tmp_path: Path) -> None:
    log = opened(tmp_path, ids_max=8)
    for number in range(30):
        log.append(entries(number, unix_ms=1000 + number), 0)
    kept = keys(opened(tmp_path))
    assert kept == list(range(kept[0], 30))
    assert 8 <= len(kept) <= 8 + 2 * 4
    # The clock went on: all but what is young enough is gone with the next file.
    for number in range(30, 35):
        log.append(entries(number, unix_ms=9000), 5000)
    log.close()
    assert set(keys(opened(tmp_path))) >= {30, 31, 32, 33, 34}
    assert min(keys(opened(tmp_path))) > 20


def test_each_append_is_durable_and_a_full_disk_is_named(tmp_path: Path) -> None:
    disk = Disk()
    log = opened(tmp_path, file_type=disk.file_type)
    log.append(entries(1), 0)
    disk.syncs = 0
    log.append(entries(2), 0)
    assert disk.syncs == 1
    disk.errno = errno.ENOSPC
    with pytest.raises(StoreFull, match="ids"):
        log.append(entries(3), 0)
    disk.errno = None
    log.append(entries(4), 0)
    log.close()
    assert keys(opened(tmp_path)) == [1, 2, 4]
