"""Laws of the machine under any dialogue: chunking, one end per tag, and no exception for any bytes."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import TextColumn
from gateway.errors import CloseReason
from gateway.wire.h2.events import Answers, Refused, Reset, SettingsChanged, Terminated, TimedOut
from gateway.wire.h2.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    FrameType,
    frame,
    goaway,
    ping,
    rst_stream,
    settings_frame,
    window_update,
)
from gateway.wire.h2.settings import Setting
from gateway.wire.hpack.huffman import huffman_encode

REQUESTS = 60
IDS = st.integers(0, REQUESTS + 2).map(lambda n: 2 * n + 1)
BLOCKS = st.sampled_from(
    [
        b"\x88",
        b"\x8d",
        b"\x88\x00\x01k\x01v",
        b"\x8d\x40\x01k\x01v",
        b"\x88\xbe",
        b"\x08\x03103",
        b"\x00\x01t\x01v",
        b"",
    ]
)


@st.composite
def runs(draw) -> bytes:
    """Like answers in a row, as a server under load sends them; sometimes one of them is odd."""
    first = draw(st.integers(0, 20)) * 2 + 1
    ids = list(range(first, first + 2 * draw(st.integers(1, 40)), 2))
    if draw(st.booleans()):
        ids[draw(st.integers(0, len(ids) - 1))] = draw(IDS)
    block = draw(BLOCKS)
    body = draw(st.binary(max_size=3))
    if draw(st.booleans()):
        return unique_run(draw, ids, body)
    match draw(st.sampled_from(["end", "both", "head", "data"])):
        case "end":
            return b"".join(frame(FrameType.HEADERS, 5, stream_id, block) for stream_id in ids)
        case "both":
            return b"".join(
                frame(FrameType.HEADERS, 4, stream_id, block) + frame(FrameType.DATA, 1, stream_id, body)
                for stream_id in ids
            )
        case "head":
            return b"".join(frame(FrameType.HEADERS, 4, stream_id, block) for stream_id in ids)
        case _:
            return b"".join(frame(FrameType.DATA, 1, stream_id, body) for stream_id in ids)


def unique_run(draw, ids: list[int], body: bytes) -> bytes:
    """Answers with an id of their own, one of them perhaps damaged; bodies of different length."""
    has_body, is_huffman = draw(st.booleans()), draw(st.booleans())
    status = draw(st.sampled_from([b"\x88", b"\x8d"]))
    odd = draw(st.integers(0, 3 * len(ids)))
    out = b""
    for index, stream_id in enumerate(ids):
        value = b"%08x" % (stream_id * 0x9E3779B1 % (1 << 32))
        value = huffman_encode(value) if is_huffman else value
        if index == odd:
            value = draw(st.sampled_from([b"\xff\xff\xff\xff", b"a\nb", b""]))
        block = status + b"\x00\x07apns-id" + bytes([len(value) | 0x80 * is_huffman]) + value
        out += frame(FrameType.HEADERS, 4 if has_body else 5, stream_id, block)
        if has_body:
            out += frame(FrameType.DATA, 1, stream_id, body * (index % 3))
    return out


@st.composite
def singles(draw) -> bytes:
    stream_id = draw(IDS)
    match draw(st.integers(0, 9)):
        case 0:
            return frame(
                FrameType.HEADERS, END_HEADERS | draw(st.sampled_from([0, END_STREAM])), stream_id, draw(BLOCKS)
            )
        case 1:
            return frame(
                FrameType.DATA, draw(st.sampled_from([0, END_STREAM])), stream_id, draw(st.binary(max_size=50))
            )
        case 2:
            return frame(FrameType.DATA, PADDED, stream_id, b"\x02ab\x00\x00")
        case 3:
            return rst_stream(stream_id, draw(st.sampled_from([0, 2, 5, 7, 8])))
        case 4:
            key = draw(st.sampled_from([Setting.MAX_CONCURRENT_STREAMS, Setting.INITIAL_WINDOW_SIZE]))
            return settings_frame({key: draw(st.sampled_from([0, 1, 100, 65_535, 1 << 20]))})
        case 5:
            return window_update(draw(st.sampled_from([0, stream_id])), draw(st.integers(1, 70_000)))
        case 6:
            return ping(b"12345678", is_ack=draw(st.booleans()))
        case 7:
            return frame(FrameType.HEADERS, 0, stream_id, b"\x88") + frame(9, END_HEADERS, stream_id, b"\x00\x01k\x01v")
        case 8:
            return frame(0xF1, 3, stream_id, b"?")
        case _:
            return goaway(draw(IDS), draw(st.sampled_from([0, 1, 11])))


SCRIPTS = st.lists(st.one_of(runs(), singles(), runs()), min_size=1, max_size=8)


def outcome(events) -> list[object]:
    """Events with neighbouring answers joined: how many come in one event depends on the chunks."""
    out: list[object] = []
    for event in events:
        if isinstance(event, Answers):
            rows = [
                (tag, status, event.details.get(at))
                for at, (tag, status) in enumerate(zip(event.tags.tolist(), event.status.tolist(), strict=True))
            ]
            if out and isinstance(out[-1], list):
                out[-1] += rows
            else:
                out.append(rows)
        elif isinstance(event, Terminated):
            out.append((event.reason, event.refused.tolist(), event.uncertain.tolist(), event.error_code, event.text))
        elif isinstance(event, Refused | Reset | TimedOut):
            out.append((type(event), event.tags.tolist(), event[1:]))
        else:
            out.append(event)
    return out


def opened(open_dialogue, ragged: bool = False):
    dialogue = open_dialogue({Setting.INITIAL_WINDOW_SIZE: 30}, header_table_bytes=4096, control_frames_max=10_000)
    bodies = TextColumn.from_rows([b"b" * (n % 9) for n in range(REQUESTS - 1)])
    dialogue.send(REQUESTS - 1, (bodies,) if ragged else (b"body",))
    dialogue.send(1, (b"b" * 60,))
    dialogue.sent()
    return dialogue


@given(script=SCRIPTS, cuts=st.lists(st.integers(0, 6000), max_size=12))
def test_events_and_output_do_not_depend_on_the_chunks(open_dialogue, script: list[bytes], cuts: list[int]) -> None:
    data = b"".join(script)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    chunkings = [[data], [data[n : n + 1] for n in range(len(data))]]
    chunkings.append([data[a:b] for a, b in itertools.pairwise(edges)])
    results = []
    for chunks in chunkings:
        dialogue = opened(open_dialogue)
        events = [event for chunk in chunks for event in dialogue.feed(chunk)]
        statistics = dialogue.connection.statistics()._replace(blocks_decoded=0)
        results.append((outcome(events), dialogue.connection.data_to_send(), statistics))
    assert results[1] == results[0]
    assert results[2] == results[0]


@given(script=SCRIPTS, tail=st.binary(max_size=40), ragged=st.booleans())
def test_every_tag_ends_exactly_once(open_dialogue, ended, script: list[bytes], tail: bytes, ragged: bool) -> None:
    dialogue = opened(open_dialogue, ragged)
    events = []
    for index, data in enumerate(script):
        events += dialogue.feed(data)
        dialogue.send(3, deadline=2.0 + index)
        if index % 2:
            dialogue.sent()
        events += dialogue.connection.on_deadline(2.0 + index / 2)
    events += dialogue.feed(tail)
    events += dialogue.connection.connection_lost(CloseReason.PEER_CLOSED)
    assert sorted(ended(events)) == list(range(dialogue.tag))
    assert [event for event in events if isinstance(event, Terminated)] == events[-1:]
    assert dialogue.connection.next_deadline() == math.inf
    assert dialogue.connection.capacity() == 0
    assert dialogue.connection.statistics().open_streams == 0


@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.builds(frame, st.integers(0, 11), st.integers(0, 255), st.integers(0, 130), st.binary(max_size=40)),
            max_size=12,
        ).map(b"".join),
    ),
    is_settled=st.booleans(),
)
def test_any_bytes_give_events_or_a_clean_end(open_dialogue, ended, data: bytes, is_settled: bool) -> None:
    dialogue = opened(open_dialogue) if is_settled else open_dialogue(is_settled=False)
    events = dialogue.feed(data)
    if dialogue.connection.is_terminated():
        assert isinstance(events[-1], Terminated)
        assert any(each.type == FrameType.GOAWAY for each in dialogue.sent())
    else:
        assert not any(isinstance(event, Terminated) for event in events)
        events += dialogue.connection.close()
    assert sorted(ended(events)) == list(range(dialogue.tag))


@given(mutations=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=4), script=SCRIPTS)
def test_damaged_dialogues_end_every_tag_once(open_dialogue, ended, mutations, script: list[bytes]) -> None:
    data = bytearray(b"".join(script))
    for at, value in mutations:
        if data:
            data[at % len(data)] = value
    dialogue = opened(open_dialogue)
    events = dialogue.feed(bytes(data)) + dialogue.connection.close()
    assert sorted(ended(events)) == list(range(dialogue.tag))


@given(limits=st.lists(st.integers(0, 80), min_size=1, max_size=10), sizes=st.lists(st.integers(0, 80), max_size=10))
def test_stream_limit_is_never_exceeded(open_dialogue, limits: list[int], sizes: list[int]) -> None:
    dialogue = open_dialogue()
    opened_ids: list[int] = []
    for step, limit in enumerate(limits):
        events = dialogue.feed(settings_frame({Setting.MAX_CONCURRENT_STREAMS: limit}))
        assert any(isinstance(event, SettingsChanged) for event in events)
        before = len(opened_ids)
        dialogue.send(sizes[step % len(sizes)] if sizes else 5)
        opened_ids += [f.stream_id for f in dialogue.sent() if f.type == FrameType.HEADERS]
        assert len(opened_ids) <= max(limit, before)
        for stream_id in opened_ids[: step + 1]:
            dialogue.feed(dialogue.head(stream_id))
        del opened_ids[: step + 1]
