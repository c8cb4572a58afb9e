"""What a keeper's words lead to: one breaker opens or is tried again, the metric counts, the log names app and mend."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import trio

from gateway.actors.credential_words import CredentialWords
from gateway.actors.credentials import CredentialEvent
from gateway.actors.vendor_breaker import VendorBreaker
from gateway.clock import SystemClock
from gateway.core.breaker import BreakerCause, BreakerSettings, BreakerState, Outcomes
from gateway.ledger import Channel
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.observe.vendor_health import BreakerCounts


class Site:
    """Two apps at FCM, each with its credential and its breaker."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.lines = io.StringIO()
        self.rings = 0
        self.breakers: dict[str, VendorBreaker] = {}
        self.words: dict[str, CredentialWords] = {}
        for app in ("shop", "news"):
            log = Log(stream=self.lines).bind(app=app, vendor="fcm")
            counts = BreakerCounts(self.metrics, log, app, Channel.FCM)
            breaker = VendorBreaker(BreakerSettings(), clock=SystemClock(), observer=counts)
            breaker.connect(ring=self.ring, in_flight=lambda: 0)
            self.breakers[app] = breaker
            self.words[app] = CredentialWords(self.metrics, log, app, Channel.FCM, breaker)

    def ring(self) -> None:
        self.rings += 1

    def tell(self, kind: str, **fields: Any) -> None:
        self.words["shop"](CredentialEvent("shop/fcm", kind, **fields))

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.lines.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    def states(self) -> tuple[BreakerState, BreakerState]:
        return self.breakers["shop"].state, self.breakers["news"].state


@pytest.mark.parametrize(("is_final", "mend"), [(True, "vendor section"), (False, "tried again")])
async def test_without_a_credential_only_that_app_s_breaker_opens(is_final: bool, mend: str) -> None:
    site = Site()
    site.tell("failed", name="invalid_grant", retry_in_s=60.0, is_final=is_final)
    assert site.states() == (BreakerState.OPEN, BreakerState.CLOSED)
    failures = site.metrics.credential_failures
    assert (failures.value("shop", Channel.FCM), failures.value("news", Channel.FCM)) == (1, 0)
    (line,) = site.logged("credential not available")
    assert (line["app"], line["vendor"], line["name"]) == ("shop", "fcm", "invalid_grant")
    assert mend in line["mend"]
    (line,) = site.logged("breaker open")
    assert (line["app"], line["cause"]) == ("shop", "credential")


async def test_while_the_old_credential_is_in_force_a_failed_refresh_stops_nobody() -> None:
    site = Site()
    site.tell("failed", name="http_503", retry_in_s=1.0, is_one_in_force=True)
    assert site.states() == (BreakerState.CLOSED, BreakerState.CLOSED)
    assert site.metrics.credential_failures.value("shop", Channel.FCM) == 1


async def test_a_new_credential_is_tried_at_once() -> None:
    site = Site()
    site.tell("failed", name="http_503", retry_in_s=1.0)
    rings = site.rings
    site.tell("issued")
    assert site.breakers["shop"].state is BreakerState.HALF_OPEN
    assert site.rings > rings, "lanes and pool look again"
    assert site.breakers["shop"].room(100) == 1
    site.breakers["shop"].sent(1)
    site.breakers["shop"].ended(Outcomes(answered=1))
    assert site.breakers["shop"].state is BreakerState.CLOSED


async def test_a_refusal_is_no_trouble_until_the_new_credential_is_refused_as_well() -> None:
    site = Site()
    site.tell("refused")
    site.tell("issued")
    assert site.states() == (BreakerState.CLOSED, BreakerState.CLOSED)
    site.tell("refused_again")
    assert site.states() == (BreakerState.OPEN, BreakerState.CLOSED)
    (line,) = site.logged("credential refused again")
    assert (line["app"], line["vendor"]) == ("shop", "fcm")
    assert "vendor section" in line["mend"]


async def test_the_first_credential_rings_lanes_that_wait_for_it() -> None:
    site = Site()
    site.tell("issued")
    assert site.rings == 1
    assert site.metrics.credential_refreshes.value(Channel.FCM) == 1


async def test_an_opening_for_want_of_a_credential_is_not_ended_by_its_time_alone() -> None:
    """A failure every minute: each finds it half open at most and opens it again."""
    site = Site()
    for _ in range(3):
        site.tell("failed", name="invalid_grant", is_final=True)
        assert site.breakers["shop"].state is BreakerState.OPEN
        assert site.breakers["shop"].next_deadline() - trio.current_time() > 59
    assert site.breakers["shop"]._machine.cause is BreakerCause.CREDENTIAL
