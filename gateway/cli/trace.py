"""`pushgw trace`: the way of one message, hop by hop."""

from __future__ import annotations

import argparse

import msgspec

from gateway.cli.connection import asking_client
from gateway.cli.exit_codes import ExitCode, UsageError
from gateway.cli.output import Output, moment
from gateway.client.blocking import BlockingClient
from gateway.client.errors import CallFailed
from gateway.message_id import to_text
from gateway.wire.rpc.messages import Hop, TraceHops


def run(options: argparse.Namespace, output: Output) -> int:
    with asking_client(options) as client:
        if options.device is None:
            found = _by_message(client, options.what)
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


def _by_message(client: BlockingClient, message_id: bytes) -> TraceHops:
    try:
        return client.trace(message_id=message_id)
    except CallFailed as error:
        if error.code != "not_found":
            raise
        raise UsageError(f"{error}; with the id of a task, name the device as well: trace TASK DEVICE") from error


def _row(hop: Hop) -> tuple[object, ...]:
    outcome = " ".join(text for text in (hop.verdict, hop.name, hop.state, hop.reason, hop.receipt, hop.text) if text)
    return (moment(hop.at_unix_ms), hop.what, hop.channel, hop.connection, hop.attempt or None, outcome, hop.request)
