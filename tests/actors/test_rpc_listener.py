"""RpcListener: whatever a peer does, its connection ends with one reason, counted, and nobody else notices."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from gateway.actors.rpc_listener import RpcListener
from gateway.errors import CloseReason, Overloaded
from gateway.wire.rpc import codec, messages, proof
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.framing import frame
from gateway.wire.rpc.limits import RpcLimits

SECRET = b"secret"
LIMITS = RpcLimits(frame_bytes_max=64 << 10, credit_bytes=1 << 20, hello_timeout_s=5.0, frame_timeout_s=10.0)


class Counts:
    """What the listener counts."""

    def __init__(self) -> None:
        self.n_opened: Counter[str] = Counter()
        self.reasons: Counter[tuple[str, CloseReason]] = Counter()
        self.bytes = {"in": 0, "out": 0}

    def opened(self, listener: str) -> None:
        self.n_opened[listener] += 1

    def closed(self, listener: str, reason: CloseReason) -> None:
        self.reasons[listener, reason] += 1

    def received(self, size: int) -> None:
        self.bytes["in"] += size

    def sent(self, size: int) -> None:
        self.bytes["out"] += size


class ServiceTwin:
    """Answers each request with the given text, now or when told; counts who comes and goes."""

    def __init__(self) -> None:
        self.open_connections: list[Any] = []
        self.gone: list[Any] = []
        self.held: list[tuple[Any, int]] = []
        self.holds = False
        self.text = "x"

    def open(self, connection: Any, hello: Any) -> None:
        self.open_connections.append(connection)

    def request(self, connection: Any, requested: Any) -> None:
        if self.holds:
            self.held.append((connection, requested.message.id))
        else:
            self.answer(connection, requested.message.id)

    def answer(self, connection: Any, number: int) -> bool:
        return connection.answer(messages.DeviceFound(id=number, device_id=bytes(16), facts={"text": self.text}))

    def credited(self, connection: Any, stream: int) -> None:
        pass

    def cancelled(self, connection: Any, stream: int) -> None:
        pass

    def closed(self, connection: Any) -> None:
        self.gone.append(connection)


class House:
    """A listener on memory streams."""

    def __init__(self, nursery: trio.Nursery, new_peer: Any, **limits: Any) -> None:
        self.nursery = nursery
        self.new_peer = new_peer
        self.counts = Counts()
        self.service = ServiceTwin()
        values: dict[str, Any] = {
            "limits": LIMITS,
            "connections_max": 10,
            "hellos_max": 10,
            "unsent_bytes_max": 1 << 20,
            "frames_bytes_max": 1 << 20,
        }
        self.listener = RpcListener(
            service=self.service, observer=self.counts, look_up_secret=self.secrets, **(values | limits)
        )

    def secrets(self, app_key: str) -> Sequence[bytes]:
        return {"shop": [SECRET], "": [b"admin key"]}.get(app_key, [])

    def connect(self, name: str = "rpc", *, trusted: bool = False) -> trio.StapledStream:
        """One end of a connection whose other end is served."""
        ours, theirs = trio.testing.memory_stream_pair()

        async def converse() -> None:
            await self.listener.converse(theirs, name, has_trusted_peer=trusted)

        self.nursery.start_soon(converse)
        return ours

    async def admit(self, **hello: Any) -> Any:
        """A peer that has said hello."""
        peer = self.new_peer(self.connect(), **({"secret": SECRET} | hello))
        self.nursery.start_soon(peer.run)
        return await peer.ready()

    def ended(self) -> dict[str, int]:
        return {reason.value: n for (_, reason), n in self.counts.reasons.items()}


@pytest.fixture
def house(nursery: trio.Nursery, new_peer: Any) -> Callable[..., House]:
    return lambda **limits: House(nursery, new_peer, **limits)


STATUS = messages.Device(id=1, device_id=bytes(16))


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Everything until the other side closes."""
    data = b""
    with trio.fail_after(60):
        while chunk := await stream.receive_some(1 << 16):
            data += chunk
    await trio.testing.wait_all_tasks_blocked()
    return data


def payloads(data: bytes) -> list[dict[str, Any]]:
    out = []
    while data:
        (size,) = struct.unpack(">I", data[:4])
        out.append(msgspec.msgpack.decode(data[4 : 4 + size]))
        data = data[4 + size :]
    return out


async def challenge_of(stream: trio.abc.ReceiveStream) -> messages.Challenge:
    data = await stream.receive_some(1 << 16)
    message = codec.decode_from_server(bytes(data[4:]))
    assert isinstance(message, messages.Challenge)
    return message


def hello(challenge: messages.Challenge, secret: bytes = SECRET, app_key: str = "shop") -> bytes:
    nonce = bytes(32)
    mac = proof.client_mac(secret, challenge.nonce, nonce, app_key)
    return frame(codec.encode(messages.Hello(version=proof.VERSION, app_key=app_key, nonce=nonce, mac=mac)))


# -- a good peer


async def test_listener_answers_requests_in_the_order_of_its_service(house: Any, autojump_clock: Any) -> None:
    setting = house()
    peer = await setting.admit()
    setting.service.holds = True
    numbers = [await peer.send(STATUS) for _ in range(3)]
    await trio.testing.wait_all_tasks_blocked()
    for connection, number in reversed(setting.service.held):
        assert setting.service.answer(connection, number)
    await peer.until(lambda: len(peer.answers) == 3)
    assert [answer.id for answer in peer.answers] == numbers[::-1]
    assert setting.counts.bytes["in"] > 0
    assert setting.counts.bytes["out"] > setting.counts.bytes["in"]


async def test_listener_counts_one_reason_per_connection(house: Any, autojump_clock: Any) -> None:
    setting = house()
    peer = await setting.admit()
    await peer.stream.aclose()
    silent = setting.connect("operator")
    await silent.receive_some(100)
    await silent.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert dict(setting.counts.reasons) == {
        ("rpc", CloseReason.PEER_CLOSED): 1,
        ("operator", CloseReason.PEER_CLOSED): 1,
    }
    assert dict(setting.counts.n_opened) == {"rpc": 1, "operator": 1}
    assert len(setting.listener) == 0
    assert setting.service.gone == setting.service.open_connections, "who never said hello was never there"


async def test_listener_tells_refusals_as_error_answers(house: Any, autojump_clock: Any) -> None:
    setting = house()
    peer = await setting.admit()
    setting.service.holds = True
    first, second = await peer.send(STATUS), await peer.send(STATUS)
    await trio.testing.wait_all_tasks_blocked()
    connection = setting.service.held[0][0]
    connection.refuse(first, BadRequest("task_id", "no such task", code="not_found"))
    connection.refuse(second, Overloaded("open rows", 11, 10, retry_after_s=1.5))
    await peer.until(lambda: len(peer.answers) == 2)
    assert [(answer.code, answer.field, answer.retry_after_ms) for answer in peer.answers] == [
        ("not_found", "task_id", None),
        ("overloaded", "open rows", 1500),
    ]


async def test_listener_gives_credit_back_in_one_frame(house: Any, autojump_clock: Any) -> None:
    setting = house()
    peer = await setting.admit()
    before = (peer.session.credit_rows, peer.session.credit_bytes)
    connection = setting.service.open_connections[0]
    sent = setting.counts.bytes["out"]
    for _ in range(100):
        connection.grant(10, 20)
    await trio.testing.wait_all_tasks_blocked()
    assert (peer.session.credit_rows, peer.session.credit_bytes) == (before[0] + 1000, before[1] + 2000)
    assert setting.counts.bytes["out"] - sent < 100


# -- bad input


@pytest.mark.parametrize(
    ("bytes_sent", "reason", "code"),
    [
        (struct.pack(">I", 1 << 30), "frame_too_large", "frame_too_large"),
        (struct.pack(">I", 0xFFFFFFFF) + b"x" * 100, "frame_too_large", "frame_too_large"),
        (struct.pack(">I", 5) + b"\xc1\xc1\xc1\xc1\xc1", "protocol_error", "bad_frame"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "frame_too_large", "frame_too_large"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "frame_too_large", "frame_too_large"),
        (struct.pack(">I", 80) + b"half", "half_frame_timeout", "bad_frame"),
        (b"\x00", "half_frame_timeout", "bad_frame"),
    ],
    ids=["oversized", "largest", "garbage", "http", "tls hello", "half a frame", "one byte"],
)
@pytest.mark.parametrize("is_known", [False, True], ids=["before hello", "after hello"])
async def test_listener_ends_a_connection_that_breaks_the_protocol(
    bytes_sent: bytes, reason: str, code: str, is_known: bool, house: Any, autojump_clock: Any
) -> None:
    setting = house()
    witness = await setting.admit()
    stream = setting.connect()
    challenge = await challenge_of(stream)
    if is_known:
        await stream.send_all(hello(challenge))
        await stream.receive_some(1 << 16)
    await stream.send_all(bytes_sent)
    said = payloads(await read_all(stream))
    # half a frame before hello: the hello is what did not come in time
    if not is_known and reason == "half_frame_timeout":
        reason, code = "handshake_timeout", "not_authenticated"
    assert setting.ended() == {reason: 1}
    assert [message["code"] for message in said] == [code]
    assert (await witness.call(STATUS)).facts == {"text": "x"}


async def test_listener_answers_an_unknown_kind_and_goes_on(house: Any, autojump_clock: Any) -> None:
    setting = house()
    peer = await setting.admit()
    number = peer.session.next_id()
    await peer.stream.send_all(frame(msgspec.msgpack.encode({"kind": "conquer", "id": 4_000_000})))
    await trio.testing.wait_all_tasks_blocked()
    assert peer.lost is None or peer.lost.reason is CloseReason.PROTOCOL_ERROR
    assert setting.ended() == {}, "the connection goes on"
    assert number
    assert setting.service.held == []


async def test_listener_refuses_a_wrong_proof_and_a_hello_that_was_recorded(house: Any, autojump_clock: Any) -> None:
    setting = house()
    stream = setting.connect()
    recorded = hello(await challenge_of(stream))
    await stream.send_all(recorded)
    await trio.testing.wait_all_tasks_blocked()
    assert len(setting.service.open_connections) == 1
    for bad in ("wrong secret", "replayed", "unknown app"):
        stream = setting.connect()
        challenge = await challenge_of(stream)
        said = {
            "wrong secret": hello(challenge, b"guess"),
            "replayed": recorded,
            "unknown app": hello(challenge, SECRET, "nobody"),
        }[bad]
        await stream.send_all(said)
        assert [message["code"] for message in payloads(await read_all(stream))] == ["bad_credentials"], bad
    assert setting.ended() == {"bad_credentials": 3}
    assert len(setting.service.open_connections) == 1


async def test_listener_believes_an_operator_without_a_proof_only_on_its_own_socket(
    house: Any, autojump_clock: Any
) -> None:
    setting = house()
    for trusted, reason in ((True, {}), (False, {"bad_credentials": 1})):
        peer = setting.new_peer(setting.connect("operator", trusted=trusted), "", None, role="operator")
        setting.nursery.start_soon(peer.run)
        await trio.sleep(1)
        assert (peer.session.welcome is not None) is trusted
        assert setting.ended() == reason


async def test_listener_bounds_unfinished_frames_of_all_connections_together(house: Any, autojump_clock: Any) -> None:
    """Each is allowed by its own limit; together they are too many."""
    setting = house(frames_bytes_max=100_000)
    peers = [await setting.admit() for _ in range(3)]
    for peer in peers:
        with trio.move_on_after(1):
            await peer.stream.send_all(struct.pack(">I", 60_000) + b"x" * 50_000)
    await trio.sleep(3)
    assert sum(setting.ended().values()) >= 1
    survivors = [peer for peer in peers if peer.lost is None]
    assert survivors, setting.ended()
    # what the closed ones held is free again
    await trio.sleep(60)
    fresh = await setting.admit()
    assert (await fresh.call(STATUS)).facts == {"text": "x"}


# -- those that say nothing


async def test_listener_lets_silent_connections_go_in_time(house: Any, autojump_clock: Any) -> None:
    setting = house()
    begun = trio.current_time()
    await read_all(setting.connect())
    assert trio.current_time() - begun == pytest.approx(LIMITS.hello_timeout_s, abs=0.5)
    assert setting.ended() == {"handshake_timeout": 1}


async def test_listener_serves_a_real_client_among_many_that_say_nothing(house: Any, autojump_clock: Any) -> None:
    setting = house(connections_max=3, hellos_max=16)
    peer = await setting.admit()
    silent = []
    for number in range(300):
        silent.append(setting.connect())
        if number % 50 == 0:
            assert (await peer.call(STATUS)).facts == {"text": "x"}
    await trio.testing.wait_all_tasks_blocked()
    another = await setting.admit()
    assert (await another.call(STATUS)).facts == {"text": "x"}
    assert len(setting.listener) <= 16 + 2 + 1
    await trio.sleep(10)
    ended = setting.ended()
    assert set(ended) == {"too_many_connections", "handshake_timeout"}
    assert sum(ended.values()) == 300
    assert (await peer.call(STATUS)).facts == {"text": "x"}


@pytest.mark.parametrize("at_once", [False, True])
async def test_listener_keeps_no_more_known_connections_than_it_may(
    at_once: bool, house: Any, autojump_clock: Any
) -> None:
    """Also when they all connect before the first of them says hello."""
    setting = house(connections_max=2)
    peers = []
    for _ in range(5):
        peer = setting.new_peer(setting.connect(), secret=SECRET)
        if not at_once:
            setting.nursery.start_soon(peer.run)
            await trio.sleep(0.1)
        peers.append(peer)
    if at_once:
        await trio.testing.wait_all_tasks_blocked()
        for peer in peers:
            setting.nursery.start_soon(peer.run)
    await trio.sleep(3)
    assert sum(peer.session.welcome is not None and peer.lost is None for peer in peers) == 2
    assert setting.ended() == {"too_many_connections": 3}


# -- slow and gone


async def test_listener_closes_a_peer_that_does_not_read(house: Any, autojump_clock: Any) -> None:
    setting = house(unsent_bytes_max=10_000)
    setting.service.holds = True
    ours, theirs = trio.testing.lockstep_stream_pair()

    async def converse() -> None:
        await setting.listener.converse(theirs, "rpc")

    setting.nursery.start_soon(converse)
    peer = setting.new_peer(ours, secret=SECRET)
    reading = trio.CancelScope()

    async def read() -> None:
        with reading:
            await peer.run()

    setting.nursery.start_soon(read)
    await peer.ready()
    numbers = [await peer.send(STATUS) for _ in range(20)]
    await trio.testing.wait_all_tasks_blocked()
    reading.cancel()
    await trio.testing.wait_all_tasks_blocked()
    setting.service.text = "x" * 2000
    told = [setting.service.answer(connection, number) for connection, number in setting.service.held]
    assert len(told) == len(numbers)
    assert told[0]
    assert not told[-1]
    await trio.sleep(5)
    assert setting.ended() == {"slow_consumer": 1}
    assert setting.service.gone == setting.service.open_connections


async def test_listener_takes_an_answer_for_a_peer_that_is_gone(house: Any, autojump_clock: Any) -> None:
    setting = house()
    setting.service.holds = True
    peer = await setting.admit()
    await peer.send(STATUS)
    await trio.testing.wait_all_tasks_blocked()
    await peer.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    ((connection, number),) = setting.service.held
    assert not setting.service.answer(connection, number)


# -- shutdown


async def test_listener_answers_what_it_has_taken_before_it_closes(house: Any, autojump_clock: Any) -> None:
    setting = house()
    busy, idle = await setting.admit(), await setting.admit()
    silent = setting.connect()
    await challenge_of(silent)
    setting.service.holds = True
    number = await busy.send(STATUS)
    await trio.testing.wait_all_tasks_blocked()
    setting.listener.begin_shutdown()
    await trio.sleep(3)
    assert idle.lost is not None
    assert busy.lost is None
    assert setting.ended() == {"shutdown": 2}
    setting.service.answer(*setting.service.held[0])
    await trio.sleep(3)
    assert [answer.id for answer in busy.answers] == [number]
    assert busy.lost is not None
    assert setting.ended() == {"shutdown": 3}
    late = setting.connect()
    assert await read_all(late) == b""
    assert setting.ended() == {"shutdown": 4}


async def test_listener_that_leaves_tells_everybody_and_serves_on(house: Any, autojump_clock: Any) -> None:
    setting = house()
    early = await setting.admit()
    setting.listener.begin_leaving()
    late = await setting.admit()
    await trio.sleep(1)
    for peer in (early, late):
        assert peer.session.is_leaving
        number = await peer.send(STATUS)
        await trio.sleep(1)
        assert [answer.id for answer in peer.answers] == [number]
        assert peer.lost is None
    setting.listener.begin_shutdown()
    await trio.sleep(3)
    assert setting.ended() == {"shutdown": 2}
    setting.listener.end_shutdown()
    again = await setting.admit()
    await trio.sleep(1)
    assert not again.session.is_leaving


async def test_listener_turns_requests_away_that_come_during_the_shutdown(house: Any, autojump_clock: Any) -> None:
    setting = house()
    peer = await setting.admit()
    setting.service.holds = True
    await peer.send(STATUS)
    await trio.testing.wait_all_tasks_blocked()
    setting.listener.begin_shutdown()
    late = await peer.send(STATUS)
    await trio.sleep(1)
    assert [(answer.id, answer.code) for answer in peer.answers] == [(late, "shutting_down")]


async def test_listener_that_is_cancelled_closes_everybody_for_shutdown(new_peer: Any, autojump_clock: Any) -> None:
    async with trio.open_nursery() as nursery:
        setting = House(nursery, new_peer)
        await setting.admit()
        setting.connect()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert setting.ended() == {"shutdown": 2}
    assert len(setting.service.gone) == 1
    assert len(setting.listener) == 0
