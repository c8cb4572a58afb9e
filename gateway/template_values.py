"""Values of a variant as they stand in a JSON body template: user text with its `{{name}}` turned into slots.

Shared by everything that writes templates (vendor files, the long link's payload), so that all channels agree on what
a variable is and how a number of `data` reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import msgspec

from gateway.columns import json_escape
from gateway.content import Scalar, template_parts
from gateway.escapes import escape
from gateway.vendor import TemplateParts, parse_template, slot_text

_ENCODER = msgspec.json.Encoder()
#: RFC 6901 section 3: only ~0 and ~1 are escapes.
_BAD_ESCAPE = re.compile(r"~(?![01])")

#: No vendor's message is nested deeper than 8; the rest is room. Keeps every recursion over it short.
RAW_DEPTH_MAX = 32

#: What a template tree holds at its leaves: anything msgspec encodes; `msgspec.Raw` stands for slots.
Json: TypeAlias = object
Tree: TypeAlias = dict[str, Json]


def text_value(text: str, *, with_variables: bool) -> str | msgspec.Raw:
    """The text as a JSON string; with variables, each `{{name}}` is a slot `var:name` inside it."""
    if not with_variables or "{{" not in text:
        return text
    out = bytearray(b'"')
    for index, part in enumerate(template_parts(text)):
        out += slot_text(f"var:{part}") if index % 2 else json_escape(part.encode())
    out += b'"'
    return msgspec.Raw(bytes(out))


def scalar_value(value: Scalar, *, with_variables: bool) -> Json:
    """A value of `data` in its own JSON type."""
    return text_value(value, with_variables=with_variables) if isinstance(value, str) else value


def scalar_text(value: Scalar, *, with_variables: bool) -> str | msgspec.Raw:
    """A value of `data` as a JSON string, for vendors that take nothing else; numbers and booleans as JSON has them."""
    if isinstance(value, str):
        return text_value(value, with_variables=with_variables)
    return _ENCODER.encode(value).decode()


def layered(template: bytes, step: str) -> bytes:
    """The template bytes as they stand inside one more layer (gateway/escapes.py): constants are escaped now, slots
    learn of the step. A slot without steps stands in JSON already."""
    out = bytearray()
    for index, part in enumerate(template.split(b"\x00")):
        if index % 2:
            name = part.decode()
            out += slot_text(f"{name}{step}" if "|" in name else f"{name}|j{step}")
        else:
            out += escape(part, step)
    return bytes(out)


def json_text(tree: Json) -> msgspec.Raw:
    """A tree, slots and all, as the text of a JSON string: for vendors whose custom data is JSON in a string."""
    return msgspec.Raw(b'"' + layered(msgspec.json.encode(tree), "j") + b'"')


def form_text(text: str, *, with_variables: bool = False) -> bytes:
    """A text as template bytes of no layer yet, for `form_parts`; with variables, each `{{name}}` is a slot."""
    if not with_variables or "{{" not in text:
        return text.replace("\x00", "").encode()
    parts = template_parts(text)
    return b"".join(
        slot_text(f"var:{part}|") if index % 2 else part.replace("\x00", "").encode()
        for index, part in enumerate(parts)
    )


def form_parts(fields: Mapping[str, bytes]) -> TemplateParts:
    """A form's body from template bytes per field, in their order. A slot without `|` stands in JSON."""
    pairs = [name.encode() + b"=" + layered(value, "f") for name, value in fields.items()]
    return parse_template(b"&".join(pairs))


def with_slots(value: Json, *, with_variables: bool) -> Json:
    """A JSON value with the variables in its strings as slots: for parameters of vendors' templates."""
    if isinstance(value, str):
        return text_value(value, with_variables=with_variables)
    if isinstance(value, dict):
        return {key: with_slots(item, with_variables=with_variables) for key, item in value.items()}
    if isinstance(value, list):
        return [with_slots(item, with_variables=with_variables) for item in value]
    return value


def merge_patch(target: Tree, patch: Mapping[str, Json]) -> Tree:
    """The target after a JSON Merge Patch (RFC 7396): objects merge, null removes, everything else replaces.

    The target is changed in place and returned. Recursion goes as deep as the patch (see RAW_DEPTH_MAX).
    """
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            below = target.get(key)
            target[key] = merge_patch(below if isinstance(below, dict) else {}, value)
        else:
            target[key] = value
    return target


def raw_object(raw: Mapping[str, msgspec.Raw] | None, vendor: str) -> Tree | str:
    """The caller's raw JSON object for this vendor (empty when there is none), or what is wrong with it.

    A key that begins with `/` is a JSON pointer (RFC 6901) to the member it sets: `{"/aps/alert/title": "x"}` says what
    `{"aps": {"alert": {"title": "x"}}}` does. It goes through objects only; an array is replaced as a whole.
    """
    if raw is None or vendor not in raw:
        return {}
    try:
        value = _DECODE_RAW(raw[vendor])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"raw.{vendor} is not valid JSON"
    if not isinstance(value, dict):
        return f"raw.{vendor} is not a JSON object"
    pointers = [key for key in value if key.startswith("/")]
    tree: Tree = {key: item for key, item in value.items() if not key.startswith("/")} if pointers else value
    for pointer in pointers:
        wrong = _set_at(tree, pointer, value[pointer])
        if wrong:
            return f"raw.{vendor} has a pointer {wrong}"
    if not _is_within_depth(tree, RAW_DEPTH_MAX):
        return f"raw.{vendor} is nested deeper than {RAW_DEPTH_MAX} levels"
    return tree


def _set_at(tree: Tree, pointer: str, value: Json) -> str:
    """The tree has the value at the place the pointer names; or what is wrong with the pointer."""
    if _BAD_ESCAPE.search(pointer):
        return "with a ~ that is neither ~0 nor ~1"
    *path, last = [name.replace("~1", "/").replace("~0", "~") for name in pointer[1:].split("/")]
    if len(path) >= RAW_DEPTH_MAX:
        return f"of more than {RAW_DEPTH_MAX} levels"
    for name in path:
        below = tree.setdefault(name, {})
        if not isinstance(below, dict):
            return f"through {name[:64]!r}, which is no object"
        tree = below
    if last in tree:
        return f"to {last[:64]!r}, which is set twice"
    tree[last] = value
    return ""


def _is_within_depth(value: Json, levels: int) -> bool:
    below: Iterable[Json]
    if isinstance(value, dict):
        below = value.values()
    elif isinstance(value, list):
        below = value
    else:
        return True
    return levels > 0 and all(_is_within_depth(item, levels - 1) for item in below)


_DECODE_RAW: Callable[[bytes | msgspec.Raw], object] = msgspec.json.Decoder().decode
