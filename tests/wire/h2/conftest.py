"""A scripted peer: raw frames in, raw frames out, requests read by the `hpack` library."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import hpack
import numpy as np
import pytest

from gateway.columns import Pieces
from gateway.vendor import Requests
from gateway.wire.h2.connection import ClientConnection
from gateway.wire.h2.events import Answers, Event, Refused, Reset, Terminated, TimedOut
from gateway.wire.h2.frames import ACK, END_HEADERS, END_STREAM, PREFACE, FrameType, frame, settings_frame
from gateway.wire.h2.settings import ClientConfig

FAR = 1e6


class Frame(NamedTuple):
    type: int
    flags: int
    stream_id: int
    payload: bytes


def split_frames(data: bytes) -> list[Frame]:
    frames = []
    while data:
        length = int.from_bytes(data[:3], "big")
        frames.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        assert len(data) >= 9 + length
        data = data[9 + length :]
    return frames


class Dialogue:
    def __init__(self, settings: dict[int, int] | None = None, *, is_settled: bool = True, **config: object) -> None:
        self.config = ClientConfig(**config)
        self.connection = ClientConnection(config=self.config, now=0.0)
        self.hpack = hpack.Decoder()
        self.tag = 0
        # What our HEADER_TABLE_SIZE of 0 makes the peer say in front of its first block.
        self.prefix = b"\x20" if self.config.header_table_bytes == 0 else b""
        self.opening = self.connection.data_to_send()
        assert self.opening.startswith(PREFACE)
        if is_settled:
            self.feed(settings_frame(settings or {}) + frame(FrameType.SETTINGS, ACK, 0))
            self.sent()

    def feed(self, data: bytes, now: float = 1.0) -> list[Event]:
        return self.connection.receive_data(data, now=now)

    def send(self, n: int = 1, body: Pieces = (b"{}",), deadline: float = FAR, **changes: object) -> int:
        """Offers n requests with the next n tags; the tags of what was not taken are used again."""
        requests = Requests(n, b"push.example", (b"/p",), ((b"x-a", (b"1",)),), body)._replace(**changes)
        tags = np.arange(self.tag, self.tag + n, dtype=np.int64)
        taken = self.connection.send_requests(requests, 0, tags, now=1.0, deadline=deadline)
        self.tag += taken
        return taken

    def sent(self) -> list[Frame]:
        return split_frames(self.connection.data_to_send())

    def head(self, stream_id: int, block: bytes = b"\x88", flags: int = END_HEADERS | END_STREAM) -> bytes:
        """An answer's HEADERS; by default a bare 200 that ends the stream."""
        block, self.prefix = self.prefix + block, b""
        return frame(FrameType.HEADERS, flags, stream_id, block)


def tags_ended(events: list[Event]) -> list[int]:
    """Every tag the events give back, in order."""
    out: list[int] = []
    for event in events:
        match event:
            case Answers() | Refused() | Reset() | TimedOut():
                out += event.tags.tolist()
            case Terminated():
                out += event.refused.tolist() + event.uncertain.tolist()
    return out


@pytest.fixture(scope="session")
def open_dialogue() -> Callable[..., Dialogue]:
    return Dialogue


@pytest.fixture(scope="session")
def ended() -> Callable[[list[Event]], list[int]]:
    return tags_ended
