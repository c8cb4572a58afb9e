"""The limit of open files of this process (getrlimit(2), RLIMIT_NOFILE), raised as far as the system lets us."""

from __future__ import annotations

import resource


def raise_files_limit(wanted: int) -> int:
    """How many files may be open afterwards: `wanted`, or the hard limit where that is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return raised
