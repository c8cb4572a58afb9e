"""Lines in GeTui's receipt form: sign, codes and actionIds, against a table and a plain twin."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch, TaskSegment
from gateway.content import Variant
from gateway.core.callback_lines import Signer, lines_of, outcome
from gateway.core.home import Change
from gateway.ledger import Channel, Reason, Receipt, State
from gateway.message_id import BatchAddress, to_text

DOC = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text()


def test_the_sign_is_the_one_of_the_document() -> None:
    sign = Signer("A", b"S").sign("C", "T", "M")
    assert sign == hashlib.md5(b"ACTMS").hexdigest()
    assert sign in DOC


@pytest.mark.parametrize(
    ("state", "reason", "receipt", "channel", "expected"),
    [
        (State.DEVICE_ACKED, 0, Receipt.DELIVERED, Channel.LONG_LINK, ("200", "0")),
        (State.DEVICE_ACKED, 0, Receipt.DISPLAYED, Channel.LONG_LINK, ("200", "10000")),
        (State.DEVICE_ACKED, 0, Receipt.CLICKED, Channel.LONG_LINK, ("200", "10010")),
        (State.VENDOR_ACCEPTED, 0, Receipt.CLICKED, Channel.APNS, ("200", "10019")),
        (State.VENDOR_ACCEPTED, 0, Receipt.CLICKED, Channel.XIAOMI, ("200", "120010")),
        (State.VENDOR_ACCEPTED, 0, Receipt.DELIVERED, Channel.OPPO, ("200", "140000")),
        (State.VENDOR_ACCEPTED, 0, 0, Channel.HUAWEI, ("200", "110000")),
        (State.VENDOR_ACCEPTED, 0, 0, Channel.APNS, None),
        (State.FAILED, Reason.REJECTED_BY_VENDOR, 0, Channel.APNS, ("400", "")),
        (State.FAILED, Reason.SENSITIVE_CONTENT, 0, Channel.VIVO, ("400", "")),
        (State.FAILED, Reason.NO_PERMISSION, 0, Channel.HUAWEI, ("400", "")),
        (State.FAILED, Reason.TOKEN_DEAD, 0, Channel.APNS, ("402", "")),
        (State.DROPPED, Reason.UNKNOWN_DEVICE, 0, Channel.NONE, ("401", "")),
        (State.EXPIRED, Reason.DEVICE_OFFLINE, 0, Channel.LONG_LINK, ("402", "")),
        (State.CANCELLED, Reason.STOPPED, 0, Channel.APNS, ("500", "")),
        (State.UNCERTAIN, Reason.NO_ANSWER, 0, Channel.FCM, ("500", "")),
    ],
)
def test_each_event_has_its_code_and_action(
    state: int, reason: int, receipt: int, channel: int, expected: tuple[str, str] | None
) -> None:
    assert outcome(state, reason, receipt, channel, is_transmission=False) == expected


def test_a_transmission_that_arrives_has_a_number_of_its_own() -> None:
    found = outcome(State.DEVICE_ACKED, 0, Receipt.DELIVERED, Channel.LONG_LINK, is_transmission=True)
    assert found == ("200", "10030")


def test_the_document_names_every_action() -> None:
    every = [
        outcome(State.VENDOR_ACCEPTED, 0, receipt, channel, is_transmission=transmission)
        for receipt in (0, 1, 2, 3)
        for channel in Channel
        for transmission in (False, True)
    ]
    named = set(re.findall(r"`(\d+)`", DOC))
    assert {found[1] for found in every if found is not None} <= named


@given(st.data(), st.integers(1, 8), st.booleans())
def test_a_change_has_a_line_for_each_row_that_has_an_event(data: st.DataObject, n: int, as_columns: bool) -> None:
    ids = np.arange(16 * n, dtype=np.uint8).reshape(n, 16)
    cut = data.draw(st.integers(0, n - 1))
    segments = [TaskSegment(b"a" * 16, 0, cut), TaskSegment(b"b" * 16, cut, n - cut)] if cut else []
    batch = Batch(
        BatchAddress(1, 2, 3),
        0,
        0.0,
        n,
        device_ids=ids,
        message_ids=ids + np.uint8(9),
        variants=[Variant("t", "b")],
        segments=segments or [TaskSegment(b"b" * 16, 0, n)],
    )
    rows = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))

    def column(values: list[int]) -> Any:
        if not as_columns:
            return values[0]
        return np.array(data.draw(st.lists(st.sampled_from(values), min_size=len(rows), max_size=len(rows))), np.uint8)

    state = column([State.DEVICE_ACKED, State.FAILED, State.VENDOR_ACCEPTED])
    receipt, channel = column([Receipt.NONE, Receipt.CLICKED]), column([Channel.APNS, Channel.HUAWEI])
    change = Change(batch, np.array(rows, np.uint16), state, 0, receipt, channel, 77)
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, len(rows) - 1)))), np.intp)
    signer = Signer("shop", b"hush")
    expected = []
    for at in chosen.tolist():
        values = [int(one if isinstance(one, int) else one[at]) for one in (state, receipt, channel)]
        found = outcome(values[0], 0, values[1], values[2], is_transmission=False)
        if found is not None:
            cid, message = ids[rows[at]].tobytes().hex(), to_text((ids[rows[at]] + np.uint8(9)).tobytes())
            task = to_text((b"a" if rows[at] < cut else b"b") * 16)
            sign = hashlib.md5(f"shop{cid}{task}{message}hush".encode()).hexdigest()
            expected.append((cid, task, message, *found, sign, 77))
    lines = [json.loads(line) for line in lines_of(change, chosen, signer)]
    keys = ("cid", "taskid", "msgid", "code", "actionId", "sign", "recvtime")
    assert [tuple(line[key] for key in keys) for line in lines] == expected
    assert all(line["appid"] == "shop" and line["desc"] and "alias" not in line for line in lines)
    named = lines_of(change, chosen, signer, lambda device_id: device_id.hex() if device_id[0] & 1 else "")
    aliases = [json.loads(line).get("alias", "") for line in named]
    assert aliases == [line[0] if int(line[0][:2], 16) & 1 else "" for line in expected]
