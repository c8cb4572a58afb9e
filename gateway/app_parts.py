"""What `app.py` makes of the configuration besides actors: views, TLS of listeners, the log, the garbage collector."""

from __future__ import annotations

import gc
import ssl

import vendors
from gateway.actors.service import AppView
from gateway.config import Config, Listener
from gateway.config_sections import App
from gateway.errors import ConfigError
from gateway.ledger import CHANNEL_NAMES
from gateway.observe.log import Level, Log
from gateway.observe.metrics import Metrics

#: New objects between two looks of the garbage collector: half a millisecond each, and rarely anything to find, since
#: rows are columns and content structs hold no cycles.
_YOUNG_OBJECTS = 10_000


def app_view(index: int, app: App) -> AppView:
    checks = {
        CHANNEL_NAMES[name]: vendors.REGISTRY[name].vendor(settings).check_token
        for name, settings in app.vendors.items()
    }
    return AppView(index, app.key, frozenset(checks), checks)


def server_context(listener: Listener) -> ssl.SSLContext:
    """TLS for a listener. Raises ConfigError for files that cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(str(listener.cert_file), None if listener.key_file is None else str(listener.key_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("rpc.listeners[].cert_file", str(listener.cert_file), f"a certificate ({error})") from error
    return context


def make_log(config: Config, metrics: Metrics) -> Log:
    return Log(
        level=Level[config.observe.log_level.upper()],
        lines_per_s_max=config.observe.log_lines_per_s_max,
        on_line=lambda level: metrics.log_lines.add(1, level.name.lower()),
        on_suppressed=lambda: metrics.log_lines_suppressed.add(1),
    )


def settle_garbage() -> None:
    """What was made at start lives as long as the process, and looking through it costs tens of milliseconds each
    time: the collector is told to leave it alone, and to look at young objects only in portions that fit a step."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 50, 1000)
