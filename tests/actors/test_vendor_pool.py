"""VendorPool, long because its tests share one setting: as many connections as the work needs, and no storm when a
vendor is in trouble."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.actors.vendor_breaker import VendorBreaker
from gateway.actors.vendor_pool import BACKOFF_FIRST_S, BACKOFF_MAX_S, OPENS_SPARE, VendorPool
from gateway.actors.vendor_tags import make_tags
from gateway.clock import SystemClock
from gateway.core.breaker import BreakerSettings
from gateway.core.pool_sizing import PATIENCE_S
from gateway.errors import CloseReason
from gateway.ledger import Reason
from gateway.vendor import Requests
from gateway.wire.h2.events import (
    AnswerDetail,
    Answers,
    Refused,
    RefusedWhy,
    Reset,
    SettingsChanged,
    Terminated,
    TimedOut,
)


class LaneTwin:
    """A lane that only counts: rows it wants to send, and what it was told."""

    def __init__(self, pool: VendorPool) -> None:
        self.pool = pool
        self.number = pool.add_lane(self)
        self.rows = 0
        self.rings = 0
        self.events: list[tuple[int, Any]] = []
        self._burst = 0

    @property
    def has_rows(self) -> bool:
        return self.rows > 0

    @property
    def waiting_rows(self) -> int:
        return self.rows

    def ring(self) -> None:
        self.rings += 1

    def on_answers(self, connection: int, events: list[Any]) -> None:
        self.events += [(connection, event) for event in events]

    def send(self) -> int:
        """Sends what the pool takes now; returns how many rows."""
        room = self.pool.capacity(self.rows)
        if not room:
            return 0
        n = min(room, self.rows)
        requests = Requests(n, b"vendor.example", (b"/",), (), (b"{}",))
        taken, _ = self.pool.send(requests, 0, make_tags(self.number, self._burst, n), trio.current_time() + 30)
        self._burst += 1
        self.rows -= taken
        return taken

    def ended(self) -> list[int]:
        """Every tag that was told to have ended, in order."""
        out: list[int] = []
        for _, event in self.events:
            match event:
                case Answers(tags=tags) | Refused(tags=tags) | Reset(tags=tags) | TimedOut(tags=tags):
                    out += tags.tolist()
                case Terminated(refused=refused, uncertain=uncertain):
                    out += [*refused.tolist(), *uncertain.tolist()]
        return out


class PoolWords:
    def __init__(self) -> None:
        self.opened: list[int] = []
        self.ended: list[tuple[int, CloseReason, str]] = []

    def connected(self, number: int) -> None:
        self.opened.append(number)

    def closed(self, number: int, reason: CloseReason, text: str) -> None:
        self.ended.append((number, reason, text))


class Silent:
    """Hears of a breaker's moves."""

    def moved(self, state: Any, cause: Any, open_s: float) -> None: ...


def untouched_breaker() -> VendorBreaker:
    """Never opens."""
    return VendorBreaker(BreakerSettings(connect_failures_max=1 << 30), clock=SystemClock(), observer=Silent())


class Setting:
    def __init__(self, vendor: Any, *, lanes: int = 1, connections_max: int = 3, idle_s: float = 3600.0) -> None:
        self.vendor = vendor
        self.words = PoolWords()
        self.pool = VendorPool(
            open_connection=vendor.open,
            connections_max=connections_max,
            idle_s=idle_s,
            clock=SystemClock(),
            observer=self.words,
            breaker=untouched_breaker(),
        )
        self.lanes = [LaneTwin(self.pool) for _ in range(lanes)]
        self.lane = self.lanes[0]

    def want(self, rows: int) -> None:
        self.lane.rows += rows
        self.lane.send()


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


# -- growth


async def test_pool_opens_nothing_before_there_is_work(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    setting = Setting(new_vendor())
    nursery.start_soon(setting.pool.run)
    await trio.sleep(1000)
    assert setting.vendor.connections == []
    assert not setting.pool.is_ready
    setting.want(1)
    await settle()
    assert len(setting.vendor.connections) == 1
    assert setting.pool.is_ready
    assert setting.words.opened == [1]
    assert setting.lane.rings > 0
    assert setting.lane.send() == 1


async def test_pool_opens_one_connection_ahead_of_the_first_row_when_it_is_asked(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    setting = Setting(new_vendor())
    nursery.start_soon(setting.pool.run)
    await setting.pool.open_ahead()
    assert setting.pool.is_ready
    assert setting.words.opened == [1]
    await setting.pool.open_ahead()
    setting.want(1)
    await settle()
    await trio.sleep(1000)
    assert len(setting.vendor.connections) == 1


async def test_pool_that_finds_nobody_ahead_says_so_and_does_not_try_again(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    setting = Setting(new_vendor())
    setting.vendor.fails_with = CloseReason.CONNECT_FAILED
    nursery.start_soon(setting.pool.run)
    await setting.pool.open_ahead()
    assert not setting.pool.is_ready
    await trio.sleep(1000)
    assert len(setting.words.ended) == 1


async def fill(setting: Setting, rounds: int = 10) -> None:
    """The lane sends what it can, with pauses that exhaust the pool's patience."""
    for _ in range(rounds):
        setting.lane.send()
        await settle()
        await trio.sleep(PATIENCE_S)


async def test_pool_opens_one_connection_at_a_time_for_rows_that_find_no_room(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    vendor = new_vendor()
    vendor.streams_max = 10
    setting = Setting(vendor)
    vendor.gate = trio.Event()
    nursery.start_soon(setting.pool.run)
    setting.want(25)
    await fill(setting)
    assert len(vendor.connections) == 1, "one is on its way"
    vendor.gate.set()
    await settle()
    await fill(setting, 1)
    assert [len(connection.open) for connection in vendor.connections] == [10]
    await fill(setting)
    assert [len(connection.open) for connection in vendor.connections] == [10, 10, 5]
    assert setting.pool.statistics()[:3] == (3, 3, 25)
    # not before patience had ended
    assert min(np.diff(vendor.opened_at)) >= PATIENCE_S


async def test_pool_grows_before_rows_queue(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """The second connection is there before the first is full."""
    vendor = new_vendor()
    vendor.streams_max = 100
    setting = Setting(vendor)
    nursery.start_soon(setting.pool.run)
    setting.want(1)
    await settle()
    setting.lane.send()
    vendor.last.answer()
    # 30 rows per 100 ms, each answered after 100 ms, then three times as many, each after 100 ms
    for step, rows in enumerate([30] * 20 + [90] * 20):
        assert setting.lane.rows == 0, "no row has ever found no room"
        setting.want(rows)
        await trio.sleep(0.1)
        for connection in vendor.connections:
            connection.answer(n=len(connection.open))
        if step == 19:
            assert len(vendor.connections) == 1
    assert len(vendor.connections) == 2


async def test_pool_stays_below_its_ceiling(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    vendor = new_vendor()
    vendor.streams_max = 1
    setting = Setting(vendor, connections_max=2)
    nursery.start_soon(setting.pool.run)
    setting.want(10)
    await fill(setting)
    await trio.sleep(100)
    assert len(vendor.connections) == 2
    assert setting.lane.rows == 8


async def test_pool_asks_the_connection_with_most_room(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    vendor = new_vendor()
    vendor.streams_max = 10
    setting = Setting(vendor, connections_max=2)
    nursery.start_soon(setting.pool.run)
    setting.want(20)
    await fill(setting)
    first, second = vendor.connections
    second.answer(n=9)
    first.answer(n=6)
    setting.want(3)
    assert (len(first.open), len(second.open)) == (4, 4)


async def test_pool_shrinks_to_what_is_needed(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """One request now and then needs one connection, whichever of them takes it."""
    vendor = new_vendor()
    vendor.streams_max = 10
    setting = Setting(vendor, idle_s=40.0)
    nursery.start_soon(setting.pool.run)
    setting.want(30)
    await fill(setting)
    assert setting.pool.statistics().connections == 3
    for connection in vendor.connections:
        connection.answer(n=10)
    for second in range(100):
        setting.want(1)
        await trio.sleep(1)
        for connection in vendor.connections:
            connection.answer(n=len(connection.open))
        if second < 30:
            assert setting.pool.statistics().connections == 3
    assert setting.pool.statistics().connections == 1
    assert {reason for _, reason, _ in setting.words.ended} == {CloseReason.IDLE}


async def test_pool_opens_nothing_while_its_gate_is_closed(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    setting = Setting(new_vendor())
    nursery.start_soon(setting.pool.run)
    setting.pool.close_gate(trio.current_time() + 60, Reason.THROTTLED)
    setting.want(1)
    await trio.sleep(59)
    assert setting.vendor.connections == []
    await trio.sleep(2)
    assert len(setting.vendor.connections) == 1


async def test_pool_replaces_a_connection_that_takes_no_more_at_once(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """After a GOAWAY nobody waits for patience to end."""
    vendor = new_vendor()
    setting = Setting(vendor)
    nursery.start_soon(setting.pool.run)
    setting.want(2)
    await settle()
    setting.lane.send()
    vendor.last.drain(30.0, CloseReason.GOAWAY)
    begun = trio.current_time()
    setting.want(1)
    await settle()
    assert setting.lane.send() == 1
    assert trio.current_time() == begun
    assert len(vendor.connections) == 2


async def test_pool_is_not_led_into_a_storm_by_a_vendor_that_ends_every_connection(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Each one answers and is ended at once: after a stock of them a second apiece."""
    vendor = new_vendor()
    setting = Setting(vendor, connections_max=2)
    nursery.start_soon(setting.pool.run)
    for _ in range(400):
        setting.want(1)
        for connection in vendor.connections:
            if connection.is_up and connection.open:
                connection.answer(n=1)
                connection.close(CloseReason.PEER_RESET)
        await trio.sleep(0.05)
    assert 20 <= len(vendor.connections) <= 2 + OPENS_SPARE + 20 + 1


async def test_pool_takes_failures_of_one_moment_for_one(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    vendor = new_vendor()
    vendor.streams_max = 10
    setting = Setting(vendor)
    nursery.start_soon(setting.pool.run)
    setting.want(30)
    await fill(setting)
    connections = list(vendor.connections)
    assert len(connections) == 3
    for connection in connections:
        connection.close(CloseReason.PEER_RESET)
    await settle()
    setting.want(1)
    await trio.sleep(BACKOFF_FIRST_S * 1.01)
    await settle()
    assert len(vendor.connections) == 4


async def test_pool_lets_freed_streams_gather_before_the_next_burst(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """One freed stream of a hundred is not worth a burst of its own, unless it is all that is wanted."""
    vendor = new_vendor()
    vendor.streams_max = 100
    setting = Setting(vendor, connections_max=1)
    nursery.start_soon(setting.pool.run)
    setting.want(150)
    await settle()
    setting.lane.send()
    vendor.last.answer()
    assert setting.pool.capacity(50) == 0
    assert setting.pool.capacity(1) == 1
    vendor.last.answer(n=60)
    assert setting.pool.capacity(100) == 61


# -- ends


@pytest.mark.parametrize("dies", ["before it connects", "before its first answer"])
async def test_pool_tries_again_with_growing_waits(
    dies: str, new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    vendor = new_vendor()
    setting = Setting(vendor)
    if dies == "before it connects":
        vendor.fails_with = CloseReason.CONNECT_FAILED
    nursery.start_soon(setting.pool.run)
    setting.want(1)
    begun = trio.current_time()
    while trio.current_time() < begun + 200:
        await trio.sleep(0.01)
        setting.lane.rows = 1
        if dies != "before it connects" and vendor.connections and vendor.last.is_up:
            vendor.last.close(CloseReason.PEER_RESET)
    waits = np.diff(vendor.opened_at)
    assert len(waits) < 30
    for number, wait in enumerate(waits.tolist()):
        longest = min(BACKOFF_FIRST_S * 2**number, BACKOFF_MAX_S)
        assert longest / 2 - 0.001 <= wait <= longest + 0.05, number
    # once it works, the next failure starts from the beginning
    vendor.fails_with = None
    while not (vendor.connections and vendor.last.is_up):
        await trio.sleep(0.01)
    setting.lane.send()
    vendor.last.answer()
    setting.lane.rows = 1
    vendor.last.close(CloseReason.PEER_CLOSED)
    n = len(vendor.connections)
    await trio.sleep(0.01)
    assert len(vendor.connections) == n + 1


async def test_pool_tries_again_however_long_a_vendor_was_away(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """A weekend behind a closed firewall is a good thousand tries, and 2 ** 1024 is no float."""
    vendor = new_vendor()
    setting = Setting(vendor)
    vendor.fails_with = CloseReason.CONNECT_FAILED
    nursery.start_soon(setting.pool.run)
    setting.want(1)
    while len(vendor.connections) < 1100:
        await trio.sleep(BACKOFF_MAX_S)
    vendor.fails_with = None
    await trio.sleep(BACKOFF_MAX_S)
    assert setting.lane.send() == 1


async def test_pool_reports_each_end_with_its_reason_once(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    vendor = new_vendor()
    setting = Setting(vendor)
    nursery.start_soon(setting.pool.run)
    setting.want(2)
    await settle()
    setting.lane.send()
    vendor.last.answer()
    vendor.last.close(CloseReason.GOAWAY)
    await settle()
    assert setting.words.ended == [(1, CloseReason.GOAWAY, "the end")]
    assert setting.pool.statistics().last_close is CloseReason.GOAWAY
    assert sorted(setting.lane.ended()) == make_tags(0, 0, 2).tolist()


async def test_pool_connection_whose_run_crashes_is_an_internal_error(
    new_vendor: Callable[[], Any], autojump_clock: Any
) -> None:
    """The pool crashes with it, the supervisor's business; the next run starts with no dead connection left."""
    vendor = new_vendor()
    setting = Setting(vendor)
    setting.want(1)

    def crash(_connection: object, _events: list[Any]) -> None:
        raise ZeroDivisionError

    setting.lane.on_answers = crash  # type: ignore[method-assign]
    with pytest.raises(BaseExceptionGroup) as group:
        await setting.pool.run()
    assert group.group_contains(ZeroDivisionError)
    assert setting.words.ended[-1][1] is CloseReason.INTERNAL_ERROR
    del setting.lane.on_answers  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.pool.run)
        await trio.sleep(1)
        assert setting.lane.send() == 1
        nursery.cancel_scope.cancel()


async def test_pool_that_is_cancelled_gives_every_open_request_back(
    new_vendor: Callable[[], Any], autojump_clock: Any
) -> None:
    vendor = new_vendor()
    setting = Setting(vendor)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.pool.run)
        setting.want(5)
        await settle()
        setting.lane.send()
        vendor.last.answer(n=2)
        nursery.cancel_scope.cancel()
    assert sorted(setting.lane.ended()) == make_tags(0, 0, 5).tolist()
    assert setting.pool.statistics().connections == 0


async def test_pool_closes_connections_that_were_idle_for_long(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    vendor = new_vendor()
    setting = Setting(vendor, idle_s=40.0)
    nursery.start_soon(setting.pool.run)
    setting.want(1)
    await settle()
    setting.lane.send()
    await trio.sleep(200)
    assert vendor.last.is_up, "a connection with an open request is not idle"
    vendor.last.answer()
    await trio.sleep(30)
    setting.want(1)
    vendor.last.answer()
    await trio.sleep(30)
    assert vendor.last.is_up, "it was used half a minute ago"
    await trio.sleep(40)
    assert setting.words.ended == [(1, CloseReason.IDLE, "the end")]
    setting.want(1)
    await trio.sleep(1)
    assert setting.lane.send() == 1
    assert len(vendor.connections) == 2


async def test_pool_replaces_a_connection_and_lets_its_requests_end(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    vendor = new_vendor()
    setting = Setting(vendor)
    nursery.start_soon(setting.pool.run)
    setting.want(2)
    await settle()
    setting.lane.send()
    vendor.last.answer()
    setting.pool.replace_connection(1)
    setting.pool.replace_connection(99)  # gone long ago: nothing happens
    setting.want(1)
    await settle()
    first, second = vendor.connections
    assert (first.open_requests(), first.capacity()) == (1, 0)
    assert setting.lane.send() == 1
    assert second.open_requests() == 1
    first.answer()
    await settle()
    assert setting.words.ended == [(1, CloseReason.CREDENTIAL_REPLACED, "the end")]


# -- drain


async def test_pool_drains_when_the_last_answer_has_come(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    vendor = new_vendor()
    setting = Setting(vendor)
    nursery.start_soon(setting.pool.run)
    setting.want(3)
    await settle()
    setting.lane.send()
    drained_at: list[float] = []
    begun = trio.current_time()

    async def drain() -> None:
        await setting.pool.drain(10.0)
        drained_at.append(trio.current_time() - begun)

    nursery.start_soon(drain)
    await trio.sleep(2)
    setting.want(1)
    assert setting.lane.rows == 1, "nothing new is taken"
    vendor.last.answer(n=3)
    await trio.sleep(1)
    assert drained_at == [2]
    assert setting.words.ended == [(1, CloseReason.SHUTDOWN, "the end")]
    await trio.sleep(100)
    assert len(vendor.connections) == 1


async def test_pool_drain_ends_at_the_latest_when_the_time_is_up(
    new_vendor: Callable[[], Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    vendor = new_vendor()
    setting = Setting(vendor)
    nursery.start_soon(setting.pool.run)
    setting.want(3)
    await settle()
    setting.lane.send()
    begun = trio.current_time()
    await setting.pool.drain(10.0)
    assert trio.current_time() - begun == 10
    assert vendor.last.drained == (10.0, CloseReason.SHUTDOWN)


async def test_pool_without_connections_drains_at_once(new_vendor: Callable[[], Any], autojump_clock: Any) -> None:
    setting = Setting(new_vendor())
    begun = trio.current_time()
    await setting.pool.drain(10.0)
    assert trio.current_time() == begun


# -- several lanes


@given(data=st.data())
def test_pool_gives_each_lane_its_own_tags_once_and_in_order(data: st.DataObject) -> None:
    """The plain twin: an event taken apart tag by tag."""
    kind = data.draw(st.sampled_from(["answers", "refused", "reset", "timed_out", "terminated"]))
    picks = data.draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 9)), max_size=30, unique=True)
    )
    tags = np.array([int(make_tags(lane, burst, place + 1)[-1]) for lane, burst, place in picks], np.int64)
    n = len(tags)
    told: list[tuple[int, int, Any]] = []
    if kind == "answers":
        status = np.array(data.draw(st.lists(st.sampled_from([200, 400, 503]), min_size=n, max_size=n)), np.uint16)
        details = {index: AnswerDetail({}, b"%d" % index) for index in range(n) if status[index] != 200}
        event: Any = Answers(tags, status, details)
    elif kind == "terminated":
        cut = data.draw(st.integers(0, n))
        event = Terminated(CloseReason.PEER_RESET, tags[:cut], tags[cut:], 0, "gone")
    else:
        event = {
            "refused": Refused(tags, RefusedWhy.REFUSED_STREAM),
            "reset": Reset(tags, 2, True),
            "timed_out": TimedOut(tags),
        }[kind]
    on_events: list[Any] = []

    class Silent:
        def is_leaving(self) -> bool:
            return False

        def capacity(self) -> int:
            return 1

        def open_requests(self) -> int:
            return 0

        async def run(self) -> CloseReason:
            on_events[0](self, [SettingsChanged(1, 1, 1, 1)])
            on_events[0](self, [event])
            await trio.sleep_forever()
            return CloseReason.SHUTDOWN

    def open_silent(callback: Any) -> Any:
        on_events.append(callback)
        return Silent()

    async def main() -> None:
        words = PoolWords()
        pool = VendorPool(
            open_connection=open_silent,
            connections_max=1,
            idle_s=60.0,
            clock=SystemClock(),
            observer=words,
            breaker=untouched_breaker(),
        )
        lanes = [LaneTwin(pool) for _ in range(3)]
        lanes[0].rows = 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run)
            await settle()
            nursery.cancel_scope.cancel()
        for number, lane in enumerate(lanes):
            own = [index for index, (owner, _, _) in enumerate(picks) if owner == number]
            assert (
                lane.ended() == tags[own].tolist()
                if kind != "terminated"
                else sorted(lane.ended()) == sorted(tags[own].tolist())
            )
            for _, part in lane.events:
                if isinstance(part, Answers):
                    for place, tag in enumerate(part.tags.tolist()):
                        index = tags.tolist().index(tag)
                        assert part.status[place] == event.status[index]
                        assert part.details.get(place) == event.details.get(index)
                        told.append((number, tag, part.status[place]))
                if isinstance(part, Terminated):
                    assert (part.reason, part.text) == (CloseReason.PEER_RESET, "gone")
                    assert set(part.refused.tolist()) <= set(event.refused.tolist())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
