"""Consents of several workers: one of them counts (`ConsentLender`), the others borrow what their rows need.

    hold(keys) --> lent to this worker?  yes: the row goes
                   refused just now?     yes: it does not
                   else asked for        the row waits ASKED_WAIT_S at most, and comes again
    what became of rows ----------------> ended(used, emptied, returned) --> the one that counts

Three tables of the same kind (core/consents.py) say what was lent, what was refused and what is being asked for, per
key: nothing is kept per row. What was lent or refused and nobody came for goes back at the second look, so a row that
was stopped or has expired while it waited costs its user no consent.

The lender counts what it lent as held, by the life of the borrower, and takes it back when that ends. A lender that
has ended knows of no loans when it is back; what was used it is told all the same (tried until it is there), like a
table that a crash has robbed of its holds. While it is away, rows that need a consent wait; where the vendor is trusted
they go.

Waits for: answers of the lender, which waits for nobody. Is waited for by: nobody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.actors.consents import ASKED, ConsentGate, ConsentObserver, ConsentRules, Gates
from gateway.actors.worker_links import AnswerAsk, DeathWatcher, Reply, WorkerGone
from gateway.columns import I32, U16, U64, Bool
from gateway.core.consents import ConsentTable
from gateway.core.segments import HashKey
from gateway.core.shadow import Life
from gateway.errors import Overloaded
from gateway.ledger import Channel

WHAT = "consents"
#: Keys of one question: some 10 ms of the lender's loop.
_KEYS_MAX = 16_384
#: An answer takes some milliseconds; a lender that is away is back in two or three seconds.
ASKED_WAIT_S, _AWAY_WAIT_S = 0.02, 0.25
_AGAIN_S = 0.2
#: For what is left to be told at the end of a worker.
_LAST_S = 1.0


class LoanLinks(Protocol):
    async def ask(self, worker: int, what: str, head: dict[str, Any], body: bytes | memoryview = b"") -> memoryview: ...

    def answer_with(self, what: str, answer: AnswerAsk) -> None: ...

    def watch_deaths(self, watcher: DeathWatcher) -> None: ...


class Loans:
    """What a worker that does not count has borrowed, as its gates see it. Bounded by keys_max, as the table is."""

    def __init__(self, keys_max: int) -> None:
        self.table = ConsentTable(keys_max, is_stored=False)
        self._refused = ConsentTable(keys_max, is_stored=False)
        self._asked = ConsentTable(keys_max, is_stored=False)
        self._idle_before: dict[str, dict[bytes, int]] = {}
        self.questions: list[U64] = []
        self.ended: dict[str, list[U64]] = {"used": [], "emptied": [], "returned": []}
        self.bell = Bell()
        #: Nobody agreed to anything, as far as the lender knows: rows that the vendor judges need not ask.
        self.knows_none = False
        self.is_away = False

    @property
    def wait_s(self) -> float:
        return _AWAY_WAIT_S if self.is_away else ASKED_WAIT_S

    def hold(self, keys: U64) -> I32:
        """(n,) places of rows that may go, -1 where none is left, ASKED where that is not known yet."""
        places = self.table.hold(keys)
        short = np.flatnonzero(places < 0)
        if not len(short):
            return places
        refused = self._refused.hold(keys[short])
        self._refused.spend(refused[refused >= 0])
        unknown = short[refused < 0]
        if not len(unknown):
            return places
        places[unknown] = ASKED
        known = self._asked.hold(keys[unknown])
        self._asked.give_back(known[known >= 0])
        fresh = keys[unknown[known < 0]]
        if len(fresh):
            # Without room for more questions the rows come again, and are asked for then.
            with contextlib.suppress(Overloaded):
                self._asked.report(fresh, np.ones(len(fresh), np.uint64), is_total=False)
                self.questions.append(fresh)
                self.bell.ring()
        return places

    def answered(self, keys: U64, granted: Bool) -> None:
        """What the lender said of keys that were asked for."""
        self.unasked(keys)
        lent, refused = keys[granted], keys[~granted]
        with contextlib.suppress(Overloaded):
            self._refused.report(refused, np.ones(len(refused), np.uint64), is_total=False)
        try:
            self.table.report(lent, np.ones(len(lent), np.uint64), is_total=False)
        except Overloaded:
            self._tell("returned", lent)

    def unasked(self, keys: U64) -> None:
        """They are asked for anew when their rows come again."""
        self._asked.lower(keys, np.ones(len(keys), np.int64))

    def are_held(self, keys: U64) -> Bool:
        return self.table.are_held(keys)

    def left(self, keys: U64) -> U16:
        return self.table.left(keys)

    def find(self, keys: U64) -> I32:
        return self.table.find(keys)

    def spend(self, places: I32) -> None:
        self._tell("used", self.table.keys_at(places))
        self.table.spend(places)

    def empty(self, places: I32) -> None:
        self._tell("emptied", self.table.keys_at(places))
        self.table.empty(places)

    def give_back(self, places: I32) -> None:
        """The next row of this worker has it; what no row comes for goes back to the lender."""
        self._tell("returned", self.table.keys_at(places[self.table.are_empty(places)]))
        self.table.give_back(places)

    def look(self) -> None:
        """What was idle at the last look, and is still, goes back."""
        for name, table in (("lent", self.table), ("refused", self._refused)):
            keys, counts = table.idle()
            now = {key.tobytes(): count for key, count in zip(keys, counts.tolist(), strict=True)}
            before = self._idle_before.get(name, {})
            stale = {key: min(count, before[key]) for key, count in now.items() if key in before}
            self._idle_before[name] = {key: count - stale.get(key, 0) for key, count in now.items()}
            if stale:
                gone = np.frombuffer(b"".join(stale), np.uint64).reshape(-1, 2)
                counts_gone = np.array(list(stale.values()), np.int64)
                table.lower(gone, counts_gone)
                if name == "lent":
                    self._tell("returned", np.repeat(gone, counts_gone, axis=0))

    def _tell(self, what: str, keys: U64) -> None:
        if len(keys):
            self.ended[what].append(keys)
            self.bell.ring()


class ConsentLoans:
    """The gates of a worker that does not count, and who asks and tells the one that does."""

    def __init__(self, *, keys_max: int, write_s: float, key: HashKey, lender: int, observer: ConsentObserver) -> None:
        self.loans = Loans(keys_max)
        self.table = self.loans.table
        self._write_s = write_s
        self._key = key
        self._lender = lender
        self._observer = observer
        self._links: LoanLinks | None = None
        self._gates = Gates()

    def connect(self, links: LoanLinks) -> None:
        """Before anything runs."""
        self._links = links

    def gate(self, app_key: str, channel: Channel, rules: ConsentRules) -> ConsentGate:
        """A new gate for the lanes of that channel."""
        return self._gates.add(
            ConsentGate(
                self.loans,
                self._key,
                app_key=app_key,
                channel=channel,
                rules=rules,
                observer=self._observer,
                lender=self.loans,
            )
        )

    async def load(self) -> None:
        """Nothing is kept here."""
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Until cancelled. If cancelled: what was not told is told by the next run, or by `flush`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            while True:
                await self.loans.bell.wait()
                if not await self._say_all():
                    await trio.sleep(_AGAIN_S)
                    self.loans.bell.ring()

    async def _look(self) -> None:
        while True:
            await trio.sleep(self._write_s)
            await self._gates.settle()
            self.loans.look()
            if self.loans.knows_none:
                # Somebody may have agreed since; an empty question tells.
                self.loans.questions.append(np.zeros((0, 2), np.uint64))
                self.loans.bell.ring()

    async def flush(self) -> None:
        """What has ended is told, if the lender is there."""
        await self._gates.settle()
        with trio.move_on_after(_LAST_S):
            await self._say_all()

    async def _say_all(self) -> bool:
        """Everything that waits was said, or the lender is away."""
        loans = self.loans
        try:
            while any(loans.ended.values()):
                await self._tell()
            while loans.questions:
                await self._ask()
        except (WorkerGone, Overloaded):
            loans.is_away = True
            return False
        loans.is_away = False
        return True

    async def _tell(self) -> None:
        """One message; it stays until it has arrived."""
        ended = self.loans.ended
        parts = {what: lists[:1] for what, lists in ended.items()}
        head = {"op": "ended"} | {what: sum(map(len, lists)) for what, lists in parts.items()}
        body = b"".join([keys.tobytes() for lists in parts.values() for keys in lists])
        assert self._links is not None
        await self._links.ask(self._lender, WHAT, head, body)
        for what, lists in parts.items():
            del ended[what][: len(lists)]

    async def _ask(self) -> None:
        keys = self.loans.questions.pop(0)
        keys, rest = keys[:_KEYS_MAX], keys[_KEYS_MAX:]
        if len(rest):
            self.loans.questions.insert(0, rest)
        granted: Bool | None = None
        try:
            assert self._links is not None
            answer = await self._links.ask(self._lender, WHAT, {"op": "hold"}, keys.tobytes())
            said = np.frombuffer(answer, np.uint8) != 0
            self.loans.knows_none, granted = bool(said[0]), said[1:]
        finally:
            if granted is None:
                self.loans.unasked(keys)
        self.loans.answered(keys, granted)


class Counted(Protocol):
    """The consents of the worker that counts (`actors/consents.py`)."""

    table: ConsentTable

    def settle_keys(self, keys: U64) -> None: ...


class ConsentLender:
    """Answers those that borrow. knows: `Consents` of this worker."""

    def __init__(self, consents: Counted, keys_max: int, links: LoanLinks) -> None:
        self._consents = consents
        self._keys_max = keys_max
        #: Of each borrower, a key for each consent that it has of ours.
        self._lent: dict[Life, ConsentTable] = {}
        links.answer_with(WHAT, self._on_ask)
        links.watch_deaths(self)

    def on_died(self, life: Life) -> None:
        """What became of its rows nobody will say: their consents are given back, as after any crash."""
        lent = self._lent.pop(life, None)
        if lent is not None:
            keys, counts = lent.idle()
            self._let_go(np.repeat(keys, counts, axis=0), self._consents.table.give_back)

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        keys = np.frombuffer(body, np.uint64).reshape(-1, 2)
        if head["op"] == "hold":
            reply(self._hold(life, keys))
            return
        first = 0
        for what in ("used", "emptied", "returned"):
            self._ended(life, what, keys[first : first + head[what]])
            first += head[what]
        reply(b"")

    def _hold(self, life: Life, keys: U64) -> bytes:
        table = self._consents.table
        if len(keys) and table.are_held(keys).any():
            # Rows of this worker that hold them may have ended since.
            self._consents.settle_keys(keys)
        granted: Bool = table.hold(keys) >= 0
        lent = self._lent.get(life)
        if lent is None:
            lent = self._lent[life] = ConsentTable(self._keys_max, is_stored=False)
        lent.report(keys[granted], np.ones(int(granted.sum()), np.uint64), is_total=False)
        return bytes([not len(table)]) + granted.tobytes()

    def _ended(self, life: Life, what: str, keys: U64) -> None:
        """What was not lent in this life of ours is lowered only: it is used, whoever held it."""
        table, lent = self._consents.table, self._lent.get(life)
        of_loan = np.zeros(len(keys), np.bool_)
        if lent is not None and len(keys):
            places = lent.hold(keys)
            of_loan = places >= 0
            lent.spend(places[of_loan])
        match what:
            case "used":
                self._let_go(keys[of_loan], table.spend)
                table.lower(keys[~of_loan], np.ones(int((~of_loan).sum()), np.int64))
            case "emptied":
                self._let_go(keys[of_loan], table.empty)
                table.lower(keys[~of_loan], np.full(int((~of_loan).sum()), np.iinfo(np.int64).max, np.int64))
            case _:
                self._let_go(keys[of_loan], table.give_back)

    def _let_go(self, keys: U64, act: Callable[[I32], None]) -> None:
        if len(keys):
            act(self._consents.table.find(keys))
