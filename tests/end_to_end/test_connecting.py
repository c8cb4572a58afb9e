"""How connections to vendors come about: through a proxy, with a certificate, with an earlier session, PINGed."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.client.trio_client import open_trio_client
from gateway.content import Variant

pytestmark = pytest.mark.timed

CONTENT = Variant("title", "body", strategy=2)
SECRET = b"the secret of the shop"
PASSWORD = "a pass:word"


class Proxy:
    """An HTTP proxy that knows CONNECT and nothing else; asks for Basic credentials."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: Counter[str] = Counter()
        self.refused = 0
        self.wanted = "Basic " + base64.b64encode(f"gateway:{PASSWORD}".encode()).decode()

    async def start(self, nursery: trio.Nursery) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, self._serve, [listener])

    async def _serve(self, client: trio.SocketStream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await client.receive_some(1)
        request, *lines = head.decode().split("\r\n")
        method, place, _ = request.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if method != "CONNECT" or headers.get("proxy-authorization") != self.wanted:
            self.refused += 1
            await client.send_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            return
        self.asked[place] += 1
        host, _, port = place.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as vendor:
            await client.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, client, vendor, nursery.cancel_scope)
                nursery.start_soon(self._copy, vendor, client, nursery.cancel_scope)

    @staticmethod
    async def _copy(source: trio.SocketStream, sink: trio.SocketStream, done: trio.CancelScope) -> None:
        try:
            while data := await source.receive_some(65536):
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        done.cancel()


def through(proxy: Proxy, password_file: Path) -> dict[str, Any]:
    return {
        "proxy": f"127.0.0.1:{proxy.port}",
        "proxy_user": "gateway",
        "proxy_password_file": str(password_file),
    }


async def test_everything_goes_through_the_proxy_and_nothing_past_it(
    open_gateway: Callable[..., Any], simulators: Any, folder: Path, nursery: trio.Nursery
) -> None:
    """Sending of both vendors, and FCM's token endpoint."""
    proxy = Proxy()
    await proxy.start(nursery)
    password = folder / "proxy.password"
    password.write_text(PASSWORD + "\n")
    over = {"apns": through(proxy, password), "fcm": through(proxy, password)}
    before = simulators.call("GET", "/statistics")
    async with open_gateway(simulators.ready, **over) as gateway:
        devices = [*await gateway.register(20), *await gateway.register(20, "fcm", first=100)]
        answer = await gateway.client.submit(CONTENT, devices)
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 40}
        for vendor in ("apns", "fcm"):
            place = f"127.0.0.1:{simulators.ready[vendor]['port']}"
            begun = before[vendor]["connections"].get("handshakes_completed", 0)
            # A pool that grows may have asked for a connection whose handshake is still to come.
            with trio.fail_after(60):
                while True:
                    connections = simulators.call("GET", "/statistics")[vendor]["connections"]
                    if proxy.asked[place] == connections["handshakes_completed"] - begun > 0:
                        break
                    await trio.sleep(0.02)
        # the token endpoint's connection is the second one to FCM
        assert proxy.asked[f"127.0.0.1:{simulators.ready['fcm']['port']}"] >= 2
    assert proxy.refused == 0
    assert PASSWORD not in (folder / "gateway.log").read_text()
    nursery.cancel_scope.cancel()


async def test_a_proxy_that_refuses_is_named_and_never_gone_around(
    open_gateway: Callable[..., Any], simulators: Any, folder: Path, nursery: trio.Nursery
) -> None:
    proxy = Proxy()
    await proxy.start(nursery)
    password = folder / "proxy.password"
    password.write_text("wrong")
    async with open_gateway(simulators.ready, apns=through(proxy, password)) as gateway:
        answer = await gateway.client.submit(CONTENT, await gateway.register(3))
        with trio.fail_after(60):
            while proxy.refused < 2:
                await trio.sleep(0.02)
        assert await gateway.states(answer.task_id) == {"queued": 3}
        metrics = await gateway.metrics()
        assert metrics["pushgw_closes_total", "vendor,connect_failed"] >= 1
    log = (folder / "gateway.log").read_text()
    assert "answered CONNECT with 407" in log
    assert "wrong" not in log
    assert "handshakes_begun" not in simulators.call("GET", "/statistics")["apns"]["connections"]
    nursery.cancel_scope.cancel()


async def test_a_certificate_takes_the_place_of_the_provider_token(
    open_gateway: Callable[..., Any], simulators: Any
) -> None:
    no_key = {"team_id": "", "key_id": "", "key_file": ""}
    certificate = {"certificate_file": simulators.ready["apns"]["certificate_file"]}
    async with open_gateway(simulators.ready, apns=no_key | certificate) as gateway:
        answer = await gateway.client.submit(CONTENT, await gateway.register(50))
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 50}
        (request,) = simulators.call("GET", "/requests?simulator=apns&last=1")["apns"]
        assert "authorization" not in dict(request["headers"])
        statistics = simulators.call("GET", "/statistics")["apns"]["connections"]
        assert statistics["client_certificates"] == statistics["handshakes_completed"]
        # a year, less the moments since it was made
        assert 300 * 86_400 < (await gateway.metrics())["pushgw_credential_expires_seconds", "apns"] < 366 * 86_400


async def test_a_certificate_of_another_app_is_a_fault_of_the_configuration(
    open_gateway: Callable[..., Any], simulators: Any
) -> None:
    over = {"team_id": "", "key_id": "", "key_file": "", "topic": "com.example.other"}
    certificate = {"certificate_file": simulators.ready["apns"]["certificate_file"]}
    async with open_gateway(simulators.ready, apns=over | certificate) as gateway:
        answer = await gateway.client.submit(CONTENT, await gateway.register(3))
        counts = await gateway.until_final(answer.task_id)
        assert (counts.states, counts.reasons) == ({"failed": 3}, {"credential_refused": 3})


async def test_further_connections_resume_the_session_of_the_first(
    open_gateway: Callable[..., Any], simulators: Any
) -> None:
    simulators.fault("apns", "stream_limit", limit=20)
    simulators.fault("apns", "latency", ms=100)
    async with open_gateway(simulators.ready, apns={"connections_max": 4, "probes": False}) as gateway:
        answer = await gateway.client.submit(CONTENT, await gateway.register(400))
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 400}
        statistics = simulators.call("GET", "/statistics")["apns"]["connections"]
        assert statistics["handshakes_completed"] == 4
        assert statistics["handshakes_resumed"] == 3


async def test_a_peer_that_went_silent_is_found_by_ping_and_its_rows_go_again(
    open_gateway: Callable[..., Any], simulators: Any
) -> None:
    """Half open: the socket stays, nothing comes. A request deadline alone would take ten times as long."""
    http2 = {"ping_idle_s": 0.3, "ping_timeout_s": 0.3, "request_timeout_s": 30.0}
    async with open_gateway(simulators.ready, http2=http2) as gateway:
        devices = await gateway.register(10)
        first = await gateway.client.submit(CONTENT, devices)
        assert (await gateway.until_final(first.task_id)).states == {"vendor_accepted": 10}
        simulators.fault("apns", "half_open", for_s=2.0)
        begun = trio.current_time()
        second = await gateway.client.submit(CONTENT, devices)
        with trio.fail_after(60):
            while not (await gateway.metrics()).get(("pushgw_closes_total", "vendor,liveness_timeout")):
                await trio.sleep(0.05)
        assert trio.current_time() - begun < 15
        assert (await gateway.until_final(second.task_id)).states == {"vendor_accepted": 10}
        assert (await gateway.metrics())["pushgw_rows_resent_uncertain_total", "apns"] >= 1


async def test_a_request_without_an_answer_ends_at_its_deadline_and_the_connection_stays(
    open_gateway: Callable[..., Any], simulators: Any
) -> None:
    over = {"http2": {"request_timeout_s": 2.0}, "retry": {"on_uncertain_system": "uncertain"}}
    async with open_gateway(simulators.ready, **over) as gateway:
        devices = await gateway.register(6)
        first = await gateway.client.submit(CONTENT, devices)
        assert (await gateway.until_final(first.task_id)).states == {"vendor_accepted": 6}
        simulators.fault("apns", "no_answer", for_requests=1)
        begun = trio.current_time()
        answer = await gateway.client.submit(CONTENT, devices)
        counts = await gateway.until_final(answer.task_id)
        assert counts.states == {"vendor_accepted": 5, "uncertain": 1}
        assert 2.0 <= trio.current_time() - begun < 20
        metrics = await gateway.metrics()
        assert metrics["pushgw_connections_open", "vendor"] >= 1
        assert (
            sum(n for (name, label), n in metrics.items() if name == "pushgw_closes_total" and "vendor" in label) == 0
        )


async def test_cancelled_and_expired_rows_cost_no_frame(open_gateway: Callable[..., Any], simulators: Any) -> None:
    """A peer that takes one request at a time: the rows behind it end by their TTL and never reach it."""
    simulators.fault("apns", "stream_limit", limit=1)
    simulators.fault("apns", "latency", ms=700)
    over = {"connections_max": 1}
    async with open_gateway(simulators.ready, apns=over) as gateway:
        devices = await gateway.register(30)
        short = Variant("title", "body", strategy=2, ttl_s=2)
        answer = await gateway.client.submit(short, devices)
        counts = await gateway.until_final(answer.task_id)
        assert counts.states["expired"] >= 25
        streams = simulators.call("GET", "/statistics")["apns"]["connections"]["streams"]
        assert streams == 30 - counts.states["expired"]


async def test_many_apps_share_few_connections(open_gateway: Callable[..., Any], simulators: Any) -> None:
    """Eight apps at two vendors, three connections in all: everybody's rows arrive."""
    http2 = {"connections_max": 3}
    async with open_gateway(simulators.ready, copies=7, http2=http2, lanes={"burst_rows_max": 512}) as gateway:
        for round_ in range(2):
            for number in range(8):
                key = "shop" if not number else f"shop{number}"
                async with open_trio_client(gateway.ready["rpc"][0], key, SECRET, timeout_s=10.0) as client:
                    gateway.client = client
                    devices = [
                        *await gateway.register(3, first=100 * number + 10 * round_),
                        *await gateway.register(3, "fcm", first=100 * number + 10 * round_),
                    ]
                    answer = await client.submit(CONTENT, devices)
                    assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 6}
            metrics = await gateway.metrics()
            assert metrics["pushgw_connections_open", "vendor"] <= 3
        assert metrics["pushgw_closes_total", "vendor,reclaimed"] >= 20
        # (FCM's token endpoint has connections of its own)
        assert simulators.call("GET", "/statistics")["apns"]["connections"]["open_h2"] <= 3
