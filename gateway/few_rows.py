"""A few rows of a batch's columns, under the numbers that they have in the whole.

A page in the archive is 1.3 MB, and a device that returns needs one row of it. Its columns are then of this kind: they
are indexed by row, like those of the whole, by one or an array of them, and are told from an array only by what is not
there. A look at a row that is not here, or at all rows, is an error and never an answer.
"""

from __future__ import annotations

import weakref
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from gateway.columns import I64, Bool, Rows, TextColumn
from gateway.errors import LocalProtocolError


class FewRows:
    """One column; `values` are in the order of the rows."""

    __slots__ = ("__weakref__", "_here", "values")
    #: It does not know how many the whole has.
    __iter__ = None
    __array_ufunc__ = None

    def __init__(self, here: Here, values: npt.NDArray[Any]) -> None:
        """values: (k, ...). Owned."""
        self._here = here
        self.values = values

    def __getitem__(self, rows: Rows | int) -> Any:
        return self.values[self._here.places(rows)]

    def __setitem__(self, rows: Rows | int, values: Any) -> None:
        self.values[self._here.places(rows)] = values

    def take(self, rows: Rows, axis: int = 0) -> Any:
        return self.values[self._here.places(rows)]

    def fill(self, value: Any) -> None:
        self.values.fill(value)

    def any(self) -> bool:
        return bool(self.values.any())

    def nonzero(self) -> tuple[Rows]:
        """As of an array: the rows."""
        return (self._here.rows[self.values.nonzero()[0]],)

    def __array__(self, *_: object) -> Any:
        raise LocalProtocolError("a look at all rows of a page of which a few are here")

    def __eq__(self, other: object) -> Any:
        raise LocalProtocolError("a look at all rows of a page of which a few are here")

    __hash__ = None  # type: ignore[assignment]


class Here:
    """Which rows are here. rows: (k,) intp, rising. Columns that it made grow with it."""

    __slots__ = ("_asked", "_columns", "_places", "rows")

    def __init__(self, rows: Rows) -> None:
        self.rows: npt.NDArray[np.intp] = rows.astype(np.intp)
        self._columns: list[weakref.ref[FewRows]] = []
        self._asked: Rows | int | None = None
        self._places: Any = None

    def __len__(self) -> int:
        return len(self.rows)

    def places(self, rows: Rows | int) -> Any:
        """Where they stand in the columns. Raises LocalProtocolError for one that is not here."""
        if rows is self._asked:
            # Column after column is asked for the same rows; nobody changes an array of rows.
            return self._places
        if isinstance(rows, np.ndarray) and rows.dtype == np.bool_:
            raise LocalProtocolError("a choice among all rows of a page of which a few are here")
        places = self.rows.searchsorted(rows)
        found = self.rows.take(places, mode="clip")
        if not (found == rows if isinstance(rows, int) else (found == rows).all()):
            raise LocalProtocolError(f"row {rows} of a page of which {self.rows} are here")
        self._asked, self._places = rows, places
        return places

    def has(self, rows: Rows) -> Bool:
        """(k,) which of them are here."""
        places = np.minimum(self.rows.searchsorted(rows), len(self.rows) - 1)
        found: Bool = self.rows[places] == rows
        return found

    def column(self, values: npt.NDArray[Any]) -> Any:
        """values: (k, ...) in the order of the rows, owned."""
        column = FewRows(self, values)
        self._columns.append(weakref.ref(column))
        return column

    def zeros(self, _n: int, dtype: npt.DTypeLike) -> Any:
        """As `np.zeros`, for a column of the whole."""
        return self.column(np.zeros(len(self.rows), dtype))

    def grow(self, rows: Rows) -> None:
        """These rows, rising, none of which is here, are here; zeros stand in their columns."""
        together = np.concatenate([self.rows, rows.astype(np.intp)])
        order = np.argsort(together)
        self.rows = together[order]
        self._asked = None
        self._columns = [reference for reference in self._columns if reference() is not None]
        for reference in self._columns:
            column = reference()
            if column is not None:
                old = column.values
                column.values = np.concatenate([old, np.zeros((len(rows), *old.shape[1:]), old.dtype)])[order]


class FewTexts(TextColumn):
    """The same of texts. blob, offsets: of the rows that are here alone."""

    __slots__ = ("_all_bytes", "_here")

    def __init__(self, here: Here, texts: list[bytes], all_bytes: int) -> None:
        """texts: in the order of the rows. all_bytes: of all rows of the whole."""
        column = TextColumn.from_rows(texts)
        super().__init__(column.blob, column.offsets)
        self._here = here
        self._all_bytes = all_bytes

    def grown(self, rows: Rows, texts: list[bytes]) -> FewTexts:
        """With these rows; `Here` has them by now."""
        found = dict(zip(rows.tolist(), texts, strict=True))
        old = iter(super().rows())
        return FewTexts(
            self._here, [found[row] if row in found else next(old) for row in self._here.rows.tolist()], self._all_bytes
        )

    @property
    def text_bytes(self) -> int:
        return self._all_bytes

    def row(self, index: int) -> bytes:
        return super().row(int(self._here.places(index)))

    def take(self, rows: Rows) -> TextColumn:
        return super().take(self._here.places(rows))

    def lengths(self) -> I64:
        return cast("I64", FewRows(self._here, super().lengths()))
