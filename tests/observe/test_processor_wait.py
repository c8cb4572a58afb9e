"""Whether processors are short, as the kernel's statistics say it; and from its own ones, where it has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.observe.metrics import Metrics
from gateway.observe.processor_wait import ProcessorWait


class Thread:
    """A thread as /proc shows it."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "schedstat"
        self.ran_ns = self.waited_ns = 0
        self.now = 100.0
        self.goes_on(0.0, 0.0)
        self.metrics = Metrics()
        self.wait = ProcessorWait(self.metrics, str(self.path))

    def goes_on(self, ran_s: float, waited_s: float) -> None:
        """A second later."""
        self.now += 1.0
        self.ran_ns += round(ran_s * 1e9)
        self.waited_ns += round(waited_s * 1e9)
        self.path.write_text(f"{self.ran_ns} {self.waited_ns} 17\n")

    def are_short(self, ran_s: float = 0.0, waited_s: float = 0.0) -> bool:
        self.goes_on(ran_s, waited_s)
        return self.wait.are_short(self.now)


@pytest.fixture
def thread(tmp_path: Path) -> Thread:
    return Thread(tmp_path)


@pytest.mark.parametrize(
    ("ran_s", "waited_s", "expected"),
    [
        (0.10, 0.09, False),  # it has them for longer than it waits
        (0.10, 0.11, True),
        (0.60, 0.39, False),
        (0.001, 0.015, False),  # idle: each turn waits a little
        (0.001, 0.025, True),
    ],
)
def test_processors_are_short_where_it_waits_longer_than_it_runs(
    thread: Thread, ran_s: float, waited_s: float, expected: bool
) -> None:
    assert not thread.are_short(5.0, 50.0), "before the first look nobody knows since when"
    assert thread.are_short(ran_s, waited_s) is expected


def test_they_stay_short_until_it_hardly_waits(thread: Thread) -> None:
    thread.are_short()
    assert thread.are_short(0.1, 0.2)
    assert thread.are_short(0.1, 0.03), "what follows from it makes the waits shorter"
    assert not thread.are_short(0.1, 0.02)
    assert not thread.are_short(0.1, 0.09)


def test_looks_in_one_moment_change_nothing(thread: Thread) -> None:
    thread.are_short()
    assert thread.are_short(0.1, 0.2)
    assert thread.wait.are_short(thread.now)


@pytest.mark.parametrize("content", ["", "0", "no numbers here\n", None])
def test_system_that_does_not_say_has_enough(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "schedstat"
    if content is not None:
        path.write_text(content)
    wait = ProcessorWait(Metrics(), str(path))
    assert [wait.are_short(now) for now in (1.0, 2.0, 3.0)] == [False] * 3


def test_waits_are_counted_and_never_go_back(thread: Thread) -> None:
    thread.are_short(0.1, 0.25)
    assert thread.metrics.processor_wait_s.value() == pytest.approx(0.25)
    thread.path.write_text("0 0 0\n")
    thread.wait.are_short(thread.now + 1.0)
    assert thread.metrics.processor_wait_s.value() == pytest.approx(0.25)


@pytest.mark.skipif(not os.path.exists("/proc/thread-self/schedstat"), reason="the kernel has no such statistics")
def test_kernel_says_it_of_this_thread() -> None:
    metrics = Metrics()
    wait = ProcessorWait(metrics)
    wait.are_short(1.0)
    assert isinstance(wait.are_short(2.0), bool)
    ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    assert 0.0 <= metrics.processor_wait_s.value() <= int(waited) / 1e9
    assert int(ran) > 0
