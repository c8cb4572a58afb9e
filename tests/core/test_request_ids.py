"""Request ids: the index agrees with a dict that forgets by count and by age."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.request_ids import RequestIds, digest_bits, entry, request_key
from gateway.message_id import BatchAddress, RowAddress

SECRET = b"a secret of sixteen"
IDS_MAX = 8
AGE_MS = 1000


@functools.cache
def key_of(number: int) -> int:
    return request_key(SECRET, "shop", f"request {number}")


@pytest.mark.hypothesis
@given(st.lists(st.tuples(st.lists(st.integers(0, 30), max_size=12), st.integers(0, 400)), max_size=20))
def test_ids_agree_with_a_dict_that_forgets(steps: list[tuple[list[int], int]]) -> None:
    ids = RequestIds(ids_max=IDS_MAX, age_ms=AGE_MS)
    twin: dict[int, tuple[int, int]] = {}
    now = 1_000_000
    for sequence, (numbers, pause_ms) in enumerate(steps):
        now += pause_ms
        fresh = [number for number in dict.fromkeys(numbers) if ids.find(key_of(number), now) is None]
        batch = BatchAddress(now, 5, sequence)
        entries = [entry(key_of(number), 7, RowAddress(batch, number)) for number in fresh]
        ids.add(np.array(entries, np.uint64).reshape(-1, 3), now)
        for number in fresh[-IDS_MAX:]:
            twin.pop(number, None)
            twin[number] = (now, sequence)
        while len(twin) > IDS_MAX:
            del twin[next(iter(twin))]
        for number in range(31):
            found = ids.find(key_of(number), now)
            if number in twin and twin[number][0] >= now - AGE_MS:
                assert found is not None
                assert found.address == RowAddress(BatchAddress(twin[number][0], 5, twin[number][1]), number)
                assert found.digest == 7
            elif number not in twin:
                assert found is None
        assert len(ids) <= IDS_MAX


def test_ids_that_came_one_by_one_are_known_and_forgotten_like_others() -> None:
    ids = RequestIds(ids_max=5000, age_ms=10_000)
    for number in range(12_000):
        ids.remember(entry(key_of(number), 3, RowAddress(BatchAddress(number, 0, 1), 2)), number)
    kept = [number for number in range(12_000) if ids.find(key_of(number), 12_000) is not None]
    assert kept == list(range(kept[0], 12_000))
    assert 5000 <= len(kept) == len(ids) <= 5004


def test_an_entry_takes_24_bytes_and_keeps_the_whole_address() -> None:
    ids = RequestIds(ids_max=4, age_ms=AGE_MS)
    address = RowAddress(BatchAddress((1 << 48) - 1, 0xFFF, 0x3FFFFF), 0xFFFE)
    row = np.array([entry(1 << 63, digest_bits(b"\xff" * 32), address)], np.uint64)
    assert row.nbytes == 24
    ids.add(row, 1 << 47)
    found = ids.find(1 << 63, 1 << 47)
    assert found is not None
    assert (found.address, found.digest) == (address, (1 << 30) - 1)


def test_a_submit_without_rows_is_remembered_without_a_task() -> None:
    ids = RequestIds(ids_max=4, age_ms=AGE_MS)
    ids.add(np.array([entry(5, 9, None, unix_ms=10_000)], np.uint64), 10_000)
    found = ids.find(5, 10_500)
    assert found is not None
    assert (found.address, found.digest) == (None, 9)
    assert ids.find(5, 11_001) is None


def test_the_keys_of_apps_and_secrets_differ() -> None:
    keys = {request_key(secret, app, "r") for secret in (SECRET, b"another secret!!") for app in ("shop", "news")}
    assert len(keys) == 4
    # On disk, so it must stay what it is.
    assert request_key(SECRET, "shop", "r") == 0xE6480185F67E0535


def test_the_oldest_says_how_far_back_is_known() -> None:
    ids = RequestIds(ids_max=3, age_ms=AGE_MS)
    assert (len(ids), ids.oldest_unix_ms()) == (0, 0)
    for number in range(5):
        at = 10_000 + number
        ids.add(np.array([entry(key_of(number), 1, RowAddress(BatchAddress(at, 0, number), 0))], np.uint64), at)
    assert (len(ids), ids.oldest_unix_ms()) == (3, 10_002)


def test_the_window_is_the_age_until_ids_make_room_for_others() -> None:
    ids = RequestIds(ids_max=3, age_ms=AGE_MS)
    lengths = [ids.window_ms(9_999)]
    for number in range(5):
        at = 10_000 + number
        ids.add(np.array([entry(key_of(number), 1, RowAddress(BatchAddress(at, 0, number), 0))], np.uint64), at)
        lengths.append(ids.window_ms(at + 100))
    # When the third of three has come, the next takes the place of the oldest.
    assert lengths == [AGE_MS, AGE_MS, AGE_MS, 102, 102, 102]
    # What is too old is not found, though it is remembered; a clock that was set back makes no negative length.
    assert ids.window_ms(20_000) == AGE_MS
    assert ids.window_ms(5_000) == 0
