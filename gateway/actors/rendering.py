"""Rendering for holders: joins the device table's tokens with the renderer, for lanes and for the long link.

A row's token is looked up when it is about to leave, not when it was routed: by then the device may have registered a
newer one, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from gateway.actors.consents import Admitted
from gateway.columns import F64, U32, Bool, Pieces, Rows, TextColumn
from gateway.core.devices import DeviceTable
from gateway.core.fallback import Targets, targets
from gateway.core.render import Renderer, RequestSource, TokenGroup
from gateway.core.render_bulk import merged, rounds
from gateway.core.target_paces import TargetPaces
from gateway.ledger import Channel, LedgerPage, Reason
from gateway.vendor import Requests

_NO_ROWS: Rows = np.zeros(0, np.intp)


class RenderedBurst(NamedTuple):
    """Rows of a page as requests of one shape. rows: (k,) in the order of the requests. truncated: (k,) bool.

    Positions count requests, which carry one row each unless `requests.bulk` says otherwise.
    """

    rows: Rows
    requests: Requests
    truncated: Bool

    def rows_before(self, request: int) -> int:
        """How many of the rows go in requests before this one."""
        bulk = self.requests.bulk
        return request if bulk is None else int(bulk.offsets[request])


class PacedRows(NamedTuple):
    """Rows whose target has had its share for now. wait_s: (k,) until it may have each."""

    rows: Rows
    wait_s: F64


class LaneBurst(NamedTuple):
    """All rows of one slice: in a burst, among the tokenless, the unproven or the paced, or refused with a reason."""

    bursts: list[RenderedBurst]
    tokenless: Rows
    refused: list[tuple[Rows, Reason]]
    unproven: Rows
    paced: PacedRows | None = None


class Gate(Protocol):
    """Who says which rows may go; see `actors/consents.py`."""

    def admit(self, page: LedgerPage, rows: Rows, groups: list[TokenGroup]) -> Admitted: ...


class LaneRenderer:
    """Requests for one vendor of one app. gate: rows that it bars are refused with reason `no_consent`.

    check_token: what is wrong with a target of this vendor, "" where nothing is. needs_proof: rows whose token is
    unproven are not rendered but named: they are to go over a probe connection (core/probing.py). They are told
    apart here because here each device's record is at hand anyway. paces: of a vendor that bounds what one target gets.
    """

    def __init__(
        self,
        *,
        renderer: Renderer,
        devices: DeviceTable,
        vendor: RequestSource,
        channel: Channel,
        needs_proof: bool = False,
        check_token: Callable[[str], str] = lambda _token: "",
        gate: Gate | None = None,
        paces: TargetPaces | None = None,
    ) -> None:
        self._renderer = renderer
        self._devices = devices
        self._vendor = vendor
        self._channel = channel
        self._needs_proof = needs_proof
        self._check_token = check_token
        self._gate = gate
        self._paces = paces
        self._is_bulk: bool = getattr(vendor, "is_bulk", False)

    def render(self, page: LedgerPage, rows: Rows, authorization: bytes, now_unix_s: float) -> LaneBurst:
        """The requests of these rows; the hash of each row's token stands in the page afterwards."""
        groups, unproven = self._divide(*self._tokens(page, rows))
        paced = None
        if self._paces is not None:
            rows, groups, paced = _pace(self._paces, page, rows, groups, now_unix_s)
        n_targets = sum(len(group.positions) for group in groups)
        barred = waiting = _NO_ROWS
        if self._gate is not None and groups:
            groups, barred, waiting, wait_s = self._gate.admit(page, rows, groups)
            if len(waiting):
                paced = _with_paced(paced, PacedRows(rows[waiting], np.full(len(waiting), wait_s)))
        if self._is_bulk and groups:
            groups = _for_lists(groups, page.token_hashes[rows])
        rendered = self._renderer.render(
            self._vendor, page.batch, rows, groups, authorization=authorization, now_unix_s=now_unix_s
        )
        tokenless = rows[:0]
        if n_targets + len(unproven) < len(rows):
            has_token = np.zeros(len(rows), np.bool_)
            has_token[unproven] = True
            has_token[barred] = has_token[waiting] = True
            for group in groups:
                has_token[group.positions] = True
            tokenless = rows[~has_token]
        return LaneBurst(
            [RenderedBurst(rows[group.positions], group.requests, group.truncated) for group in rendered.groups],
            tokenless,
            [(rows[refused.positions], refused.reason) for refused in rendered.refused]
            + ([(rows[barred], Reason.NO_CONSENT)] if len(barred) else []),
            rows[unproven],
            paced,
        )

    def _divide(self, groups: list[TokenGroup], proven_unix_s: U32) -> tuple[list[TokenGroup], Rows]:
        """The groups without unproven tokens, and the positions of those, in order."""
        if not self._needs_proof or proven_unix_s.all():
            return groups, _NO_ROWS
        is_proven = proven_unix_s != 0
        kept = [(group, is_proven[group.positions]) for group in groups]
        unproven = [group.positions[~proven] for group, proven in kept]
        chosen = [_part(group, proven) for group, proven in kept if proven.any()]
        return chosen, np.sort(np.concatenate([_NO_ROWS, *unproven]))

    def _tokens(self, page: LedgerPage, rows: Rows) -> tuple[list[TokenGroup], U32]:
        """Tokens of the rows, by group, and (k,) since when each row's is proven, 0: it is not."""
        batch = page.batch
        if batch.has_fallback and (chosen := targets(page, rows, self._channel)) is not None:
            return self._chosen_tokens(page, rows, chosen)
        return self._own_tokens(page, rows)

    def _chosen_tokens(self, page: LedgerPage, rows: Rows, chosen: Targets) -> tuple[list[TokenGroup], U32]:
        """The same where the fallback chain of some rows names their targets. One that is none of this vendor's is as
        good as absent."""
        good = np.array([bool(text) and not self._check_target(text) for text in chosen.texts.rows()], np.bool_)
        kept, texts = chosen.positions[good], chosen.texts.take(np.flatnonzero(good))
        page.token_hashes[rows[kept]] = self._devices.hash_tokens(self._channel, texts, page.batch.app)
        proven_unix_s = np.ones(len(rows), np.uint32)
        others = np.setdiff1d(np.arange(len(rows)), chosen.positions)
        groups, proven_unix_s[others] = self._own_tokens(page, rows[others])
        moved = [TokenGroup(others[group.positions], group.tokens) for group in groups]
        fixed = texts.fixed()
        return [*moved, TokenGroup(kept, texts if fixed is None else fixed)] if len(kept) else moved, proven_unix_s

    def _check_target(self, text: bytes) -> str:
        try:
            return self._check_token(text.decode("ascii"))
        except UnicodeDecodeError:
            return "not ASCII"

    def _own_tokens(self, page: LedgerPage, rows: Rows) -> tuple[list[TokenGroup], U32]:
        batch = page.batch
        if not len(rows):
            return [], np.zeros(0, np.uint32)
        is_token = None if batch.channels is None else batch.channels[rows] != 0
        if is_token is None or not is_token.any():
            return self._device_tokens(page, rows, np.arange(len(rows)))
        assert batch.tokens is not None
        named = np.flatnonzero(is_token)
        tokens = batch.tokens.take(rows[named])
        page.token_hashes[rows[named]] = self._devices.hash_tokens(self._channel, tokens, batch.app)
        others = np.flatnonzero(~is_token)
        groups, others_proven = self._device_tokens(page, rows, others)
        proven_unix_s = np.zeros(len(rows), np.uint32)
        proven_unix_s[others] = others_proven
        if self._needs_proof:
            proven_unix_s[named] = self._devices.are_proven(self._channel, tokens, batch.app)
        fixed = tokens.fixed()
        return [*groups, TokenGroup(named, tokens if fixed is None else fixed)], proven_unix_s

    def _device_tokens(self, page: LedgerPage, rows: Rows, positions: Rows) -> tuple[list[TokenGroup], U32]:
        """The same for rows whose target is a device; (k,) of these positions. A slot that now belongs to another
        device counts as none."""
        if not len(positions):
            return [], np.zeros(0, np.uint32)
        wanted = rows if len(positions) == len(rows) else rows[positions]
        ids = page.batch.device_ids.take(wanted, axis=0)
        found = self._devices.take_own_tokens(page.slots[wanted], ids, self._channel)
        page.token_hashes[wanted] = found.hashes
        return [TokenGroup(positions[group.positions], group.tokens) for group in found.groups], found.proven_unix_s


def _part(group: TokenGroup, which: Bool) -> TokenGroup:
    """The rows of the group that are chosen."""
    tokens = group.tokens
    chosen = tokens.take(np.flatnonzero(which)) if isinstance(tokens, TextColumn) else tokens[which]
    return TokenGroup(group.positions[which], chosen)


def _pace(
    paces: TargetPaces, page: LedgerPage, rows: Rows, groups: list[TokenGroup], now_unix_s: float
) -> tuple[Rows, list[TokenGroup], PacedRows | None]:
    """The rows that are not to wait for their target, with their groups, and those that are."""
    wait_s = np.zeros(len(rows))
    for group in groups:
        wait_s[group.positions] = paces.take(page.token_hashes[rows[group.positions]], now_unix_s)
    may_leave = wait_s <= 0
    if may_leave.all():
        return rows, groups, None
    places = np.cumsum(may_leave) - 1
    parts = [_part(group, may_leave[group.positions]) for group in groups]
    left = [part._replace(positions=places[part.positions]) for part in parts if len(part.positions)]
    return rows[may_leave], left, PacedRows(rows[~may_leave], wait_s[~may_leave])


def _with_paced(first: PacedRows | None, second: PacedRows) -> PacedRows:
    if first is None:
        return second
    return PacedRows(np.concatenate([first.rows, second.rows]), np.concatenate([first.wait_s, second.wait_s]))


def _for_lists(groups: list[TokenGroup], hashes: U32) -> list[TokenGroup]:
    """The groups as one, so that lists are filled across lengths; apart where a token comes again."""
    whole = groups[0] if len(groups) == 1 else TokenGroup(*merged(groups))
    parts = rounds(hashes[whole.positions])
    if len(parts) == 1:
        return [whole]
    tokens = whole.tokens
    return [
        TokenGroup(
            whole.positions[part], tokens.take(part) if isinstance(tokens, TextColumn) else tokens.take(part, axis=0)
        )
        for part in parts
    ]


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
