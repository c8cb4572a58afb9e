"""Child processes of the demo: started with pipes, awaited with a limit, ended on every way out.

They also end by themselves when their stdin closes, so that nothing is left even when this process is killed. Each is
in a process group of its own: Ctrl-C at the terminal reaches only us, and we end them in order.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

import gateway
from gateway.errors import GatewayError

#: Seconds until a child says that it is ready: imports, key generation and TLS take a few, and on a machine with a load
#: of thirty more than 45. One that has ended is noticed at once.
READY_S = 180.0
#: Seconds that a child may take to end after SIGTERM before it is killed.
END_S = 6.0
_READ_BYTES = 1 << 18
_LOG_LINES = 15


class DemoFailed(GatewayError):
    """A part of the demo did not do its work in time, or ended. The text says which, and ends with its last words."""


class Child:
    """One process. Its stderr goes to a file; its stdout is read line by line."""

    def __init__(self, name: str, arguments: Sequence[str], directory: Path) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        self._lines: deque[bytes] = deque()
        self._partial = b""
        root = str(Path(gateway.__file__).resolve().parent.parent)
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def read_json(self, what: str, timeout_s: float) -> dict[str, Any]:
        """The next line of stdout as an object. what: what is waited for, for the error.

        Raises DemoFailed when it does not come in time, the process has ended, or the line is something else.
        """
        line = self._read_line(what, time.monotonic() + timeout_s, timeout_s)
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise self._failed(f"said something else than {what}: {line[:200]!r}") from error

    def write_json(self, document: object) -> None:
        """One line on its stdin. Raises DemoFailed when nobody reads it any more."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(document) + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failed("does not take commands any more") from error

    def check(self) -> None:
        """Raises DemoFailed when the process has ended."""
        if self._process.poll() is not None:
            raise self._failed("has ended")

    def ask_to_end(self) -> None:
        """It knows that it shall end: SIGTERM, and the end of its stdin."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if self._process.poll() is None:
            self._process.terminate()

    def end(self, timeout_s: float) -> None:
        """The process has ended, by force after the timeout."""
        assert self._process.stdout is not None
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _read_line(self, what: str, deadline: float, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while not self._lines:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._failed(f"gave no {what} within {timeout_s:g} s")
            if not select.select([descriptor], [], [], left_s)[0]:
                continue
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                raise self._failed(f"ended before {what}")
            *lines, self._partial = (self._partial + data).split(b"\n")
            self._lines.extend(lines)
        return self._lines.popleft()

    def _failed(self, text: str) -> DemoFailed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Its last words are written by the time it is gone; a living one is not waited for.
            self._process.wait(0.2)
        code = self._process.returncode
        ended = "" if code is None else f" (exit code {code})"
        words = "\n".join(f"  {self.name}: {line}" for line in self.last_words())
        return DemoFailed(f"{self.name} {text}{ended}" + (f"\n{words}" if words else ""))

    def last_words(self) -> list[str]:
        """The end of its log."""
        try:
            return self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        except OSError:
            return []


class Children:
    """All processes of a demo; those that still run at the end of the block are ended, the last one first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[Child] = []

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        child = Child(name, arguments, self._directory)
        self._running.append(child)
        return child

    def check(self) -> None:
        """Raises DemoFailed when one of them has ended."""
        for child in self._running:
            child.check()

    def __iter__(self) -> Iterator[Child]:
        return iter(self._running)

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._running):
            child.ask_to_end()
        deadline = time.monotonic() + END_S
        for child in reversed(self._running):
            child.end(max(0.1, deadline - time.monotonic()))
        self._running.clear()
