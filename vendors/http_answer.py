"""What all vendors' HTTP answers share: Retry-After, names fit for a metric label, verdicts by status class.

Source: RFC 9110 sections 10.2.3 (Retry-After), 5.6.7 (dates), 15 (status codes). Pure and total: arbitrary bytes never
raise here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from gateway.verdict import Answer, Scope, Verdict

#: A vendor that asks for more than a day is not believed: no TTL-bound row should wait on a typing error.
RETRY_AFTER_S_MAX = 86_400.0
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
#: Ids of requests: what the sheets show, and no more than a log line bears.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_DECODER = msgspec.json.Decoder()


def retry_after_s(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds to wait by Retry-After: decimal seconds, or an HTTP date measured against the answer's own Date.

    Without a Date header the date form is not used (None): a vendor file has no clock, and two clocks would mix.
    """
    value = headers.get(b"retry-after", b"").strip()
    if not value:
        return None
    if value.isdigit():
        seconds = float(value) if len(value) <= 9 else RETRY_AFTER_S_MAX
        return min(seconds, RETRY_AFTER_S_MAX)
    until, now = _date(value), _date(headers.get(b"date", b""))
    if until is None or now is None:
        return None
    return min(max((until - now).total_seconds(), 0.0), RETRY_AFTER_S_MAX)


def _date(value: bytes) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(value.decode("ascii"))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # "-0000" gives a naive time; HTTP dates are always GMT.
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def decode_object(body: bytes) -> dict[str, object]:
    """The JSON object in an answer's body; empty for anything else."""
    try:
        value = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def id_of(body: bytes, keys: Sequence[str]) -> str:
    """The text or number under the first of the keys (dotted: nested) that the JSON object in a body has; "" for none,
    and for one that has not the form of an id."""
    fields = decode_object(body) if keys else {}
    for key in keys:
        value: object = fields
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        # Longer numbers than that are none of ours, and Python may refuse to write them.
        is_number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64
        text = str(value) if isinstance(value, str) or is_number else ""
        if _ID.fullmatch(text):
            return text
    return ""


def text_of(value: object) -> str:
    """A JSON string, or "" for a value of another type."""
    return value if isinstance(value, str) else ""


def code_of(value: object) -> str:
    """A business code as text, whether it came as a number or as a string; "" for anything else."""
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) >= 10**12):
        return ""
    text = str(value) if isinstance(value, int) else text_of(value).strip()
    digits = text.removeprefix("-")
    return text if digits.isascii() and digits.isdigit() and len(digits) <= 12 else ""


def counted_name(name: str, status: int) -> str:
    """The vendor's word for an answer as a metric label: itself when it looks like a code, else `http_<status>`."""
    return name if _NAME.fullmatch(name) else f"http_{status}"


def by_status_class(status: int, name: str, headers: Mapping[bytes, bytes]) -> Answer:
    """An answer that no table knows. Never unregisters a token, never counts as accepted what is not a 200."""
    name = counted_name(name, status)
    wait_s = retry_after_s(headers)
    match status:
        case 200:
            return Answer(Verdict.ACCEPTED)
        case 401 | 403:
            return Answer(Verdict.CREDENTIAL, name, Scope.APP, is_unknown=True)
        case 429:
            return Answer(Verdict.THROTTLED, name, Scope.APP, wait_s, is_unknown=True)
        case 408:
            return Answer(Verdict.UNAVAILABLE, name, Scope.APP, wait_s, is_unknown=True)
    if 400 <= status < 500:
        return Answer(Verdict.REJECTED, name, is_unknown=True)
    if 300 <= status < 400 or status >= 500:
        # A redirect comes from something between us and the vendor; the vendor itself took nothing.
        return Answer(Verdict.UNAVAILABLE, name, Scope.APP, wait_s, is_unknown=True)
    return Answer(Verdict.UNCERTAIN, name, is_unknown=True)
