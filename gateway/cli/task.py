"""`pushgw task`: where the rows of one task are, by state, channel and reason."""

from __future__ import annotations

import argparse

from gateway.cli.connection import asking_client
from gateway.cli.exit_codes import ExitCode
from gateway.cli.output import Output, counted
from gateway.client.blocking import BlockingClient
from gateway.message_id import to_text
from gateway.wire.rpc.messages import TaskCounts


def run(options: argparse.Namespace, output: Output) -> int:
    client: BlockingClient
    with asking_client(options) as client:
        counts = client.task_state(options.task)
    output.document(document(counts))
    if not output.is_json:
        show(counts, output)
    return ExitCode.GOOD


def document(counts: TaskCounts) -> dict[str, object]:
    return {
        "task": to_text(counts.task_id),
        "accepted": counts.accepted,
        "states": counts.states,
        "channels": counts.channels,
        "reasons": counts.reasons,
        "receipts": counts.receipts,
        "is_routed": counts.is_routed,
        "is_final": counts.is_final,
        "handed_over_unacked": counts.handed_over_unacked,
        "waited_offline": counts.waited_offline,
        "submitted_unix_ms": counts.submitted_unix_ms,
        "latency_ms": counts.latency_ms,
        "groups": counts.groups,
        "plans": counts.plans,
        "audience_devices": counts.audience_devices,
    }


def show(counts: TaskCounts, output: Output) -> None:
    where = "all rows have ended" if counts.is_final else "rows are open" if counts.is_routed else "being routed"
    output.say(f"task {to_text(counts.task_id)}: {counted(counts.accepted, 'row')} accepted, {where}")
    if counts.audience_devices:
        output.say(f"its audience had {counted(counts.audience_devices, 'device')} and is under way")
    rows: list[tuple[str, str, int]] = []
    for title, found in (
        ("state", counts.states),
        ("reason", counts.reasons),
        ("receipt", counts.receipts),
        ("group", counts.groups),
        ("plan", counts.plans),
    ):
        rows += [(title, name, n) for name, n in found.items() if n]
    output.table("rows", ["what", "name", "rows"], rows, numbers=[2])
    by_channel = [(channel, name, n) for channel, states in counts.channels.items() for name, n in states.items() if n]
    output.table("by channel", ["channel", "state", "rows"], by_channel, numbers=[2])
    if counts.latency_ms:
        output.table(
            "submit to final state, ms (without rows that waited for a device or a moved clock)",
            ["channel", "rows", "p50", "p99", "max"],
            [(channel, one.n, one.p50, one.p99, one.max) for channel, one in counts.latency_ms.items()],
            numbers=[1, 2, 3, 4],
        )
