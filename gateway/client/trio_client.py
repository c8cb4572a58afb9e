"""TrioClient: the calls of async_calls.py on trio. Two tasks per connection, in the nursery of `open_trio_client`."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import trio

from gateway.client.address import Address, tls_context
from gateway.client.async_calls import AsyncCalls, Bell, Link
from gateway.client.retry import TIMEOUT_S, Lost
from gateway.errors import CloseReason

_READ_BYTES = 256 << 10


@asynccontextmanager
async def open_trio_client(
    address: str | Address,
    app_key: str = "",
    secret: bytes | None = None,
    *,
    role: Literal["app", "operator"] = "app",
    timeout_s: float = TIMEOUT_S,
) -> AsyncIterator[TrioClient]:
    """A client for the block; its connection is closed at the end. Connects at the first call.

    What the block raises comes out as it is: the client's own tasks raise nothing.
    """
    try:
        async with trio.open_nursery() as nursery:
            client = TrioClient(nursery, address, app_key, secret, role=role, timeout_s=timeout_s)
            try:
                yield client
            finally:
                client.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise


class TrioBell:
    """A parking lot; whoever waits wakes at the next ring."""

    __slots__ = ("_lot",)

    def __init__(self) -> None:
        self._lot = trio.lowlevel.ParkingLot()

    def ring(self) -> None:
        self._lot.unpark_all()

    async def wait(self) -> None:
        await self._lot.park()


class TrioClient(AsyncCalls):
    """See AsyncCalls. nursery: lives as long as the client; its cancellation ends the connection."""

    def __init__(
        self,
        nursery: trio.Nursery,
        address: str | Address,
        app_key: str = "",
        secret: bytes | None = None,
        *,
        role: Literal["app", "operator"] = "app",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        super().__init__(address, app_key, secret, role=role, timeout_s=timeout_s)
        self._nursery = nursery
        self._scopes: dict[int, trio.CancelScope] = {}

    def _new_bell(self) -> Bell:
        return TrioBell()

    def _now(self) -> float:
        return trio.current_time()

    async def _sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def _wait(self, bell: Bell, deadline: float) -> bool:
        with trio.move_on_at(deadline) as scope:
            await bell.wait()
        return not scope.cancelled_caught

    async def _open(self, link: Link, deadline: float) -> None:
        with trio.move_on_at(deadline):
            try:
                stream = await self._dial()
            except ssl.SSLCertVerificationError as error:
                raise Lost(f"{self._address}: {error}", reason=CloseReason.CERTIFICATE_INVALID) from error
            except trio.BrokenResourceError as error:
                cause = error.__cause__
                broken = isinstance(cause, ssl.SSLCertVerificationError)
                reason = CloseReason.CERTIFICATE_INVALID if broken else CloseReason.CONNECT_FAILED
                raise Lost(f"{self._address}: {cause or error}", reason=reason) from error
            except OSError as error:
                raise Lost(f"{self._address}: {error}", reason=CloseReason.CONNECT_FAILED) from error
            self._scopes[id(link)] = trio.CancelScope()
            self._nursery.start_soon(self._run, link, stream, self._scopes[id(link)])
            return
        raise Lost(f"{self._address}: no connection in time", reason=CloseReason.CONNECT_TIMEOUT)

    def _shut(self, link: Link) -> None:
        scope = self._scopes.pop(id(link), None)
        if scope is not None:
            scope.cancel()

    async def _dial(self) -> trio.abc.Stream:
        address = self._address
        if address.kind == "unix":
            return await trio.open_unix_socket(address.path)
        context = tls_context(address) if address.kind == "tls" else None
        stream = await trio.open_tcp_stream(address.host, address.port)
        if context is None:
            return stream
        secure = trio.SSLStream(stream, context, server_hostname=address.host, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(secure)
            raise
        return secure

    async def _run(self, link: Link, stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
        """One connection, until it is lost or shut. Raises nothing of its own."""
        with scope:
            try:
                async with trio.open_nursery() as both:
                    both.start_soon(self._write, link, stream)
                    await self._read(link, stream)
                    both.cancel_scope.cancel()
            finally:
                link.on_events(link.session.peer_closed())
                link.on_lost(Lost(f"{self._address}: closed", reason=CloseReason.PEER_CLOSED))
                await trio.aclose_forcefully(stream)

    async def _read(self, link: Link, stream: trio.abc.Stream) -> None:
        while link.lost is None:
            try:
                data = await stream.receive_some(_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                link.on_events(link.session.peer_closed(CloseReason.PEER_RESET), str(error))
                return
            if not data:
                link.on_events(link.session.peer_closed())
                return
            link.on_events(link.session.receive_data(data))
            link.outbox.ring()

    async def _write(self, link: Link, stream: trio.abc.Stream) -> None:
        while link.lost is None:
            data = link.session.data_to_send()
            if not data:
                await link.outbox.wait()
                continue
            try:
                await stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # The reader sees the end of the connection too, and after whatever the server said last.
                await trio.sleep(math.inf)
