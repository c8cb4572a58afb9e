"""arguments.py: what a command line may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.arguments import GROUP_CHARACTERS_MAX, REQUEST_ID_CHARACTERS_MAX, parse
from gateway.cli.exit_codes import ExitCode
from gateway.wire.rpc import limits

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


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("submit FILE --timeout 0", "--timeout: 0 is not above 0 and at most 1,000,000,000 seconds"),
        ("submit FILE --per-s -1", "--per-s: -1 is not above 0 and at most 1,000,000,000 rows a second"),
        ("submit FILE --request-id=", "--request-id: it is 0 characters, expected 1 to 120"),
        (f"submit FILE --request-id={'r' * 121}", "--request-id: it is 121 characters, expected 1 to 120"),
        ("submit FILE --group=", "--group: it is 0 characters, expected 1 to 128"),
        (f"submit FILE --group={'g' * 129}", "--group: it is 129 characters, expected 1 to 128"),
    ],
)
def test_a_value_beyond_its_limits_is_refused_with_both(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(line.split())
    assert f"argument {told}" in capsys.readouterr().err


def test_labels_that_the_gateway_takes_are_those_of_the_command_line() -> None:
    assert GROUP_CHARACTERS_MAX == limits.GROUP_CHARACTERS_MAX
    assert REQUEST_ID_CHARACTERS_MAX + len("-9999999") == limits.REQUEST_ID_CHARACTERS_MAX


def test_every_command_and_every_position_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("clock advance", "inbox list", "inbox purge", "backup", "check-config"):
        with pytest.raises(SystemExit):
            parse([*line.split(), "--help"])
        usage, *rest = capsys.readouterr().out.split("\n\n")
        assert not rest[0].startswith(("options:", "positional")), line
        for position in ("DIR", "FILE", "SECONDS"):
            if usage.rstrip().endswith(position):
                assert f"  {position}  " in rest[1], line


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
