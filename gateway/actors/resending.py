"""Resending: rows in flight whose devices came back to their sessions are rendered again and go to the long link.

Part of the router, which owns it; nothing here waits. The long link keeps no payload: what it resends is made anew,
with what is left of each row's life.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import trio

from gateway.actors.rendering import LinkRenderer
from gateway.clock import Clock
from gateway.columns import I32, U8, U16, U32, Bool, Pieces, Rows, TextColumn, join
from gateway.core.lifetimes import seconds_left
from gateway.ledger import Channel, LedgerPage, State


class Resent(NamedTuple):
    """Rows of one page that are to be sent again. positions: where each stands among all that are."""

    page: LedgerPage
    rows: Rows
    positions: Rows


class RedeliverPort(Protocol):
    """What is needed of the long link."""

    def redeliver(
        self,
        fds: I32,
        device_ids: U8,
        packet_ids: U16,
        payload: Pieces,
        now: float,
        expiry_s: Callable[[Rows], U32] | None = None,
    ) -> Bool: ...


class Resending:
    """hand_over: rows that could not go pass to their next holder, as if their socket had been silent."""

    def __init__(
        self,
        renderer: LinkRenderer,
        clock: Clock,
        link: Callable[[], RedeliverPort],
        hand_over: Callable[[LedgerPage, Rows], None],
    ) -> None:
        self._renderer = renderer
        self._clock = clock
        self._link = link
        self._hand_over = hand_over

    def redeliver(self, parts: Sequence[Resent], fds: I32, packet_ids: U16) -> Bool:
        """The rows go again, in one call and in the order of the columns; (n,) true where they did. They stay in
        flight. For a few rows at a time: each may belong to another batch.
        """
        n = len(fds)
        payloads: list[bytes | None] = [None] * n
        ids, left = np.zeros((n, 16), np.uint8), np.zeros(n, np.uint32)
        now = self._clock.monotonic()
        for page, rows, positions in parts:
            batch = page.batch
            ids[positions], left[positions] = batch.device_ids[rows], seconds_left(batch, rows, now)
            held = np.flatnonzero(page.are(rows, State.IN_FLIGHT, Channel.LONG_LINK))
            groups, _ = self._renderer.render(page, rows[held], batch.born_unix_ms / 1000 + now - batch.born)
            for group in groups:
                at = positions[held[group.positions]].tolist()
                for position, payload in zip(at, join(group.payload, 0, len(at)), strict=True):
                    payloads[position] = payload
        chosen = np.array([position for position in range(n) if payloads[position] is not None], np.intp)
        texts = TextColumn.from_rows([payload for payload in payloads if payload is not None])
        is_sent = np.zeros(n, np.bool_)
        if len(chosen):
            lives = left[chosen]
            is_sent[chosen] = self._link().redeliver(
                fds[chosen], ids[chosen], packet_ids[chosen], (texts,), trio.current_time(), lambda rows: lives[rows]
            )
        for page, rows, positions in parts:
            self._hand_over(page, rows[~is_sent[positions]])
        return is_sent
