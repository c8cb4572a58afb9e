"""Receipts: what a vendor reports of rows later, and the courier that carries the reports to callback URLs.

    answer --Due--> queue (bounded) --due time over, gathered by URL--> the vendor's own body --POST--> callback URL
                       |                                                       |
                       '-- full: counted, lost                                 '-- not taken: again, up to attempts_max

A vendor file says what its report looks like (`Shape`); nothing here knows a vendor. Times to wait are real time, as
those of faults; times inside the reports are the injected clock's.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from bench.simulators.config_base import Frozen, Positive, Seconds
from bench.simulators.http1_client import Http1Client, PostFailed

Share = float
FORGED = "forged"  # stands in the reference of a receipt that no vendor would send


class ReceiptsSection(Frozen, frozen=True, kw_only=True):
    """What one vendor reports back. Shares are of the rows whose token is in good health, 0..1.

    callback_url: where the vendor's console says so; a URL in the message wins where the vendor has that.
    delay_ms, jitter_ms: from the request to `delivered`; each later event waits as long again.
    rows_per_request, gather_ms: how many reports one POST carries at most, and how long it waits for them.
    doubled_share: of the reports, sent twice. forged_share: accompanied by one that does not verify.
    """

    callback_url: str = ""
    delivered_share: Share = 1.0
    displayed_share: Share = 0.0
    clicked_share: Share = 0.0
    delay_ms: Seconds = 50.0
    jitter_ms: Seconds = 0.0
    rows_per_request: Positive = 100
    gather_ms: Seconds = 10.0
    doubled_share: Share = 0.0
    forged_share: Share = 0.0


class CourierSection(Frozen, frozen=True, kw_only=True):
    """Limits of every courier; there is one per simulator."""

    queue_max: Positive = 200_000
    in_flight_max: Positive = 8
    timeout_s: Seconds = 5.0
    attempts_max: Positive = 3
    retry_wait_s: Seconds = 1.0
    ca_file: str = ""


@dataclass(frozen=True, slots=True)
class Due:
    """One report that a vendor owes. event: the vendor's own word or number. reference: what the sender had echoed."""

    url: str
    token: str
    reference: str
    message_id: str
    event: str
    after_s: float = 0.0
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def is_forged(self) -> bool:
        """Whether this report is one that no vendor would send."""
        return self.reference.startswith(FORGED)


@dataclass(frozen=True, slots=True)
class Callback:
    """One POST of reports: body and headers as the vendor sends them, and how many reports it carries.

    query: what the vendor puts behind the callback URL, where it signs there.
    """

    body: bytes
    headers: tuple[tuple[str, str], ...]
    n_reports: int
    query: tuple[tuple[str, str], ...] = ()


Shape = Callable[[Sequence[Due]], Iterable[Callback]]


class ReceiptPlan:
    """Draws the events of a row. Events are named by the vendor: delivered, displayed, clicked ("" = it has none)."""

    def __init__(self, section: ReceiptsSection, chance: random.Random, events: tuple[str, str, str]) -> None:
        self._section = section
        self._chance = chance
        self._events = events

    def dues(self, due: Due, fate_event: str | None) -> list[Due]:
        """The reports for one row; `due` without event and time is their pattern. fate_event: told instead of all."""
        section = self._section
        if not due.url:
            return []
        if fate_event is not None:
            return self._with_forgeries([replace(due, event=fate_event, after_s=self._delay_s())])
        found = []
        after_s = 0.0
        shares = (section.delivered_share, section.displayed_share, section.clicked_share)
        for event, share in zip(self._events, shares, strict=True):
            if not self._is_hit(share):
                break
            after_s += self._delay_s()
            if event:
                found.append(replace(due, event=event, after_s=after_s))
        return self._with_forgeries(found)

    def _with_forgeries(self, dues: list[Due]) -> list[Due]:
        if not self._section.forged_share:
            return dues
        forged = [
            replace(due, reference=f"{FORGED}-{due.reference}"[:50])
            for due in dues
            if self._is_hit(self._section.forged_share)
        ]
        return dues + forged

    def _delay_s(self) -> float:
        section = self._section
        jitter_ms = self._chance.uniform(0, section.jitter_ms) if section.jitter_ms else 0.0
        return (section.delay_ms + jitter_ms) / 1000

    def _is_hit(self, share: float) -> bool:
        return share >= 1 or (share > 0 and self._chance.random() < share)


class Courier:
    """Carries the reports of one vendor; one task, which is its only user beside `offer` and `reset`.

    counted: offered, overflow, posts, reports_sent, doubled, retries, reports_lost, and "answer <status>".
    is_taken: whether the callback's answer (status, body) is what the vendor wants; others are sent again.
    """

    def __init__(
        self,
        shape: Shape,
        section: ReceiptsSection,
        limits: CourierSection,
        chance: random.Random,
        counted: Counter[str],
        is_taken: Callable[[int, bytes], bool],
    ) -> None:
        self._shape = shape
        self._section = section
        self._limits = limits
        self._chance = chance
        self._counted = counted
        self._is_taken = is_taken
        self._client = Http1Client(limits.ca_file, limits.timeout_s)
        self._heap: list[tuple[float, int, Due]] = []
        self._n_offered = 0
        self._is_offered = asyncio.Event()
        self._room = asyncio.Semaphore(limits.in_flight_max)
        self._posts: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """The courier is under way."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Nothing is under way any more; what was due is lost."""
        tasks = [*self._posts, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._client.close()

    def offer(self, dues: Sequence[Due]) -> None:
        """These reports are queued, except for those that find no room."""
        now = asyncio.get_running_loop().time()
        room = self._limits.queue_max - len(self._heap)
        for due in dues[:room]:
            self._n_offered += 1
            heapq.heappush(self._heap, (now + due.after_s, self._n_offered, due))
        self._counted["offered"] += min(room, len(dues))
        if len(dues) > room:
            self._counted["overflow"] += len(dues) - room
        self._is_offered.set()

    def reset(self) -> None:
        """Nothing is due; POSTs under way go on."""
        self._heap.clear()

    @property
    def n_due(self) -> int:
        """Reports queued, POSTs under way not counted."""
        return len(self._heap)

    async def _run(self) -> None:
        while True:
            await self._wait_for_due()
            for (url, _), dues in self._pop_due().items():
                for start in range(0, len(dues), self._section.rows_per_request):
                    await self._post_all(url, dues[start : start + self._section.rows_per_request])

    async def _wait_for_due(self) -> None:
        """At least one report is due; the ones that follow shortly after had time to join it."""
        loop = asyncio.get_running_loop()
        while not self._heap or self._heap[0][0] > loop.time():
            self._is_offered.clear()
            wait_s = self._heap[0][0] - loop.time() if self._heap else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_offered.wait(), wait_s)
        await asyncio.sleep(self._section.gather_ms / 1000)

    def _pop_due(self) -> dict[tuple[str, bool], list[Due]]:
        now = asyncio.get_running_loop().time()
        found: dict[tuple[str, bool], list[Due]] = defaultdict(list)
        while self._heap and self._heap[0][0] <= now:
            due = heapq.heappop(self._heap)[2]
            found[due.url, due.is_forged].append(due)
        return found

    async def _post_all(self, url: str, dues: Sequence[Due]) -> None:
        for callback in self._shape(dues):
            is_doubled = self._section.doubled_share > 0 and self._chance.random() < self._section.doubled_share
            self._counted["doubled"] += callback.n_reports * is_doubled
            for _ in range(2 if is_doubled else 1):
                await self._room.acquire()
                task = asyncio.get_running_loop().create_task(self._post(url, callback))
                self._posts.add(task)
                task.add_done_callback(self._on_posted)

    def _on_posted(self, task: asyncio.Task[None]) -> None:
        self._posts.discard(task)
        self._room.release()

    async def _post(self, url: str, callback: Callback) -> None:
        if callback.query:
            url += ("&" if "?" in url else "?") + urlencode(callback.query)
        for attempt in range(self._limits.attempts_max):
            if attempt:
                self._counted["retries"] += 1
                await asyncio.sleep(self._limits.retry_wait_s)
            try:
                status, answer = await self._client.post(url, callback.headers, callback.body)
            except PostFailed as error:
                self._counted[f"answer {error}"] += 1
                continue
            self._counted["posts"] += 1
            self._counted[f"answer {status}"] += 1
            if self._is_taken(status, answer):
                self._counted["reports_sent"] += callback.n_reports
                return
        self._counted["reports_lost"] += callback.n_reports


def gathered(dues: Iterable[Due]) -> dict[tuple[str, str], list[Due]]:
    """Reports by (message id, event): what vendors tell in one entry with many targets."""
    groups: dict[tuple[str, str], list[Due]] = defaultdict(list)
    for due in dues:
        groups[due.message_id, due.event].append(due)
    return groups


def layers(dues: Iterable[Due]) -> Iterable[list[list[Due]]]:
    """Groups of `gathered`, so laid out that no message id comes twice in one: for bodies keyed by message id."""
    found: list[dict[str, list[Due]]] = []
    for (message_id, _), group in gathered(dues).items():
        for layer in found:
            if message_id not in layer:
                layer[message_id] = group
                break
        else:
            found.append({message_id: group})
    return [list(layer.values()) for layer in found]
