"""The commands against a gateway that runs as a process of its own, with simulators and an MQTT device."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.__main__ import main
from gateway.cli.demo.channels import vendor_tables
from gateway.cli.demo.processes import READY_S, Child, Children
from gateway.cli.exit_codes import ExitCode
from gateway.cli.toml_text import to_toml
from gateway.client.blocking import BlockingClient
from gateway.client.requests import DeviceState

SECRET = "the secret of the shop"
ADMIN_KEY = "the key of the operators"
PHONE, BARE, NOBODY = "a" * 31 + "1", "a" * 31 + "2", "a" * 31 + "3"
TOKEN = "c0ffee" * 10 + "abcd"


class Running(NamedTuple):
    """What a test needs to know of the processes. config: with the addresses in it, as an operator would have it."""

    config: str
    simulators: dict[str, Any]
    listening: dict[str, Any]
    gateway: Child


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="pg-") as name, Children(Path(name)) as children:
        folder = Path(name)
        (folder / "shop.secret").write_text(SECRET)
        (folder / "admin.key").write_text(ADMIN_KEY)
        options = ["--dir", str(folder), "--json", "--exit-with-parent"]
        simulators = children.start("simulators", ["gateway", "simulate", *options]).read_json("ready", READY_S)
        app = {"key": "shop", "secrets": [{"file": "shop.secret"}]} | vendor_tables(simulators)
        table = {
            "gateway": {"data_dir": "data"},
            "dev": {"clock": True},
            "rpc": {"listeners": [{"address": "unix://rpc.sock"}, {"address": "tcp://127.0.0.1:0"}]},
            "operator": {"socket": "operator.sock"},
            "http": {"address": "tcp://127.0.0.1:0"},
            "long_link": {"listeners": [{"address": "tcp://127.0.0.1:0"}]},
            "apps": [app],
        }
        config = folder / "gateway.toml"
        config.write_text(to_toml(table))
        gateway = children.start(
            "gateway", ["gateway", "serve", "--config", str(config), "--ready-json", "--exit-with-parent"]
        )
        listening = gateway.read_json("ready", READY_S)
        with BlockingClient(listening["rpc"][0], "shop", SECRET.encode()) as client:
            phone = DeviceState(device_id=PHONE, channel="apns", token=TOKEN, proven_unix_s=1, platform="ios")
            assert client.register_devices([phone, DeviceState(device_id=BARE)]).registered == 2
        yield Running(str(config), simulators, listening, gateway)


def pushgw(running: Running, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The JSON that a good command printed."""
    assert main([*arguments, "--config", running.config, "--json"]) == ExitCode.GOOD, capsys.readouterr().err
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def submit(running: Running, capsys: pytest.CaptureFixture[str], folder: Path, *lines: dict[str, Any]) -> str:
    file = folder / "lines.jsonl"
    file.write_text("".join(json.dumps({"title": "t", "body": "b"} | line) + "\n" for line in lines))
    told = pushgw(running, capsys, "submit", str(file))
    assert told["accepted"] == told["submitted"]
    task: str = told["tasks"][0]
    return task


def wait_final(running: Running, capsys: pytest.CaptureFixture[str], task: str) -> dict[str, Any]:
    """Looks until every row has ended; a look is a command and takes its time."""
    for _ in range(2000):
        told = pushgw(running, capsys, "task", task)
        if told["is_final"]:
            return told
    raise AssertionError(f"rows are open: {told}")


def test_a_message_is_followed_from_submit_to_verdict(
    running: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    task = submit(running, capsys, tmp_path, {"to": PHONE}, {"to": NOBODY})
    told = wait_final(running, capsys, task)
    assert told["states"] == {"vendor_accepted": 1, "dropped": 1}
    assert told["reasons"] == {"unknown_device": 1}
    assert told["latency_ms"]["apns"]["n"] == 1
    traced = pushgw(running, capsys, "trace", task, PHONE)
    assert pushgw(running, capsys, "trace", traced["message_id"]) == traced
    hops = traced["hops"]
    assert [hop["what"] for hop in hops][:2] == ["submitted", "routed"]
    (answered,) = [hop for hop in hops if hop["what"] == "answered"]
    assert (answered["verdict"], answered["request"]) == ("accepted", traced["message_id"])
    facts = pushgw(running, capsys, "device", PHONE)["facts"]
    assert (facts["channel"], facts["is_online"], facts["platform"]) == ("apns", False, "ios")
    assert facts["messages"][0]["state"] == "vendor_accepted"
    assert TOKEN not in json.dumps(facts)


def test_tables_say_the_same_to_people(running: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    task = submit(running, capsys, tmp_path, {"to": PHONE})
    wait_final(running, capsys, task)
    for command, text in (
        (["task", task], "vendor_accepted"),
        (["trace", task, PHONE], "accepted"),
        (["device", PHONE], "registered"),
        (["status"], "devices_online"),
    ):
        assert main([*command, "--config", running.config]) == ExitCode.GOOD
        captured = capsys.readouterr()
        assert text in captured.out
        assert captured.err == ""


def test_losses_are_shown_as_funnel_rows_and_picture(
    running: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = [{"to": PHONE, "plan_id": "spring"}, {"to": NOBODY, "plan_id": "spring"}, {"to": PHONE}]
    task = submit(running, capsys, tmp_path, *lines)
    wait_final(running, capsys, task)
    told = pushgw(running, capsys, "loss", task)
    # The same target twice in one submit is one row and one duplicate.
    assert told["all"] == [3, 1, 1, 1, 0, 0, 0]
    assert {(line["cause"], line["bucket"], line["rows"]) for line in told["losses"]} == {
        ("unknown_device", "d13", 1),
        ("duplicate_target", "d2", 1),
        ("no_receipt", "d14", 1),
    }
    assert pushgw(running, capsys, "loss", "spring")["all"] == [2, 1, 1, 1, 0, 0, 0]
    of_app = pushgw(running, capsys, "loss", "shop", "--recount")
    assert of_app["differing"] == 0
    assert of_app["all"][0] >= 3
    assert pushgw(running, capsys, "loss", "shop", "--to", "1999-01-01", "--from", "1999-01-01")["all"] == [0] * 7
    file, picture = tmp_path / "rows.csv", tmp_path / "funnel.png"
    command = ["loss", task, "--config", running.config]
    assert main([*command, "--csv", str(file), "--cause", "unknown_device"]) == ExitCode.GOOD
    head, *rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
    assert [dict(zip(head, row, strict=True))["device_id"] for row in rows] == [NOBODY]
    assert main([*command, "--png", str(picture)]) == ExitCode.GOOD
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    captured = capsys.readouterr()
    assert "unknown_device" in captured.out
    assert "█" in captured.out
    nowhere = str(tmp_path / "no" / "folder")
    unwritten = tmp_path / "unwritten.csv"
    for wrong in (
        ["--csv", str(file)],
        ["--cause", "held"],
        ["--from", "2026-01-01"],
        ["--kind", "task"],
        ["--cause", "unknown_device", "--csv", nowhere],
        ["--cause", "nothing", "--csv", str(unwritten)],
        ["--png", nowhere],
    ):
        what = "no-task" if wrong[0] == "--kind" else task
        assert main(["loss", what, *wrong, "--config", running.config]) == ExitCode.USAGE
    assert f"pushgw: {nowhere}: No such file or directory" in capsys.readouterr().err
    assert not unwritten.exists()
    assert main(["loss", "nothing", "--config", running.config]) == ExitCode.GOOD
    assert "nothing (plan): no rows are known of it" in capsys.readouterr().out
    assert main(["loss", "nothing", "--to", "2020-01-01", "--config", running.config]) == ExitCode.GOOD
    assert "nothing (plan): no rows to 2020-01-01; a day begins at midnight in Shanghai" in capsys.readouterr().out


def test_an_app_may_ask_for_itself(running: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    task = submit(running, capsys, tmp_path, {"to": PHONE})
    assert pushgw(running, capsys, "task", task, "--app", "shop")["accepted"] == 1
    assert pushgw(running, capsys, "device", PHONE, "--app", "shop")["facts"]["platform"] == "ios"


def test_what_is_not_there_ends_with_code_2(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    for command, text in (
        (["task", "0" * 32], "no task"),
        (["device", NOBODY], f"app shop has no device of id {NOBODY}"),
        (["trace", "0" * 32], "trace TASK DEVICE"),
    ):
        assert main([*command, "--config", running.config]) == ExitCode.USAGE
        error = capsys.readouterr().err
        assert "not_found" in error
        assert text in error


def test_erased_devices_are_forgotten_and_unknown_ones_are_named_as_such(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = "b" * 32
    with BlockingClient(running.listening["rpc"][0], "shop", SECRET.encode()) as client:
        client.register_devices([DeviceState(device_id=gone)])
    assert pushgw(running, capsys, "device", gone)["device"] == gone
    assert pushgw(running, capsys, "erase", gone, gone) == {"app": "shop", "erased": 1, "unknown": 0}
    assert main(["device", gone, "--config", running.config]) == ExitCode.USAGE
    assert main(["erase", gone, "--config", running.config]) == ExitCode.ROWS_REFUSED
    assert "0 devices of shop erased, 1 not known" in capsys.readouterr().out


def test_refused_and_dropped_rows_are_told_by_line(
    running: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "lines.jsonl"
    lines = [
        {"to": NOBODY, "title": "t", "body": "b"},
        {"title": "t", "body": "b"},
        {"to": {"vendor": "apns", "token": "zz"}, "title": "t", "body": "b"},
        {"to": BARE, "title": "t", "body": "b", "strategy": 2},
        {"to": PHONE, "title": "t", "body": "b"},
        {"to": PHONE, "title": "t", "body": "b"},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    assert main(["submit", str(file), "--config", running.config, "--json"]) == ExitCode.ROWS_REFUSED
    told = json.loads(capsys.readouterr().out)
    assert (told["submitted"], told["accepted"], told["refused"]) == (6, 4, 2)
    assert [one["line"] for one in told["refused_rows"]] == [2, 3]
    assert "zz" not in json.dumps(told["refused_rows"][1])
    dropped = {(one["line"], one["reason"]) for one in told["dropped_rows"]}
    assert dropped == {(1, "unknown_device"), (4, "no_channel"), (6, "duplicate_target")}


def test_the_same_file_with_a_request_id_is_submitted_once(
    running: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(json.dumps({"to": PHONE, "title": "t", "body": "b"}))
    tasks = [pushgw(running, capsys, "submit", str(file), "--request-id", "morning")["tasks"] for _ in range(2)]
    assert tasks[0] == tasks[1]
    file.write_text(json.dumps({"to": PHONE, "title": "another", "body": "b"}))
    assert main(["submit", str(file), "--request-id", "morning", "--config", running.config]) == ExitCode.USAGE
    assert "request_id_reused" in capsys.readouterr().err


def test_the_clock_ends_what_waits_for_its_device(
    running: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    task = submit(running, capsys, tmp_path, {"to": BARE, "ttl_s": 40 * 86_400})
    assert pushgw(running, capsys, "task", task)["states"] == {"held": 1}
    control = f"{running.simulators['control']['host']}:{running.simulators['control']['port']}"
    before = pushgw(running, capsys, "status")["now_unix_ms"]
    moved = pushgw(running, capsys, "clock", "advance", str(40 * 86_400 + 60), "--simulators", control)
    assert moved["now_unix_ms"] - before >= 40 * 86_400_000
    told = wait_final(running, capsys, task)
    assert (told["states"], told["reasons"]) == ({"expired": 1}, {"device_offline": 1})
    # Credentials made before the move have expired everywhere; the next message gets new ones and arrives.
    assert wait_final(running, capsys, submit(running, capsys, tmp_path, {"to": PHONE}))["states"] == {
        "vendor_accepted": 1
    }


@pytest.mark.needs_tools("mosquitto_sub")
def test_the_printed_line_receives_what_is_submitted(
    running: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    address = running.listening["long_link"][0]
    assert main(["device-login", "shop", BARE, "--config", running.config, "--address", address]) == ExitCode.GOOD
    line = [*shlex.split(capsys.readouterr().out), "-C", "1", "-W", "30"]
    task = submit(running, capsys, tmp_path, {"to": BARE, "title": "你好 👋", "body": "first push"})
    # It was offline when the message came: connecting fetches it.
    received = json.loads(subprocess.run(line, capture_output=True, timeout=120, check=True).stdout)
    assert (received["title"], received["body"]) == ("你好 👋", "first push")
    assert wait_final(running, capsys, task)["states"] == {"device_acked": 1}


def test_without_a_gateway_the_commands_end_with_code_4(
    running: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nowhere = f"unix://{tmp_path}/nobody.sock"
    for command in (["status"], ["task", "0" * 32], ["clock", "advance", "1"]):
        assert main([*command, "--address", nowhere, "--timeout", "0.2"]) == ExitCode.UNREACHABLE
        assert "nobody.sock" in capsys.readouterr().err


def test_serve_with_a_wrong_configuration_ends_with_code_2(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[gateway]\ndata_dir = "d"\nworkers = 99\n')
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == ExitCode.USAGE
    assert "gateway.workers = 99" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_serve_ends_cleanly_on_sigterm_and_when_its_stdin_closes() -> None:
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        config = Path(name) / "gateway.toml"
        config.write_text(
            '[gateway]\ndata_dir = "data"\n[http]\naddress = "tcp://127.0.0.1:0"\n[dev]\nclock = true\n'
            '[[rpc.listeners]]\naddress = "tcp://127.0.0.1:0"\n'
        )
        for how in ("stdin", "signal"):
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gateway", "serve", "--config", str(config)),
                    *("--ready-json", "--exit-with-parent"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(os.environ),
            )
            with process:
                assert process.stdout is not None
                assert json.loads(process.stdout.readline())["rpc"][0].startswith("tcp://127.0.0.1:")
                if how == "signal":
                    process.send_signal(signal.SIGTERM)
                _, err = process.communicate(timeout=120)
            assert process.returncode == 0
            assert b'"stopped"' in err
