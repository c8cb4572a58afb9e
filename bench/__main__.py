"""`python -m bench NAME [--json] [--out FILE] [--smoke] [--only WORKLOAD] [--seed N]`: runs one benchmark.

Each benchmark runs in a process of its own; a failed comparison of what was produced with what was asked for ends the
run with exit code 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from bench.harness import Line, Options, progress

#: Name -> module with `run(options)`. The question each answers stands in its docstring.
BENCHMARKS = {
    "core": "bench.core",
    "vendor": "bench.vendor",
    "http1": "bench.http1",
    "durable": "bench.durable",
    "registry": "bench.registry",
    "inbox": "bench.inbox",
    "ledger": "bench.ledger",
    "longlink": "bench.longlink",
    "render": "bench.render",
    "receipts": "bench.receipts",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks; one question each.")
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="JSON lines on stdout instead of a table")
    parser.add_argument("--out", metavar="FILE", help="append the JSON lines to FILE")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes: proves that it runs, measures nothing")
    parser.add_argument("--only", action="append", default=[], metavar="WORKLOAD", help="only these workloads")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a size of a workload, for development"
    )
    parser.add_argument("--seed", type=int, default=Options.seed)
    chosen = parser.parse_args(arguments)
    module = importlib.import_module(BENCHMARKS[chosen.name])
    extra = dict(pair.split("=", 1) for pair in chosen.set)
    options = Options(smoke=chosen.smoke, seed=chosen.seed, only=tuple(chosen.only), extra=extra)
    lines: list[Line] = []
    with open(chosen.out, "a", encoding="utf-8") if chosen.out else nullcontext() as kept:
        try:
            for measured in module.run(options):
                text = json.dumps(measured, ensure_ascii=False)
                lines.append(measured)
                if chosen.json:
                    sys.stdout.write(text + "\n")
                    sys.stdout.flush()
                if kept is not None:
                    kept.write(text + "\n")
        except AssertionError as error:
            progress(f"FAILED: {error}")
            return 1
    if not chosen.json:
        show(lines)
    return 0


def show(lines: Sequence[Line]) -> None:
    """The figures that people look at first, as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=lines[0]["benchmark"] if lines else "no measurement")
    columns = ["workload", "batch_rows", "rows_per_s", "cpu_s_per_million", "loop_lag_ms_max", "peak_rss_bytes"]
    for name in columns:
        table.add_column(name, justify="left" if name == "workload" else "right")
    for measured in lines:
        cells = [measured.get(name, "") for name in columns]
        table.add_row(*[f"{cell:,}" if isinstance(cell, int | float) else str(cell) for cell in cells])
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
