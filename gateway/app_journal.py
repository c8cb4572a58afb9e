"""The journal on disk of one worker: opened, replayed, wired. Built only where an app has `durability = "disk"`.

    data_dir/lock                  held by the gateway that uses the folder
    data_dir/journal/0007/         the journal with number 7: its log
    data_dir/journal/0007/ids/     request ids of batches that are gone from it
    data_dir/journal/0007/stopped/ tasks that were stopped (app_stopped.py)

With several workers each has its own. One that comes back while others live has links to them before it replays: rows
that they hold are left out, whatever the journal knew of them, and adopted (actors/held_rows.py).

Order at start: registry, inbox and archive are opened (app_stores.py), the journal is replayed, its rows are on their
way, then the doors open. Of a batch that both the journal and the archive have, the archive's page is the truth: it was
written when every row had ended or waited in the inbox, and only the release was missing. Marks that stand there
without a batch are about such pages, too: of rows that were held, and went to their device later.

Beside stores on the disk, a batch is let go when the archive has its page, and a submit waits until the devices that
are known are so durably: what is accepted for a device that came a moment ago must not find it unknown after a crash.
Without them, rows whose device is not known after a restart wait in the inbox instead of being dropped (`Router`).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import trio

from gateway.actors.intake import TaskGate
from gateway.actors.journal import IssueMarks, JournalActor, Registry
from gateway.actors.precedence import Precedence
from gateway.app_audiences import FoundAudiences, SavedAudience
from gateway.app_stopped import StoppedLog
from gateway.batch import Batch, OwnershipEpoch, continued_tasks
from gateway.clock import Clock
from gateway.columns import Bool, Rows
from gateway.config import Config
from gateway.config_sections import App
from gateway.config_settings import retry_policy
from gateway.content import Class
from gateway.core.home import Home
from gateway.core.options import AppDefaults, compile_options
from gateway.core.receipt_notes import ReceiptNotes, hear_again
from gateway.core.recovery import Recovered, leave_out, recover, resend_table, urgency
from gateway.core.request_ids import RequestIds, entry
from gateway.core.shadow import Life
from gateway.core.trail import Trail
from gateway.errors import ConfigError, StoreCorrupt, StoreInUse
from gateway.ledger import CHANNEL_NAMES, Channel, LedgerPage, State
from gateway.marks import NO_POSITION, RowMarks
from gateway.message_id import RowAddress
from gateway.observe.journal import JournalCounts
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.page_history import RowNotes
from gateway.store.audience_records import decode_audience, decode_reached
from gateway.store.log_file import LogFile
from gateway.store.log_journal import LogJournal
from gateway.store.marks import Count, Marks, decode_count, decode_marks
from gateway.store.ports import (
    AUDIENCE_RECORD,
    BATCH_RECORD,
    COUNT_RECORD,
    MARKS_RECORD,
    MOVED_RECORD,
    REACHED_RECORD,
    RECEIPTS_RECORD,
    JournalRecord,
    PageKey,
)
from gateway.store.receipt_records import decode_receipts
from gateway.store.records import UnknownApp, decode_batch
from gateway.store.request_log import RequestLog
from vendors import SENT_ONCE

#: Batches that the archive is asked for at once: some 10 us each.
_KEYS_MAX = 10_000
#: Outcomes are written down at the end of a shutdown, whatever of its budget is left.
_FINISH_S = 2.0


class DataDir:
    """The data folder, in use by this process and by no other; it is let go by `close`, and with the process."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError when another gateway uses it, or nobody can."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError("gateway.data_dir", str(path), f"a folder to write to ({error.strerror})") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError("gateway.data_dir", str(path), "a folder that no other gateway is using") from error

    def close(self) -> None:
        os.close(self._lock)


class Site(Protocol):
    """What a worker has that its journal is built on."""

    config: Config
    clock: Clock
    metrics: Metrics
    log: Log
    home: Home
    precedence: Precedence


class Stalling(Protocol):
    """A lane."""

    def return_stalled(self) -> None: ...


class Archive(Protocol):
    """The ledger archive, as `actors/ledger.py` offers it."""

    #: Told of each page with held rows that is in memory again, before anything of it moves.
    on_adopted: Callable[[LedgerPage], None]
    #: Apps whose receipts a journal on disk is told.
    noted_apps: frozenset[int]
    #: Told of each page that the archive has as it is.
    on_archived: Callable[[LedgerPage], None]

    async def known(self, keys: Sequence[PageKey]) -> set[PageKey]: ...

    async def bring_back(self, sequence: int) -> LedgerPage: ...

    async def bring(self, key: PageKey) -> LedgerPage | None: ...

    async def check(self, page: LedgerPage) -> None: ...


class HeldElsewhere(Protocol):
    """What other workers hold of earlier lives of this home; see `actors/held_rows.py`."""

    async def ask(self, living: Collection[Life]) -> int: ...

    def held(self, page: LedgerPage) -> Rows: ...

    def adopt(self, page: LedgerPage) -> int: ...

    async def adopted(self) -> None: ...


class _Read(NamedTuple):
    """What a replay found. batches: by sequence, with their positions. marks: with theirs, in order. strangers: by
    sequence, why a batch cannot be taken up."""

    batches: dict[int, tuple[int, Batch]]
    marks: list[tuple[int, Marks]]
    counts: list[tuple[int, Count]]
    damaged: list[StoreCorrupt]
    strangers: dict[int, str]
    audiences: FoundAudiences
    #: Receipts: by batch, with the positions of their records.
    receipts: dict[PageKey, list[tuple[int, RowNotes]]]


class DiskJournal:
    """number: of the journal, which is in every message id and names its folder. file_type: how files are opened;
    tests put faults there.

    Raises ConfigError when another process has it open, StoreError when it cannot be opened.
    """

    def __init__(
        self,
        site: Site,
        number: int,
        secret: bytes,
        epoch: OwnershipEpoch,
        *,
        file_type: type[LogFile] = LogFile,
    ) -> None:
        config = site.config
        self._site = site
        self._log = site.log.bind(actor="journal")
        self._folder = folder = config.gateway.data_dir / "journal" / f"{number:04d}"
        try:
            self.journal = LogJournal(
                folder,
                segment_bytes=config.journal.segment_bytes,
                bytes_max=config.journal.bytes_max,
                file_type=file_type,
            )
        except StoreInUse as error:
            raise ConfigError("gateway.data_dir", str(folder), "a folder that no other gateway is using") from error
        self.journal.on_durable = site.precedence.append_done
        self._request_log = RequestLog(folder / "ids", ids_max=config.ledger.idempotency_ids_max, file_type=file_type)
        self.stopped_log = StoppedLog(
            folder / "stopped",
            secret,
            site.clock,
            tasks_max=config.ledger.stopped_tasks_max,
            age_s=config.ledger.retention_s,
            file_type=file_type,
        )
        #: Stops tasks; named before the start.
        self.tasks: TaskGate | None = None
        #: Audiences that an ended process was not through with; known after `recover`.
        self.saved_audiences: list[SavedAudience] = []
        self.trail = Trail(issued_rows_max=config.journal.issued_rows_max)
        self.apps = frozenset(index for index, app in enumerate(config.apps) if app.durability == "disk")
        self.notes = ReceiptNotes(self.apps)
        self.actor = JournalActor(
            journal=self.journal,
            trail=self.trail,
            notes=self.notes,
            home=site.home,
            request_log=self._request_log,
            epoch=epoch,
            clock=site.clock,
            observer=JournalCounts(site.metrics, self._log),
            outcome_wait_s=config.journal.outcome_wait_ms / 1000,
            retry_s=config.journal.retry_s,
            request_age_ms=int(config.ledger.idempotency_s * 1000),
        )
        site.home.trail = self.trail
        site.home.on_heard = self.notes.note
        self._archive: Archive | None = None
        #: Named before the start, where there are other workers.
        self.held: HeldElsewhere | None = None
        self._is_closed = False

    def stand_beside(self, archive: Archive | None, registry: Registry | None) -> None:
        """Names the stores on the disk, where there are such. To be called before `start`."""
        self._archive = archive
        if archive is not None:
            archive.on_adopted = self._follow_again
            archive.on_archived = self.notes.archived
            archive.noted_apps = self.apps
        self.trail.awaits_archive = self.notes.has_archive = archive is not None
        self.actor.registry = registry

    def _follow_again(self, page: LedgerPage) -> None:
        """What becomes of its rows from now on is marked, though its batch is not in the journal any more."""
        if page.batch.app in self.apps:
            self.trail.follow(page, NO_POSITION)

    def marks(self, app_index: int, channel: Channel) -> IssueMarks | None:
        """What the lanes of that app and channel tell the journal; None for an app in memory."""
        return IssueMarks(self.trail, app_index, channel) if app_index in self.apps else None

    def refresh_gauges(self) -> None:
        metrics, statistics = self._site.metrics, self.journal.statistics()
        metrics.journal_bytes.set(statistics.bytes)
        metrics.journal_records.set(statistics.records)
        metrics.rows_issued_open.set(self.trail.issued_rows())
        metrics.journal_failed.set(1 if self.actor.fault else 0)

    def status(self) -> dict[str, Any]:
        """What `pushgw status` shows of it."""
        statistics = self.journal.statistics()
        return {
            "fault": self.actor.fault,
            "incarnation": self.actor.incarnation,
            "bytes": statistics.bytes,
            "records": statistics.records,
            "issued_rows": self.trail.issued_rows(),
        }

    async def start(
        self,
        request_ids: RequestIds,
        route: Callable[[LedgerPage], None],
        lanes: Iterable[Stalling],
        living: Collection[Life] = (),
    ) -> None:
        """What an earlier process left is on its way; the actor may run now. living: workers that may have rows of
        it."""
        if self.held is not None:
            await self.held.ask(living)
        pages = await self.recover(request_ids)
        if self.held is not None:
            await self.held.adopted()
        for page in pages:
            route(page)
        self.actor.holders += [lane.return_stalled for lane in lanes]

    async def finish(self, deadline: float) -> dict[str, int]:
        """What is known of rows is written down, at the end of a shutdown; how many are left for the next start."""
        with trio.move_on_at(max(deadline, trio.current_time() + _FINISH_S)):
            await self.actor.finish()
        held = [page.n_open for page in self._site.home.pages() if page.trail is not None and page.trail.holds_batch]
        is_there = await trio.to_thread.run_sync(self.journal.is_in_place)
        if held and not is_there:
            self._log.error("the journal is gone, and what it held", place=str(self._folder), rows=sum(held))
        return {"rows_in_journal": sum(held) if is_there else 0}

    def close(self) -> None:
        """Files are closed, once nothing runs any more. Again changes nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._request_log.close()
            self.stopped_log.close()
            self.journal.close()

    # -- recovery

    async def recover(self, request_ids: RequestIds) -> list[LedgerPage]:
        """What an earlier process accepted and did not end is back in the home; the pages that have open rows, urgent
        ones first. To be called before anything else is taken. Raises StoreError for a disk that cannot be read."""
        started = time.perf_counter()
        site, home = self._site, self._site.home
        for entries in self._request_log.load():
            request_ids.add(entries, site.clock.unix_ms())
            await trio.lowlevel.checkpoint()
        self._name_damaged_ids()
        if self.tasks is not None:
            for task_id, stopped_unix_ms in self.stopped_log.load_all(self._folder.parent.glob("*/stopped")):
                self.tasks.stopped.add(task_id, stopped_unix_ms)
        read = await self._read()
        now, unix_ms = site.clock.monotonic(), self._newest_unix_ms(read)
        self._continue_counting(read, unix_ms, now)
        for _, batch in read.batches.values():
            if batch.requests:
                rows = [entry(one.key, one.digest, RowAddress(batch.address, one.row)) for one in batch.requests]
                # A label that a clock ahead of the time has left makes no id older.
                request_ids.add(np.array(rows, np.uint64), site.clock.unix_ms())
        marks_of = self._marks_by_sequence(read)
        by_sequence = await self._open_pages(read, marks_of, unix_ms, now)
        sums = Recovered()
        pages: list[tuple[tuple[int, int], int, LedgerPage]] = []
        resends = self._resend_tables()
        for sequence, page in by_sequence.items():
            batch = page.batch
            if home.page(sequence) is not page:
                # It ended in the archive, or all of it were duplicates.
                sums = sums.plus(Recovered(final=batch.n))
                continue
            options = compile_options(batch, self._defaults[batch.app])
            marks = marks_of.get(sequence, ())
            notes = [one for _, one in read.receipts.get(_page_key(batch), ())]
            elsewhere = None
            if self.held is not None and len(held := self.held.held(page)):
                elsewhere = leave_out(home, page, marks, held)
            sums = sums.plus(recover(home, page, marks, options, resends[batch.app], now, elsewhere, notes))
            if self.held is not None:
                self.held.adopt(page)
            if self._archive is not None:
                await self._archive.check(page)
            if self.tasks is not None:
                self.tasks.opened(page)
            if page.counts[State.QUEUED] or (batch.has_fallback and page.n_open):
                page.n_routed = 0
                assert page.trail is not None
                pages.append((urgency(options), page.trail.position, page))
            home.kept(page, 0)
            await trio.lowlevel.checkpoint()
        for position, record in read.marks:
            if not read.strangers.keys().isdisjoint(mark.sequence for mark in record.marks):
                # Kept with their batches, for the start that knows their app again.
                continue
            # Not from the home, which may have let final pages go meanwhile.
            self.trail.adopt(
                position, [by_sequence[mark.sequence] for mark in record.marks if mark.sequence in by_sequence]
            )
        await self._hear_again(read, by_sequence, now)
        self.saved_audiences = read.audiences.saved({app.key: index for index, app in enumerate(site.config.apps)})
        self.actor.spent += read.audiences.spent
        self._report(read, sums, time.perf_counter() - started)
        pages.sort(key=lambda one: one[:2])
        return [page for _, _, page in pages]

    async def _hear_again(self, read: _Read, by_sequence: Mapping[int, LedgerPage], now: float) -> None:
        """Receipts that the journal has of pages beyond its batches count, and their records are kept until the archive
        has those pages. Raises StoreError."""
        home = self._site.home
        needed_by: dict[int, list[LedgerPage]] = {}
        strange: set[int] = set()
        for key, found in read.receipts.items():
            page = by_sequence.get(key.sequence)
            if page is None or _page_key(page.batch) != key or home.page(key.sequence) is not page:
                page = None if self._archive is None else await self._archive.bring(key)
                if page is not None:
                    hear_again(home, page, [one for _, one in found], now)
                    home.kept(page, 0)
            needing = [] if page is None or page.is_saved else [page]
            for position, _ in found:
                needed_by.setdefault(position, []).extend(needing)
                if key.sequence in read.strangers:
                    strange.add(position)
            await trio.lowlevel.checkpoint()
        for position, pages in needed_by.items():
            # Those of an app that is gone are kept with its batches.
            if position not in strange:
                self.notes.adopt(position, pages)

    def _marks_by_sequence(self, read: _Read) -> dict[int, list[RowMarks]]:
        """Marks of batches in the journal, and of pages whose rows were held when their batch left it; in order."""
        marks_of: dict[int, list[RowMarks]] = {}
        away = self._site.home.away_pages
        for position, record in read.marks:
            for mark in record.marks:
                found = read.batches.get(mark.sequence)
                # A sequence may have been given again; marks stand behind their own batch.
                is_about = mark.sequence in away if found is None else found[0] < position
                if is_about:
                    marks_of.setdefault(mark.sequence, []).append(mark)
        return marks_of

    async def _open_pages(
        self, read: _Read, marks_of: Mapping[int, Sequence[RowMarks]], unix_ms: int, now: float
    ) -> dict[int, LedgerPage]:
        """Every page that the journal is about, by sequence, followed; but for those that ended, in the home."""
        home, archived = self._site.home, await self._archived(read)
        pages: dict[int, LedgerPage] = {}
        for sequence, (position, batch) in read.batches.items():
            is_archived = _page_key(batch) in archived
            if is_archived and sequence in home.away_pages:
                page = await self._bring_back(sequence)
            elif is_archived:
                page = _ended(batch)
            else:
                batch.born = now - max(0, unix_ms - batch.born_unix_ms) / 1000
                page = home.open(batch, now, continued_tasks(batch))
            pages[sequence] = page
            self.trail.follow(page, position, is_recovered=True)
            if is_archived and not page.n_open:
                self.trail.archived(page)
            await trio.lowlevel.checkpoint()
        for sequence in marks_of.keys() - read.batches.keys():
            page = pages[sequence] = await self._bring_back(sequence)
            self.trail.follow(page, NO_POSITION, is_recovered=True)
        return pages

    async def _bring_back(self, sequence: int) -> LedgerPage:
        """A page with held rows. Raises StoreError."""
        assert self._archive is not None
        return await self._archive.bring_back(sequence)

    async def _archived(self, read: _Read) -> set[PageKey]:
        """Batches that the archive has. Raises StoreError."""
        if self._archive is None:
            return set()
        keys = [_page_key(batch) for _, batch in read.batches.values()]
        found: set[PageKey] = set()
        for first in range(0, len(keys), _KEYS_MAX):
            found |= await self._archive.known(keys[first : first + _KEYS_MAX])
        return found

    async def _read(self) -> _Read:
        """Everything that the journal holds, damaged records apart."""
        read = _Read({}, [], [], [], {}, FoundAudiences(), {})
        apps = {app.key: index for index, app in enumerate(self._site.config.apps)}
        position: int | None = 0
        while position is not None:
            try:
                async for at, record in self.journal.replay(position):
                    self._sort(read, at, record, apps)
                position = None
            except StoreCorrupt as error:
                if error.position < 0:
                    raise
                read.damaged.append(error)
                position = error.position + 1
        return read

    def _sort(self, read: _Read, position: int, record: JournalRecord, apps: Mapping[str, int]) -> None:
        (payload,) = record.buffers
        try:
            if record.kind == BATCH_RECORD:
                batch = decode_batch(payload, born=0.0, apps=apps)
                batch.address = self._site.home.addresses.kept(batch.address)
                read.batches[batch.address.sequence] = (position, batch)
            elif record.kind == MARKS_RECORD:
                read.marks.append((position, decode_marks(payload)))
            elif record.kind == RECEIPTS_RECORD:
                for note in decode_receipts(payload):
                    read.receipts.setdefault(PageKey(note.unix_ms, note.sequence), []).append((position, note))
            elif record.kind == COUNT_RECORD:
                read.counts.append((position, decode_count(payload)))
            elif record.kind == AUDIENCE_RECORD:
                read.audiences.add(position, decode_audience(payload))
            elif record.kind == REACHED_RECORD:
                read.audiences.reached(position, decode_reached(payload))
            elif record.kind == MOVED_RECORD:
                # The copy that it was about is over, else this worker would not run.
                self.actor.spent.append(position)
            else:
                raise ValueError(f"record of kind {record.kind}, which this version does not know")
        except UnknownApp as error:
            read.strangers[error.sequence] = str(error)
        except ValueError as error:
            place = str(self._site.config.gateway.data_dir)
            read.damaged.append(StoreCorrupt(place, str(error), position=position))

    def _newest_unix_ms(self, read: _Read) -> int:
        """The latest time that anybody knows of: a wall clock that was set back makes no row younger."""
        return max(
            self._site.clock.unix_ms(),
            *(batch.born_unix_ms for _, batch in read.batches.values()),
            *(record.unix_ms for _, record in read.marks),
            *(count.unix_ms for _, count in read.counts),
            0,
        )

    def _continue_counting(self, read: _Read, unix_ms: int, now: float) -> None:
        """Batches go on with numbers and labels that none before had, and with the next incarnation."""
        counted, home = [count for _, count in read.counts], self._site.home
        for count in counted:
            home.begin_after(count.sequence - 1, count.unix_ms)
        for _, batch in read.batches.values():
            if batch.address.journal == home.journal:
                home.begin_after(batch.address.sequence, batch.born_unix_ms)
        home.label_after(unix_ms, now)
        self.actor.incarnation = 1 + max((count.incarnation for count in counted), default=0)
        self.actor.spent += [position for position, _ in read.counts]

    @property
    def _defaults(self) -> list[AppDefaults]:
        return [app_defaults(app) for app in self._site.config.apps]

    def _resend_tables(self) -> list[Bool]:
        config = self._site.config
        rules = {class_: retry_policy(config, class_).resends_uncertain for class_ in Class}
        once = [CHANNEL_NAMES[name] for name in SENT_ONCE]
        table = resend_table(system=rules[Class.SYSTEM], marketing=rules[Class.MARKETING], once=once)
        return [table for _ in config.apps]

    def _report(self, read: _Read, sums: Recovered, seconds: float) -> None:
        metrics, statistics = self._site.metrics, self.journal.statistics()
        for name, rows in sums._asdict().items():
            metrics.rows_recovered.add(rows, name)
        metrics.recovery_s.set(seconds)
        self._log.info(
            "recovered",
            batches=len(read.batches),
            rows=sum(batch.n for _, batch in read.batches.values()),
            rows_unsent=sums.unsent,
            rows_uncertain=sums.resent + sums.uncertain,
            rows_uncertain_resent=sums.resent,
            rows_expired=sums.expired,
            rows_final=sums.final,
            rows_elsewhere=sums.elsewhere,
            audiences=len(self.saved_audiences),
            torn_bytes_cut=statistics.cut_bytes,
            seconds=round(seconds, 3),
        )
        for text, batches in Counter(read.strangers.values()).items():
            self._log.error("batches of an unknown app stay in the journal", text=text, batches=batches)
        if read.damaged:
            self._on_damage(read.damaged)

    def _name_damaged_ids(self) -> None:
        """What is lost with them: a submit of that time that is repeated would be done twice. So nothing stops."""
        for path in self._request_log.damaged:
            self._site.metrics.journal_errors.add(1, "corrupt")
            self._log.error("damaged request ids", file=str(path), text="the file's other ids are known")

    def _on_damage(self, damaged: list[StoreCorrupt]) -> None:
        self._site.metrics.journal_errors.add(len(damaged), "corrupt")
        for error in damaged:
            self._log.error("damaged record", position=error.position, text=str(error))
        if self._site.config.journal.skip_damaged:
            self.actor.spent += [error.position for error in damaged]
            self._log.warning("damaged records are given up, as journal.skip_damaged says", records=len(damaged))
            return
        self.actor.damage = (
            f"{len(damaged)} damaged records in the journal, the first: {damaged[0]}; journal.skip_damaged = true at a "
            "start gives them up"
        )
        self._log.error("intake is stopped for apps on disk", text=self.actor.damage)


def _page_key(batch: Batch) -> PageKey:
    return PageKey(batch.address.unix_ms, batch.address.sequence)


def _ended(batch: Batch) -> LedgerPage:
    """A page of which only that is known."""
    page = LedgerPage(batch)
    page.state[:] = State.DROPPED
    page.counts[:] = np.bincount(page.state, minlength=len(State))
    return page


def app_defaults(app: App) -> AppDefaults:
    return AppDefaults(app.strategy, frozenset(app.marketing_categories))
