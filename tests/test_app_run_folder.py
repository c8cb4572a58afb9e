"""Incarnations grow over all starts in a data folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gateway.app_run_folder import RunFolder
from gateway.errors import ConfigError


def test_incarnations_grow_over_starts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert [folder.next_incarnation() for _ in range(3)] == [1, 2, 3]
    assert RunFolder(tmp_path).next_incarnation() == 4
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_number_that_cannot_be_read_is_a_fault_by_name(tmp_path: Path) -> None:
    (RunFolder(tmp_path).path / "incarnation").write_text("many\n")
    with pytest.raises(ConfigError, match="incarnation"):
        RunFolder(tmp_path)
