"""One HTTP/2 server connection: an asyncio protocol around `h2.connection`, with room for misbehaviour.

Theory of operation. Bytes from the socket go into h2; all events of one read are taken in first (streams open, bodies
grow), and only then are the complete requests worked on, in their order. So what arrived behind a request in the same
read counts as in flight while that request is judged, as it would at a server that works in parallel.

    HEADERS --over the limit--> RST_STREAM REFUSED_STREAM (apns) or GOAWAY (fcm)
       |                  .--> RST_STREAM REFUSED_STREAM when another stream is rejected (apns, strict)
    open --END_STREAM--> waiting (latency) --> judged --> answered, reset, or left without an answer

Stream limit = the lowest of: `streams_before_auth` until the first accepted request, 1 from any rejection to the next
success (strict_streams), `streams_max`, and the limit of a fault. It is announced whenever it changes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes

from bench.simulators.exchange import Answer, Exchange, Request
from bench.simulators.fault_kinds import Goaway, Malformed, NoAnswer, RefusedStream, ResetSocket, ResetStream, TlsAbort
from bench.simulators.faults import Mode, Plan
from bench.simulators.h2_frames import LAST_STREAM_ID_MAX, goaway_frame, stream_limit_frame
from bench.simulators.h2_malformed import malformed
from bench.simulators.h2_rules import Http2Rules, Stream
from bench.simulators.sockets import Severed, end_without_notify, reset, sever

DRAIN_S = 5.0  # after a GOAWAY with open streams: how long their answers may take before the socket is closed


class Http2Connection(asyncio.Protocol):
    """One accepted connection; see the module docstring.

    Args:
        bond: the vendor's memory of this connection. is_known: the handshake has said who the client is.
        on_end: called once with this connection when it is gone.
        on_severed: takes over a socket that must stay open without FIN (half open).
    """

    def __init__(
        self,
        exchange: Exchange,
        rules: Http2Rules,
        mode: Mode,
        bond: Any,
        on_end: Callable[[Http2Connection], None],
        on_severed: Callable[[Severed], None],
        *,
        is_known: bool = False,
    ) -> None:
        self._exchange = exchange
        self._counts = exchange.counts.connection
        self._rules = rules
        self._mode = mode
        self._on_end = on_end
        self._on_severed = on_severed
        self._loop = asyncio.get_running_loop()
        self._bond = bond
        self._streams: dict[int, Stream] = {}
        self._highest_id = 0
        self._is_authenticated = is_known or rules.streams_before_auth >= rules.streams_max
        self._is_penalised = False
        self._n_errors = 0
        self._n_successes = 0
        self._last_taken_id = LAST_STREAM_ID_MAX  # streams above it are ignored: a GOAWAY has told so
        self._unacked_limits: deque[int] = deque()
        self._acked_limit = LAST_STREAM_ID_MAX
        self._limit = self._wanted_limit()
        self._pauses: set[str] = set()
        self._close_reason: str | None = None
        self._has_client_left = False
        self._is_frozen = False  # small windows: no WINDOW_UPDATE is ever sent
        self._idle_timer: asyncio.TimerHandle | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._heard_at = self._loop.time()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up and h2 was negotiated: SETTINGS go out."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self._h2 = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        initial = {
            codes.HEADER_TABLE_SIZE: self._rules.header_table_size,
            codes.MAX_CONCURRENT_STREAMS: self._limit,
            codes.INITIAL_WINDOW_SIZE: max(65_535, self._rules.initial_window_bytes),
            codes.MAX_FRAME_SIZE: self._rules.frame_bytes_max,
            codes.MAX_HEADER_LIST_SIZE: self._rules.header_list_bytes_max,
            codes.ENABLE_PUSH: 0,
        }
        self._h2.local_settings = h2.settings.Settings(client=False, initial_values=initial)
        self._h2.decoder.max_allowed_table_size = self._rules.header_table_size
        self._h2.decoder.max_header_list_size = self._rules.header_list_bytes_max
        self._h2.max_inbound_frame_size = self._rules.frame_bytes_max
        self._h2.initiate_connection()
        self._unacked_limits.append(self._limit)
        # What was announced and what h2 enforces part ways here: single streams are refused by this class.
        enforced = initial | {codes.MAX_CONCURRENT_STREAMS: LAST_STREAM_ID_MAX}
        self._h2.local_settings = h2.settings.Settings(client=False, initial_values=enforced)
        windows = self._exchange.script.on_connection(self._exchange.monotonic())
        window_bytes = self._rules.initial_window_bytes if windows is None else windows.initial
        self._is_frozen = windows is not None
        if window_bytes < 65_535:
            # A client may legally fill 65,535 bytes before it has seen SETTINGS, so the small window goes into a second
            # frame, which h2 puts in force at its acknowledgement.
            self._h2.update_settings({codes.INITIAL_WINDOW_SIZE: window_bytes})
            self._unacked_limits.append(self._limit)
        self._flush()
        self._check_idle()
        if self._mode != Mode():
            self.on_mode(self._mode)

    def data_received(self, data: bytes) -> None:
        """Take in one read, then work on the requests that became complete."""
        if self._close_reason is not None:
            return
        self._heard_at = self._loop.time()
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._flush()  # h2 has prepared the GOAWAY
            self._close(f"protocol_error {type(error).__name__}")
            return
        complete: list[int] = []
        for event in events:
            self._on_event(event, complete)
        for stream_id in complete:
            self._on_request(stream_id)
        self._flush()

    def pause_writing(self) -> None:
        """The client does not read its answers: stop reading its requests."""
        self._pause("writing")

    def resume_writing(self) -> None:
        """The client reads again."""
        self._resume("writing")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; what was open on it stays without an answer."""
        reason = self._close_reason or ("peer_closed" if exc is None else "peer_reset")
        self._close_reason = reason
        self._exchange.counts.closed[reason] += 1
        self._counts["closed"] += 1
        for timer in self._timers:
            timer.cancel()
        for stream in self._streams.values():
            if stream.timer is not None:
                stream.timer.cancel()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._streams.clear()
        self._on_end(self)

    # ---- events of h2

    def _on_event(self, event: h2.events.Event, complete: list[int]) -> None:
        match event:
            case h2.events.RequestReceived():
                self._on_headers(event)
            case h2.events.DataReceived():
                self._on_data(event)
            case h2.events.StreamEnded(stream_id=stream_id):
                stream = self._streams.get(stream_id)
                if stream is not None:
                    stream.is_complete = True
                    complete.append(stream_id)
            case h2.events.StreamReset(stream_id=stream_id):
                self._forget(stream_id)
            case h2.events.SettingsAcknowledged():
                if self._unacked_limits:
                    self._acked_limit = self._unacked_limits.popleft()
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self._send_waiting_bodies()
            case h2.events.ConnectionTerminated(error_code=code):
                if code != ErrorCodes.NO_ERROR:
                    name = code.name if isinstance(code, ErrorCodes) else str(code)
                    self._exchange.counts.client_goaways[name] += 1
                self._has_client_left = True
                self._close_when_drained("client_goaway")
            case _:
                pass

    def _on_headers(self, event: h2.events.RequestReceived) -> None:
        stream_id = event.stream_id
        self._counts["streams"] += 1
        if stream_id > self._last_taken_id:
            return
        self._highest_id = max(self._highest_id, stream_id)
        if len(self._streams) >= self._limit:
            self._on_excess_stream(stream_id)
            return
        pseudo = {}
        headers = []
        for name, value in event.headers:
            if name[:1] == b":":
                pseudo[name] = value
            else:
                headers.append((bytes(name), bytes(value)))
        method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
        if b":authority" in pseudo and not any(name == b"host" for name, _ in headers):
            headers.append((b"host", pseudo[b":authority"]))  # some vendors have it signed
        self._streams[stream_id] = Stream(
            method.decode("latin-1"), path.decode("latin-1"), tuple(headers), self._loop.time()
        )

    def _on_excess_stream(self, stream_id: int) -> None:
        is_violation = len(self._streams) >= self._acked_limit
        self._counts["stream_limit_violations"] += is_violation
        if is_violation and self._rules.excess == "goaway":
            self._send_goaway(stream_id - 2, ErrorCodes.ENHANCE_YOUR_CALM, b"exceeded_max_concurrent_streams")
            self._close_when_drained("exceeded_max_concurrent_streams")
            return
        self._refuse(stream_id)

    def _on_data(self, event: h2.events.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.body_bytes += len(event.data)
            stream.body += event.data[: self._exchange.vendor.body_bytes_max - len(stream.body)]
        if event.flow_controlled_length and not self._is_frozen:
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    # ---- requests

    def _on_request(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream_id > self._last_taken_id:
            return
        request = Request(stream.method, stream.path, stream.headers, bytes(stream.body), stream.body_bytes)
        plan = self._exchange.plan(request)
        if plan.latency_s > 0:
            stream.timer = self._loop.call_later(plan.latency_s, self._after_latency, stream_id, request, plan)
        else:
            self._judge(stream_id, request, plan)

    def _after_latency(self, stream_id: int, request: Request, plan: Plan) -> None:
        if stream_id in self._streams and self._close_reason is None:
            self._judge(stream_id, request, plan)
            self._flush()

    def _judge(self, stream_id: int, request: Request, plan: Plan) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or self._close_reason is not None:
            return
        answer = self._exchange.judge(request, self._bond, plan)
        stream.is_judged = answer is not None
        if self._has_client_left:
            # h2 sends nothing after a GOAWAY; what came before it has been taken all the same.
            self._forget(stream_id)
            return
        match plan.instead:
            case RefusedStream():
                self._refuse(stream_id)
            case ResetStream(code=code):
                self._counts["streams_reset"] += 1
                self._reset_stream(stream_id, code)
            case NoAnswer():
                pass
            case ResetSocket():
                self._counts["sockets_reset"] += 1
                self._close_reason = "fault reset_socket"
                reset(self._transport)
            case TlsAbort():
                self._close_reason = "fault tls_abort"
                end_without_notify(self._transport)
            case Malformed(form=form):
                self._write_raw(malformed(form, stream_id, self._h2.remote_settings.header_table_size))
            case Goaway() as goaway:
                self._on_goaway_fault(goaway, stream_id, request, answer)
            case _:
                assert answer is not None
                self._answer(stream_id, answer)

    def _answer(self, stream_id: int, answer: Answer) -> None:
        self._send_answer(stream_id, answer)
        if answer.is_success:
            self._n_successes += 1
            self._is_authenticated = True
            self._is_penalised = False
        elif self._rules.is_strict:
            self._is_penalised = True
            self._refuse_excess()
        self._announce_limit()
        if answer.status in range(400, 500) and answer.status != 410:
            self._n_errors += 1
            if 0 < self._rules.errors_until_disconnect <= self._n_errors:
                self._send_goaway(self._highest_id, ErrorCodes.NO_ERROR, b"")
                self._close_when_drained("too_many_errors")
        if answer.is_bond_broken:
            self._send_goaway(self._highest_id, ErrorCodes.NO_ERROR, b"")
            self._close_when_drained("bond_broken")

    def _send_answer(self, stream_id: int, answer: Answer) -> None:
        form = self._rules.success_form
        is_empty_data = form == "data" or (form == "mixed" and self._n_successes % 2 == 1)
        is_headers_only = not answer.body and not (answer.is_success and is_empty_data)
        headers = [(b":status", b"%d" % answer.status), *answer.headers]
        self._h2.send_headers(stream_id, headers, end_stream=is_headers_only)
        if is_headers_only:
            self._forget(stream_id)
        else:
            self._streams[stream_id].answer_left = answer.body
            self._send_body(stream_id)

    def _send_body(self, stream_id: int) -> None:
        """Send as much of the answer's body as both windows and the frame size allow."""
        left = self._streams[stream_id].answer_left
        while left is not None:
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if room < 1 and left:
                break
            piece, left = left[:room], left[room:]
            self._h2.send_data(stream_id, piece, end_stream=not left)
            if not left:
                self._forget(stream_id)
                return
        self._streams[stream_id].answer_left = left

    def _send_waiting_bodies(self) -> None:
        for stream_id in [key for key, stream in self._streams.items() if stream.answer_left is not None]:
            self._send_body(stream_id)

    # ---- limits

    def _wanted_limit(self) -> int:
        limit = self._rules.streams_max
        if not self._is_authenticated:
            limit = min(limit, self._rules.streams_before_auth)
        if self._is_penalised:
            limit = min(limit, 1)
        if self._mode.stream_limit is not None:
            limit = min(limit, self._mode.stream_limit)
        return limit

    def _announce_limit(self) -> None:
        limit = self._wanted_limit()
        if limit != self._limit and self._close_reason is None:
            self._limit = limit
            self._counts["settings_changes"] += 1
            self._unacked_limits.append(limit)
            self._write_raw(stream_limit_frame(limit))

    def _refuse_excess(self) -> None:
        """After a rejection all but the oldest open stream are reset; those already judged are still answered."""
        waiting = [stream_id for stream_id, stream in self._streams.items() if not stream.is_judged]
        for stream_id in waiting[1:]:
            self._refuse(stream_id)

    def _refuse(self, stream_id: int) -> None:
        self._counts["streams_refused"] += 1
        self._reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)

    def _reset_stream(self, stream_id: int, code: int) -> None:
        self._forget(stream_id)
        try:
            self._h2.reset_stream(stream_id, code)
        except h2.exceptions.StreamClosedError:
            return  # the client has reset it in the same read

    # ---- going away

    def _on_goaway_fault(self, fault: Goaway, stream_id: int, request: Request, answer: Answer | None) -> None:
        data = self._exchange.vendor.goaway_data(fault.reason)
        if fault.form == "zero":
            self._send_goaway(0, ErrorCodes.NO_ERROR, data)
            self._close("fault goaway_zero")
            return
        assert answer is not None
        match fault.form:
            case "graceful":
                self._write_raw(goaway_frame(LAST_STREAM_ID_MAX, ErrorCodes.NO_ERROR, data))
                self._counts["goaways_sent"] += 1
                self._later(fault.grace_ms / 1000, self._finish_graceful, data)
                self._answer(stream_id, answer)
            case "double":
                self._write_raw(goaway_frame(LAST_STREAM_ID_MAX, ErrorCodes.NO_ERROR, data))
                self._counts["goaways_sent"] += 1
                self._send_goaway(stream_id, ErrorCodes.NO_ERROR, data)
                self._answer(stream_id, answer)
                self._close_when_drained("fault goaway_double")
            case "abrupt":
                # Those that wait below are taken (recorded) but their answers are lost: the client cannot know.
                below = [(key, stream) for key, stream in self._streams.items() if key < stream_id]
                for key, stream in below:
                    if stream.is_complete and not stream.is_judged:
                        stream.is_judged = True
                        waiting = Request(
                            stream.method, stream.path, stream.headers, bytes(stream.body), stream.body_bytes
                        )
                        self._exchange.judge(waiting, self._bond, Plan())
                    self._forget(key)
                self._send_goaway(stream_id, ErrorCodes.NO_ERROR, data)
                self._close("fault goaway_abrupt")

    def _finish_graceful(self, data: bytes) -> None:
        if self._close_reason is None:
            self._send_goaway(self._highest_id, ErrorCodes.NO_ERROR, data)
            self._close_when_drained("fault goaway_graceful")
            self._flush()

    def _send_goaway(self, last_stream_id: int, code: int, data: bytes) -> None:
        """GOAWAY is sent; streams above `last_stream_id` are ignored from now on, as if they had never come."""
        self._counts["goaways_sent"] += 1
        self._last_taken_id = max(0, last_stream_id)
        self._write_raw(goaway_frame(self._last_taken_id, code, data))
        for stream_id in [key for key in self._streams if key > self._last_taken_id]:
            self._forget(stream_id)

    def _close_when_drained(self, reason: str) -> None:
        if not self._streams:
            self._loop.call_soon(self._close, reason)  # after the answer of this very read has been flushed
        else:
            self._later(0.01, self._close_if_drained, reason, self._loop.time() + DRAIN_S)

    def _close_if_drained(self, reason: str, deadline: float) -> None:
        if not self._streams or self._loop.time() >= deadline:
            self._close(reason)
        else:
            self._later(0.01, self._close_if_drained, reason, deadline)

    def shut_down(self) -> None:
        """The simulator ends: a GOAWAY in the vendor's form; the socket is closed once drained."""
        if self._close_reason is None:
            self._send_goaway(self._highest_id, ErrorCodes.NO_ERROR, self._exchange.vendor.goaway_data("Shutdown"))
            self._close_when_drained("shutdown")

    def abort(self) -> None:
        """The socket is closed now, whatever is open."""
        self._close_reason = self._close_reason or "aborted"
        self._transport.abort()

    def _close(self, reason: str) -> None:
        if self._close_reason is None:
            self._flush()
            self._close_reason = reason
            self._transport.close()

    # ---- modes, timers, small organs

    def on_mode(self, mode: Mode) -> None:
        """The simulator is held in another state from now on."""
        self._mode = mode
        if self._close_reason is not None:
            return
        if mode.is_half_open:
            self._close_reason = "fault half_open"
            self._on_severed(sever(self._transport))
            return
        if mode.is_reading_stopped:
            self._pause("fault")
        else:
            self._resume("fault")
        self._announce_limit()

    def _pause(self, cause: str) -> None:
        if not self._pauses:
            self._transport.pause_reading()
        self._pauses.add(cause)

    def _resume(self, cause: str) -> None:
        if cause in self._pauses:
            self._pauses.remove(cause)
            if not self._pauses and not self._transport.is_closing():
                self._transport.resume_reading()

    def _check_idle(self) -> None:
        """Streams whose body stays away end with the vendor's idle answer; a connection without streams may close."""
        now = self._loop.time()
        rules = self._rules
        for stream_id, stream in list(self._streams.items()):
            if not stream.is_complete and now - stream.opened_at >= rules.idle_stream_s > 0:
                request = Request(stream.method, stream.path, stream.headers, bytes(stream.body), stream.body_bytes)
                self._answer(stream_id, self._exchange.idle(request))
        if rules.idle_close_s > 0 and not self._streams and now - self._heard_at >= rules.idle_close_s:
            self._send_goaway(self._highest_id, ErrorCodes.NO_ERROR, b"")
            self._close("idle")
        self._flush()
        waits = [wait for wait in (rules.idle_stream_s, rules.idle_close_s) if wait > 0]
        if waits and self._close_reason is None:
            self._idle_timer = self._loop.call_later(min(waits) / 4, self._check_idle)

    def _later(self, delay_s: float, action: Callable[..., None], *args: Any) -> None:
        def run() -> None:
            self._timers.discard(timer)
            if self._close_reason is None:
                action(*args)

        timer = self._loop.call_later(delay_s, run)
        self._timers.add(timer)

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None and stream.timer is not None:
            stream.timer.cancel()

    def _write_raw(self, frame: bytes) -> None:
        self._flush()
        if not self._transport.is_closing():
            self._transport.write(frame)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)
