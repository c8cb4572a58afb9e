"""`pushgw device`: what the gateway knows of one device: token (its hash), presence, last messages with states."""

from __future__ import annotations

import argparse

from gateway.cli.connection import asking_client, choose_app, read_config
from gateway.cli.exit_codes import ExitCode
from gateway.cli.output import Output


def run(options: argparse.Namespace, output: Output) -> int:
    # An operator sees all apps, and device ids are an app's own: the configuration says which one is meant.
    app_key = options.app or choose_app(read_config(options.config), None).key
    with asking_client(options) as client:
        found = client.device(options.device, app_key="" if options.app else app_key)
    document = {"app": app_key, "device": found.device_id.hex(), "facts": found.facts}
    output.document(document)
    if not output.is_json:
        output.facts(f"device {found.device_id.hex()} of {app_key}", found.facts)
    return ExitCode.GOOD
