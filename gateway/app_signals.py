"""A process that serves until SIGTERM or SIGINT: the signals count from before the loop listens until it has ended, so
that one is not lost and a second one does not turn a clean end into "killed"."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import trio

from gateway.errors import GatewayError

END_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Served(Protocol):
    """What serves: a worker, or the supervisor of several."""

    async def run(self, ready: Callable[[Any], None] | None = None) -> None: ...

    def stop(self) -> None: ...


S = TypeVar("S", bound=Served)


def serve_until_signal(
    build: Callable[[], S],
    ready: Callable[[Any], None] | None = None,
    *,
    signals: tuple[signal.Signals, ...] = END_SIGNALS,
    beside: Callable[[S], Awaitable[None]] | None = None,
) -> None:
    """What `build` makes within the loop has served and drained. beside: runs with it; its end is the end of all.

    Raises what they raise; of several errors of the gateway's own at the same time, the first.
    """
    early: list[int] = []
    for number in END_SIGNALS:
        signal.signal(number, lambda number, _: early.append(number) if number in signals else None)
    try:
        trio.run(_serve, build, ready, signals, beside, early)
    except ExceptionGroup as group:
        # Nurseries wrap; a fault that has a name is told by its name.
        _, rest = group.split(GatewayError)
        if rest is not None:
            raise
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from error.__cause__


async def _serve(
    build: Callable[[], S],
    ready: Callable[[Any], None] | None,
    signals: tuple[signal.Signals, ...],
    beside: Callable[[S], Awaitable[None]] | None,
    early: list[int],
) -> None:
    served = build()
    with trio.open_signal_receiver(*signals) as received:
        if early:
            served.stop()
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await served.run(ready)
                nursery.cancel_scope.cancel()

            async def run_beside(beside: Callable[[S], Awaitable[None]]) -> None:
                await beside(served)
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            if beside is not None:
                nursery.start_soon(run_beside, beside)
            async for _ in received:
                served.stop()
