"""Parts of a request: put together again they are the whole, row by row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import TextColumn
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.parts import (
    Part,
    merge_counts,
    merge_registered,
    merge_statuses,
    registration_part,
    status_part,
)


def column(values: Any, dtype: str) -> memoryview:
    return memoryview(np.array(list(values), dtype).tobytes())


def texts(rows: list[bytes]) -> messages.Texts:
    made = TextColumn.from_rows(rows)
    return messages.Texts(bytes(made.blob), column(made.offsets, "<u4"))


def read(found: messages.Texts) -> list[bytes]:
    return list(TextColumn(found.blob, np.frombuffer(found.offsets, "<u4")).rows())


def identifier(row: int) -> bytes:
    return int(row).to_bytes(16, "big")


def make_registration(n: int) -> messages.RegisterDevices:
    return messages.RegisterDevices(
        id=7,
        n=n,
        device_ids=memoryview(b"".join(identifier(row) for row in range(n))),
        channels=["apns"],
        channel_index=column([row % 2 for row in range(n)], "u1"),
        tokens=texts([b"token %d" % row if row % 2 else b"" for row in range(n)]),
        proven_unix_s=column(range(n), "<u4"),
        tags=texts([b"tag %d" % row for row in range(n)]),
        notifications_closed=column([row % 3 == 0 for row in range(n)], "u1"),
        want_passwords=True,
    )


def split(data: Any, n: int) -> list[Any]:
    owners = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    return [np.flatnonzero(owners == owner) for owner in np.unique(owners)]


def test_every_column_of_a_registration_is_split() -> None:
    message = make_registration(6)
    whole = messages.RegisterDevices(
        id=7,
        n=6,
        device_ids=message.device_ids,
        **dict.fromkeys(("tokens", "platform", "app_version", "time_zone", "alias", "tags"), message.tokens),
        **{name: column(range(6), "u1") for name in ("channel_index", "notifications_closed")},
        proven_unix_s=message.proven_unix_s,
    )
    part = registration_part(whole, np.array([1, 4]))
    # A column that stays as it was has the wrong size for the part, which its owner refuses.
    are_columns = {
        name for name in whole.__struct_fields__ if isinstance(getattr(whole, name), memoryview | messages.Texts)
    }
    assert len(are_columns) == 10
    assert not [name for name in are_columns if getattr(part, name) is getattr(whole, name)]


@given(st.integers(1, 12), st.data())
def test_registration_in_parts_is_answered_as_the_whole(n: int, data: Any) -> None:
    message = make_registration(n)
    refused = data.draw(st.sets(st.integers(0, n - 1)))
    parts = []
    for rows in split(data, n):
        part = registration_part(message, rows)
        assert (part.n, part.channels, part.want_passwords) == (len(rows), ["apns"], True)
        ids = bytes(part.device_ids)
        assert [ids[16 * k : 16 * k + 16] for k in range(part.n)] == [identifier(row) for row in rows]
        assert part.tokens is not None
        assert part.tags is not None
        assert part.proven_unix_s is not None
        assert part.channel_index is not None
        assert read(part.tokens) == [b"token %d" % row if row % 2 else b"" for row in rows.tolist()]
        assert read(part.tags) == [b"tag %d" % row for row in rows.tolist()]
        assert np.frombuffer(part.proven_unix_s, "<u4").tolist() == rows.tolist()
        assert list(part.channel_index) == [row % 2 for row in rows.tolist()]
        assert part.notifications_closed is not None
        assert list(part.notifications_closed) == [row % 3 == 0 for row in rows.tolist()]
        bad = [at for at, row in enumerate(rows.tolist()) if row in refused]
        answer = messages.DevicesRegistered(
            id=7,
            registered=len(rows) - len(bad),
            refused=[messages.RefusedRow(at, "tokens", f"row {rows[at]}") for at in bad],
            refused_count=len(bad),
            passwords=texts([b"password %d" % row for row in rows.tolist()]),
        )
        parts.append(Part(rows, answer))
    merged = merge_registered(message, parts)
    assert (merged.id, merged.registered, merged.refused_count) == (7, n - len(refused), len(refused))
    assert [(fault.row, fault.text) for fault in merged.refused] == [(row, f"row {row}") for row in sorted(refused)]
    assert merged.passwords is not None
    assert read(merged.passwords) == [b"password %d" % row for row in range(n)]


def test_columns_that_do_not_fit_the_call_are_refused_before_it_is_split() -> None:
    message = make_registration(3)
    message.proven_unix_s = column([1], "<u4")
    with pytest.raises(BadRequest, match="proven_unix_s is 4 bytes, expected 12"):
        registration_part(message, np.array([0]))


def test_only_the_first_refused_rows_are_listed_and_all_are_counted() -> None:
    message = make_registration(1500)
    rows = np.arange(1500)
    faults = [messages.RefusedRow(at, "tokens", "bad") for at in range(1500)]
    answer = messages.DevicesRegistered(id=7, registered=0, refused=faults, refused_count=1500)
    merged = merge_registered(message, [Part(rows, answer)])
    assert (len(merged.refused), merged.refused_count, merged.passwords) == (1000, 1500, None)


@given(st.integers(1, 12), st.data())
def test_statuses_in_parts_are_those_of_the_whole(n: int, data: Any) -> None:
    message = messages.DeviceStatus(
        id=3, n=n, device_ids=memoryview(b"".join(identifier(row) for row in range(n))), app_key="shop"
    )
    parts = []
    for rows in split(data, n):
        part = status_part(message, rows)
        assert (part.n, part.app_key) == (len(rows), "shop")
        answer = messages.DeviceStatuses(
            id=3,
            n=len(rows),
            is_known=column(rows % 2, "u1"),
            is_online=column(rows % 3 == 0, "u1"),
            since_unix_s=column(rows * 1000, "<u4"),
            last_seen_unix_s=column(rows * 1001, "<u4"),
            address_class=column(rows % 4, "u1"),
            platform=texts([b"platform %d" % row for row in rows.tolist()]),
        )
        parts.append(Part(rows, answer))
    merged = merge_statuses(message, parts)
    rows = np.arange(n)
    assert merged.n == n
    assert list(merged.is_known) == (rows % 2).tolist()
    assert list(merged.is_online) == (rows % 3 == 0).tolist()
    assert np.frombuffer(merged.since_unix_s, "<u4").tolist() == (rows * 1000).tolist()
    assert np.frombuffer(merged.last_seen_unix_s, "<u4").tolist() == (rows * 1001).tolist()
    assert list(merged.address_class) == (rows % 4).tolist()
    assert read(merged.platform) == [b"platform %d" % row for row in range(n)]


PLATFORMS = ["android", "ios", "harmony"]
COUNTS = st.dictionaries(st.sampled_from(PLATFORMS), st.integers(0, 1000))
HISTORY = st.dictionaries(st.integers(1, 5).map(lambda slot: slot * 600), COUNTS)


@given(st.lists(st.tuples(COUNTS, HISTORY, st.none() | st.integers(0, 9)), min_size=1, max_size=4))
def test_counts_of_several_workers_add_up_by_platform_and_slot(workers: list[Any]) -> None:
    message = messages.OnlineCounts(id=9, tag="vip")
    answers = []
    now: Counter[str] = Counter()
    past: dict[int, Counter[str]] = {}
    for online, history, tagged in workers:
        platforms = list(dict.fromkeys([*online, *(name for counts in history.values() for name in counts)]))
        slots = sorted(history)
        answers.append(
            messages.OnlineCounted(
                id=9,
                platforms=platforms,
                online=column([online.get(name, 0) for name in platforms], "<u4"),
                n=len(slots),
                at_unix_s=column(slots, "<u4"),
                history=column([[history[at].get(name, 0) for name in platforms] for at in slots], "<u4"),
                tagged=tagged,
            )
        )
        now.update(online)
        for at in slots:
            past.setdefault(at, Counter()).update(history[at])
    merged = merge_counts(message, answers)
    columns = len(merged.platforms)
    assert dict(zip(merged.platforms, np.frombuffer(merged.online, "<u4").tolist(), strict=True)) == {
        name: now[name] for name in merged.platforms
    }
    assert sum(now.values()) == np.frombuffer(merged.online, "<u4").sum()
    assert np.frombuffer(merged.at_unix_s, "<u4").tolist() == sorted(past)
    table = np.frombuffer(merged.history, "<u4").reshape(merged.n, columns)
    for row, at in zip(table.tolist(), sorted(past), strict=True):
        assert {name: n for name, n in zip(merged.platforms, row, strict=True) if n} == {
            name: n for name, n in past[at].items() if n
        }
    known = [tagged for _, _, tagged in workers if tagged is not None]
    assert merged.tagged == (sum(known) if known else None)


def test_curves_of_a_tag_add_up_slot_by_slot_and_a_worker_without_one_adds_nothing() -> None:
    def answer(slots: dict[int, int] | None) -> messages.OnlineCounted:
        return messages.OnlineCounted(
            id=9,
            platforms=[],
            online=column([], "<u4"),
            n=0,
            at_unix_s=column([], "<u4"),
            history=column([], "<u4"),
            tagged=0,
            tag_at_unix_s=None if slots is None else column(list(slots), "<u4"),
            tag_history=None if slots is None else column(list(slots.values()), "<u4"),
        )

    merged = merge_counts(
        messages.OnlineCounts(id=9, tag="vip"), [answer({600: 1, 1200: 2}), answer(None), answer({1200: 3, 1800: 4})]
    )
    assert merged.tag_at_unix_s is not None
    assert merged.tag_history is not None
    assert np.frombuffer(merged.tag_at_unix_s, "<u4").tolist() == [600, 1200, 1800]
    assert np.frombuffer(merged.tag_history, "<u4").tolist() == [1, 5, 4]
