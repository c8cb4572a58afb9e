"""Audiences: who gets a row, in which chunks, how fast, and what becomes of the task meanwhile."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.audiences import Audience, AudienceJournal, Audiences, Who
from gateway.actors.intake import Accepted
from gateway.actors.worker_links import WorkerGone
from gateway.app_audiences import FoundAudiences
from gateway.batch import Submission
from gateway.columns import U8
from gateway.content import Variant
from gateway.core.audience_walk import Looked, Members, Stretch, Wanted
from gateway.errors import GatewayError, Overloaded, StoreFull
from gateway.ledger import Channel
from gateway.store.audience_records import decode_audience, decode_reached
from gateway.store.ports import AUDIENCE_RECORD

CONTENT = Variant("title", "body")
#: Whose list was taken at the submit.
ONLINE = Who(b"fans", online_only=True)
TASK = bytes(range(16))


def ids(n: int) -> U8:
    return np.arange(n * 16, dtype=np.uint32).astype(np.uint8).reshape(n, 16) + np.arange(n, dtype=np.uint8)[:, None]


class Desk:
    """Intake, home and observer in one: takes chunks, and says which of them are routed."""

    def __init__(self, devices: int, **limits: Any) -> None:
        self.chunks: list[tuple[float, Submission, bytes, bool]] = []
        self.pages: list[Any] = []
        self.refusals: list[GatewayError] = []
        self.is_routed = True
        self.holds = False
        self.held: list[Callable[[], None]] = []
        self.on_chunk: Callable[[Any], None] = lambda _attached: None
        self.left: list[tuple[int, int]] = []
        self.ids = ids(devices)
        self.asked: list[tuple[int, bytes]] = []
        #: Of the newest chunk: rows that are routed, and the channel of all.
        self.n_routed, self.channel = 10, Channel.APNS
        self.audiences = Audiences(
            intake=self,  # type: ignore[arg-type]
            home=self,  # type: ignore[arg-type]
            clock=self,  # type: ignore[arg-type]
            observer=self,
            **{"finder": self, "chunk_rows": 10, "queued_rows_max": 25, "running_max": 2} | limits,
        )

    async def online(self, app: int, tag: bytes) -> U8:
        self.asked.append((app, tag))
        return self.ids

    async def count(self, app: int, tag: bytes) -> Members:
        return Members(len(self.ids), 77)

    def whole(self) -> list[Stretch]:
        return [Stretch(0, b"", 20), Stretch(20, b"", 4096)]

    def owner(self, shard: int) -> int:
        return 0

    async def take(self, wanted: Wanted, stretch: Stretch, rows_max: int) -> Looked:
        """Device k stands in shard k."""
        assert wanted == Wanted(3, b"", 77)
        stop = min(stretch.stop, len(self.ids))
        found = self.ids[stretch.first : stop][:rows_max]
        first = stretch.first + len(found)
        return Looked(found, stretch._replace(first=stretch.stop if first >= stop else first))

    def submit(
        self,
        app: int,
        submission: Submission,
        reply: Callable[[Any], None],
        *,
        digest: bytes,
        task_id: bytes,
        is_part: bool,
        attached: Any,
    ) -> None:
        if self.refusals:
            error = self.refusals.pop(0)
            if isinstance(error, Overloaded):
                raise error
            reply(error)
            return
        self.chunks.append((trio.current_time(), submission, task_id, is_part))
        if self.holds:
            self.held.append(lambda: reply(Accepted(task_id or TASK, submission.n, 0, ())))
            return
        self.on_chunk(attached)
        reply(Accepted(task_id or TASK, submission.n, 0, ()))

    def release(self) -> None:
        """What was held is answered."""
        self.holds = False
        for answer in self.held:
            answer()

    def unix_ms(self) -> int:
        return 1_800_000_000_000

    def find_task(self, task_id: bytes) -> list[Any]:
        class Page:
            state = np.full(10, 1 if self.is_routed else 0, np.uint8)
            n_routed = self.n_routed
            channel = np.full(10, self.channel, np.uint8)

        class Segment:
            first, n = 0, 10

        page = Page()
        self.pages.append(page)
        return [(page, Segment)]

    def route(self) -> None:
        """No row of any chunk is queued."""
        self.is_routed = True
        for page in self.pages:
            page.state[:] = 1

    def monotonic(self) -> float:
        return trio.current_time()

    async def sleep_until(self, deadline: float) -> None:
        await trio.sleep_until(deadline)

    def running(self, audiences: int) -> None:
        pass

    def ended(self, audience_rows: int, rows_left: int) -> None:
        self.left.append((audience_rows, rows_left))


@pytest.fixture
async def run(nursery: trio.Nursery, autojump_clock: Any) -> Callable[..., Awaitable[Desk]]:
    async def make(devices: int, **limits: Any) -> Desk:
        desk = Desk(devices, **limits)
        nursery.start_soon(desk.audiences.run)
        await trio.testing.wait_all_tasks_blocked()
        return desk

    return make


async def until_through(desk: Desk) -> None:
    with trio.fail_after(10_000):
        while not desk.left:
            await trio.sleep(0.01)


async def test_every_device_gets_one_row_of_one_task(run: Any, autojump_clock: Any) -> None:
    desk = await run(35)
    started = await desk.audiences.start(3, CONTENT, ONLINE, None)
    assert (started.task_id, started.devices) == (TASK, 35)
    assert desk.asked == [(3, b"fans")]
    assert desk.audiences.is_running(TASK)
    await until_through(desk)
    assert not desk.audiences.is_running(TASK)
    assert np.array_equal(np.concatenate([chunk.device_ids for _, chunk, _, _ in desk.chunks]), ids(35))
    sources = np.concatenate([chunk.source_rows for _, chunk, _, _ in desk.chunks])
    assert sources.tolist() == list(range(35))
    assert [(chunk.n, task, is_part) for _, chunk, task, is_part in desk.chunks] == [
        (10, b"", True),
        (10, TASK, True),
        (10, TASK, True),
        (5, TASK, True),
    ]
    assert desk.left == [(35, 0)]


async def test_small_audience_is_a_task_like_any_other(run: Any, autojump_clock: Any) -> None:
    desk = await run(10)
    await desk.audiences.start(0, CONTENT, ONLINE, None)
    assert [(task, is_part) for _, _, task, is_part in desk.chunks] == [(b"", False)]
    assert not desk.audiences.is_running(TASK)


async def test_audience_of_nobody_is_no_task(run: Any, autojump_clock: Any) -> None:
    desk = await run(0)
    assert await desk.audiences.start(0, CONTENT, ONLINE, None) == (b"", 0, [])
    assert desk.chunks == []


@pytest.mark.parametrize("rows_per_s", [1.0, 7.0, 1000.0])
async def test_audience_is_no_faster_than_it_may_be(run: Any, autojump_clock: Any, rows_per_s: float) -> None:
    desk = await run(35)
    began = trio.current_time()
    await desk.audiences.start(0, CONTENT, ONLINE, rows_per_s)
    await until_through(desk)
    sent = 0
    for at, chunk, _, _ in desk.chunks:
        # Never ahead of its time by more than the chunk that goes first.
        assert sent <= math.ceil((at - began) * rows_per_s + 1e-6)
        assert chunk.n <= max(1, rows_per_s)
        sent += chunk.n
    last = 35 - desk.chunks[-1][1].n
    assert desk.chunks[-1][0] - began == pytest.approx(last / rows_per_s, rel=0.01, abs=0.15)


async def test_chunk_waits_until_the_one_before_is_routed(run: Any, autojump_clock: Any) -> None:
    desk = await run(30)
    desk.is_routed = False
    await desk.audiences.start(0, CONTENT, ONLINE, None)
    await trio.sleep(100)
    assert len(desk.chunks) == 1
    desk.route()
    await until_through(desk)
    assert len(desk.chunks) == 3


async def test_gateway_without_room_is_asked_again_later(run: Any, autojump_clock: Any) -> None:
    desk = await run(30)
    await desk.audiences.start(0, CONTENT, ONLINE, None)
    desk.refusals = [Overloaded("open rows", 1, 1, retry_after_s=3.0)]
    began = trio.current_time()
    await until_through(desk)
    assert sum(chunk.n for _, chunk, _, _ in desk.chunks) == 30
    assert desk.chunks[-1][0] - began >= 3.0


async def test_store_that_fails_ends_the_audience_and_the_rest_is_counted(run: Any, autojump_clock: Any) -> None:
    desk = await run(30)
    await desk.audiences.start(0, CONTENT, ONLINE, None)
    desk.refusals = [StoreFull("journal", "no room")]
    await until_through(desk)
    assert desk.left == [(30, 20)]
    assert not desk.audiences.is_running(TASK)


async def test_audiences_beyond_their_number_are_refused_until_one_is_through(run: Any, autojump_clock: Any) -> None:
    desk = await run(30, running_max=1)
    desk.is_routed = False
    await desk.audiences.start(0, CONTENT, ONLINE, None)
    with pytest.raises(Overloaded, match=r"audiences\.running_max is 1"):
        await desk.audiences.start(0, CONTENT, ONLINE, None)
    desk.route()
    await until_through(desk)
    await desk.audiences.start(0, CONTENT, ONLINE, None)


class Disk:
    """A journal on disk as far as audiences see it."""

    def __init__(self) -> None:
        self.next = 0
        self.live: dict[int, Any] = {}

    def place(self, attached: Any) -> None:
        """What is attached becomes durable."""
        records = attached.make(TASK)
        positions = list(range(self.next, self.next + len(records)))
        self.next += len(records)
        self.live.update(zip(positions, records, strict=True))
        attached.placed(positions)

    def let_go(self, positions: Any) -> None:
        for position in positions:
            del self.live[position]

    def saved(self) -> Any:
        """What a start would find."""
        found = FoundAudiences()
        for position, record in self.live.items():
            payload = b"".join(bytes(buffer) for buffer in record.buffers)
            if record.kind == AUDIENCE_RECORD:
                found.add(position, decode_audience(payload))
            else:
                found.reached(position, decode_reached(payload))
        return found.saved({"shop": 3})


async def test_an_audience_on_disk_says_at_each_moment_who_has_no_row_yet(run: Any, autojump_clock: Any) -> None:
    disk = Disk()
    desk = await run(35, journal=AudienceJournal({3}, ["", "", "", "shop"], disk.let_go))
    desk.on_chunk = lambda attached: disk.place(attached) if attached is not None else None
    started = await desk.audiences.start(3, CONTENT, ONLINE, 100.0)
    (saved,) = disk.saved()
    assert (saved.task_id, saved.app, saved.reached, len(saved.ids)) == (started.task_id, 3, 10, 35)
    assert (saved.variant, saved.rows_per_s) == (CONTENT, 100.0)
    assert np.array_equal(saved.ids, ids(35))
    await trio.sleep(0.25)
    (saved,) = disk.saved()
    assert saved.reached == 30
    assert len(disk.live) == 2
    await until_through(desk)
    assert disk.live == {}


async def test_an_audience_that_is_stopped_leaves_nothing_on_the_disk(run: Any, autojump_clock: Any) -> None:
    disk = Disk()
    desk = await run(35, journal=AudienceJournal({3}, ["", "", "", "shop"], disk.let_go))
    desk.on_chunk = lambda attached: disk.place(attached) if attached is not None else None
    await desk.audiences.start(3, CONTENT, ONLINE, 10.0)
    desk.audiences.stop(TASK)
    await until_through(desk)
    assert (desk.left, disk.live) == ([(35, 25)], {})
    assert not desk.audiences.is_running(TASK)


async def test_an_audience_that_fits_one_chunk_needs_no_record(run: Any, autojump_clock: Any) -> None:
    disk = Disk()
    desk = await run(10, journal=AudienceJournal({3}, ["", "", "", "shop"], disk.let_go))
    desk.on_chunk = lambda attached: disk.place(attached) if attached is not None else None
    await desk.audiences.start(3, CONTENT, ONLINE, None)
    assert disk.next == 0


async def test_an_actor_that_is_run_again_goes_on_and_sends_no_chunk_twice(
    nursery: trio.Nursery, autojump_clock: Any
) -> None:
    desk = Desk(35)
    with trio.CancelScope() as first:
        async with trio.open_nursery() as inner:
            inner.start_soon(desk.audiences.run)
            await trio.testing.wait_all_tasks_blocked()
            await desk.audiences.start(3, CONTENT, ONLINE, 100.0)
            # The next chunk is taken and not answered while the actor ends.
            desk.holds = True
            await trio.sleep(0.15)
            first.cancel()
    assert desk.audiences.is_running(TASK)
    nursery.start_soon(desk.audiences.run)
    await trio.sleep(1)
    desk.release()
    await until_through(desk)
    assert np.array_equal(np.concatenate([chunk.device_ids for _, chunk, _, _ in desk.chunks]), ids(35))


# -- registered devices


async def test_registered_devices_are_walked_over_and_the_disk_has_a_place_and_no_ids(
    run: Any, autojump_clock: Any
) -> None:
    disk = Disk()
    desk = await run(35, journal=AudienceJournal({3}, ["", "", "", "shop"], disk.let_go))
    desk.on_chunk = lambda attached: disk.place(attached) if attached is not None else None
    started = await desk.audiences.start(3, CONTENT, Who(), 10.0)
    assert started == (TASK, 35, [])
    (saved,) = disk.saved()
    assert (saved.devices, saved.reached, len(saved.ids)) == (35, 10, 0)
    assert (saved.walk.tag, saved.walk.until_unix_s) == (b"", 77)
    assert saved.left == [Stretch(10, b"", 20), Stretch(20, b"", 4096)]
    # The process ends here; another one goes on with what stands on the disk.
    desk.audiences.stop(TASK)
    following = await run(35)
    source = following.audiences.walk(Wanted(3, b"", 77), saved.devices, saved.left)
    audience = Audience(3, saved.variant, source, None, trio.current_time(), reached=saved.reached)
    audience.task_id = TASK
    following.audiences.resume(audience)
    await until_through(following)
    chunks = [chunk for _, chunk, _, _ in desk.chunks + following.chunks]
    assert np.array_equal(np.concatenate([chunk.device_ids for chunk in chunks]), ids(35))
    assert np.concatenate([chunk.source_rows for chunk in chunks]).tolist() == list(range(35))
    assert following.left == [(35, 0)]


async def test_shards_of_a_worker_that_is_down_are_left_for_later_and_the_others_go_on(
    run: Any, autojump_clock: Any
) -> None:
    desk = await run(35)
    down = {1}
    take = desk.take

    async def take_if_there(wanted: Wanted, stretch: Stretch, rows_max: int) -> Looked:
        if desk.owner(stretch.first) in down:
            raise WorkerGone(1)
        found: Looked = await take(wanted, stretch, rows_max)
        return found

    desk.take, desk.owner = take_if_there, lambda shard: 1 if shard < 20 else 2
    await desk.audiences.start(3, CONTENT, Who(), None)
    await trio.sleep(60)
    sent = np.concatenate([chunk.device_ids for _, chunk, _, _ in desk.chunks])
    assert np.array_equal(sent, ids(35)[20:])
    assert desk.audiences.is_running(TASK)
    down.clear()
    await until_through(desk)
    sent = np.concatenate([chunk.device_ids for _, chunk, _, _ in desk.chunks])
    assert np.array_equal(np.sort(sent, axis=0), np.sort(ids(35), axis=0))


async def test_an_audience_all_of_whose_workers_are_down_is_refused_with_a_time_to_come_back(
    run: Any, autojump_clock: Any
) -> None:
    desk = await run(5)

    async def nobody(wanted: Wanted, stretch: Stretch, rows_max: int) -> Looked:
        raise WorkerGone(1)

    desk.take = nobody
    with pytest.raises(Overloaded, match="workers that answer") as caught:
        await desk.audiences.start(3, CONTENT, Who(), None)
    assert caught.value.retry_after_s > 0


async def test_rows_that_wait_for_a_vendor_hold_up_the_next_chunk_only_when_they_are_many(
    run: Any, autojump_clock: Any
) -> None:
    desk = await run(100)
    desk.is_routed = False
    await desk.audiences.start(3, CONTENT, Who(), None)
    await trio.sleep(100)
    # 25 may be queued: three chunks of ten are more than that.
    assert len(desk.chunks) == 3
    desk.pages[0].state[:] = 1
    await trio.sleep(100)
    assert len(desk.chunks) == 4
    desk.route()
    await until_through(desk)
    assert sum(chunk.n for _, chunk, _, _ in desk.chunks) == 100


@pytest.mark.parametrize(("n_routed", "channel"), [(3, Channel.APNS), (10, Channel.LONG_LINK)])
async def test_a_chunk_that_is_unrouted_or_before_the_long_link_holds_up_the_next_one(
    run: Any, autojump_clock: Any, n_routed: int, channel: Channel
) -> None:
    desk = await run(100)
    desk.is_routed, desk.n_routed, desk.channel = False, n_routed, channel
    await desk.audiences.start(3, CONTENT, Who(), None)
    await trio.sleep(100)
    assert len(desk.chunks) == 1
    desk.route()
    await until_through(desk)


async def test_a_gateway_that_has_rows_parked_is_given_no_more_of_an_audience(run: Any, autojump_clock: Any) -> None:
    parked = [Overloaded("parked rows", 1, 1, retry_after_s=5.0)]

    def check_room() -> None:
        if parked:
            raise parked.pop()

    desk = await run(20, check_room=check_room)
    began = trio.current_time()
    await desk.audiences.start(3, CONTENT, Who(), None)
    await until_through(desk)
    assert desk.chunks[1][0] - began >= 5.0


async def test_devices_that_a_restart_forgets_are_listed_in_the_journal(run: Any, autojump_clock: Any) -> None:
    disk = Disk()
    journal = AudienceJournal({3}, ["", "", "", "shop"], disk.let_go, knows_devices=False)
    desk = await run(35, journal=journal)
    desk.on_chunk = lambda attached: disk.place(attached) if attached is not None else None
    await desk.audiences.start(3, CONTENT, Who(), 10.0)
    (saved,) = disk.saved()
    assert saved.walk is None
    assert np.array_equal(saved.ids, ids(35))
