"""Bad days of a vendor, each under load against the strict simulator, as issue "Vendor connections" lists them.

Whatever happens, the same is held (`account`): rows are conserved and end once, every attempt has one verdict, nobody
got a second copy of a row that is not marked so, queues and memory stay in their bounds while it happens (`Watch`), and
connections end for the reason and with the code that the day calls for.
"""

from __future__ import annotations

import contextlib
import os
import resource
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, NamedTuple

import numpy as np
import pytest
import trio

from gateway.content import Variant
from gateway.ledger import NO_VERDICT

pytestmark = pytest.mark.timed

CLOSES = "pushgw_closes_total"
#: For days on which nobody is silent. On a busy machine a simulator may rest for seconds, and a timeout would then be a
#: second fault beside the one that the day is about.
CALM: dict[str, float] = {
    "connect_timeout_s": 20.0,
    "request_timeout_s": 60.0,
    "ping_idle_s": 20.0,
    "ping_timeout_s": 20.0,
    "window_timeout_s": 20.0,
    "unsent_bytes_max": 65_536,
}
#: For days of silence, on each of which rows may be sent again: 1.2 s of it are longer than each.
IMPATIENT = CALM | {"request_timeout_s": 1.2, "ping_idle_s": 0.4, "ping_timeout_s": 0.4}
#: For days without room.
IMPATIENT_FOR_WINDOWS = CALM | {"window_timeout_s": 0.25}
ROWS = 640
#: So many submits, and the pause between two: together they span the shorter faults.
WAVES = 8
PAUSE_S = 0.1
#: What a bad day may add to the memory of the test's process, which holds worker, client and counters.
GROWTH_BYTES_MAX = 96 << 20


class Day(NamedTuple):
    """faults: armed after the first wave is on its way. at_start: armed before the first connection.

    closes: reason that connections must have ended for. verdicts: that attempts must have got beside accepted.
    is_resent: rows may be sent twice, because nobody knows what became of the first; else none may. until_seen: the
    fault ends once it has had its effect, however long that takes on a busy machine.
    goaway: code of a GOAWAY that we must have sent. http2: over the timeouts of the day. vendor: whose bad day it is.
    """

    faults: tuple[dict[str, Any], ...] = ()
    at_start: tuple[dict[str, Any], ...] = ()
    closes: str = ""
    verdicts: tuple[str, ...] = ()
    is_resent: bool = False
    until_seen: bool = False
    goaway: str = ""
    http2: tuple[tuple[str, Any], ...] = ()
    vendor: str = "apns"

    def timeouts(self) -> dict[str, float]:
        kinds = {each["kind"] for each in (*self.faults, *self.at_start)}
        if kinds & {"stop_reading", "half_open", "no_answer"}:
            assert self.is_resent
            return IMPATIENT
        return IMPATIENT_FOR_WINDOWS if "windows" in kinds else CALM


def fault(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind} | fields


def errors(*lines: tuple[float, int, str], retry_after_s: int | None = None) -> dict[str, Any]:
    mix = [{"share": share, "status": status, "reason": reason} for share, status, reason in lines]
    return fault("errors", mix=[line | {"retry_after_s": retry_after_s} for line in mix])


DAYS: dict[str, Day] = {
    "goaway graceful": Day(
        (fault("goaway", form="graceful", grace_ms=30, share=0.05, for_requests=6),), closes="goaway"
    ),
    "goaway abrupt": Day((fault("goaway", form="abrupt", for_requests=4),), closes="goaway", is_resent=True),
    "goaway double": Day((fault("goaway", form="double", share=0.05, for_requests=6),), closes="goaway"),
    "goaway with 0": Day((fault("goaway", form="zero", share=0.05, for_requests=6),), closes="goaway"),
    "stream limit to 1 and back": Day(
        (fault("stream_limit", limit=1, for_s=0.4), fault("stream_limit", limit=1, after_s=0.6, for_s=0.3))
    ),
    "no streams for a while": Day((fault("stream_limit", limit=0, for_s=0.5),)),
    "refused streams": Day((fault("refused_stream", share=0.9, for_s=0.8),)),
    "windows never enlarged": Day(at_start=(fault("windows", initial=65_535),), closes="window_stalled"),
    "small windows never enlarged": Day(
        at_start=(fault("windows", initial=50),), closes="window_stalled", until_seen=True
    ),
    "stops reading": Day((fault("stop_reading"),), closes="liveness_timeout", is_resent=True, until_seen=True),
    "no answer to requests": Day((fault("no_answer"),), verdicts=("uncertain",), is_resent=True, until_seen=True),
    "no answer to anything": Day((fault("half_open"),), closes="liveness_timeout", is_resent=True, until_seen=True),
    "streams reset": Day(
        (fault("reset_stream", code=2, share=0.3, for_requests=60), fault("reset_stream", code=8, for_requests=60)),
        verdicts=("uncertain",),
        is_resent=True,
    ),
    "sockets reset, rows taken": Day(
        (fault("reset_socket", recorded=True, for_requests=4),), closes="peer_reset", is_resent=True
    ),
    "sockets reset, rows not taken": Day(
        (fault("reset_socket", recorded=False, for_requests=4),), closes="peer_reset", is_resent=True
    ),
    "TLS closed without notify": Day(
        (fault("tls_abort", recorded=True, for_requests=4),), closes="peer_closed", is_resent=True
    ),
    "certificate expired": Day(
        at_start=(fault("certificate", form="expired"),), closes="certificate_invalid", until_seen=True
    ),
    "certificate of another": Day(
        at_start=(fault("certificate", form="wrong_host"),), closes="certificate_invalid", until_seen=True
    ),
    "429 with Retry-After": Day((fault("throttle", retry_after_s=1, for_requests=40),), verdicts=("throttled",)),
    "429 without Retry-After": Day((fault("throttle", for_requests=40),), verdicts=("throttled",)),
    "bursts of 500 and 503": Day(
        (errors((0.5, 500, "InternalServerError"), (0.5, 503, "ServiceUnavailable")),),
        verdicts=("unavailable",),
        until_seen=True,
    ),
    "300 ms latency with jitter": Day((fault("latency", ms=300, jitter_ms=200),)),
    "1 MiB of header blocks": Day((fault("header_flood", bytes=8_000, for_requests=140),)),
    "1 MiB in one header block": Day(
        (fault("header_flood", bytes=1 << 20, for_requests=1),),
        closes="protocol_error",
        is_resent=True,
        goaway="ENHANCE_YOUR_CALM",
    ),
    "HPACK bomb in a table": Day(
        (fault("malformed", form="hpack_bomb", for_requests=2),),
        closes="protocol_error",
        is_resent=True,
        goaway="ENHANCE_YOUR_CALM",
        http2=(("header_table_bytes", 4_096),),
    ),
    "FCM goaway double": Day(
        (fault("goaway", form="double", share=0.05, for_requests=6),), closes="goaway", vendor="fcm"
    ),
    "FCM 429 with Retry-After": Day(
        (fault("throttle", retry_after_s=1, for_requests=40),), verdicts=("throttled",), vendor="fcm"
    ),
    "FCM bursts of 500 and 503": Day(
        (errors((0.5, 500, "INTERNAL"), (0.5, 503, "UNAVAILABLE"), retry_after_s=1),),
        verdicts=("unavailable",),
        until_seen=True,
        vendor="fcm",
    ),
    "FCM refused streams": Day((fault("refused_stream", share=0.9, for_s=0.5),), vendor="fcm"),
    "FCM stops answering": Day(
        (fault("half_open"),), closes="liveness_timeout", is_resent=True, until_seen=True, vendor="fcm"
    ),
}
#: Form of a malformed frame -> the code that RFC 9113 and RFC 7541 want for it.
MALFORMED = {
    "frame_size": "FRAME_SIZE_ERROR",
    "settings_length": "FRAME_SIZE_ERROR",
    "settings_value": "FLOW_CONTROL_ERROR",
    "window_overflow": "FLOW_CONTROL_ERROR",
    "idle_stream": "PROTOCOL_ERROR",
    "push_promise": "PROTOCOL_ERROR",
    "interrupted_block": "PROTOCOL_ERROR",
    "empty_continuations": "ENHANCE_YOUR_CALM",
    "hpack_index": "COMPRESSION_ERROR",
    "hpack_size_update": "COMPRESSION_ERROR",
    "hpack_bomb": "ENHANCE_YOUR_CALM",
    "http1": "FRAME_SIZE_ERROR",
}


def vendor_only(**fields: Any) -> Variant:
    """About 400 bytes a request: all rows together are four windows of 64 KiB."""
    return Variant("title", "body " * 60, **({"strategy": 2} | fields))


class Watch:
    """Looks at queues and connections while it runs; the highest of each is kept."""

    def __init__(self, gateway: Any) -> None:
        self._worker = gateway.worker
        self._before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.open_requests = self.connections = self.rows_open = 0

    async def run(self) -> None:
        while True:
            for built in self._worker.vendor_lanes:
                pool = built.pool.statistics()
                self.connections = max(self.connections, pool.connections)
                assert pool.connections <= built.app.vendors[built.channel.name.lower()].connections_max
                self.open_requests = max(self.open_requests, pool.open_requests)
            self.rows_open = max(self.rows_open, self._worker.home.rows_open)
            await trio.sleep(0.003)

    def check(self, n_rows: int) -> None:
        assert self.connections > 0
        assert 0 < self.open_requests <= self.connections * self._worker.config.http2.streams_max
        assert self.rows_open <= n_rows
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self._before
        assert growth < GROWTH_BYTES_MAX, f"{growth:,} bytes more"


@contextlib.asynccontextmanager
async def watching(gateway: Any, n_rows: int) -> AsyncIterator[Watch]:
    """Bounds are held during the block, and looked at after it."""
    watch = Watch(gateway)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        yield watch
        nursery.cancel_scope.cancel()
    watch.check(n_rows)


async def account(
    gateway: Any, simulators: Any, answers: list[Any], resent: Callable[..., set[str]], *, vendor: str = "apns"
) -> tuple[Counter[str], set[str], dict[tuple[str, str], float]]:
    """Every row is accounted for; (verdicts of attempts, message ids that went twice, metrics)."""
    expected: set[str] = set()
    twice: set[str] = set()
    for answer in answers:
        rows = await gateway.rows(answer.task_id)
        assert len(rows) == answer.accepted
        expected |= {message for message, state, _ in rows if state == "vendor_accepted"}
        twice |= resent(rows)
    found = simulators.copies(vendor)
    assert expected <= set(found), "told as accepted, and never arrived"
    assert {message for message, copies in found.items() if copies > 1} <= twice
    metrics = await gateway.metrics()
    assert metrics["pushgw_rows_not_conserved", ""] == 0
    assert sum(n for (metric, _), n in metrics.items() if metric == "pushgw_rows_open") == 0
    assert sum(n for (metric, _), n in metrics.items() if metric == "pushgw_lane_rows") == 0
    verdicts = Counter(
        {
            labels.split(",")[1]: int(n)
            for (metric, labels), n in metrics.items()
            if metric == "pushgw_verdicts_total" and n
        }
    )
    attempts = 0
    for page in gateway.worker.home.pages():
        given = np.zeros(len(page.attempts), np.int64)
        for burst in page.bursts:
            given[burst.rows[burst.verdicts != NO_VERDICT]] += 1
        assert given.tolist() == page.attempts.tolist(), "an attempt without a verdict, or with two"
        attempts += int(given.sum())
    assert verdicts.total() == attempts
    # a connection that was open has one reason for its end
    closed = sum(n for (metric, labels), n in metrics.items() if metric == CLOSES and labels.startswith("vendor,"))
    opened = metrics.get(("pushgw_connections_total", "vendor"), 0)
    assert closed >= opened - metrics.get(("pushgw_connections_open", "vendor"), 0)
    return verdicts, twice, metrics


async def until_seen(gateway: Any, day: Day) -> None:
    """A connection has ended for the day's reason, and attempts had each of its verdicts."""
    wanted = {(CLOSES, f"vendor,{day.closes}")} if day.closes else set()
    with trio.fail_after(60):
        while True:
            found = await gateway.metrics()
            verdicts = {
                labels.split(",")[1] for (name, labels), n in found.items() if name == "pushgw_verdicts_total" and n
            }
            if all(found.get(key) for key in wanted) and set(day.verdicts) <= verdicts:
                return
            await trio.sleep(0.02)


@pytest.mark.parametrize("name", DAYS)
async def test_rows_survive_a_bad_day(
    name: str, open_gateway: Callable[..., Any], simulators: Any, resent: Callable[..., Any]
) -> None:
    day = DAYS[name]
    for each in day.at_start:
        simulators.fault(day.vendor, **each)
    # FCM's own first wait is 10 s.
    over = {"fcm": {"retry_first_s": 0.2}, "http2": day.timeouts() | dict(day.http2)}
    async with open_gateway(simulators.ready, **over) as gateway:
        devices = await gateway.register(ROWS, day.vendor)
        answers = []
        if not day.at_start:
            # the connection is up and trusted before the fault
            answers.append(await gateway.client.submit(vendor_only(), devices[:1]))
            await gateway.until_final(answers[0].task_id)
        async with watching(gateway, ROWS + 1):
            for wave in range(WAVES):
                answers.append(await gateway.client.submit(vendor_only(), devices[wave::WAVES]))
                if wave == 0:
                    for each in day.faults:
                        simulators.fault(day.vendor, **each)
                await trio.sleep(PAUSE_S)
            if day.until_seen:
                await until_seen(gateway, day)
                simulators.call("DELETE", "/fault")
            for answer in answers:
                counts = await gateway.until_final(answer.task_id)
                assert counts.states == {"vendor_accepted": counts.accepted}, counts.reasons
        verdicts, twice, metrics = await account(gateway, simulators, answers, resent, vendor=day.vendor)
        assert verdicts["accepted"] == ROWS + (not day.at_start)
        assert set(day.verdicts) <= set(verdicts)
        assert day.is_resent or not twice
        if day.closes:
            assert metrics[CLOSES, f"vendor,{day.closes}"] > 0
        statistics = simulators.call("GET", "/statistics")[day.vendor]
        assert statistics["faults_applied"] or all("for_requests" not in each for each in day.faults)
        assert statistics["connections"].get("stream_limit_violations", 0) == 0
        assert statistics["client_goaways"].keys() == ({day.goaway} if day.goaway else set())


@pytest.mark.parametrize("form", MALFORMED)
async def test_malformed_frames_end_the_connection_with_the_right_code(
    form: str, open_gateway: Callable[..., Any], simulators: Any, resent: Callable[..., Any]
) -> None:
    async with open_gateway(simulators.ready, http2=CALM) as gateway:
        devices = await gateway.register(100)
        answers = [await gateway.client.submit(vendor_only(), devices[:1])]
        await gateway.until_final(answers[0].task_id)
        simulators.fault("apns", "malformed", form=form, for_requests=1)
        async with watching(gateway, 100):
            answers.append(await gateway.client.submit(vendor_only(), devices[1:]))
            counts = await gateway.until_final(answers[1].task_id)
            assert counts.states == {"vendor_accepted": 99}
        verdicts, twice, metrics = await account(gateway, simulators, answers, resent)
        assert verdicts["uncertain"] == len(twice) > 0
        assert metrics[CLOSES, "vendor,protocol_error"] == 1
        statistics = simulators.call("GET", "/statistics")["apns"]
        assert statistics["client_goaways"] == {MALFORMED[form]: 1}


async def test_one_token_in_twenty_is_dead_and_only_those_rows_fail(
    open_gateway: Callable[..., Any], simulators: Any, resent: Callable[..., Any]
) -> None:
    async with open_gateway(simulators.ready, http2=CALM) as gateway:
        devices = await gateway.register(ROWS)
        dead = [one.hex() * 2 for one in devices[7::20]]
        for fate, some in (("Unregistered", dead[::2]), ("BadDeviceToken", dead[1::2])):
            simulators.call("PUT", "/tokens", {"simulator": "apns", "fate": fate, "tokens": some})
        async with watching(gateway, ROWS):
            answers = [await gateway.client.submit(vendor_only(), devices[wave::WAVES]) for wave in range(WAVES)]
            ended: Counter[str] = Counter()
            for answer in answers:
                counts = await gateway.until_final(answer.task_id)
                ended.update(counts.states)
                assert counts.reasons == ({"token_dead": counts.states["failed"]} if "failed" in counts.states else {})
        assert ended == {"vendor_accepted": ROWS - len(dead), "failed": len(dead)}
        verdicts, twice, metrics = await account(gateway, simulators, answers, resent)
        assert verdicts == {"accepted": ROWS - len(dead), "token_dead": len(dead)}
        assert not twice
        # a 410 for a token that was registered after it died leaves the token where it is
        assert metrics["pushgw_tokens_dead_total", "apns"] == len(dead[1::2])


async def test_a_certificate_that_expires_later_harms_no_connection_that_stands(
    open_gateway: Callable[..., Any], simulators: Any, resent: Callable[..., Any]
) -> None:
    """What comes after it is resumed while the peer's tickets are good: no certificate is shown (RFC 8446, 2.2)."""
    async with open_gateway(simulators.ready, http2=CALM) as gateway:
        devices = await gateway.register(90)
        answers = [await gateway.client.submit(vendor_only(), devices[:30])]
        await gateway.until_final(answers[0].task_id)
        simulators.fault("apns", "certificate", form="expired")
        for wave in (1, 2):
            answers.append(await gateway.client.submit(vendor_only(), devices[30 * wave : 30 * wave + 30]))
            assert (await gateway.until_final(answers[-1].task_id)).states == {"vendor_accepted": 30}
            simulators.fault("apns", "goaway", form="zero", for_requests=1)
        verdicts, _, metrics = await account(gateway, simulators, answers, resent)
        assert verdicts == {"accepted": 90}
        assert metrics[CLOSES, "vendor,certificate_invalid"] == 0
        assert metrics[CLOSES, "vendor,goaway"] == 1
        assert simulators.call("GET", "/statistics")["apns"]["connections"]["handshakes_resumed"] > 0


class Cutter:
    """Stands between gateway and simulator and resets connections (TCP RST, both ways) where it is told.

    cut: (whether it counts the gateway's bytes, after how many of them), for the next connection; None: not at all.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.cut: tuple[bool, int] | None = None
        self.n_cut = 0
        self._open: set[trio.CancelScope] = set()

    async def serve(self, task_status: trio.TaskStatus[int]) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, self._relay, listeners)
            task_status.started(listeners[0].socket.getsockname()[1])

    def reset_all(self) -> None:
        for scope in self._open:
            scope.cancel()

    async def _relay(self, near: trio.SocketStream) -> None:
        cut, self.cut = self.cut, None
        far = await trio.open_tcp_stream("127.0.0.1", self._to)
        try:
            async with trio.open_nursery() as nursery:
                self._open.add(nursery.cancel_scope)
                for is_ours, source, sink in ((True, near, far), (False, far, near)):
                    left = cut[1] if cut is not None and cut[0] is is_ours else None
                    nursery.start_soon(self._pump, source, sink, left, nursery.cancel_scope)
        finally:
            self._open.discard(nursery.cancel_scope)
            for stream in (near, far):
                stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                stream.socket.close()

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, left: int | None, done: trio.CancelScope
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while left is None or left > 0:
                data = await source.receive_some(65_536 if left is None else left)
                if not data:
                    break
                await sink.send_all(data)
                left = None if left is None else left - len(data)
        self.n_cut += left == 0
        done.cancel()


#: Bytes of the gateway: within its hello, the end of the handshake, the preface, SETTINGS, HEADERS and DATA.
OUR_POINTS = (0, 1, 300, 600, 660, 760, 900, 1_100, 1_700, 2_600)
#: Bytes of the vendor: within its hello, the certificate, tickets, SETTINGS, the first and later answers.
THEIR_POINTS = (0, 1, 120, 260, 300, 500, 700, 950, 1_300)


async def test_a_connection_may_be_reset_at_every_point(
    open_gateway: Callable[..., Any], simulators: Any, resent: Callable[..., Any]
) -> None:
    async with trio.open_nursery() as nursery:
        cutter = Cutter(simulators.ready["apns"]["port"])
        port = await nursery.start(cutter.serve)
        ready = simulators.ready | {"apns": simulators.ready["apns"] | {"port": port}}
        impatient = {"first_s": 0.02, "wait_s_min": 0.01, "jitter": 0.1}
        async with open_gateway(ready, http2=CALM, retry=impatient | {"factor": 1.0}) as gateway:
            points = [(is_ours, n) for is_ours, each in ((True, OUR_POINTS), (False, THEIR_POINTS)) for n in each]
            points = points if os.environ.get("PROFILE") == "ci" else points[::4]
            devices = await gateway.register(20)
            answers = []
            for number, point in enumerate(points, 1):
                cutter.reset_all()
                cutter.cut = point
                answers.append(await gateway.client.submit(vendor_only(), devices))
                counts = await gateway.until_final(answers[-1].task_id)
                assert counts.states == {"vendor_accepted": 20}, point
                assert cutter.n_cut == number, f"{point} was never reached"
            verdicts, twice, metrics = await account(gateway, simulators, answers, resent)
            assert verdicts["accepted"] == 20 * len(points)
            assert 0 < len(twice) < 20 * len(points)
            ends = {labels: n for (metric, labels), n in metrics.items() if metric == CLOSES and n}
            assert set(ends) <= {"vendor,peer_reset", "vendor,connect_failed", "vendor,peer_closed", "vendor,tls_error"}
            assert sum(ends.values()) >= 2 * len(points) - 1
        nursery.cancel_scope.cancel()
