"""What a test that fails shows of the processes that it ran, for whoever has nothing but the print of a run."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest


def report_of(request: pytest.FixtureRequest, *, failed: bool) -> dict[str, str]:
    """The sections that our hook adds to a report."""
    ours: Any = next(one for one in request.config.pluginmanager.get_plugins() if hasattr(one, "LOG_TAIL_CHARS"))
    report = SimpleNamespace(failed=failed, sections=[])
    hook = ours.pytest_runtest_makereport(request.node, None)
    next(hook)
    with pytest.raises(StopIteration) as ended:
        hook.send(report)
    assert ended.value.value is report
    return dict(report.sections)


async def test_a_failure_shows_the_ends_of_logs_and_what_simulators_refused(
    request: pytest.FixtureRequest, open_gateway: Callable[..., Any], simulators: Any, folder: Any
) -> None:
    async with open_gateway(simulators.ready) as gateway:
        await gateway.register(1)
        assert report_of(request, failed=False) == {}
        shown = report_of(request, failed=True)
        assert '"event":"ready"' in shown["end of gateway.log"]
        assert '"refused"' in shown["simulators"]
        assert "apns" in shown["simulators"]
        with (folder / "gateway.log").open("a") as log:
            log.write("x" * 10_000 + "the last words")
        shown = report_of(request, failed=True)
        assert shown["end of gateway.log"].endswith("the last words")
        assert len(shown["end of gateway.log"]) < 6_100
