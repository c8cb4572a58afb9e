"""Random dialogues between our client machine and the `h2` library as the server.

`h2` judges every byte we send (it raises on any fault: windows, stream limits, header blocks, states) and makes every
byte we receive, but for GOAWAY and frames of unknown types, which are put between its frames by hand because `h2` says
nothing after its own GOAWAY. What both ends saw must be the same: requests row by row, answers tag by tag; and every
tag ends exactly once.

Chance decides each step. Most dialogues draw it from a seeded generator, which costs nothing beside the step, so that
the ci profile goes through 100,000 steps in a minute; a fault names the seed that repeats it. Some draw it from
hypothesis, which is slow and makes a fault small.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import numpy as np
import pytest
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import columns
from gateway.columns import TextColumn
from gateway.errors import CloseReason
from gateway.vendor import Requests
from gateway.wire.h2.connection import ClientConnection
from gateway.wire.h2.events import Answers, Refused, RefusedWhy, Reset, Terminated, TimedOut
from gateway.wire.h2.frames import PREFACE, frame, goaway
from gateway.wire.h2.settings import ClientConfig

#: Steps of one dialogue, unless it is over before.
STEPS = 50
#: Steps of one block of seeded dialogues, and how many blocks. The issue asks for 100,000 steps in the ci profile.
BLOCK_STEPS = 10_000 if os.environ.get("PROFILE") == "ci" else 2_000
BLOCKS = 10 if os.environ.get("PROFILE") == "ci" else 2
#: Dialogues that hypothesis draws.
DRAWN = 60 if os.environ.get("PROFILE") == "ci" else 15

SIZES = (0, 1, 5, 100, 3000, 20_000, 70_000)
VISIBLE = bytes(range(0x21, 0x7F))
T = TypeVar("T")


class Chance(Protocol):
    """What decides a step."""

    def integer(self, low: int, high: int) -> int: ...

    def choice(self, options: Sequence[T]) -> T: ...

    def shuffled(self, options: Sequence[T]) -> list[T]: ...

    def binary(self, most: int) -> bytes: ...

    def text(self, most: int = 30) -> bytes:
        """Visible ASCII."""
        ...


class Seeded:
    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self.integer = self._random.randint
        self.choice = self._random.choice

    def shuffled(self, options: Sequence[T]) -> list[T]:
        return self._random.sample(options, len(options))

    def binary(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randint(0, most))

    def text(self, most: int = 30) -> bytes:
        # Empty and like ones are where bursts are planned otherwise.
        size = self._random.choice((0, 1, self._random.randint(0, most)))
        return b"0" * size if self._random.random() < 0.2 else bytes(self._random.choices(VISIBLE, k=size))


class Drawn:
    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def choice(self, options: Sequence[T]) -> T:
        return self._draw(st.sampled_from(options))

    def shuffled(self, options: Sequence[T]) -> list[T]:
        return self._draw(st.permutations(options))

    def binary(self, most: int) -> bytes:
        return self._draw(st.binary(max_size=most))

    def text(self, most: int = 30) -> bytes:
        return self._draw(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=most)).encode()


class Sent(NamedTuple):
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Answer:
    """What the server means to answer on one stream."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.left = body
        self.has_head = False
        self.is_done = False


class Dialogue:
    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        pick = chance.choice
        self.client = ClientConnection(
            config=ClientConfig(
                header_table_bytes=pick([0, 100, 4096]),
                encoder_table_bytes_max=pick([0, 200, 4096]),
                connection_window_bytes=pick([70_000, 1 << 20]),
                streams_max=pick([1, 20, 1000]),
                is_settings_awaited=pick([False, True]),
                body_bytes_max=1 << 20,
                window_timeout_s=pick([5, 1000]),
                keep_headers=frozenset({b"x-kept"}),
            ),
            now=0.0,
        )
        self.server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.server.initiate_connection()
        # `h2` takes the first ACK for all settings it has changed since, so there is never more than one under way.
        self.is_settings_acknowledged = False
        self.now = 1.0
        self.to_client = b""
        self.rows: list[Sent] = []  # tag -> row, in the order of the streams
        self.received: dict[int, tuple[list[tuple[bytes, bytes]], bytearray]] = {}
        self.complete: set[int] = set()
        self.dead: set[int] = set()  # streams reset by either side, or above a GOAWAY
        self.uncredited: list[tuple[int, int]] = []
        self.answers: dict[int, Answer] = {}
        self.resets: dict[int, int] = {}
        self.goaway_last_id: int | None = None
        self.ended: dict[int, object] = {}
        self.is_over = False

    def step(self) -> None:
        """One thing happens, of those that may."""
        actions: list[Callable[[], None]] = [self.nothing_comes_after_the_end]
        if not self.is_over:
            actions = [self.send, self.exchange, self.exchange, self.time_passes, self.reset, self.unknown_frame]
            if self.answerable():
                actions += [self.answer, self.answer]
            if self.is_settings_acknowledged:
                actions.append(self.change_settings)
            if self.uncredited:
                actions += [self.give_credit, self.give_credit]
            if len(self.rows) > 20:
                actions.append(self.go_away)
        self.chance.choice(actions)()
        # streams are the rows not ended
        assert self.client.statistics().open_streams == len(self.rows) - len(self.ended)

    def finish(self) -> None:
        """The connection is lost; every row has ended once."""
        self.take_in(self.client.connection_lost(CloseReason.PEER_CLOSED))
        assert self.is_over
        assert sorted(self.ended) == list(range(len(self.rows)))

    # The client

    def send(self) -> None:
        chance = self.chance
        n = chance.integer(1, 30)
        timeout = chance.choice([5, 1000])
        names = [name for name in chance.shuffled(HEADER_NAMES) if chance.integer(0, 1)]
        requests = Requests(
            n,
            b"push.example",
            self.pieces(n, b"/"),
            tuple((name, self.pieces(n)) for name in names),
            self.bodies(n),
        )
        first = len(self.rows)
        capacity = self.client.capacity()
        tags = np.arange(first, first + n, dtype=np.int64)
        taken = self.client.send_requests(requests, 0, tags, now=self.now, deadline=self.now + timeout)
        assert taken <= capacity
        for row in range(taken):
            self.rows.append(Sent(plain_headers(requests, row), row_of(requests.body, row)))

    def pieces(self, n: int, prefix: bytes = b""):
        match self.chance.integer(0, 2):
            case 0:
                return (prefix + self.chance.text(),)
            case 1:
                digits = [b"%08x" % self.chance.integer(0, self.chance.choice([0, 2**32 - 1])) for _ in range(n)]
                return (prefix, np.frombuffer(b"".join(digits), np.uint8).reshape(n, 8))
            case _:
                most = self.chance.choice([0, 1, 30])
                return (prefix, TextColumn.from_rows([self.chance.text(most) for _ in range(n)]))

    def bodies(self, n: int):
        match self.chance.integer(0, 2):
            case 0:
                return (b"x" * self.chance.choice(SIZES),)
            case 1:
                sizes = SIZES[: self.chance.integer(1, len(SIZES))]
                return (TextColumn.from_rows([b"x" * self.chance.choice(sizes) for _ in range(n)]),)
            case _:
                return (b"{", TextColumn.from_rows([self.chance.text() for _ in range(n)]), b"}")

    def time_passes(self) -> None:
        self.now += self.chance.choice([0, 3, 29])
        self.take_in(self.client.on_deadline(self.now))

    def exchange(self) -> None:
        """All bytes cross both ways; the server's in pieces."""
        self.serve(self.client.data_to_send())
        self.continue_answers()
        data, self.to_client = self.to_client + self.server.data_to_send(), b""
        for _ in range(self.chance.integer(0, 4)):
            cut = self.chance.integer(0, self.chance.choice([3, 20, 300, 20_000]))
            self.take_in(self.client.receive_data(data[:cut], now=self.now))
            data = data[cut:]
        self.take_in(self.client.receive_data(data, now=self.now))
        if self.is_over:
            self.serve(self.client.data_to_send())

    def take_in(self, events) -> None:
        assert not (self.is_over and events)
        for event in events:
            match event:
                case Answers():
                    for at, tag in enumerate(event.tags.tolist()):
                        self.end(tag, (int(event.status[at]), event.details.get(at)))
                case Refused() | Reset() | TimedOut():
                    for tag in event.tags.tolist():
                        self.end(tag, event)
                case Terminated():
                    self.is_over = True
                    assert event.reason is not CloseReason.PROTOCOL_ERROR, event
                    for tag in event.refused.tolist() + event.uncertain.tolist():
                        self.end(tag, event)
                case _:
                    pass

    def end(self, tag: int, how: object) -> None:
        assert tag not in self.ended
        self.ended[tag] = how
        stream_id = 2 * tag + 1
        match how:
            case (int() as status, detail):
                answer = self.answers[stream_id]
                assert status == answer.status
                is_complete = detail is None or detail.is_complete
                if is_complete:
                    assert answer.is_done
                    assert (b"" if detail is None else detail.body) == answer.body
                else:
                    assert answer.body.startswith(detail.body)
                kept = dict(answer.headers) if status != 200 else {k: v for k, v in answer.headers if k == b"x-kept"}
                assert ({} if detail is None else detail.headers) == kept
            case Refused(why=RefusedWhy.UNFINISHED):
                assert stream_id not in self.complete
            case Refused():
                is_above = self.goaway_last_id is not None and stream_id > self.goaway_last_id
                assert is_above or self.resets.get(stream_id) == 7
            case Reset():
                assert how.is_by_peer
                assert self.resets[stream_id] == how.error_code
            case _:
                pass

    # The server

    def serve(self, data: bytes) -> None:
        """Frame by frame: `h2` looks at its new MAX_FRAME_SIZE only between two calls."""
        at = len(PREFACE) if data.startswith(PREFACE) else 0
        self.serve_frame(data[:at])
        while at < len(data):
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            self.serve_frame(data[at:end])
            at = end

    def serve_frame(self, data: bytes) -> None:
        for event in self.server.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    self.received[event.stream_id] = (list(event.headers), bytearray())
                case h2.events.DataReceived():
                    self.received[event.stream_id][1].extend(event.data)
                    if event.flow_controlled_length:
                        self.uncredited.append((event.flow_controlled_length, event.stream_id))
                case h2.events.StreamEnded():
                    self.complete.add(event.stream_id)
                    headers, body = self.received[event.stream_id]
                    row = self.rows[event.stream_id // 2]
                    assert [(bytes(name), bytes(value)) for name, value in headers] == row.headers
                    assert bytes(body) == row.body
                case h2.events.SettingsAcknowledged():
                    self.is_settings_acknowledged = True
                case h2.events.StreamReset():
                    self.dead.add(event.stream_id)
                case _:
                    pass

    def answerable(self) -> list[int]:
        return sorted(s for s in self.complete if s not in self.answers and s not in self.dead)

    def answer(self) -> None:
        chance = self.chance
        status, size = chance.choice([200, 200, 400, 410, 503]), chance.choice(SIZES)
        headers = [(name, chance.text()) for name in (b"x-kept", b"x-other") if chance.integer(0, 1)]
        is_early = bool(chance.integer(0, 1))
        for stream_id in self.answerable()[: chance.integer(1, 30)]:
            unique = [(b"x-other", b"%d" % stream_id)] if not headers and chance.integer(0, 1) else headers
            answer = self.answers[stream_id] = Answer(status, unique, b"y" * size)
            if is_early:
                self.server.send_headers(stream_id, [(b":status", b"103"), (b"link", b"</x>")])
            is_bare = size == 0 and bool(chance.integer(0, 1))
            fields = [(b":status", b"%d" % status), *unique]
            self.server.send_headers(stream_id, fields, end_stream=is_bare)
            answer.has_head = True
            answer.is_done = is_bare
        self.continue_answers(chance.choice([None, 0, 7]))

    def continue_answers(self, padding: int | None = None) -> None:
        for stream_id, answer in self.answers.items():
            while not answer.is_done and stream_id not in self.dead:
                extra = 0 if padding is None else padding + 1
                room = self.server.local_flow_control_window(stream_id) - extra
                n = min(len(answer.left), room, self.server.max_outbound_frame_size - extra)
                if n < 0 or (answer.left and n == 0):
                    break
                part, answer.left = answer.left[:n], answer.left[n:]
                has_trailers = not answer.left and stream_id % 4 == 1
                self.server.send_data(
                    stream_id, part, end_stream=not answer.left and not has_trailers, pad_length=padding
                )
                if has_trailers:
                    self.server.send_headers(stream_id, [(b"x-trailer", b"1")], end_stream=True)
                answer.is_done = not answer.left

    def change_settings(self) -> None:
        values = {
            SettingCodes.MAX_CONCURRENT_STREAMS: [1, 0, 10, 1000],
            SettingCodes.INITIAL_WINDOW_SIZE: [65_535, 0, 50, 1 << 20],
            SettingCodes.HEADER_TABLE_SIZE: [4096, 0, 100, 8192],
            SettingCodes.MAX_FRAME_SIZE: [16_384, 20_000, 65_536, 1 << 20],
        }
        first = self.chance.choice(list(values))
        keys = [key for key in values if key is first or self.chance.integer(0, 3) == 0]
        self.is_settings_acknowledged = False
        self.server.update_settings({key: self.chance.choice(values[key]) for key in keys})

    def give_credit(self) -> None:
        count = self.chance.integer(1, 60)
        credits, self.uncredited = self.uncredited[:count], self.uncredited[count:]
        for n, stream_id in credits:
            if stream_id in self.complete or stream_id in self.dead:
                # The stream's window is nobody's concern any more; the connection's is.
                self.server.increment_flow_control_window(n)
            else:
                self.server.increment_flow_control_window(n)
                self.server.increment_flow_control_window(n, stream_id)

    def reset(self) -> None:
        candidates = [
            s for s in self.received if s not in self.dead and not (s in self.answers and self.answers[s].is_done)
        ]
        if not candidates:
            return
        stream_id, code = self.chance.choice(candidates), self.chance.choice([0, 2, 5, 7, 8, 11])
        self.server.reset_stream(stream_id, code)
        self.resets[stream_id] = code
        self.dead.add(stream_id)

    def unknown_frame(self) -> None:
        kind, stream_id = self.chance.integer(0xB, 0xFF), self.chance.integer(0, 99)
        self.server.ping(b"12345678")
        self.to_client += self.server.data_to_send() + frame(kind, 0xFF, stream_id, self.chance.binary(20))

    def go_away(self) -> None:
        highest = max(self.answers, default=0)
        last_id = self.chance.choice(sorted({s for s in self.received if s >= highest} | {highest}))
        if self.goaway_last_id is not None:
            last_id = min(last_id, self.goaway_last_id)
        self.goaway_last_id = last_id
        self.to_client += self.server.data_to_send() + goaway(last_id, self.chance.choice([0, 0, 2]), b"bye")
        self.dead |= {s for s in self.received if s > last_id}
        self.dead |= set(range(last_id + 2 if last_id else 1, 2 * len(self.rows) + 1, 2))

    def nothing_comes_after_the_end(self) -> None:
        assert self.client.receive_data(self.chance.binary(20), now=self.now) == []
        assert self.client.on_deadline(self.now + 1e6) == []
        assert self.client.connection_lost(CloseReason.PEER_CLOSED) == []
        assert self.client.capacity() == 0


HEADER_NAMES = [b"authorization", b"apns-id", b"apns-topic", b"apns-push-type", b"content-type"]


def row_of(pieces, row: int) -> bytes:
    return columns.join(pieces, row, row + 1)[0]


def plain_headers(requests: Requests, row: int) -> list[tuple[bytes, bytes]]:
    return [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", requests.authority),
        (b":path", row_of(requests.path, row)),
        *[(name, row_of(pieces, row)) for name, pieces in requests.headers],
    ]


def converse(chance: Chance) -> int:
    """One dialogue to its end; returns its steps."""
    dialogue = Dialogue(chance)
    steps = 0
    was_over = False
    while steps < STEPS and not was_over:
        was_over = dialogue.is_over
        dialogue.step()
        steps += 1
    dialogue.finish()
    return steps


@pytest.mark.parametrize("block", range(BLOCKS))
def test_h2_reads_what_we_send_in_seeded_dialogues(block: int) -> None:
    steps = number = 0
    while steps < BLOCK_STEPS:
        seed = f"{block}/{number}"
        try:
            steps += converse(Seeded(seed))
        except Exception as error:
            raise AssertionError(f"dialogue of seed {seed!r} failed") from error
        number += 1


@settings(max_examples=DRAWN, deadline=None)
@given(st.data())
def test_h2_reads_what_we_send_in_drawn_dialogues(data: st.DataObject) -> None:
    converse(Drawn(data))
