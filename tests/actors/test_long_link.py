"""The long link over real sockets; long because one bench of sockets serves all of it and files cannot share it.

Sessions, deliveries and reports are driven step by step with a clock set by hand; the last part runs the task on trio.
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.devices.mqtt import field, framed
from gateway.actors.long_link import LongLink
from gateway.actors.long_link_downlink import ranks_within
from gateway.actors.long_link_port import LongLinkSettings, Unacknowledged, UplinkAnswer
from gateway.actors.long_link_settling import GATHER_S
from gateway.columns import Pieces, TextColumn, join
from gateway.core.admission import Admission, AdmissionLimits, AppBans, Bans, Rule, parse_networks
from gateway.core.identity import device_password
from gateway.core.login_turns import STORM_REST_S
from gateway.core.step_pauses import SHORT_GAP_S
from gateway.errors import CloseReason, Overloaded
from gateway.net.edge_settings import EdgeSettings, ListenerSettings
from gateway.pace import Pace
from gateway.wire.mqtt.properties import Carrier, Properties, encode_properties, read_properties
from gateway.wire.mqtt.reason_codes import ReasonCode

SECRET = b"app secret"
BANNED = bytes([0xBA]) * 16
CROWDED = bytes([0xCC]) * 16
#: Properties of a CONNECT that asks for no Reason Strings.
QUIET = b"\x02\x17\0"


class App(NamedTuple):
    index: int
    secrets: tuple[bytes, ...]


APPS = {"app": App(3, (b"new secret", SECRET))}


def rows_of(*columns: Any) -> list[tuple[Any, ...]]:
    plain = [column if isinstance(column, list) else column.tolist() for column in columns]
    return list(zip(*plain, strict=True))


class Recorder:
    """An owner that writes down what it is told, in order."""

    def __init__(self) -> None:
        self.slots: dict[bytes, int] = {}
        self.online: dict[bytes, tuple[int, int]] = {}
        self.events: list[tuple[Any, ...]] = []
        self.is_overloaded = False
        self.uplink_answer = UplinkAnswer.TAKEN
        self.laters: list[Any] = []
        self.link: LongLink
        #: What was delivered, by tag; a tag that is not here is refused when it is resumed.
        self.payloads: dict[int, bytes] = {}

    def connect(self, app_index: int, device_id: bytes, fd: int, generation: int, now: float) -> int:
        if device_id == CROWDED:
            raise Overloaded("connections_per_app_max", 5, 5)
        if device_id == BANNED:
            return -1
        assert app_index == 3
        self.online[device_id] = (fd, generation)
        return self.slots.setdefault(device_id, len(self.slots))

    def subscribed(self, slots: Any, fds: Any, generations: Any, now: float) -> None:
        self.events += [
            ("subscribed", *row) for row in zip(slots.tolist(), fds.tolist(), generations.tolist(), strict=True)
        ]

    def disconnected(self, slots: Any, fds: Any, generations: Any, reasons: list[CloseReason]) -> None:
        self.events += [("disconnected", *row) for row in rows_of(slots, fds, generations, reasons)]

    def acknowledged(self, tags: Any, sent_at: Any, now: float) -> None:
        self.events += [
            ("acknowledged", tag, sent, now) for tag, sent in zip(tags.tolist(), sent_at.tolist(), strict=True)
        ]

    def acknowledged_late(self, tags: Any, sent_at: Any, now: float) -> None:
        self.events += [
            ("acknowledged_late", tag, sent, now) for tag, sent in zip(tags.tolist(), sent_at.tolist(), strict=True)
        ]

    def unacknowledged(self, tags: Any, why: Unacknowledged) -> None:
        self.events += [("unacknowledged", tag, why) for tag in tags.tolist()]

    def resumed(self, tags: Any, fds: Any, generations: Any, packet_ids: Any) -> Any:
        self.events += [("resumed", tag) for tag in tags.tolist()]
        known = np.array([tag in self.payloads for tag in tags.tolist()], np.bool_)
        ids = self.link.table.device_id[fds[known]]
        payload = TextColumn.from_rows([self.payloads[tag] for tag in tags[known].tolist()])
        left = np.arange(100, 100 + len(tags), dtype=np.uint32)
        known[known] = self.link.redeliver(
            fds[known], ids, packet_ids[known], (payload,), self.link._clock(), lambda rows: left[rows]
        )
        return known

    def uplink(self, slot: int, device_id: bytes, event: str, payload: bytes, later: Any) -> UplinkAnswer:
        if self.is_overloaded:
            raise Overloaded("uplink_max", 1, 1)
        self.events.append(("uplink", slot, device_id, event, payload))
        if self.uplink_answer is UplinkAnswer.LATER:
            self.laters.append(later)
        return self.uplink_answer

    def take(self) -> list[tuple[Any, ...]]:
        events, self.events = self.events, []
        return events


def connect_packet(
    device_id: bytes,
    *,
    user: bytes = b"app",
    password: str | None = None,
    keepalive_s: int = 60,
    level: int = 4,
    properties: bytes = b"",
    is_clean: bool = True,
) -> bytes:
    name = device_id.hex()
    password = device_password(SECRET, name) if password is None else password
    body = field(b"MQTT") + bytes([level, 0xC2 if is_clean else 0xC0]) + keepalive_s.to_bytes(2, "big") + properties
    return framed(0x10, body + field(name.encode()) + field(user) + field(password.encode()))


def subscribe_packet(device_id: bytes, qos: int = 1) -> bytes:
    return framed(0x82, b"\x00\x01" + field(f"d/{device_id.hex()}/down".encode()) + bytes([qos]))


def subscribe_packet_5(device_id: bytes, qos: int = 1) -> bytes:
    return framed(0x82, b"\x00\x01\x00" + field(f"d/{device_id.hex()}/down".encode()) + bytes([qos]))


def uplink_packet_5(device_id: bytes, event: str, payload: bytes, qos: int = 0, packet_id: int = 1) -> bytes:
    body = field(f"d/{device_id.hex()}/up/{event}".encode()) + (packet_id.to_bytes(2, "big") if qos else b"")
    return framed(0x30 | qos << 1, body + b"\x00" + payload)


def uplink_packet(device_id: bytes, event: str, payload: bytes, qos: int = 0, packet_id: int = 1) -> bytes:
    body = field(f"d/{device_id.hex()}/up/{event}".encode()) + (packet_id.to_bytes(2, "big") if qos else b"")
    return framed(0x30 | qos << 1, body + payload)


def puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


class Push(NamedTuple):
    first: int
    topic: bytes
    packet_id: int
    payload: bytes


class Device:
    """A phone with a blocking socket, which lets the long link run while it waits for an answer."""

    def __init__(self, bench: Bench, number: int) -> None:
        self.bench = bench
        self.id = bytes([number]) * 16
        self.socket = socket.create_connection(bench.address, timeout=5)
        self.buffer = bytearray()
        self.connack = Properties()
        bench.devices.append(self)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, size: int) -> bytes:
        """Exactly so many bytes, or fewer when the connection ends first."""
        self.socket.setblocking(False)
        for _ in range(1_000):
            if len(self.buffer) >= size:
                break
            self.bench.step(0.005)
            try:
                data = self.socket.recv(65_536)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                break
            self.buffer += data
        else:
            pytest.fail(f"{len(self.buffer)} of {size} bytes came")
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken

    def receive_push(self) -> Push:
        first = self.receive(1)[0]
        length = shift = 0
        while True:
            digit = self.receive(1)[0]
            length |= (digit & 127) << shift
            shift += 7
            if digit < 128:
                break
        body = self.receive(length)
        end = 2 + int.from_bytes(body[:2], "big")
        topic, rest = body[2:end], body[end:]
        if first & 6:
            return Push(first, topic, int.from_bytes(rest[:2], "big"), rest[2:])
        return Push(first, topic, 0, rest)

    def is_closed(self) -> bool:
        return self.receive(1) == b""

    def log_in(self, qos: int | None = 1, keepalive_s: int = 60) -> Device:
        self.send(connect_packet(self.id, keepalive_s=keepalive_s))
        assert self.receive(4) == b"\x20\x02\x00\x00"
        if qos is not None:
            self.send(subscribe_packet(self.id, qos))
            assert self.receive(5) == b"\x90\x03\x00\x01" + bytes([qos])
            self.bench.owner.events = [event for event in self.bench.owner.events if event[0] != "subscribed"]
        return self

    def log_in_5(self, properties: bytes = b"\x00", qos: int | None = 1, keepalive_s: int = 60) -> Device:
        """The same over MQTT 5.0; `connack` keeps the answer's properties."""
        self.send(connect_packet(self.id, level=5, properties=properties, keepalive_s=keepalive_s))
        head = self.receive(2)
        body = self.receive(head[1])
        assert (head[0], body[:2]) == (0x20, b"\x00\x00")
        self.connack, end = read_properties(body, 2, Carrier.CONNACK)
        assert end == len(body)
        if qos is not None:
            self.send(subscribe_packet_5(self.id, qos))
            assert self.receive(6) == b"\x90\x04\x00\x01\x00" + bytes([qos])
            self.bench.owner.events = [event for event in self.bench.owner.events if event[0] != "subscribed"]
        return self

    def log_in_again(
        self, *, present: bool, said: Properties | None = None, is_clean: bool = False, keepalive_s: int = 60
    ) -> Device:
        """CONNECT for the device's session, 5.0 where properties are said; whether there was one is checked."""
        version = {} if said is None else {"level": 5, "properties": encode_properties(said)}
        self.send(connect_packet(self.id, is_clean=is_clean, keepalive_s=keepalive_s, **version))
        head = self.receive(2)
        body = self.receive(head[1])
        assert (head[0], body[:2]) == (0x20, bytes((present, 0)))
        return self

    def subscribe_5(self) -> Device:
        self.send(subscribe_packet_5(self.id))
        assert self.receive(6) == b"\x90\x04\x00\x01\x00\x01"
        return self

    def leave(self) -> None:
        """The connection ends without a word, and the long link has seen it."""
        self.socket.close()
        fd, generation = self.address
        self.bench.until(lambda: self.bench.link.table.generation_at[fd] != generation)

    def receive_disconnect(self) -> tuple[int, str | None]:
        """(reason code, reason string) of a DISCONNECT, after which the connection ends."""
        first, length = self.receive(2)
        body = self.receive(length)
        assert first == 0xE0
        said = read_properties(body, 1, Carrier.DISCONNECT)[0] if length > 1 else Properties()
        assert self.is_closed()
        return body[0], said.reason_string

    @property
    def address(self) -> tuple[int, int]:
        return self.bench.owner.online[self.id]


class Bench:
    def __init__(
        self,
        *,
        cpu_clock: Callable[[], float] = time.thread_time,
        clock: Callable[[], float] | None = None,
        **limits: Any,
    ) -> None:
        edge = {name: limits.pop(name) for name in list(limits) if name in EdgeSettings.__struct_fields__}
        self.now = 100.0
        self.owner = Recorder()
        configured = LongLinkSettings(edge=EdgeSettings(listeners=(ListenerSettings(port=0),), **edge), **limits)
        self.admission = Admission(APPS, AdmissionLimits(failures_max=3, first_s=10.0, cap_s=15.0))
        self.link = LongLink(
            configured,
            APPS,
            self.owner,
            admission=self.admission,
            clock=clock or (lambda: self.now),
            cpu_clock=cpu_clock,
        )
        self.owner.link = self.link
        self.address = self.link.listen()[0]
        self.devices: list[Device] = []

    def device(self, number: int) -> Device:
        return Device(self, number)

    def step(self, wait_s: float = 0.0) -> None:
        rests_until = self.link.edge.accept_again_at
        if rests_until is not None and rests_until <= self.now + STORM_REST_S:
            # Many have connected at once: nobody is accepted before.
            self.now = rests_until
        select.select([self.link.edge.fileno()], [], [], wait_s)
        self.link.step(self.now)

    def until(self, is_done: Callable[[], bool]) -> None:
        for _ in range(1_000):
            if is_done():
                return
            self.step(0.005)
        pytest.fail("it did not happen")

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        while self.link.tick(self.now):
            pass

    def deliver(
        self,
        devices: list[Device],
        tags: list[int],
        payload: Pieces,
        stale: int = 0,
        expiry_s: Callable[[Any], Any] | None = None,
    ) -> list[bool]:
        addresses = np.array([device.address for device in devices], np.int64).reshape(-1, 2)
        ids = np.frombuffer(b"".join(device.id for device in devices), np.uint8).reshape(-1, 16)
        self.owner.payloads.update(zip(tags, join(payload, 0, len(tags)), strict=True))
        taken = self.link.deliver(
            addresses[:, 0].astype(np.int32),
            addresses[:, 1].astype(np.uint32) + np.uint32(stale),
            ids,
            np.array(tags, np.int64),
            payload,
            self.now,
            expiry_s,
        )
        return taken.tolist()

    def events_after(self, n: int) -> list[tuple[Any, ...]]:
        self.until(lambda: len(self.owner.events) >= n)
        self.step()
        return self.owner.take()

    def closed(self) -> dict[str, int]:
        return {name: n for name, n in self.link.statistics().closed.items() if n}

    def count(self, name: str) -> int:
        return self.link.statistics().counts[name]

    def dispose(self) -> None:
        for device in self.devices:
            device.socket.close()
        self.link.dispose()


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.dispose()


def start(benches: list[Bench], **limits: Any) -> Bench:
    bench = Bench(**limits)
    benches.append(bench)
    return bench


# Logging in.


def test_device_connects_subscribes_receives_and_acknowledges(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1)
    device.send(connect_packet(device.id) + subscribe_packet(device.id))
    assert device.receive(9) == b"\x20\x02\x00\x00\x90\x03\x00\x01\x01"
    fd, generation = device.address
    assert bench.events_after(1) == [("subscribed", 0, fd, generation)]
    assert bench.deliver([device], [77], (b'{"title":"hi"}',)) == [True]
    push = device.receive_push()
    assert push.first == 0x32
    assert push.topic == f"d/{device.id.hex()}/down".encode()
    assert push.payload == b'{"title":"hi"}'
    assert push.packet_id != 0
    bench.now += 0.25
    device.send(puback(push.packet_id))
    assert bench.events_after(1) == [("acknowledged", 77, 100.0, 100.25)]
    statistics = bench.link.statistics()
    assert (statistics.connected, statistics.in_flight) == (1, 0)
    assert statistics.packets_in["puback"] == statistics.packets_out["publish"] == 1


REFUSALS = {
    "unknown app": ({"user": b"other"}, 4, "bad_credentials"),
    "wrong password": ({"password": "x" * 43}, 4, "bad_credentials"),
    "empty password": ({"password": ""}, 4, "bad_credentials"),
    "password of another device": ({"password": device_password(SECRET, "00" * 16)}, 4, "bad_credentials"),
    "protocol level 3": ({"level": 3}, 1, "unsupported_version"),
    "protocol level 0": ({"level": 0}, 1, "unsupported_version"),
}


@pytest.mark.parametrize(("change", "code", "reason"), list(REFUSALS.values()), ids=list(REFUSALS))
def test_refused_connect_gets_its_connack_code_and_close_reason(
    benches: list[Bench], change: dict[str, Any], code: int, reason: str
) -> None:
    bench = start(benches)
    device = bench.device(1)
    device.send(connect_packet(device.id, **change))
    assert device.receive(4) == bytes([0x20, 2, 0, code])
    assert device.is_closed()
    assert bench.closed() == {reason: 1}
    assert bench.owner.events == []


@pytest.mark.parametrize(
    ("device_id", "code", "reason"),
    [
        (b"", 2, "bad_identity"),
        (b"short", 2, "bad_identity"),
        (BANNED, 5, "banned"),
        (CROWDED, 3, "too_many_connections"),
    ],
)
def test_identity_that_may_not_connect_is_refused(
    benches: list[Bench], device_id: bytes, code: int, reason: str
) -> None:
    bench = start(benches)
    device = bench.device(1)
    device.send(connect_packet(device_id))
    assert device.receive(4) == bytes([0x20, 2, 0, code])
    assert device.is_closed()
    assert bench.closed() == {reason: 1}


def test_password_of_the_secret_before_the_rotation_is_good(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1)
    device.send(connect_packet(device.id, password=device_password(b"new secret", device.id.hex())))
    assert device.receive(4) == b"\x20\x02\x00\x00"
    bench.device(2).log_in()


def test_newer_connection_of_a_device_takes_over(benches: list[Bench]) -> None:
    bench = start(benches)
    older = bench.device(1).log_in()
    fd, generation = older.address
    assert bench.deliver([older], [5], (b"x",)) == [True]
    newer = bench.device(1).log_in()
    older.receive_push()
    assert older.is_closed()
    assert bench.owner.take() == [
        ("disconnected", 0, fd, generation, CloseReason.TAKEN_OVER),
        ("unacknowledged", 5, Unacknowledged.CONNECTION_CLOSED),
    ]
    assert newer.address != (fd, generation)
    assert bench.deliver([newer], [6], (b"y",)) == [True]
    assert newer.receive_push().payload == b"y"
    assert bench.link.statistics().connected == 1


# Breaking the rules.

BROKEN = {
    "a web browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(10),
    "a PINGREQ first": b"\xc0\x00",
    "a PUBACK first": puback(1),
    "a remaining length of five bytes": b"\x10\xff\xff\xff\xff\xff",
}


@pytest.mark.parametrize("data", list(BROKEN.values()), ids=list(BROKEN))
def test_stranger_is_closed_without_a_word_and_without_effect_on_others(benches: list[Bench], data: bytes) -> None:
    bench = start(benches)
    honest = bench.device(1).log_in()
    stranger = bench.device(2)
    stranger.send(data)
    assert stranger.is_closed()
    assert bench.closed() == {"protocol_error": 1}
    honest.send(b"\xc0\x00")
    assert honest.receive(2) == b"\xd0\x00"


IN_SESSION = {
    "a second CONNECT": connect_packet(bytes([1]) * 16),
    "PUBACK of packet identifier 0": puback(0),
    "PUBREC": b"\x50\x02\x00\x01",
    "PUBLISH to a foreign topic": uplink_packet(bytes([9]) * 16, "x", b""),
    "PUBLISH to the downlink": framed(0x30, field(b"d/" + b"01" * 16 + b"/down")),
    "PUBLISH of QoS 3": framed(0x36, field(b"d/" + b"01" * 16 + b"/up/x") + b"\0\1"),
}


@pytest.mark.parametrize("data", list(IN_SESSION.values()), ids=list(IN_SESSION))
def test_session_that_breaks_a_rule_is_closed_and_reported_once(benches: list[Bench], data: bytes) -> None:
    bench = start(benches)
    device = bench.device(1).log_in()
    fd, generation = device.address
    # What came before the fault still counts.
    device.send(b"\xc0\x00" + data)
    assert device.receive(2) == b"\xd0\x00"
    assert device.is_closed()
    assert bench.owner.take() == [("disconnected", 0, fd, generation, CloseReason.PROTOCOL_ERROR)]
    assert bench.closed() == {"protocol_error": 1}


def test_oversized_packet_is_refused_from_its_header(benches: list[Bench]) -> None:
    bench = start(benches, packet_bytes_max=1_000, connect_bytes_max=200)
    device = bench.device(1).log_in()
    device.send(b"\x30\xff\x7f")
    assert device.is_closed()
    stranger = bench.device(2)
    stranger.send(b"\x10\xc8\x01")
    assert stranger.is_closed()
    assert bench.closed() == {"frame_too_large": 2}


def test_half_a_packet_and_then_silence_is_closed(benches: list[Bench]) -> None:
    bench = start(benches, half_packet_timeout_s=4.0)
    device = bench.device(1).log_in()
    device.send(uplink_packet(device.id, "displayed", b"payload")[:-3])
    bench.until(lambda: bench.link.statistics().side_tables["partial"] == 1)
    bench.pass_time(3.9)
    assert bench.link.statistics().connected == 1
    bench.pass_time(0.2)
    assert device.is_closed()
    assert bench.closed() == {"half_frame_timeout": 1}


def test_session_byte_by_byte_is_the_same_session(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1)
    stream = connect_packet(device.id) + subscribe_packet(device.id) + uplink_packet(device.id, "clicked", b"{}", 1, 9)
    for at in range(len(stream)):
        device.send(stream[at : at + 1])
        bench.step(0.005)
    assert device.receive(13) == b"\x20\x02\x00\x00\x90\x03\x00\x01\x01\x40\x02\x00\x09"
    fd, generation = device.address
    assert bench.owner.take() == [("subscribed", 0, fd, generation), ("uplink", 0, device.id, "clicked", b"{}")]
    assert bench.link.statistics().side_tables["partial"] == 0


def test_end_of_a_packet_that_looks_like_a_puback_is_none(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in()
    bench.deliver([device], [1], (b"x",))
    lookalike = puback(device.receive_push().packet_id)
    packet = uplink_packet(device.id, "x", b"the payload ends with " + lookalike)
    device.send(packet[:-4])
    bench.until(lambda: bench.link.statistics().side_tables["partial"] == 1)
    device.send(packet[-4:])
    assert bench.events_after(1) == [("uplink", 0, device.id, "x", b"the payload ends with " + lookalike)]
    assert bench.link.statistics().in_flight == 1
    device.send(lookalike)
    assert [event[:2] for event in bench.events_after(1)] == [("acknowledged", 1)]


def test_silent_connections_by_the_hundred_do_not_keep_an_honest_one_out(benches: list[Bench]) -> None:
    bench = start(benches, handshaking_per_address_max=100, handshake_timeout_s=5.0)
    for number in range(500):
        bench.device(number % 200)
    bench.until(lambda: bench.count("accepted") == 500)
    honest = bench.device(201).log_in()
    assert bench.link.statistics().connections == 100
    bench.pass_time(5.1)
    assert bench.closed() == {"handshake_timeout": 99, "too_many_connections": 401}
    assert bench.link.statistics().connections == 1
    assert bench.deliver([honest], [1], (b"x",)) == [True]


def test_step_that_takes_too_long_leaves_the_other_reads_to_the_next_one(benches: list[Bench]) -> None:
    # A second passes whenever the long link looks at its watch: each step has time for one connection.
    ticks = itertools.count()
    bench = start(benches, cpu_clock=lambda: float(next(ticks)))
    devices = [bench.device(number).log_in() for number in (1, 2, 3)]
    for device in devices:
        device.send(b"\xc0\x00")
    devices[2].send(b"\xe0\x00")
    for n_answered in (1, 2, 3):
        assert bench.link.step(bench.now) == (n_answered < 3)
        assert bench.link.statistics().packets_out["pingresp"] == n_answered
    assert [device.receive(2) for device in devices] == [b"\xd0\x00"] * 3
    assert devices[2].is_closed()


def test_deferred_read_of_a_connection_that_was_taken_over_is_dropped(benches: list[Bench]) -> None:
    ticks = itertools.count()
    bench = start(benches, cpu_clock=lambda: float(next(ticks)))
    older, newer = bench.device(1).log_in(), bench.device(1)
    bench.until(lambda: bench.link.statistics().connections == 2)
    newer.send(connect_packet(newer.id))
    older.send(uplink_packet(older.id, "displayed", b"too late"))
    bench.until(lambda: bench.link.statistics().closed["taken_over"] == 1)
    assert newer.receive(4) == b"\x20\x02\x00\x00"
    bench.step()
    assert [event[0] for event in bench.owner.take()] == ["disconnected"]


# Keepalive.


@pytest.mark.parametrize(("asked", "in_force"), [(60, 60), (0, 600), (65_535, 600)])
def test_silence_of_one_and_a_half_keepalives_ends_a_session(benches: list[Bench], asked: int, in_force: int) -> None:
    bench = start(benches, keepalive_s_max=600)
    device = bench.device(1).log_in(keepalive_s=asked)
    bench.pass_time(in_force)
    device.send(b"\xc0\x00")
    assert device.receive(2) == b"\xd0\x00"
    bench.pass_time(1.5 * in_force - 0.2)
    assert bench.link.statistics().connected == 1
    bench.pass_time(0.4)
    assert device.is_closed()
    assert bench.closed() == {"keepalive_timeout": 1}


def test_puback_alone_keeps_a_session_alive(benches: list[Bench]) -> None:
    bench = start(benches, ack_timeout_s=1_000.0)
    device = bench.device(1).log_in(keepalive_s=10)
    bench.deliver([device], [1], (b"x",))
    push = device.receive_push()
    bench.pass_time(14.0)
    device.send(puback(push.packet_id))
    bench.events_after(1)
    bench.pass_time(14.0)
    assert bench.link.statistics().connected == 1


# Delivering.


def test_rows_are_taken_only_by_live_subscribed_connections(benches: list[Bench]) -> None:
    bench = start(benches)
    good, silent, gone = bench.device(1).log_in(), bench.device(2).log_in(qos=None), bench.device(3).log_in()
    gone.send(b"\xe0\x00")
    bench.events_after(1)
    payload = (b"<", TextColumn.from_rows([b"a", b"bb", b"ccc"]), b">")
    assert bench.deliver([gone, silent, good], [1, 2, 3], payload) == [False, False, True]
    assert good.receive_push().payload == b"<ccc>"
    assert bench.deliver([good], [4], (b"x",), stale=1) == [False]
    assert bench.count("refused_offline") == 3
    assert bench.closed() == {"client_disconnect": 1}


def test_unsubscribed_device_takes_no_more_rows(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in()
    device.send(framed(0xA2, b"\x00\x09" + field(b"other") + field(f"d/{device.id.hex()}/down".encode())))
    assert device.receive(4) == b"\xb0\x02\x00\x09"
    assert bench.deliver([device], [1], (b"x",)) == [False]


def test_foreign_subscription_is_refused_filter_by_filter(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in(qos=None)
    own = field(f"d/{device.id.hex()}/down".encode())
    device.send(framed(0x82, b"\x00\x02" + field(b"#") + b"\x01" + own + b"\x02" + field(b"d/+/down") + b"\x00"))
    assert device.receive(7) == b"\x90\x05\x00\x02\x80\x01\x80"
    assert bench.deliver([device], [1], (b"x",)) == [True]
    assert (bench.count("subscriptions_granted"), bench.count("subscriptions_refused")) == (1, 2)


def test_several_rows_of_a_device_go_out_in_order_in_one_write(benches: list[Bench]) -> None:
    bench = start(benches)
    one, two = bench.device(1).log_in(), bench.device(2).log_in()
    before = bench.count("writes")
    payload = (np.frombuffer(b"abcde", np.uint8).reshape(5, 1),)
    assert bench.deliver([one, two, one, two, one], [1, 2, 3, 4, 5], payload) == [True] * 5
    assert bench.count("writes") - before == 2
    assert [one.receive_push().payload for _ in range(3)] == [b"a", b"c", b"e"]
    assert [two.receive_push().payload for _ in range(2)] == [b"b", b"d"]


def test_window_of_a_device_is_bounded_and_opens_with_each_puback(benches: list[Bench]) -> None:
    bench = start(benches, in_flight_per_device_max=2)
    device = bench.device(1).log_in()
    assert bench.deliver([device] * 3, [1, 2, 3], (b"x",)) == [True, True, False]
    assert bench.deliver([device], [4], (b"x",)) == [False]
    assert bench.count("refused_window") == 2
    pushes = [device.receive_push() for _ in range(2)]
    device.send(puback(pushes[1].packet_id))
    assert [event[:2] for event in bench.events_after(1)] == [("acknowledged", 2)]
    assert bench.deliver([device] * 2, [5, 6], (b"x",)) == [True, False]


def test_rows_in_flight_over_all_devices_are_bounded(benches: list[Bench]) -> None:
    bench = start(benches, in_flight_max=3)
    devices = [bench.device(number).log_in() for number in range(1, 6)]
    taken = bench.deliver(devices, [1, 2, 3, 4, 5], (b"x",))
    assert taken == [True, True, True, False, False]
    assert bench.count("refused_in_flight_max") == 2


def test_slow_reader_refuses_rows_and_is_closed_at_last(benches: list[Bench]) -> None:
    bench = start(
        benches,
        send_buffer_bytes=4_096,
        pending_bytes_max=10_000,
        stall_timeout_s=20.0,
        in_flight_per_device_max=60_000,
    )
    slow, quick = bench.device(1).log_in(), bench.device(2).log_in()
    tag = 0
    while all(bench.deliver([slow], [tag], (bytes(5_000),))):
        tag += 1
    assert bench.count("refused_pending") == 1
    assert bench.deliver([slow, quick], [-1, -2], (bytes(5_000),)) == [False, True]
    # Nothing that was refused has an entry: only what was taken comes back.
    bench.pass_time(20.1)
    back = [event for event in bench.owner.take() if event[0] == "unacknowledged" and event[1] >= 0]
    assert sorted(back) == sorted([("unacknowledged", n, Unacknowledged.CONNECTION_CLOSED) for n in range(tag)])
    assert bench.closed() == {"slow_consumer": 1}


def test_qos_0_subscriber_gets_the_row_and_the_owner_gets_it_back(benches: list[Bench]) -> None:
    bench = start(benches)
    sloppy, careful = bench.device(1).log_in(qos=0), bench.device(2).log_in()
    assert bench.owner.events == []
    payload = (TextColumn.from_rows([b"for one", b"for two"]),)
    assert bench.deliver([sloppy, careful], [1, 2], payload) == [True, True]
    assert sloppy.receive_push() == Push(0x30, f"d/{sloppy.id.hex()}/down".encode(), 0, b"for one")
    assert bench.events_after(1) == [("unacknowledged", 1, Unacknowledged.QOS_0)]
    assert careful.receive_push().payload == b"for two"
    assert bench.link.statistics().in_flight == 1


# What becomes of rows.


def test_row_without_puback_comes_back_once_and_a_late_puback_is_told_apart(benches: list[Bench]) -> None:
    bench = start(benches, ack_timeout_s=5.0, in_flight_per_device_max=1)
    device = bench.device(1).log_in()
    bench.deliver([device], [1], (b"x",))
    push = device.receive_push()
    bench.pass_time(4.9)
    assert bench.owner.take() == []
    bench.pass_time(0.2)
    assert bench.owner.take() == [("unacknowledged", 1, Unacknowledged.ACK_TIMEOUT)]
    bench.pass_time(10.0)
    assert bench.owner.take() == []
    # The identifier is still the device's to answer with, and still fills its window.
    assert bench.deliver([device], [2], (b"y",)) == [False]
    device.send(puback(push.packet_id))
    assert bench.events_after(1) == [("acknowledged_late", 1, 100.0, bench.now)]
    assert bench.count("pubacks_late") == 1
    assert bench.deliver([device], [2], (b"y",)) == [True]


def with_rows_put_off(benches: list[Bench], **limits: Any) -> Bench:
    """Calls of more than three rows are written in parts."""
    bench = start(benches, **limits)
    bench.link.downlink.rows_at_once = lambda: 3
    return bench


@pytest.mark.parametrize("io_uring", [True, False])
@pytest.mark.parametrize("is_ragged", [False, True])
def test_rows_of_a_long_call_leave_in_parts_and_in_their_order(
    benches: list[Bench], io_uring: bool, is_ragged: bool
) -> None:
    bench = with_rows_put_off(benches, io_uring=io_uring)
    devices = [bench.device(number).log_in() for number in range(40)]
    texts: Pieces = (TextColumn.from_rows([b"x" * (1 + number % 3) for number in range(40)]) if is_ragged else b"x",)
    assert all(bench.deliver(devices, list(range(40)), texts))
    # Behind it: one of a device that has one there, and several for one device.
    assert bench.deliver(devices[:1], [40], (b"y",)) == [True]
    assert bench.deliver([devices[1]] * 2, [41, 42], (b"z",)) == [True, True]
    assert bench.link.statistics().side_tables["backlog"] == 42  # two of one device are one write
    assert not select.select([device.socket for device in devices], [], [], 0.0)[0]
    backlog, written = bench.link.edge.backlog, 0
    while len(backlog):
        written += backlog.send(25, bench.now)
    assert written == 42
    for number, device in enumerate(devices):
        assert device.receive_push().payload == bench.owner.payloads[number]
    assert devices[0].receive_push().payload == b"y"
    assert [devices[1].receive_push().payload for _ in range(2)] == [b"z", b"z"]
    assert bench.link.statistics().side_tables["backlog_bytes"] == 0


def test_row_that_waits_for_a_connection_that_ends_is_not_the_next_ones(benches: list[Bench]) -> None:
    bench = with_rows_put_off(benches)
    devices = [bench.device(number).log_in() for number in range(4)]
    assert all(bench.deliver(devices, [0, 1, 2, 3], (b"x",)))
    fd = devices[2].address[0]
    devices[2].leave()
    heir = bench.device(4).log_in()
    assert heir.address[0] == fd
    assert bench.link.send_rest()
    assert [devices[number].receive_push().payload for number in (0, 1, 3)] == [b"x"] * 3
    assert bench.deliver([heir], [4], (b"y",)) == [True]
    assert heir.receive_push().payload == b"y"
    back = [event for event in bench.owner.take() if event[0] == "unacknowledged"]
    assert back == [("unacknowledged", 2, Unacknowledged.CONNECTION_CLOSED)]


def test_reader_too_slow_for_rows_that_were_put_off_is_closed_and_they_come_back(benches: list[Bench]) -> None:
    bench = with_rows_put_off(
        benches,
        send_buffer_bytes=4_096,
        pending_bytes_max=10_000,
        pending_total_bytes_max=10_000,
        in_flight_per_device_max=60_000,
    )
    devices = [bench.device(number).log_in() for number in range(4)]
    taken = 0
    for _ in range(10_000):
        if bench.closed():
            break
        taken += bench.deliver(devices, [taken + at for at in range(4)], (bytes(5_000),)).count(True)
        while bench.link.send_rest():
            pass
    assert set(bench.closed()) == {"slow_consumer"}
    for device in devices:
        device.socket.close()
    bench.until(lambda: bench.link.statistics().connections == 0)
    back = [event[1] for event in bench.owner.take() if event[0] == "unacknowledged"]
    assert len(back) == taken


def answered_by_ten(benches: list[Bench]) -> tuple[Bench, list[Device]]:
    """Ten devices have acknowledged a row each; a poll reads of four of them."""
    bench = start(benches)
    devices = [bench.device(number).log_in() for number in range(10)]
    assert all(bench.deliver(devices, list(range(10)), (b"x",)))
    packet_ids = [device.receive_push().packet_id for device in devices]
    bench.link.edge.pace = Pace(0.002, fewest=4, most=4)
    for device, packet_id in zip(devices, packet_ids, strict=True):
        device.send(puback(packet_id))
    return bench, devices


def test_answers_of_polls_that_were_cut_short_are_settled_together(benches: list[Bench]) -> None:
    bench, _ = answered_by_ten(benches)
    told = []
    for _ in range(3):
        bench.step(5.0)
        told.append(len([event for event in bench.owner.take() if event[0] == "acknowledged"]))
    assert told == [0, 0, 10]


@pytest.mark.parametrize("ends", ["waited long enough", "a connection ended", "a tick"])
def test_answers_that_gather_are_settled_before_anything_is_said_of_their_rows(benches: list[Bench], ends: str) -> None:
    bench, devices = answered_by_ten(benches)
    bench.step(5.0)
    assert bench.owner.take() == []
    if ends == "a tick":
        bench.pass_time(60.0)
    elif ends == "a connection ended":
        for device in devices:
            bench.link.edge.close(device.address[0], CloseReason.BANNED)
        bench.step()
    else:
        bench.now += 1.01 * GATHER_S
        bench.step()
    events = [event[:2] for event in bench.owner.take()]
    acknowledged = [event for event in events if event[0] == "acknowledged"]
    assert len(acknowledged) == (8 if ends == "waited long enough" else 4)
    assert events[: len(acknowledged)] == acknowledged or ends == "a connection ended"
    gone = {event[1] for event in events if event[0] == "unacknowledged"}
    assert gone.isdisjoint(event[1] for event in acknowledged)


@pytest.mark.parametrize("io_uring", [True, False])
def test_answers_that_came_alone_start_keepalives_anew_and_end_only_rows_of_their_connections(
    benches: list[Bench], io_uring: bool
) -> None:
    bench = start(benches, io_uring=io_uring)
    devices = [bench.device(number).log_in() for number in range(40)]
    assert all(bench.deliver(devices, list(range(40)), (b"x",)))
    packet_ids = [device.receive_push().packet_id for device in devices]
    fds = np.array([device.address[0] for device in devices], np.int32)
    bench.link.edge.pace = Pace(0.002, fewest=20, most=20)
    for device, packet_id in zip(devices, packet_ids, strict=True):
        device.send(puback(packet_id))
    bench.now += 1.0
    bench.step(5.0)
    assert bench.owner.take() == []
    # Of those that were read and those that were not some end, before anything was settled.
    for fd in fds[::4].tolist():
        bench.link.edge.close(fd, CloseReason.BANNED)
    bench.until(lambda: bench.link.statistics().in_flight == 0)
    events = [event[:2] for event in bench.owner.take()]
    acknowledged = sorted(event[1] for event in events if event[0] == "acknowledged")
    lost = sorted(event[1] for event in events if event[0] == "unacknowledged")
    assert sorted(acknowledged + lost) == list(range(40))
    assert len(acknowledged) >= 30
    assert set(lost) < set(range(0, 40, 4))
    assert bench.link.statistics().packets_in["puback"] == len(acknowledged)
    live = np.array([fd for number, fd in enumerate(fds.tolist()) if number % 4], np.int32)
    assert bench.link.table.heard_ago_s(live, bench.now).max() < 0.2


def test_step_that_read_all_there_was_asks_for_no_other_one(benches: list[Bench]) -> None:
    bench = start(benches)
    devices = [bench.device(number).log_in() for number in range(40)]
    assert all(bench.deliver(devices, list(range(40)), (b"x",)))
    for device in devices:
        device.send(puback(device.receive_push().packet_id))
    assert bench.link.edge.pace.items() > 40
    assert bench.link.step(bench.now) is False
    assert bench.link.statistics().in_flight == 0


@pytest.mark.parametrize("io_uring", [True, False])
def test_many_answers_of_four_bytes_are_told_apart(benches: list[Bench], io_uring: bool) -> None:
    bench = start(benches, io_uring=io_uring)
    devices = [bench.device(number).log_in() for number in range(40)]
    assert all(bench.deliver(devices, list(range(40)), (b"x",)))
    packet_ids = [device.receive_push().packet_id for device in devices]
    # Two PINGREQ, the identifier that is none, and the begin of a PUBLISH are no PUBACK.
    answers: dict[int, bytes] = {3: b"\xc0\x00\xc0\x00", 5: b"\x40\x02\x00\x00", 7: b"\x32\x09\x00\x05"}
    for number, device in enumerate(devices):
        device.send(answers.get(number, puback(packet_ids[number])))
    assert devices[3].receive(4) == b"\xd0\x00\xd0\x00"
    assert devices[5].is_closed()
    bench.until(lambda: bench.link.statistics().side_tables["partial"] == 1)
    bench.until(lambda: bench.link.statistics().in_flight == 2)
    acknowledged = [event[1] for event in bench.owner.take() if event[0] == "acknowledged"]
    assert sorted(acknowledged) == [number for number in range(40) if number not in answers]


def test_answers_to_several_messages_in_one_read_are_settled_together(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in()
    assert all(bench.deliver([device] * 5, list(range(5)), (b"x",)))
    packet_ids = [device.receive_push().packet_id for _ in range(5)]
    device.send(b"".join(puback(packet_id) for packet_id in packet_ids[:3]))
    bench.until(lambda: bench.link.statistics().in_flight == 2)
    assert bench.link.statistics().packets_in["puback"] == 3
    # A broken one among them: what came before it counts, as when they come one by one.
    device.send(puback(packet_ids[3]) + b"\x40\x02\x00\x00" + puback(packet_ids[4]))
    assert device.is_closed()
    assert [event[1] for event in bench.owner.take() if event[0] == "acknowledged"] == [0, 1, 2, 3]


@pytest.mark.parametrize("is_short", [False, True])
def test_what_a_socket_asks_for_waits_for_company_where_processors_are_short(*, is_short: bool) -> None:
    asked: list[float] = []
    settings = LongLinkSettings(edge=EdgeSettings(listeners=(ListenerSettings(port=0),)))
    link = LongLink(
        settings,
        APPS,
        Recorder(),
        clock=lambda: 100.0,
        are_processors_short=lambda now: asked.append(now) is None and is_short,
    )
    try:
        link.tick(100.0)
        link.step(100.0)
    finally:
        link.dispose()
    assert asked == [100.0]
    assert link.pauses.gather_until == (100.0 + SHORT_GAP_S if is_short else 0.0)


def test_few_answers_while_many_are_awaited_ask_for_a_pause_and_nothing_else_does(benches: list[Bench]) -> None:
    bench = start(benches)
    devices = [bench.device(number).log_in() for number in range(10)]
    for device in devices:
        assert all(bench.deliver([device] * 30, list(range(30)), (b"x",)))
    packet_ids = [device.receive_push().packet_id for device in devices]
    devices[0].send(puback(packet_ids[0]))
    bench.until(lambda: bench.link.pauses.wait_s > 0)
    # The step after the pause is certain to come, so the answer waits for others, but not for long.
    assert bench.link.statistics().in_flight == 300
    bench.now += 1.01 * GATHER_S
    bench.step()
    assert bench.link.statistics().in_flight == 299
    # Whoever says something else, or comes, does not wait.
    devices[1].send(b"\xc0\x00")
    bench.until(lambda: bench.link.statistics().packets_in["pingreq"] == 1)
    assert bench.link.pauses.wait_s == 0
    devices[2].send(puback(packet_ids[2]) + b"\xc0\x00")
    bench.until(lambda: bench.link.statistics().packets_in["pingreq"] == 2)
    assert bench.link.pauses.wait_s == 0
    # Few are awaited in the end.
    devices[3].socket.close()
    bench.until(lambda: bench.link.statistics().in_flight == 268)
    devices[4].socket.close()
    bench.until(lambda: bench.link.statistics().in_flight == 238)
    devices[5].send(puback(packet_ids[5]))
    bench.until(lambda: bench.link.statistics().in_flight == 237)
    assert bench.link.pauses.wait_s == 0


def test_repeated_and_unknown_pubacks_are_counted_and_change_nothing(benches: list[Bench]) -> None:
    bench = start(benches)
    one, two = bench.device(1).log_in(), bench.device(2).log_in()
    bench.deliver([one, two], [1, 2], (b"x",))
    first, second = one.receive_push(), two.receive_push()
    one.send(puback(second.packet_id) + puback(first.packet_id) * 2)
    assert [event[:2] for event in bench.events_after(1)] == [("acknowledged", 1)]
    bench.until(lambda: bench.count("pubacks_unknown") == 2)
    assert bench.link.statistics().in_flight == 1
    two.send(puback(second.packet_id))
    assert [event[:2] for event in bench.events_after(1)] == [("acknowledged", 2)]


def test_puback_and_disconnect_in_one_segment_acknowledge_before_they_end(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in()
    bench.deliver([device] * 2, [1, 2], (b"x",))
    push = device.receive_push()
    device.receive_push()
    fd, generation = device.address
    device.send(puback(push.packet_id) + b"\xe0\x00")
    assert bench.events_after(3) == [
        ("acknowledged", 1, 100.0, 100.0),
        ("disconnected", 0, fd, generation, CloseReason.CLIENT_DISCONNECT),
        ("unacknowledged", 2, Unacknowledged.CONNECTION_CLOSED),
    ]
    assert device.is_closed()


@given(st.lists(st.integers(0, 4), max_size=40))
def test_ranks_within_count_earlier_rows_of_the_same_descriptor(fds: list[int]) -> None:
    expected = [fds[:position].count(fd) for position, fd in enumerate(fds)]
    assert ranks_within(np.array(fds, np.int32)).tolist() == expected


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.booleans(), st.integers(0, 2)), max_size=6
    )
)
def test_every_row_taken_is_reported_exactly_once_and_the_plain_twin_agrees(
    calls: list[tuple[list[int], bool, int]],
) -> None:
    """Twin: a window of 3 per device, device 3 subscribed with QoS 0. Then some acknowledge, some leave."""
    bench = Bench(in_flight_per_device_max=3)
    try:
        devices = [bench.device(number + 1).log_in(qos=0 if number == 3 else 1) for number in range(4)]
        windows = [0] * 4
        expected_taken: dict[int, int] = {}
        tag = n_acked = 0
        for rows, is_ragged, n_acks in calls:
            tags = list(range(tag, tag + len(rows)))
            tag += len(rows)
            texts = TextColumn.from_rows([b"%d" % (t if is_ragged else 0) for t in tags])
            taken = bench.deliver([devices[row] for row in rows], tags, (texts if is_ragged else b"0",))
            expected = []
            for row in rows:
                expected.append(row == 3 or windows[row] < 3)
                if row != 3 and expected[-1]:
                    windows[row] += 1
            assert taken == expected
            expected_taken |= {t: row for t, row, ok in zip(tags, rows, taken, strict=True) if ok}
            for row in range(min(n_acks, 3)):
                if windows[row]:
                    devices[row].send(puback(devices[row].receive_push().packet_id))
                    windows[row] -= 1
                    n_acked += 1
            bench.until(lambda n_acked=n_acked: bench.count("pubacks") == n_acked)
        devices[0].send(b"\xe0\x00")
        bench.until(lambda: bench.link.statistics().connected == 3)
        bench.step()
        bench.pass_time(5.1)
        bench.link.dispose()
        ends = [event[1] for event in bench.owner.take() if event[0] in {"acknowledged", "unacknowledged"}]
        assert sorted(ends) == sorted(expected_taken)
        assert bench.link.statistics().in_flight == 0
    finally:
        bench.dispose()


# MQTT 5.0.


def test_connack_of_5_declares_what_is_not_offered_and_what_is_in_force(benches: list[Bench]) -> None:
    bench = start(benches, packet_bytes_max=5_000, qos_2_unreleased_max=7, keepalive_s_max=100)
    device = bench.device(1).log_in_5(encode_properties(Properties(session_expiry_interval_s=60)), keepalive_s=0)
    assert device.connack == Properties(
        server_keep_alive_s=100,
        receive_maximum=7,
        topic_alias_maximum=8,
        retain_available=0,
        maximum_packet_size_bytes=5_000,
        wildcard_subscription_available=0,
        subscription_identifier_available=0,
        shared_subscription_available=0,
    )
    assert bench.device(2).log_in_5().connack.server_keep_alive_s is None
    third = bench.device(3).log_in_5(encode_properties(Properties(session_expiry_interval_s=0xFFFFFFFF)))
    assert third.connack.session_expiry_interval_s == 86_400


CONNACKS_5 = {
    "wrong password": ({"password": "x" * 43, "properties": QUIET}, 0x86, "bad_credentials"),
    "unknown app": ({"user": b"other", "properties": QUIET}, 0x86, "bad_credentials"),
    "authentication method": ({"properties": b"\x06\x17\0\x15\0\1x"}, 0x8C, "unsupported_feature"),
    "packets of 63 bytes": ({"properties": b"\x07\x17\0\x27\0\0\0\x3f"}, 0x83, "unsupported_feature"),
    "receive maximum 0": ({"properties": b"\x03\x21\0\0"}, 0x82, "protocol_error"),
    "property of another packet": ({"properties": b"\x03\x23\0\1"}, 0x81, "protocol_error"),
    "protocol level 6": ({"level": 6}, 0x84, "unsupported_version"),
}


@pytest.mark.parametrize(("change", "code", "reason"), list(CONNACKS_5.values()), ids=list(CONNACKS_5))
def test_refused_connect_of_5_gets_its_reason_code(
    benches: list[Bench], change: dict[str, Any], code: int, reason: str
) -> None:
    bench = start(benches)
    device = bench.device(1)
    device.send(connect_packet(device.id, **({"level": 5} | change)))
    assert device.receive(5) == bytes([0x20, 3, 0, code, 0])
    assert device.is_closed()
    assert bench.closed() == {reason: 1}
    names = {name: n for name, n in bench.link.statistics().connacks.items() if n}
    assert names == {ReasonCode(code).name.lower(): 1}


@pytest.mark.parametrize(
    ("device_id", "code"), [(b"short", 0x85), (b"", 0x85), (BANNED, 0x8A), (CROWDED, 0x89)], ids=str
)
def test_identity_that_may_not_connect_is_told_why_in_5(benches: list[Bench], device_id: bytes, code: int) -> None:
    device = start(benches).device(1)
    device.send(connect_packet(device_id, level=5, properties=QUIET))
    assert device.receive(5) == bytes([0x20, 3, 0, code, 0])
    assert device.is_closed()


def test_rows_of_both_versions_in_one_call_reach_each_device_in_its_own_form(benches: list[Bench]) -> None:
    bench = start(benches)
    old, new, new_qos_0 = bench.device(1).log_in(), bench.device(2).log_in_5(), bench.device(3).log_in_5(qos=0)
    asked: list[Any] = []

    def expiry_s(rows: Any) -> Any:
        asked.extend(rows.tolist())
        return (rows + 600).astype(np.uint32)

    texts = TextColumn.from_rows([b"zero", b"one", b"two!", b"three", b"four"])
    devices = [new, old, new_qos_0, new, old]
    assert bench.deliver(devices, [0, 1, 2, 3, 4], (texts,), expiry_s=expiry_s) == [True] * 5
    assert sorted(asked) == [0, 2, 3]
    section = [encode_properties(Properties(message_expiry_interval_s=600 + row)) for row in range(5)]
    assert [old.receive_push().payload for _ in range(2)] == [b"one", b"four"]
    pushes = [new.receive_push() for _ in range(2)]
    assert [push.payload for push in pushes] == [section[0] + b"zero", section[3] + b"three"]
    push = new_qos_0.receive_push()
    assert (push.first, push.payload) == (0x30, section[2] + b"two!")
    new.send(b"".join(framed(0x40, push.packet_id.to_bytes(2, "big") + b"\x10\x00") for push in pushes))
    bench.until(lambda: bench.count("pubacks") == 2)
    assert {event[1] for event in bench.owner.take() if event[0] == "acknowledged"} == {0, 3}


def test_call_for_devices_of_3_1_1_alone_asks_for_no_expiry(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in()
    assert bench.deliver([device], [1], (b"x",), expiry_s=lambda rows: pytest.fail("asked")) == [True]
    assert device.receive_push().payload == b"x"


def test_receive_maximum_of_a_client_is_its_window(benches: list[Bench]) -> None:
    bench = start(benches, in_flight_per_device_max=3)
    narrow = bench.device(1).log_in_5(encode_properties(Properties(receive_maximum=2)))
    wide = bench.device(2).log_in_5(encode_properties(Properties(receive_maximum=9)))
    assert bench.deliver([narrow] * 4 + [wide] * 4, list(range(8)), (b"x",)) == [
        *(True, True, False, False),
        *(True, True, True, False),
    ]
    narrow.send(puback(narrow.receive_push().packet_id))
    bench.until(lambda: bench.count("pubacks") == 1)
    assert bench.deliver([narrow] * 2, [8, 9], (b"x",)) == [True, False]


def test_row_longer_than_the_client_takes_is_not_taken(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_5(encode_properties(Properties(maximum_packet_size_bytes=100)))
    # 1 type, 1 length, 2 + 39 topic, 2 identifier, 1 properties: 54 bytes of payload make 100.
    texts = TextColumn.from_rows([b"x" * 55, b"y" * 54])
    assert bench.deliver([device] * 2, [1, 2], (texts,)) == [False, True]
    assert device.receive_push().payload == b"\0" + b"y" * 54
    assert bench.count("refused_client_packet_bytes_max") == 1


def test_message_that_the_device_refuses_is_the_owners_again(benches: list[Bench]) -> None:
    bench = start(benches, in_flight_per_device_max=1)
    device = bench.device(1).log_in_5()
    assert bench.deliver([device], [77], (b"x",)) == [True]
    packet_id = device.receive_push().packet_id
    device.send(framed(0x40, packet_id.to_bytes(2, "big") + b"\x99"))
    assert bench.events_after(1) == [("unacknowledged", 77, Unacknowledged.REFUSED)]
    assert bench.count("pubacks_refused") == 1
    assert bench.deliver([device], [78], (b"x",)) == [True]


SHARED = framed(0x82, b"\0\1\0" + field(b"$share/g/t") + b"\1")
FAULTS_5 = {
    "a second CONNECT": (connect_packet(bytes([1]) * 16, level=5, properties=b"\0"), 0x82),
    "PUBREC": (b"\x50\x02\0\1", 0x81),
    "AUTH": (b"\xf0\x00", 0x82),
    "shared subscription": (SHARED, 0x9E),
    "wildcard subscription": (framed(0x82, b"\0\1\0" + field(b"#") + b"\1"), 0xA2),
    "topic alias 9": (framed(0x30, field(b"d/" + b"01" * 16 + b"/up/x") + b"\x03\x23\0\x09"), 0x94),
    "topic alias that was never set": (framed(0x30, field(b"") + b"\x03\x23\0\1"), 0x82),
    "retained message": (framed(0x31, field(b"t") + b"\0"), 0x9A),
    "QoS 0 to a foreign topic": (uplink_packet_5(bytes([9]) * 16, "x", b""), 0x90),
    "session after all": (framed(0xE0, b"\0\x05\x11\0\0\0\x09"), 0x82),
    "packet too large": (b"\x30\xff\xff\x7f", 0x95),
}


@pytest.mark.parametrize(("data", "code"), list(FAULTS_5.values()), ids=list(FAULTS_5))
def test_session_of_5_that_breaks_a_rule_is_told_its_reason_code(benches: list[Bench], data: bytes, code: int) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_5()
    device.send(b"\xc0\x00" + data)
    assert device.receive(2) == b"\xd0\x00"
    got, text = device.receive_disconnect()
    assert got == code
    assert text
    assert bench.closed() == {"frame_too_large" if code == 0x95 else "protocol_error": 1}
    assert bench.link.statistics().packets_out["disconnect"] == 1


def test_reason_string_is_left_out_where_the_client_has_no_room_for_it(benches: list[Bench]) -> None:
    device = start(benches).device(1).log_in_5(encode_properties(Properties(maximum_packet_size_bytes=64)))
    device.send(framed(0x82, b"\0\1\x02\x0b\x01" + field(b"t") + b"\1") + SHARED)
    assert device.receive_disconnect() == (0xA1, "SUBSCRIBE has a subscription identifier")
    other = device.bench.device(2).log_in_5(encode_properties(Properties(maximum_packet_size_bytes=64)))
    other.send(framed(0x40, b"\0\1\0\x04\x21\0\1\0"))
    assert other.receive_disconnect() == (0x81, "property 0x21 does not belong into PUBACK")
    third = device.bench.device(3).log_in_5(encode_properties(Properties(maximum_packet_size_bytes=64)))
    third.send(framed(0xE0, b"\0\x05\x11\0\0\0\x09"))
    assert third.receive_disconnect() == (0x82, None)


def test_edge_says_why_it_ends_a_connection_of_5_and_nothing_to_3_1_1(benches: list[Bench]) -> None:
    bench = start(benches)
    older, silent, half, old = (bench.device(n).log_in_5(keepalive_s=60) for n in (1, 2, 3, 4))
    del old
    bench.device(1).log_in_5()
    assert older.receive_disconnect() == (ReasonCode.SESSION_TAKEN_OVER, None)
    plain = bench.device(5).log_in(keepalive_s=60)
    half.send(b"\x30")
    bench.until(lambda: bench.link.statistics().side_tables["partial"] == 1)
    bench.pass_time(25)
    assert half.receive_disconnect()[0] == ReasonCode.MALFORMED_PACKET
    bench.pass_time(66)
    assert silent.receive_disconnect() == (ReasonCode.KEEP_ALIVE_TIMEOUT, None)
    assert plain.is_closed()
    last = bench.device(6).log_in_5()
    bench.link.edge.close_some(CloseReason.SHUTDOWN, 100)
    assert last.receive_disconnect() == (ReasonCode.SERVER_SHUTTING_DOWN, None)


def test_uplink_of_5_that_is_not_taken_ends_with_a_reason_and_the_session_goes_on(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_5()
    foreign = bytes([9]) * 16
    device.send(uplink_packet_5(foreign, "x", b"", 1, 5) + uplink_packet_5(foreign, "x", b"", 2, 6))
    assert device.receive(10) == b"\x40\x03\0\x05\x90" + b"\x50\x03\0\x06\x90"
    bench.owner.is_overloaded = True
    device.send(uplink_packet_5(device.id, "x", b"", 1, 5) + uplink_packet_5(device.id, "x", b"", 2, 6))
    assert device.receive(10) == b"\x40\x03\0\x05\x97" + b"\x50\x03\0\x06\x97"
    bench.owner.is_overloaded = False
    device.send(uplink_packet_5(device.id, "x", b"now", 2, 6) + framed(0x62, b"\0\6") + framed(0x62, b"\0\6\0"))
    assert device.receive(13) == b"\x50\x02\0\6" + b"\x70\x02\0\6" + b"\x70\x03\0\6\x92"
    assert bench.owner.take() == [("uplink", 0, device.id, "x", b"now")]


def test_client_of_5_that_exceeds_the_receive_maximum_is_told_so(benches: list[Bench]) -> None:
    bench = start(benches, qos_2_unreleased_max=2)
    device = bench.device(1).log_in_5()
    device.send(b"".join(uplink_packet_5(device.id, "x", b"", 2, n) for n in (1, 2, 2)))
    assert device.receive(12) == b"\x50\x02\0\1" + b"\x50\x02\0\2" * 2
    device.send(uplink_packet_5(device.id, "x", b"", 1, 3))
    assert device.receive_disconnect()[0] == ReasonCode.RECEIVE_MAXIMUM_EXCEEDED


def test_subscriptions_of_5_are_answered_filter_by_filter(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_5(qos=None)
    own = field(f"d/{device.id.hex()}/down".encode())
    device.send(framed(0x82, b"\0\7\0" + own + b"\2" + field(b"other") + b"\1"))
    assert device.receive(7) == b"\x90\x05\0\7\0\x01\x87"
    device.send(framed(0xA2, b"\0\x08\0" + own + field(b"other") + own))
    assert device.receive(8) == b"\xb0\x06\0\x08\0\x00\x11\x11"
    assert bench.deliver([device], [1], (b"x",)) == [False]


def test_answer_longer_than_the_client_takes_is_not_sent(benches: list[Bench]) -> None:
    device = start(benches).device(1).log_in_5(encode_properties(Properties(maximum_packet_size_bytes=64)), qos=None)
    device.send(framed(0x82, b"\0\7\0" + (field(b"t") + b"\1") * 60) + b"\xc0\x00")
    assert device.receive(2) == b"\xd0\x00"


# Uplink.


def test_uplink_reaches_the_owner_and_qos_1_is_acknowledged(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in()
    device.send(uplink_packet(device.id, "displayed", b"a") + uplink_packet(device.id, "90001", b"b", 1, 515))
    assert device.receive(4) == b"\x40\x02\x02\x03"
    assert bench.owner.take() == [
        ("uplink", 0, device.id, "displayed", b"a"),
        ("uplink", 0, device.id, "90001", b"b"),
    ]


def test_uplink_of_qos_2_reaches_the_owner_once_per_exchange(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in()
    packet = uplink_packet(device.id, "clicked", b"c", 2, 7)
    device.send(packet + bytes([packet[0] | 8]) + packet[1:])
    assert device.receive(8) == b"\x50\x02\x00\x07" * 2
    assert len(bench.owner.take()) == 1
    device.send(b"\x62\x02\x00\x07" * 2)
    assert device.receive(8) == b"\x70\x02\x00\x07" * 2
    assert bench.link.statistics().side_tables["qos_2_unreleased"] == 0
    device.send(packet)
    assert device.receive(4) == b"\x50\x02\x00\x07"
    assert len(bench.owner.take()) == 1
    device.send(b"\xe0\x00")
    bench.events_after(1)
    assert bench.link.statistics().side_tables["qos_2_unreleased"] == 0


def test_uplink_of_qos_2_without_end_is_bounded(benches: list[Bench]) -> None:
    bench = start(benches, qos_2_unreleased_max=2)
    device = bench.device(1).log_in()
    for packet_id in (1, 2, 3):
        device.send(uplink_packet(device.id, "x", b"", 2, packet_id))
    assert device.receive(8) == b"\x50\x02\x00\x01\x50\x02\x00\x02"
    assert device.is_closed()
    assert bench.closed() == {"protocol_error": 1}


def test_uplink_that_the_owner_cannot_take_is_not_acknowledged(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in()
    bench.owner.is_overloaded = True
    device.send(uplink_packet(device.id, "x", b"", 1, 1) + uplink_packet(device.id, "x", b"", 2, 2) + b"\xc0\x00")
    assert device.receive(2) == b"\xd0\x00"
    assert bench.count("uplink_overloaded") == 2
    bench.owner.is_overloaded = False
    device.send(uplink_packet(device.id, "x", b"", 2, 2))
    assert device.receive(4) == b"\x50\x02\x00\x02"
    assert len(bench.owner.take()) == 1


def later_of(bench: Bench) -> list[Any]:
    """Who is to be told that what devices said is durable, in the order of their messages; taken."""
    laters, bench.owner.laters = bench.owner.laters, []
    return laters


def test_uplink_is_acknowledged_in_order_when_what_it_says_is_durable(benches: list[Bench]) -> None:
    bench = start(benches)
    device, other = bench.device(1).log_in(), bench.device(2).log_in()
    bench.owner.uplink_answer = UplinkAnswer.LATER
    device.send(uplink_packet(device.id, "x", b"", 1, 1) + uplink_packet(device.id, "x", b"", 2, 2))
    device.send(uplink_packet(device.id, "x", b"", 0, 0) + b"\xc0\x00")
    assert device.receive(2) == b"\xd0\x00"
    first, second, of_qos_0 = later_of(bench)
    assert of_qos_0 is None
    bench.owner.uplink_answer = UplinkAnswer.TAKEN
    # Durable at once, and yet behind the others; another device waits for nobody.
    device.send(uplink_packet(device.id, "x", b"", 1, 3) + b"\xc0\x00")
    assert device.receive(2) == b"\xd0\x00"
    other.send(uplink_packet(other.id, "x", b"", 1, 7))
    assert other.receive(4) == b"\x40\x02\0\7"
    assert bench.link.statistics().side_tables["acks_owed"] == 3
    second(True)
    device.send(b"\xc0\x00")
    assert device.receive(2) == b"\xd0\x00"
    first(True)
    assert device.receive(12) == b"\x40\x02\0\1" + b"\x50\x02\0\2" + b"\x40\x02\0\3"
    assert bench.link.statistics().side_tables["acks_owed"] == 0


def test_uplink_that_could_not_be_made_durable_is_refused_and_may_come_again(benches: list[Bench]) -> None:
    bench = start(benches)
    bench.owner.uplink_answer = UplinkAnswer.LATER
    device, of_5 = bench.device(1).log_in(), bench.device(2).log_in_5()
    device.send(uplink_packet(device.id, "x", b"", 1, 1) + uplink_packet(device.id, "x", b"", 2, 2) + b"\xc0\x00")
    assert device.receive(2) == b"\xd0\x00"
    of_5.send(uplink_packet_5(of_5.id, "x", b"", 1, 5) + uplink_packet_5(of_5.id, "x", b"", 2, 6) + b"\xc0\x00")
    assert of_5.receive(2) == b"\xd0\x00"
    for later in later_of(bench):
        later(False)
    assert of_5.receive(10) == b"\x40\x03\0\5\x97" + b"\x50\x03\0\6\x97"
    # QoS 2: not taken for the second copy of what was taken.
    bench.owner.take()
    bench.owner.uplink_answer = UplinkAnswer.TAKEN
    device.send(uplink_packet(device.id, "x", b"", 2, 2))
    assert device.receive(4) == b"\x50\x02\0\2"
    assert len(bench.owner.take()) == 1


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("fails", ["while_away", "after_the_copy"])
def test_uplink_of_qos_2_that_is_lost_after_its_connection_ended_may_come_again(
    benches: list[Bench], version: int, fails: str
) -> None:
    bench = start(benches)
    bench.owner.uplink_answer = UplinkAnswer.LATER
    said = None if version == 4 else HOUR
    packet = uplink_packet if version == 4 else uplink_packet_5

    def connect(*, present: bool) -> Device:
        return bench.device(1).log_in_again(present=present, said=said)

    def parked() -> int:
        return bench.link.statistics().side_tables["parked_exchanges"]

    device = connect(present=False)
    device.send(packet(device.id, "x", b"", 2, 2) + packet(device.id, "x", b"", 2, 3) + b"\xc0\x00")
    assert device.receive(2) == b"\xd0\x00"
    lost, kept = later_of(bench)
    if fails == "while_away":
        device.leave()
        assert parked() == 2
        lost(False)
        assert parked() == 1
        kept(True)
        assert parked() == 1
        again = connect(present=True)
    else:
        again = connect(present=True)
        again.send(packet(again.id, "x", b"", 2, 2) + packet(again.id, "x", b"", 2, 3) + b"\xc0\x00")
        # Nobody knows yet whether these are kept: they are neither handed over again nor acknowledged.
        assert again.receive(2) == b"\xd0\x00"
        assert later_of(bench) == []
        kept(True)
        lost(False)
        assert (
            again.receive(4 if version == 4 else 9) == (b"" if version == 4 else b"\x50\x03\0\2\x97") + b"\x50\x02\0\3"
        )
    bench.owner.take()
    bench.owner.uplink_answer = UplinkAnswer.TAKEN
    # The lost one is a new message, the other a second copy.
    again.send(packet(again.id, "x", b"again", 2, 2) + packet(again.id, "x", b"again", 2, 3))
    assert again.receive(8) == b"\x50\x02\0\2" + b"\x50\x02\0\3"
    assert len(bench.owner.take()) == 1
    again.send(b"\x62\x02\0\2" + b"\x62\x02\0\3")
    assert again.receive(8) == b"\x70\x02\0\2" + b"\x70\x02\0\3"
    assert bench.link.statistics().side_tables["qos_2_unreleased"] == 0


def test_acknowledgements_owed_are_bounded_and_go_with_their_connection(benches: list[Bench]) -> None:
    bench = start(benches)
    bench.owner.uplink_answer = UplinkAnswer.LATER
    device = bench.device(1).log_in()
    device.send(b"".join(uplink_packet(device.id, "x", b"", 1, n) for n in range(1, 67)) + b"\xc0\x00")
    assert device.receive(2) == b"\xd0\x00"
    assert bench.count("uplink_overloaded") == 2
    laters = later_of(bench)
    assert len(laters) == 64
    again = bench.device(1).log_in()
    assert device.is_closed()
    for later in laters:
        later(True)
    again.send(b"\xc0\x00")
    assert again.receive(2) == b"\xd0\x00"
    assert bench.link.statistics().side_tables["acks_owed"] == 0


# The task.


class Phone:
    """A device on trio, for the tests in which the long link runs as a task."""

    def __init__(self, stream: trio.SocketStream, number: int) -> None:
        self.stream = stream
        self.id = bytes([number]) * 16

    async def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = await self.stream.receive_some(size - len(data))
            if not chunk:
                break
            data += chunk
        return data


async def log_in_phone(address: tuple[str, int], number: int) -> Phone:
    phone = Phone(await trio.open_tcp_stream(*address), number)
    await phone.stream.send_all(connect_packet(phone.id) + subscribe_packet(phone.id))
    assert await phone.receive(9) == b"\x20\x02\x00\x00\x90\x03\x00\x01\x01"
    return phone


def run_link(**limits: Any) -> tuple[LongLink, Recorder, tuple[str, int]]:
    owner = Recorder()
    configured = LongLinkSettings(edge=EdgeSettings(listeners=(ListenerSettings(port=0),)), **limits)
    link = LongLink(configured, APPS, owner, clock=time.monotonic)
    return link, owner, link.listen()[0]


def push_to(link: LongLink, owner: Recorder, phone: Phone, tag: int) -> bool:
    fd, generation = owner.online[phone.id]
    return bool(
        link.deliver(
            np.array([fd], np.int32),
            np.array([generation], np.uint32),
            np.frombuffer(phone.id, np.uint8).reshape(1, 16),
            np.array([tag]),
            (b"x",),
            time.monotonic(),
        )[0]
    )


async def test_stop_waits_for_the_pubacks_and_then_closes_everything() -> None:
    link, owner, address = run_link()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            phone = await log_in_phone(address, 1)
            assert push_to(link, owner, phone, 1)
            await phone.receive(46)
            link.stop(drain_s=60.0)
            assert not push_to(link, owner, phone, 2)
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream(*address)
            await phone.stream.send_all(puback(1))
            await link.wait_stopped()
            assert await phone.receive(1) == b""
            await phone.stream.aclose()
    assert [event[0] for event in owner.take()] == ["subscribed", "acknowledged", "disconnected"]
    assert link.statistics().closed["shutdown"] == 1


async def test_rows_that_were_put_off_leave_although_nobody_sends_them() -> None:
    link, owner, address = run_link()
    link.downlink.rows_at_once = lambda: 0
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            phone = await log_in_phone(address, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert push_to(link, owner, phone, 1)
            assert await phone.receive(46)
            nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(phone.stream)


async def test_stop_closes_evenly_over_its_spread_so_that_devices_do_not_come_back_at_once(
    benches: list[Bench], autojump_clock: Any
) -> None:
    bench = start(benches, clock=trio.current_time)
    bench.now = trio.current_time()
    for number in range(1, 21):
        bench.device(number).log_in()
    left: list[int] = []
    async with trio.open_nursery() as nursery:
        bench.link.stop(drain_s=0.0, spread_s=10.0)
        nursery.start_soon(bench.link.run)
        for _ in range(10):
            await trio.sleep(1.0)
            left.append(bench.link.statistics().connections)
        await bench.link.wait_stopped()
    # Two a second, from the first on and none left at the end; what a look finds due goes with it.
    assert all(abs(found - (20 - 2 * (second + 1))) <= 1 for second, found in enumerate(left)), left
    assert bench.link.statistics().closed["shutdown"] == 20


async def test_stop_gives_rows_back_when_its_budget_is_over() -> None:
    link, owner, address = run_link()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            phone = await log_in_phone(address, 1)
            assert push_to(link, owner, phone, 1)
            link.stop(drain_s=0.05)
            await link.wait_stopped()
            await phone.stream.aclose()
    assert owner.take()[-1] == ("unacknowledged", 1, Unacknowledged.CONNECTION_CLOSED)


async def test_cancelled_long_link_reports_every_connection_before_it_returns() -> None:
    link, owner, address = run_link()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            phones = [await log_in_phone(address, number) for number in (1, 2, 3)]
            assert push_to(link, owner, phones[1], 9)
            nursery.cancel_scope.cancel()
    reasons = [event[4] for event in owner.events if event[0] == "disconnected"]
    assert reasons == [CloseReason.SHUTDOWN] * 3
    assert owner.events[-1] == ("unacknowledged", 9, Unacknowledged.CONNECTION_CLOSED)
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream(*address)
    for phone in phones:
        with trio.move_on_after(5) as scope:
            await phone.stream.aclose()
        assert not scope.cancelled_caught


async def test_running_long_link_reports_a_row_that_was_never_acknowledged_without_being_asked() -> None:
    link, owner, address = run_link(ack_timeout_s=0.02, tick_s=0.01)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            phone = await log_in_phone(address, 1)
            assert push_to(link, owner, phone, 1)
            while ("unacknowledged", 1, Unacknowledged.ACK_TIMEOUT) not in owner.events:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    await phone.stream.aclose()


# Who is let in.


def test_password_of_the_older_secret_is_good_and_counted_as_such(benches: list[Bench]) -> None:
    bench = start(benches)
    bench.device(1).log_in()
    device = bench.device(2)
    device.send(connect_packet(device.id, password=device_password(b"new secret", device.id.hex())))
    assert device.receive(4) == b"\x20\x02\x00\x00"
    assert bench.admission.secret_uses["app"].tolist() == [1, 1]


def test_address_that_guesses_rests_and_then_comes_back(benches: list[Bench]) -> None:
    bench = start(benches)
    for number in range(3):
        device = bench.device(number)
        device.send(connect_packet(device.id, password="guess"))
        assert device.receive(4) == b"\x20\x02\x00\x04"
    late = bench.device(7)
    late.send(connect_packet(late.id))
    assert late.is_closed()
    assert bench.closed() == {"bad_credentials": 3, "login_backoff": 1}
    assert bench.admission.refused == {("app", Rule.WRONG_PASSWORD): 3, ("", Rule.LOGIN_BACKOFF): 1}
    bench.now += 10.0
    bench.device(8).log_in()


def test_connection_that_was_open_when_its_address_began_to_rest_is_told_to_come_later(benches: list[Bench]) -> None:
    bench = start(benches)
    early = bench.device(9)
    early.send(b"\x10")
    for number in range(3):
        device = bench.device(number)
        device.send(connect_packet(device.id, user=b"nobody"))
        assert device.receive(4) == b"\x20\x02\x00\x04"
    early.send(connect_packet(early.id)[1:])
    assert early.receive(4) == b"\x20\x02\x00\x03"
    assert early.is_closed()


def test_banned_device_is_refused_when_it_has_proven_who_it_is(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1)
    bench.admission.replace_bans(Bans((), {"app": AppBans(frozenset({device.id}))}))
    device.send(connect_packet(device.id))
    assert device.receive(4) == b"\x20\x02\x00\x05"
    assert device.is_closed()
    assert bench.closed() == {"banned": 1}
    bench.device(2).log_in()


def test_banned_network_is_closed_unread(benches: list[Bench]) -> None:
    bench = start(benches)
    bench.admission.replace_bans(Bans(parse_networks(["127.0.0.0/8"])))
    device = bench.device(1)
    device.send(connect_packet(device.id))
    assert device.is_closed()
    assert bench.closed() == {"banned": 1}


def test_network_banned_for_one_app_is_refused_at_connect(benches: list[Bench]) -> None:
    bench = start(benches)
    bench.admission.replace_bans(Bans((), {"app": AppBans(networks=parse_networks(["127.0.0.0/8"]))}))
    device = bench.device(1)
    device.send(connect_packet(device.id))
    assert device.receive(4) == b"\x20\x02\x00\x05"


def test_open_connections_of_devices_banned_later_are_closed_within_a_tick_and_reported(benches: list[Bench]) -> None:
    bench = start(benches)
    good, bad = bench.device(1).log_in(), bench.device(2).log_in()
    bench.admission.replace_bans(Bans((), {"app": AppBans(frozenset({bad.id}))}))
    bench.link.tick(bench.now)
    assert bench.closed() == {}
    bench.link.bans_changed()
    assert not bench.link.tick(bench.now)
    assert bad.is_closed()
    assert bench.closed() == {"banned": 1}
    assert [event[0] for event in bench.owner.take()] == ["disconnected"]
    good.send(b"\xc0\x00")
    assert good.receive(2) == b"\xd0\x00"


def test_more_banned_devices_than_fit_a_step_are_closed_in_the_next_ones(benches: list[Bench]) -> None:
    bench = start(benches)
    bad = [bench.device(number).log_in() for number in range(1, 6)]
    bench.link.edge.pace = Pace(1.0, fewest=2, most=2)
    bench.admission.replace_bans(Bans((), {"app": AppBans(frozenset(device.id for device in bad))}))
    bench.link.bans_changed()
    closed = []
    for _ in range(3):
        closed.append((bench.link.tick(bench.now), bench.closed().get("banned")))
    assert closed == [(True, 2), (True, 4), (False, 5)]


# Sessions that outlive their connection.

HOUR = Properties(session_expiry_interval_s=3_600)


def stored(bench: Bench) -> tuple[int, int]:
    """(sessions of absent devices, rows that wait for them)"""
    sizes = bench.link.statistics().side_tables
    return sizes["stored_sessions"], sizes["parked_rows"]


@pytest.mark.parametrize("version", [4, 5])
def test_resumed_session_gets_its_rows_again_with_dup_under_their_packet_ids_and_in_order(
    benches: list[Bench], version: int
) -> None:
    bench = start(benches)
    said = HOUR if version == 5 else None
    device = bench.device(1).log_in_again(present=False, said=said)
    device.send(subscribe_packet_5(device.id) if version == 5 else subscribe_packet(device.id))
    device.receive(6 if version == 5 else 5)
    bench.owner.take()
    assert bench.deliver([device] * 3, [7, 5, 6], (TextColumn.from_rows([b"a", b"bb", b"ccc"]),)) == [True] * 3
    first = [device.receive_push() for _ in range(3)]
    device.send(puback(first[1].packet_id))
    assert bench.events_after(1)[0][:2] == ("acknowledged", 5)
    device.leave()
    assert [event[0] for event in bench.owner.take()] == ["disconnected"]
    assert stored(bench) == (1, 2)

    again = bench.device(1).log_in_again(present=True, said=said)
    pushes = [again.receive_push() for _ in range(2)]
    assert [push.first for push in pushes] == [0x3A, 0x3A]
    assert [push.packet_id for push in pushes] == [first[0].packet_id, first[2].packet_id]
    left = (b"\x05\x02\0\0\0\x64", b"\x05\x02\0\0\0\x65") if version == 5 else (b"", b"")
    assert [push.payload for push in pushes] == [left[0] + b"a", left[1] + b"ccc"]
    assert {push.topic for push in pushes} == {first[0].topic}
    # Its subscription is there, too.
    assert [event[0] for event in bench.owner.take()] == ["resumed", "resumed", "subscribed"]
    for push in pushes:
        again.send(puback(push.packet_id))
    assert [event[:2] for event in bench.events_after(2)] == [("acknowledged", 7), ("acknowledged", 6)]
    assert stored(bench) == (0, 0)
    assert bench.link.statistics().in_flight == 0
    assert (bench.count("redelivered"), bench.count("delivered")) == (2, 3)
    assert bench.deliver([again], [8], (b"x",)) == [True]


def test_row_of_an_absent_session_is_handed_over_after_the_same_time_as_any_other(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_again(present=False, said=HOUR).subscribe_5()
    assert bench.deliver([device], [7], (b"x",)) == [True]
    packet_id = device.receive_push().packet_id
    device.leave()
    bench.owner.take()
    bench.pass_time(4.9)
    assert bench.owner.take() == []
    bench.pass_time(0.2)
    assert bench.owner.take() == [("unacknowledged", 7, Unacknowledged.CONNECTION_CLOSED)]
    assert stored(bench) == (1, 0)
    # The session is still there, the row is not: it has left it.
    again = bench.device(1).log_in_again(present=True, said=HOUR)
    again.send(puback(packet_id))
    bench.until(lambda: bench.count("pubacks_unknown") == 1)
    assert [event[0] for event in bench.owner.take()] == ["subscribed"]


def test_row_that_had_lapsed_before_its_connection_ended_is_not_in_the_session(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_again(present=False, said=HOUR).subscribe_5()
    assert bench.deliver([device], [7], (b"x",)) == [True]
    device.receive_push()
    bench.pass_time(5.1)
    assert bench.owner.take()[-1] == ("unacknowledged", 7, Unacknowledged.ACK_TIMEOUT)
    device.leave()
    assert (stored(bench), bench.link.statistics().in_flight) == ((1, 0), 0)
    bench.device(1).log_in_again(present=True, said=HOUR)
    assert not any(event[0] == "resumed" for event in bench.owner.take())


@pytest.mark.parametrize("version", [4, 5])
def test_clean_start_ends_a_stored_session_and_its_rows_go_on(benches: list[Bench], version: int) -> None:
    bench = start(benches)
    said = HOUR if version == 5 else None
    device = bench.device(1).log_in_again(present=False, said=HOUR).subscribe_5()
    assert bench.deliver([device], [7], (b"x",)) == [True]
    device.leave()
    bench.owner.take()
    bench.device(1).log_in_again(present=False, said=said, is_clean=True)
    assert bench.events_after(1) == [("unacknowledged", 7, Unacknowledged.CONNECTION_CLOSED)]
    assert stored(bench) == (0, 0)
    assert bench.count("sessions_discarded") == 1


def test_session_of_a_clean_start_is_stored_when_it_has_an_expiry_in_5_and_never_in_3_1_1(
    benches: list[Bench],
) -> None:
    bench = start(benches)
    five = bench.device(1).log_in_again(present=False, said=HOUR, is_clean=True)
    four = bench.device(2).log_in_again(present=False, is_clean=True)
    none = bench.device(3).log_in_again(present=False, said=Properties())
    for device in (five, four, none):
        device.leave()
    assert stored(bench) == (1, 0)
    bench.device(1).log_in_again(present=True, said=HOUR)
    bench.device(2).log_in_again(present=False)
    bench.device(3).log_in_again(present=False, said=HOUR)


def test_takeover_keeps_the_session_and_sends_its_rows_to_the_newer_connection(benches: list[Bench]) -> None:
    bench = start(benches)
    older = bench.device(1).log_in_again(present=False, said=HOUR).subscribe_5()
    assert bench.deliver([older], [7], (b"x",)) == [True]
    packet_id = older.receive_push().packet_id
    bench.owner.take()
    newer = bench.device(1).log_in_again(present=True, said=HOUR)
    push = newer.receive_push()
    assert (push.first, push.packet_id) == (0x3A, packet_id)
    assert older.receive_disconnect() == (ReasonCode.SESSION_TAKEN_OVER, None)
    newer.send(puback(packet_id))
    kinds = [event[0] for event in bench.events_after(4)]
    assert kinds == ["disconnected", "resumed", "subscribed", "acknowledged"]
    assert stored(bench) == (0, 0)


def test_takeover_of_a_session_without_expiry_finds_none_and_its_rows_go_on(benches: list[Bench]) -> None:
    bench = start(benches)
    older = bench.device(1).log_in_5()
    assert bench.deliver([older], [7], (b"x",)) == [True]
    bench.device(1).log_in_again(present=False, said=HOUR)
    assert bench.events_after(2)[1] == ("unacknowledged", 7, Unacknowledged.CONNECTION_CLOSED)


def test_session_expires_with_what_it_held(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_again(present=False, said=Properties(session_expiry_interval_s=2)).subscribe_5()
    assert bench.deliver([device], [7], (b"x",)) == [True]
    device.leave()
    bench.owner.take()
    bench.pass_time(2.0)
    assert bench.owner.take() == [("unacknowledged", 7, Unacknowledged.CONNECTION_CLOSED)]
    assert bench.count("sessions_expired") == 1
    bench.device(1).log_in_again(present=False, said=HOUR)


def test_session_that_is_over_is_not_found_between_two_ticks(benches: list[Bench]) -> None:
    bench = start(benches)
    bench.device(1).log_in_again(present=False, said=Properties(session_expiry_interval_s=2)).leave()
    bench.now += 2.0
    bench.device(1).log_in_again(present=False, said=HOUR)
    assert stored(bench) == (0, 0)


def test_disconnect_of_5_may_end_a_session_or_make_it_longer(benches: list[Bench]) -> None:
    bench = start(benches, session_expiry_s_max=100)
    one, two, three = (bench.device(n).log_in_again(present=False, said=HOUR) for n in (1, 2, 3))
    one.send(framed(0xE0, b"\0\x05\x11\0\0\0\0"))
    two.send(framed(0xE0, b"\0\x05\x11\0\0\xff\xff"))
    three.send(b"\xe0\x00")
    bench.until(lambda: bench.link.statistics().connections == 0)
    bench.step()
    assert stored(bench) == (2, 0)
    bench.device(1).log_in_again(present=False, said=HOUR)
    bench.pass_time(101)
    bench.device(2).log_in_again(present=False, said=HOUR)


def test_most_sessions_are_bounded_and_those_that_would_expire_first_go(benches: list[Bench]) -> None:
    bench = start(benches, sessions_max=2)
    for number, expiry_s in ((1, 50), (2, 40), (3, 60)):
        said = Properties(session_expiry_interval_s=expiry_s)
        device = bench.device(number).log_in_again(present=False, said=said).subscribe_5()
        assert bench.deliver([device], [number], (b"x",)) == [True]
        device.leave()
    assert ("unacknowledged", 2, Unacknowledged.CONNECTION_CLOSED) in bench.owner.take()
    assert stored(bench) == (2, 2)
    assert bench.link.statistics().counts["evicted_sessions_max"] == 1
    bench.device(2).log_in_again(present=False, said=HOUR)
    bench.device(1).log_in_again(present=True, said=HOUR)


@pytest.mark.parametrize("limit", ["session_expiry_s_max", "sessions_max"])
def test_sessions_are_not_stored_where_none_may_be(benches: list[Bench], limit: str) -> None:
    bench = start(benches, **{limit: 0})
    device = bench.device(1).log_in_5(encode_properties(HOUR))
    assert device.connack.session_expiry_interval_s == 0
    device.send(framed(0xE0, b"\0\x05\x11\0\0\0\x09"))
    bench.until(lambda: bench.link.statistics().connections == 0)
    assert stored(bench) == (0, 0)
    bench.device(1).log_in_again(present=False, said=HOUR)


def test_rows_beyond_the_window_or_packet_size_of_the_newer_connection_go_on(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_again(present=False, said=HOUR).subscribe_5()
    rows = [b"x" * 10, b"y" * 100, b"z" * 10]
    assert bench.deliver([device] * 3, [1, 2, 3], (TextColumn.from_rows(rows),)) == [True] * 3
    device.leave()
    bench.owner.take()
    small = HOUR._replace(receive_maximum=2, maximum_packet_size_bytes=100)
    again = bench.device(1).log_in_again(present=True, said=small)
    assert again.receive_push().payload.endswith(rows[0])
    kinds = [event[:2] for event in bench.events_after(4)]
    assert ("unacknowledged", 3) in kinds  # the third of a window of two
    assert bench.count("refused_redelivery") == 2
    assert bench.link.table.in_flight_at[again.address[0]] == 1


def test_row_is_sent_again_only_so_often(benches: list[Bench]) -> None:
    bench = start(benches, deliveries_max=2)
    device = bench.device(1).log_in_again(present=False, said=HOUR).subscribe_5()
    assert bench.deliver([device], [7], (b"x",)) == [True]
    device.leave()
    second = bench.device(1).log_in_again(present=True, said=HOUR)
    assert second.receive_push().first == 0x3A
    second.leave()
    bench.owner.take()
    bench.device(1).log_in_again(present=True, said=HOUR)
    assert bench.events_after(2)[0] == ("unacknowledged", 7, Unacknowledged.CONNECTION_CLOSED)
    assert stored(bench) == (0, 0)


def test_row_that_the_owner_no_longer_knows_frees_its_packet_id(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_again(present=False, said=HOUR).subscribe_5()
    assert bench.deliver([device], [7], (b"x",)) == [True]
    device.leave()
    bench.owner.payloads.clear()
    again = bench.device(1).log_in_again(present=True, said=HOUR)
    bench.until(lambda: ("resumed", 7) in bench.owner.events)
    assert bench.link.statistics().in_flight == 0
    assert bench.link.table.in_flight_at[again.address[0]] == 0


def test_many_rows_are_sent_again_over_several_steps(benches: list[Bench]) -> None:
    bench = start(benches, in_flight_per_device_max=100)
    device = bench.device(1).log_in_again(present=False, said=HOUR).subscribe_5()
    assert all(bench.deliver([device] * 100, list(range(100)), (b"x",)))
    ids = [device.receive_push().packet_id for _ in range(100)]
    device.leave()
    again = bench.device(1).log_in_again(present=True, said=HOUR)
    assert [again.receive_push().packet_id for _ in range(100)] == ids


def test_exchange_of_qos_2_goes_on_in_a_resumed_session(benches: list[Bench]) -> None:
    """[MQTT-4.3.3-9, -10]: the same packet identifier is the same message, until PUBREL."""
    bench = start(benches)
    device = bench.device(1).log_in_again(present=False, said=HOUR)
    device.send(uplink_packet_5(device.id, "x", b"once", 2, 9))
    assert device.receive(4) == b"\x50\x02\0\x09"
    device.leave()
    again = bench.device(1).log_in_again(present=True, said=HOUR)
    packet = bytearray(uplink_packet_5(again.id, "x", b"once", 2, 9))
    packet[0] |= 8
    again.send(bytes(packet) + framed(0x62, b"\0\x09"))
    assert again.receive(8) == b"\x50\x02\0\x09" + b"\x70\x02\0\x09"
    assert [event[0] for event in bench.owner.take()].count("uplink") == 1


def test_session_whose_exchanges_find_no_room_is_not_stored(benches: list[Bench]) -> None:
    bench = start(benches, exchanges_parked_max=1)
    device = bench.device(1).log_in_again(present=False, said=HOUR)
    device.send(uplink_packet_5(device.id, "x", b"", 2, 1) + uplink_packet_5(device.id, "x", b"", 2, 2))
    device.receive(8)
    device.leave()
    assert stored(bench) == (0, 0)
    assert bench.link.statistics().counts["refused_exchanges_max"] == 1


def test_end_of_the_long_link_gives_back_what_absent_sessions_hold(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_again(present=False, said=HOUR).subscribe_5()
    other = bench.device(2).log_in_again(present=False, said=HOUR).subscribe_5()
    assert bench.deliver([device, other], [7, 8], (b"x",)) == [True, True]
    device.leave()
    bench.owner.take()
    bench.link.dispose()
    lost = {event[1] for event in bench.owner.take() if event[0] == "unacknowledged"}
    assert lost == {7, 8}
    assert stored(bench) == (0, 0)


def test_banned_device_leaves_no_session(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_again(present=False, said=HOUR)
    bench.admission.replace_bans(Bans((), {"app": AppBans(frozenset({device.id}))}))
    bench.link.bans_changed()
    bench.link.tick(bench.now)
    assert device.receive_disconnect() == (ReasonCode.ADMINISTRATIVE_ACTION, None)
    assert stored(bench) == (0, 0)


# Topic aliases and redirects.


def test_client_that_takes_an_alias_gets_the_topic_once(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_5(encode_properties(Properties(topic_alias_maximum=1)))
    assert bench.deliver([device] * 2, [1, 2], (b"x",)) == [True, True]
    assert bench.deliver([device], [3], (b"x",), expiry_s=lambda rows: np.full(len(rows), 9, np.uint32)) == [True]
    topic = f"d/{device.id.hex()}/down".encode()
    pushes = [device.receive_push() for _ in range(3)]
    assert [push.topic for push in pushes] == [topic, topic, b""]
    alias = b"\x23\0\1"
    assert [push.payload for push in pushes] == [b"\3" + alias + b"x"] * 2 + [b"\x08" + alias + b"\2\0\0\0\x09x"]
    # Another connection knows nothing of it [MQTT-3.3.2-7].
    device.leave()
    again = bench.device(1).log_in_5(encode_properties(Properties(topic_alias_maximum=1)))
    assert bench.deliver([again], [4], (b"x",)) == [True]
    assert again.receive_push().topic == topic


def test_packet_size_is_measured_as_it_is_sent_with_an_alias(benches: list[Bench]) -> None:
    bench = start(benches)
    said = Properties(topic_alias_maximum=1, maximum_packet_size_bytes=64)
    device = bench.device(1).log_in_5(encode_properties(said))
    assert bench.deliver([device], [1], (b"x" * 30,)) == [False]
    assert bench.deliver([device], [2], (b"x" * 10,)) == [True]
    assert bench.deliver([device], [3], (b"x" * 30,)) == [True]
    assert bench.deliver([device], [4], (b"x" * 60,)) == [False]


def alias_packet(topic: bytes, alias: int, payload: bytes, packet_id: int = 1) -> bytes:
    body = field(topic) + packet_id.to_bytes(2, "big") + b"\x03\x23" + alias.to_bytes(2, "big")
    return framed(0x32, body + payload)


def test_alias_of_a_client_stands_for_its_topic_until_it_is_set_again(benches: list[Bench]) -> None:
    bench = start(benches)
    device = bench.device(1).log_in_5(qos=None)
    up = f"d/{device.id.hex()}/up/".encode()
    device.send(alias_packet(up + b"displayed", 8, b"1") + alias_packet(b"", 8, b"2"))
    device.send(alias_packet(up + b"90123", 1, b"3") + alias_packet(b"", 1, b"4") + alias_packet(b"", 8, b"5"))
    device.send(alias_packet(up + b"clicked", 8, b"6") + alias_packet(b"", 8, b"7"))
    assert device.receive(4 * 7) == puback(1) * 7
    heard = [(event[3], event[4]) for event in bench.owner.take() if event[0] == "uplink"]
    assert heard == [
        ("displayed", b"1"),
        ("displayed", b"2"),
        ("90123", b"3"),
        ("90123", b"4"),
        ("displayed", b"5"),
        ("clicked", b"6"),
        ("clicked", b"7"),
    ]
    device.send(alias_packet(f"d/{'9' * 32}/up/x".encode(), 2, b"") + alias_packet(b"", 2, b""))
    assert device.receive(10) == b"\x40\x03\0\1\x90" * 2
    device.send(alias_packet(up + b"unheard-of", 3, b"") + alias_packet(b"", 3, b""))
    assert device.receive(8) == puback(1) * 2
    assert [event[3] for event in bench.owner.take()] == ["unheard-of", "unknown"]
    # Aliases end with their connection.
    device.leave()
    again = bench.device(1).log_in_5(qos=None)
    again.send(alias_packet(b"", 8, b""))
    assert again.receive_disconnect()[0] == ReasonCode.PROTOCOL_ERROR


def test_event_without_its_form_is_refused_in_5_and_acknowledged_in_3_1_1(benches: list[Bench]) -> None:
    bench = start(benches)
    bench.owner.uplink_answer = UplinkAnswer.MALFORMED
    five, four = bench.device(1).log_in_5(), bench.device(2).log_in()
    five.send(uplink_packet_5(five.id, "tags", b"", 1, 5) + uplink_packet_5(five.id, "tags", b"", 2, 6))
    assert five.receive(10) == b"\x40\x03\0\x05\x99" + b"\x50\x03\0\x06\x99"
    four.send(uplink_packet(four.id, "tags", b"", 1, 5) + uplink_packet(four.id, "tags", b"", 2, 6))
    assert four.receive(8) == b"\x40\x02\0\x05" + b"\x50\x02\0\x06"


def test_device_that_finds_no_room_is_told_where_there_may_be_some(benches: list[Bench]) -> None:
    bench = start(benches, server_reference="b.example:8883")
    crowded = bench.device(0xCC)
    crowded.send(connect_packet(crowded.id, level=5, properties=QUIET))
    assert crowded.receive(22) == b"\x20\x14\x00\x9c\x11\x1c\x00\x0eb.example:8883"
    assert crowded.is_closed()
    plain = bench.device(0xCC)
    plain.send(connect_packet(plain.id))
    assert plain.receive(4) == b"\x20\x02\x00\x03"
    assert plain.is_closed()
    assert bench.closed() == {"redirected": 1, "too_many_connections": 1}
    last = bench.device(1).log_in_5()
    bench.link.edge.close_some(CloseReason.SHUTDOWN, 100)
    assert last.receive(21)[:3] == b"\xe0\x13\x9c"


def test_all_devices_are_sent_on_where_the_server_has_moved(benches: list[Bench]) -> None:
    bench = start(benches, server_reference="b.example", is_moved=True)
    device, wrong, plain = (bench.device(n) for n in (1, 2, 3))
    device.send(connect_packet(device.id, level=5, properties=QUIET))
    assert device.receive(17)[:4] == b"\x20\x0f\x00\x9d"
    wrong.send(connect_packet(wrong.id, level=5, properties=b"\0", password="x" * 43))
    assert wrong.receive(5)[3] == ReasonCode.BAD_USER_NAME_OR_PASSWORD
    plain.send(connect_packet(plain.id))
    assert plain.receive(4) == b"\x20\x02\x00\x03"
    assert bench.owner.online == {}
