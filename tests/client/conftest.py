"""A small RPC server on real sockets, built from ServerSession: what the three clients are tested against."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.actors.presence_stream import begun as presence_begun
from gateway.actors.receipt_stream import begun as receipts_begun
from gateway.batch import Submission
from gateway.errors import CloseReason
from gateway.wire.rpc import messages as m
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.limits import RpcLimits
from gateway.wire.rpc.registration import check_registration, devices_registered
from gateway.wire.rpc.server import Event, Requested, ServerSession, StreamCancelled, StreamCredited
from gateway.wire.rpc.submit import check_submit, submit_digest, submitted

SECRETS = {"shop": [b"shop secret"], "": [b"admin key"]}


class SmallServer:
    """One thread per connection. `script`: what to do with the next submits instead of answering them.

    overloaded, overloaded_for_long, shutting_down: that error. silence: no answer.
    lose_before, lose_after: the connection, before or after the submit was taken.
    leave: answer, and say that this connection ends soon; it serves on.
    hold_credit: answer, but give the credit back only at the next call of another kind.
    """

    def __init__(
        self, listener: socket.socket, limits: RpcLimits, tls: ssl.SSLContext | None, *, trusted: bool
    ) -> None:
        self.limits = limits
        self.script: deque[str] = deque()
        self.submissions: list[Submission] = []
        self.requests: list[m.Message] = []
        self.events: list[Event] = []
        self.connections = 0
        self.closed: list[CloseReason | None] = []
        self.stream_pages = 6
        self.pages_per_connection = 10**6
        self._answers: dict[str, tuple[bytes, m.Submitted]] = {}
        self._lock = threading.Lock()
        self._tls = tls
        self._trusted = trusted
        self._listener = listener
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._is_stopping = False
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def stop(self) -> None:
        self._is_stopping = True
        self._listener.close()
        self.drop_connections()
        self._thread.join(5)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()

    def drop_connections(self) -> None:
        with self._lock:
            for connection in list(self._open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        self._listener.settimeout(0.05)
        while not self._is_stopping:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        with self._lock:
            self._open.add(connection)
            self.connections += 1
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._talk(connection)
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _talk(self, connection: socket.socket) -> None:
        session = ServerSession(
            self.limits,
            lookup_secret=lambda app_key: SECRETS.get(app_key, []),
            nonce=os.urandom(32),
            now=time.monotonic(),
            has_trusted_peer=self._trusted,
        )
        service = _Service(self, session)
        while True:
            data = session.data_to_send()
            if data:
                connection.sendall(data)
            if session.close_reason is not None:
                break
            data = connection.recv(1 << 16)
            if not data:
                session.peer_closed()
                break
            with self._lock:
                for event in session.receive_data(data, time.monotonic()):
                    self.events.append(event)
                    if not service.on_event(event):
                        # What was written before still goes out.
                        connection.sendall(session.data_to_send())
                        return
        self.closed.append(session.close_reason)


class _Service:
    """What one connection's requests mean."""

    def __init__(self, server: SmallServer, session: ServerSession) -> None:
        self.server = server
        self.session = session
        self.held: list[tuple[int, int]] = []
        self.streams: dict[int, int] = {}
        self.of_presence: set[int] = set()
        self.sent = 0

    def on_event(self, event: Event) -> bool:
        """False: the connection is dropped here."""
        if isinstance(event, StreamCredited):
            return self.feed(event.id)
        if isinstance(event, StreamCancelled):
            self.streams.pop(event.id, None)
        if not isinstance(event, Requested):
            return True
        message = event.message
        self.server.requests.append(message)
        match message:
            case m.Submit():
                return self.on_submit(message, event)
            case m.SubscribeReceipts():
                if message.cursor == b"old":
                    self.session.send(m.Error(id=message.id, code="cursor_expired", text="too old"))
                    return True
                self.streams[message.id] = int(message.cursor or b"0")
                self.session.send(receipts_begun(message.id, message.cursor or b"0"))
                return self.feed(message.id)
            case m.SubscribePresence():
                self.streams[message.id] = int(message.cursor or b"0")
                self.of_presence.add(message.id)
                self.session.send(presence_begun(message.id, message.cursor or b"0"))
                return self.feed(message.id)
            case m.RegisterDevices():
                self.session.send(devices_registered(message, check_registration(message)))
            case m.ClockAdvance() if self.server.script:
                return self.server.script.popleft() != "lose_after"
            case _:
                self.session.send(ANSWERS[type(message)](message))
                for rows, size in self.held:
                    self.session.grant(rows, size)
                self.held.clear()
        return True

    def on_submit(self, message: m.Submit, event: Requested) -> bool:
        todo = self.server.script.popleft() if self.server.script else ""
        if todo in ("overloaded", "shutting_down", "overloaded_for_long"):
            retry_ms = 60_000 if todo == "overloaded_for_long" else 5
            code: Any = todo.removesuffix("_for_long")
            self.session.send(m.Error(id=message.id, code=code, text="later", retry_after_ms=retry_ms))
            return True
        if todo == "lose_before":
            return False
        if todo == "silence":
            return True
        answer = self.take(message)
        if todo == "lose_after":
            return False
        self.session.send(answer)
        if todo == "leave":
            self.session.begin_leaving()
        if todo == "hold_credit":
            self.held.append((message.n, event.payload_bytes))
        elif isinstance(answer, m.Submitted):
            self.session.grant(message.n, event.payload_bytes)
        return True

    def take(self, message: m.Submit) -> m.Submitted | m.Error:
        known = self.server._answers.get(message.request_id)
        digest = submit_digest(message)
        if known is not None:
            if known[0] != digest:
                return m.Error(id=message.id, code="request_id_reused", text="other body")
            return m.Submitted(
                id=message.id,
                task_id=known[1].task_id,
                accepted=known[1].accepted,
                refused=known[1].refused,
                refused_count=known[1].refused_count,
            )
        try:
            submission = check_submit(message, limits=self.server.limits)
        except BadRequest as error:
            return m.Error(id=message.id, code=error.code, text=error.text, field=error.field)
        self.server.submissions.append(submission)
        answer = submitted(message, submission, len(self.server.submissions).to_bytes(16, "big"))
        if message.request_id:
            self.server._answers[message.request_id] = (digest, answer)
        return answer

    def feed(self, stream: int) -> bool:
        """Pages of one row each, numbered by their cursor, as far as credit and the script go."""
        while (
            stream in self.streams
            and self.session.stream_credit(stream)
            and self.streams[stream] < self.server.stream_pages
        ):
            if self.sent == self.server.pages_per_connection:
                return False
            self.sent += 1
            self.streams[stream] += 1
            number = self.streams[stream]
            if stream in self.of_presence:
                self.session.send(
                    m.PresenceChanges(
                        id=stream,
                        cursor=str(number).encode(),
                        n=1,
                        device_ids=memoryview(number.to_bytes(16, "big")),
                        change=memoryview(b"\1"),
                        state=memoryview(b"\0"),
                        at_unix_ms=memoryview(number.to_bytes(8, "little")),
                    )
                )
                continue
            self.session.send(
                m.Receipts(
                    id=stream,
                    cursor=str(number).encode(),
                    n=1,
                    message_ids=memoryview(number.to_bytes(16, "big")),
                    device_ids=memoryview(bytes(16)),
                    state=memoryview(b"\x05"),
                    reason=memoryview(b"\0"),
                    receipt=memoryview(b"\1"),
                    channel=memoryview(b"\1"),
                    at_unix_ms=memoryview(number.to_bytes(8, "little")),
                )
            )
        return True


EMPTY = memoryview(b"")
ANSWERS: dict[type, Callable[[Any], Any]] = {
    m.TaskState: lambda q: (
        m.Error(id=q.id, code="not_found", text="no such task")
        if q.task_id == bytes(16)
        else m.TaskCounts(
            id=q.id,
            task_id=q.task_id,
            accepted=1,
            states={"queued": 1},
            channels={},
            reasons={},
            receipts={},
            is_routed=True,
            is_final=True,
        )
    ),
    m.TaskRows: lambda q: m.TaskRowPage(
        id=q.id,
        n=0,
        row=EMPTY,
        state=EMPTY,
        reason=EMPTY,
        channel=EMPTY,
        receipt=EMPTY,
        flags=EMPTY,
        attempts=EMPTY,
        device_ids=EMPTY,
        message_ids=EMPTY,
    ),
    m.Trace: lambda q: m.TraceHops(
        id=q.id, task_id=bytes(16), message_id=q.message_id or bytes(16), hops=[m.Hop(at_unix_ms=1, what="submitted")]
    ),
    m.Device: lambda q: m.DeviceFound(id=q.id, device_id=q.device_id or bytes(16), facts={"alias": q.alias}),
    m.Status: lambda q: m.GatewayStatus(id=q.id, facts={"devices": 2}),
    m.ClockAdvance: lambda q: m.ClockAdvanced(id=q.id, now_unix_ms=int(q.seconds * 1000)),
    m.SubmitAudience: lambda q: m.AudienceSubmitted(id=q.id, task_id=bytes(16), devices=len(q.tag)),
    m.Restart: lambda q: m.Restarted(id=q.id, workers=[m.WorkerRestart(0, "restarted", {}, 5)]),
}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rpc test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def make_server(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[Callable[..., tuple[SmallServer, str]]]:
    """make_server(kind, **limits) -> (server, address); kind: tcp, tls, unix, operator (a Unix socket that trusts)."""
    made: list[SmallServer] = []

    def make(kind: str = "tcp", **limits: Any) -> tuple[SmallServer, str]:
        context = None
        if kind in ("unix", "operator"):
            path = tmp_path / f"{len(made)}.sock"
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            address = f"unix://{path}"
        else:
            listener = socket.create_server(("127.0.0.1", 0))
            address = f"{kind}://127.0.0.1:{listener.getsockname()[1]}"
        if kind == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            address += f"?ca={certificate[0]}"
        listener.listen()
        server = SmallServer(listener, RpcLimits(**limits), context, trusted=kind == "operator")
        made.append(server)
        return server, address

    yield make
    for server in made:
        server.stop()
