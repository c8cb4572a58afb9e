"""`pushgw check-config`: a file is good, or every fault with file, key, value and what was expected."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from gateway.cli.arguments import CONFIG_VARIABLE
from gateway.cli.exit_codes import ExitCode, UsageError
from gateway.cli.output import Output


def run(options: argparse.Namespace, output: Output) -> int:
    from gateway.config import ConfigFaults, describe, load_config

    try:
        config = load_config(_file(options), with_files=not options.without_files)
    except ConfigFaults as error:
        faults = [
            {"file": fault.file, "key": fault.key, "value": repr(fault.value), "expected": fault.expected}
            for fault in error.faults
        ]
        output.document({"good": False, "faults": faults})
        output.error(str(error))
        return ExitCode.USAGE
    if output.is_json:
        output.document({"good": True, "faults": []})
    else:
        output.text(describe(config))
    return ExitCode.GOOD


def _file(options: argparse.Namespace) -> Path:
    """FILE, else --config, else the environment's. Raises UsageError where there are two of them, or none."""
    if options.file is not None and options.config is not None:
        raise UsageError(f"which of the two? FILE is {options.file}, --config {options.config}")
    if (path := options.file or options.config or os.environ.get(CONFIG_VARIABLE)) is None:
        raise UsageError(f"give FILE or --config FILE, or set {CONFIG_VARIABLE}")
    return Path(path)
