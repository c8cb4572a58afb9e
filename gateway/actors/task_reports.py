"""TaskReports: what is said of tasks and messages: counts, rows, the way of one. Pages come from memory or the archive.

A task of many batches is gone through page by page, and no page is kept, so a large one costs time and no memory.
Waits for: the page source. Is waited for by: Service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

import numpy as np
import trio

from gateway.actors.page_source import PageSource
from gateway.batch import TaskSegment
from gateway.clock import Clock
from gateway.core import report
from gateway.ledger import IS_FINAL, Channel, LedgerPage, Reason, Receipt, State
from gateway.message_id import to_text
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import BadRequest

#: Looked at in one step of a trace: some two milliseconds.
_BURSTS_PER_STEP = 1024
#: Whether the asking client may see a page.
MaySee: TypeAlias = Callable[[LedgerPage], bool]
#: Messages of one device that `device` shows, and rows that are gone through for them.
_DEVICE_MESSAGES_MAX = 20
_DEVICE_ROWS_MAX = 4_000_000


class TaskReports:
    def __init__(
        self,
        pages: PageSource,
        clock: Clock,
        is_running: Callable[[bytes], bool] = lambda _task_id: False,
        audience_devices: Callable[[bytes], int] = lambda _task_id: 0,
    ) -> None:
        """is_running: whether a task may get further rows. audience_devices: of one that may."""
        self._pages = pages
        self._clock = clock
        self._is_running = is_running
        self._audience_devices = audience_devices

    async def answer(
        self, message: messages.TaskState | messages.TaskRows | messages.Trace, may_see: MaySee
    ) -> messages.TaskCounts | messages.TaskRowPage | messages.TraceHops:
        """Raises BadRequest, StoreError."""
        match message:
            case messages.TaskState():
                return await self.counts(message, may_see)
            case messages.TaskRows():
                return await self._rows(message, may_see)
            case messages.Trace():
                return await self._trace(message, may_see)

    async def check_task(self, task_id: bytes, may_see: MaySee) -> None:
        """Raises BadRequest unless there is such a task that the client may see, StoreError."""
        async with aclosing(self._slices(task_id, may_see)) as slices:
            async for _ in slices:
                return

    async def last_messages(self, app: int, device_id: bytes) -> list[dict[str, Any]]:
        """The newest messages of a device, newest first, with a bound on the search. Raises StoreError."""
        found: list[dict[str, Any]] = []
        seen = 0
        async with aclosing(self._pages.device_pages(app, device_id)) as slices:
            async for page in slices:
                rows = report.rows_of_device(page, device_id)
                found += [_message_facts(page, int(row)) for row in rows[::-1]]
                seen += page.n
                if len(found) >= _DEVICE_MESSAGES_MAX or seen >= _DEVICE_ROWS_MAX:
                    break
        return found[:_DEVICE_MESSAGES_MAX]

    async def _slices(
        self, task_id: bytes, may_see: MaySee, device_id: bytes | None = None
    ) -> AsyncGenerator[tuple[LedgerPage, TaskSegment], None]:
        """The task's rows. Raises BadRequest where there are none that the client may see."""
        is_found = False
        async with aclosing(self._pages.task_slices(task_id, device_id)) as slices:
            async for page, segment in slices:
                if not may_see(page):
                    break
                is_found = True
                yield page, segment
        if not is_found and device_id is None:
            raise BadRequest("task_id", f"no task {to_text(task_id)} here", code="not_found")

    async def counts(self, message: messages.TaskState, may_see: MaySee) -> messages.TaskCounts:
        """Where the task's rows are. Raises BadRequest, StoreError."""
        # Before the rows are looked at: the last of them may come, and end the task's growth, while they are.
        may_grow = self._is_running(message.task_id)
        sums: report.Sums | None = None
        groups, plans = Counter[str](), Counter[str]()
        async with aclosing(self._slices(message.task_id, may_see)) as slices:
            async for page, segment in slices:
                some = report.sum_task([(page, segment)], self._clock.moved_between)
                sums = some if sums is None else report.add_sums(sums, some)
                if segment.group:
                    groups[segment.group] += segment.n
                for portion in report.plans_of(page, segment):
                    plans.update(portion)
                    await trio.lowlevel.checkpoint()
        assert sums is not None
        latencies = {channel.name.lower(): _latency(times) for channel, times in sums.latencies_ms.items()}
        if latencies:
            latencies["all"] = _latency(np.concatenate(list(sums.latencies_ms.values())))
        return messages.TaskCounts(
            id=message.id,
            task_id=message.task_id,
            accepted=sums.rows,
            states={state.name.lower(): int(sums.states[state]) for state in State if sums.states[state]},
            channels={
                channel.name.lower(): {
                    state.name.lower(): int(sums.by_channel[channel, state])
                    for state in State
                    if sums.by_channel[channel, state]
                }
                for channel in Channel
                if sums.by_channel[channel].any()
            },
            reasons={
                reason.name.lower(): int(sums.reasons[reason]) for reason in Reason if reason and sums.reasons[reason]
            },
            receipts={
                receipt.name.lower(): int(sums.receipts[receipt])
                for receipt in Receipt
                if receipt and sums.receipts[receipt]
            },
            is_routed=sums.is_routed,
            is_final=int(sums.states[IS_FINAL].sum()) == sums.rows and not may_grow,
            handed_over_unacked=sums.handed_over,
            waited_offline=sums.n_waited + sums.n_moved,
            submitted_unix_ms=sums.submitted_unix_ms,
            latency_ms=latencies,
            groups=dict(groups),
            plans=dict(plans),
            audience_devices=self._audience_devices(message.task_id) if may_grow else 0,
        )

    async def _rows(self, message: messages.TaskRows, may_see: MaySee) -> messages.TaskRowPage:
        states = _codes("states", message.states, State)
        reasons = _codes("reasons", message.reasons, Reason)
        chosen: list[tuple[LedgerPage, TaskSegment, Any]] = []
        left, offset, next_first = message.n, 0, None
        async with aclosing(self._slices(message.task_id, may_see)) as slices:
            async for page, segment in slices:
                if offset + segment.n > message.first and left:
                    skip = max(0, message.first - offset)
                    rows = report.select_rows(page, segment, skip, states=states, reasons=reasons)
                    if len(rows) > left:
                        next_first = offset + int(rows[left]) - segment.first
                        rows = rows[:left]
                    left -= len(rows)
                    chosen.append((page, segment, rows))
                elif not left and next_first is None:
                    next_first = offset
                    break
                offset += segment.n

        def column(read: Callable[[LedgerPage, TaskSegment, Any], Any], dtype: Any) -> memoryview:
            parts = [np.asarray(read(*part), dtype).reshape(-1) for part in chosen]
            return np.concatenate(parts).view(np.uint8).data if parts else memoryview(b"")

        return messages.TaskRowPage(
            id=message.id,
            n=message.n - left,
            row=column(report.source_rows, "<u4"),
            state=column(lambda page, _, rows: page.state[rows], np.uint8),
            reason=column(lambda page, _, rows: page.reason[rows], np.uint8),
            channel=column(lambda page, _, rows: page.channel[rows], np.uint8),
            receipt=column(lambda page, _, rows: page.receipt[rows], np.uint8),
            flags=column(lambda page, _, rows: page.flags[rows], np.uint8),
            attempts=column(lambda page, _, rows: page.attempts[rows], np.uint8),
            device_ids=column(lambda page, _, rows: page.batch.device_ids[rows], np.uint8),
            message_ids=column(lambda page, _, rows: page.batch.message_ids[rows], np.uint8),
            next_first=next_first,
        )

    async def _trace(self, message: messages.Trace, may_see: MaySee) -> messages.TraceHops:
        page, row, segment = await self._find_message(message, may_see)
        batch = page.batch
        of_bursts: list[report.Hop] = []
        for first in range(0, len(page.bursts), _BURSTS_PER_STEP):
            of_bursts += report.burst_hops(page, row, page.bursts[first : first + _BURSTS_PER_STEP])
            await trio.lowlevel.checkpoint()
        hops = [_hop(batch.born_unix_ms, hop) for hop in report.trace_with(page, row, of_bursts)]
        return messages.TraceHops(
            id=message.id,
            task_id=segment.task_id,
            message_id=batch.message_ids[row].tobytes(),
            hops=hops,
            group=segment.group,
            plan_id=batch.variant_of(row).plan_id,
        )

    async def _find_message(self, message: messages.Trace, may_see: MaySee) -> tuple[LedgerPage, int, TaskSegment]:
        if message.message_id is not None:
            found = await self._pages.find_row(message.message_id)
            if found is None or not may_see(found[0]):
                raise BadRequest("message_id", f"no message {to_text(message.message_id)} here", code="not_found")
            page, row = found
            segment = next(s for s in page.batch.segments if s.first <= row < s.first + s.n)
            return page, row, segment
        if message.task_id is None or message.device_id is None:
            raise BadRequest("message_id", "expected message_id, or task_id and device_id")
        async with aclosing(self._slices(message.task_id, may_see, message.device_id)) as slices:
            async for page, segment in slices:
                rows = report.rows_of_device(page, message.device_id, segment.first, segment.first + segment.n)
                if len(rows):
                    return page, int(rows[0]), segment
        async with aclosing(self._slices(message.task_id, may_see)) as slices:
            async for _ in slices:
                break
        raise BadRequest("device_id", f"device {message.device_id.hex()} is not in the task", code="not_found")


def _latency(times: Any) -> messages.Latency:
    p50, p99 = np.percentile(times, [50, 99])
    return messages.Latency(n=len(times), p50=float(p50), p99=float(p99), max=float(times.max()))


def _hop(born_unix_ms: int, hop: report.Hop) -> messages.Hop:
    return messages.Hop(
        at_unix_ms=born_unix_ms + hop.at_ms,
        what=hop.what,
        channel=hop.channel.name.lower() if hop.channel else "",
        connection=str(hop.connection) if hop.connection else "",
        attempt=hop.attempt,
        verdict="" if hop.verdict is None else hop.verdict.name.lower(),
        name=hop.name,
        state="" if hop.state is None else hop.state.name.lower(),
        reason=hop.reason.name.lower() if hop.reason else "",
        receipt=hop.receipt.name.lower() if hop.receipt else "",
        request=hop.request,
        text=hop.text,
    )


def _codes(field: str, names: Sequence[str] | None, values: type[State] | type[Reason]) -> frozenset[int] | None:
    """Codes of the named states or reasons. Raises BadRequest for a name that is none."""
    if names is None:
        return None
    by_name = {value.name.lower(): int(value) for value in values}
    for name in names:
        if name not in by_name:
            raise BadRequest(field, f"{field} has no {name!r}, expected one of {', '.join(by_name)}")
    return frozenset(by_name[name] for name in names)


def _message_facts(page: LedgerPage, row: int) -> dict[str, Any]:
    reason, receipt = Reason(int(page.reason[row])), Receipt(int(page.receipt[row]))
    return {
        "message_id": to_text(page.batch.message_ids[row].tobytes()),
        "submitted_unix_ms": page.batch.born_unix_ms,
        "state": State(int(page.state[row])).name.lower(),
        "reason": reason.name.lower() if reason else "",
        "receipt": receipt.name.lower() if receipt else "",
        "channel": Channel(int(page.channel[row])).name.lower() if page.channel[row] else "",
        "attempts": int(page.attempts[row]),
    }
