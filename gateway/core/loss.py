"""Loss analysis: how far rows came, and why the others did not come further.

A row has reached one of seven *stages*, each of which implies those before it:

    accepted -> eligible -> sent -> taken -> delivered -> displayed -> clicked
             ts          rs      sf       sf           fd            -        (GeTui's stages of failed_detail)

    accepted   it is a row                              taken      vendor or device took it
    eligible   nothing speaks against sending it        delivered  device or vendor said that it arrived
    sent       it left the gateway at least once        displayed, clicked   the device, or the vendor, said so

What is lost between two stages are the rows whose last stage is the first of the two, so that the differences of a
funnel always are the sums of its losses. Each row has one *cause*: the reason of its end; where it needs none, what did
not come (`no_receipt`); of an open row, the state that it is in. `_CAUSES` maps them to GeTui's cause buckets d2 to d14
(facts on compatible APIs, section A.6), each with advice. d4 (sensitive words) and d8 (no permission) are what a vendor
says in so many words: `Answer.reason` in its table. One whose code lumps a missing right together with a wrong
credential says `credential_refused`, d3.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np

from gateway.columns import U8, Bool
from gateway.ledger import IS_FINAL, Channel, Reason, Receipt, State
from gateway.tally import CellColumns


class Stage(enum.IntEnum):
    ACCEPTED = 0
    ELIGIBLE = 1
    SENT = 2
    TAKEN = 3
    DELIVERED = 4
    DISPLAYED = 5
    CLICKED = 6


STAGE_NAMES = [stage.name.lower() for stage in Stage]

#: Codes of causes: reasons have their own; what needs no reason stands above them.
_OPEN = 64
_ENDED = 80
_NO_RECEIPT = 96
_NOT_DISPLAYED = 97
_NOT_CLICKED = 98
_NOTHING_LOST = 99

#: Reasons for which a row is dropped before anything would be sent.
_NOT_ELIGIBLE = frozenset(
    {
        Reason.DUPLICATE_TARGET,
        Reason.UNKNOWN_DEVICE,
        Reason.NO_CHANNEL,
        Reason.CONTENT_TOO_LONG,
        Reason.CONTENT_REFUSED,
        Reason.TOKEN_MUTED,
        Reason.DEVICE_BLOCKED,
        Reason.NOTIFICATIONS_CLOSED,
    }
)


class Cause(NamedTuple):
    """bucket: GeTui's; "" where nothing is lost (yet). advice: what to do about it, one line."""

    bucket: str
    advice: str


_CAUSES: dict[int, Cause] = {
    Reason.NONE: Cause("d14", "no reason was noted: trace one of the rows"),
    Reason.DUPLICATE_TARGET: Cause("d2", "the submit named the target twice: send each once, or allow_duplicates"),
    Reason.UNKNOWN_DEVICE: Cause("d13", "the device is not registered: remove it from the list, or register it"),
    Reason.NO_CHANNEL: Cause("d5", "no vendor token and no way over the long link: let the app register its token"),
    Reason.DEVICE_OFFLINE: Cause("d12", "the device was away all the time: a longer ttl_s, or a vendor as well"),
    Reason.CONTENT_TOO_LONG: Cause("d7", "the content is longer than the channel takes: shorten data and texts"),
    Reason.TOKEN_MUTED: Cause("d5", "the vendor asked to leave the token alone until the app registers again"),
    Reason.INBOX_FULL: Cause("d6", "too many messages wait for the device: fewer of them, or a collapse_id"),
    Reason.DEVICE_BLOCKED: Cause("d13", "the device is on the app's blacklist"),
    Reason.NOTIFICATIONS_CLOSED: Cause("d10", "the user switched notifications off: ask for them inside of the app"),
    Reason.COLLAPSED: Cause("d14", "a newer message of its collapse_id took its place, as it should"),
    Reason.REJECTED_BY_VENDOR: Cause("d11", "the vendor refused the message: its word is in the rows (--csv)"),
    Reason.TOKEN_DEAD: Cause("d5", "the app was uninstalled, or its token is stale: nothing to do, it is forgotten"),
    Reason.CREDENTIAL_REFUSED: Cause("d3", "the vendor refused the app's credential or rights: check its section"),
    Reason.SENSITIVE_CONTENT: Cause("d4", "the vendor found a forbidden word in the text: say it otherwise"),
    Reason.NO_PERMISSION: Cause("d8", "the app lacks a right at the vendor: apply for it in the vendor's console"),
    Reason.THROTTLED: Cause("d6", "throttled by the vendor until time was over: send slower, or ask for more"),
    Reason.QUOTA_EXHAUSTED: Cause("d6", "the vendor's daily quota is used up: raise it, or keep it for the urgent"),
    Reason.VENDOR_UNAVAILABLE: Cause("d11", "the vendor was down until the time was over: a longer ttl_s"),
    Reason.ATTEMPTS_USED_UP: Cause("d11", "every attempt failed: see the verdicts of one in its trace"),
    Reason.NO_ANSWER: Cause("d11", "no answer came, so it may have arrived: on_uncertain decides on a second attempt"),
    Reason.NO_CONSENT: Cause("d6", "the user has agreed to no further message of this template: ask again in the app"),
    Reason.CONTENT_REFUSED: Cause("d2", "the content cannot be said to this vendor: pushgw preview names the field"),
    Reason.BREAKER_OPEN: Cause("d11", "nothing was sent to the vendor, because too much of it failed: see its breaker"),
    Reason.TTL_PASSED: Cause("d14", "its time was over before its turn came: a longer ttl_s, or more speed"),
    Reason.RETRY: Cause("d11", "its time was over while it waited for a retry: a longer ttl_s"),
    Reason.HAND_OVER: Cause("d12", "its time was over while the device did not acknowledge"),
    Reason.FALLBACK: Cause("d14", "its time was over before the other channel had a turn: a longer ttl_s"),
    Reason.PROCESS_ENDED: Cause("d14", "a process ended while it was under way, so it may have arrived"),
    Reason.STOPPED: Cause("d14", "somebody stopped it"),
    _NO_RECEIPT: Cause("d14", "taken, and no word since: not arrived yet, or this channel sends no receipts"),
    _NOT_DISPLAYED: Cause("d14", "arrived, and nobody said that it was shown: the app may not report it"),
    _NOT_CLICKED: Cause("", "shown and not tapped: no loss of the gateway's"),
    _NOTHING_LOST: Cause("", ""),
}
_OTHER = Cause("d14", "trace one of the rows")
_UNDER_WAY = Cause("", "still under way: ask again later")

_ELIGIBLE_REASONS: Bool = np.ones(256, np.bool_)
_ELIGIBLE_REASONS[[int(reason) for reason in _NOT_ELIGIBLE]] = False


class LossLine(NamedTuple):
    """Rows of one channel that came as far as `stage` and no further, for one cause."""

    channel: str
    stage: Stage
    cause: str
    bucket: str
    rows: int
    is_open: bool
    advice: str


class Funnel(NamedTuple):
    """reached: channel -> rows that reached each stage, (7,); rows on no channel are under "none"."""

    reached: dict[str, list[int]]
    lines: list[LossLine]


def stages_of(cells: CellColumns) -> U8:
    """(k,) the last stage of each."""
    state, receipt = cells.state, cells.receipt
    stage: U8 = np.full(len(state), Stage.ELIGIBLE, np.uint8)
    is_refused = ~_ELIGIBLE_REASONS[cells.reason] & IS_FINAL[state]
    is_unrouted = (state == State.QUEUED) & (cells.channel == Channel.NONE)
    stage[is_refused | is_unrouted] = Stage.ACCEPTED
    stage[cells.was_sent] = Stage.SENT
    stage[state == State.VENDOR_ACCEPTED] = Stage.TAKEN
    stage[(state == State.DEVICE_ACKED) | (receipt == Receipt.DELIVERED)] = Stage.DELIVERED
    stage[receipt == Receipt.DISPLAYED] = Stage.DISPLAYED
    stage[receipt == Receipt.CLICKED] = Stage.CLICKED
    return stage


def causes_of(cells: CellColumns, stage: U8) -> U8:
    """(k,) the code of why each came no further."""
    state = cells.state
    cause: U8 = cells.reason.copy()
    unexplained = cause == Reason.NONE
    cause[unexplained] = _ENDED + state[unexplained]
    is_open = ~IS_FINAL[state]
    cause[is_open] = _OPEN + state[is_open]
    # A reason that a row had on its way says nothing about what its receipt says.
    cause[(stage == Stage.TAKEN) & unexplained] = _NO_RECEIPT
    delivered = stage == Stage.DELIVERED
    cause[delivered] = np.where(cells.is_closed[delivered], int(Reason.NOTIFICATIONS_CLOSED), _NOT_DISPLAYED)
    cause[stage == Stage.DISPLAYED] = _NOT_CLICKED
    cause[stage == Stage.CLICKED] = _NOTHING_LOST
    return cause


def cause_name(code: int) -> str:
    match code:
        case _ if code == _NO_RECEIPT:
            return "no_receipt"
        case _ if code == _NOT_DISPLAYED:
            return "not_displayed"
        case _ if code == _NOT_CLICKED:
            return "not_clicked"
        case _ if code == _NOTHING_LOST:
            return "nothing_lost"
        case _ if code >= _ENDED:
            return State(code - _ENDED).name.lower()
        case _ if code >= _OPEN:
            return State(code - _OPEN).name.lower()
        case _:
            return Reason(code).name.lower()


#: Name -> code of every cause.
CAUSE_CODES: dict[str, int] = {
    cause_name(code): code
    for code in [
        *(_ENDED + state for state in State if IS_FINAL[state]),
        *(_OPEN + state for state in State if not IS_FINAL[state]),
        *(_NO_RECEIPT, _NOT_DISPLAYED, _NOT_CLICKED, _NOTHING_LOST),
        *(int(reason) for reason in Reason if reason),
    ]
}


def cause_of(code: int) -> Cause:
    """Bucket and advice."""
    return _UNDER_WAY if _OPEN <= code < _ENDED else _CAUSES.get(code, _OTHER)


def funnel(cells: CellColumns) -> Funnel:
    """The funnel of the rows in these cells, per channel; lines by stage, the largest first."""
    stage = stages_of(cells)
    cause = causes_of(cells, stage)
    reached: dict[str, list[int]] = {}
    for code in np.unique(cells.channel).tolist():
        here = cells.channel == code
        last = np.bincount(stage[here], weights=cells.rows[here], minlength=len(Stage)).astype(np.int64)
        # Who came further was here, too.
        reached[Channel(code).name.lower()] = last[::-1].cumsum()[::-1].tolist()
    sums: dict[tuple[int, int, int], int] = {}
    for line in zip(cells.channel.tolist(), stage.tolist(), cause.tolist(), cells.rows.tolist(), strict=True):
        sums[line[:3]] = sums.get(line[:3], 0) + line[3]
    lines = [
        LossLine(
            Channel(channel).name.lower(),
            Stage(at),
            cause_name(code),
            cause_of(code).bucket,
            rows,
            _OPEN <= code < _ENDED,
            cause_of(code).advice,
        )
        for (channel, at, code), rows in sums.items()
        if rows and code != _NOTHING_LOST
    ]
    return Funnel(reached, sorted(lines, key=lambda line: (line.stage, -line.rows, line.channel, line.cause)))
