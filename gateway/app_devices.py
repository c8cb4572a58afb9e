"""Who may connect and who gets an identity: the parts of a worker that know devices by name, built here."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from gateway.api.devices import DeviceDesk
from gateway.config_settings import signing_limits
from gateway.core.signed_requests import SignedRequests

if TYPE_CHECKING:
    from gateway.app import Worker


def build_desk(worker: Worker) -> DeviceDesk:
    """POST /v1/devices. Passwords are made from the newest secret, which is the first."""
    return DeviceDesk(
        requests=SignedRequests(worker.app_secrets, signing_limits(worker.config)),
        newest_secret=lambda app_key: worker.app_secrets[app_key][0],
        register=lambda app_key, message: worker.service.register(message, app_key),
        new_id=lambda: secrets.token_bytes(16),
        now=worker.clock.monotonic,
        now_unix_s=lambda: worker.clock.unix_ms() / 1000,
    )
