"""`pushgw stop`: a task sends no further row; what went out, and what ended, by channel and state."""

from __future__ import annotations

import argparse

from gateway.cli.connection import asking_client
from gateway.cli.exit_codes import ExitCode
from gateway.cli.output import Output, counted
from gateway.message_id import to_text
from gateway.wire.rpc.messages import TaskStopped


def run(options: argparse.Namespace, output: Output) -> int:
    with asking_client(options) as client:
        stopped = client.stop_task(options.task)
    output.document(
        {
            "task": to_text(stopped.task_id),
            "cancelled": stopped.cancelled,
            "may_have_arrived": stopped.may_have_arrived,
            "accepted": stopped.accepted,
            "states": stopped.states,
            "channels": stopped.channels,
            "is_final": stopped.is_final,
        }
    )
    if not output.is_json:
        show(stopped, output)
    return ExitCode.GOOD


def show(stopped: TaskStopped, output: Output) -> None:
    ended = f"{stopped.cancelled:,} of {counted(stopped.accepted, 'row')} cancelled by this call"
    output.say(f"task {to_text(stopped.task_id)}: stopped, {ended}")
    if stopped.may_have_arrived:
        output.say(f"{stopped.may_have_arrived:,} of them may have been seen: an earlier attempt had no answer")
    if not stopped.is_final:
        output.say("some rows are in flight: their answers decide, and they make no further attempt")
    rows = [("all", name, n) for name, n in stopped.states.items() if n]
    rows += [(channel, name, n) for channel, states in stopped.channels.items() for name, n in states.items() if n]
    output.table("where its rows are", ["channel", "state", "rows"], rows, numbers=[2])
