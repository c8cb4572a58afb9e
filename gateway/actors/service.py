"""Service: answers the RPC's requests. What it changes it hands to the owner (intake, device table, clock).

    submit, register_devices          an app's own
    task_state, task_rows, trace,     an app sees its own only; an operator sees all, and each of his calls is logged
    device, device_status, online_counts, status, clock_advance
    subscribe_receipts                one task per stream; changes go out as columns while the client has credit

Requests that only read a little are answered at once; those that walk over pages run as tasks of this actor's nursery
and yield in between. Waits for: the loop only. Is waited for by: nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import trio

from gateway.actors.intake import Accepted, Intake, RequestIdReused, ShuttingDown
from gateway.actors.presence import Presence
from gateway.actors.receipt_stream import ReceiptStreams
from gateway.actors.registering import cut, registrations
from gateway.actors.rpc_listener import RpcConnection
from gateway.batch import Submission, TaskSegment
from gateway.clock import Clock, DevelopmentClock
from gateway.columns import Bool, TextColumn
from gateway.core import report
from gateway.core.devices import DeviceTable
from gateway.core.home import Home
from gateway.core.identity import device_password
from gateway.core.registration import Outcome
from gateway.errors import GatewayError, Overloaded
from gateway.ledger import IS_FINAL, Channel, LedgerPage, Reason, Receipt, State
from gateway.message_id import to_text
from gateway.observe.redact import short_hash
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.registration import check_registration
from gateway.wire.rpc.server import HelloAccepted, Requested
from gateway.wire.rpc.submit import (
    check_submit,
    check_submit_in_steps,
    submit_digest,
    submit_digest_in_steps,
    submitted,
)

_T = TypeVar("_T")
#: A submit of more bytes is checked in steps: texts are validated at about a nanosecond and a half per byte.
_LARGE_BYTES = 1 << 19
#: Devices written in one step of the loop: two to three milliseconds; smaller slices cost far more per device.
_REGISTER_ROWS = 500
#: Rows looked at for one device's last messages, newest batches first.
_DEVICE_ROWS_MAX = 4_000_000
_DEVICE_MESSAGES_MAX = 20


class AppView(NamedTuple):
    """What the service has to know of an app. number: its index everywhere else."""

    number: int
    key: str
    channels: frozenset[Channel]
    check_token: Mapping[Channel, Callable[[str], str]]

    def check_tokens(self, channel: Channel, tokens: TextColumn) -> Bool | str:
        """(n,) true where a token has the form of the channel's; a text where the app has no such channel."""
        check = self.check_token.get(channel)
        if check is None:
            return f"app {self.key} has no credentials for {channel.name.lower()}"
        return np.fromiter((not check(row.decode("ascii", "replace")) for row in tokens.rows()), np.bool_, len(tokens))


class ServiceObserver(Protocol):
    def submit(self, outcome: str) -> None: ...

    def refused_rows(self, fields: Sequence[str]) -> None: ...

    def requested(self, kind: str) -> None: ...

    def error(self, code: str) -> None: ...

    def audit(self, command: str, fields: Mapping[str, object]) -> None: ...

    def proven(self, app_key: str, secret_index: int) -> None: ...


class Service:
    def __init__(
        self,
        *,
        apps: Sequence[AppView],
        intake: Intake,
        home: Home,
        devices: DeviceTable,
        clock: Clock,
        observer: ServiceObserver,
        status: Callable[[], dict[str, Any]],
        check_room: Callable[[], None],
        newest_secret: Callable[[str], bytes],
        presence: Presence,
        wait_registered: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        self._apps = {app.key: app for app in apps}
        self._by_index = list(apps)
        self._intake = intake
        self._home = home
        self._devices = devices
        self._clock = clock
        self._observer = observer
        self._status = status
        self._check_room = check_room
        self._newest_secret = newest_secret
        self._presence = presence
        self._wait_registered = wait_registered
        self._nursery: trio.Nursery | None = None
        self._streams = ReceiptStreams(home)

    async def run(self) -> None:
        """Keeps the tasks of requests that take longer. If cancelled: they are not answered."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # -- the listener's calls

    def open(self, connection: RpcConnection, hello: HelloAccepted) -> None:
        if hello.role == "operator":
            self._observer.audit("connected", {"connection": connection.session.name})
        elif hello.secret_index >= 0:
            self._observer.proven(hello.app_key, hello.secret_index)

    def closed(self, connection: RpcConnection) -> None:
        self._streams.closed(connection)

    def credited(self, connection: RpcConnection, stream: int) -> None:
        self._streams.credited(connection, stream)

    def cancelled(self, connection: RpcConnection, stream: int) -> None:
        self._streams.cancelled(connection, stream)

    def request(self, connection: RpcConnection, requested: Requested) -> None:
        """Answers, now or from a task, exactly once."""
        message = requested.message
        self._observer.requested(type(message).__name__)
        if connection.session.role == "operator":
            self._observer.audit(type(message).__name__, {"connection": connection.session.name})
        try:
            self._dispatch(connection, requested)
        except (BadRequest, Overloaded) as error:
            self._observer.error(error.code if isinstance(error, BadRequest) else "overloaded")
            connection.refuse(message.id, error)
        except RequestIdReused as error:
            self._fail(connection, message.id, "request_id_reused", str(error))
        except ShuttingDown as error:
            self._fail(connection, message.id, "shutting_down", str(error))

    def _fail(self, connection: RpcConnection, request_id: int, code: Any, text: str) -> None:
        self._observer.error(code)
        connection.answer(messages.Error(id=request_id, code=code, text=text))

    def _dispatch(self, connection: RpcConnection, requested: Requested) -> None:
        match requested.message:
            case messages.Submit():
                self._submit(connection, requested, requested.message)
            case messages.TaskState() as message:
                connection.answer(self._task_counts(connection, message))
            case messages.TaskRows() as message:
                connection.answer(self._task_rows(connection, message))
            case messages.Trace() as message:
                connection.answer(self._trace(connection, message))
            case messages.RegisterDevices() as message:
                self._start(self._register, connection, message, self._app(connection))
            case messages.Device() as message:
                self._start(self._device, connection, message)
            case messages.DeviceStatus() as message:
                app = self._named_app(connection, message.app_key)
                connection.answer(self._presence.statuses(message, app.number))
            case messages.OnlineCounts() as message:
                self._start(self._online_counts, connection, message)
            case messages.Status() as message:
                connection.answer(messages.GatewayStatus(id=message.id, facts=self._status()))
            case messages.ClockAdvance() as message:
                connection.answer(self._advance(message))
            case messages.SubscribeReceipts() as message:
                cursor = self._streams.check_cursor(message.cursor)
                self._start(self._streams.run, connection, message, cursor, self._app(connection).number)
            case other:
                raise BadRequest("kind", f"{type(other).__name__} is answered by the session")

    def _start(self, function: Callable[..., Any], connection: RpcConnection, message: Any, *args: Any) -> None:
        if self._nursery is None:
            raise Overloaded("service not running", 0, 0)
        self._nursery.start_soon(self._guard, function, connection, message, args)

    async def _guard(self, function: Any, connection: RpcConnection, message: Any, args: tuple[Any, ...]) -> None:
        """A request that takes longer fails alone: its error is its answer."""
        try:
            await function(connection, message, *args)
        except (BadRequest, Overloaded) as error:
            self._observer.error(error.code if isinstance(error, BadRequest) else "overloaded")
            connection.refuse(message.id, error)
        except RequestIdReused as error:
            self._fail(connection, message.id, "request_id_reused", str(error))
        except ShuttingDown as error:
            self._fail(connection, message.id, "shutting_down", str(error))
        except GatewayError as error:
            self._fail(connection, message.id, "internal", str(error))

    def _app(self, connection: RpcConnection) -> AppView:
        return self._apps[connection.session.app_key]

    # -- submit

    def _submit(self, connection: RpcConnection, requested: Requested, submit: messages.Submit) -> None:
        app = self._app(connection)
        if requested.payload_bytes > _LARGE_BYTES:
            self._start(self._submit_in_steps, connection, submit, requested, app)
            return
        with self._counted_outcome():
            self._check_room()
            submission = check_submit(submit, app.check_tokens, content_faults=requested.content_faults)
            digest = submit_digest(submit) if submit.request_id else b""
            self._take_in(connection, requested, submit, submission, app, digest)

    async def _submit_in_steps(
        self, connection: RpcConnection, submit: messages.Submit, requested: Requested, app: AppView
    ) -> None:
        """As `_submit`, for a call whose columns take longer than a step."""
        with self._counted_outcome():
            self._check_room()
            submission = await _in_steps(
                check_submit_in_steps(submit, app.check_tokens, content_faults=requested.content_faults)
            )
            digest = await _in_steps(submit_digest_in_steps(submit)) if submit.request_id else b""
            self._take_in(connection, requested, submit, submission, app, digest)

    @contextmanager
    def _counted_outcome(self) -> Iterator[None]:
        try:
            yield
        except Overloaded:
            self._observer.submit("overloaded")
            raise
        except (BadRequest, RequestIdReused):
            self._observer.submit("refused")
            raise

    def _take_in(
        self,
        connection: RpcConnection,
        requested: Requested,
        submit: messages.Submit,
        submission: Submission,
        app: AppView,
        digest: bytes,
    ) -> None:
        """The checked rows go to the intake; its answer goes to the client, and credit back with it."""
        if submission.faults:
            self._observer.refused_rows([fault.field for fault in submission.faults])

        def reply(answer: Accepted | GatewayError) -> None:
            if isinstance(answer, GatewayError):
                self._observer.submit("refused")
                self._fail(connection, submit.id, "internal", str(answer))
                return
            self._observer.submit("accepted")
            connection.answer(submitted(submit, submission, answer.task_id or bytes(16)))
            connection.grant(submit.n, requested.payload_bytes)

        self._intake.submit(app.number, submission, reply, digest=digest)

    # -- tasks

    def _find_task(self, connection: RpcConnection, task_id: bytes) -> list[tuple[LedgerPage, TaskSegment]]:
        found = self._home.find_task(task_id)
        if not found or not self._may_see(connection, found[0][0]):
            raise BadRequest("task_id", f"no task {to_text(task_id)} in memory", code="not_found")
        return found

    def _may_see(self, connection: RpcConnection, page: LedgerPage) -> bool:
        session = connection.session
        return session.role == "operator" or self._by_index[page.batch.app].key == session.app_key

    def _task_counts(self, connection: RpcConnection, message: messages.TaskState) -> messages.TaskCounts:
        sums = report.sum_task(self._find_task(connection, message.task_id), self._clock.moved_between)
        latencies = {channel.name.lower(): _latency(times) for channel, times in sums.latencies_ms.items()}
        if latencies:
            latencies["all"] = _latency(np.concatenate(list(sums.latencies_ms.values())))
        return messages.TaskCounts(
            id=message.id,
            task_id=message.task_id,
            accepted=sums.rows,
            states={state.name.lower(): int(sums.states[state]) for state in State if sums.states[state]},
            channels={
                channel.name.lower(): {
                    state.name.lower(): int(sums.by_channel[channel, state])
                    for state in State
                    if sums.by_channel[channel, state]
                }
                for channel in Channel
                if sums.by_channel[channel].any()
            },
            reasons={
                reason.name.lower(): int(sums.reasons[reason]) for reason in Reason if reason and sums.reasons[reason]
            },
            receipts={
                receipt.name.lower(): int(sums.receipts[receipt])
                for receipt in Receipt
                if receipt and sums.receipts[receipt]
            },
            is_routed=sums.is_routed,
            is_final=int(sums.states[IS_FINAL].sum()) == sums.rows,
            handed_over_unacked=sums.handed_over,
            waited_offline=sums.n_waited + sums.n_moved,
            submitted_unix_ms=sums.submitted_unix_ms,
            latency_ms=latencies,
        )

    def _task_rows(self, connection: RpcConnection, message: messages.TaskRows) -> messages.TaskRowPage:
        states = _codes("states", message.states, State)
        reasons = _codes("reasons", message.reasons, Reason)
        chosen: list[tuple[LedgerPage, TaskSegment, Any]] = []
        left, offset, next_first = message.n, 0, None
        for page, segment in self._find_task(connection, message.task_id):
            if offset + segment.n > message.first and left:
                skip = max(0, message.first - offset)
                rows = report.select_rows(page, segment, skip, states=states, reasons=reasons)
                if len(rows) > left:
                    next_first = offset + int(rows[left]) - segment.first
                    rows = rows[:left]
                left -= len(rows)
                chosen.append((page, segment, rows))
            elif not left and next_first is None:
                next_first = offset
            offset += segment.n

        def column(read: Callable[[LedgerPage, TaskSegment, Any], Any], dtype: Any) -> memoryview:
            parts = [np.asarray(read(*part), dtype).reshape(-1) for part in chosen]
            return np.concatenate(parts).view(np.uint8).data if parts else memoryview(b"")

        return messages.TaskRowPage(
            id=message.id,
            n=message.n - left,
            row=column(report.source_rows, "<u4"),
            state=column(lambda page, _, rows: page.state[rows], np.uint8),
            reason=column(lambda page, _, rows: page.reason[rows], np.uint8),
            channel=column(lambda page, _, rows: page.channel[rows], np.uint8),
            receipt=column(lambda page, _, rows: page.receipt[rows], np.uint8),
            flags=column(lambda page, _, rows: page.flags[rows], np.uint8),
            attempts=column(lambda page, _, rows: page.attempts[rows], np.uint8),
            device_ids=column(lambda page, _, rows: page.batch.device_ids[rows], np.uint8),
            message_ids=column(lambda page, _, rows: page.batch.message_ids[rows], np.uint8),
            next_first=next_first,
        )

    def _trace(self, connection: RpcConnection, message: messages.Trace) -> messages.TraceHops:
        page, row, task_id = self._find_message(connection, message)
        batch = page.batch
        hops = [_hop(batch.born_unix_ms, hop) for hop in report.trace_row(page, row)]
        return messages.TraceHops(
            id=message.id, task_id=task_id, message_id=batch.message_ids[row].tobytes(), hops=hops
        )

    def _find_message(self, connection: RpcConnection, message: messages.Trace) -> tuple[LedgerPage, int, bytes]:
        if message.message_id is not None:
            found = self._home.find_row(message.message_id)
            if found is None or not self._may_see(connection, found[0]):
                raise BadRequest("message_id", "no such message in memory", code="not_found")
            page, row = found
            segment = next(s for s in page.batch.segments if s.first <= row < s.first + s.n)
            return page, row, segment.task_id
        if message.task_id is None or message.device_id is None:
            raise BadRequest("message_id", "expected message_id, or task_id and device_id")
        for page, segment in self._find_task(connection, message.task_id):
            rows = report.rows_of_device(page, message.device_id, segment.first, segment.first + segment.n)
            if len(rows):
                return page, int(rows[0]), message.task_id
        raise BadRequest("device_id", f"device {message.device_id.hex()} is not in the task", code="not_found")

    # -- devices

    async def _register(self, connection: RpcConnection, message: messages.RegisterDevices, app: AppView) -> None:
        connection.answer(await self.register(message, app.key))

    async def register(self, message: messages.RegisterDevices, app_key: str) -> messages.DevicesRegistered:
        """The devices are written, durably where the registry is; with `want_passwords` each has its password in the
        answer.

        Raises: BadRequest, StoreError. If cancelled: some are written.
        """
        app = self._apps[app_key]
        registration = check_registration(message, app.check_tokens)
        columns = registrations(registration)
        faults: list[messages.RefusedRow] = [messages.RefusedRow(*fault) for fault in registration.faults]
        registered = 0
        now_unix_s = self._clock.unix_ms() // 1000
        for first in range(0, registration.n, _REGISTER_ROWS):
            stop = min(first + _REGISTER_ROWS, registration.n)
            done = self._devices.register(app.number, cut(columns, first, stop), now_unix_s)
            registered += int(np.count_nonzero(done.outcomes != Outcome.REFUSED))
            for position, fault in done.faults.items():
                row = first + position
                source = row if registration.source_rows is None else int(registration.source_rows[row])
                faults.append(messages.RefusedRow(source, fault.field, fault.text))
            await trio.lowlevel.checkpoint()
        await self._wait_registered()
        return messages.DevicesRegistered(
            id=message.id,
            registered=registered,
            refused=faults[:1000],
            refused_count=message.n - registered,
            passwords=await self._passwords(message, app_key) if message.want_passwords else None,
        )

    async def _passwords(self, message: messages.RegisterDevices, app_key: str) -> messages.Texts:
        """One password per row of the call, of refused rows too: it follows from the id alone."""
        secret, ids = self._newest_secret(app_key), bytes(message.device_ids)
        blob = bytearray()
        for first in range(0, message.n, _REGISTER_ROWS):
            for row in range(first, min(first + _REGISTER_ROWS, message.n)):
                blob += device_password(secret, ids[16 * row : 16 * row + 16].hex()).encode()
            await trio.lowlevel.checkpoint()
        offsets = np.arange(message.n + 1, dtype="<u4") * np.uint32(len(blob) // message.n)
        return messages.Texts(bytes(blob), offsets.view(np.uint8).data)

    def _named_app(self, connection: RpcConnection, app_key: str) -> AppView:
        """The client's own app, or the one that an operator names."""
        key = connection.session.app_key or app_key
        app = self._apps.get(key)
        if app is None:
            raise BadRequest("app_key", f"app {key!r} is not configured", code="not_found")
        return app

    async def _online_counts(self, connection: RpcConnection, message: messages.OnlineCounts) -> None:
        app = self._named_app(connection, message.app_key)
        connection.answer(await self._presence.counted(message, app.number))

    async def _device(self, connection: RpcConnection, message: messages.Device) -> None:
        app = self._named_app(connection, message.app_key)
        if message.device_id is not None:
            slot = self._devices.find_one(message.device_id, app.number)
        else:
            slots = self._devices.alias_rows(app.number, message.alias.encode())
            slot = int(slots[0]) if len(slots) else -1
        if slot < 0:
            raise BadRequest("device_id", "no such device of this app", code="not_found")
        device = self._devices.device(slot)
        facts: dict[str, Any] = {
            "app": app.key,
            "channel": Channel(device.channel).name.lower() if device.channel else "long_link",
            "token_hash": short_hash(device.token) if device.token else "",
            "is_muted": device.is_muted,
            **self._presence.facts(slot),
            "registered_unix_s": device.registered_unix_s,
            "proven_unix_s": device.proven_unix_s,
            "platform": device.profile.platform.decode(),
            "app_version": device.profile.app_version.decode(),
            "time_zone": device.profile.time_zone.decode(),
            "alias": device.alias.decode(),
            "tags": [tag.decode() for tag in device.tags],
            "messages": await self._last_messages(app.number, device.device_id),
        }
        connection.answer(messages.DeviceFound(id=message.id, device_id=device.device_id, facts=facts))

    async def _last_messages(self, app: int, device_id: bytes) -> list[dict[str, Any]]:
        """The newest messages of a device among the pages in memory, newest first, with a bound on the search."""
        found: list[dict[str, Any]] = []
        seen = 0
        for page in reversed(list(self._home.pages())):
            if page.batch.app == app:
                rows = report.rows_of_device(page, device_id)
                found += [_message_facts(page, int(row)) for row in rows[::-1]]
            seen += page.n
            if len(found) >= _DEVICE_MESSAGES_MAX or seen >= _DEVICE_ROWS_MAX:
                break
            await trio.lowlevel.checkpoint()
        return found[:_DEVICE_MESSAGES_MAX]

    def _advance(self, message: messages.ClockAdvance) -> messages.ClockAdvanced:
        if not isinstance(self._clock, DevelopmentClock):
            raise BadRequest(
                "seconds", "the clock is the machine's; [dev] clock = true makes it movable", code="forbidden"
            )
        self._clock.advance(message.seconds)
        return messages.ClockAdvanced(id=message.id, now_unix_ms=self._clock.unix_ms())


async def _in_steps(steps: Generator[None, None, _T]) -> _T:
    """The result of a routine that is interrupted where it has taken long enough. If cancelled: there is none."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: _T = done.value
            return result
        await trio.lowlevel.checkpoint()


def _latency(times: Any) -> messages.Latency:
    p50, p99 = np.percentile(times, [50, 99])
    return messages.Latency(n=len(times), p50=float(p50), p99=float(p99), max=float(times.max()))


def _hop(born_unix_ms: int, hop: report.Hop) -> messages.Hop:
    return messages.Hop(
        at_unix_ms=born_unix_ms + hop.at_ms,
        what=hop.what,
        channel=hop.channel.name.lower() if hop.channel else "",
        connection=str(hop.connection) if hop.connection else "",
        attempt=hop.attempt,
        verdict="" if hop.verdict is None else hop.verdict.name.lower(),
        name=hop.name,
        state="" if hop.state is None else hop.state.name.lower(),
        reason=hop.reason.name.lower() if hop.reason else "",
        receipt=hop.receipt.name.lower() if hop.receipt else "",
    )


def _codes(field: str, names: Sequence[str] | None, values: type[State] | type[Reason]) -> frozenset[int] | None:
    """Codes of the named states or reasons. Raises BadRequest for a name that is none."""
    if names is None:
        return None
    by_name = {value.name.lower(): int(value) for value in values}
    for name in names:
        if name not in by_name:
            raise BadRequest(field, f"{field} has no {name!r}, expected one of {', '.join(by_name)}")
    return frozenset(by_name[name] for name in names)


def _message_facts(page: LedgerPage, row: int) -> dict[str, Any]:
    reason, receipt = Reason(int(page.reason[row])), Receipt(int(page.receipt[row]))
    return {
        "message_id": to_text(page.batch.message_ids[row].tobytes()),
        "submitted_unix_ms": page.batch.born_unix_ms,
        "state": State(int(page.state[row])).name.lower(),
        "reason": reason.name.lower() if reason else "",
        "receipt": receipt.name.lower() if receipt else "",
        "channel": Channel(int(page.channel[row])).name.lower() if page.channel[row] else "",
        "attempts": int(page.attempts[row]),
    }
