"""What a credential keeper reports, carried out: counted, logged with the mend, and told to that credential's breaker.

While the old value is still in force a failed refresh stops nobody; when there is none left, or when the value made
after a refusal is refused as well, the breaker of this (app, vendor) opens and nobody else's.
"""

from __future__ import annotations

from gateway.actors.credentials import CredentialEvent
from gateway.actors.vendor_breaker import VendorBreaker
from gateway.ledger import Channel
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics

_MEND_NOW = "mend this credential: key, ids and permissions in this app's vendor section (docs/vendors); then restart"
_MEND_LATER = "none needed yet: it is tried again; if it stays, look at the token endpoint and the way to it"


class CredentialWords:
    """log: bound to app and vendor."""

    def __init__(self, metrics: Metrics, log: Log, app: str, channel: Channel, breaker: VendorBreaker) -> None:
        self._metrics = metrics
        self._log = log
        self._app = app
        self._channel = channel
        self._breaker = breaker

    def __call__(self, event: CredentialEvent) -> None:
        match event.kind:
            case "issued":
                self._metrics.credential_refreshes.add(1, self._channel)
                self._breaker.credential_issued()
                # Rows that waited for it go at once, whatever the breaker said before.
                self._breaker.ring()
            case "failed":
                self._metrics.credential_failures.add(1, self._app, self._channel)
                mend = _MEND_NOW if event.is_final else _MEND_LATER
                self._log.warning(
                    "credential not available",
                    name=event.name,
                    retry_in_s=event.retry_in_s,
                    is_one_in_force=event.is_one_in_force,
                    mend=mend,
                )
                if not event.is_one_in_force:
                    self._breaker.credential_lost()
            case "refused_again":
                self._metrics.credential_failures.add(1, self._app, self._channel)
                self._log.warning("credential refused again", name=event.name, mend=_MEND_NOW)
                self._breaker.credential_lost()
            case _:
                self._log.warning("credential", what=event.kind, name=event.name)
