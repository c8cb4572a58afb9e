"""The operator's socket over several workers: one question, asked of all of them, one answer.

Each worker has an operator's socket of its own in the run folder, the one that a worker alone has for everybody; the
supervisor is a client of them. What belongs to the gateway as one (status, clock, restart) is put together here;
everything else any worker answers for all (actors/front.py), so that the first that can be reached is asked.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from gateway.actors.rpc_listener import RpcConnection, RpcListener
from gateway.actors.supervisor import answered
from gateway.app_doors import Doors
from gateway.app_siblings import operator_socket
from gateway.client.errors import CallFailed, GatewayUnreachable
from gateway.client.trio_client import TrioClient, open_trio_client
from gateway.config_sections import Listener
from gateway.config_settings import rpc_limits
from gateway.config_types import Address
from gateway.errors import GatewayError, Overloaded
from gateway.observe.counting import RpcCounts, ServiceCounts, SupervisorCounts
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import CRASHED, BadRequest
from gateway.wire.rpc.server import HelloAccepted, Requested

if TYPE_CHECKING:
    from gateway.app_supervisor import Supervisor

#: An answer of a worker takes milliseconds; one that is stuck must not keep the operator from hearing of the others.
_ASK_S = 3.0
#: Some seconds per GiB.
_BACKUP_S = 3600.0
#: Longest and smallest of several, not their sum.
_LARGEST = ("longest_step_ms", "now_unix_ms")
#: What names a lane.
_LANE_KEYS = ("app", "vendor", "class")


async def open_operator(nursery: trio.Nursery, supervisor: Supervisor, service: OperatorService) -> str:
    """The operator's listeners are open; returns the socket's address. Raises: ConfigError."""
    config = supervisor.config
    admin_keys = () if config.operator.admin_key is None else (config.operator.admin_key.read(),)
    rpc = RpcListener(
        limits=rpc_limits(config),
        service=service,
        observer=RpcCounts(supervisor.metrics),
        look_up_secret=lambda app_key: () if app_key else admin_keys,
        connections_max=config.operator.connections_max,
        hellos_max=config.operator.connections_max,
        unsent_bytes_max=config.rpc.unsent_bytes_max,
        frames_bytes_max=config.rpc.frames_bytes_max,
    )
    service.open_in(nursery)
    doors = Doors(None, SupervisorCounts(supervisor.metrics, supervisor.log))
    socket = Address("unix", path=str(config.operator_socket))
    trusted = functools.partial(rpc.converse, name="operator", has_trusted_peer=True)
    shown = await doors.open(nursery, "operator.socket", Listener(address=socket), trusted)
    if config.operator.address is not None:
        proven = functools.partial(rpc.converse, name="operator")
        await doors.open(nursery, "operator.address", Listener(address=config.operator.address), proven)
    return shown


class OperatorService:
    """What the RPC listener of the supervisor calls; nothing here but `_answer` waits."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._counts = ServiceCounts(supervisor.metrics, supervisor.log)
        self._nursery: trio.Nursery | None = None
        self._clients: dict[int, TrioClient] = {}

    def open_in(self, nursery: trio.Nursery) -> None:
        """Answers are made in this nursery."""
        self._nursery = nursery
        folder = str(self._supervisor.run_folder.path)
        self._clients = {
            worker: TrioClient(nursery, f"unix://{operator_socket(folder, worker)}", role="operator", timeout_s=_ASK_S)
            for worker in range(len(self._supervisor.workers))
        }

    def open(self, connection: RpcConnection, hello: HelloAccepted) -> None:
        self._counts.audit("connected", {"connection": connection.session.name})

    def closed(self, connection: RpcConnection) -> None:
        """Nothing is kept for a connection."""

    def credited(self, connection: RpcConnection, stream: int) -> None:
        """There are no streams for operators."""

    def cancelled(self, connection: RpcConnection, stream: int) -> None:
        """There are no streams for operators."""

    def request(self, connection: RpcConnection, requested: Requested) -> None:
        self._counts.requested(type(requested.message).__name__)
        self._counts.audit(type(requested.message).__name__, {"connection": connection.session.name})
        assert self._nursery is not None
        self._nursery.start_soon(self._answer, connection, requested.message)

    async def _answer(self, connection: RpcConnection, message: Any) -> None:
        """Whatever becomes of one request, the supervisor goes on."""

        def refuse() -> None:
            connection.answer(messages.Error(id=message.id, code="internal", text=CRASHED))

        await answered(lambda: self._find_and_answer(connection, message), refuse, self._counts)

    async def _find_and_answer(self, connection: RpcConnection, message: Any) -> None:
        try:
            answer = await self._find(message)
        except (BadRequest, Overloaded) as error:
            connection.refuse(message.id, error)
        except CallFailed as error:
            connection.answer(msgspec.structs.replace(error.error, id=message.id))
        except GatewayError as error:
            connection.answer(messages.Error(id=message.id, code="internal", text=str(error)))
        else:
            connection.answer(msgspec.structs.replace(answer, id=message.id))

    async def _find(self, message: Any) -> Any:
        match message:
            case messages.Status():
                return await self._status(message)
            case messages.ClockAdvance():
                return await self._advance(message)
            case messages.Restart():
                done = await self._supervisor.restart(may_lose=message.may_lose)
                return messages.Restarted(id=message.id, workers=done)
            case messages.Backup():
                return await self._back_up(message)
            case _:
                return await self._ask_one(message)

    async def _back_up(self, message: messages.Backup) -> Any:
        """By the first worker, which asks the others; however long it takes."""
        address = f"unix://{operator_socket(str(self._supervisor.run_folder.path), 0)}"
        async with open_trio_client(address, role="operator", timeout_s=_BACKUP_S) as client:
            return await client.ask(message)

    async def _status(self, message: messages.Status) -> messages.GatewayStatus:
        answers = await self._ask_each(message)
        merged = merge_facts([answer.facts for answer in answers.values()])
        merged["is_ready"] = not self._supervisor.not_ready()
        merged["workers"] = [
            {**worker, **_of_one(answers.get(worker["worker"]))} for worker in self._supervisor.describe()
        ]
        return messages.GatewayStatus(id=message.id, facts=merged)

    async def _advance(self, message: messages.ClockAdvance) -> messages.ClockAdvanced:
        """All clocks have moved; a worker that is started later begins with the same offset."""
        not_ready = self._supervisor.not_ready()
        if not_ready:
            # One that is starting would be left behind.
            raise Overloaded(not_ready[0], len(not_ready), 0)
        refusals: list[CallFailed] = []
        answers = await self._ask_each(message, refusals)
        if not answers:
            raise refusals[0] if refusals else Overloaded("workers that answer", 0, 1)
        self._supervisor.clock_offset_s += message.seconds
        return messages.ClockAdvanced(id=message.id, now_unix_ms=max(one.now_unix_ms for one in answers.values()))

    async def _ask_one(self, message: Any) -> Any:
        """The answer of a worker that can be reached. Raises: CallFailed, GatewayUnreachable."""
        *others, last = sorted(self._clients, key=lambda worker: not self._supervisor.is_ready(worker))
        for worker in others:
            try:
                return await self._clients[worker].ask(message)
            except GatewayUnreachable:
                continue
        return await self._clients[last].ask(message)

    async def _ask_each(self, message: Any, refusals: list[CallFailed] | None = None) -> dict[int, Any]:
        """The answers of those that can be reached, by worker. refusals: gets what they refuse with."""
        answers: dict[int, Any] = {}

        async def ask(worker: int, client: TrioClient) -> None:
            with contextlib.suppress(GatewayUnreachable):
                try:
                    answers[worker] = await client.ask(message)
                except CallFailed as error:
                    if refusals is not None:
                        refusals.append(error)

        async with trio.open_nursery() as nursery:
            for worker, client in self._clients.items():
                nursery.start_soon(ask, worker, client)
        return answers


def _of_one(answer: messages.GatewayStatus | None) -> dict[str, Any]:
    """What is worth seeing of each worker."""
    if answer is None:
        return {}
    shown = ("devices", "devices_online", "connections", "longest_step_ms")
    return {key: answer.facts[key] for key in shown} | {"rows_open": sum(answer.facts["rows_open"].values())}


def merge_facts(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of several workers as those of one gateway: counts are added, times are the largest, lanes of one name
    become one. Of what is neither, the first worker's."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        values = [part[key] for part in parts if key in part]
        merged[key] = _merge_values(key, values)
    return merged


def _merge_values(key: str, values: Sequence[Any]) -> Any:
    first = values[0]
    if key == "node" or isinstance(first, str):
        return next((value for value in values if value), first)
    if isinstance(first, bool):
        return all(values)
    if isinstance(first, int | float):
        return max(values) if key in _LARGEST else _sum(values)
    if isinstance(first, dict):
        return merge_facts(values)
    if isinstance(first, list) and all(isinstance(item, dict) for value in values for item in value):
        return _merge_lanes([item for value in values for item in value])
    return first


def _sum(values: Sequence[float]) -> float:
    return sum(values) if all(isinstance(value, int) for value in values) else math.fsum(values)


def _merge_lanes(lanes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    named: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for lane in lanes:
        named.setdefault(tuple(lane.get(key) for key in _LANE_KEYS), []).append(lane)
    return [merge_facts(same) for same in named.values()]
