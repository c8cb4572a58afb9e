"""What the C library keeps of freed memory, seen by the page faults of blocks that come and go."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource
from gateway.app_memory import keep_freed_memory
if {kept}:
    assert keep_freed_memory()
def turn():
    blocks = [bytearray(b"x") * (3 << 20) for _ in range(2)]
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, kept: bool) -> int:
    """Page faults of forty blocks of three megabytes."""
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(kept=kept)], check=True, capture_output=True, text=True, timeout=60
    )
    return int(out.stdout)


def test_blocks_of_a_burst_are_used_again_instead_of_mapped_anew() -> None:
    assert faults(kept=True) * 5 < faults(kept=False)
