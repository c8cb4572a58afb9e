"""Percentiles of several tasks together, out of each task's own.

A task tells rows measured, p50, p99 and max. Between these points its distribution is taken as straight lines; the
tasks' distributions are added by their rows and the percentile is read off the sum. With one task this gives its own
figures; with several it is exact at the ends and an interpolation between.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Measured(NamedTuple):
    """One task's latency, ms. delay_ms: from the intended submit time to the moment its batch was born."""

    n: int
    p50: float
    p99: float
    max: float
    delay_ms: float = 0.0

    def share_until(self, ms: float) -> float:
        """The share of rows that took at most so long."""
        points = ((0.0, 0.0), (self.p50, 0.5), (self.p99, 0.99), (self.max, 1.0))
        at = ms - self.delay_ms
        for (low, share), (high, next_share) in pairwise(points):
            if at < high:
                return share if at <= low else share + (next_share - share) * (at - low) / (high - low)
        return 1.0


def percentile(tasks: Sequence[Measured], share: float) -> float | None:
    """The time, ms, within which this share of all rows had ended; None without any."""
    measured = [task for task in tasks if task.n]
    total = sum(task.n for task in measured)
    if not total:
        return None
    low, high = 0.0, max(task.max + task.delay_ms for task in measured)
    # Bisection: sixty halvings are far below the resolution of the clocks.
    for _ in range(60):
        middle = (low + high) / 2
        if sum(task.n * task.share_until(middle) for task in measured) >= share * total:
            high = middle
        else:
            low = middle
    return round(high, 3)
