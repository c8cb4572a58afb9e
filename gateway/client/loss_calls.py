"""What the clients ask about losses: counts, the funnel, the rows of one cause. The same calls, blocking and async."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, TypeVar

from gateway.client.requests import UNSENT, id_bytes
from gateway.wire.rpc.messages import (
    CountRows,
    Loss,
    LossFound,
    LossRowPage,
    LossRows,
    Message,
    Request,
    RowsCounted,
)

_A = TypeVar("_A", bound=Message)


class LossOf(NamedTuple):
    """Whose rows: a task's; or those of a plan, a group, an app, submitted on these days (YYYY-MM-DD, both included;
    by default all of a plan or group, the last seven of an app). An app may ask for itself alone."""

    task_id: bytes | str | None = None
    plan_id: str = ""
    group: str = ""
    app_key: str = ""
    from_day: str = ""
    to_day: str = ""

    def fields(self) -> dict[str, Any]:
        task_id = None if self.task_id is None else id_bytes("task id", self.task_id)
        return {"id": UNSENT, **self._asdict(), "task_id": task_id}


class BlockingLossCalls(ABC):
    @abstractmethod
    def _call(self, request: Request, kind: type[_A]) -> _A: ...

    def count_rows(self, of: LossOf, *, recount: bool = False) -> RowsCounted:
        """What the rows are, by day, plan, group and class. recount: from the rows, compared with the counters."""
        return self._call(CountRows(**of.fields(), recount=recount), RowsCounted)

    def loss(self, of: LossOf) -> LossFound:
        """How far the rows came, and why the others came no further."""
        return self._call(Loss(**of.fields()), LossFound)

    def loss_rows(
        self, of: LossOf, cause: str, *, channel: str = "", stage: str = "", n: int = 1000, cursor: bytes = b""
    ) -> LossRowPage:
        """Rows with one cause; go on with `next_cursor` until it is empty."""
        request = LossRows(**of.fields(), cause=cause, channel=channel, stage=stage, n=n, cursor=cursor)
        return self._call(request, LossRowPage)


class AsyncLossCalls(ABC):
    @abstractmethod
    async def _call(self, request: Request, kind: type[_A]) -> _A: ...

    async def count_rows(self, of: LossOf, *, recount: bool = False) -> RowsCounted:
        """What the rows are, by day, plan, group and class. recount: from the rows, compared with the counters."""
        return await self._call(CountRows(**of.fields(), recount=recount), RowsCounted)

    async def loss(self, of: LossOf) -> LossFound:
        """How far the rows came, and why the others came no further."""
        return await self._call(Loss(**of.fields()), LossFound)

    async def loss_rows(
        self, of: LossOf, cause: str, *, channel: str = "", stage: str = "", n: int = 1000, cursor: bytes = b""
    ) -> LossRowPage:
        """Rows with one cause; go on with `next_cursor` until it is empty."""
        request = LossRows(**of.fields(), cause=cause, channel=channel, stage=stage, n=n, cursor=cursor)
        return await self._call(request, LossRowPage)
