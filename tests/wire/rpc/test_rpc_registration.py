"""RegisterDevices -> Registration: faulty rows refused alone, columns that are absent stay absent."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from gateway.client.requests import DeviceState, register_request
from gateway.columns import TextColumn
from gateway.ledger import Channel
from gateway.wire.rpc import codec
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.limits import RpcLimits
from gateway.wire.rpc.messages import RegisterDevices, Texts
from gateway.wire.rpc.registration import check_registration, devices_registered

ID = [bytes([k]) * 16 for k in range(1, 9)]


def over_the_wire(request: RegisterDevices) -> RegisterDevices:
    message = codec.decode_from_client(codec.encode(request))
    assert isinstance(message, RegisterDevices)
    return message


def test_registration_carries_the_whole_state_of_each_device() -> None:
    request = register_request(
        [
            DeviceState(device_id=ID[0], channel="apns", token="aa", proven_unix_s=7, alias="李", tags=("a", "b")),
            DeviceState(device_id=ID[1].hex(), channel="fcm", token="bbb", platform="android", time_zone="UTC"),
            DeviceState(device_id=ID[2]),
        ]
    )
    found = check_registration(over_the_wire(request))
    assert found.n == 3
    assert found.source_rows is None
    assert found.device_ids.tobytes() == b"".join(ID[:3])
    assert found.channels is not None
    assert found.channels.tolist() == [Channel.APNS, Channel.FCM, 0]
    assert found.tokens is not None
    assert found.tokens.rows() == [b"aa", b"bbb", b""]
    assert found.proven_unix_s is not None
    assert found.proven_unix_s.tolist() == [7, 0, 0]
    assert found.alias is not None
    assert found.alias.rows() == ["李".encode(), b"", b""]
    assert found.tags is not None
    assert found.tags.rows() == [b"a\nb", b"", b""]
    assert found.app_version is None


def test_registration_refuses_faulty_rows_alone() -> None:
    request = RegisterDevices(
        id=1,
        n=8,
        device_ids=memoryview(b"".join([*ID[:5], ID[0], bytes(16), ID[7]])),
        channels=["apns", "nokia"],
        channel_index=memoryview(bytes([1, 2, 9, 1, 0, 0, 0, 1])),
        tokens=texts([b"ok", b"x", b"x", b"a b", b"extra", b"", b"", b"bad"]),
    )
    found = check_registration(over_the_wire(request), lambda _, tokens: tokens.lengths() == 2)
    assert [(fault.row, fault.field) for fault in found.faults] == [
        (1, "channel"),
        (2, "channel"),
        (3, "tokens"),
        (4, "tokens"),
        (5, "device_id"),
        (6, "to"),
        (7, "tokens"),
    ]
    assert found.n == 1
    answer = devices_registered(request, found)
    assert (answer.registered, answer.refused_count) == (1, 7)


def test_registration_refuses_texts_that_are_too_long_or_not_utf8() -> None:
    request = RegisterDevices(
        id=1,
        n=3,
        device_ids=memoryview(b"".join(ID[:3])),
        alias=texts([b"x" * 129, b"\xff", b"fine"]),
    )
    found = check_registration(over_the_wire(request))
    assert [(fault.row, fault.field) for fault in found.faults] == [(0, "alias"), (1, "alias")]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"channels": ["apns"]}, "channels"),
        ({"tokens": Texts(b"", memoryview(struct.pack("<2I", 0, 0)))}, "channels"),
        ({"proven_unix_s": memoryview(b"123")}, "proven_unix_s"),
        ({"device_ids": memoryview(b"")}, "device_ids"),
    ],
)
def test_registration_whose_columns_do_not_fit_fails_whole(fields: dict[str, Any], field: str) -> None:
    base: dict[str, Any] = {"id": 1, "n": 1, "device_ids": memoryview(ID[0])}
    with pytest.raises(BadRequest) as caught:
        check_registration(RegisterDevices(**(base | fields)))
    assert caught.value.field == field


def test_registration_over_the_row_limit_fails() -> None:
    request = register_request([DeviceState(device_id=one) for one in ID[:3]])
    with pytest.raises(BadRequest, match="submit_rows_max"):
        check_registration(request, limits=RpcLimits(submit_rows_max=2))


def texts(rows: list[bytes]) -> Texts:
    column = TextColumn.from_rows(rows)
    return Texts(column.blob, memoryview(column.offsets.astype("<u4").tobytes()))
