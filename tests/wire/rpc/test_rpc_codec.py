"""Messages: round trips of every kind, and the fuzz law of both decoders."""

from __future__ import annotations

import re
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.rpc import codec, limits, messages
from gateway.wire.rpc.faults import CODES
from gateway.wire.rpc.messages import Cancel, Error, Message, Ping, Submit

ALL = [
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
]


def test_codec_knows_every_message_on_one_side_or_both() -> None:
    kinds = {str(kind.__struct_config__.tag) for kind in ALL}
    assert kinds == codec.CLIENT_KINDS | codec.SERVER_KINDS
    assert {"credit"} == codec.CLIENT_KINDS & codec.SERVER_KINDS


def test_codec_kinds_are_the_class_names_in_snake_case() -> None:
    for kind in ALL:
        name = re.sub(r"(?<!^)([A-Z])", r"_\1", kind.__name__).lower()
        assert kind.__struct_config__.tag == name


def test_codec_every_request_has_an_answer_kind() -> None:
    assert set(messages.ANSWER_OF) == set(typing.get_args(messages.Request))
    assert set(messages.ANSWER_OF.values()) <= set(typing.get_args(messages.Answer))


def test_codec_leaves_defaults_out_and_reads_them_back() -> None:
    payload = codec.encode(Error(id=3, code="internal", text="x"))
    assert msgspec.msgpack.decode(payload) == {"kind": "error", "id": 3, "code": "internal", "text": "x"}
    assert codec.decode_from_server(payload) == Error(id=3, code="internal", text="x")


CONTENT = {"title": "t", "body": "b"}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"kind": "ping"}, codec.Faulty(0, "bad_request", "id is missing", "id")),
        ({"kind": "ping", "id": 0}, codec.Faulty(0, "bad_request", "id is 0, at least 1", "id")),
        (
            {"kind": "ping", "id": 9, "x": 1},
            codec.Faulty(9, "bad_request", "x is no key of this request, expected some of id", "x"),
        ),
        (
            {"kind": "submit", "id": 9, "contents": [CONTENT], "n": 1, "group": "g" * 300},
            codec.Faulty(9, "bad_request", "group is 300 characters, limit 128", "group"),
        ),
        (
            {"kind": "submit", "id": 9, "contents": [CONTENT], "n": "many"},
            codec.Faulty(9, "bad_request", "n is a text, expected a whole number", "n"),
        ),
        (
            {"kind": "submit_audience", "id": 9, "content": {"title": "t", "body": b"b"}},
            codec.Faulty(9, "bad_request", "content.body is bytes, expected a text", "content.body"),
        ),
        (
            {"kind": "submit_audience", "id": 9, "content": CONTENT, "rows_per_s": -1.0},
            codec.Faulty(9, "bad_request", "rows_per_s is -1, expected more than 0", "rows_per_s"),
        ),
        # Too large for a second look.
        (
            {"kind": "ping", "id": 9, "x": "x" * 70_000},
            codec.Faulty(9, "bad_request", "Object contains unknown field `x`", ""),
        ),
        ({"kind": "pong", "id": 9}, codec.Faulty(9, "unknown_kind", "this kind is not known", "kind")),
        ({"kind": "warp", "id": 2**32}, codec.Faulty(0, "unknown_kind", "this kind is not known", "kind")),
        ({"kind": "task_state", "id": 5, "task_id": b"short"}, None),
    ],
)
def test_codec_names_what_is_wrong_with_a_message(fields: dict[str, object], found: codec.Faulty | None) -> None:
    fault = codec.decode_from_client(msgspec.msgpack.encode(fields))
    assert isinstance(fault, codec.Faulty)
    if found is None:
        assert (fault.id, fault.code, fault.field) == (5, "bad_request", "task_id")
    else:
        assert fault == found


def test_codec_names_value_and_limit_of_a_content_that_it_cannot_read() -> None:
    contents = [CONTENT, CONTENT | {"priority": "urgent"}, CONTENT | {"ttl_s": "long"}, []]
    found = codec.decode_from_client(msgspec.msgpack.encode({"kind": "submit", "id": 9, "contents": contents, "n": 4}))
    assert isinstance(found, codec.Mended)
    assert found.faults == {
        1: ("priority", "priority is none of high, normal"),
        2: ("ttl_s", "ttl_s is a text, expected a whole number"),
        3: ("contents", "contents is an array, expected an object"),
    }


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x91" * 20_000, b"\x80", b"\x01", b"\x81\xa4kind\x01", b"\xde\xff\xff", b"\xa1\xff"]
)
def test_codec_calls_what_is_no_map_with_a_kind_broken(payload: bytes) -> None:
    assert isinstance(codec.decode_from_client(payload), codec.Broken)
    assert isinstance(codec.decode_from_server(payload), codec.Broken)


def test_codec_refuses_bytes_behind_the_map() -> None:
    assert not isinstance(codec.decode_from_client(codec.encode(Ping(id=1)) + b"\x00"), Message)


def test_codec_nested_too_deep_is_broken_and_raises_nothing() -> None:
    deep = b"\x82\xa4kind\xa6submit\xa8contents" + b"\x91" * 100_000 + b"\xc0"
    assert isinstance(codec.decode_from_client(deep), codec.Broken | codec.Faulty)


def test_codec_refuses_too_many_contents_also_where_one_of_them_cannot_be_read() -> None:
    # Positions of contents are 16 bits behind the codec: the one after the last would be taken for the first.
    fields = {"kind": "submit", "id": 4, "n": 1, "device_ids": bytes(16), "index": bytes(4)}
    contents: list[dict[str, object]] = [{"title": "t", "body": "b"}] * limits.CONTENTS_MAX
    for content in ({"title": "t", "body": "b"}, {"title": 1}):
        fault = codec.decode_from_client(msgspec.msgpack.encode({**fields, "contents": [content, *contents]}))
        assert isinstance(fault, codec.Faulty)
        assert (fault.id, fault.code, fault.field) == (4, "bad_request", "contents")
        assert str(limits.CONTENTS_MAX) in fault.text
    mended = codec.decode_from_client(msgspec.msgpack.encode({**fields, "contents": [{"title": 1}, *contents[1:]]}))
    assert isinstance(mended, codec.Mended)


SEEDS = [codec.encode(Ping(id=1)), codec.encode(Cancel(id=2)), b"\x83\xa4kind\xa6submit\xa2id\x01\xa1n\x01"]


@given(seed=st.sampled_from(SEEDS), changes=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 255)), max_size=6))
def test_codec_gives_a_value_for_any_mutated_payload(seed: bytes, changes: list[tuple[int, int]]) -> None:
    payload = bytearray(seed)
    for at, value in changes:
        payload[at % len(payload)] = value
    found = codec.decode_from_client(bytes(payload))
    assert isinstance(found, Message | codec.Mended | codec.Faulty | codec.Broken)
    assert not isinstance(found, Submit)
    if isinstance(found, codec.Faulty):
        assert found.code in CODES


@given(st.binary(max_size=80))
def test_codec_gives_a_value_for_any_bytes(payload: bytes) -> None:
    for decode in (codec.decode_from_client, codec.decode_from_server):
        assert isinstance(decode(payload), Message | codec.Mended | codec.Faulty | codec.Broken)
