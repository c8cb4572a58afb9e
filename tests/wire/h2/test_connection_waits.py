"""What the machine waits for, and for how long: acknowledged SETTINGS, and windows for rows that were left behind."""

from __future__ import annotations

from gateway.errors import CloseReason
from gateway.wire.h2.events import Refused, RefusedWhy, Terminated
from gateway.wire.h2.frames import ACK, END_STREAM, ErrorCode, FrameType, frame, settings_frame, window_update


def test_settings_not_acknowledged_in_time_end_the_connection(open_dialogue) -> None:
    dialogue = open_dialogue(is_settled=False, settings_timeout_s=40, ping_idle_s=100)
    dialogue.feed(settings_frame({}))
    dialogue.send(1)
    dialogue.sent()
    assert dialogue.connection.next_deadline() == 40.0
    assert dialogue.connection.on_deadline(39.0) == []
    (terminated,) = dialogue.connection.on_deadline(40.0)
    assert isinstance(terminated, Terminated)
    assert (terminated.reason, terminated.error_code) == (CloseReason.LIVENESS_TIMEOUT, ErrorCode.SETTINGS_TIMEOUT)
    assert terminated.uncertain.tolist() == [0]
    (goodbye,) = dialogue.sent()
    assert goodbye.payload[4:8] == bytes([0, 0, 0, ErrorCode.SETTINGS_TIMEOUT])


def test_acknowledged_settings_have_no_deadline(open_dialogue) -> None:
    dialogue = open_dialogue(is_settled=False, settings_timeout_s=40, ping_idle_s=100)
    dialogue.feed(settings_frame({}) + frame(FrameType.SETTINGS, ACK, 0))
    assert dialogue.connection.next_deadline() == 101.0
    assert dialogue.connection.on_deadline(41.0) == []


def test_capacity_is_none_until_a_row_that_was_left_behind_would_fit(open_dialogue) -> None:
    dialogue = open_dialogue()
    assert dialogue.send(3, (b"a" * 30_000,)) == 2
    assert dialogue.connection.capacity() == 0
    dialogue.feed(window_update(0, 30_000 - 5_535 - 1))
    assert dialogue.connection.capacity() == 0
    dialogue.feed(window_update(0, 1))
    assert dialogue.connection.capacity() == 998
    assert dialogue.send(1, (b"a" * 30_000,)) == 1


def test_row_goes_as_an_upload_when_no_credit_can_be_expected(open_dialogue) -> None:
    """A peer that gives credit late must not leave us waiting with nothing under way."""
    dialogue = open_dialogue()
    assert dialogue.send(2, (b"a" * 30_000,)) == 2
    assert dialogue.send(1, (b"a" * 10_000,)) == 0
    assert dialogue.connection.capacity() == 0
    dialogue.sent()
    dialogue.feed(dialogue.head(1) + dialogue.head(3))
    assert dialogue.connection.capacity() == 1000
    assert dialogue.send(1, (b"a" * 10_000,)) == 1
    (_, data) = dialogue.sent()
    assert (len(data.payload), data.flags) == (5_535, 0)
    dialogue.feed(window_update(0, 60_000))
    (rest,) = dialogue.sent()
    assert (len(rest.payload), rest.flags) == (4_465, END_STREAM)


def test_peer_that_gives_no_credit_is_left_with_what_it_has_answered(open_dialogue) -> None:
    dialogue = open_dialogue(window_timeout_s=5, ping_idle_s=100)
    assert dialogue.send(1, (b"a" * 100,)) == 1
    assert dialogue.connection.next_deadline() == 101.0
    assert dialogue.send(1, (b"a" * 70_000,)) == 1
    assert dialogue.connection.next_deadline() == 6.0
    dialogue.sent()
    dialogue.feed(window_update(0, 1_000), now=4.0)
    assert dialogue.connection.next_deadline() == 9.0
    dialogue.sent()
    assert dialogue.connection.on_deadline(8.9) == []
    (refused,) = dialogue.connection.on_deadline(9.0)
    assert isinstance(refused, Refused)
    assert (refused.tags.tolist(), refused.why) == ([1], RefusedWhy.UNFINISHED)
    (reset,) = dialogue.sent()
    assert (reset.type, reset.stream_id, reset.payload) == (FrameType.RST_STREAM, 3, bytes([0, 0, 0, ErrorCode.CANCEL]))
    # the one that was sent whole is still waited for
    assert dialogue.connection.capacity() == 0
    answers, terminated = dialogue.feed(dialogue.head(1), now=10.0)
    assert answers.tags.tolist() == [0]
    assert isinstance(terminated, Terminated)
    assert terminated.reason is CloseReason.WINDOW_STALLED


def test_credit_deadline_of_a_new_upload_begins_with_it(open_dialogue) -> None:
    dialogue = open_dialogue(window_timeout_s=5, ping_idle_s=100)
    dialogue.feed(b"", now=50.0)
    requests_sent_at = 1.0  # the dialogue's own time
    dialogue.send(1, (b"a" * 70_000,))
    assert dialogue.connection.next_deadline() == requests_sent_at + 5
    dialogue.feed(window_update(0, 70_000) + window_update(1, 70_000), now=3.0)
    assert dialogue.connection.next_deadline() > 100
