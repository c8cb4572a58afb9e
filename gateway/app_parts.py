"""Small parts of a worker that follow from its configuration alone."""

from __future__ import annotations

from typing import Any

import vendors
from gateway.actors.service import AppView
from gateway.app_siblings import Siblings
from gateway.config import App, Config
from gateway.ledger import CHANNEL_NAMES
from gateway.observe.log import Level, Log
from gateway.observe.metrics import Metrics


def app_view(index: int, app: App) -> AppView:
    checks = {
        CHANNEL_NAMES[name]: vendors.REGISTRY[name].vendor(settings).check_token
        for name, settings in app.vendors.items()
    }
    return AppView(index, app.key, frozenset(checks), checks, app.ttl_s_max)


def online_counts(siblings: Siblings | None) -> dict[str, Any]:
    """How the owner of devices learns of those that are online elsewhere; nothing for a worker alone."""
    if siblings is None:
        return {}
    return {"online_elsewhere": siblings.online_elsewhere, "set_online": siblings.set_online}


def make_log(config: Config, metrics: Metrics) -> Log:
    return Log(
        level=Level[config.observe.log_level.upper()],
        lines_per_s_max=config.observe.log_lines_per_s_max,
        on_line=lambda level: metrics.log_lines.add(1, level.name.lower()),
        on_suppressed=lambda: metrics.log_lines_suppressed.add(1),
    )
