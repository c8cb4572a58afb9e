"""What WeChat itself tells of consents, at the address of its receipts: the same count as a service's report.

An event that was counted is answered as taken, and counts once however often it comes (WeChat repeats what was not
answered, three times within seconds): the newest are remembered, in this worker, bounded. One that cannot be counted
now is answered as busy, so that it comes again.

Waits for: whoever counts consents. Is waited for by: the listener of receipts.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import numpy as np

from gateway.columns import TextColumn
from gateway.errors import Overloaded
from gateway.receipts import ConsentsTold
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.messages import ConsentsReported, ReportConsents, Texts

#: Events of some minutes; 100 bytes each.
_REMEMBERED_MAX = 10_000


class ConsentEvents:
    """report: as the RPC's report_consents does, for an app. app_keys: by the app's number."""

    def __init__(
        self, app_keys: list[str], report: Callable[[ReportConsents, str], Awaitable[ConsentsReported]]
    ) -> None:
        self._app_keys = app_keys
        self._report = report
        #: How many of the halves, what was accepted and what was withdrawn, are counted.
        self._counted: OrderedDict[tuple[int, str], int] = OrderedDict()
        self._in_progress: set[tuple[int, str]] = set()

    async def take(self, app: int, told: ConsentsTold) -> bool:
        """They are counted, or nobody ever will; False: not now. If cancelled: they may be counted."""
        key = (app, told.event_id)
        if key in self._in_progress:
            # It may fail yet; what is taken does not come again.
            return False
        self._in_progress.add(key)
        try:
            for half in range(self._counted.get(key, 0), 2):
                templates = told.withdrawn if half else told.accepted
                if templates:
                    await self._count(app, told.user, templates, is_total=bool(half))
                self._counted[key] = half + 1
                if len(self._counted) > _REMEMBERED_MAX:
                    self._counted.popitem(last=False)
        except Overloaded:
            return False
        finally:
            self._in_progress.discard(key)
        return True

    async def _count(self, app: int, user: str, templates: list[str], *, is_total: bool) -> None:
        # About nobody who could be written to: it would be the same the next time.
        with contextlib.suppress(BadRequest):
            await self._report(_call(user, templates, is_total=is_total), self._app_keys[app])


def _call(user: str, templates: list[str], *, is_total: bool) -> ReportConsents:
    """One consent more of each template, or none left."""
    n = len(templates)
    users = TextColumn.from_texts([user] * n)
    names = sorted(set(templates))
    return ReportConsents(
        id=1,
        n=n,
        users=Texts(bytes(users.blob), memoryview(users.offsets.astype("<u4").tobytes())),
        templates=names,
        template_index=memoryview(bytes(names.index(template) for template in templates)),
        counts=memoryview(np.full(n, 0 if is_total else 1, "<u4").tobytes()),
        is_total=is_total,
    )
