"""The examples run as they stand, as processes, against a real socket."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ID = ["11" * 16, "22" * 16]


@pytest.mark.parametrize(
    ("name", "rows", "wanted"),
    [
        ("submit_blocking", [2], "2 accepted"),
        ("submit_trio", [1, 1], "2 of 2 accepted"),
        ("submit_asyncio", [2], "device_acked"),
    ],
)
def test_example_submits_what_it_says(
    make_server: Any, tmp_path: Path, name: str, rows: list[int], wanted: str
) -> None:
    server, address = make_server()
    secret = tmp_path / "secret"
    secret.write_text("shop secret\n")
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py", address, "shop", secret, *ID],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert wanted in done.stdout
    assert [found.n for found in server.submissions] == rows


def test_every_example_is_run_by_a_test() -> None:
    found = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert found == {"submit_blocking", "submit_trio", "submit_asyncio"}
