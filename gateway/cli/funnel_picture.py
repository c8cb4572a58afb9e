"""The funnel of `pushgw loss` as a PNG for a report: one bar per stage, and what was lost below it.

Pillow draws it, which is an extra (`pip install pushgw[png]`): nothing that runs the gateway needs it. Its built-in
font has Latin letters only, so a name in other letters is left out of the title.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.cli.exit_codes import UsageError
from gateway.wire.rpc.messages import LossFound, LossLine

_WIDTH, _MARGIN, _LABEL, _BAR = 1000, 30, 110, 30
_LINE = 20
#: Causes shown below a bar; the rest are one line.
_CAUSES_MAX = 3
_INK, _PALE, _BLUE, _RED = (30, 33, 40), (232, 235, 240), (46, 111, 192), (178, 58, 58)


def write_png(path: Path, what: str, found: LossFound) -> None:
    """The picture stands in the file. Raises UsageError where Pillow is missing or the file cannot be written."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise UsageError("--png needs Pillow: pip install 'pushgw[png]', or pip install pillow") from None
    stages = [sum(rows) for rows in zip(*found.channels.values(), strict=True)] or [0] * len(found.stages)
    below = [_below(stage, found.losses) for stage in found.stages]
    height = 2 * _MARGIN + 50 + sum(_BAR + 14 + _LINE * len(lines) for lines in below)
    image = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(20), ImageFont.load_default(14)
    draw.text((_MARGIN, _MARGIN), _title(what, found), fill=_INK, font=large)
    y = _MARGIN + 50
    room = _WIDTH - 2 * _MARGIN - _LABEL - 180
    for name, rows, lines in zip(found.stages, stages, below, strict=True):
        share = rows / stages[0] if stages[0] else 0.0
        x = _MARGIN + _LABEL
        draw.text((_MARGIN, y + 7), name, fill=_INK, font=small)
        draw.rectangle((x, y, x + room, y + _BAR), fill=_PALE)
        if rows:
            draw.rectangle((x, y, x + max(1, round(room * share)), y + _BAR), fill=_BLUE)
        draw.text((x + room + 12, y + 7), f"{rows:,}  {share:.2%}", fill=_INK, font=small)
        y += _BAR + 4
        for line in lines:
            draw.text((x, y), line, fill=_RED, font=small)
            y += _LINE
        y += 10
    try:
        image.save(path, "PNG")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error


def _title(what: str, found: LossFound) -> str:
    days = found.from_day if found.from_day == found.to_day else f"{found.from_day} to {found.to_day}"
    return f"{what}, {days}" if what.isascii() else days


def _below(stage: str, losses: Sequence[LossLine]) -> list[str]:
    """The largest losses behind a stage, over all channels."""
    sums: dict[str, list[Any]] = {}
    for line in losses:
        if line.stage == stage:
            known = sums.setdefault(line.cause, [0, line.bucket])
            known[0] += line.rows
    ordered = sorted(sums.items(), key=lambda one: -one[1][0])
    lines = [f"- {rows:,} {cause}{f' ({bucket})' if bucket else ''}" for cause, (rows, bucket) in ordered[:_CAUSES_MAX]]
    rest = sum(rows for _, (rows, _) in ordered[_CAUSES_MAX:])
    return [*lines, f"- {rest:,} for other causes"] if rest else lines
