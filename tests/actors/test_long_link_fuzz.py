"""Mutated MQTT packets: codec, session rules, uplink forms and the whole long link bear them, with no exception but the
protocol's own.

`make fuzz` runs MQTT_PACKETS (a million) with a new FUZZ_SEED, which is printed; the suite runs a short form with a
fixed one. Mutations start from valid packets of both versions, and most have their remaining length mended, so that not
all are refused by the first look. Every fiftieth packet goes through sockets.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
from typing import Any

import numpy as np

from bench.devices.mqtt import field, framed
from gateway.actors.long_link import LongLink
from gateway.actors.long_link_port import LongLinkSettings, Unacknowledged, UplinkAnswer
from gateway.columns import TextColumn
from gateway.core.identity import device_password
from gateway.core.uplink import MalformedUplink, parse_uplink
from gateway.errors import CloseReason, RemoteProtocolError
from gateway.net.edge_settings import EdgeSettings, ListenerSettings
from gateway.wire.mqtt.packets import Connect, Publish, Subscribe, next_packet
from gateway.wire.mqtt.session import SessionState, act_for, connect_refusal, connect_refusal_5, grant, uplink_event

SEED = int(os.environ.get("FUZZ_SEED", "20"))
PACKETS = int(os.environ.get("MQTT_PACKETS", "20000"))
SECRET = b"app secret"
ID = bytes(range(16))
NAME = ID.hex()
LIMIT = 65_536


def connect(level: int, flags: int, properties: bytes = b"", will: bytes = b"") -> bytes:
    body = field(b"MQTT") + bytes([level, flags]) + b"\0\x3c" + properties + field(NAME.encode()) + will
    return framed(0x10, body + field(b"app") + field(device_password(SECRET, NAME).encode()))


UP = field(f"d/{NAME}/up/displayed".encode())
DOWN = field(f"d/{NAME}/down".encode())
REPORT = b'{"message_id":"01935a7e-6c00-8001-9000-00000100abcd"}'
PAIR = b"\x26" + field(b"name") + field("wert ä".encode())
CONNECT_5 = connect(5, 0xC0, b"\x13\x11\0\0\x0e\x10\x21\0\x0a\x27\0\0\x10\0\x22\0\4\x17\1")
CORPUS: dict[int, list[bytes]] = {
    4: [
        connect(4, 0xC2),
        connect(4, 0xC0),
        connect(4, 0xCE, will=field(b"gone") + field(b"bye")),
        *(framed(0x30 | qos << 1, UP + (b"\0\x07" if qos else b"") + REPORT) for qos in (0, 1, 2)),
        framed(0x3A, UP + b"\0\x07" + REPORT),
        b"\x40\x02\0\1",
        b"\x62\x02\0\7",
        framed(0x82, b"\0\1" + DOWN + b"\1" + field(b"a/+/#") + b"\2"),
        framed(0xA2, b"\0\2" + DOWN),
        b"\xc0\0",
        b"\xe0\0",
        b"\x50\x02\0\1",
        b"\x20\x02\0\0",
    ],
    5: [
        CONNECT_5,
        connect(5, 0xC6, b"\0", b"\x05\x18\0\0\0\1" + field(b"gone") + field(b"bye")),
        connect(5, 0xC2, bytes([len(PAIR)]) + PAIR),
        *(framed(0x30 | qos << 1, UP + (b"\0\x07" if qos else b"") + b"\0" + REPORT) for qos in (0, 1, 2)),
        framed(0x32, UP + b"\0\x07\x08\x23\0\1\2\0\0\0\1" + REPORT),
        framed(0x32, field(b"") + b"\0\x08\x03\x23\0\1" + REPORT),
        framed(0x30, UP + bytes([len(PAIR) + 2]) + b"\1\1" + PAIR + REPORT),
        b"\x40\x02\0\1",
        b"\x40\x04\0\1\x97\0",
        b"\x62\x03\0\7\x92",
        framed(0x82, b"\0\1\0" + DOWN + b"\x2d" + field(b"other") + b"\2"),
        framed(0x82, b"\0\1\2\x0b\1" + field(b"$share/g/t") + b"\1"),
        framed(0xA2, b"\0\2\0" + DOWN),
        b"\xc0\0",
        b"\xe0\0",
        b"\xe0\x07\0\x05\x11\0\0\0\x09",
        b"\xf0\0",
    ],
}
INTERESTING = bytes((0, 1, 2, 4, 0x7F, 0x80, 0xFF, 0x11, 0x23, 0x26))


def mutate(chance: random.Random, packet: bytes, others: list[bytes]) -> bytes:
    data = bytearray(packet)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at] = chance.choice(INTERESTING)
            case 2:
                del data[at : at + chance.randrange(1, 9)]
            case 3:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 4:
                data[at:at] = data[max(0, at - 8) : at]
            case 5:
                other = chance.choice(others)
                data[at:] = other[chance.randrange(len(other)) :]
            case _ if at + 1 < len(data):
                length = chance.choice((0, 1, len(data), 0x7FFF, 0xFFFF))
                data[at : at + 2] = (length & 0xFFFF).to_bytes(2, "big")
    if data and chance.random() < 0.7:
        # The body as it is now, in a frame that is whole.
        return framed(data[0], bytes(data[2:]))
    return bytes(data)


def carry_out(data: bytes, version: int, state: int) -> tuple[int, int]:
    """(packets taken, bytes left). Raises: RemoteProtocolError."""
    at = taken = 0
    while True:
        found = next_packet(data, at, LIMIT, version)
        if found is None:
            return taken, len(data) - at
        packet, at = found
        assert at <= len(data)
        act_for(state, packet)
        taken += 1
        if isinstance(packet, Connect):
            connect_refusal(packet)
            connect_refusal_5(packet)
        elif isinstance(packet, Subscribe):
            codes, _ = grant(packet, NAME)
            assert len(codes) == len(packet.filters)
        elif isinstance(packet, Publish):
            event = uplink_event(packet.topic, NAME)
            if event is not None:
                parse_uplink(event, packet.payload)


def test_mutated_packets_are_taken_or_refused_by_the_protocols_own_exception() -> None:
    chance = random.Random(SEED)
    outcomes = dict.fromkeys(("taken", "incomplete", "refused", "malformed"), 0)
    for number in range(PACKETS):
        version = 4 + number % 2
        corpus = CORPUS[version]
        data = mutate(chance, chance.choice(corpus), corpus)
        state = SessionState.HANDSHAKING if data[:1] == b"\x10" else SessionState.CONNECTED
        try:
            taken, left = carry_out(data, version, state)
            outcomes["taken" if taken and not left else "incomplete"] += 1
        except RemoteProtocolError:
            outcomes["refused"] += 1
        except MalformedUplink:
            outcomes["malformed"] += 1
        except Exception as error:
            raise AssertionError(f"FUZZ_SEED={SEED} packet {number}, version {version}: {data.hex()}") from error
    # The mutations go deep: none of the ways out is rare.
    assert min(outcomes.values()) > PACKETS / 100, outcomes


class Owner:
    """Knows one device, and where each row given to the link has ended."""

    def __init__(self) -> None:
        self.link: LongLink
        self.where = (-1, 0)
        self.ended: list[int] = []

    def connect(self, app_index: int, device_id: bytes, fd: int, generation: int, now: float) -> int:
        self.where = (fd, generation)
        return 1 if device_id == ID else 2

    def subscribed(self, *_: Any) -> None:
        pass

    disconnected = acknowledged_late = subscribed

    def acknowledged(self, tags: Any, sent_at: Any, now: float) -> None:
        self.ended += tags.tolist()

    def unacknowledged(self, tags: Any, why: Unacknowledged) -> None:
        self.ended += tags.tolist()

    def resumed(self, tags: Any, fds: Any, generations: Any, packet_ids: Any) -> Any:
        ids = self.link.table.device_id[fds]
        payload = TextColumn.from_rows([b"{}"] * len(tags))
        is_sent = self.link.redeliver(fds, ids, packet_ids, (payload,), 0.0)
        self.ended += tags[~is_sent].tolist()
        return is_sent

    def uplink(self, slot: int, device_id: bytes, event: str, payload: bytes, later: Any) -> UplinkAnswer:
        try:
            parse_uplink(event, payload)
        except MalformedUplink:
            return UplinkAnswer.MALFORMED
        return UplinkAnswer.TAKEN


class App:
    index = 0
    secrets = (SECRET,)


def test_long_link_bears_mutated_packets_and_every_row_ends_once() -> None:
    chance = random.Random(SEED + 1)
    owner = Owner()
    edge = EdgeSettings(listeners=(ListenerSettings(port=0),))
    now = 100.0
    link = LongLink(LongLinkSettings(edge=edge, keepalive_s_max=1_000), {"app": App()}, owner, clock=lambda: now)
    owner.link = link
    address = link.listen()[0]
    tags = 0
    left = PACKETS // 50
    try:
        while left > 0:
            version = chance.choice((4, 5))
            corpus = CORPUS[version]
            first = chance.choice(corpus[:2]) if chance.random() < 0.8 else mutate(chance, corpus[0], corpus)
            packets = [mutate(chance, chance.choice(corpus), corpus) for _ in range(chance.randrange(1, 6))]
            left -= len(packets)
            subscribe = framed(0x82, b"\0\1" + (b"\0" if version == 5 else b"") + DOWN + b"\1")
            with socket.create_connection(address, timeout=5) as phone:
                phone.sendall(first + subscribe)
                for _ in range(3):
                    select.select([link.edge.fileno()], [], [], 0.002)
                    link.step(now)
                fds, generations = np.array([owner.where[0]], np.int32), np.array([owner.where[1]], np.uint32)
                for _ in range(chance.randrange(3)):
                    ids = np.frombuffer(ID, np.uint8).reshape(1, 16)
                    if link.deliver(fds, generations, ids, np.array([tags]), (b"{}",), now)[0]:
                        tags += 1
                with contextlib.suppress(ConnectionError):  # the link may have closed it already
                    phone.sendall(b"".join(packets))
                for _ in range(2):
                    select.select([link.edge.fileno()], [], [], 0.002)
                    link.step(now)
            now += chance.choice((0.01, 0.1, 2.0))
            while link.tick(now):
                pass
        assert link.statistics().counts["redelivered"] > 0
        assert link.statistics().closed[CloseReason.PROTOCOL_ERROR.value] > 0
    except Exception as error:
        raise AssertionError(f"FUZZ_SEED={SEED}, {left} packets before the end") from error
    finally:
        link.dispose()
    assert sorted(owner.ended) == list(range(tags))
    assert link.statistics().in_flight == 0
