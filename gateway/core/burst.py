"""One burst while it is rendered: the rows' ids, times and credential, and what each slot stands for.

Slots are of three kinds. *Row slots* (token, message id) are columns. *Texts and variables* come from the variant and
the batch's variable columns. Everything else is *constant per variant* and burst: `constant` is the one place that
knows those names.
"""

from __future__ import annotations

import base64
import hashlib
import operator
import re
from collections.abc import Callable, Hashable
from datetime import UTC, datetime

from gateway import message_id
from gateway.batch import Batch
from gateway.columns import U16, Rows, TextColumn, json_escape
from gateway.content import Variant, template_parts, variant_for
from gateway.core.compiled import Source
from gateway.escapes import escape

_NUMBER_MAX = 2**31 - 1
_KEY8 = re.compile(r"[A-Za-z0-9_-]{1,8}")


def collapse_number(collapse_id: str) -> int:
    """What a collapse id is where a vendor wants a number: itself if it is one from 1 to 2^31 - 1, else a hash. Two ids
    may meet in one number; then one notification replaces another, once in 2 billion pairs."""
    if collapse_id.isascii() and collapse_id.isdigit() and len(collapse_id) <= 10:
        value = int(collapse_id)
        if 1 <= value <= _NUMBER_MAX and collapse_id == str(value):
            return value
    digest = hashlib.blake2b(collapse_id.encode(), digest_size=4, person=b"collapse").digest()
    return int.from_bytes(digest, "big") % _NUMBER_MAX + 1


def collapse_key8(collapse_id: str) -> bytes:
    """The same where a vendor wants up to 8 characters of A-Za-z0-9_-."""
    if _KEY8.fullmatch(collapse_id):
        return collapse_id.encode()
    digest = hashlib.blake2b(collapse_id.encode(), digest_size=6, person=b"collapse").digest()
    return base64.urlsafe_b64encode(digest)


#: Slots that are constant per variant follow from these of its fields, by how their names begin; others from none.
_FIELDS_OF = {
    "collapse_": operator.attrgetter("collapse_id"),
    "notify_": operator.attrgetter("collapse_id", "title", "body"),
    "ttl": operator.attrgetter("ttl_s"),
    "expires_": operator.attrgetter("ttl_s"),
}


def fields_of(name: str) -> Callable[[Variant], Hashable]:
    """What two variants of one template must share to have the same `Burst.constant` of this name."""
    return next((fields for start, fields in _FIELDS_OF.items() if name.startswith(start)), lambda _: None)


class Burst:
    """rows: positions in the batch. variant_index: (n,) or None when all rows have the batch's only variant.

    id_start, id_rests: the text of the rows' message ids, 26 characters that they share and (n, 10) uint8.
    """

    def __init__(self, source: Source, batch: Batch, rows: Rows, authorization: bytes, now_unix_s: float) -> None:
        self.source = source
        self.batch = batch
        self.rows = rows
        self.id_start, self.id_rests = message_id.text_parts(batch.message_ids.take(rows, axis=0))
        self.variant_index: U16 | None = None
        if batch.variant_index is not None and len(batch.variants) > 1:
            self.variant_index = batch.variant_index[rows]
        self._authorization = authorization
        self._now_unix_s = now_unix_s

    def variant(self, index: int) -> Variant:
        """The batch's variant of this index, as the source's devices read it."""
        return variant_for(self.batch.variants[index], self.source.name)

    def constant(self, name: str, variant: Variant, *, in_json: bool) -> bytes:
        """The value of a slot that is the same for all rows of the variant. Raises KeyError for an unknown name.

        in_json: it stands inside a JSON string, so text is escaped; in paths and headers it stands as it is. A name
        with steps (gateway/escapes.py) says itself how it stands.
        """
        base, bar, chain = name.partition("|")
        if bar:
            return escape(self._constant(base, variant), chain)
        value = self._constant(base, variant)
        return json_escape(value) if in_json and base == "collapse_id" else value

    def _constant(self, name: str, variant: Variant) -> bytes:
        match name:
            case "authorization":
                return self._authorization
            case "expires_unix_s":
                return b"%010d" % self._expires_unix_s(variant)
            case "expires_or_zero":
                return b"%010d" % self._expires_unix_s(variant) if variant.ttl_s else b"0"
            case "collapse_id":
                return variant.collapse_id.encode()
            case "collapse_number":
                return b"%d" % collapse_number(variant.collapse_id)
            case "collapse_key8":
                return collapse_key8(variant.collapse_id)
            case "notify_number":
                return b"%d" % collapse_number(variant.collapse_id or self._content_name(variant))
            case "notify_key8":
                return collapse_key8(variant.collapse_id or self._content_name(variant))
            case "ttl_left_s":
                return b"%d" % self._ttl_left_s(variant)
            case "now_unix_s":
                return b"%010d" % int(self._now_unix_s)
            case "now_utc":
                return datetime.fromtimestamp(int(self._now_unix_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
            case "now_unix_ms":
                return b"%013d" % int(self._now_unix_s * 1000)
        kind, _, rest = name.partition(":")
        if kind == "ttl_left_s":
            return b"%d" % min(self._ttl_left_s(variant), int(rest))
        if kind == "ttl":
            return self._ttl(variant, *rest.split(":"))
        if kind == "var":
            # A name nobody brings a column for stays as the caller wrote it.
            return b"{{" + rest.encode() + b"}}"
        raise KeyError(name)

    def _ttl(self, variant: Variant, unit: str, low: str, high: str) -> bytes:
        left_s = self._ttl_left_s(variant)
        match unit:
            case "s":
                value = left_s
            case "ms":
                value = left_s * 1000
            case "h":
                value = -(-left_s // 3600)
            case _:
                raise KeyError(unit)
        return b"%d" % min(max(value, int(low)), int(high))

    def _content_name(self, variant: Variant) -> str:
        """Tells this content from others, and stays the same on every attempt: a second copy replaces the first."""
        return f"{self.id_start.decode()}/{variant.title}/{variant.body}"

    def _expires_unix_s(self, variant: Variant) -> int:
        return self.batch.born_unix_ms // 1000 + variant.ttl_s

    def _ttl_left_s(self, variant: Variant) -> int:
        return max(0, int(self._expires_unix_s(variant) - self._now_unix_s))

    def has_variable(self, name: str) -> bool:
        """Whether the slot `var:NAME`, with or without steps, has a column in this batch."""
        return name.startswith("var:") and name[4:].partition("|")[0] in self.batch.variables

    def variables_in(self, text: str) -> bool:
        """Whether the text differs per row."""
        variables = self.batch.variables
        return bool(variables) and "{{" in text and any(name in variables for name in template_parts(text)[1::2])

    def variable(self, name: str, positions: Rows) -> TextColumn:
        """The values of `var:NAME` at these positions, as the caller sent them."""
        column = self.batch.variables[name[4:]]
        # Most columns have nothing to escape in JSON: one look for all bursts of the batch, and what is taken knows.
        _ = column.is_json_plain
        return column.take(self.rows[positions])

    def text_of_row(self, text: str, position: int) -> str:
        """The text with the variables of one row put in."""
        if not self.variables_in(text):
            return text
        variables = self.batch.variables
        row = int(self.rows[position])
        parts = template_parts(text)
        for index in range(1, len(parts), 2):
            column = variables.get(parts[index])
            parts[index] = column.row(row).decode() if column is not None else "{{" + parts[index] + "}}"
        return "".join(parts)
