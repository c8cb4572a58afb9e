"""Response heads (RFC 9112 sections 4 and 5): status, framing, whether the connection lives on.

Strict where a lenient reader and a strict one would disagree about where a message ends (RFC 9112 section 11.2): CRLF
only, no space before a colon, one Content-Length, no transfer coding but chunked, since we offer no other.

Heads are remembered by their bytes: a server under load sends the same head for a second, until Date moves on.
"""

from __future__ import annotations

import enum
import math
import re
from typing import Final, NamedTuple

from gateway.errors import RemoteProtocolError

#: A second of Date headers times the answers a vendor has.
_MEMO_HEADS_MAX = 256
_MEMO_HEAD_BYTES_MAX = 2048
_OK = 200

_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00\r\n]*)")
#: A folded line (RFC 9112 section 5.2): a user agent reads the fold as spaces.
_FOLD = re.compile(rb"\r\n[ \t]+")
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[,\s])timeout=\"?([0-9]{1,6})")
_LENGTH_DIGITS_MAX = 18


class Framing(enum.Enum):
    """Where the body ends (RFC 9112 section 6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until_close"


class Head:
    """A response head. May be shared by many answers; never changed.

    headers: what an answer with this head reports. length: of the body where framing is LENGTH. keeps_alive: another
    request may follow. idle_s: for how long the server says it keeps the connection; infinite when it does not say.
    """

    __slots__ = ("framing", "headers", "idle_s", "keeps_alive", "length", "status")

    def __init__(
        self,
        status: int,
        headers: dict[bytes, bytes],
        framing: Framing,
        length: int,
        *,
        keeps_alive: bool,
        idle_s: float = math.inf,
    ) -> None:
        self.status: Final = status
        self.headers: Final = headers
        self.framing: Final = framing
        self.length: Final = length
        self.keeps_alive: Final = keeps_alive
        self.idle_s: Final = idle_s

    @property
    def is_interim(self) -> bool:
        return self.status < 200


class Reported(NamedTuple):
    """Which headers an answer reports: of a 200 those in `kept`, of others all but those in `ignored`."""

    kept: frozenset[bytes]
    ignored: frozenset[bytes]

    def of(self, status: int, headers: dict[bytes, bytes]) -> dict[bytes, bytes]:
        if status == _OK:
            return {name: value for name, value in headers.items() if name in self.kept}
        return {name: value for name, value in headers.items() if name not in self.ignored}


class HeadReader:
    """Heads with their memo; one for all connections of a bundle."""

    __slots__ = ("_memo", "_reported", "parsed_count")

    def __init__(self, reported: Reported) -> None:
        self._reported = reported
        self._memo: dict[bytes, Head] = {}
        self.parsed_count = 0

    def head(self, block: bytes) -> Head:
        """block: the head without its empty line. Raises RemoteProtocolError for what is not one."""
        known = self._memo.get(block)
        if known is not None:
            return known
        self.parsed_count += 1
        head = parse_head(block, self._reported)
        if len(block) <= _MEMO_HEAD_BYTES_MAX:
            if len(self._memo) >= _MEMO_HEADS_MAX:
                self._memo.clear()
            self._memo[block] = head
        return head


def parse_head(block: bytes, reported: Reported) -> Head:
    """What the head says. Raises RemoteProtocolError, and nothing else, for arbitrary bytes."""
    line, _, rest = block.partition(b"\r\n")
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise RemoteProtocolError(f"status line is {line[:64]!r}")
    minor, status = int(match[1]), int(match[2])
    if status == 101:
        raise RemoteProtocolError("status is 101, but no upgrade was asked for")
    headers = _fields(rest)
    framing, length = _framing(status, minor, headers)
    if status < 200:
        return Head(status, {}, Framing.NONE, 0, keeps_alive=True)
    options = _list(headers.get(b"connection", b""))
    keeps_alive = b"close" not in options and (minor >= 1 or b"keep-alive" in options)
    if framing is Framing.UNTIL_CLOSE or (framing is Framing.CHUNKED and b"content-length" in headers):
        keeps_alive = False  # with both, somebody on the way may have read another end (RFC 9112 section 6.1)
    return Head(status, reported.of(status, headers), framing, length, keeps_alive=keeps_alive, idle_s=_idle_s(headers))


def parse_trailers(block: bytes) -> None:
    """Trailers are read and dropped. Raises RemoteProtocolError for what is none."""
    _fields(block)


def _fields(block: bytes) -> dict[bytes, bytes]:
    """Names in lower case; repeated fields are joined by a comma."""
    headers: dict[bytes, bytes] = {}
    if not block:
        return headers
    if block[:1] in b" \t":
        raise RemoteProtocolError("white space before the first field")
    if b"\r\n " in block or b"\r\n\t" in block:
        block = _FOLD.sub(b" ", block)
    for line in block.split(b"\r\n"):
        match = _FIELD.fullmatch(line)
        if match is None:
            raise RemoteProtocolError(f"field line is {line[:64]!r}")
        name, value = match[1].lower(), match[2].strip(b" \t")
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _framing(status: int, minor: int, headers: dict[bytes, bytes]) -> tuple[Framing, int]:
    """How the body ends, and its length. The order is that of RFC 9112 section 6.3."""
    codings, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    size = -1 if length is None else _content_length(length)
    if codings is not None and (minor == 0 or codings.lower() != b"chunked"):
        raise RemoteProtocolError(f"transfer-encoding is {codings[:64]!r} in HTTP/1.{minor}, we take chunked")
    if status < 200 or status in {204, 304}:
        return Framing.NONE, 0
    if codings is not None:
        return Framing.CHUNKED, 0
    if size >= 0:
        return (Framing.LENGTH if size else Framing.NONE), size
    return Framing.UNTIL_CLOSE, 0


def _content_length(value: bytes) -> int:
    """A list of equal numbers counts as one of them (RFC 9110 section 8.6)."""
    numbers = {each.strip(b" \t") for each in value.split(b",")}
    first = numbers.pop()
    if numbers or not first.isdigit() or len(first) > _LENGTH_DIGITS_MAX:
        raise RemoteProtocolError(f"content-length is {value[:64]!r}")
    return int(first)


def _list(value: bytes) -> set[bytes]:
    return {each.strip(b" \t").lower() for each in value.split(b",")} if value else set()


def _idle_s(headers: dict[bytes, bytes]) -> float:
    match = _KEEP_ALIVE_TIMEOUT.search(headers.get(b"keep-alive", b"").lower())
    return math.inf if match is None else float(match[1])
