"""Waiting for tasks: until they settle (only rows that wait for their device are open), and until they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence

from gateway.client.blocking import BlockingClient
from gateway.wire.rpc.messages import TaskCounts

#: States in which a row moves on by itself; `held` rows wait for their device.
_MOVING = ("queued", "in_flight", "waiting")
_LOOK_S = 0.1
_PAGE_ROWS = 20_000


class Watch:
    """The tasks of one client. look: told how many rows have ended, at each look; check: raises when a child died."""

    def __init__(self, client: BlockingClient, tasks: Sequence[bytes], check: Callable[[], None]) -> None:
        self._client = client
        self._tasks = tasks
        self._check = check
        self._final: dict[bytes, TaskCounts] = {}

    def counts(self) -> list[TaskCounts]:
        """Of every task, now. Raises DemoFailed when a process has ended."""
        self._check()
        found: list[TaskCounts] = []
        for task in self._tasks:
            counts = self._final.get(task) or self._client.task_state(task)
            if counts.is_final:
                self._final[task] = counts
            found.append(counts)
        return found

    def fresh(self) -> list[TaskCounts]:
        """Of every task, asked again: a receipt may change what a final task says."""
        self._final.clear()
        return self.counts()

    def wait_settled(self, timeout_s: float, look: Callable[[int], None]) -> bool:
        """True when nothing moves by itself any more; false when it still did at the end of the time."""
        return self._wait(lambda counts: not moving(counts), timeout_s, look)

    def wait_final(self, timeout_s: float, look: Callable[[int], None]) -> bool:
        """True when every row has ended; false when some were open at the end of the time."""
        return self._wait(lambda counts: all(one.is_final for one in counts), timeout_s, look)

    def wait_fetched(self, devices: Collection[bytes], timeout_s: float, look: Callable[[int], None]) -> bool:
        """True when no row is held for any of these devices and nothing moves; false at the end of the time."""

        def is_fetched(counts: list[TaskCounts]) -> bool:
            return not moving(counts) and not any(device in devices for device in self.held_devices())

        return self._wait(is_fetched, timeout_s, look)

    def held_devices(self) -> Iterator[bytes]:
        """Devices of rows that are held, once per row."""
        for task in self._tasks:
            first: int | None = None if task in self._final else 0
            while first is not None:
                page = self._client.task_rows(task, first, _PAGE_ROWS, states=["held"])
                ids = bytes(page.device_ids)
                yield from (ids[16 * k : 16 * k + 16] for k in range(page.n))
                first = page.next_first

    def _wait(self, is_done: Callable[[list[TaskCounts]], bool], timeout_s: float, look: Callable[[int], None]) -> bool:
        deadline = time.monotonic() + timeout_s
        while True:
            counts = self.counts()
            look(sum(one.accepted - open_rows(one) for one in counts))
            if is_done(counts):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_S)


def moving(counts: Sequence[TaskCounts]) -> int:
    """Rows that move on by themselves, or have not been routed."""
    if not all(one.is_routed for one in counts):
        return 1
    return sum(one.states.get(state, 0) for one in counts for state in _MOVING)


def open_rows(counts: TaskCounts) -> int:
    return sum(counts.states.get(state, 0) for state in (*_MOVING, "held"))


def open_by_state(counts: Sequence[TaskCounts]) -> str:
    """For messages: `3 waiting, 5 held`."""
    found = {state: sum(one.states.get(state, 0) for one in counts) for state in (*_MOVING, "held")}
    return ", ".join(f"{n} {state}" for state, n in found.items() if n) or "none"
