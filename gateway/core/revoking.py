"""Revoking: which devices may show a message, and what can be done about it there. Decisions over columns.

    went over the long link     a revoke goes after it, which names the message: its app takes it back
    went to a vendor            no vendor's fact sheet tells how a shown notification is taken back (Xiaomi has a call
                                by notify_id whose parameters we do not know), so: nothing. With another content it is
                                *replaced*, where the message had a collapse id: the vendor's own replacement key
    never shown                 nothing to do

Replacement by collapse id, where it was read: APNs apns-collapse-id, FCM tag, Huawei notify_id, HarmonyOS and Honor
notifyId, Xiaomi and OPPO notify_id, vivo notifyId, Meizu notifyKey (vendors-international.md section 7, point 3, and
vendors-china.md, table "side by side", row "collapse").
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np

from gateway.batch import Batch, Submission
from gateway.columns import I64, U8, U16, Bool, Rows, TextColumn, uuid_text
from gateway.content import LONG_LINK_ONLY, TTL_S_DEFAULT, Variant
from gateway.ledger import Channel, Flag, LedgerPage, State
from gateway.regions import vendor_channel

#: Vendors that show a message in the place of the one before it of the same collapse id.
REPLACING = frozenset(
    {
        Channel.APNS,
        Channel.FCM,
        Channel.HUAWEI,
        Channel.HARMONY,
        Channel.HONOR,
        Channel.XIAOMI,
        Channel.OPPO,
        Channel.VIVO,
        Channel.MEIZU,
    }
)
_REPLACES: Bool = np.array([vendor_channel(channel) in REPLACING for channel in Channel], np.bool_)
#: The variable that names the message to take back.
_NAME = "revokes"
_UUID_BYTES = 36
_VENDOR_ONLY = 2


class Outcome(enum.IntEnum):
    """What a revoke does about a row."""

    #: It went out nowhere, or shows nothing.
    NOT_SHOWN = 0
    #: Its device is told to take it back.
    REVOKED = 1
    #: Another content goes to its place.
    REPLACED = 2
    #: Its channel offers no way.
    CANNOT = 3
    #: It could be replaced if it had a collapse id.
    NO_COLLAPSE_ID = 4


#: (states,) bool: the row may be on a screen.
_SHOWN: Bool = np.array(
    [state in (State.DEVICE_ACKED, State.VENDOR_ACCEPTED, State.UNCERTAIN, State.IN_FLIGHT) for state in State],
    np.bool_,
)
_SEEN = np.uint8(Flag.HANDED_OVER | Flag.RESENT_UNCERTAIN)


class Chosen(NamedTuple):
    """outcomes: (k,) uint8 `Outcome` of each row asked about. told: rows whose devices get a revoke over the long link.
    replaced: rows that get the other content, over the channel that they went by."""

    outcomes: U8
    told: Rows
    replaced: Rows


def choose(page: LedgerPage, rows: Rows, *, has_replacement: bool) -> Chosen:
    """What is done about the rows."""
    batch = page.batch
    shows = batch.of_contents(rows, lambda variant: variant.action == "notification", np.bool_)
    collapses = batch.of_contents(rows, lambda variant: bool(variant.collapse_id), np.bool_)
    channels, flags = page.channel[rows], page.flags[rows]
    was_seen = (flags & _SEEN) != 0
    is_shown = shows & (_SHOWN[page.state[rows]] | was_seen)
    on_link = is_shown & (channels == Channel.LONG_LINK)
    at_vendor = is_shown & (channels > Channel.LONG_LINK)
    replaceable = _REPLACES[channels] | on_link
    if batch.channels is not None and batch.tokens is None:
        # A page out of the archive has no tokens: nothing can be sent to these.
        replaceable &= batch.channels[rows] == 0
    outcomes = np.full(len(rows), Outcome.NOT_SHOWN, np.uint8)
    outcomes[on_link] = Outcome.REVOKED
    outcomes[at_vendor] = Outcome.CANNOT
    if has_replacement:
        outcomes[is_shown & replaceable & collapses] = Outcome.REPLACED
        outcomes[at_vendor & replaceable & ~collapses] = Outcome.NO_COLLAPSE_ID
    # A row that left the long link unacknowledged may be shown by the app as well as by the vendor.
    told = (outcomes == Outcome.REVOKED) | (at_vendor & ((flags & Flag.HANDED_OVER) != 0))
    if batch.channels is not None:
        told &= batch.channels[rows] == 0
    return Chosen(outcomes, rows[told], rows[outcomes == Outcome.REPLACED])


def count(page: LedgerPage, rows: Rows, outcomes: U8) -> I64:
    """(channels, outcomes) rows of each."""
    shape = (len(Channel), len(Outcome))
    pairs = page.channel[rows].astype(np.intp) * len(Outcome) + outcomes
    counts: I64 = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    return counts


def revokes(page: LedgerPage, rows: Rows, first: int) -> Submission:
    """What tells the devices of these rows. first: position of the first of them in the task that it becomes."""
    used, variant_index = _used(page.batch, rows)
    variants = [
        Variant(
            title="",
            body="",
            action="revoke",
            collapse_id=variant.collapse_id,
            ttl_s=variant.ttl_s or TTL_S_DEFAULT,
            data={_NAME: "{{" + _NAME + "}}"},
        )
        for variant in used
    ]
    ids = uuid_text(np.ascontiguousarray(page.batch.message_ids[rows]))
    names = TextColumn(ids.tobytes(), np.arange(len(rows) + 1, dtype=np.uint32) * np.uint32(_UUID_BYTES))
    return _submission(page.batch, rows, first, variants, variant_index, {_NAME: names})


def replacements(page: LedgerPage, rows: Rows, first: int, content: Variant) -> Submission:
    """The other content for these rows, each over the channel that it went by. first: as in `revokes`."""
    used, variant_index = _used(page.batch, rows)
    is_vendor = page.channel[rows] > Channel.LONG_LINK
    fields = {name: getattr(content, name) for name in content.__struct_fields__}
    variants = [
        Variant(**(fields | {"collapse_id": variant.collapse_id, "strategy": strategy}))
        for strategy in (LONG_LINK_ONLY, _VENDOR_ONLY)
        for variant in used
    ]
    base = np.zeros(len(rows), np.uint16) if variant_index is None else variant_index
    index: U16 = base + is_vendor.astype(np.uint16) * np.uint16(len(used))
    return _submission(page.batch, rows, first, variants, index, {})


def _used(batch: Batch, rows: Rows) -> tuple[list[Variant], U16 | None]:
    """The contents of the rows, and which each has."""
    if batch.variant_index is None:
        return [batch.variants[0]], None
    used, index = np.unique(batch.variant_index[rows], return_inverse=True)
    return [batch.variants[position] for position in used.tolist()], index.reshape(-1).astype(np.uint16)


def _submission(
    batch: Batch,
    rows: Rows,
    first: int,
    variants: list[Variant],
    variant_index: U16 | None,
    variables: dict[str, TextColumn],
) -> Submission:
    return Submission(
        request_id="",
        variants=variants,
        n=len(rows),
        source_rows=np.arange(first, first + len(rows), dtype=np.uint32),
        device_ids=np.ascontiguousarray(batch.device_ids[rows]),
        channels=None if batch.channels is None or batch.tokens is None else batch.channels[rows],
        tokens=None if batch.tokens is None else batch.tokens.take(rows),
        variant_index=variant_index,
        variables=variables,
        duplicates=None,
        faults=(),
    )
