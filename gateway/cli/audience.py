"""`pushgw submit FILE --audience WHO`: one notification to all devices, those with a tag, those of aliases."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from gateway.cli.connection import app_client, choose_app, read_config
from gateway.cli.exit_codes import ExitCode, UsageError
from gateway.cli.lines import read_content
from gateway.cli.output import Output, counted
from gateway.message_id import to_text


def submit_audience(options: argparse.Namespace, output: Output) -> int:
    """The audience is on its way; its size and task are printed. Rows follow: `pushgw task` says how far it is."""
    who = _who(options.audience)
    if options.allow_duplicates or options.task or options.group:
        raise UsageError("--allow-duplicates, --task and --group are not for an --audience")
    content = read_content(options.file, "to an --audience")
    config = read_config(options.config)
    with app_client(config, choose_app(config, options.app), options.address, options.timeout) as client:
        answer = client.submit_audience(
            content,
            tag=who.tag,
            aliases=who.aliases,
            online_only=options.online_only,
            rows_per_s=options.per_s,
            request_id=options.request_id or "",
        )
    task = to_text(answer.task_id) if any(answer.task_id) else ""
    refused = [{"field": one.field, "text": one.text} for one in answer.refused]
    output.document({"task": task, "devices": answer.devices, "refused": refused})
    if not output.is_json:
        output.say(counted(answer.devices, "device") if task else "nobody is in this audience: nothing was sent")
        if task:
            output.say(f"task {task}")
        for one in answer.refused:
            output.say(f"refused: {one.text}")
    return ExitCode.ROWS_REFUSED if refused else ExitCode.GOOD


class _Who(NamedTuple):
    tag: str = ""
    aliases: Sequence[str] = ()


def _who(named: Sequence[str]) -> _Who:
    """Raises: UsageError."""
    if list(named) == ["all"]:
        return _Who()
    if len(named) == 1 and named[0].startswith("tag:") and named[0] != "tag:":
        return _Who(tag=named[0].removeprefix("tag:"))
    aliases = [one.removeprefix("alias:") for one in named]
    if not all(one.startswith("alias:") for one in named) or not all(aliases):
        said = " ".join(named)
        raise UsageError(f"--audience is {said!r}, expected all, tag:NAME, or alias:NAME, which may be repeated")
    return _Who(aliases=aliases)
