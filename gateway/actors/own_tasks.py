"""OwnTasks: tasks that an actor begins from calls that may not wait, such as questions of other workers.

They live in the actor's own nursery: they end with its `run`, and a crash of one is a crash of the actor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple, Unpack

import trio

Ts = TypeVarTuple("Ts")


class OwnTasks:
    """One owner, whose `run` is, or ends in, this one's."""

    __slots__ = ("_nursery",)

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Keeps the tasks. If cancelled: they are, too."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def start(self, work: Callable[[Unpack[Ts]], Awaitable[object]], *arguments: *Ts) -> bool:
        """Whether the task was begun: it is not while the actor starts or stops."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(work, *arguments)
        return True
