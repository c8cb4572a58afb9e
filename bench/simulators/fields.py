"""Checks of fields, put together into a description of a request's body. Pure.

A check is called with a value and its path and yields every fault it finds; `record` and `each` call the checks of what
they hold. Words are ours: a vendor file maps a fault to the vendor's code, or has `coded` name it in the description.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

SECONDS_FORM = re.compile(r"[0-9]{1,10}s")
Kind = Literal["missing", "unknown", "type", "value", "variant"]  # the last is no fault: counted, not refused


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field. code: the vendor's, where the description names one."""

    path: str
    text: str
    kind: Kind
    code: str = ""

    def __str__(self) -> str:
        return f"{self.path or 'body'}: {self.text}"


Check = Callable[[Any, str], Iterator[Fault]]


def text(n_max: int = 65_536, n_min: int = 0, form: re.Pattern[str] | None = None) -> Check:
    """A string of n_min..n_max characters (code points) that `form` takes as a whole."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, str):
            yield Fault(path, f"is {kind_of(value)}, expected a string", "type")
        elif not n_min <= len(value) <= n_max:
            yield Fault(path, f"has {len(value)} characters, expected {n_min}..{n_max}", "value")
        elif form is not None and not form.fullmatch(value):
            yield Fault(path, f"is {value[:40]!r}, expected the form {form.pattern}", "value")

    return check


def octets(n_max: int) -> Check:
    """A string of at most n_max UTF-8 bytes."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, str):
            yield Fault(path, f"is {kind_of(value)}, expected a string", "type")
        elif (size := len(value.encode("utf-8", "surrogatepass"))) > n_max:
            yield Fault(path, f"is {size} bytes, limit {n_max}", "value")

    return check


def whole(least: int, most: int) -> Check:
    """An integer (not a flag, not a string) within bounds."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if isinstance(value, bool) or not isinstance(value, int):
            yield Fault(path, f"is {kind_of(value)}, expected an integer", "type")
        elif not least <= value <= most:
            yield Fault(path, f"is {value}, expected {least}..{most}", "value")

    return check


def digits(least: int, most: int) -> Check:
    """An integer within bounds, written as a string: what a form can carry."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, str) or not re.fullmatch(r"-?[0-9]{1,19}", value):
            yield Fault(path, f"is {str(value)[:40]!r}, expected an integer", "type")
        elif not least <= int(value) <= most:
            yield Fault(path, f"is {value}, expected {least}..{most}", "value")

    return check


def seconds_text(most: int, code_of_zero: str = "") -> Check:
    """1..most seconds, written as a string with an s behind."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        faults = list(text(form=SECONDS_FORM)(value, path))
        yield from faults
        if not faults and int(value[:-1]) == 0:
            yield Fault(path, "is 0s: over before it begins", "value", code_of_zero)
        elif not faults and int(value[:-1]) > most:
            yield Fault(path, f"is {value}, limit {most}s", "value")

    return check


def flag(value: Any, path: str) -> Iterator[Fault]:
    """true or false."""
    if not isinstance(value, bool):
        yield Fault(path, f"is {kind_of(value)}, expected true or false", "type")


def one_of(*values: Any) -> Check:
    """One of these values, type included (1 is not true)."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not any(value == one and type(value) is type(one) for one in values):
            shown = ", ".join(str(one) for one in values)
            yield Fault(path, f"is {str(value)[:40]!r}, expected one of {shown}", "value")

    return check


def each(item: Check, n_max: int, n_min: int = 0) -> Check:
    """A list of n_min..n_max values that `item` takes."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, list):
            yield Fault(path, f"is {kind_of(value)}, expected a list", "type")
            return
        if not n_min <= len(value) <= n_max:
            yield Fault(path, f"has {len(value)} items, expected {n_min}..{n_max}", "value")
        for index, one in enumerate(value):
            yield from item(one, f"{path}[{index}]")

    return check


def record(fields: Mapping[str, Check], required: Collection[str] = ()) -> Check:
    """An object with these fields; others are unknown."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield Fault(path, f"is {kind_of(value)}, expected an object", "type")
            return
        for name in required:
            if name not in value:
                yield Fault(join(path, name), "is missing", "missing")
        for name, one in value.items():
            found = fields.get(name)
            if found is None:
                yield Fault(join(path, name), "is not a documented field", "unknown")
            else:
                yield from found(one, join(path, name))

    return check


def texts_map(value: Any, path: str) -> Iterator[Fault]:
    """An object whose values are strings."""
    if not isinstance(value, dict):
        yield Fault(path, f"is {kind_of(value)}, expected an object", "type")
        return
    for name, one in value.items():
        if not isinstance(one, str):
            yield Fault(join(path, name), f"is {kind_of(one)}, expected a string", "type")


def an_object(value: Any, path: str) -> Iterator[Fault]:
    """An object of any content."""
    if not isinstance(value, dict):
        yield Fault(path, f"is {kind_of(value)}, expected an object", "type")


def json_text(n_max: int = 65_536) -> Check:
    """A string of at most n_max characters that holds a JSON object."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        faults = list(text(n_max)(value, path))
        yield from faults
        if not faults and not isinstance(parsed(value), dict):
            yield Fault(path, "does not hold a JSON object", "value")

    return check


def variant(check: Check) -> Check:
    """The same check for a field that some sources name and others do not: that it came is told too."""

    def wrapped(value: Any, path: str) -> Iterator[Fault]:
        yield Fault(path, "is named by some sources only", "variant")
        yield from check(value, path)

    return wrapped


def both(*checks: Check) -> Check:
    """All of these checks, each with its own faults."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        for one in checks:
            yield from one(value, path)

    return check


def coded(check: Check, code: str) -> Check:
    """The same check, whose faults carry the vendor's code."""

    def wrapped(value: Any, path: str) -> Iterator[Fault]:
        for fault in check(value, path):
            yield fault if fault.code else replace(fault, code=code)

    return wrapped


def parsed(value: str | bytes) -> Any:
    """The JSON value in `value`; None when it is no JSON (and for null)."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def to_json(value: Any) -> bytes:
    """`value` as compact JSON; what UTF-8 or 64 bits cannot hold (a lone surrogate that came in) is escaped."""
    try:
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError):
        return json.dumps(value, separators=(",", ":")).encode()


def join(path: str, name: str) -> str:
    """The path of a field in an object."""
    return f"{path}.{name}" if path else name


def kind_of(value: Any) -> str:
    """The JSON type of a value, for people."""
    names = {bool: "a flag", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def number(value: Any, path: str) -> Iterator[Fault]:
    """An integer or a fraction."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield Fault(path, f"is {kind_of(value)}, expected a number", "type")
