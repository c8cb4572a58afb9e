"""A JSONL file on its way to submits: rows go through, faulty lines are put aside and counted."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from gateway.cli.exit_codes import UsageError
from gateway.client.requests import Target
from gateway.client.rows import LineFault, Row, parse_lines

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
