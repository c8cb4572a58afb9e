"""The ledger's words: where a row is (state), what became of it later (receipt), and why (reason).

Contract of DESIGN.md section 2. `state` is custody: the rows of a task in all states always sum to the rows accepted.

          +--> HELD --+        open states: QUEUED HELD IN_FLIGHT WAITING
          |     |     |        final states: VENDOR_ACCEPTED DEVICE_ACKED FAILED EXPIRED DROPPED UNCERTAIN CANCELLED
    QUEUED --> IN_FLIGHT --> final
          |     |     ^
          +--> WAITING        a receipt may turn UNCERTAIN into VENDOR_ACCEPTED, the one move between final states

Rules for authors: every legal move is in `_MOVES`; nothing else in the project decides what is legal.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gateway.archived_copy import NEW, ArchivedCopy
from gateway.batch import Batch
from gateway.columns import I32, I64, U8, U32, Bool, Rows
from gateway.errors import LocalProtocolError
from gateway.few_rows import Here
from gateway.marks import PageTrail
from gateway.page_history import Kind, PageHistory

if TYPE_CHECKING:
    from gateway.tally import PageTally


class Channel(enum.IntEnum):
    """Which way a row went. The numbers stand in ledger pages and journals: append only, never renumber."""

    NONE = 0
    LONG_LINK = 1
    APNS = 2
    FCM = 3
    HUAWEI = 4
    HARMONY = 5
    HONOR = 6
    XIAOMI = 7
    OPPO = 8
    VIVO = 9
    MEIZU = 10
    WEBHOOK = 11
    UPS = 12
    ALIYUN_SMS = 13
    TENCENT_SMS = 14
    WECHAT = 15
    WECOM = 16
    DINGTALK = 17
    EMAIL = 18
    # Regions of vendors (regions.py): accounts of their own, so lanes of their own.
    XIAOMI_CN = 19
    XIAOMI_RU = 20
    XIAOMI_IN = 21
    XIAOMI_EU = 22
    XIAOMI_GLOBAL = 23
    OPPO_CN = 24
    OPPO_INTL = 25
    MEIZU_CN = 26
    MEIZU_OVERSEAS = 27
    WECOM_ROBOT = 28
    DINGTALK_ROBOT = 29


#: Name as users see it ("long_link", else the vendor file's name) -> channel.
CHANNEL_NAMES: dict[str, Channel] = {channel.name.lower(): channel for channel in Channel if channel}
#: Vendor channels: those whose targets are device tokens.
VENDOR_CHANNELS: dict[str, Channel] = {
    name: channel for name, channel in CHANNEL_NAMES.items() if channel is not Channel.LONG_LINK
}


class State(enum.IntEnum):
    QUEUED = 0
    HELD = 1
    IN_FLIGHT = 2
    WAITING = 3
    VENDOR_ACCEPTED = 4
    DEVICE_ACKED = 5
    FAILED = 6
    EXPIRED = 7
    DROPPED = 8
    UNCERTAIN = 9
    CANCELLED = 10


OPEN_STATES = frozenset({State.QUEUED, State.HELD, State.IN_FLIGHT, State.WAITING})
_N_OPEN = len(OPEN_STATES)
assert frozenset(range(_N_OPEN)) == OPEN_STATES, "open states come first: LedgerPage.n_open"
FINAL_STATES = frozenset(State) - OPEN_STATES

#: from -> to. Why each is there:
_MOVES: dict[State, frozenset[State]] = {
    # routed to a device or a lane; kept for later; ended before anything was sent. DEVICE_ACKED: the acknowledgement of
    # an earlier long-link attempt arrives while the row waits in a lane (it cancels the hand-over). CANCELLED, here and
    # below: its task was stopped, or its device erased; never from IN_FLIGHT, whose answer comes first.
    State.QUEUED: frozenset(
        {
            State.HELD,
            State.IN_FLIGHT,
            State.WAITING,
            State.DEVICE_ACKED,
            State.FAILED,
            State.EXPIRED,
            State.DROPPED,
            State.CANCELLED,
        }
    ),
    # the device came back, the quota opened, or the time ran out
    State.HELD: frozenset(
        {State.QUEUED, State.IN_FLIGHT, State.DEVICE_ACKED, State.EXPIRED, State.DROPPED, State.CANCELLED}
    ),
    # QUEUED: surely not processed (REFUSED_STREAM, GOAWAY above). HELD: handed over to the inbox. WAITING: retry
    State.IN_FLIGHT: frozenset(
        {
            State.QUEUED,
            State.HELD,
            State.WAITING,
            State.VENDOR_ACCEPTED,
            State.DEVICE_ACKED,
            State.FAILED,
            State.EXPIRED,
            State.UNCERTAIN,
        }
    ),
    # a timer fired, or the row ended while it waited. VENDOR_ACCEPTED: a receipt says that the attempt before the wait
    # arrived
    State.WAITING: frozenset(
        {
            State.QUEUED,
            State.HELD,
            State.VENDOR_ACCEPTED,
            State.DEVICE_ACKED,
            State.FAILED,
            State.EXPIRED,
            State.DROPPED,
            State.CANCELLED,
        }
    ),
    State.VENDOR_ACCEPTED: frozenset(),
    State.DEVICE_ACKED: frozenset(),
    State.FAILED: frozenset(),
    State.EXPIRED: frozenset(),
    State.DROPPED: frozenset(),
    State.UNCERTAIN: frozenset({State.VENDOR_ACCEPTED}),
    State.CANCELLED: frozenset(),
}

#: (11, 11) bool, [from, to]: the same table for columns.
LEGAL_MOVES: Bool = np.zeros((len(State), len(State)), np.bool_)
for _from, _targets in _MOVES.items():
    for _to in _targets:
        LEGAL_MOVES[_from, _to] = True
IS_FINAL: Bool = np.array([state in FINAL_STATES for state in State])
_IS_LEGAL: list[list[bool]] = LEGAL_MOVES.tolist()


def _check_move(n: int, state: int, to: State) -> None:
    if not _IS_LEGAL[state][to]:
        raise LocalProtocolError(f"{n} rows may not move from {State(state).name} to {to.name}")


class Receipt(enum.IntEnum):
    """What device or vendor said later. May rise after the state is final, never falls."""

    NONE = 0
    DELIVERED = 1
    DISPLAYED = 2
    CLICKED = 3


class Flag(enum.IntFlag):
    """Facts about a row beside its state; bits of one uint8."""

    NOTIFICATION_CLOSED = 1
    TOKEN_DEAD = 2
    #: A text was cut to fit the channel that took the row.
    TRUNCATED = 4
    #: Left the long link unacknowledged for another holder: the device may have seen it.
    HANDED_OVER = 8
    #: Sent again although an earlier attempt ended uncertain: the receiver may see a second copy.
    RESENT_UNCERTAIN = 16
    #: Waited for a device to come back; left out of latency figures.
    WAITED_OFFLINE = 32
    #: The vendor took it and said later that its receiver will not get it.
    UNDELIVERED = 64
    #: A cap of the vendor's, for the day or for the device, was the reason.
    QUOTA_REACHED = 128


class Reason(enum.IntEnum):
    """Explains a state. A closed list; the names are what users, metrics and reports see."""

    NONE = 0
    # dropped by us
    DUPLICATE_TARGET = 1
    UNKNOWN_DEVICE = 2
    NO_CHANNEL = 3
    DEVICE_OFFLINE = 4
    CONTENT_TOO_LONG = 5
    TOKEN_MUTED = 6
    INBOX_FULL = 7
    #: The app's blacklist.
    DEVICE_BLOCKED = 8
    NOTIFICATIONS_CLOSED = 9
    #: A newer message of its collapse id came while it waited for the device.
    COLLAPSED = 10
    #: Its receiver has agreed to no further message of its template.
    NO_CONSENT = 11
    # final words of a vendor
    REJECTED_BY_VENDOR = 16
    TOKEN_DEAD = 17
    CREDENTIAL_REFUSED = 18
    THROTTLED = 19
    QUOTA_EXHAUSTED = 20
    VENDOR_UNAVAILABLE = 21
    ATTEMPTS_USED_UP = 22
    NO_ANSWER = 23
    CONTENT_REFUSED = 24
    #: Nothing is sent to the vendor for a while, because too much of it failed of late.
    BREAKER_OPEN = 25
    #: The vendor refused a text for its words.
    SENSITIVE_CONTENT = 26
    #: The vendor knows the credential, and the app lacks a right for this message, or for any.
    NO_PERMISSION = 27
    # why a row waits or ran out of time
    TTL_PASSED = 32
    RETRY = 33
    HAND_OVER = 34
    FALLBACK = 35
    PROCESS_ENDED = 36
    STOPPED = 37


_N_STATES = len(State)
#: Positions of states and channels as one byte each.
_BYTE_OF = [bytes([value]) for value in range(256)]
#: 49 days, longer than any TTL; a row that ends later still (a moved clock) keeps this.
_STAMP_MAX = (1 << 32) - 1


#: What a page and its batch take in memory beside their columns and the objects of the batch: some forty attributes and
#: a dozen arrays. Measured: 3,000 with one content, which is 280, and one segment, 180.
PAGE_BYTES = 2560
#: What a page of which a few rows are here takes in memory, and each of them. Measured: 6.3 KB with one row of a short
#: content, and 0.1 more a row; marks in a journal and longer contents come to it.
FEW_BYTES = 8 << 10
FEW_ROW_BYTES = 256


class LedgerPage:
    """State columns of one batch; n rows. Owned by the home of the batch.

    state, receipt, flags, reason, channel, attempts: (n,) uint8.
    routed_ms, issued_ms, final_ms: (n,) uint32, milliseconds after the batch's birth; 0 = not yet (a stage reached
    within the first millisecond is written as 1).
    history: receipts with their times, and attempts that others followed (page_history.py); None while there are none.
    slots: (n,) int32, the device's row in its owner's table as found when routed, -1 unknown. A hint: check the id.
    token_hashes: (n,) uint32, the 4-byte hash of the token each row was sent to; 0 before and without one.
    n_routed: rows 0..n_routed have been routed once.
    trail: what the journal on disk has been told of the rows; None where none holds the batch (core/trail.py).
    stopped: (n,) bool, rows of stopped tasks: they make no further attempt (core/stopping.py); None while there are
    none.
    away: (n,) uint8, which other worker holds each row (core/holders.py); None while all of them are here.
    keeping: held rows that the inbox has not got yet. changes: how often anything of the rows changed; saved: what it
    was when the archive got its copy, -1 before. archived: what the archive has of it; None before.
    counts: (11,) int64, rows per state, kept as rows move and always equal to a recount.
    is_spilled: the columns of its batch are on the disk (store/spill.py).
    here: the rows of a page in the archive that are in memory, where the others are not (core/page_rows.py): columns of
    these rows alone, under their numbers, in the batch, too; `counts` and what follows from them are of all rows. None:
    the page is whole. others: what the rows that are not here add to the counters.
    is_touched, tally, archived_tally: core/counters.py, which alone sets them: whether rows changed since they were
    counted, what the counters have of the page, and what the archive has.
    """

    __slots__ = (
        "archived",
        "archived_tally",
        "attempts",
        "away",
        "batch",
        "bursts",
        "changes",
        "channel",
        "counts",
        "final_ms",
        "flags",
        "here",
        "history",
        "is_spilled",
        "is_touched",
        "issued_ms",
        "keeping",
        "n",
        "n_routed",
        "others",
        "reason",
        "receipt",
        "routed_ms",
        "saved",
        "slots",
        "state",
        "stopped",
        "tally",
        "token_hashes",
        "trail",
    )

    def __init__(self, batch: Batch, here: Here | None = None) -> None:
        n = batch.n
        zeros = np.zeros if here is None else here.zeros
        self.batch = batch
        self.n = n
        self.here = here
        self.others: PageTally | None = None
        self.state: U8 = zeros(n, np.uint8)
        self.receipt: U8 = zeros(n, np.uint8)
        self.history: PageHistory | None = None
        self.flags: U8 = zeros(n, np.uint8)
        self.reason: U8 = zeros(n, np.uint8)
        self.channel: U8 = zeros(n, np.uint8)
        self.attempts: U8 = zeros(n, np.uint8)
        self.routed_ms: U32 = zeros(n, np.uint32)
        self.issued_ms: U32 = zeros(n, np.uint32)
        self.final_ms: U32 = zeros(n, np.uint32)
        self.token_hashes: U32 = zeros(n, np.uint32)
        self.n_routed = 0
        self.away: U8 | None = None
        self.stopped: Bool | None = None
        self.slots: I32 = np.full(n, -1, np.int32) if here is None else here.zeros(n, np.int32)
        self.counts: I64 = np.zeros(len(State), np.int64)
        self.counts[State.QUEUED] = n
        self.bursts: list[Burst] = []
        self.trail: PageTrail | None = None
        self.keeping = 0
        self.changes = 0
        self.saved = -1
        self.archived: ArchivedCopy | None = None
        self.is_spilled = False
        self.is_touched = False
        self.tally: PageTally | None = None
        self.archived_tally: PageTally | None = None

    def move(self, rows: Rows, to: State, reason: Reason | U8 | None = Reason.NONE) -> I64:
        """Rows (distinct positions) are in state `to` afterwards; the reason is stored beside it, None keeps it.

        Returns (11,) int64, how many came from each state. Raises LocalProtocolError for a move that is not in the
        table: then nothing has changed.
        """
        before = self.state[rows]
        n = len(before)
        states = before.tobytes()
        if n and states == states[:1] * n:
            # The usual slice: one state, one look into the table.
            came = np.zeros(_N_STATES, np.int64)
            came[states[0]] = n
            _check_move(n, states[0], to)
            self.counts[states[0]] -= n
        else:
            came = np.bincount(before, minlength=_N_STATES)
            for state in came.nonzero()[0].tolist():
                _check_move(int(came[state]), state, to)
            self.counts -= came
        self.counts[to] += n
        self.state[rows] = int(to)
        if reason is not None:
            self.reason[rows] = reason
        return came

    def are_all(self, rows: Rows, state: State, channel: Channel) -> bool:
        """Whether each row is in this state and at this channel: the usual answer, at a sixth of what `are` costs."""
        n = len(rows)
        return (
            self.state[rows].tobytes() == _BYTE_OF[state] * n and self.channel[rows].tobytes() == _BYTE_OF[channel] * n
        )

    def are(self, rows: Rows, state: State, channel: Channel) -> Bool:
        """(k,) which rows are in this state and at this channel."""
        which: Bool = (self.state[rows] == int(state)) & (self.channel[rows] == int(channel))
        return which

    @property
    def open_counts(self) -> list[int]:
        """Rows in each open state, by its number."""
        counts: list[int] = self.counts[:_N_OPEN].tolist()
        return counts

    def count_open(self) -> int:
        """The same of all by look at the column, whatever was counted: 5 us for 65,536 rows."""
        return int(np.count_nonzero(self.state < _N_OPEN))

    @property
    def n_open(self) -> int:
        # The open states are the first four; asked several times per burst, where elements of an array cost dear.
        queued, held, in_flight, waiting = self.counts[:_N_OPEN].tolist()
        return int(queued + held + in_flight + waiting)

    @property
    def rests(self) -> bool:
        """Nothing but the inbox has to do with its open rows, if there are any: no queue, no timer (which rows with a
        fallback chain have), no socket."""
        n_open = self.n_open
        if not n_open:
            return True
        if self.batch.has_fallback:
            return False
        if self.keeping or n_open != self.counts[State.HELD]:
            return False
        if self.away is None:
            return True
        held = np.flatnonzero(self.state == State.HELD) if self.here is None else self.here.rows
        # Of a few rows that are here any may be with another worker, and none that is open is not held.
        return not bool(((self.away[held] != 0) & (self.state[held] == State.HELD)).any())

    @property
    def is_saved(self) -> bool:
        """The archive has the page as it is."""
        return self.saved == self.changes

    def note_changes(self, rows: Rows) -> None:
        """Something of these rows has changed, in whatever column."""
        self.changes += 1
        if self.archived is not None:
            self.archived.marks[rows] = NEW

    def stamp(self, now: float) -> int:
        """Milliseconds since the batch was born, as the stage columns hold it (at least 1)."""
        ms = int((now - self.batch.born) * 1000.0)
        return 1 if ms < 1 else ms if ms < _STAMP_MAX else _STAMP_MAX

    def hear(self, rows: Rows, kinds: U8 | Kind, now: float) -> int:
        """Receipts (k,) of these rows came now, over the channel that each has; how many had not come before."""
        if not len(rows):
            return 0
        if self.history is None:
            self.history = PageHistory(self.n)
        kinds = np.full(len(rows), kinds, np.uint8) if isinstance(kinds, Kind) else kinds
        return self.history.hear(rows, kinds, self.channel[rows], np.full(len(rows), self.stamp(now), np.uint32))

    def left_link(self, rows: Rows, now: float) -> None:
        """These rows leave the long link unacknowledged; when they were written to it stays known."""
        self._attempted(rows, Kind.LINK_ATTEMPT, self.issued_ms[rows])
        self._attempted(rows, Kind.HANDED_OVER, np.full(len(rows), self.stamp(now), np.uint32))

    def fell_back(self, rows: Rows, now: float) -> None:
        """These rows leave the channel that they have for the next one of their strategy or chain."""
        rows = rows[self.channel[rows] != Channel.NONE]
        self._attempted(rows, Kind.FELL_BACK, np.full(len(rows), self.stamp(now), np.uint32))

    def _attempted(self, rows: Rows, kind: Kind, at_ms: U32) -> None:
        if len(rows):
            self.history = PageHistory(self.n) if self.history is None else self.history
            self.history.attempted(rows, kind, self.channel[rows], at_ms)

    def forget_texts(self) -> bool:
        """What its rows said is not kept: all have ended, and nobody reads it again, the archive neither. False where
        there was nothing."""
        had_some = bool(self.batch.variables)
        self.batch.variables = {}
        return had_some

    def memory_bytes(self) -> int:
        """What the page and its batch hold in memory."""
        batch = self.batch
        heard = batch.objects_bytes + (0 if self.history is None else self.history.memory_bytes())
        if self.here is not None:
            return FEW_BYTES + FEW_ROW_BYTES * len(self.here) + heard
        heard += PAGE_BYTES + (0 if self.archived is None else self.n)
        if self.is_spilled:
            return self.n * (6 + 20) + heard
        texts = sum(int(column.offsets[-1]) + 4 * self.n for column in batch.variables.values())
        tokens = int(batch.tokens.offsets[-1]) if batch.tokens is not None else 0
        tokens += 4 * self.n if batch.channels is not None else 0
        return self.n * (6 + 20 + 16) + texts + tokens + heard


class Burst(NamedTuple):
    """One record per burst and attempt: the burst log (DESIGN.md section 2).

    rows: (k,) uint16 positions in the batch. issued: monotonic seconds. answered: (k,)
    uint32, milliseconds after it, 0 = not yet. verdicts: (k,) uint8, filled as the
    answers come (255 = none yet). names: vendor's own words per position where it had any. first_request: the number of
    its first request where those carry many rows, as it stands in their callback parameters; else -1.
    """

    number: int
    attempt: int
    channel: Channel
    connection: int
    rows: np.ndarray[tuple[int], np.dtype[np.uint16]]
    issued: float
    answered: U32
    verdicts: U8
    names: dict[int, str]
    first_request: int = -1
    #: The vendor's own names for requests, by the place of each one's first row; None where nobody tells.
    request_ids: dict[int, str] | None = None


#: No verdict yet, in `Burst.verdicts`.
NO_VERDICT = 255
