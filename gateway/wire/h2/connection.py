"""The client side of one HTTP/2 connection, sans-IO: what concerns the connection as a whole.

Theory of operation. The owner offers rows (`send_requests`), writes what `data_to_send` gives, feeds what it reads
(`receive_data`), and calls `on_deadline` when `next_deadline` is reached. Every tag it gave comes back exactly once
(events.py). The connection passes through

    opening --SETTINGS--> open --GOAWAY, drain, ids used up--> draining --last stream ends--> terminated
       |                    |                                     |
       +--------------------+----- fault, silence, lost, close ---+---------------------------> terminated

Faults of the peer are values: a GOAWAY with the right code waits in `data_to_send` and `Terminated` is the last event.
Source: RFC 9113; docs/http2.md maps each requirement to its place and test.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np

from gateway.columns import I64
from gateway.errors import CloseReason, LocalProtocolError, RemoteProtocolError
from gateway.vendor import Requests
from gateway.wire.h2.answers import AnswerCollector
from gateway.wire.h2.events import (
    Event,
    GoingAway,
    Refused,
    RefusedWhy,
    SettingsChanged,
    Terminated,
    TimedOut,
    Writable,
)
from gateway.wire.h2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_BYTES,
    PREFACE,
    STREAM_ID_MAX,
    WINDOW_DEFAULT,
    ErrorCode,
    FrameType,
    goaway,
    ping,
    rst_stream,
    settings_ack,
    settings_frame,
    window_update,
)
from gateway.wire.h2.inflight import InFlight
from gateway.wire.h2.outbuffer import OutBuffer
from gateway.wire.h2.reader import BlockAssembly, strip_padding, strip_priority
from gateway.wire.h2.responses import HeadDecoder, Reported
from gateway.wire.h2.runs import RunFinder
from gateway.wire.h2.sender import BurstSender
from gateway.wire.h2.settings import ClientConfig, PeerSettings
from gateway.wire.hpack.decoder import Decoder

#: Kept of a GOAWAY's debug data; APNs puts a short JSON object there.
_DEBUG_DATA_BYTES_MAX = 1024
_PING_OPAQUE = b"pushgw\x00\x01"


class Statistics(NamedTuple):
    """One connection at one moment. Windows in bytes, tables in bytes as RFC 7541 counts them."""

    open_streams: int
    capacity: int
    is_draining: bool
    is_terminated: bool
    sent: int
    answered: int
    uploads: int
    next_stream_id: int
    send_window: int
    receive_window: int
    unsent_bytes: int
    peer_streams_max: int | None
    encoder_table_bytes: int
    encoder_generation: int
    decoder_table_bytes: int
    decoder_generation: int
    blocks_decoded: int
    late_frames: int


class ClientConnection:
    """Not reentrant; owned by one actor. `now` is monotonic seconds."""

    def __init__(self, *, config: ClientConfig, now: float) -> None:
        self._config = config
        self._peer = PeerSettings()
        self._streams = InFlight()
        self._out = OutBuffer(config.control_frames_max)
        self._sender = BurstSender(config, self._peer, self._streams)
        decoder = Decoder(header_list_bytes_max=config.header_list_bytes_max)
        self._heads = HeadDecoder(decoder, Reported(config.keep_headers, config.ignored_headers))
        self._finder = RunFinder(config.frame_bytes_max)
        self._collector = AnswerCollector(config, self._streams, self._heads, self._sender.uploads, self._out)
        self._rest = b""
        self._assembly: BlockAssembly | None = None
        #: When our SETTINGS must be acknowledged; infinite once they are.
        self._settings_deadline = now + config.settings_timeout_s
        self._taken_id = 0
        self._drain_reason: CloseReason | None = None
        self._goaway_last_id = STREAM_ID_MAX
        self._is_terminated = False
        self._last_received = now
        self._ping_sent: float | None = None
        #: When the uploads under way last got credit, or the first of them began.
        self._credited = now
        self._out.append(PREFACE + settings_frame(config.announced()))
        if config.connection_window_bytes > WINDOW_DEFAULT:
            self._out.append(window_update(0, config.connection_window_bytes - WINDOW_DEFAULT))

    # Asking

    def capacity(self) -> int:
        """Requests that may be started now. Windows count only after a call that left a row behind for want of the
        connection's: it is 0 until that row would fit. `send_requests` may take fewer."""
        if self._is_terminated or self._drain_reason is not None:
            return 0
        if self._config.is_settings_awaited and not self._peer.is_known:
            return 0
        if not self._sender.has_window():
            return 0
        limit, peer_limit = self._config.streams_max, self._peer.streams_max
        if peer_limit is not None and peer_limit < limit:
            limit = peer_limit
        room, ids_left = limit - self._streams.open_count, self._sender.ids_left()
        # Asked several times per burst, so without min and max.
        room = room if room < ids_left else ids_left
        return room if room > 0 else 0

    def open_streams(self) -> int:
        return self._streams.open_count

    def sent_count(self) -> int:
        """Requests whose frames were made so far."""
        return self._sender.sent_count

    def send_window(self) -> int:
        """Bytes that the connection's window still allows."""
        return self._sender.window.size

    def unsent_bytes(self) -> int:
        return self._out.size

    def is_leaving(self) -> bool:
        """No further request will ever be taken: it drains, by our wish or by GOAWAY, or it is over."""
        return self._drain_reason is not None or self._is_terminated

    def is_terminated(self) -> bool:
        return self._is_terminated

    def next_deadline(self) -> float:
        """When `on_deadline` wants to be called; infinite after the end. Asked after every other call."""
        if self._is_terminated:
            return math.inf
        return min(
            self._streams.next_deadline(), self._liveness_deadline(), self._settings_deadline, self._credit_deadline()
        )

    def statistics(self) -> Statistics:
        return Statistics(
            open_streams=self._streams.open_count,
            capacity=self.capacity(),
            is_draining=self._drain_reason is not None,
            is_terminated=self._is_terminated,
            sent=self._sender.sent_count,
            answered=self._collector.answered_count,
            uploads=len(self._sender.uploads),
            next_stream_id=self._sender.next_id,
            send_window=self._sender.window.size,
            receive_window=self._collector.window.left,
            unsent_bytes=self._out.size,
            peer_streams_max=self._peer.streams_max,
            encoder_table_bytes=self._sender.encoder.table_bytes,
            encoder_generation=self._sender.encoder.generation,
            decoder_table_bytes=self._heads.decoder.table_bytes,
            decoder_generation=self._heads.decoder.generation,
            blocks_decoded=self._heads.decoded_count,
            late_frames=self._collector.late_frame_count,
        )

    # Sending

    def send_requests(self, requests: Requests, start: int, tags: I64, *, now: float, deadline: float) -> int:
        """Rows start.. are in the out-buffer as far as streams and windows reach; returns how many.

        tags: (m,) int64, of rows start, start + 1, ...; opaque, distinct while open. deadline: monotonic s, of each of
        them. When fewer rows are taken than `capacity` had, and none is left, a `Writable` event tells when to offer
        the rest.
        Raises LocalProtocolError for a deadline that is not after now.
        """
        if not deadline > now:
            raise LocalProtocolError(f"deadline is {deadline - now:g} s from now, must be after now")
        slots = self.capacity()
        if slots == 0 or start >= requests.n or len(tags) == 0:
            return 0
        if not self._sender.uploads:
            self._credited = now
        taken = self._sender.take(requests, start, tags, slots, deadline, self._out)
        if self._sender.ids_left() == 0:
            self._drain_reason = CloseReason.STREAM_IDS_EXHAUSTED
        return taken

    def data_to_send(self) -> bytes | bytearray:
        """All bytes waiting; they count as sent from now on and are the caller's."""
        self._taken_id = self._sender.next_id - 2
        return self._out.take()

    # Receiving

    def receive_data(self, data: bytes, *, now: float) -> list[Event]:
        """What the bytes mean. Never raises for a fault of the peer; after `Terminated` bytes are ignored."""
        if self._is_terminated:
            return []
        self._last_received = now
        self._ping_sent = None
        try:
            self._read_frames(self._rest + data if self._rest else data)
        except RemoteProtocolError as error:
            return self._fail(error)
        return self._collector.take_events()

    def _read_frames(self, buffer: bytes) -> None:
        at = 0
        end = len(buffer)
        plain_until = 0
        frame_bytes_max = self._config.frame_bytes_max
        while end - at >= FRAME_HEADER_BYTES and not self._is_terminated:
            length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            if length > frame_bytes_max:
                text = f"frame of {length} bytes, limit {frame_bytes_max}"
                raise RemoteProtocolError(text, wire_code=ErrorCode.FRAME_SIZE_ERROR)
            next_at = at + FRAME_HEADER_BYTES + length
            if next_at > end:
                break
            frame_type = buffer[at + 3]
            stream_id = int.from_bytes(buffer[at + 5 : at + 9], "big") & STREAM_ID_MAX
            if (
                frame_type <= FrameType.HEADERS
                and at >= plain_until
                and self._assembly is None
                and self._peer.is_known
                and (run := self._finder.find(buffer, at, length)) is not None
            ):
                self._collector.check_stream(stream_id, self._sender.next_id)
                taken = self._collector.on_run(run)
                self._finder.report(run, taken)
                if taken is not None:
                    at = taken.end
                else:
                    # The rest goes one by one: looking for a run at each frame would compare the stretch over again.
                    plain_until = run.end
                    at = next_at
            else:
                self._on_frame(frame_type, buffer[at + 4], stream_id, buffer[at + FRAME_HEADER_BYTES : next_at])
                at = next_at
            if self._drain_reason is not None:
                self._finish_draining()
        self._rest = buffer[at:] if at else buffer

    def _on_frame(self, frame_type: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._peer.is_known and (frame_type != FrameType.SETTINGS or flags & ACK):
            raise _protocol_error("the first frame is not SETTINGS")
        if self._assembly is not None and (
            frame_type != FrameType.CONTINUATION or stream_id != self._assembly.stream_id
        ):
            raise _protocol_error("a header block is interrupted by another frame")
        match frame_type:
            case FrameType.DATA:
                self._collector.check_stream(stream_id, self._sender.next_id)
                data = strip_padding(flags, payload)
                self._collector.on_data(stream_id, data, len(payload), has_end=bool(flags & END_STREAM))
            case FrameType.HEADERS:
                self._on_headers(flags, stream_id, payload)
            case FrameType.CONTINUATION:
                self._on_continuation(flags, payload)
            case FrameType.PRIORITY:
                self._on_priority(stream_id, payload)
            case FrameType.RST_STREAM:
                self._collector.check_stream(stream_id, self._sender.next_id)
                self._collector.on_reset(stream_id, _number(payload, "RST_STREAM"))
            case FrameType.SETTINGS:
                self._on_settings(flags, stream_id, payload)
            case FrameType.PUSH_PROMISE:
                raise _protocol_error("PUSH_PROMISE, though push is off")
            case FrameType.PING:
                self._on_ping(flags, stream_id, payload)
            case FrameType.GOAWAY:
                self._on_goaway(stream_id, payload)
            case FrameType.WINDOW_UPDATE:
                self._on_window_update(stream_id, _number(payload, "WINDOW_UPDATE"))
            case _:
                pass  # unknown frames are ignored (section 5.5)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._collector.check_stream(stream_id, self._sender.next_id)
        fragment = strip_priority(flags, strip_padding(flags, payload))
        if flags & END_HEADERS and len(fragment) <= self._config.header_block_bytes_max:
            self._collector.on_headers(stream_id, fragment, has_end=bool(flags & END_STREAM))
            return
        self._assembly = BlockAssembly(stream_id, flags, self._config.header_block_bytes_max)
        self._assembly.add(fragment)

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        assembly = self._assembly
        if assembly is None:
            raise _protocol_error("CONTINUATION without HEADERS")
        assembly.add(payload)
        if flags & END_HEADERS:
            self._assembly = None
            has_end = bool(assembly.flags & END_STREAM)
            self._collector.on_headers(assembly.stream_id, assembly.block(), has_end=has_end)

    def _on_priority(self, stream_id: int, payload: bytes) -> None:
        if stream_id == 0:
            raise _protocol_error("PRIORITY on stream 0")
        if len(payload) != 5:
            # A stream error (section 6.3); of a stream that is not open there is nothing to reset.
            position = self._streams.find_one(stream_id)
            if position >= 0:
                self._collector.reset_stream(stream_id, position, ErrorCode.FRAME_SIZE_ERROR)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id != 0:
            raise _protocol_error(f"SETTINGS on stream {stream_id}")
        if len(payload) % 6 or (flags & ACK and payload):
            raise RemoteProtocolError(f"SETTINGS of {len(payload)} bytes", wire_code=ErrorCode.FRAME_SIZE_ERROR)
        if flags & ACK:
            if self._settings_deadline != math.inf:
                self._settings_deadline = math.inf
                self._collector.on_settings_acknowledged()
            return
        window_before = self._peer.initial_window
        for size in self._peer.apply(payload):
            self._sender.encoder.set_peer_limit(size)
        self._sender.on_initial_window(window_before, self._peer.initial_window)
        self._out.answer(settings_ack())
        self._collector.emit(
            SettingsChanged(
                self._peer.streams_max,
                self._peer.initial_window,
                self._peer.frame_bytes_max,
                self._peer.header_table_bytes,
            )
        )
        self._on_window_opened()

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id != 0:
            raise _protocol_error(f"PING on stream {stream_id}")
        if len(payload) != 8:
            raise RemoteProtocolError(f"PING of {len(payload)} bytes", wire_code=ErrorCode.FRAME_SIZE_ERROR)
        if not flags & ACK:
            self._out.answer(ping(payload, is_ack=True))

    def _on_goaway(self, stream_id: int, payload: bytes) -> None:
        """Streams above last_stream_id go back as refused (section 6.8). A second GOAWAY may lower the id, not raise
        it; one that raises it is taken as the first, because what was given back stays given back."""
        if stream_id != 0:
            raise _protocol_error(f"GOAWAY on stream {stream_id}")
        if len(payload) < 8:
            raise RemoteProtocolError(f"GOAWAY of {len(payload)} bytes", wire_code=ErrorCode.FRAME_SIZE_ERROR)
        last_id, code = struct.unpack_from(">LL", payload)
        self._goaway_last_id = min(self._goaway_last_id, last_id & STREAM_ID_MAX)
        self._drain_reason = CloseReason.GOAWAY
        debug_data = payload[8 : 8 + _DEBUG_DATA_BYTES_MAX]
        self._collector.emit(GoingAway(last_id & STREAM_ID_MAX, code, debug_data))
        above = self._streams.open_above(self._goaway_last_id)
        if len(above):
            self._collector.end_without_answer(above, lambda tags: Refused(tags, RefusedWhy.GOAWAY_ABOVE))

    def _on_window_update(self, stream_id: int, increment: int) -> None:
        """A window grows (section 6.9). Only uploads have a stream window that anyone waits for."""
        increment &= STREAM_ID_MAX
        if stream_id == 0:
            if increment == 0:
                raise _protocol_error("WINDOW_UPDATE by 0")
            self._sender.window.grow(increment)
            self._on_window_opened()
            return
        self._collector.check_stream(stream_id, self._sender.next_id)
        position = self._streams.find_one(stream_id)
        if position < 0:
            return
        if increment == 0:
            self._collector.reset_stream(stream_id, position, ErrorCode.PROTOCOL_ERROR)
            return
        upload = self._sender.uploads.get(stream_id)
        if upload is None:
            return
        try:
            upload.window.grow(increment)
        except RemoteProtocolError:
            self._collector.reset_stream(stream_id, position, ErrorCode.FLOW_CONTROL_ERROR)
            return
        self._on_window_opened()

    def _on_window_opened(self) -> None:
        self._credited = self._last_received
        self._sender.pump(self._out)
        if self._sender.unblocked() and self._drain_reason is None:
            self._collector.emit(Writable())

    # Time

    def _liveness_deadline(self) -> float:
        if self._ping_sent is not None:
            return self._ping_sent + self._config.ping_timeout_s
        return self._last_received + self._config.ping_idle_s

    def _credit_deadline(self) -> float:
        return self._credited + self._config.window_timeout_s if self._sender.uploads else math.inf

    def on_deadline(self, now: float) -> list[Event]:
        """Requests past their deadline are cancelled; a peer that gives no credit is left as soon as it has answered
        what it has; a silent peer is asked, and given up when it stays silent or does not acknowledge our SETTINGS."""
        if self._is_terminated:
            return []
        if now >= self._credit_deadline():
            self._give_up_uploads()
        late = self._streams.expired(now)
        if len(late):
            for stream_id in self._streams.ids[late].tolist():
                self._out.append(rst_stream(stream_id, ErrorCode.CANCEL))
            self._collector.end_without_answer(late, TimedOut)
        if now >= self._settings_deadline:
            text = f"SETTINGS not acknowledged in {self._config.settings_timeout_s:g} s"
            self._out.append(goaway(0, ErrorCode.SETTINGS_TIMEOUT, text.encode()))
            return self._terminate(CloseReason.LIVENESS_TIMEOUT, ErrorCode.SETTINGS_TIMEOUT, text)
        if now >= self._liveness_deadline():
            if self._ping_sent is not None:
                self._out.append(goaway(0, ErrorCode.NO_ERROR))
                return self._terminate(CloseReason.LIVENESS_TIMEOUT, text="no answer to PING")
            self._ping_sent = now
            self._out.append(ping(_PING_OPAQUE, is_ack=False))
        self._finish_draining()
        return self._collector.take_events()

    def _give_up_uploads(self) -> None:
        """The unfinished requests go back: nobody can act on a body that is cut off. The windows are as good as shut
        for all others, so the connection drains."""
        stalled = np.array([self._streams.find_one(stream_id) for stream_id in self._sender.uploads], np.int64)
        for stream_id in self._sender.uploads:
            self._out.append(rst_stream(stream_id, ErrorCode.CANCEL))
        self._collector.end_without_answer(np.sort(stalled), lambda tags: Refused(tags, RefusedWhy.UNFINISHED))
        if self._drain_reason is None:
            self._drain_reason = CloseReason.WINDOW_STALLED

    # Ends

    def drain(self, reason: CloseReason = CloseReason.SHUTDOWN) -> list[Event]:
        """No new requests; the connection ends with `reason` when the open ones have ended."""
        if not self._is_terminated and self._drain_reason is None:
            self._drain_reason = reason
        self._finish_draining()
        return self._collector.take_events()

    def close(self, reason: CloseReason = CloseReason.SHUTDOWN) -> list[Event]:
        """The connection is over now; a GOAWAY waits to be sent."""
        if self._is_terminated:
            return []
        return self._terminate(reason, goodbye=goaway(0, ErrorCode.NO_ERROR))

    def connection_lost(self, reason: CloseReason) -> list[Event]:
        """The transport is gone. After a GOAWAY that is what was announced."""
        if self._is_terminated:
            return []
        if self._goaway_last_id != STREAM_ID_MAX and reason in {CloseReason.PEER_CLOSED, CloseReason.PEER_RESET}:
            reason = CloseReason.GOAWAY
        return self._terminate(reason)

    def _finish_draining(self) -> None:
        if not self._is_terminated and self._drain_reason is not None and self._streams.open_count == 0:
            self._end(self._drain_reason, 0, "", goaway(0, ErrorCode.NO_ERROR))

    def _fail(self, error: RemoteProtocolError) -> list[Event]:
        goodbye = goaway(0, error.wire_code, str(error).encode())
        return self._terminate(CloseReason.PROTOCOL_ERROR, error.wire_code, str(error), goodbye)

    def _terminate(self, reason: CloseReason, code: int = 0, text: str = "", goodbye: bytes = b"") -> list[Event]:
        self._end(reason, code, text, goodbye)
        return self._collector.take_events()

    def _end(self, reason: CloseReason, code: int, text: str, goodbye: bytes) -> None:
        """Every open stream ends: what no `data_to_send` has given out was surely not processed, and must not go out
        with the last frame either."""
        refused = self._streams.close(self._streams.open_above(self._taken_id))
        if len(refused):
            self._out.take()
        if goodbye:
            self._out.append(goodbye)
        uncertain = self._collector.end_early(self._streams.open_positions())
        self._collector.forget()
        self._is_terminated = True
        self._rest = b""
        self._collector.emit(Terminated(reason, refused, uncertain, code, text))


def _protocol_error(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(text, wire_code=ErrorCode.PROTOCOL_ERROR)


def _number(payload: bytes, name: str) -> int:
    """The one 32-bit number that is the payload."""
    if len(payload) != 4:
        raise RemoteProtocolError(f"{name} of {len(payload)} bytes", wire_code=ErrorCode.FRAME_SIZE_ERROR)
    return int.from_bytes(payload, "big")
