"""A session at a submission server: to its pool and its lanes a connection like any other.

One message after the other, in a thread (net/smtp.py blocks); beside the one under way a few wait, so that the thread
does not wait for the lane. Each row ends in one verdict: the server's reply, *refused* (surely not sent: the session
was lost before the message began to leave, or it never began), or *uncertain* (lost afterwards).

    connecting --session--> open --(rows)--> open --drain, 421, lost--> closed

The owner calls `send` and gets every tag back through `on_events`, called in this actor's turn. Memory is bounded by
`WAITING_MAX` messages and one under way. Threads are bounded by the limiter, which has one place per connection.

Waits for: the network, through its thread. Is waited for by: nobody.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.columns import I64, join
from gateway.errors import CloseReason
from gateway.net.smtp import SERVICE_CLOSING, Reply, SessionFailed, SessionLost
from gateway.vendor import Requests
from gateway.wire.h2.events import AnswerDetail, Answers, Event, Refused, RefusedWhy, Terminated, Writable
from gateway.wire.smtp.message import Mail, compose

_Result = TypeVar("_Result")
OnEvents: TypeAlias = Callable[["SmtpVendorConnection", list[Event]], None]

#: Messages that wait beside the one under way: the lane has a round trip's time to bring the next.
WAITING_MAX = 4
#: For QUIT; nobody's message waits for it.
QUIT_TIMEOUT_S = 5.0
#: What a reply of 2xx becomes: the one status that the lane counts as accepted without asking.
_ACCEPTED = 200
#: Our own word for fields that make no message (RFC 3463: 5.6.0, other media error).
_NO_MESSAGE = Reply(554, b"5.6.0 no message can be made of it", "data")


class Session(Protocol):
    """net/smtp.py. Everything blocks but `abort`."""

    def send(self, mail: Mail) -> Reply: ...

    def quit(self) -> None: ...

    def abort(self) -> None: ...


class _Waiting(NamedTuple):
    """deadline: monotonic s; a message that could not begin by then goes back."""

    tag: int
    data: bytes
    deadline: float


class SmtpVendorConnection:
    """`close_reason` is None until closed, then never changes."""

    def __init__(
        self, *, open_session: Callable[[], Session], limiter: trio.CapacityLimiter, on_events: OnEvents
    ) -> None:
        """open_session: blocks, raises SessionFailed."""
        self._open_session = open_session
        self._limiter = limiter
        self._on_events = on_events
        self._waiting: deque[_Waiting] = deque()
        self._under_way: int | None = None
        self._session: Session | None = None
        self._news = Bell()
        self._scope = trio.CancelScope()
        self._leaving: CloseReason | None = None
        self.close_reason: CloseReason | None = None

    # The owner's calls

    def capacity(self) -> int:
        """Messages that `send` may take now."""
        if self._session is None or self.is_leaving():
            return 0
        return max(0, WAITING_MAX + (self._under_way is None) - len(self._waiting))

    def send(self, requests: Requests, start: int, tags: I64, deadline: float) -> int:
        """Rows start.. are on their way as far as there is room; returns how many."""
        taken = min(self.capacity(), requests.n - start, len(tags))
        for tag, data in zip(tags[:taken].tolist(), join(requests.body, start, start + taken), strict=True):
            self._waiting.append(_Waiting(tag, data, deadline))
        if taken:
            self._news.ring()
        return taken

    def open_requests(self) -> int:
        """Messages taken and not ended."""
        return len(self._waiting) + (self._under_way is not None)

    def is_leaving(self) -> bool:
        """It takes no further message, ever."""
        return self._leaving is not None or self.close_reason is not None

    def drain(self, timeout_s: float, reason: CloseReason = CloseReason.SHUTDOWN) -> None:
        """No new messages from now on; those that wait go back. Closes when the one under way has ended, at the latest
        after timeout_s."""
        if self.is_leaving():
            return
        self._leaving = reason
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + timeout_s)
        self._news.ring()

    # The actor

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> CloseReason:
        """Connects, sends until the end, and returns the one reason for it, after `Terminated` went to the owner.

        If cancelled: messages went back through `Terminated` (SHUTDOWN), the session is closed without goodbye.
        """
        task_status.started()
        try:
            with self._scope:
                await self._work()
        except BaseException:
            is_cancelled = trio.current_effective_deadline() == -math.inf
            self._end(CloseReason.SHUTDOWN if is_cancelled else CloseReason.INTERNAL_ERROR)
            raise
        # It drained for longer than it was given, or to its end.
        self._end(self._leaving or CloseReason.SHUTDOWN)
        assert self.close_reason is not None
        return self.close_reason

    async def _work(self) -> None:
        try:
            session = await self._in_thread(self._open_session)
        except SessionFailed as error:
            self._end(error.reason, str(error))
            return
        self._session = session
        self._on_events(self, [Writable()])
        while not self.is_leaving():
            if not self._waiting:
                await self._news.wait()
                continue
            await self._send_next(session)
        self._give_back()
        if self.close_reason is None:
            with trio.move_on_after(QUIT_TIMEOUT_S):
                await self._in_thread(session.quit)

    async def _send_next(self, session: Session) -> None:
        """One message has its outcome, or the session is over."""
        waiting = self._waiting.popleft()
        if trio.current_time() >= waiting.deadline:
            self._on_events(self, [Refused(_tags(waiting.tag), RefusedWhy.NOT_WRITTEN)])
            return
        try:
            mail = compose(waiting.data)
        except ValueError:
            self._answered(waiting.tag, _NO_MESSAGE)
            return
        self._under_way = waiting.tag
        try:
            reply = await self._in_thread(lambda: session.send(mail))
        except SessionLost as error:
            if not error.may_be_sent:
                self._under_way = None
                self._waiting.appendleft(waiting)
            self._end(error.reason)
            return
        self._under_way = None
        if reply.code == SERVICE_CLOSING:
            self._leaving = CloseReason.PEER_CLOSED
        self._answered(waiting.tag, reply)

    def _answered(self, tag: int, reply: Reply) -> None:
        is_taken = reply.code // 100 == 2
        detail = {0: AnswerDetail({b"smtp-phase": reply.phase.encode()}, reply.text)}
        status = np.array([_ACCEPTED if is_taken else reply.code], np.uint16)
        self._on_events(self, [Answers(_tags(tag), status, {} if is_taken else detail)])

    def _give_back(self) -> None:
        """What had not begun may go again, over another connection."""
        if self._waiting and self.close_reason is None:
            tags = _tags(*[one.tag for one in self._waiting])
            self._waiting.clear()
            self._on_events(self, [Refused(tags, RefusedWhy.NOT_WRITTEN)])

    def _end(self, reason: CloseReason, text: str = "") -> None:
        """The rest of the tags has gone back. Only the first call has an effect."""
        if self.close_reason is not None:
            return
        self.close_reason = reason
        refused = _tags(*[one.tag for one in self._waiting])
        uncertain = _tags(*[] if self._under_way is None else [self._under_way])
        self._waiting.clear()
        self._under_way = None
        if self._session is not None:
            # A thread that still waits for a reply ends with an error, which nobody reads any more.
            self._session.abort()
        self._on_events(self, [Terminated(reason, refused, uncertain, text=text)])

    async def _in_thread(self, call: Callable[[], _Result]) -> _Result:
        """If cancelled: the thread goes on until the session's timeout or `abort`, and its result is dropped."""
        return await trio.to_thread.run_sync(call, limiter=self._limiter, abandon_on_cancel=True)


def _tags(*tags: int) -> I64:
    return np.array(tags, np.int64)
