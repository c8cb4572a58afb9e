"""A bundle and the servers at the other ends of its sockets, played by the test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gateway.errors import CloseReason
from gateway.vendor import Requests
from gateway.wire.h2.events import Answers, Event, Refused, Reset, Terminated, TimedOut
from gateway.wire.http1.bundle import Bundle
from gateway.wire.http1.settings import Http1Config

FAR = 1e6


def tag_of(request: bytes) -> int:
    """The tag of a request, which its path names; the request is whole."""
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /t/")
    assert b"content-length: %d" % len(body) in head
    return int(head[8:].split(b" ")[0])


def make_answer(status: int = 200, body: bytes = b"", *fields: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d x" % status, b"content-length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Play:
    """wire: what each socket was given to send, while nothing of its answer has come to an end. ended: tag -> what."""

    def __init__(self, **config: object) -> None:
        self.bundle = Bundle(Http1Config(**config))
        self.now = 0.0
        self.tag = 0
        self.opening: list[int] = []
        self.wire: dict[int, bytes] = {}
        self.closed: list[tuple[int, CloseReason, str]] = []
        self.events: list[Event] = []
        self.ended: dict[int, object] = {}

    def settle(self) -> None:
        """Carries out what the bundle wants, as its actor does, but opens no socket to its end."""
        bundle = self.bundle
        for number in bundle.take_writable():
            data = bundle.data_to_send(number)
            if data:
                self.wire[number] = data
                bundle.written(number, self.now)
        for closing in bundle.take_closing():
            self.closed.append(tuple(closing))
            self.wire.pop(closing.number, None)
            if closing.number in self.opening:
                self.opening.remove(closing.number)
        self.opening += [bundle.connecting() for _ in range(bundle.sockets_wanted(self.now))]
        events = bundle.take_events()
        self.events += events
        for event in events:
            self._end(event)
        if bundle.take_writable() or bundle.sockets_wanted(self.now):
            raise AssertionError("one round did not carry out everything")

    def _end(self, event: Event) -> None:
        outcomes: list[tuple[int, object]] = []
        match event:
            case Answers():
                for at, (tag, status) in enumerate(zip(event.tags.tolist(), event.status.tolist(), strict=True)):
                    outcomes.append((tag, (status, event.details.get(at))))
            case Refused():
                outcomes += [(tag, "refused") for tag in event.tags.tolist()]
            case Reset():
                outcomes += [(tag, "reset" if event.is_by_peer else "malformed") for tag in event.tags.tolist()]
            case TimedOut():
                outcomes += [(tag, "timed out") for tag in event.tags.tolist()]
            case Terminated():
                outcomes += [(tag, "refused") for tag in event.refused.tolist()]
                outcomes += [(tag, "uncertain") for tag in event.uncertain.tolist()]
        for tag, outcome in outcomes:
            assert tag not in self.ended, f"tag {tag} ended twice"
            self.ended[tag] = outcome

    def send(self, n: int = 1, deadline: float = FAR) -> int:
        paths = np.array([list(b"%08d" % (self.tag + at)) for at in range(n)], np.uint8)
        requests = Requests(n, b"push.example", (b"/t/", paths), ((b"x-a", (b"1",)),), (b"{}",))
        tags = np.arange(self.tag, self.tag + n, dtype=np.int64)
        taken = self.bundle.send_requests(requests, 0, tags, now=self.now, deadline=deadline)
        self.tag += taken
        self.settle()
        return taken

    def connect(self, n: int = 1000) -> list[int]:
        """The n oldest of the sockets under way are connected, and those that are wanted then."""
        done = []
        while self.opening and len(done) < n:
            done.append(self.opening.pop(0))
            self.bundle.connected(done[-1], self.now)
            self.settle()
        return done

    def fail(self, reason: CloseReason = CloseReason.CONNECT_FAILED) -> None:
        self.bundle.connect_failed(self.opening.pop(0), reason, "no", self.now)
        self.settle()

    def feed(self, number: int, data: bytes) -> None:
        self.bundle.receive_data(number, data, self.now)
        self.settle()

    def answer(self, number: int, status: int = 200, body: bytes = b"", *fields: bytes) -> None:
        self.wire.pop(number)
        self.feed(number, make_answer(status, body, *fields))

    def hang_up(self, number: int, *, is_clean: bool = True) -> None:
        self.bundle.receive_end(number, self.now, is_clean=is_clean)
        self.settle()

    def wait(self, until: float) -> None:
        """Time passes, with every deadline on its way."""
        while self.bundle.next_deadline() <= until:
            before = (self.bundle.next_deadline(), self.bundle.statistics())
            self.now = max(self.now, self.bundle.next_deadline())
            self.bundle.on_deadline(self.now)
            self.settle()
            assert (self.bundle.next_deadline(), self.bundle.statistics()) != before, "the clock spins"
        self.now = max(self.now, until)
        self.settle()


@pytest.fixture(scope="session")
def play() -> Callable[..., Play]:
    """A bundle whose first socket is connected, unless told otherwise."""

    def make(*, is_connected: bool = True, **config: object) -> Play:
        made = Play(**config)
        made.settle()
        if is_connected:
            made.connect()
        return made

    return make


@pytest.fixture(scope="session")
def answer_bytes() -> Callable[..., bytes]:
    return make_answer


@pytest.fixture(scope="session")
def request_tag() -> Callable[[bytes], int]:
    return tag_of
