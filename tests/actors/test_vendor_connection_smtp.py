"""A session of e-mail as a connection: one verdict per row, whenever the session ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from gateway.actors.vendor_connection_smtp import WAITING_MAX, SmtpVendorConnection
from gateway.columns import TextColumn
from gateway.errors import CloseReason
from gateway.net.smtp import Reply, SessionFailed, SessionLost
from gateway.vendor import Requests
from gateway.wire.h2.events import Answers, Event, Refused, Terminated, Writable
from gateway.wire.smtp.message import Mail

GOOD = Reply(250, b"2.0.0 queued", "message")


def requests(*recipients: str) -> Requests:
    bodies = [
        json.dumps(
            {"sender": "a@b.c", "to": to, "message_id": "1@b.c", "unix_s": 1, "subject": "s", "text": "t"}
        ).encode()
        if to
        else b"no fields"
        for to in recipients
    ]
    return Requests(len(bodies), b"h", (b"/",), (), (TextColumn.from_rows(bodies),))


class Line:
    """A session that answers as it is told, in whatever thread. outcomes: per message, in order. gate: messages wait
    until it is set."""

    def __init__(self, *outcomes: Reply | SessionLost, is_open: bool = True) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[str] = []
        self.gate = threading.Event()
        if is_open:
            self.gate.set()
        self.has_quit = self.is_aborted = False

    def send(self, mail: Mail) -> Reply:
        assert self.gate.wait(60)
        if self.is_aborted:
            raise SessionLost(CloseReason.PEER_CLOSED, may_be_sent=True)
        self.sent.append(mail.recipient)
        outcome = self.outcomes.pop(0) if self.outcomes else GOOD
        if isinstance(outcome, SessionLost):
            raise outcome
        return outcome

    def quit(self) -> None:
        self.has_quit = True

    def abort(self) -> None:
        self.is_aborted = True
        self.gate.set()


class Owner:
    """Keeps what it was told; `until` waits for something of it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = trio.Event()

    def on_events(self, connection: object, events: list[Event]) -> None:
        self.events += events
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, is_so: Callable[[], bool]) -> None:
        with trio.fail_after(60):
            while not is_so():
                await self._changed.wait()

    def outcomes(self) -> dict[int, Any]:
        """Tag -> status, "refused" or "uncertain"; fails where a tag has two."""
        found: list[tuple[int, Any]] = []
        for event in self.events:
            match event:
                case Answers(tags, status, _):
                    found += zip(tags.tolist(), status.tolist(), strict=True)
                case Refused(tags, _):
                    found += [(tag, "refused") for tag in tags.tolist()]
                case Terminated(refused=refused, uncertain=uncertain):
                    found += [(tag, "refused") for tag in refused.tolist()]
                    found += [(tag, "uncertain") for tag in uncertain.tolist()]
        assert len(found) == len(dict(found))
        return dict(found)


def connection(owner: Owner, open_session: Callable[[], Any]) -> SmtpVendorConnection:
    return SmtpVendorConnection(open_session=open_session, limiter=trio.CapacityLimiter(2), on_events=owner.on_events)


def send(link: SmtpVendorConnection, *recipients: str, first: int = 0) -> int:
    tags = np.arange(first, first + len(recipients), dtype=np.int64)
    return link.send(requests(*recipients), 0, tags, trio.current_time() + 3600)


async def test_messages_go_one_after_the_other_and_each_has_its_reply() -> None:
    owner, line = Owner(), Line(GOOD, Reply(550, b"5.1.1 no", "rcpt"), GOOD)
    link = connection(owner, lambda: line)
    assert link.capacity() == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await owner.until(lambda: bool(owner.events))
        assert isinstance(owner.events[0], Writable)
        assert send(link, "a@x.y", "b@x.y", "", "c@x.y") == 4
        assert link.open_requests() == 4
        await owner.until(lambda: len(owner.outcomes()) == 4)
        link.drain(5, CloseReason.IDLE)
    assert line.sent == ["a@x.y", "b@x.y", "c@x.y"]
    # Fields that make no message are refused as a server would.
    assert owner.outcomes() == {0: 200, 1: 550, 2: 554, 3: 200}
    details = [detail for event in owner.events if isinstance(event, Answers) for detail in event.details.values()]
    assert [(detail.headers, detail.body[:5]) for detail in details] == [
        ({b"smtp-phase": b"rcpt"}, b"5.1.1"),
        ({b"smtp-phase": b"data"}, b"5.6.0"),
    ]
    assert (link.close_reason, line.has_quit) == (CloseReason.IDLE, True)
    assert isinstance(owner.events[-1], Terminated)


async def test_no_more_is_taken_than_waits_beside_the_one_under_way() -> None:
    owner, line = Owner(), Line(is_open=False)
    link = connection(owner, lambda: line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await owner.until(lambda: bool(owner.events))
        many = [f"u{index}@x.y" for index in range(10)]
        assert send(link, *many) == 1 + WAITING_MAX == link.open_requests()
        assert link.capacity() == 0
        line.gate.set()
        await owner.until(lambda: len(owner.outcomes()) == 1 + WAITING_MAX)
        assert link.capacity() == 1 + WAITING_MAX
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("may_be_sent", "outcome"), [(False, "refused"), (True, "uncertain")])
async def test_a_lost_session_makes_uncertain_only_what_had_begun_to_leave(may_be_sent: bool, outcome: str) -> None:
    owner = Owner()
    line = Line(GOOD, SessionLost(CloseReason.PEER_RESET, may_be_sent=may_be_sent), is_open=False)
    link = connection(owner, lambda: line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await owner.until(lambda: bool(owner.events))
        send(link, "a@x.y", "b@x.y", "c@x.y")
        line.gate.set()
        await owner.until(lambda: link.close_reason is not None)
    assert owner.outcomes() == {0: 200, 1: outcome, 2: "refused"}
    assert link.close_reason is CloseReason.PEER_RESET
    assert line.is_aborted


async def test_a_server_that_closes_ends_the_session_after_its_reply() -> None:
    owner, line = Owner(), Line(Reply(421, b"4.7.0 too many", "mail"), is_open=False)
    link = connection(owner, lambda: line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await owner.until(lambda: bool(owner.events))
        send(link, "a@x.y", "b@x.y")
        line.gate.set()
    assert owner.outcomes() == {0: 421, 1: "refused"}
    assert link.close_reason is CloseReason.PEER_CLOSED


async def test_draining_gives_back_what_has_not_begun_and_waits_for_the_rest() -> None:
    owner, line = Owner(), Line(is_open=False)
    link = connection(owner, lambda: line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await owner.until(lambda: bool(owner.events))
        send(link, "a@x.y", "b@x.y")
        await trio.testing.wait_all_tasks_blocked()
        link.drain(60)
        assert (link.is_leaving(), link.capacity()) == (True, 0)
        line.gate.set()
    assert owner.outcomes() == {0: 200, 1: "refused"}
    assert link.close_reason is CloseReason.SHUTDOWN


async def test_a_drain_that_takes_too_long_ends_uncertain() -> None:
    owner, line = Owner(), Line(is_open=False)
    link = connection(owner, lambda: line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await owner.until(lambda: bool(owner.events))
        send(link, "a@x.y", "b@x.y")
        await trio.testing.wait_all_tasks_blocked()
        link.drain(0.01)
    assert owner.outcomes() == {0: "uncertain", 1: "refused"}
    assert line.is_aborted


@pytest.mark.parametrize("is_busy", [False, True])
async def test_cancellation_gives_every_row_back(is_busy: bool) -> None:
    owner, line = Owner(), Line(is_open=False)
    link = connection(owner, lambda: line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await owner.until(lambda: bool(owner.events))
        if is_busy:
            send(link, "a@x.y", "b@x.y")
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert owner.outcomes() == ({0: "uncertain", 1: "refused"} if is_busy else {})
    assert (link.close_reason, line.is_aborted) == (CloseReason.SHUTDOWN, True)


async def test_a_session_that_does_not_come_about_has_a_reason() -> None:
    def fail() -> Any:
        raise SessionFailed(CloseReason.BAD_CREDENTIALS, "reply 535")

    owner = Owner()
    link = connection(owner, fail)
    assert await link.run() is CloseReason.BAD_CREDENTIALS
    (event,) = owner.events
    assert isinstance(event, Terminated)
    assert event.text == "bad_credentials: reply 535"


async def test_a_message_whose_time_is_over_is_not_begun() -> None:
    owner, line = Owner(), Line()
    link = connection(owner, lambda: line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await owner.until(lambda: bool(owner.events))
        link.send(requests("a@x.y"), 0, np.zeros(1, np.int64), trio.current_time() - 1)
        await owner.until(lambda: bool(owner.outcomes()))
        nursery.cancel_scope.cancel()
    assert owner.outcomes() == {0: "refused"}
    assert line.sent == []
