"""Pages as the archive keeps them: what went in comes out, whatever the columns are, and damage is seen."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.packing import pack_page, unpack_page

_ROWS = 5000


@st.composite
def parts(draw: st.DrawFn) -> list[bytes | memoryview]:
    """Columns of each kind a page has, of two pages' lengths."""
    made: list[bytes | memoryview] = [draw(st.binary(max_size=40)), draw(st.text(max_size=30)).encode() * 200]
    for _ in range(draw(st.integers(0, 4))):
        dtype = np.dtype(draw(st.sampled_from(["u1", "<u2", "<u4"])))
        n = draw(st.sampled_from([0, 1, 3, _ROWS]))
        most = 256**dtype.itemsize - 1
        low = draw(st.integers(0, most))
        spread = draw(st.sampled_from([0, 1, 255, 256, 65_535, 65_536, most]))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        column = rng.integers(low, min(low + spread, most), n, dtype, endpoint=True)
        made.append((np.sort(column) if draw(st.booleans()) else column).data)
    return made


@given(parts())
def test_parts_come_back_as_they_were(made: list[bytes | memoryview]) -> None:
    assert unpack_page(pack_page(made)) == b"".join(made)


def test_each_kind_of_column_takes_what_it_needs() -> None:
    rng = np.random.default_rng(1)
    n = 10_000
    size = len(pack_page([rng.integers(0, 256, 16 * n, np.uint8).data]))
    # A checksum of each block, a thousandth.
    assert size < 16.02 * n
    for column, bytes_per_row in (
        (np.full(n, 1_800_000_000, np.uint32), 0),
        (rng.integers(1_000_000, 1_000_200, n, np.uint32), 1),
        (rng.integers(0, 60_000, n, np.uint32), 2),
        (np.repeat(np.arange(100, dtype=np.uint32) << 20, n // 100), 0.1),
    ):
        with_it = len(pack_page([rng.integers(0, 256, 16 * n, np.uint8).data, column.data]))
        assert with_it - size < bytes_per_row * n + 60


def test_a_page_of_the_version_before_is_read() -> None:
    assert (
        unpack_page(b"\x01" + zlib.compress(b"all parts, one behind the other", 1))
        == b"all parts, one behind the other"
    )


@pytest.mark.parametrize("size", [10, _ROWS])
def test_every_damaged_byte_is_seen(size: int) -> None:
    rng = np.random.default_rng(2)
    whole = pack_page([b"text" * size, rng.integers(0, 256, size, np.uint8).data])
    for at in {0, 1, 5, 9, 12, len(whole) // 2, len(whole) - 1}:
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        with pytest.raises(ValueError, match="page"):
            unpack_page(bytes(damaged))
        with pytest.raises(ValueError, match="page"):
            unpack_page(whole[:at])
