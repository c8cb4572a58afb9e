"""LaneActor: each attempt ends in one verdict, each row goes on or ends by it, and nothing leaves that may not."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from gateway.clock import DevelopmentClock
from gateway.content import Class, Variant
from gateway.core.retry import RetryPolicy
from gateway.errors import CloseReason
from gateway.ledger import Channel, Flag, Reason, State
from gateway.vendor import TargetPace
from gateway.verdict import Verdict
from gateway.wire.h2.events import Refused, RefusedWhy, Reset, TimedOut


def content(**fields: Any) -> Variant:
    return Variant("title", "body", **{"strategy": 2} | fields)


# -- what goes out


async def test_lane_sends_what_the_renderer_made_of_its_rows(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    devices = world.register(3)
    page = await world.send(devices, [content(), content(), content(collapse_id="x")])
    found = {path: (headers, body) for path, headers, body in world.apns.requests()}
    for row, device in enumerate(devices):
        headers, body = found["/3/device/" + world.token(device).decode()]
        assert headers["authorization"] == "bearer one"
        assert headers["apns-id"].replace("-", "") == page.batch.message_ids[row].tobytes().hex()
        assert body["aps"]["alert"] == {"title": "title", "body": "body"}
    assert world.states(page) == {"in_flight": 3}
    assert page.attempts.tolist() == [1, 1, 1]
    assert (page.issued_ms > 0).all()
    assert (page.token_hashes != 0).all()
    world.apns.last.answer(n=3)
    assert world.states(page) == {"vendor_accepted": 3}
    world.assert_one_verdict_per_attempt(page)
    assert world.lane().is_idle


async def test_lane_sends_no_more_at_once_than_a_connection_takes(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(connections_max=1)
    world.apns.streams_max = 7
    await world.start(nursery)
    page = await world.send(world.register(20))
    sent = [len(world.apns.requests())]
    while world.apns.last.open:
        world.apns.last.answer(n=len(world.apns.last.open))
        await world.settle()
        sent.append(len(world.apns.requests()))
    assert sent == [7, 14, 20, 20]
    assert world.states(page) == {"vendor_accepted": 20}
    world.assert_one_verdict_per_attempt(page)


async def test_lane_keeps_the_pace_of_each_target_and_lets_others_pass(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(target_pace=TargetPace(2, 60.0))
    await world.start(nursery)
    busy, quiet = world.register(2)
    page = await world.send([busy, busy, busy, busy, busy, quiet])
    assert len(world.apns.requests()) == 3
    assert world.states(page) == {"in_flight": 3, "waiting": 3}
    assert set(page.reason[page.state == State.WAITING].tolist()) == {Reason.THROTTLED}
    for seconds, sent in ((59, 3), (2, 5), (57, 5), (4, 6), (200, 6)):
        await world.wait(seconds)
        assert len(world.apns.requests()) == sent


async def test_lane_lets_through_what_its_bucket_allows(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(rate_per_s=2.0, burst=5)
    await world.start(nursery)
    await world.send(world.register(15))
    assert len(world.apns.requests()) == 5
    for seconds, sent in ((1, 7), (2, 11), (2, 15), (100, 15)):
        await world.wait(seconds + 0.01)
        assert len(world.apns.requests()) == sent
    assert world.metrics.bucket_waits.value(Channel.APNS) > 0


async def test_lane_spends_no_tokens_on_rows_that_are_gone(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """A connection that takes less than was rendered, and rows that end meanwhile: the bucket gets its tokens back."""
    world = make_world(rate_per_s=1e-6, burst=10, connections_max=1)
    world.apns.streams_max = 2
    await world.start(nursery)
    page = await world.send(world.register(6))
    world.home.move(page, np.array([2, 3, 4, 5]), State.CANCELLED, Reason.NONE, trio.current_time())
    world.apns.last.answer(n=2)
    await world.settle()
    page = await world.send(world.register(8, first=20))
    for _ in range(4):
        world.apns.last.answer(n=2)
        await world.settle()
    assert len(world.apns.requests()) == 10
    assert world.states(page) == {"vendor_accepted": 8}


async def test_lane_sends_urgent_rows_before_others(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(burst_rows_max=1, connections_max=1)
    world.apns.streams_max = 1
    world.apns.gate = trio.Event()
    await world.start(nursery)
    devices = world.register(6)
    await world.send(devices[:3], content(priority="normal"))
    await world.send(devices[3:], content(priority="high"))
    world.apns.gate.set()
    await world.settle()
    for _ in range(6):
        world.apns.last.answer()
        await world.settle()
    order = [path.removeprefix("/3/device/") for path, _, _ in world.apns.requests()]
    tokens = [world.token(device).decode() for device in devices]
    assert order == tokens[3:] + tokens[:3]


async def test_lane_uses_the_token_that_the_device_has_when_its_row_leaves(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    world.apns.gate = trio.Event()
    await world.start(nursery)
    renewed, lost, moved = world.register(3)
    page = await world.send([renewed, lost, moved])
    now = world.clock.unix_ms() // 1000
    world.devices.register(0, world.registration([renewed], Channel.APNS, [b"e" * 64]), now)
    world.devices.register(0, world.registration([lost], Channel.NONE, [b""]), now)
    world.devices.register(0, world.registration([moved], Channel.FCM, [b"fcm"]), now)
    world.apns.gate.set()
    await world.settle()
    assert [path for path, _, _ in world.apns.requests()] == ["/3/device/" + "e" * 64]
    assert world.states(page) == {"in_flight": 1, "failed": 2}
    assert world.reasons(page)[1:] == ["no_channel"] * 2


async def test_lane_ends_a_row_that_the_vendor_can_never_take(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Data too large for a payload cannot be cut; the others of the burst go on."""
    world = make_world()
    await world.start(nursery)
    page = await world.send(world.register(3), [content(), content(data={"blob": "x" * 5000}), content()])
    assert world.states(page) == {"in_flight": 2, "failed": 1}
    assert world.reasons(page)[1] in ("content_too_long", "content_refused")
    assert page.attempts.tolist() == [1, 0, 1]


async def test_lane_marks_rows_whose_text_was_cut(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await world.send(world.register(2), [Variant("t", "字" * 3000), content()])
    assert [bool(flags & Flag.TRUNCATED) for flags in page.flags.tolist()] == [True, False]
    assert world.metrics.rows_truncated.value(Channel.APNS) == 1


async def test_lane_waits_for_a_credential_and_for_the_first_connection(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    credential = world.credentials[Channel.APNS]
    credential.value = None
    await world.start(nursery)
    page = await world.send(world.register(1))
    await world.wait(10)
    assert world.states(page) == {"queued": 1}
    credential.value = b"bearer at last"
    world.lane().ring()
    await world.settle()
    assert world.apns.requests()[0][1]["authorization"] == "bearer at last"


async def test_lane_never_sends_rendered_rows_with_a_credential_that_was_replaced(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(connections_max=1)
    world.apns.streams_max = 2
    await world.start(nursery)
    page = await world.send(world.register(6))
    world.credentials[Channel.APNS].value = b"bearer two"
    world.apns.streams_max = 10
    world.apns.last.answer(n=2)
    await world.settle()
    assert [headers["authorization"] for _, headers, _ in world.apns.requests()] == ["bearer one"] * 2 + [
        "bearer two"
    ] * 4
    assert world.states(page) == {"vendor_accepted": 2, "in_flight": 4}


# -- verdicts


@pytest.mark.parametrize(
    ("status", "body", "state", "reason", "name"),
    [
        (400, b'{"reason":"BadCollapseId"}', "failed", "rejected_by_vendor", "BadCollapseId"),
        (410, b'{"reason":"Unregistered"}', "failed", "token_dead", "Unregistered"),
        (403, b'{"reason":"InvalidProviderToken"}', "failed", "credential_refused", "InvalidProviderToken"),
        (403, b'{"reason":"Forbidden"}', "failed", "no_permission", "Forbidden"),
        (429, b'{"reason":"TooManyRequests"}', "waiting", "throttled", "TooManyRequests"),
        (503, b'{"reason":"ServiceUnavailable"}', "waiting", "vendor_unavailable", "ServiceUnavailable"),
        (500, b"not JSON", "waiting", "vendor_unavailable", None),
        (418, b"", "failed", "rejected_by_vendor", None),
    ],
)
async def test_lane_ends_or_keeps_a_row_by_its_answer(
    status: int,
    body: bytes,
    state: str,
    reason: str,
    name: str | None,
    make_world: Callable[..., Any],
    nursery: trio.Nursery,
    autojump_clock: Any,
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await world.send(world.register(3), content())
    world.apns.last.answer()
    world.apns.last.answer(status, body)
    world.apns.last.answer()
    assert world.states(page) == {"vendor_accepted": 2, state: 1}
    assert world.reasons(page)[1] == reason
    world.assert_one_verdict_per_attempt(page)
    if name is not None:
        assert page.bursts[0].names[1] == name
        assert world.metrics.verdict_names.value(Channel.APNS, name) == 1


@pytest.mark.parametrize("resends", [True, False])
@pytest.mark.parametrize("event", ["reset", "timed_out", "terminated"])
async def test_lane_treats_an_attempt_without_answer_as_uncertain(
    event: str, resends: bool, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    policy = RetryPolicy(first_s=1.0, jitter=0.0, resends_uncertain=resends)
    world = make_world(policy=policy)
    await world.start(nursery)
    page = await world.send(world.register(2), content())
    connection = world.apns.last
    if event == "reset":
        connection.tell(Reset, 2, True, n=2)
    elif event == "timed_out":
        connection.tell(TimedOut, n=2)
    else:
        connection.close(CloseReason.PEER_RESET)
    await world.settle()
    assert world.states(page) == ({"waiting": 2} if resends else {"uncertain": 2})
    assert world.reasons(page) == ["no_answer"] * 2
    assert world.verdicts(page) == [(1, [0, 1], [Verdict.UNCERTAIN] * 2)]
    await world.wait(2)
    if resends:
        assert (page.flags & Flag.RESENT_UNCERTAIN).all()
        world.apns.last.answer(n=2)
        assert world.states(page) == {"vendor_accepted": 2}
        assert world.metrics.rows_resent_uncertain.value(Channel.APNS) == 2
        assert page.attempts.tolist() == [2, 2]
    else:
        assert len(world.apns.requests()) == 2
        assert world.metrics.rows_uncertain.value(Channel.APNS) == 2
    world.assert_one_verdict_per_attempt(page)


async def test_lane_sends_rows_again_that_were_surely_not_processed_and_counts_no_attempt(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(rate_per_s=1e-6, burst=4)
    await world.start(nursery)
    page = await world.send(world.register(4), content())
    world.apns.last.tell(Refused, RefusedWhy.REFUSED_STREAM, n=2)
    world.apns.last.answer()
    world.apns.last.close(CloseReason.GOAWAY, refused=1)
    await world.wait(1)
    # the bucket of four rows has let seven requests through: those that were not processed cost nothing
    assert len(world.apns.requests()) == 7
    assert not (page.flags & Flag.RESENT_UNCERTAIN).any()
    assert page.attempts.tolist() == [1] * 4
    world.apns.last.answer(n=len(world.apns.last.open))
    assert world.states(page) == {"vendor_accepted": 4}
    world.assert_one_verdict_per_attempt(page)


async def test_lane_takes_an_event_that_names_rows_of_many_bursts_and_pages(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(burst_rows_max=3)
    await world.start(nursery)
    devices = world.register(10)
    pages = [await world.send(devices, content()) for _ in range(3)]
    await world.send(devices[:5], content(class_="marketing"))
    # answers come in another order than requests went
    connection = world.apns.last
    connection.open.sort(key=lambda tag: tag * 7919 % 104_729)
    connection.answer(n=20)
    connection.answer(400, b'{"reason":"BadCollapseId"}', n=10)
    connection.answer(n=5)
    ended = Counter()
    for page in pages:
        ended.update(world.states(page))
        world.assert_one_verdict_per_attempt(page)
    assert sum(ended.values()) == 30
    assert set(ended) <= {"vendor_accepted", "failed"}
    assert world.lane().is_idle
    assert world.lane(Channel.APNS, Class.MARKETING).is_idle


# -- retries


async def test_lane_retries_with_backoff_until_the_attempts_are_used_up(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(policy=RetryPolicy(first_s=1.0, factor=2.0, jitter=0.0, attempts_max=4, throttle_s=1.0))
    await world.start(nursery)
    page = await world.send(world.register(1), content())
    sent_at = [trio.current_time()]
    for _ in range(3):
        world.apns.last.answer(429, b'{"reason":"TooManyRequests"}')
        n = len(world.apns.requests())
        while len(world.apns.requests()) == n:
            await world.wait(0.1)
        sent_at.append(trio.current_time())
    waits = [later - earlier for earlier, later in itertools.pairwise(sent_at)]
    assert waits == pytest.approx([1, 2, 4], abs=0.21)
    world.apns.last.answer(429, b'{"reason":"TooManyRequests"}')
    assert world.states(page) == {"failed": 1}
    assert world.reasons(page) == ["attempts_used_up"]
    world.assert_one_verdict_per_attempt(page)


async def test_lane_waits_as_long_as_retry_after_says(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await world.send(world.register(3), content())
    world.apns.last.answer(503, headers={b"retry-after": b"30"})
    world.apns.last.answer(503, headers={b"retry-after": b"5"})
    world.apns.last.answer(503)
    for at_s, sent in ((0.5, 3), (1.6, 4), (4.5, 4), (5.5, 5), (29.5, 5), (30.5, 6)):
        await world.wait(at_s - (trio.current_time() - page.batch.born))
        assert len(world.apns.requests()) == sent, at_s
    world.apns.last.answer(n=3)
    assert world.states(page) == {"vendor_accepted": 3}
    assert world.metrics.retries.value(Channel.APNS, Reason.VENDOR_UNAVAILABLE) == 3


async def test_lane_expires_a_row_whose_retry_would_come_too_late(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await world.send(world.register(2), [content(ttl_s=20), content(ttl_s=60)])
    world.apns.last.answer(503, headers={b"retry-after": b"30"}, n=2)
    await world.wait(19)
    assert world.states(page) == {"waiting": 2}
    await world.wait(2)
    assert world.states(page) == {"expired": 1, "waiting": 1}
    assert world.reasons(page)[0] == "vendor_unavailable"
    await world.wait(10)
    assert world.states(page) == {"expired": 1, "in_flight": 1}


async def test_lane_retries_by_the_development_clock(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    clock = DevelopmentClock()
    world = make_world(clock=clock)
    await world.start(nursery)
    page = await world.send(world.register(1), content(ttl_s=100_000))
    world.apns.last.answer(503, headers={b"retry-after": b"3000"})
    clock.advance(3001)
    await world.wait(0.2)
    assert len(world.apns.requests()) == 2
    assert world.states(page) == {"in_flight": 1}
    # requests are timed on the machine's clock: a moved clock cuts none off
    assert world.apns.last.deadlines[1] == pytest.approx(trio.current_time() + 30, abs=1)


async def test_lane_does_not_retry_a_row_that_ended_while_it_waited(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    page = await world.send(world.register(2), content())
    world.apns.last.answer(503, n=2)
    world.home.move(page, np.array([0]), State.CANCELLED, Reason.NONE, trio.current_time())
    await world.wait(5)
    assert len(world.apns.requests()) == 3
    assert world.states(page) == {"cancelled": 1, "in_flight": 1}
