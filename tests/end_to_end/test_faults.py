"""Bad input and faults on real sockets: named and counted, nobody else notices, and every row ends once.

Issue: "Bad input and faults at this stage". The simulators are a process; the worker runs in this one, except where its
own end is the matter.
"""

from __future__ import annotations

import os
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio

from bench.devices import mqtt
from gateway.client.errors import CallFailed
from gateway.content import Variant
from gateway.core.identity import device_password
from gateway.wire.rpc import codec, messages, proof
from gateway.wire.rpc.framing import frame

pytestmark = pytest.mark.timed(short=True)

SECRET = b"the secret of the shop"
HELLO = Variant("title", "body")
CLOSES = "pushgw_closes_total"


def vendor_only(**fields: Any) -> Variant:
    return Variant("title", "body", **({"strategy": 2} | fields))


async def read_all(stream: trio.abc.ReceiveStream, timeout_s: float = 60.0) -> bytes:
    """Everything until the gateway closes the connection; fails when it does not."""
    data = b""
    with trio.fail_after(timeout_s):
        try:
            while chunk := await stream.receive_some(65536):
                data += chunk
        except trio.BrokenResourceError:
            pass
    return data


def codes(data: bytes) -> list[str]:
    """Error codes among the frames."""
    out = []
    while data:
        (size,) = struct.unpack(">I", data[:4])
        out.append(msgspec.msgpack.decode(data[4 : 4 + size]).get("code"))
        data = data[4 + size :]
    return [code for code in out if code]


async def rpc(gateway: Any) -> tuple[trio.SocketStream, messages.Challenge]:
    """A connection to the RPC that has read its challenge."""
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.rpc_port)
    data = await stream.receive_some(65536)
    message = codec.decode_from_server(bytes(data[4:]))
    assert isinstance(message, messages.Challenge)
    return stream, message


def hello(challenge: messages.Challenge, secret: bytes) -> bytes:
    mac = proof.client_mac(secret, challenge.nonce, bytes(32), "shop")
    return frame(codec.encode(messages.Hello(version=1, app_key="shop", nonce=bytes(32), mac=mac)))


async def works(gateway: Any) -> None:
    """A real client is served at once."""
    with trio.fail_after(5):
        answer = await gateway.client.submit(HELLO, [os.urandom(16)])
        assert (await gateway.until_final(answer.task_id)).states == {"dropped": 1}


async def until_open(gateway: Any, listener: str, n: int) -> dict[tuple[str, str], float]:
    """The metrics once that many connections are open: a close is counted when both ends have said goodbye."""
    with trio.fail_after(60):
        while (metrics := await gateway.metrics())["pushgw_connections_open", listener] != n:
            await trio.sleep(0.02)
    return metrics


# -- RPC


async def test_rpc_names_and_counts_what_is_wrong_and_serves_the_others(open_gateway: Callable[..., Any]) -> None:
    async with open_gateway() as gateway:
        # the gateway's own words per kind of bad input: bytes before a hello, bytes after one, error code
        cases = {
            "oversized": (struct.pack(">I", 1 << 31), "frame_too_large"),
            "garbage": (struct.pack(">I", 64) + b"\xc1" * 64, "bad_frame"),
            "http": (b"GET / HTTP/1.1\r\n\r\n", "frame_too_large"),
            "half a frame": (struct.pack(">I", 64) + b"half", "bad_frame"),
        }
        for is_known in (False, True):
            for name, (data, code) in cases.items():
                stream, challenge = await rpc(gateway)
                async with stream:
                    if is_known:
                        await stream.send_all(hello(challenge, SECRET))
                        await stream.receive_some(65536)
                    await stream.send_all(data)
                    wanted = "not_authenticated" if name == "half a frame" and not is_known else code
                    assert codes(await read_all(stream)) == [wanted], (name, is_known)
                await works(gateway)
        stream, _ = await rpc(gateway)
        async with stream:
            await stream.send_all(hello(_, b"wrong secret"))
            assert codes(await read_all(stream)) == ["bad_credentials"]
        stream, challenge = await rpc(gateway)
        recorded = hello(challenge, SECRET)
        async with stream:
            await stream.send_all(recorded)
            await stream.receive_some(65536)
        stream, _ = await rpc(gateway)
        async with stream:
            await stream.send_all(recorded)
            assert codes(await read_all(stream)) == ["bad_credentials"]
        await works(gateway)
        metrics = await until_open(gateway, "rpc", 1)
        closes = {labels: n for (name, labels), n in metrics.items() if name == CLOSES and n}
        assert closes["rpc,frame_too_large"] == 4
        assert closes["rpc,protocol_error"] == 2
        assert closes["rpc,bad_credentials"] == 2
        assert closes["rpc,half_frame_timeout"] == 1
        assert closes["rpc,handshake_timeout"] == 1


async def test_rpc_answers_an_unknown_kind_as_a_fault_of_that_request(open_gateway: Callable[..., Any]) -> None:
    async with open_gateway() as gateway:
        stream, challenge = await rpc(gateway)
        async with stream:
            await stream.send_all(hello(challenge, SECRET))
            await stream.receive_some(65536)
            await stream.send_all(frame(msgspec.msgpack.encode({"kind": "conquer", "id": 7})))
            answer = await stream.receive_some(65536)
            assert len(codes(bytes(answer))) == 1
            await stream.send_all(frame(codec.encode(messages.Ping(id=8))))
            told = await stream.receive_some(65536)
            assert isinstance(codec.decode_from_server(bytes(told[4:])), messages.Pong)


async def test_rpc_serves_a_real_client_among_many_that_say_nothing(open_gateway: Callable[..., Any]) -> None:
    limits = {"hellos_max": 64, "connections_max": 8, "hello_timeout_s": 60.0}
    async with open_gateway(rpc={"listeners": [{"address": "tcp://127.0.0.1:0"}]} | limits) as gateway:
        silent = []
        slowest = 0.0
        for number in range(300):
            silent.append(await trio.open_tcp_stream("127.0.0.1", gateway.rpc_port))
            if number % 60 == 59:
                begun = trio.current_time()
                await works(gateway)
                slowest = max(slowest, trio.current_time() - begun)
        # None waited for the silent ones to be sent away.
        assert slowest < 20.0
        # also somebody who comes now is served
        stream, challenge = await rpc(gateway)
        await stream.send_all(hello(challenge, SECRET))
        assert codes(bytes(await stream.receive_some(65536))) == []
        for each in (*silent, stream):
            await each.aclose()
        metrics = await until_open(gateway, "rpc", 1)
        # The oldest had to go; those that nobody needed the room of were there until we left.
        assert 300 - 64 - 1 <= metrics[CLOSES, "rpc,too_many_connections"] < 300


async def test_rpc_request_id_makes_a_submit_idempotent(open_gateway: Callable[..., Any]) -> None:
    async with open_gateway() as gateway:
        devices = await gateway.register(3, "")
        first = await gateway.client.submit(HELLO, devices, request_id="order-17")
        again = await gateway.client.submit(HELLO, devices, request_id="order-17")
        assert (again.task_id, again.accepted) == (first.task_id, 3)
        with pytest.raises(CallFailed) as refused:
            await gateway.client.submit(Variant("other", "body"), devices, request_id="order-17")
        assert refused.value.error.code == "request_id_reused"
        metrics = await gateway.metrics()
        assert metrics["pushgw_rows_accepted_total", "shop"] == 3
        assert metrics["pushgw_rpc_errors_total", "request_id_reused"] == 1


async def test_rpc_refuses_malformed_rows_and_sends_the_others(
    open_gateway: Callable[..., Any], simulators: Any
) -> None:
    async with open_gateway(simulators.ready) as gateway:
        good = await gateway.register(2)
        to: list[Any] = [good[0], ("apns", "not hexadecimal"), good[1], ("fcm", ""), ("apns", "ab" * 32), good[0]]
        answer = await gateway.client.submit(vendor_only(), to)
        assert (answer.accepted, answer.refused_count, answer.duplicates) == (4, 2, 1)
        assert [one.row for one in answer.refused] == [1, 3]
        counts = await gateway.until_final(answer.task_id)
        assert counts.states == {"vendor_accepted": 3, "dropped": 1}
        assert counts.reasons == {"duplicate_target": 1}
        # a fault of the whole content refuses all of its rows, and only those
        variants = [Variant("fine", "b", strategy=2), Variant("t", "b", ttl_s=-1)]
        mixed = await gateway.client.submit(variants, [*good, *good], index=[0, 1, 0, 1], allow_duplicates=True)
        assert (mixed.accepted, [one.row for one in mixed.refused]) == (2, [1, 3])
        assert {one.field for one in mixed.refused} == {"ttl_s"}
        metrics = await gateway.metrics()
        assert sum(n for (name, _), n in metrics.items() if name == "pushgw_rows_refused_total") == 4


# -- MQTT


async def mqtt_stream(gateway: Any) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", gateway.link_port)


async def test_long_link_names_and_counts_what_is_wrong_and_serves_the_others(
    open_gateway: Callable[..., Any], new_phone: Callable[..., Any]
) -> None:
    async with open_gateway() as gateway, trio.open_nursery() as nursery:
        (device,) = await gateway.register(1, "")
        phone = await new_phone(device).connect(gateway.link_port, nursery)
        name = os.urandom(16).hex()
        good = mqtt.connect(name, "shop", device_password(SECRET, name), 60)
        cases = {
            "oversized": b"\x10\xff\xff\xff\x7f",
            "garbage": b"\x00\x01\x02\x03\x04",
            "http": b"GET / HTTP/1.1\r\n\r\n",
            "not CONNECT first": mqtt.PINGREQ,
            "half a packet": good[:9],
            "silence": b"",
            "wrong password": mqtt.connect(name, "shop", "wrong", 60),
            "unknown app": mqtt.connect(name, "nobody", device_password(SECRET, name), 60),
            "foreign client id": mqtt.connect("anybody", "shop", device_password(SECRET, name), 60),
            "second CONNECT": good + good,
            "garbage later": good + b"\xf7\x00",
            "half a packet later": good + b"\x30\x10half",
        }
        for data in cases.values():
            stream = await mqtt_stream(gateway)
            async with stream:
                if data:
                    await stream.send_all(data)
                await read_all(stream, 8.0)
            answer = await gateway.client.submit(HELLO, [device])
            assert (await gateway.until_final(answer.task_id)).states == {"device_acked": 1}
        assert sum(phone.received.values()) == len(phone.received) == len(cases)
        metrics = await gateway.metrics()
        closes = {
            labels.removeprefix("long_link,"): int(n)
            for (metric, labels), n in metrics.items()
            if metric == CLOSES and labels.startswith("long_link") and n
        }
        assert sum(closes.values()) == len(cases)
        assert closes["bad_credentials"] >= 1
        assert closes["handshake_timeout"] >= 2
        assert closes["half_frame_timeout"] >= 1
        assert closes["protocol_error"] >= 3
        assert set(closes) <= {
            "bad_credentials",
            "bad_identity",
            "frame_too_large",
            "half_frame_timeout",
            "handshake_timeout",
            "protocol_error",
        }
        assert metrics["pushgw_connections_open", "long_link"] == 1
        nursery.cancel_scope.cancel()


async def test_long_link_serves_a_phone_among_many_connections_that_say_nothing(
    open_gateway: Callable[..., Any], new_phone: Callable[..., Any]
) -> None:
    limits = {"handshakes_max": 64, "handshakes_per_address_max": 64, "handshake_timeout_s": 2.0}
    link = {"listeners": [{"address": "tcp://127.0.0.1:0"}]} | limits
    async with open_gateway(long_link=link) as gateway, trio.open_nursery() as nursery:
        early, late = await gateway.register(2, "")
        phone = await new_phone(early).connect(gateway.link_port, nursery)
        silent = []
        for number in range(300):
            silent.append(await mqtt_stream(gateway))
            if number % 60 == 59:
                answer = await gateway.client.submit(HELLO, [early])
                assert (await gateway.until_final(answer.task_id)).states == {"device_acked": 1}
        await trio.sleep(0.1)
        other = await new_phone(late).connect(gateway.link_port, nursery)
        answer = await gateway.client.submit(HELLO, [early, late])
        assert (await gateway.until_final(answer.task_id)).states == {"device_acked": 2}
        async with trio.open_nursery() as reading:
            for each in silent:
                reading.start_soon(read_all, each)
        for each in silent:
            await each.aclose()
        assert (sum(phone.received.values()), sum(other.received.values())) == (6, 1)
        metrics = await gateway.metrics()
        ended = {
            labels: n
            for (name, labels), n in metrics.items()
            if name == CLOSES and labels.startswith("long_link") and n
        }
        assert sum(ended.values()) == 300
        assert set(ended) <= {"long_link,handshake_timeout", "long_link,too_many_connections"}
        nursery.cancel_scope.cancel()


async def test_a_phone_that_does_not_acknowledge_passes_its_rows_to_the_vendor(
    open_gateway: Callable[..., Any], simulators: Any, new_phone: Callable[..., Any], resent: Callable[..., Any]
) -> None:
    async with open_gateway(simulators.ready) as gateway, trio.open_nursery() as nursery:
        (device,) = await gateway.register(1)
        phone = await new_phone(device).connect(gateway.link_port, nursery)
        phone.acknowledges = False
        answer = await gateway.client.submit(HELLO, [device])
        counts = await gateway.until_final(answer.task_id)
        assert counts.states == {"vendor_accepted": 1}
        assert counts.handed_over_unacked == 1
        rows = await gateway.rows(answer.task_id)
        assert resent(rows) == {rows[0][0]}
        assert simulators.copies("apns") == {rows[0][0]: 1}
        assert (await gateway.metrics())["pushgw_rows_handed_over_unacked_total", ""] == 1
        nursery.cancel_scope.cancel()


async def test_a_phone_that_vanishes_gets_its_rows_when_it_returns(
    open_gateway: Callable[..., Any], new_phone: Callable[..., Any]
) -> None:
    async with open_gateway() as gateway, trio.open_nursery() as nursery:
        (device,) = await gateway.register(1, "")
        phone = await new_phone(device).connect(gateway.link_port, nursery)
        await phone.close()
        await until_open(gateway, "long_link", 0)
        tasks = [(await gateway.client.submit(Variant(str(n), "b"), [device])).task_id for n in range(60)]
        again = await new_phone(device).connect(gateway.link_port, nursery)
        for task in tasks:
            await gateway.until_final(task)
        assert [payload["title"] for payload in again.payloads] == [str(n) for n in range(60)]
        assert set(again.received.values()) == {1}
        nursery.cancel_scope.cancel()


# -- vendors


async def test_rows_wait_for_a_vendor_that_is_down_until_their_ttl_and_go_when_it_is_back(
    open_gateway: Callable[..., Any], own_simulators: Any
) -> None:
    simulators = own_simulators
    async with open_gateway(simulators.ready) as gateway:
        apns, fcm = await gateway.register(20), await gateway.register(20, "fcm")
        await trio.to_thread.run_sync(simulators.stop)
        short = await gateway.client.submit(vendor_only(ttl_s=600), [*apns[:10], *fcm[:10]])
        long = await gateway.client.submit(vendor_only(ttl_s=100_000), [*apns[10:], *fcm[10:]])
        await trio.sleep(1.0)
        for task in (short, long):
            assert set(await gateway.states(task.task_id)) <= {"queued", "waiting", "in_flight"}
        await gateway.operator.clock_advance(601)
        counts = await gateway.until_final(short.task_id)
        assert counts.states == {"expired": 20}
        assert counts.reasons == {"vendor_unavailable": 20}
        assert not (await gateway.client.task_state(long.task_id)).is_final
        metrics = await gateway.metrics()
        assert metrics[CLOSES, "vendor,connect_failed"] > 0
        await trio.to_thread.run_sync(simulators.start)
        await trio.to_thread.run_sync(simulators.call, "PUT", "/clock", {"advance_s": 601})
        counts = await gateway.until_final(long.task_id, 40.0)
        assert counts.states == {"vendor_accepted": 20}
        rows = await gateway.rows(long.task_id)
        found = simulators.copies("apns") + simulators.copies("fcm")
        assert found == Counter(message for message, _, _ in rows)


# -- the end


async def greets(gateway: Any) -> bool:
    """The RPC listener takes a connection and says its first word."""
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", gateway.rpc_port)
    except OSError:
        return False
    async with stream:
        return bool(await stream.receive_some(100))


async def test_sigterm_drains_what_is_in_flight_and_reports_the_rest(
    serve: Callable[..., Any], open_clients: Callable[..., Any], simulators: Any
) -> None:
    process = await trio.to_thread.run_sync(
        lambda: serve(simulators.ready, gateway={"drain_s": 20.0}, http2={"request_timeout_s": 30.0})
    )
    async with open_clients(process.ready) as gateway:
        devices = await gateway.register(30)
        away = await gateway.register(5, "", first=100)
        # afterwards the connection is known to its peer, and the tokens to us
        first = await gateway.client.submit(vendor_only(), devices)
        await gateway.until_final(first.task_id)
        simulators.fault("apns", "latency", distribution="fixed", ms=4000, for_s=60)
        answer = await gateway.client.submit(vendor_only(), devices)
        held = await gateway.client.submit(HELLO, away)
        with trio.fail_after(60):
            while (await gateway.states(answer.task_id)).get("in_flight", 0) < 30:
                await trio.sleep(0.02)
        assert await gateway.states(held.task_id) == {"held": 5}
        begun = time.monotonic()
        process.signal(signal.SIGTERM)
        # from now on nobody new is served, while the answers are awaited
        with trio.fail_after(3.5):
            while await greets(gateway):
                await trio.sleep(0.02)
    code = await trio.to_thread.run_sync(process.wait)
    took_s = time.monotonic() - begun
    assert code == 0
    assert 0.5 < took_s < 18
    # what was in flight got its answers
    assert len(simulators.copies("apns")) == 60
    (stopped,) = process.logged("stopped")
    assert stopped["rows_open"] == {"queued": 0, "held": 5, "in_flight": 0, "waiting": 0}


async def test_sigterm_ends_within_its_budget_whatever_the_vendor_does(
    serve: Callable[..., Any], open_clients: Callable[..., Any], simulators: Any
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(simulators.ready, gateway={"drain_s": 1.0}))
    async with open_clients(process.ready) as gateway:
        devices = await gateway.register(20)
        # afterwards the connection is known to its peer, and the tokens to us
        first = await gateway.client.submit(vendor_only(), devices)
        await gateway.until_final(first.task_id)
        simulators.fault("apns", "no_answer", for_s=30)
        answer = await gateway.client.submit(vendor_only(), devices)
        with trio.fail_after(60):
            while (await gateway.states(answer.task_id)).get("in_flight", 0) < 20:
                await trio.sleep(0.02)
        begun = time.monotonic()
        process.signal(signal.SIGTERM)
    code = await trio.to_thread.run_sync(process.wait)
    assert code == 0
    # A second, and what a busy machine takes; the vendor would take half a minute.
    assert time.monotonic() - begun < 15
    (stopped,) = process.logged("stopped")
    assert sum(stopped["rows_open"].values()) == 20
