"""`pushgw clock advance`: time passes at once, in the gateway and, where asked, in the simulators. Development only."""

from __future__ import annotations

import argparse

from gateway.cli.connection import operator_only
from gateway.cli.control_port import ControlPort
from gateway.cli.exit_codes import ExitCode
from gateway.cli.output import Output, moment


def run(options: argparse.Namespace, output: Output) -> int:
    """Both clocks have moved, the simulators' first: a credential must not come from their future."""
    if options.simulators is not None:
        ControlPort.at(options.simulators).advance_clock(options.seconds)
    with operator_only(options) as client:
        now_unix_ms = client.clock_advance(options.seconds).now_unix_ms
    output.document({"advanced_s": options.seconds, "now_unix_ms": now_unix_ms})
    if not output.is_json:
        output.say(f"the development clock of the gateway says {moment(now_unix_ms)}")
    return ExitCode.GOOD
