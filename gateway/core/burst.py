"""One burst while it is rendered: the rows' ids, times and credential, and what each slot stands for.

Slots are of three kinds. *Row slots* (token, message id) are columns. *Texts and variables* come from the variant and
the batch's variable columns. Everything else is *constant per variant* and burst: `constant` is the one place that
knows those names.
"""

from __future__ import annotations

from gateway import message_id
from gateway.batch import Batch
from gateway.columns import U16, Rows, TextColumn, json_escape, json_escape_column
from gateway.content import Variant, template_parts
from gateway.core.compiled import Source


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

    def constant(self, name: str, variant: Variant, *, in_json: bool) -> bytes:
        """The value of a slot that is the same for all rows of the variant. Raises KeyError for an unknown name.

        in_json: it stands inside a JSON string, so text is escaped; in paths and headers it stands as it is.
        """
        match name:
            case "authorization":
                return self._authorization
            case "expires_unix_s":
                return b"%010d" % self._expires_unix_s(variant)
            case "expires_or_zero":
                return b"%010d" % self._expires_unix_s(variant) if variant.ttl_s else b"0"
            case "collapse_id":
                text = variant.collapse_id.encode()
                return json_escape(text) if in_json else text
            case "ttl_left_s":
                return b"%d" % self._ttl_left_s(variant)
        kind, _, rest = name.partition(":")
        if kind == "ttl_left_s":
            return b"%d" % min(self._ttl_left_s(variant), int(rest))
        if kind == "var":
            # A name nobody brings a column for stays as the caller wrote it.
            return b"{{" + rest.encode() + b"}}"
        raise KeyError(name)

    def _expires_unix_s(self, variant: Variant) -> int:
        return self.batch.born_unix_ms // 1000 + variant.ttl_s

    def _ttl_left_s(self, variant: Variant) -> int:
        return max(0, int(self._expires_unix_s(variant) - self._now_unix_s))

    def has_variable(self, name: str) -> bool:
        """Whether the slot `var:NAME` has a column in this batch."""
        return name.startswith("var:") and name[4:] in self.batch.variables

    def variables_in(self, text: str) -> bool:
        """Whether the text differs per row."""
        variables = self.batch.variables
        return bool(variables) and "{{" in text and any(name in variables for name in template_parts(text)[1::2])

    def variable(self, name: str, positions: Rows) -> TextColumn:
        """The values of `var:NAME` at these positions, as the caller sent them."""
        return self.batch.variables[name[4:]].take(self.rows[positions])

    def json_variable(self, name: str, positions: Rows) -> TextColumn:
        """The same as the inside of JSON strings. Most columns have nothing to escape, and know it."""
        values = self.variable(name, positions)
        return values if self.batch.variables[name[4:]].is_json_plain else json_escape_column(values)

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
