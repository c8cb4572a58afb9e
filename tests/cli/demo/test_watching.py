"""watching.py: what is waited for, and that every wait ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from gateway.cli.demo.processes import DemoFailed
from gateway.cli.demo.watching import Watch, moving, open_by_state
from gateway.client.blocking import BlockingClient
from gateway.wire.rpc.messages import TaskCounts, TaskRowPage

TASKS = [bytes([1] * 16), bytes([2] * 16)]
PHONE = bytes([7] * 16)


def counts(task: bytes, states: dict[str, int], *, is_routed: bool = True) -> TaskCounts:
    is_final = not any(states.get(state) for state in ("queued", "in_flight", "waiting", "held"))
    return TaskCounts(
        id=1,
        task_id=task,
        accepted=sum(states.values()),
        states=states,
        channels={},
        reasons={},
        receipts={},
        is_routed=is_routed,
        is_final=is_final,
    )


class Answers:
    """Plays the client: the n-th look at a task gives its n-th states, the last ones for ever."""

    def __init__(self, *looks: dict[str, int], held: Callable[[int], list[bytes]] = lambda _look: []) -> None:
        self._looks = looks
        self._held = held
        self.n_looks = dict.fromkeys(TASKS, 0)

    def task_state(self, task: bytes) -> TaskCounts:
        look = min(self.n_looks[task], len(self._looks) - 1)
        self.n_looks[task] += 1
        return counts(task, self._looks[look])

    def task_rows(self, task: bytes, first: int, n: int, *, states: list[str]) -> TaskRowPage:
        assert states == ["held"]
        ids = self._held(self.n_looks[task])
        empty: Any = memoryview(b"")
        columns = dict.fromkeys(("row", "state", "reason", "channel", "receipt", "flags", "attempts"), empty)
        return TaskRowPage(id=1, n=len(ids), device_ids=memoryview(b"".join(ids)), message_ids=empty, **columns)


def watch(answers: Answers, check: Callable[[], None] = lambda: None) -> Watch:
    return Watch(cast(BlockingClient, answers), TASKS, check)


def ignore(_done: int) -> None:
    return None


def test_settled_is_when_only_held_rows_are_open() -> None:
    seen: list[int] = []
    answers = Answers({"queued": 2, "held": 1}, {"in_flight": 1, "held": 1, "failed": 1}, {"held": 1, "failed": 2})
    assert watch(answers).wait_settled(10, seen.append)
    assert seen == [0, 2, 4]


def test_a_wait_ends_when_its_time_is_over() -> None:
    stuck = watch(Answers({"waiting": 1}))
    assert not stuck.wait_settled(0.15, ignore)
    assert not stuck.wait_final(0.15, ignore)


def test_final_is_when_every_row_has_ended_and_final_tasks_are_not_asked_again() -> None:
    answers = Answers({"held": 1}, {"expired": 1})
    watching = watch(answers)
    assert watching.wait_final(10, ignore)
    assert [one.states for one in watching.counts()] == [{"expired": 1}] * 2
    assert set(answers.n_looks.values()) == {2}
    watching.fresh()
    assert set(answers.n_looks.values()) == {3}


def test_rows_of_returned_devices_are_waited_for_and_no_others() -> None:
    answers = Answers({"held": 1}, held=lambda look: [PHONE] if look < 3 else [bytes(16)])
    assert watch(answers).wait_fetched({PHONE}, 10, ignore)
    assert answers.n_looks[TASKS[0]] == 3
    assert not watch(Answers({"held": 1}, held=lambda _look: [PHONE])).wait_fetched({PHONE}, 0.15, ignore)


def test_a_dead_process_ends_the_wait_at_once() -> None:
    def check() -> None:
        raise DemoFailed("gateway has ended")

    with pytest.raises(DemoFailed):
        watch(Answers({"held": 1}), check).wait_settled(10, ignore)


def test_rows_that_are_not_routed_are_moving() -> None:
    assert moving([counts(TASKS[0], {"held": 1}, is_routed=False)])
    assert not moving([counts(TASKS[0], {"held": 1})])
    assert open_by_state([counts(TASKS[0], {"held": 1, "failed": 3}), counts(TASKS[1], {"waiting": 2})]) == (
        "2 waiting, 1 held"
    )
    assert open_by_state([]) == "none"
