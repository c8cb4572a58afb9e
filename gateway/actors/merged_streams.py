"""MergedStream: a stream of changes over all workers. One task per subscription asks each for its changes, in turns.

A worker keeps its changes in a ring of its own. A cursor of the merged stream is the cursors of all workers, each with
the life that it is of: 16 bytes per worker, opaque to clients. What the changes are, and whether a stream may go on
when a worker's life has ended, is its source's to say (`merged_receipts.py`, `merged_presence.py`).

The first page is empty and comes when the stream is in place at every worker: what changes afterwards comes, whoever
changes it. A worker that is down at that moment is followed from the first change of its next life.

Waits for: the client's credit, answers of other workers. Is waited for by: nobody.
"""

from __future__ import annotations

import functools
import struct
from typing import Any, NamedTuple, Protocol

import msgspec
import trio

from gateway.actors.rpc_listener import Caller
from gateway.actors.rpc_streams import Streams
from gateway.actors.worker_links import Reply, WorkerGone, WorkerLinks
from gateway.core.shadow import Life
from gateway.errors import Overloaded
from gateway.wire.rpc import codec, messages
from gateway.wire.rpc.faults import BadRequest

#: Rows in one frame: as in a stream of one worker.
_FRAME_ROWS_MAX = 16_384
#: Between two rounds that brought nothing.
_GATHER_S = 0.02
_PLACE = struct.Struct("<IQI")


class Place(NamedTuple):
    """Where a stream is in the changes of one worker. incarnation 0: nowhere yet, it begins with what comes next, or
    (offset not 0) with the first change of the life that is asked first."""

    incarnation: int = 0
    position: int = 0
    offset: int = 0


#: Of a worker that was down when the stream began.
_NEXT_LIFE = Place(0, 0, 1)


class Changes(msgspec.Struct, array_like=True):
    """The answer of one worker. frame: an encoded page, empty where nothing came. is_expired: the ring has passed the
    place, or the place is of another life."""

    place: Place
    frame: bytes = b""
    is_expired: bool = False


class Source(Protocol):
    """The changes of one worker.

    what: of its questions on the links. goes_on: whether a stream may go on with a worker's next life.
    """

    what: str
    goes_on: bool

    @property
    def next_position(self) -> int:
        """Where the next change will be."""
        ...

    def read(self, place: Place, app: int, rows_max: int) -> Changes | None:
        """The next changes of an app from a place of this life on; None where the ring has passed it by."""
        ...

    def begun(self, stream: int, cursor: bytes) -> messages.StreamPage:
        """The first page, which is empty."""
        ...


class MergedStream:
    """me: this life of this worker. workers: how many there are."""

    def __init__(self, source: Source, links: WorkerLinks, me: Life, workers: int) -> None:
        self._source = source
        self._links = links
        self._me = me
        self._workers = workers
        self._streams = Streams()
        links.answer_with(source.what, self._on_ask)
        self.credited = self._streams.credited
        self.cancelled = self._streams.cancelled
        self.closed = self._streams.closed

    # -- streams of clients

    async def run(
        self, connection: Caller, message: messages.SubscribeReceipts | messages.SubscribePresence, app: int
    ) -> None:
        """Sends changes until the client cancels or is gone. Raises BadRequest for a cursor that leads nowhere."""
        places = self._read_cursor(message.cursor)
        round_ = functools.partial(self._round, connection, message.id, places, app)
        with self._streams.open(connection, message.id) as bell:
            await round_(0, is_new=True)
            if not connection.answer(self._source.begun(message.id, _cursor(places))):
                return
            while True:
                credit = min(connection.session.stream_credit(message.id), _FRAME_ROWS_MAX)
                if not credit:
                    await bell.wait()
                elif not await round_(credit, is_new=False):
                    await trio.sleep(_GATHER_S)

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
                if places[worker] == Place():
                    places[worker] = _NEXT_LIFE
                continue
            if answer.is_expired:
                if is_new or not self._source.goes_on or answer.place.incarnation == places[worker].incarnation:
                    raise BadRequest("cursor", "the changes after this cursor are gone", code="cursor_expired")
                # Its next life: from its first change on.
                places[worker] = Place(answer.place.incarnation)
                has_sent = True
                continue
            places[worker] = answer.place
            if answer.frame:
                page: Any = codec.decode_from_server(answer.frame)
                connection.answer(msgspec.structs.replace(page, id=stream, cursor=_cursor(places)))
                has_sent = True
        return has_sent

    async def _ask(self, worker: int, place: Place, app: int, rows_max: int) -> Changes:
        if worker == self._me.worker:
            await trio.lowlevel.checkpoint()
            return self.changes(place, app, rows_max)
        head = {"place": list(place), "app": app, "rows_max": rows_max}
        body = await self._links.ask(worker, self._source.what, head)
        return msgspec.msgpack.decode(body, type=Changes)

    # -- what other workers ask

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        reply(msgspec.msgpack.encode(self.changes(Place(*head["place"]), head["app"], head["rows_max"])))

    def changes(self, place: Place, app: int, rows_max: int) -> Changes:
        """This worker's next changes of an app, at most rows_max rows."""
        mine, source = self._me.incarnation, self._source
        if place.incarnation == 0:
            return Changes(Place(mine, 0 if place == _NEXT_LIFE else source.next_position))
        found = None
        if place.incarnation == mine and place.position <= source.next_position:
            found = source.read(place, app, rows_max)
        if found is None:
            return Changes(Place(mine), is_expired=True)
        return found if rows_max else Changes(place)


def cursor_of_one(life: Life, workers: int, position: int, offset: int) -> bytes:
    """The cursor of a stream that goes on at that place of the worker's, and at the others with what comes next."""
    places = [Place()] * workers
    places[life.worker] = Place(life.incarnation, position, offset)
    return _cursor(places)


def _cursor(places: list[Place]) -> bytes:
    return b"".join(_PLACE.pack(*place) for place in places)
