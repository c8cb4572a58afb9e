"""Streams: what the streams of all RPC connections have in common: a bell that credit rings, and an end.

One per service; a stream is named by its connection and the request that began it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import trio

from gateway.actors.bell import Bell
from gateway.actors.rpc_listener import Caller


class _Stream:
    __slots__ = ("bell", "scope")

    def __init__(self) -> None:
        self.bell = Bell()
        self.scope = trio.CancelScope()


class Streams:
    """Bounded by `streams_max` of each connection's session."""

    def __init__(self) -> None:
        self._streams: dict[tuple[Caller, int], _Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    @contextlib.contextmanager
    def open(self, connection: Caller, number: int) -> Iterator[Bell]:
        """The stream is there while the body runs, which ends when the client cancels or is gone. The bell rings when
        there is credit again."""
        stream = _Stream()
        self._streams[connection, number] = stream
        try:
            with stream.scope:
                yield stream.bell
        finally:
            if self._streams.get((connection, number)) is stream:
                del self._streams[connection, number]

    def credited(self, connection: Caller, number: int) -> None:
        found = self._streams.get((connection, number))
        if found is not None:
            found.bell.ring()

    def cancelled(self, connection: Caller, number: int) -> None:
        found = self._streams.pop((connection, number), None)
        if found is not None:
            found.scope.cancel()

    def closed(self, connection: Caller) -> None:
        for key in [key for key in self._streams if key[0] is connection]:
            self._streams.pop(key).scope.cancel()
