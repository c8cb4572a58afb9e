"""A bundle against a naive twin: a dict of who sends what, which tells how each row has to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.errors import CloseReason
from gateway.wire.h2.events import Terminated

SOCKETS, QUEUE = 3, 2
FAR = 1e6


class BundleTwin(RuleBasedStateMachine):
    """expected: tag -> how it has to end, of those that have. flying: socket -> tag, of requests on the wire without a
    final status. headed: socket -> (tag, status) where a part of the answer came. waiting: tags that nobody sends."""

    def __init__(self, play: Any, answer_bytes: Callable[..., bytes], request_tag: Callable[[bytes], int]) -> None:
        super().__init__()
        self.play = play
        self.answer_bytes = answer_bytes
        self.request_tag = request_tag
        self.expected: dict[int, object] = {}
        self.flying: dict[int, int] = {}
        self.headed: dict[int, tuple[int, int]] = {}
        self.deadlines: dict[int, float] = {}
        self.is_draining = False

    @property
    def is_over(self) -> bool:
        return self.play.bundle.is_terminated

    def look(self) -> None:
        """What is new on the wire; rows of the queue that went back are told by the bundle and judged below."""
        for number, data in self.play.wire.items():
            if number not in self.headed:
                self.flying[number] = self.request_tag(data)

    def lose(self, number: int, how: str) -> None:
        """The socket is over: its row ends in this way, or with the status that came."""
        if number in self.headed:
            tag, status = self.headed.pop(number)
            self.expected[tag] = status
        elif number in self.flying:
            self.expected[self.flying.pop(number)] = how

    @rule(n=st.integers(1, 6), patience=st.sampled_from([3.0, 7.0, FAR]))
    def send(self, n: int, patience: float) -> None:
        first = self.play.tag
        room = self.play.bundle.capacity()
        taken = self.play.send(n, self.play.now + patience)
        assert taken == min(n, room)
        self.deadlines.update(dict.fromkeys(range(first, first + taken), self.play.now + patience))
        self.look()

    @precondition(lambda self: self.play.opening)
    @rule()
    def connect(self) -> None:
        self.play.connect(1)
        self.look()

    @precondition(lambda self: self.play.opening)
    @rule()
    def fail(self) -> None:
        flying = dict(self.flying)
        self.play.fail()
        if self.is_over:
            assert not flying
        self.look()

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), status=st.sampled_from([200, 429, 500]), closes=st.booleans(), is_early_cut=st.booleans())
    def answer(self, data, status: int, closes: bool, is_early_cut: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.flying)))
        answer = self.answer_bytes(status, b"body", *([b"connection: close"] if closes else []))
        tag = self.flying.pop(number)
        self.play.wire.pop(number)
        if is_early_cut:
            self.headed[number] = (tag, status)
            self.play.feed(number, answer[:-2])
        else:
            self.expected[tag] = status
            self.play.feed(number, answer)
        self.look()

    @precondition(lambda self: self.headed)
    @rule(data=st.data())
    def finish(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.headed)))
        tag, status = self.headed.pop(number)
        self.expected[tag] = status
        self.play.feed(number, b"dy")
        self.look()

    @precondition(lambda self: self.flying or self.headed)
    @rule(data=st.data(), how=st.sampled_from(["end", "lost", "garbage"]))
    def break_one(self, data, how: str) -> None:
        number = data.draw(st.sampled_from(sorted({*self.flying, *self.headed})))
        if how == "garbage" and number in self.headed:
            how = "lost"
        self.lose(number, "malformed" if how == "garbage" else "reset")
        match how:
            case "end":
                self.play.hang_up(number)
            case "lost":
                self.play.bundle.connection_lost(number, CloseReason.PEER_RESET, self.play.now)
                self.play.settle()
            case _:
                self.play.feed(number, b"\x16\x03\x01 is no HTTP\r\n\r\n")
        self.look()

    @rule(seconds=st.sampled_from([0.5, 4.0, 30.0]))
    def wait(self, seconds: float) -> None:
        before = set(self.flying) | set(self.headed)
        until = self.play.now + seconds
        late = {number for number in before if self.deadlines[self.tag_on(number)] <= until}
        for number in late:
            self.lose(number, "timed out")
        self.play.wait(until)
        self.look()
        # A row that took the place of another while the clock went on may be late as well.
        for number in [number for number in self.flying if number not in self.play.wire]:
            self.lose(number, "timed out")

    def tag_on(self, number: int) -> int:
        return self.headed[number][0] if number in self.headed else self.flying[number]

    @precondition(lambda self: not self.is_draining)
    @rule()
    def drain(self) -> None:
        self.is_draining = True
        self.play.bundle.drain(CloseReason.SHUTDOWN)
        self.play.settle()

    @precondition(lambda self: not self.is_over)
    @rule(roll=st.integers(0, 9))
    def close(self, roll: int) -> None:
        if roll:
            return  # rarely
        for number in {*self.flying, *self.headed}:
            self.lose(number, "uncertain")
        self.play.bundle.close(CloseReason.SHUTDOWN)
        self.play.settle()

    @invariant()
    def rows_end_as_the_twin_says(self) -> None:
        ended = {tag: how if isinstance(how, str) else how[0] for tag, how in self.play.ended.items()}
        told = {tag: how for tag, how in ended.items() if how != "refused"}
        assert told == self.expected
        open_tags = set(range(self.play.tag)) - set(ended)
        in_flight = set(self.flying.values()) | {tag for tag, _ in self.headed.values()}
        assert in_flight <= open_tags
        assert len(open_tags - in_flight) == self.play.bundle.statistics().queued
        for tag, how in ended.items():
            # What was on the wire is never said to be refused.
            assert how != "refused" or tag not in self.expected

    @invariant()
    def bounds_hold(self) -> None:
        statistics = self.play.bundle.statistics()
        assert statistics.sockets + statistics.connecting <= SOCKETS
        assert len(self.play.opening) <= 2
        assert statistics.open_streams <= SOCKETS + QUEUE
        assert len(self.flying) + len(self.headed) == statistics.in_flight
        if self.is_over:
            assert isinstance(self.play.events[-1], Terminated)
            assert set(self.play.ended) == set(range(self.play.tag))
            assert not self.play.opening
        elif statistics.queued and not self.play.opening:
            # Rows wait for a socket only where none can be had now.
            assert statistics.in_flight == SOCKETS or self.play.bundle.next_deadline() < FAR


@pytest.mark.hypothesis
def test_a_bundle_is_what_its_twin_says(
    play: Callable[..., Any], answer_bytes: Callable[..., bytes], request_tag: Callable[[bytes], int]
) -> None:
    def make() -> BundleTwin:
        limits = {"sockets_max": SOCKETS, "queue_max": QUEUE, "connecting_max": 2, "socket_idle_s": 20.0}
        return BundleTwin(play(is_connected=False, **limits), answer_bytes, request_tag)

    run_state_machine_as_test(make, settings=settings(stateful_step_count=40))
