"""device_login.py: the printed line is what the gateway lets in."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.cli.exit_codes import ExitCode
from gateway.core.identity import check_device_password

DEVICE = "00112233445566778899aabbccddeeff"


def write(folder: Path, *listeners: str) -> Path:
    (folder / "shop.secret").write_text("s3cret\n")
    file = folder / "gateway.toml"
    tables = "".join(f"[[long_link.listeners]]\n{listener}\n" for listener in listeners)
    app = '[[apps]]\nkey = "shop"\nsecrets = [{ file = "shop.secret" }]\n'
    file.write_text(f'[gateway]\ndata_dir = "data"\n{tables}{app}')
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path, 'address = "tcp://127.0.0.1:0"', 'address = "tcp://0.0.0.0:1884"')


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


def test_the_line_leads_to_a_listener_that_mosquitto_can_speak_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_certificate: Callable[..., Path]
) -> None:
    write_certificate(tmp_path / "c.pem")
    tls = 'address = "tls://0.0.0.0:8883"\ncert_file = "c.pem"\nkey_file = "c.pem"'
    others = ('address = "ws://0.0.0.0:80"', 'address = "tcp://0.0.0.0:1885"\nproxy_protocol = true')
    arguments = ["device-login", "shop", DEVICE, "--config", str(tmp_path / "gateway.toml")]
    write(tmp_path, *others, tls, 'address = "tcp://0.0.0.0:1883"')
    assert main(arguments) == ExitCode.GOOD
    words = shlex.split(capsys.readouterr().out)
    assert (option(words, "-p"), "--tls-use-os-certs" in words) == ("1883", False)
    write(tmp_path, *others, tls)
    assert main(arguments) == ExitCode.GOOD
    words = shlex.split(capsys.readouterr().out)
    assert (option(words, "-p"), "--tls-use-os-certs" in words) == ("8883", True)
    write(tmp_path, *others)
    assert main(arguments) == ExitCode.USAGE
    assert "over tcp or tls" in capsys.readouterr().err
    assert main([*arguments, "--address", "tls://push.example.com:8883"]) == ExitCode.GOOD
    words = shlex.split(capsys.readouterr().out)
    assert (option(words, "-h"), "--tls-use-os-certs" in words) == ("push.example.com", True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["bank", DEVICE],
        ["shop", DEVICE, "--address", "nowhere"],
        ["shop", DEVICE, "--address", "ws://push.example.com:80"],
    ],
)
def test_what_cannot_be_is_a_wrong_usage(arguments: list[str], file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device-login", *arguments, "--config", str(file)]) == ExitCode.USAGE
    assert capsys.readouterr().out == ""
