"""Audiences of several workers: each is asked for its own devices, and walks its own shards.

    Audiences --> JoinedDesk --+--> AudienceDesk (here)
                               +--> link: "audience" --> AudienceDesk of that worker --> ids, and how far it came

An owner keeps nothing of a walk that it was asked for: the place that was reached is with the home of the task, in its
journal. So an owner that dies is asked again when it is back, from that place, and a home that dies asks anew from the
last place that was durable. Waits for: answers of other workers. Is waited for by: nobody.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import trio

from gateway.actors.audience_desk import AudienceDesk
from gateway.actors.audience_sources import BACK_S
from gateway.actors.worker_links import Reply, WorkerGone, WorkerLinks
from gateway.columns import U8
from gateway.core.audience_walk import Looked, Members, Stretch, Wanted, whole
from gateway.core.ownership import Ownership
from gateway.core.shadow import Life
from gateway.errors import Overloaded


class _Asked(NamedTuple):
    head: dict[str, Any]
    body: bytes
    reply: Reply


class JoinedDesk:
    """desk: of this worker, `me`."""

    def __init__(self, desk: AudienceDesk, links: WorkerLinks, ownership: Ownership, me: int) -> None:
        self._desk = desk
        self._links = links
        self._ownership = ownership
        self._me = me
        self._nursery: trio.Nursery | None = None
        #: Questions without an answer, by number.
        self._open: dict[int, _Asked] = {}
        self._numbers = itertools.count()
        links.answer_with("audience", self._on_ask)

    async def run(self) -> None:
        """Answers other workers. If cancelled: what is not answered is answered by the next run."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for number in self._open:
                    nursery.start_soon(self._answer, number)
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # -- asking

    async def online(self, app: int, tag: bytes) -> U8:
        """Ids of devices online at any worker; those of one that goes meanwhile are offline."""
        parts = [await self._desk.online(app, tag)]
        for life in self._links.lives():
            with contextlib.suppress(WorkerGone):
                found = await self._links.ask(life.worker, "audience", {"do": "online", "app": app, "tag": tag})
                parts.append(_ids(found))
        return np.concatenate(parts)

    async def of_aliases(self, app: int, aliases: Sequence[bytes], *, online_only: bool) -> list[U8]:
        """Devices of each alias, at any worker. Raises Overloaded."""
        found = [[ids] for ids in await self._desk.of_aliases(app, aliases, online_only=online_only)]
        head = {"do": "aliases", "app": app, "online_only": online_only}
        for answer in await self._ask_others(head, msgspec.msgpack.encode(list(aliases))):
            for parts, ids in zip(found, msgspec.msgpack.decode(answer), strict=True):
                parts.append(_ids(ids))
        return [np.concatenate(parts) for parts in found]

    async def count(self, app: int, tag: bytes) -> Members:
        """Of all workers. Raises Overloaded."""
        sum_ = await self._desk.count(app, tag)
        for answer in await self._ask_others({"do": "count", "app": app, "tag": tag}):
            sum_ = sum_.plus(Members(*msgspec.msgpack.decode(answer)))
        return sum_

    async def _ask_others(self, head: dict[str, Any], body: bytes = b"") -> list[memoryview]:
        """The answers of all but this one, asked at once. Raises Overloaded: one is not there, but will be back."""
        answers: list[memoryview] = []
        n_others = self._ownership.workers - 1

        async def ask(worker: int) -> None:
            with contextlib.suppress(WorkerGone, Overloaded):
                answers.append(await self._links.ask(worker, "audience", head, body))

        async with trio.open_nursery() as nursery:
            for worker in range(self._ownership.workers):
                if worker != self._me:
                    nursery.start_soon(ask, worker)
        if len(answers) < n_others:
            raise Overloaded("workers that answer", len(answers) + 1, n_others + 1, retry_after_s=BACK_S)
        return answers

    def owner(self, shard: int) -> int:
        return self._ownership.worker_of_shard(shard)

    def whole(self) -> list[Stretch]:
        return whole(self._ownership.shard_groups, self._ownership.workers)

    async def take(self, wanted: Wanted, stretch: Stretch, rows_max: int) -> Looked:
        """The next devices of a stretch, whose shards have one owner. Raises WorkerGone, Overloaded."""
        owner = self.owner(stretch.first)
        if owner == self._me:
            return await self._desk.take(wanted, stretch, rows_max)
        head = {"do": "take", "wanted": list(wanted), "stretch": list(stretch), "n": rows_max}
        first, after, ids = msgspec.msgpack.decode(await self._links.ask(owner, "audience", head))
        return Looked(_ids(ids), stretch._replace(first=first, after=after))

    # -- being asked

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        number = next(self._numbers)
        self._open[number] = _Asked(head, bytes(body), reply)
        if self._nursery is not None:
            self._nursery.start_soon(self._answer, number)

    async def _answer(self, number: int) -> None:
        head, body, reply = self._open[number]
        answer = await self._find(head, body)
        del self._open[number]
        reply(answer)

    async def _find(self, head: dict[str, Any], body: bytes) -> bytes:
        match head["do"]:
            case "online":
                return (await self._desk.online(head["app"], head["tag"])).tobytes()
            case "aliases":
                aliases = msgspec.msgpack.decode(body)
                found = await self._desk.of_aliases(head["app"], aliases, online_only=head["online_only"])
                return msgspec.msgpack.encode([ids.tobytes() for ids in found])
            case "count":
                return msgspec.msgpack.encode(list(await self._desk.count(head["app"], head["tag"])))
            case _:
                wanted, asked = Wanted(*head["wanted"]), Stretch(*head["stretch"])
                ids, left = await self._desk.take(wanted, asked, head["n"])
                return msgspec.msgpack.encode([left.first, left.after, ids.tobytes()])


def _ids(data: bytes | memoryview) -> U8:
    return np.frombuffer(data, np.uint8).reshape(-1, 16)
