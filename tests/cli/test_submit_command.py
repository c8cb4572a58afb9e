"""submit.py against a scripted gateway: what is told by line, and which exit code it ends with."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gateway.__main__ import main
from gateway.cli.exit_codes import ExitCode
from gateway.cli.lines import LISTED_MAX
from gateway.ledger import Channel, Reason, State
from gateway.wire.rpc.messages import (
    Error,
    Message,
    RefusedRow,
    Submit,
    Submitted,
    TaskCounts,
    TaskRowPage,
    TaskRows,
    TaskState,
)

if TYPE_CHECKING:
    from tests.cli.conftest import ScriptedGateway

TASK = bytes(range(16))
DEVICES = [f"{k:032x}" for k in range(1, 7)]


def notification(**fields: Any) -> str:
    return json.dumps({"title": "t", "body": "b"} | fields)


def counts(accepted: int, states: dict[str, int], *, is_routed: bool = True) -> TaskCounts:
    return TaskCounts(
        id=1,
        task_id=TASK,
        accepted=accepted,
        states=states,
        channels={"long_link": states},
        reasons={},
        receipts={},
        is_routed=is_routed,
        is_final=False,
    )


def page(rows: list[int], devices: list[str], *, next_first: int | None = None) -> TaskRowPage:
    n = len(rows)

    def column(value: int) -> memoryview:
        return memoryview(bytes([value]) * n)

    return TaskRowPage(
        id=1,
        n=n,
        row=memoryview(np.array(rows, "<u4").tobytes()),
        state=column(State.DROPPED),
        reason=column(Reason.UNKNOWN_DEVICE),
        channel=column(Channel.NONE),
        receipt=column(0),
        flags=column(0),
        attempts=column(0),
        device_ids=memoryview(b"".join(map(bytes.fromhex, devices))),
        message_ids=memoryview(bytes(16 * n)),
        next_first=next_first,
    )


def accept(scripted: ScriptedGateway, refused: list[RefusedRow] | None = None) -> None:
    """The gateway takes everything but `refused`."""
    bad = refused or []

    def on_submit(message: Message) -> Message:
        assert isinstance(message, Submit)
        accepted = message.n - len(bad)
        return Submitted(id=message.id, task_id=TASK, accepted=accepted, refused=bad, refused_count=len(bad))

    scripted.on[Submit] = on_submit
    scripted.on[TaskState] = lambda message: set_id(counts(3, {"queued": 3}), message)


def set_id(answer: Any, request: Any) -> Any:
    answer.id = request.id
    return answer


def submit(config_file: Path, lines: list[str], *options: str) -> int:
    file = config_file.parent / "lines.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return main(["submit", str(file), "--config", str(config_file), "--timeout", "5", *options])


def test_a_good_file_ends_with_code_0(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(scripted)
    assert submit(config_file, [notification(to=device) for device in DEVICES[:3]], "--json") == ExitCode.GOOD
    told = json.loads(capsys.readouterr().out)
    assert (told["submitted"], told["accepted"], told["refused"]) == (3, 3, 0)
    assert told["tasks"] == ["00010203-0405-0607-0809-0a0b0c0d0e0f"]
    assert told["states"] == {"queued": 3}
    assert told["channels"] == {"long_link": {"queued": 3}}


def test_faulty_lines_are_told_and_the_others_go_on(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(scripted)
    lines = [
        notification(to=DEVICES[0]),
        "not JSON",
        "",
        notification(),
        notification(to=DEVICES[1], colour="red"),
        json.dumps({"to": DEVICES[1], "body": "b"}),
        notification(to=DEVICES[1:3], title="{{name}}", vars={}),
        notification(to=DEVICES[1:3]),
    ]
    assert submit(config_file, lines, "--json") == ExitCode.ROWS_REFUSED
    told = json.loads(capsys.readouterr().out)
    assert (told["submitted"], told["accepted"], told["refused"]) == (8, 3, 5)
    fields = [(one["line"], one["field"]) for one in told["refused_rows"]]
    assert fields == [(2, ""), (4, "to"), (5, "colour"), (6, "title"), (7, "vars")]
    assert [message.n for message in scripted.seen if isinstance(message, Submit)] == [3]


def test_rows_refused_by_the_gateway_are_told_by_their_line(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(scripted, [RefusedRow(2, "token", "token is 3 characters")])
    lines = ["", notification(to=DEVICES[:2]), "{", notification(to=[DEVICES[3], DEVICES[4]])]
    assert submit(config_file, lines, "--json") == ExitCode.ROWS_REFUSED
    told = json.loads(capsys.readouterr().out)
    assert told["refused"] == 2
    assert [(one["line"], one["field"]) for one in told["refused_rows"]] == [(3, ""), (4, "token")]


def test_dropped_rows_are_told_by_line_device_and_reason_page_by_page(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(scripted)
    scripted.on[TaskState] = lambda message: set_id(counts(4, {"queued": 2, "dropped": 2}), message)

    def on_rows(message: Message) -> Message:
        assert isinstance(message, TaskRows)
        assert message.states == ["dropped"]
        return set_id(page([1], [DEVICES[1]], next_first=2) if message.first == 0 else page([3], ["0" * 32]), message)

    scripted.on[TaskRows] = on_rows
    lines = [notification(to=DEVICES[:2]), notification(to=DEVICES[2:4])]
    assert submit(config_file, lines) == ExitCode.GOOD
    out = capsys.readouterr().out
    assert "dropped: 2 rows" in out
    assert DEVICES[1] in out
    assert submit(config_file, lines, "--json") == ExitCode.GOOD
    told = json.loads(capsys.readouterr().out)
    assert told["dropped_rows"] == [
        {"line": 1, "device": DEVICES[1], "reason": "unknown_device"},
        {"line": 2, "device": "", "reason": "unknown_device"},
    ]


def test_routing_is_waited_for(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(scripted)
    looks: list[int] = []

    def on_state(message: Message) -> Message:
        looks.append(1)
        return set_id(counts(1, {"queued": 1}, is_routed=len(looks) == 3), message)

    scripted.on[TaskState] = on_state
    assert submit(config_file, [notification(to=DEVICES[0])]) == ExitCode.GOOD
    assert len(looks) == 3


def test_without_waiting_nothing_is_asked(scripted: ScriptedGateway, config_file: Path) -> None:
    accept(scripted)
    assert submit(config_file, [notification(to=DEVICES[0])], "--no-wait") == ExitCode.GOOD
    assert [type(message) for message in scripted.seen] == [Submit]


def test_a_task_that_is_not_routed_in_time_ends_with_code_4(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(scripted)
    scripted.on[TaskState] = lambda message: set_id(counts(1, {"queued": 1}, is_routed=False), message)
    assert submit(config_file, [notification(to=DEVICES[0])], "--timeout", "0.2") == ExitCode.UNREACHABLE
    assert "1 task not routed within 0.2 s" in capsys.readouterr().err


def test_a_submit_that_fails_is_an_error_after_the_report(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.on[Submit] = lambda message: Error(id=message.id, code="bad_request", text="no", field="n")  # type: ignore[attr-defined]
    assert submit(config_file, [notification(to=DEVICES[0]), "{"]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert "2 rows: 0 accepted, 1 refused, 1 not known to be taken" in captured.out
    assert "bad_request" in captured.err


def test_a_thousand_faults_are_listed_and_all_are_counted(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(config_file, ["{"] * (LISTED_MAX + 5), "--json") == ExitCode.ROWS_REFUSED
    told = json.loads(capsys.readouterr().out)
    assert told["refused"] == LISTED_MAX + 5
    assert len(told["refused_rows"]) == LISTED_MAX


def test_request_ids_and_duplicates_are_passed_on(scripted: ScriptedGateway, config_file: Path) -> None:
    accept(scripted)
    options = ("--no-wait", "--request-id", "morning", "--allow-duplicates")
    assert submit(config_file, [notification(to=DEVICES[0])] * 2, *options) == ExitCode.GOOD
    sent = scripted.seen[0]
    assert isinstance(sent, Submit)
    assert sent.request_id.startswith("morning-")
    assert sent.allow_duplicates


def test_a_terminal_sees_how_far_a_file_is(
    scripted: ScriptedGateway,
    config_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "250")
    accept(scripted)
    lines = [notification(to=device) for device in DEVICES[:3]]
    assert submit(config_file, lines, "--json", "--no-wait") == ExitCode.GOOD
    told = capsys.readouterr()
    size = len("\n".join(lines)) + 1
    assert "bytes of" in told.err
    assert f"{size}/{size}" in told.err
    assert json.loads(told.out)["accepted"] == 3


def test_stdin_is_read_for_a_dash(
    scripted: ScriptedGateway, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(scripted)
    stdin = io.TextIOWrapper(io.BytesIO(notification(to=DEVICES[0]).encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["submit", "-", "--config", str(config_file), "--no-wait"]) == ExitCode.GOOD


def test_a_file_that_is_not_there_is_a_wrong_usage(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "/nowhere/lines.jsonl", "--config", str(config_file)]) == ExitCode.USAGE
    assert "/nowhere/lines.jsonl: No such file" in capsys.readouterr().err


def test_a_wrong_secret_is_a_wrong_configuration(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config_file.parent / "shop.secret").write_text("another one")
    assert submit(config_file, [notification(to=DEVICES[0])]) == ExitCode.USAGE
    assert "bad_credentials" in capsys.readouterr().err


def test_no_gateway_is_code_4(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--address", "unix:///nowhere/rpc.sock", "--timeout", "0.3")
    assert submit(config_file, [notification(to=DEVICES[0])], *options) == ExitCode.UNREACHABLE
    assert submit(config_file, [], *options) == ExitCode.UNREACHABLE
