"""Tags: how a connection's events find the lane, the burst and the row that they are about.

A tag is `lane << 48 | burst << 16 | position`, so events find their lane and burst without a table per stream. A
lane is one of its pool; a burst one of its lane.
"""

from __future__ import annotations

import itertools

import numpy as np

from gateway.columns import I64, Rows
from gateway.wire.h2.events import Answers, Event, Refused, Reset, Terminated, TimedOut

_LANE_SHIFT = 48
#: Stretches of one event that are treated one by one: each costs as much as a burst.
_RUNS_MAX = 4


def make_tags(lane: int, burst: int, count: int) -> I64:
    """Tags of a burst's requests, in order of position."""
    return np.arange(count, dtype=np.int64) | np.int64(lane << _LANE_SHIFT | burst << 16)


def split_by_burst(tags: I64) -> list[tuple[int, Rows, Rows]]:
    """(burst, positions in the event, positions in the burst) for each burst among the tags of one lane."""
    places: Rows = tags & 0xFFFF
    if len(tags) and not _differing_bits(tags) >> 16:
        return [(int(tags[0]) >> 16 & 0xFFFFFFFF, np.arange(len(tags)), places)]
    bursts = (tags >> 16) & 0xFFFFFFFF
    return [
        (int(burst), indexes, places[indexes])
        for burst in np.unique(bursts)
        for indexes in (np.flatnonzero(bursts == burst),)
    ]


def runs_by_burst(tags: I64) -> list[tuple[int, int, int]] | None:
    """(burst, first place, end) of each stretch of places that follow each other, in order of the tags, all of one
    lane; None for more stretches than it would pay to treat one by one. What most vendors send: requests are answered
    in their order, those of one burst together."""
    n = len(tags)
    cuts: list[int] = []
    first, last = tags.item(0), tags.item(n - 1)
    if last - first != n - 1 or tags.tobytes() != np.arange(first, last + 1).tobytes():
        cuts = ((tags[1:] - tags[:-1] != 1).nonzero()[0] + 1).tolist()
        if len(cuts) >= _RUNS_MAX:
            return None
    runs = []
    for start, stop in itertools.pairwise([0, *cuts, n]):
        first, last = tags.item(start), tags.item(stop - 1)
        if first >> 16 != last >> 16:
            return None
        runs.append((first >> 16 & 0xFFFFFFFF, first & 0xFFFF, (last & 0xFFFF) + 1))
    return runs


def split_by_lane(event: Event) -> list[tuple[int, Event]]:
    """The event in one part per lane; events without tags concern no lane."""
    match event:
        case Answers(tags=tags) | Refused(tags=tags) | Reset(tags=tags) | TimedOut(tags=tags) if _has_one_lane(tags):
            return [(int(tags[0]) >> _LANE_SHIFT, event)]
        case Answers(tags=tags, status=status, details=details):
            parts: list[tuple[int, Event]] = []
            for lane, where in _lanes_of(tags):
                places = {int(old): new for new, old in enumerate(where)} if details else {}
                kept = {places[old]: detail for old, detail in details.items() if old in places}
                parts.append((lane, Answers(tags[where], status[where], kept)))
            return parts
        case Refused(tags=tags) | Reset(tags=tags) | TimedOut(tags=tags):
            return [(lane, event._replace(tags=tags[where])) for lane, where in _lanes_of(tags)]
        case Terminated(refused=refused, uncertain=uncertain):
            lanes = {lane for lane, _ in (*_lanes_of(refused), *_lanes_of(uncertain))}
            return [
                (
                    lane,
                    event._replace(
                        refused=refused[refused >> _LANE_SHIFT == lane],
                        uncertain=uncertain[uncertain >> _LANE_SHIFT == lane],
                    ),
                )
                for lane in lanes
            ]
        case _:
            return []


def tag_count(event: Event) -> int:
    """Requests that ended with this event."""
    match event:
        case Answers(tags=tags) | Refused(tags=tags) | Reset(tags=tags) | TimedOut(tags=tags):
            return len(tags)
        case Terminated(refused=refused, uncertain=uncertain):
            return len(refused) + len(uncertain)
        case _:
            return 0


def _has_one_lane(tags: I64) -> bool:
    """True for the usual event, which needs no splitting."""
    return len(tags) > 0 and not _differing_bits(tags) >> _LANE_SHIFT


def _differing_bits(tags: I64) -> int:
    """The bits in which any of the tags differs from the first; two array calls tell about lane and burst."""
    return int(np.bitwise_or.reduce(tags ^ tags[0]))


def _lanes_of(tags: I64) -> list[tuple[int, Rows]]:
    lanes = tags >> _LANE_SHIFT
    if len(lanes) and bool((lanes == lanes[0]).all()):
        return [(int(lanes[0]), np.arange(len(lanes)))]
    return [(int(lane), np.flatnonzero(lanes == lane)) for lane in np.unique(lanes)]
