"""Rendering rows of many variants, few rows each: "single" traffic that was gathered into one batch.

Contents that differ in their texts, TTL and collapse id have one template: their rows are columns
(core/render_columns.py). The rest, of templates with few rows, goes through a short loop, one row after the other. Rows
whose templates agree in path and headers share one group of requests there, their bodies ragged, so that a burst of a
thousand different messages is still one call to a connection.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from gateway.columns import Piece, Pieces, TextColumn, join, json_escape
from gateway.content import Variant
from gateway.core.burst import fields_of
from gateway.core.compiled import PAYLOAD, Compiled, CompiledBulk, base_name
from gateway.core.fit import Fitted, TooLong, too_long
from gateway.core.render_bulk import add_rendered, lone_rows
from gateway.core.render_columns import render_columns
from gateway.core.render_template import VariableContents
from gateway.core.rendered import Group, TextCut
from gateway.core.truncate import cut, measure
from gateway.escapes import escape
from gateway.ledger import Reason
from gateway.vendor import Limits, Refusal, Slot, TemplateParts, slot_text

#: Stands in a body until the row is signed; NUL cannot occur otherwise.
_SIGNATURE = slot_text("signature")
_PAYLOAD: TemplateParts = (Slot(PAYLOAD),)
_ROW_NAMES = ("message_id", "address", "token")
#: With fewer rows of one template than this, array calls cost more than the loop over rows.
_COLUMN_ROWS_MIN = 24

TemplateOf: TypeAlias = Callable[[Variant], Compiled | Refusal]
#: Renders rows of one variant.
RenderUniform: TypeAlias = Callable[[Group, Variant], None]


class _Bucket:
    """Rows that will be one group of requests. indexes: into the group; the other lists run beside it. bodies: of
    requests of one row, or elements of lists where `is_listed`."""

    __slots__ = ("bodies", "header_values", "indexes", "is_listed", "signed", "template", "truncated", "variant")

    def __init__(self, template: Compiled, variant: Variant, *, is_listed: bool) -> None:
        self.template = template
        self.variant = variant
        self.is_listed = is_listed
        self.indexes: list[int] = []
        self.bodies: list[bytes] = []
        self.truncated: list[bool] = []
        #: A list for each field that is signed; the body's stays empty.
        self.signed: list[list[bytes]] = [[] for _ in template.signed]
        self.header_values: list[list[bytes]] = [[] for _ in template.header_slots]


def _list_of(template: Compiled, n: int) -> CompiledBulk | None:
    """The list that a row of this template goes into."""
    bulk = template.distinct
    return bulk if bulk is not None and n > 1 and bulk.rows_max > 1 and len(bulk.lists) == 1 else None


def render_mixed(group: Group, template_of: TemplateOf, render_uniform: RenderUniform) -> None:
    """All rows of the group are rendered or refused. render_uniform: for a row that is left alone."""
    burst = group.burst
    if burst.variant_index is None:
        raise ValueError("a batch of one variant is not mixed")
    templates: dict[int, Compiled | Refusal] = {}
    # Templates live as long as this call, so an id is as good as the template, and cheaper to look up.
    parts: dict[tuple[int, Limits], list[int]] = {}
    keys: dict[int, tuple[int, Limits]] = {}
    for index, variant_at in enumerate(burst.variant_index[group.positions].tolist()):
        key = keys.get(variant_at)
        if key is None:
            variant = burst.variant(variant_at)
            template = template_of(variant)
            key = keys[variant_at] = (id(template), burst.source.limits(variant))
            templates[id(template)] = template
        parts.setdefault(key, []).append(index)
    few: list[int] = []
    for (template_id, _), indexes in parts.items():
        template = templates[template_id]
        if isinstance(template, Refusal):
            group.take(np.array(indexes)).refuse(Reason.CONTENT_REFUSED, template)
        elif len(indexes) < _COLUMN_ROWS_MIN:
            few += indexes
        else:
            render_columns(group.take(np.array(indexes)), _VariantContents, template)
    if few:
        few.sort()
        known = {at: templates[key[0]] for at, key in keys.items()}
        _render_few(group.take(np.array(few)), known, render_uniform)


class _VariantContents(VariableContents):
    """A variant for each row."""

    def __init__(self, group: Group) -> None:
        variant_index = group.burst.variant_index
        assert variant_index is not None
        self._variants = [group.burst.variant(at) for at in variant_index[group.positions].tolist()]
        super().__init__(group, self._variants[0])

    def texts(self) -> tuple[Pieces, Pieces]:
        if not self._burst.batch.variables:
            titles, bodies = [each.title for each in self._variants], [each.body for each in self._variants]
        else:
            rows = [self.texts_of(index) for index in range(len(self._variants))]
            titles, bodies = [title for title, _ in rows], [body for _, body in rows]
        return (TextColumn.from_texts(titles),), (TextColumn.from_texts(bodies),)

    def slot(self, name: str) -> Pieces:
        return super().slot(name) if self._burst.has_variable(name) else self._constants(name, in_json=True)

    def header(self, name: str) -> Pieces:
        return self._constants(name, in_json=False)

    def texts_of(self, index: int) -> tuple[str, str]:
        position, variant = int(self._positions[index]), self._variants[index]
        return self._burst.text_of_row(variant.title, position), self._burst.text_of_row(variant.body, position)

    def _constants(self, name: str, *, in_json: bool) -> Pieces:
        """What is the same for all rows of a variant: asked for once for all variants that agree in it."""
        fields = fields_of(name)
        known: dict[Hashable, bytes] = {}
        values: list[bytes] = []
        for variant in self._variants:
            key = fields(variant)
            value = known.get(key)
            if value is None:
                value = known[key] = self._burst.constant(name, variant, in_json=in_json)
            values.append(value)
        return (_piece_of(values),)


class _Way(NamedTuple):
    """What all rows of one template need, worked out once. names: slots whose values differ per row or variant.
    counted: those of them that count for the payload's size, with how often. parts: what is filled."""

    bulk: CompiledBulk | None
    names: tuple[str, ...]
    counted: tuple[tuple[str, int], ...]
    text_slots: tuple[str, ...]
    parts: TemplateParts


def _way(template: Compiled, n: int, *, counts_token: bool) -> _Way:
    bulk = _list_of(template, n)
    return _Way(
        bulk,
        (*(name for name, _ in template.body_slots), *(bulk.list_slots if bulk is not None else ())),
        tuple((name, count) for name, count in template.body_slots if counts_token or base_name(name) != "token"),
        template.text_slots if bulk is None else bulk.text_slots,
        template.body if bulk is None else bulk.lists[0].parts,
    )


def _render_few(group: Group, known: Mapping[int, Compiled | Refusal], render_uniform: RenderUniform) -> None:
    """The same, one row after the other. known: the template of each variant, by its index in the batch."""
    burst = group.burst
    n = len(group.positions)
    has_variables = bool(burst.batch.variables)
    assert burst.variant_index is not None
    indexes: list[int] = burst.variant_index[group.positions].tolist()
    rows: dict[str, list[bytes]] = {}
    buckets: dict[Hashable, _Bucket] = {}
    shapes: dict[tuple[int, bool], _Bucket] = {}
    refusals: dict[tuple[Reason, str, str], list[int]] = {}
    ways: dict[int, _Way] = {}
    counts_token = burst.source.limits(burst.variant(indexes[0])).counts_token
    for index, variant_at in enumerate(indexes):
        variant = burst.variant(variant_at)
        template = known[variant_at]
        assert isinstance(template, Compiled), "refused variants were left out"
        way = ways.get(id(template))
        if way is None:
            way = ways[id(template)] = _way(template, n, counts_token=counts_token)
            _need_rows(rows, group, template, way.bulk)
        bulk = way.bulk
        values = _body_values(group, variant, way.names, rows, index)
        was_cut = has_variables and _fit_variables(group, variant, values, index)
        if isinstance(was_cut, TooLong):
            refusals.setdefault((Reason.CONTENT_TOO_LONG, was_cut.field, was_cut.text), []).append(index)
            continue
        title, body = variant.title, variant.body
        if has_variables:
            position = int(group.positions[index])
            title, body = burst.text_of_row(title, position), burst.text_of_row(body, position)
        blank = group.blank(variant, template, title, body)
        if blank is not None:
            refusals.setdefault((Reason.CONTENT_REFUSED, blank.field, blank.text), []).append(index)
            continue
        overhead = template.constant_bytes
        for name, count in way.counted:
            overhead += count * len(values.get(name, b""))
        fitted = group.fit(variant, template, title, body, overhead)
        if isinstance(fitted, TooLong):
            refusals.setdefault((Reason.CONTENT_TOO_LONG, fitted.field, fitted.text), []).append(index)
            continue
        _put_texts(values, way.text_slots, fitted)
        header_values = [burst.constant(name, variant, in_json=False) for name in template.header_slots]
        shape = (id(template), variant.ttl_s == 0)
        bucket = shapes.get(shape)
        if bucket is None:
            bucket = shapes[shape] = _bucket_of(buckets, template, variant, bulk)
        bucket.indexes.append(index)
        bucket.truncated.append(fitted.was_cut or was_cut)
        if template.signed and bulk is None:
            for column, parts in zip(bucket.signed, template.signed, strict=True):
                if parts != _PAYLOAD:
                    column.append(_filled(parts, values))
            values["signature"] = _SIGNATURE
        bucket.bodies.append(_filled(way.parts, values))
        for column, value in zip(bucket.header_values, header_values, strict=True):
            column.append(value)
    for (reason, field, text), refused in refusals.items():
        group.take(np.array(refused)).refuse(reason, Refusal(field, text))
    for bucket in buckets.values():
        if bucket.is_listed:
            _add_list(group, bucket, render_uniform)
        else:
            _add_bucket(group, bucket)


def _filled(parts: TemplateParts, values: dict[str, bytes]) -> bytes:
    return b"".join([part if isinstance(part, bytes) else values[part.name] for part in parts])


def _need_rows(rows: dict[str, list[bytes]], group: Group, template: Compiled, bulk: CompiledBulk | None) -> None:
    """Columns that the templates met so far ask for, row by row."""
    wanted = (*_ROW_NAMES, *template.row_slots, *(bulk.list_slots if bulk is not None else ()))
    if all(name in rows for name in wanted):
        return
    names = [name for name in wanted if base_name(name) in _ROW_NAMES]
    pieces: dict[str, Pieces] = group.row_pieces(names)
    for name in wanted:
        if name not in rows and name in pieces:
            rows[name] = join(pieces[name], 0, len(group.positions))
        rows.setdefault(name, [])


def _put_texts(values: dict[str, bytes], names: tuple[str, ...], fitted: Fitted) -> None:
    for name in names:
        base, bar, chain = name.partition("|")
        if bar:
            values[name] = escape((fitted.title_text if base == "title" else fitted.body_text).encode(), chain)
        else:
            values[name] = fitted.title if base == "title" else fitted.body


def _body_values(
    group: Group,
    variant: Variant,
    names: Sequence[str],
    rows: dict[str, list[bytes]],
    index: int,
) -> dict[str, bytes]:
    """Slot name -> the value of one row, ready to stand inside a JSON string; texts come later."""
    burst = group.burst
    values: dict[str, bytes] = {}
    for name in names:
        if rows.get(name):
            values[name] = rows[name][index]
        elif burst.has_variable(name):
            position = int(group.positions[index])
            base, bar, chain = name.partition("|")
            value = burst.batch.variables[base[4:]].row(int(burst.rows[position]))
            values[name] = escape(value, chain) if bar else json_escape(value)
        else:
            values[name] = burst.constant(name, variant, in_json=True)
    return values


def _fit_variables(group: Group, variant: Variant, values: dict[str, bytes], index: int) -> bool | TooLong:
    """Whether what the row puts into fields by itself had to be cut, in values; or why it may not be."""
    burst, was_cut = group.burst, False
    limits = dict(burst.source.limits(variant).variables)
    if not limits:
        return False
    for name in [name for name in values if burst.has_variable(name)]:
        base, bar, chain = name.partition("|")
        limit = limits.get(base[4:])
        if limit is None:
            continue
        row = int(burst.rows[int(group.positions[index])])
        text = burst.batch.variables[base[4:]].row(row).decode()
        shorter = cut(text, limit.max, limit.unit, group.rule.mark if limit.has_mark else "")
        if not shorter.was_cut:
            continue
        if not group.rule.may_cut:
            return too_long(f"vars.{base[4:]}", measure(text, limit.unit), limit, burst.source.name)
        if group.out.cuts is not None:
            group.out.cuts.append(TextCut(f"vars.{base[4:]}", len(text), len(shorter.text)))
        values[name], was_cut = escape(shorter.text.encode(), chain if bar else "j"), True
    return was_cut


def _bucket_of(
    buckets: dict[Hashable, _Bucket], template: Compiled, variant: Variant, bulk: CompiledBulk | None
) -> _Bucket:
    """Rows share a group when path and headers agree and the expiry is equally wide ("0" or ten digits), so that the
    column stays fixed. Collapse ids may differ in width: a group for each width would be none at all."""
    key: Hashable = (template.layout, variant.ttl_s == 0 and "expires_or_zero" in template.header_slots)
    if bulk is not None:
        key = bulk.layout
    bucket = buckets.get(key)
    if bucket is None:
        bucket = buckets[key] = _Bucket(template, variant, is_listed=bulk is not None)
    return bucket


def _add_list(group: Group, bucket: _Bucket, render_uniform: RenderUniform) -> None:
    """Lists of the rows; one that would be alone in its list goes singly."""
    bulk = bucket.template.distinct
    assert bulk is not None
    n = len(bucket.indexes)
    n_lone = lone_rows(n, bulk.rows_max)
    n_listed = n - n_lone
    if n_listed:
        chosen = group.take(np.array(bucket.indexes[:n_listed]))
        truncated = np.array(bucket.truncated[:n_listed], np.bool_)
        add_rendered(chosen, bucket.variant, bulk, bucket.bodies[:n_listed], truncated)
    for index in bucket.indexes[n_listed:]:
        lone = group.take(np.array([index]))
        variant_index = group.burst.variant_index
        assert variant_index is not None
        render_uniform(lone, group.burst.variant(int(variant_index[int(group.positions[index])])))


def _add_bucket(group: Group, bucket: _Bucket) -> None:
    chosen = group.take(np.array(bucket.indexes))
    slots = chosen.row_pieces()
    for name, column in zip(bucket.template.header_slots, bucket.header_values, strict=True):
        slots[name] = (_piece_of(column),)
    bodies = bucket.bodies
    if bucket.signed:
        fields = [(_piece_of(column or bodies),) for column in bucket.signed]
        signatures = chosen.signature_slots(("signature", *bucket.template.signature_slots), fields, len(bodies))
        slots |= signatures
        if "signature" in {part.name for part in bucket.template.body if isinstance(part, Slot)}:
            made = join(signatures["signature"], 0, len(bodies))
            bodies = [body.replace(_SIGNATURE, signature) for body, signature in zip(bodies, made, strict=True)]
    chosen.add(bucket.template, slots, (TextColumn.from_rows(bodies),), np.array(bucket.truncated, np.bool_))


def _piece_of(values: list[bytes]) -> Piece:
    """The narrowest shape: a constant, a fixed-width column, or a ragged one."""
    if len(set(values)) == 1:
        return values[0]
    column = TextColumn.from_rows(values)
    fixed = column.fixed()
    return column if fixed is None else fixed
