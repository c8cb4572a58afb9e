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
from gateway.columns import I64, U8, U32, Bool, TextColumn, drained
from gateway.content import Fault
from gateway.utf8 import utf8_good_rows_in_steps
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
#: U+202D and U+202E. They differ in their last byte alone.
_OVERRIDES = ("\u202d".encode(), "\u202e".encode())
#: Their last two bytes as a number, without what tells them from each other and from two more; nearly no other
#: character has such a pair, while the first two begin the joiners of emoji, too.
_OVERRIDE_PAIR = np.uint16(int.from_bytes(_OVERRIDES[0][1:], "little") & 0xFCFF)
_OVERRIDE_MASK = np.uint16(0xFCFF)
#: So much is looked at at once, because then it is still in the cache at the second look.
_LOOK_BYTES = 1 << 18


def check_texts(field: str, column: TextColumn, bytes_max: int, refusals: Refusals) -> None:
    """Rows that are not UTF-8, hold a NUL or are too long are refused. One validation of the whole blob."""
    drained(check_texts_in_steps(field, column, bytes_max, refusals))


def check_texts_in_steps(
    field: str, column: TextColumn, bytes_max: int, refusals: Refusals
) -> Generator[None, None, None]:
    """`check_texts`, interrupted every megabyte of text that is not ASCII."""
    blob = column.blob
    if not blob.isascii():
        good = yield from utf8_good_rows_in_steps(column)
        if not good.all():
            refusals.refuse(~good, Fault(field, f"{field} is not UTF-8"))
    if b"\x00" in blob:
        refusals.refuse(rows_holding(column, np.frombuffer(blob, np.uint8) == 0), Fault(field, f"{field} holds a NUL"))
    if len(blob) > bytes_max:
        lengths = np.diff(column.offsets)
        if int(lengths.max()) > bytes_max:
            refusals.refuse(
                lengths > bytes_max, lambda row: Fault(field, f"{field} is {lengths[row]} bytes, limit {bytes_max}")
            )


def check_shown(field: str, column: TextColumn, refusals: Refusals) -> None:
    """Rows that hold what no reader should see are refused, as in content.py. A few looks at the whole blob, each of
    which costs next to nothing where there is nothing to find."""
    blob = column.blob
    data = np.frombuffer(blob, np.uint8)
    # A minimum costs a tenth of a comparison: most columns have no byte of these, not even a line end.
    low = data[np.flatnonzero(data < 0x20)] if len(data) and int(data.min()) < 0x20 else data[:0]
    if b"\x7f" in blob or (len(low) and bool(_IS_CONTROL[low].any())):
        refusals.refuse(rows_holding(column, _IS_CONTROL[data]), Fault(field, f"{field} holds a control character"))
    firsts = () if blob.isascii() else _override_starts(blob)
    if len(firsts):
        begins = np.zeros(len(blob), np.bool_)
        begins[firsts] = True
        refusals.refuse(
            rows_holding(column, begins), Fault(field, f"{field} holds a sign that overrides the direction of text")
        )


def _override_starts(blob: bytes) -> I64:
    """Where U+202D and U+202E begin, in no order. The last two of their three bytes are looked for as numbers of two
    bytes, at even and at odd places: a third of the price of `bytes.find`."""
    found = []
    for first in range(0, len(blob) - 2, _LOOK_BYTES):
        # Of three bytes that begin in this part the last two begin one behind.
        stop = min(first + _LOOK_BYTES, len(blob) - 2) + 2
        for begin in (first + 1, first + 2):
            pairs = np.frombuffer(blob, "<u2", (stop - begin) // 2, begin)
            is_last = (pairs & _OVERRIDE_MASK) == _OVERRIDE_PAIR
            if np.count_nonzero(is_last):
                found.append(np.flatnonzero(is_last) * 2 + (begin - 1))
    starts: I64 = np.concatenate(found) if found else np.zeros(0, np.int64)
    return starts[[blob[start : start + 3] in _OVERRIDES for start in starts.tolist()]] if found else starts


def rows_holding(column: TextColumn, marked: Bool) -> Bool:
    """(n,) true where one of the row's bytes is marked. marked: (len(blob),) bool."""
    out = np.zeros(len(column), np.bool_)
    # Empty rows share their offset with their successor: 'right' finds the last of them, which owns the byte.
    out[np.searchsorted(column.offsets, np.flatnonzero(marked), side="right") - 1] = True
    return out
