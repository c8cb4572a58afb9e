"""Small parts of a worker that follow from its configuration alone."""

from __future__ import annotations

import vendors
from gateway.actors.service import AppView
from gateway.config import App, Config
from gateway.core.rendered import CutRule
from gateway.ledger import CHANNEL_NAMES
from gateway.observe.log import Level, Log
from gateway.observe.metrics import Metrics
from gateway.regions import names_of_app


def app_view(index: int, app: App) -> AppView:
    checks = {
        CHANNEL_NAMES[name]: vendors.entry_of(name).vendor(settings).check_token
        for name, settings in app.vendors.items()
    }
    return AppView(index, app.key, frozenset(checks), checks, app.ttl_s_max, names_of_app(app.vendors))


def cut_rules(config: Config) -> dict[int, CutRule]:
    """How texts that are too long are cut, by the app's index."""
    return {index: cut_rule(app) for index, app in enumerate(config.apps)}


def cut_rule(app: App) -> CutRule:
    return CutRule(app.truncation.mark, app.truncation.enabled)


def make_log(config: Config, metrics: Metrics) -> Log:
    return Log(
        level=Level[config.observe.log_level.upper()],
        lines_per_s_max=config.observe.log_lines_per_s_max,
        on_line=lambda level: metrics.log_lines.add(1, level.name.lower()),
        on_suppressed=lambda: metrics.log_lines_suppressed.add(1),
    )
