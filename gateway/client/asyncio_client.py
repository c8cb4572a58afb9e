"""AsyncioClient: the calls of async_calls.py on asyncio. One reader and one writer task per connection."""

from __future__ import annotations

import asyncio
import ssl
from typing import Literal

from gateway.client.address import Address, tls_context
from gateway.client.async_calls import AsyncCalls, Bell, Link
from gateway.client.retry import TIMEOUT_S, Lost
from gateway.errors import CloseReason

_READ_BYTES = 256 << 10


class AsyncioBell:
    """A future that all waiters share and that each ring replaces."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    def ring(self) -> None:
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(None)

    async def wait(self) -> None:
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        # Shielded: one waiter that is cancelled does not cancel it for the others.
        await asyncio.shield(self._future)


class AsyncioClient(AsyncCalls):
    """See AsyncCalls. `async with AsyncioClient(...) as client:`, or call `aclose()` at the end."""

    def __init__(
        self,
        address: str | Address,
        app_key: str = "",
        secret: bytes | None = None,
        *,
        role: Literal["app", "operator"] = "app",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        super().__init__(address, app_key, secret, role=role, timeout_s=timeout_s)
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def __aenter__(self) -> AsyncioClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """close(), and its tasks have ended."""
        tasks = list(self._tasks.values())
        self.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _new_bell(self) -> Bell:
        return AsyncioBell()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _wait(self, bell: Bell, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                await bell.wait()
        except TimeoutError:
            return False
        return True

    async def _open(self, link: Link, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                reader, writer = await self._dial()
        except TimeoutError as error:
            raise Lost(f"{self._address}: no connection in time", reason=CloseReason.CONNECT_TIMEOUT) from error
        except ssl.SSLCertVerificationError as error:
            raise Lost(f"{self._address}: {error}", reason=CloseReason.CERTIFICATE_INVALID) from error
        except OSError as error:
            raise Lost(f"{self._address}: {error}", reason=CloseReason.CONNECT_FAILED) from error
        self._tasks[id(link)] = asyncio.create_task(self._run(link, reader, writer))

    def _shut(self, link: Link) -> None:
        task = self._tasks.pop(id(link), None)
        if task is not None:
            task.cancel()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self._address
        if address.kind == "unix":
            return await asyncio.open_unix_connection(address.path)
        context = tls_context(address) if address.kind == "tls" else None
        return await asyncio.open_connection(address.host, address.port, ssl=context)

    async def _run(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it is lost or shut."""
        writing = asyncio.create_task(self._write(link, writer))
        try:
            await self._read(link, reader)
        finally:
            link.on_events(link.session.peer_closed())
            link.on_lost(Lost(f"{self._address}: closed", reason=CloseReason.PEER_CLOSED))
            writing.cancel()
            transport = writer.transport
            transport.abort()
            await asyncio.gather(writing, return_exceptions=True)

    async def _read(self, link: Link, reader: asyncio.StreamReader) -> None:
        while link.lost is None:
            try:
                data = await reader.read(_READ_BYTES)
            except OSError as error:
                link.on_events(link.session.peer_closed(CloseReason.PEER_RESET), str(error))
                return
            if not data:
                link.on_events(link.session.peer_closed())
                return
            link.on_events(link.session.receive_data(data))
            link.outbox.ring()

    async def _write(self, link: Link, writer: asyncio.StreamWriter) -> None:
        while link.lost is None:
            data = link.session.data_to_send()
            if not data:
                await link.outbox.wait()
                continue
            writer.write(data)
            try:
                await writer.drain()
            except OSError:
                # The reader sees the end of the connection too, and after whatever the server said last.
                return
