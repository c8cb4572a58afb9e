"""Ways between states of rows: what a report left out is walked through at home."""

from __future__ import annotations

import numpy as np

from gateway.ledger import LEGAL_MOVES, State


def _paths() -> dict[tuple[State, State], tuple[State, ...]]:
    """(from, to) -> the states to pass through, `to` last; the shortest legal way. Reports leave steps out."""
    found: dict[tuple[State, State], tuple[State, ...]] = {}
    for start in State:
        ways: dict[State, tuple[State, ...]] = {start: ()}
        edge = [start]
        while edge:
            reached = [(at, State(to)) for at in edge for to in np.flatnonzero(LEGAL_MOVES[at]).tolist()]
            edge = []
            for at, to in reached:
                if to not in ways:
                    ways[to] = (*ways[at], to)
                    edge.append(to)
        found.update({(start, to): way for to, way in ways.items() if way})
    return found


#: A report says where a row is, not how it came there: what lay between is walked through at home, so that its table of
#: legal moves, its counters and its metrics hold for rows elsewhere, too.
PATHS: dict[tuple[State, State], tuple[State, ...]] = _paths()
