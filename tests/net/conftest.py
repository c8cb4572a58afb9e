"""An edge driven by hand for tests of what is below MQTT, clients that do not block its thread, and a certificate."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import CloseReason
from gateway.net.edge import Edge
from gateway.net.edge_settings import EdgeSettings, ListenerSettings
from gateway.net.edge_table import CLOSE_REASON_INDEX, ConnectionTable, Count


class Bench:
    """An edge whose MQTT is the test: it keeps what comes up, and can echo it. `now` is set by hand."""

    def __init__(self, *listeners: ListenerSettings, **limits: Any) -> None:
        settings = EdgeSettings(listeners=listeners, **limits)
        self.now = 100.0
        self.table = ConnectionTable(settings.files_max, settings.connections_max, now=self.now)
        self.edge = Edge(settings, self.table)
        self.addresses = self.edge.listen()
        self.clients: list[socket.socket] = []
        self.received: dict[int, bytes] = {}
        self.echoes = False

    def connect(self, listener: int = 0) -> socket.socket:
        client = socket.create_connection(self.addresses[listener], timeout=5)
        self.clients.append(client)
        return client

    def turn(self, wait_s: float = 0.05) -> None:
        select.select([self.edge.fileno()], [], [], wait_s)
        reads = self.edge.poll(self.now)
        # MQTT may put reads off; a connection must not end before what came last is dealt with
        assert not set(reads.fds) & {fd for fd, _ in reads.ended}
        fours = [word.tobytes() for word in reads.fours.words]
        for fd, data in zip(reads.fds + reads.fours.fds.tolist(), reads.data + fours, strict=True):
            self.received[fd] = self.received.get(fd, b"") + data
            if self.echoes:
                self.edge.write(fd, data, self.now)
        for fd, reason in reads.ended:
            if self.table.state_at[fd]:
                self.edge.close(fd, reason)
        self.edge.accept(self.now)

    def until(self, is_so: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not is_so():
            assert time.monotonic() < deadline, "nothing came of it in ten seconds"
            self.turn()

    def until_open(self, n: int) -> None:
        self.until(lambda: self.table.n_open == n)

    def closed(self) -> dict[CloseReason, int]:
        return {reason: int(n) for reason, at in CLOSE_REASON_INDEX.items() if (n := self.table.closed[at])}

    def count(self, counter: Count) -> int:
        return int(self.table.counts[counter])

    def dispose(self) -> None:
        for client in self.clients:
            client.close()
        self.edge.close_some(CloseReason.SHUTDOWN, self.table.files_max)
        self.edge.dispose()


class TlsClient:
    """A TLS client that never blocks the thread of the edge. earlier: one whose session it asks to resume."""

    def __init__(
        self,
        bench: Bench,
        certificate: Path,
        *,
        listener: int = 0,
        before: bytes = b"",
        earlier: TlsClient | None = None,
        **options: Any,
    ) -> None:
        context = earlier.tls.context if earlier else ssl.create_default_context(cafile=certificate)
        for name, value in options.items():
            setattr(context, name, value)
        self._bench = bench
        self.socket = bench.connect(listener)
        self.socket.sendall(before)
        self.socket.setblocking(False)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = earlier.tls.session if earlier else None
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost", session=session)
        self.chunk = 1 << 20

    def _pump(self) -> None:
        data = self._outgoing.read()
        for at in range(0, len(data), self.chunk):
            self.socket.sendall(data[at : at + self.chunk])
            self._bench.turn()
        self._bench.turn(0.01)
        try:
            came = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        if came:
            self._incoming.write(came)
        else:
            self._incoming.write_eof()

    def act(self, call: Callable[[], Any]) -> Any:
        """What the call returns once the socket has brought what it needs."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                result = call()
            except ssl.SSLWantReadError:
                self._pump()
            else:
                self._pump()
                return result
        raise AssertionError("no answer in ten seconds")

    def flush(self) -> None:
        """What TLS has to say is with the kernel; the edge has no turn."""
        self.socket.sendall(self._outgoing.read())

    def shake_hands(self) -> None:
        self.act(self.tls.do_handshake)

    def send(self, data: bytes) -> None:
        self.act(lambda: self.tls.write(data))

    def receive(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            data += self.act(lambda: self.tls.read(1 << 16))
        return data


@pytest.fixture
def start() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*listeners: ListenerSettings, **limits: Any) -> Bench:
        made.append(Bench(*listeners, **limits))
        return made[-1]

    yield make
    for bench in made:
        bench.dispose()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory, write_certificate: Callable[..., Path]) -> Path:
    return write_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


@pytest.fixture
def tls(certificate: Path) -> ListenerSettings:
    return ListenerSettings(port=0, cert_file=str(certificate))


@pytest.fixture(scope="session")
def tls_client() -> type[TlsClient]:
    return TlsClient
