"""Requests of many rows against plain twins, and against the same rows rendered alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch
from gateway.columns import TextColumn, join
from gateway.content import Variant
from gateway.core.render import Renderer, TokenGroup
from gateway.core.render_bulk import join_lists, lone_rows, merged, rounds, split_evenly
from gateway.message_id import BatchAddress, encode_rows
from vendors import huawei, meizu, oppo, vivo, xiaomi

SECRET = b"secret-of-16-byte"
ADDRESS = BatchAddress(1_763_700_000_000, 7, 9)
tokens = st.text(st.sampled_from("aB0+/=_-"), min_size=1, max_size=6)
texts = st.lists(st.sampled_from([*'ab "\\\n&=%;,', "中", "🇨🇳", "e\u0301", "长" * 30]), max_size=12).map("".join)


@given(st.integers(2, 5000), st.integers(2, 1000))
def test_rows_are_spread_evenly_over_as_few_requests_as_there_can_be(n: int, rows_max: int) -> None:
    sizes = np.diff(split_evenly(n, rows_max))
    assert sizes.sum() == n
    assert len(sizes) == -(-n // rows_max)
    assert sizes.max() <= rows_max
    assert sizes.max() - sizes.min() <= 1


@given(st.integers(1, 300), st.integers(1, 12))
def test_no_request_of_many_carries_one_row(n: int, rows_max: int) -> None:
    listed = n - lone_rows(n, rows_max)
    assert 0 <= listed <= n
    if listed:
        assert np.diff(split_evenly(listed, rows_max)).min() >= 2
    assert listed == 0 or n - listed <= 1


@given(st.lists(tokens, min_size=1, max_size=20), st.integers(1, 7), st.sampled_from([b",", b"%2C", b""]))
def test_lists_are_what_a_plain_join_makes(rows: list[str], rows_max: int, separator: bytes) -> None:
    offsets = split_evenly(len(rows), rows_max)
    column = TextColumn.from_texts(rows)
    fixed = column.fixed()
    for piece in [column] if fixed is None else [column, fixed]:
        made = join_lists((b'"', piece, b'"'), separator, offsets)
        plain = [f'"{row}"'.encode() for row in rows]
        assert made == [separator.join(plain[a:b]) for a, b in itertools.pairwise(offsets.tolist())]


@given(st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=4))
def test_groups_of_tokens_become_one_column(groups: list[list[str]]) -> None:
    places = itertools.count()
    given_groups = []
    for group in groups:
        column = TextColumn.from_texts(group)
        fixed = column.fixed()
        positions = np.array([next(places) for _ in group])
        given_groups.append((positions, column if fixed is None else fixed))
    positions, column = merged(given_groups)
    assert positions.tolist() == list(range(sum(map(len, groups))))
    assert column.rows() == [token.encode() for group in groups for token in group]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_rounds_hold_each_hash_once_and_lose_no_row(hashes: list[int]) -> None:
    column = np.array(hashes, np.uint32)
    parts = rounds(column)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(hashes)))
    for part in parts:
        assert len(set(column[part].tolist())) == len(part)
    assert len(parts) == max(hashes.count(value) for value in hashes)


# -- rows of lists are the rows that would go alone


def huawei_rows(body: bytes) -> list[tuple[str, str, str]]:
    message = json.loads(body)["message"]
    shown = message["android"]["notification"]
    return [(token, shown["title"], shown["body"]) for token in message["token"]]


def form(body: bytes) -> dict[str, str]:
    parsed = parse_qs(body.decode("ascii"), strict_parsing=True, keep_blank_values=True)
    return {name: values[0] for name, values in parsed.items()}


def xiaomi_rows(body: bytes) -> list[tuple[str, str, str]]:
    fields = form(body)
    if "messages" in fields:
        return [
            (entry["target"], entry["message"]["title"], entry["message"]["description"])
            for entry in json.loads(fields["messages"])
        ]
    return [(token, fields["title"], fields["description"]) for token in fields["registration_id"].split(",")]


def oppo_rows(body: bytes) -> list[tuple[str, str, str]]:
    fields = form(body)
    told = json.loads(fields["messages"]) if "messages" in fields else [json.loads(fields["message"])]
    return [(one["target_value"], one["notification"]["title"], one["notification"]["content"]) for one in told]


def vivo_rows(body: bytes) -> list[tuple[str, str, str]]:
    message = json.loads(body)
    return [(message["regId"], message["title"], message["content"])]


def meizu_rows(body: bytes) -> list[tuple[str, str, str]]:
    fields = form(body)
    shown = json.loads(fields["messageJson"])["noticeBarInfo"]
    return [(token, shown["title"], shown["content"]) for token in fields["pushIds"].split(",")]


VENDORS: dict[str, tuple[Any, Callable[[bytes], list[tuple[str, str, str]]]]] = {
    "huawei": (
        huawei.Huawei(huawei.Settings(client_id="1", client_secret_file="s", rows_per_request_max=4)),
        huawei_rows,
    ),
    "xiaomi": (
        xiaomi.Xiaomi(
            xiaomi.Settings(package_name="a.b", app_secret_file="s", rows_per_request_max=4, messages_per_request_max=3)
        ),
        xiaomi_rows,
    ),
    "oppo": (
        oppo.Oppo(oppo.Settings(app_key_id="k", master_secret_file="s", messages_per_request_max=2)),
        oppo_rows,
    ),
    "vivo": (
        vivo.Vivo(vivo.Settings(app_id=1, app_key_id="k", app_secret_file="s", rows_per_request_max=1)),
        vivo_rows,
    ),
    "meizu": (meizu.Meizu(meizu.Settings(app_id="1", app_secret_file="s", rows_per_request_max=3)), meizu_rows),
}


@st.composite
def batches(draw: st.DrawFn) -> tuple[Batch, list[str]]:
    n = draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["shared", "template", "mixed"]))
    count = {"shared": 1, "template": 1, "mixed": draw(st.integers(1, n))}[kind]
    contents = [Variant(draw(texts) + "t", draw(texts) + "b", data={"k": draw(texts)}) for _ in range(count)]
    variables = {}
    if kind == "template" or draw(st.booleans()):
        contents = [Variant("{{x}}" + one.title, one.body + "{{y}}", data={"k": "{{x}}"}) for one in contents]
        variables = {name: TextColumn.from_texts(draw(st.lists(texts, min_size=n, max_size=n))) for name in "xy"}
    index = draw(st.lists(st.integers(0, count - 1), min_size=n, max_size=n))
    batch = Batch(
        ADDRESS,
        0,
        0.0,
        n,
        device_ids=np.zeros((n, 16), np.uint8),
        message_ids=encode_rows(SECRET, ADDRESS, np.arange(n)),
        variants=contents,
        variant_index=np.array(index, np.uint16) if count > 1 else None,
        variables=variables,
    )
    return batch, [f"{draw(tokens)}{row}" for row in range(n)]


def rendered(name: str, batch: Batch, rows: list[int], row_tokens: list[str]) -> dict[int, tuple[str, str, str]]:
    """Row -> what the vendor is told of it."""
    vendor, read = VENDORS[name]
    column = TextColumn.from_texts([row_tokens[row] for row in rows])
    fixed = column.fixed()
    out = Renderer(address_secret=SECRET).render(
        vendor,
        batch,
        np.array(rows),
        [TokenGroup(np.arange(len(rows)), column if fixed is None else fixed)],
        authorization=b"credential",
        now_unix_s=1_763_700_001.0,
    )
    assert not out.refused
    told: dict[int, tuple[str, str, str]] = {}
    for positions, requests, truncated in out.groups:
        assert len(truncated) == len(positions)
        found = [row for body in join(requests.body, 0, requests.n) for row in read(body)]
        assert len(found) == len(positions)
        for position, row in zip(positions.tolist(), found, strict=True):
            assert rows[position] not in told
            told[rows[position]] = row
    return told


@pytest.mark.parametrize("name", sorted(VENDORS))
@given(burst=batches())
def test_a_row_in_a_list_is_told_as_it_would_be_alone(name: str, burst: tuple[Batch, list[str]]) -> None:
    batch, row_tokens = burst
    together = rendered(name, batch, list(range(batch.n)), row_tokens)
    assert sorted(together) == list(range(batch.n))
    for row in range(batch.n):
        assert together[row][0] == row_tokens[row]
        assert rendered(name, batch, [row], row_tokens)[row] == together[row]
