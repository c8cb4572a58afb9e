"""`pushgw erase`: devices are forgotten, with what waits for them: what a user may ask for."""

from __future__ import annotations

import argparse

from gateway.cli.connection import asking_client, choose_app, read_config
from gateway.cli.exit_codes import ExitCode
from gateway.cli.output import Output, counted


def run(options: argparse.Namespace, output: Output) -> int:
    """ROWS_REFUSED where one of them was not known: a mistyped id must not pass for a device that is gone."""
    app_key = options.app or choose_app(read_config(options.config), options.of).key
    devices = list(dict.fromkeys(options.devices))
    with asking_client(options) as client:
        erased = client.erase_devices(devices, app_key="" if options.app else app_key).erased
    unknown = len(devices) - erased
    output.document({"app": app_key, "erased": erased, "unknown": unknown})
    if not output.is_json:
        output.say(f"{counted(erased, 'device')} of {app_key} erased" + (f", {unknown:,} not known" if unknown else ""))
    return ExitCode.ROWS_REFUSED if unknown else ExitCode.GOOD
