"""Faults of the peer, each with the error code RFC 9113 has for it, and what is no fault."""

from __future__ import annotations

import pytest

from gateway.errors import CloseReason
from gateway.wire.h2.events import Reset, Terminated
from gateway.wire.h2.frames import (
    ACK,
    END_HEADERS,
    PADDED,
    ErrorCode,
    FrameType,
    frame,
    ping,
    rst_stream,
    window_update,
)
from gateway.wire.h2.settings import Setting


def only(events, kind):
    found = [event for event in events if isinstance(event, kind)]
    assert len(found) == 1, events
    return found[0]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(FrameType.PUSH_PROMISE, END_HEADERS, 1, bytes(5)), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.HEADERS, 0x5, 0, b"\x20\x88"), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.HEADERS, 0x5, 2, b"\x20\x88"), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.HEADERS, 0x5, 5, b"\x20\x88"), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.DATA, 0, 7, b"x"), ErrorCode.PROTOCOL_ERROR),
        (rst_stream(0, 8), ErrorCode.PROTOCOL_ERROR),
        (rst_stream(9, 8), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.RST_STREAM, 0, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(FrameType.PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.SETTINGS, 0, 0, b"abcde"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(FrameType.SETTINGS, ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(FrameType.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(FrameType.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (window_update(0, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (window_update(11, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.WINDOW_UPDATE, 0, 0, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(FrameType.CONTINUATION, END_HEADERS, 1, b"\x88"), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.HEADERS, 0, 1, b"\x20") + ping(bytes(8), is_ack=False), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.HEADERS, 0, 1, b"\x20") + frame(0xF0, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.HEADERS, 0, 1, b"\x20") + frame(FrameType.CONTINUATION, 4, 3, b"\x88"), 1),
        (frame(FrameType.HEADERS, 0, 1, bytes(16384)) * 1 + frame(FrameType.CONTINUATION, 0, 1, bytes(16384)) * 2, 11),
        (b"\x00\x40\x01" + bytes(6), ErrorCode.FRAME_SIZE_ERROR),
        (frame(FrameType.HEADERS, 0x5, 1, b"\x88"), ErrorCode.COMPRESSION_ERROR),  # the size update is missing
        (frame(FrameType.HEADERS, 0x5, 1, b"\x20\xff"), ErrorCode.COMPRESSION_ERROR),
        (frame(FrameType.HEADERS, 0x5 | PADDED, 1, b"\x05\x88"), ErrorCode.PROTOCOL_ERROR),
        (frame(FrameType.DATA, PADDED, 1, b"\x05a"), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_fault_ends_the_connection_with_its_code(open_dialogue, data: bytes, code: int) -> None:
    dialogue = open_dialogue()
    dialogue.send(2)
    dialogue.sent()
    events = dialogue.feed(data)
    terminated = only(events, Terminated)
    assert (terminated.reason, terminated.error_code) == (CloseReason.PROTOCOL_ERROR, code)
    assert sorted(terminated.uncertain.tolist()) == [0, 1]
    last = dialogue.sent()[-1]
    assert last.type == FrameType.GOAWAY
    assert last.payload[4:8] == int(code).to_bytes(4, "big")


@pytest.mark.parametrize(
    "data",
    [
        frame(0xF0, 0xFF, 12345, b"unknown"),
        frame(FrameType.PRIORITY, 0, 99, bytes(5)),
        frame(FrameType.PRIORITY, 0, 99, bytes(4)),
        ping(bytes(8), is_ack=True),
        frame(FrameType.SETTINGS, ACK, 0),
    ],
)
def test_what_means_nothing_is_ignored(open_dialogue, data: bytes) -> None:
    dialogue = open_dialogue()
    assert dialogue.feed(data) == []
    assert dialogue.sent() == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
        (window_update(1, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (frame(FrameType.PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_fault_of_a_stream_resets_it(open_dialogue, data: bytes, code: ErrorCode) -> None:
    dialogue = open_dialogue({Setting.INITIAL_WINDOW_SIZE: 1 << 20})
    dialogue.send(1, (b"a" * 100_000,))  # more than the connection's window, so that the stream's stays open
    dialogue.sent()
    assert only(dialogue.feed(data), Reset).error_code == code
    assert dialogue.sent() == [(FrameType.RST_STREAM, 0, 1, int(code).to_bytes(4, "big"))]
