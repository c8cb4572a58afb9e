"""Links that a message opens, with the message id in their query: where a vendor echoes nothing, it is the only place
by which an app can tell a second copy, and by which a tap can be counted.

Source: RFC 3986 sections 3.4 and 3.5 (query before fragment).
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from gateway.columns import json_escape
from gateway.content import template_parts
from gateway.template_values import text_value
from gateway.vendor import slot_text

PARAMETER = "message_id"


def link(url: str, slot: str, *, with_variables: bool, parameter: str = PARAMETER) -> msgspec.Raw:
    """A JSON string: the URL with `parameter` in its query, whose value is the slot. No parameter: as it is."""
    head, mark, fragment = url.partition("#")
    out = bytearray(b'"')
    out += _inside(head, with_variables)
    if parameter:
        joint = "&" if "?" in head else "?"
        out += json_escape(f"{joint}{parameter}=".encode()) + slot_text(slot)
    out += _inside(mark + fragment, with_variables)
    out += b'"'
    return msgspec.Raw(bytes(out))


def query_value(text: str, *, with_variables: bool) -> bytes:
    """A text as the inside of a JSON string, encoded as a value of a query; variables are slots."""
    if not with_variables or "{{" not in text:
        return quote(text, safe="").encode()
    return b"".join(
        slot_text(f"var:{part}|f") if index % 2 else quote(part, safe="").encode()
        for index, part in enumerate(template_parts(text))
    )


def _inside(text: str, with_variables: bool) -> bytes:
    value = text_value(text, with_variables=with_variables)
    return bytes(value)[1:-1] if isinstance(value, msgspec.Raw) else json_escape(value.encode())
