"""arguments.py: what a command line may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.arguments import parse
from gateway.cli.exit_codes import ExitCode

DEVICE = "00112233445566778899AABBCCDDEEFF"
TASK = "01a20080-fc7f-8000-8000-01000033d17a"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "sing",
        "serve --loud",
        "submit",
        "task",
        "task not-a-task",
        f"task {TASK}0",
        "trace",
        f"trace {TASK} 0011",
        "loss",
        "loss spring --from yesterday",
        "loss spring --kind parcel",
        f"device {TASK}",
        "device zz112233445566778899aabbccddeeff",
        "clock",
        "clock advance",
        "clock advance -5",
        "clock advance soon",
        "clock advance nan",
        "demo --devices 0",
        "demo --devices many",
        "demo --devices 1000000",
        "demo --online 1.5",
        "demo --online nan",
        "demo --fault explode",
        "check-config one two",
        "device-login shop",
        "consents openid",
        "consents openid template --add 1 --set 1",
        "consents openid template --add -1",
    ],
)
def test_a_wrong_command_line_ends_with_code_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(line.split())
    assert ended.value.code == ExitCode.USAGE
    assert capsys.readouterr().out == ""


def test_identifiers_are_taken_as_uuid_and_as_hex() -> None:
    task = bytes.fromhex(TASK.replace("-", ""))
    for text in (TASK, TASK.replace("-", ""), TASK.upper()):
        options = parse(["trace", text, DEVICE])
        assert (options.what, options.device) == (task, bytes.fromhex(DEVICE))


def test_every_command_names_a_module_that_can_run() -> None:
    import importlib

    lines = [
        ["serve"],
        ["simulate"],
        ["submit", "FILE"],
        ["task", TASK],
        ["trace", TASK, DEVICE],
        ["trace", TASK],
        ["loss", "spring", "--from", "2026-11-01"],
        ["device", DEVICE],
        ["status"],
        ["check-config", "FILE"],
        ["clock", "advance", "1"],
        ["device-login", "shop", DEVICE],
        ["demo"],
    ]
    for line in lines:
        assert callable(importlib.import_module(parse(line).module).run)


def test_the_demo_has_the_defaults_of_the_contract() -> None:
    options = parse(["demo"])
    assert (options.devices, options.online, options.fault, options.input) == (2000, 0.5, None, None)


def test_the_configuration_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHGW_CONFIG", "/etc/pushgw.toml")
    assert parse(["status"]).config == Path("/etc/pushgw.toml")
    assert parse(["status", "--config", "here.toml"]).config == Path("here.toml")
