"""`pushgw trace`: the way of one message, hop by hop."""

from __future__ import annotations

import argparse

import msgspec

from gateway.cli.connection import asking_client
from gateway.cli.exit_codes import ExitCode
from gateway.cli.output import Output, moment
from gateway.message_id import to_text
from gateway.wire.rpc.messages import Hop


def run(options: argparse.Namespace, output: Output) -> int:
    with asking_client(options) as client:
        if options.device is None:
            found = client.trace(message_id=options.what)
        else:
            found = client.trace(options.what, options.device)
    output.document(
        {
            "task": to_text(found.task_id),
            "message_id": to_text(found.message_id),
            "group": found.group,
            "plan_id": found.plan_id,
            "hops": [msgspec.to_builtins(hop) for hop in found.hops],
        }
    )
    if not output.is_json:
        labels = [f"{name} {value}" for name, value in (("group", found.group), ("plan", found.plan_id)) if value]
        output.say(", ".join([f"message {to_text(found.message_id)}", *labels]))
        columns = ["time", "what", "channel", "connection", "attempt", "outcome", "vendor's request"]
        output.table(f"task {to_text(found.task_id)}", columns, [_row(hop) for hop in found.hops])
    return ExitCode.GOOD


def _row(hop: Hop) -> tuple[object, ...]:
    outcome = " ".join(text for text in (hop.verdict, hop.name, hop.state, hop.reason, hop.receipt, hop.text) if text)
    return (moment(hop.at_unix_ms), hop.what, hop.channel, hop.connection, hop.attempt or None, outcome, hop.request)
