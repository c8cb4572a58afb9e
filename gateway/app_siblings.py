"""What a worker has because there are several: its place, the others, the control socket, shared columns.

`None` in place of a `Siblings` is a worker alone: one process, without a supervisor, as it always was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.actors.control_port import ControlPort
from gateway.actors.peers import Peers, WorkerPlace
from gateway.observe.shared import SharedColumns


class Siblings(NamedTuple):
    """columns: of each worker by its index, the supervisor's last. unix_listeners: path -> inherited descriptor."""

    place: WorkerPlace
    peers: Peers
    control: ControlPort
    columns: Sequence[SharedColumns]
    unix_listeners: dict[str, int]
    clock_offset_s: float

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


def operator_socket(run_folder: str, worker: int) -> Path:
    return Path(run_folder) / f"operator-{worker}.sock"
