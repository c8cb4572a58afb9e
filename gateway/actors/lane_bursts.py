"""Bursts of a lane before and after they leave: rows that are rendered, rows that wait for an answer, and what the
answers to requests of many rows mean for each of their rows.

A request's place counts requests of its burst; a row's place counts the burst's rows. Without `Bulk` they are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, assert_never

import numpy as np

from gateway.actors.lane_ports import LaneObserver, RouterPort
from gateway.actors.rendering import RenderedBurst
from gateway.actors.vendor_tags import runs_by_burst
from gateway.columns import F64, I64, U8, U16, Rows, TextColumn, piece_rows
from gateway.core.bucket import TokenBucket
from gateway.core.home import Home
from gateway.core.retry import RetryPolicy
from gateway.core.settle import Verdicts
from gateway.ledger import NO_VERDICT, Burst, Channel, LedgerPage, Reason, State
from gateway.marks import NO_TICKET
from gateway.vendor import Bulk, BulkAnswer, BulkVendor, Names
from gateway.verdict import NOT_IN_ANSWER, Answer, Scope, Verdict
from gateway.wire.h2.events import AnswerDetail

#: A status of 200 as it stands in a column.
_OK = np.uint16(200).tobytes()
#: Attempts of a row are counted up to one more than this.
_ATTEMPTS_COUNTED, _ONE = np.uint8(254), np.uint8(1)
_NO_DETAIL = AnswerDetail({}, b"")
_CUT_OFF = Answer(Verdict.UNCERTAIN, "answer_cut_off")


class Unsent(NamedTuple):
    """Rendered rows, from request `start` on, that wait for room; they go out next, unless something about them
    changed. ticket: of the mark that says that they are about to leave."""

    page: LedgerPage
    rendered: RenderedBurst
    start: int
    authorization: bytes
    rendered_at: float
    ticket: int = NO_TICKET

    @property
    def rows(self) -> Rows:
        return self.rendered.rows[self.rendered.rows_before(self.start) :]

    @property
    def requests_left(self) -> int:
        return self.rendered.requests.n - self.start


class Saving(NamedTuple):
    """Rows whose first step is under way: they are still queued, since it sends nothing to anybody."""

    unsent: Unsent
    connection: int


class InFlight:
    """A burst under way. n_open: rows without an outcome yet. authorization: what it was sent with. bulk: of its
    requests, where they carry many rows."""

    __slots__ = ("authorization", "bulk", "burst", "n_open", "page", "rows")

    def __init__(
        self, page: LedgerPage, rows: Rows, burst: Burst, authorization: bytes, bulk: Bulk | None = None
    ) -> None:
        self.authorization = authorization
        self.page = page
        self.rows = rows
        self.burst = burst
        self.bulk = bulk
        self.n_open = len(rows)

    def row_places(self, places: Rows) -> Rows:
        """Places of the rows that these requests carry."""
        if self.bulk is None:
            return places
        starts = self.bulk.offsets[places]
        counts = self.bulk.offsets[places + 1] - starts
        before = np.cumsum(counts) - counts
        return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))


def bulk_part(bulk: Bulk, start: int, stop: int) -> Bulk:
    """What holds for requests start..stop."""
    first, last = int(bulk.offsets[start]), int(bulk.offsets[stop])
    tokens = bulk.tokens.part(first, last) if isinstance(bulk.tokens, TextColumn) else bulk.tokens[first:last]
    return Bulk(bulk.offsets[start : stop + 1] - first, tokens, bulk.is_distinct, bulk.first_number + start)


class Judged(NamedTuple):
    """What the answers to some requests of one burst mean. places, verdicts: by row. answers: by index into them, of
    rows that got anything but a plain acceptance. requests: one answer per request, what it says of itself.
    own_ids: what the vendor calls the messages, where that is to be remembered."""

    places: Rows
    verdicts: U8
    answers: dict[int, Answer]
    requests: list[Answer]
    own_ids: list[str]


def judge_requests(
    vendor: BulkVendor, flight: InFlight, places: Rows, status: U16, details: Sequence[AnswerDetail | None]
) -> Judged:
    """places: of the requests; status, details: their answers. Total as the vendor's own `judge` is. The burst has the
    vendor's names for the requests afterwards."""
    row_places = flight.row_places(places)
    verdicts = np.zeros(len(row_places), np.uint8)
    answers: dict[int, Answer] = {}
    requests: list[Answer] = []
    own_ids: list[str] = []
    at = 0
    for place, code, found in zip(places.tolist(), status.tolist(), details, strict=True):
        detail = found or _NO_DETAIL
        bulk = flight.bulk
        if vendor.keeps_own_ids:
            own_ids += vendor.own_ids(detail.body)
        names = flight.burst.request_ids
        if names is not None and (request_id := vendor.request_id(detail.body)):
            names[place if bulk is None else int(bulk.offsets[place])] = request_id
        if bulk is None:
            answer = vendor.classify(code, detail.headers, detail.body)
            requests.append(answer)
            if answer.verdict or answer.name:
                answers[at] = answer
                verdicts[at] = answer.verdict
            at += 1
            continue
        first, stop = int(bulk.offsets[place]), int(bulk.offsets[place + 1])
        if code == 200 and (detail.body_bytes_cut or not detail.is_complete):
            told = BulkAnswer(_CUT_OFF)
        else:
            told = vendor.judge(code, detail.headers, detail.body, is_distinct=bulk.is_distinct)
        requests.append(told.rest)
        if not told.rest.verdict:
            who_named = vendor.distinct_names if bulk.is_distinct else vendor.shared_names
            told = _without_unnamed(told, who_named, stop - first)
        if told.rest.verdict:
            verdicts[at : at + stop - first] = told.rest.verdict
            answers.update(dict.fromkeys(range(at, at + stop - first), told.rest))
        for index, answer in _named(told, bulk, first, stop):
            verdicts[at + index] = answer.verdict
            if answer.verdict or answer.name:
                answers[at + index] = answer
            else:
                answers.pop(at + index, None)
        at += stop - first
    return Judged(row_places, verdicts, answers, requests, own_ids)


def _without_unnamed(told: BulkAnswer, names: Names, n: int) -> BulkAnswer:
    """An answer to a request of n rows that was taken, without acceptance for rows of which it says nothing."""
    match names:
        case Names.REFUSED:
            return told
        case Names.ALL_BY_TOKEN:
            return told._replace(rest=NOT_IN_ANSWER)
        case Names.ALL_IN_ORDER:
            # Which rows are missing is unknown, and so is whose any entry is.
            return told if told.n_told == n else BulkAnswer(NOT_IN_ANSWER)
        case Names.REFUSED_AND_COUNT:
            is_whole = told.n_told >= n and max(told.by_position, default=0) < n
            return told if is_whole else told._replace(rest=NOT_IN_ANSWER)
        case _:
            assert_never(names)


def _named(told: BulkAnswer, bulk: Bulk, first: int, stop: int) -> list[tuple[int, Answer]]:
    """Rows of one request that are named in its answer, by index in the request. What names none of ours is passed
    over: the answer is somebody else's text."""
    named = [(index, answer) for index, answer in told.by_position.items() if 0 <= index < stop - first]
    if told.by_token:
        # Objects per row, for requests some of whose tokens failed. A token may stand in several rows.
        tokens = enumerate(piece_rows(bulk.tokens, first, stop))
        named += [(index, told.by_token[token]) for index, token in tokens if token in told.by_token]
    return named


def counted(answers: Mapping[int, Answer]) -> dict[Answer, int]:
    """How many rows got each answer."""
    counts: dict[Answer, int] = {}
    for answer in answers.values():
        counts[answer] = counts.get(answer, 0) + 1
    return counts


def read_saved(vendor: BulkVendor, status: int, found: AnswerDetail | None) -> str | Answer:
    """The name that a first step gave, or why there is none."""
    detail = found or _NO_DETAIL
    return vendor.read_saved(status, detail.headers, detail.body)


def gate_of(answer: Answer, policy: RetryPolicy, unix_ms: int) -> tuple[float, Reason]:
    """For how long an answer of THROTTLED or QUOTA closes a gate, and what the rows behind it are told."""
    wait_s, reason = policy.throttle_s, Reason.THROTTLED
    if answer.verdict is Verdict.QUOTA:
        wait_s, reason = policy.next_day_s(unix_ms), Reason.QUOTA_EXHAUSTED
    return wait_s if answer.retry_after_s is None else answer.retry_after_s, reason


def verdict_columns(rows: Rows, verdicts: U8, answers: Mapping[int, Answer]) -> Verdicts:
    """Verdicts of rows with what their answers ask for. answers: by index into rows."""
    retry_after_s = np.full(len(rows), math.nan)
    is_refreshable = np.zeros(len(rows), np.bool_)
    reasons = np.zeros(len(rows), np.uint8)
    for place, answer in answers.items():
        if answer.retry_after_s is not None:
            retry_after_s[place] = answer.retry_after_s
        is_refreshable[place] = answer.is_refreshable
        reasons[place] = answer.reason
    return Verdicts(rows, verdicts, retry_after_s, is_refreshable, reasons)


def believe_receipts(page: LedgerPage, rows: Rows, verdicts: U8) -> U8:
    """The verdicts of rows; one whose answer was lost, but whose receipt came first, was accepted."""
    is_known = (verdicts == Verdict.UNCERTAIN) & (page.receipt[rows] != 0)
    return np.where(is_known, np.uint8(Verdict.ACCEPTED), verdicts) if is_known.any() else verdicts


def record(
    home: Home,
    unsent: Unsent,
    rows: Rows,
    number: int,
    channel: Channel,
    connection: int,
    now: float,
    bulk: Bulk | None = None,
) -> InFlight:
    """Rows that leave now are in flight, with a record in the burst log of their page."""
    page, n = unsent.page, len(rows)
    attempts = page.attempts[rows]
    page.attempts[rows] = np.minimum(attempts, _ATTEMPTS_COUNTED) + _ONE
    home.move(page, rows, State.IN_FLIGHT, None, now, channel=channel)
    page.issued_ms[rows] = page.stamp(now)
    answered, verdicts = np.zeros(n, np.uint32), np.full(n, NO_VERDICT, np.uint8)
    attempt, first_request = attempts.item(0) + 1, -1 if bulk is None else bulk.first_number
    places = rows.astype(np.uint16)
    burst = Burst(number, attempt, channel, connection, places, now, answered, verdicts, {}, first_request, {})
    page.bursts.append(burst)
    return InFlight(page, rows, burst, unsent.authorization, bulk)


def granted(bucket: TokenBucket, wanted: int, now: float, observer: LaneObserver) -> int:
    """How many requests may leave now, where the vendor counts those."""
    taken = bucket.take(now, wanted)
    if not taken:
        observer.throttled(max(0.0, (bucket.next_deadline() or now) - now))
    return taken


def accepted_runs(tags: I64, status: U16, details: Mapping[int, AnswerDetail]) -> list[tuple[int, int, int]] | None:
    """`runs_by_burst` where all requests were answered with a plain 200, and few stretches hold them; else None."""
    if details or status.tobytes() != _OK * len(tags):
        return None
    return runs_by_burst(tags)


def answers_at(answers: Mapping[int, Answer], indexes: Rows) -> dict[int, Answer]:
    """Those of the tags at these positions of an event, by index into the positions."""
    if not answers:
        return {}
    return {place: answers[index] for place, index in enumerate(indexes.tolist()) if index in answers}


def act_on_tokens(
    router: RouterPort, page: LedgerPage, rows: Rows, answers: Mapping[int, Answer], now: float, throttle_s: float
) -> tuple[Rows, F64]:
    """The router has heard which tokens are dead, muted and suspect. Returns the rows whose devices the vendor wants
    left alone, and until when. answers: by index into rows; throttle_s: where the vendor does not say how long."""
    dead = [place for place, answer in answers.items() if answer.verdict is Verdict.TOKEN_DEAD]
    if dead:
        router.token_dead(page, rows[dead], [answers[place].dead_since_unix_ms for place in dead])
    muted = [place for place, answer in answers.items() if answer.verdict is Verdict.TOKEN_MUTED]
    if muted:
        router.token_muted(page, rows[muted])
    suspect = [
        place
        for place, answer in answers.items()
        if answer.verdict is Verdict.THROTTLED and answer.scope is Scope.DEVICE
    ]
    if suspect:
        router.tokens_suspect(page, rows[suspect])
    waits = [answers[place].retry_after_s for place in suspect]
    until = np.array([now + (throttle_s if wait is None else wait) for wait in waits], np.float64)
    return rows[suspect] if suspect else rows[:0], until
