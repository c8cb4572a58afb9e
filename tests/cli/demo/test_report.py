"""report.py: the JSON object of the contract, the exit code, the table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.cli.demo.latency import Measured
from gateway.cli.demo.proof import LedgerRow, Proof
from gateway.cli.demo.report import Outcome, document, exit_code, measured, show
from gateway.cli.exit_codes import ExitCode
from gateway.cli.output import Output
from gateway.wire.rpc.messages import Latency, TaskCounts

KEYS = [
    "submitted",
    "accepted",
    "refused",
    "states",
    "reasons",
    "channels",
    "received",
    "texts_intact",
    "duplicates",
    "handed_over_unacked",
    "conserved",
    "latency_ms",
    "duration_s",
]
GOOD = Proof(True, True, 0, {"long_link": 2, "apns": 1}, [])


def counts(task: int, **changes: Any) -> TaskCounts:
    fields: dict[str, Any] = {
        "accepted": 3,
        "states": {"device_acked": 1, "failed": 1, "dropped": 1, "held": 0},
        "channels": {"none": {"dropped": 1}, "long_link": {"device_acked": 1}, "apns": {"failed": 1}},
        "reasons": {"token_dead": 1, "no_channel": 1},
        "handed_over_unacked": 1,
        "latency_ms": {"all": Latency(n=1, p50=2.0, p99=2.0, max=2.0)},
        "submitted_unix_ms": 1_010,
    }
    made = fields | changes
    return TaskCounts(id=1, task_id=bytes([task] * 16), receipts={}, is_routed=True, is_final=True, **made)


def outcome(proof: Proof = GOOD, refused: int = 0) -> Outcome:
    rows = {
        bytes([1]): LedgerRow(1, b"", "device_acked", "", "long_link", 0),
        bytes([2]): LedgerRow(1, b"", "failed", "token_dead", "apns", 0),
        bytes([3]): LedgerRow(1, b"", "dropped", "no_channel", "", 0),
    }
    both = [counts(1), counts(2)]
    return Outcome(6 + refused, refused, both, rows, {"all": [Measured(1, 2.0, 2.0, 2.0)]}, proof, 1.23456)


def test_the_document_has_exactly_the_keys_of_the_contract() -> None:
    told = document(outcome(refused=2))
    assert list(told) == KEYS
    assert (told["submitted"], told["accepted"], told["refused"]) == (8, 6, 2)
    assert told["states"] == {"device_acked": 2, "failed": 2, "dropped": 2}
    assert told["reasons"] == {"token_dead": 2, "no_channel": 2}
    assert told["handed_over_unacked"] == 2
    assert told["latency_ms"] == {"p50": 2.0, "p99": 2.0}
    assert told["duration_s"] == 1.235


def test_only_real_channels_have_names_in_the_document() -> None:
    assert document(outcome())["channels"] == {"long_link": {"device_acked": 2}, "apns": {"failed": 2}}


@pytest.mark.parametrize(
    ("proof", "refused", "code"),
    [
        (GOOD, 0, ExitCode.GOOD),
        (GOOD, 1, ExitCode.ROWS_REFUSED),
        (GOOD._replace(conserved=False), 1, ExitCode.NOT_CONSERVED),
        (GOOD._replace(texts_intact=False), 0, ExitCode.NOT_CONSERVED),
        (GOOD._replace(duplicates=1), 0, ExitCode.NOT_CONSERVED),
    ],
)
def test_the_exit_code_says_the_worst(proof: Proof, refused: int, code: ExitCode) -> None:
    assert exit_code(outcome(proof, refused)) is code


def test_latency_counts_from_the_intended_submit_time() -> None:
    first, second = counts(1), counts(2, submitted_unix_ms=999)
    found = measured([first, second], {first.task_id: 1_000.5, second.task_id: 1_000.0})
    assert [one.delay_ms for one in found["all"]] == [9.5, 0.0]


def test_the_json_object_is_the_last_line_of_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    show(outcome(GOOD._replace(faults=["apns: 1 rows lost"])), Output(is_json=True))
    captured = capsys.readouterr()
    assert list(json.loads(captured.out)) == KEYS
    for text in ("token_dead", "no_channel", "6 rows read = 6 accepted + 0 refused", "1 rows lost"):
        assert text in captured.err
