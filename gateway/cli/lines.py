"""A JSONL file on its way to submits: rows go through, faulty lines are put aside and counted."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from gateway.cli.exit_codes import UsageError
from gateway.client.requests import Target
from gateway.client.rows import LineFault, Row, parse_line, parse_lines
from gateway.content import Variant

#: Who a notification is for where it names nobody: `parse_line` wants somebody.
_NOBODY = bytes(16)
#: Faults kept and printed, the rest is counted: a thousand lines show the mistake.
LISTED_MAX = 1000


class LineReader:
    """Reads lines once. n_rows counts every row of the file: line x target, a faulty line is one row.

    default_to: targets for lines without `to`, in turn; None: `to` is required.
    """

    def __init__(self, lines: Iterable[bytes], *, default_to: Iterator[Target] | None = None) -> None:
        self._lines = lines
        self._default_to = default_to
        self.n_rows = 0
        self.n_faults = 0
        self.faults: list[LineFault] = []

    def rows(self) -> Iterator[Row]:
        """The good rows, in order; counts and faults grow as they are taken."""
        for found in parse_lines(self._lines, default_to=self._default_to):
            self.n_rows += 1
            if isinstance(found, LineFault):
                self.n_faults += 1
                if len(self.faults) < LISTED_MAX:
                    self.faults.append(found)
            else:
                yield found


@contextlib.contextmanager
def open_lines(file: str) -> Iterator[BinaryIO]:
    """The file, or stdin for "-". Raises UsageError where it cannot be read."""
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 - closed below; only its opening is the caller's mistake
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    with stream:
        yield stream


def read_content(file: str, which: str) -> Variant:
    """The one notification of the file, which may be written over several lines. which: as what it is wanted.

    Raises: UsageError.
    """
    with open_lines(file) as lines:
        text = lines.read()
    if not text.strip():
        raise UsageError(f"{file}: is empty, expected one notification {which}")
    if sum(_is_object(line) for line in text.splitlines()) > 1:
        raise UsageError(f"{file}: has several notifications, expected one {which}")
    rows = parse_line(text, 1, default_to=_NOBODY)
    if isinstance(rows, LineFault):
        raise UsageError(f"{file}: {rows.text}")
    if len(rows) != 1 or rows[0].target != _NOBODY or rows[0].variables:
        raise UsageError(f"{file}: a notification {which} has neither `to` nor `vars`")
    return rows[0].variant


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
