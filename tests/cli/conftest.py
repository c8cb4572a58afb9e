"""A gateway to talk to: the server's session machine on a real socket, answering as a test says."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.wire.rpc.limits import RpcLimits
from gateway.wire.rpc.messages import Answer, Message, Receipts
from gateway.wire.rpc.server import Closed, Requested, ServerSession

SECRET = b"the secret of the shop"
CONFIG = """
[gateway]
data_dir = "data"

[[rpc.listeners]]
address = "tcp://127.0.0.1:{port}"

[[long_link.listeners]]
address = "tcp://0.0.0.0:18830"

[[apps]]
key = "shop"
secrets = [{{ file = "shop.secret" }}]
"""


class ScriptedGateway:
    """Listens on a free port and on a Unix socket; `on[RequestClass]` gives each request its answer."""

    def __init__(self, directory: Path) -> None:
        self.on: dict[type[Message], Callable[[Message], Message]] = {}
        self.seen: list[Message] = []
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self._tcp.getsockname()[1]
        self.operator_path = directory / "operator.sock"
        self._unix = socket.socket(socket.AF_UNIX)
        self._unix.bind(str(self.operator_path))
        self._unix.listen()
        self._threads = [
            threading.Thread(target=self._accept, args=(self._tcp, False), daemon=True),
            threading.Thread(target=self._accept, args=(self._unix, True), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        for listener in (self._tcp, self._unix):
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self, listener: socket.socket, is_operator: bool) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                self._serve(connection, is_operator)

    def _serve(self, connection: socket.socket, is_operator: bool) -> None:
        session = ServerSession(
            RpcLimits(),
            lookup_secret=lambda key: [SECRET] if key == "shop" else [],
            nonce=os.urandom(32),
            now=time.monotonic(),
            has_trusted_peer=is_operator,
        )
        while True:
            connection.sendall(session.data_to_send())
            data = connection.recv(1 << 16)
            if not data:
                return
            for event in session.receive_data(data, time.monotonic()):
                if isinstance(event, Requested):
                    self.seen.append(event.message)
                    answer = self.on[type(event.message)](event.message)
                    assert isinstance(answer, (Answer, Receipts))
                    session.send(answer)
                elif isinstance(event, Closed):
                    connection.sendall(session.data_to_send())
                    return


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[ScriptedGateway]:
    gateway = ScriptedGateway(tmp_path)
    yield gateway
    gateway.close()


@pytest.fixture
def config_file(tmp_path: Path, scripted: ScriptedGateway) -> Path:
    """A configuration whose RPC listener and operator socket are the scripted gateway's."""
    (tmp_path / "shop.secret").write_bytes(SECRET + b"\n")
    file = tmp_path / "gateway.toml"
    file.write_text(CONFIG.format(port=scripted.port) + '\n[operator]\nsocket = "operator.sock"\n')
    return file
