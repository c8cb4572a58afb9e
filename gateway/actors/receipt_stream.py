"""ReceiptStreams: `subscribe_receipts`. One task per stream walks the home's ring of changes and sends its app's rows.

A cursor is (position in the ring, rows of that change already sent); opaque to clients. The first page is empty and
says where the stream begins, so that a client that loses its connection before the next goes on there. A stream that
falls behind the ring ends with `cursor_expired`: the gateway does not keep changes for a client that does not read.

Waits for: the client's credit. Is waited for by: nobody.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import trio

from gateway.actors.rpc_listener import Caller
from gateway.actors.rpc_streams import Streams
from gateway.core.changes import Change
from gateway.core.home import Home
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import BadRequest

#: Changes looked at in one step; one is a burst or less.
CHANGES_MAX = 256
#: Rows in one frame: 41 bytes each.
_FRAME_ROWS_MAX = 16_384
#: How long changes are gathered before they go out; a receipt may be this much late.
_GATHER_S = 0.02
_CURSOR = struct.Struct("<QI")


class Cursor(NamedTuple):
    position: int
    offset: int

    def encode(self) -> bytes:
        return _CURSOR.pack(*self)


class ReceiptStreams:
    def __init__(self, home: Home, streams: Streams) -> None:
        self._home = home
        self._streams = streams

    def check_cursor(self, cursor: bytes) -> Cursor:
        """Where a stream begins; an empty cursor means from now on. Raises BadRequest."""
        if not cursor:
            return Cursor(self._home.next_cursor, 0)
        if len(cursor) != _CURSOR.size:
            raise BadRequest("cursor", "not a cursor of this gateway")
        found = Cursor(*_CURSOR.unpack(cursor))
        if found.position > self._home.next_cursor or self._home.changes(found.position, 0) is None:
            raise BadRequest("cursor", "the changes after this cursor are gone", code="cursor_expired")
        return found

    async def run(self, connection: Caller, message: messages.SubscribeReceipts, cursor: Cursor, app: int) -> None:
        """Sends changes until the client cancels or is gone. Raises BadRequest when it fell behind the ring."""
        with self._streams.open(connection, message.id) as bell:
            if not connection.answer(begun(message.id, cursor.encode())):
                return
            while True:
                credit = min(connection.session.stream_credit(message.id), _FRAME_ROWS_MAX)
                if not credit:
                    await bell.wait()
                    continue
                found = self._home.changes(cursor.position, CHANGES_MAX)
                if found is None:
                    raise BadRequest("cursor", "the changes after this cursor are gone", code="cursor_expired")
                parts, cursor = take_rows(found[0], cursor, app, credit)
                if parts and not connection.answer(encode_receipts(message.id, cursor, parts)):
                    return
                if found[0]:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.sleep(_GATHER_S)


class Part(NamedTuple):
    """Some rows of one change."""

    change: Change
    first: int
    stop: int


def take_rows(changes: Sequence[Change], cursor: Cursor, app: int, rows_max: int) -> tuple[list[Part], Cursor]:
    """The next rows of one app, at most rows_max, and the cursor after them."""
    parts: list[Part] = []
    position, offset = cursor
    for change in changes:
        n = len(change.rows)
        if change.batch.app == app:
            # The cursor is a client's bytes: it may point behind the rows.
            offset = min(offset, n)
            stop = min(n, offset + rows_max)
            if stop > offset:
                parts.append(Part(change, offset, stop))
            rows_max -= stop - offset
            if stop < n:
                return parts, Cursor(position, stop)
        position, offset = position + 1, 0
        if not rows_max:
            break
    return parts, Cursor(position, offset)


def begun(stream: int, cursor: bytes) -> messages.Receipts:
    """The first page of a stream: what changes from now on comes after it."""
    none = memoryview(b"")
    return messages.Receipts(
        id=stream,
        cursor=cursor,
        n=0,
        message_ids=none,
        device_ids=none,
        state=none,
        reason=none,
        receipt=none,
        channel=none,
        at_unix_ms=none,
    )


def encode_receipts(stream: int, cursor: Cursor, parts: Sequence[Part]) -> messages.Receipts:
    """One frame."""

    def column(values: list[Any], dtype: str) -> memoryview:
        return np.concatenate(values).astype(dtype, copy=False).view(np.uint8).reshape(-1).data

    rows = [change.rows[first:stop].astype(np.intp) for change, first, stop in parts]
    batches = [change.batch for change, _, _ in parts]
    counts = [len(part) for part in rows]
    return messages.Receipts(
        id=stream,
        cursor=cursor.encode(),
        n=sum(counts),
        message_ids=column([batch.message_ids[at] for batch, at in zip(batches, rows, strict=True)], "u1"),
        device_ids=column([batch.device_ids[at] for batch, at in zip(batches, rows, strict=True)], "u1"),
        state=column([_column(part.change.state, part) for part in parts], "u1"),
        reason=column([_column(part.change.reason, part) for part in parts], "u1"),
        receipt=column([_column(part.change.receipt, part) for part in parts], "u1"),
        channel=column([_column(part.change.channel, part) for part in parts], "u1"),
        at_unix_ms=column(
            [np.full(n, part.change.at_unix_ms, np.uint64) for n, part in zip(counts, parts, strict=True)], "<u8"
        ),
    )


def _column(values: Any, part: Part) -> Any:
    """A change's column, or its one value for all rows, for the rows of the part."""
    if isinstance(values, int):
        return np.full(part.stop - part.first, values, np.uint8)
    return values[part.first : part.stop]
