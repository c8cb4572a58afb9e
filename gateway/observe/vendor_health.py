"""What breaker and unregister guard of one (app, vendor) report, as metrics and log lines that name the mend."""

from __future__ import annotations

from typing import Protocol

from gateway.ledger import Channel
from gateway.observe.log import Log
from gateway.observe.metrics import BREAKER_CAUSES, BREAKER_STATES, Metrics


class _Code(Protocol):
    """A member of an enum of core, which this layer does not know."""

    @property
    def value(self) -> int: ...


#: By cause.
_MENDS = {
    "failures": "nothing here: the vendor fails or does not answer; rows wait and it is tried again by itself",
    "connect": "if it stays: host, port, ca_file, firewall and DNS of this vendor; 'connection closed' says why",
    "credential": "key, ids and permissions in this app's vendor section (docs/vendors); then restart",
}
_GUARD_MEND = (
    "if topic, environment or project of this app are wrong, mend them: its tokens are kept. If so many devices are "
    "really gone, raise unregister_guard.dead_share_max until they are removed"
)


class BreakerCounts:
    """log: bound to app and vendor."""

    def __init__(self, metrics: Metrics, log: Log, app: str, channel: Channel) -> None:
        self._metrics = metrics
        self._log = log
        self._labels = (app, channel)
        metrics.breaker_state.set(0, *self._labels)

    def moved(self, state: _Code, cause: _Code, open_s: float) -> None:
        name, why = BREAKER_STATES[state.value], BREAKER_CAUSES[cause.value]
        self._metrics.breaker_state.set(state.value, *self._labels)
        self._metrics.breaker_transitions.add(1, *self._labels, name, why)
        if name == "open":
            self._log.warning("breaker open", cause=why, tried_again_in_s=round(open_s, 1), mend=_MENDS[why])
        elif name == "closed":
            self._log.info("breaker closed")


class GuardCounts:
    """log: bound to app and vendor."""

    def __init__(self, metrics: Metrics, log: Log, app: str, channel: Channel) -> None:
        self._metrics = metrics
        self._log = log
        self._labels = (app, channel)
        self._holding, self._removals = metrics.unregister_guard_holding, metrics.removals_held
        self._holding.set(0, *self._labels)

    def holding(self, is_holding: bool, share: float, held: int) -> None:
        self._holding.set(int(is_holding), *self._labels)
        if is_holding:
            self._log.warning("unregister guard holds", dead_share=round(share, 3), mend=_GUARD_MEND)
        else:
            self._log.info("unregister guard released", dead_share=round(share, 3), held=held)

    def held(self, rows: int, dropped: int, held: int) -> None:
        self._count("held", rows)
        self._count("dropped", dropped)
        self._removals.set(held, *self._labels)

    def released(self, rechecked: int, removed: int, held: int) -> None:
        self._count("rechecked", rechecked)
        self._count("removed", removed)
        self._removals.set(held, *self._labels)

    def _count(self, outcome: str, rows: int) -> None:
        if rows:
            self._metrics.removals_held_back.add(rows, *self._labels, outcome)
