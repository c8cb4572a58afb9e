"""Rows and outcomes between their words (core/shadow.py) and the frames of a link (wire/worker_link). Pure translation;
both directions stand here, so that they can be read against each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from gateway.batch import Batch
from gateway.columns import U16, Rows
from gateway.core.outcomes import BurstReport, Outcomes, Question
from gateway.core.slices import cut_batch
from gateway.ledger import IS_FINAL, Channel
from gateway.message_id import BatchAddress
from gateway.store.records import decode_batch, encode_batch
from gateway.wire.worker_link import messages as wire
from gateway.wire.worker_link.messages import array, column, packed, unpacked

_CODES = ("state", "reason", "channel", "receipt", "flags", "attempts", "is_announced", "is_back")
_WORDS = ("routed_ms", "issued_ms", "final_ms", "token_hashes")
_N_STATES = len(IS_FINAL)


def slice_of(batch: Batch, rows: Rows, now: float) -> wire.Slice:
    """These rows of the batch as a message to their owner."""
    record = encode_batch(cut_batch(batch, rows))
    data = b"".join(record.buffers)
    return wire.Slice(len(rows), now - batch.born, column(rows, "<u2"), memoryview(data))


def rows_of(slice_: wire.Slice, now: float) -> tuple[Batch, U16]:
    """The batch of a message, born on this process's clock, and its rows' positions at home. Raises ValueError."""
    batch = decode_batch(bytes(slice_.record), born=now - slice_.age_s)
    if batch.n != slice_.n:
        raise ValueError(f"a slice of {slice_.n} rows holds {batch.n}")
    return batch, array("rows", slice_.rows, "<u2", slice_.n)


def outcomes_message(outcomes: Outcomes) -> wire.Outcomes:
    columns: dict[str, Any] = outcomes._asdict()
    return wire.Outcomes(
        address=(outcomes.address.unix_ms, outcomes.address.journal, outcomes.address.sequence),
        n=len(outcomes.rows),
        rows=column(outcomes.rows, "<u2"),
        bursts=[_burst_message(burst) for burst in outcomes.bursts],
        questions=[(number, column(rows, "<u2")) for number, rows in outcomes.questions],
        codes=memoryview(b"".join([columns[name].tobytes() for name in _CODES])),
        words=memoryview(b"".join([np.ascontiguousarray(columns[name], "<u4").tobytes() for name in _WORDS])),
    )


def outcomes_of(message: wire.Outcomes) -> Outcomes:
    """Raises ValueError for columns that do not fit each other, or codes that are none."""
    n = message.n
    block = array("codes", message.codes, "u1", len(_CODES) * n).reshape(len(_CODES), n)
    codes: dict[str, Any] = dict(zip(_CODES, block, strict=True))
    for name in ("is_announced", "is_back"):
        codes[name] = codes[name] != 0
    if n and int(codes["state"].max()) >= _N_STATES:
        raise ValueError(f"state is {int(codes['state'].max())}, limit {_N_STATES - 1}")
    rows = array("rows", message.rows, "<u2", n)
    if n > 1 and not bool((rows[1:] > rows[:-1]).all()):
        raise ValueError("rows of a report do not rise")
    numbers = array("words", message.words, "<u4", len(_WORDS) * n).reshape(len(_WORDS), n)
    words: dict[str, Any] = dict(zip(_WORDS, numbers, strict=True))
    bursts = [_burst_of(burst) for burst in message.bursts]
    questions = [Question(number, array("asked", asked, "<u2", len(asked) // 2)) for number, asked in message.questions]
    address = BatchAddress(*message.address)
    return Outcomes(address=address, rows=rows, bursts=bursts, questions=questions, **codes, **words)


def _burst_message(burst: BurstReport) -> wire.BurstColumns:
    return wire.BurstColumns(
        number=burst.number,
        attempt=burst.attempt,
        channel=int(burst.channel),
        connection=burst.connection,
        issued_ms=burst.issued_ms,
        rows=column(burst.rows, "<u2"),
        answered_ms=column(burst.answered_ms, "<u4"),
        verdicts=packed(burst.verdicts),
        names=burst.names,
        request_ids=burst.request_ids,
    )


def _burst_of(burst: wire.BurstColumns) -> BurstReport:
    n = len(burst.rows) // 2
    return BurstReport(
        burst.number,
        burst.attempt,
        Channel(burst.channel),
        burst.connection,
        array("burst.rows", burst.rows, "<u2", n),
        burst.issued_ms,
        array("burst.answered_ms", burst.answered_ms, "<u4", n).astype(np.uint32),
        unpacked("burst.verdicts", burst.verdicts, n),
        burst.names,
        burst.request_ids,
    )
