"""Reclaiming: whose connection makes room when all that may be are open. `actors/vendor_ceiling.py` carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: A further connection is worth that of an app which has not sent for so long. Less, and two apps that send in turn
#: would take each other's connections with every message; vendors take that for an attack.
QUIET_S = 60.0


class Holder(NamedTuple):
    """One pool. quietest: (when last used, number) of its idle connection used longest ago. spare: connections beyond
    its first one."""

    quietest: tuple[float, int] | None
    spare: int


class Reclaim(NamedTuple):
    """holder: index. number: of the connection; None for its least busy one."""

    holder: int
    number: int | None


def choose(holders: Sequence[Holder], *, has_none: bool, now: float) -> Reclaim | None:
    """The idle connection that was used longest ago, whoever's it is. Where none is idle, whoever has none at all gets
    one of those who have most; whoever has some waits, and gets only what was idle for `QUIET_S`."""
    latest = now if has_none else now - QUIET_S
    idle = [
        (holder.quietest[0], index)
        for index, holder in enumerate(holders)
        if holder.quietest is not None and holder.quietest[0] <= latest
    ]
    if idle:
        index = min(idle)[1]
        quietest = holders[index].quietest
        assert quietest is not None
        return Reclaim(index, quietest[1])
    spare, richest = max(((holder.spare, -index) for index, holder in enumerate(holders)), default=(0, 0))
    if has_none and spare > 0:
        return Reclaim(-richest, None)
    return None
