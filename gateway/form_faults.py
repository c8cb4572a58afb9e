"""What is wrong with a request's form: its field, value and limit, found by the types that it should have had.

msgspec says `Expected str of length <= 128`, without the length that came, and names an unknown key in its text only.
So what it refused, JSON or MessagePack, is looked at once more, against the same types. Texts of callers (ids, tokens)
are never repeated; their lengths are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
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


_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a text",
    bytes: "bytes",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}
_described = cache(inspect.type_info)


def form_fault(kind: type[msgspec.Struct], found: object, whole: str = "body") -> FormFault | None:
    """The first fault of what was decoded without types and is not such a Struct; None where these rules find none.

    whole: what a fault that is none of a field is called.
    """
    described = _described(kind)
    assert isinstance(described, inspect.StructType)
    return next(_of_struct(described, found, whole, ""), None)


def _of_struct(described: inspect.StructType, found: object, place: str, prefix: str) -> Iterator[FormFault]:
    if not isinstance(found, dict):
        yield FormFault(place, f"{place} is {_name(found)}, expected an object")
        return
    fields = {field.encode_name: field for field in described.fields}
    for key in found if described.forbid_unknown_fields else ():
        if key not in fields and key != described.tag_field:
            name = f"{prefix}{key}"[:128]
            yield FormFault(name, f"{name} is no key of this request, expected some of {', '.join(fields)}")
    for key, field in fields.items():
        if key in found:
            yield from _of_value(field.type, found[key], prefix + key)
        elif field.required:
            yield FormFault(prefix + key, f"{prefix}{key} is missing")


def _of_value(described: inspect.Type, found: object, name: str) -> Iterator[FormFault]:
    match described:
        case inspect.UnionType():
            plain = [one for one in described.types if not isinstance(one, inspect.NoneType)]
            if len(plain) == 1 and found is not None:
                yield from _of_value(plain[0], found, name)
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
        case inspect.FloatType():
            if not isinstance(found, int | float) or isinstance(found, bool):
                yield FormFault(name, f"{name} is {_name(found)}, expected a number")
            elif not math.isfinite(found):
                yield FormFault(name, f"{name} is {found}, expected a finite number")
            elif described.le is not None and found > described.le:
                yield FormFault(name, f"{name} is {found:g}, limit {described.le:g}")
            elif described.gt is not None and found <= described.gt:
                yield FormFault(name, f"{name} is {found:g}, expected more than {described.gt:g}")
            elif described.ge is not None and found < described.ge:
                yield FormFault(name, f"{name} is {found:g}, at least {described.ge:g}")
        case inspect.BytesType() | inspect.MemoryViewType():
            if not isinstance(found, bytes):
                yield FormFault(name, f"{name} is {_name(found)}, expected bytes")
                return
            yield from _of_size(name, len(found), "bytes", described.min_length, described.max_length)
        case inspect.DictType():
            if not isinstance(found, dict):
                yield FormFault(name, f"{name} is {_name(found)}, expected an object")
                return
            yield from _of_size(name, len(found), "keys", described.min_length, described.max_length)
            for key, value in found.items():
                yield from _of_value(described.value_type, value, f"{name}.{key}"[:128])
        case inspect.LiteralType():
            if found not in described.values:
                words = ", ".join(map(str, described.values))
                yield FormFault(name, f"{name} is none of {words}")
        case inspect.StructType():
            yield from _of_struct(described, found, name, f"{name}.")
        case inspect.BoolType():
            if not isinstance(found, bool):
                yield FormFault(name, f"{name} is {_name(found)}, expected a boolean")


def _of_size(name: str, size: int, unit: str, least: int | None, most: int | None) -> Iterator[FormFault]:
    if most is not None and size > most:
        yield FormFault(name, f"{name} is {size} {unit}, limit {most}", size, most)
    if least is not None and size < least:
        yield FormFault(name, f"{name} is {size} {unit}, at least {least}", size, least)


def _name(found: object) -> str:
    return "null" if found is None else _NAMES.get(type(found), "something else")
