"""Doors: listeners over real sockets; what one connection brings is its own affair."""

from __future__ import annotations

import trio

from gateway.app_doors import Doors
from gateway.config_sections import Listener
from gateway.config_types import Address


class Crashes:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def crashed(self, actor: str, error: Exception, restart_in_s: float) -> None:
        self.told.append((actor, str(error)))


async def test_connection_that_crashes_leaves_the_door_open_and_the_others_connected() -> None:
    async def converse(stream: trio.SocketStream) -> None:
        while data := await stream.receive_some():
            if data == b"strange":
                raise IndexError("nobody thought of that")
            await stream.send_all(data)

    crashes = Crashes()
    async with trio.open_nursery() as nursery:
        doors = Doors(None, crashes)
        shown = await doors.open(
            nursery, "rpc.listeners[0].address", Listener(address=Address("tcp", "127.0.0.1", 0)), converse
        )
        port = int(shown.rpartition(":")[2])
        with trio.fail_after(60):
            async with (
                await trio.open_tcp_stream("127.0.0.1", port) as early,
                await trio.open_tcp_stream("127.0.0.1", port) as strange,
            ):
                await strange.send_all(b"strange")
                assert await strange.receive_some() == b""
                async with await trio.open_tcp_stream("127.0.0.1", port) as late:
                    for stream in (early, late):
                        await stream.send_all(b"hello")
                        assert await stream.receive_some() == b"hello"
        assert crashes.told == [("connection", "nobody thought of that")]
        nursery.cancel_scope.cancel()
