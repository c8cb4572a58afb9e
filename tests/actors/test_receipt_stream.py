"""ReceiptStreams: an app's own changes, all of them, in order, as far as its client has room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.actors.receipt_stream import Cursor, ReceiptStreams, take_rows
from gateway.actors.rpc_streams import Streams
from gateway.content import Variant
from gateway.core.changes import Change
from gateway.core.home import row_tags
from gateway.ledger import Channel, Reason, Receipt, State
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import BadRequest


class ConnectionTwin:
    """One client: how many rows it has room for on its stream, and the pages it got."""

    def __init__(self) -> None:
        self.session = self
        self.credit = 0
        self.pages: list[messages.Receipts] = []
        self.is_gone = False
        self.has_begun = False

    def stream_credit(self, stream: int) -> int:
        return self.credit

    def answer(self, message: messages.Receipts) -> bool:
        if self.is_gone:
            return False
        if not self.has_begun:
            assert message.n == 0
            self.has_begun = True
            return True
        assert 0 < message.n <= self.credit
        self.credit -= message.n
        self.pages.append(message)
        return True

    def rows(self) -> list[tuple[bytes, int, int, int]]:
        """(message id, state, reason, receipt) of every row, in order."""
        out = []
        for page in self.pages:
            ids = np.frombuffer(page.message_ids, np.uint8).reshape(-1, 16)
            assert page.n == len(ids) == len(page.state) == len(page.at_unix_ms) // 8
            out += [
                (one.tobytes(), *rest) for one, *rest in zip(ids, page.state, page.reason, page.receipt, strict=True)
            ]
        return out


class Shared(ReceiptStreams):
    """With the streams of a service, which the test plays."""

    def __init__(self, home: Any) -> None:
        self.all = Streams()
        super().__init__(home, self.all)


class Reader:
    """One subscription of app 0."""

    def __init__(self, nursery: trio.Nursery, streams: Shared, *, cursor: bytes = b"", app: int = 0) -> None:
        self.streams = streams
        self.connection = ConnectionTwin()
        self.error: BadRequest | None = None
        self.has_ended = False
        self._app = app
        nursery.start_soon(self._run, streams.check_cursor(cursor))

    async def _run(self, cursor: Cursor) -> None:
        request = messages.SubscribeReceipts(id=7)
        try:
            await self.streams.run(self.connection, request, cursor, self._app)
        except BadRequest as error:
            self.error = error
        self.has_ended = True

    def grant(self, rows: int) -> None:
        self.connection.credit += rows
        self.streams.all.credited(self.connection, 7)


def end(world: Any, page: Any, rows: list[int], state: State = State.CANCELLED, reason: Reason = Reason.NONE) -> None:
    world.home.move(page, np.array(rows), state, reason, trio.current_time())


def opened(world: Any, n: int) -> Any:
    page = world.open(world.register(n, Channel.NONE))
    return page


def ids_of(page: Any, rows: list[int]) -> list[bytes]:
    return [page.batch.message_ids[row].tobytes() for row in rows]


async def test_stream_sends_changes_from_now_on(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    page = opened(world, 6)
    end(world, page, [0])
    reader = Reader(nursery, Shared(world.home))
    reader.grant(100)
    await trio.sleep(1)
    assert reader.connection.pages == []
    end(world, page, [3, 1], State.DROPPED, Reason.INBOX_FULL)
    end(world, page, [2], State.EXPIRED, Reason.TTL_PASSED)
    await trio.sleep(1)
    assert reader.connection.rows() == [
        (ids_of(page, [3])[0], State.DROPPED, Reason.INBOX_FULL, 0),
        (ids_of(page, [1])[0], State.DROPPED, Reason.INBOX_FULL, 0),
        (ids_of(page, [2])[0], State.EXPIRED, Reason.TTL_PASSED, 0),
    ]


async def test_stream_tells_receipts_that_rise_after_the_end(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    (device,) = world.register(1)
    reader = Reader(nursery, Shared(world.home))
    reader.grant(100)
    page = await world.send([device], Variant("t", "b", strategy=2))
    world.apns.last.answer()
    world.owner.acknowledged_late(row_tags(page.batch.address.sequence, np.array([0])), np.zeros(1), 0.0)
    world.home.raise_receipts(page, np.array([0]), Receipt.CLICKED, trio.current_time())
    await trio.sleep(1)
    told = reader.connection.rows()
    assert {state for _, state, _, _ in told} == {State.VENDOR_ACCEPTED}
    receipts = [receipt for _, _, _, receipt in told]
    assert receipts == sorted(receipts), "a receipt never falls"
    assert receipts[-2:] == [Receipt.DELIVERED, Receipt.CLICKED]
    assert bytes(reader.connection.pages[0].channel) == bytes([Channel.APNS]) * reader.connection.pages[0].n


async def test_stream_waits_for_room_and_never_sends_more_than_there_is(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    page = opened(world, 20)
    reader = Reader(nursery, Shared(world.home))
    end(world, page, list(range(15)))
    end(world, page, list(range(15, 20)))
    await trio.sleep(1)
    assert reader.connection.pages == []
    got = []
    for n in (1, 4, 7, 3, 100):
        reader.grant(n)
        await trio.sleep(1)
        got.append(len(reader.connection.rows()))
    assert got == [1, 5, 12, 15, 20]
    assert [row[0] for row in reader.connection.rows()] == ids_of(page, list(range(20)))


@pytest.mark.parametrize("cut", range(1, 12))
async def test_stream_that_goes_on_from_a_cursor_misses_and_repeats_nothing(
    cut: int, make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """The client is gone after so many rows, in the middle of a change or between two."""
    world = make_world()
    page = opened(world, 12)
    streams = Shared(world.home)
    start = streams.check_cursor(b"").encode()
    for rows in ([0, 1, 2], [3], [4, 5, 6, 7], [8, 9, 10, 11]):
        end(world, page, rows)
    first = Reader(nursery, streams, cursor=start)
    first.grant(cut)
    await trio.sleep(1)
    streams.all.closed(first.connection)
    await trio.sleep(1)
    assert first.has_ended
    second = Reader(nursery, streams, cursor=first.connection.pages[-1].cursor)
    second.grant(100)
    await trio.sleep(1)
    told = first.connection.rows() + second.connection.rows()
    assert [row[0] for row in told] == ids_of(page, list(range(12)))


async def test_stream_shows_an_app_its_own_rows_only(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    page = opened(world, 3)
    streams = Shared(world.home)
    own, foreign = Reader(nursery, streams), Reader(nursery, streams, app=1)
    own.grant(100)
    foreign.grant(100)
    end(world, page, [0, 1, 2])
    await trio.sleep(1)
    assert (len(own.connection.rows()), foreign.connection.pages) == (3, [])


async def test_stream_ends_when_its_client_cancels_or_is_gone(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    page = opened(world, 3)
    streams = Shared(world.home)
    cancelled, closed, deaf, other = (Reader(nursery, streams) for _ in range(4))
    await trio.sleep(1)
    streams.all.cancelled(cancelled.connection, 7)
    streams.all.cancelled(cancelled.connection, 7)
    streams.all.closed(closed.connection)
    deaf.connection.is_gone = True
    deaf.grant(10)
    other.grant(10)
    end(world, page, [0])
    await trio.sleep(1)
    assert [reader.has_ended for reader in (cancelled, closed, deaf, other)] == [True, True, True, False]
    assert len(other.connection.rows()) == 1


async def test_stream_that_falls_behind_the_ring_ends_with_its_reason(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world(change_rows_max=10)
    page = opened(world, 40)
    streams = Shared(world.home)
    reader = Reader(nursery, streams)
    await trio.sleep(1)
    old = streams.check_cursor(b"").encode()
    for row in range(30):
        end(world, page, [row])
    reader.grant(5)
    await trio.sleep(1)
    assert reader.error is not None
    assert reader.error.code == "cursor_expired"
    with pytest.raises(BadRequest) as refused:
        streams.check_cursor(old)
    assert refused.value.code == "cursor_expired"


@pytest.mark.parametrize("cursor", [b"x", b"y" * 100, Cursor(10**9, 0).encode()])
async def test_stream_refuses_a_cursor_that_is_not_one(cursor: bytes, make_world: Callable[..., Any]) -> None:
    streams = Shared(make_world().home)
    with pytest.raises(BadRequest):
        streams.check_cursor(cursor)


async def test_cursor_that_points_behind_the_rows_of_its_change_goes_on_with_the_next_change(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """A cursor is a client's bytes: whatever they say, its stream is the only one that may suffer."""
    world = make_world()
    page = opened(world, 6)
    streams = Shared(world.home)
    began = Cursor(streams.check_cursor(b"").position, (1 << 32) - 1)
    reader = Reader(nursery, streams, cursor=began.encode())
    reader.grant(2)
    end(world, page, [0, 1, 2])
    end(world, page, [3, 4, 5])
    await trio.sleep(1)
    assert [row[0] for row in reader.connection.rows()] == ids_of(page, [3, 4])


@given(data=st.data())
def test_take_rows_agrees_with_taking_them_one_by_one(data: st.DataObject) -> None:
    """The plain twin walks rows; the cursors of any sequence of takes lead through all rows of the app once."""

    class BatchTwin:
        def __init__(self, app: int) -> None:
            self.app = app

    changes = [
        Change(BatchTwin(app), np.arange(n, dtype=np.uint16), None, 0, None, np.zeros(n, np.uint8), number)  # type: ignore[arg-type]
        for number, (app, n) in enumerate(
            data.draw(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 6)), max_size=8))
        )
    ]
    first = data.draw(st.integers(0, 5))
    plain = [(change.at_unix_ms, row) for change in changes if change.batch.app == 0 for row in change.rows.tolist()]
    cursor, found = Cursor(first, 0), []
    for _ in range(100):
        rows_max = data.draw(st.integers(1, 7))
        rest = changes[cursor.position - first :]
        parts, after = take_rows(rest, cursor, 0, rows_max)
        taken = [
            (part.change.at_unix_ms, row) for part in parts for row in part.change.rows[part.first : part.stop].tolist()
        ]
        assert len(taken) <= rows_max
        found += taken
        assert after >= cursor
        cursor = after
        if cursor.position - first == len(changes):
            break
    assert found == plain
    assert cursor == Cursor(first + len(changes), 0)
