"""What WeChat itself tells of consents, at the address of its receipts: the same count as a service's report.

An event that was counted is answered as taken, and counts once however often it comes (WeChat repeats what was not
answered, three times within seconds): the newest are remembered, in this worker, bounded. One that cannot be counted
now is answered as busy, so that it comes again.

Waits for: whoever counts consents. Is waited for by: the listener of receipts.
"""

from __future__ import annotations

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
        self._counted: OrderedDict[tuple[int, str], None] = OrderedDict()

    async def take(self, app: int, told: ConsentsTold) -> bool:
        """They are counted, or nobody ever will; False: not now. If cancelled: they may be counted."""
        key = (app, told.event_id)
        if key in self._counted:
            return True
        # Before it is counted: its repetition may come meanwhile.
        self._counted[key] = None
        if len(self._counted) > _REMEMBERED_MAX:
            self._counted.popitem(last=False)
        is_counted = False
        try:
            for templates, is_total in ((told.accepted, False), (told.withdrawn, True)):
                if templates:
                    await self._report(_call(told.user, templates, is_total=is_total), self._app_keys[app])
            is_counted = True
        except Overloaded:
            return False
        except BadRequest:
            # About nobody who could be written to; it would be the same the next time.
            is_counted = True
        finally:
            if not is_counted:
                self._counted.pop(key, None)
        return True


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
