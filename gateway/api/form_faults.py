"""What is wrong with a request's JSON: its field, value and limit, found by the types that it should have had.

msgspec says `Expected str of length <= 128`, without the length that came, and names an unknown key in its text only.
So a body that it refused is looked at once more, against the same types. Texts of callers (ids, tokens) are never
repeated; their lengths are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from msgspec import inspect

#: All that a msgspec decoder raises for bytes that it cannot read; bad UTF-8 comes as the codec's own error.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class FormFault(NamedTuple):
    field: str
    text: str
    value: int | None = None
    limit: int | None = None


_NAMES = {dict: "an object", list: "an array", str: "a text", bool: "a boolean", int: "a number", float: "a number"}


def form_fault(kind: type[msgspec.Struct], body: bytes) -> FormFault | None:
    """The first fault of a JSON text that is not such a Struct; None where these rules find none, or where what comes
    behind it is no JSON."""
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    try:
        found = msgspec.json.decode(body)
    except UNREADABLE:
        # The Struct's decoder stops at the first fault; what stands behind it may be no JSON, or none that anybody
        # reads.
        return None
    return next(_of_struct(described, found), None)


def _of_struct(described: inspect.StructType, found: object) -> Iterator[FormFault]:
    if not isinstance(found, dict):
        yield FormFault("body", f"body is {_name(found)}, expected an object")
        return
    fields = {field.encode_name: field for field in described.fields}
    for name in found:
        if name not in fields:
            yield FormFault(name[:128], f"{name[:128]} is no key of this request, expected some of {', '.join(fields)}")
    for name, field in fields.items():
        if name in found:
            yield from _of_value(field.type, found[name], name)
        elif field.required:
            yield FormFault(name, f"{name} is missing")


def _of_value(described: inspect.Type, found: object, name: str) -> Iterator[FormFault]:
    match described:
        case inspect.UnionType():
            if found is not None:
                plain = next(one for one in described.types if not isinstance(one, inspect.NoneType))
                yield from _of_value(plain, found, name)
        case inspect.StrType():
            if not isinstance(found, str):
                yield FormFault(name, f"{name} is {_name(found)}, expected a text")
                return
            yield from _of_size(name, len(found), "characters", described.min_length, described.max_length)
            if described.pattern is not None and not re.search(described.pattern, found):
                yield FormFault(name, f"{name} is {len(found)} characters that are not {described.pattern}")
        case inspect.ListType():
            if not isinstance(found, list):
                yield FormFault(name, f"{name} is {_name(found)}, expected an array")
                return
            yield from _of_size(name, len(found), "items", described.min_length, described.max_length)
            for index, item in enumerate(found):
                yield from _of_value(described.item_type, item, f"{name}[{index}]")
        case inspect.IntType():
            if not isinstance(found, int) or isinstance(found, bool):
                yield FormFault(name, f"{name} is {_name(found)}, expected a whole number")
                return
            for limit, is_beyond, word in (
                (described.le, found > (described.le or 0), "limit"),
                (described.ge, found < (described.ge or 0), "at least"),
            ):
                if limit is not None and is_beyond:
                    yield FormFault(name, f"{name} is {found}, {word} {limit}", found, int(limit))
        case inspect.BoolType():
            if not isinstance(found, bool):
                yield FormFault(name, f"{name} is {_name(found)}, expected a boolean")


def _of_size(name: str, size: int, unit: str, least: int | None, most: int | None) -> Iterator[FormFault]:
    if most is not None and size > most:
        yield FormFault(name, f"{name} is {size} {unit}, limit {most}", size, most)
    if least is not None and size < least:
        yield FormFault(name, f"{name} is {size} {unit}, at least {least}", size, least)


def _name(found: object) -> str:
    return "null" if found is None else _NAMES[type(found)]
