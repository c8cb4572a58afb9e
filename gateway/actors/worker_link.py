"""WorkerLink: the actor of one link, to one life of another worker.

    reader: bytes --> LinkSession --> slices, outcomes, questions, answers    each is a call that returns at once
    writer: reports first, then answers and credit, then rows while there is credit --> bytes

The reader awaits nothing but its socket: what it brings has its room already (credit), or is bounded by what this
worker itself handed out (outcomes) or asked (answers). So two workers that are full of each other's rows go on hearing
what became of their own. Reports are made when they are sent, from columns: however often a row moved, it waits as one.
Those that nobody waits for gather for `GATHER_S`, those of a large slice for `GATHER_MANY_S`: the acknowledgements of a
moment are one report. Of a small slice whose rows have all ended nothing more is to come: it is told at once, or
`GATHER_S` after the report before, while the caches that this takes are warm. That rows were sent gathers for `LATE_S`,
so that a row that its device acknowledges soon is reported once (core/shadow.py). Credit goes along with whatever is
sent, and alone when much of it is due.

A row's report that it is about to leave the process is out when the kernel has it: what was written to a Unix socket is
read by the peer even when this process is killed the moment after. For a row of an app on disk that is not enough: its
home answers (`marked`) when its journal knows it. Waits for: the socket. Is waited for by:
nobody.
"""

from __future__ import annotations

import math
from typing import Protocol

import trio

from gateway.actors.bell import Bell
from gateway.actors.foreign_rows import Report
from gateway.columns import Rows
from gateway.core.shadow import Life, ShadowPage
from gateway.errors import LocalProtocolError, RemoteProtocolError
from gateway.wire.worker_link.messages import Answer, Ask, Credit, Hello, Marked, Outcomes, Slice
from gateway.wire.worker_link.session import Closed, Event, LinkSession, Opened

#: One read: a slice or two, decoded in about a millisecond.
_READ_BYTES = 256 << 10
#: Bytes made ready ahead of the socket: more would only make reports older.
_AHEAD_BYTES = 256 << 10
#: How long reports wait for others, and what a kill loses of them more: the acknowledgements of a small part come
#: together in it, and to whoever asks for a state it is nothing.
GATHER_S = 0.02
#: The same for a page of which so many rows are yet to end: a report costs both workers a millisecond beside its rows,
#: and a large slice, whose devices answer within a tenth of a second, had five of them.
MANY_ROWS, GATHER_MANY_S = 512, 0.06
#: The same for what an audience's next chunk waits for.
SOON_S = 0.005
#: How long it waits that rows were sent: most phones acknowledge within it. A state that somebody looks at is so old.
LATE_S = 0.25


class LinkEnds(Protocol):
    """What stands at this worker's end of a link. Every call returns at once."""

    def opened(self, link: WorkerLink, life: Life) -> bool:
        """The peer has said who it is; False: it is not wanted."""
        ...

    def on_slice(self, life: Life, slice_: Slice) -> None: ...

    def on_outcomes(self, life: Life, message: Outcomes) -> None: ...

    def on_ask(self, life: Life, ask: Ask) -> None: ...

    def on_answer(self, life: Life, answer: Answer) -> None: ...

    def on_marked(self, life: Life, number: int) -> None: ...

    def next_report(self, life: Life, *, with_late: bool) -> Report | None: ...

    def take_credit(self, life: Life) -> tuple[int, int]:
        """Rows and bytes that the peer may send again."""
        ...

    def next_slice(self, life: Life, rows_max: int) -> Slice | None: ...


class WorkerLink:
    """hello: what this end says of itself."""

    def __init__(self, stream: trio.abc.Stream, hello: Hello, ends: LinkEnds) -> None:
        self._stream = stream
        self._session = LinkSession(hello)
        self._ends = ends
        self._bell = Bell()
        self._scope = trio.CancelScope()
        self.life: Life | None = None
        self.is_draining = False
        self._told: list[tuple[ShadowPage, Rows]] = []
        #: When the reports that wait are due, and when late news is; trio's clock.
        self._reports_at = self._late_at = math.inf
        self._reported_at = -math.inf
        self._resting = trio.CancelScope()
        #: Rows may wait for credit.
        self._is_short = False
        self._is_credit_due = False

    # -- called by others, at once

    def ring(self) -> None:
        """There are rows."""
        self._bell.ring()

    def ring_within(self, wait_s: float) -> None:
        """There is a report, for which no row waits."""
        at = trio.current_time() + wait_s
        if at < self._reports_at:
            # The writer is not woken for it: the end of its rest comes nearer.
            self._reports_at = at
            self._resting.deadline = min(at, self._late_at)

    def ring_whole(self) -> None:
        """There is a report with which nothing is to come together, but for what was reported a moment ago."""
        wait_s = self._reported_at + GATHER_S - trio.current_time()
        if wait_s > 0.0:
            self.ring_within(wait_s)
        elif self._reports_at > 0.0:
            self._reports_at = 0.0
            self._bell.ring()

    def ring_late(self, *, is_some: bool) -> None:
        """There is late news, or none any more."""
        self._late_at = trio.current_time() + LATE_S if is_some else math.inf
        self._resting.deadline = min(self._reports_at, self._late_at)

    def ring_late_now(self) -> None:
        """What is late news by now is due."""
        self._late_at = -math.inf
        self._bell.ring()

    def ring_reports(self) -> None:
        """There is a report for which rows wait."""
        self._reports_at = -math.inf
        self._bell.ring()

    def send(self, message: Ask | Answer | Marked) -> None:
        self._session.send(message)
        self._bell.ring()

    def give_credit(self) -> None:
        """The peer may need the credit that is due to it."""
        self._is_credit_due = True
        self._bell.ring()

    def close(self, *, after_s: float = 0.0) -> None:
        """The link ends: when the peer's end is gone and read, and after so long at the latest."""
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + after_s)

    # -- the actor

    async def run(self) -> None:
        """Serves until the peer's end is gone and everything that it said is read, or until `close`.

        Raises RemoteProtocolError for a peer that breaks the rules. If cancelled: closed at once.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        while True:
            try:
                data = await self._stream.receive_some(_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            for event in self._session.receive_data(data):
                if not self._take(event):
                    return

    def _take(self, event: Event) -> bool:
        """False when the link is over."""
        if isinstance(event, Closed):
            return False
        if isinstance(event, Opened):
            life = Life(event.hello.worker, event.hello.incarnation)
            if not self._ends.opened(self, life):
                # It has no life: the writer must not take rows or reports for a socket that is about to close.
                return False
            self.life = life
            # What is to be told to this life may be there already.
            self._late_at = -math.inf
            self.ring_reports()
            return True
        if self.life is None:
            raise LocalProtocolError("a link without a peer brought a message")
        life = self.life
        try:
            match event:
                case Slice():
                    self._ends.on_slice(life, event)
                case Outcomes():
                    self._ends.on_outcomes(life, event)
                case Ask():
                    self._ends.on_ask(life, event)
                case Answer():
                    self._ends.on_answer(life, event)
                case Marked(number=number):
                    self._ends.on_marked(life, number)
                case Credit():
                    if self._is_short:
                        self._bell.ring()
        except ValueError as error:
            raise RemoteProtocolError(f"worker {life.worker}: {error}") from error
        return True

    async def _write(self) -> None:
        session = self._session
        while True:
            self._fill()
            data = session.data_to_send()
            if not data:
                until = math.inf if self.life is None else min(self._reports_at, self._late_at)
                with trio.CancelScope(deadline=until) as self._resting:
                    await self._bell.wait()
                continue
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # What the peer had said before is still to be read; the reader ends the link.
                return
            if not session.has_control:
                told, self._told = self._told, []
                for page, rows in told:
                    page.told(rows)

    def _fill(self) -> None:
        """Makes ready what is to be sent: all reports that fit, then rows."""
        session, life = self._session, self.life
        if life is None:
            return
        now = trio.current_time()
        is_late_due = self._late_at <= now
        while session.unsent_bytes < _AHEAD_BYTES and (is_late_due or self._reports_at <= now):
            report = self._ends.next_report(life, with_late=is_late_due)
            if report is None:
                self._reports_at = math.inf
                if is_late_due:
                    self._late_at = math.inf
                break
            session.send(report.message)
            self._reported_at = now
            self._told.append((report.page, report.rows))
        self._is_short = False
        while session.unsent_bytes < _AHEAD_BYTES and not self.is_draining:
            self._is_short = not session.has_room()
            slice_ = None if self._is_short else self._ends.next_slice(life, session.room_rows)
            if slice_ is None:
                break
            session.send_slice(slice_)
        if session.unsent_bytes or self._is_credit_due:
            self._is_credit_due = False
            session.give(*self._ends.take_credit(life))
