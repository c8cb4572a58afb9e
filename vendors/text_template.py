"""Templates that a vendor keeps (SMS, WeChat): which one a message goes by, and what stands in its parameters.

Source: facts/vendors-china.md sections 6.5, 7A.5 and 7B.5 (2026-11). Where a vendor shows approved templates only,
title and body of a message become parameters. A parameter is a text of the configuration: `{{title}}`, `{{body}}` and
`{{data.KEY}}` are those of the message, any other `{{name}}` is a variable of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from gateway.columns import json_escape
from gateway.content import Variant, template_parts
from gateway.template_values import scalar_text
from gateway.vendor import FieldLimit, Refusal, slot_text

#: The template of categories that have none of their own.
DEFAULT = "default"
_TEXTS = ("title", "body")
_DATA = "data."


class TextTemplate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """id: the vendor's. params: the parameter's name (its place, where the vendor counts them) -> its text."""

    id: str
    params: dict[str, str] = msgspec.field(default_factory=dict)


def template_of(templates: Mapping[str, TextTemplate], category: str) -> TextTemplate | None:
    """The template of a category, else the default one."""
    return templates.get(category, templates.get(DEFAULT)) if category != DEFAULT else templates.get(DEFAULT)


def parameter(text: str, variant: Variant, *, with_variables: bool, steps: str = "") -> str | msgspec.Raw | Refusal:
    """A parameter as a JSON string with slots. steps: of gateway/escapes.py, before those of JSON, for what differs per
    row; what does not is the caller's to judge (`constant_text`)."""
    parts = template_parts(text)
    if len(parts) == 1:
        return text
    out = bytearray(b'"')
    for index, part in enumerate(parts):
        if not index % 2:
            out += json_escape(part.encode())
        elif part in _TEXTS:
            out += slot_text(f"{part}|{steps}j" if steps else part)
        elif part.startswith(_DATA):
            value = (variant.data or {}).get(part.removeprefix(_DATA))
            if value is None:
                return Refusal("data", f"data has no key {part.removeprefix(_DATA)}, which the template asks for")
            told = scalar_text(value, with_variables=with_variables)
            out += bytes(told)[1:-1] if isinstance(told, msgspec.Raw) else json_escape(told.encode())
        elif with_variables:
            out += slot_text(f"var:{part}|{steps}j" if steps else f"var:{part}")
        else:
            return Refusal("vars", f"the row has no variable {part}, which the template asks for")
    out += b'"'
    return msgspec.Raw(bytes(out))


class Rooms(NamedTuple):
    """What a template leaves for what differs per row. title, body: None where it has no place for them, or no
    limit."""

    title: FieldLimit | None
    body: FieldLimit | None
    variables: tuple[tuple[str, FieldLimit], ...]


class TemplateRooms:
    """The rooms of each template. limit_of: of a parameter, by its name. Those that no message's data changes are known
    from the beginning, since limits are asked for with every burst."""

    def __init__(self, templates: Mapping[str, TextTemplate], limit_of: Callable[[str], FieldLimit | None]) -> None:
        self._templates = templates
        self._limit_of = limit_of
        self._known = {
            name: _rooms(template, {}, limit_of)
            for name, template in templates.items()
            if not any(_DATA in text for text in template.params.values())
        }

    def of(self, variant: Variant) -> Rooms:
        """The room of each text and variable in the parameters it stands in: what the constant text leaves; several in
        one parameter share it evenly."""
        name = variant.category if variant.category in self._templates else DEFAULT
        known = self._known.get(name)
        if known is not None:
            return known
        return _rooms(template_of(self._templates, variant.category), variant.data or {}, self._limit_of)


def _rooms(
    template: TextTemplate | None, data: Mapping[str, object], limit_of: Callable[[str], FieldLimit | None]
) -> Rooms:
    found: dict[str, FieldLimit] = {}
    for name, text in template.params.items() if template is not None else ():
        limit = limit_of(name)
        if limit is None:
            continue
        constant, slots = _parts_of(text, data)
        each = max(0, limit.max - constant) // max(1, len(slots))
        for slot in slots:
            known = found.get(slot)
            if known is None or each < known.max:
                found[slot] = limit._replace(max=each, has_mark=limit.has_mark and (known is None or known.has_mark))
    title, body = found.pop("title", None), found.pop("body", None)
    return Rooms(title, body, tuple(sorted(found.items())))


def _parts_of(text: str, data: Mapping[str, object]) -> tuple[int, list[str]]:
    """Code points that are the same in all rows, and the names of what is not: title, body and variables."""
    constant, slots = 0, list[str]()
    for index, part in enumerate(template_parts(text)):
        if not index % 2:
            constant += len(part)
        elif not part.startswith(_DATA):
            slots.append(part)
        else:
            value = data.get(part.removeprefix(_DATA), "")
            pieces = template_parts(value) if isinstance(value, str) else [str(value)]
            constant += sum(map(len, pieces[::2]))
            slots += pieces[1::2]
    return constant, slots


def uses(template: TextTemplate, text: str) -> list[str]:
    """Names of the parameters in which `text` (title or body) stands."""
    return [name for name, value in template.params.items() if text in template_parts(value)[1::2]]


def constant_text(value: str | msgspec.Raw) -> str | None:
    """The text of a parameter that is the same in all rows; None for one that differs."""
    if isinstance(value, str):
        return value
    raw = bytes(value)
    if b"\x00" in raw:
        return None
    text: str = msgspec.json.decode(raw)
    return text
