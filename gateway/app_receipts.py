"""The parts of a worker that hear of receipts: the listener of vendors, the desk, and the way to other workers."""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import vendors.receipts
from gateway.actors.credentials import open_http_client
from gateway.actors.outcome_polls import OutcomePolls
from gateway.actors.own_ids import OwnIdBook
from gateway.actors.receipt_desk import ReceiptDesk
from gateway.actors.report_post import NOT_DURABLE, ReportPost
from gateway.actors.token_guard import TokenGuard
from gateway.actors.token_renewals import CheckToken, TokenRenewals
from gateway.actors.waiting import Wait
from gateway.actors.worker_links import Reply, WorkerLinks
from gateway.api.consent_events import ConsentEvents
from gateway.api.receipts import Endpoint, ReceiptsSite
from gateway.app_vendors import VendorLane, proxy_of
from gateway.columns import U8, Rows
from gateway.config import message_id_secret
from gateway.config_settings import guard_settings, receipt_settings
from gateway.config_types import Secret
from gateway.core.own_ids import OwnIds
from gateway.core.ownership import Ownership, split_by_owner
from gateway.core.shadow import Life
from gateway.errors import ConfigError
from gateway.ledger import CHANNEL_NAMES, Channel
from gateway.message_id import BatchAddress
from gateway.observe.receipts import PollCounts, ReceiptCounts, ReceiptGuardCounts
from gateway.regions import vendor_name

if TYPE_CHECKING:
    from gateway.app import Worker

#: Reports on their way to other workers.
_POST_ROWS_MAX = 200_000
#: The end of a path that nobody can guess.
_PATH_SECRET = re.compile(rb"[0-9A-Za-z_-]{16,128}")


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

    def send(
        self, worker: int, what: str, head: dict[str, Any], body: bytes, rows: int, wait: Wait | None = None
    ) -> bool:
        return self._post.send(worker, what, head, body, rows, wait)

    def others(self) -> Iterable[int]:
        return [worker for worker in range(self._ownership.workers) if worker != self._me]


def answer_with_desk(links: WorkerLinks, desk: ReceiptDesk, renewals: TokenRenewals) -> None:
    """What other workers send is dealt with by the desk, and answered at once; receipts when they are durable."""

    def take(
        apply: Callable[[dict[str, Any], memoryview], None],
        _life: Life,
        head: dict[str, Any],
        body: memoryview,
        reply: Reply,
    ) -> None:
        apply(head, body)
        reply(b"")

    def take_receipts(_life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        desk.on_reports(head, body, lambda is_durable: reply(b"" if is_durable else NOT_DURABLE))

    links.answer_with("receipts", take_receipts)
    links.answer_with("own_ids", functools.partial(take, desk.on_own_ids))
    links.answer_with("held_receipts", functools.partial(take, desk.on_held_reports))
    links.answer_with("device_words", functools.partial(take, desk.on_words))
    links.answer_with("renewals", functools.partial(take, renewals.on_renewal))


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
        guards = _guards(worker)
        renewals = TokenRenewals(
            devices=worker.devices,
            guards=guards,
            check_token=_token_checks(worker),
            clock=worker.clock,
            neighbours=neighbours,
        )
        self.desk = ReceiptDesk(
            secret=message_id_secret(config),
            home=worker.home,
            devices=worker.devices,
            guards=guards,
            switch=worker.presence,
            clock=worker.clock,
            observer=counts,
            receipts_max=config.receipts.receipts_max,
            bring_back=None if ledger is None else ledger.late,
            neighbours=neighbours,
            own_ids=self._book(counts),
            renewals=renewals,
            notes=None if worker.disk is None else worker.disk.notes,
            apps_on_disk=frozenset() if worker.disk is None else worker.disk.apps,
        )
        if worker.joint is not None:
            answer_with_desk(worker.joint.links, self.desk, renewals)
        self.endpoints = _endpoints(worker)
        self._polls = [
            self._poll(built) for built in worker.vendor_lanes if built.channel_name in vendors.receipts.ASKERS
        ]

    def actors(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """What has to run, by name."""
        post = [] if self.post is None else [("report post", self.post.run)]
        return [("receipts", self.desk.run), *post, *self._polls]

    def _book(self, counts: ReceiptCounts) -> OwnIdBook | None:
        """What vendors call their messages, where some report by that and somebody listens."""
        worker, receipts = self._worker, self._worker.config.receipts
        named = [built for built in worker.vendor_lanes if _names_own_ids(built.channel_name)]
        if not named or not receipts.listeners:
            return None
        ids = OwnIds(receipts.own_ids_max, receipts.own_ids_s)
        book = OwnIdBook(message_id_secret(worker.config), ids, clock=worker.clock, observer=counts)
        for built in named:
            built.own_ids.on_ids = functools.partial(book.told, built.app_index, built.channel)
        return book

    def _poll(self, built: VendorLane) -> tuple[str, Callable[[], Awaitable[None]]]:
        """Asks a vendor that sends no receipts: its name as an actor, and what runs."""
        worker, name = self._worker, built.channel_name
        settings: Any = built.app.vendors[name]
        polls = OutcomePolls(
            vendors.receipts.ASKERS[name](settings),
            base_url=f"https://{settings.host}:{settings.port}",
            secret=message_id_secret(worker.config),
            credentials=built.keeper,
            open_client=functools.partial(
                open_http_client, settings.ca_file, proxy=proxy_of(built.app, name, settings)
            ),
            take=functools.partial(self.desk.take, built.app_index, built.channel),
            clock=worker.clock,
            observer=PollCounts(worker.metrics, built.channel),
        )
        built.own_ids.on_ids = polls.told
        return f"outcomes {built.app.key}/{name}", polls.run

    def site(self, not_ready: Callable[[], Sequence[str]]) -> ReceiptsSite:
        """What the listeners are about."""
        worker = self._worker
        consents = ConsentEvents([app.key for app in worker.config.apps], worker.front.report_consents)
        return ReceiptsSite(
            self.endpoints,
            self.desk,
            worker.metrics,
            receipt_settings(worker.config),
            now_unix_s=lambda: worker.clock.unix_ms() / 1000,
            not_ready=not_ready,
            take_consents=consents.take,
        )


def _names_own_ids(name: str) -> bool:
    entry = vendors.receipts.READERS.get(name)
    return entry is not None and entry.names_own_ids


def _token_checks(worker: Worker) -> dict[tuple[int, Channel], CheckToken]:
    return {
        (index, CHANNEL_NAMES[name]): vendors.entry_of(name).vendor(settings).check_token
        for index, app in enumerate(worker.config.apps)
        for name, settings in app.vendors.items()
    }


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
            if entry.is_in_path and not secret:
                continue
            if entry.is_in_path and not _PATH_SECRET.fullmatch(secret):
                raise ConfigError(f"apps.{app.key}.{name}.callback_secret", "", "16 or more of A-Z a-z 0-9 - _")
            end = f"/{secret.decode()}" if entry.is_in_path else ""
            try:
                reader = entry.reader(settings, secret)
            except ValueError as error:
                raise ConfigError(f"apps.{app.key}.{name}", str(error), "a usable secret") from error
            found[f"{app.key}/{name}{end}"] = Endpoint(index, CHANNEL_NAMES[name], reader)
    return found
