"""ServerSession: the server's side of one RPC connection, sans-IO.

    receive_data(data, now) -> events      send(message), grant(rows, bytes)      data_to_send() -> bytes
    next_deadline(), on_deadline(now)      begin_shutdown(), end(reason)          close_reason

Theory of operation. The phase moves by the literal table of server_table.py; a pair that is not in it is a bug of ours
(LocalProtocolError). Whatever the peer sends ends in events, an `error` frame, or both an `error` frame and one close
reason; nothing else is raised (fuzz law).

Credit: a submit costs its n rows and its payload's bytes. An `error` answer gives them back at once; after `submitted`
the actor gives room with `grant` when it has some. Both sides keep the same account.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from gateway.content import Fault
from gateway.errors import CloseReason, LocalProtocolError, Overloaded
from gateway.ledger import Channel, Reason, Receipt, State
from gateway.wire.rpc import codec, proof
from gateway.wire.rpc.faults import BadRequest, Code
from gateway.wire.rpc.framing import FrameReader, FrameTooLarge, frame
from gateway.wire.rpc.limits import FRAME_BYTES_MAX_BEFORE_HELLO, RpcLimits
from gateway.wire.rpc.messages import (
    APP_ONLY,
    OPERATOR_ONLY,
    U32_MAX,
    Answer,
    Cancel,
    Challenge,
    CodeNames,
    Credit,
    Error,
    Hello,
    Limits,
    Message,
    Ping,
    Pong,
    Request,
    StreamEnded,
    StreamPage,
    StreamRequest,
    Submit,
    Welcome,
)
from gateway.wire.rpc.refusal import refusal
from gateway.wire.rpc.server_table import TRANSITIONS, Action, Input, Phase, Step


class HelloAccepted(NamedTuple):
    """The peer has proven who it is. app_key is "" for operators. secret_index: which of the secrets looked up
    was used; -1 where none was needed."""

    app_key: str
    role: Literal["app", "operator"]
    secret_index: int = -1


class Requested(NamedTuple):
    """A request to answer exactly once with `send` (a stream: when it ends).

    payload_bytes: what it costs in credit_bytes. content_faults: contents of a submit that could not be read.
    """

    message: Request
    payload_bytes: int
    content_faults: Mapping[int, Fault]


class StreamCredited(NamedTuple):
    """The client has room for so many further rows of its stream."""

    id: int
    rows: int


class StreamCancelled(NamedTuple):
    """The client wants no more of this stream; `stream_ended` has been answered."""

    id: int


class Closed(NamedTuple):
    """The connection ends: send what is to send, then close it. The last event of a session."""

    reason: CloseReason
    code: Code | None
    text: str


Event: TypeAlias = HelloAccepted | Requested | StreamCredited | StreamCancelled | Closed
LookUpSecret: TypeAlias = Callable[[str], Sequence[bytes]]


def _table(values: type[enum.IntEnum], unnamed: int | None = None) -> list[str]:
    """Names by code, "" where a code is not in use. unnamed: the code that means "none"."""
    names = [""] * (max(values) + 1)
    for value in values:
        names[value] = "" if value == unnamed else value.name.lower()
    return names


CODE_NAMES = CodeNames(
    states=_table(State), reasons=_table(Reason, 0), channels=_table(Channel, 0), receipts=_table(Receipt)
)
_NO_FAULTS: Mapping[int, Fault] = {}
_HELLO_FIRST = "hello has to come first"
#: The phase in which a request is admitted and nothing else changes.
(_ADMITTING,) = (phase for phase in Phase if TRANSITIONS.get((phase, Input.REQUEST)) == Step(Action.ADMIT, phase))


class ServerSession:
    """One connection. Owned by one actor; not for concurrent use.

    lookup_secret: app key -> the secrets that are valid now (several while one is rotated), [] for an unknown app;
    for "" the admin keys. nonce: 32 fresh random bytes. has_trusted_peer: the operator's Unix socket, whose file mode
    guards it. A silent session takes about 350 bytes, its nonce included (a test bounds it).
    """

    __slots__ = (
        "_credit_bytes",
        "_credit_rows",
        "_end_fault",
        "_frame_deadline",
        "_has_trusted_peer",
        "_hello_deadline",
        "_in_flight",
        "_limits",
        "_lookup_secret",
        "_nonce",
        "_out",
        "_out_bytes",
        "_phase",
        "_reader",
        "_streams",
        "app_key",
        "close_reason",
        "name",
        "role",
    )

    def __init__(
        self,
        limits: RpcLimits,
        *,
        lookup_secret: LookUpSecret,
        nonce: bytes,
        now: float,
        name: str = "",
        has_trusted_peer: bool = False,
    ) -> None:
        self._limits = limits
        self._lookup_secret = lookup_secret
        self._nonce = nonce
        self._has_trusted_peer = has_trusted_peer
        self._phase = Phase.GREETING
        self._reader = FrameReader(min(limits.frame_bytes_max, FRAME_BYTES_MAX_BEFORE_HELLO))
        self._hello_deadline = now + limits.hello_timeout_s
        self._frame_deadline = math.inf
        self._credit_rows = limits.credit_rows
        self._credit_bytes = limits.credit_bytes
        #: Requests without an answer: id -> (rows, bytes) of credit they hold. None until there is one.
        self._in_flight: dict[int, tuple[int, int]] | None = None
        #: Streams: id -> rows the client has room for.
        self._streams: dict[int, int] | None = None
        self._end_fault: tuple[Code | None, str] = (None, "")
        self.name = name
        self.app_key = ""
        self.role: Literal["app", "operator"] | None = None
        self.close_reason: CloseReason | None = None
        challenge = Challenge(version=proof.VERSION, nonce=nonce, frame_bytes_max=self._reader.frame_bytes_max)
        self._out: list[bytes] | None = None
        self._out_bytes = 0
        self._append(frame(codec.encode(challenge)))

    # --- what the actor asks -----------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def open_requests(self) -> int:
        """Requests that still wait for their answer, streams included."""
        return len(self._in_flight) if self._in_flight else 0

    @property
    def pending_bytes(self) -> int:
        """Bytes that data_to_send() would give: the actor bounds them and ends a slow consumer."""
        return self._out_bytes

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished frame: the actor bounds them over all its connections."""
        return self._reader.buffered_bytes

    def stream_credit(self, stream_id: int) -> int:
        """Rows of pages that may be sent on the stream now; 0 for a stream that is gone."""
        return self._streams.get(stream_id, 0) if self._streams else 0

    def data_to_send(self) -> bytes:
        """Everything written since the last call."""
        if not self._out:
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out = None
        self._out_bytes = 0
        return data

    def next_deadline(self) -> float:
        """Monotonic time at which on_deadline must be called; infinity when nothing is awaited."""
        if self._phase is Phase.CLOSED:
            return math.inf
        if self._phase is Phase.GREETING:
            return min(self._hello_deadline, self._frame_deadline)
        return self._frame_deadline

    # --- what happens ------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> list[Event]:
        """Takes bytes from the peer; never raises for what they hold. After the end they are ignored."""
        events: list[Event] = []
        if self._phase is Phase.CLOSED:
            return events
        self._reader.feed(data)
        had_partial = self._reader.has_partial
        while True:
            try:
                payload = self._reader.next_payload()
            except FrameTooLarge as error:
                self._input(Input.TOO_LARGE, events, text=str(error))
                break
            if payload is None:
                break
            had_partial = False
            self._on_payload(payload, events)
            if self.close_reason is not None:
                break
        if not self._reader.has_partial:
            self._frame_deadline = math.inf
        elif not had_partial:
            self._frame_deadline = now + self._limits.frame_timeout_s
        return events

    def on_deadline(self, now: float) -> list[Event]:
        """The time of next_deadline() has come."""
        events: list[Event] = []
        if self._phase is Phase.GREETING and now >= self._hello_deadline:
            self._input(Input.HELLO_TIMEOUT, events, text=f"no hello within {self._limits.hello_timeout_s:g} s")
        elif now >= self._frame_deadline and self._phase is not Phase.CLOSED:
            self._input(
                Input.FRAME_TIMEOUT, events, text=f"a frame took longer than {self._limits.frame_timeout_s:g} s"
            )
        return events

    def peer_closed(self, reason: CloseReason = CloseReason.PEER_CLOSED) -> list[Event]:
        """The peer's end of the connection is gone; nothing more can be sent."""
        return self.end(reason, Input.PEER_CLOSED)

    def end(self, reason: CloseReason, input_: Input = Input.END, *, code: Code | None = None) -> list[Event]:
        """The actor ends the connection for a reason of its own; with a code an `error` frame says so."""
        events: list[Event] = []
        self._input(input_, events, reason=reason, code=code, text=reason.value.replace("_", " "))
        return events

    def begin_leaving(self) -> list[Event]:
        """The peer knows that this connection ends soon; requests are taken until `begin_shutdown`."""
        events: list[Event] = []
        self._input(Input.LEAVE, events, text="the gateway ends this connection soon")
        return events

    def begin_shutdown(self) -> list[Event]:
        """No further requests are taken; those in flight may still be answered. A peer without hello is let go."""
        events: list[Event] = []
        self._input(Input.SHUTDOWN, events, text="the gateway takes no more work")
        return events

    def grant(self, rows: int, payload_bytes: int) -> None:
        """Room has come back: the client may send so much more."""
        if self._phase is not Phase.READY or (rows == 0 and payload_bytes == 0):
            return
        self._credit_rows += rows
        self._credit_bytes += payload_bytes
        self._write(Credit(rows=rows, bytes=payload_bytes))

    def send(self, message: Answer | StreamPage) -> bool:
        """The answer is on its way; False when the connection has ended meanwhile and nobody will read it.

        Raises LocalProtocolError for an answer to no request, rows beyond the stream's credit, or too large a frame.
        """
        if self._phase is Phase.CLOSED:
            return False
        in_flight = self._in_flight
        if in_flight is None or message.id not in in_flight:
            raise LocalProtocolError(f"no request {message.id} is in flight")
        payload = codec.encode(message)
        if len(payload) > self._limits.frame_bytes_max:
            raise LocalProtocolError(f"an answer of {len(payload)} bytes, limit {self._limits.frame_bytes_max}")
        if isinstance(message, StreamPage):
            self._take_stream_credit(message)
        else:
            rows, payload_bytes = in_flight.pop(message.id)
            if self._streams is not None:
                self._streams.pop(message.id, None)
            if isinstance(message, Error):
                self._credit_rows += rows
                self._credit_bytes += payload_bytes
        self._append(frame(payload))
        return True

    def send_refusal(self, request_id: int, cause: BadRequest | Overloaded) -> bool:
        """The `error` answer that fits the exception."""
        return self.send(refusal(request_id, cause))

    # --- inside ------------------------------------------------------------------------------------------------

    def _on_payload(self, payload: bytes, events: list[Event]) -> None:
        message = codec.decode_from_client(payload)
        if type(message) is Submit and self._may_admit(message, len(payload)):
            # By far the most frequent: none of the questions that only others raise.
            self._take(Requested(message, len(payload), _NO_FAULTS), message.n, len(payload), events)
        elif isinstance(message, codec.Mended):
            self._input(Input.REQUEST, events, request=Requested(message.submit, len(payload), message.faults))
        elif isinstance(message, codec.Faulty):
            input_ = Input.FAULTY if message.id else Input.NAMELESS_FAULT
            self._input(input_, events, fault=message, text=message.text)
        elif isinstance(message, codec.Broken):
            self._input(Input.BROKEN, events, text=message.text)
        elif isinstance(message, Hello):
            self._input(Input.HELLO, events, hello=message, text="hello came twice")
        elif isinstance(message, Credit):
            self._input(Input.CREDIT, events, credit=message, text=_HELLO_FIRST)
        else:
            self._input(
                Input.REQUEST,
                events,
                request=Requested(message, len(payload), _NO_FAULTS),
                text=_HELLO_FIRST,
            )

    def _input(
        self,
        input_: Input,
        events: list[Event],
        *,
        text: str = "",
        code: Code | None = None,
        reason: CloseReason | None = None,
        hello: Hello | None = None,
        mac: bytes = b"",
        secret_index: int = -1,
        request: Requested | None = None,
        credit: Credit | None = None,
        fault: codec.Faulty | None = None,
    ) -> None:
        step = TRANSITIONS.get((self._phase, input_))
        if step is None:
            raise LocalProtocolError(f"{input_.name} in {self._phase.name}")
        self._phase = step.phase
        match step.action:
            case Action.NOTHING:
                pass
            case Action.CHECK if hello is not None:
                self._check(hello, events)
            case Action.WELCOME if hello is not None:
                self._welcome(hello, mac, secret_index, events)
            case Action.ADMIT if request is not None:
                self._admit(request, events)
            case Action.TURN_AWAY if request is not None:
                self._turn_away(request, events)
            case Action.CREDIT if credit is not None:
                self._on_credit(credit, events)
            case Action.ANSWER_FAULT if fault is not None:
                self._answer_fault(fault, events)
            case Action.ANNOUNCE:
                retry_ms = self._limits.overloaded_retry_ms
                self._write(Error(id=0, code="shutting_down", text=text, retry_after_ms=retry_ms))
            case Action.END:
                self._finish(step, events, text, code or (fault.code if fault else None), reason)
            case _:
                raise LocalProtocolError(f"{step.action.name} without what it acts on")

    def _check(self, hello: Hello, events: list[Event]) -> None:
        """Finds out what a hello is worth. Everything wrong about who the peer is looks the same to it."""
        found, mac, secret_index = Input.REFUSED, b"", -1
        if hello.version != proof.VERSION:
            found = Input.OTHER_VERSION
        elif (hello.role == "operator") == (hello.app_key == ""):
            if hello.role == "operator" and self._has_trusted_peer:
                found = Input.PROVEN
            else:
                secrets = self._lookup_secret(hello.app_key)
                secret = proof.find_secret(secrets, hello.mac, self._nonce, hello.nonce, hello.app_key)
                if secret is not None:
                    found = Input.PROVEN
                    secret_index = list(secrets).index(secret)
                    mac = proof.server_mac(secret, self._nonce, hello.nonce, hello.app_key)
        text = f"version is {hello.version}, expected {proof.VERSION}"
        if found is not Input.OTHER_VERSION:
            text = "app key or mac is wrong"
        self._input(found, events, hello=hello, mac=mac, secret_index=secret_index, text=text)

    def _welcome(self, hello: Hello, mac: bytes, secret_index: int, events: list[Event]) -> None:
        limits = self._limits
        self.app_key, self.role = hello.app_key, hello.role
        self._reader.frame_bytes_max = limits.frame_bytes_max
        self._write(
            Welcome(
                mac=mac,
                session=self.name,
                credit_rows=self._credit_rows,
                credit_bytes=self._credit_bytes,
                limits=Limits(
                    frame_bytes_max=limits.frame_bytes_max,
                    submit_rows_max=limits.submit_rows_max,
                    refused_rows_max=limits.refused_rows_max,
                    variable_bytes_max=limits.variable_bytes_max,
                    requests_in_flight_max=limits.requests_in_flight_max,
                    streams_max=limits.streams_max,
                ),
                names=CODE_NAMES,
            )
        )
        events.append(HelloAccepted(hello.app_key, hello.role, secret_index))

    def _admit(self, request: Requested, events: list[Event]) -> None:
        message = request.message
        if isinstance(message, Cancel):
            self._cancel(message.id, events)
            return
        if self._in_flight is not None and message.id in self._in_flight:
            # An answer could not be told from that to the first one: the client's account is broken.
            self._input(Input.VIOLATION, events, text=f"request {message.id} is still in flight")
            return
        if isinstance(message, Ping):
            self._write(Pong(id=message.id))
            return
        kind = type(message)
        if kind in (OPERATOR_ONLY if self.role == "app" else APP_ONLY):
            self._write(Error(id=message.id, code="forbidden", text=f"not for the role {self.role}"))
            return
        refusal = self._over_limit(request)
        if refusal is not None:
            self._write(refusal)
            return
        if isinstance(message, StreamRequest):
            if self._streams is None:
                self._streams = {}
            self._streams[message.id] = message.credit_rows
        if isinstance(message, Submit):
            self._take(request, message.n, request.payload_bytes, events)
        else:
            self._take(request, 0, 0, events)

    def _may_admit(self, submit: Submit, payload_bytes: int) -> bool:
        """Nothing speaks against it; where something may, `_input` says what."""
        in_flight = self._in_flight or ()
        return (
            self._phase is _ADMITTING
            and self.role == "app"
            and submit.n <= self._limits.submit_rows_max
            and submit.n <= self._credit_rows
            and payload_bytes <= self._credit_bytes
            and len(in_flight) < self._limits.requests_in_flight_max
            and submit.id not in in_flight
        )

    def _take(self, request: Requested, rows: int, payload_bytes: int, events: list[Event]) -> None:
        """The request is in flight and holds that much credit."""
        self._credit_rows -= rows
        self._credit_bytes -= payload_bytes
        if self._in_flight is None:
            self._in_flight = {}
        self._in_flight[request.message.id] = (rows, payload_bytes)
        events.append(request)

    def _over_limit(self, request: Requested) -> Error | None:
        """The answer to a request for which there is no room, or None."""
        message, limits = request.message, self._limits
        if isinstance(message, Submit):
            if message.n > limits.submit_rows_max:
                return Error(
                    id=message.id,
                    code="bad_request",
                    text=f"n is {message.n}, limit {limits.submit_rows_max} (submit_rows_max)",
                    field="n",
                    limit=limits.submit_rows_max,
                    value=message.n,
                )
            if message.n > self._credit_rows:
                return self._overloaded(message.id, "credit_rows", message.n, self._credit_rows)
            if request.payload_bytes > self._credit_bytes:
                return self._overloaded(message.id, "credit_bytes", request.payload_bytes, self._credit_bytes)
        if isinstance(message, StreamRequest) and self._streams and len(self._streams) >= limits.streams_max:
            return self._overloaded(message.id, "streams_max", len(self._streams) + 1, limits.streams_max)
        if self.open_requests >= limits.requests_in_flight_max:
            return self._overloaded(
                message.id, "requests_in_flight_max", self.open_requests + 1, limits.requests_in_flight_max
            )
        return None

    def _overloaded(self, request_id: int, limit: str, value: int, limit_value: int) -> Error:
        return Error(
            id=request_id,
            code="overloaded",
            text=f"{limit}: {value} asked for, {limit_value} allowed now",
            field=limit,
            limit=limit_value,
            value=value,
            retry_after_ms=self._limits.overloaded_retry_ms,
        )

    def _turn_away(self, request: Requested, events: list[Event]) -> None:
        message = request.message
        if isinstance(message, Cancel):
            self._cancel(message.id, events)
        elif self._in_flight is not None and message.id in self._in_flight:
            self._input(Input.VIOLATION, events, text=f"request {message.id} is still in flight")
        elif isinstance(message, Ping):
            self._write(Pong(id=message.id))
        else:
            self._write(
                Error(
                    id=message.id,
                    code="shutting_down",
                    text="the gateway takes no more work",
                    retry_after_ms=self._limits.overloaded_retry_ms,
                )
            )

    def _answer_fault(self, fault: codec.Faulty, events: list[Event]) -> None:
        if self._in_flight is not None and fault.id in self._in_flight:
            self._input(Input.VIOLATION, events, text=f"request {fault.id} is still in flight")
            return
        self._write(Error(id=fault.id, code=fault.code, text=fault.text, field=fault.field))

    def _cancel(self, stream_id: int, events: list[Event]) -> None:
        """A stream that is gone already was ended by us while the cancel was on its way: nothing to say."""
        if self._streams is None or self._streams.pop(stream_id, None) is None:
            return
        if self._in_flight is not None:
            self._in_flight.pop(stream_id, None)
        self._write(StreamEnded(id=stream_id))
        events.append(StreamCancelled(stream_id))

    def _on_credit(self, credit: Credit, events: list[Event]) -> None:
        if credit.id == 0:
            self._input(Input.VIOLATION, events, text="credit without the id of a stream")
        elif self._streams is not None and credit.id in self._streams:
            # Bounded, so that a client cannot make the account grow without end.
            self._streams[credit.id] = min(self._streams[credit.id] + credit.rows, U32_MAX)
            events.append(StreamCredited(credit.id, credit.rows))

    def _take_stream_credit(self, page: StreamPage) -> None:
        left = self.stream_credit(page.id)
        if self._streams is None or page.n > left:
            raise LocalProtocolError(f"{page.n} rows on stream {page.id}, credit {left}")
        self._streams[page.id] = left - page.n

    def _finish(
        self, step: Step, events: list[Event], text: str, code: Code | None, reason: CloseReason | None
    ) -> None:
        code = step.code or code
        if code is not None:
            self._write(Error(id=0, code=code, text=text))
        self.close_reason = reason or step.reason or CloseReason.INTERNAL_ERROR
        self._reader.clear()
        self._in_flight = self._streams = None
        events.append(Closed(self.close_reason, code, text))

    def _write(self, message: Message) -> None:
        self._append(frame(codec.encode(message)))

    def _append(self, data: bytes) -> None:
        if self._out is None:
            self._out = []
        self._out.append(data)
        # Asked after each answer; adding them up anew would make the answers of a batch cost their square.
        self._out_bytes += len(data)
