"""The server session's literal transition table (server.py acts on it). A pair that is not here is a bug of ours.

    GREETING --hello, proven--> READY --shutdown--> DRAINING      leave: announced, and READY as before
        |                         |                    |
        +------ violation, timeout, peer closed -------+---> CLOSED

Rules for authors: no other file decides what may follow what; an end always names its close reason.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from gateway.errors import CloseReason
from gateway.wire.rpc.faults import Code


class Phase(enum.Enum):
    GREETING = enum.auto()
    READY = enum.auto()
    DRAINING = enum.auto()
    CLOSED = enum.auto()


class Input(enum.Enum):
    """What can happen to a session. PROVEN, REFUSED and OTHER_VERSION are what `CHECK` found out about a hello."""

    HELLO = enum.auto()
    PROVEN = enum.auto()
    REFUSED = enum.auto()
    OTHER_VERSION = enum.auto()
    REQUEST = enum.auto()
    CREDIT = enum.auto()
    FAULTY = enum.auto()
    NAMELESS_FAULT = enum.auto()
    BROKEN = enum.auto()
    TOO_LARGE = enum.auto()
    VIOLATION = enum.auto()
    HELLO_TIMEOUT = enum.auto()
    FRAME_TIMEOUT = enum.auto()
    PEER_CLOSED = enum.auto()
    LEAVE = enum.auto()
    SHUTDOWN = enum.auto()
    END = enum.auto()


class Action(enum.Enum):
    CHECK = enum.auto()
    WELCOME = enum.auto()
    ADMIT = enum.auto()
    TURN_AWAY = enum.auto()
    CREDIT = enum.auto()
    ANSWER_FAULT = enum.auto()
    END = enum.auto()
    ANNOUNCE = enum.auto()
    NOTHING = enum.auto()


class Step(NamedTuple):
    """What to do and where to go. code: of the `error` frame before the end; None: the fault's own, or no frame."""

    action: Action
    phase: Phase
    reason: CloseReason | None = None
    code: Code | None = None


def _end(reason: CloseReason, code: Code | None = None) -> Step:
    return Step(Action.END, Phase.CLOSED, reason, code)


_NOTHING = {phase: Step(Action.NOTHING, phase) for phase in (Phase.GREETING, Phase.READY, Phase.DRAINING, Phase.CLOSED)}
_OPEN: dict[Input, Step] = {
    Input.HELLO: _end(CloseReason.PROTOCOL_ERROR, "already_authenticated"),
    Input.NAMELESS_FAULT: _end(CloseReason.PROTOCOL_ERROR),
    Input.BROKEN: _end(CloseReason.PROTOCOL_ERROR, "bad_frame"),
    Input.TOO_LARGE: _end(CloseReason.FRAME_TOO_LARGE, "frame_too_large"),
    Input.VIOLATION: _end(CloseReason.PROTOCOL_ERROR, "bad_request"),
    Input.FRAME_TIMEOUT: _end(CloseReason.HALF_FRAME_TIMEOUT, "bad_frame"),
    Input.PEER_CLOSED: _end(CloseReason.PEER_CLOSED),
    Input.END: _end(CloseReason.INTERNAL_ERROR),
}
TRANSITIONS: dict[tuple[Phase, Input], Step] = {
    (Phase.GREETING, Input.HELLO): Step(Action.CHECK, Phase.GREETING),
    (Phase.GREETING, Input.PROVEN): Step(Action.WELCOME, Phase.READY),
    (Phase.GREETING, Input.REFUSED): _end(CloseReason.BAD_CREDENTIALS, "bad_credentials"),
    (Phase.GREETING, Input.OTHER_VERSION): _end(CloseReason.UNSUPPORTED_VERSION, "bad_request"),
    (Phase.GREETING, Input.REQUEST): _end(CloseReason.PROTOCOL_ERROR, "not_authenticated"),
    (Phase.GREETING, Input.CREDIT): _end(CloseReason.PROTOCOL_ERROR, "not_authenticated"),
    (Phase.GREETING, Input.FAULTY): _end(CloseReason.PROTOCOL_ERROR, "not_authenticated"),
    (Phase.GREETING, Input.NAMELESS_FAULT): _end(CloseReason.PROTOCOL_ERROR),
    (Phase.GREETING, Input.BROKEN): _end(CloseReason.PROTOCOL_ERROR, "bad_frame"),
    (Phase.GREETING, Input.TOO_LARGE): _end(CloseReason.FRAME_TOO_LARGE, "frame_too_large"),
    (Phase.GREETING, Input.HELLO_TIMEOUT): _end(CloseReason.HANDSHAKE_TIMEOUT, "not_authenticated"),
    (Phase.GREETING, Input.FRAME_TIMEOUT): _end(CloseReason.HALF_FRAME_TIMEOUT, "bad_frame"),
    (Phase.GREETING, Input.PEER_CLOSED): _end(CloseReason.PEER_CLOSED),
    (Phase.GREETING, Input.LEAVE): _NOTHING[Phase.GREETING],
    (Phase.GREETING, Input.SHUTDOWN): _end(CloseReason.SHUTDOWN, "shutting_down"),
    (Phase.GREETING, Input.END): _end(CloseReason.INTERNAL_ERROR),
    **{(Phase.READY, input_): step for input_, step in _OPEN.items()},
    (Phase.READY, Input.REQUEST): Step(Action.ADMIT, Phase.READY),
    (Phase.READY, Input.CREDIT): Step(Action.CREDIT, Phase.READY),
    (Phase.READY, Input.FAULTY): Step(Action.ANSWER_FAULT, Phase.READY),
    (Phase.READY, Input.HELLO_TIMEOUT): _NOTHING[Phase.READY],
    (Phase.READY, Input.LEAVE): Step(Action.ANNOUNCE, Phase.READY, code="shutting_down"),
    (Phase.READY, Input.SHUTDOWN): Step(Action.ANNOUNCE, Phase.DRAINING, code="shutting_down"),
    **{(Phase.DRAINING, input_): step for input_, step in _OPEN.items()},
    (Phase.DRAINING, Input.REQUEST): Step(Action.TURN_AWAY, Phase.DRAINING, code="shutting_down"),
    (Phase.DRAINING, Input.CREDIT): Step(Action.CREDIT, Phase.DRAINING),
    (Phase.DRAINING, Input.FAULTY): Step(Action.ANSWER_FAULT, Phase.DRAINING),
    (Phase.DRAINING, Input.HELLO_TIMEOUT): _NOTHING[Phase.DRAINING],
    (Phase.DRAINING, Input.LEAVE): _NOTHING[Phase.DRAINING],
    (Phase.DRAINING, Input.SHUTDOWN): _NOTHING[Phase.DRAINING],
    # After the end nothing matters any more, whoever still talks. What a check finds can no longer happen.
    **{
        (Phase.CLOSED, input_): _NOTHING[Phase.CLOSED]
        for input_ in Input
        if input_ not in (Input.PROVEN, Input.REFUSED, Input.OTHER_VERSION)
    },
}
