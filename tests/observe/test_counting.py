"""Observers: what actors tell arrives in the metrics under the right labels, and log lines say what they must."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Submission
from gateway.content import Variant
from gateway.core.gather import Part, build_batch
from gateway.core.home import Home
from gateway.errors import CloseReason
from gateway.ledger import LEGAL_MOVES, Channel, Flag, LedgerPage, Reason, Receipt, State
from gateway.message_id import BatchAddress
from gateway.observe.counting import (
    BundleCounts,
    HomeCounts,
    IntakeCounts,
    LaneCounts,
    OwnerCounts,
    PoolCounts,
    RouterCounts,
    RpcCounts,
    ServiceCounts,
    SocketCounts,
    SupervisorCounts,
    UplinkCounts,
)
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.verdict import Verdict

SECRET = b"message id secret"


def make_home(metrics: Metrics) -> Home:
    return Home(
        secret=SECRET,
        journal=0,
        observer=HomeCounts(metrics),
        ledger_bytes_max=1 << 30,
        rows_open_max=1 << 20,
        change_rows_max=1 << 20,
        now=0.0,
    )


def open_page(home: Home, n: int, *, duplicates: Any = None) -> LedgerPage:
    submission = Submission(
        "", [Variant("t", "b")], n, None, np.zeros((n, 16), np.uint8), None, None, None, {}, duplicates, []
    )
    address: BatchAddress = home.next_address(1_800_000_000_000, 0.0)
    return home.open(build_batch(address, 0, 0.0, [Part(submission, None, 0)], [None], SECRET), 0.0)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_home_counts_moves_by_channel_and_reasons_by_name() -> None:
    metrics = Metrics()
    home = make_home(metrics)
    page = open_page(home, 6, duplicates=np.array([False] * 5 + [True]))
    page.channel[:5] = [Channel.APNS, Channel.APNS, Channel.FCM, Channel.LONG_LINK, Channel.FCM]
    home.move(page, np.arange(5), State.IN_FLIGHT, Reason.NONE, 1.0)
    home.move(page, np.array([0, 2]), State.VENDOR_ACCEPTED, Reason.NONE, 2.0)
    reasons = np.array([Reason.TOKEN_DEAD, Reason.REJECTED_BY_VENDOR], np.uint8)
    home.move(page, np.array([1, 4]), State.FAILED, reasons, 2.0)
    assert metrics.row_moves.value(Channel.APNS, State.IN_FLIGHT) == 2
    assert metrics.row_moves.value(Channel.FCM, State.VENDOR_ACCEPTED) == 1
    assert metrics.row_moves.value(Channel.NONE, State.DROPPED) == 1
    assert metrics.row_reasons.value(Reason.TOKEN_DEAD) == 1
    assert metrics.row_reasons.value(Reason.REJECTED_BY_VENDOR) == 1
    assert metrics.row_reasons.value(Reason.DUPLICATE_TARGET) == metrics.rows_duplicate.value() == 1


def test_home_counts_rows_that_end_uncertain_and_their_later_receipt() -> None:
    metrics = Metrics()
    home = make_home(metrics)
    page = open_page(home, 3)
    page.channel[:] = Channel.APNS
    home.move(page, np.arange(3), State.IN_FLIGHT, Reason.NONE, 1.0)
    home.move(page, np.arange(3), State.UNCERTAIN, Reason.NO_ANSWER, 2.0)
    assert metrics.rows_uncertain.value(Channel.APNS) == 3
    home.raise_receipts(page, np.array([0, 1]), Receipt.DISPLAYED, 3.0)
    home.raise_receipts(page, np.array([1, 2]), Receipt.DELIVERED, 4.0)
    assert page.counts[State.VENDOR_ACCEPTED] == 3
    assert metrics.receipts.value(Channel.APNS, Receipt.DISPLAYED) == 2
    assert metrics.receipts.value(Channel.APNS, Receipt.DELIVERED) == 1


def test_home_measures_rows_that_reached_somebody_and_did_not_wait_for_it() -> None:
    metrics = Metrics()
    home = make_home(metrics)
    page = open_page(home, 10)
    page.channel[:6] = Channel.LONG_LINK
    page.channel[6:] = Channel.APNS
    page.flags[[1, 2]] |= np.uint8(Flag.WAITED_OFFLINE)
    home.move(page, np.arange(10), State.IN_FLIGHT, Reason.NONE, 1.0)
    home.move(page, np.arange(5), State.DEVICE_ACKED, Reason.NONE, 2.0)
    home.move(page, np.array([6, 7]), State.VENDOR_ACCEPTED, Reason.NONE, 3.0)
    home.move(page, np.array([5, 8]), State.EXPIRED, Reason.TTL_PASSED, 4.0)
    assert metrics.delivery_s.count(Channel.LONG_LINK) == 3
    assert metrics.delivery_s.count(Channel.APNS) == 2
    assert metrics.delivery_s.quantile(0.5, Channel.APNS) == pytest.approx(3.0, rel=0.6)


@given(data=st.data())
def test_home_moves_in_metrics_equal_the_moves_that_were_made(data: st.DataObject) -> None:
    """The plain twin counts row by row."""
    metrics = Metrics()
    home = make_home(metrics)
    page = open_page(home, 12)
    page.channel[:] = data.draw(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=12, max_size=12))
    moves: dict[tuple[int, int], int] = {}
    why: dict[int, int] = {}
    for now in range(data.draw(st.integers(1, 8))):
        target = data.draw(st.sampled_from(list(State)))
        able = np.flatnonzero(LEGAL_MOVES[page.state, target])
        if not len(able):
            continue
        chosen = np.array(sorted(data.draw(st.sets(st.sampled_from(able.tolist()), min_size=1))))
        reason: Any = data.draw(st.sampled_from([Reason.NONE, Reason.RETRY, Reason.TOKEN_DEAD]))
        if data.draw(st.booleans()):
            reason = np.full(len(chosen), reason, np.uint8)
        for row in chosen.tolist():
            key = (int(page.channel[row]), int(target))
            moves[key] = moves.get(key, 0) + 1
            code = int(reason) if isinstance(reason, Reason) else int(reason[0])
            why[code] = why.get(code, 0) + 1
        home.move(page, chosen, target, reason, float(now))
    for channel in range(4):
        for state in State:
            assert metrics.row_moves.value(Channel(channel), state) == moves.get((channel, int(state)), 0)
    for code in Reason:
        assert metrics.row_reasons.value(code) == (why.get(code, 0) if code else 0)


def test_lane_counts_by_vendor() -> None:
    metrics, stream = Metrics(), io.StringIO()
    counts = LaneCounts(metrics, Log(stream=stream), Channel.APNS)
    page = open_page(make_home(metrics), 3)
    counts.issued(3, 0.5)
    counts.answered(page, np.array([Verdict.ACCEPTED, Verdict.THROTTLED, Verdict.ACCEPTED], np.uint8), 0.25)
    counts.named(Verdict.THROTTLED, "TooManyRequests", 2)
    counts.named(Verdict.UNCERTAIN, "", 1)
    counts.retried(np.array([Reason.THROTTLED, Reason.NO_ANSWER, Reason.THROTTLED], np.uint8))
    counts.truncated(4)
    counts.throttled(1.5)
    counts.credential_refused("InvalidProviderToken")
    assert metrics.bursts.value(Channel.APNS) == 1
    assert metrics.queue_s.count(Channel.APNS) == metrics.request_s.count(Channel.APNS) == 3
    assert metrics.verdicts.value(Channel.APNS, Verdict.ACCEPTED) == 2
    assert metrics.verdicts.value(Channel.APNS, Verdict.THROTTLED) == 1
    assert metrics.verdict_names.value(Channel.APNS, "TooManyRequests") == 2
    assert metrics.verdict_names.value(Channel.APNS, "uncertain") == 1
    assert metrics.retries.value(Channel.APNS, Reason.THROTTLED) == 2
    assert metrics.rows_resent_uncertain.value(Channel.APNS) == 1
    assert metrics.rows_truncated.value(Channel.APNS) == 4
    assert (metrics.bucket_waits.value(Channel.APNS), metrics.bucket_wait_s.value(Channel.APNS)) == (1, 1.5)
    assert metrics.verdicts.value(Channel.FCM, Verdict.ACCEPTED) == 0
    (line,) = lines(stream)
    assert (line["level"], line["vendor"], line["vendor_word"]) == ("warning", "apns", "InvalidProviderToken")


def test_pool_counts_open_connections_and_every_end() -> None:
    metrics, stream = Metrics(), io.StringIO()
    first, second = (PoolCounts(metrics, Log(stream=stream)) for _ in range(2))
    first.connected(1)
    second.connected(1)
    first.connected(2)
    assert metrics.connections_open.value("vendor") == metrics.connections.value("vendor") == 3
    first.closed(1, CloseReason.GOAWAY, "vendor says goodbye")
    first.closed(3, CloseReason.CONNECT_FAILED, "nobody there")  # never was open
    second.closed(1, CloseReason.IDLE, "")
    assert metrics.connections_open.value("vendor") == 1
    assert metrics.connections.value("vendor") == 3
    assert metrics.closes.value("vendor", "goaway") == metrics.closes.value("vendor", "connect_failed") == 1
    told = [(line["why"], line["level"]) for line in lines(stream) if line["event"] == "connection closed"]
    assert told == [("goaway", "warning"), ("connect_failed", "warning"), ("idle", "info")]


def test_sockets_of_a_bundle_are_counted_and_the_bundle_is_told() -> None:
    metrics, stream = Metrics(), io.StringIO()
    sockets, bundle = SocketCounts(metrics, Log(stream=stream)), BundleCounts(Log(stream=stream))
    sockets.connected()
    bundle.connected(1)
    sockets.connected()
    assert metrics.connections_open.value("vendor") == metrics.connections.value("vendor") == 2
    sockets.closed(CloseReason.PEER_CLOSED, "", was_open=True)
    sockets.closed(CloseReason.CONNECT_FAILED, "nobody there", was_open=False)
    bundle.closed(1, CloseReason.CONNECT_FAILED, "nobody there")
    bundle.closed(2, CloseReason.SHUTDOWN, "")
    assert metrics.connections_open.value("vendor") == 1
    assert metrics.closes.value("vendor", "peer_closed") == metrics.closes.value("vendor", "connect_failed") == 1
    assert metrics.closes.value("vendor", "shutdown") == 0
    told = [(line["why"], line["level"]) for line in lines(stream) if line["event"] == "connection closed"]
    assert told == [("connect_failed", "warning"), ("shutdown", "info")]


def test_rpc_counts_by_listener() -> None:
    metrics = Metrics()
    counts = RpcCounts(metrics)
    counts.opened("rpc")
    counts.opened("rpc")
    counts.opened("operator")
    counts.closed("rpc", CloseReason.FRAME_TOO_LARGE)
    counts.received(10)
    counts.received(5)
    counts.sent(7)
    assert (metrics.connections_open.value("rpc"), metrics.connections_open.value("operator")) == (1, 1)
    assert metrics.closes.value("rpc", "frame_too_large") == 1
    assert (metrics.rpc_bytes.value("in"), metrics.rpc_bytes.value("out")) == (15, 7)


def test_service_counts_requests_refusals_and_writes_down_operators() -> None:
    metrics, stream = Metrics(), io.StringIO()
    counts = ServiceCounts(metrics, Log(stream=stream))
    counts.requested("Submit")
    counts.requested("Submit")
    counts.submit("accepted")
    counts.refused_rows(["token", "title", "token"])
    counts.error("not_found")
    counts.audit("ClockAdvance", {"connection": "operator-1"})
    assert metrics.rpc_frames.value("in", "Submit") == 2
    assert metrics.submits.value("accepted") == 1
    assert (metrics.rows_refused.value("token"), metrics.rows_refused.value("title")) == (2, 1)
    assert metrics.rpc_errors.value("not_found") == 1
    (line,) = lines(stream)
    assert (line["event"], line["command"], line["connection"]) == ("operator command", "ClockAdvance", "operator-1")


def test_router_intake_and_owner_count_rows() -> None:
    metrics = Metrics()
    page = open_page(make_home(metrics), 4)
    router, intake, owner = RouterCounts(metrics), IntakeCounts(metrics, ["shop", "news"]), OwnerCounts(metrics)
    router.routed(page, 0.01)
    router.delivered_to_edge(3)
    router.handed_over(2)
    router.tokens_dead(Channel.FCM, 5, 4)
    router.truncated(1)
    intake.accepted(1, 100, 2)
    intake.gathered(0.001)
    page.issued_ms[:] = 500
    owner.acknowledged(page, np.arange(4), 2.0)
    owner.acknowledged(page, np.arange(0), 2.0)
    owner.late(6)
    owner.stray(7)
    uplink = UplinkCounts(metrics, ["shop", "news"])
    uplink.taken("displayed")
    uplink.custom(1, 90_007)
    uplink.refused("rate")
    assert metrics.route_s.count() == metrics.gather_s.count() == 1
    assert (metrics.rows_to_edge.value(), metrics.rows_handed_over_unacked.value()) == (3, 2)
    assert metrics.tokens_dead.value(Channel.FCM) == 4
    assert metrics.rows_truncated.value(Channel.LONG_LINK) == 1
    assert (metrics.rows_accepted.value("news"), metrics.rows_accepted.value("shop")) == (100, 0)
    assert metrics.request_s.count(Channel.LONG_LINK) == 4
    assert metrics.request_s.quantile(0.5, Channel.LONG_LINK) == pytest.approx(1.5, rel=0.6)
    assert metrics.late_acknowledgements.value() == 6
    assert metrics.refusals.value("acknowledgement_of_unknown_row") == 7
    assert metrics.uplink_events.value("displayed") == 1
    assert metrics.custom_events.value("news", "90007") == 1
    assert metrics.refusals.value("uplink.rate") == 1


def test_supervisor_counts_crashes_and_says_where() -> None:
    metrics, stream = Metrics(), io.StringIO()
    counts = SupervisorCounts(metrics, Log(stream=stream))
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError as error:
        counts.crashed("lane shop/apns", error, 0.5)
    assert metrics.actor_restarts.value("lane shop/apns") == 1
    (line,) = lines(stream)
    assert (line["level"], line["actor"], line["restart_in_s"]) == ("error", "lane shop/apns", 0.5)
    assert "ZeroDivisionError" in json.dumps(line)
    assert "test_counting.py" in json.dumps(line)
