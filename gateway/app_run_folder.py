"""The run folder: sockets of the workers of this start, and the number of the last incarnation that was ever given.

`<data_dir>/run`, for this user alone. Incarnations (u32) grow with every start of any worker, over all starts of the
gateway in this data folder, so that what a dead process has said or is still owed can be told from its successor's.
"""

from __future__ import annotations

import os
from pathlib import Path

from gateway.errors import ConfigError

_INCARNATIONS_MAX = (1 << 32) - 1


class RunFolder:
    """Owned by the supervisor. Raises ConfigError where the folder cannot be made or its number cannot be read."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "run"
        self._file = self.path / "incarnation"
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self.path, 0o700)
            self._last = int(self._file.read_text()) if self._file.exists() else 0
        except (OSError, ValueError) as error:
            raise ConfigError(
                "gateway.data_dir", str(data_dir), f"a folder with a usable {self._file} ({error})"
            ) from error

    def next_incarnation(self) -> int:
        """A number that no worker of this data folder has had; it is on disk before it is used."""
        self._last = self._last % _INCARNATIONS_MAX + 1
        part = self._file.with_suffix(".part")
        with part.open("w", encoding="ascii") as stream:
            stream.write(f"{self._last}\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, self._file)
        return self._last
