"""`pushgw status`: what the gateway is doing, for operators."""

from __future__ import annotations

import argparse

from gateway.cli.connection import operator_only
from gateway.cli.exit_codes import ExitCode
from gateway.cli.output import Output


def run(options: argparse.Namespace, output: Output) -> int:
    with operator_only(options) as client:
        facts = client.status().facts
    output.document(facts)
    if not output.is_json:
        output.facts("status", facts)
    return ExitCode.GOOD
