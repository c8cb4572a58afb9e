"""`pushgw submit FILE --audience WHO`: one notification to all devices, those with a tag, those of aliases."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from gateway.cli.connection import app_client, choose_app, read_config
from gateway.cli.exit_codes import ExitCode, UsageError
from gateway.cli.lines import open_lines
from gateway.cli.output import Output, counted
from gateway.client.rows import LineFault, parse_line
from gateway.content import Variant
from gateway.message_id import to_text

#: Who a notification is for where the line says nobody: `parse_line` wants somebody.
_NOBODY = bytes(16)


def submit_audience(options: argparse.Namespace, output: Output) -> int:
    """The audience is on its way; its size and task are printed. Rows follow: `pushgw task` says how far it is."""
    who = _who(options.audience)
    if options.allow_duplicates or options.task or options.group:
        raise UsageError("--allow-duplicates, --task and --group are not for an --audience")
    content = _read_content(options.file)
    config = read_config(options.config)
    with app_client(config, choose_app(config, options.app), options.address, options.timeout) as client:
        answer = client.submit_audience(
            content,
            tag=who.tag,
            aliases=who.aliases,
            online_only=options.online_only,
            rows_per_s=options.per_s,
            request_id=options.request_id,
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


def _read_content(file: str) -> Variant:
    """The one notification of the file. Raises: UsageError."""
    with open_lines(file) as lines:
        texts = [(number, text) for number, text in enumerate(lines, 1) if text.strip()]
    if len(texts) != 1:
        raise UsageError(f"an --audience gets one notification, {file} has {len(texts)} lines")
    rows = parse_line(texts[0][1], texts[0][0], default_to=_NOBODY)
    if isinstance(rows, LineFault):
        raise UsageError(f"{file}, line {rows.line}: {rows.text}")
    if len(rows) != 1 or rows[0].target != _NOBODY or rows[0].variables:
        raise UsageError("a notification to an --audience has neither `to` nor `vars`")
    return rows[0].variant
