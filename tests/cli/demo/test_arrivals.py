"""arrivals.py: rows of a list are found by batch and target, and a wrong one is not made right."""

from __future__ import annotations

from gateway import burst_address, message_id
from gateway.burst_address import BurstAddress
from gateway.cli.demo.arrivals import Rows, vendor_arrivals
from gateway.cli.demo.cutting import MARK, digest_of
from gateway.cli.demo.proof import LedgerRow, Notification, target_of
from gateway.message_id import BatchAddress, RowAddress

SECRET = b"s" * 32
BATCH, OTHER = BatchAddress(1_763_700_000_123, 7, 41), BatchAddress(1_763_700_000_123, 7, 42)
PHONE, TABLET = bytes([1] * 16), bytes([2] * 16)
TOKENS = {PHONE: target_of("token of the phone"), TABLET: target_of("token of the tablet")}
FREE = target_of("a token without a device")
NOTIFICATIONS = {
    1: Notification("t", "one", frozenset({PHONE, TABLET})),
    2: Notification("t", "a long second one", frozenset({PHONE})),
    3: Notification("t", "free", frozenset({FREE})),
}


def row(line: int, device: bytes) -> LedgerRow:
    return LedgerRow(line, device, "vendor_accepted", "", "huawei", 0)


def ids(batch: BatchAddress, n: int) -> list[bytes]:
    return [message_id.encode(SECRET, RowAddress(batch, index)) for index in range(n)]


def told(target: bytes, body: str, reference: str = "", named: bytes = bytes(16)) -> dict[str, object]:
    return {
        "simulator": "huawei",
        "target": target.hex(),
        "message_id": named.hex(),
        "sha256": digest_of("t", body),
        "copies": 1,
        "reference": reference,
        "title": "t",
        "body": body,
    }


def resolved(*received: dict[str, object]) -> list[bytes]:
    first, second, third, free = ids(BATCH, 4)
    (elsewhere,) = ids(OTHER, 1)
    ledger = {
        first: row(1, PHONE),
        second: row(1, TABLET),
        third: row(2, PHONE),
        free: row(3, bytes(16)),
        elsewhere: row(1, PHONE),
    }
    return [one.message_id for one in vendor_arrivals(received, Rows(ledger, NOTIFICATIONS, TOKENS))]


LIST = burst_address.encode(SECRET, BurstAddress(BATCH, 5))


def test_rows_of_a_list_are_found_by_batch_target_and_texts() -> None:
    first, second, third, free = ids(BATCH, 4)
    found = resolved(
        told(TOKENS[PHONE], "a long" + MARK, LIST),
        told(TOKENS[TABLET], "one", LIST),
        told(TOKENS[PHONE], "one", LIST),
        told(FREE, "free", LIST),
    )
    assert found == [third, second, first, free]


def test_a_second_copy_and_a_stranger_stay_strangers() -> None:
    own = bytes([9] * 16)
    second = ids(BATCH, 2)[1]
    found = resolved(
        told(TOKENS[TABLET], "one", LIST, own),
        told(TOKENS[TABLET], "one", LIST, own),
        told(target_of("nobody"), "one", LIST, own),
        told(TOKENS[PHONE], "one", "elsewhere", own),
    )
    assert found == [second, own, own, own]


def test_a_changed_text_still_names_its_row() -> None:
    # The proof then finds the texts changed.
    assert resolved(told(TOKENS[TABLET], "changed", LIST)) == [ids(BATCH, 2)[1]]


def test_a_message_id_needs_no_search() -> None:
    first = ids(BATCH, 1)[0]
    assert resolved(told(TOKENS[PHONE], "one", named=first)) == [first]
