"""Submits with a request id while the home of the id is down: who answers, and what the home knows when it is back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import trio

from gateway.actors.stand_ins import PATIENCE_S, Submitting
from gateway.client.requests import submit_request
from gateway.content import Variant
from gateway.core.request_ids import request_key
from gateway.wire.rpc.server import Requested

#: Of message ids and request ids, as `open_offices` has it.
SECRET = b"message id secret"


def submit(devices: Sequence[bytes], request_id: str = "") -> Any:
    return submit_request(Variant("title", "body"), devices, request_id=request_id)


def homed_at(offices: Any, home: int, n: int = 4) -> list[str]:
    """Request ids that this worker is the home of."""
    found = (f"request {number}" for number in itertools.count())
    ownership = offices.cluster.ownership
    mine = (one for one in found if ownership.home_of_request(request_key(SECRET, "shop", one)) == home)
    return list(itertools.islice(mine, n))


async def tasks_of(clients: Sequence[Any], devices: Sequence[bytes], request_ids: Sequence[str]) -> list[bytes]:
    """The task of each id, which all clients are told alike; another body is refused."""
    tasks = []
    for one in request_ids:
        answers = [await client.ask(submit(devices, one)) for client in clients]
        assert {answer.accepted for answer in answers} == {len(devices)}
        (task,) = {answer.task_id for answer in answers}
        tasks.append(task)
        assert (await clients[-1].ask(submit(devices[:1], one))).code == "request_id_reused"
    return tasks


def journals(tasks: Sequence[bytes]) -> set[int]:
    return {int.from_bytes(task[6:8], "big") & 0xFFF for task in tasks}


async def test_submits_of_a_home_that_is_down_are_answered_by_the_next_worker_and_repeats_find_that_answer(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(3)
    devices, ids = offices.cluster.owned_by(1, 2), homed_at(offices, 0)
    await offices.kill(0)
    began = trio.current_time()
    tasks = await tasks_of([offices.client(1), offices.client(2)], devices, ids)
    assert trio.current_time() < began + 0.5
    assert journals(tasks) == {1}
    assert set(offices.stood_in) == {0}
    await offices.revive(0)
    assert await tasks_of(offices.clients(), devices, ids) == tasks
    assert offices.ids_told == len(ids)
    assert journals(await tasks_of(offices.clients(), devices, homed_at(offices, 0, 8)[4:])) == {0}
    # The next life of the home asks anew.
    await offices.kill(0)
    await offices.revive(0)
    assert await tasks_of(offices.clients(), devices, ids) == tasks
    assert len(offices.cluster.world(1).apns.requests()) == len(devices) * 8


async def test_ids_taken_while_two_workers_are_down_are_known_to_both_when_the_one_that_took_them_is_gone(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(3)
    devices, ids = offices.cluster.owned_by(2, 2), homed_at(offices, 0)
    await offices.kill(0)
    await offices.kill(1)
    tasks = await tasks_of([offices.client(2)], devices, ids)
    assert journals(tasks) == {2}
    await offices.revive(1)
    assert await tasks_of([offices.client(2), offices.client(1)], devices, ids) == tasks
    await offices.kill(2)
    assert await tasks_of([offices.client(1)], devices, ids) == tasks
    await offices.revive(0)
    await offices.kill(1)
    assert await tasks_of([offices.client(0)], devices, ids) == tasks


async def test_worker_whose_link_is_gone_keeps_its_ids_until_the_supervisor_says_that_it_died(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(2)
    devices, (one, other) = offices.cluster.owned_by(0, 1), homed_at(offices, 1, 2)
    life = offices.cluster.workers[1].life
    await offices.kill(1, is_known=False)
    client = offices.client(0)
    began = trio.current_time()
    answer = await client.ask(submit(devices, one))
    assert (answer.code, answer.retry_after_ms) == ("overloaded", 1000)
    assert trio.current_time() >= began + PATIENCE_S
    # Said while a submit waits: then it is taken.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.ask, submit(devices, other))
        await trio.sleep(PATIENCE_S / 2)
        assert len(client.answers) == 1
        offices.tell_of_death(life)
    assert client.answers[-1].accepted == 1


async def test_nobody_stands_in_for_ids_that_are_on_the_disk_of_a_worker_that_is_down(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(2, disk_apps=["shop"])
    devices, (one,) = offices.cluster.owned_by(0, 2), homed_at(offices, 1, 1)
    await offices.kill(1)
    answer = await offices.client(0).ask(submit(devices, one))
    assert (answer.code, answer.retry_after_ms) == ("overloaded", 1000)
    assert (await offices.client(0).ask(submit(devices))).accepted == 2
    await offices.revive(1)
    assert journals(await tasks_of(offices.clients(), devices, [one])) == {1}


async def test_worker_that_is_back_takes_no_ids_before_what_was_being_taken_for_it_is_told(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(2)
    devices, (one, other) = offices.cluster.owned_by(0, 1), homed_at(offices, 1, 2)
    await offices.kill(1)
    done = trio.Event()
    told: list[Any] = []

    async def take_slowly() -> str:
        await done.wait()
        return "taken"

    async def submit_slowly() -> None:
        key = request_key(SECRET, "shop", one)
        told.append(await offices.stand_ins[0].submit(Submitting(key, take_slowly, take_slowly)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit_slowly)
        await offices.cluster.settle()
        await offices.revive(1)
        client = offices.client(0)
        nursery.start_soon(client.ask, submit(devices, other))
        await trio.sleep(5)
        assert not offices.stand_ins[1].has_begun
        assert not client.answers
        done.set()
    assert told == ["taken"]
    assert offices.stand_ins[1].has_begun
    assert journals([client.answers[0].task_id]) == {1}


async def test_no_submit_is_left_without_an_answer_while_a_worker_dies_and_comes_back(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(2)
    devices = offices.cluster.owned_by(0, 1)
    client = offices.client(0)
    n = 0

    async def go_on_submitting() -> None:
        nonlocal n
        while True:
            message = submit(devices, f"request {n}")
            message.id = n = n + 1
            client.front.request(client, Requested(message, 100, {}))
            await trio.sleep(0.003)

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on_submitting)
            await trio.sleep(0.03)
            await offices.kill(1, is_known=False)
            await trio.sleep(0.01)
            offices.tell_of_death(offices.cluster.workers[1].life)
            await trio.sleep(0.05)
            await offices.revive(1)
            await trio.sleep(0.03)
            nursery.cancel_scope.cancel()
    await trio.sleep(2 * PATIENCE_S)
    assert sorted(answer.id for answer in client.answers) == list(range(1, n + 1))


async def test_submit_that_is_about_to_be_taken_when_its_home_comes_back_goes_there(
    open_offices: Callable[..., Any], autojump_clock: Any
) -> None:
    offices = await open_offices(2)
    devices, ids = offices.cluster.owned_by(0, 1), homed_at(offices, 1, 20)
    life = offices.cluster.workers[1].life
    await offices.kill(1)
    client = offices.client(0)
    for number, one in enumerate(ids, 1):
        message = submit(devices, one)
        message.id = number
        client.front.request(client, Requested(message, 100, {}))
        offices.stand_ins[0].peer_died(*life)
        await trio.lowlevel.checkpoint()
        # It is said to be back, and nothing more is heard of it.
        life = life._replace(incarnation=life.incarnation + 1)
        offices.stand_ins[0].peer_up(*life)
    await trio.sleep(2 * PATIENCE_S)
    assert sorted(answer.id for answer in client.answers) == list(range(1, len(ids) + 1))
