"""Revoking: what is done about each row, against a twin that looks at one row at a time; what devices are told."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.core import revoking
from gateway.core.revoking import Outcome
from gateway.ledger import CHANNEL_NAMES, Channel, Flag, LedgerPage, State
from gateway.message_id import BatchAddress, to_text

VARIANTS = [
    Variant("plain", "b", ttl_s=0),
    Variant("slot", "b", collapse_id="one"),
    Variant("silent", "b", action="transmission"),
]
_ON_SCREEN = (State.DEVICE_ACKED, State.VENDOR_ACCEPTED, State.UNCERTAIN, State.IN_FLIGHT)


def plain_outcome(state: int, channel: int, flags: int, variant: Variant, *, has_replacement: bool) -> Outcome:
    # What a vendor can do, it can do in all of its regions.
    channel = CHANNEL_NAMES.get(Channel(channel).name.lower().partition("_")[0], Channel(channel))
    was_seen = bool(flags & (Flag.HANDED_OVER | Flag.RESENT_UNCERTAIN))
    if variant.action != "notification" or not (state in _ON_SCREEN or was_seen) or channel == Channel.NONE:
        return Outcome.NOT_SHOWN
    if has_replacement and variant.collapse_id and (channel == Channel.LONG_LINK or channel in revoking.REPLACING):
        return Outcome.REPLACED
    if channel == Channel.LONG_LINK:
        return Outcome.REVOKED
    if channel not in revoking.REPLACING:
        return Outcome.CANNOT
    return Outcome.NO_COLLAPSE_ID if has_replacement else Outcome.CANNOT


def page_of(rows: list[Any]) -> LedgerPage:
    """rows: (state, channel, flags, variant)."""
    n = len(rows)
    ids = np.arange(16 * n, dtype=np.uint8).reshape(n, 16)
    batch = Batch(
        BatchAddress(1, 2, 3),
        0,
        0.0,
        n,
        device_ids=ids,
        message_ids=ids + np.uint8(7),
        variants=VARIANTS,
        variant_index=np.array([row[3] for row in rows], np.uint16),
        channels=np.array([0] * n, np.uint8),
        tokens=TextColumn.from_rows([b""] * n),
    )
    page = LedgerPage(batch)
    page.state[:], page.channel[:], page.flags[:] = ([row[column] for row in rows] for column in range(3))
    return page


rows = st.tuples(
    st.sampled_from([int(state) for state in State]),
    st.sampled_from([int(channel) for channel in Channel]),
    st.sampled_from([0, int(Flag.HANDED_OVER), int(Flag.RESENT_UNCERTAIN), int(Flag.WAITED_OFFLINE)]),
    st.integers(0, 2),
)


@given(st.lists(rows, min_size=1, max_size=12), st.booleans())
def test_each_row_is_revoked_replaced_or_said_to_stay(made: list[Any], has_replacement: bool) -> None:
    page = page_of(made)
    every = np.arange(page.n)
    chosen = revoking.choose(page, every, has_replacement=has_replacement)
    expected = [
        plain_outcome(state, channel, flags, VARIANTS[variant], has_replacement=has_replacement)
        for state, channel, flags, variant in made
    ]
    assert [Outcome(code) for code in chosen.outcomes.tolist()] == expected
    assert chosen.replaced.tolist() == [row for row in range(page.n) if expected[row] is Outcome.REPLACED]
    on_link = {row for row in range(page.n) if expected[row] is Outcome.REVOKED}
    assert on_link <= set(chosen.told.tolist())
    for row in set(chosen.told.tolist()) - on_link:
        assert made[row][2] == Flag.HANDED_OVER
        assert made[row][1] > Channel.LONG_LINK
    counts = revoking.count(page, every, chosen.outcomes)
    assert counts.sum() == page.n
    for row, outcome in enumerate(expected):
        assert counts[made[row][1], outcome] > 0


def test_devices_are_told_which_message_to_take_back() -> None:
    acked = (State.DEVICE_ACKED, Channel.LONG_LINK, 0)
    page = page_of([(*acked, 1), (*acked, 2), (*acked, 0)])
    chosen = revoking.choose(page, np.arange(3), has_replacement=False)
    assert chosen.told.tolist() == [0, 2]
    made = revoking.revokes(page, chosen.told, 5)
    assert made.source_rows is not None
    assert made.source_rows.tolist() == [5, 6]
    names = made.variables["revokes"].rows()
    assert names == [to_text(page.batch.message_ids[row].tobytes()).encode() for row in (0, 2)]
    assert [(one.action, one.collapse_id, one.ttl_s) for one in made.variants] == [
        ("revoke", "", 7200),
        ("revoke", "one", 7200),
    ]
    assert made.variant_index is not None
    assert made.variant_index.tolist() == [1, 0]
    assert made.device_ids.tolist() == page.batch.device_ids[[0, 2]].tolist()


def test_a_replacement_goes_the_way_of_what_it_replaces() -> None:
    page = page_of([(State.DEVICE_ACKED, Channel.LONG_LINK, 0, 1), (State.VENDOR_ACCEPTED, Channel.APNS, 0, 1)])
    chosen = revoking.choose(page, np.arange(2), has_replacement=True)
    made = revoking.replacements(page, chosen.replaced, 0, Variant("Sorry", "b", strategy=4, collapse_id=""))
    assert made.variant_index is not None
    found = [made.variants[index] for index in made.variant_index.tolist()]
    assert [(one.title, one.collapse_id, one.strategy) for one in found] == [("Sorry", "one", 3), ("Sorry", "one", 2)]
