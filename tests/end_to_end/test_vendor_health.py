"""Breaker and unregister guard against the simulators: what an operator would see on such a day."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio

from gateway.content import Variant

pytestmark = pytest.mark.timed

CONTENT = Variant("title", "body", strategy=2)
BREAKER = {"rows_min": 10, "open_s": 0.5, "open_s_max": 1.0}
#: Known to be dead since after the registration, or the gateway would rightly keep the token.
LATELY = {"dead_since_s": -86_400.0}
DOWN = {"kind": "errors", "mix": [{"share": 1.0, "status": 503, "reason": "ServiceUnavailable"}]}


def log_events(folder: Any, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "gateway.log").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


async def until(claim: Callable[[], Any], timeout_s: float = 60.0) -> None:
    with trio.fail_after(timeout_s):
        while not await claim():
            await trio.sleep(0.02)


async def test_a_vendor_that_fails_is_left_alone_until_it_is_well_and_its_neighbour_notices_nothing(
    open_gateway: Callable[..., Any], simulators: Any, folder: Any
) -> None:
    async with open_gateway(simulators.ready, breaker=BREAKER) as gateway:
        apns, fcm = await gateway.register(200), await gateway.register(50, "fcm", first=500)
        first = await gateway.client.submit(CONTENT, apns[:1])
        await gateway.until_final(first.task_id)
        simulators.fault("apns", **DOWN)
        answer = await gateway.client.submit(CONTENT, apns)

        async def is_open() -> bool:
            return bool((await gateway.metrics())["pushgw_breaker_state", "shop,apns"] == 2)

        await until(is_open)
        asked = simulators.call("GET", "/statistics")["apns"]["outcomes"].get("error_by_fault", 0)
        other = await gateway.client.submit(CONTENT, fcm)
        assert (await gateway.until_final(other.task_id)).states == {"vendor_accepted": 50}
        # nearly nobody asks: some hundreds of rows wait, and ten of them try each time
        await trio.sleep(2.0)
        later = simulators.call("GET", "/statistics")["apns"]["outcomes"]["error_by_fault"]
        assert later - asked <= 5 * 10
        assert (await gateway.metrics())["pushgw_breaker_state", "shop,fcm"] == 0
        simulators.call("DELETE", "/fault")
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 200}
        assert (await gateway.metrics())["pushgw_breaker_state", "shop,apns"] == 0
        assert set(simulators.copies("apns").values()) == {1}
    (line, *_) = log_events(folder, "breaker open")
    assert (line["app"], line["vendor"], line["cause"]) == ("shop", "apns", "failures")


async def test_a_wrong_key_opens_one_breaker_and_says_what_to_mend(
    open_gateway: Callable[..., Any], simulators: Any, folder: Any
) -> None:
    wrong = {**simulators.ready, "apns": {**simulators.ready["apns"], "key_id": "WRONGKEYID"}}
    async with open_gateway(wrong, breaker=BREAKER) as gateway:
        apns, fcm = await gateway.register(40), await gateway.register(20, "fcm", first=500)
        answer = await gateway.client.submit(Variant("t", "b", strategy=2, ttl_s=600), apns)
        other = await gateway.client.submit(CONTENT, fcm)
        assert (await gateway.until_final(other.task_id)).states == {"vendor_accepted": 20}

        async def is_open() -> bool:
            name = "pushgw_breaker_transitions_total"
            return bool((await gateway.metrics()).get((name, "shop,credential,open,apns"), 0) >= 1)

        await until(is_open)
        await trio.sleep(0.5)
        states = await gateway.states(answer.task_id)
        assert states["queued"] >= 30, "most rows are kept for the mended key"
        await gateway.operator.clock_advance(601)
        counts = await gateway.until_final(answer.task_id)
        assert set(counts.reasons) == {"credential_refused"}
        assert set(counts.states) == {"failed", "expired"}
    (line, *_) = log_events(folder, "breaker open")
    assert (line["app"], line["vendor"], line["cause"]) == ("shop", "apns", "credential")
    assert "key" in line["mend"]


async def test_a_misconfiguration_that_kills_every_token_costs_nearly_none_of_them(
    open_gateway: Callable[..., Any], simulators: Any, folder: Any
) -> None:
    """As if the app's tokens were of the sandbox: the vendor calls each of them bad."""
    guard = {"rows_min": 20}
    async with open_gateway(simulators.ready, unregister_guard=guard) as gateway:
        devices = await gateway.register(300)
        bad = [one.hex() * 2 for one in devices]
        simulators.call("PUT", "/tokens", {"simulator": "apns", "fate": "BadDeviceToken", "tokens": bad[::2]})
        simulators.call("PUT", "/tokens", {"simulator": "apns", "fate": "Unregistered", "tokens": bad[1::2]} | LATELY)
        answer = await gateway.client.submit(CONTENT, devices)
        counts = await gateway.until_final(answer.task_id, 40.0)
        assert counts.states == {"failed": 300}
        assert counts.reasons == {"token_dead": 300}
        metrics = await gateway.metrics()
        lost = int(metrics["pushgw_tokens_dead_total", "apns"])
        assert lost < 20
        assert metrics["pushgw_unregister_guard_holding", "shop,apns"] == 1
        assert metrics["pushgw_removals_held_back_total", "shop,held,apns"] == 300 - lost
        # mended: everybody who is still registered, and that is nearly everybody, gets the next message
        simulators.reset()
        again = await gateway.client.submit(CONTENT, devices)
        counts = await gateway.until_final(again.task_id, 40.0)
        assert counts.states == {"vendor_accepted": 300 - lost, "dropped": lost} if lost else {"vendor_accepted": 300}
        third = await gateway.client.submit(CONTENT, devices * 4, allow_duplicates=True)
        await gateway.until_final(third.task_id, 40.0)
        metrics = await gateway.metrics()
        assert metrics["pushgw_unregister_guard_holding", "shop,apns"] == 0
        assert metrics["pushgw_removals_held_back_total", "shop,rechecked,apns"] == 300 - lost
    (line,) = log_events(folder, "unregister guard holds")
    assert (line["app"], line["vendor"]) == ("shop", "apns")
    assert "topic" in line["mend"]


async def test_a_normal_mix_with_5_percent_dead_tokens_is_cleaned(
    open_gateway: Callable[..., Any], simulators: Any
) -> None:
    async with open_gateway(simulators.ready, unregister_guard={"rows_min": 20}) as gateway:
        devices = await gateway.register(200)
        dead = [one.hex() * 2 for one in devices[::20]]
        simulators.call("PUT", "/tokens", {"simulator": "apns", "fate": "Unregistered", "tokens": dead} | LATELY)
        answer = await gateway.client.submit(CONTENT, devices)
        counts = await gateway.until_final(answer.task_id, 40.0)
        assert counts.states == {"vendor_accepted": 190, "failed": 10}
        metrics = await gateway.metrics()
        assert metrics["pushgw_tokens_dead_total", "apns"] == 10
        assert metrics["pushgw_unregister_guard_holding", "shop,apns"] == 0
        again = await gateway.client.submit(CONTENT, devices)
        counts = await gateway.until_final(again.task_id, 40.0)
        assert counts.states == {"vendor_accepted": 190, "dropped": 10}


async def test_an_expired_provider_token_brings_a_new_token_on_a_new_connection(
    open_gateway: Callable[..., Any], simulators: Any
) -> None:
    expired = [{"share": 1.0, "status": 403, "reason": "ExpiredProviderToken"}]
    async with open_gateway(simulators.ready) as gateway:
        devices = await gateway.register(30)
        first = await gateway.client.submit(CONTENT, devices[:1])
        await gateway.until_final(first.task_id)
        before = simulators.call("GET", "/statistics")["apns"]["connections"]["handshakes_completed"]
        simulators.fault("apns", "errors", mix=expired, for_requests=1)
        answer = await gateway.client.submit(CONTENT, devices)
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 30}
        after = simulators.call("GET", "/statistics")["apns"]["connections"]["handshakes_completed"]
        assert after > before
        metrics = await gateway.metrics()
        assert metrics["pushgw_closes_total", "vendor,credential_replaced"] == 1
        assert metrics["pushgw_credential_refreshes_total", "apns"] == 2
        assert metrics["pushgw_breaker_state", "shop,apns"] == 0


async def test_a_token_endpoint_that_refuses_us_stops_that_vendor_only_until_it_gives_a_token(
    open_gateway: Callable[..., Any], simulators: Any, folder: Any
) -> None:
    simulators.fault("fcm", "errors", mix=[{"share": 1.0, "status": 503, "reason": "x"}], applies_to="oauth")
    credentials = {"retry_first_s": 0.2, "retry_cap_s": 0.4}
    async with open_gateway(simulators.ready, credentials=credentials) as gateway:
        apns, fcm = await gateway.register(20), await gateway.register(20, "fcm", first=500)
        answer = await gateway.client.submit(CONTENT, fcm)
        other = await gateway.client.submit(CONTENT, apns)
        assert (await gateway.until_final(other.task_id)).states == {"vendor_accepted": 20}

        async def is_open() -> bool:
            return bool((await gateway.metrics())["pushgw_breaker_state", "shop,fcm"] == 2)

        await until(is_open)
        assert (await gateway.states(answer.task_id)) == {"queued": 20}
        metrics = await gateway.metrics()
        assert metrics["pushgw_credential_failures_total", "shop,fcm"] >= 1
        assert metrics["pushgw_breaker_state", "shop,apns"] == 0
        simulators.call("DELETE", "/fault")
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 20}
    (line, *_) = log_events(folder, "credential not available")
    assert (line["app"], line["vendor"]) == ("shop", "fcm")
    assert line["mend"]
