"""The static table (RFC 7541 Appendix A) and the dynamic table (sections 2.3.2 and 4)."""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

Field: TypeAlias = tuple[bytes, bytes]

#: Fields 1 to 61 in order; index 0 is not used.
STATIC_TABLE: tuple[Field, ...] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
STATIC_COUNT = len(STATIC_TABLE)
STATIC_FIELDS: dict[Field, int] = {field: index for index, field in enumerate(STATIC_TABLE, 1)}
#: The lowest index of each name.
STATIC_NAMES: dict[bytes, int] = {name: index for index, (name, _) in sorted(enumerate(STATIC_TABLE, 1), reverse=True)}
#: Section 4.1: what an entry costs beside its two strings.
ENTRY_OVERHEAD_BYTES = 32
#: RFC 9113 section 6.5.2: size of the dynamic table until SETTINGS say otherwise.
TABLE_BYTES_DEFAULT = 4096


def entry_bytes(name: bytes, value: bytes) -> int:
    return len(name) + len(value) + ENTRY_OVERHEAD_BYTES


class DynamicTable:
    """Fields in the order of insertion, the newest first; evicts the oldest to stay within `bytes_max`.

    generation: counts insertions, evictions and changes of size; whatever was derived from the table under another
    generation is void. An entry too large for a table that is empty changes nothing: a peer that may not use a table
    often says "with indexing" all the same.
    """

    __slots__ = ("_entries", "bytes_max", "bytes_used", "generation", "inserted")

    def __init__(self, bytes_max: int) -> None:
        self._entries: deque[Field] = deque()
        self.bytes_max = bytes_max
        self.bytes_used = 0
        self.generation = 0
        self.inserted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, position: int) -> Field:
        """The entry at a position; 0 is the newest. Raises IndexError."""
        return self._entries[position]

    def insert(self, name: bytes, value: bytes) -> list[Field]:
        """The field is the newest entry, or, being larger than the table, has emptied it. Returns what was evicted."""
        size = entry_bytes(name, value)
        evicted = self._shrink_to(self.bytes_max - size)
        if evicted or size <= self.bytes_max:
            self.generation += 1
        if size <= self.bytes_max:
            self._entries.appendleft((name, value))
            self.bytes_used += size
            self.inserted += 1
        return evicted

    def resize(self, bytes_max: int) -> list[Field]:
        """The table holds at most bytes_max from now on. Returns what was evicted."""
        self.bytes_max = bytes_max
        self.generation += 1
        return self._shrink_to(bytes_max)

    def _shrink_to(self, limit: int) -> list[Field]:
        evicted: list[Field] = []
        while self._entries and self.bytes_used > limit:
            field = self._entries.pop()
            self.bytes_used -= entry_bytes(*field)
            evicted.append(field)
        return evicted
