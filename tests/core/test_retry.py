"""RetryPolicy against a plain version of one row, and the rules of the vendors' pages."""

from __future__ import annotations

import datetime as dt
import math
import zoneinfo

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given

from gateway.core.retry import NO_VERDICT, RULES, Action, RetryPolicy
from gateway.verdict import Verdict

NOW_MS = 1_760_000_000_000
FAR_MS = NOW_MS + 40 * 86_400_000


def plain_decide(policy, verdict, attempts, retry_after, now_ms, deadline_ms, random, is_refreshable, previous):
    """One row at a time, in the words of the table."""
    match verdict:
        case Verdict.ACCEPTED:
            return Action.FINAL_ACCEPTED, now_ms
        case Verdict.REJECTED | Verdict.TOKEN_DEAD | Verdict.TOKEN_MUTED:
            return Action.FINAL_FAILED, now_ms
        case Verdict.CREDENTIAL if not is_refreshable or previous == Verdict.CREDENTIAL:
            return Action.FINAL_FAILED, now_ms
        case Verdict.UNCERTAIN if not policy.resends_uncertain:
            return Action.FINAL_UNCERTAIN, now_ms
    if verdict is not Verdict.UNAVAILABLE and attempts >= policy.attempts_max:
        return Action.FINAL_EXHAUSTED, now_ms
    spread = 1 + policy.jitter * random
    is_told = retry_after >= 0 and verdict in (Verdict.THROTTLED, Verdict.QUOTA, Verdict.UNAVAILABLE)
    if is_told:
        wait_s = min(max(retry_after, policy.wait_s_min), 3.2e10) * spread
    elif verdict is Verdict.QUOTA:
        day_ms = 86_400_000
        into_day_ms = (now_ms + policy.quota_day_offset_s * 1000) % day_ms
        wait_s = (day_ms - into_day_ms) / 1000 + policy.quota_spread_s * random
    elif verdict is Verdict.CREDENTIAL:
        wait_s = policy.credential_s * spread
    else:
        first = policy.throttle_s if verdict is Verdict.THROTTLED else policy.first_s
        wait_s = min(first * policy.factor ** float(attempts - 1), policy.cap_s) * spread
    time_ms = now_ms + math.ceil(wait_s * 1000)
    if time_ms >= deadline_ms:
        return Action.WAIT_EXPIRY, max(deadline_ms, now_ms)
    return Action.RETRY, time_ms


policies = st.builds(
    RetryPolicy,
    attempts_max=st.integers(1, 255),
    first_s=st.floats(0.1, 60),
    factor=st.floats(1, 10),
    cap_s=st.floats(60, 3600),
    jitter=st.floats(0, 1),
    throttle_s=st.floats(0.1, 60),
    wait_s_min=st.floats(0.1, 5),
    quota_spread_s=st.floats(0, 600),
    quota_day_offset_s=st.integers(-50_400, 50_400),
    resends_uncertain=st.booleans(),
)
rows = st.tuples(
    st.sampled_from(Verdict),
    st.integers(1, 255),
    st.one_of(st.just(math.nan), st.sampled_from([0.0, -1.0, math.inf, 1e300]), st.floats(0, 1e6)),
    st.integers(-1000, 40 * 86_400_000).map(lambda ms: NOW_MS + ms),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
    st.sampled_from([NO_VERDICT, *Verdict]),
)


@given(policies, st.lists(rows, max_size=30), st.integers(0, 86_400_000))
def test_decide_agrees_with_one_row_at_a_time(policy, cases, into_day_ms):
    now_ms = NOW_MS + into_day_ms
    columns = list(zip(*cases, strict=True)) if cases else [[]] * 7
    decisions = policy.decide(
        np.array(columns[0], np.uint8),
        np.array(columns[1], np.uint8),
        np.array(columns[2], np.float64),
        now_unix_ms=now_ms,
        deadline_unix_ms=np.array(columns[3], np.int64),
        random=np.array(columns[4], np.float64),
        is_refreshable=np.array(columns[5], np.bool_),
        previous=np.array(columns[6], np.uint8),
    )
    expected = [
        plain_decide(policy, verdict, attempts, retry_after, now_ms, deadline, *rest)
        for verdict, attempts, retry_after, deadline, *rest in cases
    ]
    assert [Action(action) for action in decisions.actions] == [action for action, _ in expected]
    # numpy and Python may round a power differently in the last bit: one millisecond.
    for got, (_, wanted) in zip(decisions.not_before_unix_ms.tolist(), expected, strict=True):
        assert abs(got - wanted) <= 1


@given(policies, st.lists(rows, min_size=1, max_size=20))
def test_no_row_waits_beyond_its_deadline_or_goes_before_now(policy, cases):
    columns = list(zip(*cases, strict=True))
    deadlines = np.array(columns[3], np.int64)
    decisions = policy.decide(
        np.array(columns[0], np.uint8),
        np.array(columns[1], np.uint8),
        np.array(columns[2], np.float64),
        now_unix_ms=NOW_MS,
        deadline_unix_ms=deadlines,
        random=np.array(columns[4], np.float64),
    )
    times, actions = decisions.not_before_unix_ms, decisions.actions
    assert (times >= NOW_MS).all()
    is_retry = actions == Action.RETRY
    assert (times[is_retry] > NOW_MS).all()
    assert (times[is_retry] < deadlines[is_retry]).all()
    is_waiting = actions == Action.WAIT_EXPIRY
    assert (times[is_waiting] == np.maximum(deadlines[is_waiting], NOW_MS)).all()


def decide_one(
    policy, verdict, *, attempts=1, retry_after=math.nan, now_ms=NOW_MS, deadline_ms=FAR_MS, random=0.0, **more
):
    decisions = policy.decide(
        np.array([verdict], np.uint8),
        np.array([attempts], np.uint8),
        np.array([retry_after]),
        now_unix_ms=now_ms,
        deadline_unix_ms=np.array([deadline_ms]),
        random=np.array([random]),
        **{name: np.array([value]) for name, value in more.items()},
    )
    return Action(decisions.actions[0]), (int(decisions.not_before_unix_ms[0]) - now_ms) / 1000


def test_the_table_has_a_line_for_every_verdict():
    assert list(RULES) == list(Verdict)


def test_throttled_waits_a_minute_or_as_long_as_the_vendor_says():
    policy = RetryPolicy()
    assert decide_one(policy, Verdict.THROTTLED) == (Action.RETRY, 60)
    assert decide_one(policy, Verdict.THROTTLED, retry_after=7) == (Action.RETRY, 7)
    # Jitter only adds: both figures are minima.
    assert decide_one(policy, Verdict.THROTTLED, random=0.9)[1] > 60
    assert decide_one(policy, Verdict.THROTTLED, retry_after=7, random=0.9)[1] > 7


def test_unavailable_waits_seconds_first_then_up_to_fifteen_minutes_and_never_gives_up():
    waits = [decide_one(RetryPolicy(), Verdict.UNAVAILABLE, attempts=n)[1] for n in range(1, 256)]
    assert waits[:4] == [2, 4, 8, 16]
    assert waits[-1] == max(waits) == 900
    assert decide_one(RetryPolicy(), Verdict.UNAVAILABLE, attempts=255)[0] is Action.RETRY


def test_a_vendor_that_is_down_ends_rows_as_expired():
    assert decide_one(RetryPolicy(), Verdict.UNAVAILABLE, attempts=12, deadline_ms=NOW_MS + 60_000) == (
        Action.WAIT_EXPIRY,
        60,
    )


def test_a_retry_at_the_very_deadline_is_none():
    assert decide_one(RetryPolicy(), Verdict.THROTTLED, deadline_ms=NOW_MS + 60_000)[0] is Action.WAIT_EXPIRY
    assert decide_one(RetryPolicy(), Verdict.THROTTLED, deadline_ms=NOW_MS + 60_001)[0] is Action.RETRY


def test_a_row_of_ttl_zero_has_one_attempt():
    assert decide_one(RetryPolicy(), Verdict.UNAVAILABLE, deadline_ms=NOW_MS - 5) == (Action.WAIT_EXPIRY, 0)


def test_quota_waits_for_the_next_day_in_shanghai():
    shanghai = zoneinfo.ZoneInfo("Asia/Shanghai")
    for text in ("2026-02-28T15:59:59", "2026-02-28T16:00:00", "2026-07-01T03:00:00"):
        now = dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
        there = now.astimezone(shanghai)
        midnight = there.replace(hour=0, minute=0, second=0) + dt.timedelta(days=1)
        now_ms = int(now.timestamp()) * 1000
        expected = (midnight - there).total_seconds()
        assert decide_one(RetryPolicy(), Verdict.QUOTA, now_ms=now_ms, deadline_ms=now_ms + 10**9) == (
            Action.RETRY,
            expected,
        )


def test_a_refreshable_credential_is_tried_once_more_and_soon():
    policy = RetryPolicy()
    assert decide_one(policy, Verdict.CREDENTIAL)[0] is Action.FINAL_FAILED
    assert decide_one(policy, Verdict.CREDENTIAL, is_refreshable=True) == (Action.RETRY, 1)
    again = {"is_refreshable": True, "previous": int(Verdict.CREDENTIAL)}
    assert decide_one(policy, Verdict.CREDENTIAL, attempts=2, **again)[0] is Action.FINAL_FAILED
    other = {"is_refreshable": True, "previous": int(Verdict.THROTTLED)}
    assert decide_one(policy, Verdict.CREDENTIAL, attempts=2, **other)[0] is Action.RETRY


def test_uncertain_rows_go_again_or_end_by_the_setting():
    assert decide_one(RetryPolicy(), Verdict.UNCERTAIN)[0] is Action.RETRY
    assert decide_one(RetryPolicy(resends_uncertain=False), Verdict.UNCERTAIN) == (Action.FINAL_UNCERTAIN, 0)


def test_a_retry_after_of_zero_does_not_spin():
    assert decide_one(RetryPolicy(), Verdict.UNAVAILABLE, retry_after=0) == (Action.RETRY, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"attempts_max": 0},
        {"factor": 0.5},
        {"jitter": 1.5},
        {"first_s": 0},
        {"first_s": 1000.0},
        {"cap_s": 30.0},
        {"unheard_of": 1},
    ],
)
def test_senseless_settings_are_refused(settings):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, RetryPolicy)
