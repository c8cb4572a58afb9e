"""SpareProcess: a process that has its imports behind it and waits to be told which worker it is.

    SpareProcess --begin--> [imports, a second of CPU] ... take() --> WorkerProcess sends `start`, ready soon

A worker that dies leaves its devices and its share of all work to wait for its next life, and the start of a Python
process takes a second of a core from those that live, just when thousands of devices come back. So one process is made
ahead, while nothing is wrong, and the next life of whichever worker dies is this one. What tells it apart from others,
`start`, is made and sent when it is taken. Another is made `after_s` later, when the devices are back, or when
somebody knows that it will be needed (`hurry`). Its own imports take their time (app_spare.py).

Its end, for whatever reason, is nobody's crash: another is made. It ends with its control socket, like any worker.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import trio

COMMAND = (sys.executable, "-m", "gateway.app_spare")


class Begun(NamedTuple):
    """A process and our end of its control socket."""

    process: trio.Process
    stream: trio.SocketStream


async def begin(command: Sequence[str], files: Sequence[int]) -> Begun:
    """The process runs and has been told nothing yet. command: what is run, with the descriptor added; files: what it
    inherits.

    If cancelled: none is left.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    try:
        with theirs:
            process = await trio.lowlevel.open_process(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *files),
            )
    except BaseException:
        stream.socket.close()
        raise
    return Begun(process, stream)


async def end(process: trio.Process) -> None:
    """It is killed and gone. If cancelled: the same."""
    process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()


class SpareProcess:
    """files: what a worker inherits, asked for when one is made. after_s: from the start, and from when one was taken
    or ended, to the next."""

    def __init__(self, command: Sequence[str], files: Callable[[], Sequence[int]], after_s: float) -> None:
        self._command = command
        self._files = files
        self._after_s = after_s
        self._begun: Begun | None = None
        self._is_taken = trio.Event()
        self._is_wanted = trio.Event()

    @property
    def pid(self) -> int | None:
        """Of the one that waits."""
        return None if self._begun is None else self._begun.process.pid

    def take(self) -> Begun | None:
        """The process is the caller's, who ends it; None: there is none."""
        begun = self._begun
        if begun is None or begun.process.returncode is not None:
            return None
        self._begun = None
        self._is_taken.set()
        return begun

    def hurry(self) -> None:
        """One is made now, where none waits."""
        if self._begun is None:
            self._is_wanted.set()

    async def run(self) -> None:
        """Keeps one. If cancelled: the one that waits is gone."""
        while True:
            with trio.move_on_after(self._after_s):
                await self._is_wanted.wait()
            self._is_wanted = trio.Event()
            begun = self._begun = await begin(self._command, self._files())
            self._is_taken = trio.Event()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._wait_end, begun.process, nursery.cancel_scope)
                    await self._is_taken.wait()
                    nursery.cancel_scope.cancel()
            finally:
                if self._begun is begun:
                    self._begun = None
                    begun.stream.socket.close()
                    await end(begun.process)

    async def _wait_end(self, process: trio.Process, scope: trio.CancelScope) -> None:
        await process.wait()
        scope.cancel()
