"""The parts of a worker that hear of receipts: the listener of vendors, the desk, and the way to other workers."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import vendors.receipts
from gateway.actors.receipt_desk import ReceiptDesk
from gateway.actors.report_post import ReportPost
from gateway.actors.token_guard import TokenGuard
from gateway.actors.worker_links import Reply, WorkerLinks
from gateway.api.receipts import Endpoint, ReceiptsSite
from gateway.columns import U8, Rows
from gateway.config import message_id_secret
from gateway.config_settings import guard_settings, receipt_settings
from gateway.config_types import Secret
from gateway.core.ownership import Ownership, split_by_owner
from gateway.core.shadow import Life
from gateway.ledger import CHANNEL_NAMES, Channel
from gateway.message_id import BatchAddress
from gateway.observe.receipts import ReceiptCounts, ReceiptGuardCounts
from gateway.regions import vendor_name

if TYPE_CHECKING:
    from gateway.app import Worker

#: Reports on their way to other workers.
_POST_ROWS_MAX = 200_000


class OtherWorkers:
    """Where rows and devices of other workers are; the desk's neighbours."""

    def __init__(self, ownership: Ownership, post: ReportPost, *, node: int, me: int) -> None:
        self._ownership = ownership
        self._post = post
        self._node = node
        self._me = me

    def worker_of(self, batch: BatchAddress) -> int | None:
        worker = self._ownership.worker_of_journal(batch.journal, self._node)
        # A journal of this worker's that it does not have open is nobody's.
        return None if worker == self._me else worker

    def split(self, device_ids: U8) -> tuple[Rows, list[tuple[int, Rows]]]:
        return split_by_owner(self._ownership.owners(np.ascontiguousarray(device_ids)), self._me)

    def send(self, worker: int, what: str, head: dict[str, Any], body: bytes, rows: int) -> bool:
        return self._post.send(worker, what, head, body, rows)


def answer_with_desk(links: WorkerLinks, desk: ReceiptDesk) -> None:
    """What other workers send is dealt with by the desk, and answered at once."""

    def take(
        apply: Callable[[dict[str, Any], memoryview], None],
        _life: Life,
        head: dict[str, Any],
        body: memoryview,
        reply: Reply,
    ) -> None:
        apply(head, body)
        reply(b"")

    links.answer_with("receipts", functools.partial(take, desk.on_reports))
    links.answer_with("held_receipts", functools.partial(take, desk.on_held_reports))
    links.answer_with("device_words", functools.partial(take, desk.on_words))


class Receipts:
    """Of one worker."""

    def __init__(self, worker: Worker) -> None:
        config = worker.config
        self._worker = worker
        counts = ReceiptCounts(worker.metrics)
        self.post: ReportPost | None = None
        neighbours = None
        if worker.joint is not None and worker.siblings is not None:
            self.post = ReportPost(worker.joint.links, rows_max=_POST_ROWS_MAX, on_dropped=counts.dropped)
            place = worker.siblings.place
            neighbours = OtherWorkers(worker.joint.ownership, self.post, node=config.gateway.node, me=place.worker)
        ledger = worker.stores.ledger
        self.desk = ReceiptDesk(
            secret=message_id_secret(config),
            home=worker.home,
            devices=worker.devices,
            guards=_guards(worker),
            switch=worker.presence,
            clock=worker.clock,
            observer=counts,
            receipts_max=config.receipts.receipts_max,
            bring_back=None if ledger is None else ledger.late,
            neighbours=neighbours,
        )
        if worker.joint is not None:
            answer_with_desk(worker.joint.links, self.desk)
        self.endpoints = _endpoints(worker)

    def actors(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """What has to run, by name."""
        post = [] if self.post is None else [("report post", self.post.run)]
        return [("receipts", self.desk.run), *post]

    def site(self, not_ready: Callable[[], Sequence[str]]) -> ReceiptsSite:
        """What the listeners are about."""
        worker = self._worker
        return ReceiptsSite(
            self.endpoints,
            self.desk,
            worker.metrics,
            receipt_settings(worker.config),
            now_unix_s=lambda: worker.clock.unix_ms() / 1000,
            not_ready=not_ready,
        )


def _guards(worker: Worker) -> dict[tuple[int, Channel], TokenGuard]:
    """Receipts are judged by themselves: a row that was accepted and turns out dead would count on both sides."""
    guards: dict[tuple[int, Channel], TokenGuard] = {}
    for index, app in enumerate(worker.config.apps):
        for name in app.vendors:
            channel = CHANNEL_NAMES[name]
            guards[index, channel] = TokenGuard(
                guard_settings(worker.config),
                devices=worker.devices,
                clock=worker.clock,
                observer=ReceiptGuardCounts(worker.metrics, worker.log, app.key, channel),
            )
    return guards


def _endpoints(worker: Worker) -> dict[str, Endpoint]:
    """By `APP/VENDOR`. Raises ConfigError for a secret that cannot be read."""
    found: dict[str, Endpoint] = {}
    for index, app in enumerate(worker.config.apps):
        for name, settings in app.vendors.items():
            entry = vendors.receipts.READERS.get(vendor_name(name))
            if entry is None:
                continue
            place = entry.secret_place(settings)
            secret = b""
            if place is not None:
                secret = (Secret(file=Path(place.file)) if place.file else Secret(env=place.env)).read()
            found[f"{app.key}/{name}"] = Endpoint(index, CHANNEL_NAMES[name], entry.reader(settings, secret))
    return found
