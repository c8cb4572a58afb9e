"""MergedPresence: `subscribe_presence` over all workers: each tells of the devices that it owns.

A device has one owner, so its changes come in their order. When a worker dies, its devices go offline without a word:
the stream ends with `cursor_expired`, as it does at a worker alone that is started again, and whoever follows presence
asks `device_status` for what he has to know and follows anew. A subscription that begins while a worker is down gets
everything of its next life, which begins with all of its devices offline.
"""

from __future__ import annotations

from gateway.actors.merged_streams import Changes, Place
from gateway.actors.presence_stream import LOOKED_AT_MAX, begun, encode_changes
from gateway.core.presence_log import PresenceLog
from gateway.wire.rpc import codec, messages


class PresenceSource:
    what = "presence"
    goes_on = False

    def __init__(self, log: PresenceLog) -> None:
        self._log = log

    @property
    def next_position(self) -> int:
        return self._log.next_position

    def read(self, place: Place, app: int, rows_max: int) -> Changes | None:
        found = self._log.read(place.position, app, rows_max, LOOKED_AT_MAX)
        if found is None:
            return None
        changes, position = found
        frame = codec.encode(encode_changes(1, b"", changes)) if len(changes.changes) else b""
        return Changes(Place(place.incarnation, position), frame)

    def begun(self, stream: int, cursor: bytes) -> messages.PresenceChanges:
        return begun(stream, cursor)
