"""ForeignStops: what an owner does when a home stops a task of which it holds rows.

    home --ask "stop": spans of rows--> rows here end (core/stopping.py) --> answer: how many
                                        the spans are kept: a slice that was on its way meets them when it arrives

Kept per life of a home: spans of at most `BATCHES_MAX` batches, the oldest go. A slice is on its way for milliseconds,
and rows of a stopped task leave their home no more. Waits for: the loop. Is waited for by: nobody.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.actors.task_control import Ended, Span, TaskControl
from gateway.actors.worker_links import Reply, WorkerLinks
from gateway.columns import Rows
from gateway.core.home import Home
from gateway.core.shadow import Life, ShadowPage
from gateway.message_id import BatchAddress

#: Each a batch with rows of a stopped task; some 200 bytes.
BATCHES_MAX = 16_384
#: Spans of one question: some 30 bytes each, read in a millisecond.
_SPANS_PER_ASK = 1024
_SPANS = msgspec.msgpack.Decoder(list[Span])
_ENDED = msgspec.msgpack.Decoder(tuple[int, int])
_Spans = OrderedDict[BatchAddress, list[Span]]


class _Asked(NamedTuple):
    life: Life
    spans: _Spans
    reply: Reply


class ForeignStops:
    def __init__(self, home: Home, links: WorkerLinks, control: TaskControl) -> None:
        self._home = home
        self._links = links
        self._control = control
        self._kept: dict[Life, _Spans] = {}
        self._asked: deque[_Asked] = deque()
        self._bell = Bell()
        control.stop_at = self.stop_at
        links.answer_with("stop", self._on_ask)
        links.watch_deaths(self)

    # -- as a home

    async def stop_at(self, worker: int, spans: Sequence[Span]) -> Ended:
        """That worker's rows of these spans end. Raises WorkerGone, Overloaded."""
        cancelled = seen = 0
        for first in range(0, len(spans), _SPANS_PER_ASK):
            body = msgspec.msgpack.encode(spans[first : first + _SPANS_PER_ASK])
            some, arrived = _ENDED.decode(await self._links.ask(worker, "stop", {}, body))
            cancelled, seen = cancelled + some, seen + arrived
        return Ended(cancelled, seen)

    # -- as an owner

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        asked: _Spans = OrderedDict()
        for span in _SPANS.decode(body):
            asked.setdefault(span.address, []).append(span)
        kept = self._kept.setdefault(life, OrderedDict())
        for address, spans in asked.items():
            kept.setdefault(address, []).extend(spans)
        while len(kept) > BATCHES_MAX:
            kept.popitem(last=False)
        self._asked.append(_Asked(life, asked, reply))
        self._bell.ring()

    async def run(self) -> None:
        """Ends rows page by page until cancelled. If cancelled: the rest ends in the next run."""
        self._bell.ring()
        while True:
            await self._bell.wait()
            while self._asked:
                life, spans, reply = self._asked[0]
                reply(msgspec.msgpack.encode(await self._stop(life, spans)))
                self._asked.popleft()

    async def _stop(self, life: Life, spans: _Spans) -> Ended:
        cancelled = seen = 0
        for page in self._home.shadows.of(life):
            found = spans.get(page.home_address)
            if found is not None and page.n_open:
                some = self._control.stop_rows(page, rows_within(page, found))
                cancelled, seen = cancelled + some.cancelled, seen + some.may_have_arrived
                await trio.lowlevel.checkpoint()
        return Ended(cancelled, seen)

    def arrived(self, page: ShadowPage) -> None:
        """A slice is here: rows that were stopped while it was on its way end."""
        kept = self._kept.get(Life(page.home, page.incarnation))
        found = None if kept is None else kept.get(page.home_address)
        if found is not None:
            self._control.stop_rows(page, rows_within(page, found))

    def on_died(self, life: Life) -> None:
        """That home is no more, and none of its slices will come."""
        self._kept.pop(life, None)


def rows_within(page: ShadowPage, spans: Sequence[Span]) -> Rows:
    """(k,) rows of the shadow whose places at home are in one of the spans."""
    is_in = np.zeros(page.n, np.bool_)
    for span in spans:
        first, stop = np.searchsorted(page.home_rows, [span.first, span.stop])
        is_in[first:stop] = True
    rows: Rows = np.flatnonzero(is_in)
    return rows
