"""The vendor port: what a vendor file gives the gateway, and the words both sides use.

A vendor file is pure translation (DESIGN.md section 7). It never sees rows. It turns one *variant* (content with
options) into a `RequestTemplate`: a request with named slots where rows differ. `core/render.py` fills the slots of
many rows at once into `Requests`, cutting texts to the vendor's `limits` on the way; a wire machine turns `Requests`
into bytes; the answers come back to `classify`.

    variant --template()--> RequestTemplate --core.render--> Requests --wire.h2--> bytes
                                                                 answer --classify()--> Answer (verdict.py)

A request may carry many rows (`BulkVendor`): one content for a list of tokens (`RequestTemplate.shared`), or a list of
different messages (`RequestTemplate.distinct`). The vendor says how one row stands in the list and how many fit; the
renderer joins the lists from columns; `judge` tells which rows of a request got another answer than the rest.

Slots stand in a template as NUL name NUL. NUL cannot occur by accident: JSON encoders escape it, and header values
that came from a caller are refused when they hold one.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from gateway.columns import I64, U8, Piece, Pieces, TextColumn
from gateway.content import Variant
from gateway.verdict import Answer

_NUL = b"\x00"

#: A vendor's Settings may have a field `http_version` of this type; those without one speak HTTP/2.
HttpVersion: TypeAlias = Literal["1.1", "2"]


def http_version(settings: object) -> HttpVersion:
    """The HTTP that a vendor with these Settings speaks."""
    version: HttpVersion = getattr(settings, "http_version", "2")
    return version


class Slot(NamedTuple):
    """A place in a template that differs per row (or per burst). Names:

    title, body       text of the row, JSON-escaped, cut to the limits
    token             the device token as registered
    message_id        36 characters, canonical UUID text
    expires_unix_s    10 digits: submit time + TTL
    expires_or_zero   the same, but 0 when the TTL is 0 (APNs: one attempt, not stored)
    ttl_left_s        decimal seconds left of the TTL, at least 0; ttl_left_s:MAX at most MAX
    ttl:UNIT:MIN:MAX  what is left of the TTL in UNIT (s, ms, or h rounded up), within MIN and MAX
    collapse_id       as the caller wrote it; escaped where it stands in JSON
    collapse_number   1 to 2^31 - 1: the collapse id itself where it is such a number, else a hash of it
    collapse_key8     8 characters of A-Za-z0-9_-: the collapse id itself where it is at most that, else a hash of it
    notify_number, notify_key8  the same; without a collapse id of the content, so that each content has its own
    now_unix_ms       13 digits, when the request was rendered; now_unix_s: 10 digits; now_utc: 2026-11-21T13:30:00Z
    authorization     the credential in force, the same for a whole burst
    var:NAME          the row's value of variable NAME, JSON-escaped

    and in requests of many rows:

    address           callback parameter of a request: of many rows gateway/burst_address.py, of one row its message id
    signature         what `BulkVendor.sign` makes of `signed`, in the body or in headers; signature:A:B: a part of it
    payload           a field of `signed`: the request's body as it is sent
    saved             what the answer to `BulkTemplate.save` named
    a RowList's name  the rows themselves

    In a body a value is escaped for a JSON string. `NAME|STEPS` says otherwise: the steps of gateway/escapes.py,
    innermost first; `title|f` is a plain form value, `title|jf` one inside JSON inside a form.
    """

    name: str

    @property
    def base(self) -> str:
        """The name without its steps."""
        return self.name.partition("|")[0]


TemplatePart: TypeAlias = bytes | Slot
TemplateParts: TypeAlias = tuple[TemplatePart, ...]
#: What a signature is made of, in the vendor's own order.
SignedFields: TypeAlias = tuple[TemplateParts, ...]


def slot_text(name: str) -> bytes:
    """The slot as it stands in template bytes."""
    return _NUL + name.encode() + _NUL


def slot_json(name: str) -> msgspec.Raw:
    """The slot as a JSON string value, for the structure a vendor file hands to `msgspec.json.encode`."""
    return msgspec.Raw(b'"' + slot_text(name) + b'"')


def parse_template(text: bytes) -> TemplateParts:
    """Template bytes -> constants and slots in turn; empty constants are left out.

    Raises ValueError for a slot without its closing NUL.
    """
    parts = text.split(_NUL)
    if len(parts) % 2 == 0:
        raise ValueError("a slot is not closed")
    out: list[TemplatePart] = []
    for index, part in enumerate(parts):
        if index % 2:
            out.append(Slot(part.decode()))
        elif part:
            out.append(part)
    return tuple(out)


class RowList(NamedTuple):
    """How rows stand in a request of many: each as `parts`, joined by `separator`, in the place of the slot `name`.

    steps: of gateway/escapes.py, for the whole list once it is joined.
    """

    name: str
    parts: TemplateParts
    separator: bytes
    steps: str = ""


class BulkTemplate(NamedTuple):
    """A request that carries many rows. Slots outside of the lists are the same for all of its rows.

    rows_max: rows of one request. signed: the fields that the slot `signature` is made of. save: a request that has to
    be answered first; its answer names what the slot `saved` stands for (two-step flows). It sends nothing to anybody
    by itself.
    """

    path: TemplateParts
    headers: tuple[tuple[bytes, TemplateParts], ...]
    body: TemplateParts
    lists: tuple[RowList, ...]
    rows_max: int
    signed: SignedFields = ()
    save: RequestTemplate | None = None


class RequestTemplate(NamedTuple):
    """One HTTP request of a vendor with slots. Header names are lower-case; pseudo headers are not among them.

    It carries one row; shared and distinct carry more, where the vendor has that: one content for all of them, or a
    content for each.
    """

    path: TemplateParts
    headers: tuple[tuple[bytes, TemplateParts], ...]
    body: TemplateParts
    signed: SignedFields = ()
    shared: BulkTemplate | None = None
    distinct: BulkTemplate | None = None


class Refusal(NamedTuple):
    """A variant that this vendor can never take. Field and text for the caller; no vendor sees it."""

    field: str
    text: str


class Bulk(NamedTuple):
    """What requests of many rows have beside their bytes.

    offsets: (n + 1,) int64; request i carries the rows offsets[i]..offsets[i + 1] of its burst. tokens: of all rows of
    the burst, to know them again in an answer. is_distinct: each row has its own content. first_number: of the first
    request, in its address. save: one request that goes first; `saved` stands as a slot in the others until then.
    save_once: which others it serves.
    """

    offsets: I64
    tokens: U8 | TextColumn
    is_distinct: bool
    first_number: int
    save: Requests | None = None
    save_once: SaveOnce | None = None


class SaveOnce(NamedTuple):
    """What a first step named serves later bursts with the same key, for so long."""

    key: Hashable
    valid_s: float


class Requests(NamedTuple):
    """n requests of one shape, as columns: what a burst hands to a connection.

    A header whose pieces are one constant is the same for all rows. method is POST, scheme https. bulk: None where each
    request carries one row.
    """

    n: int
    authority: bytes
    path: Pieces
    headers: tuple[tuple[bytes, Pieces], ...]
    body: Pieces
    bulk: Bulk | None = None


class FieldLimit(NamedTuple):
    """How long one text field may be. unit: `code_points`, `half_width` or `utf8_bytes`. has_mark: what is cut ends in
    the mark; not where a field takes only letters or digits."""

    unit: str
    max: int
    has_mark: bool = True


class TargetPace(NamedTuple):
    """A vendor may have one, as `target_pace`: so many messages to one target in any span of so many seconds."""

    messages: int
    span_s: float


class Limits(NamedTuple):
    """A vendor's limits on texts. `payload_bytes_max` bounds the rendered body (what else counts: vendor file).

    counts_token: whether the token is part of that. needs_texts: a title or body in its template must not be blank.
    variables: of what rows put into fields by themselves (slots `var:NAME`), by name.
    """

    payload_bytes_max: int
    title: FieldLimit | None = None
    body: FieldLimit | None = None
    counts_token: bool = True
    needs_texts: bool = False
    variables: tuple[tuple[str, FieldLimit], ...] = ()


class Vendor(Protocol):
    """One vendor, one credential. Instances are immutable; everything that changes (tokens, time) is an argument."""

    name: ClassVar[str]
    #: A rejected token holds up what else is on its connection: unproven ones are probed (core/probing.py).
    bad_tokens_stall: ClassVar[bool]

    def authority(self) -> tuple[str, int]:
        """Host and port requests go to."""
        ...

    def limits(self, variant: Variant) -> Limits: ...

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        """The request of one variant; `{{name}}` in its fields becomes a slot only with_variables.

        Deterministic and independent of the variant's title and body (they are slots), so that callers may keep it by
        the variant's other fields.
        """
        ...

    def check_token(self, token: str) -> str:
        """An empty string for a well-formed device token, else what is wrong with it (without quoting it).

        Never empty for a token with a space or a control character: tokens stand in paths, and over HTTP/1.1 such a
        one would make two requests of one.
        """
        ...

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        """What the answer means. Total: arbitrary bytes never raise.

        Over HTTP/1.1 it also judges a 200 that came with a body: many vendors tell errors there. Such a body may be cut
        off; what it then does not say must not count as accepted.
        """
        ...


class Names(enum.Enum):
    """Which rows a vendor's answer to a request of many names, once the request was taken. What an answer should have
    named and did not is uncertain: it may have been taken."""

    #: Those that were not taken; all others were.
    REFUSED = 0
    #: Every row, by its token.
    ALL_BY_TOKEN = 1
    #: Every row, in the order of the request: an answer of another length can be laid to none of them.
    ALL_IN_ORDER = 2
    #: Those that were not taken, by their place, and how many were.
    REFUSED_AND_COUNT = 3


class BulkAnswer(NamedTuple):
    """What an answer to a request of many rows means. rest: for the rows not named, and for the request. by_token,
    by_position: rows that got another answer, known by their token, or by their place in the request; with
    `Names.ALL_BY_TOKEN` also those that were taken. n_told: rows that the answer speaks of, where `Names` counts them.
    """

    rest: Answer
    by_token: Mapping[bytes, Answer] = {}
    by_position: Mapping[int, Answer] = {}
    n_told: int = 0


class BulkVendor(Vendor, Protocol):
    """A vendor some of whose requests carry many rows, are signed, or take two steps."""

    #: Told apart from others by this attribute: asking a protocol costs 30 us.
    is_bulk: ClassVar[bool]
    #: What it calls messages has to be remembered: its reports name nothing else, or are asked for by it.
    keeps_own_ids: ClassVar[bool]
    #: Of requests with one content for all rows, and with one for each.
    shared_names: ClassVar[Names]
    distinct_names: ClassVar[Names]

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        """What the answer to a request of many rows means. Total: arbitrary bytes never raise, and what a cut-off body
        does not say does not count as accepted."""
        ...

    def request_id(self, body: bytes) -> str:
        """The vendor's own name for the request, as its answer tells; "" where it tells none. Total."""
        ...

    def own_ids(self, body: bytes) -> Sequence[str]:
        """What the vendor calls the messages that this answer accepts, each at most 128 characters. Total."""
        ...

    def read_saved(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> str | Answer:
        """The name that the first step gave (letters, digits, `-`, `_`), or why there is none. Total."""
        ...

    def sign(self, fields: Sequence[Pieces], n: int) -> Piece:
        """The signatures of n requests, in characters that stand everywhere as they are. fields: those of `signed`, in
        its order."""
        ...
