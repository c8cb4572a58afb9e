"""The limit of open files: raised as far as the system lets us, and never lowered."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import resource
from gateway.net.files import raise_files_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
print([raise_files_limit(wanted) for wanted in (50, 150, 120, 1000)], resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_files_limit_rises_to_what_is_wanted_or_to_the_hard_limit_and_never_falls() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    assert said == "[50, 150, 120, 200] (200, 200)\n"
