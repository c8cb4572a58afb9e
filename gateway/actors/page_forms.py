"""Ledger pages as the archive takes them: whole, or the rows that changed since it got them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import trio

from gateway.batch import Batch, OwnershipEpoch, continued_tasks
from gateway.columns import U8, U32, TextColumn
from gateway.core.lifetimes import lifetime_s, row_deadlines
from gateway.ledger import LedgerPage, State
from gateway.store.page_changes import PAST_BYTES, ROW_BYTES, encode_changes
from gateway.store.pages import archived_copy, page_parts
from gateway.store.ports import ArchivedPage, LedgerArchive, PageChanges, PageKey
from gateway.tally import PageTally

#: Pages of fewer rows are written whole: 20 KB at most, and the archive's database has blocks of 32 KiB.
AMENDED_ROWS_MIN = 1024
#: Records of a page; the next one says all that they say. Whoever reads the page applies them, at some 20 us each.
RECORDS_MAX = 32
#: Bytes of them per row of the page, which is a fifth of what the page itself takes; beyond it the page is written.
LOG_BYTES_PER_ROW_MAX = 4
#: Targets hashed in one step of the loop.
_HASH_ROWS = 4096

#: Keyed hashes of tokens: their channels (n,), the texts, the app. `DeviceTable.hash_tokens`.
HashTokens: TypeAlias = Callable[[U8, TextColumn, int], U32]

#: What an archive is to be told of a page.
PageForm: TypeAlias = ArchivedPage | PageChanges


def is_archived(page: LedgerPage) -> bool:
    """The archive has it as it is, and the journal knows."""
    return page.is_saved and (page.trail is None or page.trail.is_blank)


def may_amend(page: LedgerPage) -> bool:
    """It is enough to write what has changed since the archive got the page."""
    copy = page.archived
    if copy is None or not copy.is_durable or page.n < AMENDED_ROWS_MIN:
        return False
    if copy.has_texts and not page.n_open:
        # The texts of rows that have ended go now.
        return False
    in_place = copy.records >= RECORDS_MAX
    if in_place and page.here is not None:
        # Nobody here knows of all that is in them.
        return False
    size = 0 if in_place else copy.log_bytes
    return size + _changed_bytes(page, since_page=in_place) <= LOG_BYTES_PER_ROW_MAX * page.n


def _changed_bytes(page: LedgerPage, *, since_page: bool) -> int:
    """What a record takes at most, without its bursts, which take less than their rows."""
    copy, history = page.archived, page.history
    assert copy is not None
    first_past = copy.past if since_page else copy.past_logged
    n_past = 0 if history is None else history.n - first_past
    return ROW_BYTES * len(copy.changed(since_page=since_page)) + PAST_BYTES * n_past


def page_form(page: LedgerPage, tally: PageTally) -> PageForm:
    """The page, or its changes where those are enough. tally: what it adds to the counters."""
    return changes_form(page, tally) if may_amend(page) else archived_form(page, tally)


def archived_form(page: LedgerPage, tally: PageTally) -> ArchivedPage:
    """The page as it is now; what of it may change is copied. tally: what it adds to the counters.

    It is not the archive's before `page.archived.is_durable` is set.
    """
    batch = page.batch
    held, deadline_unix_ms = _held(page)
    has_texts = bool(batch.variables) and bool(page.n_open)
    page.archived = archived_copy(page, has_texts=has_texts) if page.n >= AMENDED_ROWS_MIN else None
    return ArchivedPage(
        key=PageKey(batch.address.unix_ms, batch.address.sequence),
        app=batch.app,
        rows=page.n,
        device_ids=batch.device_ids,
        long_tasks=continued_tasks(batch),
        parts=page_parts(page),
        held=held,
        deadline_unix_ms=deadline_unix_ms,
        tally=tally,
    )


def changes_form(page: LedgerPage, tally: PageTally) -> PageChanges:
    """What has changed since the archive got the page; as `archived_form`."""
    batch, copy = page.batch, page.archived
    assert copy is not None
    in_place = copy.records >= RECORDS_MAX
    rows = copy.changed(since_page=in_place)
    past, bursts = (copy.past, copy.bursts) if in_place else (copy.past_logged, copy.bursts_logged)
    record = encode_changes(page, rows, past, bursts)
    n_past = 0 if page.history is None else page.history.n
    copy.logged(rows, n_past, len(page.bursts), len(record), since_page=in_place)
    copy.is_durable = False
    held, deadline_unix_ms = _held(page)
    return PageChanges(
        key=PageKey(batch.address.unix_ms, batch.address.sequence),
        app=batch.app,
        record=record,
        in_place=in_place,
        held=held,
        deadline_unix_ms=deadline_unix_ms,
        tally=tally,
    )


async def put_forms(
    store: LedgerArchive, epoch: OwnershipEpoch, forms: Sequence[tuple[LedgerPage, int, PageForm]]
) -> list[tuple[LedgerPage, int, PageForm]]:
    """Those of the forms that are in the archive: all but changes of pages that retention has deleted meanwhile, which
    are to be written whole. Raises StoreError."""
    missing: set[PageKey] = set()
    if whole := [form for _, _, form in forms if isinstance(form, ArchivedPage)]:
        await store.write(epoch, whole)
    if changes := [form for _, _, form in forms if isinstance(form, PageChanges)]:
        missing = await store.amend(epoch, changes)
    there = [one for one in forms if one[2].key not in missing]
    for page, _, _ in there:
        if page.archived is not None:
            page.archived.is_durable = True
    return there


def _held(page: LedgerPage) -> tuple[int, int]:
    """How many rows wait in the inbox, and when the first of them is over; of a page of which a few rows are here, when
    it may be."""
    if page.here is not None:
        over_s = min(lifetime_s(variant) for variant in page.batch.variants)
        return int(page.counts[State.HELD]), page.batch.born_unix_ms + int(over_s * 1000)
    held = np.flatnonzero(page.state == State.HELD)
    over_s = float(row_deadlines(page.batch, held).min()) - page.batch.born if len(held) else 0.0
    return len(held), page.batch.born_unix_ms + int(over_s * 1000)


async def hash_targets(batch: Batch, hash_tokens: HashTokens) -> None:
    """The archive gets no tokens, but hashes to know them again."""
    if batch.tokens is None or batch.channels is None or batch.target_hashes is not None:
        return
    hashes = np.zeros(batch.n, np.uint32)
    for first in range(0, batch.n, _HASH_ROWS):
        rows = np.arange(first, min(first + _HASH_ROWS, batch.n))
        hashes[rows] = hash_tokens(batch.channels[rows], batch.tokens.take(rows), batch.app)
        await trio.lowlevel.checkpoint()
    batch.target_hashes = hashes
