"""Fallback chains: which channel a row goes on to when it has not reached its receiver. Decisions over columns.

    first way (long link, vendor) --not reached by after_s, or finally failed--> step 1 --...--> step 2 ... step 3

Where a row is in its chain follows from the channel that it is at: a channel of the chain is that step, any other is
before the first. So nothing is kept per row beside the page, and a row out of a journal goes on where it was.
A step without a target goes to whichever region of its vendor the device has its token of; such a row is on that step.
A row that its vendor took waits (WAITING, reason FALLBACK) for a receipt as long as a step is left; a receipt ends it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gateway.batch import Batch
from gateway.columns import F64, U8, Bool, Rows, TextColumn
from gateway.content import FALLBACK_STEPS_MAX
from gateway.core.home import Home
from gateway.ledger import CHANNEL_NAMES, Channel, LedgerPage, Reason, Receipt, State
from gateway.regions import VENDOR_OF

#: A row that no chain moves on.
NO_STEP = FALLBACK_STEPS_MAX
#: States in which nobody outside has the row: it may be given to another holder.
_MAY_MOVE: Bool = np.isin(np.arange(len(State)), [State.QUEUED, State.HELD, State.WAITING])


class Chains(NamedTuple):
    """Per variant: channels (v, steps) uint8, 0 where there is no such step; after_s (v, steps) float64, inf there.
    to_devices: as channels, 0 where the step names a target."""

    channels: U8
    after_s: F64
    to_devices: U8


def chains_of(batch: Batch) -> Chains:
    """Made once per batch."""
    if isinstance(batch.chains, Chains):
        return batch.chains
    n = len(batch.variants)
    channels = np.zeros((n, FALLBACK_STEPS_MAX), np.uint8)
    to_devices = np.zeros((n, FALLBACK_STEPS_MAX), np.uint8)
    after_s = np.full((n, FALLBACK_STEPS_MAX), np.inf)
    for row, variant in enumerate(batch.variants):
        for column, step in enumerate(variant.fallback):
            channels[row, column], after_s[row, column] = CHANNEL_NAMES[step.channel], step.after_s
            to_devices[row, column] = 0 if step.target else channels[row, column]
    chains = batch.chains = Chains(channels, after_s, to_devices)
    return chains


def _variant_index(batch: Batch, rows: Rows) -> Rows:
    return np.zeros(len(rows), np.intp) if batch.variant_index is None else batch.variant_index[rows].astype(np.intp)


def steps_taken(page: LedgerPage, rows: Rows) -> U8:
    """(k,) how many steps each row has taken: 0 before the first."""
    chains, index, own = chains_of(page.batch), _variant_index(page.batch, rows), page.channel[rows]
    channels = chains.channels[index]
    is_here = (channels == own[:, None]) & (channels != 0)
    in_region = VENDOR_OF[own] != own
    if in_region.any():
        to_devices = chains.to_devices[index]
        in_region &= ~is_here.any(axis=1)
        is_here |= (to_devices == VENDOR_OF[own][:, None]) & (to_devices != 0) & in_region[:, None]
    return np.where(is_here.any(axis=1), is_here.argmax(axis=1) + 1, 0).astype(np.uint8)


def next_steps(page: LedgerPage, rows: Rows, has_lane: Bool) -> U8:
    """(k,) the next step of each row whose channel the app has, NO_STEP where none is left."""
    chains = chains_of(page.batch)
    channels = chains.channels[_variant_index(page.batch, rows)]
    is_left = (channels != 0) & has_lane[channels]
    is_left &= np.arange(FALLBACK_STEPS_MAX) >= steps_taken(page, rows)[:, None]
    return np.where(is_left.any(axis=1), is_left.argmax(axis=1), NO_STEP).astype(np.uint8)


def step_channels(page: LedgerPage, rows: Rows, steps: U8) -> U8:
    """(k,) the channel of each row's step."""
    channels: U8 = chains_of(page.batch).channels[_variant_index(page.batch, rows), steps]
    return channels


def region_channels(page: LedgerPage, rows: Rows, channels: U8, of_devices: U8, has_lane: Bool) -> U8:
    """(k,) the channels of these rows' steps; that of the device instead, where it is a region of the step's vendor and
    no step of its own. of_devices: (k,), 0 where there is no device."""
    chains, index = chains_of(page.batch), _variant_index(page.batch, rows)
    is_other = (VENDOR_OF[of_devices] == channels) & (of_devices != channels) & has_lane[of_devices]
    is_other &= (chains.to_devices[index] == channels[:, None]).any(axis=1)
    is_other &= ~(chains.channels[index] == of_devices[:, None]).any(axis=1)
    return np.where(is_other, of_devices, channels)


def due_rows(page: LedgerPage, age_s: float, has_lane: Bool) -> tuple[Rows, bool]:
    """Rows of the page, that old, that are to go on now; and whether others would but are with somebody outside."""
    rows = np.flatnonzero((page.state <= State.WAITING) & (page.receipt < Receipt.DELIVERED))
    if page.away is not None:
        rows = rows[page.away[rows] == 0]
    if not len(rows):
        return rows, False
    steps = next_steps(page, rows, has_lane)
    is_left = steps != NO_STEP
    rows, steps = rows[is_left], steps[is_left]
    after_s = chains_of(page.batch).after_s[_variant_index(page.batch, rows), steps]
    rows = rows[after_s <= age_s]
    may_move = _MAY_MOVE[page.state[rows]]
    return rows[may_move], not bool(may_move.all())


def times(batch: Batch) -> list[float]:
    """Seconds after birth at which rows of the batch may be due; each once, in order."""
    after_s = chains_of(batch).after_s
    found: list[float] = np.unique(after_s[np.isfinite(after_s)]).tolist()
    return found


def waits_for_receipt(page: LedgerPage, rows: Rows) -> Bool:
    """(k,) which rows their vendor took and nobody has seen yet."""
    waits: Bool = (page.state[rows] == State.WAITING) & (page.reason[rows] == Reason.FALLBACK)
    return waits


def accept(home: Home, page: LedgerPage, rows: Rows, now: float, channel: Channel, has_lane: Bool) -> None:
    """The vendor took these rows: that is their end, unless a step is left and no receipt came yet."""
    _end(home, page, rows, State.VENDOR_ACCEPTED, Reason.NONE, now, channel, has_lane)


def lose_answer(home: Home, page: LedgerPage, rows: Rows, now: float, channel: Channel, has_lane: Bool) -> None:
    """Nobody knows whether the vendor took these rows; one with a step left waits for a receipt."""
    _end(home, page, rows, State.UNCERTAIN, Reason.NO_ANSWER, now, channel, has_lane)


def _end(
    home: Home, page: LedgerPage, rows: Rows, to: State, reason: Reason, now: float, channel: Channel, has_lane: Bool
) -> None:
    if page.batch.has_fallback and len(rows):
        waits = (next_steps(page, rows, has_lane) != NO_STEP) & (page.receipt[rows] < Receipt.DELIVERED)
        if page.stopped is not None:
            waits &= ~page.stopped[rows]
        home.move(page, rows[waits], State.WAITING, Reason.FALLBACK, now, channel=channel)
        rows = rows[~waits]
    home.move(page, rows, to, reason, now, channel=channel)


class Targets(NamedTuple):
    """k rows whose target is the value of a variable. positions: (k,) into the rows asked for. texts: k."""

    positions: Rows
    texts: TextColumn


def targets(page: LedgerPage, rows: Rows, channel: Channel) -> Targets | None:
    """The targets of rows whose chain names a variable for this channel; None where none does."""
    batch = page.batch
    used, index = np.unique(_variant_index(batch, rows), return_inverse=True)
    chains = [batch.variants[position].fallback for position in used.tolist()]
    names = [next((step.target for step in chain if CHANNEL_NAMES[step.channel] == channel), "") for chain in chains]
    positions, texts = [], []
    for name in sorted(set(names) - {""}):
        column = batch.variables.get(name)
        if column is not None:
            at = np.flatnonzero(np.array([each == name for each in names])[index])
            positions.append(at)
            texts.append(column.take(rows[at]))
    if not positions:
        return None
    return Targets(np.concatenate(positions), TextColumn.concatenate(texts))
