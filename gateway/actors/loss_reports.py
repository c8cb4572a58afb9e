"""LossReports: counts of rows by task, plan, group, app and day; how far they came; and the rows of one cause.

Counts come from the counters, which hold what pages in memory add to those of the archive (core/counters.py); of a
task they are the tallies of its pages, and a page that it shares with others is looked at itself. Nothing is kept
between two calls, and nothing is read that a tally says has none of what is looked for.
Waits for: the page source. Is waited for by: Service.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import date, timedelta
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import trio

from gateway.actors.page_source import PageSource
from gateway.clock import Clock
from gateway.columns import Bool, Rows, TextColumn
from gateway.content import Class
from gateway.core import loss
from gateway.core.counters import row_keys, tally_rows
from gateway.core.home import Home
from gateway.ledger import CHANNEL_NAMES, Channel, LedgerPage
from gateway.message_id import ROWS_MAX, UNIX_MS_MAX, to_text
from gateway.store.ports import PageKey
from gateway.tally import (
    CellColumns,
    Cells,
    TallyKey,
    add_keys,
    columns_of,
    day_of,
    day_starts_unix_ms,
    row_cells,
    rows_in,
    take_apart,
    went_on,
)
from gateway.wire.rpc import messages
from gateway.wire.rpc.columns_in import byte_column
from gateway.wire.rpc.faults import BadRequest

Counted: TypeAlias = dict[TallyKey, dict[int, int]]
Asked: TypeAlias = messages.CountRows | messages.Loss | messages.LossRows
#: How far back an app is looked at unless the call says so.
_APP_DAYS = 7
#: No day of a batch is outside: message ids have 48 bits of milliseconds.
_DAYS = range(-1, UNIX_MS_MAX // 86_400_000 + 2)
#: Keys of pages that one look into the archive asks for.
_KEYS = 1000
#: A page of `loss_rows` is answered when so many pages were gone through, though it is not full.
_PAGES_PER_ANSWER = 64
#: How often pages whose rows have ended are counted, if nobody asks; ever less often while there are none: a look wakes
#: the worker, and twelve of them wake others' cores.
_SETTLE_S, _QUIET_SETTLE_S = 0.5, 8.0
_EPOCH_DAY = date(1970, 1, 1)
_CLASS_NAMES = {int(class_): class_.name.lower() for class_ in Class}
_CHANNELS = [channel.name.lower() for channel in Channel]
#: Position of a page and the row in it to go on from.
_CURSOR = struct.Struct(">QIi")


class _Wanted(NamedTuple):
    """app: index, None for all. plan, group: None where they do not matter."""

    app: int | None
    plan: str | None
    group: str | None
    days: range

    def has(self, key: TallyKey) -> bool:
        return (
            key.day in self.days
            and self.app in (None, key.app)
            and self.plan in (None, key.plan)
            and self.group in (None, key.group)
        )


class LossReports:
    """app_keys: by index."""

    def __init__(self, *, home: Home, pages: PageSource, clock: Clock, app_keys: Sequence[str]) -> None:
        self._home = home
        self._pages = pages
        self._clock = clock
        self._app_keys = list(app_keys)

    async def run(self) -> None:
        """Counts what has ended, until cancelled. If cancelled: the rest is counted when somebody asks."""
        pause_s = _SETTLE_S
        while True:
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _QUIET_SETTLE_S)
            for portion in self._home.counters.portions(only_ended=True):
                self._home.counters.settle(portion)
                pause_s = _SETTLE_S
                await trio.lowlevel.checkpoint()

    async def answer(
        self, message: Asked, app_key: str
    ) -> messages.RowsCounted | messages.LossFound | messages.LossRowPage:
        """app_key: of the app that asks, "" for an operator. Raises BadRequest, StoreError."""
        wanted = self._wanted(message, app_key)
        match message:
            case messages.CountRows():
                return await self._count(message, wanted)
            case messages.Loss():
                return loss_found(message, await self._count(as_count(message), wanted))
            case messages.LossRows():
                return await self._rows(message, wanted)

    # -- what is asked for

    def _wanted(self, message: Asked, app_key: str) -> _Wanted:
        key = app_key or message.app_key
        if key and key not in self._app_keys:
            raise BadRequest("app_key", f"app {key!r} is not configured", code="not_found")
        app = self._app_keys.index(key) if key else None
        plan, group = message.plan_id or None, message.group or None
        if message.task_id is not None and (plan or group or message.from_day or message.to_day):
            raise BadRequest("task_id", "a task is counted as a whole: no plan_id, group or days beside it")
        today = day_of(self._clock.unix_ms(), self._home.counters.day_offset_s)
        first, last = _DAYS.start, _DAYS.stop - 1
        if message.task_id is None and plan is None and group is None and not message.from_day:
            first = today - _APP_DAYS + 1
        first = _day("from_day", message.from_day, first)
        last = _day("to_day", message.to_day, last)
        if last < first:
            raise BadRequest("to_day", f"to_day is {_day_text(last)}, before from_day, {_day_text(first)}")
        return _Wanted(app, plan, group, range(first, last + 1))

    # -- counting

    async def _count(self, message: messages.CountRows, wanted: _Wanted) -> messages.RowsCounted:
        gone: Counted = {}
        if message.task_id is not None:
            again = counted = await self._of_task(message.task_id, wanted, by_rows=False)
            if message.recount:
                again = await self._of_task(message.task_id, wanted, by_rows=True)
        else:
            found = await self._pages.counts(wanted.days)
            counted = {key: cells for key, cells in found.kept.items() if wanted.has(key)}
            gone = {key: cells for key, cells in found.gone.items() if wanted.has(key)}
            again = counted
            if message.recount:
                again = await self._recount(wanted)
        differing = len(_flat(again).items() ^ _flat(counted).items())
        total = add_keys([again, gone], _DAYS)
        return self._answer(message.id, total, sum(map(rows_in, gone.values())), differing)

    async def _of_task(self, task_id: bytes, wanted: _Wanted, *, by_rows: bool) -> Counted:
        """by_rows: from the rows themselves, whatever is counted. Raises BadRequest for a task that is not here."""
        parts: list[Mapping[TallyKey, Cells]] = []
        keys = await self._pages.task_keys(task_id)
        tallies = [None] * len(keys) if by_rows else await self._pages.tallies(keys)
        for key, tally in zip(keys, tallies, strict=True):
            if tally is not None and tally.is_one_task:
                parts.append(tally.cells)
            else:
                page = await self._pages.page(key)
                if page is not None:
                    mine = self._home.segments_of(page, task_id)
                    parts += [self._tally(page, segment.first, segment.first + segment.n) for segment in mine]
        found = add_keys(parts, _DAYS)
        if not any(wanted.has(key) for key in found):
            raise BadRequest("task_id", f"no task {to_text(task_id)} here", code="not_found")
        return found

    async def _recount(self, wanted: _Wanted) -> Counted:
        """From the rows of every page. While rows move it is a moment's look at each page."""
        total: Counted = {}
        async for key in self._keys(wanted, None):
            page = await self._pages.page(key)
            if page is not None:
                total = add_keys([total, self._tally(page, 0, page.n)], _DAYS)
        return {key: cells for key, cells in total.items() if wanted.has(key)}

    def _tally(self, page: LedgerPage, first: int, stop: int) -> Counted:
        return tally_rows(page, first, stop, self._home.counters.day_offset_s)

    async def _keys(self, wanted: _Wanted, start: PageKey | None) -> AsyncGenerator[PageKey, None]:
        """Pages of the app and days, oldest first, from `start` on."""
        offset_s = self._home.counters.day_offset_s
        unix_ms = range(
            max(0, day_starts_unix_ms(wanted.days.start, offset_s)), day_starts_unix_ms(wanted.days.stop, offset_s)
        )
        after = None if start is None else PageKey(start.unix_ms, start.sequence - 1)
        while keys := await self._pages.keys(wanted.app, unix_ms, after, _KEYS):
            for key in keys:
                yield key
            after = keys[-1]

    def _answer(self, request_id: int, counted: Counted, rows_gone: int, differing: int) -> messages.RowsCounted:
        keys = [
            messages.CountKey(
                _day_text(key.day), self._app_keys[key.app], key.plan, key.group, _CLASS_NAMES[key.class_]
            )
            for key in counted
        ]
        parts = [columns_of(cells) for cells in counted.values()]
        position = np.repeat(np.arange(len(keys)), [len(part.rows) for part in parts])
        departed = {_CHANNELS[channel]: n for channel, n in went_on(counted.values()).items()}
        return rows_counted(request_id, keys, position, join_cells(parts), rows_gone, differing, departed)

    # -- rows of one cause

    async def _rows(self, message: messages.LossRows, wanted: _Wanted) -> messages.LossRowPage:
        """Raises BadRequest, as `_of_task` does, with the first page."""
        looked_for = _looked_for(message)
        start, first_row = _read_cursor(message.cursor)
        if message.task_id is not None and start is None:
            await self._of_task(message.task_id, wanted, by_rows=False)
        found: list[tuple[LedgerPage, Rows]] = []
        left, pages_left, next_cursor = message.n, _PAGES_PER_ANSWER, b""
        async with aclosing(self._row_keys(message.task_id, wanted, start)) as keys:
            async for key in keys:
                if not left or not pages_left:
                    next_cursor = _CURSOR.pack(*key, 0)
                    break
                (tally,) = await self._pages.tallies([key])
                pages_left -= 1
                if tally is not None and not any(
                    looked_for.has(columns_of(cells)).any() for one, cells in tally.cells.items() if wanted.has(one)
                ):
                    continue
                page = await self._pages.page(key)
                if page is None:
                    continue
                rows = self._rows_of(page, message.task_id, wanted, looked_for)
                rows = rows[rows >= (first_row if key == start else 0)]
                if len(rows) > left:
                    next_cursor = _CURSOR.pack(*key, int(rows[left]))
                    rows = rows[:left]
                left -= len(rows)
                found.append((page, rows))
                if next_cursor:
                    break
        return await _row_page(message.id, found, next_cursor)

    async def _row_keys(
        self, task_id: bytes | None, wanted: _Wanted, start: PageKey | None
    ) -> AsyncGenerator[PageKey, None]:
        if task_id is None:
            async with aclosing(self._keys(wanted, start)) as keys:
                async for key in keys:
                    yield key
            return
        for key in await self._pages.task_keys(task_id):
            if start is None or key >= start:
                yield key

    def _rows_of(self, page: LedgerPage, task_id: bytes | None, wanted: _Wanted, looked_for: _LookedFor) -> Rows:
        """Rows of the page that are wanted and looked for."""
        cells = row_cells(page, 0, page.n)
        is_found = looked_for.has(take_apart(cells, cells))
        keys, index = row_keys(page.batch, self._home.counters.day_offset_s)
        is_wanted = np.array([wanted.has(key) for key in keys])
        is_found &= is_wanted[0] if index is None else is_wanted[index]
        if task_id is not None:
            is_its = np.zeros(page.n, np.bool_)
            for segment in self._home.segments_of(page, task_id):
                is_its[segment.first : segment.first + segment.n] = True
            is_found &= is_its
        return np.flatnonzero(is_found)


class _LookedFor(NamedTuple):
    """channel, stage: None where they do not matter."""

    cause: int
    channel: int | None
    stage: int | None

    def has(self, cells: CellColumns) -> Bool:
        stage = loss.stages_of(cells)
        found: Bool = loss.causes_of(cells, stage) == self.cause
        if self.channel is not None:
            found &= cells.channel == self.channel
        if self.stage is not None:
            found &= stage == self.stage
        return found


def _looked_for(message: messages.LossRows) -> _LookedFor:
    if message.cause not in loss.CAUSE_CODES:
        expected = ", ".join(loss.CAUSE_CODES)
        raise BadRequest("cause", f"cause has no {message.cause[:64]!r}, expected one of {expected}")
    channels = {"none": Channel.NONE, **CHANNEL_NAMES}
    if message.channel and message.channel not in channels:
        raise BadRequest("channel", f"channel has no {message.channel[:64]!r}, expected one of {', '.join(channels)}")
    if message.stage and message.stage not in loss.STAGE_NAMES:
        raise BadRequest("stage", f"stage has no {message.stage[:64]!r}, expected one of {', '.join(loss.STAGE_NAMES)}")
    return _LookedFor(
        loss.CAUSE_CODES[message.cause],
        channels[message.channel] if message.channel else None,
        loss.STAGE_NAMES.index(message.stage) if message.stage else None,
    )


def _read_cursor(cursor: bytes) -> tuple[PageKey | None, int]:
    if not cursor:
        return None, 0
    unix_ms, sequence, row = _CURSOR.unpack(cursor) if len(cursor) == _CURSOR.size else (-1, 0, 0)
    # Checked here: a number that SQLite cannot hold would end the turn of everybody who waits for the archive.
    if not 0 <= unix_ms <= UNIX_MS_MAX or not 0 <= row < ROWS_MAX:
        raise BadRequest("cursor", "the cursor is not one of loss_row_page")
    return PageKey(unix_ms, sequence), row


async def _row_page(
    request_id: int, found: Sequence[tuple[LedgerPage, Rows]], next_cursor: bytes
) -> messages.LossRowPage:
    words: list[bytes] = []
    for page, rows in found:
        words += await _words(page, rows)

    def column(read: Callable[[LedgerPage, Rows], Any], dtype: str) -> memoryview:
        parts = [np.ascontiguousarray(read(page, rows), dtype).reshape(-1) for page, rows in found]
        return memoryview(b"".join(part.tobytes() for part in parts))

    texts = TextColumn.from_rows(words)
    return messages.LossRowPage(
        id=request_id,
        n=len(words),
        task_ids=column(_task_ids, "u1"),
        device_ids=column(lambda page, rows: page.batch.device_ids[rows], "u1"),
        message_ids=column(lambda page, rows: page.batch.message_ids[rows], "u1"),
        channel=column(lambda page, rows: page.channel[rows], "u1"),
        state=column(lambda page, rows: page.state[rows], "u1"),
        reason=column(lambda page, rows: page.reason[rows], "u1"),
        receipt=column(lambda page, rows: page.receipt[rows], "u1"),
        attempts=column(lambda page, rows: page.attempts[rows], "u1"),
        born_unix_ms=column(lambda page, rows: np.full(len(rows), page.batch.born_unix_ms), "<u8"),
        final_unix_ms=column(_final_unix_ms, "<u8"),
        words=messages.Texts(bytes(texts.blob), memoryview(np.ascontiguousarray(texts.offsets, "<u4").tobytes())),
        next_cursor=next_cursor,
    )


def _task_ids(page: LedgerPage, rows: Rows) -> Any:
    segments = page.batch.segments
    firsts = np.array([segment.first for segment in segments])
    at = np.searchsorted(firsts, rows, "right") - 1
    return np.frombuffer(b"".join(segments[one].task_id for one in at.tolist()), np.uint8)


def _final_unix_ms(page: LedgerPage, rows: Rows) -> Any:
    final_ms = page.final_ms[rows].astype(np.int64)
    return np.where(final_ms > 0, page.batch.born_unix_ms + final_ms, 0)


async def _words(page: LedgerPage, rows: Rows) -> list[bytes]:
    """The vendor's last own word for each row. A look at each word of the page's bursts, burst by burst."""
    found: dict[int, str] = {}
    for burst in page.bursts:
        places = burst.rows.tolist() if burst.names else []
        found.update((places[place], name) for place, name in burst.names.items())
        await trio.lowlevel.checkpoint()
    return [found.get(row, "").encode() for row in rows.tolist()]


# -- answers in columns, here and of several workers


def as_count(message: messages.Loss) -> messages.CountRows:
    """The question behind a loss analysis."""
    return messages.CountRows(
        **{field: getattr(message, field) for field in message.__struct_fields__},
    )


def rows_counted(
    request_id: int,
    keys: list[messages.CountKey],
    position: Rows,
    cells: CellColumns,
    rows_gone: int,
    differing: int,
    departed: dict[str, int],
) -> messages.RowsCounted:
    def column(values: Any, dtype: str) -> memoryview:
        return memoryview(np.ascontiguousarray(values, dtype).tobytes())

    return messages.RowsCounted(
        id=request_id,
        n=len(position),
        keys=keys,
        key=column(position, "<u4"),
        channel=column(cells.channel, "u1"),
        state=column(cells.state, "u1"),
        reason=column(cells.reason, "u1"),
        receipt=column(cells.receipt, "u1"),
        flags=column(cells.was_sent | cells.is_closed << 1, "u1"),
        rows=column(cells.rows, "<u8"),
        rows_gone=rows_gone,
        differing=differing,
        went_on=departed,
    )


def cells_of(counted: messages.RowsCounted) -> CellColumns:
    n = counted.n
    flags = byte_column("flags", counted.flags, n)
    return CellColumns(
        byte_column("channel", counted.channel, n),
        byte_column("state", counted.state, n),
        byte_column("reason", counted.reason, n),
        byte_column("receipt", counted.receipt, n),
        (flags & 1) != 0,
        (flags & 2) != 0,
        np.frombuffer(counted.rows, "<u8").astype(np.int64),
    )


def join_cells(parts: Sequence[CellColumns]) -> CellColumns:
    every = [columns_of({}), *parts]
    return CellColumns(*[np.concatenate([part[at] for part in every]) for at in range(len(CellColumns._fields))])


def merge_counted(message: messages.CountRows, answers: Sequence[messages.RowsCounted]) -> messages.RowsCounted:
    """The counts of several workers as one answer; a batch is counted at its home alone."""
    numbers: dict[messages.CountKey, int] = {}
    positions = [np.zeros(0, np.intp)]
    for answer in answers:
        of_answer = [numbers.setdefault(key, len(numbers)) for key in answer.keys]
        at = np.frombuffer(answer.key, "<u4")
        positions.append(np.array(of_answer, np.intp)[at])
    departed: Counter[str] = Counter()
    for answer in answers:
        departed.update(answer.went_on)
    return rows_counted(
        message.id,
        list(numbers),
        np.concatenate(positions),
        join_cells([cells_of(answer) for answer in answers]),
        sum(answer.rows_gone for answer in answers),
        sum(answer.differing for answer in answers),
        dict(departed),
    )


def loss_found(message: messages.Loss, counted: messages.RowsCounted) -> messages.LossFound:
    found = loss.funnel(cells_of(counted))
    days = sorted({key.day for key in counted.keys}) or [""]
    return messages.LossFound(
        id=message.id,
        stages=loss.STAGE_NAMES,
        channels=found.reached,
        losses=[
            messages.LossLine(
                channel=line.channel,
                stage=line.stage.name.lower(),
                cause=line.cause,
                bucket=line.bucket,
                rows=line.rows,
                is_open=line.is_open,
                advice=line.advice,
            )
            for line in found.lines
        ],
        from_day=days[0],
        to_day=days[-1],
        rows_gone=counted.rows_gone,
        went_on=counted.went_on,
    )


def _flat(counted: Counted) -> dict[tuple[TallyKey, int], int]:
    return {(key, cell): n for key, cells in counted.items() for cell, n in cells.items()}


def _day(field: str, text: str, default: int) -> int:
    if not text:
        return default
    try:
        return (date.fromisoformat(text) - _EPOCH_DAY).days
    except ValueError:
        raise BadRequest(field, f"{field} is {text}, which no calendar has") from None


def _day_text(day: int) -> str:
    return (_EPOCH_DAY + timedelta(days=day)).isoformat()
