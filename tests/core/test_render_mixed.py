"""Rows of many variants: columns against the loop over rows, which is their plain twin, for every vendor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vendors
from gateway.batch import Batch
from gateway.columns import TextColumn, join
from gateway.content import Variant
from gateway.core import render_mixed
from gateway.core.render import Rendered, Renderer, TokenGroup
from gateway.core.rendered import CutRule
from gateway.message_id import BatchAddress, encode_rows
from gateway.vendor import Vendor

SETTINGS: dict[str, dict[str, Any]] = {
    "apns": {"team_id": "T", "key_id": "K", "topic": "com.example.app", "key_file": "k"},
    "huawei": {"client_id": "1040", "client_secret_file": "k", "title_code_points_max": 9},
    "honor": {"app_id": "1044", "client_id": "c", "client_secret_file": "k"},
    "xiaomi": {"package_name": "com.a", "app_secret_file": "k", "messages_per_request_max": 1, "callback_url": ""},
    "oppo": {"app_key_id": "ak", "master_secret_file": "k", "messages_per_request_max": 1},
    "vivo": {"app_id": 10004, "app_key_id": "ak", "app_secret_file": "k"},
    "meizu": {"app_id": "110000", "app_secret_file": "k"},
}
PIECES = ["ab ", '"', "\\", "\n", "中文", "，", "e\u0301", "👨‍👩‍👧", "🇨🇳", "{{x}}", "长" * 30, "long text " * 60]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Few kinds of contents, all of their own texts."""
    n = draw(st.integers(24, 40))
    titles, bodies = draw(st.lists(texts, min_size=3, max_size=6)), draw(st.lists(texts, min_size=3, max_size=6))
    with_variables = draw(st.booleans())
    variants = [
        Variant(
            title=f"{row}{titles[row % len(titles)]}",
            body=bodies[row % len(bodies)],
            ttl_s=[0, 60, 7200][row % draw(st.integers(1, 3))],
            collapse_id=["", "", f"o{row}"][row % draw(st.integers(1, 3))],
            data={"at": "{{x}}"} if draw(st.booleans()) else None,
            class_="marketing" if row % 7 == 0 else "system",
        )
        for row in range(n)
    ]
    address = BatchAddress(1_763_700_000_999, 7, 9)
    return Batch(
        address,
        0,
        0.0,
        n,
        device_ids=np.zeros((n, 16), np.uint8),
        message_ids=encode_rows(b"secret-of-16-byte", address, np.arange(n)),
        variants=variants,
        variant_index=np.arange(n, dtype=np.uint16),
        variables={"x": TextColumn.from_texts([f'<{row}"' for row in range(n)])} if with_variables else {},
    )


def rendered(vendor: Vendor, batch: Batch, *, may_cut: bool, column_rows_min: int) -> Rendered:
    tokens = TokenGroup(np.arange(batch.n), TextColumn.from_texts([f"token{row}" for row in range(batch.n)]))
    renderer = Renderer(rules={0: CutRule(may_cut=may_cut)}, address_secret=b"s" * 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render_mixed, "_COLUMN_ROWS_MIN", column_rows_min)
        return renderer.render(
            vendor, batch, np.arange(batch.n), [tokens], authorization=b"KEY", now_unix_s=1_763_700_100.0
        )


def requests_of(told: Rendered) -> Iterator[tuple[int, tuple[Any, ...]]]:
    for positions, requests, truncated in told.groups:
        n = requests.n
        parts = [requests.path, *(value for _, value in requests.headers), requests.body]
        names = tuple(name for name, _ in requests.headers)
        rows = zip(*(join(part, 0, n) for part in parts), strict=True)
        for position, row, was_cut in zip(positions.tolist(), rows, truncated.tolist(), strict=True):
            yield position, (names, row, was_cut)


def outcome(told: Rendered) -> dict[int, tuple[Any, ...]]:
    """What becomes of each row."""
    seen: dict[int, tuple[Any, ...]] = {}
    for position, row in requests_of(told):
        assert position not in seen
        seen[position] = row
    for refused in told.refused:
        for position in refused.positions.tolist():
            assert position not in seen
            seen[position] = (refused.reason, refused.field, refused.text)
    return seen


@given(name=st.sampled_from(sorted(SETTINGS)), batch=batches(), may_cut=st.booleans())
def test_columns_of_many_variants_agree_with_the_loop_over_rows(name: str, batch: Batch, may_cut: bool) -> None:
    entry = vendors.REGISTRY[name]
    vendor = entry.vendor(msgspec.convert(SETTINGS[name], entry.settings))
    by_columns = outcome(rendered(vendor, batch, may_cut=may_cut, column_rows_min=2))
    assert by_columns == outcome(rendered(vendor, batch, may_cut=may_cut, column_rows_min=1 << 20))
    assert set(by_columns) == set(range(batch.n))
