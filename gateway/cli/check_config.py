"""`pushgw check-config`: a file is good, or every fault with file, key, value and what was expected."""

from __future__ import annotations

import argparse

from gateway.cli.exit_codes import ExitCode
from gateway.cli.output import Output


def run(options: argparse.Namespace, output: Output) -> int:
    from gateway.config import ConfigFaults, describe, load_config

    try:
        config = load_config(options.file, with_files=not options.without_files)
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
