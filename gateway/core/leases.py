"""Leases: one of a name among several workers, and what the others do while that one is away. DESIGN.md section 4.

A thing of which there must be one (who signs a credential, who lends out a vendor's rate) lives in the worker that owns
hash(name) (core/ownership.py). Here stand the two machines that do not need it to be there all the time.

`Borrowed`: the last value of something another worker makes, with its end. It is asked for again ahead of that end, and
serves until the end whatever becomes of its maker.

`RateLender` / `RateShare`: one rate over all workers. Each worker has a fair share, rate / workers, by right and
without a word. The lender moves what some do not use to those who want more, as leases:

    share lowered:   the worker sends less until the lease ends, then has its fair share again
    share raised:    backed by shares lowered elsewhere, and ends before the first of them does

So at any moment the shares add up to the rate at most, whoever dies, restarts or is not heard of: a lender that is gone
costs nothing but that everybody is back at his fair share after `lease_s`. What that takes:

* Clocks of processes do not agree, so a lease is a duration; a raised share counts it from when it was asked for, a
  lowered one from when the answer came and a second over: each side errs to the side of less.
* A worker says with each question what share it has, and for how long. A lower share counts, as does its renewal, only
  from when its worker has said so: an answer may be lost.
* A worker that begins a new life has the least share, a quarter of its fair one, for `lease_s`: others may still live
on
  what its earlier life did not want. A lender that begins knows of no older lease: it raises nobody before every worker
  has told it his share, or `lease_s` has passed.
"""

from __future__ import annotations

import math
from typing import Generic, NamedTuple, TypeVar

ValueT = TypeVar("ValueT")


class Held(NamedTuple, Generic[ValueT]):
    """until, again_at: monotonic seconds."""

    value: ValueT
    until: float
    again_at: float


class Borrowed(Generic[ValueT]):
    """lease_s: how long a value is served after its maker was last heard of, where the value itself lasts longer."""

    def __init__(self, *, lease_s: float, retry_s: float) -> None:
        self._lease_s = lease_s
        self._retry_s = retry_s
        self._held: Held[ValueT] | None = None
        self._asked_at = -math.inf

    def value(self, now: float) -> ValueT | None:
        """What is in force; None when there is nothing, or nothing any more."""
        held = self._held
        return held.value if held is not None and now < held.until else None

    def should_ask(self, now: float) -> bool:
        """True when its maker is to be asked; the caller asks, and says so with `on_asked`."""
        if now < self._asked_at + self._retry_s:
            return False
        return self._held is None or now >= self._held.again_at

    def next_deadline(self) -> float:
        """When `should_ask` may turn true."""
        at = -math.inf if self._held is None else self._held.again_at
        return max(at, self._asked_at + self._retry_s)

    def on_asked(self, now: float) -> None:
        self._asked_at = now

    def on_value(self, value: ValueT, lasts_s: float, now: float) -> None:
        """The maker's answer: the value lasts so long from now. It is asked for again after half a lease, or half its
        life."""
        serves_s = max(0.0, lasts_s)
        self._held = Held(value, now + serves_s, now + min(serves_s, self._lease_s) / 2)
        self._asked_at = -math.inf

    def drop(self) -> None:
        """The value is of no use any more."""
        self._held = None


class Grant(NamedTuple):
    """rate_per_s for so long; afterwards the fair share again."""

    rate_per_s: float
    for_s: float


class Share(NamedTuple):
    """A share as its worker knows it; for_s: how long it is sure to stay that low, or that high at most."""

    rate_per_s: float
    for_s: float


class _Lent(NamedTuple):
    rate_per_s: float
    until: float


#: Of the fair share, what a worker keeps however little it wants: the first rows of a busy time need no word.
_LEAST = 0.25
#: How much longer a lowered share is kept than its worker says: more than a question is under way.
_MARGIN_S = 1.0


class RateLender:
    """One (app, vendor)'s rate among `workers` workers. Lives in the worker that owns its name."""

    def __init__(self, rate_per_s: float, workers: int, *, lease_s: float, now: float) -> None:
        self.rate_per_s = rate_per_s
        self.fair = rate_per_s / workers
        self._lease_s = lease_s
        self._raises_from = now + lease_s
        #: By worker: the share that it said it has, and the one that it was answered; it has one or the other.
        self._said: dict[int, _Lent] = {}
        self._answered: dict[int, _Lent] = {}
        self._wanted: dict[int, float] = {}
        self._workers = range(workers)

    def on_ask(self, worker: int, wanted_per_s: float, share: Share, now: float) -> Grant:
        """What this worker may send. wanted_per_s: what it had for sending of late."""
        self._wanted[worker] = wanted_per_s
        self._said[worker] = _Lent(share.rate_per_s, now + share.for_s)
        if now < self._raises_from and len(self._said) < len(self._workers):
            rate, until = min(share.rate_per_s, self.fair), now + self._lease_s
        else:
            spare, holds_until = self._spare(worker, now)
            rate = min(self._target(worker), spare)
            until = holds_until if rate > self.fair else now + self._lease_s
        self._answered[worker] = _Lent(rate, until)
        return Grant(rate, until - now)

    def _spare(self, worker: int, now: float) -> tuple[float, float]:
        """What is left for this worker when all others have what they may have, and until when that holds."""
        holds_until, taken = now + self._lease_s, 0.0
        for other in self._workers:
            if other != worker:
                rate, until = self._most(other, now)
                taken += rate
                holds_until = min(holds_until, until)
        return max(0.0, self.rate_per_s - taken), holds_until

    def _most(self, worker: int, now: float) -> _Lent:
        """What this worker may be sending at most, and until when that is so."""
        ever = _Lent(self.fair, math.inf)
        said, answered = (
            lent if lent is not None and lent.until > now else ever
            for lent in (self._said.get(worker), self._answered.get(worker))
        )
        rate = max(said.rate_per_s, answered.rate_per_s)
        # A raised share falls back to the fair one, which is less.
        return _Lent(rate, min(said.until, answered.until)) if rate < self.fair else _Lent(rate, math.inf)

    def _target(self, worker: int) -> float:
        """This worker's part of the whole: nobody gets more than he wants while another has less than an equal part."""
        least = self.fair * _LEAST
        wants = {other: max(least, self._wanted.get(other, self.fair)) for other in self._workers}
        left, open_ = self.rate_per_s, sorted(wants, key=wants.__getitem__)
        parts: dict[int, float] = {}
        while open_:
            other = open_.pop(0)
            parts[other] = min(wants[other], left / (len(open_) + 1))
            left -= parts[other]
        return parts[worker] + max(0.0, left) / len(wants)

    def on_died(self, worker: int) -> None:
        """That worker begins anew. What others live on stays lent until its lease has ended."""
        self._wanted.pop(worker, None)


class RateShare:
    """One worker's share, as it has been granted."""

    def __init__(self, rate_per_s: float, workers: int, *, lease_s: float, now: float) -> None:
        self.fair = rate_per_s / workers
        self._rate = self.fair * _LEAST
        self._until = now + lease_s + _MARGIN_S

    def rate_per_s(self, now: float) -> float:
        return self._rate if now < self._until else self.fair

    def share(self, now: float) -> Share:
        """What the lender is told with the next question."""
        if now >= self._until:
            return Share(self.fair, math.inf)
        margin_s = _MARGIN_S if self._rate < self.fair else 0.0
        return Share(self._rate, max(0.0, self._until - margin_s - now))

    def on_grant(self, grant: Grant, *, asked_at: float, now: float) -> None:
        self._rate = grant.rate_per_s
        is_raised = grant.rate_per_s > self.fair
        self._until = asked_at + grant.for_s if is_raised else now + grant.for_s + _MARGIN_S

    def next_deadline(self) -> float:
        """When the share becomes the fair one by itself."""
        return self._until
