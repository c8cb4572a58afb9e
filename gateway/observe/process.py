"""The process as the kernel sees it: memory, open files, CPU time. Read just before a scrape.

Source: proc(5), fields of /proc/self/statm; getrusage(2).
"""

from __future__ import annotations

import os
import resource
from typing import NamedTuple

from gateway.observe.metrics import Metrics

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FILES = "/proc/self/fd"


def _kernel_counts_files() -> bool:
    """The size of that folder is the number of its entries since Linux 6.2, and 0 before."""
    try:
        return os.stat(_FILES).st_size > 0
    except OSError:
        return False


#: Else they are listed: 20,000 descriptors take milliseconds, and `read_process` belongs in a thread.
COUNTS_FILES = _kernel_counts_files()


class ProcessFigures(NamedTuple):
    """memory_bytes is the resident set; open_files may be 0 where the kernel does not tell."""

    memory_bytes: int
    open_files: int
    cpu_s: float


def read_process() -> ProcessFigures:
    """What this process uses now: 20 us where `COUNTS_FILES`."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    try:
        with open("/proc/self/statm", "rb") as stream:
            memory_bytes = int(stream.read().split()[1]) * _PAGE_BYTES
        open_files = os.stat(_FILES).st_size or len(os.listdir(_FILES))
    except OSError:
        memory_bytes, open_files = usage.ru_maxrss * 1024, 0
    return ProcessFigures(memory_bytes, open_files, usage.ru_utime + usage.ru_stime)


def record_process(metrics: Metrics, figures: ProcessFigures) -> None:
    metrics.memory_bytes.set(figures.memory_bytes)
    metrics.open_files.set(figures.open_files)
    # Two readings may disagree by a tick: it is not a process that began anew.
    metrics.cpu_s.follow(max(figures.cpu_s, metrics.cpu_s.followed()))
