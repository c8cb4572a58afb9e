"""How a worker leaves for a restart, while the others go on: `pushgw restart`, one worker's part.

doors closed --> rows finished, devices that are being let in are in --> stop (app.py, `_drain`)
                      |
                      +-- after drain_s there are still rows that are in this memory alone: doors opened again
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from gateway.app import Worker

#: How often the open rows are counted meanwhile.
_LOOK_S = 0.05


async def leave(worker: Worker, spread_s: float, *, may_lose: bool) -> dict[str, int]:
    """The worker stops once no row is left that ends with its process. Otherwise it goes on after `drain_s`, and those
    rows are returned by state. may_lose: it stops in any case.

    If cancelled: its doors stay closed.
    """
    drain_s = worker.config.gateway.drain_s
    worker.log.info("draining for a restart", drain_s=drain_s)
    worker.doors.close()
    worker.rpc.begin_shutdown()
    worker.long_link.edge.stop_listening()
    with trio.move_on_after(drain_s):
        # Devices that have just been accepted are let in, or go on to their owners, rather than being cut off.
        while any(worker.rows_to_lose().values()) or worker.long_link.edge.statistics()["handshaking"]:  # noqa: ASYNC110
            await trio.sleep(_LOOK_S)
    left = {state: rows for state, rows in worker.rows_to_lose().items() if rows}
    if left and not may_lose:
        worker.log.warning("not restarted: rows would be lost", rows_open=left)
        await worker.reopen()
        return left
    worker.stop(spread_s)
    return {}
