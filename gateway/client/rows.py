"""JSONL lines -> submit columns: what `pushgw submit FILE.jsonl` and the demo send. Contract of the first issue.

    line --parse_line--> rows (one per target) or LineFault --build_submits--> LineSubmit (columns + line numbers)

A line is one JSON object:

    to           32 hex digits, {"vendor", "token", "region"}, or a list of these; required unless the caller has a
                 default. region: of Xiaomi, OPPO and Meizu; absent: the app's main one
    title, body  required; one may be empty
    data ttl_s strategy category collapse_id badge sound image click plan_id custom_callback
                 optional, as in gateway/content.py
    vars         {name: text}; `{{name}}` is replaced only in lines that have `vars`

Category "marketing" makes the message of class marketing. An unknown key, a wrong type, a missing variable refuses the
line: one fault, whatever the number of its targets. Identical contents become one variant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, get_args, get_type_hints

import msgspec

from gateway.client.requests import UNSENT, Target, channel_and_token, little_endian, texts
from gateway.columns import TextColumn
from gateway.content import (
    Action,
    Click,
    FallbackStep,
    Scalar,
    Variant,
    check_variant,
    fallback_variables,
    variable_names,
)
from gateway.ledger import VENDOR_CHANNELS
from gateway.message_id import from_text
from gateway.regions import channel_name
from gateway.wire.rpc.limits import CONTENTS_MAX, TOKEN_BYTES_MAX, VARIABLES_MAX
from gateway.wire.rpc.messages import Submit

#: Rows of one submit: large enough that the cost per submit vanishes, small enough that two are under way at once.
ROWS_MAX = 10_000
#: Bytes of one submit, texts and tokens counted: half of the gateway's default frame.
BYTES_MAX = 8 << 20
MARKETING_CATEGORY = "marketing"
_DEFAULTS = Variant(title="", body="")


class LineFault(NamedTuple):
    """A refused line: one row in every count. line: from 1."""

    line: int
    field: str
    text: str


class Row(NamedTuple):
    """One target of one line. variables: None where the line had no `vars`."""

    line: int
    target: Target
    variant: Variant
    variables: Mapping[str, str] | None


class LineSubmit(NamedTuple):
    """A submit, and for each of its rows the line it came from."""

    submit: Submit
    lines: list[int]


class _Token(msgspec.Struct, forbid_unknown_fields=True):
    vendor: str
    token: str
    region: str = ""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """Types of the keys; what values may be is content.py's business."""

    title: str
    body: str
    to: str | _Token | list[str | _Token] | None = None
    data: dict[str, Scalar] | None = None
    ttl_s: int = _DEFAULTS.ttl_s
    strategy: int | dict[str, int] = _DEFAULTS.strategy
    category: str = ""
    collapse_id: str = ""
    badge: int | None = None
    sound: str = ""
    image: str = ""
    click: Click | None = None
    vars: dict[str, str] | None = None
    plan_id: str = ""
    custom_callback: str = ""
    action: Action = "notification"
    fallback: tuple[FallbackStep, ...] = ()


_EXPECTED = re.compile("Expected `(?P<expected>[^`]+)`, got `(?P<got>[^`]+)`")
_NO_CHOICE = re.compile("Invalid enum value (.+)")
_CHOICES = {"action": get_args(Action), "click.type": get_args(get_type_hints(Click)["type"])}
_TYPES = {field.name: field.type for field in msgspec.structs.fields(_Line)}


def parse_line(text: bytes | str, line: int, *, default_to: Target | None = None) -> list[Row] | LineFault:
    """The rows of one line, or the first thing that is wrong with it. line: its number, from 1."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return LineFault(line, "", f"not JSON: {str(error).removeprefix('JSON is malformed: ')}")
    if not isinstance(found, dict):
        return LineFault(line, "", "not a JSON object")
    fault = _shape_fault(found, line)
    if fault is not None:
        return fault
    parsed = msgspec.convert(found, _Line)
    targets = _targets(parsed, line, default_to)
    if isinstance(targets, LineFault):
        return targets
    variant = Variant(
        title=parsed.title,
        body=parsed.body,
        data=parsed.data,
        ttl_s=parsed.ttl_s,
        strategy=parsed.strategy,
        category=parsed.category,
        collapse_id=parsed.collapse_id,
        badge=parsed.badge,
        sound=parsed.sound,
        image=parsed.image,
        click=parsed.click,
        class_="marketing" if parsed.category == MARKETING_CATEGORY else "system",
        plan_id=parsed.plan_id,
        custom_callback=parsed.custom_callback,
        action=parsed.action,
        fallback=parsed.fallback,
    )
    content_fault = check_variant(variant)
    if content_fault is not None:
        return LineFault(line, *content_fault)
    missing = fallback_variables(variant).difference(parsed.vars or {})
    if missing:
        return LineFault(line, "fallback", f"variable {min(missing)} is missing")
    if parsed.vars is not None:
        missing = variable_names(variant).difference(parsed.vars)
        if missing:
            return LineFault(line, "vars", f"variable {min(missing)} is missing")
        if len(parsed.vars) > VARIABLES_MAX:
            return LineFault(line, "vars", f"{len(parsed.vars)} variables, limit {VARIABLES_MAX}")
    return [Row(line, target, variant, parsed.vars) for target in targets]


def parse_lines(
    lines: Iterable[bytes | str], *, default_to: Iterator[Target] | None = None
) -> Iterator[Row | LineFault]:
    """Rows and faults in the order of the lines; empty lines are passed over. default_to: targets for lines without."""
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        # A line that has its own targets must not use one up.
        parsed = parse_line(text, number)
        if isinstance(parsed, LineFault) and parsed.field == "to" and parsed.text == _NO_TARGET and default_to:
            parsed = parse_line(text, number, default_to=next(default_to))
        if isinstance(parsed, LineFault):
            yield parsed
        else:
            yield from parsed


_NO_TARGET = "to is required"


def _shape_fault(found: dict[str, Any], line: int) -> LineFault | None:
    """The first key that is unknown, missing or of the wrong type, by its name."""
    for key in found:
        if key not in _TYPES:
            return LineFault(line, key[:64], f"unknown key {key[:64]!r}")
    for key in ("title", "body"):
        if key not in found:
            return LineFault(line, key, f"{key} is required")
    if found.get("strategy") == 0:
        return LineFault(line, "strategy", "strategy is 0, expected 1, 2, 3 or 4")
    for key, value in found.items():
        try:
            msgspec.convert(value, _TYPES[key])
        except msgspec.ValidationError as error:
            return LineFault(line, key, _wrong_type(key, value, error))
    return None


def _is_good(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _wrong_type(key: str, value: Any, error: msgspec.ValidationError) -> str:
    """What msgspec found, in the words of the other faults: where it stands, what it is, what was expected."""
    said, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`")
    if path == "[...]":
        # One of the values of `data`, `vars` or `strategy`: msgspec does not say which.
        path = next(f".{name[:64]}" for name in value if not _is_good({name: value[name]}, _TYPES[key]))
    where = key + path
    wrong = _EXPECTED.fullmatch(said)
    if wrong is not None:
        return f"{where} is {wrong['got']}, expected {wrong['expected'].replace(' | ', ' or ')}"
    choice = _NO_CHOICE.fullmatch(said)
    if choice is not None and where in _CHOICES:
        return f"{where} is {choice[1][:64]}, expected one of {', '.join(_CHOICES[where])}"
    return f"{where}: {said}"


def _targets(parsed: _Line, line: int, default_to: Target | None) -> list[Target] | LineFault:
    if parsed.to is None:
        return LineFault(line, "to", _NO_TARGET) if default_to is None else [default_to]
    out: list[Target] = []
    for target in parsed.to if isinstance(parsed.to, list) else [parsed.to]:
        if isinstance(target, _Token):
            if target.vendor not in VENDOR_CHANNELS:
                return LineFault(line, "to", f"vendor {target.vendor[:64]!r} is not known")
            try:
                channel = channel_name(target.vendor, target.region)
            except ValueError as error:
                return LineFault(line, "to", str(error))
            size = len(target.token)
            if not 0 < size <= TOKEN_BYTES_MAX or not target.token.isascii():
                return LineFault(line, "to", f"token is {size} characters, expected 1 to {TOKEN_BYTES_MAX} of ASCII")
            out.append((channel, target.token))
        else:
            device_id = from_text(target) if len(target) == 32 else None
            if device_id is None:
                return LineFault(line, "to", "device id is not 32 hex digits")
            out.append(device_id)
    return out or LineFault(line, "to", "to is an empty list")


class _Columns:
    """Rows gathered for one submit. All have variables or none has."""

    def __init__(self, *, has_variables: bool) -> None:
        self.has_variables = has_variables
        self.lines: list[int] = []
        self.size = 0
        self._contents: list[Variant] = []
        self._position: dict[bytes, int] = {}
        self._index: list[int] = []
        self._ids = bytearray()
        self._vendors: list[str] = []
        self._vendor_index = bytearray()
        self._tokens: list[bytes] = []
        self._values: dict[str, dict[int, bytes]] = {}

    def has_room(self, row: Row, rows_max: int, bytes_max: int) -> bool:
        if len(self.lines) >= rows_max or self.size >= bytes_max or len(self._contents) >= CONTENTS_MAX:
            return False
        names = self._values.keys() | (row.variables or {}).keys()
        return len(names) <= VARIABLES_MAX

    def add(self, row: Row) -> None:
        key = msgspec.msgpack.encode(row.variant)
        position = self._position.get(key)
        if position is None:
            position = self._position[key] = len(self._contents)
            self._contents.append(row.variant)
            self.size += len(key)
        number = len(self.lines)
        self._index.append(position)
        self.lines.append(row.line)
        if isinstance(row.target, tuple):
            vendor, token = channel_and_token(row.target)
            if vendor not in self._vendors:
                self._vendors.append(vendor)
            self._vendor_index.append(self._vendors.index(vendor) + 1)
            self._tokens.append(token.encode())
            self._ids += bytes(16)
        else:
            self._vendor_index.append(0)
            self._tokens.append(b"")
            self._ids += row.target if isinstance(row.target, bytes) else bytes.fromhex(row.target)
        self.size += 32 + len(self._tokens[-1])
        for name, value in (row.variables or {}).items():
            encoded = value.encode()
            self._values.setdefault(name, {})[number] = encoded
            self.size += 4 + len(encoded)

    def submit(self, request_id: str, group: str, task_id: bytes | None, *, allow_duplicates: bool) -> LineSubmit:
        n = len(self.lines)
        variables = None
        if self.has_variables:
            # A row without a value has a content that does not ask for it (parse_line has checked).
            variables = {
                name: texts(TextColumn.from_rows([values.get(row, b"") for row in range(n)]))
                for name, values in self._values.items()
            }
        only_tokens = bool(self._vendors) and 0 not in self._vendor_index
        request = Submit(
            id=UNSENT,
            contents=self._contents,
            n=n,
            index=little_endian(self._index, "<u2") if len(self._contents) > 1 else None,
            device_ids=None if only_tokens else memoryview(bytes(self._ids)),
            vendors=self._vendors,
            vendor_index=memoryview(bytes(self._vendor_index)) if self._vendors else None,
            tokens=texts(TextColumn.from_rows(self._tokens)) if self._vendors else None,
            variables=variables,
            request_id=request_id,
            allow_duplicates=allow_duplicates,
            group=group,
            task_id=task_id,
        )
        return LineSubmit(request, self.lines)


def build_submits(
    rows: Iterable[Row],
    *,
    rows_max: int = ROWS_MAX,
    bytes_max: int = BYTES_MAX,
    request_id: str = "",
    group: str = "",
    task_id: bytes | None = None,
    allow_duplicates: bool = False,
) -> Iterator[LineSubmit]:
    """Submits that together hold every row once, rows with variables apart from rows without, each in their order.

    request_id: made different per submit by a number behind it; "": the client makes one. task_id: of an earlier task
    that all rows become part of.
    """
    open_columns: dict[bool, _Columns] = {}
    made = 0

    def close(columns: _Columns) -> LineSubmit:
        nonlocal made
        made += 1
        name = f"{request_id}-{made}" if request_id else ""
        return columns.submit(name, group, task_id, allow_duplicates=allow_duplicates)

    for row in rows:
        has_variables = row.variables is not None
        columns = open_columns.get(has_variables)
        if columns is not None and not columns.has_room(row, rows_max, bytes_max):
            yield close(open_columns.pop(has_variables))
            columns = None
        if columns is None:
            columns = open_columns[has_variables] = _Columns(has_variables=has_variables)
        columns.add(row)
    for columns in open_columns.values():
        yield close(columns)
