"""Addresses, and what callers say as requests."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.client.address import Address, parse_address, tls_context
from gateway.client.requests import (
    DeviceState,
    device_request,
    id_bytes,
    register_request,
    submit_request,
    trace_request,
    with_request_id,
)
from gateway.content import Variant
from gateway.errors import ConfigError
from gateway.wire.rpc import codec
from gateway.wire.rpc.submit import decode_submit


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:7300", Address("tcp", "127.0.0.1", 7300)),
        ("tcp://[::1]:7300", Address("tcp", "::1", 7300)),
        ("tls://push.example.com:7301", Address("tls", "push.example.com", 7301)),
        ("tls://h:1?ca=/etc/ca%20x.pem", Address("tls", "h", 1, ca_file="/etc/ca x.pem")),
        ("unix:///run/pushgw.sock", Address("unix", path="/run/pushgw.sock")),
    ],
)
def test_address_has_three_forms(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address))[:4] == address[:4]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:7300",
        "tcp://127.0.0.1",
        "tcp://:7300",
        "tcp://h:99999",
        "tcp://h:1?ca=x",
        "tls://h:1?key=x",
        "tls://h:1/path",
        "unix://path",
        "unix://",
        "http://h:1",
        "tcp://u@h:1",
    ],
)
def test_address_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_address(text)


def test_address_with_a_ca_file_that_is_missing_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="readable PEM"):
        tls_context(parse_address("tls://h:1?ca=/does/not/exist.pem"))


def test_submit_request_mixes_devices_and_tokens() -> None:
    request = submit_request(
        [Variant("a", ""), Variant("b", "")], ["11" * 16, ("fcm", "x"), ("apns", "y"), ("fcm", "z")], index=[0, 1, 1, 0]
    )
    found = decode_submit(codec.encode(request))
    assert found.channels is not None
    assert found.channels.tolist() == [0, 3, 2, 3]
    assert found.tokens is not None
    assert found.tokens.rows() == [b"", b"x", b"y", b"z"]
    assert found.n == 4


def test_submit_request_of_tokens_only_sends_no_device_ids() -> None:
    request = submit_request(Variant("a", ""), [("fcm", "x")])
    assert request.device_ids is None
    assert decode_submit(codec.encode(request)).n == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: submit_request(Variant("a", ""), ["11"]),
        lambda: submit_request(Variant("a", ""), ["11" * 16], index=[0, 0]),
        lambda: submit_request(Variant("a", ""), ["11" * 16], variables={"v": []}),
        lambda: register_request([DeviceState(device_id="11" * 16, tags=("a\nb",))]),
        trace_request,
        lambda: trace_request(task_id=bytes(16)),
        lambda: trace_request(device_id=bytes(16)),
        lambda: trace_request(bytes(16), bytes(16), bytes(16)),
        device_request,
        lambda: device_request(bytes(16), "alias"),
        lambda: id_bytes("task id", b"short"),
    ],
)
def test_requests_that_say_nothing_certain_are_value_errors(call: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        call()


def test_submit_without_a_request_id_gets_a_fresh_one() -> None:
    one, other = (with_request_id(submit_request(Variant("a", ""), ["11" * 16])) for _ in range(2))
    assert len(one.request_id) == 32
    assert one.request_id != other.request_id
    assert with_request_id(one) is one
