"""The server's side of WebSocket for MQTT: chunking, faults, and wsproto as the referee of both directions."""

from __future__ import annotations

import random

import pytest
import wsproto
from hypothesis import given
from hypothesis import strategies as st
from wsproto import events
from wsproto.frame_protocol import CloseReason as WsCode

from gateway.errors import LocalProtocolError, RemoteProtocolError
from gateway.wire.websocket import CloseCode, FrameTooBig, UpgradeRefused, WebSocketServer, _unmask

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
REQUEST = (
    "GET /mqtt HTTP/1.1\r\nHost: push.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqttv3.1, mqtt\r\n\r\n"
).encode()


def server(**limits: int) -> WebSocketServer:
    return WebSocketServer(**{"upgrade_bytes_max": 1_024, "frame_bytes_max": 70_000, **limits})


def opened(**limits: int) -> WebSocketServer:
    one = server(**limits)
    assert one.receive_data(REQUEST) == b""
    assert one.data_to_send().startswith(b"HTTP/1.1 101 ")
    return one


def frame(payload: bytes, *, first: int = 0x82, mask: bytes = b"\x11\x22\x33\x44") -> bytes:
    """A frame of a client, byte by byte as section 5.2 has it."""
    n = len(payload)
    if n < 126:
        head = bytes((first, 0x80 | n))
    elif n < 1 << 16:
        head = bytes((first, 0xFE)) + n.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + n.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def pieces(data: bytes, seed: int, longest: int) -> list[bytes]:
    choice, parts = random.Random(seed), []
    while data:
        n = choice.randint(1, longest)
        parts.append(data[:n])
        data = data[n:]
    return parts


def outcome(one: WebSocketServer, parts: list[bytes]) -> tuple[bytes, bytes, str]:
    """(payload, what was answered, fault)."""
    payload = b""
    for part in parts:
        try:
            payload += one.receive_data(part)
        except RemoteProtocolError as error:
            return payload + one.take_payload_before_fault(), one.data_to_send(), str(error)
    return payload, one.data_to_send(), ""


def test_upgrade_is_answered_with_the_key_of_the_standard_and_the_subprotocol() -> None:
    one = server()
    one.receive_data(REQUEST)
    answer = one.data_to_send().lower()
    assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in answer  # RFC 6455 section 1.3
    assert b"sec-websocket-protocol: mqtt\r\n" in answer
    assert one.is_open


@pytest.mark.parametrize("longest", [1, 7])
def test_upgrade_and_frames_do_not_depend_on_chunks(longest: int) -> None:
    stream = REQUEST + frame(b"ab") + frame(b"", first=0x89) + frame(b"c" * 300) + frame(b"\x03\xe8bye", first=0x88)
    whole = outcome(server(), [stream])
    assert whole[0] == b"ab" + b"c" * 300
    assert whole[1].endswith(b"\x8a\x00\x88\x02\x03\xe8")
    for seed in range(5):
        assert outcome(server(), pieces(stream, seed, longest)) == whole


_FRAMES = st.lists(
    st.one_of(
        st.binary(max_size=400).map(frame),
        st.binary(max_size=125).map(lambda payload: frame(payload, first=0x89)),
        st.binary(max_size=20).map(lambda payload: frame(payload, first=0x02) + frame(payload, first=0x80)),
        st.binary(min_size=1, max_size=20),
    ),
    max_size=6,
).map(b"".join)


@given(_FRAMES, st.integers(0, 1_000))
def test_any_bytes_give_the_same_payload_answers_and_fault_however_they_come(stream: bytes, seed: int) -> None:
    whole = outcome(opened(), [stream])
    assert outcome(opened(), pieces(stream, seed, 9)) == whole
    assert outcome(opened(), pieces(stream, seed, 1)) == whole


@given(_FRAMES)
def test_wsproto_reads_the_same_payload_and_finds_the_same_faults(stream: bytes) -> None:
    payload, _, fault = outcome(opened(), [stream])
    judge = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    judge.receive_data(REQUEST)
    list(judge.events())
    judge.send(events.AcceptConnection(subprotocol="mqtt"))
    judged, has_failed = b"", False
    try:
        judge.receive_data(stream)
        for event in judge.events():
            if isinstance(event, events.BytesMessage):
                judged += bytes(event.data)
            elif isinstance(event, events.TextMessage):
                has_failed = True  # ours takes binary frames only [MQTT-6.0.0-1]
                break
            elif isinstance(event, events.CloseConnection):
                break
    except wsproto.utilities.ProtocolError:
        has_failed = True
    if fault and not has_failed:
        # Ours judges a frame by its header; wsproto waits for more of some, and of text until it has some.
        assert payload == judged
    else:
        assert bool(fault) == has_failed
        assert payload.startswith(judged)


@given(st.lists(st.binary(max_size=200_000), max_size=3))
def test_wsproto_as_client_reads_what_is_sent(messages: list[bytes]) -> None:
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    one = server()
    one.receive_data(client.send(events.Request(host="push.example", target="/", subprotocols=["mqtt"])))
    client.receive_data(one.data_to_send())
    (accepted,) = client.events()
    assert isinstance(accepted, events.AcceptConnection)
    assert accepted.subprotocol == "mqtt"
    for message in messages:
        client.receive_data(one.send(message))
    client.receive_data(one.close(CloseCode.GOING_AWAY))
    *received, closed = client.events()
    assert b"".join(bytes(event.data) for event in received if isinstance(event, events.BytesMessage)) == b"".join(
        messages
    )
    assert closed == events.CloseConnection(code=WsCode.GOING_AWAY, reason="")


def without(field: str) -> bytes:
    return b"\r\n".join(line for line in REQUEST.split(b"\r\n") if not line.startswith(field.encode()))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(REQUEST.replace(b"GET", b"POST"), 400, id="POST"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01", 400, id="ClientHello"),
        pytest.param(b"\x10\x20\x00\x04MQTT", 400, id="CONNECT"),
        pytest.param(without("Sec-WebSocket-Protocol"), 400, id="no subprotocol"),
        pytest.param(REQUEST.replace(b"mqttv3.1, mqtt", b"chat"), 400, id="other subprotocol"),
        pytest.param(REQUEST.replace(b"Version: 13", b"Version: 8"), 426, id="old version"),
        pytest.param(without("Sec-WebSocket-Key"), 400, id="no key"),
        pytest.param(without("Upgrade"), 400, id="no upgrade"),
        pytest.param(without("Host"), 400, id="no host"),
        pytest.param(REQUEST.replace(b"Host", b"Content-Length: 5\r\nHost"), 400, id="body"),
        pytest.param(REQUEST.replace(b"mqttv3.1", b"\xff\xfe"), 400, id="not ASCII"),
        pytest.param(b"GET / HTTP/1.1\r\nno field\r\n\r\n", 400, id="bad field"),
        pytest.param(b"GET /" + b"a" * 1_100, 400, id="too long"),
        pytest.param(REQUEST.replace(b"Host", b"Cookie: " + b"a" * 900 + b"\r\nHost"), 400, id="complete and too long"),
    ],
)
@pytest.mark.parametrize("is_whole", [True, False])
def test_request_that_is_no_upgrade_to_mqtt_is_refused_in_http(request_: bytes, status: int, is_whole: bool) -> None:
    one = server()
    with pytest.raises(UpgradeRefused):  # noqa: PT012
        for part in [request_] if is_whole else pieces(request_, 0, 1):
            one.receive_data(part)
    assert one.data_to_send().startswith(f"HTTP/1.1 {status} ".encode())
    assert one.receive_data(b"more") == b""
    with pytest.raises(LocalProtocolError):
        one.send(b"x")


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        pytest.param(b"\x82\x02ab", CloseCode.PROTOCOL_ERROR, id="not masked"),
        pytest.param(frame(b"ab", first=0xC2), CloseCode.PROTOCOL_ERROR, id="reserved bit"),
        pytest.param(frame(b"ab", first=0x83), CloseCode.PROTOCOL_ERROR, id="unknown opcode"),
        pytest.param(frame(b"ab", first=0x81), CloseCode.UNSUPPORTED_DATA, id="text"),
        pytest.param(frame(b"ab", first=0x80), CloseCode.PROTOCOL_ERROR, id="continuation of nothing"),
        pytest.param(frame(b"", first=0x02) + frame(b""), CloseCode.PROTOCOL_ERROR, id="message within a message"),
        pytest.param(frame(b"", first=0x09), CloseCode.PROTOCOL_ERROR, id="fragmented ping"),
        pytest.param(frame(b"a" * 126, first=0x89), CloseCode.PROTOCOL_ERROR, id="long ping"),
        pytest.param(b"\x82\xfe\x00\x05mask", CloseCode.PROTOCOL_ERROR, id="length not shortest"),
        pytest.param(b"\x82\xff" + bytes(6) + b"\xff\xff", CloseCode.PROTOCOL_ERROR, id="long length not shortest"),
        pytest.param(frame(b"\x03", first=0x88), CloseCode.PROTOCOL_ERROR, id="half a close code"),
        pytest.param(frame(b"\x03\xee", first=0x88), CloseCode.PROTOCOL_ERROR, id="close code 1006"),
        pytest.param(frame(b"\x03\xe8\xff", first=0x88), CloseCode.PROTOCOL_ERROR, id="close reason not UTF-8"),
        pytest.param(b"\x82\xff" + (70_001).to_bytes(8, "big"), CloseCode.MESSAGE_TOO_BIG, id="over the limit"),
        pytest.param(b"\x82\xff" + b"\xff" * 8, CloseCode.MESSAGE_TOO_BIG, id="far over the limit"),
    ],
)
def test_fault_closes_with_its_code_after_what_came_before(bad: bytes, code: CloseCode) -> None:
    one = opened()
    with pytest.raises(RemoteProtocolError) as caught:
        one.receive_data(frame(b"before") + bad)
    assert isinstance(caught.value, FrameTooBig) == (code == CloseCode.MESSAGE_TOO_BIG)
    assert one.take_payload_before_fault() == b"before"
    assert one.data_to_send() == b"\x88\x02" + code.to_bytes(2, "big")
    assert (one.receive_data(frame(b"after")), one.send(b"x"), one.close(CloseCode.NORMAL)) == (b"", b"", b"")


def test_ping_is_answered_in_the_middle_of_a_message_and_pong_is_taken() -> None:
    one = opened()
    stream = frame(b"a", first=0x02) + frame(b"p", first=0x89) + frame(b"q", first=0x8A) + frame(b"b", first=0x80)
    assert one.receive_data(stream) == b"ab"
    assert one.data_to_send() == b"\x8a\x01p"


def test_nothing_of_a_large_frame_is_kept() -> None:
    one = opened()
    data = frame(bytes(60_000))
    assert one.receive_data(data[:40_000]) == bytes(40_000 - 8)
    assert len(one._kept) == 0


@given(st.binary(max_size=100), st.binary(min_size=4, max_size=4))
def test_unmask_is_an_xor_byte_by_byte(data: bytes, mask: bytes) -> None:
    assert _unmask(data, mask) == bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
