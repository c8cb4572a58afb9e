"""`pushgw demo` for real: its own processes, sockets and TLS; the proof passes, and finds what is made wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.samples.make import FILE
from bench.simulators.server import PUSH_APIS

pytestmark = pytest.mark.slow

KEYS = {
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
}
TIMEOUT_S = 300
OPEN_STATES = {"queued", "held", "in_flight", "waiting"}


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )


def demo(folder: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON object, and what stood on stderr; nothing is left in the temporary directory."""
    process = start(folder, "--json", *options)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert list(folder.glob("pushgw-demo-*")) == []
    told = json.loads(out.splitlines()[-1]) if out else {}
    return process.returncode, told, err


def test_every_row_of_the_sample_is_accounted_for(folder: Path) -> None:
    code, told, err = demo(folder, "--devices", "120")
    assert code == 0, err
    assert set(told) == KEYS
    n_lines = len(FILE.read_bytes().splitlines())
    assert (told["submitted"], told["accepted"], told["refused"]) == (n_lines, n_lines, 0)
    assert sum(told["states"].values()) == n_lines
    assert not OPEN_STATES & told["states"].keys()
    assert (told["conserved"], told["texts_intact"], told["duplicates"]) == (True, True, 0)
    # Every receiver that there is a simulator of; regions of a vendor and robots have none of their own.
    assert set(told["received"]) == {"long_link", "apns", "fcm", *PUSH_APIS}
    for channel, n in told["received"].items():
        states = told["channels"][channel]
        assert n == states.get("vendor_accepted", 0) + states.get("device_acked", 0)
        assert n > 5, channel
    # Nothing was down.
    assert "vendor_unavailable" not in told["reasons"]
    # Some waited for devices that never came back.
    assert told["states"]["expired"] > 0
    assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"]


@pytest.mark.parametrize(
    ("options", "text", "told"),
    [
        ("--input", "\n  \n", "has no notification: that would prove nothing"),
        ("--config", None, "No such file or directory; run the demo from a checkout, or give --config FILE"),
        ("--config", "[gateway", "Expected ']' at the end of a table declaration (at end of document)"),
    ],
)
def test_a_file_that_is_of_no_use_is_a_wrong_usage(folder: Path, options: str, text: str | None, told: str) -> None:
    file = folder / "file"
    if text is not None:
        file.write_text(text)
    code, _, err = demo(folder, options, str(file))
    assert code == 2
    assert f"pushgw: {file}: {told}" in err


@pytest.mark.parametrize("fault", ["drop", "double"])
def test_a_receiver_that_loses_or_repeats_rows_is_found(fault: str, folder: Path) -> None:
    code, told, err = demo(folder, "--devices", "60", "--fault", fault)
    assert code == 1, err
    assert told["conserved"] is (fault == "double"), err
    # Each receiver doubles its first requests, up to three: how many it gets depends on how many rows a list takes. A
    # row that was handed over on a slow machine may come twice, and is not counted.
    least = len(told["received"]) - told["handed_over_unacked"]
    assert fault == "drop" or told["duplicates"] >= max(1, least), err
    assert fault == "double" or told["duplicates"] == 0, err
    assert told["texts_intact"], err


def test_malformed_lines_are_refused_rows_and_the_others_go_on(folder: Path) -> None:
    file = folder / "lines.jsonl"
    lines = [
        {"title": "好", "body": "a"},
        {"title": "b"},
        {"title": "c", "body": "c", "colour": "red"},
        {"title": "{{name}}", "body": "d", "vars": {}},
        {"title": "{{name}}", "body": "{{name}}", "vars": {"name": 'A "quoted" \\ name\n'}},
        {"title": "{{name}}", "body": "as it is"},
        {"to": ["0" * 31 + "1", "0" * 31 + "2"], "title": "nobody", "body": "registered these"},
        {"to": {"vendor": "apns", "token": "not-hex"}, "title": "t", "body": "b"},
        {"title": "", "body": ""},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "not JSON\n")
    code, told, err = demo(folder, "--devices", "3", "--online", "1", "--input", str(file))
    assert code == 3, err
    assert (told["submitted"], told["accepted"], told["refused"]) == (11, 6, 5)
    assert told["states"] == {"device_acked": 4, "dropped": 2}
    assert told["reasons"] == {"unknown_device": 2}
    assert (told["conserved"], told["texts_intact"]) == (True, True)
    for line in (2, 3, 4, 8, 10):
        assert f"line {line}: " in err


def test_a_file_that_is_not_there_ends_with_code_2(folder: Path) -> None:
    code, told, err = demo(folder, "--input", "/nowhere/lines.jsonl")
    assert (code, told) == (2, {})
    assert "/nowhere/lines.jsonl" in err


def children_of(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def wait_for(what: str, is_so: Callable[[], bool], timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """A zombie has ended; whoever adopted it will collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Ctrl-C goes SIGTERM's way.
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGKILL]
)
def test_its_processes_end_with_it_however_it_ends(number: signal.Signals, folder: Path) -> None:
    # A shell that runs these tests in the background ignores SIGINT for all that they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = start(folder, "--devices", "30")
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        wait_for("three children", lambda: len(children_of(process.pid)) == 3)
        children = children_of(process.pid)
        process.send_signal(number)
        process.communicate(timeout=120)
        wait_for("the end of all children", lambda: not any(map(is_running, children)))
    finally:
        process.kill()
        process.wait()
    if number is not signal.SIGKILL:
        assert process.returncode == 130
        assert list(folder.glob("pushgw-demo-*")) == []
