"""`python -m bench.simulators`: simulators in the foreground; one JSON line on stdout when they are ready.

Ends on SIGTERM and SIGINT, and with --exit-with-parent when its stdin closes. Exit codes: 0 ended as asked, 2 wrong
usage or configuration.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.simulators.config import SimulatorsConfig, only, read_config, simulator_names
from bench.simulators.server import serve_simulators


def main(arguments: list[str] | None = None) -> int:
    """The simulators have run and ended; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.simulators", description="Strict simulators of push services."
    )
    parser.add_argument("--config", type=Path, help="TOML file; configs/simulators.toml documents every key")
    parser.add_argument("--dir", type=Path, help="for certificates and credentials; default: a temporary directory")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--only", metavar="NAMES", help="start these and no others: names joined by commas")
    chosen.add_argument("--all", action="store_true", help="start all, whatever the file enables")
    parser.add_argument("--json", action="store_true", help="the ready line as JSON instead of text for people")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when stdin closes")
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config)
        if options.only is not None or options.all:
            config = only(config, simulator_names() if options.all else options.only.split(","))
        if options.dir is not None:
            return uvloop.run(_serve(config, options.dir.absolute(), options.json, options.exit_with_parent))
        with tempfile.TemporaryDirectory(prefix="simulators-") as directory:
            return uvloop.run(_serve(config, Path(directory), options.json, options.exit_with_parent))
    except (ValueError, OSError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        sys.stderr.write(f"simulators: {text}\n")
        return 2


async def _serve(config: SimulatorsConfig, directory: Path, is_json: bool, is_exit_with_parent: bool) -> int:
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, is_over.set)
    if is_exit_with_parent:
        _watch_stdin(loop, is_over)
    async with await serve_simulators(config, directory) as simulators:
        ready = simulators.ready() | {"pid": os.getpid()}
        sys.stdout.write(msgspec.json.encode(ready).decode() + "\n" if is_json else _text(ready))
        sys.stdout.flush()
        await is_over.wait()
    return 0


def _watch_stdin(loop: asyncio.AbstractEventLoop, is_over: asyncio.Event) -> None:
    """`is_over` is set at the end of stdin; what comes before the end is thrown away.

    A thread, because stdin may be a file or /dev/null, which epoll refuses.
    """

    def read_to_end() -> None:
        while os.read(sys.stdin.fileno(), 65_536):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended first
            loop.call_soon_threadsafe(is_over.set)

    threading.Thread(target=read_to_end, name="stdin", daemon=True).start()


def _text(ready: dict[str, Any]) -> str:
    lines = [
        f"CA file       {ready['ca_file']}",
        f"control port  http://{ready['control']['host']}:{ready['control']['port']}",
    ]
    for name, where in ready.items():
        if name != "control" and isinstance(where, dict):
            shown = ", ".join(f"{key} {value}" for key, value in where.items() if key not in ("host", "port"))
            lines.append(f"{name:<13} https://{where['host']}:{where['port']}  {shown}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
