"""Columns out of MessagePack bins, and the refusal of single rows. Costs per column, not per row.

A column of the wrong size or with broken offsets says nothing certain about any row, so it fails the whole request
(BadRequest names the field). Everything that can be told row by row goes into `Refusals`.

Rules for authors: arrays handed out are aligned copies, so that they neither pin the frame they came in nor slow down
whoever views them as wider words.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from gateway.batch import RowFault
from gateway.columns import I64, U8, U32, Bool, TextColumn, drained, utf8_good_rows_in_steps
from gateway.content import Fault
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.messages import Texts

ID_BYTES = 16


def _check_size(field: str, view: memoryview, size: int) -> None:
    if len(view) != size:
        raise BadRequest(field, f"{field} is {len(view)} bytes, expected {size}", limit=size, value=len(view))


def id_column(field: str, view: memoryview, n: int) -> U8:
    """(n, 16) uint8."""
    _check_size(field, view, n * ID_BYTES)
    return np.frombuffer(view, np.uint8).reshape(n, ID_BYTES).copy()


def byte_column(field: str, view: memoryview, n: int) -> U8:
    """(n,) uint8."""
    _check_size(field, view, n)
    return np.frombuffer(view, np.uint8).copy()


def word_column(field: str, view: memoryview, n: int) -> U32:
    """(n,) uint32."""
    _check_size(field, view, n * 4)
    return np.frombuffer(view, "<u4").astype(np.uint32)


def index_column(field: str, view: memoryview, n: int) -> U32:
    """(n,) uint32 out of a u16 or u32 column: the size tells which."""
    if len(view) == 2 * n:
        return np.frombuffer(view, "<u2").astype(np.uint32)
    if len(view) != 4 * n:
        raise BadRequest(field, f"{field} is {len(view)} bytes, expected {2 * n} (u16) or {4 * n} (u32)")
    return np.frombuffer(view, "<u4").astype(np.uint32)


def text_column(field: str, texts: Texts, n: int) -> TextColumn:
    """n rows; offsets start at 0, never decrease, and end at the blob's size."""
    _check_size(f"{field}.offsets", texts.offsets, 4 * (n + 1))
    offsets = np.frombuffer(texts.offsets, "<u4").astype(np.uint32)
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(texts.blob):
        raise BadRequest(
            f"{field}.offsets",
            f"{field}.offsets run from {offsets[0]} to {offsets[-1]}, expected 0 to {len(texts.blob)} (size of blob)",
        )
    if n > 1:
        falls = offsets[1:] < offsets[:-1]
        if falls.any():
            raise BadRequest(f"{field}.offsets", f"{field}.offsets fall after row {int(falls.argmax())}")
    return TextColumn(texts.blob, offsets)


class Refusals:
    """Which rows of a call are refused, each with its first fault. At most listed_max faults are kept as text."""

    __slots__ = ("_bad", "_faults", "_listed_max", "n")

    def __init__(self, n: int, listed_max: int) -> None:
        self.n = n
        self._bad: Bool | None = None
        self._faults: list[RowFault] = []
        self._listed_max = listed_max

    @property
    def is_empty(self) -> bool:
        return self._bad is None

    def refuse(self, bad: Bool, explain: Fault | Callable[[int], Fault]) -> None:
        """Rows flagged in bad (n,) are refused, unless they were before. explain: the fault, or one per row."""
        fresh = bad if self._bad is None else bad & ~self._bad
        if not fresh.any():
            return
        self._bad = fresh.copy() if self._bad is None else self._bad | fresh
        room = self._listed_max - len(self._faults)
        for row in np.flatnonzero(fresh)[:room].tolist() if room > 0 else ():
            fault = explain(row) if callable(explain) else explain
            self._faults.append(RowFault(row, fault.field, fault.text))

    def kept(self) -> U32 | None:
        """Positions of the rows that go on, or None when all do."""
        return None if self._bad is None else np.flatnonzero(~self._bad).astype(np.uint32)

    def faults(self) -> list[RowFault]:
        return sorted(self._faults)


#: As in content.py: controls but NUL, tab and line ends; and U+202D, U+202E.
_CONTROLS = bytes([*range(0x01, 0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
_IS_CONTROL = np.zeros(256, np.bool_)
_IS_CONTROL[np.frombuffer(_CONTROLS, np.uint8)] = True
#: They differ in their last byte alone.
_OVERRIDE_SIGNS = ("\u202d", "\u202e")
_OVERRIDES = (_OVERRIDE_SIGNS[0].encode(), _OVERRIDE_SIGNS[1].encode())
_OVERRIDE_PAIR = np.uint16(int.from_bytes(_OVERRIDES[0][:2], "little"))


def check_texts(field: str, column: TextColumn, bytes_max: int, refusals: Refusals) -> None:
    """Rows that are not UTF-8, hold a NUL or are too long are refused. One validation of the whole blob."""
    drained(check_texts_in_steps(field, column, bytes_max, refusals))


def check_texts_in_steps(
    field: str, column: TextColumn, bytes_max: int, refusals: Refusals
) -> Generator[None, None, bool]:
    """`check_texts`, interrupted every half megabyte of text that is not ASCII. Returns whether there may be one of
    `_OVERRIDES` in it: the validation has the text as a string, where a look costs a tenth of one for bytes."""
    blob = column.blob
    may_override = False
    if not blob.isascii():
        seen: list[bool] = []
        good = yield from utf8_good_rows_in_steps(
            column, lambda text: seen.append(_OVERRIDE_SIGNS[0] in text or _OVERRIDE_SIGNS[1] in text)
        )
        may_override = any(seen)
        if not good.all():
            refusals.refuse(~good, Fault(field, f"{field} is not UTF-8"))
            may_override = True
    if b"\x00" in blob:
        refusals.refuse(rows_holding(column, np.frombuffer(blob, np.uint8) == 0), Fault(field, f"{field} holds a NUL"))
    if len(blob) > bytes_max:
        lengths = np.diff(column.offsets)
        if int(lengths.max()) > bytes_max:
            refusals.refuse(
                lengths > bytes_max, lambda row: Fault(field, f"{field} is {lengths[row]} bytes, limit {bytes_max}")
            )
    return may_override


def check_shown(field: str, column: TextColumn, refusals: Refusals, *, may_override: bool) -> None:
    """Rows that hold what no reader should see are refused, as in content.py. A few looks at the whole blob, each of
    which costs next to nothing where there is nothing to find. may_override: what `check_texts_in_steps` returned."""
    blob = column.blob
    data = np.frombuffer(blob, np.uint8)
    # A minimum costs a tenth of a comparison: most columns have no byte of these, not even a line end.
    low = data[np.flatnonzero(data < 0x20)] if len(data) and int(data.min()) < 0x20 else data[:0]
    if b"\x7f" in blob or (len(low) and bool(_IS_CONTROL[low].any())):
        refusals.refuse(rows_holding(column, _IS_CONTROL[data]), Fault(field, f"{field} holds a control character"))
    firsts = _override_starts(blob) if may_override else ()
    if len(firsts):
        begins = np.zeros(len(blob), np.bool_)
        begins[firsts] = True
        refusals.refuse(
            rows_holding(column, begins), Fault(field, f"{field} holds a sign that overrides the direction of text")
        )


def _override_starts(blob: bytes) -> I64:
    """Where U+202D and U+202E begin, in no order. The first two of their three bytes are looked for as numbers of two
    bytes, once at even and once at odd places: half the price of looking for the first byte, which emoji share."""
    found = []
    for shift in (0, 1):
        pairs = np.frombuffer(blob, "<u2", max(0, len(blob) - shift) // 2, min(shift, len(blob)))
        is_start = pairs == _OVERRIDE_PAIR
        if np.count_nonzero(is_start):
            found.append(np.flatnonzero(is_start) * 2 + shift)
    if not found:
        return np.zeros(0, np.int64)
    data = np.frombuffer(blob, np.uint8)
    starts = np.concatenate(found)
    starts = starts[starts + 2 < len(data)]
    lasts = data[starts + 2]
    here: I64 = starts[(lasts == _OVERRIDES[0][2]) | (lasts == _OVERRIDES[1][2])]
    return here


def rows_holding(column: TextColumn, marked: Bool) -> Bool:
    """(n,) true where one of the row's bytes is marked. marked: (len(blob),) bool."""
    out = np.zeros(len(column), np.bool_)
    # Empty rows share their offset with their successor: 'right' finds the last of them, which owns the byte.
    out[np.searchsorted(column.offsets, np.flatnonzero(marked), side="right") - 1] = True
    return out
