"""From the columns of a `register_devices` call to those of the device table, and cuts of them that fit a step."""

from __future__ import annotations

import numpy as np

from gateway.columns import TextColumn
from gateway.core.registration import Registrations
from gateway.wire.rpc.registration import Registration


def registrations(registration: Registration) -> Registrations:
    """The wire's columns as the device table takes them: tags of all rows one after the other."""
    n = registration.n
    tags = tag_counts = None
    if registration.tags is not None:
        lists = [row.split(b"\n") if row else [] for row in registration.tags.rows()]
        tag_counts = np.fromiter(map(len, lists), np.uint32, n)
        tags = TextColumn.from_rows([tag for row in lists for tag in row])
    return Registrations(
        ids=registration.device_ids,
        channels=np.zeros(n, np.uint8) if registration.channels is None else registration.channels,
        tokens=_empty(n) if registration.tokens is None else registration.tokens,
        proven_unix_s=np.zeros(n, np.uint32) if registration.proven_unix_s is None else registration.proven_unix_s,
        platforms=registration.platform,
        app_versions=registration.app_version,
        time_zones=registration.time_zone,
        aliases=registration.alias,
        tag_counts=tag_counts,
        tags=tags,
        is_closed=None if registration.notifications_closed is None else registration.notifications_closed != 0,
    )


def _empty(n: int) -> TextColumn:
    return TextColumn(b"", np.zeros(n + 1, np.uint32))


def cut(columns: Registrations, first: int, stop: int) -> Registrations:
    """Rows first..stop of all columns."""
    rows = np.arange(first, stop)

    def text(column: TextColumn | None) -> TextColumn | None:
        return None if column is None else column.take(rows)

    tags = columns.tags
    if tags is not None and columns.tag_counts is not None:
        ends = np.concatenate([[0], np.cumsum(columns.tag_counts, dtype=np.int64)])
        tags = tags.take(np.arange(int(ends[first]), int(ends[stop])))
    return Registrations(
        ids=columns.ids[first:stop],
        channels=columns.channels[first:stop],
        tokens=columns.tokens.take(rows),
        proven_unix_s=columns.proven_unix_s[first:stop],
        platforms=text(columns.platforms),
        app_versions=text(columns.app_versions),
        time_zones=text(columns.time_zones),
        aliases=text(columns.aliases),
        tag_counts=None if columns.tag_counts is None else columns.tag_counts[first:stop],
        tags=tags,
        is_closed=None if columns.is_closed is None else columns.is_closed[first:stop],
    )
