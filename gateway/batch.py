"""Batch: up to 65,536 rows as columns, the unit of everything (DESIGN.md section 2).

A `Submission` is what one submit call brought, decoded and checked by row. The gather actor puts submissions of one
app together into a `Batch`. A batch is immutable once made; where its rows are stands in its ledger page.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.columns import U8, U16, U32, Bool, Rows, TextColumn
from gateway.content import Variant
from gateway.message_id import ROWS_MAX, BatchAddress, MessageIds

#: Of a batch that has no home yet.
NO_IDS: U8 = np.zeros((0, 16), np.uint8)

#: A batch takes no more submissions once its texts, tokens and variables reach this; it never splits a submission.
#: 8 MiB = 128 bytes for each of 65,536 rows; keeps one journal record a few milliseconds of writing.
BATCH_BYTES_MAX = 8 << 20
#: Of a number in a content's data.
_NUMBER_BYTES = 8
#: What a content takes in memory beside its texts, one that has more than these two, a segment, and the mark of a
#: request id. Measured: 176, 235 for a map of one key, 177, 180.
_CONTENT_BYTES, _MORE_BYTES, _SEGMENT_BYTES, _REQUEST_BYTES = 180, 240, 180, 180
#: So many contents are looked at to know what all of them take: those of a batch are mostly alike.
_CONTENTS_LOOK = 64


class OwnershipEpoch(NamedTuple):
    """Which version of the ownership map a write was made under; stores refuse older ones."""

    number: int


class RowFault(NamedTuple):
    """One refused row of a submission: position in the submit as sent, field, text. It never becomes a row."""

    row: int
    field: str
    text: str


class Submission(NamedTuple):
    """The accepted rows of one submit call, as columns; n rows.

    source_rows: (n,) uint32 position of each row in the call as sent, or None when none was refused.
    device_ids: (n, 16) uint8, zeros where the target is a token.
    channels: (n,) uint8 channel code of token targets, 0 for devices; None when all targets are devices.
    tokens: n rows, empty for devices; None when all targets are devices.
    variant_index: (n,) uint16 into variants, or None when there is one variant.
    variables: name -> n rows of UTF-8 text.
    duplicates: (n,) bool, rows whose target came earlier in the call; None when none.
    group: the caller's label of the call.
    """

    request_id: str
    variants: Sequence[Variant]
    n: int
    source_rows: U32 | None
    device_ids: U8
    channels: U8 | None
    tokens: TextColumn | None
    variant_index: U16 | None
    variables: Mapping[str, TextColumn]
    duplicates: Bool | None
    faults: Sequence[RowFault]
    group: str = ""

    def row_text_bytes(self) -> int:
        """Bytes of text that rows have of their own: variables and tokens."""
        size = 0
        for column in self.variables.values():
            size += len(column.blob)
        return size if self.tokens is None else size + len(self.tokens.blob)

    def text_bytes(self) -> int:
        """The same with what the contents say, about."""
        size = self.row_text_bytes()
        if self.n:
            for variant in self.variants:
                size += len(variant.title.encode()) + len(variant.body.encode())
                if variant.data is not None or variant.texts is not None or variant.raw is not None:
                    size += _more_bytes(variant)
        return size

    def text_bytes_at_most(self) -> int:
        """No less than `text_bytes`, at a third of its price."""
        size = self.row_text_bytes()
        for variant in self.variants:
            size += 4 * (len(variant.title) + len(variant.body))
            if variant.data is not None or variant.texts is not None or variant.raw is not None:
                size += 4 * _more_bytes(variant)
        return size


def _more_bytes(variant: Variant) -> int:
    """What a content says beside its two texts, in characters: a few KB more or less are no matter, megabytes are."""
    size = 0
    for key, value in (variant.data or {}).items():
        size += len(key) + (len(value) if isinstance(value, str) else _NUMBER_BYTES)
    for own in (variant.texts or {}).values():
        size += len(own.title or "") + len(own.body or "")
    for raw in (variant.raw or {}).values():
        size += memoryview(raw).nbytes
    return size


def _content_bytes(variant: Variant) -> int:
    """Of one content in memory, about."""
    size = _CONTENT_BYTES + sys.getsizeof(variant.title) + sys.getsizeof(variant.body)
    if variant.data is not None or variant.texts is not None or variant.raw is not None:
        size += _MORE_BYTES + 2 * _more_bytes(variant)
    return size


class TaskSegment(NamedTuple):
    """Rows of one submit, or of a piece of one, in one batch: first..first + n. A task may have several.

    group: the submit's label. is_continued: the task began in an earlier batch, which its id is the address of.
    """

    task_id: bytes
    first: int
    n: int
    group: str = ""
    is_continued: bool = False


def task_segments(batch: Batch, task_id: bytes) -> list[TaskSegment]:
    """The task's rows in the batch; neighbours of one group as one segment, so that a task of thousands of submits of
    one row each is read in few pieces."""
    found: list[TaskSegment] = []
    for segment in batch.segments:
        if segment.task_id != task_id:
            continue
        last = found[-1] if found else None
        if last is not None and last.first + last.n == segment.first and last.group == segment.group:
            found[-1] = last._replace(n=last.n + segment.n)
        else:
            found.append(segment)
    return found


def continued_tasks(batch: Batch) -> list[bytes]:
    """Tasks of the batch that began in earlier ones, each once."""
    return list(dict.fromkeys(segment.task_id for segment in batch.segments if segment.is_continued))


class RequestMark(NamedTuple):
    """A submit's request id, as core/request_ids.py keeps it, and where its task begins in the batch."""

    row: int
    key: int
    digest: int


class Batch:
    """n rows of one app. Columns as in Submission; message_ids: (n, 16) uint8, or what makes them.

    requests: the request ids of submits whose first row is in this batch.

    source_rows: position of each row in its submit as sent; None: its position in its segment.

    target_hashes: (n,) uint32, keyed hashes of targets that are tokens, 0 for devices. A batch out of the ledger
    archive has these and no tokens; else they are made when it goes there.

    has_fallback: whether a variant names further channels. chains: those as columns, made by core/fallback.py.

    born_unix_ms is the submit time from which TTLs count; born is the same moment on the monotonic clock.
    """

    __slots__ = (
        "_content_bytes_max",
        "_objects_bytes",
        "address",
        "app",
        "born",
        "born_unix_ms",
        "chains",
        "channels",
        "device_ids",
        "duplicates",
        "has_fallback",
        "message_ids",
        "n",
        "requests",
        "segments",
        "source_rows",
        "target_hashes",
        "tokens",
        "variables",
        "variant_index",
        "variants",
    )

    def __init__(
        self,
        address: BatchAddress,
        app: int,
        born: float,
        n: int,
        *,
        device_ids: U8,
        message_ids: U8 | MessageIds = NO_IDS,
        variants: Sequence[Variant],
        variant_index: U16 | None = None,
        channels: U8 | None = None,
        tokens: TextColumn | None = None,
        duplicates: Bool | None = None,
        source_rows: U32 | None = None,
        variables: Mapping[str, TextColumn] | None = None,
        segments: Sequence[TaskSegment] = (),
        requests: Sequence[RequestMark] = (),
        target_hashes: U32 | None = None,
    ) -> None:
        if not 0 < n <= ROWS_MAX:
            raise ValueError(f"a batch of {n} rows, limit {ROWS_MAX}")
        self.address = address
        self.app = app
        self.born = born
        self.born_unix_ms = address.unix_ms
        self.n = n
        self.device_ids = device_ids
        self.message_ids: U8 | MessageIds = message_ids
        self.variants = variants
        self.variant_index = variant_index
        self.channels = channels
        self.tokens = tokens
        self.duplicates = duplicates
        self.source_rows = source_rows
        self.variables: Mapping[str, TextColumn] = variables or {}
        self.segments = segments
        self.requests = requests
        self.target_hashes = target_hashes
        self.has_fallback = any(variant.fallback for variant in variants)
        self.chains: object | None = None
        self._objects_bytes = self._content_bytes_max = -1

    def variant_of(self, row: int) -> Variant:
        return self.variants[0 if self.variant_index is None else int(self.variant_index[row])]

    @property
    def objects_bytes(self) -> int:
        """What is no column takes in memory, about: contents, segments and marks of request ids. Looked at once: of a
        batch of single messages that is ten times its columns."""
        if self._objects_bytes < 0:
            n = len(self.variants)
            some = self.variants[:: -(-n // _CONTENTS_LOOK)] if n else ()
            contents = sum(map(_content_bytes, some)) * n // max(len(some), 1)
            self._objects_bytes = contents + _SEGMENT_BYTES * len(self.segments) + _REQUEST_BYTES * len(self.requests)
        return self._objects_bytes

    @property
    def content_bytes_max(self) -> int:
        """Title and body of the longest content. Looked at once: a batch may have 65,536."""
        if self._content_bytes_max < 0:
            self._content_bytes_max = max(len(one.title.encode()) + len(one.body.encode()) for one in self.variants)
        return self._content_bytes_max

    def of_contents(self, rows: Rows, ask: Callable[[Variant], float], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """(k,) what the content of each of these rows says: a loop over contents or over rows, whichever are fewer. A
        batch of single messages has a content for each row, and is asked about a few of its rows at a time."""
        variants = self.variants
        if self.variant_index is None:
            return np.full(len(rows), ask(variants[0]), dtype)
        index = self.variant_index[rows]
        if len(rows) < len(variants):
            return np.array([ask(variants[at]) for at in index.tolist()], dtype)
        return np.array([ask(variant) for variant in variants], dtype)[index]

    def __repr__(self) -> str:
        address = self.address
        return f"<Batch {address.journal}/{address.sequence} app {self.app}, {self.n} rows>"
