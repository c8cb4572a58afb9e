"""Rendering rows of one template whose texts differ: bodies stay in pieces, constants and a column per value.

Texts are cut first, as they are, and escaped then, so that most of an over-long text is never looked at; both by whole
columns (`core/cut_columns.py`, `gateway/escapes.py`). A text over which no field limit stands is not even joined: a
connection or the edge joins each row once, with its frame or packet around it, and lengths add up over the pieces. Only
rows over the payload's limit, and among them those whose cut is not sure, are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import numpy as np

from gateway.columns import (
    I64,
    U8,
    Bool,
    Piece,
    Pieces,
    Rows,
    TextColumn,
    join,
    json_escape,
    piece_rows,
    pieces_lengths,
    row_bytes,
)
from gateway.content import Variant
from gateway.core.compiled import ROW_SLOTS, Compiled, CompiledBulk, base_name
from gateway.core.cut_bodies import Bodies, counted_parts
from gateway.core.cut_columns import cut_rows
from gateway.core.fit import TooLong, too_long
from gateway.core.render_bulk import add_distinct, lone_rows
from gateway.core.rendered import Group, TextCut, pieces_of
from gateway.core.truncate import cut, measure_rows
from gateway.escapes import column_of, escape, escape_column
from gateway.ledger import Reason
from gateway.vendor import FieldLimit, Refusal

#: Bytes that begin a character of white space: those of ASCII, and the first ones of the others' UTF-8.
_MAY_BE_BLANK = np.zeros(256, np.bool_)
_MAY_BE_BLANK[[*range(0x09, 0x0E), *range(0x1C, 0x21), 0xC2, 0xE1, 0xE2, 0xE3]] = True
#: Fewer rows than this are joined sooner than they are looked at.
_FIXED_ROWS_MIN = 32


class Contents(Protocol):
    """What the rows of one group say: one variant with variables, or a variant for each row."""

    #: One of them: what the template and its limits hold for.
    variant: Variant

    def texts(self) -> tuple[Pieces, Pieces]:
        """Title and body of all rows, without escapes."""
        ...

    def slot(self, name: str) -> Pieces:
        """A slot of the body that is no row slot and no text, as it stands there."""
        ...

    def header(self, name: str) -> Pieces:
        """A slot of path and headers."""
        ...

    def texts_of(self, index: int) -> tuple[str, str]:
        """Title and body of one row."""
        ...

    def variable(self, name: str) -> TextColumn:
        """The values of a variable of the batch."""
        ...

    def put(self, name: str, column: TextColumn) -> None:
        """Slots of the variable have these values instead; texts have not."""
        ...


#: Made anew for a part of the rows.
ContentsOf: TypeAlias = Callable[[Group], Contents]


def render_columns(group: Group, contents_of: ContentsOf, template: Compiled) -> None:
    """All rows of the group are rendered or refused: as lists of messages where the vendor takes those, else singly."""
    n = len(group.positions)
    bulk = template.distinct if template.distinct is not None and n > 1 and template.distinct.rows_max > 1 else None
    if bulk is not None and (n_lone := lone_rows(n, bulk.rows_max)):
        for part in (np.arange(n - n_lone), np.arange(n - n_lone, n)):
            render_columns(group.take(part), contents_of, template)
        return
    contents = contents_of(group)
    variant = contents.variant
    texts = _Texts(*contents.texts())
    blank = _refuse_blank(group, variant, template, texts) if group.burst.source.limits(variant).needs_texts else []
    if blank:
        _render_others(group, contents_of, template, blank)
        return
    truncated = np.zeros(n, np.bool_)
    refused = _fit_variables(group, contents, template, bulk, truncated)
    if refused:
        _render_others(group, contents_of, template, refused)
        return
    over = _fit_fields(group, variant, texts, truncated)
    slots = _slots(group, contents, template, bulk)
    slots["title"], slots["body"] = _escaped(texts.title, "j"), _escaped(texts.body, "j")
    sizes = _sizes(group, variant, template, bulk, slots)
    over |= sizes > group.burst.source.limits(variant).payload_bytes_max
    if np.count_nonzero(over):
        refused = _fit_payload(group, contents, template, bulk, texts, slots, sizes, np.flatnonzero(over), truncated)
        if refused:
            _render_others(group, contents_of, template, refused)
            return
    for name in template.text_slots if bulk is None else bulk.text_slots:
        base, bar, chain = name.partition("|")
        if _is_raw(name):
            slots[name] = _escaped(texts.title if base == "title" else texts.body, chain)
        elif bar:
            slots[name] = _escaped(slots[base], chain[1:])
    if bulk is not None:
        add_distinct(group, variant, template, slots, truncated)
        return
    body = group.signed_body(template, slots, n)
    for name in template.header_slots:
        slots[name] = contents.header(name)
    group.add(template, slots, body, truncated)


def _render_others(group: Group, contents_of: ContentsOf, template: Compiled, refused: list[int]) -> None:
    """Anew, since they are fewer: a list may have become too short for one."""
    kept = np.delete(np.arange(len(group.positions)), refused)
    if len(kept):
        render_columns(group.take(kept), contents_of, template)


def _refuse_blank(group: Group, variant: Variant, template: Compiled, texts: _Texts) -> list[int]:
    """The indexes of rows with a text that says nothing, refused."""
    refused: set[int] = set()
    for field, count, text in (("title", template.n_title, texts.title), ("body", template.n_body, texts.body)):
        rows = [index for index in blank_rows(text, len(group.positions)) if index not in refused] if count else []
        if rows:
            why = Refusal(field, f"{field} is empty ({group.burst.source.name})")
            group.take(np.array(rows)).refuse(Reason.CONTENT_REFUSED, why)
            refused |= set(rows)
    return sorted(refused)


def blank_rows(text: Pieces, n: int) -> list[int]:
    """The indexes of the rows that are empty or white space. Rows whose first byte begins no white space have a look at
    that byte only."""
    if any(isinstance(piece, bytes) and piece.decode(errors="replace").strip() for piece in text):
        return []
    column = text[0] if len(text) == 1 else None
    if not isinstance(column, TextColumn):
        column = TextColumn.from_rows(join(text, 0, n))
    # One more byte, so that an empty last row has a first one.
    data = np.frombuffer(column.blob + b" ", np.uint8)
    maybe = np.flatnonzero(_MAY_BE_BLANK[data[column.offsets[:-1]]] | (column.lengths() == 0))
    return [index for index in maybe.tolist() if not column.row(index).decode(errors="replace").strip()]


class _Texts:
    """The two texts of all rows, without escapes; what is cut replaces them."""

    __slots__ = ("body", "title")

    def __init__(self, title: Pieces, body: Pieces) -> None:
        self.title = title
        self.body = body


def _is_raw(name: str) -> bool:
    """Whether the slot of a text stands in no JSON."""
    return "|" in name and "|j" not in name


def _escaped(pieces: Pieces, chain: str) -> Pieces:
    return tuple([escape(piece, chain) if isinstance(piece, bytes) else _narrowest(piece, chain) for piece in pieces])


def _narrowest(piece: U8 | TextColumn, chain: str) -> Piece:
    """The values with those steps. Those of one length become one array with the constants around them: one part of
    each row less to join."""
    column = escape_column(piece if isinstance(piece, TextColumn) else column_of(piece), chain)
    fixed = column.fixed() if len(column) >= _FIXED_ROWS_MIN else None
    return column if fixed is None or not fixed.shape[1] else fixed


def _fit_fields(group: Group, variant: Variant, texts: _Texts, truncated: Bool) -> Bool:
    """The texts are cut to the limits of their fields. (n,) bool, the rows that are over one and may not be cut."""
    limits = group.burst.source.limits(variant)
    over = np.zeros(len(truncated), np.bool_)
    if limits.title is not None:
        texts.title = _fit_field(group, texts.title, limits.title, truncated, over)
    if limits.body is not None:
        texts.body = _fit_field(group, texts.body, limits.body, truncated, over)
    return over


def _fit_variables(
    group: Group, contents: Contents, template: Compiled, bulk: CompiledBulk | None, truncated: Bool
) -> list[int]:
    """What rows put into fields by themselves is cut to the fields' limits; where it may not be, those rows are
    refused. Returns their indexes."""
    burst, mark = group.burst, group.rule.mark
    used = {
        base_name(name) for name in ([name for name, _ in template.body_slots] if bulk is None else bulk.list_slots)
    }
    refused: set[int] = set()
    for name, limit in burst.source.limits(contents.variant).variables:
        slot = f"var:{name}"
        if slot not in used or not burst.has_variable(slot):
            continue
        column = contents.variable(slot)
        if int(column.lengths().max(initial=0)) <= limit.max:
            continue
        if group.rule.may_cut:
            shorter, rows = cut_rows(column, limit.max, limit.unit, mark if limit.has_mark else "")
            truncated[rows] = True
            contents.put(slot, shorter)
            if group.out.cuts is not None:
                pairs = [(column.row(row).decode(), shorter.row(row).decode()) for row in rows.tolist()]
                group.out.cuts.extend(TextCut(f"vars.{name}", len(was), len(now)) for was, now in pairs)
            continue
        lengths = measure_rows(column, limit.unit)
        for index in np.flatnonzero(lengths > limit.max).tolist():
            if index not in refused:
                why = too_long(f"vars.{name}", int(lengths[index]), limit, burst.source.name)
                group.take(np.array([index])).refuse(Reason.CONTENT_TOO_LONG, why)
                refused.add(index)
    return sorted(refused)


def _fit_field(group: Group, text: Pieces, limit: FieldLimit, truncated: Bool, over: Bool) -> Pieces:
    """The text within the limit, as one column where that had to be looked at. truncated, over: as above, marked."""
    n, mark = len(truncated), group.rule.mark if limit.has_mark else ""
    if all(isinstance(piece, bytes) for piece in text):
        raw = b"".join([piece for piece in text if isinstance(piece, bytes)])
        shorter = cut(raw.decode(), limit.max, limit.unit, mark)
        (truncated if group.rule.may_cut else over)[:] |= shorter.was_cut
        return (shorter.text.encode(),) if group.rule.may_cut else text
    # No unit counts more than the bytes.
    if int(pieces_lengths(text, n).max()) <= limit.max:
        return text
    column = text[0] if len(text) == 1 else None
    if not isinstance(column, TextColumn):
        column = TextColumn.from_rows(join(text, 0, n))
    if not group.rule.may_cut:
        over |= measure_rows(column, limit.unit) > limit.max
        return (column,)
    column, rows = cut_rows(column, limit.max, limit.unit, mark)
    truncated[rows] = True
    return (column,)


def _sizes(
    group: Group, variant: Variant, template: Compiled, bulk: CompiledBulk | None, slots: Mapping[str, Pieces]
) -> I64:
    """(n,) bytes of each row's body, or of its message in a list, as the vendor counts them: a payload as JSON, before
    whatever a form makes of it."""
    n = len(group.positions)
    counted = dict(slots)
    counted |= dict.fromkeys(template.signature_slots, (b"",))
    counted |= {name: slots[base_name(name)] for name in (template if bulk is None else bulk).text_slots}
    if not group.burst.source.limits(variant).counts_token:
        counted |= {name: (b"",) for name in counted if base_name(name) == "token"}
    return pieces_lengths(pieces_of(counted_parts(template, bulk), counted), n)


def _slots(group: Group, contents: Contents, template: Compiled, bulk: CompiledBulk | None) -> dict[str, Pieces]:
    """Slot name -> its pieces, ready to stand inside a JSON string, but for the texts."""
    names = [name for name, _ in template.body_slots] if bulk is None else [*bulk.list_slots]
    row_names = [name for name in names if base_name(name) in ROW_SLOTS]
    slots = group.row_pieces(row_names)
    return slots | {name: contents.slot(name) for name in names if name not in row_names}


def _replaced(pieces: Pieces, n: int, texts: Mapping[int, bytes]) -> Pieces:
    """The pieces of n rows of a text, with other texts in some rows: all of such a row stands in the first piece, or
    where it differs in the last one alone, as what was cut at its end does, only that is replaced."""
    if not texts:
        return pieces
    if len(pieces) > 1 and isinstance(pieces[-1], TextColumn):
        starts = {index: row_bytes(pieces[:-1], index) for index in texts}
        if all(text.startswith(starts[index]) for index, text in texts.items()):
            # Constants stay constants: a part of each row less to join for each of them.
            rests = {index: text[len(starts[index]) :] for index, text in texts.items()}
            return pieces[:-1] + _replaced(pieces[-1:], n, rests)
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


def _fit_payload(
    group: Group,
    contents: Contents,
    template: Compiled,
    bulk: CompiledBulk | None,
    texts: _Texts,
    slots: dict[str, Pieces],
    sizes: I64,
    over: Rows,
    truncated: Bool,
) -> list[int]:
    """Rows over the payload's limit, or over a field's that may not be cut, get texts with which they fit, in `texts`
    and `slots`. The indexes of those for which there are none, refused."""
    n = len(truncated)
    titles: dict[int, bytes] = {}
    has_raw = any(_is_raw(name) for name in (template if bulk is None else bulk).text_slots)
    in_json: dict[int, bytes] = {}
    shorter = slots["body"]
    if group.rule.may_cut:
        limit = group.burst.source.limits(contents.variant).payload_bytes_max
        fields = Bodies(shorter, sizes, limit, counted_parts(template, bulk), group.rule.mark)
        if not has_raw:
            shorter, was_cut = fields.cut_last(over)
            truncated[over[was_cut]] = True
            over = over[~was_cut]
        in_json = fields.shorter(over)
    bodies = dict(in_json)
    refused: list[int] = []
    for index in over.tolist():
        if index in bodies:
            continue
        problem = _refit(group, contents, template, slots, int(sizes[index]), index, titles, bodies)
        if problem is not None:
            refused.append(index)
            group.take(np.array([index])).refuse(Reason.CONTENT_TOO_LONG, problem)
    if not refused:
        truncated[[*titles, *bodies]] = True
        if has_raw:
            texts.title, texts.body = _replaced(texts.title, n, titles), _replaced(texts.body, n, bodies)
        slots["title"] = _replaced(slots["title"], n, _in_json(titles))
        # Of the usual ones no byte is escaped.
        in_json |= _in_json({index: text for index, text in bodies.items() if index not in in_json})
        slots["body"] = _replaced(shorter, n, in_json)
    return refused


def _in_json(texts: Mapping[int, bytes]) -> dict[int, bytes]:
    return {index: json_escape(text) for index, text in texts.items()}


def _refit(
    group: Group,
    contents: Contents,
    template: Compiled,
    slots: Mapping[str, Pieces],
    size: int,
    index: int,
    titles: dict[int, bytes],
    bodies: dict[int, bytes],
) -> TooLong | None:
    """Texts with which one over-long row of `size` bytes fits, in titles and bodies; or why there are none."""
    texts_bytes = template.n_title * len(row_bytes(slots["title"], index))
    texts_bytes += template.n_body * len(row_bytes(slots["body"], index))
    fitted = group.fit(contents.variant, template, *contents.texts_of(index), size - texts_bytes)
    if isinstance(fitted, TooLong):
        return fitted
    titles[index], bodies[index] = fitted.title_text.encode(), fitted.body_text.encode()
    return None
