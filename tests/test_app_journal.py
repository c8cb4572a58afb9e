"""The journal on disk behind intake and holders; long because every test here lives in the one double of a process.

What is durable when, disks that forget, fail or are slow, and what a restart makes of it.

`Life` is one process's worth of it: intake, journal actor, and a vendor that takes rows as lanes do. Between two lives
the disk may forget what was not synced.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.bell import Bell
from gateway.actors.intake import Accepted, Intake
from gateway.actors.precedence import Precedence
from gateway.app_journal import DataDir, DiskJournal
from gateway.batch import OwnershipEpoch, Submission
from gateway.clock import SystemClock
from gateway.config import Config, load_config
from gateway.content import Variant
from gateway.core.home import Home
from gateway.core.request_ids import RequestIds
from gateway.errors import ConfigError, StoreFull, StoreUnavailable
from gateway.ledger import Channel, Flag, LedgerPage, Reason, Receipt, State
from gateway.observe.counting import HomeCounts, IntakeCounts
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.store.log_file import LogFile
from gateway.store.memory import MemoryJournal

SECRET = b"the key of message ids"
EPOCH = OwnershipEpoch(1)


@pytest.fixture(scope="module")
def faulty_files() -> ModuleType:
    path = Path(__file__).parent / "store" / "faulty_files.py"
    spec = importlib.util.spec_from_file_location("faulty_files", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class StandingClock(SystemClock):
    """A wall clock that tests set."""

    unix = 1_800_000_000_000

    def unix_ms(self) -> int:
        return self.unix


class Life:
    """From a start to an end, orderly or not. issued: device ids in the order in which they left."""

    def __init__(self, config: Config, file_type: type[LogFile], clock: SystemClock) -> None:
        self.config = config
        self.clock = clock
        self.metrics = Metrics()
        self.lines = io.StringIO()
        self.log = Log(stream=self.lines)
        self.home = Home(
            secret=SECRET,
            journal=7,
            observer=HomeCounts(self.metrics),
            ledger_bytes_max=1 << 30,
            rows_open_max=1 << 30,
            change_rows_max=1000,
            now=clock.monotonic(),
        )
        self.precedence = Precedence()
        self.disk = DiskJournal(self, 7, SECRET, EPOCH, file_type=file_type)
        #: Devices whose final state is in a record.
        self.written_final: set[bytes] = set()
        written = self.disk.trail.written

        def on_written(taken: Any, position: int) -> Any:
            for page, mark in zip(taken.pages, taken.marks, strict=True):
                rows = mark.rows[np.isin(mark.states, [State.VENDOR_ACCEPTED, State.FAILED])]
                self.written_final |= {page.batch.device_ids[row].tobytes() for row in rows}
            return written(taken, position)

        self.disk.trail.written = on_written  # type: ignore[method-assign]
        self.request_ids = RequestIds(ids_max=10_000, age_ms=86_400_000)
        self.pages: list[LedgerPage] = []
        self.issued: list[bytes] = []
        self.intake = Intake(
            home=self.home,
            journal=MemoryJournal(),
            epoch=EPOCH,
            secret=SECRET,
            clock=clock,
            route=self.pages.append,
            observer=IntakeCounts(self.metrics, ["shop", "hints"]),
            gather_s=0.0,
            gather_busy_s=0.0,
            gather_rows_max=100_000,
            batch_bytes_max=1 << 20,
            request_ids=self.request_ids,
            app_keys=["shop", "hints"],
            disk=self.disk.actor,
            disk_apps=self.disk.apps,
        )

    def submit(self, ids: list[bytes], *, app: int = 0, request_id: str = "", **content: Any) -> list[Any]:
        """The answer will be in the list returned."""
        told: list[Any] = []
        columns = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16)
        variant = Variant("title", "body", **content)
        submission = Submission(request_id, [variant], len(ids), None, columns, None, None, None, {}, None, [])
        self.intake.submit(app, submission, told.append, digest=b"".join(ids)[:8] + b"digest")
        return told

    async def mark(self, page: LedgerPage, rows: Any) -> None:
        """As a lane does: the rows are marked for APNs, durably."""
        bell = Bell()
        page.channel[rows] = Channel.APNS
        ticket = self.disk.trail.mark(page, rows, Channel.APNS, bell.ring)
        while not self.disk.trail.is_durable(ticket):
            await bell.wait()

    async def issue(self, page: LedgerPage, rows: Any) -> None:
        await self.mark(page, rows)
        self.issued += [page.batch.device_ids[row].tobytes() for row in rows]
        self.home.move(page, rows, State.IN_FLIGHT, None, self.clock.monotonic())

    def end(self, page: LedgerPage, rows: Any, state: State = State.VENDOR_ACCEPTED) -> None:
        self.home.move(page, rows, state, Reason.NONE, self.clock.monotonic())

    def rows_in(self, state: State) -> set[bytes]:
        return {
            page.batch.device_ids[row].tobytes()
            for page in self.home.pages()
            for row in np.flatnonzero(page.state == state)
        }

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.lines.getvalue().splitlines()) if line["event"] == event]


class Lives:
    """One data folder through several lives."""

    def __init__(self, folder: Path, faulty_files: ModuleType) -> None:
        (folder / "secret").write_text("secret")
        self._text = (
            '[gateway]\ndata_dir = "data"\n[journal]\nsegment_bytes = 65536\noutcome_wait_ms = 1.0\nretry_s = 0.05\n'
        )
        self._apps = ""
        for key, durability in (("shop", "disk"), ("hints", "memory")):
            self._apps += f'[[apps]]\nkey = "{key}"\nsecrets = [{{ file = "secret" }}]\ndurability = "{durability}"\n'
        self.folder = folder
        self.faults = faulty_files.Disk()
        self.clock = StandingClock()
        (folder / "data").mkdir()

    @contextlib.asynccontextmanager
    async def live(self, journal: str = "", *, runs: bool = True) -> AsyncIterator[Life]:
        """A life that ends like a crash: nothing is finished. runs: the journal's actor and intake work."""
        file = self.folder / "gateway.toml"
        file.write_text(self._text + journal + self._apps)
        life = Life(load_config(file), self.faults.file_type, self.clock)
        try:
            life.pages += await life.disk.recover(life.request_ids)
            async with trio.open_nursery() as nursery:
                if runs:
                    nursery.start_soon(life.disk.actor.run)
                    nursery.start_soon(life.intake.run)
                yield life
                nursery.cancel_scope.cancel()
        finally:
            life.disk.close()


@pytest.fixture
def lives(tmp_path: Path, faulty_files: ModuleType) -> Lives:
    return Lives(tmp_path, faulty_files)


_NUMBERS = itertools.count()


def devices(n: int) -> list[bytes]:
    return [next(_NUMBERS).to_bytes(16, "big") for _ in range(n)]


async def until(is_so: Callable[[], Any], timeout_s: float = 10.0) -> None:
    with trio.fail_after(timeout_s):
        while not is_so():
            await trio.sleep(0.002)


def kinds(lives: Lives) -> list[str]:
    return lives.faults.calls


# what is durable when


async def test_a_submit_is_answered_after_one_durable_write_and_a_mark_costs_one_more(lives: Lives) -> None:
    async with lives.live() as life:
        await until(lambda: life.disk.journal.statistics().records == 1)  # the count of the start
        lives.faults.calls.clear()
        told = life.submit(devices(1000))
        assert (told, lives.faults.calls) == ([], [])
        await until(lambda: told)
        assert isinstance(told[0], Accepted)
        assert lives.faults.calls == ["write_durable"]
        (page,) = life.pages
        await life.issue(page, np.arange(1000))
        assert lives.faults.calls == ["write_durable"] * 2
        life.end(page, np.arange(1000))
        # Final within the wait: the outcome is not written, the batch is let go, and then its mark.
        await until(lambda: life.disk.journal.statistics().records == 1)
        # One more for the numbers given so far, which a batch that is gone does not say any more.
        assert lives.faults.calls == ["write_durable"] * 5


async def test_an_app_in_memory_costs_no_write_and_waits_for_no_disk(lives: Lives) -> None:
    async with lives.live() as life:
        await until(lambda: life.disk.journal.statistics().records == 1)
        lives.faults.calls.clear()
        told = life.submit(devices(10), app=1)
        await until(lambda: told)
        assert lives.faults.calls == []
        assert life.pages[0].trail is None


async def test_many_submits_and_marks_share_their_writes(lives: Lives) -> None:
    async with lives.live() as life:
        await until(lambda: life.disk.journal.statistics().records == 1)
        lives.faults.calls.clear()
        told = [life.submit(devices(1)) for _ in range(500)]
        await until(lambda: all(told))
        assert len(lives.faults.calls) <= 3
        async with trio.open_nursery() as nursery:
            for page in life.pages:
                for row in range(page.n):
                    nursery.start_soon(life.mark, page, np.array([row]))
        assert len(lives.faults.calls) <= 6


async def test_a_submission_in_several_batches_becomes_durable_whole(lives: Lives) -> None:
    ids = devices(70_000)
    async with lives.live() as life:
        told = life.submit(ids, request_id="r")
        await until(lambda: told)
        assert len(life.pages) == 2
    async with lives.live() as life:
        assert sum(page.n for page in life.pages) == 70_000
        found = life.home.find_task(told[0].task_id)
        assert [segment.n for _, segment in found] == [65_536, 4464]
        again = life.submit(ids, request_id="r")
        assert again[0].task_id == told[0].task_id


# restarts


async def test_rows_are_where_they_were_after_a_restart(lives: Lives) -> None:
    ids = devices(100)
    async with lives.live() as life:
        told = life.submit(ids)
        await until(lambda: told)
        (page,) = life.pages
        await life.issue(page, np.arange(0, 60))
        life.end(page, np.arange(0, 20))
        life.end(page, np.arange(20, 30), State.FAILED)
        life.home.move(page, np.arange(30, 40), State.QUEUED, Reason.NONE, life.clock.monotonic())
        page.flags[35:40] |= np.uint8(Flag.HANDED_OVER)
        life.disk.trail.renew(page, np.arange(35, 40))
        await life.mark(page, np.arange(60, 70))
        await until(lambda: not life.disk.trail.has_dirty)
    async with lives.live() as life:
        (page,) = life.pages
        states = Counter(State(state).name for state in page.state.tolist())
        assert states == {"VENDOR_ACCEPTED": 20, "FAILED": 10, "QUEUED": 70}
        resent = np.flatnonzero(page.flags & Flag.RESENT_UNCERTAIN)
        assert resent.tolist() == [*range(40, 70)]
        assert np.flatnonzero(page.flags & Flag.HANDED_OVER).tolist() == [*range(35, 40)]
        assert page.counts.sum() == 100
        assert life.home.rows_open == page.n_open == 70
        (line,) = life.logged("recovered")
        assert (line["rows_unsent"], line["rows_uncertain"], line["rows_final"]) == (40, 30, 30)


async def test_rows_that_were_uncertain_once_are_not_so_at_every_further_crash(lives: Lives) -> None:
    async with lives.live() as life:
        told = life.submit(devices(10))
        await until(lambda: told)
        await life.issue(life.pages[0], np.arange(10))
    async with lives.live() as life:
        assert life.logged("recovered")[0]["rows_uncertain"] == 10
        await until(lambda: not life.disk.trail.has_dirty)
        await trio.sleep(0.05)
    async with lives.live() as life:
        (line,) = life.logged("recovered")
        assert (line["rows_uncertain"], line["rows_unsent"]) == (0, 10)
        assert np.count_nonzero(life.pages[0].flags & Flag.RESENT_UNCERTAIN) == 10


async def test_a_batch_that_was_final_at_the_crash_goes_at_the_next_start(lives: Lives) -> None:
    async with lives.live() as life:
        told = life.submit(devices(10), request_id="r")
        await until(lambda: told)
        (page,) = life.pages
        await life.issue(page, np.arange(10))
        life.end(page, np.arange(9))
        await until(lambda: not life.disk.trail.has_dirty)
        await trio.sleep(0.02)
        # The last outcome is written, and the process ends before the batch is let go.
        life.disk.trail.finished = lambda page: None  # type: ignore[method-assign]
        life.end(page, np.arange(9, 10))
        await until(lambda: not life.disk.trail.has_dirty)
        await trio.sleep(0.02)
    async with lives.live() as life:
        assert life.pages == []
        assert life.logged("recovered")[0]["rows_final"] == 10
        await until(lambda: life.disk.journal.statistics().records == 1)
    async with lives.live() as life:
        assert life.logged("recovered")[0]["batches"] == 0
        assert len(life.request_ids) == 1


async def test_a_batch_stays_until_its_request_ids_are_kept_elsewhere(lives: Lives) -> None:
    ids = devices(3)
    async with lives.live() as life:

        def refuse(entries: Any, before_unix_ms: int) -> None:
            raise StoreFull("ids", "no room")

        life.disk._request_log.append = refuse  # type: ignore[method-assign]
        told = life.submit(ids, request_id="r")
        await until(lambda: told)
        await life.issue(life.pages[0], np.arange(3))
        life.end(life.pages[0], np.arange(3))
        # Tried again and again.
        await until(lambda: life.metrics.journal_errors.value("full") > 1)
    async with lives.live() as life:
        (again,) = life.submit(ids, request_id="r")
        assert (again.task_id, again.is_repeat) == (told[0].task_id, True)


async def test_a_wall_clock_that_is_set_forward_forgets_no_request_id(lives: Lives) -> None:
    """Nor does one that is set back again; and the day of an id is over when it is over."""
    ids, day_ms = devices(3), 86_400_000

    async def end_all(life: Life) -> None:
        """Their ids are in the log of ids then."""
        rows = np.arange(3)
        await life.issue(life.pages[-1], rows)
        life.end(life.pages[-1], rows)
        await until(lambda: life.pages[-1].trail is None or not life.disk.trail.has_final)

    def are_repeats(life: Life, *names: str) -> bool:
        told = [life.submit(ids, request_id=name) for name in names]
        return all(one and one[0].is_repeat for one in told)

    olds, news = [f"r{number}" for number in range(30)], [f"s{number}" for number in range(30)]
    async with lives.live() as life:
        await until_told(life.submit(ids, request_id="q"))
        await end_all(life)
        await until(lambda: life.disk.journal.statistics().records == 1)
    async with lives.live() as life:
        for name in olds:
            await until_told(life.submit(ids, request_id=name))
        lives.clock.unix += 3 * day_ms
        assert are_repeats(life, "q", *olds)
        # Others make room for themselves alone, in memory and on the disk.
        for name in news:
            await until_told(life.submit(ids, request_id=name))
        records = life.disk.journal.statistics().records
        await end_all(life)
        await until(lambda: life.disk.journal.statistics().records < records)
        assert are_repeats(life, "q", *olds, *news)
        lives.clock.unix -= 3 * day_ms
    async with lives.live() as life:
        assert are_repeats(life, "q", *olds, *news)
    lives.clock.unix += 3 * day_ms
    async with lives.live() as life:
        again = life.submit(ids, request_id="r0")
        await until(lambda: again)
        assert not again[0].is_repeat


async def until_told(told: list[Any]) -> None:
    await until(lambda: told)


async def test_request_ids_that_cannot_be_read_are_named_and_the_others_hold(lives: Lives) -> None:
    ids = devices(3)
    async with lives.live() as life:
        for number in range(3):
            told = life.submit(ids, request_id=f"r{number}")
            await until(lambda told=told: told)
            await life.issue(life.pages[-1], np.arange(3))
            life.end(life.pages[-1], np.arange(3))
            await until(lambda: life.disk.journal.statistics().records == 1)
    (path,) = lives.folder.glob("data/journal/*/ids/*.ids")
    data = bytearray(path.read_bytes())
    data[16 + 24 + 16 + 3] ^= 1
    path.write_bytes(data)
    async with lives.live() as life:
        (line,) = life.logged("damaged request ids")
        assert line["file"] == str(path)
        assert life.metrics.journal_errors.value("corrupt") == 1
        again = [life.submit(ids, request_id=f"r{number}") for number in (0, 2)]
        assert all(told[0].is_repeat for told in again)
        assert not life.disk.actor.fault


async def test_urgent_batches_come_first(lives: Lives) -> None:
    contents = [{"priority": "normal"}, {}, {"class_": "marketing"}, {"priority": "normal", "class_": "marketing"}, {}]
    async with lives.live() as life:
        for content in contents:
            told = life.submit(devices(1), **content)
            await until(lambda told=told: told)
    async with lives.live() as life:
        order = [page.batch.address.sequence for page in life.pages]
        first = min(order)
        assert [sequence - first for sequence in order] == [1, 4, 2, 0, 3]


async def test_a_task_id_sequence_and_label_never_come_again(lives: Lives) -> None:
    seen: set[Any] = set()
    newest = 0
    for step_ms in (0, -3_600_000, 7_200_000, -10_000_000, 0):
        lives.clock.unix += step_ms
        async with lives.live() as life:
            for _ in range(3):
                told = life.submit(devices(1))
                await until(lambda told=told: told)
                assert told[0].task_id not in seen
                seen.add(told[0].task_id)
            for page in life.pages[-3:]:
                address = page.batch.address
                assert (address.journal, address.sequence) not in seen
                assert address.unix_ms >= newest
                seen.add((address.journal, address.sequence))
                newest = address.unix_ms
            for page in life.pages:
                rows = np.flatnonzero(page.state == State.QUEUED)
                life.home.move(page, rows, State.DROPPED, Reason.STOPPED, life.clock.monotonic())
            await trio.sleep(0.02)


async def test_a_wall_clock_that_was_set_back_makes_no_row_younger(lives: Lives) -> None:
    async with lives.live() as life:
        told = life.submit(devices(1), ttl_s=100)
        await until(lambda: told)
        lives.clock.unix += 60_000
        other = life.submit(devices(1), ttl_s=100)
        await until(lambda: other)
    lives.clock.unix -= 50_000
    async with lives.live() as life:
        now = life.clock.monotonic()
        left = [page.batch.born + 100 - now for page in life.pages]
        assert left[0] == pytest.approx(40, abs=5)
        assert left[1] == pytest.approx(100, abs=5)


async def test_batches_of_an_app_that_is_gone_stay_until_it_is_back(lives: Lives) -> None:
    async with lives.live() as life:
        told = life.submit(devices(5))
        await until(lambda: told)
        await life.issue(life.pages[0], np.arange(2))
    kept = lives._apps
    lives._apps = kept.replace('"shop"', '"store"')
    async with lives.live() as life:
        assert life.pages == []
        assert "'shop'" in life.logged("batches of an unknown app stay in the journal")[0]["text"]
        await trio.sleep(0.05)
    # Also in another place of the file than before.
    first, second = kept.split("[[apps]]")[1:]
    lives._apps = f"[[apps]]{second}[[apps]]{first}"
    async with lives.live() as life:
        (page,) = life.pages
        assert (page.n, page.batch.app) == (5, 1)
        assert life.logged("recovered")[0]["rows_uncertain"] == 2


# disks


@pytest.mark.parametrize("seed", range(30))
async def test_what_was_promised_holds_on_a_disk_that_forgets_what_was_not_synced(lives: Lives, seed: int) -> None:
    """Random work, power lost at a random write, three times over. Afterwards: each answered row is there or final;
    none that left is taken for unsent; none that was let go as final comes back."""
    chance = random.Random(seed)
    answered: set[bytes] = set()
    ended: set[bytes] = set()
    may_be_gone: set[bytes] = set()
    sent: Counter[bytes] = Counter()
    counted: Counter[bytes] = Counter()
    clicked: set[bytes] = set()
    for _ in range(3):
        lives.faults.fails_after = None
        lives.faults.errno = None
        lives.faults.refuses_sync = False
        async with lives.live() as life:
            open_rows = life.rows_in(State.QUEUED)
            # Rows may end between the last record and the power failure, never come back after it was written.
            assert answered - ended - may_be_gone <= open_rows | life.rows_in(State.VENDOR_ACCEPTED) | life.rows_in(
                State.FAILED
            )
            for page in life.pages:
                for row in np.flatnonzero(page.state == State.QUEUED).tolist():
                    device = page.batch.device_ids[row].tobytes()
                    assert device not in ended, "a row that was durably final is sent again"
                    counted[device] += bool(page.flags[row] & Flag.RESENT_UNCERTAIN)
                    assert not sent[device] or counted[device], "a row that left is taken for unsent"
                    assert device not in clicked, "a row whose receipt was durable is sent again"
            for page in life.home.pages():
                for row in range(page.n):
                    if page.batch.device_ids[row].tobytes() in clicked:
                        assert page.receipt[row] == Receipt.CLICKED, "a receipt that was durable is lost"
            lives.faults.fails_after = chance.randrange(5, 60)

            def note(ids: set[bytes], is_durable: bool) -> None:
                clicked.update(ids if is_durable else ())

            async def work(life: Life = life) -> None:
                while not life.disk.actor.fault:
                    told = life.submit(devices(chance.choice([1, 30, 300])), request_id=str(next(_NUMBERS)))
                    await trio.sleep(chance.choice([0, 0.001, 0.004]))
                    if not (told and isinstance(told[0], Accepted)):
                        await trio.sleep(0.01)
                    for page in list(life.pages):
                        rows = np.flatnonzero(page.state == State.QUEUED)
                        rows = rows[np.array([chance.random() < 0.5 for _ in rows], np.bool_)]
                        if not len(rows):
                            continue
                        with trio.move_on_after(0.05) as scope:
                            await life.mark(page, rows)
                        if scope.cancelled_caught or life.disk.actor.fault:
                            return
                        for row in rows:
                            sent[page.batch.device_ids[row].tobytes()] += 1
                        life.home.move(page, rows, State.IN_FLIGHT, None, life.clock.monotonic())
                        fate = chance.random()
                        if chance.random() < 0.3:
                            life.home.raise_receipts(page, rows, Receipt.CLICKED, life.clock.monotonic())
                            ids = {page.batch.device_ids[row].tobytes() for row in rows}
                            fate = 0.0
                            life.disk.notes.wait(functools.partial(note, ids))
                        if fate < 0.6:
                            life.end(page, rows, chance.choice([State.VENDOR_ACCEPTED, State.FAILED]))
                        elif fate < 0.8:
                            for row in rows:
                                # Refused: the receiver has not seen it.
                                sent[page.batch.device_ids[row].tobytes()] -= 1
                            life.home.move(page, rows, State.QUEUED, None, life.clock.monotonic())

            with contextlib.suppress(StoreUnavailable):
                with trio.move_on_after(1.0):
                    await work()
            answered |= {page.batch.device_ids[row].tobytes() for page in life.home.pages() for row in range(page.n)}
            ended |= life.written_final
            for page in life.home.pages():
                assert page.trail is not None
                ids = {page.batch.device_ids[row].tobytes() for row in range(page.n)}
                ended |= ids if page.trail.is_gone else set()
                # Its batch may have been let go when the power was lost.
                may_be_gone |= ids if not page.n_open else set()
        lives.faults.forget(chance)


async def test_a_slow_disk_delays_answers_and_marks_and_loses_neither(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    kept = lives.faults.file_type.write_durable

    def slow(self: Any, buffers: Any, offset: int) -> None:
        time.sleep(0.2)
        kept(self, buffers, offset)

    monkeypatch.setattr(lives.faults.file_type, "write_durable", slow)
    async with lives.live() as life:
        began = trio.current_time()
        told = life.submit(devices(10))
        await until(lambda: told)
        assert trio.current_time() - began >= 0.2
        began = trio.current_time()
        await life.issue(life.pages[0], np.arange(10))
        assert trio.current_time() - began >= 0.2
        life.end(life.pages[0], np.arange(10))
        await until(lambda: life.disk.trail.issued_rows() == 0)


@pytest.mark.parametrize("number", [28, 30, 5])
async def test_a_disk_that_refuses_stops_intake_and_lets_what_was_accepted_go(lives: Lives, number: int) -> None:
    """No space left, read-only, input/output error."""
    async with lives.live() as life:
        told = life.submit(devices(10))
        await until(lambda: told)
        lives.faults.errno = number
        lives.faults.refuses_sync = number == 5
        refused = life.submit(devices(5))
        await until(lambda: refused)
        assert isinstance(refused[0], StoreUnavailable)
        with pytest.raises(StoreUnavailable, match="nothing can be made durable"):
            life.submit(devices(5))
        # An app in memory is none of the disk's business.
        hints = life.submit(devices(5), app=1)
        await until(lambda: hints)
        with trio.fail_after(60):
            await life.issue(life.pages[0], np.arange(10))
        assert life.metrics.rows_issued_unmarked.value() == 10
        assert life.metrics.journal_failed.value() == 1


async def test_a_full_disk_stops_intake_keeps_marking_and_takes_rows_again_when_it_has_room(lives: Lives) -> None:
    async with lives.live() as life:
        lives.faults.refuses_new = True
        refused = life.submit(devices(300))
        while not refused or isinstance(refused[0], Accepted):
            if refused:
                refused = life.submit(devices(300))
            await trio.sleep(0.002)
        assert isinstance(refused[0], StoreUnavailable)
        for page in life.pages:
            await life.issue(page, np.arange(page.n))
            life.end(page, np.arange(page.n))
        assert life.metrics.rows_issued_unmarked.value() == 0
        assert life.metrics.journal_errors.value("full") > 0
        lives.faults.refuses_new = False
        await trio.sleep(0.1)
        told = life.submit(devices(5))
        await until(lambda: told)
        assert isinstance(told[0], Accepted)
        assert life.metrics.journal_failed.value() == 0


async def test_a_receipt_that_found_no_room_is_refused_and_written_when_there_is_some(lives: Lives) -> None:
    async with lives.live() as life:
        told = life.submit(devices(2))
        await until(lambda: told)
        (page,) = life.pages
        await life.issue(page, np.arange(2))
        answers: list[bool] = []
        append = life.disk.journal.append

        async def refuse(*_: Any) -> Any:
            raise StoreFull("journal", "no room")

        life.disk.journal.append = refuse  # type: ignore[method-assign]
        life.home.raise_receipts(page, np.array([1]), Receipt.CLICKED, life.clock.monotonic())
        life.disk.notes.wait(answers.append)
        # Whoever told of it is to come again.
        await until(lambda: answers)
        assert answers == [False]
        life.disk.journal.append = append  # type: ignore[method-assign]
        # By itself, a moment later; who asks before that is refused again.
        await until(lambda: page.history is not None and page.history.written == 1)
        life.disk.notes.wait(answers.append)
        assert answers == [False, True]
    async with lives.live() as life:
        (page,) = life.home.pages()
        assert page.receipt.tolist() == [Receipt.NONE, Receipt.CLICKED]


async def test_a_window_bounds_the_rows_that_a_crash_makes_uncertain(lives: Lives) -> None:
    async with lives.live("issued_rows_max = 64\n") as life:
        told = life.submit(devices(500))
        await until(lambda: told)
        (page,) = life.pages
        trail = life.disk.trail
        rung: list[int] = []
        done = 0
        while done < 500:
            room = trail.room(0, Channel.APNS, lambda: rung.append(1))
            assert trail.issued_rows() <= 64
            if not room:
                life.end(page, np.flatnonzero(page.state == State.IN_FLIGHT))
                # The room comes back when that is durable.
                assert trail.room(0, Channel.APNS, lambda: rung.append(1)) == 0
                before = len(rung)
                await until(lambda before=before: len(rung) > before)
                continue
            rows = np.arange(done, min(done + room, 500))
            await life.issue(page, rows)
            done += len(rows)
    async with lives.live() as life:
        assert life.logged("recovered")[0]["rows_uncertain"] <= 64


def test_a_data_folder_belongs_to_one_gateway(tmp_path: Path) -> None:
    first = DataDir(tmp_path / "data")
    with pytest.raises(ConfigError, match="no other gateway"):
        DataDir(tmp_path / "data")
    first.close()
    DataDir(tmp_path / "data").close()
