"""TargetPaces: how many messages one target of a vendor may have in any span of time.

Robots write 20 messages a minute into their group, and DingTalk shuts one out for ten minutes that goes on: a pace that
has to be kept, not found out. So the times of each target's last messages are remembered, as a sliding window: in no
span of `span_s` seconds are there more than `messages`. Rows beyond that are told when the window has room for each,
one after the other, so that they do not come back all at once.

A message counts when it is rendered: one that then could not leave, and is rendered anew, counts again, so that the
pace is kept in doubt. Targets are the hashes of their tokens; two whose hashes meet share a pace.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from gateway.columns import F64, U32
from gateway.vendor import TargetPace

#: Targets whose last messages are remembered; the one that was quiet for longest is forgotten first. 20 times of 8
#: bytes each: ten times as many as one app has robots (vendors/auth/robot_keys.py).
TARGETS_MAX = 4096


class TargetPaces:
    """One owner per (app, vendor); its lanes share it. Times are Unix seconds of the batch's clock."""

    __slots__ = ("_pace", "_targets_max", "_times")

    def __init__(self, pace: TargetPace, targets_max: int = TARGETS_MAX) -> None:
        self._pace = pace
        self._targets_max = targets_max
        #: Hash -> times of its last messages, sorted; the target that had one last stands last.
        self._times: OrderedDict[int, F64] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def take(self, hashes: U32, now: float) -> F64:
        """(k,) seconds that each message to these targets has to wait, in their order; 0: it leaves now, and counts."""
        wait_s = np.zeros(len(hashes))
        for target in np.unique(hashes).tolist():
            rows = np.flatnonzero(hashes == target)
            kept = self._times.pop(target, wait_s[:0])
            kept = kept[kept > now - self._pace.span_s]
            room = max(0, self._pace.messages - len(kept))
            times = np.concatenate([kept, np.full(min(room, len(rows)), now)])
            # The n-th that waits takes the place of the n-th that left; after a round, of one that waits itself.
            nth = np.arange(max(0, len(rows) - room))
            rounds, place = np.divmod(nth, self._pace.messages)
            wait_s[rows[room:]] = times[place] + self._pace.span_s * (1 + rounds) - now
            self._times[target] = times
        while len(self._times) > self._targets_max:
            self._times.popitem(last=False)
        return wait_s
