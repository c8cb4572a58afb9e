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
    join,
    json_escape,
    piece_rows,
    pieces_lengths,
)
from gateway.content import Variant, template_parts
from gateway.core.compiled import ROW_SLOTS, Compiled, CompiledBulk, base_name
from gateway.core.fit import TooLong
from gateway.core.render_bulk import add_distinct, lone_rows
from gateway.core.rendered import Group, pieces_of
from gateway.core.truncate import measure_rows, shorten, shorten_plain
from gateway.escapes import escape_column
from gateway.ledger import Reason
from gateway.vendor import FieldLimit

#: With less room than this for the body the title may have to give way too: `fit` decides.
_BODY_BYTES_MIN = 64


def render_template(group: Group, variant: Variant, template: Compiled) -> None:
    """All rows of the group are rendered or refused: as lists of messages where the vendor takes those, else singly."""
    n = len(group.positions)
    bulk = template.distinct if template.distinct is not None and n > 1 and template.distinct.rows_max > 1 else None
    if bulk is not None and (n_lone := lone_rows(n, bulk.rows_max)):
        for part in (np.arange(n - n_lone), np.arange(n - n_lone, n)):
            render_template(group.take(part), variant, template)
        return
    texts = template.text_slots if bulk is None else bulk.text_slots
    slots = _slots(group, variant, template, bulk)
    sizes = _sizes(group, variant, template, bulk, slots)
    truncated = np.zeros(n, np.bool_)
    refused: list[int] = []
    cut = _Cut({}, {})
    over = _over_limits(group, variant, sizes, cut)
    truncated[[*cut.titles, *cut.bodies]] = True
    for index in over.tolist():
        problem = _refit(group, variant, template, slots, int(sizes[index]), index, cut)
        if problem is None:
            truncated[index] = True
        else:
            refused.append(index)
            group.take(np.array([index])).refuse(Reason.CONTENT_TOO_LONG, problem)
    if refused:
        # The others are as many as they are now: a list may have become too short for one.
        kept = np.delete(np.arange(n), refused)
        if len(kept):
            render_template(group.take(kept), variant, template)
        return
    if cut.titles or cut.bodies:
        slots["title"] = _replaced(slots["title"], n, _in_json(cut.titles))
        slots["body"] = _replaced(slots["body"], n, _in_json(cut.bodies))
    for name in texts:
        if "|" in name:
            own = cut.titles if base_name(name) == "title" else cut.bodies
            slots[name] = (_escaped(group, variant, name, own),)
    if bulk is not None:
        add_distinct(group, variant, template, slots, truncated)
        return
    if template.signed:
        slots |= group.signatures(template.signature_slots, template.signed, slots, n)
    body = pieces_of(template.body, slots)
    for name in template.header_slots:
        slots[name] = (group.burst.constant(name, variant, in_json=False),)
    group.add(template, slots, body, truncated)


def _sizes(
    group: Group, variant: Variant, template: Compiled, bulk: CompiledBulk | None, slots: Mapping[str, Pieces]
) -> I64:
    """(n,) bytes of each row's body, or of its message in a list, as the vendor counts them: a payload as JSON, before
    whatever a form makes of it."""
    n = len(group.positions)
    counted = dict(slots)
    counted["signature"] = (b"",)
    counted |= {name: slots[base_name(name)] for name in (template if bulk is None else bulk).text_slots}
    if not group.burst.source.limits(variant).counts_token:
        counted |= {name: (b"",) for name in counted if base_name(name) == "token"}
    parts = template.body if bulk is None else bulk.lists[0].parts
    return pieces_lengths(pieces_of(parts, counted), n)


def _escaped(group: Group, variant: Variant, name: str, cut: Mapping[int, bytes]) -> TextColumn:
    """A text that does not stand in JSON alone: put together and cut first, then escaped as one column, since most of
    an over-long text never leaves. cut: texts of single rows."""
    base, _, chain = name.partition("|")
    rows = join(_raw_pieces(group, variant.title if base == "title" else variant.body), 0, len(group.positions))
    for index, text in cut.items():
        rows[index] = text
    return escape_column(TextColumn.from_rows(rows), chain)


def _slots(group: Group, variant: Variant, template: Compiled, bulk: CompiledBulk | None) -> dict[str, Pieces]:
    """Slot name -> its pieces, ready to stand inside a JSON string. Each variable column is gathered once."""
    burst = group.burst
    names = [name for name, _ in template.body_slots] if bulk is None else [*bulk.list_slots]
    is_row = {name: base_name(name) in ROW_SLOTS for name in names}
    slots = group.row_pieces([name for name in names if is_row[name]])
    found: dict[str, Piece] = {}

    def value_of(name: str) -> Piece:
        if name not in found:
            found[name] = (
                burst.json_variable(name, group.positions)
                if burst.has_variable(name)
                else burst.constant(name, variant, in_json=True)
            )
        return found[name]

    for name in names:
        if not is_row[name]:
            slots[name] = (value_of(name),)
    for name, text in (("title", variant.title), ("body", variant.body)):
        slots[name] = tuple(
            [
                value_of(f"var:{part}") if index % 2 else json_escape(part.encode())
                for index, part in enumerate(template_parts(text))
                if part or index % 2
            ]
        )
    return slots


class _Cut:
    """What texts of single rows become: index -> text, without escapes."""

    __slots__ = ("bodies", "titles")

    def __init__(self, titles: dict[int, bytes], bodies: dict[int, bytes]) -> None:
        self.titles = titles
        self.bodies = bodies


def _in_json(texts: Mapping[int, bytes]) -> dict[int, bytes]:
    return {index: json_escape(text) for index, text in texts.items()}


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
    cut.titles[index], cut.bodies[index] = fitted.title_text.encode(), fitted.body_text.encode()
    return None


def _cut_body(group: Group, variant: Variant, template: Compiled, body: bytes, size: int) -> bytes | None:
    """The usual case, at the level of bytes: one body without escapes that is all that has to be cut."""
    limits = group.burst.source.limits(variant)
    room = limits.payload_bytes_max - (size - len(body))
    has_field_limits = limits.title is not None or limits.body is not None
    is_plain = template.text_slots in {("title", "body"), ("body", "title")}
    if (
        has_field_limits
        or not is_plain
        or template.n_body != 1
        or not group.rule.may_cut
        or room < _BODY_BYTES_MIN
        or b"\\" in body
    ):
        return None
    return shorten_plain(body, room, group.rule.mark)


def _over_limits(group: Group, variant: Variant, sizes: I64, cut: _Cut) -> Rows:
    """The rows over a limit that `cut` does not settle: the payload's by the sizes of the bodies, a field's by a count
    over its columns. Rows that only a field's limit concerns are cut here."""
    limits = group.burst.source.limits(variant)
    over: Bool = sizes > limits.payload_bytes_max
    for limit, text, texts in ((limits.title, variant.title, cut.titles), (limits.body, variant.body, cut.bodies)):
        if limit is None:
            continue
        is_long = _field_over(group, text, limit)
        if group.rule.may_cut:
            settled = np.flatnonzero(is_long & ~over)
            texts.update(_cut_fields(group, text, limit, settled))
        else:
            over |= is_long
    return np.flatnonzero(over)


def _cut_fields(group: Group, text: str, limit: FieldLimit, indexes: Rows) -> dict[int, bytes]:
    """The text of each of these rows, which are over the limit, cut to it. Only its beginning is ever looked at."""
    if not len(indexes):
        return {}
    rows = join(_raw_pieces(group.take(indexes), text), 0, len(indexes))
    # A code point has four bytes at most and counts one at least; some more decide about the last grapheme.
    most, mark = 4 * limit.max + 64, group.rule.mark
    return {
        index: shorten(row[:most].decode(errors="ignore"), limit.max, limit.unit, mark).text.encode()
        for index, row in zip(indexes.tolist(), rows, strict=True)
    }


def _raw_pieces(group: Group, text: str) -> Pieces:
    """A text with its variables put in, without escapes."""
    burst = group.burst
    return tuple(
        [
            part.encode()
            if not index % 2
            else burst.variable(f"var:{part}", group.positions)
            if burst.has_variable(f"var:{part}")
            else b"{{" + part.encode() + b"}}"
            for index, part in enumerate(template_parts(text))
        ]
    )


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
