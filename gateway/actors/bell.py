"""Bell: how one actor tells another that there is something to do, without queueing anything.

Ringing a rung bell changes nothing, so a bell needs no bound and nobody ever waits for its listener. One listener.
"""

from __future__ import annotations

import trio


class Bell:
    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """The listener's present or next `wait` returns."""
        self._event.set()

    async def wait(self) -> None:
        """Returns once the bell has been rung since the last return. If cancelled: the ring is not lost."""
        await self._event.wait()
        self._event = trio.Event()
