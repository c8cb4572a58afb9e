"""Leases: shares of a rate never add up to more than the rate, and a borrowed value serves while its maker is away."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.leases import Borrowed, RateLender, RateShare

LEASE_S = 10.0


def test_borrowed_value_is_asked_for_ahead_of_its_end_and_serves_until_then() -> None:
    borrowed: Borrowed[bytes] = Borrowed(lease_s=LEASE_S, retry_s=1.0)
    assert borrowed.value(0.0) is None
    assert borrowed.should_ask(0.0)
    borrowed.on_asked(0.0)
    assert not borrowed.should_ask(0.5)
    assert borrowed.should_ask(1.0)
    borrowed.on_value(b"token", 8.0, 1.0)
    assert not borrowed.should_ask(4.9)
    assert borrowed.should_ask(5.0)
    assert borrowed.value(8.9) == b"token"
    assert borrowed.value(9.0) is None


def test_borrowed_value_with_a_long_life_is_asked_for_once_per_half_lease() -> None:
    borrowed: Borrowed[bytes] = Borrowed(lease_s=LEASE_S, retry_s=1.0)
    borrowed.on_value(b"token", 3600.0, 0.0)
    assert borrowed.next_deadline() == LEASE_S / 2
    assert borrowed.value(3599.0) == b"token"
    borrowed.drop()
    assert borrowed.value(0.0) is None
    assert borrowed.should_ask(0.0)


def ask(lender: RateLender, shares: list[RateShare], worker: int, wanted: float, now: float) -> float:
    grant = lender.on_ask(worker, wanted, shares[worker].share(now), now)
    shares[worker].on_grant(grant, asked_at=now, now=now)
    return shares[worker].rate_per_s(now)


def make(workers: int, *, at: float = 0.0) -> tuple[RateLender, list[RateShare]]:
    lender = RateLender(1000.0, workers, lease_s=LEASE_S, now=at)
    return lender, [RateShare(1000.0, workers, lease_s=LEASE_S, now=at) for _ in range(workers)]


def test_rate_moves_to_the_worker_that_wants_it_and_back() -> None:
    lender, shares = make(2)
    now = 20.0
    for _ in range(3):
        ask(lender, shares, 1, 0.0, now)
        ask(lender, shares, 0, 5000.0, now)
    assert shares[0].rate_per_s(now) == pytest.approx(875.0)
    assert shares[1].rate_per_s(now) == pytest.approx(125.0)
    for _ in range(3):
        ask(lender, shares, 1, 5000.0, now + 1)
        ask(lender, shares, 0, 5000.0, now + 1)
    assert [share.rate_per_s(now + 1) for share in shares] == pytest.approx([500.0, 500.0])


def test_everybody_is_back_at_his_fair_share_when_the_lender_has_been_gone_for_a_lease() -> None:
    lender, shares = make(2)
    for _ in range(3):
        ask(lender, shares, 1, 0.0, 20.0)
        ask(lender, shares, 0, 5000.0, 20.0)
    assert shares[0].rate_per_s(20.0 + LEASE_S / 2) == pytest.approx(875.0)
    assert [share.rate_per_s(21.0 + LEASE_S) for share in shares] == [500.0, 500.0]


def test_new_lender_raises_nobody_before_older_leases_have_ended() -> None:
    lender, shares = make(2)
    for _ in range(3):
        ask(lender, shares, 1, 0.0, 20.0)
        ask(lender, shares, 0, 5000.0, 20.0)
    successor = RateLender(1000.0, 2, lease_s=LEASE_S, now=21.0)
    assert ask(successor, shares, 1, 5000.0, 21.0) <= 125.0
    assert ask(successor, shares, 0, 5000.0, 21.0) == 500.0


@given(st.integers(1, 6), st.data())
def test_shares_never_add_up_to_more_than_the_rate(workers: int, data: Any) -> None:
    """Whatever is asked when, whichever answers are lost or late, whoever begins a new life: worker or lender."""
    lender, shares = make(workers)
    now = 0.0
    on_the_way: list[tuple[float, int, int, Any, float]] = []
    lives = [0] * workers
    for step in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.sampled_from([0.0, 0.1, 1.0, LEASE_S / 3, LEASE_S]))
        for entry in sorted(on_the_way, key=lambda each: each[0]):
            due, worker, life, grant, asked_at = entry
            if due <= now:
                on_the_way.remove(entry)
                if lives[worker] == life:
                    shares[worker].on_grant(grant, asked_at=asked_at, now=due)
        worker = data.draw(st.integers(0, workers - 1))
        match data.draw(st.sampled_from(["ask", "ask", "ask", "ask", "lender dies", "worker dies"])):
            case "ask":
                if any(entry[1] == worker for entry in on_the_way):
                    continue
                wanted = data.draw(st.sampled_from([0.0, 50.0, 400.0, 1000.0, 1e6]))
                # The question may take its time; the lender decides when it has come.
                grant = lender.on_ask(worker, wanted, shares[worker].share(now), now)
                delay = data.draw(st.sampled_from([0.0, 0.2, 0.9, math.inf]))
                if delay < math.inf:
                    on_the_way.append((now + delay, worker, lives[worker], grant, now))
            case "lender dies":
                lender = RateLender(1000.0, workers, lease_s=LEASE_S, now=now)
            case "worker dies":
                lives[worker] = step + 1
                shares[worker] = RateShare(1000.0, workers, lease_s=LEASE_S, now=now)
                lender.on_died(worker)
        # Answers that are under way change nothing that has been promised, whether they come or not.
        for at in (now, now + 0.05, now + LEASE_S / 2, now + LEASE_S):
            assert sum(share.rate_per_s(at) for share in shares) <= 1000.0 * (1 + 1e-9)
