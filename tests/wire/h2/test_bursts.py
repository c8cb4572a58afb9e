"""The vectorised encodings against one request after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import columns
from gateway.columns import TextColumn
from gateway.vendor import Requests
from gateway.wire.h2 import bursts, template
from gateway.wire.h2.frames import split_block, split_data
from gateway.wire.hpack.encoder import Encoder


@st.composite
def pieces_of(draw, n: int, *, is_fixed: bool = False, may_be_empty: bool = True):
    out = []
    for _ in range(draw(st.integers(0 if may_be_empty else 1, 3))):
        match draw(st.sampled_from(["constant", "fixed"] if is_fixed else ["constant", "fixed", "ragged"])):
            case "constant":
                out.append(draw(st.binary(min_size=0 if may_be_empty else 1, max_size=20)))
            case "fixed":
                width = draw(st.integers(1, 12))
                data = draw(st.binary(min_size=n * width, max_size=n * width))
                out.append(np.frombuffer(data, np.uint8).reshape(n, width))
            case _:
                rows = st.binary(min_size=0 if may_be_empty else 1, max_size=20)
                out.append(TextColumn.from_rows(draw(st.lists(rows, min_size=n, max_size=n))))
    return tuple(out)


def plain_burst(blocks: list[bytes], bodies: list[bytes], first_id: int, frame_bytes_max: int) -> bytes:
    return b"".join(
        bursts.request_bytes(block, body, first_id + 2 * row, frame_bytes_max)
        for row, (block, body) in enumerate(zip(blocks, bodies, strict=True))
    )


FIRST_IDS = st.sampled_from([1, 3, 255, 65535, (1 << 31) - 101])


@given(data=st.data(), n=st.integers(1, 6), first_id=FIRST_IDS)
@pytest.mark.parametrize("frame_bytes_max", [5, 16, 16384])
def test_burst_is_what_single_requests_are(data, n: int, first_id: int, frame_bytes_max: int) -> None:
    block = data.draw(pieces_of(n, may_be_empty=False))
    body = data.draw(pieces_of(n))
    plain = plain_burst(columns.join(block, 0, n), columns.join(body, 0, n), first_id, frame_bytes_max)
    lengths = columns.pieces_lengths(body, n)
    assert bursts.burst_bytes(block, body, first_id, lengths, frame_bytes_max) == plain


@given(data=st.data(), n=st.integers(1, 6), first_id=FIRST_IDS)
@pytest.mark.parametrize("frame_bytes_max", [40, 16384])
def test_fixed_burst_is_what_single_requests_are(data, n: int, first_id: int, frame_bytes_max: int) -> None:
    names = [b"x-a", b"x-b"][: data.draw(st.integers(0, 2))]
    fixed = pieces_of(n, is_fixed=True)
    headers = tuple((name, data.draw(fixed)) for name in names)
    requests = Requests(n, b"h", data.draw(fixed), headers, data.draw(pieces_of(n, is_fixed=data.draw(st.booleans()))))
    encoder = Encoder(table_bytes_max=0)
    encoder.begin_block()
    plan = template.plan_block(encoder, template.burst_fields(requests, encoder, frozenset()))
    rows = range(n)
    blocks = [template.plan_row(plan, requests, row) for row in rows]
    assert columns.join(template.block_pieces(plan, requests, 0, n), 0, n) == blocks
    is_ragged = any(isinstance(piece, TextColumn) for piece in requests.body)
    fits = not is_ragged and len(blocks[0]) <= frame_bytes_max
    assert bursts.FixedBurst.fits(plan, requests, frame_bytes_max) is fits
    if not fits:
        return
    burst = bursts.FixedBurst(plan, requests, frame_bytes_max)
    bodies = columns.join(requests.body, 0, n)
    assert burst.body_width == len(bodies[0])
    start = data.draw(st.integers(0, n - 1))
    plain = plain_burst(blocks[start:], bodies[start:], first_id, frame_bytes_max)
    assert burst.rows(requests, start, n - start, first_id) == plain


def test_block_is_split_into_continuations_with_end_headers_on_the_last() -> None:
    data = split_block(1, 0x1, b"abcdefg", 3)
    assert data == (
        b"\x00\x00\x03\x01\x01\x00\x00\x00\x01abc" + b"\x00\x00\x03\x09\x00\x00\x00\x00\x01def"
        b"\x00\x00\x01\x09\x04\x00\x00\x00\x01g"
    )


def test_data_is_split_with_end_stream_on_the_last() -> None:
    assert split_data(3, 0x1, b"abcd", 3) == (
        b"\x00\x00\x03\x00\x00\x00\x00\x00\x03abc" + b"\x00\x00\x01\x00\x01\x00\x00\x00\x03d"
    )
    assert split_data(3, 0x1, b"", 3) == b"\x00\x00\x00\x00\x01\x00\x00\x00\x03"
