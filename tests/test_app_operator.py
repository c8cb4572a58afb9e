"""Facts of several workers as those of one gateway."""

from __future__ import annotations

from gateway.app_operator import merge_facts


def test_facts_of_workers_become_those_of_the_gateway() -> None:
    lane = {"app": "shop", "vendor": "apns", "class": "system", "rows": 3, "has_credential": True, "last_close": ""}
    first = {
        "node": 4,
        "is_ready": True,
        "now_unix_ms": 1000,
        "rows_open": {"queued": 1, "held": 0},
        "longest_step_ms": 2.5,
        "lanes": [lane],
    }
    second = {
        "node": 4,
        "is_ready": False,
        "now_unix_ms": 1001,
        "rows_open": {"queued": 2, "held": 5},
        "longest_step_ms": 1.5,
        "lanes": [lane | {"rows": 4, "has_credential": False, "last_close": "goaway"}, lane | {"class": "marketing"}],
    }
    assert merge_facts([first, second]) == {
        "node": 4,
        "is_ready": False,
        "now_unix_ms": 1001,
        "rows_open": {"queued": 3, "held": 5},
        "longest_step_ms": 2.5,
        "lanes": [lane | {"rows": 7, "has_credential": False, "last_close": "goaway"}, lane | {"class": "marketing"}],
    }


def test_facts_of_one_worker_stay_as_they_are_and_those_of_none_are_none() -> None:
    facts = {"node": 0, "lanes": [], "rows_open": {"queued": 1}}
    assert merge_facts([facts]) == facts
    assert merge_facts([]) == {}
