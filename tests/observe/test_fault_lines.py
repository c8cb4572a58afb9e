"""Lines about a fault: when it begins, when it ends, and one a minute in between that says how often it failed."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import trio

from gateway.errors import StoreError, StoreFull
from gateway.observe.fault_lines import AGAIN_S, CALM_S, FaultLines
from gateway.observe.log import Log

FULL = StoreFull("inbox.db", "disk is full")


class Said:
    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.lines = FaultLines(Log(stream=self._stream), "not written", "works again")

    def take(self) -> list[tuple[str, int]]:
        """Event and failures of each line since the last call."""
        found: list[dict[str, Any]] = [json.loads(line) for line in self._stream.getvalue().splitlines()]
        self._stream.seek(0)
        self._stream.truncate()
        return [(line["event"], line["failures"]) for line in found]


@pytest.fixture
def said() -> Said:
    return Said()


async def test_an_hour_of_failures_is_a_line_a_minute_and_all_of_them_are_counted(
    said: Said, autojump_clock: Any
) -> None:
    for _ in range(3600):
        said.lines.failed(FULL)
        await trio.sleep(1)
    found = said.take()
    assert found[:3] == [("not written", 1), ("not written", 60), ("not written", 60)]
    assert len(found) == 60
    said.lines.works()
    said.lines.works()
    assert said.take() == [("works again", 3600)]


async def test_each_fault_has_a_line_of_its_own_at_once(said: Said, autojump_clock: Any) -> None:
    said.lines.works()
    assert said.take() == []
    for _ in range(2):
        said.lines.failed(FULL)
        said.lines.failed(FULL)
        said.lines.works()
        assert said.take() == [("not written", 1), ("works again", 2)]
        await trio.sleep(CALM_S)


async def test_another_kind_of_error_is_said_at_once(said: Said, autojump_clock: Any) -> None:
    for error in (FULL, FULL, StoreError("inbox.db", "gone"), FULL, StoreError("inbox.db", "gone")):
        said.lines.failed(error)
    assert said.take() == [("not written", 1), ("not written", 2)]


async def test_what_fails_and_works_in_turns_is_two_lines_a_minute(said: Said, autojump_clock: Any) -> None:
    for _ in range(600):
        said.lines.failed(FULL)
        said.lines.works()
        await trio.sleep(1)
    found = said.take()
    assert len(found) == 2 * 600 / AGAIN_S
    assert sum(n for event, n in found if event == "not written") == 600 - 59
