"""What the client machine tells its owner. Every tag ends in exactly one of Answers, Refused, Reset, TimedOut or
Terminated; the other events say nothing about requests."""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

from gateway.columns import I64, U16
from gateway.errors import CloseReason


class AnswerDetail(NamedTuple):
    """What an answer has beside its status. One object may serve many answers."""

    headers: dict[bytes, bytes]
    body: bytes
    #: Bytes of the body beyond `body_bytes_max`, not kept.
    body_bytes_cut: int = 0
    #: False: the stream or the connection ended before the body did; the status is good all the same.
    is_complete: bool = True


class Answers(NamedTuple):
    """tags: (m,) int64. status: (m,) uint16. details: position -> detail, of answers that are not a bare 200."""

    tags: I64
    status: U16
    details: dict[int, AnswerDetail]


class RefusedWhy(enum.Enum):
    """Why a request was surely not processed (RFC 9113 section 8.7), so that it may go again.

    UNFINISHED: we gave it up before its end was sent. A vendor cannot act on a body of JSON that is cut off.
    """

    REFUSED_STREAM = "refused_stream"
    GOAWAY_ABOVE = "goaway_above"
    #: HTTP/1.1: no connection had begun to send it.
    NOT_WRITTEN = "not_written"
    UNFINISHED = "unfinished"


class Refused(NamedTuple):
    """tags: (m,) int64, surely not processed."""

    tags: I64
    why: RefusedWhy


class Reset(NamedTuple):
    """tags: (m,) int64. The stream ended with an error code and without a status: the outcome is not known.

    is_by_peer: False when we reset it, because its answer was malformed.
    """

    tags: I64
    error_code: int
    is_by_peer: bool


class TimedOut(NamedTuple):
    """tags: (m,) int64. The deadline passed without an answer and the stream was cancelled; outcome not known."""

    tags: I64


class SettingsChanged(NamedTuple):
    """The peer's settings as they are now. streams_max None: no limit."""

    streams_max: int | None
    initial_window_bytes: int
    frame_bytes_max: int
    header_table_bytes: int


class GoingAway(NamedTuple):
    """The peer takes no stream above last_stream_id; those up to it may still be answered."""

    last_stream_id: int
    error_code: int
    debug_data: bytes


class Writable(NamedTuple):
    """Requests that `send_requests` left behind for want of a window (or of buffer room) may be offered again."""


class Terminated(NamedTuple):
    """The connection is over; the last event. refused: surely not processed. uncertain: sent and not answered.

    error_code: ours or the peer's where there is one; text: what was wrong, for the log.
    """

    reason: CloseReason
    refused: I64
    uncertain: I64
    error_code: int = 0
    text: str = ""


Event: TypeAlias = Answers | Refused | Reset | TimedOut | SettingsChanged | GoingAway | Writable | Terminated
