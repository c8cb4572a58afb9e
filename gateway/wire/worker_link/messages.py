"""Every message of a link, one MessagePack array each. Both ends are of one build, so fields have no names on the wire.

    hello       both, first frame: who speaks, in which life, and what it has room for
    slice       rows of a batch for their owner                          the stream of rows, by credit
    outcomes    what became of rows of one batch, for their home     \\
    marked      what a report announced is durably known              |
    credit      room for further slices                               |  the stream of outcomes and control,
    ask         a question that is answered once                      |  never refused
    answer                                                           /

Columns are MessagePack bin: little-endian arrays, one element per row; a column of bytes whose rows are all equal is
one element (`packed`, `unpacked`). `memoryview` fields are views of the frame.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta

VERSION = 4
U32_MAX = (1 << 32) - 1
WorkerIndex = Annotated[int, Meta(ge=0, le=255)]
Number = Annotated[int, Meta(ge=0, le=U32_MAX)]
Count = Annotated[int, Meta(ge=0)]
RowCount = Annotated[int, Meta(ge=1, le=1 << 16)]
Address = tuple[int, int, int]


class Hello(msgspec.Struct, array_like=True, tag=1, forbid_unknown_fields=True):
    """workers: how many there are; two that disagree would disagree on who owns what."""

    version: int
    worker: WorkerIndex
    incarnation: Number
    workers: WorkerIndex
    credit_rows: Annotated[int, Meta(ge=1)]
    credit_bytes: Annotated[int, Meta(ge=1)]


class Slice(msgspec.Struct, array_like=True, tag=2, forbid_unknown_fields=True):
    """n rows of one batch. rows: (n,) u16, their positions at home. record: the rows as a journal record of a batch.

    age_s: how long ago the batch was born. Costs n and the bytes of the record in credit.
    """

    n: RowCount
    age_s: float
    rows: memoryview
    record: memoryview


class BurstColumns(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One complete burst. rows: (k,) u16 positions at home. answered_ms: (k,) u32. verdicts: (k,) u8, packed."""

    number: int
    attempt: int
    channel: int
    connection: int
    issued_ms: int
    rows: memoryview
    answered_ms: memoryview
    verdicts: memoryview
    names: dict[int, str]
    request_ids: dict[int, str]


class Outcomes(msgspec.Struct, array_like=True, tag=3, forbid_unknown_fields=True):
    """n rows of one batch as their holder has them. rows: (n,) u16. codes: (8, n) u8; words: (4, n) u32.

    One column after the other, which they are stands in actors/link_columns.py: a block each is half of the work of a
    field per column.

    questions: number and (k,) u16 rows at home that its sender keeps until `marked`.
    """

    address: Address
    n: Annotated[int, Meta(ge=0, le=1 << 16)]
    rows: memoryview
    codes: memoryview
    words: memoryview
    bursts: list[BurstColumns]
    questions: list[tuple[Number, memoryview]] = []


class Marked(msgspec.Struct, array_like=True, tag=7, forbid_unknown_fields=True):
    """The journal of the batch's home has durable marks of the rows of the question with this number."""

    number: Number


class Credit(msgspec.Struct, array_like=True, tag=4, forbid_unknown_fields=True):
    """The receiver of slices has room for so many more."""

    rows: Count
    bytes: Count


class Ask(msgspec.Struct, array_like=True, tag=5, forbid_unknown_fields=True):
    """what: whom the question is for. About what, and in which form, only the two actors know."""

    number: Number
    what: Annotated[str, Meta(max_length=64)]
    head: dict[str, Any]
    body: memoryview


class Answer(msgspec.Struct, array_like=True, tag=6, forbid_unknown_fields=True):
    """The one answer to the question of this number. is_known false: nobody there answers such questions."""

    number: Number
    body: memoryview
    is_known: bool = True


Message: TypeAlias = Hello | Slice | Outcomes | Credit | Ask | Answer | Marked

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
#: All that a msgspec decoder raises for bytes that it cannot read.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(message: Message) -> bytes:
    return _ENCODER.encode(message)


def decode(payload: bytes) -> Message:
    """Raises one of UNREADABLE."""
    return _DECODER.decode(payload)


def column(values: np.ndarray[Any, Any], dtype: str) -> memoryview:
    """The column as little-endian bytes; a view where it is so already."""
    return np.ascontiguousarray(values, dtype).reshape(-1).view(np.uint8).data


def packed(values: np.ndarray[Any, Any]) -> memoryview:
    """A column of bytes; one element where all rows are equal, which they usually are."""
    data = np.ascontiguousarray(values, np.uint8).tobytes()
    return memoryview(data[:1] if data and data == data[:1] * len(data) else data)


def array(name: str, data: memoryview, dtype: str, n: int) -> np.ndarray[Any, Any]:
    """(n,) view of a column. Raises ValueError where its size is another."""
    wanted = n * np.dtype(dtype).itemsize
    if len(data) != wanted:
        raise ValueError(f"column {name} is {len(data)} bytes, expected {wanted}")
    return np.frombuffer(data, dtype)


def unpacked(name: str, data: memoryview, n: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(n,) uint8 of what `packed` made. Raises ValueError where its size is neither 1 nor n."""
    if len(data) == 1 and n:
        return np.full(n, data[0], np.uint8)
    return array(name, data, "u1", n)
