"""Rendering rows of many variants, few rows each: "single" traffic that was gathered into one batch.

A short loop, one row after the other. Rows whose templates agree in path and headers share one group of requests, their
bodies ragged, so that a burst of a thousand different messages is still one call to a connection.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeAlias

import numpy as np

from gateway.columns import Piece, TextColumn, join, json_escape
from gateway.content import Variant
from gateway.core.compiled import Compiled
from gateway.core.fit import TooLong
from gateway.core.rendered import Group
from gateway.ledger import Reason
from gateway.vendor import Refusal

TemplateOf: TypeAlias = Callable[[Variant], Compiled | Refusal]


class _Bucket:
    """Rows that will be one group of requests. indexes: into the group; the other lists run beside it."""

    __slots__ = ("bodies", "header_values", "indexes", "template", "truncated")

    def __init__(self, template: Compiled) -> None:
        self.template = template
        self.indexes: list[int] = []
        self.bodies: list[bytes] = []
        self.truncated: list[bool] = []
        self.header_values: list[list[bytes]] = [[] for _ in template.header_slots]


def render_mixed(group: Group, template_of: TemplateOf) -> None:
    """All rows of the group are rendered or refused."""
    burst = group.burst
    n = len(group.positions)
    variants = burst.batch.variants
    has_variables = bool(burst.batch.variables)
    if burst.variant_index is None:
        raise ValueError("a batch of one variant is not mixed")
    indexes: list[int] = burst.variant_index[group.positions].tolist()
    rows = {name: join(pieces, 0, n) for name, pieces in group.row_pieces().items()}
    buckets: dict[Hashable, _Bucket] = {}
    shapes: dict[tuple[int, bool], _Bucket] = {}
    refusals: dict[tuple[Reason, str, str], list[int]] = {}
    templates: dict[int, Compiled | Refusal] = {}
    for index, variant_at in enumerate(indexes):
        variant = variants[variant_at]
        template = templates.get(variant_at)
        if template is None:
            template = templates[variant_at] = template_of(variant)
        if isinstance(template, Refusal):
            refusals.setdefault((Reason.CONTENT_REFUSED, template.field, template.text), []).append(index)
            continue
        values = _body_values(group, variant, template, rows, index)
        title, body = variant.title, variant.body
        if has_variables:
            position = int(group.positions[index])
            title, body = burst.text_of_row(title, position), burst.text_of_row(body, position)
        overhead = template.constant_bytes
        for name, count in template.body_slots:
            overhead += count * len(values[name])
        fitted = group.fit(variant, template, title, body, overhead)
        if isinstance(fitted, TooLong):
            refusals.setdefault((Reason.CONTENT_TOO_LONG, fitted.field, fitted.text), []).append(index)
            continue
        values["title"], values["body"] = fitted.title, fitted.body
        header_values = [burst.constant(name, variant, in_json=False) for name in template.header_slots]
        # Templates live as long as this call, so an id is as good as the template, and cheaper to look up.
        shape = (id(template), variant.ttl_s == 0)
        bucket = shapes.get(shape)
        if bucket is None:
            bucket = shapes[shape] = _bucket_of(buckets, template, variant)
        bucket.indexes.append(index)
        bucket.truncated.append(fitted.was_cut)
        bucket.bodies.append(
            b"".join([part if isinstance(part, bytes) else values[part.name] for part in template.body])
        )
        for column, value in zip(bucket.header_values, header_values, strict=True):
            column.append(value)
    for (reason, field, text), refused in refusals.items():
        group.take(np.array(refused)).refuse(reason, Refusal(field, text))
    for bucket in buckets.values():
        _add_bucket(group, bucket)


def _body_values(
    group: Group, variant: Variant, template: Compiled, rows: dict[str, list[bytes]], index: int
) -> dict[str, bytes]:
    """Slot name -> the value of one row, ready to stand inside a JSON string; texts come later."""
    burst = group.burst
    values: dict[str, bytes] = {}
    for name, _ in template.body_slots:
        if name in rows:
            values[name] = rows[name][index]
        elif burst.has_variable(name):
            position = int(group.positions[index])
            values[name] = json_escape(burst.batch.variables[name[4:]].row(int(burst.rows[position])))
        else:
            values[name] = burst.constant(name, variant, in_json=True)
    return values


def _bucket_of(buckets: dict[Hashable, _Bucket], template: Compiled, variant: Variant) -> _Bucket:
    """Rows share a group when path and headers agree and the expiry is equally wide ("0" or ten digits), so that the
    column stays fixed. Collapse ids may differ in width: a group for each width would be none at all."""
    key = (template.layout, variant.ttl_s == 0 and "expires_or_zero" in template.header_slots)
    bucket = buckets.get(key)
    if bucket is None:
        bucket = buckets[key] = _Bucket(template)
    return bucket


def _add_bucket(group: Group, bucket: _Bucket) -> None:
    chosen = group.take(np.array(bucket.indexes))
    slots = chosen.row_pieces()
    for name, column in zip(bucket.template.header_slots, bucket.header_values, strict=True):
        slots[name] = (_piece_of(column),)
    body = TextColumn.from_rows(bucket.bodies)
    chosen.add(bucket.template, slots, (body,), np.array(bucket.truncated, np.bool_))


def _piece_of(values: list[bytes]) -> Piece:
    """The narrowest shape: a constant, a fixed-width column, or a ragged one."""
    if len(set(values)) == 1:
        return values[0]
    column = TextColumn.from_rows(values)
    fixed = column.fixed()
    return column if fixed is None else fixed
