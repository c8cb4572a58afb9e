"""What the demo tells: a table per channel, the conservation sum, and the one JSON object of the contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.cli.demo.latency import Measured, percentile
from gateway.cli.demo.proof import LedgerRow, Proof
from gateway.cli.exit_codes import ExitCode
from gateway.cli.output import Output
from gateway.cli.submit import totals
from gateway.wire.rpc.messages import TaskCounts

#: Name of all channels together in `TaskCounts.latency_ms`.
_ALL = "all"
#: How the table calls rows that ended before they had a channel.
_NO_CHANNEL = "none"
#: Final states of rows that no receiver took.
_FAILURES = ("failed", "expired", "dropped", "uncertain", "cancelled")


class Outcome(NamedTuple):
    """Everything there is to tell. measured: channel (and "all") -> one entry per task."""

    rows_read: int
    refused: int
    counts: Sequence[TaskCounts]
    rows: Mapping[bytes, LedgerRow]
    measured: Mapping[str, Sequence[Measured]]
    proof: Proof
    duration_s: float


def measured(counts: Sequence[TaskCounts], intended_unix_ms: Mapping[bytes, float]) -> dict[str, list[Measured]]:
    """Latency per channel from the intended submit time on (unix ms by task id)."""
    found: dict[str, list[Measured]] = {}
    for one in counts:
        # Both clocks are this machine's; whole milliseconds may make the difference slightly negative.
        delay_ms = max(0.0, one.submitted_unix_ms - intended_unix_ms[one.task_id])
        for channel, latency in one.latency_ms.items():
            entry = Measured(latency.n, latency.p50, latency.p99, latency.max, delay_ms)
            found.setdefault(channel, []).append(entry)
    return found


def document(outcome: Outcome) -> dict[str, Any]:
    """Exactly the keys of the contract (issue 2)."""
    states, reasons, by_channel = totals(list(outcome.counts))
    # Rows that never had a channel (dropped when they were routed) are in the states, and under no channel's name.
    channels: dict[str, Mapping[str, int]] = {
        channel: by_channel.get(channel, {}) for channel in outcome.proof.received
    }
    everything = outcome.measured.get(_ALL, ())
    return {
        "submitted": outcome.rows_read,
        "accepted": sum(one.accepted for one in outcome.counts),
        "refused": outcome.refused,
        "states": states,
        "reasons": reasons,
        "channels": channels,
        "received": outcome.proof.received,
        "texts_intact": outcome.proof.texts_intact,
        "duplicates": outcome.proof.duplicates,
        "handed_over_unacked": sum(one.handed_over_unacked for one in outcome.counts),
        "conserved": outcome.proof.conserved,
        "latency_ms": {"p50": percentile(everything, 0.5), "p99": percentile(everything, 0.99)},
        "duration_s": round(outcome.duration_s, 3),
    }


def exit_code(outcome: Outcome) -> ExitCode:
    proof = outcome.proof
    if not proof.conserved or not proof.texts_intact or proof.duplicates:
        return ExitCode.NOT_CONSERVED
    return ExitCode.ROWS_REFUSED if outcome.refused else ExitCode.GOOD


def show(outcome: Outcome, output: Output) -> None:
    """The table and the sum, for people; then the JSON object, where asked for."""
    columns = ["channel", "rows", "accepted", "delivered", "failed", "received", "p50", "p99"]
    rows = [_channel_row(outcome, channel) for channel in _channels(outcome)]
    title = "accepted by the vendor, delivered to the device, received as the receivers tell; latency in ms"
    output.table(title, columns, rows, numbers=range(1, 8))
    failures = _failures(outcome)
    if failures:
        output.table("failed", ["channel", "state", "reason", "rows"], failures, numbers=[3])
    for line in _sums(outcome):
        output.say(line)
    for fault in outcome.proof.faults:
        output.error(fault)
    output.document(document(outcome))


def _channels(outcome: Outcome) -> list[str]:
    told = {row.channel for row in outcome.rows.values()}
    return sorted(told | outcome.proof.received.keys())


def _channel_row(outcome: Outcome, channel: str) -> tuple[object, ...]:
    states = Counter(row.state for row in outcome.rows.values() if row.channel == channel)
    latency = outcome.measured.get(channel, ())
    return (
        channel or _NO_CHANNEL,
        states.total(),
        states["vendor_accepted"],
        states["device_acked"],
        sum(states[state] for state in _FAILURES),
        outcome.proof.received.get(channel),
        percentile(latency, 0.5),
        percentile(latency, 0.99),
    )


def _failures(outcome: Outcome) -> list[tuple[object, ...]]:
    """Channel, state, reason and how many rows."""
    failed = Counter(
        (row.channel or _NO_CHANNEL, row.state, row.reason) for row in outcome.rows.values() if row.state in _FAILURES
    )
    return [(*kind, n) for kind, n in sorted(failed.items())]


def _sums(outcome: Outcome) -> list[str]:
    told = document(outcome)
    accepted, states = told["accepted"], told["states"]
    parts = " + ".join(f"{n:,} {state}" for state, n in states.items()) or "0"
    n_measured = sum(one.n for one in outcome.measured.get(_ALL, ()))
    proof = outcome.proof
    verdict = "conserved" if proof.conserved else "NOT CONSERVED"
    intact = "texts intact" if proof.texts_intact else "TEXTS CHANGED"
    return [
        f"{outcome.rows_read:,} rows read = {accepted:,} accepted + {outcome.refused:,} refused",
        f"{accepted:,} accepted = {parts}",
        f"{verdict}, {intact}, {proof.duplicates:,} duplicates, "
        f"{told['handed_over_unacked']:,} handed over unacknowledged",
        f"latency is of {n_measured:,} rows; {accepted - n_measured:,} waited for a device or the moved clock, or did "
        "not leave",
    ]
