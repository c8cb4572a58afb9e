"""Every benchmark runs in its smallest size, so that none rots; figures of such runs mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import vendor, vendor_strict
from bench.__main__ import main
from bench.harness import Options

ROOT = Path(__file__).resolve().parents[2]
#: Some 5 seconds each on two idle cores; all of `longlink`, the longest, took 165 on two with a load of sixteen.
TIMEOUT_S = 400


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def lines_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    for line in lines:
        assert {"benchmark", "workload", "machine", "commit", "arguments", "peak_rss_bytes"} <= line.keys()
    return lines


@pytest.mark.slow
def test_core_takes_single_rows_through_the_worker_and_compares_them() -> None:
    (line,) = lines_of(bench("core", "--smoke", "--only", "single", "--json"))
    assert (line["benchmark"], line["workload"], line["batch_rows"]) == ("core", "single", 1)
    assert set(line["states"]) == {"vendor_accepted", "device_acked"}  # type: ignore[call-overload]
    assert line["rows_per_s"] > 0  # type: ignore[operator]
    assert line["checked_rows"] > 0  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.needs_tools("nghttpd", "h2load")
def test_vendor_runs_beside_h2load() -> None:
    lines = lines_of(bench("vendor", "--smoke", "--json", "--only", "shared", "--only", "connections_4"))
    assert [line["workload"] for line in lines] == ["shared", "connections_4"]
    for line in lines:
        assert line["ratio_to_h2load"] > 0  # type: ignore[operator]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.needs_tools("nghttpd", "h2load")
def test_vendor_runs_each_workload_beside_h2load(tmp_path: Path) -> None:
    kept = tmp_path / "lines.jsonl"
    only = [word for workload in vendor.WORKLOADS for word in ("--only", workload.name)]
    lines = lines_of(bench("vendor", "--smoke", "--json", "--out", str(kept), *only))
    assert [json.loads(line) for line in kept.read_text().splitlines()] == lines
    by_name = {line["workload"]: line for line in lines}
    assert list(by_name) == [
        "shared", "body_1k", "distinct", "connections_4", "constant_header", "unique_header", "unique_header_huffman",
    ]  # fmt: skip
    for line in lines:
        assert line["ratio_to_h2load"] > 0  # type: ignore[operator]
        assert line["cpu_ratio_to_h2load"] > 0  # type: ignore[operator]
        assert line["server_bound"] in {True, False}
    assert 900 <= by_name["body_1k"]["body_bytes"] <= 1100  # type: ignore[operator]
    assert 150 <= by_name["distinct"]["body_bytes"] <= 250  # type: ignore[operator]
    assert by_name["unique_header"]["cpu_ratio_to_constant"] > 0  # type: ignore[operator]


HTTP1_WORKLOADS = [
    *(f"{client}_clear" for client in ("httpx", "httpcore", "h11", "connection")),
    *(f"{client}_tls" for client in ("httpx", "httpcore", "h11", "connection", "lane")),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "only",
    [["connection_clear", "lane_tls"], pytest.param(HTTP1_WORKLOADS, marks=pytest.mark.long)],
    ids=["ours", "all"],
)
def test_http1_runs_each_client_over_clear_text_and_tls(only: list[str]) -> None:
    chosen = [] if only == HTTP1_WORKLOADS else [word for name in only for word in ("--only", name)]
    lines = lines_of(bench("http1", "--smoke", "--json", *chosen))
    assert [line["workload"] for line in lines] == only
    for line in lines:
        assert line["requests_per_s"] > 0  # type: ignore[operator]
        assert line["cpu_us_per_request"] > 0  # type: ignore[operator]
        assert (line["body_bytes"], line["connections"]) == (1024, 16)


@pytest.mark.long
@pytest.mark.slow
def test_vendor_measures_waiting_rows_latency_probing_and_neighbours() -> None:
    only = [word for name in vendor_strict.WORKLOADS for word in ("--only", name)]
    by_name = {line["workload"]: line for line in lines_of(bench("vendor", "--smoke", "--json", *only))}
    by_name.pop("all beside h2load", None)
    assert tuple(by_name) == vendor_strict.WORKLOADS
    for name in ("queued_shared", "queued_distinct"):
        assert by_name[name]["rows"] == 30_000
        assert 0 < by_name[name]["bytes_per_row"] < 2_000  # type: ignore[operator]
    assert 60 < by_name["queued_distinct"]["text_bytes_per_row"] < 100  # type: ignore[operator]
    latency = by_name["latency_added"]
    assert 0 < latency["added_p50_ms"] <= latency["added_p99_ms"] < latency["whole_max_ms"]  # type: ignore[operator]
    states = by_name["new_tokens_5_percent_dead"]["states"]
    assert states["failed"] > 0  # type: ignore[index]
    assert states["vendor_accepted"] + states["failed"] == 1_000  # type: ignore[index]
    for name in vendor_strict.FAULTS:
        assert by_name[f"neighbour_of_{name}"]["ratio_to_no_fault"] > 0  # type: ignore[operator]


def test_vendor_without_the_tools_says_so_and_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vendor, "TOOLS", ("no-such-server", "no-such-client"))
    (line,) = vendor.run(Options(smoke=True, only=("shared",)))
    assert line["skipped"] == "missing: no-such-server, no-such-client"
    assert "skipped" in capsys.readouterr().err
    assert main(["vendor", "--smoke", "--json", "--only", "shared"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == line["skipped"]


def test_durable_measures_both_adapters_in_every_size_and_load() -> None:
    *every, held = lines_of(bench("durable", "--smoke", "--json"))
    core = [line for line in every if str(line["workload"]).startswith("core_")]
    lines = [line for line in every if line not in core]
    names = ["core_disk", "core_disk", "core_answer", "core_answer", "core_recovery"]
    assert [line["workload"] for line in core[:5]] == names
    assert {line["workload"] for line in core[5:]} == {"core_active"}
    assert all(line["rows_per_s"] > 0 for line in core[:2])  # type: ignore[operator]
    assert all(0 < line["answer_ms_p50"] <= line["answer_ms_p99"] for line in core[2:4])  # type: ignore[operator]
    assert core[4]["rows"] == 20_000
    # The run itself fails where memory was above its limit: of thirteen batches two or three have room.
    assert (held["workload"], held["rows_held"], held["rows_opened"]) == ("held", 100_000, 100_000)
    assert held["pages_away"] >= 8  # type: ignore[operator]
    assert held["rss_max_bytes"] <= held["limit_bytes"]  # type: ignore[operator]
    cells = {(line["workload"], line["batch_rows"], line["switch_interval_ms"]) for line in lines}
    assert len(cells) == len(lines) == 2 * 3 * (1 + 1 + 2 * 3)
    assert {line["workload"] for line in lines} == {
        f"{adapter}_{load}" for adapter in ("log", "sqlite") for load in ("piped", "idle", "busy", "busy_short")
    }
    for line in lines:
        assert line["appends"] > 0  # type: ignore[operator]
        assert line["commits_per_s"] <= line["appends_per_s"]  # type: ignore[operator]
        assert 0 < line["commit_ms_p50"] <= line["commit_ms_p99"] <= line["commit_ms_max"]  # type: ignore[operator]
        assert line["answer_ms_max"] >= line["commit_ms_p50"]  # type: ignore[operator]
        assert ("busy_rounds_per_s" in line) == ("busy" in str(line["workload"]))


@pytest.mark.slow
def test_registry_writes_and_loads_what_it_wrote() -> None:
    lines = lines_of(bench("registry", "--smoke", "--json"))
    assert [line["workload"] for line in lines] == ["write", "load", "details"]
    assert all(line["rows_per_s"] > 0 for line in lines)  # type: ignore[operator]


@pytest.mark.slow
def test_inbox_measures_each_of_its_calls() -> None:
    lines = lines_of(bench("inbox", "--smoke", "--json", "--only", "store"))
    assert [line["workload"] for line in lines] == ["put", "open", "peek", "absent", "forget"]
    assert 0 < lines[0]["disk_bytes_per_row"] < 400  # type: ignore[operator]


@pytest.mark.long
@pytest.mark.slow
def test_inbox_measures_how_soon_a_returning_device_has_its_first_row() -> None:
    (drain,) = lines_of(bench("inbox", "--smoke", "--json", "--only", "drain"))
    assert 0 <= drain["first_ms_p50"] <= drain["first_ms_max"]  # type: ignore[operator]
    assert drain["load_rows_per_s"] > 0  # type: ignore[operator]


@pytest.mark.slow
def test_render_compares_what_each_vendor_would_read() -> None:
    wanted = [f"{name}@{workload}" for name in ("huawei", "xiaomi", "oppo") for workload in ("shared", "distinct")]
    only = [word for name in [*wanted, "meizu@shared"] for word in ("--only", name)]
    lines = lines_of(bench("render", "--smoke", "--json", *only))
    assert {line["workload"] for line in lines} == {*wanted, "meizu@shared"}
    for line in lines:
        assert line["rows_per_s"] > 0  # type: ignore[operator]
        assert line["checked_rows"] > 0  # type: ignore[operator]
        assert line["checked_share"] >= 0.01  # type: ignore[operator]


@pytest.mark.slow
def test_ledger_finds_the_messages_it_archived() -> None:
    lines = lines_of(bench("ledger", "--smoke", "--json"))
    names = ["write", "device", "message", "trace", "trace_message", "loss", "loss_day", "tally", "changes"]
    assert [line["workload"] for line in lines] == names
    assert 0 < lines[0]["disk_bytes_per_row"] < 60  # type: ignore[operator]
    assert 20 < lines[-1]["log_bytes_per_change"] < 100  # type: ignore[operator]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.needs_tools("mosquitto")
def test_longlink_runs_beside_mosquitto_with_several_workers_and_through_a_storm() -> None:
    by_name = {line["workload"]: line for line in lines_of(bench("longlink", "--smoke", "--json"))}
    assert list(by_name) == ["idle", "connect", "push", "two_workers", "crowd", "storm", "storm_restart"]
    assert 0 < by_name["idle"]["bytes_per_connection"] < 100_000  # type: ignore[operator]
    for name in ("connect", "push"):
        assert by_name[name]["ratio_to_mosquitto"] > 0  # type: ignore[operator]
    push, crowd = by_name["push"], by_name["crowd"]
    assert push["bytes_per_message"] == push["mosquitto_bytes_per_message"]
    assert 0.5 <= by_name["two_workers"]["busiest_worker_share"] <= 1  # type: ignore[operator]
    assert crowd["states"] == {"device_acked": crowd["rows"]}
    assert crowd["received"] == crowd["rows"] + crowd["dup"]  # type: ignore[operator]
    for name in ("storm", "storm_restart"):
        assert 0 < by_name[name]["back_s"] < 30  # type: ignore[operator]
        assert by_name[name]["rows_arrived_twice"] == 0


@pytest.mark.slow
def test_receipts_counts_every_one_that_was_posted() -> None:
    lines = lines_of(bench("receipts", "--smoke", "--json"))
    assert [(line["workload"], line["receipts"]) for line in lines] == [("gathered", 750), ("single", 75)]
    for line in lines:
        assert line["receipts_per_cpu_s"] > 0  # type: ignore[operator]
