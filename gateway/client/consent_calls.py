"""What the clients say and ask of consents of WeChat's users. The same call, blocking and async."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from gateway.client.requests import consents_request
from gateway.wire.rpc.messages import ConsentsReported, Message, Request

_A = TypeVar("_A", bound=Message)


class BlockingConsentCalls(ABC):
    @abstractmethod
    def _call(self, request: Request, kind: type[_A]) -> _A: ...

    def report_consents(
        self,
        users: Sequence[str],
        template: str | Sequence[str],
        counts: int | Sequence[int] = 1,
        *,
        is_total: bool = False,
        app_key: str = "",
    ) -> list[int]:
        """Users (openids) agreed to so many messages of a template more; is_total: have just so many left. Returns what
        each has left; counts 0: only that. Not to be repeated blindly: what is reported twice counts twice, unless
        is_total."""
        request = consents_request(users, template, counts, is_total=is_total, app_key=app_key)
        return _left(self._call(request, ConsentsReported))


class AsyncConsentCalls(ABC):
    @abstractmethod
    async def _call(self, request: Request, kind: type[_A]) -> _A: ...

    async def report_consents(
        self,
        users: Sequence[str],
        template: str | Sequence[str],
        counts: int | Sequence[int] = 1,
        *,
        is_total: bool = False,
        app_key: str = "",
    ) -> list[int]:
        """As of the blocking client."""
        request = consents_request(users, template, counts, is_total=is_total, app_key=app_key)
        return _left(await self._call(request, ConsentsReported))


def _left(answer: ConsentsReported) -> list[int]:
    left: list[int] = np.frombuffer(answer.left, "<u4").tolist()
    return left
