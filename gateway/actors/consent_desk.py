"""ConsentDesk: what services and operators report, and ask, of the consents of users (docs/vendors/wechat.md).

Waits for: Consents, so for its store. Is waited for by: Service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gateway.actors.consents import Consents
from gateway.columns import I64, Bool, TextColumn
from gateway.core.tokens import by_length
from gateway.errors import StoreError, StoreUnavailable
from gateway.wire.rpc import messages
from gateway.wire.rpc.columns_in import byte_column, text_column, word_column
from gateway.wire.rpc.faults import BadRequest

#: Keys of one call: some 10 ms of the loop.
_ROWS_MAX = 16_384
#: What a caller reads of a store that cannot take a report.
CONSENTS_STORE = "consents"
#: A disk that was full or broken is looked at again by then.
_STORE_S = 1.0


class ConsentDesk:
    """check_user: by app key, what is wrong with an openid; apps without such a channel are not in it."""

    def __init__(self, consents: Consents, check_user: Mapping[str, Callable[[str], str]]) -> None:
        self._consents = consents
        self._check_user = check_user

    async def answer(self, message: messages.ReportConsents, app_key: str) -> messages.ConsentsReported:
        """The report is counted, durably where the gateway has a store folder; what each user has left.

        Raises BadRequest, Overloaded; StoreUnavailable: nothing was counted, and it may be sent again. If cancelled: it
        may be counted.
        """
        check = self._check_user.get(app_key)
        if check is None:
            raise BadRequest("app_key", f"app {app_key} has no channel with consents", code="not_found")
        n = message.n
        if n > _ROWS_MAX:
            raise BadRequest("n", f"n is {n}, limit {_ROWS_MAX}", value=n, limit=_ROWS_MAX)
        users = text_column("users", message.users, n)
        _check_users(users, check)
        if not all(message.templates):
            raise BadRequest("templates", "a template is empty")
        counts = np.ones(n, np.uint64)
        if message.counts is not None:
            counts = word_column("counts", message.counts, n).astype(np.uint64)
        try:
            left = await self._consents.report(
                app_key,
                [(part.positions, part.texts) for part in by_length(users)],
                message.templates,
                _template_index(message, n),
                counts,
                is_total=message.is_total,
            )
        except StoreError as error:
            raise StoreUnavailable(error.what, retry_after_s=_STORE_S, store=CONSENTS_STORE) from error
        return messages.ConsentsReported(id=message.id, n=n, left=left.astype("<u4").view(np.uint8).data)


def _check_users(users: TextColumn, check: Callable[[str], str]) -> None:
    for row, user in enumerate(users.rows()):
        wrong = check(user.decode("utf-8", "replace"))
        if wrong:
            raise BadRequest("users", f"row {row}: {wrong}", value=row)


def _template_index(message: messages.ReportConsents, n: int) -> I64:
    """(n,) positions in the templates."""
    if message.template_index is None:
        if len(message.templates) != 1:
            raise BadRequest("template_index", "template_index may be absent only with one template")
        return np.zeros(n, np.int64)
    index = byte_column("template_index", message.template_index, n).astype(np.int64)
    outside: Bool = index >= len(message.templates)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise BadRequest("template_index", f"row {row} names template {index[row]} of {len(message.templates)}")
    return index
