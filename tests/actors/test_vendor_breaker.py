"""The breaker in its place: lanes of one (app, vendor) stop together, nobody else does, and rows are told why."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.actors.vendor_breaker import VendorBreaker, VerdictWatch
from gateway.clock import SystemClock
from gateway.content import Variant
from gateway.core.breaker import BreakerCause, BreakerSettings, BreakerState, Outcomes
from gateway.errors import CloseReason
from gateway.ledger import Channel
from gateway.verdict import Answer, Scope, Verdict
from gateway.wire.h2.events import Refused, RefusedWhy, TimedOut

SETTINGS = BreakerSettings(
    rows_min=10, connect_failures_max=3, credential_refusals_max=3, open_s=5.0, open_s_max=20.0, trial_rows_max=4
)
DOWN = b'{"reason":"ServiceUnavailable"}'


def content(**fields: Any) -> Variant:
    return Variant("title", "body", **{"strategy": 2} | fields)


def events(world: Any, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in world.log_lines.getvalue().splitlines()]
    return [line for line in lines if line["event"] == name]


async def fail(world: Any, n: int = 10, **fields: Any) -> Any:
    """n rows that got a 503 each; the breaker of APNs is open."""
    page = await world.send(world.register(n, first=9000), content(**fields))
    world.apns.last.answer(503, DOWN, n=n)
    assert world.breakers[Channel.APNS].state is BreakerState.OPEN
    return page


async def test_an_open_breaker_stops_all_lanes_of_its_vendor_and_no_other(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(breaker=SETTINGS)
    await world.start(nursery)
    fcm = world.register(3, Channel.FCM, first=500)
    failed = await fail(world)
    system = await world.send(world.register(3), content())
    marketing = await world.send(world.register(3, first=50), content(class_="marketing"))
    other = await world.send(fcm, content())
    await world.wait(4.5)
    assert len(world.apns.requests()) == 10
    assert world.states(system) == world.states(marketing) == {"queued": 3}
    assert world.states(other) == {"in_flight": 3}
    assert world.lane().waiting_reason().name == "BREAKER_OPEN"
    assert world.lane(Channel.FCM).waiting_reason().name == "TTL_PASSED"
    await world.wait(1)
    assert len(world.apns.requests()) == 14, "four rows try"
    world.apns.last.answer(n=4)
    await world.settle()
    world.apns.last.answer(n=len(world.apns.last.open))
    assert [world.states(page) for page in (failed, system, marketing)] == [
        {"vendor_accepted": 10},
        {"vendor_accepted": 3},
        {"vendor_accepted": 3},
    ]
    assert world.metrics.breaker_state.value("shop", Channel.APNS) == 0
    moves = {
        state: world.metrics.breaker_transitions.value("shop", Channel.APNS, state, cause)
        for state, cause in (("open", "failures"), ("half_open", "failures"), ("closed", "none"))
    }
    assert moves == {"open": 1, "half_open": 1, "closed": 1}
    (line,) = events(world, "breaker open")
    assert (line["app"], line["vendor"], line["cause"]) == ("shop", "apns", "failures")
    assert line["mend"]


async def test_a_trial_that_fails_opens_it_again_and_for_longer(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(breaker=SETTINGS)
    await world.start(nursery)
    await fail(world)
    await world.wait(5.1)
    assert len(world.apns.last.open) == 4
    world.apns.last.answer(503, DOWN)
    assert world.metrics.breaker_state.value("shop", Channel.APNS) == 1
    world.apns.last.answer(503, DOWN)
    assert world.metrics.breaker_state.value("shop", Channel.APNS) == 2
    world.apns.last.answer(503, DOWN, n=2)
    await world.wait(9.5)
    assert not world.apns.last.open
    await world.wait(1)
    assert len(world.apns.last.open) == 4


async def test_a_row_that_expires_before_an_open_breaker_is_told_so(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(breaker=SETTINGS)
    await world.start(nursery)
    await fail(world)
    page = await world.send(world.register(2), content(ttl_s=3))
    await world.wait(4)
    assert world.states(page) == {"expired": 2}
    assert world.reasons(page) == ["breaker_open"] * 2
    assert not page.bursts


async def test_vendor_first_still_falls_back_in_its_time_when_the_breaker_is_open(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(breaker=SETTINGS._replace(open_s=20.0), strategy4_wait_s=3.0)
    await world.start(nursery)
    await fail(world)
    (device,) = world.register(1)
    world.go_online(device)
    page = await world.send([device], content(strategy=4))
    await world.wait(2)
    assert world.states(page) == {"queued": 1}
    await world.wait(2)
    assert world.sockets.titles(device) == ["title"]
    world.acknowledge(device)
    assert world.states(page) == {"device_acked": 1}


async def test_connects_that_fail_open_it_and_nothing_connects_until_its_time_is_over(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(breaker=SETTINGS)
    world.apns.fails_with = CloseReason.CONNECT_FAILED
    await world.start(nursery)
    page = await world.send(world.register(2), content())
    await world.wait(2)
    assert len(world.apns.connections) == 3
    assert world.breakers[Channel.APNS].state is BreakerState.OPEN
    assert world.lane().waiting_reason().name == "VENDOR_UNAVAILABLE"
    await world.wait(2.5)
    assert len(world.apns.connections) == 3
    world.apns.fails_with = None
    await world.wait(2)
    assert len(world.apns.connections) == 4
    world.apns.last.answer(n=2)
    assert world.states(page) == {"vendor_accepted": 2}
    assert world.breakers[Channel.APNS].state is BreakerState.CLOSED


async def test_connections_that_we_closed_ourselves_say_nothing_of_the_vendor(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(breaker=SETTINGS._replace(connect_failures_max=1))
    await world.start(nursery)
    world.credentials[Channel.APNS].value = None
    await world.send(world.register(1), content(ttl_s=60))
    world.apns.last.drain(1.0, CloseReason.IDLE)
    await world.settle()
    assert world.breakers[Channel.APNS].state is BreakerState.CLOSED


@pytest.mark.parametrize(("is_denied", "reason"), [(False, "VENDOR_UNAVAILABLE"), (True, "CREDENTIAL_REFUSED")])
async def test_rows_that_wait_for_a_credential_are_told_refused_only_where_the_endpoint_has_refused_one(
    is_denied: bool, reason: str, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(breaker=SETTINGS)
    await world.start(nursery)
    await world.send(world.register(1), content(ttl_s=60))
    credential = world.credentials[Channel.APNS]
    credential.value, credential.is_denied = None, is_denied
    world.breakers[Channel.APNS].credential_lost()
    assert world.breakers[Channel.APNS].state is BreakerState.OPEN
    assert world.lane().waiting_reason().name == reason


async def test_a_refused_credential_opens_only_its_own_breaker_and_the_log_names_app_and_mend(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(breaker=SETTINGS)
    await world.start(nursery)
    fcm = await world.send(world.register(5, Channel.FCM, first=500), content())
    page = await world.send(world.register(6), content())
    world.apns.last.answer(403, b'{"reason":"InvalidProviderToken"}', n=3)
    assert world.breakers[Channel.APNS].state is BreakerState.OPEN
    assert world.breakers[Channel.FCM].state is BreakerState.CLOSED
    assert world.lane().waiting_reason().name == "CREDENTIAL_REFUSED"
    world.fcm.last.answer(n=5)
    assert world.states(fcm) == {"vendor_accepted": 5}
    waiting = await world.send(world.register(8, first=100), content())
    await world.wait(15)
    assert world.states(waiting) == {"queued": 8}
    assert world.states(page) == {"failed": 3, "in_flight": 3}
    (line,) = events(world, "breaker open")
    assert (line["app"], line["vendor"], line["cause"]) == ("shop", "apns", "credential")
    assert "vendor section" in line["mend"]
    assert world.metrics.breaker_transitions.value("shop", Channel.APNS, "open", "credential") == 1
    # those three were sent before it opened; their end is no news
    world.apns.last.answer(403, b'{"reason":"InvalidProviderToken"}', n=3)
    await world.wait(6)
    assert len(world.apns.last.open) == 1, "one row tries, since each costs its row"
    world.apns.last.answer()
    await world.settle()
    world.apns.last.answer(n=7)
    assert world.states(waiting) == {"vendor_accepted": 8}


async def test_requests_without_an_answer_open_it(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(breaker=SETTINGS)
    await world.start(nursery)
    await world.send(world.register(12), content())
    world.apns.last.tell(TimedOut, n=12)
    assert world.breakers[Channel.APNS].state is BreakerState.OPEN


async def test_refused_streams_are_no_failures_and_trials_among_them_are_sent_again(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(breaker=SETTINGS)
    await world.start(nursery)
    page = await world.send(world.register(12), content())
    for _ in range(3):
        world.apns.last.tell(Refused, RefusedWhy.REFUSED_STREAM, n=12)
        await world.settle()
    assert world.breakers[Channel.APNS].state is BreakerState.CLOSED
    world.apns.last.answer(n=12)
    assert world.states(page) == {"vendor_accepted": 12}
    await fail(world, 12)
    await world.wait(5.1)
    for _ in range(5):
        assert len(world.apns.last.open) == 4
        world.apns.last.tell(Refused, RefusedWhy.REFUSED_STREAM, n=4)
        await world.settle()
    world.apns.last.answer(n=4)
    assert world.breakers[Channel.APNS].state is BreakerState.CLOSED


# -- what verdicts mean


class Guarded:
    def __init__(self) -> None:
        self.told = (0, 0)

    def on_verdicts(self, alive: int, dead: int) -> None:
        self.told = (self.told[0] + alive, self.told[1] + dead)


class Counted(VendorBreaker):
    def __init__(self) -> None:
        super().__init__(BreakerSettings(), clock=SystemClock(), observer=self)  # type: ignore[arg-type]
        self.outcomes = Outcomes()

    def moved(self, state: BreakerState, cause: BreakerCause, open_s: float) -> None: ...

    def ended(self, outcomes: Outcomes) -> None:
        self.outcomes = Outcomes(*(a + b for a, b in zip(self.outcomes, outcomes, strict=True)))


ANSWERS = [
    Answer(Verdict.ACCEPTED),
    Answer(Verdict.REJECTED, "r"),
    Answer(Verdict.TOKEN_DEAD, "d"),
    Answer(Verdict.TOKEN_MUTED, "m"),
    Answer(Verdict.THROTTLED, "t", Scope.APP),
    Answer(Verdict.QUOTA, "q", Scope.CLASS),
    Answer(Verdict.CREDENTIAL, "final", Scope.APP),
    Answer(Verdict.CREDENTIAL, "refreshable", Scope.APP, is_refreshable=True),
    Answer(Verdict.CREDENTIAL, "of these devices", Scope.DEVICE),
    Answer(Verdict.UNAVAILABLE, "u", Scope.APP),
    Answer(Verdict.UNCERTAIN, "TimedOut"),
]
#: By position in ANSWERS: what each is for the breaker, and for the guard.
MEANINGS = [
    ("answered", "alive"),
    ("answered", ""),
    ("answered", "dead"),
    ("answered", "alive"),
    ("answered", ""),
    ("answered", ""),
    ("refused", ""),
    ("void", ""),
    ("answered", ""),
    ("failed", ""),
    ("failed", ""),
]


@given(st.lists(st.integers(0, len(ANSWERS) - 1), max_size=50))
def test_verdicts_are_counted_as_a_row_by_row_twin_counts_them(rows: list[int]) -> None:
    breaker, guard = Counted(), Guarded()
    verdicts = np.array([ANSWERS[row].verdict for row in rows], np.uint8)
    # an accepted row has no answer object, and neither has one that ended without an answer
    answers = {at: ANSWERS[row] for at, row in enumerate(rows) if ANSWERS[row].name not in ("", "TimedOut")}
    VerdictWatch(breaker, guard).judge(verdicts, answers)  # type: ignore[arg-type]
    expected = dict.fromkeys(("answered", "failed", "refused", "void"), 0)
    judged = {"alive": 0, "dead": 0, "": 0}
    for row in rows:
        of_vendor, of_token = MEANINGS[row]
        expected[of_vendor] += 1
        judged[of_token] += 1
    assert breaker.outcomes._asdict() == expected
    assert guard.told == (judged["alive"], judged["dead"])


@pytest.mark.parametrize("cause", BreakerCause)
def test_every_cause_has_a_mend_and_a_reason_for_rows(cause: BreakerCause) -> None:
    from gateway.actors.vendor_breaker import _REASON_OF
    from gateway.observe.metrics import BREAKER_CAUSES, BREAKER_STATES
    from gateway.observe.vendor_health import _MENDS

    assert BREAKER_CAUSES[cause] == cause.name.lower()
    assert [state.name.lower() for state in BreakerState] == list(BREAKER_STATES)
    assert cause in _REASON_OF
    assert cause is BreakerCause.NONE or _MENDS[cause.name.lower()]
