"""`pushgw restart`: it says that it takes its time, and what became of each worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.__main__ import main
from gateway.cli.exit_codes import ExitCode
from gateway.wire.rpc.messages import Restart, Restarted, WorkerRestart

if TYPE_CHECKING:
    from tests.cli.conftest import ScriptedGateway


@pytest.mark.parametrize("outcome", ["restarted", "kept"])
def test_who_restarts_is_told_that_it_takes_long_and_what_became_of_each_worker(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str], outcome: Any
) -> None:
    rows = {"held": 10} if outcome == "kept" else {}

    def on_restart(message: Any) -> Any:
        return Restarted(id=message.id, workers=[WorkerRestart(0, outcome, rows, 10_000)])

    scripted.on[Restart] = on_restart
    address = ["--config", str(config_file), "--address", f"unix://{scripted.operator_path}", "--json"]
    code = ExitCode.ROWS_REFUSED if outcome == "kept" else ExitCode.GOOD
    assert main(["restart", *address]) == code
    told = capsys.readouterr()
    assert "one worker after the other" in told.err
    assert json.loads(told.out)["workers"] == [{"worker": 0, "outcome": outcome, "rows_open": rows, "took_ms": 10_000}]
