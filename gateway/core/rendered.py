"""What rendering yields, and the parts its three ways share (core/render.py tells the whole)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from gateway.columns import U8, Bool, Piece, Pieces, Rows, TextColumn, fill, join
from gateway.content import Variant
from gateway.core.burst import Burst
from gateway.core.compiled import PAYLOAD, Compiled, CompiledBulk
from gateway.core.fit import Fitted, Room, TooLong, fit
from gateway.core.truncate import MARK
from gateway.escapes import escape, escape_token
from gateway.ledger import Reason
from gateway.vendor import Refusal, Requests, Slot, TemplateParts

_PAYLOAD: TemplateParts = (Slot(PAYLOAD),)
#: (k, L) uint8 where all tokens have one length, else a column of k rows.
Tokens: TypeAlias = U8 | TextColumn


class TokenGroup(NamedTuple):
    """positions: (k,) into the rows of the call. tokens: k of them, in that order."""

    positions: Rows
    tokens: Tokens


class RenderedGroup(NamedTuple):
    """positions: (n,) into the rows of the call, the order of the requests. truncated: (n,) bool, a text was cut."""

    positions: Rows
    requests: Requests
    truncated: Bool


class RefusedRows(NamedTuple):
    """Rows this channel cannot take, with the reason for their ledger page, and field and text for the caller."""

    positions: Rows
    reason: Reason
    field: str
    text: str


class TextCut(NamedTuple):
    """A text that was cut: which, and how many code points it had and has."""

    field: str
    before: int
    after: int


class Rendered(NamedTuple):
    """cuts: what was cut, where somebody asked for it (`Renderer.render(reports_cuts=True)`); an object each."""

    groups: list[RenderedGroup]
    refused: list[RefusedRows]
    cuts: list[TextCut] | None = None


class PayloadGroup(NamedTuple):
    """Payloads of the long link: n rows of `payload`, one per position."""

    positions: Rows
    payload: Pieces
    truncated: Bool


class RenderedPayloads(NamedTuple):
    groups: list[PayloadGroup]
    refused: list[RefusedRows]


class CutRule(NamedTuple):
    """mark: what ends a text that was cut. may_cut: False refuses over-long rows instead (content_too_long)."""

    mark: str = MARK
    may_cut: bool = True


class Numbering(NamedTuple):
    """How requests of many rows are numbered. take(count): the first of so many numbers; texts(first, count): their
    addresses, (count, 46) uint8."""

    take: Callable[[int], int]
    texts: Callable[[int, int], U8]


#: `BulkVendor.sign`.
Sign: TypeAlias = Callable[[Sequence[Pieces], int], Piece]


class Group(NamedTuple):
    """Rows of one burst on their way through. tokens: None where there are none (long link). out: the burst's.

    sign: the vendor's, where it signs; numbering: where its requests may carry many rows.
    """

    burst: Burst
    rule: CutRule
    authority: bytes
    positions: Rows
    tokens: Tokens | None
    out: Rendered
    sign: Sign | None = None
    numbering: Numbering | None = None

    def take(self, chosen: Rows) -> Group:
        """The group of the rows at these indexes of this group."""
        tokens = self.tokens
        if isinstance(tokens, TextColumn):
            tokens = tokens.take(chosen)
        elif tokens is not None:
            tokens = tokens.take(chosen, axis=0)
        return self._replace(positions=self.positions[chosen], tokens=tokens)

    def refuse(self, reason: Reason, why: Refusal | TooLong) -> None:
        """All rows of the group are refused."""
        self.out.refused.append(RefusedRows(self.positions, reason, why.field, why.text))

    def blank(self, variant: Variant, template: Compiled, title: str, body: str) -> Refusal | None:
        """Why the vendor would refuse texts that say nothing, where it does."""
        source = self.burst.source
        if source.limits(variant).needs_texts:
            for field, count, text in (("title", template.n_title, title), ("body", template.n_body, body)):
                if count and not text.strip():
                    return Refusal(field, f"{field} is empty ({source.name})")
        return None

    def fit(self, variant: Variant, template: Compiled, title: str, body: str, overhead_bytes: int) -> Fitted | TooLong:
        """The texts, cut to the vendor's limits. overhead_bytes: the body without them."""
        burst = self.burst
        room = Room(burst.source.limits(variant), overhead_bytes, template.n_title, template.n_body)
        fitted = fit(title, body, room, mark=self.rule.mark, may_cut=self.rule.may_cut, channel=burst.source.name)
        if self.out.cuts is not None and isinstance(fitted, Fitted):
            texts = (("title", title, fitted.title_text), ("body", body, fitted.body_text))
            self.out.cuts.extend(TextCut(field, len(was), len(now)) for field, was, now in texts if was != now)
        return fitted

    def row_pieces(self, names: Iterable[str] = ()) -> dict[str, Pieces]:
        """The slots that are columns in every group, as they stand in a body: what ids share is a constant there.

        names: those with steps of their own that are wanted, too.
        """
        rests = self.burst.id_rests
        n = len(self.positions)
        # Most bursts are one group of all rows in order: no copy then.
        if n != len(rests) or np.count_nonzero(self.positions != np.arange(n)):
            rests = rests.take(self.positions, axis=0)
        ids: Pieces = (self.burst.id_start, rests)
        # For requests of one row the message id is the address.
        pieces: dict[str, Pieces] = {"message_id": ids, "address": ids}
        tokens: Piece | None = self.tokens
        if isinstance(tokens, TextColumn):
            fixed = tokens.fixed()
            tokens = tokens if fixed is None else fixed
        if tokens is not None:
            pieces["token"] = (tokens,)
        for name in names:
            base, _, chain = name.partition("|")
            if name not in pieces:
                # An id has no character that any step would change.
                pieces[name] = ids if base != "token" or tokens is None else (escape_token(tokens, chain),)
        return pieces

    def add(self, template: Compiled, slots: Mapping[str, Pieces], body: Pieces, truncated: Bool) -> None:
        """The group's requests: path and headers from the slots, the body as given."""
        if template.has_id_in_head:
            # One column there: a header block whose constants changed with each batch would be planned with each batch.
            slots = {**slots, "message_id": (fill(slots["message_id"], 0, len(self.positions)),)}
        headers = tuple((name, pieces_of(value, slots)) for name, value in template.headers)
        requests = Requests(len(self.positions), self.authority, pieces_of(template.path, slots), headers, body)
        self.out.groups.append(RenderedGroup(self.positions, requests, truncated))

    def signed_body(self, template: Compiled | CompiledBulk, slots: dict[str, Pieces], n: int) -> Pieces:
        """The bodies of n requests; their signatures, where the vendor signs, in `slots`.

        A body that is signed is joined here, once: a digest is one call for each row anyway.
        """
        if not template.signed:
            return pieces_of(template.body, slots)
        body: Pieces = ()
        if any(field == _PAYLOAD for field in template.signed):
            body = slots[PAYLOAD] = (TextColumn.from_rows(join(pieces_of(template.body, slots), 0, n)),)
        fields = [pieces_of(field, slots) for field in template.signed]
        slots |= self.signature_slots(template.signature_slots, fields, n)
        return body or pieces_of(template.body, slots)

    def signature_slots(self, names: Sequence[str], fields: Sequence[Pieces], n: int) -> dict[str, Pieces]:
        """The slots of the signatures of n requests. `signature:A:B` is a part of them, of vendors whose signatures all
        have one width."""
        assert self.sign is not None, "only a vendor that signs has a signature in its template"
        made = self.sign(fields, n)
        slots: dict[str, Pieces] = {}
        for name in names:
            _, bar, span = name.partition(":")
            first, _, stop = span.partition(":")
            piece = made
            if bar:
                assert isinstance(made, np.ndarray), "a part of what has no width"
                piece = np.ascontiguousarray(made[:, int(first) : int(stop)])
            slots[name] = (piece,)
        return slots


def text_slots(names: Iterable[str], fitted: Fitted) -> dict[str, Pieces]:
    """The slots of the two texts, each as it stands."""
    slots: dict[str, Pieces] = {}
    for name in names:
        base, bar, chain = name.partition("|")
        is_title = base == "title"
        if bar:
            slots[name] = (escape((fitted.title_text if is_title else fitted.body_text).encode(), chain),)
        else:
            slots[name] = (fitted.title if is_title else fitted.body,)
    return slots


def pieces_of(parts: TemplateParts, slots: Mapping[str, Pieces]) -> Pieces:
    """The parts with their slots filled in, neighbouring constants joined."""
    if len(parts) == 1:
        # Most headers: one constant, or one column.
        (only,) = parts
        filled = (only,) if isinstance(only, bytes) else slots[only.name]
        if len(filled) == 1:
            return filled
    pieces: list[Piece] = []
    for part in parts:
        for piece in (part,) if isinstance(part, bytes) else slots[part.name]:
            if isinstance(piece, bytes) and pieces and isinstance(pieces[-1], bytes):
                pieces[-1] += piece
            else:
                pieces.append(piece)
    return tuple(pieces)
