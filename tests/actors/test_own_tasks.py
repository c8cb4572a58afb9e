"""Tasks of an actor: begun while it runs, ended with it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.actors.own_tasks import OwnTasks


async def test_a_task_is_begun_while_the_actor_runs_and_ends_with_it(autojump_clock, nursery):
    tasks, seen = OwnTasks(), []

    async def work(name):
        seen.append(f"{name} begins")
        try:
            await trio.sleep_forever()
        finally:
            seen.append(f"{name} ends")

    assert not tasks.start(work, "too early")
    async with trio.open_nursery() as actor:
        actor.start_soon(tasks.run)
        await trio.testing.wait_all_tasks_blocked()
        assert tasks.start(work, "one")
        await trio.testing.wait_all_tasks_blocked()
        assert seen == ["one begins"]
        actor.cancel_scope.cancel()
    assert seen == ["one begins", "one ends"]
    assert not tasks.start(work, "too late")


async def test_a_task_that_crashes_crashes_its_actor(autojump_clock):
    tasks = OwnTasks()

    async def work():
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as actor:
            actor.start_soon(tasks.run)
            await trio.testing.wait_all_tasks_blocked()
            assert tasks.start(work)
    assert not tasks.start(work)
