"""proof.py: books that balance pass; every single lie is found."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from gateway.cli.demo.cutting import MARK, digest_of
from gateway.cli.demo.proof import Arrival, Evidence, LedgerRow, Notification, Proof, prove, target_of
from gateway.ledger import Flag
from gateway.wire.rpc.messages import TaskCounts

CHANNELS = ("long_link", "apns")
PHONE, TABLET = bytes([1] * 16), bytes([2] * 16)
TOKEN, FOREIGN_TOKEN = target_of("token of the tablet"), target_of("a token of nobody")
NONE = bytes(16)
LONG = "a very long body indeed"


def message(number: int) -> bytes:
    return bytes([number] * 16)


def arrival(channel: str, number: int, target: bytes, title: str = "t", body: str = "b", **changes: Any) -> Arrival:
    made = Arrival(channel, message(number), target, digest_of(title, body), 1, (title, body))
    return made._replace(**changes)


def row(line: int, device: bytes, state: str, channel: str, flags: int = 0, reason: str = "") -> LedgerRow:
    return LedgerRow(line, device, state, reason, channel, flags)


def counts_of(rows: dict[bytes, LedgerRow], **changes: Any) -> TaskCounts:
    states = Counter(one.state for one in rows.values())
    fields: dict[str, Any] = {"accepted": len(rows), "states": dict(states), "is_final": True} | changes
    return TaskCounts(id=1, task_id=NONE, channels={}, reasons={}, receipts={}, is_routed=True, **fields)


def evidence(**changes: Any) -> Evidence:
    """A phone online, a tablet at APNs, a token of nobody, one line that expired, one refused; all as it should be."""
    rows = {
        message(1): row(1, PHONE, "device_acked", "long_link"),
        message(2): row(2, TABLET, "vendor_accepted", "apns"),
        message(3): row(3, NONE, "vendor_accepted", "apns"),
        message(4): row(1, TABLET, "expired", "long_link", reason="device_offline"),
        message(5): row(5, TABLET, "vendor_accepted", "apns", Flag.TRUNCATED),
    }
    arrivals = [
        arrival("long_link", 1, PHONE),
        arrival("apns", 2, TOKEN),
        arrival("apns", 3, FOREIGN_TOKEN),
        arrival("apns", 5, TOKEN, body="a very" + MARK),
    ]
    notifications = {
        1: Notification("t", "b", frozenset({PHONE, TABLET})),
        2: Notification("t", "b", frozenset({TABLET})),
        3: Notification("t", "b", frozenset({FOREIGN_TOKEN})),
        5: Notification("t", LONG, frozenset({TABLET})),
    }
    made = Evidence(6, 1, [counts_of(rows)], rows, arrivals, notifications, {TABLET: TOKEN})
    made = made._replace(**changes)
    return made._replace(counts=[counts_of(dict(made.rows))]) if "rows" in changes and "counts" not in changes else made


def with_arrivals(*more: Arrival, without: int | None = None) -> Evidence:
    kept = [one for one in evidence().arrivals if without is None or one.message_id != message(without)]
    return evidence(arrivals=[*kept, *more])


def with_row(number: int, changed: LedgerRow, *more: Arrival, without: int | None = None) -> Evidence:
    made = with_arrivals(*more, without=without)
    return evidence(rows=dict(made.rows) | {message(number): changed}, arrivals=made.arrivals)


def verdict(found: Evidence) -> Proof:
    return prove(found, CHANNELS)


def test_books_that_balance_pass() -> None:
    assert verdict(evidence()) == Proof(True, True, 0, {"long_link": 1, "apns": 3}, [])


def test_nothing_at_all_balances() -> None:
    empty = Evidence(0, 0, [], {}, [], {}, {})
    assert verdict(empty) == Proof(True, True, 0, {"long_link": 0, "apns": 0}, [])


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        (evidence(rows_read=7), "5 rows accepted + 1 refused, but 7 read"),
        (evidence(refused=0), "but 6 read"),
        (evidence(counts=[counts_of(dict(evidence().rows), is_final=False)]), "rows are open"),
        (evidence(counts=[counts_of(dict(evidence().rows), accepted=6)], rows_read=7), "states sum to 5, accepted 6"),
        (evidence(counts=[counts_of(dict(evidence().rows), states={"failed": 5})]), "the tasks count"),
        (with_arrivals(without=1), "long_link: 1 rows taken by receivers that do not have them"),
        (with_arrivals(without=2), "apns: 1 rows taken by receivers that do not have them"),
        # it arrived, but on another channel than the ledger says
        (with_arrivals(arrival("apns", 1, TOKEN), without=1), "long_link: 1 rows taken"),
        # a message that was never submitted, and one whose row ended otherwise
        (with_arrivals(arrival("apns", 9, TOKEN)), "apns: 1 messages at receivers that the ledger does not know"),
        (with_arrivals(arrival("long_link", 4, TABLET)), "long_link: 1 messages at receivers"),
        # at somebody else's device, at somebody else's token, at a registered device instead of the token
        (with_arrivals(arrival("long_link", 1, TABLET), without=1), "1 messages at targets they were not for"),
        (with_arrivals(arrival("apns", 2, FOREIGN_TOKEN), without=2), "1 messages at targets they were not for"),
        (with_arrivals(arrival("apns", 3, TOKEN), without=3), "1 messages at targets they were not for"),
    ],
)
def test_a_lie_in_the_books_is_found(lie: Evidence, text: str) -> None:
    proof = verdict(lie)
    assert not proof.conserved
    assert any(text in fault for fault in proof.faults), proof.faults


def test_a_row_of_the_ledger_for_a_device_that_was_not_meant_is_found() -> None:
    lie = with_row(2, row(2, PHONE, "vendor_accepted", "apns"))
    assert not verdict(lie).conserved


@pytest.mark.parametrize(
    "changed",
    [
        arrival("apns", 2, TOKEN, body="B"),
        arrival("apns", 2, TOKEN, title=""),
        # cut, and the ledger does not say so
        arrival("apns", 2, TOKEN, body=MARK),
        # digest and kept texts contradict each other, or there are no texts to judge by
        arrival("apns", 5, TOKEN, body="a very" + MARK, sha256=digest_of("t", "x")),
        arrival("apns", 5, TOKEN, body="a very" + MARK, texts=None),
        arrival("apns", 5, TOKEN, body="a very"),
    ],
)
def test_a_changed_text_is_found(changed: Arrival) -> None:
    proof = verdict(with_arrivals(changed, without=changed.message_id[0]))
    assert proof.conserved
    assert not proof.texts_intact


def test_a_whole_text_of_a_row_that_was_cut_elsewhere_is_intact() -> None:
    assert verdict(with_arrivals(arrival("apns", 5, TOKEN, body=LONG), without=5)).texts_intact


@pytest.mark.parametrize(
    ("second", "n"),
    [
        (arrival("long_link", 1, PHONE, copies=2), 1),
        (arrival("long_link", 1, PHONE, copies=4), 3),
        # seen only with DUP: the first copy was lost, MQTT did its work
        (arrival("long_link", 1, PHONE, copies=0), 0),
    ],
)
def test_second_copies_are_duplicates_and_redeliveries_are_not(second: Arrival, n: int) -> None:
    assert verdict(with_arrivals(second, without=1)).duplicates == n


def test_the_same_message_at_two_channels_is_a_duplicate() -> None:
    both = verdict(with_arrivals(arrival("long_link", 2, TABLET)))
    assert both.duplicates == 1
    assert not both.conserved


@pytest.mark.parametrize("flag", [Flag.HANDED_OVER, Flag.RESENT_UNCERTAIN])
def test_a_second_copy_that_the_ledger_announced_is_neither_duplicate_nor_stranger(flag: Flag) -> None:
    marked = with_row(2, row(2, TABLET, "vendor_accepted", "apns", flag), arrival("long_link", 2, TABLET))
    proof = verdict(marked)
    assert (proof.conserved, proof.duplicates) == (True, 0)
    assert proof.received == {"long_link": 2, "apns": 3}


def test_an_uncertain_row_may_have_arrived_or_not() -> None:
    uncertain = row(2, TABLET, "uncertain", "apns")
    assert verdict(with_row(2, uncertain)).conserved
    assert verdict(with_row(2, uncertain, without=2)).conserved


def test_other_flags_excuse_nothing() -> None:
    marked = row(2, TABLET, "vendor_accepted", "apns", Flag.WAITED_OFFLINE | Flag.TRUNCATED | Flag.TOKEN_DEAD)
    assert verdict(with_row(2, marked, arrival("apns", 2, TOKEN))).duplicates == 1
