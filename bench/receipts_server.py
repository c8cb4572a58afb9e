"""The gateway of `bench receipts`, in a process of its own: a worker with its receipts listener, and pages whose rows a
vendor has taken. Says on stdout where it listens and which batches it has; answers each line on stdin with its counts.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trio

from bench.receipts_workload import BATCH_ROWS, CHANNELS, token_of
from gateway.app import Ready, Worker, load
from gateway.batch import Batch
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.ledger import Channel, Reason, State
from gateway.observe.metrics import RECEIPT_OUTCOMES


def _open_pages(worker: Worker, channel: Channel, n: int) -> list[list[int]]:
    """n batches whose rows that vendor has taken; their addresses."""
    addresses = []
    now = worker.clock.monotonic()
    tokens = TextColumn.from_texts(token_of(channel, row) for row in range(BATCH_ROWS))
    hashes = worker.devices.hash_tokens(channel, tokens, 0)
    for _ in range(n):
        batch = Batch(
            worker.home.next_address(worker.clock.unix_ms(), now),
            0,
            now,
            BATCH_ROWS,
            device_ids=np.zeros((BATCH_ROWS, 16), np.uint8),
            message_ids=np.zeros((BATCH_ROWS, 16), np.uint8),
            variants=[Variant("title", "body")],
            channels=np.full(BATCH_ROWS, channel, np.uint8),
            tokens=tokens,
        )
        page = worker.home.open(batch, now)
        rows = np.arange(BATCH_ROWS)
        page.channel[:], page.token_hashes[:] = channel, hashes
        worker.home.move(page, rows, State.IN_FLIGHT, Reason.NONE, now)
        worker.home.move(page, rows, State.VENDOR_ACCEPTED, Reason.NONE, now)
        addresses.append([batch.address.unix_ms, batch.address.journal, batch.address.sequence])
    return addresses


def _counts(worker: Worker) -> dict[str, Any]:
    counter = worker.metrics.vendor_receipts
    return {
        "longest_step_ms": round(worker.metrics.longest_step_s.value() * 1000, 2),
        "outcomes": {name: sum(int(counter.value(channel, name)) for channel in CHANNELS) for name in RECEIPT_OUTCOMES},
    }


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def _answer(worker: Worker, pages: int, scope: trio.CancelScope, ready: Ready) -> None:
    batches = {channel.name.lower(): _open_pages(worker, channel, pages) for channel in CHANNELS}
    await trio.lowlevel.checkpoint()
    # What it took to fill the pages is no step of the gateway's.
    worker.metrics.longest_step_s.set(0.0)
    _say({"address": ready.receipts[0], "batches": batches})
    while await trio.to_thread.run_sync(sys.stdin.readline):
        _say(_counts(worker))
    scope.cancel()


async def _run(config_file: str, pages: int) -> None:
    worker = Worker(load(config_file))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            worker.run, lambda ready: nursery.start_soon(_answer, worker, pages, nursery.cancel_scope, ready)
        )


if __name__ == "__main__":
    file = Path(sys.argv[1])
    trio.run(partial(_run, str(file), int(sys.argv[2])))
