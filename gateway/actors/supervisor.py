"""Supervisor: runs actors; a crash is counted, logged and answered with a restart after a backoff.

An actor's state lives in its object, which outlives the crash of its loop: what it had accepted is still there when the
loop starts again. This is the one place where `except Exception` stands (STYLE.md).

An actor that ends by itself is not restarted. One that crashes `restarts_max` times within `window_s` gives up and
takes the worker down with the last exception: a worker that cannot work must not look alive.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from gateway.clock import Clock

#: Ten crashes a minute are not an accident that the next restart will heal.
RESTARTS_MAX = 10
WINDOW_S = 60.0
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 5.0


class SupervisorObserver(Protocol):
    def crashed(self, actor: str, error: Exception, restart_in_s: float) -> None: ...


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    clock: Clock,
    observer: SupervisorObserver,
    restarts_max: int = RESTARTS_MAX,
) -> None:
    """Runs the actor until it ends by itself or is cancelled.

    Raises the actor's exception when it crashed `restarts_max` times within WINDOW_S.
    If cancelled: the actor is cancelled; it is not restarted.
    """
    crashes: list[float] = []
    while True:
        try:
            await run()
            return
        except Exception as error:
            now = clock.monotonic()
            crashes = [at for at in crashes if now - at < WINDOW_S]
            crashes.append(now)
            backoff_s = min(BACKOFF_FIRST_S * 2 ** (len(crashes) - 1), BACKOFF_MAX_S)
            observer.crashed(name, error, backoff_s)
            if len(crashes) >= restarts_max:
                raise
        await trio.sleep(backoff_s)
