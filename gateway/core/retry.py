"""RetryPolicy: what becomes of a row after a verdict, and not before when it may be tried again.

One literal table says per verdict whether it ends the row, how long a retry waits and what bounds the attempts; the
settings say the figures. Nothing here knows a vendor: a lane makes one policy from its vendor's settings.

Sources of the defaults (facts of the vendors' own pages): FCM wants at least 10 s before the first retry of a 500 and
60 s after a 429 without Retry-After; Apple wants 5xx retried after up to 15 minutes; APNs and Huawei name no
Retry-After. Waits get jitter upwards only, since Retry-After and those figures are minima.

A retry that would fall behind the row's deadline is no retry: the row waits until its deadline and ends expired, so
that its end is the same whatever the backoff was.
"""

from __future__ import annotations

import enum
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.columns import I64, U8, Bool
from gateway.verdict import Verdict

#: `previous` of a row that was not tried before.
NO_VERDICT = 255

_DAY_MS = 86_400_000
#: Longer waits than this (a thousand years) would overflow nothing yet, and mean never.
_WAIT_S_MAX = 3.2e10

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class Action(enum.IntEnum):
    """What to do with a row after one attempt."""

    #: The vendor took it.
    FINAL_ACCEPTED = 0
    #: A retry cannot help. Other channels may (strategy.py).
    FINAL_FAILED = 1
    #: A retry could help, but the attempts are used up.
    FINAL_EXHAUSTED = 2
    #: Nobody knows, and the row must not be sent twice.
    FINAL_UNCERTAIN = 3
    #: Try again, not before the given time.
    RETRY = 4
    #: Hold until the deadline, then end as expired: no retry fits before it.
    WAIT_EXPIRY = 5


class Wait(enum.IntEnum):
    """How long a retry waits. Where the verdict's rule allows it, a Retry-After takes the place of the backoff."""

    NONE = 0
    #: first_s * factor^(attempts - 1), at most cap_s.
    BACKOFF = 1
    #: throttle_s * factor^(attempts - 1), at most cap_s.
    THROTTLE = 2
    #: The vendor's next day.
    NEXT_DAY = 3
    #: credential_s, and only if the attempt before did not fail for the same reason.
    CREDENTIAL = 4


class Rule(NamedTuple):
    """One line of the table. action: RETRY or the final action. is_limited: attempts_max applies."""

    action: Action
    wait: Wait = Wait.NONE
    uses_retry_after: bool = False
    is_limited: bool = True


RULES: dict[Verdict, Rule] = {
    Verdict.ACCEPTED: Rule(Action.FINAL_ACCEPTED),
    Verdict.REJECTED: Rule(Action.FINAL_FAILED),
    Verdict.TOKEN_DEAD: Rule(Action.FINAL_FAILED),
    Verdict.TOKEN_MUTED: Rule(Action.FINAL_FAILED),
    Verdict.THROTTLED: Rule(Action.RETRY, Wait.THROTTLE, uses_retry_after=True),
    Verdict.QUOTA: Rule(Action.RETRY, Wait.NEXT_DAY, uses_retry_after=True),
    Verdict.CREDENTIAL: Rule(Action.RETRY, Wait.CREDENTIAL),
    # A vendor that is down took nothing: such rows wait for it until their TTL ends, however often they ask.
    Verdict.UNAVAILABLE: Rule(Action.RETRY, Wait.BACKOFF, uses_retry_after=True, is_limited=False),
    # If `resends_uncertain`, else FINAL_UNCERTAIN.
    Verdict.UNCERTAIN: Rule(Action.RETRY, Wait.BACKOFF),
}

_ACTIONS = np.array([RULES[verdict].action for verdict in Verdict], np.uint8)
_WAITS = np.array([RULES[verdict].wait for verdict in Verdict], np.uint8)
_USES_RETRY_AFTER = np.array([RULES[verdict].uses_retry_after for verdict in Verdict], np.bool_)
_IS_LIMITED = np.array([RULES[verdict].is_limited for verdict in Verdict], np.bool_)


class Decisions(NamedTuple):
    """actions: (n,) uint8 `Action`. not_before_unix_ms: (n,) int64; RETRY: when the row may go again; WAIT_EXPIRY: its
    deadline; final actions: now."""

    actions: U8
    not_before_unix_ms: I64


class RetryPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one lane. Frozen; a changed config makes a new one."""

    #: Attempts of one row that the vendor answered; 8 with backoff span about four minutes, a passing fault.
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=255)] = 8
    #: Seconds before the first retry: a restart of a vendor's front end takes about that long. FCM asks for 10.
    first_s: _Seconds = 2.0
    #: Each further wait is so many times longer; 2 is what every vendor's page shows.
    factor: Annotated[float, msgspec.Meta(ge=1, le=10)] = 2.0
    #: Seconds; no wait of a backoff grows beyond it: 15 minutes, Apple's advice for 5xx.
    cap_s: _Seconds = 900.0
    #: Share of a wait that is added at random, so that rows that failed together do not come back together.
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    #: Seconds after THROTTLED without Retry-After: FCM's rule, and nobody asks for more.
    throttle_s: _Seconds = 60.0
    #: Seconds; the shortest wait whatever a Retry-After says, so that a 0 does not spin.
    wait_s_min: _Seconds = 1.0
    #: Seconds to the one retry after a refreshable CREDENTIAL: the keeper fetches a new one meanwhile.
    credential_s: _Seconds = 1.0
    #: Offset of the vendor's day from UTC, seconds: Asia/Shanghai (no summer time since 1991).
    quota_day_offset_s: Annotated[int, msgspec.Meta(ge=-50_400, le=50_400)] = 28_800
    #: Seconds over which rows held for quota are spread after midnight, so that the new day is not spent in a burst.
    quota_spread_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 300.0
    #: UNCERTAIN rows go again (vendor dedupes or replaces, or a second copy is better than none) or end uncertain.
    resends_uncertain: bool = True

    def __post_init__(self) -> None:
        if self.first_s > self.cap_s or self.throttle_s > self.cap_s:
            raise ValueError(f"cap_s is {self.cap_s}, expected at least first_s {self.first_s}, throttle_s")

    def decide(
        self,
        verdicts: U8,
        attempts: U8,
        retry_after_s: npt.NDArray[np.float64],
        *,
        now_unix_ms: int,
        deadline_unix_ms: I64,
        random: npt.NDArray[np.float64],
        is_refreshable: Bool | None = None,
        previous: U8 | None = None,
    ) -> Decisions:
        """What becomes of n rows after one attempt each.

        verdicts: (n,) `Verdict`. attempts: (n,) made so far, this one included, at least 1. retry_after_s: (n,), nan
        where the vendor said nothing. random: (n,) in [0, 1). is_refreshable: (n,), of CREDENTIAL rows; none are when
        missing. previous: (n,) verdict of the attempt before, `NO_VERDICT` where there was none; none when missing.
        """
        n = len(verdicts)
        actions = _ACTIONS[verdicts]
        not_before = np.full(n, now_unix_ms, np.int64)
        if not self.resends_uncertain:
            actions[verdicts == Verdict.UNCERTAIN] = Action.FINAL_UNCERTAIN
        is_credential = verdicts == Verdict.CREDENTIAL
        if is_credential.any():
            may_retry = np.zeros(n, np.bool_) if is_refreshable is None else is_refreshable
            if previous is not None:
                may_retry = may_retry & (previous != Verdict.CREDENTIAL)
            actions[is_credential & ~may_retry] = Action.FINAL_FAILED
        actions[(actions == Action.RETRY) & _IS_LIMITED[verdicts] & (attempts >= self.attempts_max)] = (
            Action.FINAL_EXHAUSTED
        )
        retry = np.flatnonzero(actions == Action.RETRY)
        if len(retry):
            waits_ms = self._waits_ms(
                verdicts[retry], attempts[retry], retry_after_s[retry], now_unix_ms, random[retry]
            )
            deadlines = deadline_unix_ms[retry]
            times = now_unix_ms + waits_ms
            is_late = times >= deadlines
            # A deadline that has passed already is the sweeper's to find at once, never a time before now.
            not_before[retry] = np.where(is_late, np.maximum(deadlines, now_unix_ms), times)
            actions[retry[is_late]] = Action.WAIT_EXPIRY
        return Decisions(actions, not_before)

    def _waits_ms(
        self,
        verdicts: U8,
        attempts: U8,
        retry_after_s: npt.NDArray[np.float64],
        now_unix_ms: int,
        random: npt.NDArray[np.float64],
    ) -> I64:
        """(n,) ms until the retry of rows that will be retried; at least 1."""
        kinds = _WAITS[verdicts]
        first = np.where(kinds == Wait.THROTTLE, self.throttle_s, self.first_s)
        # factor^254 of the largest settings is 1e259: no overflow.
        backoff = np.minimum(first * self.factor ** (np.maximum(attempts, 1) - 1.0), self.cap_s)
        is_told = _USES_RETRY_AFTER[verdicts] & (retry_after_s >= 0)
        told = np.clip(np.where(is_told, retry_after_s, 0.0), self.wait_s_min, _WAIT_S_MAX)
        waits = np.where(is_told, told, backoff) * (1.0 + self.jitter * random)
        day_s = self.next_day_s(now_unix_ms) + self.quota_spread_s * random
        waits = np.where((kinds == Wait.NEXT_DAY) & ~is_told, day_s, waits)
        waits = np.where(kinds == Wait.CREDENTIAL, self.credential_s * (1.0 + self.jitter * random), waits)
        waits_ms: I64 = np.ceil(waits * 1000.0).astype(np.int64)
        return waits_ms

    def next_day_s(self, now_unix_ms: int) -> float:
        """Seconds until the vendor's next midnight, more than 0."""
        into_day_ms = (now_unix_ms + 1000 * self.quota_day_offset_s) % _DAY_MS
        return (_DAY_MS - into_day_ms) / 1000.0
