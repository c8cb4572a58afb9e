"""Frames of streams -> ends of requests: the one place where a tag is given back.

A stream ends once: `InFlight.close` takes its row away, and every path that emits a tag goes through it. Frames for a
stream that is no longer open are late (we cancelled it, or the peer went on after its end): their header blocks are
decoded and their DATA is counted, because those belong to the connection, and then they are dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from gateway.columns import I64
from gateway.errors import RemoteProtocolError
from gateway.wire.h2.events import AnswerDetail, Answers, Event, Refused, RefusedWhy, Reset
from gateway.wire.h2.flow import ReceiveWindow
from gateway.wire.h2.frames import WINDOW_DEFAULT, ErrorCode, rst_stream, window_update
from gateway.wire.h2.inflight import HEADED, SENT, UPLOADING, InFlight, Positions
from gateway.wire.h2.outbuffer import OutBuffer
from gateway.wire.h2.responses import Head, HeadDecoder, HeadKind
from gateway.wire.h2.runs import UNEVEN_UNITS_MIN, Run
from gateway.wire.h2.sender import Upload
from gateway.wire.h2.settings import ClientConfig

_OK = 200

_Details: TypeAlias = AnswerDetail | list[AnswerDetail | None] | None


class _Body:
    """A body that comes in several frames."""

    __slots__ = ("kept", "size", "window")

    def __init__(self, window: ReceiveWindow) -> None:
        self.kept = bytearray()
        self.size = 0
        self.window = window


class AnswerCollector:
    """Owns the heads and bodies under way and the events not yet handed out."""

    def __init__(
        self,
        config: ClientConfig,
        streams: InFlight,
        heads: HeadDecoder,
        uploads: dict[int, Upload],
        out: OutBuffer,
    ) -> None:
        self._config = config
        self._streams = streams
        self._heads = heads
        self._uploads = uploads
        self._out = out
        self._bodies: dict[int, _Body] = {}
        # Until the peer has acknowledged our SETTINGS it may count with the default.
        self._stream_window = max(config.stream_window_bytes, WINDOW_DEFAULT)
        self.window = ReceiveWindow(config.connection_window_bytes, max(config.connection_window_bytes, WINDOW_DEFAULT))
        self._events: list[Event] = []
        self._tags: list[I64] = []
        self._status: list[int] = []
        self._details: dict[int, AnswerDetail] = {}
        self._answer_count = 0
        self.answered_count = 0
        self.late_frame_count = 0

    # Events

    def emit(self, event: Event) -> None:
        self._flush()
        self._events.append(event)

    def take_events(self) -> list[Event]:
        self._flush()
        events, self._events = self._events, []
        return events

    def _flush(self) -> None:
        if not self._tags:
            return
        if len(self._tags) == 1:
            tags, status = self._tags[0], np.full(self._answer_count, self._status[0], np.uint16)
        else:
            tags = np.concatenate(self._tags)
            status = np.repeat(np.array(self._status, np.uint16), [len(each) for each in self._tags])
        self._events.append(Answers(tags, status, self._details))
        self.answered_count += self._answer_count
        self._tags, self._status, self._details, self._answer_count = [], [], {}, 0

    def _answer(self, positions: Positions, status: int, details: _Details) -> None:
        """The streams at the positions are answered with one status; details are shared, one each, or none."""
        tags = self._streams.close(positions)
        n = len(tags)
        first = self._answer_count
        if isinstance(details, list):
            self._details.update({first + at: detail for at, detail in enumerate(details) if detail is not None})
        elif details is not None:
            self._details.update(dict.fromkeys(range(first, first + n), details))
        self._tags.append(tags)
        self._status.append(status)
        self._answer_count += n

    # Ends other than an answer

    def end_without_answer(self, positions: I64, make_event: Callable[[I64], Event]) -> None:
        """The streams end before their answers did; the tags that are not answered go into one event."""
        tags = self.end_early(positions)
        if len(tags):
            self.emit(make_event(tags))

    def end_early(self, positions: I64) -> I64:
        """The streams end before their answers did. One whose status has come counts as answered, with what is there
        of its body. Returns the tags of the others."""
        has_head = np.array([head is not None for head in self._streams.heads[positions].tolist()], np.bool_)
        if self._uploads:
            for stream_id in self._streams.ids[positions].tolist():
                self._uploads.pop(stream_id, None)
        for position in positions[has_head].tolist():
            head: Head = self._streams.heads[position]
            body = self._bodies.pop(int(self._streams.ids[position]), None)
            kept, size = (bytes(body.kept), body.size) if body else (b"", 0)
            detail = AnswerDetail(head.headers, kept, size - len(kept), is_complete=False)
            self._answer(np.array([position]), head.status, detail)
        rest = positions[~has_head]
        return self._streams.close(rest)

    def on_reset(self, stream_id: int, code: int) -> None:
        """The peer reset the stream (RFC 9113 sections 6.4 and 8.7)."""
        position = self._streams.find_one(stream_id)
        if position < 0:
            self.late_frame_count += 1
            return
        if code == ErrorCode.REFUSED_STREAM:
            self.end_without_answer(np.array([position]), lambda tags: Refused(tags, RefusedWhy.REFUSED_STREAM))
        else:
            self.end_without_answer(np.array([position]), lambda tags: Reset(tags, code, is_by_peer=True))

    def reset_stream(self, stream_id: int, position: int, code: int) -> None:
        """We reset the stream because its answer breaks a rule (a stream error, section 5.4.2)."""
        self._out.answer(rst_stream(stream_id, code))
        self._uploads.pop(stream_id, None)
        self._bodies.pop(stream_id, None)
        tags = self._streams.close(np.array([position]))
        self.emit(Reset(tags, code, is_by_peer=False))

    # Frames, one at a time

    def on_settings_acknowledged(self) -> None:
        self._stream_window = self._config.stream_window_bytes
        self._heads.decoder.set_table_limit(self._config.header_table_bytes)

    def on_headers(self, stream_id: int, block: bytes, *, has_end: bool) -> None:
        """Raises RemoteProtocolError when the block cannot be decoded."""
        self.on_head(stream_id, self._heads.head(block), has_end=has_end)

    def on_head(self, stream_id: int, head: Head, *, has_end: bool) -> None:
        position = self._streams.find_one(stream_id)
        if position < 0:
            self.late_frame_count += 1
            return
        first: Head | None = self._streams.heads[position]
        if first is None and head.kind is HeadKind.INFORMATIONAL and not has_end:
            return
        expected = HeadKind.FINAL if first is None else HeadKind.TRAILERS
        # Trailers end a stream (section 8.1).
        if head.kind is not expected or (first is not None and not has_end):
            self.reset_stream(stream_id, position, ErrorCode.PROTOCOL_ERROR)
        elif has_end:
            self._end(stream_id, position, head if first is None else first, b"")
        elif self._streams.states[position] == SENT:
            self._streams.set_head(slice(position, position + 1), head)
        else:
            self._streams.heads[position] = head

    def on_data(self, stream_id: int, data: bytes, flow_bytes: int, *, has_end: bool) -> None:
        """flow_bytes: the whole payload, padding included (section 6.9.1).

        Raises RemoteProtocolError when the peer overruns the connection's window.
        """
        self._count_data(flow_bytes)
        position = self._streams.find_one(stream_id)
        if position < 0:
            self.late_frame_count += 1
            return
        head: Head | None = self._streams.heads[position]
        if head is None:
            self.reset_stream(stream_id, position, ErrorCode.PROTOCOL_ERROR)
            return
        body = self._bodies.get(stream_id)
        left = self._stream_window if body is None else body.window.left
        if flow_bytes > left:
            self.reset_stream(stream_id, position, ErrorCode.FLOW_CONTROL_ERROR)
            return
        if has_end:
            self._end(stream_id, position, head, data)
            return
        if body is None:
            window = ReceiveWindow(self._config.stream_window_bytes, self._stream_window)
            body = self._bodies[stream_id] = _Body(window)
        self._keep(body, head, data)
        body.window.consume(flow_bytes)
        increment = body.window.credit()
        if increment:
            self._out.append(window_update(stream_id, increment))

    def _count_data(self, flow_bytes: int) -> None:
        self.window.consume(flow_bytes)
        increment = self.window.credit()
        if increment:
            self._out.append(window_update(0, increment))

    def _keep(self, body: _Body, head: Head, data: bytes) -> None:
        body.size += len(data)
        if head.status != _OK or self._config.is_ok_body_kept:
            body.kept += data[: self._config.body_bytes_max - len(body.kept)]

    def _end(self, stream_id: int, position: int, head: Head, data: bytes) -> None:
        """The peer ended the stream, with `data` as the last of its body."""
        body = self._bodies.pop(stream_id, None)
        size = len(data) + (body.size if body else 0)
        if head.content_length not in {-1, size}:
            self.reset_stream(stream_id, position, ErrorCode.PROTOCOL_ERROR)
            return
        if self._streams.states[position] == UPLOADING:
            # Answered before all of the request was sent: nobody wants the rest (section 8.1).
            self._uploads.pop(stream_id, None)
            self._out.answer(rst_stream(stream_id, ErrorCode.NO_ERROR))
        if body is not None:
            self._keep(body, head, data)
            data = bytes(body.kept)
            detail = AnswerDetail(head.headers, data, size - len(data)) if size else head.bare_detail
        else:
            detail = self._detail(head, data)
        self._answer(np.array([position]), head.status, detail)

    def _detail(self, head: Head, data: bytes) -> AnswerDetail | None:
        if not data:
            return head.bare_detail
        if head.status == _OK and not self._config.is_ok_body_kept:
            return AnswerDetail(head.headers, b"", len(data)) if head.headers else None
        kept = data[: self._config.body_bytes_max]
        return AnswerDetail(head.headers, kept, len(data) - len(kept))

    # Frames, many at a time

    def on_run(self, run: Run) -> Run | None:
        """Takes the run in, or its first units, and returns what was taken; or takes only its first frame and returns
        None, because something in it is special.

        Raises RemoteProtocolError as the frames would one by one.
        """
        stream_id = int(run.ids[0])
        has_bare_end = run.has_end and not run.has_bodies
        head = None
        if run.block_starts is not None and run.block_ends is not None:
            found = self._heads.heads_alike(run.buffer, run.block_starts, run.block_ends)
            if found is None or found[1] < UNEVEN_UNITS_MIN:
                block = run.buffer[int(run.block_starts[0]) : int(run.block_ends[0])]
                self.on_headers(stream_id, block, has_end=has_bare_end)
                return None
            head, n = found
            run = run.cut(n)
        elif run.block is not None:
            head = self._heads.head(run.block)
            if not self._heads.is_pure:
                self.on_head(stream_id, head, has_end=has_bare_end)
                return None
        positions = self._plain_positions(run, head)
        if positions is None:
            if head is not None:
                self.on_head(stream_id, head, has_end=has_bare_end)
            else:
                data = run.body(0)
                self.on_data(stream_id, data, len(data), has_end=True)
            return None
        if run.body_sizes is not None:
            for increment in self.window.consume_frames(run.body_sizes):
                self._out.append(window_update(0, increment))
        if head is None:
            head = self._streams.heads[positions][0]
        if run.has_end:
            self._answer(positions, head.status, self._run_details(run, head))
        else:
            self._streams.set_head(positions, head)
        return run

    def _plain_positions(self, run: Run, head: Head | None) -> Positions | None:
        """Positions of the run's streams if each is open, sent, distinct and at the point where the run's frames are
        just what comes next; else None."""
        streams = self._streams
        positions = streams.find(run.ids)
        if positions is None or not streams.are_all(positions, SENT if run.has_blocks else HEADED):
            return None
        if not isinstance(positions, slice) and len(np.unique(positions)) != run.n:
            return None
        if head is None:
            # A run of DATA needs one head before all of it.
            heads = streams.heads[positions].tolist()
            head = heads[0]
            if heads.count(head) != run.n:
                return None
        if head.kind is not HeadKind.FINAL:
            return None
        sizes = run.body_sizes
        if sizes is None:
            return positions if not run.has_end or head.content_length in {-1, 0} else None
        largest = int(sizes.max())
        if head.content_length not in {-1, largest} or (head.content_length >= 0 and int(sizes.min()) != largest):
            return None
        # Frames of half a window and more may overrun it in the middle of the run.
        if largest > min(self._stream_window, self.window.target // 2, self.window.left):
            return None
        if not run.has_blocks and self._bodies and not self._bodies.keys().isdisjoint(run.ids.tolist()):
            return None
        return positions

    def _run_details(self, run: Run, head: Head) -> _Details:
        if not run.has_bodies or run.body_size == 0:
            return head.bare_detail
        if head.status == _OK and not self._config.is_ok_body_kept and not head.headers:
            return None
        if run.has_one_body():
            return self._detail(head, run.body(0))
        return [self._detail(head, body) for body in run.bodies()]

    # Ends of the connection

    def forget(self) -> None:
        self._bodies.clear()
        self._uploads.clear()

    def check_stream(self, stream_id: int, next_id: int) -> None:
        """Raises RemoteProtocolError for a frame on stream 0, on a stream of the peer (push is off), or on one not yet
        opened (sections 5.1 and 8.4)."""
        if stream_id % 2 == 0 or stream_id >= next_id:
            text = f"frame on stream {stream_id}, which is not open"
            raise RemoteProtocolError(text, wire_code=ErrorCode.PROTOCOL_ERROR)
