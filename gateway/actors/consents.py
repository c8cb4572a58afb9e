"""Consents: what users of WeChat's mini programs have agreed to, and the gate that rows pass before they are rendered.

    report() --> ConsentTable <-- hold -- ConsentGate.admit() <-- LaneRenderer
                     |  ^
      store <-- run()   +-- settle() -- what became of held rows, as their pages say

A row holds its consent from the first time it is rendered until it has ended or gone elsewhere: over retries, so that
no other row gets it, and no longer than that. What became of it is read from the ledger page and its burst log, which
know everything: an attempt that WeChat took, or may have taken, has used it; 43101 says that there is none; any other
end gives it back. That is looked up once per `write_s`, and at once where a row would be refused for want of a consent
that another row holds. So no lane has to report anything, and whichever way a row leaves (stopped, expired, fallen
back) counts.

A crash forgets the holds, and what was used within the last `write_s`: one consent too many is counted until 43101.

Waits for: the clock, the store. Is waited for by: Service (`report`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import trio

from gateway.batch import OwnershipEpoch
from gateway.columns import I32, I64, U8, U16, U64, Bool, Rows, TextColumn
from gateway.consent_columns import Changed
from gateway.content import Variant
from gateway.core.consents import ConsentTable, hash_users, key_salts
from gateway.core.rendered import TokenGroup
from gateway.core.segments import HashKey
from gateway.core.tokens import by_length
from gateway.errors import StoreError
from gateway.ledger import NO_VERDICT, Channel, LedgerPage, State
from gateway.verdict import Verdict

#: Pages settled in one step: some 20 us each.
_STEP_PAGES = 50
#: A place that is not known yet: the consents are of another worker, which is being asked.
ASKED = -2
_IS_UNDER_WAY: Bool = np.isin(np.arange(len(State)), [State.QUEUED, State.IN_FLIGHT, State.WAITING])


class ConsentObserver(Protocol):
    """what: reported, used, given_back, emptied or refused."""

    def consents(self, app_key: str, what: str, count: int) -> None: ...

    def not_written(self, error: StoreError) -> None: ...

    def written(self) -> None: ...


class ConsentStore(Protocol):
    async def write(self, epoch: OwnershipEpoch, changed: Changed) -> None: ...

    async def load(self) -> Changed: ...


class Holds(Protocol):
    """Who says which keys have a consent for a row: the table, or what was borrowed of it (`consent_loans.py`)."""

    @property
    def knows_none(self) -> bool: ...

    def hold(self, keys: U64) -> I32: ...

    def are_held(self, keys: U64) -> Bool: ...

    def left(self, keys: U64) -> U16: ...

    def find(self, keys: U64) -> I32: ...

    def spend(self, places: I32) -> None: ...

    def empty(self, places: I32) -> None: ...

    def give_back(self, places: I32) -> None: ...


class Lender(Protocol):
    """Of consents that another worker counts. wait_s: until rows that were asked for should come again."""

    @property
    def wait_s(self) -> float: ...

    @property
    def is_away(self) -> bool: ...


class ConsentRules(NamedTuple):
    """Of one mini program. template_of: the template of a content, "" where none counts. no_consent: the vendor's word
    for an answer that says that there is none. is_strict: a row without a consent is refused; else the vendor decides.
    """

    template_of: Callable[[Variant], str]
    no_consent: str
    is_strict: bool


class Admitted(NamedTuple):
    """groups: those that may go. barred: positions of rows that have no consent; waiting: of rows of which nobody has
    said yet, and which should come again in wait_s."""

    groups: list[TokenGroup]
    barred: Rows
    waiting: Rows
    wait_s: float


_NO_ROWS: Rows = np.zeros(0, np.intp)


class _Page:
    """A page with held rows. first_burst: those before are answered and have been looked at."""

    __slots__ = ("first_burst", "number", "page")

    def __init__(self, page: LedgerPage, number: int) -> None:
        self.page = page
        self.number = number
        self.first_burst = len(page.bursts)


class ConsentGate:
    """Of one app's channel; its lanes share it. Rows under way stand in three columns: place in table, page, row."""

    def __init__(
        self,
        table: Holds,
        key: HashKey,
        *,
        app_key: str,
        channel: Channel,
        rules: ConsentRules,
        observer: ConsentObserver,
        lender: Lender | None = None,
    ) -> None:
        self._table = table
        self._lender = lender
        self._key = key
        self._app_key = app_key
        self._channel = channel
        self._rules = rules
        self._observer = observer
        self._places: I32 = np.zeros(0, np.int32)
        self._of_page: I64 = np.zeros(0, np.int64)
        self._rows: I64 = np.zeros(0, np.int64)
        self._pages: dict[int, _Page] = {}
        self._next_number = 0

    # -- used by the renderer

    def admit(self, page: LedgerPage, rows: Rows, groups: list[TokenGroup]) -> Admitted:
        """Which rows may go: they hold a consent, need none, or are the vendor's to judge."""
        if not self._rules.is_strict and self._table.knows_none:
            return Admitted(groups, _NO_ROWS, _NO_ROWS, 0.0)
        keys, is_counted = self._keys(page, rows, groups)
        wants = np.flatnonzero(is_counted & ~self._are_held(page, rows))
        places = self._table.hold(keys[wants])
        short = np.flatnonzero(places < 0)
        if len(short) and self._table.are_held(keys[wants[short]]).any():
            # Rows that hold them may have ended since.
            self.settle_keys(keys[wants[short]])
            short = short[self._table.left(keys[wants[short]]) > 0]
            places[short] = self._table.hold(keys[wants[short]])
        has = places >= 0
        self._remember(page, rows[wants[has]], places[has])
        waits = places == ASKED
        if self._lender is not None and self._lender.is_away and not self._rules.is_strict:
            waits[:] = False
        refused = wants[~has & ~waits] if self._rules.is_strict else _NO_ROWS
        if len(refused):
            self._observer.consents(self._app_key, "refused", len(refused))
        if not len(refused) and not waits.any():
            return Admitted(groups, refused, _NO_ROWS, 0.0)
        may_go = np.ones(len(rows), np.bool_)
        may_go[refused] = may_go[wants[waits]] = False
        left = [group for each in groups if len((group := _part(each, may_go)).positions)]
        return Admitted(left, refused, wants[waits], 0.0 if self._lender is None else self._lender.wait_s)

    def _keys(self, page: LedgerPage, rows: Rows, groups: list[TokenGroup]) -> tuple[U64, Bool]:
        """(n, 2) the key of each row that has a target, and (n,) which of them count."""
        keys, is_counted = np.zeros((len(rows), 2), np.uint64), np.zeros(len(rows), np.bool_)
        batch = page.batch
        index = np.zeros(len(rows), np.intp) if batch.variant_index is None else batch.variant_index[rows]
        templates = {at: self._rules.template_of(batch.variants[at]) for at in np.unique(index).tolist()}
        for group in groups:
            for positions, users in _by_width(group):
                of = index[positions]
                for at in np.unique(of).tolist():
                    if templates[at]:
                        chosen = np.flatnonzero(of == at)
                        salts = key_salts(self._app_key, templates[at])
                        keys[positions[chosen]] = hash_users(self._key, np.ascontiguousarray(users[chosen]), salts)
                        is_counted[positions[chosen]] = True
        return keys, is_counted

    def _are_held(self, page: LedgerPage, rows: Rows) -> Bool:
        """(k,) which rows hold a consent since an earlier attempt."""
        known = self._pages.get(id(page))
        if known is None:
            return np.zeros(len(rows), np.bool_)
        held: Bool = np.isin(rows, self._rows[self._of_page == known.number])
        return held

    def _remember(self, page: LedgerPage, rows: Rows, places: I32) -> None:
        if not len(rows):
            return
        known = self._pages.get(id(page))
        if known is None:
            known = self._pages[id(page)] = _Page(page, self._next_number)
            self._next_number += 1
        self._places = np.concatenate([self._places, places])
        self._of_page = np.concatenate([self._of_page, np.full(len(rows), known.number)])
        self._rows = np.concatenate([self._rows, rows])

    # -- what became of them

    @property
    def held_rows(self) -> int:
        return len(self._rows)

    def pages(self) -> list[_Page]:
        """Those with held rows now, oldest first."""
        return list(self._pages.values())

    def settle(self, pages: Sequence[_Page]) -> None:
        """Rows of these pages that have ended hold nothing any more, and the table knows what they did with it."""
        for known in pages:
            if self._pages.get(id(known.page)) is not known:
                continue
            at = np.flatnonzero(self._of_page == known.number)
            used, emptied, is_open = self._fates(known, self._rows[at])
            done = ~is_open
            for what, which, act in (
                ("used", used & done, self._table.spend),
                ("emptied", emptied & done, self._table.empty),
                ("given_back", ~used & ~emptied & done, self._table.give_back),
            ):
                if which.any():
                    act(self._places[at[which]])
                    self._observer.consents(self._app_key, what, int(which.sum()))
            if done.any():
                keep = np.ones(len(self._rows), np.bool_)
                keep[at[done]] = False
                self._places, self._of_page, self._rows = self._places[keep], self._of_page[keep], self._rows[keep]
            if done.all():
                del self._pages[id(known.page)]

    def settle_keys(self, keys: U64) -> None:
        """The same, of rows that hold one of these keys."""
        numbers = set(self._of_page[np.isin(self._places, self._table.find(keys))].tolist())
        self.settle([known for known in self._pages.values() if known.number in numbers])

    def _fates(self, known: _Page, rows: I64) -> tuple[Bool, Bool, Bool]:
        """(k,) each: whether the row has used its consent, was told that there is none, and is still under way."""
        page = known.page
        used, emptied = np.zeros(page.n, np.bool_), np.zeros(page.n, np.bool_)
        for burst in page.bursts[known.first_burst :]:
            if burst.channel != self._channel:
                continue
            took = (burst.verdicts == Verdict.ACCEPTED) | (burst.verdicts == Verdict.UNCERTAIN)
            used[burst.rows[took]] = True
            for place, name in burst.names.items():
                if name == self._rules.no_consent:
                    emptied[burst.rows[place]] = True
        for burst in page.bursts[known.first_burst :]:
            if (burst.verdicts == NO_VERDICT).any():
                break
            known.first_burst += 1
        is_open = _IS_UNDER_WAY[page.state[rows]] & (page.channel[rows] == self._channel)
        return used[rows], emptied[rows], is_open & ~used[rows] & ~emptied[rows]


def _by_width(group: TokenGroup) -> list[tuple[Rows, U8]]:
    """Positions and users of one length each."""
    if isinstance(group.tokens, TextColumn):
        return [(group.positions[part.positions], part.texts) for part in by_length(group.tokens)]
    return [(group.positions, group.tokens)]


def _part(group: TokenGroup, may_go: Bool) -> TokenGroup:
    kept = np.flatnonzero(may_go[group.positions])
    tokens = group.tokens
    return TokenGroup(
        group.positions[kept], tokens.take(kept) if isinstance(tokens, TextColumn) else tokens.take(kept, axis=0)
    )


class Gates:
    """All gates of a worker."""

    def __init__(self) -> None:
        self._gates: list[ConsentGate] = []

    def add(self, gate: ConsentGate) -> ConsentGate:
        self._gates.append(gate)
        return gate

    def settle_keys(self, keys: U64) -> None:
        """Rows that hold one of these keys and have ended have given it back, or used it."""
        for gate in self._gates:
            gate.settle_keys(keys)

    async def settle(self) -> None:
        """Every row that has ended has given back its consent, or used it."""
        for gate in self._gates:
            pages = gate.pages()
            for first in range(0, len(pages), _STEP_PAGES):
                gate.settle(pages[first : first + _STEP_PAGES])
                await trio.lowlevel.checkpoint()


class Consents:
    """The table of one worker with its gates, and what of it is on the disk. store: None where nothing is.

    write_s: between two looks at what became of rows, and writes of it.
    """

    def __init__(
        self,
        *,
        keys_max: int,
        write_s: float,
        key: HashKey,
        epoch: OwnershipEpoch,
        store: ConsentStore | None,
        observer: ConsentObserver,
    ) -> None:
        self.table = ConsentTable(keys_max, is_stored=store is not None)
        self._write_s = write_s
        self._key = key
        self._epoch = epoch
        self._store = store
        self._observer = observer
        self._gates = Gates()

    def gate(self, app_key: str, channel: Channel, rules: ConsentRules) -> ConsentGate:
        """A new gate for the lanes of that channel."""
        return self._gates.add(
            ConsentGate(self.table, self._key, app_key=app_key, channel=channel, rules=rules, observer=self._observer)
        )

    def settle_keys(self, keys: U64) -> None:
        """Rows that hold one of these keys and have ended have given it back, or used it."""
        self._gates.settle_keys(keys)

    async def load(self) -> None:
        """The table knows what the store knows. Raises StoreError, Overloaded."""
        if self._store is not None:
            self.table.restore(await self._store.load())

    async def run(self) -> None:
        """Until cancelled. If cancelled: what has changed stays marked for the next run, or for `flush`."""
        while True:
            await trio.sleep(self._write_s)
            try:
                await self.flush()
            except StoreError as error:
                self._observer.not_written(error)
            else:
                self._observer.written()

    async def flush(self) -> None:
        """What has ended so far is counted, and the store has it. Raises StoreError; then it is tried again later."""
        await self._gates.settle()
        await self._write()

    async def _write(self) -> None:
        if self._store is None:
            await trio.lowlevel.checkpoint()
            return
        changed = self.table.take_changed()
        if not len(changed.keys):
            await trio.lowlevel.checkpoint()
            return
        is_written = False
        try:
            await self._store.write(self._epoch, changed)
            is_written = True
        finally:
            if not is_written:
                self.table.mark(changed.keys)

    async def report(
        self,
        app_key: str,
        users: Sequence[tuple[Rows, U8]],
        templates: Sequence[str],
        index: I64,
        counts: U64,
        *,
        is_total: bool,
    ) -> I64:
        """What users agreed to is counted, durably where there is a store. Returns (n,) what each has left afterwards.

        users: positions and users of one length each; index: (n,) into templates. Raises Overloaded, and StoreError:
        then nothing is added. If cancelled: it is counted, and may not be durable.
        """
        keys = np.zeros((len(index), 2), np.uint64)
        for positions, texts in users:
            of = index[positions]
            for at in np.unique(of).tolist():
                chosen = np.flatnonzero(of == at)
                salts = key_salts(app_key, templates[at])
                keys[positions[chosen]] = hash_users(self._key, np.ascontiguousarray(texts[chosen]), salts)
        await self._gates.settle()
        asks = bool(counts.any()) or is_total
        if asks:
            self.table.report(keys, counts, is_total=is_total)
            try:
                await self._write()
            except StoreError:
                # The caller sends it again. Totals count the same twice.
                if not is_total:
                    self.table.lower(keys, counts.astype(np.int64))
                raise
            self._observer.consents(app_key, "reported", int(counts.sum()))
        return self.table.left(keys).astype(np.int64)
