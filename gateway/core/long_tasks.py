"""Tasks that have rows in more than one batch, and where: batches that are in memory, in the order of their addresses.

A task of one batch is found by its id, which says where it began, and is not in here.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from gateway.message_id import BatchAddress


class LongTasks:
    """Batches by task id. Owned by one home."""

    def __init__(self) -> None:
        self._parts: dict[bytes, list[BatchAddress]] = {}

    def __contains__(self, task_id: bytes) -> bool:
        return task_id in self._parts

    def __len__(self) -> int:
        return len(self._parts)

    def parts(self, task_id: bytes) -> Sequence[BatchAddress] | None:
        """None: it has rows in one batch at most."""
        return self._parts.get(task_id)

    def begin(self, task_id: bytes, parts: list[BatchAddress]) -> None:
        """A task is known to have rows in several batches; parts: those that it has now, sorted."""
        self._parts[task_id] = parts

    def note(self, task_id: bytes, part: BatchAddress) -> None:
        """One that has begun has rows in that batch, too; nothing happens where that is known."""
        parts = self._parts[task_id]
        at = bisect.bisect_left(parts, part)
        if part not in parts[at : at + 1]:
            parts.insert(at, part)

    def forget(self, task_id: bytes, part: BatchAddress) -> None:
        """That batch is not in memory any more; a task is known by what is left of it."""
        parts = self._parts.get(task_id)
        if parts is not None and part in parts:
            parts.remove(part)
            if not parts:
                del self._parts[task_id]
