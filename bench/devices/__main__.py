"""`python -m bench.devices`: a fleet of phones, commanded by JSON lines on stdin, answering by JSON lines on stdout.

First line out: {"ready": true, "pid": n}. Ends with `quit`, at the end of stdin, or on SIGTERM and SIGINT. Exit codes:
0 ended as asked, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import sys
import threading
from typing import Any

import msgspec
import uvloop

from bench.devices.fleet import Fleet
from bench.devices.received import Received

READ_BYTES = 1_048_576
LINE_BYTES_MAX = 67_108_864  # half a million logins in one command; a longer line ends the input
LINES_WAITING_MAX = 16  # command lines read ahead; the reading thread waits beyond


def main(arguments: list[str] | None = None) -> int:
    """The fleet has run and ended; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.devices", description="A fleet of MQTT devices.")
    parser.add_argument("--host", default="127.0.0.1", help="where the long link listens")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--keepalive-s", type=int, default=300, help="MQTT keepalive, 1..65535")
    parser.add_argument("--keep-texts", action="store_true", help="keep title and body of each row")
    parser.add_argument("--rows-max", type=int, default=5_000_000, help="rows held (about 250 bytes each)")
    parser.add_argument("--texts-bytes-max", type=int, default=268_435_456, help="kept texts, bytes in all")
    parser.add_argument("--sources", type=int, default=0, help="local addresses used in turn; 0 = the kernel's choice")
    parser.add_argument(
        "--json", action="store_true", help="accepted for symmetry: commands and answers are JSON lines"
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.keepalive_s <= 65_535:
        parser.error(f"--keepalive-s is {options.keepalive_s}, expected 1..65535")
    if not 0 <= options.sources <= 254:
        parser.error(f"--sources is {options.sources}, expected 0..254")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one descriptor per device
    return uvloop.run(_serve(options))


async def _serve(options: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()
    room = threading.Semaphore(LINES_WAITING_MAX)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lines.put_nowait, None)
    _read_stdin(loop, lines, room)
    fleet = Fleet(
        options.host,
        options.port,
        received=Received(
            rows_max=options.rows_max, keep_texts=options.keep_texts, texts_bytes_max=options.texts_bytes_max
        ),
        keepalive_s=options.keepalive_s,
        sources=options.sources,
    )
    encoder = msgspec.json.Encoder()
    await _write(encoder, [{"ready": True, "pid": os.getpid()}])
    is_over = False
    while not is_over and (line := await lines.get()) is not None:
        room.release()
        if not line.strip():
            continue
        answers: list[dict[str, Any]] = []
        async for answers in fleet.run(line):
            await _write(encoder, answers)
        is_over = answers[-1].get("cmd") == "quit"
    await fleet.stop()
    return 0


async def _write(encoder: msgspec.json.Encoder, answers: list[dict[str, Any]]) -> None:
    """The answers are on stdout. In a thread: a reader that is slow shall not keep devices from acknowledging."""
    data = encoder.encode_lines(answers)

    def write() -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    await asyncio.get_running_loop().run_in_executor(None, write)


def _read_stdin(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[bytes | None], room: threading.Semaphore) -> None:
    """A thread puts each line of stdin into `lines`, and None at the end; it waits while `room` is used up.

    os.read and not sys.stdin.buffer: a thread that sits in a buffered read at exit aborts the interpreter.
    """

    def put(line: bytes | None) -> None:
        loop.call_soon_threadsafe(lines.put_nowait, line)

    def read() -> None:
        pieces: list[bytes] = []  # of the line that is not complete yet
        size = 0
        with contextlib.suppress(RuntimeError):  # the loop has ended first
            while size <= LINE_BYTES_MAX and (data := os.read(sys.stdin.fileno(), READ_BYTES)):
                *complete, rest = data.split(b"\n")
                if complete:
                    complete[0] = b"".join([*pieces, complete[0]])
                    pieces, size = [], 0
                for line in complete:
                    room.acquire()
                    put(line)
                pieces.append(rest)
                size += len(rest)
            put(None)

    threading.Thread(target=read, name="stdin", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
