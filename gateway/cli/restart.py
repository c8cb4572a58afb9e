"""`pushgw restart`: the workers are started anew, one after the other, while the others serve."""

from __future__ import annotations

import argparse

import msgspec

from gateway.cli.connection import operator_only
from gateway.cli.exit_codes import ExitCode
from gateway.cli.output import Output


def run(options: argparse.Namespace, output: Output) -> int:
    """ROWS_REFUSED where a worker was kept as it was, because rows would have been lost with it."""
    with operator_only(options) as client:
        output.progress("one worker after the other: each sends its devices away, and has gateway.drain_s to end")
        done = client.restart(may_lose=options.may_lose).workers
    output.document({"workers": [msgspec.to_builtins(one) for one in done]})
    if not output.is_json:
        rows = [(one.worker, one.outcome, sum(one.rows_open.values()), f"{one.took_ms / 1000:.1f}") for one in done]
        output.table("workers", ["worker", "outcome", "rows it still had", "seconds"], rows, numbers=[0, 2, 3])
    return ExitCode.ROWS_REFUSED if any(one.outcome == "kept" for one in done) else ExitCode.GOOD
