"""Lane: the queue of one (app, vendor, class). A machine: it decides what may be sent next and nothing else.

A lane holds slices of batches in order of arrival, high priority apart from normal. Entries are hints: a row is taken
only while its page says that it is queued for this lane's channel, so a row that was cancelled, expired, acknowledged
late or routed elsewhere costs nothing but its place. What may leave is bounded by the connection's room and the token
bucket: take k of n.

When `rows_max` is reached `offer` takes a prefix; the router parks the rest and offers it again after a `take`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np

from gateway.columns import Rows
from gateway.content import Class, Priority
from gateway.core.bucket import TokenBucket
from gateway.ledger import Channel, LedgerPage, State

#: Every eighth take begins with the normal queue, so that a flood of urgent rows cannot starve the others for ever.
_NORMAL_EVERY = 8


class LaneKey(NamedTuple):
    """app: index of the app."""

    app: int
    channel: Channel
    class_: Class


class LaneSlice(NamedTuple):
    """Rows of one batch, in order of their positions."""

    page: LedgerPage
    rows: Rows


class Lane:
    """rows_max: rows the queue may hold; the memory is 8 bytes a row beside the batch itself."""

    def __init__(self, key: LaneKey, bucket: TokenBucket, *, rows_max: int) -> None:
        self.key = key
        self.bucket = bucket
        self.rows = 0
        self._rows_max = rows_max
        self._queues: tuple[deque[LaneSlice], deque[LaneSlice]] = (deque(), deque())
        self._takes = 0

    def offer(self, page: LedgerPage, rows: Rows, priority: Priority, *, aside: int = 0) -> int:
        """The first k rows are queued; returns k, which is less than all when the lane is full. aside: rows of this
        lane that wait elsewhere and count too."""
        k = max(0, min(len(rows), self._rows_max - self.rows - aside))
        if k:
            self._queues[priority].append(LaneSlice(page, rows[:k]))
            self.rows += k
        return k

    def append(self, page: LedgerPage, rows: Rows) -> None:
        """Rows that were admitted elsewhere stand last, whatever the limit; the caller bounds them."""
        self._queues[Priority.NORMAL].append(LaneSlice(page, rows))
        self.rows += len(rows)

    def put_back(self, page: LedgerPage, rows: Rows, *, returns_tokens: bool = True) -> None:
        """Rows that this lane had before stand first again, whatever its limit: they were admitted once.

        returns_tokens: they were taken but not sent, so the bucket gets their tokens back.
        """
        if len(rows):
            self._queues[Priority.HIGH].appendleft(LaneSlice(page, rows))
            self.rows += len(rows)
            if returns_tokens:
                self.bucket.give_back(len(rows))

    def take(self, now: float, room: int) -> LaneSlice | None:
        """At most `room` rows of one batch that may leave now; None when nothing may.

        The rows stay QUEUED in their page: the caller moves them when they are issued.
        """
        if room <= 0:
            return None
        order = (1, 0) if self._takes % _NORMAL_EVERY == _NORMAL_EVERY - 1 else (0, 1)
        for which in order:
            queue = self._queues[which]
            while queue:
                page, live = self._gather(queue, room)
                if not len(live):
                    continue
                k = self.bucket.take(now, min(len(live), room))
                if k < len(live):
                    queue.appendleft(LaneSlice(page, live[k:]))
                    self.rows += len(live) - k
                if not k:
                    return None
                self._takes += 1
                return LaneSlice(page, live[:k])
        return None

    def _gather(self, queue: deque[LaneSlice], room: int) -> LaneSlice:
        """Takes slices of one batch off the queue until `room` live rows are together: full bursts cost less per row
        than many small ones."""
        page = queue[0].page
        parts: list[Rows] = []
        n = 0
        while queue and queue[0].page is page and n < room:
            rows = queue.popleft().rows
            self.rows -= len(rows)
            is_whole = page.are_all(rows, State.QUEUED, self.key.channel)
            live = rows if is_whole else rows[page.are(rows, State.QUEUED, self.key.channel)]
            parts.append(live)
            n += len(live)
        if len(parts) == 1:
            return LaneSlice(page, parts[0])
        # A row that left and came back stands in two slices; it must not leave twice in one burst. Slices that the
        # router made one after the other are in order as they are.
        rows = np.concatenate(parts)
        is_in_order = np.count_nonzero(rows[1:] > rows[:-1]) == max(0, len(rows) - 1)
        return LaneSlice(page, rows if is_in_order else np.unique(rows))

    @property
    def next_page(self) -> LedgerPage | None:
        """The page that the next `take` begins with, if it has live rows."""
        for queue in self._queues:
            if queue:
                return queue[0].page
        return None

    @property
    def is_empty(self) -> bool:
        return not self._queues[0] and not self._queues[1]

    def next_deadline(self) -> float:
        """When the bucket will let a row pass; `math.inf` for never or when the queue is empty."""
        deadline = None if self.is_empty else self.bucket.next_deadline()
        return math.inf if deadline is None else deadline

    def statistics(self) -> tuple[int, int, int]:
        """(rows queued, slices of high priority, slices of normal priority)."""
        return self.rows, len(self._queues[0]), len(self._queues[1])
