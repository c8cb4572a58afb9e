"""DeviceReports: what devices say became of messages (displayed, clicked, closed) raises receipts at any home.

    UplinkActor --report()--+--> rows of this home: at once
                            +--> gathered for each other home --> ReportPost --> DeviceReports.take there --> its rows

A message id says whose journal its row stands in. A report counts for rows of the reporting device alone: by its id or,
where the target of the row was a token, by the token that its owner knows it to have; so the owner sends both along.

At most REPORTS_MAX reports wait, over all homes; beyond it a device is told `Overloaded` and reports again. A home that
is down is waited for as `report_post.py` says; what it is not told then is counted as refused. Waits for: answers of
other workers. Is waited for by: nobody.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec
import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.actors.ledger import AskArchive
from gateway.actors.report_post import NOT_DURABLE, ReportPost
from gateway.actors.waiting import Wait
from gateway.actors.worker_links import Reply, WorkerLinks
from gateway.clock import Clock
from gateway.columns import Rows, TextColumn
from gateway.core.devices import DeviceTable
from gateway.core.home import Home, mark
from gateway.core.ownership import Ownership
from gateway.core.receipt_notes import ReceiptNotes
from gateway.core.shadow import Life
from gateway.core.uplink import Report
from gateway.errors import Overloaded
from gateway.ledger import Flag, LedgerPage, Receipt
from gateway.page_history import Kind

#: Reports that wait for other homes: some 200 bytes each, and a link takes thousands in a turn.
REPORTS_MAX = 16_384
#: Reports in one question: its answer is a step of the home, some 5 us a report.
_REPORTS_PER_ASK = 200


class ReportObserver(Protocol):
    def refused(self, why: str) -> None: ...


class Told(msgspec.Struct, array_like=True):
    """A device's report of some messages. channel, token: of the device, for rows whose target was a token."""

    app: int
    device_id: bytes
    channel: int
    token: bytes
    receipt: int
    flag: int
    message_ids: list[bytes]


class DeviceReports:
    """For the rows of this home. A worker alone has no other."""

    def __init__(
        self,
        *,
        devices: DeviceTable,
        home: Home,
        clock: Clock,
        observer: ReportObserver,
        notes: ReceiptNotes | None = None,
    ) -> None:
        """notes: what the journal on disk is told."""
        self._notes = notes
        self._devices = devices
        self._home = home
        self._clock = clock
        self._observer = observer
        self.distant: DistantReports | None = None
        #: As `DeviceOwner.ask_archive`.
        self.ask_archive: AskArchive | None = None

    def report(self, app_index: int, device_id: bytes, report: Report, wait: Wait | None = None) -> None:
        """Receipts rise, or the home of the rows will be told; a part of `wait` is done when that is durable. Raises:
        Overloaded, and then nothing was done."""
        device = None
        slot = self._devices.find_one(device_id, app_index)
        if slot >= 0:
            device = self._devices.device(slot)
        told = Told(
            app=app_index,
            device_id=device_id,
            channel=0 if device is None else int(device.channel),
            token=b"" if device is None else device.token,
            receipt=int(report.receipt),
            flag=0 if report.flag is None else int(report.flag),
            message_ids=list(report.message_ids),
        )
        if self.distant is not None:
            told = self.distant.send(told, wait)
        if told.message_ids:
            self.take([told], wait)
        self.when_durable(wait)

    def when_durable(self, wait: Wait | None) -> None:
        """A part of it is done when everything that was heard so far is durable."""
        if wait is None:
            return
        if self._notes is None:
            wait.done()
        else:
            self._notes.wait(wait.done)

    def take(self, reports: Iterable[Told], wait: Wait | None = None) -> None:
        """The rows of this home that the reports name have these receipts at least. wait: has parts for pages that come
        later."""
        for told in reports:
            by_page: dict[int, tuple[LedgerPage, list[int]]] = {}
            for message_id in told.message_ids:
                found = self._home.find_row(message_id)
                if found is None:
                    self._take_late(message_id, told, wait)
                elif not self._is_target(*found, told):
                    self._observer.refused("not_the_target")
                else:
                    page, row = found
                    by_page.setdefault(page.batch.address.sequence, (page, []))[1].append(row)
            for page, chosen in by_page.values():
                self._raise(page, np.array(chosen, np.intp), told)

    def _raise(self, page: LedgerPage, rows: Rows, told: Told) -> None:
        now = self._clock.monotonic()
        if told.flag:
            mark(page, rows, Flag(told.flag))
            self._home.hear(page, rows, Kind.NOTIFICATIONS_CLOSED, now)
        self._home.raise_receipts(page, rows, Receipt(told.receipt), now)

    def _is_target(self, page: LedgerPage, row: int, told: Told) -> bool:
        """Whether the row was for this device: by its id, or for the token that it has."""
        batch = page.batch
        if batch.app != told.app:
            return False
        if batch.channels is None or not batch.channels[row]:
            return bool(batch.device_ids[row].tobytes() == told.device_id)
        if not told.token or batch.channels[row] != told.channel:
            return False
        if batch.tokens is not None:
            return batch.tokens.row(row) == told.token
        # The page came out of the archive.
        (hashed,) = self._devices.hash_tokens(told.channel, TextColumn.from_rows([told.token]), told.app).tolist()
        return batch.target_hashes is not None and bool(hashed) and int(batch.target_hashes[row]) == hashed

    def _take_late(self, message_id: bytes, told: Told, wait: Wait | None) -> None:
        """The page of the row has left memory, or was never there."""
        address = self._home.address_of(message_id)

        def take(page: LedgerPage | None, rows: Rows) -> None:
            if address is None or page is None or page.batch.address != address.batch or not len(rows):
                self._observer.refused("unknown_message")
            elif not self._is_target(page, int(rows[0]), told):
                self._observer.refused("not_the_target")
            else:
                self._raise(page, rows, told)
            self.when_durable(wait)

        rows = np.array([0 if address is None else address.row], np.intp)
        missing = functools.partial(take, None, rows)
        if wait is not None:
            wait.hold()
        if (
            address is None
            or self.ask_archive is None
            or not self.ask_archive(address.batch.sequence, rows, take, missing)
        ):
            missing()


class DistantReports:
    """me: this worker's index. node: of message ids. here: takes what other workers' devices report."""

    def __init__(
        self,
        *,
        links: WorkerLinks,
        ownership: Ownership,
        me: int,
        node: int,
        here: DeviceReports,
        observer: ReportObserver,
        reports_max: int = REPORTS_MAX,
    ) -> None:
        self._ownership = ownership
        self._me = me
        self._node = node
        self._here = here
        self._observer = observer
        self._reports_max = reports_max
        self._post = ReportPost(links, rows_max=reports_max, on_dropped=self._dropped)
        #: Of this turn of the loop: they go as one question to each home.
        self._gathered: dict[int, list[tuple[Told, Wait | None]]] = {}
        self._n_gathered = 0
        self._bell = Bell()
        links.answer_with("reports", self._on_ask)

    def send(self, told: Told, wait: Wait | None) -> Told:
        """Parts for other homes wait for them, and `wait` has a part for each; the rest is returned.

        Raises: Overloaded, and nothing waits."""
        by_home: dict[int, list[bytes]] = {}
        for message_id in told.message_ids:
            by_home.setdefault(self._home_of(message_id), []).append(message_id)
        mine = by_home.pop(self._me, [])
        waiting = self._n_gathered + len(self._post)
        if waiting + len(by_home) > self._reports_max:
            self._observer.refused("reports_max")
            raise Overloaded("device reports for other workers", waiting, self._reports_max)
        for worker, message_ids in by_home.items():
            part = msgspec.structs.replace(told, message_ids=message_ids)
            self._gathered.setdefault(worker, []).append((part, wait))
            if wait is not None:
                wait.hold()
            self._n_gathered += 1
            self._bell.ring()
        return msgspec.structs.replace(told, message_ids=mine)

    def _home_of(self, message_id: bytes) -> int:
        """Who has the journal of a message id. One that is none of ours is for this worker to refuse."""
        worker = self._ownership.worker_of_journal(int.from_bytes(message_id[6:8], "big") & 0xFFF, self._node)
        return self._me if worker is None else worker

    def _dropped(self, reports: int) -> None:
        for _ in range(reports):
            self._observer.refused("home_is_down")

    async def run(self) -> None:
        """Tells the other homes until cancelled. If cancelled: the rest is told in the next run."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._post.run)
            self._bell.ring()
            while True:
                await self._bell.wait()
                gathered, self._gathered, self._n_gathered = self._gathered, {}, 0
                for worker, reports in gathered.items():
                    for first in range(0, len(reports), _REPORTS_PER_ASK):
                        part = reports[first : first + _REPORTS_PER_ASK]
                        waits = Wait(functools.partial(_all_done, [wait for _, wait in part if wait is not None]))
                        body = msgspec.msgpack.encode([told for told, _ in part])
                        is_sent = self._post.send(worker, "reports", {}, body, len(part), waits)
                        waits.done(is_sent)

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        reports = msgspec.msgpack.decode(body, type=list[Told])
        wait = Wait(lambda is_durable: reply(b"" if is_durable else NOT_DURABLE))
        self._here.take(reports, wait)
        self._here.when_durable(wait)


def _all_done(waits: list[Wait], is_good: bool) -> None:
    for wait in waits:
        wait.done(is_good)
