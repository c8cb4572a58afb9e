"""Gather: what arrives for one app within `gather_ms` becomes one batch. Contract of DESIGN.md section 2.

A machine without clock or I/O. The intake actor adds submissions as they come and takes plans when the time is up; a
plan says which submissions share a batch. Two things keep submissions apart: a batch has at most 65,536 rows and about
`batch_bytes_max` of text, and rows of one batch share one set of variable names (else a stream of one-row templates
with different names would make a batch with thousands of nearly empty columns).

A submission larger than a batch is cut into several; its task then has a segment in each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from gateway import message_id
from gateway.batch import BATCH_BYTES_MAX, Batch, Submission, TaskSegment
from gateway.columns import I64, U8, U16, U32, Bool, TextColumn
from gateway.content import Variant
from gateway.message_id import ROWS_MAX, BatchAddress

CallT = TypeVar("CallT")

#: Gathering stops at this many rows, so that building a batch stays a short step; a larger submission stays whole up to
#: ROWS_MAX. 16,384 rows take about 1 ms to put together.
GATHER_ROWS = 16_384


class Part(NamedTuple, Generic[CallT]):
    """Rows of one submit call that go into one batch. call: whatever the caller wants back with the plan.

    piece: which part of its call this is; 0 for the first (and usually only) one.
    """

    submission: Submission
    call: CallT
    piece: int


class Gather(Generic[CallT]):
    """Pending parts of one app, in order of arrival."""

    def __init__(self, *, rows_max: int = GATHER_ROWS, bytes_max: int = BATCH_BYTES_MAX) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._parts: deque[Part[CallT]] = deque()
        self.rows = 0

    def add(self, submission: Submission, call: CallT) -> int:
        """The submission's rows will be in coming plans; returns into how many parts it was cut."""
        self.rows += submission.n
        if submission.n <= ROWS_MAX and submission.row_text_bytes() <= self._bytes_max:
            self._parts.append(Part(submission, call, 0))
            return 1
        pieces = split(submission, ROWS_MAX, self._bytes_max)
        self._parts.extend(Part(piece, call, index) for index, piece in enumerate(pieces))
        return len(pieces)

    def put_back(self, parts: Sequence[Part[CallT]]) -> None:
        """Parts that were taken and could not be made durable stand first again."""
        self._parts.extendleft(reversed(parts))
        self.rows += sum(part.submission.n for part in parts)

    def take(self) -> list[Part[CallT]]:
        """The parts of the next batch; empty when nothing is pending."""
        parts: list[Part[CallT]] = []
        rows = size = variants = 0
        names: Collection[str] = ()
        # Bytes are counted where the characters say that there may be too many: encoding costs more than all the rest.
        is_exact = False
        while self._parts:
            submission = self._parts[0].submission
            part_names = submission.variables.keys()
            part_bytes = submission.text_bytes() if is_exact else submission.text_bytes_at_most()
            if not is_exact and size + part_bytes > self._bytes_max:
                is_exact = True
                size = sum(part.submission.text_bytes() for part in parts)
                part_bytes = submission.text_bytes()
            if parts and (
                rows + submission.n > self._rows_max
                or size + part_bytes > self._bytes_max
                or part_names != names
                # the index is uint16
                or variants + len(submission.variants) > ROWS_MAX
            ):
                break
            names = part_names
            rows += submission.n
            size += part_bytes
            variants += len(submission.variants)
            parts.append(self._parts.popleft())
            if len(parts) >= self._rows_max:
                break
        self.rows -= rows
        return parts


def split(submission: Submission, rows_max: int, bytes_max: int) -> list[Submission]:
    """The submission in pieces of at most rows_max rows and about bytes_max of text per row.

    Duplicates were found before and keep their flags. A single row over bytes_max is a piece of its own.
    """
    n = submission.n
    if n <= rows_max and submission.row_text_bytes() <= bytes_max:
        return [submission]
    ends = np.cumsum(_row_bytes(submission))
    pieces: list[Submission] = []
    first = 0
    while first < n:
        spent = int(ends[first - 1]) if first else 0
        fitting = int(np.searchsorted(ends, spent + bytes_max, "right"))
        stop = min(n, first + rows_max, max(fitting, first + 1))
        pieces.append(_slice(submission, first, stop))
        first = stop
    return pieces


def _row_bytes(submission: Submission) -> I64:
    """(n,) bytes of text that each row has of its own."""
    sizes = np.zeros(submission.n, np.int64)
    for column in submission.variables.values():
        sizes += column.lengths()
    if submission.tokens is not None:
        sizes += submission.tokens.lengths()
    return sizes


def _slice(submission: Submission, first: int, stop: int) -> Submission:
    rows = np.arange(first, stop)

    def text(column: TextColumn) -> TextColumn:
        return column.take(rows)

    return submission._replace(
        n=stop - first,
        source_rows=_source_rows(submission)[first:stop],
        device_ids=submission.device_ids[first:stop],
        channels=None if submission.channels is None else submission.channels[first:stop],
        tokens=None if submission.tokens is None else text(submission.tokens),
        variant_index=None if submission.variant_index is None else submission.variant_index[first:stop],
        variables={name: text(column) for name, column in submission.variables.items()},
        duplicates=None if submission.duplicates is None else submission.duplicates[first:stop],
    )


def build_batch(
    address: BatchAddress,
    app: int,
    born: float,
    parts: Sequence[Part[CallT]],
    task_ids: Sequence[bytes | None],
    secret: bytes,
) -> Batch:
    """One batch of the parts' rows in their order.

    task_ids: one per part; None makes a new task whose id is the address of its first row here.
    """
    submissions = [part.submission for part in parts]
    counts = [submission.n for submission in submissions]
    firsts = np.cumsum([0, *counts])
    own_ids = message_id.encode_rows(secret, address, firsts[:-1], message_id.TASK_DOMAIN).tobytes()
    segments = [
        # By position: names cost as much again as the segment.
        TaskSegment(task_id or own_ids[at : at + 16], first, only.n, only.group, bool(task_id))
        for at, task_id, first, only in zip(
            range(0, len(own_ids), 16), task_ids, firsts.tolist(), submissions, strict=False
        )
    ]
    first = int(firsts[-1])
    if len(submissions) == 1:
        only = submissions[0]
        return Batch(
            address,
            app,
            born,
            only.n,
            device_ids=only.device_ids,
            variants=only.variants,
            variant_index=only.variant_index,
            channels=only.channels,
            tokens=only.tokens,
            duplicates=only.duplicates,
            source_rows=only.source_rows,
            variables=only.variables,
            segments=segments,
        )
    variants, variant_index = _merge_variants(submissions)
    names = submissions[0].variables
    return Batch(
        address,
        app,
        born,
        first,
        device_ids=np.concatenate([s.device_ids for s in submissions]),
        variants=variants,
        variant_index=variant_index,
        channels=_merge_channels(submissions),
        tokens=_merge_tokens(submissions),
        duplicates=_merge_duplicates(submissions),
        source_rows=_merge_source_rows(submissions, is_needed=_has_shared_task(task_ids)),
        variables={name: TextColumn.concatenate([s.variables[name] for s in submissions]) for name in names},
        segments=segments,
    )


def _merge_variants(submissions: Sequence[Submission]) -> tuple[list[Variant], U16]:
    variants: list[Variant] = []
    bases = []
    for submission in submissions:
        bases.append(len(variants))
        variants.extend(submission.variants)
    counts = [submission.n for submission in submissions]
    index = np.repeat(np.array(bases, np.uint16), counts)
    if any(submission.variant_index is not None for submission in submissions):
        at = 0
        for submission in submissions:
            if submission.variant_index is not None:
                index[at : at + submission.n] += submission.variant_index
            at += submission.n
    return variants, index


def _merge_channels(submissions: Sequence[Submission]) -> U8 | None:
    if all(submission.channels is None for submission in submissions):
        return None
    return np.concatenate([np.zeros(s.n, np.uint8) if s.channels is None else s.channels for s in submissions])


def _merge_tokens(submissions: Sequence[Submission]) -> TextColumn | None:
    if all(submission.tokens is None for submission in submissions):
        return None
    return TextColumn.concatenate(
        [TextColumn(b"", np.zeros(s.n + 1, np.uint32)) if s.tokens is None else s.tokens for s in submissions]
    )


def _merge_duplicates(submissions: Sequence[Submission]) -> Bool | None:
    if all(submission.duplicates is None for submission in submissions):
        return None
    return np.concatenate([np.zeros(s.n, np.bool_) if s.duplicates is None else s.duplicates for s in submissions])


def _source_rows(submission: Submission) -> U32:
    return np.arange(submission.n, dtype=np.uint32) if submission.source_rows is None else submission.source_rows


def _has_shared_task(task_ids: Sequence[bytes | None]) -> bool:
    """Several parts belong to one task: their segments are read as one, so that positions must stand per row."""
    named = [task_id for task_id in task_ids if task_id]
    return len(named) > len(set(named))


def _merge_source_rows(submissions: Sequence[Submission], *, is_needed: bool) -> U32 | None:
    if not is_needed and all(submission.source_rows is None for submission in submissions):
        return None
    return np.concatenate([_source_rows(submission) for submission in submissions])
