"""`pushgw inbox purge`: nobody ends the rows of everybody by leaving something out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.__main__ import main
from gateway.cli.exit_codes import ExitCode
from gateway.wire.rpc.messages import PurgeStored, StoredPurged

if TYPE_CHECKING:
    from tests.cli.conftest import ScriptedGateway

DEVICE = "00112233445566778899aabbccddeeff"


def purge(scripted: ScriptedGateway, config_file: Path, *options: str) -> int:
    def on_purge(message: Any) -> Any:
        return StoredPurged(id=message.id, rows=3)

    scripted.on[PurgeStored] = on_purge
    address = f"unix://{scripted.operator_path}"
    return main(["inbox", "purge", "--config", str(config_file), "--address", address, "--json", *options])


@pytest.mark.parametrize("options", [[], ["--app", ""], ["--all", "--app", "shop"]])
def test_a_purge_that_does_not_say_whose_rows_end_ends_none(
    scripted: ScriptedGateway, config_file: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert purge(scripted, config_file, *options) == ExitCode.USAGE
    assert "say whose rows end: --app, --device, --task or --older-than, or --all" in capsys.readouterr().err
    assert scripted.seen == []


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (["--all"], {}),
        (["--app", "shop"], {"app_key": "shop"}),
        (["--device", DEVICE], {"device_id": bytes.fromhex(DEVICE)}),
        (["--older-than", "60"], {"older_than_s": 60.0}),
    ],
)
def test_a_purge_ends_what_it_names(
    scripted: ScriptedGateway,
    config_file: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    fields: dict[str, Any],
) -> None:
    assert purge(scripted, config_file, *options) == ExitCode.GOOD
    assert json.loads(capsys.readouterr().out) == {"purged_rows": 3}
    (sent,) = scripted.seen
    assert sent == PurgeStored(id=sent.id, **fields)
