"""Registrations: what `DeviceTable.register` takes and gives, and the checks it makes before it writes anything.

A registration is a whole-state write: what the columns do not say (no token, no alias, no tags) the device does not
have afterwards. A row is registered or refused as a whole; the others go on.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gateway.columns import I32, I64, U8, U32, U64, Bool, TextColumn
from gateway.content import Fault
from gateway.core.details import Details, Profile
from gateway.core.tokens import TOKEN_BYTES_MAX, TokenColumn
from gateway.device_columns import take_texts
from gateway.tag_columns import TagColumns


class Registrations(NamedTuple):
    """n devices of one app, as columns. The caller has checked the form of tokens with the vendor's `check_token`.

    ids: (n, 16). channels: (n,) the vendor's channel code, 0 for a device without one. tokens: empty just where the
    channel is 0. proven_unix_s: (n,) when the vendor last took a message for the token, as far as the caller knows,
    else 0. Texts: UTF-8 columns of n rows, or None when no row has any. tags: the tags of all rows one after the
    other, tag_counts: (n,) how many belong to each row. is_closed: (n,) whose notifications are switched off, None:
    nobody's.
    """

    ids: U8
    channels: U8
    tokens: TextColumn
    proven_unix_s: U32
    platforms: TextColumn | None = None
    app_versions: TextColumn | None = None
    time_zones: TextColumn | None = None
    aliases: TextColumn | None = None
    tag_counts: U32 | None = None
    tags: TextColumn | None = None
    is_closed: Bool | None = None


class Outcome(enum.IntEnum):
    """What became of one row."""

    CREATED = 0
    REPLACED = 1
    #: The same device came again later in the batch; that row holds.
    SUPERSEDED = 2
    REFUSED = 3


class Registered(NamedTuple):
    """outcomes: (n,) uint8 `Outcome`. rows: (n,) int32, -1 where superseded or refused. faults: by position, of the
    refused. n_taken_over: tokens that went from one device to another, the newest registration wins."""

    outcomes: U8
    rows: I32
    faults: dict[int, Fault]
    n_taken_over: int


class TokenPlan(NamedTuple):
    """The tokens of a batch that will be written. positions: (k,) into the batch and the column. token_rows: (k,) taken
    from the store. holders: (k,) the device that has the token now, or -1. keeps: (n,) devices that keep theirs.
    n_lost: tokens that the batch names twice; the later device has it."""

    column: TokenColumn
    positions: I64
    token_rows: U32
    holders: I32
    keeps: Bool
    n_lost: int


class RowPlan:
    """Which rows of a batch will be written. rows: (n,) of known devices, -1 for new ones. is_chosen: (n,)."""

    __slots__ = ("faults", "is_chosen", "rows")

    def __init__(self, rows: I32, faults: dict[int, Fault]) -> None:
        self.rows = rows
        self.faults = faults
        self.is_chosen: Bool = np.ones(len(rows), np.bool_)
        self.is_chosen[list(faults)] = False

    def refuse(self, index: int, fault: Fault) -> None:
        self.faults[index] = fault
        self.is_chosen[index] = False


class DetailsColumns(NamedTuple):
    """Details of n rows. profiles: (n,) numbers. has_any: (n,) whether there is an alias or a tag."""

    profiles: U32
    has_any: Bool
    aliases: TextColumn | None
    tags: TagColumns | None

    def take(self, positions: I64) -> DetailsColumns:
        if len(positions) == len(self.profiles):
            return self
        return DetailsColumns(
            self.profiles[positions],
            self.has_any[positions],
            None if self.aliases is None else take_texts(self.aliases, positions),
            None if self.tags is None else self.tags.take(positions),
        )


def form_faults(batch: Registrations) -> dict[int, Fault]:
    """Faults that need no knowledge of the table, by position. Raises ValueError for columns of different length."""
    n = len(batch.ids)
    texts = (batch.tokens, batch.platforms, batch.app_versions, batch.time_zones, batch.aliases)
    n_rows = [len(batch.channels), len(batch.proven_unix_s), *[len(column) for column in texts if column is not None]]
    n_rows += [] if batch.is_closed is None else [len(batch.is_closed)]
    if batch.ids.shape != (n, 16) or any(count != n for count in n_rows):
        raise ValueError("the columns of a registration differ in length")
    if (batch.tags is None) != (batch.tag_counts is None):
        raise ValueError("tags and tag_counts come together")
    if batch.tag_counts is not None and batch.tags is not None:
        is_whole = len(batch.tag_counts) == n and int(batch.tag_counts.sum(dtype=np.int64)) == len(batch.tags)
        if not is_whole:
            raise ValueError("tag_counts do not add up to the tags")
    lengths = batch.tokens.lengths()
    faults: dict[int, Fault] = {}
    for index in np.flatnonzero((lengths == 0) & (batch.channels != 0)).tolist():
        faults[index] = Fault("token", "token is empty, and a channel is given")
    for index in np.flatnonzero((lengths != 0) & (batch.channels == 0)).tolist():
        faults[index] = Fault("channel", "channel is missing, and a token is given")
    for index in np.flatnonzero(lengths > TOKEN_BYTES_MAX).tolist():
        faults[index] = Fault("token", f"token is {lengths[index]} bytes, limit {TOKEN_BYTES_MAX}")
    return faults


def earlier_of_equal(hashes: U64, is_chosen: Bool, key_of: Callable[[int], bytes]) -> Bool:
    """(n,) true where a chosen row is followed by another chosen one with the same key.

    hashes: (n,) of the keys. Almost always all differ, and one sort shows it; keys are only read where they do not.
    """
    is_earlier = np.zeros(len(hashes), np.bool_)
    chosen = np.flatnonzero(is_chosen)
    order = chosen[np.argsort(hashes[chosen], kind="stable")]
    is_equal = hashes[order[1:]] == hashes[order[:-1]]
    if not is_equal.any():
        return is_earlier
    suspects = np.union1d(order[1:][is_equal], order[:-1][is_equal])
    last: dict[bytes, int] = {}
    for index in suspects.tolist():
        key = key_of(index)
        if key in last:
            is_earlier[last[key]] = True
        last[key] = index
    return is_earlier


def plan_details(details: Details, app_index: int, batch: Registrations, plan: RowPlan) -> DetailsColumns:
    """The details of all rows; refuses those that pass a limit. Costs a look at each profile."""
    n = len(batch.ids)
    numbers = np.zeros(n, np.uint32)
    profiles = (batch.platforms, batch.app_versions, batch.time_zones)
    if any(column is not None and column.blob for column in profiles):
        texts = [[b""] * n if column is None else column.rows() for column in profiles]
        known = details.profiles.known(zip(*texts, strict=True))
        np.maximum(known, 0, out=numbers, casting="unsafe")
        for index in np.flatnonzero((known < 0) & plan.is_chosen).tolist():
            number = details.profiles.number(Profile(*[column[index] for column in texts]))
            if isinstance(number, Fault):
                plan.refuse(index, number)
            else:
                numbers[index] = number
    has_alias = np.zeros(n, np.bool_) if batch.aliases is None else batch.aliases.lengths() > 0
    has_tags = np.zeros(n, np.bool_) if batch.tag_counts is None else batch.tag_counts > 0
    aliases = batch.aliases if has_alias.any() else None
    tags = _tag_columns(batch) if has_tags.any() else None
    columns = DetailsColumns(numbers, has_alias | has_tags, aliases, tags)
    asked = np.flatnonzero(columns.has_any & plan.is_chosen)
    if len(asked):
        some = columns.take(asked)
        for position, fault in details.plan().faults(plan.rows[asked], app_index, some.aliases, some.tags):
            plan.refuse(int(asked[position]), fault)
    return columns


def _tag_columns(batch: Registrations) -> TagColumns:
    """The tags of all rows; equal texts stand there as often as they came."""
    assert batch.tags is not None
    assert batch.tag_counts is not None
    return TagColumns(batch.tag_counts, np.arange(len(batch.tags), dtype=np.uint32), batch.tags)
