"""Settle: every row of a burst stands in exactly one column, as asking the policy row by row says."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gateway.batch import Batch
from gateway.content import Variant
from gateway.core.lifetimes import row_deadlines
from gateway.core.retry import NO_VERDICT, Action, RetryPolicy
from gateway.core.settle import REASON_OF, Settlement, Verdicts, settle
from gateway.ledger import LedgerPage, Reason, State
from gateway.message_id import BatchAddress
from gateway.verdict import Verdict

BORN = 1000.0
POLICY = RetryPolicy(attempts_max=3, resends_uncertain=False)
VARIANTS = [Variant("t", "b", ttl_s=ttl) for ttl in (0, 30, 7200)]


def page_of(index: list[int]) -> LedgerPage:
    n = len(index)
    ids = np.zeros((n, 16), np.uint8)
    batch = Batch(
        BatchAddress(1_700_000_000_000, 0, 0),
        0,
        BORN,
        n,
        device_ids=ids,
        message_ids=ids,
        variants=VARIANTS,
        variant_index=np.array(index, np.uint16),
    )
    return LedgerPage(batch)


def verdicts_of(
    rows: list[int],
    verdicts: list[Verdict],
    retry_after: list[float],
    fresh: list[bool],
    reasons: list[Reason] | None = None,
) -> Verdicts:
    return Verdicts(
        np.array(rows, np.int64),
        np.array(verdicts, np.uint8),
        np.array(retry_after, np.float64),
        np.array(fresh),
        np.array(reasons or [Reason.NONE] * len(rows), np.uint8),
    )


def columns(found: Settlement) -> dict[int, tuple]:
    """Row -> (what, reason, not before); fails for a row in two columns."""
    out: list[tuple[int, tuple]] = []
    out += [(row, ("accepted", 0, None)) for row in found.accepted.tolist()]
    failed = zip(found.failed.tolist(), found.failed_reasons.tolist(), strict=True)
    out += [(row, ("failed", reason, None)) for row, reason in failed]
    out += [(row, ("uncertain", 0, None)) for row in found.uncertain.tolist()]
    retried = zip(found.retried.tolist(), found.retried_reasons.tolist(), found.not_before.tolist(), strict=True)
    out += [(row, ("retried", reason, at)) for row, reason, at in retried]
    expiring = zip(found.expiring.tolist(), found.expiring_reasons.tolist(), strict=True)
    out += [(row, ("expiring", reason, None)) for row, reason in expiring]
    assert len(out) == len(dict(out))
    return dict(out)


answers = st.tuples(
    st.sampled_from(list(Verdict)),
    st.sampled_from([math.nan, 0.0, 5.0, 1e9]),
    st.booleans(),
    st.integers(1, 4),
    st.sampled_from([Reason.NONE, Reason.CREDENTIAL_REFUSED, Reason.RETRY]),
    st.floats(0, 0.999),
    st.integers(0, 2),
    st.sampled_from([Reason.NONE, Reason.SENSITIVE_CONTENT, Reason.NO_PERMISSION]),
)
WORDS = {
    Action.FINAL_ACCEPTED: "accepted",
    Action.FINAL_FAILED: "failed",
    Action.FINAL_EXHAUSTED: "failed",
    Action.FINAL_UNCERTAIN: "uncertain",
    Action.RETRY: "retried",
    Action.WAIT_EXPIRY: "expiring",
}


@given(st.lists(answers, min_size=1, max_size=12), st.sampled_from([0.0, 1.25, 29.5, 100.0]), st.booleans(), st.data())
def test_settle_agrees_with_asking_the_policy_row_by_row(
    made: list[tuple], age_s: float, resends: bool, data: st.DataObject
) -> None:
    policy = RetryPolicy(attempts_max=3, resends_uncertain=resends)
    page = page_of([answer[6] for answer in made])
    rows = data.draw(st.permutations(range(len(made))))
    page.attempts[:] = [answer[3] for answer in made]
    page.reason[:] = [answer[4] for answer in made]
    verdicts, after, fresh, told = ([made[row][at] for row in rows] for at in (0, 1, 2, 7))
    random = np.array([made[row][5] for row in rows])
    now = BORN + age_s
    found = columns(settle(page, verdicts_of(rows, verdicts, after, fresh, told), policy, now=now, random=random))
    assert sorted(found) == sorted(rows)

    now_unix_ms = page.batch.born_unix_ms + int(age_s * 1000)
    for place, row in enumerate(rows):
        verdict, retry_after, is_refreshable, attempts, reason, _, _, more = made[row]
        deadline_s = float(row_deadlines(page.batch, np.array([row]))[0]) - BORN
        refused = reason is Reason.CREDENTIAL_REFUSED
        one = policy.decide(
            np.array([verdict], np.uint8),
            np.array([attempts], np.uint8),
            np.array([retry_after]),
            now_unix_ms=now_unix_ms,
            deadline_unix_ms=np.array([page.batch.born_unix_ms + int(deadline_s * 1000)]),
            random=random[place : place + 1],
            is_refreshable=np.array([is_refreshable]),
            previous=np.array([Verdict.CREDENTIAL if refused else NO_VERDICT], np.uint8),
        )
        action = Action(int(one.actions[0]))
        what, why, not_before = found[row]
        assert what == WORDS[action]
        if what in ("failed", "retried", "expiring"):
            # What the vendor said beyond its verdict explains an end, never a wait.
            expected = more if more and action is Action.FINAL_FAILED else REASON_OF[verdict]
            assert why == (Reason.ATTEMPTS_USED_UP if action is Action.FINAL_EXHAUSTED else expected)
        if what == "retried":
            assert not_before == pytest.approx(now + (int(one.not_before_unix_ms[0]) - now_unix_ms) / 1000)
            assert now < not_before < BORN + deadline_s


def test_a_burst_of_acceptances_is_accepted_whole() -> None:
    page = page_of([1, 1, 1])
    rows = [2, 0, 1]
    answers = verdicts_of(rows, [Verdict.ACCEPTED] * 3, [math.nan] * 3, [False] * 3)
    found = settle(page, answers, POLICY, now=BORN, random=np.zeros(3))
    assert found.accepted.tolist() == rows
    assert columns(found) == dict.fromkeys(rows, ("accepted", 0, None))


def test_settling_moves_nothing() -> None:
    page = page_of([1, 1])
    page.move(np.array([0, 1]), State.IN_FLIGHT)
    before = page.counts.tolist()
    answers = verdicts_of([0, 1], [Verdict.REJECTED, Verdict.UNAVAILABLE], [math.nan] * 2, [False] * 2)
    settle(page, answers, POLICY, now=BORN, random=np.zeros(2))
    assert page.counts.tolist() == before


def test_every_verdict_has_a_reason_of_its_own() -> None:
    assert set(REASON_OF) == set(Verdict)
    assert len(set(REASON_OF.values())) == len(Verdict)
    assert REASON_OF[Verdict.ACCEPTED] is Reason.NONE


def test_a_credential_is_retried_once_and_then_fails() -> None:
    page = page_of([2])
    page.attempts[:] = 1
    answers = verdicts_of([0], [Verdict.CREDENTIAL], [math.nan], [True])
    first = settle(page, answers, POLICY, now=BORN, random=np.zeros(1))
    assert first.retried.tolist() == [0]
    page.reason[0] = first.retried_reasons[0]
    page.attempts[:] = 2
    second = settle(page, answers, POLICY, now=BORN + 2, random=np.zeros(1))
    assert (second.failed.tolist(), second.failed_reasons.tolist()) == ([0], [Reason.CREDENTIAL_REFUSED])


def test_a_retry_that_would_come_after_the_ttl_waits_for_its_end() -> None:
    page = page_of([1])
    page.attempts[:] = 1
    answers = verdicts_of([0], [Verdict.THROTTLED], [25.0], [False])
    early = settle(page, answers, POLICY, now=BORN + 1, random=np.zeros(1))
    assert early.retried.tolist() == [0]
    assert early.not_before.tolist() == pytest.approx([BORN + 26])
    late = settle(page, answers, POLICY, now=BORN + 10, random=np.zeros(1))
    assert (late.expiring.tolist(), late.expiring_reasons.tolist()) == ([0], [Reason.THROTTLED])
