"""A worker's process that is made ahead (actors/spare_process.py): `python -m gateway.app_spare FD`.

Nobody waits for it, so its imports, a second of CPU, are not to be in the way of those that work: between two of them
it rests three times as long as they took. Its priority stays what a worker's is, since a process without privileges
cannot raise it again. Told what it is before it is through, it rests no more.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import select
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn

#: Of the time that imports take, and at most so long at once: a library that is loaded in one piece takes 50 ms.
_REST_SHARE = 3.0
_REST_S_MAX = 0.2
#: Less is not worth a rest.
_WORK_S = 0.002


class Rests(importlib.abc.MetaPathFinder):
    """Finds nothing; each module that is looked for is the end of a piece of work. wait: so many seconds, True when
    there is no time to rest any more. cpu_clock: CPU time of this process."""

    def __init__(self, wait: Callable[[float], bool], cpu_clock: Callable[[], float] = time.process_time) -> None:
        self._wait = wait
        self._cpu_clock = cpu_clock
        self._rested_at = cpu_clock()
        self.is_over = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        worked_s = self._cpu_clock() - self._rested_at
        if not self.is_over and worked_s >= _WORK_S:
            self.is_over = self._wait(min(worked_s * _REST_SHARE, _REST_S_MAX))
            self._rested_at = self._cpu_clock()
        return None


def main(control_fd: int) -> NoReturn:
    """As app_worker.py, whose import is what takes so long."""
    rests = Rests(lambda seconds: bool(select.select([control_fd], [], [], seconds)[0]))
    sys.meta_path.insert(0, rests)
    from gateway import app_worker

    sys.meta_path.remove(rests)
    # What the imports made lives as long as it does; looking through it would be 60 ms when it is told what it is.
    gc.freeze()
    app_worker.end_process(app_worker.main(control_fd))


if __name__ == "__main__":
    main(int(sys.argv[1]))
