"""Bursts of a ledger page as the archive keeps them: what is said once in a header, columns beside it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from gateway.batch import Batch
from gateway.ledger import Burst, Channel

#: Of each burst, one behind the other.
BURST_COLUMNS = {"rows": "<u2", "answered": "<u4", "verdicts": "u1"}


class StoredBurst(msgspec.Struct, array_like=True):
    """issued_s: after the birth of the batch. n: its rows, whose columns stand behind those of the page; rows,
    answered, verdicts: the bytes of these columns in pages that were written before they stood there."""

    number: int
    attempt: int
    channel: int
    connection: int
    issued_s: float
    rows: bytes
    answered: bytes
    verdicts: bytes
    names: dict[int, str]
    first_request: int = -1
    request_ids: dict[int, str] = msgspec.field(default_factory=dict)
    n: int = 0


def stored_burst(burst: Burst, born: float) -> StoredBurst:
    return StoredBurst(
        burst.number,
        burst.attempt,
        int(burst.channel),
        burst.connection,
        burst.issued - born,
        *(b"", b"", b""),
        dict(burst.names),
        burst.first_request,
        dict(burst.request_ids or {}),
        len(burst.rows),
    )


def burst_of(stored: StoredBurst, batch: Batch, columns: list[np.ndarray[Any, Any]]) -> Burst:
    """columns: the burst's own, in the order of BURST_COLUMNS; empty in an old page, whose header has them."""
    if not stored.n:
        texts = (stored.rows, stored.answered, stored.verdicts)
        columns = [np.frombuffer(text, dtype) for text, dtype in zip(texts, BURST_COLUMNS.values(), strict=True)]
    rows, answered, verdicts = columns
    return Burst(
        number=stored.number,
        attempt=stored.attempt,
        channel=Channel(stored.channel),
        connection=stored.connection,
        rows=rows,
        issued=stored.issued_s + batch.born,
        answered=answered,
        verdicts=verdicts,
        names=stored.names,
        first_request=stored.first_request,
        request_ids=stored.request_ids,
    )
