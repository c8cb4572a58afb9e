"""ClientSession: the client's side of one RPC connection, sans-IO. The three clients in gateway/client drive it.

    CHALLENGE --challenge--> WELCOME --welcome, proven--> READY
        |                       |                           |
        +--- violation, timeout, error with id 0, peer closed ---> CLOSED

It keeps the same account of credit as the server (server.py): a submit costs its rows and its payload's bytes, an
`error` answer gives them back, and `credit` brings further room.
"""

from __future__ import annotations

import enum
import hmac
import math
from typing import Literal, NamedTuple, TypeAlias

from gateway.errors import CloseReason, LocalProtocolError
from gateway.wire.rpc import codec, proof
from gateway.wire.rpc.framing import FrameReader, FrameTooLarge, frame
from gateway.wire.rpc.limits import FRAME_BYTES_MAX_BEFORE_HELLO
from gateway.wire.rpc.messages import (
    ANSWER_OF,
    PAGE_OF,
    Answer,
    Cancel,
    Challenge,
    Credit,
    Error,
    Hello,
    Message,
    Request,
    StreamPage,
    Submit,
    Welcome,
)


class Phase(enum.Enum):
    CHALLENGE = enum.auto()
    WELCOME = enum.auto()
    READY = enum.auto()
    CLOSED = enum.auto()


class Input(enum.Enum):
    CHALLENGE = enum.auto()
    OTHER_VERSION = enum.auto()
    WELCOME = enum.auto()
    FALSE_SERVER = enum.auto()
    ANSWER = enum.auto()
    CREDIT = enum.auto()
    FAREWELL = enum.auto()
    VIOLATION = enum.auto()
    TOO_LARGE = enum.auto()
    TIMEOUT = enum.auto()
    PEER_CLOSED = enum.auto()
    CLOSE = enum.auto()


class Action(enum.Enum):
    PROVE = enum.auto()
    BEGIN = enum.auto()
    PASS_ON = enum.auto()
    CREDIT = enum.auto()
    END = enum.auto()
    NOTHING = enum.auto()


class Step(NamedTuple):
    action: Action
    phase: Phase
    reason: CloseReason | None = None


def _end(reason: CloseReason) -> Step:
    return Step(Action.END, Phase.CLOSED, reason)


_ALWAYS: dict[Input, Step] = {
    Input.OTHER_VERSION: _end(CloseReason.UNSUPPORTED_VERSION),
    Input.FALSE_SERVER: _end(CloseReason.BAD_CREDENTIALS),
    Input.FAREWELL: _end(CloseReason.PEER_CLOSED),
    Input.VIOLATION: _end(CloseReason.PROTOCOL_ERROR),
    Input.TOO_LARGE: _end(CloseReason.FRAME_TOO_LARGE),
    Input.TIMEOUT: _end(CloseReason.HANDSHAKE_TIMEOUT),
    Input.PEER_CLOSED: _end(CloseReason.PEER_CLOSED),
    Input.CLOSE: _end(CloseReason.CLIENT_DISCONNECT),
}
_VIOLATION = _end(CloseReason.PROTOCOL_ERROR)
TRANSITIONS: dict[tuple[Phase, Input], Step] = {
    **{(phase, input_): step for phase in Phase for input_, step in _ALWAYS.items()},
    (Phase.CHALLENGE, Input.CHALLENGE): Step(Action.PROVE, Phase.WELCOME),
    (Phase.CHALLENGE, Input.WELCOME): _VIOLATION,
    (Phase.CHALLENGE, Input.ANSWER): _VIOLATION,
    (Phase.CHALLENGE, Input.CREDIT): _VIOLATION,
    (Phase.WELCOME, Input.CHALLENGE): _VIOLATION,
    (Phase.WELCOME, Input.WELCOME): Step(Action.BEGIN, Phase.READY),
    (Phase.WELCOME, Input.ANSWER): _VIOLATION,
    (Phase.WELCOME, Input.CREDIT): _VIOLATION,
    (Phase.READY, Input.CHALLENGE): _VIOLATION,
    (Phase.READY, Input.WELCOME): _VIOLATION,
    (Phase.READY, Input.ANSWER): Step(Action.PASS_ON, Phase.READY),
    (Phase.READY, Input.CREDIT): Step(Action.CREDIT, Phase.READY),
    **{(Phase.CLOSED, input_): Step(Action.NOTHING, Phase.CLOSED) for input_ in Input},
}


class Ready(NamedTuple):
    """Both sides have proven themselves; requests may be sent."""

    welcome: Welcome


class Answered(NamedTuple):
    """The answer to a request, or (message is a StreamPage) one page of a stream."""

    message: Answer | StreamPage


class CreditCame(NamedTuple):
    """There is more room for submits now."""


class Closed(NamedTuple):
    """The connection ends. error: what the server said before, if it did; unanswered: ids that get no answer."""

    reason: CloseReason
    error: Error | None
    text: str
    unanswered: frozenset[int]


Event: TypeAlias = Ready | Answered | CreditCame | Closed


class ClientSession:
    """One connection. Owned by one task or thread.

    secret: None only for an operator on the operator's Unix socket, who proves nothing and asks for no proof.
    nonce: 32 fresh random bytes. frame_bytes_max: the largest answer that is taken.
    """

    def __init__(
        self,
        app_key: str,
        secret: bytes | None,
        *,
        nonce: bytes,
        now: float,
        role: Literal["app", "operator"] = "app",
        hello_timeout_s: float = 10.0,
        frame_bytes_max: int = 64 << 20,
    ) -> None:
        self._app_key = app_key
        self._secret = secret
        self._nonce = nonce
        self._role: Literal["app", "operator"] = role
        self._deadline = now + hello_timeout_s
        self._frame_bytes_max = frame_bytes_max
        self._reader = FrameReader(FRAME_BYTES_MAX_BEFORE_HELLO)
        self._server_nonce = b""
        self._phase = Phase.CHALLENGE
        self._out: list[bytes] = []
        #: id -> (kind of the request, rows and bytes of credit it holds).
        self._in_flight: dict[int, tuple[type[Message], int, int]] = {}
        #: Streams that were cancelled here; pages under way are dropped until stream_ended comes.
        self._cancelled: set[int] = set()
        self._last_id = 0
        self._last_error: Error | None = None
        self.credit_rows = 0
        self.credit_bytes = 0
        #: The server ends this connection soon: further requests belong on a new one.
        self.is_leaving = False
        self.welcome: Welcome | None = None
        self.close_reason: CloseReason | None = None

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def open_requests(self) -> int:
        return len(self._in_flight)

    def next_deadline(self) -> float:
        return self._deadline if self._phase in (Phase.CHALLENGE, Phase.WELCOME) else math.inf

    def on_deadline(self, now: float) -> list[Event]:
        events: list[Event] = []
        if now >= self.next_deadline():
            self._input(Input.TIMEOUT, events, text="no welcome in time")
        return events

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def next_id(self) -> int:
        """A request number that is not in flight; they go round after 2^32 - 1."""
        while True:
            self._last_id = self._last_id % 0xFFFFFFFF + 1
            if self._last_id not in self._in_flight:
                return self._last_id

    def has_room(self, request: Request, payload: bytes) -> bool:
        """The request may be sent now. False: wait for CreditCame or an answer."""
        welcome = self.welcome
        if self._phase is not Phase.READY or welcome is None:
            return False
        if len(self._in_flight) >= welcome.limits.requests_in_flight_max:
            return False
        return not isinstance(request, Submit) or (request.n <= self.credit_rows and len(payload) <= self.credit_bytes)

    def send(self, request: Request, payload: bytes | None = None) -> None:
        """The request is on its way. payload: codec.encode(request), where the caller has it.

        Raises LocalProtocolError: before welcome, an id in flight, no room, or over the server's limits.
        """
        if self._phase is not Phase.READY or self.welcome is None:
            raise LocalProtocolError(f"a request in {self._phase.name}")
        payload = codec.encode(request) if payload is None else payload
        if len(payload) > self.welcome.limits.frame_bytes_max:
            raise LocalProtocolError(f"frame is {len(payload)} bytes, limit {self.welcome.limits.frame_bytes_max}")
        if isinstance(request, Cancel):
            if request.id in self._in_flight:
                self._cancelled.add(request.id)
            self._out.append(frame(payload))
            return
        if request.id in self._in_flight:
            raise LocalProtocolError(f"request {request.id} is in flight")
        if not self.has_room(request, payload):
            raise LocalProtocolError(f"no credit: {self.credit_rows} rows and {self.credit_bytes} bytes left")
        rows, size = (request.n, len(payload)) if isinstance(request, Submit) else (0, 0)
        self.credit_rows -= rows
        self.credit_bytes -= size
        self._in_flight[request.id] = (type(request), rows, size)
        self._out.append(frame(payload))

    def grant(self, stream_id: int, rows: int) -> None:
        """There is room for so many further rows of the stream."""
        if self._phase is Phase.READY and rows > 0:
            self._out.append(frame(codec.encode(Credit(id=stream_id, rows=rows))))

    def close(self) -> list[Event]:
        events: list[Event] = []
        self._input(Input.CLOSE, events, text="closed by the client")
        return events

    def peer_closed(self, reason: CloseReason = CloseReason.PEER_CLOSED) -> list[Event]:
        events: list[Event] = []
        self._input(Input.PEER_CLOSED, events, text="the server closed the connection", reason=reason)
        return events

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Takes bytes from the server; never raises for what they hold."""
        events: list[Event] = []
        if self._phase is Phase.CLOSED:
            return events
        self._reader.feed(data)
        while self.close_reason is None:
            try:
                payload = self._reader.next_payload()
            except FrameTooLarge as error:
                self._input(Input.TOO_LARGE, events, text=str(error))
                break
            if payload is None:
                break
            self._on_payload(payload, events)
        return events

    def _on_payload(self, payload: bytes, events: list[Event]) -> None:
        message = codec.decode_from_server(payload)
        if isinstance(message, codec.Faulty | codec.Broken):
            self._input(Input.VIOLATION, events, text=message.text)
        elif isinstance(message, Challenge):
            good = message.version == proof.VERSION
            self._input(
                Input.CHALLENGE if good else Input.OTHER_VERSION,
                events,
                message=message,
                text="challenge out of turn" if good else f"version is {message.version}, expected {proof.VERSION}",
            )
        elif isinstance(message, Welcome):
            good = self._is_proven(message)
            self._input(
                Input.WELCOME if good else Input.FALSE_SERVER,
                events,
                message=message,
                text="welcome out of turn" if good else "the server does not know the secret",
            )
        elif isinstance(message, Credit):
            self._input(Input.CREDIT, events, message=message, text="credit before welcome")
        elif isinstance(message, Error) and message.id == 0:
            self._last_error = message
            self.is_leaving = True
            if message.code != "shutting_down" or self._phase is not Phase.READY:
                self._input(Input.FAREWELL, events, text=message.text, reason=_FAREWELLS.get(message.code))
        else:
            self._input(Input.ANSWER, events, message=message, text="an answer before welcome")

    def _is_proven(self, welcome: Welcome) -> bool:
        if self._secret is None:
            return True
        wanted = proof.server_mac(self._secret, self._server_nonce, self._nonce, self._app_key)
        return hmac.compare_digest(wanted, welcome.mac)

    def _input(
        self,
        input_: Input,
        events: list[Event],
        *,
        text: str,
        message: Message | None = None,
        reason: CloseReason | None = None,
    ) -> None:
        step = TRANSITIONS.get((self._phase, input_))
        if step is None:
            raise LocalProtocolError(f"{input_.name} in {self._phase.name}")
        self._phase = step.phase
        match step.action:
            case Action.NOTHING:
                pass
            case Action.PROVE if isinstance(message, Challenge):
                self._prove(message)
            case Action.BEGIN if isinstance(message, Welcome):
                self._begin(message, events)
            case Action.PASS_ON if message is not None:
                self._pass_on(message, events)
            case Action.CREDIT if isinstance(message, Credit):
                self.credit_rows += message.rows
                self.credit_bytes += message.bytes
                events.append(CreditCame())
            case Action.END:
                self.close_reason = reason or step.reason or CloseReason.PROTOCOL_ERROR
                self._reader.clear()
                unanswered = frozenset(self._in_flight)
                self._in_flight.clear()
                events.append(Closed(self.close_reason, self._last_error, text, unanswered))
            case _:
                raise LocalProtocolError(f"{step.action.name} without what it acts on")

    def _prove(self, challenge: Challenge) -> None:
        self._server_nonce = challenge.nonce
        mac = b""
        if self._secret is not None:
            mac = proof.client_mac(self._secret, challenge.nonce, self._nonce, self._app_key)
        hello = Hello(version=proof.VERSION, app_key=self._app_key, nonce=self._nonce, mac=mac, role=self._role)
        self._out.append(frame(codec.encode(hello)))

    def _begin(self, welcome: Welcome, events: list[Event]) -> None:
        self.welcome = welcome
        self.credit_rows, self.credit_bytes = welcome.credit_rows, welcome.credit_bytes
        self._reader.frame_bytes_max = self._frame_bytes_max
        events.append(Ready(welcome))

    def _pass_on(self, message: Message, events: list[Event]) -> None:
        number = int(message.id)  # type: ignore[attr-defined]
        held = self._in_flight.get(number)
        if held is None:
            self._input(Input.VIOLATION, events, text=f"an answer to request {number}, which is not in flight")
            return
        kind, rows, size = held
        if isinstance(message, StreamPage):
            if PAGE_OF.get(kind) is not type(message):
                text = f"{type(message).__name__} for request {number}, which is no such stream"
                self._input(Input.VIOLATION, events, text=text)
            elif number not in self._cancelled:
                events.append(Answered(message))
            return
        if not isinstance(message, Error | ANSWER_OF[kind]):
            self._input(Input.VIOLATION, events, text=f"request {number} got an answer of another kind")
            return
        del self._in_flight[number]
        self._cancelled.discard(number)
        if isinstance(message, Error):
            self.credit_rows += rows
            self.credit_bytes += size
        events.append(Answered(message))  # type: ignore[arg-type]


#: What an `error` with id 0 means for the connection, where it is not simply closed.
_FAREWELLS: dict[str, CloseReason] = {
    "bad_credentials": CloseReason.BAD_CREDENTIALS,
    "frame_too_large": CloseReason.FRAME_TOO_LARGE,
    "shutting_down": CloseReason.SHUTDOWN,
    "bad_frame": CloseReason.PROTOCOL_ERROR,
    "already_authenticated": CloseReason.PROTOCOL_ERROR,
    "not_authenticated": CloseReason.PROTOCOL_ERROR,
    "bad_request": CloseReason.PROTOCOL_ERROR,
}
