"""JoinedSpans: where a task's rows stand in the inboxes, which its home knows, for the desk of any worker.

    StoreDesk of any worker --task--> home: its own StoreDesk.spans --spans, or why there are none--> back

Waits for: the archive of this home, answers of other workers. Is waited for by: StoreDesk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from gateway.actors.own_tasks import OwnTasks
from gateway.actors.worker_links import Reply, WorkerLinks
from gateway.core.shadow import Life
from gateway.errors import GatewayError

Spans: TypeAlias = Sequence[tuple[int, int]]

#: What a home answers: the spans, or why it cannot say.
_ANSWER = msgspec.msgpack.Decoder(list[tuple[int, int]] | str)


class SpansUnread(GatewayError):
    """The home of a task cannot say where its rows stand, and says why. Nothing was found or purged."""


class JoinedSpans:
    """own: those of a task of this home; raises StoreError. home_of: the worker that has a task."""

    def __init__(
        self,
        own: Callable[[bytes], Awaitable[Spans]],
        links: WorkerLinks,
        *,
        home_of: Callable[[bytes], int],
        me: int,
    ) -> None:
        self._own = own
        self._links = links
        self._home_of = home_of
        self._me = me
        self._tasks = OwnTasks()
        links.answer_with("spans", self._on_ask)

    async def run(self) -> None:
        """Keeps the questions of others. If cancelled: they are not answered."""
        await self._tasks.run()

    async def find(self, task_id: bytes) -> Spans:
        """Of a task of any home. Raises StoreError, WorkerGone, Overloaded, SpansUnread."""
        home = self._home_of(task_id)
        if home == self._me:
            return await self._own(task_id)
        found: Spans | str = _ANSWER.decode(await self._links.ask(home, "spans", {"task": task_id}))
        if isinstance(found, str):
            raise SpansUnread(f"rows of task {bytes(task_id).hex()} at worker {home}: {found}")
        return found

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        if not self._tasks.start(self._tell, head["task"], reply):
            reply(msgspec.msgpack.encode("is starting or stopping"))

    async def _tell(self, task_id: bytes, reply: Reply) -> None:
        try:
            found: Spans | str = await self._own(task_id)
        except GatewayError as error:
            # No spans would mean no rows: a purge would say that there is nothing to purge.
            found = str(error)
        reply(msgspec.msgpack.encode(found))
