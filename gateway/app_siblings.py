"""What a worker has because there are several: its place, the others, the control socket, shared columns.

`None` in place of a `Siblings` is a worker alone: one process, without a supervisor, as it always was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway.actors.control_port import ControlPort
from gateway.actors.peers import Peers, WorkerPlace
from gateway.config import Config
from gateway.core.ownership import SHARDS, Ownership
from gateway.core.shadow import Life
from gateway.observe.shared import SharedColumns


class Siblings(NamedTuple):
    """columns: of each worker by its index, the supervisor's last. unix_listeners: path -> inherited descriptor."""

    place: WorkerPlace
    peers: Peers
    control: ControlPort
    columns: Sequence[SharedColumns]
    unix_listeners: dict[str, int]
    clock_offset_s: float
    #: Workers that lived when this one was started.
    living: Sequence[Life] = ()

    @property
    def operator_socket(self) -> Path:
        """Where the supervisor asks this worker what operators want to know."""
        return operator_socket(self.place.run_folder, self.place.worker)

    def online_elsewhere(self, app_index: int) -> int:
        """Devices of the app that are online at the other workers."""
        me = self.place.worker
        return int(sum(one.online[app_index] for at, one in enumerate(self.columns) if at != me))

    def set_online(self, app_index: int, devices: int) -> None:
        self.columns[self.place.worker].online[app_index] = devices


def place_of(siblings: Siblings | None) -> WorkerPlace:
    return WorkerPlace() if siblings is None else siblings.place


def journals_of(config: Config, siblings: Siblings | None) -> list[int]:
    """Numbers of the journals whose batches are this worker's, its own first."""
    place = place_of(siblings)
    return ownership_of(config).journals_of(place.worker, config.gateway.node)


def living(siblings: Siblings | None) -> Sequence[Life]:
    """Workers that lived when this one was started, and may have rows of an earlier life of it."""
    return () if siblings is None else siblings.living


def ownership_of(config: Config) -> Ownership:
    """Shard groups are those of the registry, where it is on the disk."""
    workers = config.gateway.workers
    if config.store.data_dir is None:
        # Nothing lies in files by group, so that the shares may be as even as shards are.
        return Ownership(workers, shard_groups=SHARDS)
    return Ownership(workers, shard_groups=config.store.shard_groups)


def counter_of_consents(config: Config) -> int:
    """The worker that counts them; the others borrow from it."""
    return 0 if config.gateway.workers == 1 else ownership_of(config).owner_of_name("consents")


def operator_socket(run_folder: str, worker: int) -> Path:
    return Path(run_folder) / f"operator-{worker}.sock"


def online_counts(siblings: Siblings | None) -> dict[str, Any]:
    """How the owner of devices learns of those that are online elsewhere; nothing for a worker alone."""
    if siblings is None:
        return {}
    return {"online_elsewhere": siblings.online_elsewhere, "set_online": siblings.set_online}
