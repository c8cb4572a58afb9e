"""JoinedCopies: a backup of several workers' stores, each copied by the worker that has it open, step by step together.

    whoever is asked --begin--> all: registry and archive --> all: inbox --> end

An inbox is copied when the archives of all workers are: what an archive calls held is in some inbox, or was delivered
meanwhile. Waits for: the stores, answers of other workers. Is waited for by: StoreDesk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.actors.own_tasks import OwnTasks
from gateway.actors.store_desk import Copies
from gateway.actors.worker_links import Reply, WorkerLinks
from gateway.core.shadow import Life
from gateway.errors import GatewayError


class CopyFailed(GatewayError):
    """Another worker could not copy its stores, and says why."""


class JoinedCopies:
    """own: of this worker. workers: how many there are; me: this one."""

    def __init__(self, own: Copies, links: WorkerLinks, *, workers: int, me: int) -> None:
        self._own = own
        self._links = links
        self._others = [worker for worker in range(workers) if worker != me]
        self._tasks = OwnTasks()
        links.answer_with("copy", self._on_ask)

    async def run(self) -> None:
        """Keeps the copies that others ask for. If cancelled: they are not answered."""
        await self._tasks.run()

    async def begin_copy(self, folder: Path) -> None:
        """As `Copies` says. Raises StoreError."""
        await self._own.begin_copy(folder)

    async def copy_pages(self, folder: Path) -> None:
        """Of all workers. Raises StoreError, WorkerGone, CopyFailed."""
        await self._own.copy_pages(folder)
        await self._ask_others("pages", folder)

    async def copy_inbox(self, folder: Path) -> None:
        """Of all workers. Raises StoreError, WorkerGone, CopyFailed."""
        await self._own.copy_inbox(folder)
        await self._ask_others("inbox", folder)

    async def end_copy(self, folder: Path) -> dict[str, int]:
        """As `Copies` says. Raises StoreError."""
        return await self._own.end_copy(folder)

    async def _ask_others(self, step: str, folder: Path) -> None:
        for worker in self._others:
            text = bytes(await self._links.ask(worker, "copy", {"step": step, "folder": str(folder)})).decode()
            if text:
                raise CopyFailed(f"worker {worker}: {text}")

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        if not self._tasks.start(self._copy, head["step"], Path(head["folder"]), reply):
            reply(b"is starting or stopping")

    async def _copy(self, step: str, folder: Path, reply: Reply) -> None:
        try:
            await (self._own.copy_pages if step == "pages" else self._own.copy_inbox)(folder)
        except GatewayError as error:
            reply(str(error).encode())
        else:
            reply(b"")
