"""MergedReceipts: `subscribe_receipts` over all workers. One task per stream asks each for its changes, in turns.

A home keeps its changes in a ring of its own. A cursor of the merged stream is the cursors of all workers, each with
the life that it is of: 16 bytes per worker, opaque to clients. When a worker dies, the stream goes on with the others
and begins with its next life at that life's first change; a client that comes back with a cursor of a life that has
ended is told `cursor_expired`, as it is when a ring has passed it by: what came after is gone.

Waits for: the client's credit, answers of other workers. Is waited for by: nobody.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import msgspec
import trio

from gateway.actors.bell import Bell
from gateway.actors.receipt_stream import Cursor, encode_receipts, take_rows
from gateway.actors.rpc_listener import Caller
from gateway.actors.worker_links import Reply, WorkerGone, WorkerLinks
from gateway.core.home import Home
from gateway.core.shadow import Life
from gateway.errors import Overloaded
from gateway.wire.rpc import codec, messages
from gateway.wire.rpc.faults import BadRequest

#: Changes looked at in one step, and rows in one frame: as in a stream of one worker.
_CHANGES_MAX = 256
_FRAME_ROWS_MAX = 16_384
#: Between two rounds that brought nothing.
_GATHER_S = 0.02
_PLACE = struct.Struct("<IQI")


class Place(NamedTuple):
    """Where a stream is in the changes of one worker. incarnation 0: nowhere yet, it begins with what comes next."""

    incarnation: int = 0
    position: int = 0
    offset: int = 0


class Changes(msgspec.Struct, array_like=True):
    """The answer of one worker. frame: encoded `receipts`, empty where nothing came. is_expired: the ring has passed
    the place, or the place is of another life."""

    place: Place
    frame: bytes = b""
    is_expired: bool = False


class _Stream:
    def __init__(self) -> None:
        self.bell = Bell()
        self.scope = trio.CancelScope()


class MergedReceipts:
    """me: this life of this worker. workers: how many there are."""

    def __init__(self, home: Home, links: WorkerLinks, me: Life, workers: int) -> None:
        self._home = home
        self._links = links
        self._me = me
        self._workers = workers
        self._streams: dict[tuple[Any, int], _Stream] = {}
        links.answer_with("changes", self._on_ask)

    # -- streams of clients

    def credited(self, connection: Caller, stream: int) -> None:
        found = self._streams.get((connection, stream))
        if found is not None:
            found.bell.ring()

    def cancelled(self, connection: Caller, stream: int) -> None:
        found = self._streams.pop((connection, stream), None)
        if found is not None:
            found.scope.cancel()

    def closed(self, connection: Caller) -> None:
        for key in [key for key in self._streams if key[0] is connection]:
            self._streams.pop(key).scope.cancel()

    async def run(self, connection: Caller, message: messages.SubscribeReceipts, app: int) -> None:
        """Sends changes until the client cancels or is gone. Raises BadRequest for a cursor that leads nowhere."""
        places = self._read_cursor(message.cursor)
        stream = _Stream()
        self._streams[connection, message.id] = stream
        try:
            with stream.scope:
                # A stream from now on begins now, not with its first credit.
                await self._round(connection, message.id, places, app, 0, is_new=True)
                while True:
                    credit = min(connection.session.stream_credit(message.id), _FRAME_ROWS_MAX)
                    if not credit:
                        await stream.bell.wait()
                    elif not await self._round(connection, message.id, places, app, credit, is_new=False):
                        await trio.sleep(_GATHER_S)
        finally:
            self._streams.pop((connection, message.id), None)

    def _read_cursor(self, cursor: bytes) -> list[Place]:
        if not cursor:
            return [Place()] * self._workers
        if len(cursor) != _PLACE.size * self._workers:
            text = "not a cursor of this gateway, or of one with another number of workers"
            raise BadRequest("cursor", text, code="cursor_expired")
        return [Place(*fields) for fields in _PLACE.iter_unpack(cursor)]

    async def _round(
        self, connection: Caller, stream: int, places: list[Place], app: int, credit: int, *, is_new: bool
    ) -> bool:
        """Each worker's next changes are sent, and `places` moved on. True when there were any."""
        answers: dict[int, Changes] = {}
        # With less credit than workers, each gets its turn.
        first = sum(place.position for place in places) % self._workers
        order = [(first + step) % self._workers for step in range(self._workers)]
        shares = [credit // self._workers + (step < credit % self._workers) for step in range(self._workers)]

        async def ask(worker: int, rows_max: int) -> None:
            try:
                answers[worker] = await self._ask(worker, places[worker], app, rows_max)
            except (WorkerGone, Overloaded):
                return

        async with trio.open_nursery() as nursery:
            for worker, share in zip(order, shares, strict=True):
                if share or is_new:
                    nursery.start_soon(ask, worker, share)
        has_sent = False
        for worker in order:
            answer = answers.get(worker)
            if answer is None:
                continue
            if answer.is_expired:
                if is_new or answer.place.incarnation == places[worker].incarnation:
                    raise BadRequest("cursor", "the changes after this cursor are gone", code="cursor_expired")
                # Its next life: from its first change on.
                places[worker] = Place(answer.place.incarnation)
                has_sent = True
                continue
            places[worker] = answer.place
            if answer.frame:
                receipts = codec.decode_from_server(answer.frame)
                assert isinstance(receipts, messages.Receipts)
                cursor = b"".join(_PLACE.pack(*place) for place in places)
                connection.answer(msgspec.structs.replace(receipts, id=stream, cursor=cursor))
                has_sent = True
        return has_sent

    async def _ask(self, worker: int, place: Place, app: int, rows_max: int) -> Changes:
        if worker == self._me.worker:
            await trio.lowlevel.checkpoint()
            return self.changes(place, app, rows_max)
        body = await self._links.ask(worker, "changes", {"place": list(place), "app": app, "rows_max": rows_max})
        return msgspec.msgpack.decode(body, type=Changes)

    # -- what other workers ask

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        reply(msgspec.msgpack.encode(self.changes(Place(*head["place"]), head["app"], head["rows_max"])))

    def changes(self, place: Place, app: int, rows_max: int) -> Changes:
        """This worker's next changes of an app, at most rows_max rows."""
        mine = self._me.incarnation
        if place.incarnation == 0:
            return Changes(Place(mine, self._home.next_cursor, 0))
        found = self._home.changes(place.position, _CHANGES_MAX) if place.incarnation == mine else None
        if found is None or place.position > self._home.next_cursor:
            return Changes(Place(mine), is_expired=True)
        if not rows_max:
            return Changes(place)
        parts, cursor = take_rows(found[0], Cursor(place.position, place.offset), app, rows_max)
        frame = codec.encode(encode_receipts(1, cursor, parts)) if parts else b""
        return Changes(Place(mine, cursor.position, cursor.offset), frame)
