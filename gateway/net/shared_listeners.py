"""TCP listeners that several workers share (SO_REUSEPORT), and their addresses, held for as long as the gateway runs.

The kernel spreads connections over the sockets that listen; a worker that is down takes none. The supervisor binds each
address first, without SO_REUSEPORT: two gateways that were given one address would share its connections and nobody
would know. It then keeps a socket bound and not listening: the port stays ours, whichever the system chose, while all
workers are down.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

import trio

from gateway.errors import ConfigError

#: Connections that wait for accept; what the kernel allows (net.core.somaxconn) is the limit in force.
BACKLOG = 4_096


class Reservation(NamedTuple):
    """An address that is ours. sockets: bound, not listening."""

    host: str
    port: int
    sockets: list[socket.socket]

    def close(self) -> None:
        for one in self.sockets:
            one.close()


def reserve(key: str, host: str, port: int) -> Reservation:
    """The address is ours; port 0 has become a number. Raises: ConfigError, naming the key, when it cannot be had."""
    sockets: list[socket.socket] = []
    try:
        for family, place in _places(host, port):
            with _socket(family) as probe:
                probe.bind(place)
                # Of a host with several addresses, all get the port that the first one got.
                port = probe.getsockname()[1]
            held = _socket(family)
            sockets.append(held)
            _hold(held, (place[0], port, *place[2:]))
    except OSError as error:
        for one in sockets:
            one.close()
        raise ConfigError(key, f"{host}:{port}", f"an address to bind ({error.strerror or error})") from error
    return Reservation(str(sockets[0].getsockname()[0]), port, sockets)


def _hold(held: socket.socket, place: tuple[str | int, ...]) -> None:
    """Bound, so that nobody but those who share can bind it too; where connections of an earlier start still linger,
    whoever sets SO_REUSEADDR could, until the first worker listens."""
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    try:
        held.bind(place)
    except OSError:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(place)


def open_shared_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listens beside the other workers on a reserved address. Raises: OSError when it cannot be had."""
    opened: list[trio.SocketListener] = []
    with contextlib.ExitStack() as stack:
        for family, place in _places(host, port):
            listener = stack.enter_context(_socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(place)
            listener.listen(BACKLOG)
            opened.append(trio.SocketListener(trio.socket.from_stdlib_socket(listener)))
        stack.pop_all()
    return opened


class AcceptQueue:
    """The connections that wait in the queue of a listener that is shared. Kept beside it, since who closes the
    listener resets them: the kernel gave them to this worker."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._socket = socket.socket(fileno=os.dup(listener.socket.fileno()))
        self._socket.setblocking(False)

    def close(self) -> list[trio.SocketStream]:
        """No more come here; those that had. Called once the listener is closed."""
        found: list[trio.SocketStream] = []
        # Between the last one and the close there is nothing but calls of the kernel.
        with self._socket, contextlib.suppress(OSError):
            while True:
                found.append(trio.SocketStream(trio.socket.from_stdlib_socket(self._socket.accept()[0])))
        return found


def adopt_listener(fd: int) -> trio.SocketListener:
    """A listening socket that was inherited. The descriptor is this listener's from now on."""
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


def _socket(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _places(host: str, port: int) -> Sequence[tuple[int, tuple[str, int]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, place) for family, _, _, _, place in found))  # type: ignore[misc]
