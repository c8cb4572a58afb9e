"""Reports over ledger pages: counts of a task, its rows, the way of one message. Pure reading; pages are the home's.

Every function takes one slice at a time or visits a bounded number of rows; callers yield to the loop in between.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.batch import TaskSegment
from gateway.columns import I64, Bool, Rows
from gateway.ledger import (
    IS_FINAL,
    NO_VERDICT,
    OPEN_STATES,
    Burst,
    Channel,
    Flag,
    LedgerPage,
    Reason,
    Receipt,
    State,
)
from gateway.message_id import to_text
from gateway.page_history import Kind
from gateway.verdict import Verdict

if TYPE_CHECKING:
    from gateway.core.home import Home

Slice = tuple[LedgerPage, TaskSegment]


class Sums(NamedTuple):
    """Of the rows of a task. states: (11,) int64. by_channel: (channels, 11). reasons, receipts: counts by code.

    latencies_ms: per channel, of rows that were acknowledged or accepted, without those that waited for a device or
    a moved clock (`n_waited`, `n_moved`).
    """

    rows: int
    states: I64
    by_channel: I64
    reasons: I64
    receipts: I64
    handed_over: int
    n_waited: int
    n_moved: int
    is_routed: bool
    latencies_ms: dict[Channel, npt.NDArray[np.uint32]]
    submitted_unix_ms: int


#: From and to on the clock of the pages: was the clock moved by hand in between?
MovedBetween = Callable[[float, float], bool]
_N_REASONS = max(Reason) + 1
#: Looked at in one step: some 60 ns each.
_CONTENTS_PER_STEP = 8192


def sum_task(slices: Sequence[Slice], moved_between: MovedBetween) -> Sums:
    """The counts of a task's rows, one pass over their columns."""
    states = np.zeros(len(State), np.int64)
    by_channel = np.zeros((len(Channel), len(State)), np.int64)
    reasons = np.zeros(_N_REASONS, np.int64)
    receipts = np.zeros(len(Receipt), np.int64)
    handed_over = waited = moved = 0
    is_routed = True
    latencies: dict[Channel, list[npt.NDArray[np.uint32]]] = {}
    for page, segment in slices:
        span = slice(segment.first, segment.first + segment.n)
        state, channel, flags = page.state[span], page.channel[span], page.flags[span]
        states += np.bincount(state, minlength=len(State))
        pairs = channel.astype(np.uint16) * len(State) + state
        by_channel += np.bincount(pairs, minlength=by_channel.size).reshape(by_channel.shape)
        reasons += np.bincount(page.reason[span], minlength=_N_REASONS)
        receipts += np.bincount(page.receipt[span], minlength=len(Receipt))
        handed_over += int(np.count_nonzero(flags & Flag.HANDED_OVER))
        is_routed = is_routed and page.n_routed >= span.stop
        good = (state == State.DEVICE_ACKED) | (state == State.VENDOR_ACCEPTED)
        has_waited: Bool = good & ((flags & Flag.WAITED_OFFLINE) != 0)
        was_moved = good & ~has_waited & _moved(page, span, moved_between)
        waited += int(has_waited.sum())
        moved += int(was_moved.sum())
        measured = good & ~has_waited & ~was_moved
        for code in np.unique(channel[measured]).tolist():
            times = page.final_ms[span][measured & (channel == code)]
            latencies.setdefault(Channel(code), []).append(times)
    return Sums(
        rows=int(states.sum()),
        states=states,
        by_channel=by_channel,
        reasons=reasons,
        receipts=receipts,
        handed_over=handed_over,
        n_waited=waited,
        n_moved=moved,
        is_routed=is_routed,
        latencies_ms={channel: np.concatenate(parts) for channel, parts in latencies.items()},
        submitted_unix_ms=slices[0][0].batch.born_unix_ms if slices else 0,
    )


def add_sums(one: Sums, other: Sums) -> Sums:
    """Of the rows of both; submitted_unix_ms is the first's."""
    latencies = dict(one.latencies_ms)
    for channel, times in other.latencies_ms.items():
        latencies[channel] = np.concatenate([latencies[channel], times]) if channel in latencies else times
    return Sums(
        rows=one.rows + other.rows,
        states=one.states + other.states,
        by_channel=one.by_channel + other.by_channel,
        reasons=one.reasons + other.reasons,
        receipts=one.receipts + other.receipts,
        handed_over=one.handed_over + other.handed_over,
        n_waited=one.n_waited + other.n_waited,
        n_moved=one.n_moved + other.n_moved,
        is_routed=one.is_routed and other.is_routed,
        latencies_ms=latencies,
        submitted_unix_ms=one.submitted_unix_ms,
    )


def plans_of(page: LedgerPage, segment: TaskSegment) -> Iterator[dict[str, int]]:
    """Rows of the segment by the plan of their content, in portions that are a short step each."""
    batch = page.batch
    if batch.variant_index is None:
        plan_id = batch.variants[0].plan_id
        yield {plan_id: segment.n} if plan_id else {}
        return
    index = batch.variant_index[segment.first : segment.first + segment.n]
    used, counts = np.unique(index, return_counts=True)
    for first in range(0, len(used), _CONTENTS_PER_STEP):
        plans: dict[str, int] = {}
        part = slice(first, first + _CONTENTS_PER_STEP)
        for position, rows in zip(used[part].tolist(), counts[part].tolist(), strict=True):
            plan_id = batch.variants[position].plan_id
            if plan_id:
                plans[plan_id] = plans.get(plan_id, 0) + rows
        yield plans


def open_rows(pages: Iterable[LedgerPage]) -> dict[str, int]:
    """Rows in each open state, by its name."""
    counts = dict.fromkeys((state.name.lower() for state in sorted(OPEN_STATES)), 0)
    for page in pages:
        for state in OPEN_STATES:
            counts[state.name.lower()] += int(page.counts[state])
    return counts


class RowsSeen(NamedTuple):
    """open: rows in each open state, by its number, those of pages that are away included. not_conserved: open rows by
    count of moves less those by look at the columns: 0, or a bug of ours; None where rows moved meanwhile."""

    open: list[int]
    not_conserved: int | None


#: Pages and rows looked at in one step: some 0.4 ms each.
_SEEN_PAGES, _SEEN_ROWS = 1_000, 1 << 22


def see_rows(home: Home) -> Generator[None, None, RowsSeen]:
    """The open rows of all pages; yields where a step has been long enough. Rows that move meanwhile may be seen twice,
    or not at all."""
    before = _mark(home)
    found, held_few, n_open, wrong, looked = [0] * len(OPEN_STATES), 0, 0, 0, 0
    for number, page in enumerate(home.every_page(), 1):
        counts = page.open_counts
        if any(counts):
            found = [sum(pair) for pair in zip(found, counts, strict=True)]
            if page.here is None:
                # The page's count and its column are of one moment, whatever moves between two pages.
                n_open += sum(counts)
                wrong += sum(counts) - page.count_open()
                looked += page.n
            else:
                held_few += sum(counts)
        if number % _SEEN_PAGES == 0 or looked > _SEEN_ROWS:
            looked = 0
            yield
    # A page that is away counts whole; of a few of its rows each stood above already.
    found[State.HELD] += home.away_pages.rows - held_few
    is_still = before == _mark(home)
    return RowsSeen(found, home.rows_open - home.away_pages.rows - n_open + wrong if is_still else None)


def _mark(home: Home) -> tuple[object, ...]:
    """Another one after each change of how many rows are open, or of which pages."""
    return home.statistics(), home.next_sequence, home.away_pages.rows


def rows_held_away(home: Home) -> int:
    """Rows that wait for their devices, and whose page is away; a few rows of such a page may be in memory."""
    return home.away_pages.rows - sum(page.n_open - int(page.counts[State.HELD]) for page in home.few_pages())


def rows_in_archive(home: Home) -> int:
    """Open rows of pages that the archive has, and whose batch no journal has any more: as they are, or with marks in
    the journal beside."""
    whole = [
        page.n_open
        for page in home.pages()
        if page.n_open
        and page.saved >= 0
        and (page.rests and page.is_saved if page.trail is None else not page.trail.holds_batch)
    ]
    marked = [page.n_open - int(page.counts[State.HELD]) for page in home.few_pages() if page.trail is not None]
    return rows_held_away(home) + sum(whole) + sum(marked)


def _moved(page: LedgerPage, span: slice, moved_between: MovedBetween) -> Bool:
    """(k,) rows during whose life the clock was moved. Almost always none, found with one question."""
    final_ms = page.final_ms[span]
    born = page.batch.born
    # Stage times are cut to whole milliseconds: a row that ended in the one in which a move ended ended after it.
    if not len(final_ms) or not moved_between(born, born + (float(final_ms.max()) + 1) / 1000):
        return np.zeros(len(final_ms), np.bool_)
    times = np.unique(final_ms)
    moved = np.array([moved_between(born, born + (at + 1) / 1000) for at in times.tolist()], np.bool_)
    return moved[np.searchsorted(times, final_ms)]


def select_rows(
    page: LedgerPage, segment: TaskSegment, first: int, *, states: frozenset[int] | None, reasons: frozenset[int] | None
) -> Rows:
    """Rows of a segment from its row `first` on, in order, with one of the states and one of the reasons."""
    rows = np.arange(segment.first + first, segment.first + segment.n)
    if states is not None:
        rows = rows[np.isin(page.state[rows], list(states))]
    if reasons is not None:
        rows = rows[np.isin(page.reason[rows], list(reasons))]
    return rows


def source_rows(page: LedgerPage, segment: TaskSegment, rows: Rows) -> npt.NDArray[np.uint32]:
    """(k,) position of each row in the submit as sent."""
    if page.batch.source_rows is not None:
        return page.batch.source_rows[rows]
    return (rows - segment.first).astype(np.uint32)


class Hop(NamedTuple):
    """One thing that happened to one row. at_ms: after the birth of its batch; -1: not known."""

    at_ms: int
    what: str
    channel: Channel = Channel.NONE
    connection: int = 0
    attempt: int = 0
    verdict: Verdict | None = None
    name: str = ""
    state: State | None = None
    reason: Reason = Reason.NONE
    receipt: Receipt = Receipt.NONE
    #: The vendor's own name for the request.
    request: str = ""
    text: str = ""


def trace_row(page: LedgerPage, row: int) -> list[Hop]:
    """The way of one row, in order of time; one step. See `burst_hops`."""
    return trace_with(page, row, burst_hops(page, row, page.bursts))


def burst_hops(page: LedgerPage, row: int, bursts: Sequence[Burst]) -> list[Hop]:
    """What these bursts of the page say of the row. Some two microseconds a burst."""
    hops: list[Hop] = []
    born = page.batch.born
    for burst in bursts:
        for place in np.flatnonzero(burst.rows == row).tolist():
            # As the page's stamps: at least 1, so that nothing seems to come before its routing.
            issued_ms = max(1, int((burst.issued - born) * 1000))
            hops.append(Hop(issued_ms, "issued", burst.channel, burst.connection, burst.attempt))
            code = int(burst.verdicts[place])
            if code != NO_VERDICT:
                answered_ms = issued_ms + int(burst.answered[place])
                name = burst.names.get(place, "")
                verdict = Verdict(code)
                request = _request_id(burst, place, page.batch.message_ids[row].tobytes())
                where = (burst.channel, burst.connection, burst.attempt)
                hops.append(Hop(answered_ms, "answered", *where, verdict, name, request=request))
    return hops


def trace_with(page: LedgerPage, row: int, bursts: Sequence[Hop]) -> list[Hop]:
    """The way of one row, in order of time. bursts: what all bursts say of it."""
    hops = [Hop(0, "submitted")]
    if page.routed_ms[row]:
        hops.append(Hop(int(page.routed_ms[row]), "routed"))
    hops += bursts
    channel = Channel(int(page.channel[row]))
    if channel is Channel.LONG_LINK and page.issued_ms[row]:
        hops.append(Hop(int(page.issued_ms[row]), "sent to the device", channel, attempt=int(page.attempts[row])))
    state = State(int(page.state[row]))
    past = [] if page.history is None else page.history.of_row(row)
    hops += [_past_hop(*one) for one in past]
    # An open row is what it is since something happened that was no receipt.
    since_ms = max(hop.at_ms for hop in hops if hop.what != "receipt")
    at_ms = int(page.final_ms[row]) if IS_FINAL[state] else since_ms
    flags = ", ".join(flag.name.lower() for flag in Flag(int(page.flags[row])) if flag.name is not None)
    hops.append(Hop(at_ms, "state", channel, state=state, reason=Reason(int(page.reason[row])), text=flags))
    heard = {hop.receipt for hop in hops}
    if state is State.DEVICE_ACKED and Receipt.DELIVERED not in heard:
        # What a device acknowledges it has.
        hops.append(Hop(at_ms, "receipt", channel, receipt=Receipt.DELIVERED))
        heard.add(Receipt.DELIVERED)
    receipt = Receipt(int(page.receipt[row]))
    if receipt and receipt not in heard:
        # Of a page that does not say when.
        hops.append(Hop(at_ms, "receipt", channel, receipt=receipt))
    return sorted(hops, key=lambda hop: hop.at_ms)


#: What a trace calls what happened to a row beside its state.
_PAST: dict[Kind, str] = {
    Kind.LINK_ATTEMPT: "sent to the device",
    Kind.HANDED_OVER: "handed over",
    Kind.FELL_BACK: "fell back",
}


def _past_hop(kind: Kind, channel: int, at_ms: int) -> Hop:
    if kind in _PAST:
        return Hop(at_ms, _PAST[kind], Channel(channel))
    if kind <= Kind.CLICKED:
        return Hop(at_ms, "receipt", Channel(channel), receipt=Receipt(kind + 1))
    return Hop(at_ms, "receipt", Channel(channel), text=kind.name.lower())


def _request_id(burst: Burst, place: int, message_id: bytes) -> str:
    """The vendor's name for the request that carried the row in this place of its burst. APNs has the one that it was
    given: `apns-id` is the message id."""
    if burst.channel is Channel.APNS:
        return to_text(message_id)
    names = burst.request_ids or {}
    first = max((start for start in names if start <= place), default=None)
    return "" if first is None else names[first]


def rows_of_device(page: LedgerPage, device_id: bytes, first: int = 0, stop: int | None = None) -> Rows:
    """Rows of the page whose target is the device."""
    ids = np.ascontiguousarray(page.batch.device_ids[first:stop]).view(np.uint64)
    wanted = np.frombuffer(device_id, np.uint64)
    return first + np.flatnonzero((ids[:, 0] == wanted[0]) & (ids[:, 1] == wanted[1]))
