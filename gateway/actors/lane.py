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
from typing import cast

import numpy as np
import trio

from gateway.actors import lane_bursts
from gateway.actors.bell import Bell
from gateway.actors.lane_bursts import InFlight, Saving, Unsent
from gateway.actors.lane_marks import AheadOfMarks
from gateway.actors.lane_paces import LanePaces
from gateway.actors.lane_ports import Credentials, LaneObserver, Marks, Probes, Renderer, RouterPort
from gateway.actors.own_ids import OwnIdTap
from gateway.actors.precedence import Precedence
from gateway.actors.vendor_breaker import VerdictWatch
from gateway.actors.vendor_pool import PoolPort
from gateway.actors.vendor_tags import make_tags, split_by_burst
from gateway.clock import Clock
from gateway.columns import F64, I64, U8, U16, Rows
from gateway.content import Priority
from gateway.core.bucket import TokenBucket
from gateway.core.device_gates import DeviceGates
from gateway.core.fallback import accept, lose_answer
from gateway.core.home import Home
from gateway.core.lane import Lane, LaneSlice
from gateway.core.retry import RetryPolicy
from gateway.core.settle import Settlement, settle
from gateway.core.stopping import go_on
from gateway.core.wheel import TimingWheel
from gateway.ledger import Flag, LedgerPage, Reason, State
from gateway.vendor import Bulk, BulkVendor, Vendor
from gateway.verdict import Answer, Scope, Verdict
from gateway.wire.h2.events import AnswerDetail, Answers, Event, Refused, Reset, Terminated, TimedOut

#: Retries need no better precision: the shortest wait is a second.
_WHEEL_TICK_S = 0.05
#: Rendered rows are rendered anew after this long: what counts down in them (TTL) is in seconds.
_STALE_S = 1.0
#: Positions a tag has room for, and slices that may wait for a retry at once: one per burst with retries.
_POSITIONS_MAX = 1 << 16
_WHEEL_ITEMS_MAX = 1 << 20
#: A step that took no longer so far sends another burst before it lets the loop go on.
_ANOTHER_S = 0.0005


class LaneActor:
    """burst_rows_max: rows rendered in one step at most, fewer where step_s_max would not hold.

    request_timeout_s: an attempt without answer ends uncertain. request_bucket: of a vendor that counts requests, not
    rows. marks: of the journal on disk that holds the app's batches; None where they are in memory.
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
        request_bucket: TokenBucket | None = None,
        random_source: random.Random | None = None,
        marks: Marks | None = None,
        own_ids: OwnIdTap | None = None,
        precedence: Precedence | None = None,
    ) -> None:
        self.lane = lane
        self._vendor = vendor
        self._bulk = cast(BulkVendor, vendor) if getattr(vendor, "is_bulk", False) else None
        self._request_bucket = request_bucket
        self._pool = pool
        self._renderer = renderer
        self._credentials = credentials
        self._home = home
        self._router = router
        self._policy = policy
        self._clock = clock
        self._observer = observer
        self._watch = watch
        self._own_ids = own_ids or OwnIdTap()
        self._device_gates = device_gates
        self._paces = LanePaces(step_s_max, rows_max=burst_rows_max)
        self._request_timeout_s = request_timeout_s
        self._random = np.random.default_rng((random_source or random.Random()).getrandbits(64))
        self._number = pool.add_lane(self)
        #: Where rows with unproven tokens go; None where the vendor needs no probes.
        self.probes: Probes | None = None
        #: The lane that the router knows: this one, or the one whose probes these are.
        self._main = self
        self._bell = Bell(precedence)
        self._timer_bell = Bell()
        self._wheel: TimingWheel[LaneSlice] = TimingWheel(
            tick_s=_WHEEL_TICK_S, slots=1024, now=clock.monotonic(), items_max=_WHEEL_ITEMS_MAX
        )
        self._unsent: deque[Unsent] = deque()
        self._bursts: dict[int, InFlight] = {}
        #: First steps under way, by the burst number of their tag.
        self._saves: dict[int, Saving] = {}
        self._ahead = AheadOfMarks(self._unsent, self._saves, marks, home, rows_max=burst_rows_max, ring=self.ring)
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
        if self._credentials.get_nowait() is None:
            # The breaker does not know why there is none; an endpoint that cannot be reached has refused nobody.
            return Reason.CREDENTIAL_REFUSED if self._credentials.is_denied else Reason.VENDOR_UNAVAILABLE
        if (breaker_reason := self._watch.breaker.waiting_reason) is not None:
            return breaker_reason
        return Reason.TTL_PASSED if self._pool.is_ready else Reason.VENDOR_UNAVAILABLE

    # -- used by the pool

    def ring(self) -> None:
        self._bell.ring()

    @property
    def has_rows(self) -> bool:
        return bool(self._unsent) or not self.lane.is_empty

    @property
    def waiting_rows(self) -> int:
        saving = sum(len(saving.unsent.rows) for saving in self._saves.values())
        return self.lane.rows + saving + sum(len(unsent.rows) for unsent in self._unsent)

    @property
    def holds_rows(self) -> bool:
        """Rows wait here, or for a probe."""
        return self.has_rows or (self.probes is not None and self.probes.waiting_rows > 0)

    @property
    def is_idle(self) -> bool:
        """Nothing queued and nothing in flight; rows that wait for a retry do not count."""
        return not self.has_rows and not self._bursts and not self._saves

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
                    await self._bell.pause()
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
        if self._request_bucket is not None and self._unsent:
            bucket = self._request_bucket.next_deadline() or math.inf
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
        self._ahead.take_up(self.lane)
        if not self.has_rows or now < max(self._not_before, self._pool.not_before):
            return False
        if self._unsent and self.lane.is_empty and not self._ahead.is_marked(self._unsent[0]):
            return False  # a third of a small burst's steps
        rows_max = 0 if self._unsent else self._paces.rows_max(self.lane.next_page)
        capacity = self._pool.capacity(self._requests_wanted(rows_max))
        if not capacity:
            return False
        authorization = self._credentials.get_nowait()
        if authorization is None:
            return False
        room = self._ahead.room()
        if self._unsent:
            may_leave = self._ahead.bring_forward(self.lane)
            if may_leave or not room:
                return not self._unsent or self._send(authorization, now, capacity, may_leave=may_leave)
            rows_max = self._paces.rows_max(self.lane.next_page)
        if not (rows_max := min(rows_max, room)):
            return False
        slice_ = self.lane.take(now, rows_max)
        # Rows left the queue, if only because they had ended elsewhere: what is parked for it moves up.
        self._router.lane_has_room(self._main)
        if slice_ is None:
            if not self.lane.is_empty:
                self._observer.throttled(max(0.0, self.lane.next_deadline() - now))
            return False
        slice_ = self._hold_throttled(slice_, now)
        if not len(slice_.rows) or self._ahead.set_aside(slice_, self.lane):
            return True
        started = time.thread_time()
        try:
            self._render(slice_, authorization, now)
        except BaseException:
            # Whatever is wrong with them, no row may leave its lane without an end.
            self.lane.put_back(*slice_)
            raise
        self._paces.on_step(slice_.page, len(slice_.rows), time.thread_time() - started)
        return True

    def return_stalled(self) -> None:
        """Rendered rows that may leave and do not are queued again; called now and then."""
        if self._ahead.return_stalled(self.lane):
            self._bell.ring()

    def _requests_wanted(self, rows_max: int) -> int:
        """Requests that the next burst needs; one where a request may carry all rows that are yet to be rendered."""
        if self._unsent:
            return self._unsent[0].requests_left
        return min(self.lane.rows, rows_max) if self._bulk is None else min(self.lane.rows, 1)

    def _hold_throttled(self, slice_: LaneSlice, now: float) -> LaneSlice:
        """The rows that may leave; those for devices that the vendor wants left alone wait until it is over."""
        page, rows = slice_
        until = self._device_gates.closed_until(page.slots[rows], now)
        if until is None:
            return slice_
        is_held = until > now
        self._hold(page, rows[is_held], until[is_held], now)
        return LaneSlice(page, rows[~is_held])

    def _hold(self, page: LedgerPage, rows: Rows, until: F64, now: float) -> None:
        """Rows of the queue wait for their device or target."""
        self.lane.bucket.give_back(len(rows))
        self._home.move(page, rows, State.WAITING, Reason.THROTTLED, now)
        self._wait(page, rows, until)

    def _wait(self, page: LedgerPage, rows: Rows, not_before: F64) -> None:
        """Rows that are WAITING come back to this lane then."""
        ticks = np.ceil(not_before / _WHEEL_TICK_S)
        for tick in np.unique(ticks):
            self._wheel.add(float(tick) * _WHEEL_TICK_S, LaneSlice(page, rows[ticks == tick]))
        self._timer_bell.ring()

    def _render(self, slice_: LaneSlice, authorization: bytes, now: float) -> None:
        """The slice's rows are rendered and wait for room, or have ended."""
        page, rows = slice_
        unix_s = page.batch.born_unix_ms / 1000 + now - page.batch.born
        rendered = self._renderer.render(page, rows, authorization, unix_s)
        for burst in rendered.bursts:
            self._home.announce(page, burst.rows)
            self._ahead.add(page, burst, authorization, now)
        if len(rendered.unproven):
            assert self.probes is not None, "only a renderer for lanes with probes tells tokens apart"
            self.lane.bucket.give_back(len(rendered.unproven))
            self.probes.take_over(page, rendered.unproven)
        if rendered.paced is not None:
            self._hold(page, rendered.paced.rows, now + rendered.paced.wait_s, now)
        for refused, reason in ((rendered.tokenless, Reason.NO_CHANNEL), *rendered.refused):
            if len(refused):
                self._router.vendor_failed(page, refused, np.full(len(refused), reason, np.uint8))
                self.lane.bucket.give_back(len(refused))

    def _send(self, authorization: bytes, now: float, capacity: int, *, may_leave: bool) -> bool:
        """Sends rendered bursts for a part of a step. False when nothing can leave now."""
        while self._send_next(authorization, now, capacity, may_leave=may_leave):
            # A full connection rings when it has room: another turn of the loop would only find it full.
            wanted = self._requests_wanted(_POSITIONS_MAX)
            capacity = self._pool.capacity(wanted) if wanted else 0
            may_leave = capacity > 0 and bool(self._unsent) and self._ahead.may_leave(self._unsent[0])
            if not may_leave or self._clock.monotonic() - now > _ANOTHER_S:
                return capacity > 0
        return False

    def _send_next(self, authorization: bytes, now: float, capacity: int, *, may_leave: bool) -> bool:
        """Sends as much of the first rendered burst as a connection takes. False when it takes nothing. capacity: the
        requests that one has room for."""
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
        if not may_leave:
            return False
        if (turn := self._ahead.save_turn(now, self.lane)) is not None:
            return turn
        wanted = min(unsent.requests_left, capacity, _POSITIONS_MAX)
        if self._request_bucket is not None:
            wanted = lane_bursts.granted(self._request_bucket, wanted, now, self._observer)
        if not wanted:
            return False
        number = self._burst_number
        self._burst_number = (number + 1) & 0xFFFFFFFF
        # On trio's clock: the development clock must not time requests out.
        deadline = trio.current_time() + self._request_timeout_s
        bulk = rendered.requests.bulk
        if bulk is not None and bulk.save is not None:
            tags = make_tags(self._number, number, 1)
            taken, connection = self._pool.send(bulk.save, 0, tags, deadline)
            if taken:
                self._saves[number] = Saving(self._unsent.popleft(), connection)
        else:
            tags = make_tags(self._number, number, wanted)
            taken, connection = self._pool.send(rendered.requests, start, tags, deadline)
            if taken:
                self._issue(unsent, taken, number, connection, now)
                if taken < unsent.requests_left:
                    self._unsent[0] = unsent._replace(start=start + taken)
                else:
                    self._unsent.popleft()
        if self._request_bucket is not None:
            self._request_bucket.give_back(wanted - taken)
        return taken > 0

    def _issue(self, unsent: Unsent, taken: int, number: int, connection: int, now: float) -> None:
        """The next `taken` requests are in flight, with a record in the burst log."""
        rendered, bulk = unsent.rendered, unsent.rendered.requests.bulk
        first, stop = rendered.rows_before(unsent.start), rendered.rows_before(unsent.start + taken)
        rows, truncated = rendered.rows[first:stop], rendered.truncated[first:stop]
        if np.count_nonzero(truncated):
            unsent.page.flags[rows[truncated]] |= np.uint8(Flag.TRUNCATED)
            self._observer.truncated(int(truncated.sum()))
        part = None if bulk is None else lane_bursts.bulk_part(bulk, unsent.start, unsent.start + taken)
        self._record(unsent, rows, number, connection, now, part)

    def _record(
        self, unsent: Unsent, rows: Rows, number: int, connection: int, now: float, bulk: Bulk | None = None
    ) -> None:
        channel = self.lane.key.channel
        self._bursts[number] = lane_bursts.record(self._home, unsent, rows, number, channel, connection, now, bulk)
        self._observer.issued(len(rows), now - unsent.page.batch.born)

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
        if self._bulk is not None:
            for number, indexes, places in split_by_burst(tags):
                told = [details.get(index) for index in indexes.tolist()]
                if number in self._saves:
                    self._on_saved(number, lane_bursts.read_saved(self._bulk, int(status[indexes[0]]), told[0]))
                else:
                    self._on_requests(self._bulk, number, places, status[indexes], told)
            return
        n = len(tags)
        if (runs := lane_bursts.accepted_runs(tags, status, details)) is not None:
            # The usual event: no row need be picked out.
            self._watch.accepted(n)
            for number, first, stop in runs:
                self._settle_accepted(number, first, stop)
            return
        verdicts, answers = np.zeros(n, np.uint8), dict[int, Answer]()
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
        for number, indexes, places in split_by_burst(tags):
            self._settle_burst(number, places, verdicts[indexes], lane_bursts.answers_at(answers, indexes))

    def _on_requests(
        self, vendor: BulkVendor, number: int, places: Rows, status: U16, details: list[AnswerDetail | None]
    ) -> None:
        """Answers to requests of one burst that may carry many rows each."""
        flight = self._bursts[number]
        judged = lane_bursts.judge_requests(vendor, flight, places, status, details)
        for answer, rows in lane_bursts.counted(judged.answers).items():
            self._observer.named(answer.verdict, answer.name, rows, is_unknown=answer.is_unknown)
        self._watch.judge_requests(judged.requests, judged.verdicts)
        if judged.own_ids:
            self._own_ids.told(flight.page, flight.rows, judged.own_ids)
        self._settle_burst(number, judged.places, judged.verdicts, judged.answers)

    def _on_saved(self, number: int, saved: str | Answer) -> None:
        """The first step has ended. Its rows go on with the second, or end as if they had been sent: one attempt, one
        verdict. Nothing has left for any device until then, so whatever became of it, it may be done again."""
        unsent, connection = self._saves.pop(number)
        now = self._clock.monotonic()
        if isinstance(saved, str):
            self._watch.judge_requests([Answer(Verdict.ACCEPTED)], np.zeros(0, np.uint8))
            self._ahead.add_saved(unsent, saved, now, self.lane)
            return
        is_live = unsent.page.are(unsent.rows, State.QUEUED, self.lane.key.channel)
        rows = unsent.rows[is_live]
        self._observer.named(saved.verdict, saved.name, len(rows), is_unknown=saved.is_unknown)
        self._watch.judge_requests([saved], np.zeros(0, np.uint8))
        self.lane.bucket.give_back(int((~is_live).sum()))
        if len(rows):
            self._record(unsent, rows, number, connection, now)
            verdicts = np.full(len(rows), saved.verdict, np.uint8)
            self._settle_burst(number, np.arange(len(rows)), verdicts, dict.fromkeys(range(len(rows)), saved))

    def _on_verdict(self, tags: I64, answer: Answer) -> None:
        """These requests ended without an answer."""
        for number, _, places in split_by_burst(tags) if len(tags) else []:
            if number in self._saves:
                self._on_saved(number, Answer(Verdict.UNAVAILABLE, answer.name))
                continue
            row_places = self._bursts[number].row_places(places)
            self._observer.named(answer.verdict, answer.name, len(row_places))
            self._watch.judge_requests([answer] * len(places), np.zeros(0, np.uint8))
            self._settle_burst(number, row_places, np.full(len(row_places), answer.verdict, np.uint8), {})

    def _settle_accepted(self, number: int, first: int, stop: int) -> None:
        """The vendor took the rows at these places of a burst."""
        now = self._clock.monotonic()
        flight = self._bursts[number]
        page, burst = flight.page, flight.burst
        burst.answered[first:stop] = max(1, int((now - burst.issued) * 1000))
        burst.verdicts[first:stop] = int(Verdict.ACCEPTED)
        self._observer.answered(page, burst.verdicts[first:stop], now - burst.issued)
        self._forget(number, flight, stop - first)
        self._accept(page, flight.rows[first:stop], now)

    def _settle_burst(self, number: int, places: Rows, verdicts: U8, answers: dict[int, Answer]) -> None:
        """Rows of one burst have ended. places: in the burst; answers: by index into places."""
        now = self._clock.monotonic()
        flight = self._bursts[number]
        page, burst = flight.page, flight.burst
        rows = flight.rows[places]
        burst.answered[places] = max(1, int((now - burst.issued) * 1000))
        burst.verdicts[places] = verdicts
        for place, answer in answers.items():
            burst.names[int(places[place])] = answer.name
        self._observer.answered(page, verdicts, now - burst.issued)
        self._forget(number, flight, len(places))
        self._act_on(flight, rows, verdicts, answers, now)

    def _forget(self, number: int, flight: InFlight, count: int) -> None:
        flight.n_open -= count
        if not flight.n_open:
            del self._bursts[number]

    def _act_on(self, flight: InFlight, rows: Rows, verdicts: U8, answers: dict[int, Answer], now: float) -> None:
        page = flight.page
        verdicts = lane_bursts.believe_receipts(page, rows, verdicts)
        if not np.count_nonzero(verdicts):  # ACCEPTED is 0: the usual burst
            self._accept(page, rows, now)
            return
        if answers:
            self._act_on_answers(flight, rows, answers, now)
        told = lane_bursts.verdict_columns(rows, verdicts, answers)
        self._carry_out(page, settle(page, told, self._policy, now=now, random=self._random.random(len(rows))), now)

    def _act_on_answers(self, flight: InFlight, rows: Rows, answers: dict[int, Answer], now: float) -> None:
        """What answers mean beyond their own row: dead tokens, credentials, connections, gates."""
        page = flight.page
        suspect, until = lane_bursts.act_on_tokens(self._router, page, rows, answers, now, self._policy.throttle_s)
        if len(suspect):
            self._device_gates.close(page.slots[suspect], until, now)
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
        wait_s, reason = lane_bursts.gate_of(answer, self._policy, self._clock.unix_ms())
        if answer.scope is Scope.APP:
            self._pool.close_gate(now + wait_s, reason)
        else:
            self._not_before = max(self._not_before, now + wait_s)
            self._gate_reason = reason

    def _accept(self, page: LedgerPage, rows: Rows, now: float) -> None:
        accept(self._home, page, rows, now, self.lane.key.channel, self._router.lanes_of(page))

    def _carry_out(self, page: LedgerPage, settlement: Settlement, now: float) -> None:
        home, channel = self._home, self.lane.key.channel
        self._accept(page, settlement.accepted, now)
        lose_answer(home, page, settlement.uncertain, now, channel, self._router.lanes_of(page))
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
        for waiting in (settlement.expiring, settlement.retried):
            go_on(home, page, waiting, now)

    def _on_not_sent(self, tags: I64) -> None:
        """Surely not processed: back to the head of the queue, and the attempt does not count."""
        self._watch.not_sent(len(tags))
        now = self._clock.monotonic()
        for number, _, places in split_by_burst(tags) if len(tags) else []:
            if number in self._saves:
                self._unsent.appendleft(self._saves.pop(number).unsent)
                continue
            flight = self._bursts[number]
            rows = flight.rows[flight.row_places(places)]
            flight.page.attempts[rows] -= np.uint8(1)
            self._home.move(flight.page, rows, State.QUEUED, None, now)
            self._forget(number, flight, len(rows))
            # Those that end stay hints in the queue, and bring their tokens back with it.
            go_on(self._home, flight.page, rows, now)
            self.lane.put_back(flight.page, rows)
