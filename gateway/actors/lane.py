"""LaneActor: one (app, vendor, class). Takes rows, renders them, hands them to a connection, settles the answers.

    offer() --> Lane --take k--> render --> pool.send --> ... --> on_answers --> settle --> home.move
                 ^                                                                |
                 +---------------- retry wheel <--- WAITING ----------------------+--> router (fallback)

Lanes are bulkheads: each has its own queue, bucket, wheel and task, so a vendor that is slow or down delays no other.
Waits for: its bell and the clock. Is waited for by: nobody (a full lane takes a prefix; the router parks the rest).
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Mapping

import numpy as np
import trio

from gateway.actors.bell import Bell
from gateway.actors.lane_marks import AheadOfMarks, Unsent
from gateway.actors.lane_ports import Credentials, LaneObserver, Marks, Probes, Renderer, RouterPort
from gateway.actors.vendor_breaker import VerdictWatch
from gateway.actors.vendor_pool import PoolPort
from gateway.actors.vendor_tags import make_tags, split_by_burst
from gateway.clock import Clock
from gateway.columns import F64, I64, U8, U16, Rows
from gateway.content import Priority
from gateway.core.device_gates import DeviceGates
from gateway.core.home import Home
from gateway.core.lane import Lane, LaneSlice
from gateway.core.retry import RetryPolicy
from gateway.core.settle import Settlement, Verdicts, settle
from gateway.core.wheel import TimingWheel
from gateway.ledger import NO_VERDICT, Burst, Flag, LedgerPage, Reason, State
from gateway.pace import Pace
from gateway.vendor import Vendor
from gateway.verdict import Answer, Scope, Verdict
from gateway.wire.h2.events import AnswerDetail, Answers, Event, Refused, Reset, Terminated, TimedOut

#: Retries need no better precision: the shortest wait is a second.
_WHEEL_TICK_S = 0.05
#: Rendered rows are rendered anew after this long: what counts down in them (TTL) is in seconds.
_STALE_S = 1.0
#: Pace keeps to half of what it is given, for the sake of system calls; rendering makes none.
_STEP_SHARE = 1.6
#: Fewest rows in a step: below this the fixed cost of a burst is most of its price.
_STEP_ROWS_MIN = 64
#: Positions a tag has room for.
_POSITIONS_MAX = 1 << 16
#: Slices that may wait for a retry at once; one slice per burst with retries.
_WHEEL_ITEMS_MAX = 1 << 20


class _InFlight:
    """A burst under way. n_open: rows without an outcome yet. authorization: what it was sent with."""

    __slots__ = ("authorization", "burst", "n_open", "page", "rows")

    def __init__(self, page: LedgerPage, rows: Rows, burst: Burst, authorization: bytes) -> None:
        self.authorization = authorization
        self.page = page
        self.rows = rows
        self.burst = burst
        self.n_open = len(rows)


class LaneActor:
    """burst_rows_max: rows rendered in one step at most, fewer where step_s_max would not hold.

    request_timeout_s: an attempt without answer ends uncertain. marks: of the journal on disk that holds the app's
    batches; None where they are in memory.
    """

    def __init__(
        self,
        *,
        lane: Lane,
        vendor: Vendor,
        pool: PoolPort,
        renderer: Renderer,
        credentials: Credentials,
        home: Home,
        router: RouterPort,
        policy: RetryPolicy,
        clock: Clock,
        observer: LaneObserver,
        burst_rows_max: int,
        step_s_max: float,
        request_timeout_s: float,
        watch: VerdictWatch,
        device_gates: DeviceGates,
        random_source: random.Random | None = None,
        marks: Marks | None = None,
    ) -> None:
        self.lane = lane
        self._vendor = vendor
        self._pool = pool
        self._renderer = renderer
        self._credentials = credentials
        self._home = home
        self._router = router
        self._policy = policy
        self._clock = clock
        self._observer = observer
        self._watch = watch
        self._device_gates = device_gates
        fewest = min(_STEP_ROWS_MIN, burst_rows_max)
        #: Apart for batches whose texts differ per row: those cost many times more, and most where texts are cut.
        self._paces = (
            Pace(_STEP_SHARE * step_s_max, fewest=fewest, most=burst_rows_max),
            Pace(_STEP_SHARE * step_s_max, fewest=fewest, most=burst_rows_max),
        )
        self._paced_page: LedgerPage | None = None
        self._request_timeout_s = request_timeout_s
        self._random = np.random.default_rng((random_source or random.Random()).getrandbits(64))
        self._number = pool.add_lane(self)
        #: Where rows with unproven tokens go; None where the vendor needs no probes.
        self.probes: Probes | None = None
        #: The lane that the router knows: this one, or the one whose probes these are.
        self._main = self
        self._bell = Bell()
        self._timer_bell = Bell()
        self._wheel: TimingWheel[LaneSlice] = TimingWheel(
            tick_s=_WHEEL_TICK_S, slots=1024, now=clock.monotonic(), items_max=_WHEEL_ITEMS_MAX
        )
        self._unsent: deque[Unsent] = deque()
        self._ahead = AheadOfMarks(self._unsent, marks, rows_max=burst_rows_max, ring=self.ring)
        self._bursts: dict[int, _InFlight] = {}
        self._burst_number = 0
        #: A THROTTLED or QUOTA verdict for this class: nothing leaves before this time. Those for the app: the pool.
        self._not_before = -math.inf
        self._gate_reason = Reason.NONE

    # -- used by the router

    def offer(self, page: LedgerPage, rows: Rows, priority: Priority) -> int:
        """Queues a prefix of rows that are QUEUED for this channel; returns how many."""
        aside = 0 if self.probes is None else self.probes.waiting_rows
        taken = self.lane.offer(page, rows, priority, aside=aside)
        self._bell.ring()
        return taken

    def waiting_reason(self) -> Reason:
        """Why rows that are queued here do not leave; what an expired row is told."""
        now = self._clock.monotonic()
        if now < self._not_before:
            return self._gate_reason
        if now < self._pool.not_before:
            return self._pool.gate_reason
        breaker_reason = self._watch.breaker.waiting_reason
        if breaker_reason is not None:
            return breaker_reason
        if self._credentials.get_nowait() is None and self._credentials.is_denied:
            return Reason.CREDENTIAL_REFUSED
        return Reason.TTL_PASSED if self._pool.is_ready else Reason.VENDOR_UNAVAILABLE

    # -- used by the pool

    def ring(self) -> None:
        self._bell.ring()

    @property
    def has_rows(self) -> bool:
        return bool(self._unsent) or not self.lane.is_empty

    @property
    def waiting_rows(self) -> int:
        return self.lane.rows + sum(len(unsent.rows) for unsent in self._unsent)

    @property
    def holds_rows(self) -> bool:
        """Rows wait here, or for a probe."""
        return self.has_rows or (self.probes is not None and self.probes.waiting_rows > 0)

    @property
    def is_idle(self) -> bool:
        """Nothing queued and nothing in flight; rows that wait for a retry do not count."""
        return not self.has_rows and not self._bursts

    # -- the actor

    async def run(self) -> None:
        """Sends and retries until cancelled. If cancelled: bursts under way stay as they are, for their events."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_timer)
            # What a crashed run had queued is still there.
            self._bell.ring()
            while True:
                await self._bell.wait()
                while self._step():
                    await trio.lowlevel.checkpoint()
                if self._next_send() < math.inf:
                    self._timer_bell.ring()

    async def _run_timer(self) -> None:
        """Rings the lane when its bucket refills or a retry is due."""
        while True:
            now = self._clock.monotonic()
            self._requeue_due(now)
            with self._clock.move_on_at(self._next_deadline(now)) as scope:
                await self._timer_bell.wait()
            if scope.cancelled_caught:
                self._bell.ring()

    def _next_deadline(self, now: float) -> float:
        wheel = self._wheel.next_deadline()
        return min(math.inf if wheel is None else wheel, self._next_send())

    def _next_send(self) -> float:
        """When the gate opens or the bucket refills, where one of them is what rows wait for; else never."""
        if not self.has_rows or not self._pool.is_ready:
            return math.inf
        now = self._clock.monotonic()
        gate = max(self._not_before, self._pool.not_before)
        if gate > now:
            return gate
        bucket = self.lane.next_deadline()
        return bucket if bucket > now else math.inf

    def _requeue_due(self, now: float) -> None:
        for page, rows in self._wheel.expire(now):
            waiting = rows[page.are(rows, State.WAITING, self.lane.key.channel)]
            if len(waiting):
                self._home.move(page, waiting, State.QUEUED, None, now)
                self._offer_all(page, waiting)

    def _offer_all(self, page: LedgerPage, rows: Rows) -> None:
        """Rows that this lane had before come back first, whatever its limit: they were admitted once."""
        self.lane.put_back(page, rows, returns_tokens=False)
        self._bell.ring()

    # -- sending

    def _step(self) -> bool:
        """Renders a slice, or sends one burst of what is rendered. False when nothing can leave now."""
        now = self._clock.monotonic()
        if not self.has_rows or now < max(self._not_before, self._pool.not_before):
            return False
        pace = self._pace()
        rows_max = pace.items() if pace is not None else _STEP_ROWS_MIN
        wanted = len(self._unsent[0].rows) if self._unsent else min(self.lane.rows, rows_max)
        if not self._pool.capacity(wanted):
            return False
        authorization = self._credentials.get_nowait()
        if authorization is None:
            return False
        if self._ahead.may_send():
            return self._send_next(authorization, now)
        rows_max = min(rows_max, self._ahead.room())
        if not rows_max:
            return False
        slice_ = self.lane.take(now, rows_max)
        # Rows left the queue, if only because they had ended elsewhere: what is parked for it moves up.
        self._router.lane_has_room(self._main)
        if slice_ is None:
            if not self.lane.is_empty:
                self._observer.throttled(max(0.0, self.lane.next_deadline() - now))
            return False
        slice_ = self._hold_throttled(slice_, now)
        if not len(slice_.rows):
            return True
        started = time.perf_counter()
        try:
            self._render(slice_, authorization, now)
        except BaseException:
            # Whatever is wrong with them, no row may leave its lane without an end.
            self.lane.put_back(*slice_)
            raise
        self._paced_page = slice_.page
        self._paces[bool(slice_.page.batch.variables)].on_step(len(slice_.rows), time.perf_counter() - started)
        return True

    def return_stalled(self) -> None:
        """Rendered rows that may leave and do not are queued again; called now and then."""
        stalled = self._ahead.take_stalled()
        for unsent in stalled:
            page, rows = unsent.page, unsent.rows
            is_live = page.are(rows, State.QUEUED, self.lane.key.channel)
            self.lane.put_back(page, rows[is_live])
            self.lane.bucket.give_back(int((~is_live).sum()))
            self._ahead.unmark(page, rows[is_live])
        if stalled:
            self._bell.ring()

    def _hold_throttled(self, slice_: LaneSlice, now: float) -> LaneSlice:
        """The rows that may leave; those for devices that the vendor wants left alone wait until it is over."""
        page, rows = slice_
        until = self._device_gates.closed_until(page.slots[rows], now)
        if until is None:
            return slice_
        is_held = until > now
        held = rows[is_held]
        self.lane.bucket.give_back(len(held))
        self._home.move(page, held, State.WAITING, Reason.THROTTLED, now)
        self._wait(page, held, until[is_held])
        return LaneSlice(page, rows[~is_held])

    def _wait(self, page: LedgerPage, rows: Rows, not_before: F64) -> None:
        """Rows that are WAITING come back to this lane then."""
        ticks = np.ceil(not_before / _WHEEL_TICK_S)
        for tick in np.unique(ticks):
            self._wheel.add(float(tick) * _WHEEL_TICK_S, LaneSlice(page, rows[ticks == tick]))
        self._timer_bell.ring()

    def _pace(self) -> Pace | None:
        """The measured cost of the rows that come next; None for a batch with texts per row of which none was rendered
        yet: it may be of over-long texts, each of which costs as much as a hundred others."""
        page = self.lane.next_page
        has_texts = page is not None and bool(page.batch.variables)
        return None if has_texts and page is not self._paced_page else self._paces[has_texts]

    def _render(self, slice_: LaneSlice, authorization: bytes, now: float) -> None:
        """The slice's rows are rendered and wait for room, or have ended."""
        page, rows = slice_
        batch = page.batch
        rendered = self._renderer.render(page, rows, authorization, batch.born_unix_ms / 1000 + now - batch.born)
        for burst in rendered.bursts:
            self._ahead.add(page, burst, authorization, now)
        if len(rendered.tokenless):
            reasons = np.full(len(rendered.tokenless), Reason.NO_CHANNEL, np.uint8)
            self._router.vendor_failed(page, rendered.tokenless, reasons)
            self.lane.bucket.give_back(len(rendered.tokenless))
        if len(rendered.unproven):
            assert self.probes is not None, "only a renderer for lanes with probes tells tokens apart"
            self.lane.bucket.give_back(len(rendered.unproven))
            self.probes.take_over(page, rendered.unproven)
        for refused, reason in rendered.refused:
            self._router.vendor_failed(page, refused, np.full(len(refused), reason, np.uint8))
            self.lane.bucket.give_back(len(refused))

    def _send_next(self, authorization: bytes, now: float) -> bool:
        """Sends as much of the first rendered burst as a connection takes. False when it takes nothing."""
        unsent = self._unsent[0]
        page, rendered, start = unsent.page, unsent.rendered, unsent.start
        rows = unsent.rows
        is_stale = authorization != unsent.authorization or now - unsent.rendered_at > _STALE_S
        if is_stale or not page.are_all(rows, State.QUEUED, self.lane.key.channel):
            is_live = page.are(rows, State.QUEUED, self.lane.key.channel)
            self._unsent.popleft()
            self.lane.put_back(page, rows[is_live])
            self.lane.bucket.give_back(int((~is_live).sum()))
            return True
        number = self._burst_number
        self._burst_number = (number + 1) & 0xFFFFFFFF
        tags = make_tags(self._number, number, min(len(rows), _POSITIONS_MAX))
        taken, connection = self._pool.send(rendered.requests, start, tags, self._request_deadline())
        if not taken:
            return False
        self._issue(unsent, taken, number, connection, now)
        if taken < len(rows):
            self._unsent[0] = unsent._replace(start=start + taken)
        else:
            self._unsent.popleft()
        # A full connection rings when it has room: another turn of the loop would only find it full.
        wanted = len(self._unsent[0].rows) if self._unsent else self.lane.rows
        return wanted > 0 and self._pool.capacity(wanted) > 0

    def _request_deadline(self) -> float:
        """On trio's clock, which the development clock does not move: a moved clock must not time requests out."""
        return trio.current_time() + self._request_timeout_s

    def _issue(self, unsent: Unsent, taken: int, number: int, connection: int, now: float) -> None:
        """The next `taken` rows are in flight, with a record in the burst log."""
        page, rendered, start = unsent.page, unsent.rendered, unsent.start
        rows, truncated = rendered.rows[start : start + taken], rendered.truncated[start : start + taken]
        attempts = page.attempts[rows]
        page.attempts[rows] = np.minimum(attempts, np.uint8(254)) + np.uint8(1)
        self._home.move(page, rows, State.IN_FLIGHT, None, now, channel=self.lane.key.channel)
        page.issued_ms[rows] = page.stamp(now)
        if np.count_nonzero(truncated):
            page.flags[rows[truncated]] |= np.uint8(Flag.TRUNCATED)
            self._observer.truncated(int(truncated.sum()))
        burst = Burst(
            number,
            int(attempts[0]) + 1,
            self.lane.key.channel,
            connection,
            rows.astype(np.uint16),
            now,
            np.zeros(len(rows), np.uint32),
            np.full(len(rows), NO_VERDICT, np.uint8),
            {},
        )
        page.bursts.append(burst)
        self._bursts[number] = _InFlight(page, rows, burst, unsent.authorization)
        self._observer.issued(len(rows), now - page.batch.born)

    # -- answers

    def on_answers(self, connection: int, events: list[Event]) -> None:
        """Every tag of this lane ends here exactly once."""
        for event in events:
            match event:
                case Answers(tags=tags, status=status, details=details):
                    self._on_statuses(tags, status, details)
                case Refused(tags=tags):
                    self._on_not_sent(tags)
                case Reset(tags=tags) | TimedOut(tags=tags):
                    self._on_verdict(tags, Answer(Verdict.UNCERTAIN, type(event).__name__))
                case Terminated(reason=reason, refused=refused, uncertain=uncertain):
                    self._on_not_sent(refused)
                    self._on_verdict(uncertain, Answer(Verdict.UNCERTAIN, reason.value))
                case _:
                    pass
        self._bell.ring()

    def _on_statuses(self, tags: I64, status: U16, details: Mapping[int, AnswerDetail]) -> None:
        n = len(tags)
        verdicts = np.zeros(n, np.uint8)
        answers: dict[int, Answer] = {}
        odd = np.flatnonzero(status != 200).tolist()
        # A 200 that brought something along is the vendor's to judge: over HTTP/1.1 many tell errors in the body.
        for index in sorted(details.keys() | odd) if details else odd:
            detail = details.get(index)
            headers, body = (detail.headers, detail.body) if detail is not None else ({}, b"")
            answer = self._vendor.classify(int(status[index]), headers, body)
            answers[index] = answer
            verdicts[index] = answer.verdict
            self._observer.named(answer.verdict, answer.name, 1, is_unknown=answer.is_unknown)
        self._watch.judge(verdicts, answers)
        self._settle_tags(tags, verdicts, answers)

    def _on_verdict(self, tags: I64, answer: Answer) -> None:
        if len(tags):
            self._observer.named(answer.verdict, answer.name, len(tags))
            verdicts = np.full(len(tags), answer.verdict, np.uint8)
            self._watch.judge(verdicts, {})
            self._settle_tags(tags, verdicts, {})

    def _settle_tags(self, tags: I64, verdicts: U8, answers: dict[int, Answer]) -> None:
        now = self._clock.monotonic()
        for number, indexes, places in split_by_burst(tags):
            flight = self._bursts[number]
            page, burst = flight.page, flight.burst
            if not answers and len(places) == len(flight.rows) and not np.count_nonzero(verdicts):
                # The whole burst at once, and all of it accepted: no row need be picked out.
                burst.answered[:] = max(1, int((now - burst.issued) * 1000))
                burst.verdicts[:] = Verdict.ACCEPTED
                self._observer.answered(page, burst.verdicts, now - burst.issued)
                self._forget(number, flight, len(places))
                self._home.move(
                    page, flight.rows, State.VENDOR_ACCEPTED, Reason.NONE, now, channel=self.lane.key.channel
                )
                continue
            rows = flight.rows[places]
            burst.answered[places] = max(1, int((now - burst.issued) * 1000))
            burst.verdicts[places] = verdicts[indexes]
            own: dict[int, Answer] = {}
            if answers:
                own = {place: answers[index] for place, index in enumerate(indexes.tolist()) if index in answers}
            for place, answer in own.items():
                burst.names[int(places[place])] = answer.name
            self._observer.answered(page, verdicts[indexes], now - burst.issued)
            self._forget(number, flight, len(places))
            self._act_on(flight, rows, verdicts[indexes], own, now)

    def _forget(self, number: int, flight: _InFlight, count: int) -> None:
        flight.n_open -= count
        if flight.n_open == 0:
            del self._bursts[number]

    def _act_on(self, flight: _InFlight, rows: Rows, verdicts: U8, answers: dict[int, Answer], now: float) -> None:
        page = flight.page
        if not np.count_nonzero(verdicts):  # ACCEPTED is 0: the usual burst
            self._home.move(page, rows, State.VENDOR_ACCEPTED, Reason.NONE, now, channel=self.lane.key.channel)
            return
        n = len(rows)
        retry_after_s = np.full(n, math.nan)
        is_refreshable = np.zeros(n, np.bool_)
        for place, answer in answers.items():
            if answer.retry_after_s is not None:
                retry_after_s[place] = answer.retry_after_s
            is_refreshable[place] = answer.is_refreshable
        if answers:
            self._act_on_answers(flight, rows, answers, now)
        settlement = settle(
            page,
            Verdicts(rows, verdicts, retry_after_s, is_refreshable),
            self._policy,
            now=now,
            random=self._random.random(n),
        )
        self._carry_out(page, settlement, now)

    def _act_on_answers(self, flight: _InFlight, rows: Rows, answers: dict[int, Answer], now: float) -> None:
        """What answers mean beyond their own row: dead tokens, credentials, connections, gates."""
        page = flight.page
        dead = [place for place, answer in answers.items() if answer.verdict is Verdict.TOKEN_DEAD]
        if dead:
            self._router.token_dead(page, rows[dead], [answers[place].dead_since_unix_ms for place in dead])
        muted = [place for place, answer in answers.items() if answer.verdict is Verdict.TOKEN_MUTED]
        if muted:
            self._router.token_muted(page, rows[muted])
        suspect = [
            place
            for place, answer in answers.items()
            if answer.verdict is Verdict.THROTTLED and answer.scope is Scope.DEVICE
        ]
        if suspect:
            self._router.tokens_suspect(page, rows[suspect])
            waits = [answers[place].retry_after_s for place in suspect]
            until = np.array([now + (self._policy.throttle_s if wait is None else wait) for wait in waits])
            self._device_gates.close(page.slots[rows[suspect]], until, now)
        # One word about credential, connection or gate is enough, however many rows got the same answer.
        for answer in set(answers.values()):
            if answer.verdict is Verdict.CREDENTIAL:
                self._observer.credential_refused(answer.name)
                if answer.is_refreshable:
                    self._credentials.refused(flight.authorization)
            if answer.keeps_credential:
                self._credentials.keep_current()
            if answer.needs_new_connection:
                self._pool.replace_connection(flight.burst.connection)
            if answer.verdict in (Verdict.THROTTLED, Verdict.QUOTA) and answer.scope is not Scope.DEVICE:
                self._close_gate(answer, now)

    def _close_gate(self, answer: Answer, now: float) -> None:
        """Nothing leaves this lane, or any lane of the app, before the time the vendor names."""
        wait_s = answer.retry_after_s if answer.retry_after_s is not None else self._policy.throttle_s
        reason = Reason.THROTTLED if answer.verdict is Verdict.THROTTLED else Reason.QUOTA_EXHAUSTED
        if answer.scope is Scope.APP:
            self._pool.close_gate(now + wait_s, reason)
        else:
            self._not_before = max(self._not_before, now + wait_s)
            self._gate_reason = reason

    def _carry_out(self, page: LedgerPage, settlement: Settlement, now: float) -> None:
        home = self._home
        channel = self.lane.key.channel
        home.move(page, settlement.accepted, State.VENDOR_ACCEPTED, Reason.NONE, now, channel=channel)
        home.move(page, settlement.uncertain, State.UNCERTAIN, Reason.NO_ANSWER, now, channel=channel)
        if len(settlement.failed):
            self._router.vendor_failed(page, settlement.failed, settlement.failed_reasons)
        if len(settlement.expiring):
            home.move(page, settlement.expiring, State.WAITING, settlement.expiring_reasons, now)
        if len(settlement.retried):
            home.move(page, settlement.retried, State.WAITING, settlement.retried_reasons, now)
            uncertain = settlement.retried[settlement.retried_reasons == Reason.NO_ANSWER]
            page.flags[uncertain] |= np.uint8(Flag.RESENT_UNCERTAIN)
            self._observer.retried(settlement.retried_reasons)
            self._wait(page, settlement.retried, settlement.not_before)

    def _on_not_sent(self, tags: I64) -> None:
        """Surely not processed: back to the head of the queue, and the attempt does not count."""
        self._watch.not_sent(len(tags))
        now = self._clock.monotonic()
        for number, _, places in split_by_burst(tags) if len(tags) else []:
            flight = self._bursts[number]
            rows = flight.rows[places]
            flight.page.attempts[rows] -= np.uint8(1)
            self._home.move(flight.page, rows, State.QUEUED, None, now)
            self._forget(number, flight, len(places))
            self.lane.put_back(flight.page, rows)
