"""The JSON payload of APNs: an object with `aps` of the documented types (fact sheet section 1.4).

Source: Apple, "Generating a remote notification" (tables of the aps, alert, sound and live activity keys).
Apple's device ignores what it does not know inside `aps`; here an unknown key there is reported, since it is always a
sender's mistake (custom keys go beside `aps`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_one(value: Any) -> bool:
    return value == 1 and not isinstance(value, bool)


def _is_flag(value: Any) -> bool:
    return value in (0, 1) and not isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


ALERT: Mapping[str, Check] = {
    "title": _is_text,
    "subtitle": _is_text,
    "body": _is_text,
    "launch-image": _is_text,
    "title-loc-key": _is_text,
    "title-loc-args": _is_texts,
    "subtitle-loc-key": _is_text,
    "subtitle-loc-args": _is_texts,
    "loc-key": _is_text,
    "loc-args": _is_texts,
}
SOUND: Mapping[str, Check] = {"critical": _is_flag, "name": _is_text, "volume": _is_fraction}
APS: Mapping[str, Check] = {
    "alert": lambda value: isinstance(value, str | dict),
    "badge": _is_count,
    "sound": lambda value: isinstance(value, str | dict),
    "thread-id": _is_text,
    "category": _is_text,
    "content-available": _is_one,
    "mutable-content": _is_one,
    "target-content-id": _is_text,
    "filter-criteria": _is_text,
    "interruption-level": lambda value: value in ("passive", "active", "time-sensitive", "critical"),
    "relevance-score": _is_number,
    "event": lambda value: value in ("start", "update", "end"),
    "content-state": _is_object,
    "timestamp": _is_count,
    "stale-date": _is_count,
    "dismissal-date": _is_count,
    "attributes-type": _is_text,
    "attributes": _is_object,
    "input-push-token": _is_one,
    "content-changed": lambda value: isinstance(value, bool),
}
VISIBLE = ("alert", "badge", "sound")


def fault_of_payload(payload: Any, push_type: str) -> str:
    """What is wrong with the decoded payload, naming the path, or "" when nothing is."""
    if not isinstance(payload, dict):
        return "the payload is not a JSON object"
    if push_type == "mdm":
        return "" if isinstance(payload.get("mdm"), str) else "mdm: a string (PushMagic) is expected"
    aps = payload.get("aps")
    if not isinstance(aps, dict):
        return "aps is missing or not an object"
    fault = _fault_of(aps, APS, "aps")
    if fault:
        return fault
    if isinstance(aps.get("alert"), dict) and (fault := _fault_of(aps["alert"], ALERT, "aps.alert")):
        return fault
    if isinstance(aps.get("sound"), dict) and (fault := _fault_of(aps["sound"], SOUND, "aps.sound")):
        return fault
    score = aps.get("relevance-score")
    if score is not None and push_type != "liveactivity" and not 0 <= score <= 1:
        return "aps.relevance-score is outside 0..1"
    if push_type == "liveactivity" and ("event" not in aps or "timestamp" not in aps):
        return "aps.event and aps.timestamp are required for a live activity"
    return ""


def fault_of_background(aps: Mapping[str, Any]) -> str:
    """What keeps `aps` from being a background notification, or ""."""
    if not _is_one(aps.get("content-available")):
        return "a background push needs aps.content-available 1"
    shown = [key for key in VISIBLE if key in aps]
    return f"a background push may not have aps.{shown[0]}" if shown else ""


def texts_of(payload: Mapping[str, Any]) -> tuple[str, str]:
    """(title, body) of the alert; absent = "", an alert that is a string is a body."""
    aps = payload.get("aps")
    alert = aps.get("alert") if isinstance(aps, dict) else None
    if isinstance(alert, str):
        return "", alert
    if isinstance(alert, dict):
        title, body = alert.get("title", ""), alert.get("body", "")
        return title if isinstance(title, str) else "", body if isinstance(body, str) else ""
    return "", ""


def _fault_of(value: Mapping[str, Any], table: Mapping[str, Check], path: str) -> str:
    for key, item in value.items():
        check = table.get(key)
        if check is None:
            return f"{path}.{key} is not a documented key"
        if not check(item):
            return f"{path}.{key} has a wrong type or value"
    return ""
