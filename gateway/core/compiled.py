"""Request templates as the renderer uses them, and the cache that keeps them.

A vendor's template holds for every title, body, TTL (but 0) and collapse id, so one template serves all variants that
agree in the rest. The cache is bounded; a miss costs 10 to 20 us.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from gateway.content import Variant
from gateway.vendor import BulkTemplate, Limits, Refusal, RequestTemplate, RowList, SignedFields, Slot, TemplateParts

_ENCODER = msgspec.json.Encoder()

#: Slots whose value is a column of its own in every group, never a constant or a text.
ROW_SLOTS = frozenset({"token", "message_id", "address"})
#: The request's body, where it is signed.
PAYLOAD = "payload"
#: The two texts that are cut to a vendor's limits.
TEXTS = frozenset({"title", "body"})


class Source(Protocol):
    """Who makes templates: a vendor, or the long link's payload."""

    @property
    def name(self) -> str: ...

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal: ...

    def limits(self, variant: Variant) -> Limits: ...


class CompiledBulk(NamedTuple):
    """A request of many rows, with what the renderer asks of it.

    list_slots: what the lists hold per row, body_slots: what stands around them; names with how often, texts and the
    lists themselves left out. header_slots as in Compiled. constant_bytes: of the body around the lists, and where each
    row has texts of its own, of one row.
    """

    path: TemplateParts
    headers: tuple[tuple[bytes, TemplateParts], ...]
    body: TemplateParts
    lists: tuple[RowList, ...]
    rows_max: int
    signed: SignedFields
    save: Compiled | None
    constant_bytes: int
    body_slots: tuple[tuple[str, int], ...]
    list_slots: tuple[str, ...]
    header_slots: tuple[str, ...]
    text_slots: tuple[str, ...]
    signature_slots: tuple[str, ...]
    layout: Hashable


class Compiled(NamedTuple):
    """A template with what the renderer asks of it per row.

    constant_bytes: the body's bytes that are the same in all rows. body_slots: name -> how often, texts left out.
    row_slots: those among them that are columns; text_slots: how title and body stand in it, n_title and n_body times.
    header_slots: names in path and headers whose value follows from the variant. has_id_in_head: the message id stands
    there too. signature_slots: names of signatures and of parts of them, wherever they stand. layout: equal for
    templates whose rows may stand in one group of requests.
    """

    path: TemplateParts
    headers: tuple[tuple[bytes, TemplateParts], ...]
    body: TemplateParts
    constant_bytes: int
    body_slots: tuple[tuple[str, int], ...]
    row_slots: tuple[str, ...]
    text_slots: tuple[str, ...]
    header_slots: tuple[str, ...]
    has_id_in_head: bool
    n_title: int
    n_body: int
    layout: Hashable
    signed: SignedFields = ()
    shared: CompiledBulk | None = None
    distinct: CompiledBulk | None = None
    signature_slots: tuple[str, ...] = ()


#: What the cache holds: a refusal is as good an answer as a template.
Outcome: TypeAlias = Compiled | Refusal


def _slots_of(parts: TemplateParts) -> dict[str, int]:
    """Name -> how often."""
    counts: dict[str, int] = {}
    for part in parts:
        if isinstance(part, Slot):
            counts[part.name] = counts.get(part.name, 0) + 1
    return counts


def _signed_slots(fields: SignedFields) -> set[str]:
    """Names in the fields, but the body's."""
    return {name for field in fields for name in _slots_of(field)} - {PAYLOAD}


def _constant_bytes(parts: TemplateParts) -> int:
    return sum(len(part) for part in parts if isinstance(part, bytes))


def base_name(name: str) -> str:
    """The name of a slot without its steps."""
    return name.partition("|")[0]


def _is_signature(name: str) -> bool:
    return name.partition(":")[0] == "signature"


def _signature_slots(*slots: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for names in slots for name in names if _is_signature(name)}))


def _head_slots(path: TemplateParts, headers: tuple[tuple[bytes, TemplateParts], ...]) -> set[str]:
    return set(_slots_of((*path, *(part for _, value in headers for part in value))))


def compile_template(template: RequestTemplate) -> Compiled:
    counts = _slots_of(template.body)
    for name in _signed_slots(template.signed):
        # What is only signed needs its value as well; it is no part of the payload.
        counts.setdefault(name, 0)
    head_slots = _head_slots(template.path, template.headers)
    signatures = _signature_slots(counts, head_slots)
    for name in signatures:
        counts.pop(name, None)
    texts = {name: counts.pop(name) for name in list(counts) if base_name(name) in TEXTS}
    return Compiled(
        template.path,
        template.headers,
        template.body,
        _constant_bytes(template.body),
        tuple(counts.items()),
        tuple(name for name in counts if base_name(name) in ROW_SLOTS),
        tuple(texts),
        tuple(sorted(head_slots - ROW_SLOTS - {*signatures})),
        "message_id" in head_slots,
        sum(count for name, count in texts.items() if base_name(name) == "title"),
        sum(count for name, count in texts.items() if base_name(name) == "body"),
        (template.path, template.headers),
        template.signed,
        None if template.shared is None else _compile_bulk(template.shared),
        None if template.distinct is None else _compile_bulk(template.distinct),
        signatures,
    )


def _compile_bulk(template: BulkTemplate) -> CompiledBulk:
    names = {row_list.name for row_list in template.lists}
    around = _slots_of(template.body)
    for name in _signed_slots(template.signed):
        around.setdefault(name, 0)
    head_slots = _head_slots(template.path, template.headers)
    signatures = _signature_slots(around, head_slots)
    for name in head_slots & {"address"}:
        around.setdefault(name, 0)
    for name in [*names, *signatures, "saved"]:
        around.pop(name, None)
    listed: dict[str, int] = {}
    for row_list in template.lists:
        listed |= _slots_of(row_list.parts)
    texts = [name for name in (*around, *listed) if base_name(name) in TEXTS]
    for name in texts:
        around.pop(name, None)
    return CompiledBulk(
        template.path,
        template.headers,
        template.body,
        template.lists,
        template.rows_max,
        template.signed,
        None if template.save is None else compile_template(template.save),
        _constant_bytes(template.body),
        tuple(around.items()),
        tuple(name for name in listed if name not in texts),
        tuple(sorted(head_slots - {"saved", "address", *signatures})),
        tuple(texts),
        signatures,
        (template.path, template.headers, template.body),
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
        variant.ttl_s == 0,
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
