"""How a worker leaves for a restart, while the others go on: `pushgw restart`, one worker's part.

doors closed --> rows finished, devices that are being let in are in --> devices sent away, evenly --> stop (`_drain`)
clients told          |                                                  (new ids of apps in memory are declined)
                      +-- after drain_s there are still rows that are in this memory alone: doors opened again

Devices go first, while the worker still is the home of its request ids: sending them away takes seconds, and whoever
submits would wait for all of them. Apps on the disk go on as before, what is held for a phone that has gone is in the
journal; apps in memory would lose it, so what they submit from then on others take (core/request_homes.py).

Clients are told before they are turned away: one that hears it goes on elsewhere and meets no closed connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import trio

from gateway.core.report import open_rows
from gateway.ledger import LedgerPage, State

if TYPE_CHECKING:
    from gateway.app import Worker

#: How often the open rows are counted meanwhile.
_LOOK_S = 0.05
#: From telling clients that their connections end to ending them: a network's round trip, which is one for all.
_MOVE_S = 0.2
#: The long link's own end, beside its drain and its spread.
_GRACE_S = 1.0


async def leave(worker: Worker, spread_s: float, *, may_lose: bool) -> dict[str, int]:
    """The worker stops, its devices closed evenly over spread_s, once no row is left that ends with its process.
    Otherwise it goes on after `drain_s`, and those rows are returned by state. may_lose: it stops in any case.

    If cancelled: its doors stay closed.
    """
    drain_s = worker.config.gateway.drain_s
    worker.log.info("draining for a restart", drain_s=drain_s)
    worker.doors.close()
    worker.rpc.begin_leaving()
    worker.long_link.edge.stop_listening()
    with trio.move_on_after(drain_s):
        await trio.sleep(_MOVE_S)
        worker.rpc.begin_shutdown()
        # Devices that have just been accepted are let in, or go on to their owners, rather than being cut off.
        while has_rows_to_lose(worker) or worker.long_link.edge.statistics()["handshaking"]:  # noqa: ASYNC110
            await trio.sleep(_LOOK_S)
    left = {}
    if has_rows_to_lose(worker):
        left = {state: rows for state, rows in rows_to_lose(worker).items() if rows}
    if left and not may_lose:
        worker.log.warning("not restarted: rows would be lost", rows_open=left)
        await worker.reopen()
        return left
    worker.intake.stop_in_memory()
    if worker.config.long_link.listeners:
        worker.long_link.stop(drain_s, spread_s)
        with trio.move_on_after(drain_s + spread_s + _GRACE_S):
            await worker.long_link.wait_stopped()
    worker.stop()
    return {}


def has_rows_to_lose(worker: Worker) -> bool:
    """As `rows_to_lose`, asked again and again: pages are only looked at where some of their rows are safe elsewhere.
    Every page of the ledger is one for a worker that has long been at work: 14 ms for three thousand."""
    n_open = worker.home.rows_open + (0 if worker.joint is None else worker.home.shadows.rows_open)
    if not n_open or (worker.disk is None and worker.stores.ledger is None):
        return bool(n_open)
    return any(rows_to_lose(worker).values())


def rows_to_lose(worker: Worker) -> dict[str, int]:
    """Open rows that end with this process, those that it holds for others included, by state: what is in its memory
    alone. What a journal on the disk has goes on, but for rows that are with a vendor or a device now: nobody would
    hear what became of them."""
    here = worker.rows_open()
    here["held"] -= worker.stores.rows_at_rest(worker.home)
    for page in worker.home.pages():
        if page.trail is not None and page.n_open and not (worker.stores.ledger is not None and page.rests):
            _leave_out(here, page)
    if worker.joint is not None:
        for state, rows in open_rows(worker.home.shadows).items():
            here[state] += rows
        for shadow in worker.home.shadows:
            if shadow.asked is not None:
                _leave_out(here, shadow)
    return here


def _leave_out(rows: dict[str, int], page: LedgerPage) -> None:
    """The page's rows are in a journal."""
    for state in (State.QUEUED, State.HELD, State.WAITING):
        rows[state.name.lower()] -= int(page.counts[state])
    if page.away is not None:
        is_elsewhere = (page.state == State.IN_FLIGHT) & (page.away != 0)
        rows["in_flight"] -= int(np.count_nonzero(is_elsewhere))


async def wait_told(worker: Worker, deadline: float) -> None:
    """No row that the journal calls issued is with another worker any more, unless that takes longer: while all of them
    drain, they say what became of it. If cancelled: some are."""
    disk, joint = worker.disk, worker.joint
    if disk is None or joint is None:
        return
    with trio.move_on_at(deadline):
        while disk.trail.issued_rows() and joint.links.lives():  # noqa: ASYNC110 - once, at the end
            await trio.sleep(0.01)
    # Another one that drains, too, may ask for more until this process has ended.
    joint.spread.holders.marks.close()
