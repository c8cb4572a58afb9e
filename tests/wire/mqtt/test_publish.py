"""Columnar PUBLISH and PUBACK against their plain twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.devices.mqtt import framed
from gateway.columns import Piece, Pieces, TextColumn, join, take_pieces
from gateway.errors import LocalProtocolError
from gateway.wire.mqtt import packets as mqtt
from gateway.wire.mqtt.properties import Properties, encode_properties
from gateway.wire.mqtt.publish import (
    are_pubacks,
    packet_ids_of,
    publish_lengths,
    publish_packets,
    publish_properties,
    read_pubacks,
    split_pubacks,
)


@st.composite
def pieces_of(draw: st.DrawFn, n: int) -> Pieces:
    pieces: list[Piece] = []
    for kind in draw(st.lists(st.integers(0, 2), max_size=4)):
        if kind == 0:
            pieces.append(draw(st.binary(max_size=200)))
        elif kind == 1:
            width = draw(st.integers(0, 40))
            data = draw(st.binary(min_size=n * width, max_size=n * width))
            pieces.append(np.frombuffer(data, np.uint8).reshape(n, width))
        else:
            pieces.append(TextColumn.from_rows(draw(st.lists(st.binary(max_size=150), min_size=n, max_size=n))))
    return tuple(pieces)


def plain_publish(
    topic: bytes, packet_id: int | None, payload: bytes, is_duplicate: bool, properties: bytes = b""
) -> bytes:
    first = 0x30 if packet_id is None else 0x32 | (8 if is_duplicate else 0)
    body = len(topic).to_bytes(2, "big") + topic
    if packet_id is not None:
        body += packet_id.to_bytes(2, "big")
    body += properties + payload
    return framed(first, body)


@given(st.data(), st.integers(1, 6), st.booleans(), st.booleans())
def test_publish_packets_agree_with_the_plain_encoder(
    data: st.DataObject, n: int, has_ids: bool, is_duplicate: bool
) -> None:
    topics = data.draw(pieces_of(n))
    payload = data.draw(pieces_of(n))
    ids = data.draw(st.lists(st.integers(1, 65_535), min_size=n, max_size=n)) if has_ids else None
    is_duplicate = is_duplicate and has_ids
    packet_ids = None if ids is None else np.array(ids, np.uint16)
    packets = publish_packets(topics, packet_ids, payload, n, is_duplicate=is_duplicate)
    expected = [
        plain_publish(topic, None if ids is None else ids[row], body, is_duplicate)
        for row, (topic, body) in enumerate(zip(join(topics, 0, n), join(payload, 0, n), strict=True))
    ]
    if not isinstance(packets, list):
        assert packets.flags.c_contiguous
        packets = [row.tobytes() for row in packets]
    assert packets == expected


@given(st.data(), st.integers(1, 6), st.booleans(), st.booleans())
def test_publish_packets_of_5_carry_what_is_left_of_each_life(
    data: st.DataObject, n: int, has_ids: bool, has_expiry: bool
) -> None:
    topics, payload = data.draw(pieces_of(n)), data.draw(pieces_of(n))
    seconds = data.draw(st.lists(st.integers(0, 0xFFFFFFFF), min_size=n, max_size=n)) if has_expiry else None
    ids = list(range(1, n + 1)) if has_ids else None
    properties = publish_properties(None if seconds is None else np.array(seconds, np.uint32))
    packet_ids = None if ids is None else np.array(ids, np.uint16)
    packets = publish_packets(topics, packet_ids, payload, n, properties=properties)
    got = packets if isinstance(packets, list) else [row.tobytes() for row in packets]
    bodies, names = join(payload, 0, n), join(topics, 0, n)
    sections = [encode_properties(Properties(message_expiry_interval_s=second)) for second in seconds or [None] * n]
    expected = [
        plain_publish(names[row], ids[row] if ids else None, bodies[row], False, sections[row]) for row in range(n)
    ]
    assert got == expected
    middle = (2 if ids else 0) + (6 if has_expiry else 1)
    for row in range(n):
        lengths = publish_lengths(len(names[row]), middle, np.array([len(bodies[row])]))
        assert lengths.tolist() == [len(expected[row])]


@pytest.mark.parametrize("payload_bytes", [0, 83, 84, 16_339, 16_340, 2_097_107, 2_097_108])
def test_publish_lengths_agree_with_the_packets_at_each_step_of_the_remaining_length(payload_bytes: int) -> None:
    packets = publish_packets((b"t" * 39,), np.ones(1, np.uint16), (bytes(payload_bytes),), 1, properties=(b"\0",))
    assert publish_lengths(39, 3, np.array([payload_bytes])).tolist() == [len(packets[0])]


def test_publish_packets_of_one_length_are_one_array() -> None:
    topics = (b"d/", np.full((3, 32), ord("a"), np.uint8), b"/down")
    packets = publish_packets(topics, np.array([1, 2, 65_535], np.uint16), (b"{}",), 3)
    assert isinstance(packets, np.ndarray)
    assert packets.shape == (3, 1 + 1 + 2 + 39 + 2 + 2)
    found = mqtt.next_packet(packets[2].tobytes(), 0, 1_000)
    assert found is not None
    assert found[0] == mqtt.Publish("d/" + "a" * 32 + "/down", b"{}", 1, 65_535, False, False)


def test_publish_packets_refuse_what_mqtt_cannot_carry() -> None:
    one = np.ones(1, np.uint16)
    with pytest.raises(LocalProtocolError, match="identifier is 0"):
        publish_packets((b"t",), np.array([0], np.uint16), (), 1)
    with pytest.raises(LocalProtocolError, match="DUP"):
        publish_packets((b"t",), None, (), 1, is_duplicate=True)
    with pytest.raises(LocalProtocolError, match="topic is 65536 bytes, limit 65535"):
        publish_packets((b"t" * 65_536,), one, (), 1)
    with pytest.raises(LocalProtocolError, match="topic is 65536 bytes, limit 65535"):
        publish_packets((TextColumn.from_rows([b"t" * 65_536]),), one, (), 1)


def test_publish_packets_of_no_rows_are_none() -> None:
    assert len(publish_packets((b"t",), np.zeros(0, np.uint16), (b"x",), 0)) == 0
    assert len(publish_packets((b"t",), np.zeros(0, np.uint16), (TextColumn.from_rows([]),), 0)) == 0


@given(st.data(), st.integers(1, 6))
def test_take_pieces_takes_the_rows_in_order(data: st.DataObject, n: int) -> None:
    pieces = data.draw(pieces_of(n))
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=8)), np.int64)
    whole = join(pieces, 0, n)
    assert join(take_pieces(pieces, rows), 0, len(rows)) == [whole[row] for row in rows]


puback = st.integers(0, 65_535).map(lambda packet_id: b"\x40\x02" + packet_id.to_bytes(2, "big"))
several = st.lists(puback, min_size=1, max_size=4).map(b"".join)
reads = st.lists(
    puback
    | several
    | st.binary(min_size=1, max_size=9)
    | st.just(b"\x40\x03\x00\x01")
    | several.map(lambda s: s + b"\xc0\0\xc0\0"),
    max_size=12,
)


@given(reads)
def test_split_pubacks_agrees_with_looking_at_each_read(data: list[bytes]) -> None:
    found = split_pubacks(data)
    words = [[read[at : at + 4] for at in range(0, len(read), 4)] for read in data]
    is_good = [all(len(one) == 4 and one[:2] == b"\x40\x02" and one[2:] != b"\0\0" for one in read) for read in words]
    good = [read for read, is_puback in zip(words, is_good, strict=True) if is_puback]
    assert found.is_puback.tolist() == is_good
    assert found.packet_ids.tolist() == [int.from_bytes(one[2:], "big") for read in good for one in read]
    assert (found.counts is None and all(len(read) == 1 for read in good)) or (
        found.counts is not None and found.counts.tolist() == [len(read) for read in good]
    )
    which = np.arange(len(good)) % 2 == 0
    fewer, kept = found.take(which), good[::2]
    assert fewer.packet_ids.tolist() == [int.from_bytes(one[2:], "big") for read in kept for one in read]
    assert np.flatnonzero(fewer.is_puback).tolist() == np.flatnonzero(found.is_puback)[::2].tolist()
    assert fewer.counts is None or fewer.counts.tolist() == [len(read) for read in kept]


_WORD = st.one_of(
    st.integers(0, 65_535).map(lambda packet_id: b"\x40\x02" + packet_id.to_bytes(2, "big")),
    st.binary(min_size=4, max_size=4),
    st.sampled_from([b"\x40\x01\xff\xff", b"\x40\x03\x00\x01", b"\xc0\x00\xc0\x00"]),
)


@given(st.one_of(st.lists(_WORD, min_size=1, max_size=5), st.lists(_WORD.filter(lambda word: word[0] == 0x40))))
def test_reads_that_are_pubacks_all_of_them_are_known_without_a_look_at_each(data: list[bytes]) -> None:
    if not data:
        return
    words = np.frombuffer(b"".join(data), np.uint8).reshape(-1, 4)
    found = read_pubacks(words)
    assert are_pubacks(words) == bool(found.is_puback.all())
    if are_pubacks(words):
        assert packet_ids_of(words).tolist() == found.packet_ids.tolist()
