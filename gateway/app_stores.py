"""The stores of one worker: on the disk where [store] data_dir says where, else in memory, ending with the process.

data_dir/hash.key, apps.json, workers      of all workers; app_stores_ready.py makes them before any worker runs
data_dir/registry/group-007.db             devices of a shard group: of the worker that owns it
data_dir/inbox.db, inbox-001.db ...        rows for the devices of worker 0, 1 ...
data_dir/ledger.db, ledger-001.db ...      pages of the batches that worker 0, 1 ... has journaled; of a worker that
                                           this start does not have at the one that answers for its journal
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import trio

from gateway.actors.device_owner import DeviceOwner
from gateway.actors.inbox import InboxActor
from gateway.actors.ledger import AskArchive, LedgerActor
from gateway.actors.page_source import MemoryPages, PageSource
from gateway.actors.peers import WorkerPlace
from gateway.actors.registry import RegistryActor
from gateway.actors.router import Router
from gateway.actors.spilling import Spilling
from gateway.actors.store_desk import StoreDesk
from gateway.app_siblings import counter_of_consents
from gateway.app_stopped import StoppedLog
from gateway.batch import OwnershipEpoch
from gateway.clock import Clock
from gateway.config import Config
from gateway.config_relations import counts_consents
from gateway.core.counters import Counters
from gateway.core.devices import DeviceTable
from gateway.core.home import Home
from gateway.core.ownership import WORKERS_MAX, journal_of
from gateway.core.report import rows_held_away, rows_in_archive
from gateway.core.segments import HashKey
from gateway.errors import StoreError
from gateway.message_id import SEQUENCES_MAX
from gateway.observe.counting import ServiceCounts
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.observe.store_counts import InboxCounts, LedgerCounts, StoreCounts
from gateway.store import backup
from gateway.store.database import Database, named_errors
from gateway.store.inbox_moves import clean_mark, inbox_path
from gateway.store.joined_ledger import JoinedLedger
from gateway.store.log_file import store_error
from gateway.store.memory import MemoryInbox
from gateway.store.spill import Spill
from gateway.store.sqlite_consents import SqliteConsents
from gateway.store.sqlite_inbox import SqliteInbox
from gateway.store.sqlite_ledger import SqliteLedgerArchive
from gateway.store.sqlite_registry import SqliteRegistry
from gateway.store.turns import Turns

_ALONE = WorkerPlace()
#: How many workers the last start had, whose inboxes the folder holds.
WORKERS_FILE = "workers"
#: Bytes of the key of token hashes.
_HASH_KEY_BYTES = 32


class Behind(Protocol):
    """Somebody with something in the stores."""

    async def load(self) -> None:
        """Raises StoreError, Overloaded."""

    async def flush(self) -> None:
        """Raises StoreError."""


class Stores:
    """Opening blocks. Raises StoreError: a place that cannot be used, or is used by another process."""

    def __init__(
        self, config: Config, epoch: OwnershipEpoch, metrics: Metrics, log: Log, place: WorkerPlace = _ALONE
    ) -> None:
        self._config = config
        self._place = place
        self._epoch = epoch
        self._metrics = metrics
        self._log = log
        self.folder = config.store.data_dir
        self._registry: SqliteRegistry | None = None
        self.registry: RegistryActor | None = None
        limits = config.inbox
        inbox_limits = {
            "rows_per_device_max": limits.rows_per_device_max,
            "rows_max": limits.rows_max,
            "bytes_per_device_max": limits.bytes_per_device_max,
            "bytes_max": limits.bytes_max,
        }
        #: The first is of this worker's own journal.
        self._archives: list[SqliteLedgerArchive] = []
        self._home: Home | None = None
        self._clock: Clock | None = None
        self.spill: Spill | None = None
        self._stopped_log: StoppedLog | None = None
        self.ledger: LedgerActor | None = None
        self.consents: SqliteConsents | None = None
        #: The last process that had the inbox did not live to write down all that it did.
        self._is_doubtful = False
        self._inbox_actor: InboxActor | None = None
        #: What keeps something in them beside devices, rows and pages: loaded at start, flushed at the end.
        self.behind: list[Behind] = []
        self.inbox: MemoryInbox | SqliteInbox = MemoryInbox(**inbox_limits)
        if self.folder is None:
            if durable := [app.key for app in config.apps if app.durability == "disk"]:
                what = "registry, inbox and ledger archive are in memory, and end with the process: set store.data_dir"
                log.warning(what, apps_on_disk=durable)
            return
        apps = [app.key for app in config.apps]
        groups = config.store.shard_groups
        owned = range(place.worker, groups, place.workers)
        self._registry = SqliteRegistry(self.folder / "registry", apps, shard_groups=groups, groups=owned)
        try:
            check_apps(self.folder, apps)
            self.inbox = SqliteInbox(inbox_path(self.folder, place.worker), worker=place.worker, **inbox_limits)
            mark = clean_mark(self.folder, place.worker)
            self._is_doubtful = not mark.exists()
            with named_errors(str(mark)):
                mark.unlink(missing_ok=True)
            paths = [ledger_path(self.folder, worker) for worker in self._answers_for]
            self._archives = [SqliteLedgerArchive(path) for path in paths]
            if counts_consents(config) and place.worker == counter_of_consents(config):
                self.consents = SqliteConsents(self.folder / "consents.db")
        except BaseException:
            self.close()
            raise

    @property
    def _answers_for(self) -> list[int]:
        """Workers with an archive that is this one's, itself first."""
        assert self.folder is not None
        others = range(self._place.worker + self._place.workers, WORKERS_MAX, self._place.workers)
        return [self._place.worker, *(one for one in others if self._has_pages(one))]

    def _has_pages(self, worker: int) -> bool:
        """There are pages of its journal, or may be."""
        assert self.folder is not None
        journal = self._config.gateway.data_dir / "journal" / f"{journal_of(self._config.gateway.node, worker):04d}"
        return ledger_path(self.folder, worker).exists() or journal.exists()

    def hash_key(self, secret: bytes) -> HashKey:
        """The key of the device table: token hashes in ledger pages on the disk outlive the process, and so must it.

        secret: of message ids, which all workers have. Without a disk the key comes from it, so that the hash that the
        owner of a device keeps of its token is the one that the home of the row looks for.
        """
        if self.folder is None:
            return HashKey(hashlib.blake2b(secret, digest_size=_HASH_KEY_BYTES, person=b"token hash").digest())
        return HashKey(make_hash_key(self.folder))

    def follow(self, devices: DeviceTable) -> None:
        """Changes of the table are carried to the registry once it is loaded; pages keep its hashes of tokens."""
        if self.ledger is not None:
            self.ledger.hash_tokens = devices.hash_tokens
        if self._registry is not None:
            self.registry = RegistryActor(
                store=self._registry,
                epoch=self._epoch,
                devices=devices,
                observer=StoreCounts(self._metrics, self._log),
                seen_write_s=self._config.store.seen_write_s,
            )

    def keep_pages(self, home: Home, clock: Clock) -> PageSource:
        """Pages of the home that are done go to the archive, where there is one; where questions find pages."""
        self._home, self._clock = home, clock
        ledger = self._config.ledger
        home.counters = Counters(day_offset_s=ledger.day_offset_s, cells_max=ledger.counter_cells_max)
        if not self._archives:
            return MemoryPages(home)
        own, *adopted = self._archives
        self.ledger = LedgerActor(
            store=JoinedLedger(own, dict(zip(self._answers_for[1:], adopted, strict=True))) if adopted else own,
            inbox=self.inbox,
            epoch=self._epoch,
            home=home,
            clock=clock,
            observer=LedgerCounts(self._metrics, self._log),
            held_write_s=ledger.held_write_s,
            retention_s=ledger.retention_s,
            retention_bytes_max=ledger.retention_bytes_max,
            retention_check_s=ledger.retention_check_s,
            counter_days_max=ledger.counter_days_max,
        )
        self.ledger.told_apps = frozenset(i for i, app in enumerate(self._config.apps) if app.callback is not None)
        if self.folder is not None and ledger.spill_bytes_max:
            self.spill = Spill(self.folder, bytes_max=ledger.spill_bytes_max)
            counts = LedgerCounts(self._metrics, self._log)
            self.ledger.make_room = Spilling(home=home, spill=self.spill, observer=counts).make_room
        return self.ledger

    def open_stopped_log(self, journal: int, secret: bytes, clock: Clock) -> StoppedLog | None:
        """Where stops of tasks are kept without a journal; None where nothing is kept. Raises StoreError."""
        if self.folder is None:
            return None
        ledger = self._config.ledger
        self._stopped_log = StoppedLog(
            self.folder / "stopped" / f"{journal:04d}",
            secret,
            clock,
            tasks_max=ledger.stopped_tasks_max,
            age_s=ledger.retention_s,
        )
        return self._stopped_log

    def desk(self, devices: DeviceTable, pages: PageSource, inbox: InboxActor) -> StoreDesk:
        """Who answers what is asked of the stores. After `keep_pages`."""
        home, clock = self._home, self._clock
        assert home is not None
        assert clock is not None
        return StoreDesk(
            devices=devices,
            registry=self.registry,
            pages=pages,
            inbox_actor=inbox,
            inbox=self.inbox,
            epoch=self._epoch,
            home=home,
            clock=clock,
            audit=ServiceCounts(self._metrics, self._log.bind(actor="stores")),
            copies=None if self.folder is None else self,
        )

    # -- copies of every store, in the order that store/backup.py gives; each database is held up while it is copied

    async def begin_copy(self, folder: Path) -> None:
        """The folder is there and empty, but for the journal and stopped tasks. Raises StoreError."""
        await trio.to_thread.run_sync(backup.prepare, folder)
        await trio.to_thread.run_sync(lambda: (folder / "registry").mkdir(mode=0o700))
        assert self.folder is not None
        for first, journal in (folders_elsewhere(self._config) | {"stopped": self.folder / "stopped"}).items():
            if journal.exists():
                await trio.to_thread.run_sync(backup.copy_journal, journal, folder / first)

    async def copy_pages(self, folder: Path) -> None:
        """Registry and archive of this worker are in the folder. Raises StoreError."""
        assert self._registry is not None
        await self.flush()
        copies = [(self._registry.turns, database) for database in self._registry.databases]
        if self.consents is not None:
            copies.append((self.consents.turns, self.consents.database))
        for turns, database in [*copies, *((one.turns, one.database) for one in self._archives)]:
            await self._copy(turns, database, folder)

    async def copy_inbox(self, folder: Path) -> None:
        """The inbox of this worker is in the folder. Raises StoreError."""
        assert isinstance(self.inbox, SqliteInbox)
        await self._copy(self.inbox.turns, self.inbox.database, folder)

    async def _copy(self, turns: Turns, database: Database, folder: Path) -> None:
        assert self.folder is not None
        await turns.run(functools.partial(database.copy_to, folder / database.path.relative_to(self.folder)))

    async def end_copy(self, folder: Path) -> dict[str, int]:
        """The copy is whole: name and bytes of each file. Raises StoreError."""
        assert self.folder is not None
        others = {name: self.folder / name for name in ("hash.key", "apps.json", WORKERS_FILE)}
        others |= files_elsewhere(self._config)
        return await trio.to_thread.run_sync(lambda: backup.finish(folder, others=others))

    async def _load(self) -> None:
        """The device table knows what the registry knows, new batches come behind archived ones. Raises StoreError,
        Overloaded."""
        if self.ledger is not None:
            await self.ledger.load()
            if self._is_doubtful and self._inbox_actor is not None:
                # Rows that wait in other workers' inboxes, too.
                until = max(self._inbox_actor.doubtful_until_unix_ms, self.ledger.newest_at_start_unix_ms)
                self._inbox_actor.doubtful_until_unix_ms = until
        if isinstance(self.inbox, SqliteInbox) and self._home is not None:
            born_unix_ms, tag = self.inbox.newest_at_start
            self._home.begin_after((tag >> 16) % SEQUENCES_MAX, born_unix_ms)
        for one in self.behind:
            await one.load()
        if self.registry is not None:
            started = time.perf_counter()
            await self.registry.load()
            self._metrics.registry_load_s.set(time.perf_counter() - started)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Inside, the device table and the home know what the stores know; afterwards the stores are closed.

        Raises StoreError, Overloaded.
        """
        try:
            await self._load()
            yield
            if self.folder is not None and self._inbox_actor is not None and self._inbox_actor.is_at_rest:
                clean_mark(self.folder, self._place.worker).touch(mode=0o600)
        finally:
            self.close()

    def start(
        self,
        supervise: Callable[[str, Callable[[], Awaitable[None]]], None],
        owner: DeviceOwner,
        router: Router,
    ) -> None:
        """The actors behind the stores run."""
        if self.registry is not None:
            supervise("registry", self.registry.run)
        if self.ledger is not None:
            owner.ask_archive = self.ask_archive
            self.ledger.on_due = router.sweep_soon
            supervise("ledger", self.ledger.run)
            supervise("held checks", functools.partial(self.ledger.checks.run, self.ledger.fetch))

    @property
    def ask_archive(self) -> AskArchive | None:
        """Who brings pages back for late reports; nobody, where there is no archive."""
        return None if self.ledger is None else self.ledger.late

    def inbox_actor(self, home: Home, clock: Clock, *, offer_again_s: float) -> InboxActor:
        counts = InboxCounts(self._metrics, self._log)
        actor = InboxActor(
            store=self.inbox,
            epoch=self._epoch,
            home=home,
            clock=clock,
            offer_again_s=offer_again_s,
            on_error=counts.failed,
            on_works=counts.works,
        )
        if self.ledger is not None:
            actor.fetch, actor.fetch_to_end = self.ledger.fetch, self.ledger.fetch_to_end
            actor.fetch_rows = self.ledger.fetch_rows
        if isinstance(self.inbox, SqliteInbox) and self._is_doubtful:
            actor.doubtful_until_unix_ms = self.inbox.newest_born_at_start
        self._inbox_actor = actor
        return actor

    async def wait_written(self) -> None:
        """What was registered so far is durable, where it is to be. Raises StoreError."""
        if self.registry is None:
            await trio.lowlevel.checkpoint()
        else:
            await self.registry.wait_written()

    async def flush(self) -> None:
        """Everything is on the disk, at the end of a shutdown. What fails is logged."""
        if self.registry is not None:
            try:
                await self.registry.flush()
            except StoreError as error:
                self._log.error("registry not written", error=str(error))
        for one in self.behind:
            try:
                await one.flush()
            except StoreError as error:
                self._log.error("not written", error=str(error))
        if self.ledger is not None:
            try:
                await self.ledger.flush()
            except StoreError as error:
                self._log.error("ledger pages not written", error=str(error), pages=self.ledger.unsaved_pages)

    def rows_kept(self, home: Home) -> int:
        """Rows whose batch is not in the journal and that a next start finds all the same: in inbox and archive."""
        rows = rows_in_archive(home) if self.ledger is not None else 0
        gone = [database.place for database in self._databases() if not database.is_in_place()]
        if gone:
            is_lost = self._are_rows_gone()
            self._log.error("databases are gone, and what they held", places=gone, rows=rows if is_lost else 0)
            return 0 if is_lost else rows
        return rows

    def _databases(self) -> list[Database]:
        found = [] if self._registry is None else list(self._registry.databases)
        found += [] if self.consents is None else [self.consents.database]
        return [*found, *self._row_databases()]

    def _row_databases(self) -> list[Database]:
        """A start finds a held row by all of these."""
        inbox = [self.inbox.database] if isinstance(self.inbox, SqliteInbox) else []
        return [*inbox, *(archive.database for archive in self._archives)]

    def _are_rows_gone(self) -> bool:
        return not all(database.is_in_place() for database in self._row_databases())

    def rows_at_rest(self, home: Home) -> int:
        """Rows that the end of this process leaves in inbox and archive: those that it writes down at last, too."""
        if self.ledger is None or self._are_rows_gone():
            return 0
        return rows_held_away(home) + sum(page.n_open for page in home.pages() if page.n_open and page.rests)

    def close(self) -> None:
        """Blocks; no call may be under way."""
        if self._stopped_log is not None:
            self._stopped_log.close()
        if isinstance(self.inbox, SqliteInbox):
            self.inbox.close()
        for archive in self._archives:
            archive.close()
        if self.consents is not None:
            self.consents.close()
        if self._registry is not None:
            self._registry.close()

    def refresh_gauges(self) -> None:
        if self._registry is not None:
            self._metrics.store_bytes.set(self._registry.file_bytes(), "registry")
        if isinstance(self.inbox, SqliteInbox):
            self._metrics.store_bytes.set(self.inbox.file_bytes(), "inbox")
        if self.ledger is not None:
            self._metrics.store_bytes.set(sum(one.file_bytes() for one in self._archives), "ledger")
            self._metrics.pages_unsaved.set(self.ledger.unsaved_pages)
        if self.consents is not None:
            self._metrics.store_bytes.set(self.consents.database.file_bytes(), "consents")
        if self.spill is not None:
            self._metrics.store_bytes.set(self.spill.bytes, "spill")
        if self._home is not None:
            self._metrics.counter_cells.set(self._home.counters.n_cells)
            self._metrics.counter_days_forgotten.follow(self._home.counters.days_forgotten)


def check_apps(folder: Path, apps: list[str]) -> None:
    """Rows and pages know apps by their place in the configuration. Raises StoreError where that has changed."""
    path = folder / "apps.json"
    known = json.loads(path.read_text()) if path.exists() else []
    common = min(len(known), len(apps))
    if known[:common] != apps[:common]:
        was, now = ", ".join(known), ", ".join(apps)
        what = f"apps were {was}; the configuration has {now}: keep their order, and add new ones at the end"
        raise StoreError(str(path), what)
    if len(apps) > len(known):
        write_secret(path, json.dumps(apps).encode())


def make_hash_key(folder: Path) -> bytes:
    """The key in the folder, made where there is none. Raises StoreError."""
    path = folder / "hash.key"
    try:
        if not path.exists():
            write_secret(path, secrets.token_bytes(_HASH_KEY_BYTES))
        return path.read_bytes()
    except OSError as error:
        raise store_error(path, error) from error


def ledger_path(folder: Path, worker: int) -> Path:
    """The archive of the worker's journal."""
    return folder / ("ledger.db" if worker == 0 else f"ledger-{worker:03d}.db")


def files_elsewhere(config: Config) -> dict[str, Path]:
    """What belongs to a backup and does not stand in the store folder: message ids and tasks are checked with it."""
    secret = config.gateway.message_id_secret
    return {"message_id.secret": config.gateway.data_dir / "message_id.secret"} if secret is None else {}


def folders_elsewhere(config: Config) -> dict[str, Path]:
    """The same of whole folders: the journal, where there is one."""
    return {"journal": config.gateway.data_dir / "journal"}


def write_secret(path: Path, data: bytes) -> None:
    """The file is there, whole, readable by its owner alone."""
    part = path.with_name(path.name + ".new")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.rename(path)
