"""`pushgw submit FILE.jsonl`: every line is submitted; what was refused or dropped is said by line, field and reason.

    lines --LineReader--> rows --build_submits--> submits --client--> tasks --task_state--> routed --task_rows--> drops

A faulty line is refused here, in the words of the gateway, and all others go on. `dropped` is the gateway's decision
about an accepted row (unknown device, no channel ...), so it is printed and does not change the exit code.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gateway.cli.audience import submit_audience
from gateway.cli.connection import app_client, choose_app, read_config
from gateway.cli.exit_codes import ExitCode, UsageError, code_of
from gateway.cli.lines import LISTED_MAX, LineReader, open_lines
from gateway.cli.output import Output, counted
from gateway.client.blocking import BlockingClient
from gateway.client.rows import Row, build_submits
from gateway.errors import GatewayError
from gateway.message_id import to_text
from gateway.wire.rpc.messages import CodeNames, Submit, Submitted, TaskCounts, TaskRowPage

#: Routing takes milliseconds; the wait between two looks doubles up to the second value.
_FIRST_LOOK_S, _LOOK_S_MAX = 0.005, 0.25
#: Rows per page of dropped rows: 60 bytes each, 600 KB a page.
_PAGE_ROWS = 10_000


class RefusedLine(NamedTuple):
    """What one line of the report says. field "": the line as a whole."""

    line: int
    field: str
    reason: str


class DroppedRow(NamedTuple):
    line: int
    device: str
    reason: str


class Sent(NamedTuple):
    """An accepted submit. lines: for each row of it as sent, the line it came from."""

    task_id: bytes
    lines: list[int]


class Report:
    """What became of a file; filled while it happens, so that it also tells how far a failed run came."""

    def __init__(self, reader: LineReader) -> None:
        self.reader = reader
        self.sent: list[Sent] = []
        self.accepted = 0
        self.duplicates = 0
        self.n_refused_by_gateway = 0
        self.refused_by_gateway: list[RefusedLine] = []
        self.counts: list[TaskCounts] = []
        self.n_dropped = 0
        self.dropped: list[DroppedRow] = []
        self.unrouted_tasks = 0

    def add(self, answer: Submitted, lines: list[int]) -> None:
        self.accepted += answer.accepted
        self.duplicates += answer.duplicates
        self.n_refused_by_gateway += answer.refused_count
        room = LISTED_MAX - len(self.refused_by_gateway)
        self.refused_by_gateway += [RefusedLine(lines[one.row], one.field, one.text) for one in answer.refused[:room]]
        if answer.accepted:
            self.sent.append(Sent(answer.task_id, lines))

    @property
    def n_refused(self) -> int:
        return self.reader.n_faults + self.n_refused_by_gateway

    def refused(self) -> list[RefusedLine]:
        """In the order of the lines; at most LISTED_MAX of each origin."""
        found = [RefusedLine(*fault) for fault in self.reader.faults] + self.refused_by_gateway
        return sorted(found, key=lambda one: one.line)


def run(options: argparse.Namespace, output: Output) -> int:
    """The file is submitted; the report is printed even where a submit failed half way."""
    config = read_config(options.config)
    app = choose_app(config, options.app)
    if options.audience is not None:
        return submit_audience(options, output)
    if options.per_s is not None:
        raise UsageError("--per-s is the speed of an --audience")
    if options.online_only:
        raise UsageError("--online-only is for an --audience")
    with open_lines(options.file) as lines, app_client(config, app, options.address, options.timeout) as client:
        report = Report(LineReader(lines))
        failure: GatewayError | None = None
        try:
            # An empty file must not pass for a gateway that answers.
            names = client.welcome().names
            with output.bar(f"bytes of {options.file}", _size_of(options.file)) as look:
                submit_all(client, report, options, lambda: look(lines.tell()) if lines.seekable() else None)
            if not options.no_wait:
                wait_routed(client, report, time.monotonic() + options.timeout)
                if options.task is None:
                    # A position in a task of many submits names no line of this file.
                    list_dropped(client, report, names)
        except GatewayError as error:
            failure = error
    if failure is None or report.reader.n_rows:
        show(report, output, was_waited_for=not options.no_wait)
    if failure is not None:
        output.error(str(failure))
        return code_of(failure)
    if report.unrouted_tasks:
        output.error(
            f"{counted(report.unrouted_tasks, 'task')} not routed within {options.timeout:g} s; see pushgw task"
        )
        return ExitCode.UNREACHABLE
    return ExitCode.ROWS_REFUSED if report.n_refused else ExitCode.GOOD


def _size_of(file: str) -> int:
    """0 for what is no file: nobody knows how much will come."""
    return os.path.getsize(file) if os.path.isfile(file) else 0


def submit_all(
    client: BlockingClient, report: Report, options: argparse.Namespace, on_answer: Callable[[], None]
) -> None:
    """Every good row is submitted, several submits under way at once. Raises CallFailed, GatewayUnreachable."""
    waiting: deque[list[int]] = deque()

    def requests(rows: Iterator[Row]) -> Iterator[Submit]:
        for made in build_submits(
            rows,
            request_id=options.request_id or "",
            group=options.group or "",
            task_id=options.task,
            allow_duplicates=options.allow_duplicates,
        ):
            waiting.append(made.lines)
            yield made.submit

    for answer in client.submit_many(requests(report.reader.rows())):
        report.add(answer, waiting.popleft())
        on_answer()


def wait_routed(client: BlockingClient, report: Report, deadline: float) -> None:
    """`report.counts` holds every task as soon as it was routed, or as it was at the deadline (monotonic seconds)."""
    for task_id in dict.fromkeys(sent.task_id for sent in report.sent):
        wait_s = _FIRST_LOOK_S
        while not (counts := client.task_state(task_id)).is_routed and time.monotonic() < deadline:
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LOOK_S_MAX)
        report.counts.append(counts)
        report.unrouted_tasks += not counts.is_routed


def list_dropped(client: BlockingClient, report: Report, names: CodeNames) -> None:
    """Dropped rows by line, as far as they have ended by now."""
    for sent, counts in zip(report.sent, report.counts, strict=True):
        n_dropped = counts.states.get("dropped", 0)
        report.n_dropped += n_dropped
        if n_dropped and len(report.dropped) < LISTED_MAX:
            report.dropped += _dropped_rows(client, sent, names, LISTED_MAX - len(report.dropped))
    report.dropped.sort()


def _dropped_rows(client: BlockingClient, sent: Sent, names: CodeNames, rows_max: int) -> list[DroppedRow]:
    found: list[DroppedRow] = []
    first: int | None = 0
    while first is not None and len(found) < rows_max:
        page: TaskRowPage = client.task_rows(sent.task_id, first, _PAGE_ROWS, states=["dropped"])
        rows, ids = page.row.cast("I") if page.n else (), bytes(page.device_ids)
        for k in range(min(page.n, rows_max - len(found))):
            device = ids[16 * k : 16 * k + 16]
            reason = names.reasons[page.reason[k]]
            # A row whose target is a token has no device id.
            found.append(DroppedRow(sent.lines[rows[k]], device.hex() if any(device) else "", reason))
        first = page.next_first
    return found


def totals(counts: list[TaskCounts]) -> tuple[Counter[str], Counter[str], dict[str, Counter[str]]]:
    """States, reasons, and states per channel of several tasks together; only what occurs."""
    states, reasons = Counter[str](), Counter[str]()
    channels: dict[str, Counter[str]] = {}
    for one in counts:
        states.update({name: n for name, n in one.states.items() if n})
        reasons.update({name: n for name, n in one.reasons.items() if n})
        for channel, found in one.channels.items():
            channels.setdefault(channel, Counter()).update({name: n for name, n in found.items() if n})
    return states, reasons, channels


def show(report: Report, output: Output, *, was_waited_for: bool) -> None:
    states, reasons, channels = totals(report.counts)
    document: dict[str, Any] = {
        "tasks": list(dict.fromkeys(to_text(sent.task_id) for sent in report.sent)),
        "submitted": report.reader.n_rows,
        "accepted": report.accepted,
        "refused": report.n_refused,
        "duplicates": report.duplicates,
        "refused_rows": [one._asdict() for one in report.refused()],
    }
    if was_waited_for:
        document |= {
            "states": states,
            "reasons": reasons,
            "channels": channels,
            "dropped": report.n_dropped,
            "dropped_rows": [one._asdict() for one in report.dropped],
        }
    output.document(document)
    if output.is_json:
        return
    refused = report.refused()
    if refused:
        output.table(_listed("refused", len(refused), report.n_refused), ["line", "field", "reason"], refused)
    if report.dropped:
        title = _listed("dropped", len(report.dropped), report.n_dropped)
        output.table(title, ["line", "device", "reason"], report.dropped)
    by_channel = [(channel, name, n) for channel, found in channels.items() for name, n in found.items()]
    if by_channel:
        output.table("where the rows are", ["channel", "state", "rows"], by_channel, numbers=[2])
    sums = f"{counted(report.reader.n_rows, 'row')}: {report.accepted:,} accepted, {report.n_refused:,} refused"
    unanswered = report.reader.n_rows - report.accepted - report.n_refused
    output.say(sums + (f", {unanswered:,} not known to be taken" if unanswered else ""))
    for task_id in dict.fromkeys(sent.task_id for sent in report.sent):
        output.say(f"task {to_text(task_id)}")


def _listed(what: str, listed: int, total: int) -> str:
    return f"{what}: {counted(total, 'row')}" + (f", the first {listed:,} of them" if listed < total else "")
