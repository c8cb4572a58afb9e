"""`pushgw consents OPENID TEMPLATE`: how many messages a user of a mini program has agreed to; or that he agreed."""

from __future__ import annotations

import argparse

from gateway.cli.connection import asking_client, read_config
from gateway.cli.exit_codes import ExitCode, UsageError
from gateway.cli.output import Output


def run(options: argparse.Namespace, output: Output) -> int:
    app_key = options.of or ""
    if options.app is None and not app_key:
        apps = read_config(options.config).apps
        if len(apps) != 1:
            raise UsageError("name the app with --of (as operator) or --app (as that app)")
        app_key = apps[0].key
    count, is_total = (options.set, True) if options.set is not None else (options.add, False)
    with asking_client(options) as client:
        (left,) = client.report_consents([options.user], options.template, count, is_total=is_total, app_key=app_key)
    output.document({"user": options.user, "template": options.template, "left": left})
    if not output.is_json:
        output.say(f"{left} left")
    return ExitCode.GOOD
