"""`pushgw revoke`: a task is stopped and what it shows is taken back, or replaced; what stays shown is said."""

from __future__ import annotations

import argparse

from gateway.cli.connection import asking_client
from gateway.cli.exit_codes import ExitCode
from gateway.cli.lines import read_content
from gateway.cli.output import Output, counted
from gateway.message_id import to_text
from gateway.wire.rpc.messages import TaskRevoked

#: What each outcome means to who reads the table at night.
_MEANINGS = {
    "revoked": "their devices are told to take it back",
    "replaced": "the other notification takes its place",
    "cannot": "STAYS SHOWN: the channel offers no way",
    "no_collapse_id": "STAYS SHOWN: it had no collapse id to replace it by",
    "not_shown": "never went out, or shows nothing",
}


def run(options: argparse.Namespace, output: Output) -> int:
    replacement = None if options.replace_with is None else read_content(options.replace_with, "that replaces others")
    with asking_client(options) as client:
        revoked = client.revoke_task(options.task, replacement=replacement)
    output.document(
        {
            "task": to_text(revoked.task_id),
            "revoke_task": to_text(revoked.revoke_task_id) if any(revoked.revoke_task_id) else "",
            "cancelled": revoked.cancelled,
            "may_have_arrived": revoked.may_have_arrived,
            "channels": revoked.channels,
        }
    )
    if not output.is_json:
        show(revoked, output)
    return ExitCode.GOOD


def show(revoked: TaskRevoked, output: Output) -> None:
    output.say(f"task {to_text(revoked.task_id)}: stopped, {counted(revoked.cancelled, 'row')} cancelled by this call")
    rows = [
        (channel, name, n, _MEANINGS.get(name, ""))
        for channel, outcomes in revoked.channels.items()
        for name, n in outcomes.items()
    ]
    output.table("what it shows", ["channel", "outcome", "rows", ""], rows, numbers=[2])
    if any(revoked.revoke_task_id):
        output.say(f"what devices are told is task {to_text(revoked.revoke_task_id)}")
