"""One request in parts, for several workers, and their answers as one. Pure; columns in, columns out.

A part holds some rows of the call, by position; an answer that names rows names those of the part, and is put back into
those of the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from gateway.columns import Rows, TextColumn
from gateway.wire.rpc import messages
from gateway.wire.rpc.columns_in import byte_column, id_column, text_column, word_column

_TEXTS = ("tokens", "platform", "app_version", "time_zone", "alias", "tags")
#: Refused rows that an answer lists; the rest are counted.
_REFUSED_MAX = 1000


class Part(NamedTuple):
    """Rows of a call and what was answered for them."""

    rows: Rows
    answer: Any


def _bytes(values: Any, dtype: str) -> memoryview:
    return memoryview(np.ascontiguousarray(values, dtype).tobytes())


def _texts(column: TextColumn) -> messages.Texts:
    return messages.Texts(bytes(column.blob), _bytes(column.offsets, "<u4"))


# -- register_devices


def registration_part(message: messages.RegisterDevices, rows: Rows) -> messages.RegisterDevices:
    """The same call with these rows alone. Raises BadRequest for columns that do not fit the call."""
    n = message.n
    changes: dict[str, Any] = {
        "n": len(rows),
        "device_ids": _bytes(id_column("device_ids", message.device_ids, n)[rows], "u1"),
    }
    if message.channel_index is not None:
        changes["channel_index"] = _bytes(byte_column("channel_index", message.channel_index, n)[rows], "u1")
    if message.proven_unix_s is not None:
        changes["proven_unix_s"] = _bytes(word_column("proven_unix_s", message.proven_unix_s, n)[rows], "<u4")
    if message.notifications_closed is not None:
        closed = byte_column("notifications_closed", message.notifications_closed, n)
        changes["notifications_closed"] = _bytes(closed[rows], "u1")
    for field in _TEXTS:
        texts = getattr(message, field)
        if texts is not None:
            changes[field] = _texts(text_column(field, texts, n).take(rows))
    return msgspec.structs.replace(message, **changes)


def merge_registered(message: messages.RegisterDevices, parts: Sequence[Part]) -> messages.DevicesRegistered:
    refused: list[messages.RefusedRow] = []
    for rows, answer in parts:
        refused += [messages.RefusedRow(int(rows[fault.row]), fault.field, fault.text) for fault in answer.refused]
    registered = sum(answer.registered for _, answer in parts)
    return messages.DevicesRegistered(
        id=message.id,
        registered=registered,
        refused=sorted(refused, key=lambda fault: fault.row)[:_REFUSED_MAX],
        refused_count=message.n - registered,
        passwords=_merge_texts(message.n, [(rows, answer.passwords) for rows, answer in parts]),
    )


def _merge_texts(n: int, parts: Sequence[tuple[Rows, messages.Texts | None]]) -> messages.Texts | None:
    found: list[bytes] = [b""] * n
    for rows, texts in parts:
        if texts is None:
            return None
        column = TextColumn(texts.blob, np.frombuffer(texts.offsets, "<u4"))
        for position, row in enumerate(rows.tolist()):
            found[row] = column.row(position)
    return _texts(TextColumn.from_rows(found))


# -- device_status


def status_part(message: messages.DeviceStatus, rows: Rows) -> messages.DeviceStatus:
    """The same call for these devices alone. Raises BadRequest for ids without their form."""
    ids = id_column("device_ids", message.device_ids, message.n)
    return msgspec.structs.replace(message, n=len(rows), device_ids=_bytes(ids[rows], "u1"))


_STATUS_COLUMNS = {
    "is_known": "u1",
    "is_online": "u1",
    "since_unix_s": "<u4",
    "last_seen_unix_s": "<u4",
    "address_class": "u1",
}


def merge_statuses(message: messages.DeviceStatus, parts: Sequence[Part]) -> messages.DeviceStatuses:
    columns: dict[str, Any] = {}
    for name, dtype in _STATUS_COLUMNS.items():
        merged = np.zeros(message.n, dtype)
        for rows, answer in parts:
            merged[rows] = np.frombuffer(getattr(answer, name), dtype)
        columns[name] = _bytes(merged, dtype)
    platform = _merge_texts(message.n, [(rows, answer.platform) for rows, answer in parts])
    assert platform is not None
    return messages.DeviceStatuses(id=message.id, n=message.n, platform=platform, **columns)


# -- erase_devices, block_devices

_Devices: TypeAlias = messages.EraseDevices | messages.BlockDevices


def devices_part(message: _Devices, rows: Rows) -> _Devices:
    """The same call for these devices alone. Raises BadRequest for ids without their form."""
    ids = id_column("device_ids", message.device_ids, message.n)
    return msgspec.structs.replace(message, n=len(rows), device_ids=_bytes(ids[rows], "u1"))


def merge_devices(message: _Devices, answers: Sequence[Any]) -> messages.DevicesErased | messages.DevicesBlocked:
    if isinstance(message, messages.EraseDevices):
        return messages.DevicesErased(id=message.id, erased=sum(answer.erased for answer in answers))
    return messages.DevicesBlocked(id=message.id, known=sum(answer.known for answer in answers))


# -- stored_rows


def merge_stored(message: messages.StoredRows, answers: Sequence[messages.StoredRowsFound]) -> messages.StoredRowsFound:
    """Sums, and the first n rows in the order of their birth."""
    ids = np.concatenate([np.frombuffer(answer.device_ids, np.uint8).reshape(-1, 16) for answer in answers])
    born, deadlines = (
        np.concatenate([np.frombuffer(getattr(answer, name), "<u8") for answer in answers])
        for name in ("born_unix_ms", "deadline_unix_ms")
    )
    first = np.argsort(born, kind="stable")[: message.n]
    return messages.StoredRowsFound(
        id=message.id,
        rows=sum(answer.rows for answer in answers),
        bytes=sum(answer.bytes for answer in answers),
        devices=sum(answer.devices for answer in answers),
        n=len(first),
        device_ids=_bytes(ids[first], "u1"),
        born_unix_ms=_bytes(born[first], "<u8"),
        deadline_unix_ms=_bytes(deadlines[first], "<u8"),
    )


# -- online_counts


def merge_counts(message: messages.OnlineCounts, answers: Sequence[messages.OnlineCounted]) -> messages.OnlineCounted:
    """Sums by platform. A slot of a history that a worker does not have counts as nobody there."""
    platforms = list(dict.fromkeys(platform for answer in answers for platform in answer.platforms))
    slots = sorted({at for answer in answers for at in np.frombuffer(answer.at_unix_s, "<u4").tolist()})
    online = np.zeros(len(platforms), np.uint32)
    history = np.zeros((len(slots), len(platforms)), np.uint32)
    for answer in answers:
        places = np.array([platforms.index(platform) for platform in answer.platforms], np.intp)
        online[places] += np.frombuffer(answer.online, "<u4")
        at = np.searchsorted(slots, np.frombuffer(answer.at_unix_s, "<u4"))
        past = np.frombuffer(answer.history, "<u4").reshape(answer.n, len(places))
        history[np.ix_(at, places)] += past
    tagged = [answer.tagged for answer in answers if answer.tagged is not None]
    curve: dict[int, int] = {}
    for answer in answers:
        if answer.tag_at_unix_s is not None and answer.tag_history is not None:
            ends, counts = np.frombuffer(answer.tag_at_unix_s, "<u4"), np.frombuffer(answer.tag_history, "<u4")
            for slot, n in zip(ends.tolist(), counts.tolist(), strict=True):
                curve[slot] = curve.get(slot, 0) + n
    return messages.OnlineCounted(
        id=message.id,
        platforms=platforms,
        online=_bytes(online, "<u4"),
        n=len(slots),
        at_unix_s=_bytes(slots, "<u4"),
        history=_bytes(history, "<u4"),
        tagged=sum(tagged) if tagged else None,
        tag_at_unix_s=_bytes(sorted(curve), "<u4") if tagged else None,
        tag_history=_bytes([curve[slot] for slot in sorted(curve)], "<u4") if tagged else None,
    )
