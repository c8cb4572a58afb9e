"""Header blocks of answers -> response heads (RFC 9113 sections 8.1 and 8.3.2), memoized by block and by layout.

Two memos spare the decoding:

* by the block's bytes. The key is the block and the generation of the decoder's table; a block that names no dynamic
  entry is good for every generation, one that changes the table is never kept;
* by layout (hpack/layout.py), for blocks that differ in values nobody asked for (`apns-id`, a request id). Blocks of
  one *skeleton* have the same fields but for such values; which of them really differ is learned from the blocks that
  were decoded. Layouts are good for one generation.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

import numpy as np

from gateway.columns import I64
from gateway.wire.h2.events import AnswerDetail
from gateway.wire.hpack.decoder import Decoder
from gateway.wire.hpack.huffman import FORBIDDEN_IN_VALUES
from gateway.wire.hpack.layout import DECODED_BYTES_MAX, MARGIN_BYTES, Layout, short_literals
from gateway.wire.hpack.tables import ENTRY_OVERHEAD_BYTES, Field

#: Blocks remembered; a server under load sends a handful, of at most a few hundred bytes.
_MEMO_BLOCKS_MAX = 256
_MEMO_BLOCK_BYTES_MAX = 1024
#: Layouts tried on a block, the newest first: one per status that occurs, and each try costs.
_LAYOUTS_MAX = 8
_SKELETONS_MAX = 64
_ANY_GENERATION = -1
_MARGIN = bytes(MARGIN_BYTES)

#: Section 8.2.2: fields that speak of the connection have no place in HTTP/2.
_CONNECTION_HEADERS = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
#: Section 8.2.1: what no field name holds; the colon only begins pseudo headers.
_NOT_IN_NAMES = bytes([*range(0x21), ord(":"), *range(0x41, 0x5B), *range(0x7F, 0x100)])
_OK = 200


class HeadKind(enum.Enum):
    FINAL = "final"
    INFORMATIONAL = "informational"
    #: No pseudo header: trailers, if a final head went before.
    TRAILERS = "trailers"
    MALFORMED = "malformed"


class Head:
    """A response head. May be shared by many answers; never changed.

    headers: what an answer with this head reports. content_length: -1 when not said. bare_detail: the detail of an
    answer without a body, None for a bare 200.
    """

    __slots__ = ("bare_detail", "content_length", "headers", "kind", "status")

    def __init__(self, kind: HeadKind, status: int, headers: dict[bytes, bytes], content_length: int) -> None:
        self.kind: Final = kind
        self.status: Final = status
        self.headers: Final = headers
        self.content_length: Final = content_length
        is_bare = status == _OK and not headers
        self.bare_detail: Final = None if is_bare else AnswerDetail(headers, b"")


_MALFORMED = Head(HeadKind.MALFORMED, 0, {}, -1)


class Reported(NamedTuple):
    """Which headers an answer reports: of a 200 those in `kept`, of others all but those in `ignored`."""

    kept: frozenset[bytes]
    ignored: frozenset[bytes]

    def has(self, name: bytes, status: int) -> bool:
        return name in self.kept or (status != _OK and name not in self.ignored)


def parse_head(fields: list[Field], reported: Reported) -> Head:
    """What the fields are. Total: what is malformed is said by the kind. Repeated fields are joined by a comma."""
    status = -1
    content_length = -1
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] == b":":
            is_first = name == b":status" and status < 0 and not headers
            if not is_first or len(value) != 3 or not value.isdigit():
                return _MALFORMED
            status = int(value)
            continue
        if not name or name in _CONNECTION_HEADERS or len(name.translate(None, _NOT_IN_NAMES)) != len(name):
            return _MALFORMED
        if len(value.translate(None, FORBIDDEN_IN_VALUES)) != len(value):
            return _MALFORMED
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18 or content_length not in {-1, int(value)}:
                return _MALFORMED
            content_length = int(value)
        headers[name] = headers[name] + b", " + value if name in headers else value
    if status < 0:
        return Head(HeadKind.TRAILERS, 0, {}, -1)
    if status < 100 or status == 101:  # 101 is gone in HTTP/2 (section 8.6)
        return _MALFORMED
    if status < 200:
        return Head(HeadKind.INFORMATIONAL, status, {}, -1)
    headers = {name: value for name, value in headers.items() if reported.has(name, status)}
    if status in {204, 304}:
        content_length = -1  # says what another answer would have had (RFC 9110 section 8.6)
    return Head(HeadKind.FINAL, status, headers, content_length)


class _Skeleton:
    """What is known of the blocks with the same fields but for values nobody asked for. values: of the first block.
    varying: the fields whose values were seen to differ. layout: the one in which these vary, once there are any."""

    __slots__ = ("layout", "values", "varying")

    def __init__(self, values: dict[int, bytes]) -> None:
        self.values = values
        self.varying: frozenset[int] = frozenset()
        self.layout: Layout | None = None


class HeadDecoder:
    """The decoder with its memos. `is_pure`: the last block left the table as it was, so an equal block right behind
    it means the same."""

    def __init__(self, decoder: Decoder, reported: Reported) -> None:
        self.decoder = decoder
        self._reported = reported
        self._memo: dict[bytes, tuple[int, Head]] = {}
        #: Newest first.
        self._layouts: list[tuple[Layout, Head]] = []
        self._skeletons: dict[Layout, _Skeleton] = {}
        self._learned_generation = decoder.generation
        #: The last block that a layout was found for, with what was found.
        self._last: tuple[bytes, tuple[Layout, Head]] | None = None
        self.is_pure = True
        self.decoded_count = 0

    def head(self, block: bytes) -> Head:
        """Raises RemoteProtocolError as `Decoder.decode`."""
        if not self.decoder.must_update_size():
            known = self._memo.get(block)
            if known is not None and known[0] in {_ANY_GENERATION, self.decoder.generation}:
                self.is_pure = True
                return known[1]
            found = self._find_layout(block)
            if found is not None:
                self.is_pure = True
                return found[1]
        fields = self.decoder.decode(block)
        head = parse_head(fields, self._reported)
        self.decoded_count += 1
        self.is_pure = not self.decoder.has_changed_table
        if self.is_pure and len(block) <= _MEMO_BLOCK_BYTES_MAX and not self._learn(block, fields, head):
            if len(self._memo) >= _MEMO_BLOCKS_MAX:
                self._memo.clear()
            generation = self.decoder.generation if self.decoder.has_used_table else _ANY_GENERATION
            self._memo[block] = (generation, head)
        return head

    def heads_alike(self, buffer: bytes, starts: I64, ends: I64) -> tuple[Head, int] | None:
        """(a head, how many blocks from the first have it), found without decoding; None when the first block has to
        be decoded. Block i is buffer[starts[i]:ends[i]]."""
        if self.decoder.must_update_size():
            return None
        first = buffer[int(starts[0]) : int(ends[0])]
        found = self._find_layout(first)
        if found is None:
            known = self._memo.get(first)
            if known is None or known[0] not in {_ANY_GENERATION, self.decoder.generation}:
                return None
            found = Layout((first,), ()), known[1]
        layout, head = found
        base = int(starts[0])
        data = np.frombuffer(buffer[base : int(ends[-1])] + _MARGIN, np.uint8)
        return head, layout.matching_rows(data, starts - base, ends - base)

    def _find_layout(self, block: bytes) -> tuple[Layout, Head] | None:
        if self._learned_generation != self.decoder.generation:
            self._forget_layouts()
        if self._last is not None and self._last[0] == block:
            return self._last[1]
        for found in self._layouts:
            if found[0].matches(block):
                self._last = block, found
                return found
        return None

    def _forget_layouts(self) -> None:
        self._layouts.clear()
        self._last = None
        self._skeletons.clear()
        self._learned_generation = self.decoder.generation

    def _learn(self, block: bytes, fields: list[Field], head: Head) -> bool:
        """Takes a block into account that left the table as it was; True when a layout stands for it from now on."""
        if head.kind is not HeadKind.FINAL or block[0] & 0xE0 == 0x20:
            return False
        if self._learned_generation != self.decoder.generation:
            self._forget_layouts()
        free = [literal for literal in short_literals(block) if self._may_vary(fields[literal.field][0], head.status)]
        size = sum(len(name) + len(value) + ENTRY_OVERHEAD_BYTES for name, value in fields)
        if not free or size + len(free) * DECODED_BYTES_MAX > self.decoder.header_list_bytes_max:
            return False
        key = Layout.of(block, free)
        values = {literal.field: block[literal.start : literal.end] for literal in free}
        skeleton = self._skeletons.get(key)
        if skeleton is None:
            if len(self._skeletons) >= _SKELETONS_MAX:
                self._skeletons.clear()
            self._skeletons[key] = _Skeleton(values)
            return False
        skeleton.varying |= {field for field, value in values.items() if value != skeleton.values[field]}
        if not skeleton.varying:
            return False
        layout = Layout.of(block, [literal for literal in free if literal.field in skeleton.varying])
        # The newest goes first; what it takes the place of goes out.
        kept = [known for known in self._layouts if known[0] is not skeleton.layout]
        self._layouts = [(layout, head), *kept[: _LAYOUTS_MAX - 1]]
        skeleton.layout = layout
        return True

    def _may_vary(self, name: bytes, status: int) -> bool:
        return name[:1] != b":" and name != b"content-length" and not self._reported.has(name, status)
