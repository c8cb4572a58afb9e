"""Fitting the two texts of one row into a vendor's limits.

The order is fixed: each field to its own limit, then the body to what the payload has left, then, when not even an
empty body fits, the title. All sizes are those of the JSON text as it will be sent.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.columns import json_escape
from gateway.core.truncate import JSON_BYTES, cut, measure, shorten
from gateway.vendor import FieldLimit, Limits

_UNITS_READ_AS = {"code_points": "code points", "half_width": "half-width units", "utf8_bytes": "bytes"}


class Room(NamedTuple):
    """What one variant leaves for texts. n_title, n_body: how often the body template holds each.

    overhead_bytes: the rendered body without them.
    """

    limits: Limits
    overhead_bytes: int
    n_title: int
    n_body: int


class Fitted(NamedTuple):
    """Texts that fit. title, body: JSON-escaped, ready for their slots; title_text, body_text: as they are."""

    title: bytes
    body: bytes
    was_cut: bool
    title_text: str
    body_text: str


def _fitted(title: str, body: str, was_cut: bool) -> Fitted:
    return Fitted(json_escape(title.encode()), json_escape(body.encode()), was_cut, title, body)


class TooLong(NamedTuple):
    """Why no fitting was possible or allowed."""

    field: str
    text: str


def fit(title: str, body: str, room: Room, *, mark: str, may_cut: bool, channel: str) -> Fitted | TooLong:
    """Both texts within all limits, or the limit that cannot be kept. Cost is bounded by the limits."""
    limits = room.limits
    was_cut = False
    if limits.title is not None or limits.body is not None:
        if not may_cut:
            too_long = _check_field("title", title, limits.title, channel) or _check_field(
                "body", body, limits.body, channel
            )
            if too_long is not None:
                return too_long
        title, title_was_cut = _cut_field(title, limits.title, mark)
        body, body_was_cut = _cut_field(body, limits.body, mark)
        was_cut = title_was_cut or body_was_cut
    left = limits.payload_bytes_max - room.overhead_bytes
    # Every code point takes at least one byte, so texts far over the limit are not even escaped.
    if room.n_title * len(title) + room.n_body * len(body) <= left:
        escaped = _fitted(title, body, was_cut)
        if room.n_title * len(escaped.title) + room.n_body * len(escaped.body) <= left:
            return escaped
    if not may_cut:
        size = room.overhead_bytes + room.n_title * measure(title, JSON_BYTES) + room.n_body * measure(body, JSON_BYTES)
        if size <= limits.payload_bytes_max:
            return _fitted(title, body, was_cut)
        return TooLong("payload", f"payload is {size} bytes, limit {limits.payload_bytes_max} ({channel})")
    return _shorten(title, body, left, room, mark, was_cut, channel)


def _shorten(title: str, body: str, left: int, room: Room, mark: str, was_cut: bool, channel: str) -> Fitted | TooLong:
    """The body first, then the title. When nothing is left of any text, the rest alone is too long."""
    title_size = room.n_title * measure(title, JSON_BYTES) if room.n_title else 0
    if title_size <= left:
        # The two do not fit together, so the body is over what the title leaves.
        shorter = shorten(body, (left - title_size) // room.n_body, JSON_BYTES, mark).text
        if title or shorter:
            return _fitted(title, shorter, True)
    elif left > 0 and room.n_title:
        shorter = cut(title, left // room.n_title, JSON_BYTES, mark).text
        if shorter:
            return _fitted(shorter, "", True)
    limit = room.limits.payload_bytes_max
    return TooLong("payload", f"payload without texts is {room.overhead_bytes} bytes, limit {limit} ({channel})")


def _cut_field(text: str, limit: FieldLimit | None, mark: str) -> tuple[str, bool]:
    return (text, False) if limit is None else cut(text, limit.max, limit.unit, mark if limit.has_mark else "")


def too_long(field: str, length: int, limit: FieldLimit, channel: str) -> TooLong:
    """What a text of that length is told."""
    return TooLong(field, f"{field} is {length} {_UNITS_READ_AS[limit.unit]}, limit {limit.max} ({channel})")


def _check_field(field: str, text: str, limit: FieldLimit | None, channel: str) -> TooLong | None:
    if limit is None:
        return None
    length = measure(text, limit.unit)
    if length <= limit.max:
        return None
    return too_long(field, length, limit, channel)
