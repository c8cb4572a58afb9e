"""The device fleet as a process, against a small broker written here, and against mosquitto."""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.devices import mqtt

WAIT_S = 20.0
CONNECT, PUBLISH, PUBACK, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 4, 8, 12, 14


class Phone:
    """The broker's side of one device connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(WAIT_S)
        self.sock = sock
        self._buffer = b""

    def read(self) -> tuple[int, int, bytes]:
        """(packet type, flags, body)."""
        first = self._exactly(1)[0]
        length = shift = 0
        while True:
            byte = self._exactly(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                break
        return first >> 4, first & 15, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            piece = self.sock.recv(65_536)
            if not piece:
                raise EOFError
            self._buffer += piece
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def let_in(self, code: int = 0) -> bytes:
        """Answers CONNECT and SUBSCRIBE; returns the body of CONNECT."""
        kind, _, body = self.read()
        assert kind == CONNECT
        self.sock.sendall(bytes([0x20, 2, 0, code]))
        if code == 0:
            kind, flags, subscription = self.read()
            assert (kind, flags) == (SUBSCRIBE, 2)
            self.topic = subscription[4:-1].decode()
            assert subscription[-1] == 1
            self.sock.sendall(b"\x90\x03" + subscription[:2] + b"\x01")
        return body

    def push(self, payload: bytes, packet_id: int = 1, *, is_dup: bool = False, topic: str | None = None) -> None:
        name = (self.topic if topic is None else topic).encode()
        body = struct.pack(">H", len(name)) + name + struct.pack(">H", packet_id) + payload
        self.sock.sendall(bytes([0x32 | 8 * is_dup]) + _length(len(body)) + body)

    def assert_acknowledged(self, packet_id: int = 1) -> None:
        assert self.read() == (PUBACK, 0, struct.pack(">H", packet_id))


def _length(value: int) -> bytes:
    digits = []
    while True:
        value, digit = divmod(value, 128)
        digits.append(digit | (128 if value else 0))
        if not value:
            return bytes(digits)


class FleetProcess:
    """`python -m bench.devices` with a queue of its answers."""

    def __init__(self, port: int, *arguments: str) -> None:
        command = [sys.executable, "-m", "bench.devices", "--port", str(port), "--json", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self.answer()["ready"]

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)

    def tell(self, **command) -> None:
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        return json.loads(self._lines.get(timeout=WAIT_S))

    def ask(self, **command) -> dict:
        self.tell(**command)
        return self.answer()

    def rows(self) -> list[dict]:
        self.tell(cmd="received")
        rows = []
        while (line := self.answer()).get("cmd") != "received":
            rows.append(line)
        assert line["rows"] == len(rows)
        return rows

    def wait_until(self, is_true) -> dict:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            statistics = self.ask(cmd="statistics")
            if is_true(statistics):
                return statistics
        raise AssertionError(statistics)

    def end(self) -> None:
        self.process.stdin.close()
        try:
            assert self.process.wait(WAIT_S) == 0
        finally:
            self.process.kill()
            self._thread.join(WAIT_S)
            self.process.stdout.close()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(WAIT_S)
        yield sock


@pytest.fixture
def fleet(listener):
    process = FleetProcess(listener.getsockname()[1], "--keep-texts", "--keepalive-s", "1")
    yield process
    process.end()


def _login(device_id: str) -> dict:
    return {"id": device_id, "user": "app-key", "password": "secret"}


def _payload(message_id: uuid.UUID, title: str = "t", body: str = "b") -> bytes:
    return json.dumps({"message_id": str(message_id), "title": title, "body": body, "data": {"x": 1}}).encode()


@pytest.fixture
def phone(listener, fleet):
    """One device, connected to this broker."""
    fleet.tell(cmd="connect", devices=[_login("ab" * 16)])
    sock, _ = listener.accept()
    with sock:
        phone = Phone(sock)
        phone.connect_body = phone.let_in()
        assert fleet.answer()["connected"] == 1
        yield phone
        fleet.tell(cmd="disconnect")
        try:
            while phone.read()[0] != DISCONNECT:
                pass
        except (EOFError, OSError):
            pass  # the test has ended the connection itself
        fleet.answer()


def test_a_device_says_who_it_is_and_where_it_listens(phone):
    name = b"\x00\x04MQTT\x04\xc2\x00\x01"  # protocol level 4, clean session with user and password, keepalive 1
    parts = ("ab" * 16, "app-key", "secret")
    assert phone.connect_body == name + b"".join(struct.pack(">H", len(one)) + one.encode() for one in parts)
    assert phone.topic == "d/" + "ab" * 16 + "/down"


def test_a_push_is_acknowledged_and_recorded_with_its_texts(fleet, phone):
    message_id = uuid.uuid4()
    phone.push(_payload(message_id, "标题", "Text 😀"), 7)
    phone.assert_acknowledged(7)
    [row] = fleet.rows()
    assert row.pop("arrived_unix_ms") == pytest.approx(time.time() * 1000, abs=60_000)
    assert row == {
        "message_id": message_id.hex,
        "device_id": "ab" * 16,
        "sha256": hashlib.sha256("标题".encode() + b"\x00" + "Text 😀".encode()).hexdigest(),
        "copies": 1,
        "copies_dup": 0,
        "title": "标题",
        "body": "Text 😀",
    }


def test_copies_with_and_without_dup_are_told_apart(fleet, phone):
    message_id = uuid.uuid4()
    for packet_id, is_dup in ((1, False), (1, True), (2, False), (3, True)):
        phone.push(_payload(message_id), packet_id, is_dup=is_dup)
        phone.assert_acknowledged(packet_id)
    [row] = fleet.rows()
    assert (row["copies"], row["copies_dup"]) == (2, 2)
    phone.push(_payload(message_id, body="other"), 4)
    phone.assert_acknowledged(4)
    assert fleet.ask(cmd="statistics")["received"]["changed_texts"] == 1


def test_fault_drop_acknowledges_and_loses(fleet, phone):
    assert fleet.ask(cmd="fault", kind="drop", count=1)["ok"]
    for packet_id in (1, 2):
        phone.push(_payload(uuid.uuid4()), packet_id)
        phone.assert_acknowledged(packet_id)
    assert len(fleet.rows()) == 1


def test_fault_double_records_twice(fleet, phone):
    fleet.ask(cmd="fault", kind="double", count=1)
    phone.push(_payload(uuid.uuid4()))
    phone.assert_acknowledged()
    assert [row["copies"] for row in fleet.rows()] == [2]


def test_fault_no_ack_records_and_stays_silent(fleet, phone):
    fleet.ask(cmd="fault", kind="no_ack", count=1)
    phone.push(_payload(uuid.uuid4()), 1)
    phone.push(_payload(uuid.uuid4()), 2)
    phone.assert_acknowledged(2)
    assert len(fleet.rows()) == 2


def test_a_payload_that_is_no_push_is_counted(fleet, phone):
    for packet_id, payload in enumerate((b"{", b"{}", b'{"message_id":"x"}', b"\xff"), 1):
        phone.push(payload, packet_id)
        phone.assert_acknowledged(packet_id)
    assert fleet.ask(cmd="statistics")["counts"]["bad_payloads"] == 4
    assert fleet.rows() == []


def test_a_push_for_another_topic_ends_the_connection(fleet, phone):
    phone.push(_payload(uuid.uuid4()), topic="d/x/down")
    assert fleet.wait_until(lambda now: now["closed"])["closed"] == {"publish_on_another_topic": 1}


@pytest.mark.parametrize(
    "garbage", [b"\x00\x00", b"\x32\xff\xff\xff\xff\x01", b"\x34\x02\x00\x00", b"\x32\xff\xff\xff\x7f"]
)
def test_a_broken_packet_ends_the_connection_by_name(fleet, phone, garbage):
    phone.sock.sendall(garbage)
    [reason] = fleet.wait_until(lambda now: now["closed"])["closed"]
    assert reason.startswith("protocol_error")


def test_a_silent_device_pings_and_gives_up_without_a_pong(fleet, phone):
    kind, _, body = phone.read()
    assert (kind, body) == (PINGREQ, b"")
    phone.sock.sendall(b"\xd0\x00")
    assert phone.read()[0] == PINGREQ  # the keepalive goes on
    assert fleet.wait_until(lambda now: now["closed"])["closed"] == {"no_pingresp": 1}


def test_a_lost_connection_is_a_named_end(fleet, phone):
    phone.sock.close()
    assert fleet.wait_until(lambda now: now["closed"])["connected"] == 0


def test_refused_logins_are_reported_with_their_reason(listener, fleet):
    fleet.tell(cmd="connect", devices=[_login("01" * 16)])
    sock, _ = listener.accept()
    with sock:
        Phone(sock).let_in(code=4)
        answer = fleet.answer()
    assert not answer["ok"]
    assert answer["failed"] == [{"id": "01" * 16, "reason": "connack_credentials"}]


def test_a_port_where_nobody_listens_is_reported(listener):
    port = listener.getsockname()[1]
    listener.close()
    fleet = FleetProcess(port)
    answer = fleet.ask(cmd="connect", devices=[_login("01" * 16), _login("02" * 16)])
    assert answer["reasons"] == {"os_error 111": 2}
    assert fleet.ask(cmd="statistics")["connected"] == 0
    fleet.end()


@pytest.mark.parametrize(
    "line",
    [
        b"{\n",
        b"[]\n",
        b'{"cmd":"fly"}\n',
        b'{"cmd":"connect"}\n',
        b'{"cmd":"connect","devices":[{"id":"xy","user":"","password":""}]}\n',
        b'{"cmd":"fault","kind":"burn","count":1}\n',
        b'{"cmd":"statistics","x":1}\n',
        b"\xff\n",
    ],
)
def test_a_wrong_command_is_answered_and_changes_nothing(fleet, line):
    fleet.process.stdin.write(line)
    fleet.process.stdin.flush()
    answer = fleet.answer()
    assert answer["ok"] is False
    assert answer["error"]
    assert fleet.ask(cmd="statistics")["ok"]


def test_wait_idle_waits_for_quiet(fleet, phone):
    fleet.tell(cmd="wait_idle", quiet_s=0.3)
    begun = time.monotonic()
    for packet_id in range(1, 6):
        phone.push(_payload(uuid.uuid4()), packet_id)
        phone.assert_acknowledged(packet_id)
    answer = fleet.answer()
    assert answer["ok"]
    assert time.monotonic() - begun >= 0.29
    assert fleet.ask(cmd="wait_idle", quiet_s=30, timeout_s=0.05)["ok"] is False


def test_quit_disconnects_and_ends_the_process(listener):
    fleet = FleetProcess(listener.getsockname()[1])
    fleet.tell(cmd="connect", devices=[_login("01" * 16)])
    sock, _ = listener.accept()
    with sock:
        phone = Phone(sock)
        phone.let_in()
        assert fleet.answer()["ok"]
        assert fleet.ask(cmd="connect", devices=[_login("01" * 16)])["reasons"] == {"connected": 1}
        fleet.tell(cmd="quit")
        assert phone.read()[0] == DISCONNECT
        sock.close()
    assert fleet.answer() == {"cmd": "quit", "ok": True}
    assert fleet.process.wait(WAIT_S) == 0
    fleet.end()


@pytest.mark.needs_tools
def test_five_hundred_devices_receive_through_mosquitto(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    broker = subprocess.Popen(["mosquitto", "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_port(port)
        fleet = FleetProcess(port, "--sources", "3")
        ids = [uuid.uuid4().hex for _ in range(500)]
        answer = fleet.ask(cmd="connect", devices=[_login(one) for one in ids], rate_per_s=2_000)
        assert (answer["ok"], answer["connected"]) == (True, 500)
        assert answer["duration_s"] >= 0.24
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", port)
        client.loop_start()
        sent = [client.publish(f"d/{one}/down", _payload(uuid.UUID(one)), qos=1) for one in ids]
        for information in sent:
            information.wait_for_publish(WAIT_S)
        fleet.wait_until(lambda now: now["received"]["rows"] == 500)
        client.disconnect()
        client.loop_stop()
        rows = fleet.rows()
        assert {(row["message_id"], row["device_id"], row["copies"]) for row in rows} == {(one, one, 1) for one in ids}
        half = fleet.ask(cmd="disconnect", ids=ids[:250])
        assert (half["disconnected"], half["unknown"]) == (250, 0)
        assert fleet.ask(cmd="statistics")["connected"] == 250
        fleet.end()
    finally:
        broker.terminate()
        broker.wait(WAIT_S)


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except ConnectionRefusedError:
            continue
    raise AssertionError("mosquitto does not listen")


# ---- the codec alone

_publishes = st.builds(
    lambda topic, payload, packet_id, is_dup: (topic, payload, packet_id, is_dup),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.binary(max_size=300),
    st.integers(1, 65_535),
    st.booleans(),
)


@given(st.lists(_publishes, max_size=5), st.integers(1, 400))
def test_the_reader_gives_the_same_packets_however_the_bytes_are_cut(publishes, size):
    stream = b"\x20\x02\x00\x00\xd0\x00"
    expected = [mqtt.Connack(False, 0), mqtt.Pingresp()]
    for topic, payload, packet_id, is_dup in publishes:
        name = topic.encode()
        body = struct.pack(">H", len(name)) + name + struct.pack(">H", packet_id) + payload
        stream += bytes([0x32 | 8 * is_dup]) + _length(len(body)) + body
        expected.append(mqtt.Publish(topic, payload, 1, packet_id, is_dup, False))
    reader = mqtt.Reader()
    packets = [packet for at in range(0, len(stream), size) for packet in reader.receive_data(stream[at : at + size])]
    assert packets == expected


@given(st.binary(max_size=200))
def test_the_reader_takes_any_bytes_or_raises_its_own_error(data):
    with contextlib.suppress(mqtt.MqttError):
        assert isinstance(mqtt.Reader().receive_data(data), list)
