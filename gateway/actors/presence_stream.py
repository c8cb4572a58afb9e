"""PresenceStreams: `subscribe_presence`. One task per stream walks the ring of changes and sends its app's rows.

A cursor is (incarnation of the ring, position in it); opaque to clients. A stream that falls behind the ring, and a
cursor of a process that is gone, end with `cursor_expired`: whoever follows presence then asks `device_status` for what
it has to know, and follows anew.

Waits for: the client's credit. Is waited for by: nobody.
"""

from __future__ import annotations

import struct

import numpy as np
import trio

from gateway.actors.rpc_listener import Caller
from gateway.actors.rpc_streams import Streams
from gateway.core.presence_log import Changes, PresenceLog
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import BadRequest

#: Changes of all apps looked at in one step: some 0.1 ms.
LOOKED_AT_MAX = 16_384
#: Rows in one frame: 26 bytes each.
_FRAME_ROWS_MAX = 16_384
#: How long changes are gathered before they go out.
_GATHER_S = 0.05
_CURSOR = struct.Struct("<QQ")


class PresenceStreams:
    """incarnation: another one for each life of the ring, so that an old cursor is not taken for a new one."""

    def __init__(self, log: PresenceLog, incarnation: int, streams: Streams) -> None:
        self._log = log
        self._incarnation = incarnation
        self._streams = streams

    def check_cursor(self, cursor: bytes) -> int:
        """The position where a stream begins; an empty cursor means from now on. Raises BadRequest."""
        if not cursor:
            return self._log.next_position
        if len(cursor) != _CURSOR.size:
            raise BadRequest("cursor", "not a cursor of this gateway")
        incarnation, position = _CURSOR.unpack(cursor)
        is_held = self._log.first_position <= position <= self._log.next_position
        if incarnation != self._incarnation or not is_held:
            raise BadRequest("cursor", "the changes after this cursor are gone", code="cursor_expired")
        return int(position)

    async def run(self, connection: Caller, message: messages.SubscribePresence, position: int, app: int) -> None:
        """Sends changes until the client cancels or is gone. Raises BadRequest when it fell behind the ring."""
        with self._streams.open(connection, message.id) as bell:
            if not connection.answer(begun(message.id, self._cursor(position))):
                return
            while True:
                credit = min(connection.session.stream_credit(message.id), _FRAME_ROWS_MAX)
                if not credit:
                    await bell.wait()
                    continue
                found = self._log.read(position, app, credit, LOOKED_AT_MAX)
                if found is None:
                    raise BadRequest("cursor", "the changes after this cursor are gone", code="cursor_expired")
                changes, position = found
                if len(changes.changes):
                    page = encode_changes(message.id, self._cursor(position), changes)
                    if not connection.answer(page):
                        return
                if position < self._log.next_position:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.sleep(_GATHER_S)

    def _cursor(self, position: int) -> bytes:
        return _CURSOR.pack(self._incarnation, position)


def begun(stream: int, cursor: bytes) -> messages.PresenceChanges:
    """The first page of a stream, which is empty: what changes from now on comes after it."""
    none = memoryview(b"")
    return messages.PresenceChanges(
        id=stream, cursor=cursor, n=0, device_ids=none, change=none, state=none, at_unix_ms=none
    )


def encode_changes(stream: int, cursor: bytes, changes: Changes) -> messages.PresenceChanges:
    """One frame."""
    return messages.PresenceChanges(
        id=stream,
        cursor=cursor,
        n=len(changes.changes),
        device_ids=memoryview(changes.device_ids.tobytes()),
        change=memoryview(changes.changes.tobytes()),
        state=memoryview(changes.states.tobytes()),
        at_unix_ms=memoryview(np.ascontiguousarray(changes.at_unix_ms, "<u8").tobytes()),
    )
