"""Session rules: every state meets every packet; identity, topics and grants."""

from __future__ import annotations

import itertools
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RemoteProtocolError
from gateway.wire.mqtt import packets as mqtt
from gateway.wire.mqtt.properties import Properties
from gateway.wire.mqtt.reason_codes import ReasonCode
from gateway.wire.mqtt.session import (
    TRANSITIONS,
    Act,
    SessionState,
    act_for,
    check_disconnect,
    connect_refusal,
    connect_refusal_5,
    grant,
    is_device_id,
    uplink_event,
)

DEVICE = "0123456789abcdef0123456789abcdef"
PACKETS: list[mqtt.Packet] = [
    mqtt.Connect(DEVICE, True, 60, "app", b"password", False),
    mqtt.Publish("t", b"", 0, 0, False, False),
    mqtt.Subscribe(1, (("t", 0),)),
    mqtt.Unsubscribe(1, ("t",)),
    mqtt.Puback(1),
    mqtt.Pubrel(1),
    mqtt.Pingreq(),
    mqtt.Disconnect(),
]


def test_the_list_of_packets_here_is_complete() -> None:
    assert {type(packet) for packet in PACKETS} == set(typing.get_args(mqtt.Packet))


@pytest.mark.parametrize(("state", "packet"), list(itertools.product(SessionState, PACKETS)))
def test_every_state_takes_or_refuses_every_packet(state: SessionState, packet: mqtt.Packet) -> None:
    is_connect = isinstance(packet, mqtt.Connect)
    may_come = {SessionState.FREE: False, SessionState.HANDSHAKING: is_connect, SessionState.CONNECTED: not is_connect}
    if may_come[state]:
        assert act_for(int(state), packet) is TRANSITIONS[state, type(packet)]
    else:
        with pytest.raises(RemoteProtocolError, match="may not come"):
            act_for(state, packet)


def test_every_act_has_exactly_one_packet() -> None:
    assert sorted(act.name for act in TRANSITIONS.values()) == sorted(act.name for act in Act)


@given(st.text(max_size=40) | st.text("0123456789abcdefABCDEF\n", min_size=31, max_size=33))
def test_device_id_is_32_lower_case_hex_digits(text: str) -> None:
    assert is_device_id(text) == (len(text) == 32 and set(text) <= set("0123456789abcdef"))


def test_connect_is_refused_by_identifier_before_password() -> None:
    good = mqtt.Connect(DEVICE, True, 60, "app", b"password", False)
    assert connect_refusal(good) is None
    assert connect_refusal(good._replace(client_id="")) is mqtt.ConnectCode.IDENTIFIER_REJECTED
    assert connect_refusal(good._replace(client_id="", user_name=None)) is mqtt.ConnectCode.IDENTIFIER_REJECTED
    assert connect_refusal(good._replace(user_name=None)) is mqtt.ConnectCode.BAD_USER_NAME_OR_PASSWORD
    assert connect_refusal(good._replace(password=None)) is mqtt.ConnectCode.BAD_USER_NAME_OR_PASSWORD


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Properties(), None),
        (Properties(receive_maximum=1, topic_alias_maximum=5, maximum_packet_size_bytes=64), None),
        (Properties(authentication_method="SCRAM-SHA-1"), ReasonCode.BAD_AUTHENTICATION_METHOD),
        (Properties(maximum_packet_size_bytes=63), ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR),
    ],
)
def test_connect_of_5_is_refused_for_what_is_not_offered(said: Properties, code: ReasonCode | None) -> None:
    assert connect_refusal_5(mqtt.Connect(DEVICE, True, 60, "app", b"password", False, 5, said)) == code


@pytest.mark.parametrize(
    ("seconds", "may_keep", "is_good"),
    [(None, False, True), (0, False, True), (9, True, True), (9, False, False)],
)
def test_disconnect_may_not_ask_for_a_session_that_its_connect_did_not_ask_for(
    seconds: int | None, may_keep: bool, is_good: bool
) -> None:
    packet = mqtt.Disconnect(0, Properties(session_expiry_interval_s=seconds))
    if is_good:
        check_disconnect(packet, may_keep_session=may_keep)
    else:
        with pytest.raises(RemoteProtocolError) as caught:
            check_disconnect(packet, may_keep_session=may_keep)
        assert caught.value.wire_code == ReasonCode.PROTOCOL_ERROR


@pytest.mark.parametrize(("asked", "granted"), [(0, 0), (1, 1), (2, 1)])
def test_own_downlink_is_granted_up_to_qos_1(asked: int, granted: int) -> None:
    assert grant(mqtt.Subscribe(1, ((f"d/{DEVICE}/down", asked),)), DEVICE) == (bytes([granted]), granted)


@pytest.mark.parametrize(
    "name", ["#", "d/+/down", f"d/{DEVICE}/#", f"d/{DEVICE}/up/x", f"d/{DEVICE[::-1]}/down", f"D/{DEVICE}/down"]
)
def test_every_other_filter_is_refused(name: str) -> None:
    assert grant(mqtt.Subscribe(1, ((name, 1),)), DEVICE) == (b"\x80", None)


def test_grant_answers_each_filter_in_order_and_the_last_one_counts() -> None:
    own = f"d/{DEVICE}/down"
    assert grant(mqtt.Subscribe(1, ((own, 1), ("#", 1), (own, 0))), DEVICE) == (b"\x01\x80\x00", 0)


@pytest.mark.parametrize(
    ("topic", "event"),
    [
        (f"d/{DEVICE}/up/displayed", "displayed"),
        (f"d/{DEVICE}/up/90001", "90001"),
        (f"d/{DEVICE}/up/", None),
        (f"d/{DEVICE}/up/a/b", None),
        (f"d/{DEVICE}/up/a b", None),
        (f"d/{DEVICE}/up/été", None),
        (f"d/{DEVICE}/up/a\n", None),
        (f"d/{DEVICE}/up/" + "x" * 64, "x" * 64),
        (f"d/{DEVICE}/up/" + "x" * 65, None),
        (f"d/{DEVICE}/down", None),
        (f"d/{DEVICE[::-1]}/up/displayed", None),
        ("displayed", None),
    ],
)
def test_uplink_event_is_taken_from_the_own_topic_only(topic: str, event: str | None) -> None:
    assert uplink_event(topic, DEVICE) == event
