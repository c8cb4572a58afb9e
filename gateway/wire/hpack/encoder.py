"""Fields -> header blocks (RFC 7541 section 6), as the representations a burst is put together from.

A burst's block is the same for all rows but for a few columns, so the caller asks for one representation at a time
and fills the columns in itself. `encode` does a whole block, for requests that go alone.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from gateway.wire.hpack.huffman import huffman_encode, huffman_length
from gateway.wire.hpack.integer import encode_integer
from gateway.wire.hpack.tables import (
    STATIC_COUNT,
    STATIC_FIELDS,
    STATIC_NAMES,
    TABLE_BYTES_DEFAULT,
    DynamicTable,
    Field,
    entry_bytes,
)


class Indexing(enum.Enum):
    """What the peer is told to do with a literal."""

    INDEXED = "indexed"
    NOT_INDEXED = "not_indexed"
    NEVER_INDEXED = "never_indexed"


#: Pattern bits of the three literals (sections 6.2.1 to 6.2.3).
_LITERAL_INDEXED = 0x40
_LITERAL = 0x00
_LITERAL_NEVER = 0x10


def string_literal(text: bytes, *, is_huffman_allowed: bool = True) -> bytes:
    """Length and text (section 5.2), Huffman-coded where that is shorter."""
    if is_huffman_allowed and huffman_length(text) < len(text):
        coded = huffman_encode(text)
        return encode_integer(len(coded), 7, 0x80) + coded
    return encode_integer(len(text), 7) + text


class Encoder:
    """One direction of one connection. `begin_block` comes first in each block, then the representations in order."""

    def __init__(self, *, table_bytes_max: int = TABLE_BYTES_DEFAULT) -> None:
        """table_bytes_max: our own ceiling; the peer's may be lower or higher. Until it says, it is the default."""
        self._own_max = table_bytes_max
        self._table = DynamicTable(TABLE_BYTES_DEFAULT)
        #: Field or name -> number of its insertion; index = STATIC_COUNT + inserted - number + 1.
        self._numbers: dict[Field, int] = {}
        self._name_numbers: dict[bytes, int] = {}
        self._pending_min: int | None = None
        self._pending: int | None = None
        self.set_peer_limit(TABLE_BYTES_DEFAULT)

    @property
    def generation(self) -> int:
        return self._table.generation

    @property
    def table_bytes(self) -> int:
        return self._table.bytes_used

    @property
    def table_bytes_max(self) -> int:
        """The size in force once the pending update is out."""
        return self._table.bytes_max

    def set_peer_limit(self, bytes_max: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE; the next block says what we make of it.

        The table shrinks at once. Of several changes between two blocks the smallest and the last are told
        (section 4.2).
        """
        size = min(bytes_max, self._own_max)
        if size == self._table.bytes_max and self._pending is None:
            return
        self._pending_min = size if self._pending_min is None else min(self._pending_min, size)
        self._pending = size
        self._forget(self._table.resize(size))

    def has_pending_update(self) -> bool:
        return self._pending is not None

    def begin_block(self) -> bytes:
        """Size updates that are due, or nothing."""
        if self._pending is None or self._pending_min is None:
            return b""
        out = b""
        if self._pending_min < self._pending:
            out = encode_integer(self._pending_min, 5, 0x20)
        out += encode_integer(self._pending, 5, 0x20)
        self._pending = self._pending_min = None
        return out

    def field_index(self, name: bytes, value: bytes) -> int:
        """The index of the field now, or 0. A later insertion moves it."""
        index = STATIC_FIELDS.get((name, value), 0)
        if index:
            return index
        number = self._numbers.get((name, value))
        return 0 if number is None else STATIC_COUNT + 1 + self._table.inserted - number

    def name_index(self, name: bytes) -> int:
        """An index whose name it is now, or 0."""
        index = STATIC_NAMES.get(name, 0)
        if index:
            return index
        number = self._name_numbers.get(name)
        return 0 if number is None else STATIC_COUNT + 1 + self._table.inserted - number

    def fits(self, name: bytes, value: bytes) -> bool:
        return entry_bytes(name, value) <= self._table.bytes_max

    @staticmethod
    def indexed(index: int) -> bytes:
        return encode_integer(index, 7, 0x80)

    def literal_head(self, name: bytes, indexing: Indexing = Indexing.NOT_INDEXED) -> bytes:
        """The representation up to the value's length: what columns of values are put behind.

        Not for INDEXED, which must know the value to keep the table in step.
        """
        flags = _LITERAL_NEVER if indexing is Indexing.NEVER_INDEXED else _LITERAL
        index = self.name_index(name)
        return encode_integer(index, 4, flags) + (b"" if index else string_literal(name))

    def insert(self, name: bytes, value: bytes, *, is_huffman_allowed: bool = True) -> bytes:
        """A literal with incremental indexing; the field is in our table and will be in the peer's."""
        index = self.name_index(name)
        out = encode_integer(index, 6, _LITERAL_INDEXED) + (b"" if index else string_literal(name))
        self._forget(self._table.insert(name, value))
        if self.fits(name, value):
            self._numbers[name, value] = self._table.inserted
            self._name_numbers[name] = self._table.inserted
        return out + string_literal(value, is_huffman_allowed=is_huffman_allowed)

    def field(self, name: bytes, value: bytes, indexing: Indexing) -> bytes:
        """The shortest representation of one field under the wish for indexing."""
        if indexing is not Indexing.NEVER_INDEXED:
            index = self.field_index(name, value)
            if index:
                return self.indexed(index)
        if indexing is Indexing.INDEXED and self.fits(name, value):
            return self.insert(name, value)
        return self.literal_head(name, indexing) + string_literal(value)

    def encode(self, fields: Iterable[tuple[bytes, bytes, Indexing]]) -> bytes:
        """A whole block."""
        return self.begin_block() + b"".join([self.field(*field) for field in fields])

    def _forget(self, evicted: list[Field]) -> None:
        """Evicted entries lose their index, unless the same field or name was inserted again later."""
        oldest = self._table.inserted - len(self._table) + 1
        for name, value in evicted:
            if self._numbers.get((name, value), oldest) < oldest:
                del self._numbers[name, value]
            if self._name_numbers.get(name, oldest) < oldest:
                del self._name_numbers[name]
