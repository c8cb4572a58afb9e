"""Rendering rows of one variant with variables: columns are gathered and escaped at once, each body is one join.

Only rows over a limit are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import TypeAlias

import numpy as np

from gateway.columns import Bool, Pieces, TextColumn, json_escape, piece_rows
from gateway.content import Variant, template_parts
from gateway.core.burst import escape_rows
from gateway.core.compiled import ROW_SLOTS, Compiled
from gateway.core.fit import TooLong
from gateway.core.rendered import Group
from gateway.core.truncate import measure_rows, shorten_plain
from gateway.ledger import Reason
from gateway.vendor import FieldLimit, TemplateParts

#: With less room than this for the body the title may have to give way too: `fit` decides.
_BODY_BYTES_MIN = 64
#: The values of one slot: the same for all rows, or one per row.
_Values: TypeAlias = bytes | list[bytes]
#: Slot name -> its values. A text is several: its constants and variables in turn, never joined by itself.
_Slots: TypeAlias = dict[str, list[_Values]]


def render_template(group: Group, variant: Variant, template: Compiled) -> None:
    """All rows of the group are rendered or refused."""
    burst = group.burst
    row_pieces = group.row_pieces()
    values = _slot_values(group, variant, template, row_pieces)
    bodies = _join_parts(template.body, values, len(group.positions))
    truncated = np.zeros(len(bodies), np.bool_)
    refused: list[int] = []
    for index in _over_limits(group, variant, bodies):
        problem = _refit(group, variant, template, values, bodies, index)
        if problem is None:
            truncated[index] = True
        else:
            refused.append(index)
            group.take(np.array([index])).refuse(Reason.CONTENT_TOO_LONG, problem)
    if refused:
        kept = np.delete(np.arange(len(bodies)), refused)
        group, truncated = group.take(kept), truncated[kept]
        bodies = [bodies[index] for index in kept.tolist()]
        row_pieces = group.row_pieces()
    if bodies:
        for name in template.header_slots:
            row_pieces[name] = (burst.constant(name, variant, in_json=False),)
        group.add(template, row_pieces, (TextColumn.from_rows(bodies),), truncated)


def _slot_values(group: Group, variant: Variant, template: Compiled, row_pieces: dict[str, Pieces]) -> _Slots:
    """Slot name -> its values, ready to stand inside a JSON string. Each variable column is gathered once."""
    burst, n = group.burst, len(group.positions)
    values: _Slots = {}

    def value_of(name: str) -> _Values:
        if name not in values:
            if name in ROW_SLOTS:
                values[name] = [
                    piece if isinstance(piece, bytes) else piece_rows(piece, 0, n) for piece in row_pieces[name]
                ]
            elif burst.has_variable(name):
                values[name] = [escape_rows(burst.variable_rows(name, group.positions))]
            else:
                values[name] = [burst.constant(name, variant, in_json=True)]
        return values[name][0]

    for name, _ in template.body_slots:
        value_of(name)
    for field, text in (("title", variant.title), ("body", variant.body)):
        values[field] = [
            value_of(f"var:{part}") if index % 2 else json_escape(part.encode())
            for index, part in enumerate(template_parts(text))
        ]
    return values


def _join_parts(parts: TemplateParts, values: _Slots, n: int) -> list[bytes]:
    """One bytes per row; n rows. One join per row over all parts, neighbouring constants made one before."""
    columns: list[_Values] = []
    for part in parts:
        for column in [part] if isinstance(part, bytes) else values[part.name]:
            last = columns[-1] if columns else None
            if isinstance(column, bytes) and isinstance(last, bytes):
                columns[-1] = last + column
            elif column != b"":
                columns.append(column)
    rows: list[Iterable[bytes]] = [repeat(column, n) if isinstance(column, bytes) else column for column in columns]
    return list(map(b"".join, zip(*rows, strict=True))) if rows else [b""] * n


def _row_of(values: _Slots, index: int) -> dict[str, bytes]:
    """The values of one row, each in one piece."""
    return {
        name: b"".join([column if isinstance(column, bytes) else column[index] for column in columns])
        for name, columns in values.items()
    }


def _refit(
    group: Group, variant: Variant, template: Compiled, values: _Slots, bodies: list[bytes], index: int
) -> TooLong | None:
    """The body of one over-long row is replaced by one that fits; or why it cannot be."""
    row = _row_of(values, index)
    if not _cut_body(group, variant, template, row, len(bodies[index])):
        fault = _fit_texts(group, variant, template, row, len(bodies[index]), int(group.positions[index]))
        if fault is not None:
            return fault
    bodies[index] = b"".join([part if isinstance(part, bytes) else row[part.name] for part in template.body])
    return None


def _cut_body(group: Group, variant: Variant, template: Compiled, row: dict[str, bytes], size: int) -> bool:
    """The usual case, at the level of bytes: one body without escapes that is all that has to be cut."""
    limits = group.burst.source.limits(variant)
    body = row["body"]
    room = limits.payload_bytes_max - (size - len(body))
    has_field_limits = limits.title is not None or limits.body is not None
    if has_field_limits or template.n_body != 1 or not group.rule.may_cut or room < _BODY_BYTES_MIN or b"\\" in body:
        return False
    shorter = shorten_plain(body, room, group.rule.mark)
    if shorter is None:
        return False
    row["body"] = shorter
    return True


def _fit_texts(
    group: Group, variant: Variant, template: Compiled, row: dict[str, bytes], size: int, position: int
) -> TooLong | None:
    """Every other case: both texts as texts, into all limits."""
    texts_bytes = template.n_title * len(row["title"]) + template.n_body * len(row["body"])
    title = group.burst.text_of_row(variant.title, position)
    body = group.burst.text_of_row(variant.body, position)
    fitted = group.fit(variant, template, title, body, size - texts_bytes)
    if isinstance(fitted, TooLong):
        return fitted
    row["title"], row["body"] = fitted.title, fitted.body
    return None


def _over_limits(group: Group, variant: Variant, bodies: list[bytes]) -> list[int]:
    """The rows over a limit: the payload's by the lengths just made, a field's by a count over its columns."""
    limits = group.burst.source.limits(variant)
    over: Bool = np.fromiter(map(len, bodies), np.int64, len(bodies)) > limits.payload_bytes_max
    for limit, text in ((limits.title, variant.title), (limits.body, variant.body)):
        if limit is not None:
            over |= _field_over(group, text, limit)
    return [int(index) for index in np.flatnonzero(over)]


def _field_over(group: Group, text: str, limit: FieldLimit) -> Bool:
    """(n,) bool, the text with its variables put in is longer than the limit. Lengths add up over its parts."""
    burst = group.burst
    lengths = np.zeros(len(group.positions), np.int64)
    for index, part in enumerate(template_parts(text)):
        if index % 2 and burst.has_variable(f"var:{part}"):
            column = TextColumn.from_rows(burst.variable_rows(f"var:{part}", group.positions))
        else:
            column = TextColumn.from_texts(["{{" + part + "}}" if index % 2 else part])
        lengths += measure_rows(column, limit.unit)
    return lengths > limit.max
