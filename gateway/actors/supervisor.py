"""Supervisor: runs actors; a crash is counted, logged and answered with a restart after a backoff.

An actor's state lives in its object, which outlives the crash of its loop: what it had accepted is still there when the
loop starts again. This is the one place where `except Exception` stands (STYLE.md).

A connection is no actor: whatever a peer has sent that nobody thought of, it ends the peer's own connection, counted
and logged like a crash (`contained`), and not the worker with everybody else's.

Nor is a request: a bug that one of them meets is its answer (`answered`), and other requests go on.

An actor that ends by itself is not restarted. One that crashes `restarts_max` times within `window_s` gives up and
takes the worker down with the last exception: a worker that cannot work must not look alive (core/restarts.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import trio

from gateway.clock import Clock
from gateway.core.restarts import CRASHES_MAX, Restarts

StreamT = TypeVar("StreamT")


class SupervisorObserver(Protocol):
    def crashed(self, actor: str, error: Exception, restart_in_s: float) -> None: ...


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    clock: Clock,
    observer: SupervisorObserver,
    restarts_max: int = CRASHES_MAX,
) -> None:
    """Runs the actor until it ends by itself or is cancelled.

    Raises the actor's exception when it crashed `restarts_max` times within WINDOW_S.
    If cancelled: the actor is cancelled; it is not restarted.
    """
    restarts = Restarts(restarts_max)
    while True:
        try:
            await run()
            return
        except Exception as error:
            backoff_s = restarts.on_crash(clock.monotonic())
            observer.crashed(name, error, backoff_s)
            if restarts.is_over:
                raise
        await trio.sleep(backoff_s)


def contained(
    converse: Callable[[StreamT], Awaitable[object]], observer: SupervisorObserver
) -> Callable[[StreamT], Awaitable[None]]:
    """The same handler of one connection, whose crash ends that connection alone. If cancelled: as the handler."""

    async def converse_contained(stream: StreamT) -> None:
        try:
            await converse(stream)
        except Exception as error:
            # Whoever was connected connects again; there is nothing to restart.
            observer.crashed("connection", error, 0.0)

    return converse_contained


async def answered(
    work: Callable[[], Awaitable[object]], refuse: Callable[[], object], observer: SupervisorObserver
) -> None:
    """The work for one request, whose crash is counted and logged, and ends this request alone.

    refuse: answers it then. If cancelled: as the work.
    """
    try:
        await work()
    except Exception as error:
        observer.crashed("request", error, 0.0)
        refuse()
