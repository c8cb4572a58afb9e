"""Rendering for holders: joins the device table's tokens with the renderer, for lanes and for the long link.

A row's token is looked up when it is about to leave, not when it was routed: by then the device may have registered a
newer one, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gateway.columns import Bool, Pieces, Rows
from gateway.core.devices import DeviceTable
from gateway.core.render import Renderer, RequestSource, TokenGroup
from gateway.ledger import Channel, LedgerPage, Reason
from gateway.vendor import Requests


class RenderedBurst(NamedTuple):
    """Rows of a page as requests of one shape. rows: (k,) in the order of the requests. truncated: (k,) bool."""

    rows: Rows
    requests: Requests
    truncated: Bool


class LaneBurst(NamedTuple):
    """All rows of one slice: each in a burst, among the tokenless, or refused with a reason."""

    bursts: list[RenderedBurst]
    tokenless: Rows
    refused: list[tuple[Rows, Reason]]


class LaneRenderer:
    """Requests for one vendor of one app."""

    def __init__(self, *, renderer: Renderer, devices: DeviceTable, vendor: RequestSource, channel: Channel) -> None:
        self._renderer = renderer
        self._devices = devices
        self._vendor = vendor
        self._channel = channel

    def render(self, page: LedgerPage, rows: Rows, authorization: bytes, now_unix_s: float) -> LaneBurst:
        """The requests of these rows; the hash of each row's token stands in the page afterwards."""
        groups = self._tokens(page, rows)
        rendered = self._renderer.render(
            self._vendor, page.batch, rows, groups, authorization=authorization, now_unix_s=now_unix_s
        )
        tokenless = rows[:0]
        if sum(len(group.positions) for group in groups) < len(rows):
            has_token = np.zeros(len(rows), np.bool_)
            for group in groups:
                has_token[group.positions] = True
            tokenless = rows[~has_token]
        return LaneBurst(
            [RenderedBurst(rows[group.positions], group.requests, group.truncated) for group in rendered.groups],
            tokenless,
            [(rows[refused.positions], refused.reason) for refused in rendered.refused],
        )

    def _tokens(self, page: LedgerPage, rows: Rows) -> list[TokenGroup]:
        batch = page.batch
        is_token = None if batch.channels is None else batch.channels[rows] != 0
        if is_token is None or not is_token.any():
            return self._device_tokens(page, rows, np.arange(len(rows)))
        assert batch.tokens is not None
        named = np.flatnonzero(is_token)
        tokens = batch.tokens.take(rows[named])
        page.token_hashes[rows[named]] = self._devices.hash_tokens(self._channel, tokens, batch.app)
        groups = self._device_tokens(page, rows, np.flatnonzero(~is_token))
        fixed = tokens.fixed()
        return [*groups, TokenGroup(named, tokens if fixed is None else fixed)]

    def _device_tokens(self, page: LedgerPage, rows: Rows, positions: Rows) -> list[TokenGroup]:
        """Tokens of the rows whose target is a device. A slot that now belongs to another device counts as none."""
        if not len(positions):
            return []
        wanted = rows if len(positions) == len(rows) else rows[positions]
        groups, hashes = self._devices.take_own_tokens(
            page.slots[wanted], page.batch.device_ids.take(wanted, axis=0), self._channel
        )
        page.token_hashes[wanted] = hashes
        return [TokenGroup(positions[group.positions], group.tokens) for group in groups]


class LinkPayload(NamedTuple):
    """Payloads of the long link for k rows of a page. positions: (k,) into the rows of the call."""

    positions: Rows
    rows: Rows
    payload: Pieces
    truncated: Bool


class LinkRenderer:
    """Payloads of the long link."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def render(
        self, page: LedgerPage, rows: Rows, now_unix_s: float
    ) -> tuple[list[LinkPayload], Sequence[tuple[Rows, Reason]]]:
        """The payloads, in groups of one shape, and the rows that cannot be shown."""
        rendered = self._renderer.render_downlink(page.batch, rows, now_unix_s=now_unix_s)
        return (
            [
                LinkPayload(group.positions, rows[group.positions], group.payload, group.truncated)
                for group in rendered.groups
            ],
            [(rows[refused.positions], refused.reason) for refused in rendered.refused],
        )
