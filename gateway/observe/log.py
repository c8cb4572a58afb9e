"""Structured log: one JSON object per line on stderr, for machines to sort and for people to read at night.

    {"time":"2026-08-01T21:04:11.250Z","level":"warning","actor":"lane apns/shop","event":"throttled","rows":1000}

Rules for authors: an event is a name that can be searched for, its facts are fields; never a sentence with values in
it. Nothing is logged per row, at any level. Values of sensitive fields and everything that looks like a token are
replaced by a short hash (redact.py). Lines of one event beyond `lines_per_s_max` are left out; the next line of that
event says how many.
"""

from __future__ import annotations

import enum
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Protocol

import msgspec
import numpy as np

from gateway.observe.redact import Redacted, is_sensitive, redact_text

#: Longest text of one field, and longest list; a line stays under what log collectors take (16 KiB).
_TEXT_MAX = 2000
_ITEMS_MAX = 50
_FRAMES_MAX = 12


class Level(enum.IntEnum):
    DEBUG = 0
    INFO = 1
    WARNING = 2
    ERROR = 3


class TextStream(Protocol):
    """What lines are written to."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class _Sink:
    """What all loggers of a process share: the stream, the level, and how much each event has said lately."""

    def __init__(
        self,
        stream: TextStream,
        level: Level,
        lines_per_s_max: int,
        unix_s: Callable[[], float],
        on_line: Callable[[Level], None],
        on_suppressed: Callable[[], None],
    ) -> None:
        self.stream = stream
        self.level = level
        self.unix_s = unix_s
        self.lines_per_s_max = lines_per_s_max
        self.on_line = on_line
        self.on_suppressed = on_suppressed
        # event -> [second, lines in it, left out since the last line]; events are constants of the code, so few.
        self._said: dict[str, list[int]] = {}

    def admit(self, event: str, now_unix_s: float) -> int | None:
        """How many lines of this event were left out before this one; None when this one must be left out too."""
        second = int(now_unix_s)
        said = self._said.setdefault(event, [second, 0, 0])
        if said[0] != second:
            said[0], said[1] = second, 0
        if said[1] >= self.lines_per_s_max:
            said[2] += 1
            self.on_suppressed()
            return None
        said[1] += 1
        left_out, said[2] = said[2], 0
        return left_out


class Log:
    """A logger with bound fields. `bind` makes a narrower one; all share the stream and the limits of the first."""

    def __init__(
        self,
        *,
        stream: TextStream | None = None,
        level: Level = Level.INFO,
        lines_per_s_max: int = 100,
        unix_s: Callable[[], float] = time.time,
        on_line: Callable[[Level], None] = lambda level: None,
        on_suppressed: Callable[[], None] = lambda: None,
    ) -> None:
        self._sink = _Sink(stream or sys.stderr, level, lines_per_s_max, unix_s, on_line, on_suppressed)
        self._bound: dict[str, object] = {}

    def bind(self, **fields: object) -> Log:
        """A logger whose lines also carry these fields; `actor` by custom first."""
        narrower = Log.__new__(Log)
        narrower._sink = self._sink
        narrower._bound = {**self._bound, **fields}
        return narrower

    def debug(self, event: str, **fields: object) -> None:
        self._write(Level.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(Level.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(Level.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(Level.ERROR, event, fields)

    def crash(self, event: str, error: BaseException, **fields: object) -> None:
        """An exception nobody expected: its type, text and innermost frames."""
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_MAX:]
        where = [f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        known = {"error": type(error).__name__, "text": str(error), "frames": where}
        self._write(Level.ERROR, event, {**fields, **known})

    def _write(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        sink = self._sink
        if level < sink.level:
            return
        now = sink.unix_s()
        left_out = sink.admit(event, now)
        if left_out is None:
            return
        line: dict[str, object] = {"time": _iso(now), "level": level.name.lower()}
        bound = {**self._bound, **fields}
        if "actor" in bound:
            line["actor"] = _shown("actor", bound.pop("actor"))
        line["event"] = event
        for key, value in bound.items():
            line[key if key not in line else key + "_"] = _shown(key, value)
        if left_out:
            line["left_out"] = left_out
        try:
            sink.stream.write(msgspec.json.encode(line).decode() + "\n")
            sink.stream.flush()
        except (OSError, ValueError):
            # Nobody reads any more (closed pipe, full disk): the gateway's work goes on without its log.
            sink.on_suppressed()
            return
        sink.on_line(level)


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _shown(key: str, value: object) -> object:
    """The value as a line may hold it: plain JSON, bounded, nothing secret."""
    if is_sensitive(key) and value is not None and not isinstance(value, Redacted | bool):
        # A collection of secrets is one secret: what is in it must not show through its parts.
        return repr(Redacted(value if isinstance(value, str | bytes) else repr(value)))
    match value:
        case None | bool():
            return value
        case enum.Enum():
            return value.value if isinstance(value.value, str) else value.name.lower()
        case np.generic():
            return _shown(key, value.item())
        case int():
            # JSON encoders stop at 64 bits; what is larger is no count
            return int(value) if -(2**63) <= value < 2**64 else str(value)
        case float():
            return value  # NaN and infinity become null
        case str():
            return _cut(redact_text(value))
        case bytes():
            # ids travel as 16 bytes; anything longer could be a token
            return value.hex() if len(value) <= 16 else repr(Redacted(value))
        case Mapping():
            pairs = list(value.items())[:_ITEMS_MAX]
            return {str(name): _shown(str(name), item) for name, item in pairs}
        case list() | tuple() | set() | frozenset():
            return [_shown(key, item) for item in list(value)[:_ITEMS_MAX]]
        case _:
            return _cut(redact_text(str(value)))


def _cut(text: str) -> str:
    text = text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + f"... ({len(text)} characters)"
    return text.encode(errors="replace").decode() if not text.isprintable() else text
