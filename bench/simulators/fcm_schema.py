"""The message schema of FCM v1 as a literal table, and a strict reader of JSON by it.

Source: the discovery document of the FCM v1 API (fact sheet section 2.4). Like Google's JSON reader it accepts
snake_case and camelCase, takes null as absent, and reports unknown names and wrong types as field violations; all of
them, not only the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from bench.simulators.fcm_errors import Violation

Reader = Callable[[Any, str, list[Violation]], Any]
VIOLATIONS_MAX = 20  # reported per request


def _wrong(path: str, kind: str, value: Any, violations: list[Violation]) -> None:
    shown = "a value" if isinstance(value, dict | list) else repr(value)[:80]
    violations.append((path, f"Invalid value at '{path}' ({kind}), {shown}"))


def text(value: Any, path: str, violations: list[Violation]) -> Any:
    """A string."""
    if not isinstance(value, str):
        _wrong(path, "TYPE_STRING", value, violations)
    return value


def flag(value: Any, path: str, violations: list[Violation]) -> Any:
    """A bool."""
    if not isinstance(value, bool):
        _wrong(path, "TYPE_BOOL", value, violations)
    return value


def whole(value: Any, path: str, violations: list[Violation]) -> Any:
    """An int32; Google's reader also takes it as a string of digits."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,10}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
        _wrong(path, "TYPE_INT32", value, violations)
    return value


def number(value: Any, path: str, violations: list[Violation]) -> Any:
    """A float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        _wrong(path, "TYPE_FLOAT", value, violations)
    return value


def struct(value: Any, path: str, violations: list[Violation]) -> Any:
    """Any JSON object (google.protobuf.Struct)."""
    if not isinstance(value, dict):
        _wrong(path, "type.googleapis.com/google.protobuf.Struct", value, violations)
        return {}
    return value


def texts_map(value: Any, path: str, violations: list[Violation]) -> Any:
    """map<string, string>."""
    if not isinstance(value, dict):
        _wrong(path, "TYPE_MESSAGE", value, violations)
        return {}
    for index, item in enumerate(value.values()):
        if not isinstance(item, str):
            _wrong(f"{path}[{index}].value", "TYPE_STRING", item, violations)
    return value


def list_of(reader: Reader) -> Reader:
    """A JSON array whose items `reader` takes."""

    def read(value: Any, path: str, violations: list[Violation]) -> Any:
        if not isinstance(value, list):
            _wrong(path, "TYPE_MESSAGE", value, violations)
            return []
        return [reader(item, f"{path}[{index}]", violations) for index, item in enumerate(value)]

    return read


def enum(*names: str) -> Reader:
    """One of the names, in any case (the Admin SDK sends lower case), or its number."""

    def read(value: Any, path: str, violations: list[Violation]) -> Any:
        is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names)
        if not is_number and not (isinstance(value, str) and value.upper() in names):
            _wrong(path, "TYPE_ENUM", value, violations)
        return value

    return read


def duration(value: Any, path: str, violations: list[Violation]) -> Any:
    """google.protobuf.Duration as JSON: seconds with up to nine decimals and an 's'."""
    if not isinstance(value, str) or not re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,9})?s", value):
        kind = "type.googleapis.com/google.protobuf.Duration"
        violations.append((path, f"Invalid value at '{path}' ({kind}), Illegal duration format; must end with 's'"))
    return value


def timestamp(value: Any, path: str, violations: list[Violation]) -> Any:
    """google.protobuf.Timestamp as JSON: RFC 3339."""
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"
    if not isinstance(value, str) or not re.fullmatch(form, value):
        _wrong(path, "type.googleapis.com/google.protobuf.Timestamp", value, violations)
    return value


def record(fields: Mapping[str, Reader]) -> Reader:
    """A message with these fields (snake_case); camelCase names are accepted and read as snake_case."""
    names = {name: name for name in fields} | {_camel(name): name for name in fields}

    def read(value: Any, path: str, violations: list[Violation]) -> Any:
        if not isinstance(value, dict):
            _wrong(path, "TYPE_MESSAGE", value, violations)
            return {}
        read_fields: dict[str, Any] = {}
        for given, item in value.items():
            name = names.get(given)
            if name is None:
                place = f" at '{path}'" if path else ""
                unknown = f'Invalid JSON payload received. Unknown name "{given[:80]}"{place}: Cannot find field.'
                violations.append((path, unknown))
            elif name in read_fields:
                violations.append((path, f"Invalid value at '{path}', field '{name}' is set twice."))
            elif item is not None:
                read_fields[name] = fields[name](item, f"{path}.{name}" if path else name, violations)
            if len(violations) >= VIOLATIONS_MAX:
                break
        return read_fields

    return read


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_COLOR = record({"red": number, "green": number, "blue": number, "alpha": number})
_ANDROID_NOTIFICATION = record(
    {
        "title": text,
        "body": text,
        "icon": text,
        "color": text,
        "sound": text,
        "tag": text,
        "click_action": text,
        "body_loc_key": text,
        "body_loc_args": list_of(text),
        "title_loc_key": text,
        "title_loc_args": list_of(text),
        "channel_id": text,
        "ticker": text,
        "sticky": flag,
        "event_time": timestamp,
        "local_only": flag,
        "notification_priority": enum(
            "PRIORITY_UNSPECIFIED", "PRIORITY_MIN", "PRIORITY_LOW", "PRIORITY_DEFAULT", "PRIORITY_HIGH", "PRIORITY_MAX"
        ),
        "default_sound": flag,
        "default_vibrate_timings": flag,
        "default_light_settings": flag,
        "vibrate_timings": list_of(duration),
        "visibility": enum("VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"),
        "notification_count": whole,
        "light_settings": record({"color": _COLOR, "light_on_duration": duration, "light_off_duration": duration}),
        "image": text,
        "proxy": enum("PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"),
        "bypass_proxy_notification": flag,
        "id": whole,
    }
)
_ANDROID = record(
    {
        "collapse_key": text,
        "priority": enum("NORMAL", "HIGH"),
        "ttl": duration,
        "restricted_package_name": text,
        "data": texts_map,
        "notification": _ANDROID_NOTIFICATION,
        "fcm_options": record({"analytics_label": text}),
        "direct_boot_ok": flag,
        "bandwidth_constrained_ok": flag,
        "restricted_satellite_ok": flag,
    }
)
_WEBPUSH = record(
    {
        "headers": texts_map,
        "data": texts_map,
        "notification": struct,
        "fcm_options": record({"link": text, "analytics_label": text}),
    }
)
_APNS = record(
    {
        "headers": texts_map,
        "payload": struct,
        "live_activity_token": text,
        "fcm_options": record({"analytics_label": text, "image": text}),
    }
)
_MESSAGE = record(
    {
        "name": text,
        "data": texts_map,
        "notification": record({"title": text, "body": text, "image": text}),
        "android": _ANDROID,
        "webpush": _WEBPUSH,
        "apns": _APNS,
        "fcm_options": record({"analytics_label": text}),
        "token": text,
        "topic": text,
        "condition": text,
        "fid": text,
    }
)
_REQUEST = record({"validate_only": flag, "message": _MESSAGE})


def read_request(value: Any) -> tuple[dict[str, Any], list[Violation]]:
    """(request with snake_case names and without nulls, violations); use the first only when there are none."""
    violations: list[Violation] = []
    return _REQUEST(value, "", violations), violations[:VIOLATIONS_MAX]
