"""Callbacks: which changes a service hears of. Over sockets: tests/end_to_end/test_callbacks.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import trio

from gateway.actors.callback_history import CallbackHistory
from gateway.actors.callbacks import Callbacks, CallbackSettings
from gateway.actors.merged_streams import Place, cursor_of_one
from gateway.clock import SystemClock
from gateway.core.callback_lines import Signer
from gateway.core.shadow import Life
from gateway.core.untold import untold
from gateway.ledger import Channel, Reason, State
from gateway.message_id import to_text


class Service(httpx.AsyncBaseTransport):
    """It takes everything."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b"ok"))

    def told(self) -> list[str]:
        return [json.loads(line)["msgid"] for one in self.requests for line in one.content.split(b"\n")]


class Unheard:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


async def test_ends_of_rows_while_a_journal_was_replayed_are_told_though_no_pages_outlive_the_process(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Nobody else would say that a row is uncertain, or that its time was over when the gateway was back."""
    world, service = make_world(), Service()
    page = world.open(world.register(3, Channel.NONE))
    ids = [to_text(page.batch.message_ids[row].tobytes()) for row in range(3)]
    world.home.move(page, np.array([0]), State.DROPPED, Reason.INBOX_FULL, trio.current_time())
    settings = CallbackSettings(
        app=0, url="http://service/", signer=Signer("shop", b"hush"), batch_rows_max=1, queue_rows_max=100,
        attempts_max=1, timeout_s=1.0, cursor_bytes=lambda one: cursor_of_one(Life(1, 7), 3, *one),
    )  # fmt: skip
    callbacks = Callbacks(
        settings,
        home=world.home,
        open_client=lambda: httpx.AsyncClient(transport=service),
        observer=Unheard(),
        random=lambda: 0.5,
    )
    nursery.start_soon(callbacks.run)
    await trio.sleep(1)
    world.home.move(page, np.array([1, 2]), State.DROPPED, Reason.INBOX_FULL, trio.current_time())
    await trio.sleep(1)
    assert service.told() == ids
    # Of the second change one row, and all of it: at this worker of three.
    last = [bytes.fromhex(one.headers["x-pushgw-cursor"]) for one in service.requests[1:]]
    places = [(Place(), Place(7, 1, 1), Place()), (Place(), Place(7, 2, 0), Place())]
    assert last == [b"".join(_packed(place) for place in three) for three in places]


class Told:
    """Up to when, as the archive keeps it."""

    def __init__(self) -> None:
        self.unix_ms: int | None = None

    async def told(self, app: int) -> int | None:
        return self.unix_ms

    async def tell(self, app: int, unix_ms: int) -> None:
        self.unix_ms = unix_ms


class SetClock(SystemClock):
    """A wall clock that can be set."""

    set_forward_ms = 0

    def unix_ms(self) -> int:
        return 1_800_000_000_000 + int(self.monotonic() * 1000) + self.set_forward_ms


async def test_a_wall_clock_that_is_set_forward_hides_nothing_of_older_batches_from_the_next_process(
    make_world: Callable[..., Any], autojump_clock: Any
) -> None:
    world, clock, archive = make_world(), SetClock(), Told()
    history = CallbackHistory(archive=archive, home=world.home, clock=clock, app=0)
    page = world.open(world.register(2, Channel.NONE))
    page.batch.born, page.batch.born_unix_ms = clock.monotonic(), clock.unix_ms()
    await trio.sleep(60)
    clock.set_forward_ms = 3_600_000
    world.home.move(page, np.array([0]), State.DROPPED, Reason.INBOX_FULL, clock.monotonic())
    await trio.sleep(60)
    await history.tell(history.now_unix_ms())
    await trio.sleep(60)
    world.home.move(page, np.array([1]), State.DROPPED, Reason.INBOX_FULL, clock.monotonic())
    assert archive.unix_ms is not None
    assert [change.rows.tolist() for change in untold(page, archive.unix_ms)] == [[1]]


def _packed(place: Place) -> bytes:
    widths = (4, 8, 4)
    return b"".join(value.to_bytes(width, "little") for value, width in zip(place, widths, strict=True))
