"""What commands say: progress and errors on stderr; results on stdout, as tables for people or JSON for machines.

With --json the tables go to stderr, so that stdout holds nothing but JSON lines. Texts of users are never read as
markup. A reader that has left (`| head`) is BrokenPipeError, whoever wrote.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.cli.exit_codes import UsageError

if TYPE_CHECKING:
    from rich.console import Console

#: Width of tables where stdout is no terminal: a file has no width, and a task id must not be broken.
_WIDTH_WITHOUT_TERMINAL = 140


class StdoutFull(UsageError):
    """stdout takes nothing more: a full disk behind it."""


class Output:
    """is_json: results are wanted as JSON lines on stdout."""

    def __init__(self, *, is_json: bool = False) -> None:
        self.is_json = is_json
        self._consoles: dict[bool, Console] = {}

    def _console(self, *, is_stderr: bool) -> Console:
        if is_stderr not in self._consoles:
            from rich.console import Console

            class PlainConsole(Console):
                """rich would end the process with code 1, which says that rows were lost."""

                def on_broken_pipe(self) -> None:
                    raise BrokenPipeError

            console = PlainConsole(stderr=is_stderr, markup=False, emoji=False, highlight=False)
            if not console.is_terminal:
                console.width = _WIDTH_WITHOUT_TERMINAL
            self._consoles[is_stderr] = console
        return self._consoles[is_stderr]

    # -- results

    def document(self, value: Mapping[str, Any]) -> None:
        """One JSON object as one line on stdout; nothing without --json."""
        if self.is_json:
            self.text(msgspec.json.encode(value).decode())

    def text(self, text: str) -> None:
        """A result that is copied or piped: written as it is, never wrapped."""
        with to_stdout():
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
            sys.stdout.flush()

    def table(
        self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[int] = ()
    ) -> None:
        """numbers: positions of columns that hold numbers."""
        from rich.table import Table
        from rich.text import Text

        right = set(numbers)
        if title:
            # Above the table and not of it: a table breaks its title to its own width.
            self.say(title)
        table = Table(header_style="bold")
        for position, column in enumerate(columns):
            table.add_column(Text(column), justify="right" if position in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*[Text(shown(cell)) for cell in row])
        with to_stdout():
            self._console(is_stderr=self.is_json).print(table)

    def facts(self, title: str, facts: Mapping[str, Any]) -> None:
        """A table of names and values, nested names dotted; each list of mappings is a table of its own below it."""
        lists = {name: value for name, value in facts.items() if _is_list_of_mappings(value)}
        self.table(title, ["what", "value"], flat({name: facts[name] for name in facts if name not in lists}))
        for name, items in lists.items():
            columns = list(items[0])
            rows = [[readable(column, item.get(column)) for column in columns] for item in items]
            numbers = [at for at, column in enumerate(columns) if _is_number(column, items[0].get(column))]
            self.table(name, [label(column) for column in columns], rows, numbers=numbers)

    def say(self, text: str) -> None:
        """A line for people beside the tables."""
        with to_stdout():
            self._console(is_stderr=self.is_json).print(text, soft_wrap=True)

    # -- progress and errors

    def progress(self, text: str) -> None:
        self._console(is_stderr=True).print(text, style="dim", soft_wrap=True)

    def error(self, text: str) -> None:
        console = self._console(is_stderr=True)
        for line in text.splitlines() or [""]:
            console.print(f"pushgw: {line}", style="red", soft_wrap=True)

    @contextlib.contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar while the block runs, none for a total of 0; the function given is told how many are done."""
        console = self._console(is_stderr=True)
        if not console.is_terminal or not total:
            yield lambda _done: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        shapes = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*shapes, console=console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def to_stdout() -> Iterator[None]:
    """Raises StdoutFull; BrokenPipeError as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StdoutFull(f"stdout: {error.strerror}") from error


def counted(n: int, what: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def shown(value: object) -> str:
    """A cell: counts with separators, times and sizes short, nothing as a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return str(value)


def flat(facts: Mapping[str, Any], path: str = "") -> list[tuple[str, object]]:
    """(dotted name, value) of a nested mapping, in its order."""
    out: list[tuple[str, object]] = []
    for name, value in facts.items():
        here = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping) and value:
            out += flat(value, here)
        else:
            out.append((label(here), readable(here, value)))
    return out


def label(name: str) -> str:
    """A name above what `readable` makes of its value: a date has no unit."""
    return name.removesuffix("_unix_ms").removesuffix("_unix_s")


def readable(name: str, value: object) -> object:
    """A value as people read it: points in time as dates, bytes as hex, lists on one line."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    if name.endswith("pid") and isinstance(value, int):
        # It goes into the next command: no separators.
        return str(value)
    if isinstance(value, int) and name.endswith(("unix_ms", "unix_s")):
        return moment(value if name.endswith("unix_ms") else 1000 * value) if value else None
    return value


def moment(unix_ms: int) -> str:
    """Unix ms as UTC with milliseconds; the number itself where no calendar holds it."""
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
    except (ValueError, OverflowError, OSError):
        return str(unix_ms)


def _is_number(name: str, value: object) -> bool:
    """A point in time is shown as a date."""
    return isinstance(value, int | float) and not isinstance(value, bool) and label(name) == name


def _is_list_of_mappings(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, Mapping) for item in value)
