"""LaneActor with requests of many rows: every row has its own verdict, and two steps are one attempt."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import trio

from gateway.burst_address import decode
from gateway.content import Class, Variant
from gateway.core.breaker import BreakerSettings
from gateway.core.bucket import TokenBucket
from gateway.core.report import trace_row
from gateway.errors import CloseReason
from gateway.ledger import Channel
from gateway.wire.h2.events import Refused, RefusedWhy, Reset, TimedOut

SECRET = b"message id secret"
GOOD = b'{"code":"80000000","msg":"Success","requestId":"1"}'
SAVED = b'{"result":0,"desc":"ok","taskId":"800000000000000001"}'
PUSHED = b'{"result":0,"desc":"ok","requestId":"x"}'


def content(**fields: Any) -> Variant:
    return Variant("title", "body", **{"strategy": 2} | fields)


async def begin(make_world: Callable[..., Any], nursery: trio.Nursery, channel: Channel, **settings: Any) -> Any:
    world = make_world(more_channels=[channel], **settings)
    await world.start(nursery)
    return world


def tokens_of(body: dict[str, Any]) -> list[bytes]:
    return [token.encode() for token in body["message"]["token"]]


def partly(*tokens: bytes) -> bytes:
    told = json.dumps({"success": 1, "failure": 1, "illegal_tokens": [token.decode() for token in tokens]})
    return json.dumps({"code": "80100000", "msg": told}).encode()


# -- lists


async def test_rows_of_one_content_share_requests_and_each_row_has_one_verdict(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.HUAWEI)
    devices = world.register(25, Channel.HUAWEI)
    page = await world.send(devices, content())
    vendor = world.vendors[Channel.HUAWEI]
    sent = [tokens_of(body) for _, _, body in vendor.requests()]
    assert [len(tokens) for tokens in sent] == [8, 8, 9]
    assert sorted(itertools.chain(*sent)) == sorted(world.token(device) for device in devices)
    assert world.states(page) == {"in_flight": 25}
    vendor.last.answer(200, GOOD.replace(b'"1"', b'"15744"'))
    vendor.last.answer(200, GOOD.replace(b'"1"', b'"15745"'), n=2)
    assert world.states(page) == {"vendor_accepted": 25}
    # A trace of each row names the vendor's own name of the request that carried it.
    traced = [hop.request for row in range(25) for hop in trace_row(page, row) if hop.what == "answered"]
    assert (traced.count("15744"), traced.count("15745")) == (8, 17)
    world.assert_one_verdict_per_attempt(page)
    assert world.lane(Channel.HUAWEI).is_idle


async def test_a_row_alone_goes_in_a_request_with_its_message_id(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.HUAWEI)
    page = await world.send(world.register(1, Channel.HUAWEI), content())
    ((_, _, body),) = world.vendors[Channel.HUAWEI].requests()
    assert body["message"]["android"]["bi_tag"].replace("-", "") == page.batch.message_ids[0].tobytes().hex()


async def test_the_callback_parameter_names_batch_and_request_and_stands_in_the_burst_log(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.HUAWEI)
    page = await world.send(world.register(25, Channel.HUAWEI), content())
    requests = world.vendors[Channel.HUAWEI].requests()
    addresses = [decode(SECRET, body["message"]["android"]["bi_tag"]) for _, _, body in requests]
    assert all(address is not None and address.batch == page.batch.address for address in addresses)
    first = page.bursts[0].first_request
    assert [address.number for address in addresses if address is not None] == [first, first + 1, first + 2]


async def test_partial_failures_come_back_to_exactly_their_rows(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.HUAWEI)
    devices = world.register(20, Channel.HUAWEI)
    page = await world.send(devices, content())
    vendor = world.vendors[Channel.HUAWEI]
    dead = {world.token(devices[row]): row for row in (3, 4, 17)}
    for _, _, body in vendor.requests():
        here = [token for token in tokens_of(body) if token in dead]
        vendor.last.answer(200, partly(*here, b"a token of somebody else") if here else GOOD)
    await world.settle()
    for row, device in enumerate(devices):
        is_dead = row in dead.values()
        assert page.state[row] == (6 if is_dead else 4), row
        assert bool(world.token(device)) != is_dead
    names = {name for burst in page.bursts for name in burst.names.values()}
    assert names == {"illegal_token"}
    world.assert_one_verdict_per_attempt(page)


async def test_a_refusal_of_the_whole_request_is_the_verdict_of_all_its_rows_and_no_other(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.HUAWEI)
    page = await world.send(world.register(20, Channel.HUAWEI), content())
    vendor = world.vendors[Channel.HUAWEI]
    vendor.last.answer(200, b'{"code":"80300008","msg":"too large"}')
    vendor.last.answer(200, GOOD)
    await world.settle()
    assert world.states(page) == {"failed": 10, "vendor_accepted": 10}
    world.assert_one_verdict_per_attempt(page)


async def test_rows_of_a_throttled_request_go_again_together(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.HUAWEI)
    page = await world.send(world.register(10, Channel.HUAWEI), content())
    vendor = world.vendors[Channel.HUAWEI]
    vendor.last.answer(503)
    await world.settle()
    assert world.states(page) == {"waiting": 10}
    await world.wait(30)
    vendor.last.answer(200, GOOD)
    assert world.states(page) == {"vendor_accepted": 10}
    assert [len(burst.rows) for burst in page.bursts] == [10, 10]
    world.assert_one_verdict_per_attempt(page)


async def test_a_request_that_was_not_processed_costs_no_attempt_and_one_without_answer_is_uncertain(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.HUAWEI)
    devices = world.register(20, Channel.HUAWEI)
    page = await world.send(devices, content(class_="marketing"))
    vendor = world.vendors[Channel.HUAWEI]
    vendor.last.tell(Refused, RefusedWhy.NOT_WRITTEN)
    await world.settle()
    vendor.last.tell(TimedOut)
    await world.settle()
    vendor.last.answer(200, GOOD, n=len(vendor.last.open))
    await world.settle()
    assert sum(world.states(page).values()) == 20
    assert set(world.states(page)) <= {"vendor_accepted", "waiting", "uncertain"}
    assert page.attempts.tolist() == [1] * 20
    world.assert_one_verdict_per_attempt(page)


async def test_an_answer_that_was_cut_off_is_not_taken_for_acceptance(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.HUAWEI)
    page = await world.send(world.register(10, Channel.HUAWEI), content())
    world.vendors[Channel.HUAWEI].last.answer(200, GOOD[:-20])
    await world.settle()
    assert {int(verdict) for verdict in page.bursts[0].verdicts} == {8}


async def test_a_token_named_by_two_rows_stands_in_two_requests(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.HUAWEI)
    page = await world.send([(Channel.HUAWEI, token) for token in (b"aaaa", b"bbbb", b"aaaa", b"aaaa")], content())
    sent = [tokens_of(body) for _, _, body in world.vendors[Channel.HUAWEI].requests()]
    assert sorted(sent) == [[b"aaaa"], [b"aaaa"], [b"aaaa", b"bbbb"]]
    world.vendors[Channel.HUAWEI].last.answer(200, GOOD, n=3)
    assert world.states(page) == {"vendor_accepted": 4}


async def test_the_breaker_counts_requests_and_not_their_rows(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    settings = BreakerSettings(rows_min=3)
    world = await begin(make_world, nursery, Channel.HUAWEI, breaker=settings)
    vendor = world.vendors[Channel.HUAWEI]
    for _ in range(2):
        await world.send(world.register(10, Channel.HUAWEI), content())
        vendor.last.answer(500)
    await world.settle()
    assert world.breakers[Channel.HUAWEI].may_connect
    await world.send(world.register(10, Channel.HUAWEI, first=100), content())
    vendor.last.answer(500)
    assert not world.breakers[Channel.HUAWEI].may_connect


async def test_a_vendor_that_counts_requests_is_sent_no_more_of_them(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    bucket = TokenBucket(2.0, 2, now=trio.current_time())
    world = await begin(make_world, nursery, Channel.HUAWEI, request_bucket=bucket)
    vendor = world.vendors[Channel.HUAWEI]
    page = await world.send(world.register(70, Channel.HUAWEI), content())
    assert [len(tokens_of(body)) for _, _, body in vendor.requests()] == [9, 9]
    await world.wait(1.0)
    assert len(vendor.requests()) == 4
    await world.wait(5.0)
    assert len(vendor.requests()) == 8
    vendor.last.answer(200, GOOD, n=len(vendor.last.open))
    assert world.states(page) == {"vendor_accepted": 70}


# -- two steps


async def test_a_list_push_saves_first_and_sends_with_the_name_that_came(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.VIVO)
    devices = world.register(20, Channel.VIVO)
    page = await world.send(devices, content())
    vendor = world.vendors[Channel.VIVO]
    ((path, _, body),) = vendor.requests()
    assert path == "/message/saveListPayload"
    assert "regIds" not in body
    assert world.states(page) == {"queued": 20}
    assert not world.lane(Channel.VIVO).is_idle
    vendor.last.answer(200, SAVED)
    await world.settle()
    pushes = vendor.requests()[1:]
    assert {path for path, _, _ in pushes} == {"/message/pushToList"}
    assert {body["taskId"] for _, _, body in pushes} == {"800000000000000001"}
    sent = itertools.chain(*[body["regIds"] for _, _, body in pushes])
    assert sorted(sent) == sorted(world.token(device).decode() for device in devices)
    assert len({body["requestId"] for _, _, body in vendor.requests()}) == 3
    assert world.states(page) == {"in_flight": 20}
    told = {"result": 0, "invalidUsers": [{"status": 1, "userid": world.token(devices[0]).decode()}]}
    for _, _, push in pushes:
        here = world.token(devices[0]).decode() in push["regIds"]
        vendor.last.answer(200, json.dumps(told).encode() if here else PUSHED)
    await world.settle()
    assert world.states(page) == {"failed": 1, "vendor_accepted": 19}
    assert page.attempts.tolist() == [1] * 20
    world.assert_one_verdict_per_attempt(page)


async def test_later_bursts_of_a_content_use_what_its_first_one_saved(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.VIVO, burst_rows_max=10)
    vendor = world.vendors[Channel.VIVO]

    async def saves_until_taken(targets: list[bytes], ttl_s: int) -> int:
        before = len(vendor.requests())
        page = await world.send(targets, content(ttl_s=ttl_s))
        while world.states(page).keys() != {"vendor_accepted"}:
            answers = [SAVED if path == "/message/saveListPayload" else PUSHED for path, _, _ in vendor.requests()]
            at = len(vendor.requests()) - len(vendor.last.open)
            for answer in answers[at:]:
                vendor.last.answer(200, answer)
            await world.settle()
        world.assert_one_verdict_per_attempt(page)
        return [path for path, _, _ in vendor.requests()[before:]].count("/message/saveListPayload")

    devices = world.register(65, Channel.VIVO)
    assert await saves_until_taken(devices, 3600) == 1
    pushes = [body for path, _, body in vendor.requests() if path == "/message/pushToList"]
    assert {body["taskId"] for body in pushes} == {"800000000000000001"}
    assert len({body["requestId"] for body in pushes}) == len(pushes)
    sent = itertools.chain(*[body["regIds"] for body in pushes])
    assert sorted(sent) == sorted(world.token(device).decode() for device in devices)
    # Another batch says its own message ids, and a content that soon expires is saved with what is left of its time.
    assert await saves_until_taken(devices[:30], 3600) == 1
    assert await saves_until_taken(devices[:30], 0) == 3


async def test_a_connection_lost_between_the_steps_sends_nothing_twice(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """The save's answer never came: whatever the vendor saved, it sent nothing, so the rows begin anew."""
    world = await begin(make_world, nursery, Channel.VIVO)
    vendor = world.vendors[Channel.VIVO]
    page = await world.send(world.register(10, Channel.VIVO), content(class_="marketing"))
    vendor.last.close(CloseReason.PEER_CLOSED)
    await world.settle()
    assert world.states(page) == {"waiting": 10}
    await world.wait(10)
    vendor.last.answer(200, SAVED)
    await world.settle()
    vendor.last.answer(200, PUSHED)
    assert world.states(page) == {"vendor_accepted": 10}
    assert [path for path, _, _ in vendor.requests()].count("/message/pushToList") == 1


async def test_a_crash_between_the_steps_leaves_rows_that_were_never_issued(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Issued is what left the process for a device. A save is no such thing: after a crash here the rows are sent,
    and nobody has got them before."""
    world = await begin(make_world, nursery, Channel.VIVO)
    page = await world.send(world.register(10, Channel.VIVO), content())
    world.vendors[Channel.VIVO].last.answer(200, SAVED)
    assert page.attempts.tolist() == [0] * 10
    assert not page.issued_ms.any()
    assert not page.bursts
    await world.settle()
    assert page.attempts.tolist() == [1] * 10


async def test_a_save_that_is_refused_ends_the_rows_as_one_attempt(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.VIVO)
    page = await world.send(world.register(10, Channel.VIVO), content())
    world.vendors[Channel.VIVO].last.answer(200, b'{"result":10103,"desc":"sensitive"}')
    await world.settle()
    assert world.states(page) == {"failed": 10}
    assert page.attempts.tolist() == [1] * 10
    world.assert_one_verdict_per_attempt(page)


async def test_saves_that_are_reset_or_not_taken_are_done_again(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.VIVO)
    vendor = world.vendors[Channel.VIVO]
    page = await world.send(world.register(10, Channel.VIVO), content(class_="marketing"))
    vendor.last.tell(Refused, RefusedWhy.NOT_WRITTEN)
    await world.settle()
    assert page.attempts.tolist() == [0] * 10
    vendor.last.tell(Reset, 2, True)
    await world.wait(10)
    vendor.last.answer(200, SAVED)
    await world.settle()
    vendor.last.answer(200, PUSHED)
    await world.settle()
    assert world.states(page) == {"vendor_accepted": 10}
    assert [path for path, _, _ in vendor.requests()].count("/message/pushToList") == 1


async def test_rows_that_end_while_their_message_is_saved_are_not_sent(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.VIVO)
    vendor = world.vendors[Channel.VIVO]
    page = await world.send(world.register(10, Channel.VIVO), content(ttl_s=2))
    await world.wait(3)
    assert world.states(page) == {"expired": 10}
    vendor.last.answer(200, SAVED)
    await world.settle()
    assert [path for path, _, _ in vendor.requests()] == ["/message/saveListPayload"]
    assert world.lane(Channel.VIVO, Class.SYSTEM).is_idle


async def test_a_spent_quota_holds_the_class_until_the_next_day(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = await begin(make_world, nursery, Channel.VIVO)
    vendor = world.vendors[Channel.VIVO]
    page = await world.send(world.register(10, Channel.VIVO), content(class_="marketing", ttl_s=86_400 * 3))
    vendor.last.answer(200, SAVED)
    await world.settle()
    vendor.last.answer(200, b'{"result":10070,"desc":"total"}')
    await world.settle()
    assert world.states(page) == {"waiting": 10}
    assert set(world.reasons(page)) == {"quota_exhausted"}
    later = await world.send(world.register(5, Channel.VIVO, first=50), content(class_="marketing"))
    assert world.states(later) == {"queued": 5}
    system = await world.send(world.register(1, Channel.VIVO, first=90), content())
    assert world.states(system) == {"in_flight": 1}
