"""`pushgw simulate`: the simulators of all vendors, a staging environment. docs/simulators.md says what they can do."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from gateway.cli.output import Output


def run(options: argparse.Namespace, output: Output) -> NoReturn:
    """This process becomes the simulators, so that signals and exit code are theirs."""
    arguments: list[str] = []
    for name in ("config", "dir", "only"):
        value = getattr(options, name)
        if value is not None:
            arguments += [f"--{name}", str(value)]
    arguments += ["--all"] if options.all else []
    arguments += ["--json"] if options.json else []
    arguments += ["--exit-with-parent"] if options.exit_with_parent else []
    os.execv(sys.executable, [sys.executable, "-m", "bench.simulators", *arguments])
