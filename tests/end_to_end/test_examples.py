"""Each example runs as a newcomer would run it, against a gateway and a simulated vendor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def test_there_is_an_example_for_each_client() -> None:
    assert EXAMPLES == ["submit_asyncio.py", "submit_blocking.py", "submit_trio.py"]


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_submits_and_sees_its_rows_end(
    name: str, simulators: Any, open_gateway: Any, folder: Path
) -> None:
    async with open_gateway(simulators.ready) as gateway:
        devices = await gateway.register(2)
        command = [
            sys.executable,
            str(ROOT / "examples" / name),
            gateway.ready["rpc"][0],
            "shop",
            str(folder / "app.secret"),
            *[device.hex() for device in devices],
        ]
        with trio.fail_after(60):
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
            assert done.returncode == 0, done.stderr.decode()
            assert b"accepted" in done.stdout
            # Not every example waits for the end of its rows.
            while sum(simulators.copies("apns").values()) < 2:
                await trio.sleep(0.05)
    assert sorted(simulators.copies("apns").values()) == [1, 1]


def test_an_example_without_arguments_says_what_it_wants() -> None:
    for name in EXAMPLES:
        done = subprocess.run([sys.executable, ROOT / "examples" / name], capture_output=True, timeout=120, check=False)
        assert done.returncode != 0
        assert f"{name} ADDRESS APP_KEY SECRET_FILE DEVICE_ID".encode() in done.stderr
        assert b"Traceback" not in done.stderr
