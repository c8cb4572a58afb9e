"""One scrape: owners refresh their gauges, the kernel is asked, the values are copied, a thread writes the page.

Gauges are set in parts, each a step of the loop: together they are milliseconds in a worker that has just slept.

Of several workers, the one that the scraper reached makes the page of all: it has everybody refresh, then reads the
columns of each (observe/shared.py). A worker that does not answer in time is shown as it was.

Gauges named `longest_*` hold the maximum since the scrape before and start over here, so a second scraper would see
its own share of the time only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from gateway.observe.exposition import Page, snapshot
from gateway.observe.metrics import Metrics
from gateway.observe.process import COUNTS_FILES, read_process, record_process
from gateway.observe.shared import SharedColumns, merge

#: What starts over with every scrape.
LONGEST = ("longest_step_s", "longest_lag_s")


class Scrape:
    """Makes the page of `/metrics`. refresh: called before each page; what it yields between is a turn of the loop."""

    def __init__(self, metrics: Metrics, refresh: Callable[[], Iterable[None]] = tuple) -> None:
        self._metrics = metrics
        self._refresh = refresh

    async def refresh(self) -> None:
        """The gauges of this process say how it is now. If cancelled: some do."""
        record_process(self._metrics, read_process() if COUNTS_FILES else await trio.to_thread.run_sync(read_process))
        for _ in self._refresh():
            await trio.lowlevel.checkpoint()

    async def page(self, accept: str = "") -> Page:
        """The page of this moment.

        If cancelled: the page is lost; a thread may finish it unseen.
        """
        await self.refresh()
        moment = snapshot(self._metrics)
        self._metrics.longest_step_s.set(0.0)
        self._metrics.longest_lag_s.set(0.0)
        return await trio.to_thread.run_sync(moment.render, accept, abandon_on_cancel=True)


class SharedScrape:
    """The same page over all workers. columns: the supervisor's last. refresh_all: returns when everybody who can has
    refreshed."""

    def __init__(
        self, metrics: Metrics, columns: Sequence[SharedColumns], refresh_all: Callable[[], Awaitable[None]]
    ) -> None:
        self._metrics = metrics
        self._columns = tuple(columns)
        self._refresh_all = refresh_all

    async def page(self, accept: str = "") -> Page:
        """As `Scrape.page`."""
        await self._refresh_all()
        return await trio.to_thread.run_sync(self._render, accept, abandon_on_cancel=True)

    def _render(self, accept: str) -> Page:
        """In a thread, the copies, too: other processes write meanwhile anyway."""
        moments = [columns.copy() for columns in self._columns]
        for columns in self._columns:
            for name in LONGEST:
                columns.start_over(name)
        return merge(self._metrics, moments[:-1], moments[-1:]).render(accept)
