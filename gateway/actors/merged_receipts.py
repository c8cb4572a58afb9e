"""MergedReceipts: `subscribe_receipts` over all workers: what the homes of rows say became of them.

When a worker dies, the stream goes on with the others and begins with its next life at that life's first change: its
rows are told by whoever is their home then. A client that comes back with a cursor of a life that has ended is told
`cursor_expired`, as it is when a ring has passed it by: what came after is gone.
"""

from __future__ import annotations

from gateway.actors.merged_streams import Changes, Place
from gateway.actors.receipt_stream import CHANGES_MAX, Cursor, begun, encode_receipts, take_rows
from gateway.core.home import Home
from gateway.wire.rpc import codec, messages


class ReceiptSource:
    what = "changes"
    goes_on = True

    def __init__(self, home: Home) -> None:
        self._home = home

    @property
    def next_position(self) -> int:
        return self._home.next_cursor

    def read(self, place: Place, app: int, rows_max: int) -> Changes | None:
        found = self._home.changes(place.position, CHANGES_MAX)
        if found is None:
            return None
        parts, cursor = take_rows(found[0], Cursor(place.position, place.offset), app, rows_max)
        frame = codec.encode(encode_receipts(1, cursor, parts)) if parts else b""
        return Changes(Place(place.incarnation, cursor.position, cursor.offset), frame)

    def begun(self, stream: int, cursor: bytes) -> messages.Receipts:
        return begun(stream, cursor)
