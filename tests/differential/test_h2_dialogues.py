"""Random dialogues between our client machine and the `h2` library as the server.

`h2` judges every byte we send (it raises on any fault: windows, stream limits, header blocks, states) and makes every
byte we receive, but for GOAWAY and frames of unknown types, which are put between its frames by hand because `h2` says
nothing after its own GOAWAY. What both ends saw must be the same: requests row by row, answers tag by tag; and every
tag ends exactly once.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import numpy as np
from h2.settings import SettingCodes
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway import columns
from gateway.columns import TextColumn
from gateway.errors import CloseReason
from gateway.vendor import Requests
from gateway.wire.h2.connection import ClientConnection
from gateway.wire.h2.events import Answers, Refused, Reset, Terminated, TimedOut
from gateway.wire.h2.frames import PREFACE, frame, goaway
from gateway.wire.h2.settings import ClientConfig

#: The issue asks for 100,000 steps in the ci profile: 2,000 dialogues of 50.
STEPS = 50
DIALOGUES = 2000 if os.environ.get("PROFILE") == "ci" else 60

TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30).map(str.encode)
SIZES = st.sampled_from([0, 1, 5, 100, 3000, 20_000, 70_000])


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


class Dialogue(RuleBasedStateMachine):
    @initialize(
        table=st.sampled_from([0, 100, 4096]),
        encoder_table=st.sampled_from([0, 200, 4096]),
        window=st.sampled_from([70_000, 1 << 20]),
        streams_max=st.sampled_from([1, 20, 1000]),
        is_awaited=st.booleans(),
    )
    def open(self, table: int, encoder_table: int, window: int, streams_max: int, is_awaited: bool) -> None:
        self.client = ClientConnection(
            config=ClientConfig(
                header_table_bytes=table,
                encoder_table_bytes_max=encoder_table,
                connection_window_bytes=window,
                streams_max=streams_max,
                is_settings_awaited=is_awaited,
                body_bytes_max=1 << 20,
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

    # The client

    @precondition(lambda self: not self.is_over)
    @rule(data=st.data(), n=st.integers(1, 30), timeout=st.sampled_from([5, 1000]))
    def send(self, data, n: int, timeout: int) -> None:
        requests = Requests(
            n,
            b"push.example",
            data.draw(self.pieces(n, b"/")),
            tuple((name, data.draw(self.pieces(n))) for name in data.draw(st.sets(st.sampled_from(HEADER_NAMES)))),
            data.draw(self.bodies(n)),
        )
        first = len(self.rows)
        capacity = self.client.capacity()
        tags = np.arange(first, first + n, dtype=np.int64)
        taken = self.client.send_requests(requests, 0, tags, now=self.now, deadline=self.now + timeout)
        assert taken <= capacity
        for row in range(taken):
            self.rows.append(Sent(plain_headers(requests, row), row_of(requests.body, row)))

    @staticmethod
    def pieces(n: int, prefix: bytes = b""):
        ragged = st.lists(TEXT, min_size=n, max_size=n).map(TextColumn.from_rows)
        fixed = st.text("0123456789abcdef", min_size=4 * n, max_size=4 * n).map(
            lambda text: np.frombuffer(text.encode(), np.uint8).reshape(n, 4)
        )
        return st.one_of(
            TEXT.map(lambda text: (prefix + text,)),
            fixed.map(lambda column: (prefix, column)),
            ragged.map(lambda column: (prefix, column)),
        )

    @staticmethod
    def bodies(n: int):
        one = SIZES.map(lambda size: b"x" * size)
        return st.one_of(
            one.map(lambda body: (body,)),
            st.lists(one, min_size=n, max_size=n).map(lambda rows: (TextColumn.from_rows(rows),)),
            st.lists(TEXT, min_size=n, max_size=n).map(lambda rows: (b"{", TextColumn.from_rows(rows), b"}")),
        )

    @precondition(lambda self: not self.is_over)
    @rule(seconds=st.sampled_from([0, 3, 29]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.take_in(self.client.on_deadline(self.now))

    @precondition(lambda self: not self.is_over)
    @rule(cuts=st.lists(st.integers(0, 20_000), max_size=4))
    def exchange(self, cuts: list[int]) -> None:
        """All bytes cross both ways; the server's in pieces."""
        self.serve(self.client.data_to_send())
        self.continue_answers()
        data, self.to_client = self.to_client + self.server.data_to_send(), b""
        for cut in cuts:
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

    @precondition(lambda self: not self.is_over and self.answerable())
    @rule(
        data=st.data(),
        count=st.integers(1, 30),
        status=st.sampled_from([200, 200, 400, 410, 503]),
        headers=st.lists(st.tuples(st.sampled_from([b"x-kept", b"x-other"]), TEXT), unique_by=lambda h: h[0]),
        size=SIZES,
        is_early=st.booleans(),
    )
    def answer(self, data, count: int, status: int, headers, size: int, is_early: bool) -> None:
        for stream_id in self.answerable()[:count]:
            unique = [(b"x-other", b"%d" % stream_id)] if not headers and data.draw(st.booleans()) else headers
            answer = self.answers[stream_id] = Answer(status, unique, b"y" * size)
            if is_early:
                self.server.send_headers(stream_id, [(b":status", b"103"), (b"link", b"</x>")])
            is_bare = size == 0 and data.draw(st.booleans())
            fields = [(b":status", b"%d" % status), *unique]
            self.server.send_headers(stream_id, fields, end_stream=is_bare)
            answer.has_head = True
            answer.is_done = is_bare
        self.continue_answers(data.draw(st.sampled_from([None, 0, 7])))

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

    @precondition(lambda self: not self.is_over and self.is_settings_acknowledged)
    @rule(
        changes=st.dictionaries(
            st.sampled_from(
                [
                    SettingCodes.MAX_CONCURRENT_STREAMS,
                    SettingCodes.INITIAL_WINDOW_SIZE,
                    SettingCodes.HEADER_TABLE_SIZE,
                    SettingCodes.MAX_FRAME_SIZE,
                ]
            ),
            st.integers(0, 3),
            min_size=1,
        )
    )
    def change_settings(self, changes) -> None:
        values = {
            SettingCodes.MAX_CONCURRENT_STREAMS: [1, 0, 10, 1000],
            SettingCodes.INITIAL_WINDOW_SIZE: [65_535, 0, 50, 1 << 20],
            SettingCodes.HEADER_TABLE_SIZE: [4096, 0, 100, 8192],
            SettingCodes.MAX_FRAME_SIZE: [16_384, 20_000, 65_536, 1 << 20],
        }
        self.is_settings_acknowledged = False
        self.server.update_settings({key: values[key][which] for key, which in changes.items()})

    @precondition(lambda self: not self.is_over and self.uncredited)
    @rule(count=st.integers(1, 60))
    def give_credit(self, count: int) -> None:
        credits, self.uncredited = self.uncredited[:count], self.uncredited[count:]
        for n, stream_id in credits:
            if stream_id in self.complete or stream_id in self.dead:
                # The stream's window is nobody's concern any more; the connection's is.
                self.server.increment_flow_control_window(n)
            else:
                self.server.increment_flow_control_window(n)
                self.server.increment_flow_control_window(n, stream_id)

    @precondition(lambda self: not self.is_over)
    @rule(data=st.data(), code=st.sampled_from([0, 2, 5, 7, 8, 11]))
    def reset(self, data, code: int) -> None:
        candidates = [
            s for s in self.received if s not in self.dead and not (s in self.answers and self.answers[s].is_done)
        ]
        if not candidates:
            return
        stream_id = data.draw(st.sampled_from(candidates))
        self.server.reset_stream(stream_id, code)
        self.resets[stream_id] = code
        self.dead.add(stream_id)

    @precondition(lambda self: not self.is_over)
    @rule(data=st.binary(max_size=20), kind=st.integers(0xB, 0xFF), stream_id=st.integers(0, 99))
    def unknown_frame(self, data: bytes, kind: int, stream_id: int) -> None:
        self.server.ping(b"12345678")
        self.to_client += self.server.data_to_send() + frame(kind, 0xFF, stream_id, data)

    @precondition(lambda self: not self.is_over and len(self.rows) > 20)
    @rule(data=st.data(), code=st.sampled_from([0, 0, 2]))
    def go_away(self, data, code: int) -> None:
        highest = max(self.answers, default=0)
        last_id = data.draw(st.sampled_from(sorted({s for s in self.received if s >= highest} | {highest})))
        if self.goaway_last_id is not None:
            last_id = min(last_id, self.goaway_last_id)
        self.goaway_last_id = last_id
        self.to_client += self.server.data_to_send() + goaway(last_id, code, b"bye")
        self.dead |= {s for s in self.received if s > last_id}
        self.dead |= set(range(last_id + 2 if last_id else 1, 2 * len(self.rows) + 1, 2))

    @precondition(lambda self: self.is_over)
    @rule(data=st.binary(max_size=20))
    def nothing_comes_after_the_end(self, data: bytes) -> None:
        assert self.client.receive_data(data, now=self.now) == []
        assert self.client.on_deadline(self.now + 1e6) == []
        assert self.client.connection_lost(CloseReason.PEER_CLOSED) == []
        assert self.client.capacity() == 0

    @invariant()
    def streams_are_the_rows_not_ended(self) -> None:
        if hasattr(self, "client"):
            assert self.client.statistics().open_streams == len(self.rows) - len(self.ended)

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        self.take_in(self.client.connection_lost(CloseReason.PEER_CLOSED))
        assert self.is_over
        assert sorted(self.ended) == list(range(len(self.rows)))


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


TestDialogue = Dialogue.TestCase
TestDialogue.settings = settings(max_examples=DIALOGUES, stateful_step_count=STEPS, deadline=None)
