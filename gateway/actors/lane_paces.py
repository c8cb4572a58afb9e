"""How many rows a lane renders in one step, by what rendering has cost so far."""

from __future__ import annotations

from gateway.ledger import LedgerPage
from gateway.pace import Pace

#: Pace keeps to half of what it is given, for the sake of system calls; rendering makes none.
_STEP_SHARE = 1.6
#: Fewest rows in a step: below this the fixed cost of a burst is most of its price.
_STEP_ROWS_MIN = 64


class LanePaces:
    """rows_max: of a step, however cheap."""

    def __init__(self, step_s_max: float, *, rows_max: int) -> None:
        fewest = min(_STEP_ROWS_MIN, rows_max)
        #: Apart for batches whose texts differ per row: those cost many times more, and most where texts are cut.
        self._paces = (
            Pace(_STEP_SHARE * step_s_max, fewest=fewest, most=rows_max),
            Pace(_STEP_SHARE * step_s_max, fewest=fewest, most=rows_max),
        )
        self._paced_page: LedgerPage | None = None

    def rows_max(self, page: LedgerPage | None) -> int:
        """Rows of the next step, which begins with that page. Few for a batch with texts per row of which none was
        rendered yet: it may be of over-long texts, each of which costs as much as a hundred others."""
        has_texts = page is not None and bool(page.batch.variables)
        return _STEP_ROWS_MIN if has_texts and page is not self._paced_page else self._paces[has_texts].items()

    def on_step(self, page: LedgerPage, rows: int, seconds: float) -> None:
        self._paced_page = page
        self._paces[bool(page.batch.variables)].on_step(rows, seconds)
