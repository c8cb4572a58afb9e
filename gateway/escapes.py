"""Escapes: how a value is written where it stands, one step per layer around it.

A value may stand in a JSON string that stands in a JSON string that stands in a form field. Each layer is one letter,
innermost first: `j` the inside of a JSON string (RFC 8259 section 7), `f` a value of application/x-www-form-urlencoded
(WHATWG URL, section 5; a blank as %20, which every reader takes). `l`, where a vendor takes one line only: control
characters become blanks.

Rules for authors: as in `columns.py`; plain twins in `tests/test_escapes.py`.
"""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import numpy as np

from gateway.columns import U8, Piece, TextColumn, json_escape, json_escape_column

#: RFC 3986 section 2.3: what is never encoded. Everything else is, so that no reader can differ.
_SAFE = np.zeros(256, np.bool_)
_SAFE[np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~", np.uint8)] = True
_SAFE_BYTES = bytes(np.flatnonzero(_SAFE).astype(np.uint8))
#: Byte -> how it is written, as four characters that end in NULs, and how many of them are none.
_AS_WRITTEN = [b"%c" % value if _SAFE[value] else b"%%%02X" % value for value in range(256)]
_WRITTEN = np.frombuffer(b"".join([text.ljust(4, b"\x00") for text in _AS_WRITTEN]), np.uint32)
_WRITTEN_BYTES = np.where(_SAFE, 1, 3).astype(np.uint8).tobytes()
#: From this length on array calls cost less than a loop.
_LONG_BYTES = 64
#: C0 controls and DEL; C1 controls are two bytes in UTF-8 and stay.
_ONE_LINE = bytes.maketrans(bytes([*range(0x20), 0x7F]), b" " * 33)


def form_escape(text: bytes) -> bytes:
    """The text as a value of a form."""
    if not text.translate(None, _SAFE_BYTES):
        return text
    return quote_from_bytes(text, safe="").encode() if len(text) < _LONG_BYTES else _percent(text)


def form_escape_column(column: TextColumn) -> TextColumn:
    """Each row as a value of a form: array calls over the whole blob, whatever is in it."""
    blob = column.blob
    widths = np.frombuffer(blob.translate(_WRITTEN_BYTES), np.uint8)
    if not len(widths) or int(widths.max()) == 1:
        return column
    full = np.flatnonzero(column.offsets[1:] > column.offsets[:-1])
    lengths = np.zeros(len(column), np.uint32)
    lengths[full] = np.add.reduceat(widths, column.offsets[full], dtype=np.uint32)
    offsets = np.zeros(len(lengths) + 1, np.uint32)
    np.cumsum(lengths, out=offsets[1:])
    return TextColumn(_percent(blob), offsets)


def _percent(blob: bytes) -> bytes:
    """The blob percent-encoded: every byte is looked up as four, and the NULs are deleted. Both are loops in C; a third
    of what `hexlify` or scattering cost."""
    return _WRITTEN.take(np.frombuffer(blob, np.uint8)).tobytes().translate(None, b"\x00")


def escape(text: bytes, chain: str) -> bytes:
    """The text with every step of the chain applied. Raises KeyError for an unknown step."""
    for step in chain:
        text = _ESCAPES[step](text)
    return text


def escape_column(column: TextColumn, chain: str) -> TextColumn:
    """The same for each row."""
    for step in chain:
        column = _COLUMN_ESCAPES[step](column)
    return column


def escape_token(tokens: Piece, chain: str) -> Piece:
    """Tokens as they stand under a chain. They need no JSON escaping (`Vendor.check_token`), mostly none at all."""
    if "f" not in chain or isinstance(tokens, bytes):
        return tokens
    column = tokens if isinstance(tokens, TextColumn) else column_of(tokens)
    escaped = escape_column(column, chain.replace("j", ""))
    # Of one width still, where nothing was done.
    return tokens if escaped is column else escaped


def column_of(array: U8) -> TextColumn:
    """A fixed-width column as a ragged one."""
    n, width = array.shape
    return TextColumn(array.tobytes(), np.arange(0, (n + 1) * width, max(width, 1), dtype=np.uint32)[: n + 1])


def line_escape(text: bytes) -> bytes:
    """The text with every control character as a blank: lengths stay, UTF-8 stays."""
    return text.translate(_ONE_LINE)


def line_escape_column(column: TextColumn) -> TextColumn:
    """Each row on one line."""
    return TextColumn(column.blob.translate(_ONE_LINE), column.offsets)


_ESCAPES = {"j": json_escape, "f": form_escape, "l": line_escape}
_COLUMN_ESCAPES = {"j": json_escape_column, "f": form_escape_column, "l": line_escape_column}
