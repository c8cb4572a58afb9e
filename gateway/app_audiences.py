"""Audiences on the disk: what a replay of the journal finds of them, and which of it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gateway.columns import U8
from gateway.content import Variant
from gateway.core.audience_walk import Stretch
from gateway.store.audience_records import AudiencePart, Reached, WalkRecord


class SavedAudience(NamedTuple):
    """An audience that an ended process was not through with. devices: of all of it; ids: of a list, all of them; walk,
    left: of a walk, whose devices, and what is to come. reached: that many have their batches. positions,
    reached_position: of its records in the journal."""

    task_id: bytes
    app: int
    variant: Variant
    rows_per_s: float | None
    devices: int
    ids: U8
    walk: WalkRecord | None
    left: list[Stretch]
    reached: int
    reached_unix_ms: int
    positions: list[int]
    reached_position: int


class FoundAudiences:
    """Gathers records as they are replayed. apps: index by key."""

    def __init__(self) -> None:
        self._parts: dict[bytes, list[tuple[int, AudiencePart]]] = {}
        self._reached: dict[bytes, tuple[int, Reached]] = {}
        #: Records that nobody needs.
        self.spent: list[int] = []

    def add(self, position: int, part: AudiencePart) -> None:
        self._parts.setdefault(part.task_id, []).append((position, part))

    def reached(self, position: int, reached: Reached) -> None:
        """The newest of a task counts: it stands behind the others."""
        before = self._reached.get(reached.task_id)
        if before is not None:
            self.spent.append(before[0])
        self._reached[reached.task_id] = (position, reached)

    def saved(self, apps: Mapping[str, int]) -> list[SavedAudience]:
        """Those that go on. What is not whole, or is through, is spent; those of unknown apps stay in the journal."""
        found: list[SavedAudience] = []
        for task_id, parts in self._parts.items():
            first = parts[0][1]
            mark = self._reached.pop(task_id, None)
            if first.app_key not in apps:
                continue
            ids = np.concatenate([part.ids for _, part in sorted(parts, key=lambda one: one[1].first)])
            positions = [position for position, _ in parts]
            if mark is None or _is_through(first, len(ids), mark[1]):
                # Its records stand in one append with the first mark; without the rest it was being let go.
                self.spent += positions if mark is None else [*positions, mark[0]]
                continue
            found.append(
                SavedAudience(
                    task_id,
                    apps[first.app_key],
                    first.variant,
                    first.rows_per_s,
                    first.total,
                    ids,
                    first.walk,
                    [Stretch(*one) for one in mark[1].left],
                    mark[1].rows,
                    mark[1].unix_ms,
                    positions,
                    mark[0],
                )
            )
        self.spent += [position for position, _ in self._reached.values()]
        return found


def _is_through(part: AudiencePart, n_ids: int, reached: Reached) -> bool:
    """Nothing of it is to come, or a part of its ids is gone: its records were being let go."""
    if part.walk is not None:
        return not reached.left
    return n_ids != part.total or reached.rows >= n_ids
