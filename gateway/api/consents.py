"""POST /v1/consents: an app reports what users of its mini program agreed to. Signed as POST /v1/devices is.

    body      {"users": [openid, ...], "template": id, "count": 1, "is_total": false}; count 0 without is_total: to ask
    answer    200 {"left": [n, ...]}, what each user has left afterwards; else {"error", "field", "text", ...}

A report that is sent again with a fresh signature counts again, unless is_total. Source: docs/vendors/wechat.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from gateway.api.devices import DeviceAnswer, SignedDesk
from gateway.columns import TextColumn
from gateway.core.signed_requests import Proven, SignedRequests
from gateway.wire.rpc.messages import ConsentsReported, ReportConsents, Texts

#: Users of one request; more of them would not fit into the body that the listener reads by default.
_USERS_MAX = 500


class ConsentRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    users: Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(min_length=1, max_length=_USERS_MAX)]
    template: Annotated[str, Meta(min_length=1, max_length=128)]
    count: Annotated[int, Meta(ge=0, le=0xFFFF)] = 1
    is_total: bool = False


class Left(msgspec.Struct):
    left: list[int]


_DECODER = msgspec.json.Decoder(ConsentRequest)


class ConsentsPort(SignedDesk):
    """report: as the RPC's report_consents does, for an app."""

    form = ConsentRequest

    def __init__(
        self,
        requests: SignedRequests,
        now: Callable[[], float],
        now_unix_s: Callable[[], float],
        report: Callable[[ReportConsents, str], Awaitable[ConsentsReported]],
    ) -> None:
        super().__init__(requests, now, now_unix_s)
        self._report = report

    async def perform(self, app_key: str, proven: Proven, body: bytes) -> DeviceAnswer:
        """The consents are counted, durably where there is a store. If cancelled: they may be counted."""
        request = _DECODER.decode(body)
        n = len(request.users)
        users = TextColumn.from_texts(request.users)
        call = ReportConsents(
            id=1,
            n=n,
            users=Texts(bytes(users.blob), memoryview(users.offsets.astype("<u4").tobytes())),
            templates=[request.template],
            counts=memoryview(np.full(n, request.count, "<u4").tobytes()),
            is_total=request.is_total,
        )
        answer = await self._report(call, app_key)
        left = np.frombuffer(answer.left, "<u4").tolist()
        return DeviceAnswer(200, msgspec.json.encode(Left(left)), "consents", app_key, proven.secret_index)
