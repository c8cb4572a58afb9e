"""device_login.py: the printed line is what the gateway lets in."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.cli.exit_codes import ExitCode
from gateway.core.identity import check_device_password

DEVICE = "00112233445566778899aabbccddeeff"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "shop.secret").write_text("s3cret\n")
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[gateway]\ndata_dir = "data"\n'
        '[[long_link.listeners]]\naddress = "tcp://127.0.0.1:0"\n'
        '[[long_link.listeners]]\naddress = "tcp://0.0.0.0:1884"\n'
        '[[apps]]\nkey = "shop"\nsecrets = [{ file = "shop.secret" }]\n'
    )
    return file


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_the_line_is_a_command_with_the_devices_identity(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device-login", "shop", DEVICE.upper(), "--config", str(file)]) == ExitCode.GOOD
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    words = shlex.split(out)
    assert words[0] == "mosquitto_sub"
    assert (option(words, "-h"), option(words, "-p")) == ("127.0.0.1", "1884")
    assert (option(words, "-i"), option(words, "-u")) == (DEVICE, "shop")
    assert (option(words, "-t"), option(words, "-q")) == (f"d/{DEVICE}/down", "1")
    assert check_device_password([b"s3cret"], DEVICE, option(words, "-P").encode())


def test_machines_get_the_same_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["device-login", "shop", DEVICE, "--config", str(file), "--address", "[::1]:2000", "--json"]
    assert main(arguments) == ExitCode.GOOD
    login = json.loads(capsys.readouterr().out)
    assert (login["host"], login["port"], login["topic"]) == ("::1", 2000, f"d/{DEVICE}/down")
    assert check_device_password([b"s3cret"], DEVICE, login["password"].encode())


@pytest.mark.parametrize("arguments", [["bank", DEVICE], ["shop", DEVICE, "--address", "nowhere"]])
def test_what_cannot_be_is_a_wrong_usage(arguments: list[str], file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device-login", *arguments, "--config", str(file)]) == ExitCode.USAGE
    assert capsys.readouterr().out == ""
