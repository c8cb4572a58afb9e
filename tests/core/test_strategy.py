"""The routes against rules written as sentences; every combination there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gateway.core.strategy import (
    STRATEGIES,
    Route,
    after_long_link_failure,
    after_vendor_failure,
    decide,
    strategy_table,
)

BOTH = (False, True)


def plain_decide(strategy, is_known, is_online, has_token, ttl_zero):
    if not is_known:
        return Route.DROP_UNKNOWN
    ways = {
        1: [(is_online, Route.LONG_LINK), (has_token, Route.VENDOR)],
        2: [(has_token, Route.VENDOR)],
        3: [(is_online, Route.LONG_LINK)],
        4: [(has_token, Route.VENDOR), (is_online, Route.LONG_LINK)],
    }[strategy]
    for is_open, route in ways:
        if is_open:
            return route
    if strategy == 2:
        return Route.DROP_NO_CHANNEL
    return Route.DROP_OFFLINE if ttl_zero else Route.INBOX


def plain_after_vendor(strategy, is_online, ttl_zero):
    if strategy != 4:
        return Route.FAIL
    if is_online:
        return Route.LONG_LINK
    return Route.FAIL if ttl_zero else Route.INBOX


def plain_after_long_link(strategy, has_token, ttl_zero):
    if strategy in (1, 2) and has_token:
        return Route.VENDOR
    if strategy == 2:
        return Route.FAIL
    return Route.EXPIRE if ttl_zero else Route.INBOX


def columns(cases):
    strategy, *flags = zip(*cases, strict=True)
    return np.array(strategy, np.uint8), [np.array(flag, np.bool_) for flag in flags]


def test_decide_agrees_with_the_rules_in_every_case():
    cases = list(itertools.product(STRATEGIES, BOTH, BOTH, BOTH, BOTH))
    strategy, (known, online, token, zero) = columns(cases)
    routes = decide(strategy, is_known=known, is_online=online, has_token=token, ttl_zero=zero)
    assert routes.dtype == np.uint8
    assert [Route(route) for route in routes] == [plain_decide(*case) for case in cases]
    assert strategy.tolist() == [case[0] for case in cases]


def test_after_vendor_failure_agrees_with_the_rules_in_every_case():
    cases = list(itertools.product(STRATEGIES, BOTH, BOTH))
    strategy, (online, zero) = columns(cases)
    routes = after_vendor_failure(strategy, is_online=online, ttl_zero=zero)
    assert [Route(route) for route in routes] == [plain_after_vendor(*case) for case in cases]


def test_after_long_link_failure_agrees_with_the_rules_in_every_case():
    cases = list(itertools.product(STRATEGIES, BOTH, BOTH))
    strategy, (token, zero) = columns(cases)
    routes = after_long_link_failure(strategy, has_token=token, ttl_zero=zero)
    assert [Route(route) for route in routes] == [plain_after_long_link(*case) for case in cases]


def test_decide_of_no_rows_is_no_routes():
    none = np.zeros(0, np.bool_)
    routes = decide(np.zeros(0, np.uint8), is_known=none, is_online=none, has_token=none, ttl_zero=none)
    assert routes.shape == (0,)


def test_rows_with_ttl_zero_never_reach_the_inbox():
    for table in (plain_decide, plain_after_vendor, plain_after_long_link):
        n_flags = table.__code__.co_argcount - 2
        for case in itertools.product(STRATEGIES, *[BOTH] * n_flags):
            assert table(*case, True) is not Route.INBOX


CODES = {"long_link": 1, "apns": 2, "fcm": 3}


def test_strategy_table_of_one_strategy_is_the_same_everywhere():
    assert strategy_table(3, CODES).tolist() == [3] * 256


def test_strategy_table_overrides_by_channel_of_the_device():
    table = strategy_table({"default": 4, "apns": 2, "long_link": 3}, CODES)
    assert table[2] == 2
    # A device without a vendor channel has the long link alone.
    assert table[0] == 3
    assert table[1] == table[3] == table[255] == 4


def test_strategy_table_defaults_to_the_default_strategy():
    assert strategy_table({"fcm": 2}, CODES).tolist() == [1, 1, 1, 2] + [1] * 252


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (5, "strategy of default is 5, expected 1, 2, 3 or 4"),
        ({"apns": 0}, "strategy of apns is 0"),
        ({"apnz": 2}, "names channel apnz, expected one of default, apns, fcm, long_link"),
    ],
)
def test_strategy_table_refuses_with_a_text_that_mends_the_request(strategy, text):
    with pytest.raises(ValueError, match=text):
        strategy_table(strategy, CODES)
