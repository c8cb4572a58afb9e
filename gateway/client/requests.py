"""What callers say, as requests of the RPC. The clients give each request its number when they send it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypedDict, Unpack

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.message_id import from_text
from gateway.regions import channel_name
from gateway.wire.rpc.messages import (
    BlockDevices,
    Device,
    DeviceStatus,
    EraseDevices,
    RegisterDevices,
    ReportConsents,
    Submit,
    SubmitAudience,
    TaskRows,
    Texts,
    Trace,
)

#: A device id (16 bytes, or 32 hex digits), or (vendor, device token), or those with the vendor's region.
Target: TypeAlias = bytes | str | tuple[str, str] | tuple[str, str, str]
#: The number of a request that has not been sent.
UNSENT = 1


def id_bytes(name: str, value: bytes | str) -> bytes:
    """16 bytes out of 16 bytes, 32 hex digits or UUID text. Raises ValueError for anything else."""
    found = from_text(value) if isinstance(value, str) else value
    if found is None or len(found) != 16:
        raise ValueError(f"{name} is neither 16 bytes nor 32 hex digits")
    return found


def channel_and_token(target: tuple[str, str] | tuple[str, str, str]) -> tuple[str, str]:
    """Raises ValueError for a region that the vendor does not have."""
    return channel_name(target[0], target[2] if len(target) == 3 else ""), target[1]


def texts(column: TextColumn) -> Texts:
    """A text column as it travels."""
    return Texts(column.blob, little_endian(column.offsets, "<u4"))


def little_endian(values: npt.ArrayLike, dtype: str) -> memoryview:
    """An array as the bin of a column; dtype as in docs/rpc.md ("<u4", "u1", ...)."""
    return memoryview(np.ascontiguousarray(values, dtype).tobytes())


def submit_request(
    contents: Variant | Sequence[Variant],
    to: Sequence[Target],
    *,
    index: Sequence[int] | None = None,
    variables: Mapping[str, Sequence[str]] | None = None,
    request_id: str = "",
    allow_duplicates: bool = False,
    group: str = "",
    task_id: bytes | str | None = None,
) -> Submit:
    """One submit to the targets, in their order. index: which content each target gets, where there are several.

    variables: name -> one value per target. task_id: of an earlier task that the rows become part of.

    Raises ValueError where the lengths differ, an id has not its form, or a vendor has no such region.
    """
    n = len(to)
    ids, vendors, vendor_index, tokens = bytearray(16 * n), list[str](), bytearray(n), list[bytes]()
    for row, target in enumerate(to):
        if isinstance(target, tuple):
            vendor, token = channel_and_token(target)
            if vendor not in vendors:
                vendors.append(vendor)
            vendor_index[row] = vendors.index(vendor) + 1
            tokens.append(token.encode())
        else:
            ids[16 * row : 16 * row + 16] = id_bytes("device id", target)
            tokens.append(b"")
    for name, values in (variables or {}).items():
        if len(values) != n:
            raise ValueError(f"variable {name} has {len(values)} values for {n} targets")
    if index is not None and len(index) != n:
        raise ValueError(f"index has {len(index)} entries for {n} targets")
    return Submit(
        id=UNSENT,
        contents=[contents] if isinstance(contents, Variant) else list(contents),
        n=n,
        index=None if index is None else little_endian(index, "<u2"),
        device_ids=None if vendors and all(vendor_index) else memoryview(ids),
        vendors=vendors,
        vendor_index=memoryview(vendor_index) if vendors else None,
        tokens=texts(TextColumn.from_rows(tokens)) if vendors else None,
        variables=None
        if variables is None
        else {name: texts(TextColumn.from_texts(values)) for name, values in variables.items()},
        request_id=request_id,
        allow_duplicates=allow_duplicates,
        group=group,
        task_id=None if task_id is None else id_bytes("task id", task_id),
    )


class DeviceState(msgspec.Struct, kw_only=True, frozen=True):
    """The whole state of one device as register_devices writes it. channel "": no vendor token, long link only.

    region: of the device at its vendor (Xiaomi, OPPO, Meizu); "": the app's main one.
    """

    device_id: bytes | str
    channel: str = ""
    token: str = ""
    region: str = ""
    proven_unix_s: int = 0
    platform: str = ""
    app_version: str = ""
    time_zone: str = ""
    alias: str = ""
    tags: tuple[str, ...] = ()


def register_request(devices: Sequence[DeviceState], *, want_passwords: bool = False) -> RegisterDevices:
    """Columns of the given devices; a column that is empty in all of them is left out.

    want_passwords: the answer carries each device's password of the long link.

    Raises ValueError for an id without its form, a tag with a newline, or a region that its vendor does not have.
    """
    names = [channel_name(device.channel, device.region) for device in devices]
    channels = sorted(set(names) - {""})
    position = {name: k for k, name in enumerate(channels, 1)} | {"": 0}
    if any("\n" in tag for device in devices for tag in device.tags):
        raise ValueError("a tag holds a newline")
    lines: dict[str, Texts | None] = {}
    for field in ("platform", "app_version", "time_zone", "alias"):
        values = [str(getattr(device, field)) for device in devices]
        lines[field] = texts(TextColumn.from_texts(values)) if any(values) else None
    proven = [device.proven_unix_s for device in devices]
    tags = ["\n".join(device.tags) for device in devices]
    return RegisterDevices(
        id=UNSENT,
        n=len(devices),
        device_ids=memoryview(b"".join(id_bytes("device id", device.device_id) for device in devices)),
        channels=channels,
        channel_index=little_endian([position[name] for name in names], "u1") if channels else None,
        tokens=texts(TextColumn.from_texts([device.token for device in devices])) if channels else None,
        proven_unix_s=little_endian(proven, "<u4") if any(proven) else None,
        platform=lines["platform"],
        app_version=lines["app_version"],
        time_zone=lines["time_zone"],
        alias=lines["alias"],
        tags=texts(TextColumn.from_texts(tags)) if any(tags) else None,
        want_passwords=want_passwords,
    )


def task_rows_request(
    task_id: bytes | str,
    first: int = 0,
    n: int = 1000,
    *,
    states: Sequence[str] | None = None,
    reasons: Sequence[str] | None = None,
) -> TaskRows:
    return TaskRows(
        id=UNSENT,
        task_id=id_bytes("task id", task_id),
        first=first,
        n=n,
        states=None if states is None else list(states),
        reasons=None if reasons is None else list(reasons),
    )


def trace_request(
    task_id: bytes | str | None = None, device_id: bytes | str | None = None, message_id: bytes | str | None = None
) -> Trace:
    """Raises ValueError unless it is message_id alone, or task_id and device_id."""
    if (message_id is None) == (task_id is None) or (device_id is None) != (task_id is None):
        raise ValueError("a trace needs message_id, or task_id and device_id")
    return Trace(
        id=UNSENT,
        task_id=None if task_id is None else id_bytes("task id", task_id),
        device_id=None if device_id is None else id_bytes("device id", device_id),
        message_id=None if message_id is None else id_bytes("message id", message_id),
    )


def device_request(device_id: bytes | str | None = None, alias: str = "", app_key: str = "") -> Device:
    """Raises ValueError unless it is one of device_id and alias."""
    if (device_id is None) == (alias == ""):
        raise ValueError("a device is named by its id or by its alias")
    return Device(
        id=UNSENT,
        device_id=None if device_id is None else id_bytes("device id", device_id),
        alias=alias,
        app_key=app_key,
    )


def erase_request(device_ids: Sequence[bytes | str], app_key: str = "") -> EraseDevices:
    """Raises ValueError for an id without its form."""
    ids = b"".join(id_bytes("device id", one) for one in device_ids)
    return EraseDevices(id=UNSENT, n=len(device_ids), device_ids=memoryview(ids), app_key=app_key)


def block_request(device_ids: Sequence[bytes | str], blocked: bool, app_key: str = "") -> BlockDevices:
    """Raises ValueError for an id without its form."""
    ids = b"".join(id_bytes("device id", one) for one in device_ids)
    return BlockDevices(id=UNSENT, n=len(device_ids), device_ids=memoryview(ids), blocked=blocked, app_key=app_key)


def consents_request(
    users: Sequence[str], template: str | Sequence[str], counts: int | Sequence[int], *, is_total: bool, app_key: str
) -> ReportConsents:
    """template, counts: one for all users, or one for each. Raises ValueError where the lengths differ."""
    names = [template] * len(users) if isinstance(template, str) else list(template)
    numbers = [counts] * len(users) if isinstance(counts, int) else list(counts)
    if len(names) != len(users) or len(numbers) != len(users):
        raise ValueError(f"{len(users)} users with {len(names)} templates and {len(numbers)} counts")
    templates = list(dict.fromkeys(names))
    position = {name: k for k, name in enumerate(templates)}
    return ReportConsents(
        id=UNSENT,
        n=len(users),
        users=texts(TextColumn.from_texts(list(users))),
        templates=templates,
        template_index=None if len(templates) == 1 else little_endian([position[name] for name in names], "u1"),
        counts=None if set(numbers) == {1} else little_endian(numbers, "<u4"),
        is_total=is_total,
        app_key=app_key,
    )


def device_status_request(device_ids: Sequence[bytes | str], app_key: str = "") -> DeviceStatus:
    """Raises ValueError for an id without its form."""
    ids = b"".join(id_bytes("device id", one) for one in device_ids)
    return DeviceStatus(id=UNSENT, n=len(device_ids), device_ids=memoryview(ids), app_key=app_key)


def with_request_id(request: Submit) -> Submit:
    """The submit with a request_id, so that it may be sent twice and done once."""
    return request if request.request_id else msgspec.structs.replace(request, request_id=os.urandom(16).hex())


class AudienceOptions(TypedDict, total=False):
    """Whose devices get an audience's content, and how fast.

    tag: of those that have it; aliases: of those, at most 1,000; neither: of all. online_only: of these, the devices
    that are online now. rows_per_s: at most so many. request_id: the same one again is the same audience.
    """

    tag: str
    aliases: Sequence[str]
    online_only: bool
    rows_per_s: float | None
    request_id: str


def audience_request(content: Variant, **who: Unpack[AudienceOptions]) -> SubmitAudience:
    """With a request_id, made where there is none: it may be sent twice and is done once."""
    return SubmitAudience(
        id=UNSENT,
        content=content,
        tag=who.get("tag", ""),
        aliases=list(who.get("aliases", ())),
        online_only=who.get("online_only", False),
        rows_per_s=who.get("rows_per_s"),
        request_id=who.get("request_id") or os.urandom(16).hex(),
    )
