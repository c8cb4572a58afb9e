"""Header blocks -> fields (RFC 7541 section 6), with limits against bombs.

A peer may name a long table entry thousands of times in a small block; so the decoded size (RFC 9113 section 6.5.2:
names + values + 32 a field) is bounded while decoding, not after.
"""

from __future__ import annotations

from gateway.errors import RemoteProtocolError
from gateway.wire.hpack.codes import COMPRESSION_ERROR, ENHANCE_YOUR_CALM
from gateway.wire.hpack.huffman import huffman_decode
from gateway.wire.hpack.integer import decode_integer
from gateway.wire.hpack.tables import (
    ENTRY_OVERHEAD_BYTES,
    STATIC_COUNT,
    STATIC_TABLE,
    TABLE_BYTES_DEFAULT,
    DynamicTable,
    Field,
)


class Decoder:
    """One direction of one connection.

    After `decode`, `has_changed_table` says whether the block changed the table, and `has_used_table` whether it named
    a dynamic entry; a block that did neither decodes to the same fields for ever, one that only named entries as long
    as `generation` stays.
    """

    def __init__(self, *, table_bytes_max: int = TABLE_BYTES_DEFAULT, header_list_bytes_max: int) -> None:
        """table_bytes_max: what the peer may use before it has acknowledged our SETTINGS."""
        self._table = DynamicTable(table_bytes_max)
        self._table_limit = table_bytes_max
        self.header_list_bytes_max = header_list_bytes_max
        self.has_changed_table = False
        self.has_used_table = False

    @property
    def generation(self) -> int:
        return self._table.generation

    @property
    def table_bytes(self) -> int:
        return self._table.bytes_used

    def set_table_limit(self, bytes_max: int) -> None:
        """The peer has acknowledged SETTINGS_HEADER_TABLE_SIZE.

        When its table is larger than that, its next block must begin with a size update (RFC 7541 section 4.2).
        """
        self._table_limit = bytes_max

    def must_update_size(self) -> bool:
        return self._table.bytes_max > self._table_limit

    def decode(self, block: bytes) -> list[Field]:
        """The fields in order; values as sent.

        Raises RemoteProtocolError: COMPRESSION_ERROR for a malformed block, ENHANCE_YOUR_CALM for more than
        header_list_bytes_max. Either way the table is no longer in step and the connection must end.
        """
        fields: list[Field] = []
        self.has_used_table = False
        generation = self._table.generation
        at = self._read_size_updates(block)
        end = len(block)
        room = self.header_list_bytes_max
        while at < end:
            first = block[at]
            if first & 0x80:  # indexed field
                index, at = decode_integer(block, at, 7)
                field = self._lookup(index)
            elif first & 0x40:  # literal with incremental indexing
                field, at = self._read_literal(block, at, 6)
                self._table.insert(*field)
            elif first & 0x20:
                raise RemoteProtocolError("table size update after a field", wire_code=COMPRESSION_ERROR)
            else:  # literal without indexing, or never indexed
                field, at = self._read_literal(block, at, 4)
            room -= len(field[0]) + len(field[1]) + ENTRY_OVERHEAD_BYTES
            if room < 0:
                text = f"header list over {self.header_list_bytes_max} bytes"
                raise RemoteProtocolError(text, wire_code=ENHANCE_YOUR_CALM)
            fields.append(field)
        self.has_changed_table = self._table.generation != generation
        return fields

    def _read_size_updates(self, block: bytes) -> int:
        at = 0
        while at < len(block) and block[at] & 0xE0 == 0x20:
            size, at = decode_integer(block, at, 5)
            if size > self._table_limit:
                text = f"table size update to {size} bytes, limit {self._table_limit}"
                raise RemoteProtocolError(text, wire_code=COMPRESSION_ERROR)
            self._table.resize(size)
        if self.must_update_size():
            text = f"no table size update, though the limit is now {self._table_limit} bytes"
            raise RemoteProtocolError(text, wire_code=COMPRESSION_ERROR)
        return at

    def _lookup(self, index: int) -> Field:
        if 1 <= index <= STATIC_COUNT:
            return STATIC_TABLE[index - 1]
        self.has_used_table = True
        if STATIC_COUNT < index <= STATIC_COUNT + len(self._table):
            return self._table[index - STATIC_COUNT - 1]
        raise RemoteProtocolError(f"no table entry {index}", wire_code=COMPRESSION_ERROR)

    def _read_literal(self, block: bytes, at: int, prefix_bits: int) -> tuple[Field, int]:
        index, at = decode_integer(block, at, prefix_bits)
        if index:
            name = self._lookup(index)[0]
        else:
            name, at = self._read_string(block, at)
        value, at = self._read_string(block, at)
        return (name, value), at

    @staticmethod
    def _read_string(block: bytes, at: int) -> tuple[bytes, int]:
        is_huffman = at < len(block) and block[at] & 0x80
        length, at = decode_integer(block, at, 7)
        end = at + length
        if end > len(block):
            raise RemoteProtocolError("header block ends inside a string", wire_code=COMPRESSION_ERROR)
        text = block[at:end]
        return (huffman_decode(text) if is_huffman else text), end
