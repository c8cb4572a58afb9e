"""Intake: submissions become durable batches; each is answered once, after it is durable, or refused before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from gateway.actors.intake import Accepted, Intake, RequestIdReused, ShuttingDown
from gateway.batch import OwnershipEpoch, RowFault
from gateway.content import Variant
from gateway.core.request_ids import RequestIds
from gateway.errors import GatewayError, Overloaded, StaleEpoch
from gateway.message_id import TASK_DOMAIN, decode
from gateway.observe.counting import IntakeCounts
from gateway.store.memory import MemoryJournal
from gateway.store.records import decode_batch

SECRET = b"message id secret"


class JournalTwin(MemoryJournal):
    """The in-memory journal with a gate and a fault. appends: batches per call."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = trio.Event()
        self.gate.set()
        self.appends: list[int] = []
        self.fault: Exception | None = None

    async def append(self, epoch: Any, records: Any) -> int:
        self.appends.append(len(records))
        await self.gate.wait()
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        return await super().append(epoch, records)


class DiskTwin:
    """Durable, and in memory."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()

    def check(self) -> None: ...

    def follow(self, page: Any, position: int) -> None: ...

    async def append(self, records: list[bytes]) -> list[int]:
        return list(await self.journal.append(OwnershipEpoch(1), records))


class Door:
    """An intake with its home, and what became of everything that was submitted."""

    def __init__(self, world: Any, **limits: Any) -> None:
        self.world = world
        self.journal = JournalTwin()
        self.pages: list[Any] = []
        #: Answers with the time they came after the submit, and the batches that were durable then.
        self.answers: list[tuple[Any, float, int]] = []
        values = {
            "gather_s": 0.001,
            "gather_busy_s": 0.02,
            "gather_rows_max": 100_000,
            "batch_bytes_max": 1 << 20,
            "route": self.pages.append,
        }
        request_ids = RequestIds(ids_max=limits.pop("request_ids_max", 100), age_ms=3_600_000)
        self.intake = Intake(
            home=world.home,
            journal=self.journal,
            epoch=OwnershipEpoch(1),
            secret=SECRET,
            clock=world.clock,
            observer=IntakeCounts(world.metrics, ["shop", "news"]),
            request_ids=request_ids,
            app_keys=["shop", "news"],
            **(values | limits),
        )

    def submit(self, n: int = 1, *, app: int = 0, digest: bytes = b"", **columns: Any) -> None:
        at = trio.current_time()
        devices = [b"device" + number.to_bytes(10, "big") for number in range(n)]
        submission = self.world.submission(devices, Variant("t", "b"), **columns)

        def reply(answer: Any) -> None:
            self.answers.append((answer, trio.current_time() - at, len(self.journal)))

        self.intake.submit(app, submission, reply, digest=digest)

    def accepted(self) -> list[Accepted]:
        return [answer for answer, _, _ in self.answers if isinstance(answer, Accepted)]


async def test_intake_answers_after_the_batch_is_durable(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world())
    nursery.start_soon(door.intake.run)
    door.journal.gate = trio.Event()
    door.submit(3)
    await trio.sleep(5)
    assert (door.answers, door.pages, door.intake.rows) == ([], [], 3)
    door.journal.gate.set()
    await trio.sleep(1)
    (answer, _, durable) = door.answers[0]
    assert (answer.rows, answer.duplicates, durable) == (3, 0, 1)
    assert [page.n for page in door.pages] == [3]
    assert door.intake.rows == 0
    address = decode(SECRET, answer.task_id, TASK_DOMAIN)
    assert address is not None
    assert (address.batch, address.row) == (door.pages[0].batch.address, 0)
    assert [page for page, _ in door.world.home.find_task(answer.task_id)] == door.pages


async def test_intake_gathers_what_arrives_within_the_wait_into_one_batch(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world(), gather_s=0.1)
    nursery.start_soon(door.intake.run)
    for n in (1, 2, 3):
        door.submit(n)
        await trio.sleep(0.03)
    await trio.sleep(1)
    door.submit(4)
    await trio.sleep(1)
    assert [page.n for page in door.pages] == [6, 4]
    assert [answer.rows for answer in door.accepted()] == [1, 2, 3, 4]
    assert len({answer.task_id for answer in door.accepted()}) == 4
    first = door.pages[0].batch.segments
    assert [(segment.first, segment.n) for segment in first] == [(0, 1), (1, 2), (3, 3)]
    assert max(seconds for _, seconds, _ in door.answers) <= 0.11


async def test_intake_does_not_wait_when_a_whole_batch_is_there(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world(), gather_s=10.0)
    nursery.start_soon(door.intake.run)
    door.submit(20_000)
    await trio.sleep(0.01)
    assert [answer.rows for answer in door.accepted()] == [20_000]


async def test_intake_keeps_apps_apart_and_commits_them_together(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world())
    nursery.start_soon(door.intake.run)
    door.submit(2, app=0)
    door.submit(3, app=1)
    await trio.sleep(1)
    assert sorted((page.batch.app, page.n) for page in door.pages) == [(0, 2), (1, 3)]
    assert door.journal.appends == [2]
    assert door.world.metrics.rows_accepted.value("shop") == 2
    assert door.world.metrics.rows_accepted.value("news") == 3


async def test_intake_cuts_a_large_submission_into_batches_of_one_task(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world(), gather_rows_max=200_000)
    nursery.start_soon(door.intake.run)
    door.submit(150_000)
    await trio.sleep(1)
    assert sum(page.n for page in door.pages) == 150_000
    assert max(page.n for page in door.pages) <= 65_536
    (answer,) = door.accepted()
    found = door.world.home.find_task(answer.task_id)
    assert [page for page, _ in found] == door.pages
    assert sum(segment.n for _, segment in found) == answer.rows == 150_000
    assert np.concatenate([page.batch.source_rows for page in door.pages]).tolist() == list(range(150_000))


async def test_intake_writes_what_it_accepted_and_nothing_else(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world())
    nursery.start_soon(door.intake.run)
    door.submit(3)
    await trio.sleep(1)
    records = [record async for _, record in door.journal.replay(0)]
    born = door.pages[0].batch.born
    batches = [decode_batch(b"".join(bytes(buffer) for buffer in record.buffers), born=born) for record in records]
    assert [(batch.address, batch.n) for batch in batches] == [(door.pages[0].batch.address, 3)]
    assert (batches[0].device_ids == door.pages[0].batch.device_ids).all()


# -- refusals


async def test_intake_refuses_what_it_has_no_room_for_and_takes_nothing_of_it(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world(), gather_rows_max=10)
    nursery.start_soon(door.intake.run)
    door.journal.gate = trio.Event()
    door.submit(8)
    with pytest.raises(Overloaded) as refused:
        door.submit(3, request_id="again", digest=b"d")
    assert refused.value.retry_after_s > 0
    door.submit(2)
    door.journal.gate.set()
    await trio.sleep(1)
    door.submit(3, request_id="again", digest=b"d")
    await trio.sleep(1)
    assert sorted(answer.rows for answer in door.accepted()) == [2, 3, 8]


async def test_intake_counts_waiting_rows_against_the_home_s_room(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    door = Door(world, gather_rows_max=10_000_000)
    limit = 1 << 20
    door.journal.gate = trio.Event()
    nursery.start_soon(door.intake.run)
    door.submit(limit - 10)
    door.submit(10)
    with pytest.raises(Overloaded):
        door.submit(1)


async def test_intake_answers_a_submission_without_rows_at_once(make_world: Callable[..., Any]) -> None:
    door = Door(make_world())
    faults = [RowFault(0, "token", "not hexadecimal")]
    door.submit(0, device_ids=np.zeros((0, 16), np.uint8), faults=faults)
    assert door.accepted() == [Accepted(b"", 0, 0, faults)]


async def test_intake_tells_of_duplicates_and_faults(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world())
    nursery.start_soon(door.intake.run)
    faults = [RowFault(7, "device_ids", "wrong")]
    door.submit(3, duplicates=np.array([False, True, True]), faults=faults)
    await trio.sleep(1)
    (answer,) = door.accepted()
    assert (answer.rows, answer.duplicates, answer.faults) == (3, 2, faults)
    assert door.world.states(door.pages[0]) == {"queued": 1, "dropped": 2}


# -- request ids


async def test_intake_gives_a_repeated_request_its_first_answer(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world())
    nursery.start_soon(door.intake.run)
    door.submit(2, request_id="r", digest=b"body")
    door.submit(2, request_id="r", digest=b"body")  # before the first answer
    await trio.sleep(1)
    door.submit(2, request_id="r", digest=b"body")  # and after it
    assert len(door.accepted()) == 3
    assert len({answer.task_id for answer in door.accepted()}) == 1
    assert [page.n for page in door.pages] == [2]


async def test_intake_refuses_a_request_id_that_comes_with_another_body(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world())
    nursery.start_soon(door.intake.run)
    door.submit(2, request_id="r", digest=b"body")
    with pytest.raises(RequestIdReused):
        door.submit(2, request_id="r", digest=b"other")
    await trio.sleep(1)
    with pytest.raises(RequestIdReused):
        door.submit(2, request_id="r", digest=b"other")
    door.submit(2, request_id="r", digest=b"other", app=1)  # another app's own id
    await trio.sleep(1)
    assert len(door.pages) == 2


async def test_intake_remembers_a_request_of_which_every_row_was_refused(make_world: Callable[..., Any]) -> None:
    door = Door(make_world())
    nothing = {"device_ids": np.zeros((0, 16), np.uint8), "faults": [RowFault(0, "token", "wrong")]}
    door.submit(0, request_id="r", digest=b"body", **nothing)
    door.submit(0, request_id="r", digest=b"body", **nothing)
    with pytest.raises(RequestIdReused):
        door.submit(1, request_id="r", digest=b"other")
    assert [answer.rows for answer in door.accepted()] == [0, 0]


async def test_intake_forgets_the_oldest_request_ids(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world(), request_ids_max=3)
    nursery.start_soon(door.intake.run)
    for number in range(5):
        door.submit(1, request_id=f"r{number}", digest=b"1")
    await trio.sleep(1)
    for number in range(5):
        door.submit(1, request_id=f"r{number}", digest=b"1")
        await trio.sleep(1)
    assert len(door.accepted()) == 10
    assert 5 < len(door.pages) <= 10


# -- faults


async def test_intake_tells_the_callers_when_their_rows_could_not_become_durable(
    make_world: Callable[..., Any], autojump_clock: Any
) -> None:
    door = Door(make_world())
    door.journal.fault = StaleEpoch(1, 2)
    door.submit(2, request_id="r", digest=b"d")
    door.submit(3)
    with pytest.raises(StaleEpoch):
        await door.intake.run()
    assert [type(answer) for answer, _, _ in door.answers] == [StaleEpoch, StaleEpoch]
    assert (door.pages, door.intake.rows) == ([], 0)
    # the same request again is a new one: nothing of the first was taken
    door.submit(2, request_id="r", digest=b"d")
    with trio.move_on_after(1):
        await door.intake.run()
    assert [answer.rows for answer in door.accepted()] == [2]


async def test_intake_answers_and_routes_every_durable_batch_though_one_of_them_makes_it_crash(
    make_world: Callable[..., Any], autojump_clock: Any
) -> None:
    """A bug behind the intake (here: in what routes) must not swallow batches that are in the journal."""
    world = make_world()
    routed: list[Any] = []
    crashes = [True]

    def route(page: Any) -> None:
        if page.batch.app == 0 and crashes:
            crashes.clear()
            raise ZeroDivisionError("a bug")
        routed.append(page)

    door = Door(world, route=route)
    door.submit(2, app=0)
    door.submit(3, app=1)
    with pytest.raises(ZeroDivisionError):
        await door.intake.run()
    with trio.move_on_after(1):
        await door.intake.run()
    assert sorted(answer.rows for answer in door.accepted()) == [2, 3]
    assert 3 in [page.n for page in routed]
    assert door.intake.rows == 0


async def test_intake_that_runs_again_takes_up_what_was_gathered(
    make_world: Callable[..., Any], autojump_clock: Any
) -> None:
    door = Door(make_world(), gather_s=1.0)
    door.submit(2)
    with trio.move_on_after(0.5):
        await door.intake.run()
    assert door.answers == []
    with trio.move_on_after(5):
        await door.intake.run()
    assert [answer.rows for answer in door.accepted()] == [2]


async def test_intake_cancelled_before_the_journal_has_it_answers_nobody(
    make_world: Callable[..., Any], autojump_clock: Any
) -> None:
    door = Door(make_world())
    door.journal.gate = trio.Event()
    door.submit(2)
    with trio.move_on_after(1):
        await door.intake.run()
    assert (door.answers, door.pages, len(door.journal)) == ([], [], 0)


# -- shutdown


async def test_intake_stops_when_everything_taken_is_answered(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    door = Door(make_world(), gather_s=60.0)
    door.journal.gate = trio.Event()
    nursery.start_soon(door.intake.run)
    door.submit(2)
    stopped: list[float] = []

    async def stop() -> None:
        await door.intake.stop()
        stopped.append(trio.current_time())

    nursery.start_soon(stop)
    await trio.sleep(1)
    with pytest.raises(ShuttingDown):
        door.submit(1)
    assert (stopped, door.answers) == ([], [])
    door.journal.gate.set()
    await trio.sleep(1)
    assert len(stopped) == 1
    assert [answer.rows for answer in door.accepted()] == [2]
    assert all(isinstance(error, GatewayError) for error in (ShuttingDown("x"), RequestIdReused("y")))


async def test_intake_that_stops_in_memory_answers_repeats_and_takes_nothing_new(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Whoever takes what it declines does not know the ids that it took."""
    door = Door(make_world(), disk=DiskTwin(), disk_apps=[1])
    nursery.start_soon(door.intake.run)
    door.submit(1, request_id="a", digest=b"a")
    await trio.sleep(1)
    door.intake.stop_in_memory()
    for request_id in ("a", "b"):
        with contextlib.nullcontext() if request_id == "a" else pytest.raises(ShuttingDown):
            door.submit(1, request_id=request_id, digest=request_id.encode())
    door.submit(1, app=1, request_id="b", digest=b"b")
    await trio.sleep(1)
    first, again, on_disk = door.accepted()
    assert (again.task_id, on_disk.rows) == (first.task_id, 1)
    await door.intake.stop()
    door.submit(1, request_id="a", digest=b"a")
    with pytest.raises(ShuttingDown):
        door.submit(1, app=1, request_id="c", digest=b"c")
    assert door.accepted()[-1].task_id == first.task_id
