"""`pushgw submit --audience`: whose devices are named, and what is said of those that are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.__main__ import main
from gateway.cli.exit_codes import ExitCode
from gateway.wire.rpc.messages import AudienceSubmitted, Error, RefusedRow, SubmitAudience

if TYPE_CHECKING:
    from tests.cli.conftest import ScriptedGateway

TASK = bytes(range(16))


def submit(config_file: Path, *options: str) -> int:
    file = config_file.parent / "one.jsonl"
    file.write_text('{"title": "Goal", "body": "1:0"}\n')
    return main(["submit", str(file), "--config", str(config_file), "--timeout", "5", *options])


def answer(scripted: ScriptedGateway, devices: int, refused: list[RefusedRow] | None = None) -> None:
    def on_submit(message: Any) -> Any:
        task_id = TASK if devices else bytes(16)
        return AudienceSubmitted(id=message.id, task_id=task_id, devices=devices, refused=refused or [])

    scripted.on[SubmitAudience] = on_submit


@pytest.mark.parametrize(
    ("options", "tag", "aliases", "online_only", "rows_per_s"),
    [
        (["all"], "", [], False, None),
        (["all", "--online-only", "--per-s", "5"], "", [], True, 5.0),
        (["tag:fans"], "fans", [], False, None),
        (["alias:ada", "--audience", "alias:a,b:c"], "", ["ada", "a,b:c"], False, None),
    ],
)
def test_the_audience_is_whom_the_options_name(
    scripted: ScriptedGateway,
    config_file: Path,
    options: list[str],
    tag: str,
    aliases: list[str],
    online_only: bool,
    rows_per_s: float | None,
) -> None:
    answer(scripted, 12)
    assert submit(config_file, "--audience", *options) == ExitCode.GOOD
    (sent,) = scripted.seen
    assert isinstance(sent, SubmitAudience)
    assert (sent.tag, sent.aliases, sent.online_only, sent.rows_per_s) == (tag, aliases, online_only, rows_per_s)
    assert sent.request_id


def test_an_audience_of_nobody_is_said_so(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(scripted, 0)
    assert submit(config_file, "--audience", "tag:none") == ExitCode.GOOD
    assert "nobody is in this audience" in capsys.readouterr().out


def test_aliases_that_nobody_has_are_refused_by_name(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "no device has the alias 'zoe'"
    answer(scripted, 2, [RefusedRow(1, "aliases[1]", text)])
    both = ("--audience", "alias:ada", "--audience", "alias:zoe")
    assert submit(config_file, *both) == ExitCode.ROWS_REFUSED
    told = capsys.readouterr().out
    assert "2 devices" in told
    assert f"refused: {text}" in told
    assert submit(config_file, *both, "--json") == ExitCode.ROWS_REFUSED
    assert json.loads(capsys.readouterr().out)["refused"] == [{"field": "aliases[1]", "text": text}]
    scripted.on[SubmitAudience] = lambda message: Error(
        id=message.id,  # type: ignore[attr-defined]
        code="not_found",
        text=text,
        field="aliases[0]",
    )
    assert submit(config_file, "--audience", "alias:zoe") != ExitCode.GOOD
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--audience", "some"],
        ["--audience", "tag:"],
        ["--audience", "tag:a", "--audience", "tag:b"],
        ["--audience", "all", "--audience", "alias:ada"],
        ["--per-s", "5"],
        ["--online-only"],
    ],
)
def test_an_audience_that_names_nobody_is_a_wrong_usage(config_file: Path, options: list[str]) -> None:
    assert submit(config_file, *options) == ExitCode.USAGE
