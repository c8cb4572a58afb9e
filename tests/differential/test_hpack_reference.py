"""Our HPACK and the `hpack` library must agree, on any header lists, with evictions and changes of the table's size."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import hpack
import pytest
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RemoteProtocolError
from gateway.wire.hpack import huffman
from gateway.wire.hpack.decoder import Decoder
from gateway.wire.hpack.encoder import Encoder, Indexing
from gateway.wire.hpack.tables import STATIC_TABLE

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "hpack"
NAMES = st.sampled_from([b":status", b"apns-id", b"date", b"server", b"x-a", b"x-b", b"x-long-name" * 5, b"cookie"])
VALUES = st.one_of(st.sampled_from([b"200", b"", b"a", b"b" * 300, b"nginx"]), st.binary(max_size=40))
BLOCKS = st.lists(st.tuples(NAMES, VALUES, st.sampled_from(list(Indexing))), max_size=8)
#: None: the table stays as it is; else a new limit before the block.
STEPS = st.lists(st.tuples(st.none() | st.sampled_from([0, 40, 100, 400, 4096, 8192]), BLOCKS), max_size=12)


def test_tables_are_those_of_the_reference() -> None:
    assert tuple(REQUEST_CODES) == huffman.CODES
    assert tuple(REQUEST_CODES_LENGTH) == huffman.LENGTHS
    assert tuple(HeaderTable.STATIC_TABLE) == STATIC_TABLE


@given(steps=STEPS, is_huffman_used=st.booleans())
def test_decoder_reads_what_the_reference_encodes(steps, is_huffman_used: bool) -> None:
    reference = hpack.Encoder()
    ours = Decoder(header_list_bytes_max=1 << 20)
    for limit, fields in steps:
        if limit is not None:
            reference.header_table_size = limit
            ours.set_table_limit(limit)
        headers = [
            hpack.HeaderTuple(name, value)
            if indexing is Indexing.INDEXED
            else hpack.NeverIndexedHeaderTuple(name, value)
            for name, value, indexing in fields
        ]
        block = reference.encode(headers, huffman=is_huffman_used)
        if not block and ours.must_update_size():
            continue
        assert ours.decode(block) == [(bytes(name), bytes(value)) for name, value in headers]


@pytest.mark.parametrize("file", sorted(VECTORS.glob("*.json")), ids=lambda file: file.stem)
def test_decoder_reads_recorded_blocks_as_the_reference_does(file: Path) -> None:
    """Blocks of a foreign server, over changes of the table's size and evictions; both tables stay alike."""
    reference = hpack.Decoder()
    ours = Decoder(header_list_bytes_max=1 << 20)
    sizes = []
    for step in json.loads(file.read_text())["steps"]:
        if "limit" in step:
            reference.max_allowed_table_size = step["limit"]
            ours.set_table_limit(step["limit"])
            continue
        block = bytes.fromhex(step["block"])
        fields = reference.decode(block, raw=True)
        assert ours.decode(block) == [(bytes(name), bytes(value)) for name, value in fields]
        assert ours.table_bytes == reference.header_table._current_size
        sizes.append(ours.table_bytes)
    # it fills, is emptied by size 0, and evicts in between
    assert 0 in sizes[1:]
    assert max(sizes) > 500
    assert any(0 < later < earlier for earlier, later in itertools.pairwise(sizes))


@given(steps=STEPS)
def test_reference_reads_what_the_encoder_encodes(steps) -> None:
    ours = Encoder()
    reference = hpack.Decoder(max_header_list_size=1 << 20)
    for limit, fields in steps:
        if limit is not None:
            reference.max_allowed_table_size = limit
            ours.set_peer_limit(limit)
        block = ours.encode(fields)
        decoded = reference.decode(block, raw=True)
        assert [(bytes(name), bytes(value)) for name, value in decoded] == [field[:2] for field in fields]
        assert reference.header_table._current_size == ours.table_bytes


@given(blocks=st.lists(st.binary(max_size=40), max_size=6))
def test_decoders_agree_on_any_bytes(blocks: list[bytes]) -> None:
    """Same fields, or both refuse. The one intended deviation: the reference takes a size update anywhere."""
    reference = hpack.Decoder(max_header_list_size=4000)
    ours = Decoder(header_list_bytes_max=4000)
    for block in blocks:
        try:
            fields = ours.decode(block)
        except RemoteProtocolError as error:
            if "size update after a field" in str(error):
                return
            with pytest.raises(hpack.HPACKError):
                reference.decode(block, raw=True)
            return
        assert [(bytes(n), bytes(v)) for n, v in reference.decode(block, raw=True)] == fields
