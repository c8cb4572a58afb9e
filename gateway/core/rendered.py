"""What rendering yields, and the parts its three ways share (core/render.py tells the whole)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from gateway.columns import U8, Bool, Piece, Pieces, Rows, TextColumn, fill
from gateway.content import Variant
from gateway.core.burst import Burst
from gateway.core.compiled import Compiled
from gateway.core.fit import Fitted, Room, TooLong, fit
from gateway.ledger import Reason
from gateway.vendor import Refusal, Requests, TemplateParts

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


class Rendered(NamedTuple):
    groups: list[RenderedGroup]
    refused: list[RefusedRows]


class PayloadGroup(NamedTuple):
    """Payloads of the long link: n rows of `payload`, one per position."""

    positions: Rows
    payload: Pieces
    truncated: Bool


class RenderedPayloads(NamedTuple):
    groups: list[PayloadGroup]
    refused: list[RefusedRows]


class CutRule(NamedTuple):
    """mark: what ends a text that was cut. may_cut: False refuses over-long rows instead."""

    mark: str
    may_cut: bool


class Group(NamedTuple):
    """Rows of one burst on their way through. tokens: None where there are none (long link). out: the burst's."""

    burst: Burst
    rule: CutRule
    authority: bytes
    positions: Rows
    tokens: Tokens | None
    out: Rendered

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

    def fit(self, variant: Variant, template: Compiled, title: str, body: str, overhead_bytes: int) -> Fitted | TooLong:
        burst = self.burst
        room = Room(burst.source.limits(variant), overhead_bytes, template.n_title, template.n_body)
        return fit(title, body, room, mark=self.rule.mark, may_cut=self.rule.may_cut, channel=burst.source.name)

    def row_pieces(self) -> dict[str, Pieces]:
        """The slots that are columns in every group, as they stand in a body: what ids share is a constant there."""
        rests = self.burst.id_rests
        n = len(self.positions)
        # Most bursts are one group of all rows in order: no copy then.
        if n != len(rests) or np.count_nonzero(self.positions != np.arange(n)):
            rests = rests.take(self.positions, axis=0)
        pieces: dict[str, Pieces] = {"message_id": (self.burst.id_start, rests)}
        if isinstance(self.tokens, TextColumn):
            fixed = self.tokens.fixed()
            pieces["token"] = (self.tokens if fixed is None else fixed,)
        elif self.tokens is not None:
            pieces["token"] = (self.tokens,)
        return pieces

    def add(self, template: Compiled, slots: Mapping[str, Pieces], body: Pieces, truncated: Bool) -> None:
        """The group's requests: path and headers from the slots, the body as given."""
        if template.has_id_in_head:
            # One column there: a header block whose constants changed with each batch would be planned with each batch.
            slots = {**slots, "message_id": (fill(slots["message_id"], 0, len(self.positions)),)}
        headers = tuple((name, pieces_of(value, slots)) for name, value in template.headers)
        requests = Requests(len(self.positions), self.authority, pieces_of(template.path, slots), headers, body)
        self.out.groups.append(RenderedGroup(self.positions, requests, truncated))


def pieces_of(parts: TemplateParts, slots: Mapping[str, Pieces]) -> Pieces:
    """The parts with their slots filled in, neighbouring constants joined."""
    pieces: list[Piece] = []
    for part in parts:
        for piece in (part,) if isinstance(part, bytes) else slots[part.name]:
            if isinstance(piece, bytes) and pieces and isinstance(pieces[-1], bytes):
                pieces[-1] += piece
            else:
                pieces.append(piece)
    return tuple(pieces)
