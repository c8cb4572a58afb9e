"""Which rows a vendor's receipts speak of, and what each event does to a row. Decisions over columns.

    receipts of one request --addresses--> Reports (of one batch) --find_rows()--> rows that count --EFFECTS--> the page

A receipt names a token, and the batch keeps a 4-byte hash of the token that each row was sent to: a row is meant when
the hashes agree and the vendor is the one that the row was last given to. A message id as callback parameter names the
row itself; the token must be its own all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gateway import burst_address, message_id
from gateway.columns import I32, I64, U8, U32, Bool, Rows, TextColumn
from gateway.core.devices import DeviceTable
from gateway.core.home import Home
from gateway.core.shadow import ShadowPage
from gateway.ledger import Channel, Flag, LedgerPage, Receipt, State
from gateway.message_id import BatchAddress
from gateway.receipts import Event, VendorReceipt

#: Event -> (receipt that it raises, flags that it sets).
EFFECTS: dict[Event, tuple[Receipt, Flag]] = {
    Event.DELIVERED: (Receipt.DELIVERED, Flag(0)),
    Event.DISPLAYED: (Receipt.DISPLAYED, Flag(0)),
    Event.CLICKED: (Receipt.CLICKED, Flag(0)),
    Event.NOTIFICATIONS_CLOSED: (Receipt.NONE, Flag.NOTIFICATION_CLOSED | Flag.UNDELIVERED),
    Event.TOKEN_DEAD: (Receipt.NONE, Flag.TOKEN_DEAD | Flag.UNDELIVERED),
    Event.TOKEN_MUTED: (Receipt.NONE, Flag.UNDELIVERED),
    Event.QUOTA: (Receipt.NONE, Flag.QUOTA_REACHED | Flag.UNDELIVERED),
    Event.UNDELIVERED: (Receipt.NONE, Flag.UNDELIVERED),
    Event.PENDING: (Receipt.NONE, Flag(0)),
    Event.UNKNOWN: (Receipt.NONE, Flag(0)),
    Event.TOKEN_REPLACED: (Receipt.NONE, Flag(0)),
}
RECEIPTS: U8 = np.array([EFFECTS[event][0] for event in Event], np.uint8)
FLAGS: U8 = np.array([EFFECTS[event][1] for event in Event], np.uint8)
#: Events that speak of the device, not only of the row.
_OF_DEVICES: Bool = np.isin(
    np.arange(len(Event)), [Event.NOTIFICATIONS_CLOSED, Event.TOKEN_DEAD, Event.TOKEN_MUTED, Event.TOKEN_REPLACED]
)
#: Of a report that names a token and no row.
ROW_UNKNOWN = -1
#: Reports of rows whose worker has not said yet that it sent them, which are looked at again; more are about nobody's.
EARLY_REPORTS_MAX = 50_000
#: Up to so many tokens a look through the column for each is cheaper than a table.
_FEW_TOKENS = 4
_MESSAGE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Reports(NamedTuple):
    """n events of rows of one batch, told by one vendor of one app.

    rows: (n,) int32, ROW_UNKNOWN where only the token says which. token_hashes: (n,) uint32. events: (n,) uint8 of
    `Event`. at_unix_ms: (n,) int64.
    """

    rows: I32
    token_hashes: U32
    events: U8
    at_unix_ms: I64

    def take(self, which: Rows | Bool) -> Reports:
        return Reports(self.rows[which], self.token_hashes[which], self.events[which], self.at_unix_ms[which])


class Addressed(NamedTuple):
    """Where receipts belong. by_batch: reports of each batch. counts of tokens: without_address, forged."""

    by_batch: dict[BatchAddress, Reports]
    without_address: int
    forged: int


def read_address(secret: bytes, text: str) -> tuple[BatchAddress, int] | None:
    """Batch and row (or ROW_UNKNOWN) of a callback parameter; None when it is not one of ours."""
    if len(text) == burst_address.TEXT_CHARACTERS:
        burst = burst_address.decode(secret, text)
        return None if burst is None else (burst.batch, ROW_UNKNOWN)
    if _MESSAGE_ID.fullmatch(text) is None:
        return None
    identifier = message_id.from_text(text)
    row = None if identifier is None else message_id.decode(secret, identifier)
    return None if row is None else (row.batch, row.row)


def address(secret: bytes, receipts: Sequence[VendorReceipt], hash_tokens: Callable[[TextColumn], U32]) -> Addressed:
    """Receipts of one vendor of one app, sorted by batch. hash_tokens: as the batches keep them."""
    known: dict[str, tuple[BatchAddress, int] | None] = {}
    parts: dict[BatchAddress, list[int]] = {}
    texts: list[str] = []
    columns: tuple[list[int], list[int], list[int]] = ([], [], [])
    without_address = forged = 0
    for receipt in receipts:
        text = receipt.address
        if text not in known:
            known[text] = read_address(secret, text) if text else None
        found = known[text]
        n = len(receipt.tokens)
        if found is None:
            forged, without_address = (forged + n, without_address) if text else (forged, without_address + n)
            continue
        batch, row = found
        parts.setdefault(batch, []).extend(range(len(texts), len(texts) + n))
        texts.extend(receipt.tokens)
        for column, value in zip(columns, (row, int(receipt.event), receipt.at_unix_ms), strict=True):
            column.extend([value] * n)
    if not texts:
        return Addressed({}, without_address, forged)
    whole = Reports(
        rows=np.array(columns[0], np.int32),
        token_hashes=hash_tokens(TextColumn.from_rows([one.encode("utf-8", "replace") for one in texts])),
        events=np.array(columns[1], np.uint8),
        at_unix_ms=np.array(columns[2], np.int64),
    )
    if len(parts) == 1:
        return Addressed(dict.fromkeys(parts, whole), without_address, forged)
    by_batch = {batch: whole.take(np.array(at, np.intp)) for batch, at in parts.items()}
    return Addressed(by_batch, without_address, forged)


class Found(NamedTuple):
    """k pairs of a report and a row that it is about. reports, rows: (k,). A token that stands in a batch twice gives
    two. missing: reports about no row."""

    reports: Rows
    rows: Rows
    missing: Rows


def find_rows(page: LedgerPage, channel: Channel, reports: Reports) -> Found:
    """The rows that these reports count for: whose target is the token, at that vendor."""
    places = np.flatnonzero((reports.rows >= 0) & (reports.rows < page.n) & (reports.token_hashes != 0))
    named = reports.rows[places].astype(np.intp)
    is_own = (page.token_hashes[named] == reports.token_hashes[places]) & (page.channel[named] == int(channel))
    places, named = places[is_own], named[is_own]
    by_token = np.flatnonzero((reports.rows == ROW_UNKNOWN) & (reports.token_hashes != 0))
    if len(by_token):
        tokens, rows = _rows_of_tokens(page, channel, reports.token_hashes[by_token])
        places, named = np.concatenate([places, by_token[tokens]]), np.concatenate([named, rows])
    is_found = np.zeros(len(reports.rows), np.bool_)
    is_found[places] = True
    return Found(places, named, np.flatnonzero(~is_found))


def _rows_of_tokens(page: LedgerPage, channel: Channel, hashes: U32) -> tuple[Rows, Rows]:
    """(positions in hashes, rows) of equal hashes, in no order."""
    column = page.token_hashes
    distinct, places = np.unique(hashes, return_inverse=True)
    if len(distinct) <= _FEW_TOKENS:
        found = [np.flatnonzero(column == one) for one in distinct]
        rows: Rows = np.concatenate(found)
        kinds = np.repeat(np.arange(len(distinct)), [len(one) for one in found])
    else:
        # A table of the lower halves leaves few candidates: one pass over the column, however many tokens.
        is_wanted = np.zeros(1 << 16, np.bool_)
        is_wanted[distinct & 0xFFFF] = True
        rows = np.flatnonzero(is_wanted[column & np.uint32(0xFFFF)])
        kinds = np.searchsorted(distinct, column[rows])
        is_same = distinct[np.minimum(kinds, len(distinct) - 1)] == column[rows]
        rows, kinds = rows[is_same], kinds[is_same]
    at_vendor = page.channel[rows] == int(channel)
    rows, kinds = rows[at_vendor], kinds[at_vendor]
    if len(distinct) == len(hashes) and len(rows) <= len(hashes):
        # Each token once: the usual request.
        order = np.zeros(len(distinct), np.intp)
        order[places] = np.arange(len(hashes))
        return order[kinds], rows
    pairs = [(np.flatnonzero(places == kind), row) for kind, row in zip(kinds.tolist(), rows.tolist(), strict=True)]
    positions: Rows = np.concatenate([at for at, _ in pairs] or [np.zeros(0, np.intp)])
    repeated: Rows = np.repeat(np.array([row for _, row in pairs], np.intp), [len(at) for at, _ in pairs])
    return positions, repeated


def remember_tokens(page: LedgerPage, channel: Channel, devices: DeviceTable) -> int:
    """After a restart: rows that an earlier process had sent there get the hash of the token that their device has now.
    Returns how many; the page did not keep them in its journal."""
    rows = np.flatnonzero((page.token_hashes == 0) & (page.channel == int(channel)) & (page.state != State.DROPPED))
    if not len(rows):
        return 0
    batch = page.batch
    hashes = devices.token_hashes(devices.find(batch.device_ids.take(rows, axis=0), batch.app))
    if batch.channels is not None and batch.tokens is not None:
        named = np.flatnonzero(batch.channels[rows] == int(channel))
        hashes[named] = devices.hash_tokens(channel, batch.tokens.take(rows[named]), batch.app)
    elif batch.channels is not None and batch.target_hashes is not None:
        named = np.flatnonzero(batch.channels[rows] == int(channel))
        hashes[named] = batch.target_hashes[rows[named]]
    page.token_hashes[rows] = hashes
    return int(np.count_nonzero(hashes))


def add_flags(home: Home, page: LedgerPage, rows: Rows, events: U8, now: float) -> None:
    """Events (k,) of rows, some of them more than once, are known with their time, and the rows have their flags."""
    home.hear(page, rows, events, now)
    flags = FLAGS[events]
    if not ((page.flags[rows] & flags) != flags).any():
        return
    np.bitwise_or.at(page.flags, rows, flags)
    page.note_changes(rows)
    if isinstance(page, ShadowPage):
        page.touch(rows)
        return
    home.counters.touch(page)
    if not page.n_open:
        home.on_done(page)


class DeviceWords(NamedTuple):
    """What receipts say of k devices. device_ids: (k, 16) uint8. token_hashes: (k,) uint32. events: (k,) uint8.
    at_unix_ms: (k,) int64."""

    device_ids: U8
    token_hashes: U32
    events: U8
    at_unix_ms: I64

    def take(self, which: Rows) -> DeviceWords:
        return DeviceWords(self.device_ids[which], self.token_hashes[which], self.events[which], self.at_unix_ms[which])


def device_words(page: LedgerPage, rows: Rows, reports: Reports, channel: Channel, devices: DeviceTable) -> DeviceWords:
    """Those of k rows, each with its report, that speak of devices. A row whose target is a token brings the device of
    this worker that holds it, else zeros; zeros, too, where the page came out of the archive and has no token."""
    which = np.flatnonzero(_OF_DEVICES[reports.events])
    rows, batch = rows[which], page.batch
    ids = batch.device_ids.take(rows, axis=0)
    if len(rows) and batch.channels is not None and batch.tokens is not None:
        named = np.flatnonzero(batch.channels[rows] != 0)
        slots = devices.find_tokens(channel, batch.tokens.take(rows[named]), batch.app)
        ids[named[slots >= 0]] = devices.ids(slots[slots >= 0])
    return DeviceWords(ids, reports.token_hashes[which], reports.events[which], reports.at_unix_ms[which])


def strongest(rows: Rows, receipts: U8) -> list[tuple[Receipt, Rows]]:
    """Each row once, under the highest receipt it was given; NONE too."""
    if not len(rows):
        return []
    order = np.lexsort((receipts, rows))
    rows, receipts = rows[order], receipts[order]
    is_last = np.append(rows[1:] != rows[:-1], True)
    rows, receipts = rows[is_last], receipts[is_last]
    return [(Receipt(code), rows[receipts == code]) for code in np.unique(receipts).tolist()]


#: Columns between workers, in this order: the widest first, so that views stay aligned.
_REPORT_COLUMNS = (("at_unix_ms", "<i8"), ("rows", "<i4"), ("token_hashes", "<u4"), ("events", "u1"))
_WORD_COLUMNS = (("at_unix_ms", "<i8"), ("token_hashes", "<u4"), ("device_ids", "u1"), ("events", "u1"))


def pack_reports(reports: Reports) -> bytes:
    return b"".join(getattr(reports, name).astype(dtype).tobytes() for name, dtype in _REPORT_COLUMNS)


def unpack_reports(body: memoryview) -> Reports:
    """Raises ValueError for a body that is no multiple of a row."""
    return Reports(**_unpack(body, _REPORT_COLUMNS, {}))


def pack_words(words: DeviceWords) -> bytes:
    return b"".join(getattr(words, name).astype(dtype).tobytes() for name, dtype in _WORD_COLUMNS)


def unpack_words(body: memoryview) -> DeviceWords:
    """Raises ValueError for a body that is no multiple of a row."""
    return DeviceWords(**_unpack(body, _WORD_COLUMNS, {"device_ids": 16}))


def _unpack(body: memoryview, columns: Sequence[tuple[str, str]], widths: dict[str, int]) -> dict[str, Any]:
    sizes = {name: np.dtype(dtype).itemsize * widths.get(name, 1) for name, dtype in columns}
    n, rest = divmod(len(body), sum(sizes.values()))
    if rest:
        raise ValueError(f"{len(body)} bytes are no whole rows of {sum(sizes.values())}")
    found: dict[str, Any] = {}
    at = 0
    for name, dtype in columns:
        column = np.frombuffer(body, dtype, n * widths.get(name, 1), at)
        found[name] = column.reshape(n, widths[name]) if name in widths else column
        at += n * sizes[name]
    if n and int(found["events"].max()) >= len(Event):
        raise ValueError(f"event is {int(found['events'].max())}, limit {len(Event) - 1}")
    return found
