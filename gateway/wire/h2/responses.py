"""Header blocks of answers -> response heads (RFC 9113 sections 8.1 and 8.3.2), memoized by the block's bytes.

The memo's key is the block and the generation of the decoder's table; a block that names no dynamic entry is good for
every generation, one that changes the table is never kept.
"""

from __future__ import annotations

import enum
from typing import Final

from gateway.wire.h2.events import AnswerDetail
from gateway.wire.hpack.decoder import Decoder
from gateway.wire.hpack.tables import Field

#: Blocks remembered; a server under load sends a handful, of at most a few hundred bytes.
_MEMO_BLOCKS_MAX = 256
_MEMO_BLOCK_BYTES_MAX = 1024
_ANY_GENERATION = -1

#: Section 8.2.2: fields that speak of the connection have no place in HTTP/2.
_CONNECTION_HEADERS = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_UPPER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_OK = 200


class HeadKind(enum.Enum):
    FINAL = "final"
    INFORMATIONAL = "informational"
    #: No pseudo header: trailers, if a final head went before.
    TRAILERS = "trailers"
    MALFORMED = "malformed"


class Head:
    """A response head. May be shared by many answers; never changed.

    headers: what an answer with this head reports; of a 200 only what was asked for. content_length: -1 when not said.
    bare_detail: the detail of an answer without a body, None for a bare 200.
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


def parse_head(fields: list[Field], keep_headers: frozenset[bytes]) -> Head:
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
        if not name or name in _CONNECTION_HEADERS or not _UPPER.isdisjoint(name):
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
    if status == _OK:
        headers = {name: value for name, value in headers.items() if name in keep_headers}
    if status in {204, 304}:
        content_length = -1  # says what another answer would have had (RFC 9110 section 8.6)
    return Head(HeadKind.FINAL, status, headers, content_length)


class HeadDecoder:
    """The decoder with its memo. `is_pure`: the last block left the table as it was, so an equal block right behind it
    means the same."""

    def __init__(self, decoder: Decoder, keep_headers: frozenset[bytes]) -> None:
        self.decoder = decoder
        self._keep_headers = keep_headers
        self._memo: dict[bytes, tuple[int, Head]] = {}
        self.is_pure = True
        self.decoded_count = 0

    def head(self, block: bytes) -> Head:
        """Raises RemoteProtocolError as `Decoder.decode`."""
        known = self._memo.get(block)
        if (
            known is not None
            and known[0] in {_ANY_GENERATION, self.decoder.generation}
            and not self.decoder.must_update_size()
        ):
            self.is_pure = True
            return known[1]
        head = parse_head(self.decoder.decode(block), self._keep_headers)
        self.decoded_count += 1
        self.is_pure = not self.decoder.has_changed_table
        if self.is_pure and len(block) <= _MEMO_BLOCK_BYTES_MAX:
            if len(self._memo) >= _MEMO_BLOCKS_MAX:
                self._memo.clear()
            generation = self.decoder.generation if self.decoder.has_used_table else _ANY_GENERATION
            self._memo[block] = (generation, head)
        return head
