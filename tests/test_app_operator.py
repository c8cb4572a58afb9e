"""Facts of several workers as those of one gateway."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import trio
import trio.testing

from gateway.app_operator import OperatorService, merge_facts
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.wire.rpc import messages
from gateway.wire.rpc.server import Requested


def test_facts_of_workers_become_those_of_the_gateway() -> None:
    lane = {"app": "shop", "vendor": "apns", "class": "system", "rows": 3, "has_credential": True, "last_close": ""}
    first = {
        "node": 4,
        "is_ready": True,
        "now_unix_ms": 1000,
        "rows_open": {"queued": 1, "held": 0},
        "longest_step_ms": 2.5,
        "lanes": [lane],
    }
    second = {
        "node": 4,
        "is_ready": False,
        "now_unix_ms": 1001,
        "rows_open": {"queued": 2, "held": 5},
        "longest_step_ms": 1.5,
        "lanes": [lane | {"rows": 4, "has_credential": False, "last_close": "goaway"}, lane | {"class": "marketing"}],
    }
    assert merge_facts([first, second]) == {
        "node": 4,
        "is_ready": False,
        "now_unix_ms": 1001,
        "rows_open": {"queued": 3, "held": 5},
        "longest_step_ms": 2.5,
        "lanes": [lane | {"rows": 7, "has_credential": False, "last_close": "goaway"}, lane | {"class": "marketing"}],
    }


def test_facts_of_one_worker_stay_as_they_are_and_those_of_none_are_none() -> None:
    facts = {"node": 0, "lanes": [], "rows_open": {"queued": 1}}
    assert merge_facts([facts]) == facts
    assert merge_facts([]) == {}


class Connection:
    """Keeps what it is answered."""

    session = SimpleNamespace(name="operator")

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def answer(self, message: Any) -> bool:
        self.answers.append(message)
        return True


class Supervisor:
    """One without workers; asked who is not ready, it meets a bug of ours."""

    run_folder = SimpleNamespace(path="/nowhere")
    workers = ()

    def __init__(self) -> None:
        self.metrics, self.log = Metrics(), Log(stream=io.StringIO())
        self.is_broken = True

    def not_ready(self) -> list[str]:
        if self.is_broken:
            raise KeyError("nobody thought of that")
        return ["worker 0"]

    def describe(self) -> list[Any]:
        return []


async def test_request_that_meets_a_bug_of_ours_does_not_end_the_supervisor() -> None:
    supervisor, connection = Supervisor(), Connection()
    service = OperatorService(cast(Any, supervisor))
    async with trio.open_nursery() as nursery:
        service.open_in(nursery)
        service.request(cast(Any, connection), Requested(messages.Status(id=7), 0, {}))
        await trio.testing.wait_all_tasks_blocked()
        supervisor.is_broken = False
        service.request(cast(Any, connection), Requested(messages.Status(id=8), 0, {}))
    refused, status = connection.answers
    assert (refused.id, refused.code) == (7, "internal")
    assert (status.id, status.facts["is_ready"]) == (8, False)
    assert supervisor.metrics.actor_restarts.value("request") == 1
