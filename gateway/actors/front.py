"""Front: a client may be connected to any worker. What another worker has to answer is asked there, over the links.

    RpcListener --> Front --+--> Service (here)
                            +--> link --> Front.answer --> Service of that worker --> link --> client

    submit that names a task        the worker whose journal number stands in the task's id
    submit with a request id        the worker that owns the id's key, so that a repeat finds the first answer;
                                    while it is down, who stands in for it (stand_ins.py)
    submit_audience with one        the worker that owns the id's key
    task_state, task_rows, trace,
    stop_task, revoke_task          the worker whose journal number stands in the id
    count_rows, loss, loss_rows     the same of a task, else everybody: added up, rows worker by worker
    register_, erase_, block_devices,
    device_status                   by row: the worker that owns the device; the answers are put together
    stored_rows, purge_stored       everybody, added up
    device                          its owner, and everybody for its last messages; by alias: everybody
    online_counts                   everybody, added up
    subscribe_receipts, _presence   everybody, merged (merged_streams.py)

All else is answered here. A worker alone has no Front: its listener calls the Service itself. A worker that is down
makes the calls that need it `overloaded` with a time to come back, since it will be back in seconds. Waits for:
answers of other workers. Is waited for by: nobody.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import trio

from gateway.actors.consent_desk import CONSENTS_STORE
from gateway.actors.loss_reports import as_count, loss_found, merge_counted
from gateway.actors.merged_streams import MergedStream
from gateway.actors.own_tasks import OwnTasks
from gateway.actors.rpc_listener import Caller, RpcConnection
from gateway.actors.service import Service
from gateway.actors.stand_ins import StandIns, Submitting
from gateway.actors.worker_links import Reply, WorkerGone, WorkerLinks
from gateway.columns import Rows
from gateway.content import Fault
from gateway.core.ownership import Ownership
from gateway.core.shadow import Life
from gateway.errors import GatewayError, Overloaded, StoreUnavailable
from gateway.wire.rpc import codec, messages
from gateway.wire.rpc.columns_in import id_column
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.parts import (
    Part,
    devices_part,
    merge_counts,
    merge_devices,
    merge_registered,
    merge_statuses,
    merge_stored,
    registration_part,
    status_part,
)
from gateway.wire.rpc.refusal import refusal
from gateway.wire.rpc.server import HelloAccepted, Requested

#: A worker that was killed is back after about so long.
_BACK_S = 1.0
#: Messages of a device that are shown, as the service shows of its own.
_DEVICE_MESSAGES_MAX = 20


class _Who(NamedTuple):
    """A session of another worker's client."""

    role: Literal["app", "operator"] | None
    app_key: str
    name: str

    def stream_credit(self, stream_id: int) -> int:
        return 0


class _Elsewhere:
    """A caller whose connection is not here: the one answer goes to whoever asked for him."""

    def __init__(self, who: _Who, on_answer: Callable[[Any], None]) -> None:
        self.session = who
        self._on_answer = on_answer

    def answer(self, message: messages.Answer | messages.StreamPage) -> bool:
        self._on_answer(message)
        return True

    def refuse(self, request_id: int, cause: BadRequest | Overloaded) -> None:
        self._on_answer(refusal(request_id, cause))

    def grant(self, rows: int, payload_bytes: int) -> None:
        """Credit is between the client and the worker that it is connected to."""


class CallRefused(GatewayError):
    """Another worker, or this one, answered a part of a request with an error."""

    def __init__(self, error: messages.Error) -> None:
        self.error = error
        super().__init__(error.text)


class Front:
    """me: this worker's index. node: of its message ids. app_numbers: by app key. request_key: of an app's key and a
    request id."""

    def __init__(
        self,
        *,
        service: Service,
        links: WorkerLinks,
        ownership: Ownership,
        me: int,
        node: int,
        app_numbers: dict[str, int],
        request_key: Callable[[str, str], int],
        receipts: MergedStream,
        presence: MergedStream,
        stand_ins: StandIns,
        counter_of_consents: int = 0,
    ) -> None:
        self._service = service
        self._links = links
        self._ownership = ownership
        self._me = me
        self._node = node
        self._app_numbers = app_numbers
        self._counter_of_consents = counter_of_consents
        self._request_key = request_key
        self._receipts = receipts
        self._presence = presence
        self._stand_ins = stand_ins
        self._tasks = OwnTasks()
        links.answer_with("rpc", self._on_ask)
        links.answer_with("messages", self._on_ask_messages)

    async def run(self) -> None:
        """Keeps the tasks of requests that wait for others. If cancelled: they are not answered."""
        await self._tasks.run()

    # -- the listener's calls

    def open(self, connection: RpcConnection, hello: HelloAccepted) -> None:
        self._service.open(connection, hello)

    def closed(self, connection: RpcConnection) -> None:
        self._service.closed(connection)
        self._receipts.closed(connection)
        self._presence.closed(connection)

    def credited(self, connection: RpcConnection, stream: int) -> None:
        self._receipts.credited(connection, stream)
        self._presence.credited(connection, stream)

    def cancelled(self, connection: RpcConnection, stream: int) -> None:
        self._receipts.cancelled(connection, stream)
        self._presence.cancelled(connection, stream)

    def request(self, connection: RpcConnection, requested: Requested) -> None:
        """Answers, now or from a task, exactly once."""
        try:
            work = self._work(connection, requested)
        except BadRequest as error:
            connection.refuse(requested.message.id, error)
            return
        if work is None:
            self._service.request(connection, requested)
        else:
            self._service.count(connection, requested.message)
            self._start(connection, requested, work)

    def _start(self, connection: Caller, requested: Requested, work: Callable[[], Any]) -> None:
        if not self._tasks.start(self._answer, connection, requested, work):
            connection.refuse(requested.message.id, Overloaded("workers that answer", 0, 1, retry_after_s=_BACK_S))

    async def _answer(self, connection: Caller, requested: Requested, work: Callable[[], Any]) -> None:
        message: Any = requested.message
        try:
            answer = await work()
        except WorkerGone:
            connection.refuse(message.id, Overloaded("workers that answer", 0, 1, retry_after_s=_BACK_S))
        except (BadRequest, Overloaded) as error:
            connection.refuse(message.id, error)
        except CallRefused as error:
            connection.answer(msgspec.structs.replace(error.error, id=message.id))
        except GatewayError as error:
            # It fails alone: other requests have their tasks beside this one.
            connection.answer(messages.Error(id=message.id, code="internal", text=str(error)))
        else:
            if answer is not None:
                connection.answer(answer)
                if isinstance(answer, messages.Submitted):
                    connection.grant(message.n, requested.payload_bytes)

    # -- where a request is answered

    def _work(self, connection: Caller, requested: Requested) -> Callable[[], Any] | None:
        """What has to be done elsewhere; None: it is answered here. Raises BadRequest."""
        session, message = connection.session, requested.message
        match message:
            case messages.Submit(task_id=task_id) if task_id is not None:
                # A task has one home, and a repeat of the call names the same task.
                return self._at(self.home_of(task_id), session, requested)
            case messages.Submit(request_id=request_id) | messages.SubmitAudience(request_id=request_id) if request_id:
                key = self._request_key(session.app_key, request_id)
                if not self._has_stand_ins(session, message):
                    return self._at(self._ownership.home_of_request(key), session, requested)
                if self._stand_ins.is_here(key):
                    return None
                return functools.partial(self._stand_ins.submit, self._submitting(key, session, requested))
            case (
                messages.TaskState(task_id=task_id)
                | messages.TaskRows(task_id=task_id)
                | messages.StopTask(task_id=task_id)
                | messages.RevokeTask(task_id=task_id)
            ):
                return self._at(self.home_of(task_id), session, requested)
            case messages.Trace(message_id=message_id, task_id=task_id):
                return self._at(self.home_of(message_id or task_id), session, requested)
            case messages.CountRows() | messages.Loss() | messages.LossRows() if message.task_id is not None:
                return self._at(self.home_of(message.task_id), session, requested)
            case messages.CountRows() | messages.Loss():
                return functools.partial(self._count, session, message)
            case messages.LossRows():
                return functools.partial(self._loss_rows, session, message)
            case messages.RegisterDevices():
                split = self._split(message)
                return None if split is None else functools.partial(self._register, session, message, split)
            case messages.DeviceStatus():
                split = self._split(message)
                return None if split is None else functools.partial(self._statuses, session, message, split)
            case messages.EraseDevices() | messages.BlockDevices():
                split = self._split(message)
                return None if split is None else functools.partial(self._change_devices, session, message, split)
            case messages.StoredRows() | messages.PurgeStored():
                return functools.partial(self._stored, session, message)
            case messages.Device():
                return functools.partial(self._device, session, message)
            case messages.OnlineCounts():
                return functools.partial(self._counts, session, message)
            case messages.ReportConsents():
                return self._at(self._counter_of_consents, session, requested)
            case messages.SubscribeReceipts() | messages.SubscribePresence():
                app = self._app_numbers[session.app_key]
                stream = self._receipts if isinstance(message, messages.SubscribeReceipts) else self._presence
                return functools.partial(stream.run, connection, message, app)
            case _:
                return None

    def _has_stand_ins(self, session: Any, message: Any) -> bool:
        """An audience's repeat is answered with what became of it, which its home alone knows."""
        return isinstance(message, messages.Submit) and self._stand_ins.may_stand_in(session.app_key)

    def _submitting(self, key: int, session: Any, requested: Requested) -> Submitting:
        def there(worker: int, declined_by: Life | None) -> Any:
            return self._ask(worker, session, requested, is_home=True, declined_by=declined_by)

        return Submitting(key, functools.partial(self._ask_here, session, requested), there)

    def _at(self, worker: int, session: Any, requested: Requested) -> Callable[[], Any] | None:
        return None if worker == self._me else functools.partial(self._ask, worker, session, requested)

    def home_of(self, identifier: bytes | None) -> int:
        """Who has the journal of a message or task id. One that is none of ours is for this worker to refuse."""
        if identifier is None:
            return self._me
        worker = self._ownership.worker_of_journal(int.from_bytes(identifier[6:8], "big") & 0xFFF, self._node)
        return self._me if worker is None else worker

    def _split(
        self,
        message: messages.RegisterDevices | messages.DeviceStatus | messages.EraseDevices | messages.BlockDevices,
    ) -> list[tuple[int, Rows]] | None:
        """Rows of the call by owner; None: all of them are here."""
        owners = self._ownership.owners(id_column("device_ids", message.device_ids, message.n))
        found = np.unique(owners).tolist()
        return None if found == [self._me] else [(worker, np.flatnonzero(owners == worker)) for worker in found]

    # -- what is answered in parts

    async def _register(
        self, session: Any, message: messages.RegisterDevices, split: Sequence[tuple[int, Rows]]
    ) -> messages.DevicesRegistered:
        """Whole-state writes: a call that fails in part is repeated as a whole."""
        parts: list[tuple[int, Any]] = []
        for worker, rows in split:
            parts.append((worker, registration_part(message, rows)))
            await trio.lowlevel.checkpoint()
        answers = await self._ask_each(session, parts)
        done = [Part(rows, answer) for (_, rows), answer in zip(split, answers, strict=True)]
        return merge_registered(message, done)

    async def register(self, message: messages.RegisterDevices, app_key: str) -> messages.DevicesRegistered:
        """The devices are written at their owners. Raises: BadRequest, Overloaded. If cancelled: some are written."""
        split = self._split(message)
        if split is None:
            return await self._service.register(message, app_key)
        try:
            return await self._register(_Who("app", app_key, "http"), message, split)
        except WorkerGone as error:
            raise Overloaded("workers that answer", 0, 1, retry_after_s=_BACK_S) from error
        except CallRefused as error:
            raise _as_exception(error.error) from error

    async def report_consents(self, message: messages.ReportConsents, app_key: str) -> messages.ConsentsReported:
        """They are counted where that is done. Raises: BadRequest, Overloaded. If cancelled: they may be counted."""
        if self._counter_of_consents == self._me:
            return await self._service.report_consents(message, app_key)
        answer: messages.ConsentsReported
        try:
            (answer,) = await self._ask_each(_Who("app", app_key, "http"), [(self._counter_of_consents, message)])
        except WorkerGone as error:
            raise Overloaded("workers that answer", 0, 1, retry_after_s=_BACK_S) from error
        except CallRefused as error:
            raise _as_exception(error.error) from error
        return answer

    async def _statuses(
        self, session: Any, message: messages.DeviceStatus, split: Sequence[tuple[int, Rows]]
    ) -> messages.DeviceStatuses:
        answers = await self._ask_each(session, [(worker, status_part(message, rows)) for worker, rows in split])
        return merge_statuses(message, [Part(rows, answer) for (_, rows), answer in zip(split, answers, strict=True)])

    async def _change_devices(
        self, session: Any, message: messages.EraseDevices | messages.BlockDevices, split: Sequence[tuple[int, Rows]]
    ) -> messages.DevicesErased | messages.DevicesBlocked:
        """Each again changes nothing: a call that fails in part is repeated as a whole."""
        answers = await self._ask_each(session, [(worker, devices_part(message, rows)) for worker, rows in split])
        return merge_devices(message, answers)

    async def _stored(
        self, session: Any, message: messages.StoredRows | messages.PurgeStored
    ) -> messages.StoredRowsFound | messages.StoredPurged:
        answers = await self._ask_each(session, [(worker, message) for worker in self._everybody()])
        if isinstance(message, messages.StoredRows):
            return merge_stored(message, answers)
        return messages.StoredPurged(id=message.id, rows=sum(answer.rows for answer in answers))

    async def _counts(self, session: Any, message: messages.OnlineCounts) -> messages.OnlineCounted:
        return merge_counts(message, await self._ask_each(session, [(worker, message) for worker in self._everybody()]))

    async def _count(
        self, session: Any, message: messages.CountRows | messages.Loss
    ) -> messages.RowsCounted | messages.LossFound:
        question = message if isinstance(message, messages.CountRows) else as_count(message)
        answers = await self._ask_each(session, [(worker, question) for worker in self._everybody()])
        counted = merge_counted(question, answers)
        return counted if isinstance(message, messages.CountRows) else loss_found(message, counted)

    async def _loss_rows(self, session: Any, message: messages.LossRows) -> messages.LossRowPage:
        """The first byte of a cursor is the worker that is asked."""
        worker = message.cursor[0] if message.cursor else 0
        if worker >= self._ownership.workers:
            raise BadRequest("cursor", "the cursor is not one of loss_row_page")
        question = msgspec.structs.replace(message, cursor=message.cursor[1:])
        found: messages.LossRowPage
        (found,) = await self._ask_each(session, [(worker, question)])
        cursor = bytes([worker]) + found.next_cursor
        if not found.next_cursor:
            cursor = bytes([worker + 1]) if worker + 1 < self._ownership.workers else b""
        return msgspec.structs.replace(found, next_cursor=cursor)

    async def _device(self, session: Any, message: messages.Device) -> messages.DeviceFound:
        """What its owner knows of the device, with its last messages from all homes."""
        found: messages.DeviceFound
        if message.device_id is not None:
            owner = self._ownership.owner(message.device_id)
            (found,) = await self._ask_each(session, [(owner, message)])
        else:
            owner, found = await self._find_alias(session, message)
        app = self._app_numbers[found.facts["app"]]
        head = {"app": app, "device_id": found.device_id}
        lists: list[list[dict[str, Any]]] = [found.facts["messages"]]
        failures: list[GatewayError] = []

        async def ask(worker: int) -> None:
            try:
                lists.append(await self._last_messages(worker, head))
            except WorkerGone:
                # A worker that is down knows nothing that could be shown.
                return
            except GatewayError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for worker in self._everybody():
                if worker != owner:
                    nursery.start_soon(ask, worker)
        if failures:
            raise failures[0]
        newest = sorted((each for one in lists for each in one), key=lambda each: -each["submitted_unix_ms"])
        found.facts["messages"] = newest[:_DEVICE_MESSAGES_MAX]
        return found

    async def _last_messages(self, worker: int, head: dict[str, Any]) -> list[dict[str, Any]]:
        """Of the device, at that home. Raises WorkerGone, Overloaded, StoreError, CallRefused."""
        if worker == self._me:
            return await self._service.last_messages(head["app"], head["device_id"])
        found = msgspec.msgpack.decode(await self._links.ask(worker, "messages", head))
        if isinstance(found, str):
            raise CallRefused(messages.Error(id=0, code="internal", text=found))
        messages_of: list[dict[str, Any]] = found
        return messages_of

    async def _find_alias(self, session: Any, message: messages.Device) -> tuple[int, messages.DeviceFound]:
        """Whoever knows a device of that alias. Raises CallRefused where nobody does."""
        refused: CallRefused | None = None
        for worker in self._everybody():
            try:
                (found,) = await self._ask_each(session, [(worker, message)])
            except CallRefused as error:
                refused = error
            else:
                return worker, found
        assert refused is not None
        raise refused

    def _everybody(self) -> Iterable[int]:
        return range(self._ownership.workers)

    # -- asking

    async def _ask_each(self, session: Any, parts: Sequence[tuple[int, Any]]) -> list[Any]:
        """The answer to each (worker, message). Raises WorkerGone, Overloaded, CallRefused: the first that failed."""
        answers: list[Any] = [None] * len(parts)
        failures: list[GatewayError] = []

        async def ask(at: int, worker: int, message: Any) -> None:
            try:
                answers[at] = await self._ask(worker, session, Requested(message, 0, {}))
            except GatewayError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for at, (worker, message) in enumerate(parts):
                nursery.start_soon(ask, at, worker, message)
        if failures:
            raise failures[0]
        for answer in answers:
            if isinstance(answer, messages.Error):
                raise CallRefused(answer)
        return answers

    async def _ask(
        self,
        worker: int,
        session: Any,
        requested: Requested,
        *,
        is_home: bool = False,
        declined_by: Life | None = None,
    ) -> Any:
        """The answer, an error included. Raises WorkerGone, Overloaded.

        is_home: asked as the one who takes the request's id now; None when it sees another in that place. declined_by:
        its home, which leaves.
        """
        if worker == self._me:
            return await self._ask_here(session, requested)
        head = {
            "role": session.role,
            "app_key": session.app_key,
            "name": session.name,
            "payload_bytes": requested.payload_bytes,
            "is_home": is_home,
            "declined_by": declined_by,
            "faults": {position: list(fault) for position, fault in requested.content_faults.items()},
        }
        body = await self._links.ask(worker, "rpc", head, codec.encode(requested.message))
        if is_home and not body:
            return None
        answer = codec.decode_from_server(bytes(body))
        if isinstance(answer, codec.Faulty | codec.Broken):
            raise WorkerGone(worker)
        return answer

    async def _ask_here(self, session: Any, requested: Requested) -> Any:
        done = trio.Event()
        found: list[Any] = []

        def on_answer(message: Any) -> None:
            found.append(message)
            done.set()

        self._service.perform(_Elsewhere(session, on_answer), requested)
        await done.wait()
        return found[0]

    # -- being asked

    def _on_ask(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        message = codec.decode_from_client(bytes(body))
        if isinstance(message, codec.Mended | codec.Faulty | codec.Broken):
            reply(codec.encode(messages.Error(id=0, code="internal", text="a relayed request cannot be read")))
            return
        faults = {int(position): Fault(*fault) for position, fault in head["faults"].items()}
        who = _Who(head["role"], head["app_key"], head["name"])
        requested: Any = Requested(message, head["payload_bytes"], faults)  # type: ignore[arg-type]
        perform = functools.partial(
            self._service.perform, _Elsewhere(who, lambda answer: reply(codec.encode(answer))), requested
        )
        if head["is_home"]:
            submitting = self._submitting(self._request_key(who.app_key, requested.message.request_id), who, requested)
            if not self._stand_ins.is_here(submitting.key):
                declined_by = None if head["declined_by"] is None else Life(*head["declined_by"])
                self._later(functools.partial(self._take, declined_by=declined_by), submitting, reply)
                return
        elif isinstance(message, messages.Submit | messages.SubmitAudience) and not self._stand_ins.has_begun:
            self._later(self._perform_begun, perform, reply)
            return
        perform()

    def _later(self, function: Callable[..., Any], what: Any, reply: Reply) -> None:
        if not self._tasks.start(function, what, reply):
            reply(b"")

    async def _take(self, submitting: Submitting, reply: Reply, declined_by: Life | None) -> None:
        """A submit that was brought here because of its id, which is not this worker's by right or not known yet."""
        answer = await self._stand_ins.take(submitting, declined_by)
        reply(b"" if answer is None else codec.encode(answer))

    async def _perform_begun(self, perform: Callable[[], None], reply: Reply) -> None:
        await self._stand_ins.wait_begun()
        perform()

    def _on_ask_messages(self, life: Life, head: dict[str, Any], body: memoryview, reply: Reply) -> None:
        if not self._tasks.start(self._find_messages, head, reply):
            reply(msgspec.msgpack.encode([]))

    async def _find_messages(self, head: dict[str, Any], reply: Reply) -> None:
        found: list[dict[str, Any]] | str
        try:
            found = await self._service.last_messages(head["app"], head["device_id"])
        except GatewayError as error:
            found = str(error)
        reply(msgspec.msgpack.encode(found))


def _as_exception(error: messages.Error) -> BadRequest | Overloaded:
    if error.code == "overloaded" and error.field == CONSENTS_STORE:
        return StoreUnavailable(error.text, retry_after_s=(error.retry_after_ms or 0) / 1e3, store=CONSENTS_STORE)
    if error.code == "overloaded":
        return Overloaded(
            error.field, error.value or 0, error.limit or 0, retry_after_s=(error.retry_after_ms or 0) / 1e3
        )
    return BadRequest(error.field, error.text, code=error.code, limit=error.limit, value=error.value)
