"""HPACK against the examples of RFC 7541 and against itself; test_hpack_reference.py asks the `hpack` library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RemoteProtocolError
from gateway.wire.hpack import huffman
from gateway.wire.hpack.codes import COMPRESSION_ERROR, ENHANCE_YOUR_CALM
from gateway.wire.hpack.decoder import Decoder
from gateway.wire.hpack.encoder import Encoder, Indexing
from gateway.wire.hpack.integer import INTEGER_MAX, decode_integer, encode_integer
from gateway.wire.hpack.tables import DynamicTable, entry_bytes


def make_decoder(header_list_bytes_max: int = 65536) -> Decoder:
    return Decoder(header_list_bytes_max=header_list_bytes_max)


def test_integer_examples_of_rfc_7541_c1() -> None:
    assert encode_integer(10, 5) == bytes([0b01010])
    assert encode_integer(1337, 5) == bytes([31, 154, 10])
    assert encode_integer(42, 8) == bytes([42])


@given(value=st.integers(0, INTEGER_MAX), prefix_bits=st.integers(1, 8), tail=st.binary(max_size=3))
def test_integer_decodes_to_what_was_encoded(value: int, prefix_bits: int, tail: bytes) -> None:
    data = encode_integer(value, prefix_bits) + tail
    assert decode_integer(data, 0, prefix_bits) == (value, len(data) - len(tail))


@pytest.mark.parametrize("data", [b"", b"\x1f", b"\x1f\x80", b"\x1f" + b"\xff" * 5 + b"\x7f", b"\x1f" + b"\x80" * 9])
def test_integer_without_end_or_too_large_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_integer(data, 0, 5)
    assert caught.value.wire_code == COMPRESSION_ERROR


@pytest.mark.parametrize(
    ("text", "coded"),
    [
        (b"www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
        (b"no-cache", "a8eb10649cbf"),
        (b"302", "6402"),
        (b"Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
    ],
)
def test_huffman_examples_of_rfc_7541_c4_and_c6(text: bytes, coded: str) -> None:
    assert huffman.huffman_encode(text).hex() == coded
    assert huffman.huffman_decode(bytes.fromhex(coded)) == text


@given(st.binary(max_size=80))
def test_huffman_decodes_to_what_was_encoded(text: bytes) -> None:
    coded = huffman.huffman_encode(text)
    assert len(coded) == huffman.huffman_length(text)
    assert huffman.huffman_decode(coded) == text


@pytest.mark.parametrize(
    "data",
    [
        bytes.fromhex("ffffffff"),  # EOS
        bytes.fromhex("fffffffc"),  # EOS and padding
        bytes.fromhex("00"),  # '0' and padding of zeros
        bytes.fromhex("a8eb10649cbfff"),  # eight bits of padding
    ],
)
def test_huffman_faults_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        huffman.huffman_decode(data)
    assert caught.value.wire_code == COMPRESSION_ERROR


def test_decoder_reads_the_responses_of_rfc_7541_c6_with_evictions() -> None:
    decoder = Decoder(table_bytes_max=256, header_list_bytes_max=65536)
    first = (
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3"
    )
    cookie = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
    third = (
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab"
        "77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
    )
    location = (b"location", b"https://www.example.com")
    private = (b"cache-control", b"private")
    assert decoder.decode(bytes.fromhex(first)) == [
        (b":status", b"302"),
        private,
        (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
        location,
    ]
    assert decoder.table_bytes == 222
    assert decoder.decode(bytes.fromhex("4883640effc1c0bf"))[0] == (b":status", b"307")
    assert decoder.table_bytes == 222
    assert decoder.decode(bytes.fromhex(third)) == [
        (b":status", b"200"),
        private,
        (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT"),
        location,
        (b"content-encoding", b"gzip"),
        (b"set-cookie", cookie),
    ]
    assert decoder.table_bytes == 215


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xbe",  # first dynamic entry of an empty table
        b"\x7f\x00",  # name of an entry beyond the table
        b"\x00\x05ab",  # a name cut off
        b"\x00\x01a",  # no value
        b"\x3f\xe2\x1f",  # size update to 4097
        b"\x82\x20",  # size update behind a field
    ],
)
def test_decoder_refuses_malformed_blocks(block: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        make_decoder().decode(block)
    assert caught.value.wire_code == COMPRESSION_ERROR


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_decoder_gives_fields_or_a_remote_protocol_error_for_any_bytes(blocks: list[bytes]) -> None:
    decoder = make_decoder(1000)
    code = 0
    for block in blocks:
        try:
            fields = decoder.decode(block)
        except RemoteProtocolError as error:
            code = error.wire_code
            break
        assert sum(entry_bytes(*field) for field in fields) <= 1000
    assert code in {0, COMPRESSION_ERROR, ENHANCE_YOUR_CALM}


def test_decoder_stops_a_bomb_of_one_long_entry_named_often() -> None:
    decoder = make_decoder(16384)
    bomb = b"\x40\x01a" + encode_integer(4000, 7) + b"b" * 4000 + b"\xbe" * 10_000
    with pytest.raises(RemoteProtocolError) as caught:
        decoder.decode(bomb)
    assert caught.value.wire_code == ENHANCE_YOUR_CALM


def test_decoder_demands_a_size_update_after_the_limit_was_lowered() -> None:
    decoder = make_decoder()
    decoder.decode(b"\x40\x01a\x01b")
    decoder.set_table_limit(0)
    assert decoder.must_update_size()
    with pytest.raises(RemoteProtocolError):
        decoder.decode(b"\x88")
    assert decoder.decode(b"\x20\x88") == [(b":status", b"200")]
    assert decoder.table_bytes == 0
    assert not decoder.must_update_size()


def test_decoder_tells_whether_a_block_used_or_changed_the_table() -> None:
    decoder = make_decoder()
    seen = []
    for block in (b"\x88", b"\x40\x01a\x01b", b"\xbe", b"\x00\x01a\x01c", b"\x0f\x2f\x01c", b"\x20\x88"):
        generation = decoder.generation
        decoder.decode(block)
        assert (decoder.generation != generation) == decoder.has_changed_table
        seen.append((decoder.has_used_table, decoder.has_changed_table))
    assert seen == [(False, False), (False, True), (True, False), (False, False), (True, False), (False, True)]


def test_table_entry_larger_than_the_table_empties_it() -> None:
    table = DynamicTable(100)
    table.insert(b"a", b"b")
    assert table.insert(b"c", b"d" * 100) == [(b"a", b"b")]
    assert (len(table), table.bytes_used) == (0, 0)


def test_encoder_tells_the_smallest_and_the_last_of_several_size_changes() -> None:
    encoder = Encoder()
    encoder.insert(b"a", b"b")
    encoder.set_peer_limit(0)
    encoder.set_peer_limit(1000)
    assert encoder.begin_block() == b"\x20" + encode_integer(1000, 5, 0x20)
    assert encoder.begin_block() == b""
    assert encoder.field_index(b"a", b"b") == 0


def test_encoder_keeps_its_own_ceiling_below_the_peers() -> None:
    encoder = Encoder(table_bytes_max=100)
    assert encoder.begin_block() == encode_integer(100, 5, 0x20)
    encoder.set_peer_limit(65536)
    assert encoder.begin_block() == b""
    assert not encoder.fits(b"name", b"v" * 65)


def test_encoder_never_indexes_what_is_secret() -> None:
    encoder = Encoder()
    block = encoder.encode([(b"authorization", b"x", Indexing.NEVER_INDEXED)] * 2)
    assert block == b"\x1f\x08\x01x" * 2
    assert encoder.table_bytes == 0
