"""What a lane needs of others: who renders, who signs, where rows go that it cannot deliver, who counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from gateway.actors.rendering import LaneBurst
from gateway.columns import U8, Bool, Rows
from gateway.ledger import LedgerPage
from gateway.verdict import Verdict

if TYPE_CHECKING:
    from gateway.actors.lane import LaneActor


class Renderer(Protocol):
    """Rows of a page as requests; see `actors/rendering.py`."""

    def render(self, page: LedgerPage, rows: Rows, authorization: bytes, now_unix_s: float) -> LaneBurst: ...


class Credentials(Protocol):
    def get_nowait(self) -> bytes | None: ...

    def refused(self, value: bytes) -> None: ...

    def keep_current(self) -> None: ...

    @property
    def is_denied(self) -> bool:
        """The vendor refuses to give one: the configuration has to be mended."""
        ...


class RouterPort(Protocol):
    def lanes_of(self, page: LedgerPage) -> Bool:
        """(channels,) which channels the page's app has lanes for."""
        ...

    """Where rows go that this lane cannot deliver."""

    def vendor_failed(self, page: LedgerPage, rows: Rows, reasons: U8) -> None: ...

    def token_dead(self, page: LedgerPage, rows: Rows, dead_since_unix_ms: Sequence[int | None]) -> None: ...

    def token_muted(self, page: LedgerPage, rows: Rows) -> None: ...

    def tokens_proven(self, page: LedgerPage, rows: Rows) -> None: ...

    def tokens_suspect(self, page: LedgerPage, rows: Rows) -> None: ...

    def lane_has_room(self, lane: LaneActor) -> None: ...


class Marks(Protocol):
    """What a journal on disk is told before rows leave; see `actors/journal.py`."""

    def room(self, ring: Callable[[], None], /) -> int:
        """Rows that may be marked now; where none may, `ring` is called when that changes."""
        ...

    def mark(self, page: LedgerPage, rows: Rows, ring: Callable[[], None]) -> int:
        """The rows are about to be issued; `ring` is called when the ticket returned is durable."""
        ...

    def is_durable(self, ticket: int, /) -> bool: ...

    def unmark(self, page: LedgerPage, rows: Rows, /) -> None: ...


class Probes(Protocol):
    """The lane's other half, which takes its rows with unproven tokens; see `actors/probe_lane.py`."""

    def take_over(self, page: LedgerPage, rows: Rows) -> None: ...

    @property
    def waiting_rows(self) -> int: ...


class LaneObserver(Protocol):
    """Metrics; called per burst or per answer that is no plain acceptance."""

    def issued(self, rows: int, queue_s: float) -> None: ...

    def answered(self, page: LedgerPage, verdicts: U8, request_s: float) -> None: ...

    def named(self, verdict: Verdict, name: str, rows: int, *, is_unknown: bool = False) -> None: ...

    def retried(self, reasons: U8) -> None: ...

    def throttled(self, seconds: float) -> None: ...

    def truncated(self, rows: int) -> None: ...

    def credential_refused(self, name: str) -> None: ...
