"""`pushgw loss`: how far the messages of a task, plan, group or app came, and what stopped the others.

The funnel as a picture in the terminal, the losses of each stage with their cause and advice; the rows of one cause as
CSV; the same picture as PNG (cli/funnel_picture.py); everything as JSON for machines.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import msgspec
import numpy as np

from gateway.cli.connection import asking_client, read_config
from gateway.cli.exit_codes import ExitCode, UsageError
from gateway.cli.output import Output, counted, moment, to_stdout
from gateway.client.blocking import BlockingClient
from gateway.client.loss_calls import LossOf
from gateway.columns import TextColumn
from gateway.ledger import Channel, Reason, Receipt, State
from gateway.message_id import from_text, to_text
from gateway.wire.rpc.messages import LossFound, LossRowPage, RowsCounted

#: Rows that one call brings: a megabyte or so.
_ROWS = 10_000
#: Characters of the longest bar.
_BAR = 48


def run(options: argparse.Namespace, output: Output) -> int:
    if (options.csv is None) != (options.cause is None):
        raise UsageError("--csv FILE needs --cause NAME, and --cause needs --csv")
    of = _of(options)
    with asking_client(options) as client:
        if options.csv is not None:
            return _write_rows(client, of, options, output)
        recount = client.count_rows(of, recount=True) if options.recount else None
        found = client.loss(of)
    output.document(_document(found, recount))
    if not output.is_json:
        _show(f"{options.what} ({options.kind or _kind(options)})", found, (of.from_day, of.to_day), output)
        if recount is not None:
            n = int(np.frombuffer(recount.rows, "<u8").sum())
            output.say(f"recount: {counted(n, 'row')}, {recount.differing} counts differ from the counters")
    if options.png is not None:
        from gateway.cli.funnel_picture import write_png

        write_png(options.png, options.what, found)
        output.progress(f"the funnel is in {options.png}")
    return ExitCode.GOOD if recount is None or not recount.differing else ExitCode.NOT_CONSERVED


def _of(options: argparse.Namespace) -> LossOf:
    """Whose rows: a UUID is a task, the key of a configured app an app, and everything else a plan."""
    kind = options.kind or _kind(options)
    days = {"from_day": options.from_day or "", "to_day": options.to_day or ""}
    if kind == "task":
        identifier = from_text(options.what)
        if identifier is None:
            raise UsageError(f"{options.what!r} is no task id")
        if any(days.values()):
            raise UsageError("a task is counted as a whole: --from and --to are for plans, groups and apps")
        return LossOf(task_id=identifier)
    field = {"plan": "plan_id", "group": "group", "app": "app_key"}[kind]
    return LossOf(**{field: options.what}, **days)


def _kind(options: argparse.Namespace) -> str:
    if from_text(options.what) is not None:
        return "task"
    if options.config is None:
        return "plan"
    return "app" if read_config(options.config).app(options.what) is not None else "plan"


# -- the funnel


def total(found: LossFound) -> list[int]:
    """Rows of all channels that reached each stage."""
    return [sum(rows) for rows in zip(*found.channels.values(), strict=True)] or [0] * len(found.stages)


def _document(found: LossFound, recount: RowsCounted | None) -> dict[str, Any]:
    document = {
        "stages": found.stages,
        "all": total(found),
        "channels": found.channels,
        "losses": [msgspec.to_builtins(line) for line in found.losses],
        "from_day": found.from_day,
        "to_day": found.to_day,
        "rows_gone": found.rows_gone,
    }
    return document if recount is None else document | {"differing": recount.differing}


def _show(what: str, found: LossFound, asked: tuple[str, str], output: Output) -> None:
    """asked: the days that were named, "" where none was."""
    everything = total(found)
    days = found.from_day if found.from_day == found.to_day else f"{found.from_day} to {found.to_day}"
    if not everything[0]:
        if any(asked):
            # At night "today" is two days.
            span = " ".join(f"{word} {day}" for word, day in zip(("from", "to"), asked, strict=True) if day)
            output.say(f"{what}: no rows {span}; a day begins at midnight in Shanghai, or as ledger.day_offset_s says")
        else:
            output.say(f"{what}: no rows in {days}" if days else f"{what}: no rows are known of it")
        return
    output.say(f"{what}: {counted(everything[0], 'row')} submitted" + (f" on {days}" if days else ""))
    for stage, rows in zip(found.stages, everything, strict=True):
        share = rows / everything[0]
        output.say(f"{stage:>10} {bar(share):<{_BAR}} {rows:>12,}  {share:7.2%}")
    output.table(
        "by channel",
        ["channel", *found.stages, "went on"],
        [
            (name, *found.channels.get(name, [0] * len(found.stages)), found.went_on.get(name, 0))
            for name in dict.fromkeys([*found.channels, *found.went_on])
        ],
        numbers=range(1, 9),
    )
    output.table(
        "what stopped them",
        ["came as far as", "channel", "cause", "bucket", "rows", "what to do"],
        [(line.stage, line.channel, line.cause, line.bucket, line.rows, line.advice) for line in found.losses],
        numbers=[4],
    )
    if found.rows_gone:
        output.say(f"{found.rows_gone:,} of the rows are counted and no longer kept: --csv does not find them")


def bar(share: float, width: int = _BAR) -> str:
    """A bar to an eighth of a character; anything above zero shows."""
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")


# -- rows


_COLUMNS = (
    "message_id",
    "task_id",
    "device_id",
    "channel",
    "state",
    "reason",
    "receipt",
    "attempts",
    "submitted",
    "ended",
    "vendor_word",
)


def _write_rows(client: BlockingClient, of: LossOf, options: argparse.Namespace, output: Output) -> int:
    def asked(cursor: bytes) -> LossRowPage:
        return client.loss_rows(of, options.cause, channel=options.channel, stage=options.stage, n=_ROWS, cursor=cursor)

    # Asked first: a wrong cause must not leave a file with nothing but a header.
    page = asked(b"")
    n = page.n
    with _opened(options.csv) as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        writer.writerows(rows_of(page))
        while page.next_cursor:
            page = asked(page.next_cursor)
            writer.writerows(rows_of(page))
            n += page.n
    output.progress(counted(n, "row"))
    return ExitCode.GOOD


@contextmanager
def _opened(path: Any) -> Iterator[TextIO]:
    """A file to write to, or stdout for "-". Raises UsageError where it takes nothing."""
    if str(path) == "-":
        with to_stdout():
            yield sys.stdout
            sys.stdout.flush()
        return
    try:
        with open(path, "w", encoding="utf-8", newline="") as stream:
            yield stream
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def rows_of(page: LossRowPage) -> Iterator[Sequence[object]]:
    """The rows of a page in the words of the table. An id of zeros (the target was a token) is empty."""
    words = TextColumn(page.words.blob, np.frombuffer(page.words.offsets, "<u4"))
    ids = [memoryview(bytes(column)) for column in (page.message_ids, page.task_ids, page.device_ids)]
    born, final = np.frombuffer(page.born_unix_ms, "<u8").tolist(), np.frombuffer(page.final_unix_ms, "<u8").tolist()
    for row in range(page.n):
        message, task, device = (bytes(column[16 * row : 16 * row + 16]) for column in ids)
        yield (
            to_text(message),
            to_text(task),
            device.hex() if any(device) else "",
            _name(Channel, page.channel[row]),
            _name(State, page.state[row]),
            _name(Reason, page.reason[row]),
            _name(Receipt, page.receipt[row]),
            page.attempts[row],
            moment(born[row]),
            moment(final[row]) if final[row] else "",
            _safe(words.row(row).decode("utf-8", "replace")),
        )


def _name(kind: type[Channel] | type[State] | type[Reason] | type[Receipt], code: int) -> str:
    found = kind(code)
    return "" if found.name == "NONE" else found.name.lower()


def _safe(text: str) -> str:
    """A vendor's text that a spreadsheet does not take for a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
