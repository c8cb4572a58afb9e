"""`pushgw inbox list|purge`: rows that wait for their devices, by app, task, device and age."""

from __future__ import annotations

import argparse

import numpy as np

from gateway.cli.connection import operator_only
from gateway.cli.exit_codes import ExitCode, UsageError
from gateway.cli.output import Output, counted, moment


def run(options: argparse.Namespace, output: Output) -> int:
    """What was found is shown, or what was purged is gone."""
    wanted = {
        "app_key": options.app or "",
        "device_id": options.device,
        "task_id": options.task,
        "older_than_s": options.older_than or 0.0,
    }
    if options.action == "purge" and bool(options.all) == any(wanted.values()):
        # `--app "$APP"` with a variable that is not set would end the rows of everybody.
        raise UsageError("say whose rows end: --app, --device, --task or --older-than, or --all without these")
    with operator_only(options) as client:
        if options.action == "purge":
            purged = client.purge_stored(**wanted).rows
            output.document({"purged_rows": purged})
            if not output.is_json:
                output.say(f"{counted(purged, 'row')} purged")
            return ExitCode.GOOD
        found = client.stored_rows(rows_max=options.rows, **wanted)
    ids = np.frombuffer(found.device_ids, np.uint8).reshape(-1, 16)
    born, ends = np.frombuffer(found.born_unix_ms, "<u8"), np.frombuffer(found.deadline_unix_ms, "<u8")
    listed = [
        {"device_id": one.tobytes().hex(), "submitted_unix_ms": int(at), "expires_unix_ms": int(end)}
        for one, at, end in zip(ids, born, ends, strict=True)
    ]
    output.document({"rows": found.rows, "bytes": found.bytes, "devices": found.devices, "listed": listed})
    if not output.is_json:
        output.say(f"{counted(found.rows, 'row')} of {counted(found.devices, 'device')}, {found.bytes:,} bytes of text")
        for row in listed:
            expires = moment(int(str(row["expires_unix_ms"])))
            output.say(f"  {row['device_id']}  submitted {moment(int(str(row['submitted_unix_ms'])))}  ends {expires}")
    return ExitCode.GOOD
