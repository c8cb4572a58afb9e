"""Signed requests: the documented formula, a window of time, once each, at the app's rate; and the plain twin."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.signed_requests import Proven, Refused, SignedRequests, SigningLimits, sign_request

SECRETS = {"shop": (b"new", b"old"), "news": (b"other",)}
NOW = 1_800_000_000


def requests(**limits: float) -> SignedRequests:
    return SignedRequests(SECRETS, SigningLimits(**limits))  # type: ignore[arg-type]


def check(
    desk: SignedRequests,
    body: bytes = b"{}",
    *,
    app: str = "shop",
    secret: bytes = b"new",
    at: int = NOW,
    now: float = 100.0,
    now_unix_s: float = NOW,
) -> Proven | Refused:
    signature = sign_request(secret, app, str(at), body)
    return desk.check(app, str(at), signature, body, now=now, now_unix_s=now_unix_s)


def code(found: Proven | Refused) -> str:
    return "" if isinstance(found, Proven) else found.code


def test_signature_follows_the_documented_formula() -> None:
    message = b"pushgw-http-1\nshop\n1800000000\n{}"
    assert sign_request(b"new", "shop", "1800000000", b"{}") == hmac.new(b"new", message, hashlib.sha256).hexdigest()


def test_signature_has_a_test_vector_for_other_languages() -> None:
    expected = "2439cb7a39e72187a853ff0000a7a297eaa7b53f780519c4277cbd3b51efb53d"
    assert sign_request(b"secret", "shop", "1800000000", b'{"platform":"android"}') == expected


def test_request_is_proven_by_any_secret_of_the_app_and_says_which() -> None:
    desk = requests()
    assert check(desk, secret=b"new") == Proven(0)
    assert check(desk, secret=b"old") == Proven(1)
    assert code(check(desk, secret=b"other")) == "bad_credentials"
    assert code(check(desk, app="nobody")) == "bad_credentials"


def test_request_of_one_app_is_not_another_apps() -> None:
    signature = sign_request(b"new", "shop", str(NOW), b"{}")
    found = requests().check("news", str(NOW), signature, b"{}", now=0.0, now_unix_s=NOW)
    assert code(found) == "bad_credentials"


def test_request_with_another_body_is_refused() -> None:
    signature = sign_request(b"new", "shop", str(NOW), b"{}")
    assert code(requests().check("shop", str(NOW), signature, b"{ }", now=0.0, now_unix_s=NOW)) == "bad_credentials"


@pytest.mark.parametrize(
    ("age_s", "expected"), [(300, ""), (301, "stale_timestamp"), (-300, ""), (-301, "stale_timestamp")]
)
def test_request_outside_the_window_is_refused_on_either_side(age_s: int, expected: str) -> None:
    found = check(requests(), at=NOW - age_s)
    assert code(found) == expected
    if isinstance(found, Refused):
        assert (found.field, found.value, found.limit) == ("Pushgw-Timestamp", age_s, 300)


def test_request_counts_once_as_long_as_its_timestamp_could_pass() -> None:
    desk = requests()
    ahead = NOW + 300
    assert code(check(desk, at=ahead)) == ""
    assert code(check(desk, at=ahead)) == "repeated"
    assert code(check(desk, at=ahead, now=700.0, now_unix_s=NOW + 600)) == "repeated"
    assert code(check(desk, at=ahead, now=701.0, now_unix_s=NOW + 601)) == "stale_timestamp"


def test_request_above_the_rate_waits_and_the_other_app_does_not() -> None:
    desk = requests(rate_per_s=2, burst=3)
    assert [code(check(desk, b"%d" % n)) for n in range(4)] == ["", "", "", "overloaded"]
    found = check(desk, b"4")
    assert isinstance(found, Refused)
    assert (found.field, found.limit, found.retry_after_s) == ("devices_per_s", 2, pytest.approx(0.5))
    assert code(check(desk, app="news", secret=b"other")) == ""
    assert code(check(desk, b"4", now=100.5)) == ""


def test_full_memory_of_signatures_refuses_rather_than_forgets() -> None:
    desk = requests(used_max=2)
    assert [code(check(desk, b"%d" % n)) for n in range(3)] == ["", "", "overloaded"]
    found = check(desk, b"3")
    assert isinstance(found, Refused)
    assert (found.field, found.value, found.limit) == ("signatures_max", 2, 2)
    assert code(check(desk, b"0")) == "repeated"
    assert code(check(desk, b"4", at=NOW + 601, now=701.0, now_unix_s=NOW + 601)) == ""


def test_who_does_not_know_the_secret_cannot_use_the_rate_up() -> None:
    desk = requests(rate_per_s=1, burst=1)
    for n in range(50):
        assert code(check(desk, b"%d" % n, secret=b"guess")) == "bad_credentials"
    assert code(check(desk)) == ""


@given(st.text(max_size=20), st.text(max_size=70))
def test_headers_of_any_text_are_refused_and_nothing_is_raised(timestamp: str, signature: str) -> None:
    assert code(requests().check("shop", timestamp, signature, b"", now=0.0, now_unix_s=NOW))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400)), max_size=60))
def test_replay_rule_agrees_with_a_list_of_everything_ever_taken(calls: list[tuple[int, int]]) -> None:
    desk, taken, clock = requests(age_s_max=300, rate_per_s=1000, burst=1000), set(), 0
    for body, later_s in calls:
        clock += later_s // 10
        at = NOW + (clock // 50) * 50
        key = (body, at)
        found = code(check(desk, b"%d" % body, at=at, now=clock, now_unix_s=NOW + clock))
        assert found == ("repeated" if key in taken else "")
        taken.add(key)
