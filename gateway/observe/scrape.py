"""One scrape: owners refresh their gauges, the kernel is asked, the values are copied, a thread writes the page.

Gauges named `longest_*` hold the maximum since the scrape before and start over here, so a second scraper would see
its own share of the time only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from gateway.observe.exposition import Page, snapshot
from gateway.observe.metrics import Metrics
from gateway.observe.process import read_process, record_process


class Scrape:
    """Makes the page of `/metrics`. refreshers: called on the loop before each page, in order; they must not block."""

    def __init__(self, metrics: Metrics, refreshers: Sequence[Callable[[], None]] = ()) -> None:
        self._metrics = metrics
        self._refreshers = tuple(refreshers)

    async def page(self, accept: str = "") -> Page:
        """The page of this moment.

        If cancelled: the page is lost; a thread may finish it unseen.
        """
        record_process(self._metrics, await trio.to_thread.run_sync(read_process))
        for refresh in self._refreshers:
            refresh()
        moment = snapshot(self._metrics)
        self._metrics.longest_step_s.set(0.0)
        self._metrics.longest_lag_s.set(0.0)
        return await trio.to_thread.run_sync(moment.render, accept, abandon_on_cancel=True)
