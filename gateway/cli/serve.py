"""`pushgw serve`: the gateway in the foreground."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
from typing import Any

from gateway.cli.arguments import CONFIG_VARIABLE
from gateway.cli.exit_codes import UsageError
from gateway.cli.output import Output


def run(options: argparse.Namespace, output: Output) -> int:
    """The gateway has served and drained; its exit code. Raises ConfigError with every fault of the file."""
    # What is made by importing stays; looking through it over and over is a tenth of the time until it is ready.
    gc.disable()
    from gateway.app import serve
    from gateway.app_supervisor import supervise
    from gateway.config import load_config, read_text

    gc.enable()
    if options.config is None:
        raise UsageError(f"give --config FILE or set {CONFIG_VARIABLE}")
    text = read_text(options.config)
    config = load_config(options.config, text=text)
    if options.exit_with_parent:
        _end_with_stdin()

    def ready(listening: dict[str, Any]) -> None:
        if options.ready_json:
            Output(is_json=True).document(listening)
        else:
            rpc, long_link = " ".join(listening["rpc"]), " ".join(listening["long_link"])
            output.progress(f"ready: rpc {rpc}, long link {long_link}, http {listening['http']}")

    if config.gateway.workers > 1:
        return supervise(config, options.config, text, ready=ready)
    return serve(config, ready=ready)


def _end_with_stdin() -> None:
    """SIGTERM to ourselves when stdin ends: whoever started us is gone. A thread, because stdin may be any file."""

    def read_to_end() -> None:
        while os.read(sys.stdin.fileno(), 65_536):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read_to_end, name="stdin", daemon=True).start()
