"""Simulators in a thread of their own, and blocking clients on real sockets with real TLS: `h2`, httpx, http.client.

The clients share no code with the simulators beyond the public libraries, and never sleep: each wait is a read with a
timeout.
"""

from __future__ import annotations

import asyncio
import http.client
import http.server
import json
import os
import random
import socket
import ssl
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import h2.connection
import h2.events
import h2.settings
import httpx
import jwt
import msgspec
import pytest
import uvloop

from bench.simulators.clock import Clock
from bench.simulators.config import SimulatorsConfig
from bench.simulators.exchange import Answer, Request
from bench.simulators.push_api import Kit, PushApi
from bench.simulators.server import PUSH_APIS, serve_simulators

WAIT_S = 60.0
TOKEN = "ab" * 32
TOPIC = "com.example.app"


@dataclass
class Reply:
    """One answered, reset or unanswered stream as the client saw it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset_code: int | None = None
    is_ended: bool = False
    has_empty_data: bool = False

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        return str(self.json()["reason"])


class Running:
    """Simulators in a thread; `ready` is the ready line, `control` calls the control port."""

    def __init__(self, config: SimulatorsConfig, directory: Path) -> None:
        self.config = config
        self.directory = directory
        self._shared_token = (0.0, "")
        self._begun = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._begun.wait(WAIT_S)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._over = asyncio.Event()
            async with await serve_simulators(self.config, self.directory) as self.simulators:
                self.ready = self.simulators.ready()
                self._begun.set()
                await self._over.wait()

        try:
            uvloop.run(serve())
        except BaseException as error:
            self._error = error
            self._begun.set()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def control(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded JSON (a list of rows for /received) of one call on the control port."""
        status, data = self.control_raw(method, path, body)
        if path.startswith("/received"):
            return status, [json.loads(line) for line in data.splitlines()]
        return status, json.loads(data)

    def control_raw(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        where = self.ready["control"]
        connection = http.client.HTTPConnection(where["host"], where["port"], timeout=WAIT_S)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, body=data)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def fault(self, simulator: str, kind: str, **fields: Any) -> int:
        status, answer = self.control("PUT", "/fault", {"simulator": simulator, "kind": kind, **fields})
        assert status == 200, answer
        return int(answer["id"])

    def statistics(self, simulator: str) -> Any:
        return self.control("GET", "/statistics")[1][simulator]

    def wait_until(self, simulator: str, is_true: Callable[[Any], bool]) -> Any:
        """Asks for the statistics until `is_true(statistics)`; each question is a round trip, not a sleep."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            statistics = self.statistics(simulator)
            if is_true(statistics):
                return statistics
        raise AssertionError(f"still {statistics}")

    def received(self, simulator: str) -> list[dict[str, Any]]:
        status, rows = self.control("GET", f"/received?simulator={simulator}")
        assert status == 200
        return list(rows)

    def refused(self, simulator: str) -> list[dict[str, Any]]:
        return list(self.control("GET", f"/refused?simulator={simulator}&last=100")[1][simulator])

    # ---- clients

    def tls_context(self, alpn: list[str] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ready["ca_file"])
        # Python before 3.11.3 takes a stream that was cut off for one that ended.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        if alpn is not None:
            context.set_alpn_protocols(alpn)
        return context

    def http2(self, simulator: str, **options: Any) -> Http2Client:
        where = self.ready[simulator]
        context = options.pop("context", None) or self.tls_context(["h2"])
        return Http2Client((where["host"], where["port"]), context, **options)

    def httpx(self, simulator: str, *, is_http2: bool = True) -> httpx.Client:
        where = self.ready[simulator]
        base = f"https://{where['host']}:{where['port']}"
        return httpx.Client(http2=is_http2, verify=self.tls_context(), base_url=base, timeout=WAIT_S)

    # ---- credentials

    def now(self) -> float:
        return time.time() + float(self.control("GET", "/clock")[1]["offset_s"])

    def provider_token(self, *, age_s: float = 0, **changes: Any) -> str:
        apns = self.ready["apns"]
        claims = {"iss": apns["team_id"], "iat": int(self.now() - age_s)} | changes.pop("claims", {})
        claims = {key: value for key, value in claims.items() if value is not None}
        headers = {"kid": changes.pop("kid", apns["key_id"])}
        key = changes.pop("key", None) or Path(apns["key_file"]).read_bytes()
        return jwt.encode(claims, key, algorithm=changes.pop("algorithm", "ES256"), headers=headers)

    def shared_token(self) -> str:
        """One provider token for many requests, renewed after 40 minutes, as a good client does."""
        now = self.now()
        if now - self._shared_token[0] > 2_400:
            self._shared_token = (now, self.provider_token())
        return self._shared_token[1]

    def assertion(self, **changes: Any) -> str:
        account = json.loads(Path(self.ready["fcm"]["service_account_file"]).read_text())
        now = int(self.now())
        claims = {
            "iss": account["client_email"],
            "scope": "https://www.googleapis.com/auth/firebase.messaging",
            "aud": account["token_uri"],
            "iat": now,
            "exp": now + 3600,
        } | changes.pop("claims", {})
        headers = {"kid": changes.pop("kid", account["private_key_id"])}
        key = changes.pop("key", account["private_key"])
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, key, algorithm=changes.pop("algorithm", "RS256"), headers=headers)

    def access_token(self) -> str:
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": self.assertion()}
        with self.httpx("fcm") as client:
            response = client.post("/token", data=form)
        assert response.status_code == 200, response.text
        return str(response.json()["access_token"])

    def apns_headers(self, token: str = TOKEN, **changes: str | None) -> list[tuple[str, str]]:
        """The headers of a good request; a keyword (with _ for -) replaces one, None leaves it out."""
        headers = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "api.push.apple.com",
            ":path": f"/3/device/{token}",
            "authorization": f"bearer {self.shared_token()}",
            "apns-topic": TOPIC,
            "apns-push-type": "alert",
            "apns-id": str(uuid.uuid4()),
        }
        for name, value in changes.items():
            spelled = f":{name}" if name in ("method", "path") else name.replace("_", "-")
            if value is None:
                headers.pop(spelled, None)
            else:
                headers[spelled] = value
        return list(headers.items())

    def fcm_headers(self, access_token: str, **changes: str) -> list[tuple[str, str]]:
        headers = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "fcm.googleapis.com",
            ":path": f"/v1/projects/{self.ready['fcm']['project_id']}/messages:send",
            "authorization": f"Bearer {access_token}",
            "content-type": "application/json; charset=UTF-8",
        }
        for name, value in changes.items():
            headers[f":{name}" if name in ("method", "path") else name.replace("_", "-")] = value
        return list(headers.items())


class Http2Client:
    """A blocking HTTP/2 client on `h2`: what it is told to send it sends, also when the server would rather not."""

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        *,
        session: ssl.SSLSession | None = None,
        is_settled: bool = True,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        raw = socket.socket()
        if receive_buffer_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        raw.settimeout(WAIT_S)
        try:
            raw.connect(address)
            self.sock = context.wrap_socket(raw, server_hostname=address[0], session=session)
        except BaseException:
            raw.close()
            raise
        self._raw = socket.socket(fileno=os.dup(self.sock.fileno()))
        self._raw.settimeout(WAIT_S)
        self.h2 = h2.connection.H2Connection()
        # The client's own limit check would hide the server's: each test opens as many streams as it wants.
        self.h2.initiate_connection()
        self.replies: dict[int, Reply] = {}
        self.limits: list[int] = []
        self.goaways: list[tuple[int, int, bytes]] = []
        self.is_crediting = True  # window updates for what was read
        self._frames = b""
        self.n_pongs = 0
        self.is_closed = False
        self.close_error: OSError | None = None
        self.flush()
        if is_settled:
            self.wait_until(lambda: bool(self.limits))

    def __enter__(self) -> Http2Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._raw.close()
        self.sock.close()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def send(self, headers: list[tuple[str, str]], body: bytes = b"", *, end: bool = True, flush: bool = True) -> int:
        """One request on a new stream, whatever the server's stream limit says; returns the stream id."""
        stream_id = self.h2.get_next_available_stream_id()
        limit = self.h2.remote_settings.max_concurrent_streams
        self.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
        self.h2.remote_settings.acknowledge()
        self.h2.send_headers(stream_id, headers, end_stream=end and not body)
        self.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = limit
        self.h2.remote_settings.acknowledge()
        for begin in range(0, len(body), 16_384):
            piece = body[begin : begin + 16_384]
            self.h2.send_data(stream_id, piece, end_stream=end and begin + len(piece) == len(body))
        self.replies[stream_id] = Reply()
        if flush:
            self.flush()
        return stream_id

    def ask(self, headers: list[tuple[str, str]], body: bytes = b"") -> Reply:
        """One request and its answer."""
        stream_id = self.send(headers, body)
        self.wait_until(lambda: self.replies[stream_id].is_ended)
        return self.replies[stream_id]

    def wait_ended(self, *stream_ids: int) -> list[Reply]:
        """The replies of these streams, each answered or reset."""
        self.wait_until(lambda: all(self.replies[one].is_ended for one in stream_ids))
        return [self.replies[one] for one in stream_ids]

    def wait_closed(self) -> None:
        """The server has ended the connection; `close_error` says how."""
        self.wait_until(lambda: self.is_closed)

    def ping(self) -> None:
        """A PING has been answered, so everything the server wrote before has been read."""
        wanted = self.n_pongs + 1
        self.h2.ping(b"12345678")
        self.flush()
        self.wait_until(lambda: self.n_pongs >= wanted)

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_true():
            assert not self.is_closed, f"closed: {self.close_error}, goaways {self.goaways}"
            assert time.monotonic() < deadline, "no answer in time"
            self._read()

    def _read(self) -> None:
        try:
            if not self.sock.pending():
                self._raw.recv(1, socket.MSG_PEEK)  # tells RST from FIN, which the ssl module does not
            data = self.sock.recv(65_536)
        except (ssl.SSLError, ConnectionError) as error:
            self.close_error = error
            data = b""
        if not data:
            self.is_closed = True
            return
        for event in self.h2.receive_data(self._without_goaway(data)):
            self._on_event(event)
        with suppress(OSError):  # closed while we wrote; the next read tells how
            self.flush()

    def _without_goaway(self, data: bytes) -> bytes:
        """Whole frames of `data`, GOAWAY taken out: h2 would refuse every answer that comes after it."""
        self._frames += data
        passed = b""
        while len(self._frames) >= 9:
            size = 9 + int.from_bytes(self._frames[:3], "big")
            if len(self._frames) < size:
                break
            frame, self._frames = self._frames[:size], self._frames[size:]
            if frame[3] == 7:
                last_stream_id, code = struct.unpack(">II", frame[9:17])
                self.goaways.append((last_stream_id, code, frame[17:]))
            else:
                passed += frame
        return passed

    def _on_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                reply = self.replies[event.stream_id]
                headers = {name.decode(): value.decode() for name, value in event.headers}
                reply.status = int(headers.pop(":status"))
                reply.headers = headers
            case h2.events.DataReceived():
                self.replies[event.stream_id].body += event.data
                self.replies[event.stream_id].has_empty_data |= not event.data
                if self.is_crediting:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.replies[event.stream_id].is_ended = True
            case h2.events.StreamReset():
                self.replies[event.stream_id].reset_code = int(event.error_code)
                self.replies[event.stream_id].is_ended = True
            case h2.events.RemoteSettingsChanged():
                changed = event.changed_settings.get(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS)
                if changed is not None:
                    self.limits.append(changed.new_value)
            case h2.events.PingAckReceived():
                self.n_pongs += 1
            case _:
                pass


def payload(title: str = "t", body: str = "b", **custom: Any) -> bytes:
    """A good APNs payload."""
    return json.dumps({"aps": {"alert": {"title": title, "body": body}}} | custom, ensure_ascii=False).encode()


def message(**changes: Any) -> bytes:
    """A good FCM body; keywords replace fields of `message`, None leaves one out."""
    fields: dict[str, Any] = {
        "token": "cX9fake_instance0id:APA91bFAKEfakeTOKEN-_00",
        "notification": {"title": "t", "body": "b"},
        "data": {"message_id": str(uuid.uuid4())},
    } | changes
    return json.dumps({"message": {key: value for key, value in fields.items() if value is not None}}).encode()


@contextmanager
def _running(directory: Path, changes: Mapping[str, Any]) -> Iterator[Running]:
    running = Running(msgspec.convert(dict(changes), SimulatorsConfig), directory)
    try:
        yield running
    finally:
        running.stop()


class Judge:
    """The judge of one vendor without sockets, and a clock that stands at NOON until it is moved."""

    NOON_UNIX_S = 1_763_697_600.0  # 2025-11-21 12:00 Asia/Shanghai

    def __init__(self, vendor: str, directory: Path, changes: Mapping[str, Any]) -> None:
        self.clock = Clock(lambda: self.NOON_UNIX_S)
        self.seen: Counter[str] = Counter()
        strict = changes.get("unknown_fields", "refuse") == "refuse"
        table = {key: value for key, value in changes.items() if key not in ("unknown_fields", "region")}
        section = getattr(msgspec.convert({vendor: table}, SimulatorsConfig), vendor)
        region = changes.get("region", PUSH_APIS[vendor].regions_of(section)[0])
        kit = Kit(self.clock, random.Random(1), self.seen, strict, directory, region)
        self.vendor: PushApi = PUSH_APIS[vendor](section, kit)
        self.known = self.vendor.credentials("127.0.0.1", 1)

    def ask(self, path: str, body: Any = b"", *, method: str = "POST", **headers: str) -> Answer:
        """The answer to one request. body: bytes, a dict for a JSON body, a list of pairs for a form."""
        kind = "application/json"
        if isinstance(body, list):
            kind, body = "application/x-www-form-urlencoded", urlencode(body).encode()
        elif not isinstance(body, bytes):
            body = json.dumps(body, ensure_ascii=False).encode()
        sent = {"content_type": kind} | headers
        pairs = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in sent.items() if value)
        return self.vendor.judge(Request(method, path, pairs, body, len(body)), None)

    def events(self, answer: Answer) -> list[str]:
        return [due.event for due in answer.receipts]


class CallbackSink:
    """An HTTP server for receipts: `wait(n)` returns the requests once n are there; it answers `status` and `body`."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.status, self.body = 200, b'{"code":"0","message":"success"}'
        self._arrived = threading.Condition()
        sink = self

        class Answering(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                with sink._arrived:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    sink.requests.append((self.path, headers, body))
                    status, answer = sink.status, sink.body
                    sink._arrived.notify_all()
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self._server.server_port}/cb"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def wait(self, count: int) -> list[tuple[str, dict[str, str], bytes]]:
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests) >= count, WAIT_S), f"{len(self.requests)} came"
            return list(self.requests)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def judge(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Judge]:
    """`judge("huawei", categories=[])`: a judge with these keys of its section. Generated keys are kept per session."""
    directory = tmp_path_factory.getbasetemp() / "judges"
    directory.mkdir(exist_ok=True)
    return lambda vendor, **changes: Judge(vendor, directory, changes)


@pytest.fixture
def callback_sink() -> Iterator[CallbackSink]:
    sink = CallbackSink()
    yield sink
    sink.stop()


@pytest.fixture(scope="session")
def make_payload() -> Callable[..., bytes]:
    return payload


@pytest.fixture(scope="session")
def make_message() -> Callable[..., bytes]:
    return message


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts simulators with their own configuration; stopped at the end of the test."""
    started: list[Running] = []

    def begin(**changes: Any) -> Running:
        running = Running(msgspec.convert(changes, SimulatorsConfig), tmp_path)
        started.append(running)
        return running

    yield begin
    for running in started:
        running.stop()


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = {
        "received": {"keep_texts": True},
        "apns": {
            "fates": [
                {"fate": "Unregistered", "prefixes": ["dead"]},
                {"fate": "ExpiredToken", "prefixes": ["e0"]},
                {"fate": "DeviceTokenNotForTopic", "prefixes": ["f0"]},
                {"fate": "BadDeviceToken", "tokens": ["ba" * 32]},
            ]
        },
    }
    with _running(tmp_path_factory.mktemp("simulators"), config) as running:
        yield running


@pytest.fixture
def running(_shared: Running) -> Iterator[Running]:
    """The simulators shared by a module, reset before each test."""
    assert _shared.control("POST", "/reset")[0] == 200
    yield _shared
    assert _shared.control("DELETE", "/fault")[0] == 200
