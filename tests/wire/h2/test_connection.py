"""The machine's behaviour towards a scripted peer, one rule of RFC 9113 at a time (sections in docs/http2.md)."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from gateway.columns import TextColumn
from gateway.errors import CloseReason, LocalProtocolError
from gateway.wire.h2.events import (
    AnswerDetail,
    Answers,
    GoingAway,
    Refused,
    RefusedWhy,
    Reset,
    SettingsChanged,
    Terminated,
    TimedOut,
    Writable,
)
from gateway.wire.h2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PRIORITY_FIELDS,
    ErrorCode,
    FrameType,
    frame,
    goaway,
    ping,
    rst_stream,
    settings_frame,
    window_update,
)
from gateway.wire.h2.settings import Setting


def only(events, kind):
    found = [event for event in events if isinstance(event, kind)]
    assert len(found) == 1, events
    return found[0]


def data_frame(stream_id: int, body: bytes, flags: int = END_STREAM) -> bytes:
    return frame(FrameType.DATA, flags, stream_id, body)


# Opening and settings


def test_opening_is_preface_settings_and_connection_window(open_dialogue) -> None:
    dialogue = open_dialogue(is_settled=False, header_table_bytes=0, connection_window_bytes=1 << 20)
    rest = dialogue.opening[24:]
    length = int.from_bytes(rest[:3], "big")
    values = dict(struct.iter_unpack(">HL", rest[9 : 9 + length]))
    assert values[Setting.ENABLE_PUSH] == 0
    assert values[Setting.HEADER_TABLE_SIZE] == 0
    assert values[Setting.INITIAL_WINDOW_SIZE] == 65535
    assert rest[9 + length :] == window_update(0, (1 << 20) - 65535)


def test_capacity_waits_for_the_peers_settings(open_dialogue) -> None:
    dialogue = open_dialogue(is_settled=False)
    assert dialogue.connection.capacity() == 0
    events = dialogue.feed(settings_frame({Setting.MAX_CONCURRENT_STREAMS: 3}))
    assert only(events, SettingsChanged).streams_max == 3
    assert dialogue.connection.capacity() == 3
    assert dialogue.connection.data_to_send() == frame(FrameType.SETTINGS, ACK, 0)


def test_capacity_follows_the_live_stream_limit(open_dialogue) -> None:
    dialogue = open_dialogue({Setting.MAX_CONCURRENT_STREAMS: 5})
    assert dialogue.send(9) == 5
    assert dialogue.connection.capacity() == 0
    dialogue.feed(settings_frame({Setting.MAX_CONCURRENT_STREAMS: 1}))
    dialogue.feed(dialogue.head(1))
    assert dialogue.connection.capacity() == 0
    dialogue.feed(settings_frame({Setting.MAX_CONCURRENT_STREAMS: 1000}))
    assert dialogue.connection.capacity() == 996


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        (Setting.ENABLE_PUSH, 1, ErrorCode.PROTOCOL_ERROR),
        (Setting.INITIAL_WINDOW_SIZE, 1 << 31, ErrorCode.FLOW_CONTROL_ERROR),
        (Setting.MAX_FRAME_SIZE, 16383, ErrorCode.PROTOCOL_ERROR),
        (Setting.MAX_FRAME_SIZE, 1 << 24, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_setting_out_of_range_ends_the_connection(open_dialogue, setting, value, code) -> None:
    terminated = only(open_dialogue().feed(settings_frame({setting: value})), Terminated)
    assert (terminated.reason, terminated.error_code) == (CloseReason.PROTOCOL_ERROR, code)


def test_unknown_setting_is_ignored_and_acknowledged(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.feed(settings_frame({0xF0F0: 7}))
    assert dialogue.sent() == [(FrameType.SETTINGS, ACK, 0, b"")]


def test_peers_header_table_size_is_obeyed_in_the_next_block(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(2)
    first = [f for f in dialogue.sent() if f.type == FrameType.HEADERS]
    dialogue.feed(settings_frame({Setting.HEADER_TABLE_SIZE: 0}))
    dialogue.send(2)
    second = [f for f in dialogue.sent() if f.type == FrameType.HEADERS]
    assert len(first[1].payload) < len(first[0].payload)
    assert second[0].payload[:1] == b"\x20"
    dialogue.hpack.max_allowed_table_size = 4096
    rows = [dialogue.hpack.decode(f.payload, raw=True) for f in first]
    dialogue.hpack.max_allowed_table_size = 0
    rows += [dialogue.hpack.decode(f.payload, raw=True) for f in second]
    assert rows == [rows[0]] * 4
    assert dialogue.connection.statistics().encoder_table_bytes == 0


def test_first_frame_other_than_settings_ends_the_connection(open_dialogue) -> None:
    for first in (ping(b"12345678", is_ack=False), frame(FrameType.SETTINGS, ACK, 0), window_update(0, 1)):
        dialogue = open_dialogue(is_settled=False)
        assert only(dialogue.feed(first), Terminated).error_code == ErrorCode.PROTOCOL_ERROR


# Sending


def test_requests_are_whole_and_tags_come_back(open_dialogue, ended) -> None:
    dialogue = open_dialogue()
    assert dialogue.send(3, (b"body",)) == 3
    frames = dialogue.sent()
    assert [(f.type, f.flags, f.stream_id) for f in frames] == [
        each
        for stream_id in (1, 3, 5)
        for each in ((FrameType.HEADERS, END_HEADERS, stream_id), (FrameType.DATA, END_STREAM, stream_id))
    ]
    events = dialogue.feed(dialogue.head(5) + dialogue.head(1) + dialogue.head(3, b"\x8d"))
    answers = only(events, Answers)
    assert answers.tags.tolist() == [2, 0, 1]
    assert answers.status.tolist() == [200, 200, 404]
    assert answers.details == {2: AnswerDetail({}, b"")}


def test_request_without_body_ends_on_headers(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(2, ())
    assert [(f.type, f.flags) for f in dialogue.sent()] == [(FrameType.HEADERS, END_HEADERS | END_STREAM)] * 2


def test_body_over_max_frame_size_is_split(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(1, (b"a" * 40_000,))
    data = [f for f in dialogue.sent() if f.type == FrameType.DATA]
    assert [(len(f.payload), f.flags) for f in data] == [(16384, 0), (16384, 0), (7232, END_STREAM)]


def test_peers_max_frame_size_is_used(open_dialogue) -> None:
    dialogue = open_dialogue({Setting.MAX_FRAME_SIZE: 50_000})
    dialogue.send(1, (b"a" * 40_000,))
    assert [len(f.payload) for f in dialogue.sent() if f.type == FrameType.DATA] == [40_000]


def test_header_block_over_max_frame_size_is_continued(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(1, (b"a",), headers=((b"x-large", (b"\x00" * 30_000,)),))
    frames = dialogue.sent()
    assert [f.type for f in frames] == [FrameType.HEADERS] + [FrameType.CONTINUATION] * (len(frames) - 2) + [
        FrameType.DATA
    ]
    assert [bool(f.flags & END_HEADERS) for f in frames[:-1]] == [False] * (len(frames) - 2) + [True]
    block = b"".join(f.payload for f in frames[:-1])
    assert dialogue.hpack.decode(block, raw=True)[-1] == (b"x-large", b"\x00" * 30_000)


def test_connection_window_bounds_the_burst_and_writable_tells_when_it_opens(open_dialogue) -> None:
    dialogue = open_dialogue()
    assert dialogue.send(10, (b"a" * 10_000,)) == 6
    assert dialogue.send(1, (b"a" * 10_000,)) == 0
    assert dialogue.feed(window_update(1, 50_000)) == []
    assert dialogue.feed(window_update(0, 10_000)) == [Writable()]
    assert dialogue.send(4, (b"a" * 10_000,)) == 1
    assert dialogue.connection.statistics().send_window == 65_535 + 10_000 - 70_000


def test_connection_window_bounds_a_ragged_burst(open_dialogue) -> None:
    dialogue = open_dialogue()
    sizes = [30_000, 20_000, 15_535, 1]
    assert dialogue.send(4, (TextColumn.from_rows([b"a" * size for size in sizes]),)) == 3
    assert dialogue.connection.statistics().send_window == 0


def test_body_over_the_stream_window_goes_out_as_credit_comes(open_dialogue) -> None:
    dialogue = open_dialogue({Setting.INITIAL_WINDOW_SIZE: 10})
    assert dialogue.send(1, (b"0123456789abcdefghij",)) == 1
    assert [f.payload for f in dialogue.sent() if f.type == FrameType.DATA] == [b"0123456789"]
    dialogue.feed(window_update(1, 4))
    dialogue.feed(window_update(1, 100))
    data = [f for f in dialogue.sent() if f.type == FrameType.DATA]
    assert [(f.payload, f.flags) for f in data] == [(b"abcd", 0), (b"efghij", END_STREAM)]
    assert only(dialogue.feed(dialogue.head(1)), Answers).tags.tolist() == [0]


def test_initial_window_change_moves_uploads_even_below_zero(open_dialogue) -> None:
    dialogue = open_dialogue({Setting.INITIAL_WINDOW_SIZE: 10})
    dialogue.send(1, (b"a" * 30,))
    dialogue.feed(settings_frame({Setting.INITIAL_WINDOW_SIZE: 4}))  # window of the stream is now -6
    dialogue.sent()
    dialogue.feed(window_update(1, 6))
    assert [f for f in dialogue.sent() if f.type == FrameType.DATA] == []
    dialogue.feed(settings_frame({Setting.INITIAL_WINDOW_SIZE: 12}))
    assert [len(f.payload) for f in dialogue.sent() if f.type == FrameType.DATA] == [8]


def test_uploads_are_bounded_and_small_requests_pass_those_that_wait_for_their_stream(open_dialogue) -> None:
    dialogue = open_dialogue({Setting.INITIAL_WINDOW_SIZE: 10}, uploads_max=2)
    assert dialogue.send(3, (b"a" * 30,)) == 2
    assert dialogue.send(2, (b"b" * 10,)) == 2
    assert dialogue.connection.statistics().uploads == 2


def test_upload_that_waits_for_the_connection_window_goes_before_new_requests(open_dialogue) -> None:
    dialogue = open_dialogue({Setting.INITIAL_WINDOW_SIZE: 1 << 20})
    assert dialogue.send(1, (b"a" * 100_000,)) == 1
    assert dialogue.send(1, (b"b",)) == 0
    assert Writable() in dialogue.feed(window_update(0, 100_000))
    assert sum(len(f.payload) for f in dialogue.sent() if f.type == FrameType.DATA) == 100_000
    assert dialogue.send(1, (b"b",)) == 1


def test_answer_before_the_end_of_an_upload_stops_it(open_dialogue) -> None:
    dialogue = open_dialogue({Setting.INITIAL_WINDOW_SIZE: 10})
    dialogue.send(1, (b"a" * 30,))
    dialogue.sent()
    assert only(dialogue.feed(dialogue.head(1, b"\x8d")), Answers).status.tolist() == [404]
    assert dialogue.sent() == [(FrameType.RST_STREAM, 0, 1, bytes(4))]
    assert dialogue.connection.statistics().uploads == 0


def test_deadline_must_be_after_now(open_dialogue) -> None:
    with pytest.raises(LocalProtocolError):
        open_dialogue().send(1, deadline=1.0)


def test_stream_ids_used_up_end_the_connection(open_dialogue) -> None:
    dialogue = open_dialogue(stream_id_max=5)
    assert dialogue.send(9) == 3
    events = dialogue.feed(dialogue.head(1) + dialogue.head(3) + dialogue.head(5))
    assert only(events, Terminated).reason is CloseReason.STREAM_IDS_EXHAUSTED


# Answers


def test_body_trailers_and_informational_heads_make_one_answer(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send()
    dialogue.feed(dialogue.head(1, b"\x08\x03103", END_HEADERS))
    dialogue.feed(dialogue.head(1, b"\x8d\x00\x01k\x01v", END_HEADERS))
    dialogue.feed(data_frame(1, b"ab", 0) + data_frame(1, b"\x03cd\x00\x00\x00", PADDED))
    assert dialogue.connection.statistics().answered == 0
    answers = only(dialogue.feed(dialogue.head(1, b"\x00\x01t\x01v")), Answers)
    assert answers.status.tolist() == [404]
    assert answers.details == {0: AnswerDetail({b"k": b"v"}, b"abcd")}


def test_priority_fields_padding_and_continuation_are_read(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send()
    payload = b"\x02" + b"\x00\x00\x00\x00\x10" + b"\x20\x8d\x00\x01" + b"\x00\x00"
    flags = PADDED | PRIORITY_FIELDS | END_STREAM
    data = frame(FrameType.HEADERS, flags, 1, payload) + frame(FrameType.CONTINUATION, 0, 1, b"k")
    data += frame(FrameType.CONTINUATION, END_HEADERS, 1, b"\x01v")
    assert only(dialogue.feed(data), Answers).details == {0: AnswerDetail({b"k": b"v"}, b"")}


def test_ok_answers_keep_only_the_headers_asked_for(open_dialogue) -> None:
    dialogue = open_dialogue(keep_headers=frozenset({b"apns-id"}))
    dialogue.send(2)
    block = b"\x88\x00\x07apns-id\x011\x00\x01k\x01v"
    answers = only(dialogue.feed(dialogue.head(1, block) + dialogue.head(3)), Answers)
    assert answers.details == {0: AnswerDetail({b"apns-id": b"1"}, b"")}


def test_body_beyond_the_limit_is_counted_and_cut(open_dialogue) -> None:
    dialogue = open_dialogue(body_bytes_max=5)
    dialogue.send(2)
    data = dialogue.head(1, b"\x8d", END_HEADERS) + data_frame(1, b"abcd", 0) + data_frame(1, b"efgh")
    data += dialogue.head(3, b"\x8d", END_HEADERS) + data_frame(3, b"abcdef")
    details = only(dialogue.feed(data), Answers).details
    assert details == {0: AnswerDetail({}, b"abcde", 3), 1: AnswerDetail({}, b"abcde", 1)}


def test_ok_bodies_may_be_dropped(open_dialogue) -> None:
    dialogue = open_dialogue(is_ok_body_kept=False)
    dialogue.send()
    data = dialogue.head(1, b"\x88", END_HEADERS) + data_frame(1, b"abcd")
    assert only(dialogue.feed(data), Answers).details == {}


def test_credit_is_given_back_for_streams_and_connection(open_dialogue) -> None:
    dialogue = open_dialogue(stream_window_bytes=20_000, connection_window_bytes=65_535)
    dialogue.send(1, ())
    dialogue.sent()
    dialogue.feed(dialogue.head(1, b"\x88", END_HEADERS))
    dialogue.feed(data_frame(1, b"a" * 10_000, 0) * 2)
    updates = [(f.stream_id, int.from_bytes(f.payload, "big")) for f in dialogue.sent()]
    assert updates == [(1, 10_000), (1, 10_000)]
    dialogue.feed(data_frame(1, b"a" * 10_000, 0) * 2)
    assert dialogue.connection.statistics().receive_window == 65_535


def test_peer_that_overruns_the_stream_window_is_reset(open_dialogue) -> None:
    dialogue = open_dialogue(stream_window_bytes=100)
    dialogue.send(1, ())
    dialogue.sent()
    dialogue.feed(dialogue.head(1, b"\x88", END_HEADERS))
    events = dialogue.feed(data_frame(1, b"a" * 101))
    reset = only(events, Reset)
    assert (reset.error_code, reset.is_by_peer) == (ErrorCode.FLOW_CONTROL_ERROR, False)
    assert dialogue.sent() == [(FrameType.RST_STREAM, 0, 1, bytes([0, 0, 0, ErrorCode.FLOW_CONTROL_ERROR]))]


def test_smaller_stream_window_counts_once_it_is_acknowledged(open_dialogue) -> None:
    dialogue = open_dialogue(stream_window_bytes=100, is_settled=False)
    dialogue.feed(settings_frame({}))
    dialogue.send(2, ())
    dialogue.sent()
    dialogue.feed(frame(FrameType.HEADERS, END_HEADERS, 1, b"\x88"))
    assert only(dialogue.feed(data_frame(1, b"a" * 101)), Answers).tags.tolist() == [0]
    dialogue.feed(frame(FrameType.SETTINGS, ACK, 0) + dialogue.head(3, b"\x88", END_HEADERS))
    assert only(dialogue.feed(data_frame(3, b"a" * 101)), Reset).error_code == ErrorCode.FLOW_CONTROL_ERROR


def test_peer_that_overruns_the_connection_window_ends_the_connection(open_dialogue) -> None:
    dialogue = open_dialogue(stream_window_bytes=1 << 20, connection_window_bytes=65_535, frame_bytes_max=1 << 20)
    dialogue.send(1, ())
    dialogue.feed(dialogue.head(1, b"\x88", END_HEADERS))
    events = dialogue.feed(data_frame(1, b"a" * 65_536, 0))
    assert only(events, Terminated).error_code == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    "block",
    [
        b"",  # no status
        b"\x88\x88",  # two
        b"\x00\x01k\x01v\x88",  # behind a field
        b"\x83",  # a request's pseudo header
        b"\x08\x02ab",  # no number
        b"\x08\x03101",
        b"\x88\x00\x01K\x01v",  # upper case
        b"\x88\x00\x0aconnection\x01v",
        b"\x88\x00\x0econtent-length\x013",  # without the three bytes
    ],
)
def test_malformed_answer_resets_its_stream_only(open_dialogue, block: bytes) -> None:
    dialogue = open_dialogue()
    dialogue.send(2)
    dialogue.sent()
    events = dialogue.feed(dialogue.head(1, block) + dialogue.head(3))
    reset = only(events, Reset)
    assert (reset.tags.tolist(), reset.error_code, reset.is_by_peer) == ([0], ErrorCode.PROTOCOL_ERROR, False)
    assert only(events, Answers).tags.tolist() == [1]
    assert dialogue.sent() == [(FrameType.RST_STREAM, 0, 1, b"\x00\x00\x00\x01")]


def test_data_before_a_head_and_heads_after_the_first_reset_the_stream(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(2)
    events = dialogue.feed(data_frame(1, b"x"))
    assert only(events, Reset).tags.tolist() == [0]
    head = dialogue.head(3, b"\x88", END_HEADERS)
    events = dialogue.feed(head + frame(FrameType.HEADERS, END_HEADERS, 3, b"\x88"))
    assert only(events, Reset).tags.tolist() == [1]


# Resets, GOAWAY, loss


@pytest.mark.parametrize("code", [*[code for code in ErrorCode if code != ErrorCode.REFUSED_STREAM], 0xABCD])
def test_reset_by_the_peer_carries_its_code(open_dialogue, code: int) -> None:
    dialogue = open_dialogue()
    dialogue.send(2)
    reset = only(dialogue.feed(rst_stream(3, code)), Reset)
    assert (reset.tags.tolist(), reset.error_code, reset.is_by_peer) == ([1], code, True)


def test_refused_stream_may_go_again(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(2)
    events = dialogue.feed(rst_stream(3, ErrorCode.REFUSED_STREAM))
    refused = only(events, Refused)
    assert (refused.tags.tolist(), refused.why) == ([1], RefusedWhy.REFUSED_STREAM)
    assert dialogue.connection.capacity() == 999


def test_reset_after_the_status_is_an_answer(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send()
    dialogue.feed(dialogue.head(1, b"\x8d", END_HEADERS) + data_frame(1, b"ab", 0))
    answers = only(dialogue.feed(rst_stream(1, ErrorCode.CANCEL)), Answers)
    assert answers.status.tolist() == [404]
    assert answers.details == {0: AnswerDetail({}, b"ab", is_complete=False)}


def test_goaway_refuses_what_is_above_and_waits_for_what_is_below(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(4)
    dialogue.sent()
    events = dialogue.feed(goaway(3, ErrorCode.NO_ERROR, b'{"reason":"x"}'))
    assert only(events, GoingAway) == GoingAway(3, 0, b'{"reason":"x"}')
    refused = only(events, Refused)
    assert (refused.tags.tolist(), refused.why) == ([2, 3], RefusedWhy.GOAWAY_ABOVE)
    assert dialogue.connection.capacity() == 0
    events = dialogue.feed(goaway(1, ErrorCode.NO_ERROR))
    assert only(events, Refused).tags.tolist() == [1]
    events = dialogue.feed(dialogue.head(1))
    assert only(events, Answers).tags.tolist() == [0]
    terminated = only(events, Terminated)
    assert (terminated.reason, len(terminated.refused), len(terminated.uncertain)) == (CloseReason.GOAWAY, 0, 0)
    assert dialogue.sent()[-1].type == FrameType.GOAWAY


def test_goaway_with_0_refuses_everything(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(2)
    events = dialogue.feed(goaway(0, ErrorCode.ENHANCE_YOUR_CALM))
    assert only(events, Refused).tags.tolist() == [0, 1]
    assert only(events, Terminated).reason is CloseReason.GOAWAY


def test_raised_goaway_does_not_take_back_what_was_refused(open_dialogue, ended) -> None:
    dialogue = open_dialogue()
    dialogue.send(3)
    events = dialogue.feed(goaway(1, 0)) + dialogue.feed(goaway(5, 0)) + dialogue.feed(dialogue.head(5))
    assert sorted(ended(events)) == [1, 2]
    assert dialogue.connection.statistics().late_frames == 1


def test_lost_connection_tells_unsent_from_uncertain(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(3)
    dialogue.sent()
    dialogue.send(2)
    dialogue.feed(dialogue.head(1, b"\x88", END_HEADERS))
    events = dialogue.connection.connection_lost(CloseReason.PEER_RESET)
    assert only(events, Answers).tags.tolist() == [0]
    terminated = only(events, Terminated)
    assert terminated.reason is CloseReason.PEER_RESET
    assert terminated.refused.tolist() == [3, 4]
    assert terminated.uncertain.tolist() == [1, 2]
    assert dialogue.connection.connection_lost(CloseReason.PEER_RESET) == []
    assert dialogue.connection.next_deadline() == math.inf


def test_loss_after_goaway_is_counted_as_goaway(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(1)
    dialogue.sent()
    dialogue.feed(goaway(1, 0))
    terminated = only(dialogue.connection.connection_lost(CloseReason.PEER_CLOSED), Terminated)
    assert (terminated.reason, terminated.uncertain.tolist()) == (CloseReason.GOAWAY, [0])


def test_drain_ends_with_the_last_stream(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(1)
    assert dialogue.connection.drain() == []
    assert dialogue.send(1) == 0
    events = dialogue.feed(dialogue.head(1))
    assert [type(event) for event in events] == [Answers, Terminated]
    assert events[-1].reason is CloseReason.SHUTDOWN


def test_close_gives_open_tags_back_and_says_goaway(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(1)
    dialogue.sent()
    terminated = only(dialogue.connection.close(CloseReason.CREDENTIAL_REPLACED), Terminated)
    assert (terminated.reason, terminated.uncertain.tolist()) == (CloseReason.CREDENTIAL_REPLACED, [0])
    assert dialogue.sent() == [(FrameType.GOAWAY, 0, 0, bytes(8))]
    assert dialogue.feed(dialogue.head(1)) == []


@pytest.mark.parametrize("how", ["closed", "failed", "silent"])
def test_requests_that_go_back_as_not_sent_do_not_go_out_with_the_last_frame(open_dialogue, how) -> None:
    """They are sent again elsewhere, and the peer would have them twice."""
    dialogue = open_dialogue()
    dialogue.send(1)
    dialogue.sent()
    dialogue.send(2)
    connection = dialogue.connection
    match how:
        case "closed":
            events = connection.close()
        case "failed":
            events = dialogue.feed(b"\x00\x00\x01\x01\x04\x00\x00\x00\x00\x88")
        case _:
            events = connection.connection_lost(CloseReason.PEER_CLOSED)
    terminated = only(events, Terminated)
    assert (terminated.uncertain.tolist(), terminated.refused.tolist()) == ([0], [1, 2])
    assert [frame[0] for frame in dialogue.sent()] == ([] if how == "silent" else [FrameType.GOAWAY])


# Time


def test_request_past_its_deadline_is_cancelled_once(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(1, deadline=5.0)
    dialogue.send(1, deadline=7.0)
    dialogue.sent()
    assert dialogue.connection.next_deadline() == 5.0
    assert dialogue.connection.on_deadline(4.9) == []
    assert only(dialogue.connection.on_deadline(5.0), TimedOut).tags.tolist() == [0]
    assert dialogue.sent() == [(FrameType.RST_STREAM, 0, 1, bytes([0, 0, 0, ErrorCode.CANCEL]))]
    assert dialogue.connection.next_deadline() == 7.0
    assert dialogue.feed(dialogue.head(1)) == []
    assert dialogue.connection.statistics().late_frames == 1


def test_silence_is_asked_by_ping_and_ends_the_connection(open_dialogue) -> None:
    dialogue = open_dialogue(ping_idle_s=30, ping_timeout_s=10)
    dialogue.send(1)
    dialogue.sent()
    assert dialogue.connection.next_deadline() == 31.0
    assert dialogue.connection.on_deadline(31.0) == []
    (question,) = dialogue.sent()
    assert (question.type, question.flags, len(question.payload)) == (FrameType.PING, 0, 8)
    assert dialogue.connection.next_deadline() == 41.0
    dialogue.feed(ping(question.payload, is_ack=True), now=40.0)
    assert dialogue.connection.next_deadline() == 70.0
    dialogue.connection.on_deadline(70.0)
    terminated = only(dialogue.connection.on_deadline(80.0), Terminated)
    assert (terminated.reason, terminated.uncertain.tolist()) == (CloseReason.LIVENESS_TIMEOUT, [0])


def test_ping_of_the_peer_is_answered(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.feed(ping(b"abcdefgh", is_ack=False))
    assert dialogue.sent() == [(FrameType.PING, ACK, 0, b"abcdefgh")]


def test_flood_of_pings_by_a_peer_that_does_not_read_ends_the_connection(open_dialogue) -> None:
    dialogue = open_dialogue(control_frames_max=10)
    dialogue.feed(ping(b"abcdefgh", is_ack=False) * 10)
    events = dialogue.feed(ping(b"abcdefgh", is_ack=False))
    assert only(events, Terminated).error_code == ErrorCode.ENHANCE_YOUR_CALM


# Runs and late blocks


def test_header_blocks_are_decoded_on_streams_we_cancelled(open_dialogue) -> None:
    dialogue = open_dialogue(header_table_bytes=4096)
    dialogue.send(1, deadline=2.0)
    dialogue.send(1)
    dialogue.connection.on_deadline(2.0)
    late = frame(FrameType.HEADERS, 0x5, 1, b"\x88\x40\x01k\x01v")
    events = dialogue.feed(late + frame(FrameType.HEADERS, 0x5, 3, b"\x8d\xbe"))
    assert only(events, Answers).details == {0: AnswerDetail({b"k": b"v"}, b"")}


def test_run_of_equal_answers_is_one_event_and_blocks_are_decoded_once(open_dialogue) -> None:
    dialogue = open_dialogue()
    dialogue.send(500)
    first = dialogue.head(1)
    data = first + b"".join(frame(FrameType.HEADERS, 0x5, stream_id, b"\x88") for stream_id in range(3, 1001, 2))
    answers = only(dialogue.feed(data), Answers)
    assert np.array_equal(answers.tags, np.arange(500))
    assert answers.details == {}
    assert dialogue.connection.statistics().blocks_decoded == 2


def test_run_that_answers_a_stream_twice_ends_its_tag_once(open_dialogue, ended) -> None:
    dialogue = open_dialogue()
    dialogue.send(9)
    dialogue.feed(dialogue.head(1))
    ids = [3, 5, 7, 9, 11, 13, 3, 15, 17]
    events = dialogue.feed(b"".join(frame(FrameType.HEADERS, 0x5, stream_id, b"\x88") for stream_id in ids))
    assert sorted(ended(events)) == list(range(1, 9))
    assert dialogue.connection.statistics().late_frames == 1
