"""Pages as the archive keeps them: what went in comes out, whatever the columns are, and damage is seen."""

from __future__ import annotations

import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.packing import NotInBlocks, PackedParts, pack_page, unpack_page

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


def test_a_page_of_parts_without_blocks_is_read_and_not_by_rows() -> None:
    texts, numbers = b"text " * 5000, np.arange(9000, dtype="<u2")
    bodies = [zlib.compress(texts, 1), b"\x07\x00", numbers.tobytes()]
    header = msgspec.msgpack.encode(
        [(1, len(bodies[0]), len(texts), 1, 0, 1), (2, 2, 8000, 2, 0, 1), (0, 18_000, 18_000, 2, 0, 1)]
    )
    rest = b"".join([len(header).to_bytes(4, "little"), header, *bodies])
    page = b"\x02" + zlib.crc32(rest).to_bytes(4, "little") + rest
    assert unpack_page(page, [b"log"]) == texts + b"\x07\x00" * 4000 + numbers.tobytes() + b"log"
    with pytest.raises(ValueError, match="page"):
        unpack_page(page[:-1])
    with pytest.raises(NotInBlocks):
        PackedParts(lambda at, n: page[at : at + n], len(page))


@given(parts(), st.data())
def test_some_bytes_of_a_part_are_those_of_the_whole(made: list[bytes | memoryview], data: st.DataObject) -> None:
    """Whole elements of a column, any bytes of a text; of several blocks, too."""
    made.append(np.random.default_rng(3).integers(0, 256, 20_000, np.uint8).data)
    packed = pack_page(made)
    found = PackedParts(lambda at, n: packed[at : at + n], len(packed))
    for index, part in enumerate(made):
        view = memoryview(part)
        n, whole = view.nbytes // view.itemsize, bytes(part)
        start, stop = sorted(data.draw(st.integers(0, n)) for _ in range(2))
        start, stop = start * view.itemsize, stop * view.itemsize
        assert found.some(index, start, stop) == whole[start:stop]
        assert bytes(found.whole(index)) == whole


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
