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
        self._fewest = fewest
        #: The page with texts per row that was last asked about, and how long its texts are compared to what the pace
        #: was learnt on.
        self._asked_page: LedgerPage | None = None
        self._share = 0.0
        #: Bytes of text per row of the page that was last rendered; 0 before the first.
        self._paced_bytes = 0.0

    def rows_max(self, page: LedgerPage | None) -> int:
        """Rows of the next step, which begins with that page. Fewer for a batch whose texts are longer than those that
        were rendered before: a text that has to be cut costs as much as a hundred others."""
        if page is None or not page.batch.variables:
            return self._paces[False].items()
        if page is not self._asked_page:
            self._asked_page = page
            self._share = min(1.0, self._paced_bytes / max(1.0, _text_bytes(page)))
        return max(self._fewest, int(self._paces[True].items() * self._share))

    def on_step(self, page: LedgerPage, rows: int, seconds: float) -> None:
        """seconds: of CPU."""
        has_texts = bool(page.batch.variables)
        self._paces[has_texts].on_step(rows, seconds)
        if has_texts:
            self._paced_bytes = _text_bytes(page)
            if page is self._asked_page:
                self._share = 1.0


def _text_bytes(page: LedgerPage) -> float:
    """Bytes of variables per row."""
    columns = page.batch.variables.values()
    return sum(int(column.offsets[-1]) - int(column.offsets[0]) for column in columns) / page.n
