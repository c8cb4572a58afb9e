"""Request templates as the renderer uses them, and the cache that keeps them.

A vendor's template holds for every title, body, TTL and collapse id, so one template serves all variants that agree in
the rest. The cache is bounded; a miss costs 10 to 20 us.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from gateway.content import Variant
from gateway.vendor import Limits, Refusal, RequestTemplate, Slot, TemplateParts

_ENCODER = msgspec.json.Encoder()

#: Slots whose value is a column of its own in every group, never a constant or a text.
ROW_SLOTS = frozenset({"token", "message_id"})


class Source(Protocol):
    """Who makes templates: a vendor, or the long link's payload."""

    @property
    def name(self) -> str: ...

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal: ...

    def limits(self, variant: Variant) -> Limits: ...


class Compiled(NamedTuple):
    """A template with what the renderer asks of it per row.

    constant_bytes: the body's bytes that are the same in all rows. body_slots: name -> how often, texts left out.
    header_slots: names in path and headers whose value follows from the variant. has_id_in_head: the message id stands
    there too. layout: equal for templates whose
    rows may stand in one group of requests.
    """

    path: TemplateParts
    headers: tuple[tuple[bytes, TemplateParts], ...]
    body: TemplateParts
    constant_bytes: int
    body_slots: tuple[tuple[str, int], ...]
    header_slots: tuple[str, ...]
    has_id_in_head: bool
    n_title: int
    n_body: int
    layout: Hashable


#: What the cache holds: a refusal is as good an answer as a template.
Outcome: TypeAlias = Compiled | Refusal


def compile_template(template: RequestTemplate) -> Compiled:
    counts = {"title": 0, "body": 0}
    constant_bytes = 0
    for part in template.body:
        if isinstance(part, bytes):
            constant_bytes += len(part)
        else:
            counts[part.name] = counts.get(part.name, 0) + 1
    n_title, n_body = counts.pop("title"), counts.pop("body")
    parts = [*template.path, *(part for _, value in template.headers for part in value)]
    head_slots = {part.name for part in parts if isinstance(part, Slot)}
    return Compiled(
        template.path,
        template.headers,
        template.body,
        constant_bytes,
        tuple(counts.items()),
        tuple(sorted(head_slots - ROW_SLOTS)),
        "message_id" in head_slots,
        n_title,
        n_body,
        (template.path, template.headers),
    )


class TemplateCache:
    """Least recently used templates of at most `templates_max` kinds of variant."""

    def __init__(self, templates_max: int) -> None:
        self._templates_max = templates_max
        self._kept: OrderedDict[Hashable, Outcome] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, source: Source, variant: Variant, *, with_variables: bool) -> Outcome:
        key = _key(source, variant, with_variables)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            self.hits += 1
            return kept
        self.misses += 1
        template = source.template(variant, with_variables=with_variables)
        made = template if isinstance(template, Refusal) else compile_template(template)
        self._kept[key] = made
        if len(self._kept) > self._templates_max:
            self._kept.popitem(last=False)
        return made


def _key(source: Source, variant: Variant, with_variables: bool) -> Hashable:
    """Everything a template may depend on. data goes in as JSON, because 1 == True == 1.0 as a dictionary key."""
    raw = variant.raw
    return (
        source,
        with_variables,
        variant.category,
        not variant.collapse_id,
        variant.badge,
        variant.sound,
        variant.image,
        variant.click,
        variant.class_,
        variant.priority,
        variant.plan_id,
        variant.action,
        None if variant.data is None else _ENCODER.encode(variant.data),
        None if raw is None or source.name not in raw else bytes(raw[source.name]),
    )
