"""What links between workers count."""

from __future__ import annotations

from gateway.errors import RemoteProtocolError
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics


class LinkCounts:
    """Of all links of one worker; each call is one slice, report or event."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log.bind(actor="links")

    def sent(self, worker: int, rows: int, size: int) -> None:
        self._metrics.link_rows.add(rows, "sent")
        self._metrics.link_slices.add(1)

    def reported(self, worker: int, rows: int, dropped: int) -> None:
        self._metrics.link_rows.add(rows, "reported")
        if dropped:
            self._metrics.link_rows.add(dropped, "report_dropped")

    def taken_back(self, worker: int, again: int, uncertain: int) -> None:
        self._metrics.link_rows.add(again, "routed_again")
        self._metrics.link_rows.add(uncertain, "uncertain")
        self._log.warning("rows of a dead worker taken back", worker=worker, again=again, uncertain=uncertain)

    def received(self, worker: int, rows: int) -> None:
        self._metrics.link_rows.add(rows, "received")

    def for_the_dead(self, rows: int) -> None:
        self._metrics.link_rows.add(rows, "home_died")

    def stood_in_for(self, worker: int) -> None:
        self._metrics.stand_in_submits.add(1, str(worker))

    def told(self, ids: int) -> None:
        self._metrics.stand_in_ids_told.add(ids)

    def opened(self, worker: int) -> None:
        self._log.info("link open", worker=worker)

    def ended(self, worker: int) -> None:
        self._log.info("link ended", worker=worker)

    def broken(self, worker: int, error: RemoteProtocolError) -> None:
        self._log.error("link broken", worker=worker, error=str(error))
