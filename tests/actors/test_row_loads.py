"""Rows of pages that are away come, change and go without the rest of their pages, and everybody counts them right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors import row_loads
from gateway.actors.callback_history import CallbackHistory
from gateway.actors.long_link_port import Unacknowledged
from gateway.actors.task_control import TaskControl
from gateway.batch import OwnershipEpoch
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.core.counters import tally_pages
from gateway.core.home import row_tags
from gateway.core.stopping import StoppedTasks
from gateway.core.trail import Trail
from gateway.errors import StoreFull
from gateway.ledger import Channel, LedgerPage, Receipt, State
from gateway.store.memory import MemoryLedgerArchive
from gateway.store.ports import PageKey

pytestmark = pytest.mark.usefixtures("small_pages_by_rows")
N = 40
TTL_S = 10_000


class _Disk(MemoryLedgerArchive):
    """Counts pages that are read whole and rows that are read without them."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = self.by_rows = 0
        self.is_full = False

    async def read(self, key: PageKey) -> bytes | None:
        self.whole += 1
        return await super().read(key)

    async def read_rows(self, key: PageKey, rows: Any) -> Any:
        self.by_rows += 1
        return await super().read_rows(key, rows)

    async def amend(self, epoch: OwnershipEpoch, changes: Any) -> set[PageKey]:
        if self.is_full:
            raise StoreFull("ledger.db", "disk is full")
        return await super().amend(epoch, changes)


class _Away:
    """A page of N rows, each with a text of its own, that wait for their devices; it is in the archive."""

    def __init__(self, world: Any) -> None:
        self.world, self.disk = world, _Disk()
        self.ledger = world.ledger_on(self.disk, retention_s=1e9, retention_check_s=1e9)
        self.devices: list[bytes] = world.register(N, Channel.NONE)
        self.key = PageKey(0, 0)

    async def begin(self, nursery: trio.Nursery, earlier: str = "") -> None:
        """earlier: it is of an earlier process, and the inbox was not asked for its rows; or is, when there is time."""
        world, ledger = self.world, self.ledger
        await ledger.load()
        world.inbox.fetch, world.inbox.fetch_to_end = ledger.fetch, ledger.fetch_to_end
        world.inbox.fetch_rows, world.owner.ask_archive = ledger.fetch_rows, ledger.late
        ledger.on_due = world.router.sweep_soon
        if world.trail is not None:
            ledger.on_adopted = lambda page: world.trail.follow(page, -1)
            world.trail.awaits_archive = True
        await world.start(nursery)
        nursery.start_soon(ledger.run)
        names = TextColumn.from_rows([b"to %d" % row for row in range(N)])
        page = await world.send(
            self.devices, Variant("{{name}}", "b", ttl_s=TTL_S, strategy=3), variables={"name": names}
        )
        self.key = PageKey(page.batch.address.unix_ms, page.batch.address.sequence)
        assert world.states(page) == {"held": N}
        await self.leave()
        if earlier:
            self.as_after_a_start()
        if earlier == "checked beside":
            nursery.start_soon(ledger.checks.run, ledger.fetch)

    def as_after_a_start(self) -> None:
        """Nobody knows whether the inbox has the held rows of the page."""
        self.ledger.checks.expect(self.key.sequence)

    async def lose(self, *rows: int) -> None:
        """An earlier process ended when these rows had left the inbox for their devices."""
        await self.world.inbox_store.forget(OwnershipEpoch(1), row_tags(self.key.sequence, np.array(rows)))

    async def leave(self) -> None:
        """What is here is written, and leaves memory."""
        await self.world.wait(7)
        self.world.home._ledger_bytes_max = 0
        self.world.home.evict_some()
        self.world.home._ledger_bytes_max = 1 << 40
        await self.world.settle()

    @property
    def few(self) -> LedgerPage | None:
        found: LedgerPage | None = self.world.home.some_page(self.key.sequence)
        return found

    async def assert_right(self, expected: dict[int, State]) -> None:
        """expected: of rows; the others are held."""
        page = await self.ledger.page(self.key)
        assert page is not None
        states = {row: State(state) for row, state in enumerate(page.state.tolist())}
        assert states == {row: expected.get(row, State.HELD) for row in range(N)}
        counted = (await self.ledger.counts(range(1 << 20))).kept
        assert counted == dict(tally_pages([page], self.world.home.counters.day_offset_s)[0].cells)
        assert self.world.home.rows_not_conserved() == 0
        few = self.few
        if few is not None:
            assert few.counts.tolist() == np.bincount(page.state, minlength=len(State)).tolist()


async def test_a_device_returns_to_a_page_that_is_away_and_nobody_reads_the_page(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    away = _Away(world)
    await away.begin(nursery)
    assert away.few is None
    for row in (3, 17, 39):
        world.go_online(away.devices[row])
        await world.settle()
        assert world.sockets.titles(away.devices[row]) == [f"to {row}"]
        world.acknowledge(away.devices[row])
    assert away.few is not None
    assert away.few.here is not None
    # A service that is told what it missed hears of them before they are written.
    history = CallbackHistory(archive=away.ledger, home=world.home, clock=world.clock, app=0)
    told = [int(row) async for change in history.changes(0) for row in change.rows]
    assert told == [3, 17, 39]
    away.disk.whole = 0
    assert len(world.home.away_pages) == 1
    assert world.home.rows_open == N - 3
    await away.leave()
    assert away.few is None
    assert (away.disk.whole, away.disk.by_rows) == (0, 3)
    assert len(away.disk._records[away.key]) == 1
    ((_, held, _),) = await away.disk.held(None, 9)
    assert held == N - 3
    await away.assert_right(dict.fromkeys((3, 17, 39), State.DEVICE_ACKED))
    # Who comes again has nothing waiting.
    assert not len(await world.inbox_store.peek(away.devices[3], 9))


async def test_the_first_row_that_is_wanted_after_a_start_is_read_alone_and_the_others_are_checked_later(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    away = _Away(world)
    await away.begin(nursery)
    away.as_after_a_start()
    await away.lose(5, 6)
    asked: list[int] = []
    away.ledger.on_brought_back = lambda page: asked.append(page.n if page.here is None else len(page.here))
    world.go_online(away.devices[3])
    await world.settle()
    assert world.sockets.titles(away.devices[3]) == ["to 3"]
    assert (away.disk.whole, asked) == (0, [1])
    await away.assert_right({3: State.IN_FLIGHT})
    # One that is lost, and that somebody asks for, is uncertain before he sees it.
    states: list[State] = []
    away.ledger.late(
        away.key.sequence, np.array([5]), lambda page, rows: states.append(State(int(page.state[rows][0])))
    )
    await world.settle()
    assert states == [State.UNCERTAIN]
    assert asked == [1, 2]
    away.disk.whole = 0
    nursery.start_soon(away.ledger.checks.run, away.ledger.fetch)
    await world.settle()
    assert (away.disk.whole, asked) == (1, [1, 2, N])
    lost = dict.fromkeys((5, 6), State.UNCERTAIN)
    await away.assert_right(lost | {3: State.IN_FLIGHT})
    world.acknowledge(away.devices[3])
    await away.leave()
    # It is asked for no more.
    world.go_online(away.devices[4])
    await world.settle()
    await away.assert_right(lost | {3: State.DEVICE_ACKED, 4: State.IN_FLIGHT})
    assert asked[3:] == [1]


async def test_a_question_that_reads_a_page_while_it_comes_back_whole_sees_what_became_of_its_rows(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    away = _Away(world)
    await away.begin(nursery)
    world.go_online(away.devices[3])
    await world.settle()
    world.acknowledge(away.devices[3])
    await world.settle()
    read = away.disk.read

    async def slow_read(key: PageKey) -> bytes | None:
        data = await read(key)
        away.disk.read = read  # type: ignore[method-assign]
        await away.ledger.fetch(key.sequence)
        return data

    away.disk.read = slow_read  # type: ignore[method-assign]
    assert away.few is not None
    assert away.few.here is not None
    await away.assert_right({3: State.DEVICE_ACKED})
    assert away.few.here is None


async def test_a_row_on_its_way_back_into_the_inbox_is_not_taken_for_a_lost_one(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    away = _Away(world)
    await away.begin(nursery)
    away.as_after_a_start()
    fd = world.go_online(away.devices[3])
    await world.settle()
    put, may_put = world.inbox_store.put, trio.Event()

    async def slow_put(*call: Any) -> Any:
        await may_put.wait()
        return await put(*call)

    world.inbox_store.put = slow_put
    world.go_offline(fd)
    world.owner.unacknowledged(world.sockets.tags(away.devices[3])[-1:], Unacknowledged.CONNECTION_CLOSED)
    await world.settle()
    assert len(world.inbox_store) == N - 1
    page = await away.ledger.fetch(away.key.sequence)
    assert page is not None
    assert page.here is None
    await away.assert_right({})
    may_put.set()
    await world.settle()
    assert len(world.inbox_store) == N
    world.go_online(away.devices[3])
    await world.settle()
    await away.assert_right({3: State.IN_FLIGHT})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("has_journal", [False, True])
@pytest.mark.parametrize("of", ["", "unchecked", "checked beside"])
async def test_rows_come_and_go_in_any_order(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any, seed: int, has_journal: bool, of: str
) -> None:
    """Returns, acknowledgements in time and late, closed sockets, receipts, questions, a full disk, the whole page.
    of: an earlier process, and the inbox was not asked for its rows; or is, when there is time."""
    trail = Trail(issued_rows_max=1000) if has_journal else None
    world = make_world(trail=trail)
    away = _Away(world)
    await away.begin(nursery, of)
    random, expected = np.random.default_rng(seed), dict[int, State]()
    out: dict[int, int] = {}
    late: list[int] = []

    async def settle() -> None:
        await world.settle()
        if trail is not None:
            for page, old in (taken := trail.take_final(99)):
                assert page.n_open == 0 or old is not page.trail
            for ring in trail.released(taken):
                ring()
            while await world.write_marks():
                pass

    async def step(what: str, row: int) -> None:
        device = away.devices[row]
        if what == "return" and row not in out and row not in expected:
            out[row] = world.go_online(device)
            await settle()
            assert world.sockets.titles(device)[-1] == f"to {row}"
            expected[row] = State.IN_FLIGHT
        elif what == "acknowledge" and row in out:
            world.owner.acknowledged(world.sockets.tags(device)[-1:], np.zeros(1), trio.current_time())
            world.go_offline(out.pop(row))
            expected[row] = State.DEVICE_ACKED
        elif what == "close" and row in out:
            fd = out.pop(row)
            world.go_offline(fd)
            world.owner.unacknowledged(world.sockets.tags(device)[-1:], Unacknowledged.CONNECTION_CLOSED)
            del expected[row]
            late.append(row)
        elif what == "late" and late and late[-1] not in out and late[-1] not in expected:
            row = late.pop()
            world.owner.acknowledged_late(row_tags(away.key.sequence, np.array([row])), np.zeros(1), 0.0)
            expected[row] = State.DEVICE_ACKED
        elif what == "receipt":
            away.ledger.late(
                away.key.sequence,
                np.array([row]),
                lambda page, rows: world.home.raise_receipts(page, rows, Receipt.DISPLAYED, world.clock.monotonic()),
            )
        elif what == "leave":
            await away.leave()
        elif what == "whole":
            await away.ledger.fetch(away.key.sequence)
        elif what == "full":
            away.disk.is_full = not away.disk.is_full
        await settle()

    steps = ["return"] * 6 + ["acknowledge"] * 3 + ["close", "late", "receipt", "leave", "leave", "whole", "full"]
    for what, row in zip(random.choice(steps, 60), random.integers(0, N, 60), strict=True):
        if what in ("acknowledge", "close") and out:
            row = next(iter(out))
        await step(str(what), int(row))
        await away.assert_right(expected)
    away.disk.is_full = False
    assert away.disk.by_rows
    for row in list(out):
        await step("acknowledge", row)
    await away.leave()
    await settle()
    await away.assert_right(expected)
    # The others' time is over: for that their page is needed.
    await world.wait(TTL_S)
    await settle()
    await away.leave()
    await away.assert_right({row: expected.get(row, State.EXPIRED) for row in range(N)})
    assert world.home.rows_open == len(world.home.away_pages) == 0


async def test_a_task_is_stopped_while_a_few_of_its_rows_are_here(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    away = _Away(world)
    await away.begin(nursery)
    control = TaskControl(
        home=world.home, inbox=world.inbox, clock=world.clock, stopped=StoppedTasks(9), archive=away.ledger
    )
    away.ledger.on_brought_back = control.opened
    fd = world.go_online(away.devices[3])
    await world.settle()
    few = away.few
    assert few is not None
    assert few.here is not None
    await control.stop(few.batch.segments[0].task_id)
    expected = dict.fromkeys(range(N), State.CANCELLED)
    await away.assert_right(expected | {3: State.IN_FLIGHT})
    # The page is whole, and still the one that the row is in flight of.
    assert away.few is few
    assert few.here is None
    world.go_offline(fd)
    world.owner.unacknowledged(world.sockets.tags(away.devices[3])[-1:], Unacknowledged.CONNECTION_CLOSED)
    await world.settle()
    await away.assert_right(expected)


async def test_a_crowd_that_returns_to_one_page_brings_it_back_whole(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    away = _Away(world)
    await away.begin(nursery)
    for device in away.devices:
        world.go_online(device)
    await world.settle()
    assert [world.sockets.titles(device) for device in away.devices] == [[f"to {row}"] for row in range(N)]
    assert away.few is not None
    assert away.few.here is None
    assert away.disk.whole == 1
    # Those that came together were read together.
    assert away.disk.by_rows <= row_loads.FEW_ROWS_MAX
    for device in away.devices:
        world.acknowledge(device)
    await away.leave()
    await away.assert_right(dict.fromkeys(range(N), State.DEVICE_ACKED))


async def test_rows_of_a_page_that_is_damaged_hold_nobody_up(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    away = _Away(world)
    errors: list[BaseException] = []
    world.inbox._on_error = errors.append
    await away.begin(nursery)
    page = away.disk._pages[away.key]
    away.disk._pages[away.key] = page._replace(parts=[page.parts[0], b"damaged", *page.parts[2:]])
    world.go_online(away.devices[3])
    await world.wait(5)
    assert len(errors) == 1
    assert "page" in str(errors[0])
    assert away.few is None
    other = world.register(1, Channel.NONE, first=N)
    await world.send(other, [Variant("later", "b", strategy=3)])
    world.go_online(other[0])
    await world.settle()
    assert world.sockets.titles(other[0]) == ["later"]
