"""Requests -> frames in the out-buffer, as many as streams and windows allow.

A HEADERS frame leaves only when the whole DATA of its request may follow at once, so that no stream is opened that
then waits. The exception is a body larger than what the peer's windows hold in one go: it becomes an *upload*, whose
stream is opened first and whose DATA follows as the peer gives credit. Uploads have the connection window before
new requests.
"""

from __future__ import annotations

import numpy as np

from gateway import columns
from gateway.columns import I64
from gateway.vendor import Requests
from gateway.wire.h2 import bursts, template
from gateway.wire.h2.flow import SendWindow
from gateway.wire.h2.frames import CLIENT_STREAM_ID_FIRST, END_STREAM, FrameType, frame, split_block
from gateway.wire.h2.inflight import SENT, UPLOADING, InFlight
from gateway.wire.h2.outbuffer import OutBuffer
from gateway.wire.h2.settings import ClientConfig, PeerSettings
from gateway.wire.hpack.encoder import Encoder

#: Rows that may go alone to insert table entries before the rest of a call does without. Two suffice unless entries
#: evict each other.
_WARMING_ROWS_MAX = 2
#: Shapes of requests whose plan is remembered: variants times credentials that one connection sends at a time.
_PLANS_MAX = 64
#: Bodies (contents) under way at once whose bursts are remembered per plan.
_BODIES_MAX = 32
#: Fewer rows of one length are not worth the preparation of a burst that may never come again.
_FIXED_ROWS_MIN = 4
#: Up to so many rows of different length go one after the other: some 6 us each, against some 60 for the array calls.
_SINGLE_ROWS_MAX = 8
#: A body above this that the connection window does not hold becomes an upload instead of waiting for a window that
#: may never be so large. Half of the default window, because peers give credit when half is used.
_WAITING_BODY_BYTES_MAX = 32_767
#: Bodies in one call, so that it stays a short step of the loop: two megabytes are written in about a millisecond.
_CALL_BYTES_MAX = 1 << 21
_CALL_ROWS_MIN = 16
_NO_LENGTHS: I64 = np.zeros(0, np.int64)


class Upload:
    """The unsent rest of a body and the window of its stream."""

    __slots__ = ("rest", "window")

    def __init__(self, rest: bytes, window: int) -> None:
        self.rest = rest
        self.window = SendWindow(window)


class _Plan:
    """How header blocks of one shape are encoded. validity: (generation of the encoder's table, the peer's
    MAX_FRAME_SIZE) for which it holds. fixed: whole bursts by the shape of their bodies."""

    __slots__ = ("block", "fixed", "validity")

    def __init__(self, validity: tuple[int, int], block: template.BlockPlan) -> None:
        self.validity = validity
        self.block = block
        self.fixed: dict[template.Shape, bursts.FixedBurst] = {}


class BurstSender:
    """Owns the encoder, the connection's send window, the uploads and the stream ids."""

    def __init__(self, config: ClientConfig, peer: PeerSettings, streams: InFlight) -> None:
        self._config = config
        self._peer = peer
        self._streams = streams
        self.encoder = Encoder(table_bytes_max=config.encoder_table_bytes_max)
        self.window = SendWindow()
        self.uploads: dict[int, Upload] = {}
        self.next_id = CLIENT_STREAM_ID_FIRST
        self.sent_count = 0
        self._plans: dict[template.Shape, _Plan] = {}
        #: A call left rows behind because of a window; the owner waits for word.
        self.is_blocked = False
        #: Bytes of the connection window that the first of these rows needs.
        self._wanted_bytes = 0

    def ids_left(self) -> int:
        left = (self._config.stream_id_max - self.next_id) // 2 + 1
        return left if left > 0 else 0

    def has_window(self) -> bool:
        """Whether the row that the connection window did not hold at the last call would be taken now. False only
        while requests are under way."""
        return self.window.size >= self._wanted_bytes or self._streams.open_count == 0

    def take(self, requests: Requests, start: int, tags: I64, slots: int, deadline: float, out: OutBuffer) -> int:
        """Appends the frames of rows start.. to `out`: what slots and windows allow and makes a short step. Returns how
        many."""
        stop = min(requests.n, start + len(tags), start + slots)
        shape = template.shape_of(requests)
        width = columns.pieces_width(requests.body)
        if width:
            stop = min(stop, start + max(_CALL_ROWS_MIN, _CALL_BYTES_MAX // width))
        at = start
        warmed = 0
        self._wanted_bytes = 0
        while at < stop:
            count, lengths = self._rows_allowed(requests.body, width, at, stop)
            if count == 0:
                if not self._begin_upload(requests, at, int(tags[at - start]), deadline, out):
                    break
                at += 1
                continue
            plan = self._plan(shape, requests, may_warm=warmed < _WARMING_ROWS_MAX)
            if plan is None:
                warmed += 1
                count = 1
                lengths = lengths[:1]
            self.window.consume(int(lengths.sum()) if width is None else width * count)
            out.append(self._encode(plan, requests, at, count, width, lengths))
            self._open(tags[at - start : at - start + count], deadline, SENT)
            at += count
        return at - start

    def _encode(
        self, plan: _Plan | None, requests: Requests, at: int, count: int, width: int | None, lengths: I64
    ) -> bytes | bytearray:
        """The frames of rows at..; without a plan it is one row, which warms the table. width, lengths: of bodies."""
        frame_bytes_max = self._peer.frame_bytes_max
        if plan is None:
            block = template.warming_block(self.encoder, self._fields(requests), at)
            return bursts.request_bytes(block, columns.row_bytes(requests.body, at), self.next_id, frame_bytes_max)
        if width is not None:
            body_shape = template.pieces_shape(requests.body)
            fixed = plan.fixed.get(body_shape)
            if (
                fixed is None
                and count >= _FIXED_ROWS_MIN
                and bursts.FixedBurst.fits(plan.block, requests, frame_bytes_max)
            ):
                fixed = bursts.FixedBurst(plan.block, requests, frame_bytes_max)
                if len(plan.fixed) >= _BODIES_MAX:
                    plan.fixed.clear()
                plan.fixed[body_shape] = fixed
            if fixed is not None:
                return fixed.rows(requests, at, count, self.next_id)
        if count <= _SINGLE_ROWS_MAX:
            return b"".join(
                [
                    bursts.request_bytes(
                        template.plan_row(plan.block, requests, row),
                        columns.row_bytes(requests.body, row),
                        self.next_id + 2 * (row - at),
                        frame_bytes_max,
                    )
                    for row in range(at, at + count)
                ]
            )
        block_pieces = template.block_pieces(plan.block, requests, at, at + count)
        body = template.slice_pieces(requests.body, at, at + count)
        if width is not None:
            lengths = np.full(count, width, np.int64)
        return bursts.burst_bytes(block_pieces, body, self.next_id, lengths[:count], frame_bytes_max)

    def _fields(self, requests: Requests) -> list[template.HeaderField]:
        return template.burst_fields(requests, self.encoder, self._config.unindexed_headers)

    def _plan(self, shape: template.Shape, requests: Requests, *, may_warm: bool) -> _Plan | None:
        """The plan for requests of this shape, or None when a warming row has to go first."""
        known = self._plans.get(shape)
        validity = self.encoder.generation, self._peer.frame_bytes_max
        if known is not None and known.validity == validity and not self.encoder.has_pending_update():
            return known
        fields = self._fields(requests)
        if may_warm and not template.is_warm(self.encoder, fields):
            return None
        if len(self._plans) >= _PLANS_MAX:
            self._plans.clear()
        plan = self._plans[shape] = _Plan(validity, template.plan_block(self.encoder, fields))
        return plan

    def _open(self, tags: I64, deadline: float, state: int) -> None:
        self._streams.append(self.next_id, tags, deadline, state)
        self.next_id += 2 * len(tags)
        self.sent_count += len(tags)

    def _rows_allowed(self, body: columns.Pieces, width: int | None, start: int, stop: int) -> tuple[int, I64]:
        """(rows from start whose whole bodies both windows take now, bytes of each body where they differ).

        width: of each body if they are alike.
        """
        wanted = stop - start
        lengths = _NO_LENGTHS
        if self.uploads and any(upload.window.size > 0 for upload in self.uploads.values()):
            # It waits for the connection window, which is its by right of age.
            count = 0
        elif width is not None:
            if width == 0:
                return wanted, lengths
            count = 0 if width > self._peer.initial_window else max(0, min(wanted, self.window.size // width))
        else:
            lengths = columns.pieces_lengths(template.slice_pieces(body, start, stop), wanted)
            count = wanted
            if int(lengths.max()) > self._peer.initial_window:
                count = int(np.argmax(lengths > self._peer.initial_window))
            if int(lengths[:count].sum()) > self.window.size:
                count = int(np.searchsorted(np.cumsum(lengths[:count]), self.window.size, side="right"))
        if count < wanted:
            self.is_blocked = True
        return count, lengths[:count]

    def _begin_upload(
        self,
        requests: Requests,
        row: int,
        tag: int,
        deadline: float,
        out: OutBuffer,
    ) -> bool:
        """Opens the stream of a row whose body no window holds; False when the row has to wait."""
        body = columns.row_bytes(requests.body, row)
        initial_window = self._peer.initial_window
        # While something is under way, its credit will come; with nothing under way there may be none to come.
        may_wait = len(body) <= min(initial_window, _WAITING_BODY_BYTES_MAX) and self._streams.open_count > 0
        if may_wait and self.window.size < len(body):
            self._wanted_bytes = len(body)
        if may_wait or len(self.uploads) >= self._config.uploads_max or self.window.size <= 0:
            return False
        if any(upload.window.size > 0 for upload in self.uploads.values()):
            return False
        block = template.warming_block(self.encoder, self._fields(requests), row)
        stream_id = self.next_id
        out.append(split_block(stream_id, 0, block, self._peer.frame_bytes_max))
        self._open(np.array([tag], np.int64), deadline, UPLOADING)
        self.uploads[stream_id] = Upload(body, initial_window)
        self.pump(out)
        return True

    def pump(self, out: OutBuffer) -> None:
        """Sends what the windows now allow of the uploads, the oldest first."""
        for stream_id in list(self.uploads):
            upload = self.uploads[stream_id]
            while upload.rest:
                n = min(len(upload.rest), self.window.size, upload.window.size, self._peer.frame_bytes_max)
                if n <= 0:
                    break
                part, upload.rest = upload.rest[:n], upload.rest[n:]
                self.window.consume(n)
                upload.window.consume(n)
                out.append(frame(FrameType.DATA, 0 if upload.rest else END_STREAM, stream_id, part))
            if not upload.rest:
                del self.uploads[stream_id]
                self._streams.end_upload(self._streams.find_one(stream_id))

    def on_initial_window(self, before: int, after: int) -> None:
        """The peer changed INITIAL_WINDOW_SIZE: the windows of open uploads move by the difference (section 6.9.2).

        Raises RemoteProtocolError when one becomes too large.
        """
        for upload in self.uploads.values():
            upload.window.grow(after - before)

    def unblocked(self) -> bool:
        """True once after a window was opened that a call had waited for."""
        was_blocked, self.is_blocked = self.is_blocked, False
        return was_blocked
