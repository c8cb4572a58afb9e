"""exit_codes.py: which error means which code; `main` never lets a trace out for a fault of the caller."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from gateway.__main__ import main
from gateway.cli import status
from gateway.cli.exit_codes import ExitCode, UsageError, code_of
from gateway.client.errors import CallFailed, GatewayUnreachable
from gateway.errors import ConfigError
from gateway.wire.rpc.faults import CODES
from gateway.wire.rpc.messages import Error


def test_the_codes_are_those_of_the_contract() -> None:
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 4, 130]


@pytest.mark.parametrize("code", CODES)
def test_an_answer_that_says_not_now_is_code_4_and_any_other_is_code_2(code: str) -> None:
    not_now = code in ("overloaded", "shutting_down", "internal")
    error = CallFailed(Error(id=1, code=code, text=""))  # type: ignore[arg-type]
    assert code_of(error) == (ExitCode.UNREACHABLE if not_now else ExitCode.USAGE)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("give a file"), ExitCode.USAGE),
        (ConfigError("key", 1, "2"), ExitCode.USAGE),
        (GatewayUnreachable("refused"), ExitCode.UNREACHABLE),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
)
def test_main_ends_with_the_code_of_the_error(
    error: BaseException, code: ExitCode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: object, output: object) -> int:
        raise error

    monkeypatch.setitem(sys.modules, status.__name__, SimpleNamespace(run=run))
    assert main(["status"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pushgw: ")


def test_a_fault_of_ours_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(options: object, output: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(sys.modules, status.__name__, SimpleNamespace(run=run))
    with pytest.raises(ZeroDivisionError):
        main(["status"])


def test_a_fault_that_no_file_names_is_told_with_the_option_or_the_file_that_is_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--address", "nowhere"]) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("pushgw: --address 'nowhere': expected tcp://host:port")

    def run(options: object, output: object) -> int:
        raise ConfigError("gateway.data_dir", "d", "a folder that no other gateway is using")

    monkeypatch.setitem(sys.modules, status.__name__, SimpleNamespace(run=run))
    assert main(["status", "--config", "site.toml"]) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("pushgw: site.toml: gateway.data_dir = 'd': expected a folder")
