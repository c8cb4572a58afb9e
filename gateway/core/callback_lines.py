"""Callback lines: what became of rows, in the form in which GeTui tells its customers. Pure.

    {"appid": ..., "cid": ..., "taskid": ..., "msgid": ..., "code": "200", "desc": ..., "sign": ..., "actionId": ...,
     "recvtime": ..., "custom_callback": ...}                           one line per row and event, newline between

sign = MD5(appid + cid + taskid + msgid + secret) in lower-case hex. Source: docs.getui.com/getui/server/receipt, as
far as it is known (facts: form and sign from the page; actionId values seen in a consumer). What is ours, because the
page says nothing of it: `desc` is our state and reason; code 400 is a final refusal by the vendor, 401 an unknown
device, 402 one that cannot be reached now (away, blocked, notifications closed, token dead), 500 all other ends. A row
that APNs, FCM or another vendor without an actionId of its own merely accepted has no line.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from gateway.columns import Rows
from gateway.core.changes import Change
from gateway.ledger import Channel, Reason, Receipt, State
from gateway.message_id import to_text
from gateway.regions import vendor_channel

#: receipt -> actionId of a channel without its own.
_ACTIONS = {Receipt.DELIVERED: "0", Receipt.DISPLAYED: "10000", Receipt.CLICKED: "10010"}
#: What devices of some channels say has a number of its own.
_OWN_ACTIONS = {
    (Channel.APNS, Receipt.DISPLAYED): "10009",
    (Channel.APNS, Receipt.CLICKED): "10019",
    (Channel.XIAOMI, Receipt.CLICKED): "120010",
    (Channel.MEIZU, Receipt.CLICKED): "130010",
    (Channel.OPPO, Receipt.DELIVERED): "140000",
    (Channel.VIVO, Receipt.DELIVERED): "150000",
}
#: The vendor took the row.
_SENT = {Channel.HUAWEI: "110000", Channel.XIAOMI: "120000", Channel.MEIZU: "130000"}
_TRANSMISSION_ARRIVED = "10030"
_UNREACHABLE = frozenset(
    {
        Reason.DEVICE_OFFLINE,
        Reason.DEVICE_BLOCKED,
        Reason.NOTIFICATIONS_CLOSED,
        Reason.TOKEN_DEAD,
        Reason.TOKEN_MUTED,
        Reason.NO_CHANNEL,
    }
)


class Signer(NamedTuple):
    """app_id: as the customer knows the app. secret: goes into every sign."""

    app_id: str
    secret: bytes

    def sign(self, cid: str, task_id: str, message_id: str) -> str:
        text = f"{self.app_id}{cid}{task_id}{message_id}"
        return hashlib.md5(text.encode() + self.secret, usedforsecurity=False).hexdigest()


_ENCODER = msgspec.json.Encoder()


@functools.cache
def outcome(state: int, reason: int, receipt: int, channel: int, *, is_transmission: bool) -> tuple[str, str] | None:
    """code and actionId of a row's event; None for one that has no line. There are some thousand events in all."""
    if receipt:
        if is_transmission and receipt == Receipt.DELIVERED:
            return "200", _TRANSMISSION_ARRIVED
        known = Receipt(receipt)
        return "200", _OWN_ACTIONS.get((vendor_channel(Channel(channel)), known), _ACTIONS[known])
    if state in (State.VENDOR_ACCEPTED, State.DEVICE_ACKED):
        action = _SENT.get(vendor_channel(Channel(channel)))
        return None if action is None else ("200", action)
    if reason == Reason.UNKNOWN_DEVICE:
        return "401", ""
    if reason in _UNREACHABLE:
        return "402", ""
    return ("400" if state == State.FAILED and channel > Channel.LONG_LINK else "500"), ""


def lines_of(
    change: Change, rows: Rows, signer: Signer, alias_of: Callable[[bytes], str] | None = None
) -> Iterator[bytes]:
    """The lines of some rows of a change. A few microseconds each: the caller takes a step's worth. alias_of: of a
    device id, "" for none, where lines have one."""
    batch = change.batch
    firsts = [segment.first for segment in batch.segments] if len(batch.segments) > 1 else [0]
    states, reasons = _values(change.state, rows), _values(change.reason, rows)
    receipts, channels = _values(change.receipt, rows), _values(change.channel, rows)
    # Of the segment of the row before: neighbours are mostly of one.
    first = stop = 0
    task_id = ""
    for at, row in enumerate(change.rows[rows].tolist()):
        variant = batch.variant_of(row)
        found = outcome(
            states[at], reasons[at], receipts[at], channels[at], is_transmission=variant.action == "transmission"
        )
        if found is None:
            continue
        code, action = found
        device = batch.device_ids[row].tobytes()
        cid = device.hex() if any(device) else ""
        if not first <= row < stop:
            segment = batch.segments[bisect.bisect_right(firsts, row) - 1]
            first, stop, task_id = segment.first, segment.first + segment.n, to_text(segment.task_id)
        message_id = to_text(batch.message_ids[row].tobytes())
        line: dict[str, Any] = {
            "appid": signer.app_id,
            "cid": cid,
            "taskid": task_id,
            "msgid": message_id,
            "code": code,
            "desc": _description(states[at], reasons[at], receipts[at], channels[at]),
            "sign": signer.sign(cid, task_id, message_id),
            "actionId": action,
            "recvtime": change.at_unix_ms,
        }
        if variant.custom_callback:
            line["custom_callback"] = variant.custom_callback
        if alias_of is not None and cid and (alias := alias_of(device)):
            line["alias"] = alias
        yield _ENCODER.encode(line)


@functools.cache
def _description(state: int, reason: int, receipt: int, channel: int) -> str:
    words = [State(state).name.lower()]
    words += [Reason(reason).name.lower()] if reason else []
    words += [Receipt(receipt).name.lower()] if receipt else []
    words += [Channel(channel).name.lower()] if channel else []
    return " ".join(words)


def _values(values: Any, rows: Rows) -> list[int]:
    """A change's column, or its one value for all rows, for these rows."""
    return [int(values)] * len(rows) if isinstance(values, int) else np.asarray(values)[rows].tolist()
