"""Connections of e-mail: sessions at a submission server, each with a thread of its own."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from typing import Any

import trio

from gateway.actors.vendor_connection_smtp import SmtpVendorConnection
from gateway.actors.vendor_pool import OpenConnection
from gateway.config import Config
from gateway.errors import CloseReason, ConfigError
from gateway.net.smtp import SessionFailed, SmtpPlace, SmtpSession
from gateway.net.tls import client_context
from gateway.wire.h2.events import Event


def session_opener(config: Config, app_key: str, settings: Any, password: Callable[[], bytes | None]) -> OpenConnection:
    """What a pool opens its connections with. password: the credential in force. Raises ConfigError."""
    try:
        context = client_context(ca_file=settings.ca_file or None, alpn=())
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"apps.{app_key}.email.ca_file", str(error), "a usable CA file") from error
    place = SmtpPlace(
        settings.host,
        settings.port,
        settings.security,
        settings.local_name,
        settings.user_name,
        config.http2.request_timeout_s,
    )
    # A place more than there are connections: one that is leaving says goodbye while its successor begins.
    limiter = trio.CapacityLimiter(2 * settings.connections_max)

    def open_session(secret: bytes | None) -> SmtpSession:
        if secret is None:
            raise SessionFailed(CloseReason.BAD_CREDENTIALS, "there is no password yet")
        return SmtpSession.open(place, context, secret.decode())

    def open_connection(on_events: Callable[[object, list[Event]], None]) -> SmtpVendorConnection:
        # Asked on the loop: a credential that another worker lends rings its bell.
        session = functools.partial(open_session, password())
        return SmtpVendorConnection(open_session=session, limiter=limiter, on_events=on_events)

    return open_connection
