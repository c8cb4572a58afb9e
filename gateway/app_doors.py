"""The listeners of RPC and HTTP: opened at start, closed while a worker drains so that the others get what comes,
opened again where it stays after all. A worker alone opens them for itself; several share each address
(net/shared_listeners.py), and a Unix socket's queue, which the supervisor opened.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import Any, TypeAlias

import trio

from gateway.actors.supervisor import SupervisorObserver, contained
from gateway.app_siblings import Siblings
from gateway.config_sections import Listener
from gateway.config_types import Address
from gateway.errors import ConfigError
from gateway.net import tls
from gateway.net.shared_listeners import AcceptQueue, adopt_listener, open_shared_listeners
from gateway.net.unix import open_unix_listener

Converse: TypeAlias = Callable[[Any], Awaitable[object]]


def server_context(listener: Listener) -> ssl.SSLContext:
    """TLS for a listener. Raises ConfigError for files that cannot be used."""
    try:
        return tls.server_context(
            str(listener.cert_file), None if listener.key_file is None else str(listener.key_file)
        )
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("rpc.listeners[].cert_file", str(listener.cert_file), f"a certificate ({error})") from error


class Doors:
    """Every listener that was opened here, as one. Connections outlive them: they live in the worker's nursery."""

    def __init__(self, siblings: Siblings | None, observer: SupervisorObserver) -> None:
        """observer: told of connections that crashed."""
        self._siblings = siblings
        self._observer = observer
        self._scopes: list[trio.CancelScope] = []

    def close(self) -> None:
        """Nothing is accepted from now on."""
        for scope in self._scopes:
            scope.cancel()

    def reopened(self) -> Doors:
        """Closed ones of the same worker, to be opened anew."""
        return Doors(self._siblings, self._observer)

    async def open_each(
        self, nursery: trio.Nursery, key: str, listeners: Iterable[Listener], converse: Converse
    ) -> list[str]:
        """As `open`, of a list in the configuration."""
        numbered = enumerate(listeners)
        return [await self.open(nursery, f"{key}[{index}].address", one, converse) for index, one in numbered]

    async def open(self, nursery: trio.Nursery, key: str, listener: Listener, converse: Converse) -> str:
        """Accepts on the listener's address; returns it as users write it. Raises: ConfigError, naming the key."""
        address = listener.address
        queues: list[AcceptQueue] = []
        context: ssl.SSLContext | None = None
        if address.scheme == "unix":
            opened: list[Any] = [await self._open_unix(key, address.path)]
            shown = str(address)
        else:
            try:
                opened = list(await self._open_tcp(address))
            except OSError as error:
                raise ConfigError(key, str(address), f"an address to bind ({error.strerror or error})") from error
            if self._siblings is not None:
                queues = [AcceptQueue(each) for each in opened]
            host, port = opened[0].socket.getsockname()[:2]
            shown = str(Address(address.scheme, host, port))
            if address.scheme == "tls":
                context = server_context(listener)
                opened = [trio.SSLListener(each, context) for each in opened]
        scope = trio.CancelScope()
        self._scopes.append(scope)
        nursery.start_soon(functools.partial(self._serve, nursery, scope, opened, converse, queues, context))
        return shown

    async def _serve(
        self,
        nursery: trio.Nursery,
        scope: trio.CancelScope,
        opened: list[Any],
        converse: Converse,
        queues: list[AcceptQueue],
        context: ssl.SSLContext | None,
    ) -> None:
        converse = contained(converse, self._observer)
        try:
            with scope:
                await trio.serve_listeners(converse, opened, handler_nursery=nursery)
        finally:
            # Others get what comes from here on; what is in our queues already would be reset.
            for stream in chain(*(queue.close() for queue in queues)):
                of_peer: Any = stream if context is None else trio.SSLStream(stream, context, server_side=True)
                nursery.start_soon(converse, of_peer)

    async def _open_unix(self, key: str, path: str) -> trio.SocketListener:
        inherited = None if self._siblings is None else self._siblings.unix_listeners.get(path)
        # A copy: the one that was inherited stays for the next time the doors open.
        if inherited is not None:
            return adopt_listener(os.dup(inherited))
        return await open_unix_listener(path, mode=0o600, key=key)

    async def _open_tcp(self, address: Address) -> list[trio.SocketListener]:
        if self._siblings is None:
            return await trio.open_tcp_listeners(address.port, host=address.host)
        await trio.lowlevel.checkpoint()
        return open_shared_listeners(address.host, address.port)
