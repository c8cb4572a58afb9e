"""`pushgw serve`: what keeps it from starting is one line with file, key and value, and no trace."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.exit_codes import ExitCode
from gateway.cli.toml_text import to_toml

WAIT_S = 60.0
FREE = {"address": "tcp://127.0.0.1:0"}


def table(folder: Path, **over: Any) -> dict[str, Any]:
    (folder / "app.secret").write_bytes(b"the secret of the shop")
    return {
        "gateway": {"data_dir": str(folder / "data"), **over.pop("gateway", {})},
        "rpc": {"listeners": [FREE]},
        "long_link": {"listeners": [FREE]},
        "http": FREE,
        "operator": {"socket": "operator.sock"},
        "devices": {"devices_max": 1000, "token_bytes_max": 1_000_000},
        "apps": [{"key": "shop", "secrets": [{"file": str(folder / "app.secret")}]}],
        **over,
    }


def refused(folder: Path, config: dict[str, Any]) -> str:
    """What `serve` says, all of it, instead of serving."""
    file = folder / "gateway.toml"
    file.write_text(to_toml(config))
    command = [sys.executable, "-m", "gateway", "serve", "--config", file.name]
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == ExitCode.USAGE, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("key", ["rpc.listeners[1].address", "http.address", "long_link.listeners[0].address"])
def test_an_address_that_somebody_has_is_named(folder: Path, key: str, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        had = {"address": f"tcp://{address}"}
        over = {
            "rpc.listeners[1].address": {"rpc": {"listeners": [FREE, had]}},
            "http.address": {"http": had},
            "long_link.listeners[0].address": {"long_link": {"listeners": [had]}},
        }[key]
        told = refused(folder, table(folder, gateway={"workers": workers}, **over))
    assert told.startswith(f"pushgw: gateway.toml: {key} = ")
    assert told.endswith(f"{address}': expected an address to bind (Address already in use)")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_data_folder_that_cannot_be_is_named(folder: Path, workers: int) -> None:
    place = folder / "app.secret" / "data"
    told = refused(folder, table(folder, gateway={"workers": workers, "data_dir": str(place)}))
    assert (
        told == f"pushgw: gateway.toml: gateway.data_dir = '{place}': expected a folder to write to (Not a directory)"
    )


@pytest.mark.parametrize(
    ("key", "over"),
    [
        ("operator.socket", {"operator": {"socket": "app.secret"}}),
        ("rpc.listeners[0].address", {"rpc": {"listeners": [{"address": "unix://app.secret"}]}}),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_socket_that_cannot_be_is_named(folder: Path, key: str, over: dict[str, Any], workers: int) -> None:
    told = refused(folder, table(folder, gateway={"workers": workers}, **over))
    assert told.startswith(f"pushgw: gateway.toml: {key} = ")
    assert told.endswith("app.secret': expected a path for a Unix socket, and there is a file of another kind")
