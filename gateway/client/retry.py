"""When a call is tried again: one decision for the three clients. Time is an argument.

answer overloaded, shutting_down  -> again after retry_after_ms, until the deadline
any other error                   -> CallFailed
connection lost                   -> again on a new one, unless the call was sent and may not be done twice; the first
                                     time at once, if the lost one had been in use: another worker is there to answer
wrong credentials, certificate    -> fails at once; waiting mends neither
"""

from __future__ import annotations

from gateway.client.errors import CallFailed, GatewayUnreachable
from gateway.errors import CloseReason, GatewayError
from gateway.wire.rpc.messages import ClockAdvance, Error, ReportConsents, Request, Restart, Submit, SubmitAudience

#: Seconds a call may take with all its attempts: longer than a restart of the gateway.
TIMEOUT_S = 30.0
FIRST_WAIT_S = 0.05
WAIT_FACTOR = 2.0
WAIT_S_MAX = 2.0

_AGAIN = frozenset({"overloaded", "shutting_down"})
#: The server has gone, in order or not; any other end is about what was said.
_GONE = frozenset({CloseReason.PEER_CLOSED, CloseReason.PEER_RESET, CloseReason.SHUTDOWN})
_HOPELESS = frozenset({CloseReason.BAD_CREDENTIALS, CloseReason.UNSUPPORTED_VERSION, CloseReason.CERTIFICATE_INVALID})


class Lost(GatewayError):
    """Inside the clients only: this connection is gone. The caller sees what `Retry` makes of it.

    was_sent: the call. was_ready: the connection had been, so that a new one may well be had.
    """

    def __init__(
        self,
        text: str,
        *,
        reason: CloseReason,
        error: Error | None = None,
        was_sent: bool = False,
        was_ready: bool = False,
    ) -> None:
        self.reason = reason
        self.error = error
        self.was_sent = was_sent
        self.was_ready = was_ready
        super().__init__(text)


def may_repeat(request: Request) -> bool:
    """Doing it twice does no harm: reads, whole-state writes, and submits that the gateway knows by request_id."""
    if isinstance(request, Submit | SubmitAudience):
        return request.request_id != ""
    if isinstance(request, ReportConsents):
        # What is added would be added twice.
        return request.is_total or (request.counts is not None and not any(request.counts))
    return not isinstance(request, ClockAdvance | Restart)


class Retry:
    """One call's attempts. Each method gives the seconds to wait before the next one, or raises what the caller gets.

    spread: 0..1, random per call, so that clients do not come back in step.
    """

    def __init__(self, request: Request, *, deadline: float, spread: float) -> None:
        self._may_repeat = may_repeat(request)
        self._deadline = deadline
        self._spread = spread
        self._losses = 0
        self._has_moved = False
        self._was_sent = False

    def after_error(self, error: Error, now: float) -> float:
        if error.code not in _AGAIN:
            raise CallFailed(error)
        wait_s = (error.retry_after_ms or 0) / 1000 * (1 + self._spread / 4)
        if now + wait_s >= self._deadline:
            raise CallFailed(error)
        return wait_s

    def after_loss(self, lost: Lost, now: float) -> float:
        self._was_sent |= lost.was_sent
        if lost.reason in _HOPELESS:
            if lost.error is not None:
                raise CallFailed(lost.error) from lost
            raise GatewayUnreachable(str(lost)) from lost
        if lost.was_sent and not self._may_repeat:
            raise GatewayUnreachable(f"{lost}; the call may have been done", was_sent=True) from lost
        if lost.was_ready and lost.reason in _GONE and not self._has_moved and now < self._deadline:
            self._has_moved = True
            return 0.0
        wait_s = min(WAIT_S_MAX, FIRST_WAIT_S * WAIT_FACTOR ** min(self._losses, 16)) * (0.5 + self._spread / 2)
        self._losses += 1
        if now + wait_s >= self._deadline:
            raise GatewayUnreachable(str(lost), was_sent=self._was_sent) from lost
        return wait_s

    def out_of_time(self, *, was_sent: bool) -> GatewayUnreachable:
        """The deadline has passed while the call waited for room or for its answer."""
        return GatewayUnreachable("no answer before the deadline", was_sent=was_sent or self._was_sent)
