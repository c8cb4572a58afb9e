"""Rendering rows of one variant with variables: the body stays in pieces, constants and one column per variable.

Nothing is joined here: a connection or the edge joins each row once, with its frame or packet around it, and lengths
add up over the pieces. Only rows over a limit are looked at one by one; what they are cut to replaces their text.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gateway.columns import (
    I64,
    Bool,
    Piece,
    Pieces,
    Rows,
    TextColumn,
    json_escape,
    piece_rows,
    pieces_lengths,
    take_pieces,
)
from gateway.content import Variant, template_parts
from gateway.core.compiled import ROW_SLOTS, Compiled
from gateway.core.fit import TooLong
from gateway.core.rendered import Group, pieces_of
from gateway.core.truncate import measure_rows, shorten_plain
from gateway.ledger import Reason
from gateway.vendor import FieldLimit

#: With less room than this for the body the title may have to give way too: `fit` decides.
_BODY_BYTES_MIN = 64


def render_template(group: Group, variant: Variant, template: Compiled) -> None:
    """All rows of the group are rendered or refused."""
    n = len(group.positions)
    slots = _slots(group, variant, template)
    sizes = pieces_lengths(pieces_of(template.body, slots), n)
    truncated = np.zeros(n, np.bool_)
    refused: list[int] = []
    over = _over_limits(group, variant, sizes)
    if len(over):
        cut = _Cut({}, {})
        for index in over.tolist():
            problem = _refit(group, variant, template, slots, int(sizes[index]), index, cut)
            if problem is None:
                truncated[index] = True
            else:
                refused.append(index)
                group.take(np.array([index])).refuse(Reason.CONTENT_TOO_LONG, problem)
        slots["title"] = _replaced(slots["title"], n, cut.titles)
        slots["body"] = _replaced(slots["body"], n, cut.bodies)
    body = pieces_of(template.body, slots)
    if refused:
        kept = np.delete(np.arange(n), refused)
        group, truncated, body = group.take(kept), truncated[kept], take_pieces(body, kept)
        slots = group.row_pieces()
    if len(group.positions):
        for name in template.header_slots:
            slots[name] = (group.burst.constant(name, variant, in_json=False),)
        group.add(template, slots, body, truncated)


def _slots(group: Group, variant: Variant, template: Compiled) -> dict[str, Pieces]:
    """Slot name -> its pieces, ready to stand inside a JSON string. Each variable column is gathered once."""
    burst = group.burst
    slots = group.row_pieces()
    found: dict[str, Piece] = {}

    def value_of(name: str) -> Piece:
        if name not in found:
            found[name] = (
                burst.json_variable(name, group.positions)
                if burst.has_variable(name)
                else burst.constant(name, variant, in_json=True)
            )
        return found[name]

    for name, _ in template.body_slots:
        if name not in ROW_SLOTS:
            slots[name] = (value_of(name),)
    for field, text in (("title", variant.title), ("body", variant.body)):
        slots[field] = tuple(
            [
                value_of(f"var:{part}") if index % 2 else json_escape(part.encode())
                for index, part in enumerate(template_parts(text))
                if part or index % 2
            ]
        )
    return slots


class _Cut:
    """What texts of single rows become: index -> JSON-escaped text."""

    __slots__ = ("bodies", "titles")

    def __init__(self, titles: dict[int, bytes], bodies: dict[int, bytes]) -> None:
        self.titles = titles
        self.bodies = bodies


def _replaced(pieces: Pieces, n: int, texts: Mapping[int, bytes]) -> Pieces:
    """The pieces of n rows of a text, with other texts in some rows: all of such a row stands in the first piece."""
    if not texts:
        return pieces
    indexes = list(texts)
    columns: list[Piece] = []
    for place, piece in enumerate(pieces):
        rows = piece_rows(piece, 0, n)
        lengths = pieces_lengths((piece,), n)
        for index in indexes:
            rows[index] = b"" if place else texts[index]
        lengths[indexes] = 0 if place else [len(texts[index]) for index in indexes]
        columns.append(TextColumn.from_rows(rows, lengths))
    return tuple(columns)


def _text_of(pieces: Pieces, index: int) -> bytes:
    """One row of a text."""
    return b"".join([piece if isinstance(piece, bytes) else piece_rows(piece, index, index + 1)[0] for piece in pieces])


def _refit(
    group: Group,
    variant: Variant,
    template: Compiled,
    slots: Mapping[str, Pieces],
    size: int,
    index: int,
    cut: _Cut,
) -> TooLong | None:
    """`cut` has texts with which one over-long row of `size` bytes fits; or why there are none."""
    body = _text_of(slots["body"], index)
    shorter = _cut_body(group, variant, template, body, size)
    if shorter is not None:
        cut.bodies[index] = shorter
        return None
    title = _text_of(slots["title"], index)
    texts_bytes = template.n_title * len(title) + template.n_body * len(body)
    burst, position = group.burst, int(group.positions[index])
    fitted = group.fit(
        variant,
        template,
        burst.text_of_row(variant.title, position),
        burst.text_of_row(variant.body, position),
        size - texts_bytes,
    )
    if isinstance(fitted, TooLong):
        return fitted
    cut.titles[index], cut.bodies[index] = fitted.title, fitted.body
    return None


def _cut_body(group: Group, variant: Variant, template: Compiled, body: bytes, size: int) -> bytes | None:
    """The usual case, at the level of bytes: one body without escapes that is all that has to be cut."""
    limits = group.burst.source.limits(variant)
    room = limits.payload_bytes_max - (size - len(body))
    has_field_limits = limits.title is not None or limits.body is not None
    if has_field_limits or template.n_body != 1 or not group.rule.may_cut or room < _BODY_BYTES_MIN or b"\\" in body:
        return None
    return shorten_plain(body, room, group.rule.mark)


def _over_limits(group: Group, variant: Variant, sizes: I64) -> Rows:
    """The rows over a limit: the payload's by the sizes of the bodies, a field's by a count over its columns."""
    limits = group.burst.source.limits(variant)
    over: Bool = sizes > limits.payload_bytes_max
    for limit, text in ((limits.title, variant.title), (limits.body, variant.body)):
        if limit is not None:
            over |= _field_over(group, text, limit)
    return np.flatnonzero(over)


def _field_over(group: Group, text: str, limit: FieldLimit) -> Bool:
    """(n,) bool, the text with its variables put in is longer than the limit. Lengths add up over its parts."""
    burst = group.burst
    lengths = np.zeros(len(group.positions), np.int64)
    for index, part in enumerate(template_parts(text)):
        if index % 2 and burst.has_variable(f"var:{part}"):
            column = burst.variable(f"var:{part}", group.positions)
        else:
            column = TextColumn.from_texts(["{{" + part + "}}" if index % 2 else part])
        lengths += measure_rows(column, limit.unit)
    return lengths > limit.max
