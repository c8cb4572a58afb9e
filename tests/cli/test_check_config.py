"""check_config.py: a good file is described, a bad one is taken apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.cli.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[2]


def test_a_good_file_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", str(ROOT / "configs" / "dev.toml")]) == ExitCode.GOOD
    out = capsys.readouterr().out
    assert out.startswith("ok\n")
    assert "memory per worker" in out
    # Where what has no folder is, is said.
    assert "archived pages in memory: what they hold ends with the process (store.data_dir)" in out
    assert main(["check-config", str(ROOT / "configs" / "dev.toml"), "--json"]) == ExitCode.GOOD
    assert json.loads(capsys.readouterr().out) == {"good": True, "faults": []}


def test_the_file_is_named_in_one_way_of_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = str(ROOT / "configs" / "dev.toml"), tmp_path / "bad.toml"
    bad.write_text("[gateway]\nworkers = 99\n")
    monkeypatch.delenv("PUSHGW_CONFIG", raising=False)
    assert main(["check-config", "--config", good]) == ExitCode.GOOD
    assert main(["check-config"]) == ExitCode.USAGE
    assert "give FILE or --config FILE, or set PUSHGW_CONFIG" in capsys.readouterr().err
    assert main(["check-config", good, "--config", str(bad)]) == ExitCode.USAGE
    assert f"FILE is {good}, --config {bad}" in capsys.readouterr().err
    # What is named goes before the environment.
    monkeypatch.setenv("PUSHGW_CONFIG", str(bad))
    assert main(["check-config"]) == ExitCode.USAGE
    assert "workers" in capsys.readouterr().err
    assert main(["check-config", good]) == ExitCode.GOOD
    assert main(["check-config", "--config", good]) == ExitCode.GOOD


def test_every_fault_is_named_with_file_key_value_and_expectation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[gateway]\ndata_dir = "d"\nworkers = 99\n[rpc]\ncolour = "red"\n')
    assert main(["check-config", str(file), "--json"]) == ExitCode.USAGE
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert not told["good"]
    assert {(fault["file"], fault["key"]) for fault in told["faults"]} == {
        (str(file), "gateway.workers"),
        (str(file), "rpc.colour"),
    }
    for text in (str(file), "gateway.workers", "99", "rpc.colour"):
        assert text in captured.err


def test_files_that_it_names_may_be_left_out_of_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "elsewhere.toml"
    file.write_text('[gateway]\ndata_dir = "d"\n[[apps]]\nkey = "shop"\nsecrets = [{ file = "not-here" }]\n')
    assert main(["check-config", str(file)]) == ExitCode.USAGE
    assert "not-here" in capsys.readouterr().err
    assert main(["check-config", str(file), "--without-files"]) == ExitCode.GOOD
