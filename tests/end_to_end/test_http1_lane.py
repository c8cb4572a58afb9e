"""HTTP/1.1 end to end: a worker, a real lane, TLS sockets, and a strict server that also misbehaves.

The vendor lives here: one message a request, errors as HTTP statuses and, as many vendors have it, in the body of a
200. The server judges with h11 what it is sent, remembers which messages it took, and draws a fault for each request.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, ClassVar, NamedTuple

import h11
import msgspec
import pytest
import trio

import vendors
from bench.simulators.tls import TlsFiles, make_tls_files
from gateway.client.requests import DeviceState
from gateway.content import Variant
from gateway.ledger import NO_VERDICT
from gateway.vendor import HttpVersion, Limits, RequestTemplate, Slot, parse_template, slot_json
from gateway.verdict import Answer, Scope, Verdict
from vendors import VendorEntry
from vendors.auth.credential import Issued, SecretPlace
from vendors.connecting import ConnectingSettings
from vendors.http_answer import by_status_class, decode_object

pytestmark = pytest.mark.timed

NAME = "xiaomi"  # its file is replaced for these tests
CREDENTIAL = b"key=test"
HEADERS = ((b"authorization", (Slot("authorization"),)), (b"content-type", (b"application/json",)))


class Settings(ConnectingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str
    port: int
    ca_file: str
    secret_file: str
    rate_per_s: float = 1e6
    burst: int = 1_000_000
    connections_max: int = 2
    http_version: HttpVersion = "1.1"


class TestVendor:
    name: ClassVar[str] = NAME
    bad_tokens_stall: ClassVar[bool] = False
    __test__ = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def authority(self) -> tuple[str, int]:
        return self._settings.host, self._settings.port

    def limits(self, variant: Variant) -> Limits:
        return Limits(4096)

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate:
        message = {"id": slot_json("message_id"), "title": slot_json("title"), "body": slot_json("body")}
        body = parse_template(msgspec.json.encode(message))
        return RequestTemplate((b"/v1/push/", Slot("token")), HEADERS, body)

    def check_token(self, token: str) -> str:
        return "" if token.isalnum() and token.isascii() else "token is not alphanumeric"

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        if status != 200:
            return by_status_class(status, "", headers)
        match decode_object(body).get("code"):
            case 0:
                return Answer(Verdict.ACCEPTED)
            case 7:
                return Answer(Verdict.TOKEN_DEAD, "DeadToken")
            case 8:
                return Answer(Verdict.REJECTED, "BadMessage")
            case _:  # cut off, or a code that nobody knows
                return Answer(Verdict.UNCERTAIN, "unreadable", Scope.DEVICE)


class _Credential:
    gap_s = 1.0

    def issue(self, now_unix_s: float, *, fresh: bool = False) -> Issued:
        return Issued(CREDENTIAL, 4e9, 4e9)


ENTRY = VendorEntry(
    Settings, TestVendor, lambda settings: SecretPlace(settings.secret_file, ""), lambda settings, secret: _Credential()
)


class Fault(NamedTuple):
    """takes: the message counts as taken by the vendor, whatever the client hears."""

    name: str
    takes: bool


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("ok", True),
        Fault("chunked", True),
        Fault("in_pieces", True),
        Fault("interim", True),
        Fault("until_close", True),
        Fault("then_close", True),
        Fault("code_8", False),
        Fault("status_400", False),
        Fault("status_429", False),
        Fault("status_500", False),
        Fault("close_before", False),
        Fault("close_after_taking", True),
        Fault("close_in_body", True),
        Fault("reset", False),
        Fault("silent", True),
        Fault("garbage", False),
        Fault("unasked", True),
    )
}


class Server:
    """faults: draws the next request's. taken: message id -> copies that the vendor took; requests: those that came."""

    def __init__(self, files: TlsFiles) -> None:
        self.ca_file = str(files.ca)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(files.good)
        self.port = 0
        self.draw: Callable[[], str] = lambda: "ok"
        self.drawn: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.open = self.open_max = self.connections = 0
        self.in_flight = self.in_flight_max = 0
        self.wrong: list[str] = []

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_ssl_over_tcp_listeners(0, self._context, host="127.0.0.1")
        self.port = listeners[0].transport_listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.open += 1
        self.connections += 1
        self.open_max = max(self.open_max, self.open)
        machine = h11.Connection(h11.SERVER)
        try:
            while (message := await self._next(stream, machine)) is not None:
                self.in_flight += 1
                self.in_flight_max = max(self.in_flight_max, self.in_flight)
                try:
                    goes_on = await self._answer(stream, machine, message)
                finally:
                    self.in_flight -= 1
                if not goes_on:
                    break
                machine.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except h11.RemoteProtocolError as error:
            self.wrong.append(str(error))
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)

    async def _next(self, stream: trio.abc.Stream, machine: h11.Connection) -> dict[str, Any] | None:
        body = b""
        head: h11.Request | None = None
        while True:
            event = machine.next_event()
            if event is h11.NEED_DATA:
                machine.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return None
        assert head is not None
        return self._judge(head, body, machine.trailing_data[0])

    def _judge(self, head: h11.Request, body: bytes, behind: bytes) -> dict[str, Any]:
        headers = dict(head.headers)
        path = head.target.decode()
        message: dict[str, Any] = json.loads(body)
        checks = {
            "method": head.method == b"POST",
            "path": path.startswith("/v1/push/") and path[9:].isalnum(),
            "host": headers[b"host"] == b"127.0.0.1:%d" % self.port,
            "authorization": headers[b"authorization"] == CREDENTIAL,
            "framing": headers[b"content-length"] == b"%d" % len(body) and b"transfer-encoding" not in headers,
            "names": len(headers) == len(head.headers),
            "pipelining": not behind,
            "message": set(message) == {"id", "title", "body"},
        }
        self.wrong += [name for name, is_good in checks.items() if not is_good]
        return message

    async def _answer(self, stream: Any, machine: h11.Connection, message: dict[str, Any]) -> bool:
        """True when another request may follow."""
        fault = FAULTS[self.draw()]
        self.drawn[fault.name] += 1
        message_id = message["id"].replace("-", "")
        self.requests[message_id] += 1
        self.taken[message_id] += fault.takes

        async def send(status: int, body: bytes, *headers: tuple[str, str], is_cut: bool = False) -> None:
            length = ("content-length", str(len(body)))
            head = h11.Response(status_code=status, headers=[("x-trace", "1"), *headers, length])
            part = body[:-3] if is_cut else body
            data = (machine.send(head) or b"") + (machine.send(h11.Data(data=part)) or b"")
            await stream.send_all(data if is_cut else data + (machine.send(h11.EndOfMessage()) or b""))

        good = b'{"code":0}'
        match fault.name:
            case "ok":
                await send(200, good)
            case "chunked":
                await stream.send_all(b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"cod\r\n')
                await stream.send_all(b'5;x=y\r\ne":0}\r\n0\r\nchecksum: 1\r\n\r\n')
                _skip(machine)
            case "in_pieces":
                for byte in b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"code":0}':
                    await stream.send_all(bytes([byte]))
                _skip(machine)
            case "interim":
                await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
                await send(200, good)
            case "until_close":
                await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n" + good)
                await stream.aclose()  # with the TLS goodbye
                return False
            case "then_close":
                await send(200, good, ("connection", "close"))
                return False
            case "code_8":
                await send(200, b'{"code":8}')
            case "status_400":
                await send(400, b"{}")
            case "status_429":
                await send(429, b"{}", ("retry-after", "0"))
            case "status_500":
                await send(500, b"")
            case "close_before" | "close_after_taking":
                return False
            case "close_in_body":
                await send(200, good, is_cut=True)
                return False
            case "reset":
                stream.transport_stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case "silent":
                await trio.sleep(30)
                return False
            case "garbage":
                await stream.send_all(b"+OK ready\r\n\r\n")
                return False
            case "unasked":
                await send(200, good)
                await stream.send_all(b"HTTP/1.1 408 Too late\r\n\r\n")
                return False
        return True


def _skip(machine: h11.Connection) -> None:
    """The machine believes that an answer went out."""
    machine.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
    machine.send(h11.EndOfMessage())


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_tls_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def site(
    open_gateway: Callable[..., Any], folder: Any, tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., contextlib.AbstractAsyncContextManager[tuple[Any, Server]]]:
    """(gateway, server) for the block; `over` as in `open_gateway`."""
    monkeypatch.setitem(vendors.REGISTRY, NAME, ENTRY)

    @contextlib.asynccontextmanager
    async def run(**over: Any) -> AsyncIterator[tuple[Any, Server]]:
        (folder / "vendor.secret").write_text("secret")
        server = Server(tls_files)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            table = {
                "host": "127.0.0.1",
                "port": server.port,
                "ca_file": server.ca_file,
                "secret_file": str(folder / "vendor.secret"),
            }
            async with open_gateway(vendors={NAME: table}, **over) as gateway:
                yield gateway, server
            nursery.cancel_scope.cancel()

    return run


async def send_to(gateway: Any, n: int, **fields: Any) -> Any:
    """A task of n rows to n new devices of the vendor."""
    ids = [os.urandom(16) for _ in range(n)]
    states = [DeviceState(device_id=one, channel=NAME, token=one.hex()) for one in ids]
    assert (await gateway.client.register_devices(states)).registered == n
    return await gateway.client.submit(Variant("title", "body", **({"strategy": 2} | fields)), ids)


async def verdicts_seen(gateway: Any) -> set[str]:
    """Verdicts that attempts have got so far."""
    metrics = await gateway.metrics()
    return {labels.split(",")[1] for (name, labels), n in metrics.items() if name == "pushgw_verdicts_total" and n}


def assert_one_verdict_per_attempt(gateway: Any) -> Counter[str]:
    """Verdicts by name, of all attempts."""
    counted: Counter[str] = Counter()
    for page in gateway.worker.home.pages():
        verdicts: Counter[int] = Counter()
        for burst in page.bursts:
            for row, verdict in zip(burst.rows.tolist(), burst.verdicts.tolist(), strict=True):
                if verdict != NO_VERDICT:
                    verdicts[row] += 1
                    counted[Verdict(verdict).name.lower()] += 1
        assert {row: verdicts[row] for row in range(page.n)} == dict(enumerate(page.attempts.tolist()))
    return counted


async def test_rows_go_over_persistent_sockets_bounded_in_number(site: Callable[..., Any]) -> None:
    async with site(http1={"sockets_max": 4, "queue_max": 4, "connecting_max": 4}) as (gateway, server):
        answer = await send_to(gateway, 500)
        counts = await gateway.until_final(answer.task_id)
        assert counts.states == {"vendor_accepted": 500}
        assert assert_one_verdict_per_attempt(gateway) == {"accepted": 500}
        assert set(server.taken.values()) == {1}
        assert len(server.taken) == 500
        assert server.wrong == []
        assert 1 <= server.open_max <= 8  # two bundles of four
        assert server.in_flight_max <= 8
        assert server.connections <= 8
        metrics = await gateway.metrics()
        assert metrics["pushgw_connections_open", "vendor"] == server.open


async def test_errors_in_the_body_of_a_200_are_the_vendors_to_judge(site: Callable[..., Any]) -> None:
    async with site() as (gateway, server):
        server.draw = lambda: "code_8"
        answer = await send_to(gateway, 20)
        assert (await gateway.until_final(answer.task_id)).states == {"failed": 20}
        assert assert_one_verdict_per_attempt(gateway) == {"rejected": 20}


@pytest.mark.parametrize(
    ("fault", "verdict", "states"),
    [
        ("chunked", "accepted", {"vendor_accepted": 8}),
        ("in_pieces", "accepted", {"vendor_accepted": 8}),
        ("interim", "accepted", {"vendor_accepted": 8}),
        ("until_close", "accepted", {"vendor_accepted": 8}),
        ("then_close", "accepted", {"vendor_accepted": 8}),
        ("status_400", "rejected", {"failed": 8}),
        ("close_before", "uncertain", {"uncertain": 8}),
        ("close_in_body", "uncertain", {"uncertain": 8}),
        ("reset", "uncertain", {"uncertain": 8}),
        ("garbage", "uncertain", {"uncertain": 8}),
        ("silent", "uncertain", {"uncertain": 8}),
    ],
)
async def test_each_behaviour_of_a_server_gives_its_verdict(
    site: Callable[..., Any], fault: str, verdict: str, states: dict[str, int]
) -> None:
    """Marketing rows, of which no uncertain one goes again."""
    limits = {"sockets_max": 8, "queue_max": 8, "connecting_max": 8, "connect_retry_s": 0.05}
    http2 = {"request_timeout_s": 1.0} if fault == "silent" else {}
    async with site(http1=limits, http2=http2) as (gateway, server):
        server.draw = lambda: fault
        answer = await send_to(gateway, 8, class_="marketing")
        counts = await gateway.until_final(answer.task_id)
        assert counts.states == states
        assert set(assert_one_verdict_per_attempt(gateway)) == {verdict}
        assert server.drawn == {fault: 8}
        assert server.wrong == []


async def test_what_a_server_says_unasked_is_never_taken_for_acceptance(site: Callable[..., Any]) -> None:
    """A 408 behind an answer meets a socket that is idle, and closes it, or one whose next request is on its way: then
    it is that one's answer, as far as anybody can tell, and says that nothing was taken."""
    async with site(http1={"sockets_max": 4}) as (gateway, server):
        source = random.Random(1)
        server.draw = lambda: source.choice(["unasked", "ok"])
        answer = await send_to(gateway, 60)
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 60}
        verdicts = assert_one_verdict_per_attempt(gateway)
        assert verdicts["accepted"] == 60
        assert set(verdicts) <= {"accepted", "unavailable", "uncertain"}


async def test_throttling_and_errors_of_the_server_are_waited_for(site: Callable[..., Any]) -> None:
    async with site() as (gateway, server):
        faults = iter(["status_429"] * 3 + ["status_500"] * 3)
        server.draw = lambda: next(faults, "ok")
        answer = await send_to(gateway, 30)
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 30}
        verdicts = assert_one_verdict_per_attempt(gateway)
        assert verdicts == {"accepted": 30, "throttled": 3, "unavailable": 3}
        assert set(server.taken.values()) == {1}


@pytest.mark.parametrize("class_", ["system", "marketing"])
async def test_rows_are_conserved_whatever_the_server_does(
    site: Callable[..., Any], resent: Callable[[Any], set[str]], class_: str
) -> None:
    """Nothing is lost, nothing is told that is not so, and nobody is served twice but for an uncertain attempt."""
    source = random.Random(class_)
    names = ["ok"] * 40 + [name for name in FAULTS if name != "silent"]
    limits = {"sockets_max": 6, "queue_max": 6, "connect_retry_s": 0.02}
    over = {"http1": limits, "http2": {"request_timeout_s": 1.0}, "retry": {"cap_s": 2.0, "throttled_s": 0.3}}
    async with site(**over) as (gateway, server):
        silent = iter(["silent"] * 3)
        server.draw = lambda: next(silent, None) or source.choice(names)
        answer = await send_to(gateway, 600, class_=class_)
        with trio.fail_after(60):
            await trio.sleep(3)
            while not {"accepted", "rejected", "uncertain"} <= set(await verdicts_seen(gateway)):
                await trio.sleep(0.05)
            server.draw = lambda: "ok"
            counts = await gateway.until_final(answer.task_id, timeout_s=50)
        assert sum(counts.states.values()) == 600
        verdicts = assert_one_verdict_per_attempt(gateway)
        assert {"accepted", "rejected", "uncertain"} <= set(verdicts)
        rows = await gateway.rows(answer.task_id)
        again = resent(rows)
        for message, state, _ in rows:
            if state == "vendor_accepted":
                assert server.taken[message] >= 1, "told as accepted, never taken"
            if state == "failed":
                assert server.taken[message] == 0 or message in again, "told as failed, but taken"
            assert server.taken[message] <= 1 or message in again, "taken twice without a doubt in between"
        assert server.wrong == []
        assert server.open_max <= 12 + 3  # the silent keep their ends when we have closed ours
        closes = {
            labels: n for (name, labels), n in (await gateway.metrics()).items() if name == "pushgw_closes_total" and n
        }
        assert closes.get("vendor,protocol_error", 0) >= 1
        assert closes.get("vendor,internal_error", 0) == 0


async def test_a_server_that_is_gone_and_comes_back_gets_its_rows(site: Callable[..., Any]) -> None:
    async with site(http1={"connect_retry_s": 0.05}) as (gateway, server):
        server.draw = lambda: "close_before"
        answer = await send_to(gateway, 40)
        await trio.sleep(0.5)
        server.draw = lambda: "ok"
        counts = await gateway.until_final(answer.task_id)
        assert counts.states == {"vendor_accepted": 40}
        verdicts = assert_one_verdict_per_attempt(gateway)
        assert verdicts["accepted"] == 40
        assert verdicts["uncertain"] == server.drawn["close_before"]


async def test_shutdown_lets_answers_come(site: Callable[..., Any]) -> None:
    async with site() as (gateway, server):
        answer = await send_to(gateway, 50)
        await gateway.until_final(answer.task_id)
        gateway.worker.stop()
        with trio.fail_after(5):
            while server.open:
                await trio.sleep(0.02)
        assert server.wrong == []
