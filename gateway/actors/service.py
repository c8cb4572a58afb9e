"""Service: answers the RPC's requests. What it changes it hands to the owner (intake, device table, clock).

    submit, register_devices          an app's own
    task_state, task_rows, trace, stop_task, revoke_task,
                                      an app sees its own only; an operator sees all, and each of his calls is logged
    count_rows, loss, loss_rows, device, device_status, online_counts, status, clock_advance
    subscribe_receipts, subscribe_presence
                                      one task per stream; changes go out as columns while the client has credit

Requests that only read a little are answered at once; those that walk over pages run as tasks of this actor's nursery
and yield in between. Waits for: the loop only. Is waited for by: nobody.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import trio

from gateway.actors import store_desk
from gateway.actors.audiences import Audiences, Who
from gateway.actors.consent_desk import ConsentDesk
from gateway.actors.intake import Accepted, Intake, RequestIdReused, ShuttingDown
from gateway.actors.loss_reports import Asked, LossReports
from gateway.actors.page_source import MemoryPages, PageSource
from gateway.actors.presence import Presence
from gateway.actors.receipt_stream import ReceiptStreams
from gateway.actors.registering import cut, registrations
from gateway.actors.revoking import Revoking, outcomes_by_channel
from gateway.actors.rpc_listener import Caller
from gateway.actors.rpc_streams import Streams
from gateway.actors.supervisor import SupervisorObserver, answered
from gateway.actors.task_control import TaskControl
from gateway.actors.task_reports import TaskReports
from gateway.batch import Submission
from gateway.clock import Clock, DevelopmentClock
from gateway.columns import Bool, TextColumn
from gateway.content import TTL_S_MAX, Fault, Variant
from gateway.core.devices import DeviceTable
from gateway.core.home import Home
from gateway.core.identity import device_password
from gateway.core.registration import Outcome
from gateway.core.stopping import TaskStopped
from gateway.errors import GatewayError, Overloaded
from gateway.ledger import VENDOR_CHANNELS, Channel, LedgerPage
from gateway.observe.redact import short_hash
from gateway.regions import missing
from gateway.wire.rpc import messages
from gateway.wire.rpc.faults import CRASHED, BadRequest, Code
from gateway.wire.rpc.registration import check_registration
from gateway.wire.rpc.server import HelloAccepted, Requested
from gateway.wire.rpc.submit import (
    audience_digest,
    check_submit,
    check_submit_in_steps,
    checked_content,
    submit_digest,
    submit_digest_in_steps,
    submitted,
    unknown_alias,
)

_T = TypeVar("_T")
#: A submit of more bytes is checked in steps: texts are validated at about a nanosecond and a half per byte.
_LARGE_BYTES = 1 << 19
#: Devices written in one step of the loop: two to three milliseconds; smaller slices cost far more per device.
_REGISTER_ROWS = 500

#: What a call is answered with for these; any other error of ours is `internal`.
_CODES: dict[type[GatewayError], Code] = {
    RequestIdReused: "request_id_reused",
    TaskStopped: "task_stopped",
    ShuttingDown: "shutting_down",
}
#: Errors that are a caller's, or the hour's.
_REFUSALS: tuple[type[GatewayError], ...] = (BadRequest, Overloaded, *_CODES)


class AppView(NamedTuple):
    """What the service has to know of an app. number: its index everywhere else."""

    number: int
    key: str
    channels: frozenset[Channel]
    check_token: Mapping[Channel, Callable[[str], str]]
    ttl_s_max: int = TTL_S_MAX
    channel_names: Mapping[str, Channel] = VENDOR_CHANNELS

    def content_faults(self, requested: Requested, submit: messages.Submit) -> Mapping[int, Fault]:
        """Faults of contents: those that could not be read, and those that want to live longer than the app's may."""
        late = [position for position, variant in enumerate(submit.contents) if variant.ttl_s > self.ttl_s_max]
        if not late:
            # As nearly all.
            return requested.content_faults
        faults = {position: fault for position in late if (fault := self.ttl_fault(submit.contents[position]))}
        return {**faults, **requested.content_faults}

    def ttl_fault(self, variant: Variant) -> Fault | None:
        """A content that wants to live longer than the app's may."""
        if variant.ttl_s <= self.ttl_s_max:
            return None
        return Fault("ttl_s", f"ttl_s is {variant.ttl_s}, limit {self.ttl_s_max} (apps.ttl_s_max)")

    def check_tokens(self, channel: Channel, tokens: TextColumn) -> Bool | str:
        """(n,) true where a token has the form of the channel's; a text where the app has no such channel."""
        check = self.check_token.get(channel)
        if check is None:
            return missing(self.key, channel)
        return np.fromiter((not check(row.decode("ascii", "replace")) for row in tokens.rows()), np.bool_, len(tokens))


class ServiceObserver(SupervisorObserver, Protocol):
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
        audiences: Audiences,
        control: TaskControl,
        wait_registered: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        pages: PageSource | None = None,
        desk: store_desk.StoreDesk | None = None,
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
        self._desk = desk
        pages = pages or MemoryPages(home)
        self._reports = TaskReports(pages, clock, audiences.is_running, audiences.size)
        self.losses = LossReports(home=home, pages=pages, clock=clock, app_keys=[app.key for app in apps])
        self._audiences = audiences
        self._control = control
        self._revoking = Revoking(pages=pages or MemoryPages(home), control=control, intake=intake, clock=clock)
        #: Set by whoever has one.
        self.consents: ConsentDesk | None = None
        self._nursery: trio.Nursery | None = None
        self._streams = Streams()
        self._receipts = ReceiptStreams(home, self._streams)
        self._presence_changes = presence.streams(self._streams)

    async def run(self) -> None:
        """Keeps the tasks of requests that take longer. If cancelled: they are not answered."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.losses.run)
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # -- the listener's calls

    def open(self, connection: Caller, hello: HelloAccepted) -> None:
        if hello.role == "operator":
            self._observer.audit("connected", {"connection": connection.session.name})
        elif hello.secret_index >= 0:
            self._observer.proven(hello.app_key, hello.secret_index)

    def closed(self, connection: Caller) -> None:
        self._streams.closed(connection)

    def credited(self, connection: Caller, stream: int) -> None:
        self._streams.credited(connection, stream)

    def cancelled(self, connection: Caller, stream: int) -> None:
        self._streams.cancelled(connection, stream)

    def request(self, connection: Caller, requested: Requested) -> None:
        """Answers, now or from a task, exactly once."""
        self.count(connection, requested.message)
        self.perform(connection, requested)

    def count(self, connection: Caller, message: messages.Request) -> None:
        """The request is counted, and an operator's is written down."""
        self._observer.requested(type(message).__name__)
        if connection.session.role == "operator":
            self._observer.audit(type(message).__name__, {"connection": connection.session.name})

    def perform(self, connection: Caller, requested: Requested) -> None:
        """As `request`, for a request that was counted where it arrived."""
        message = requested.message
        try:
            self._dispatch(connection, requested)
        except _REFUSALS as error:
            self._refuse(connection, message.id, error)

    def _refuse(self, connection: Caller, request_id: int, error: GatewayError) -> None:
        if isinstance(error, BadRequest | Overloaded):
            self._observer.error(error.code if isinstance(error, BadRequest) else "overloaded")
            connection.refuse(request_id, error)
        else:
            self._fail(connection, request_id, _CODES.get(type(error), "internal"), str(error))

    def _fail(self, connection: Caller, request_id: int, code: Code, text: str) -> None:
        self._observer.error(code)
        connection.answer(messages.Error(id=request_id, code=code, text=text))

    def _dispatch(self, connection: Caller, requested: Requested) -> None:
        match requested.message:
            case messages.Submit():
                self._submit(connection, requested, requested.message)
            case messages.TaskState() | messages.TaskRows() | messages.Trace() as message:
                self._start(self._report, connection, message)
            case messages.CountRows() | messages.Loss() | messages.LossRows() as message:
                self._start(self._loss, connection, message)
            case messages.StopTask() as message:
                self._start(self._stop_task, connection, message)
            case messages.RevokeTask() as message:
                self._start(self._revoke_task, connection, message)
            case messages.SubmitAudience() as message:
                self._start(self._submit_audience, connection, message, self._app(connection))
            case messages.RegisterDevices() as message:
                self._start(self._register, connection, message, self._app(connection))
            case (
                messages.EraseDevices()
                | messages.BlockDevices()
                | messages.StoredRows()
                | messages.PurgeStored()
                | messages.Backup()
            ) as message:
                self._start(self._at_desk, connection, message)
            case messages.ReportConsents() as message:
                self._start(self._report_consents, connection, message)
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
            case messages.Restart():
                text = "one worker runs without a supervisor: end the process and start it again"
                raise BadRequest("kind", text, code="forbidden")
            case messages.SubscribeReceipts() as message:
                cursor = self._receipts.check_cursor(message.cursor)
                self._start(self._receipts.run, connection, message, cursor, self._app(connection).number)
            case messages.SubscribePresence() as message:
                position = self._presence_changes.check_cursor(message.cursor)
                self._start(self._presence_changes.run, connection, message, position, self._app(connection).number)
            case other:
                raise BadRequest("kind", f"{type(other).__name__} is answered by the session")

    def _start(self, function: Callable[..., Any], connection: Caller, message: Any, *args: Any) -> None:
        if self._nursery is None:
            raise Overloaded("service not running", 0, 0)
        self._nursery.start_soon(self._guard, function, connection, message, args)

    async def _guard(self, function: Any, connection: Caller, message: Any, args: tuple[Any, ...]) -> None:
        """A request that takes longer fails alone: its error is its answer, a bug of ours as well."""

        async def work() -> None:
            try:
                await function(connection, message, *args)
            except GatewayError as error:
                self._refuse(connection, message.id, error)

        await answered(work, lambda: self._fail(connection, message.id, "internal", CRASHED), self._observer)

    def _app(self, connection: Caller) -> AppView:
        return self._apps[connection.session.app_key]

    # -- submit

    def _submit(self, connection: Caller, requested: Requested, submit: messages.Submit) -> None:
        app = self._app(connection)
        if requested.payload_bytes > _LARGE_BYTES or submit.task_id is not None:
            self._start(self._submit_in_steps, connection, submit, requested, app)
            return
        try:
            self._check_room()
            submission = check_submit(
                submit, app.check_tokens, None, app.content_faults(requested, submit), app.channel_names
            )
            digest = submit_digest(submit) if submit.request_id else b""
            self._take_in(connection, requested, submit, submission, app, digest)
        except (Overloaded, BadRequest, RequestIdReused, TaskStopped) as error:
            # Not `_counted_outcome`: a context manager is a twentieth of what a call of one row costs.
            self._count_failure(error)
            raise

    async def _submit_in_steps(
        self, connection: Caller, submit: messages.Submit, requested: Requested, app: AppView
    ) -> None:
        """As `_submit`, for a call whose columns take longer than a step, or whose task may have to be read."""
        with self._counted_outcome():
            self._check_room()
            if submit.task_id is not None:
                await self._reports.check_task(submit.task_id, functools.partial(self._may_see, connection))
            submission = await _in_steps(
                check_submit_in_steps(
                    submit, app.check_tokens, None, app.content_faults(requested, submit), app.channel_names
                )
            )
            digest = await _in_steps(submit_digest_in_steps(submit)) if submit.request_id else b""
            self._take_in(connection, requested, submit, submission, app, digest)

    @contextmanager
    def _counted_outcome(self) -> Iterator[None]:
        try:
            yield
        except (Overloaded, BadRequest, RequestIdReused, TaskStopped) as error:
            self._count_failure(error)
            raise

    def _count_failure(self, error: Exception) -> None:
        self._observer.submit("overloaded" if isinstance(error, Overloaded) else "refused")

    def _take_in(
        self,
        connection: Caller,
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
            if isinstance(answer, Accepted):
                self._observer.submit("accepted")
                connection.grant(submit.n, requested.payload_bytes)
                connection.answer(submitted(submit, submission, answer.task_id or bytes(16)))
            elif isinstance(answer, Overloaded):
                self._observer.submit("overloaded")
                self._observer.error("overloaded")
                connection.refuse(submit.id, answer)
            else:
                self._observer.submit("refused")
                self._fail(connection, submit.id, "internal", str(answer))

        task_id = submit.task_id or b""
        self._intake.submit(app.number, submission, reply, digest=digest, task_id=task_id, is_part=bool(task_id))

    async def _submit_audience(self, connection: Caller, message: messages.SubmitAudience, app: AppView) -> None:
        with self._counted_outcome():
            content = checked_content("content", message.content)
            if (fault := app.ttl_fault(content)) is not None:
                raise BadRequest(f"content.{fault.field}", fault.text)
            self._check_room()
            digest = audience_digest(message) if message.request_id else b""
            who = Who(message.tag.encode(), tuple(alias.encode() for alias in message.aliases), message.online_only)
            if who.tag and who.aliases:
                raise BadRequest("aliases", "an audience has a tag or aliases, not both")
            started = await self._audiences.start(
                app.number, content, who, message.rows_per_s, request_id=message.request_id, digest=digest
            )
            refused = [unknown_alias(message, place) for place in started.unknown]
            if refused and not started.task_id:
                raise BadRequest(refused[0].field, refused[0].text, code="not_found")
        self._observer.submit("accepted")
        devices = started.devices
        if started.task_id and not devices:
            asked = messages.TaskState(id=message.id, task_id=started.task_id)
            devices = (await self._reports.counts(asked, functools.partial(self._may_see, connection))).accepted
        task_id = started.task_id or bytes(16)
        connection.answer(messages.AudienceSubmitted(id=message.id, task_id=task_id, devices=devices, refused=refused))

    # -- stores

    async def _at_desk(self, connection: Caller, message: store_desk.Request) -> None:
        if self._desk is None:
            raise BadRequest("kind", "one worker of several does not know what stands in the stores", code="not_found")
        key = connection.session.app_key or getattr(message, "app_key", "")
        app = self._named_app(connection, key).number if key else None
        connection.answer(await self._desk.answer(message, app, key))

    async def _report_consents(self, connection: Caller, message: messages.ReportConsents) -> None:
        app_key = self._named_app(connection, message.app_key).key
        connection.answer(await self.report_consents(message, app_key))

    async def report_consents(self, message: messages.ReportConsents, app_key: str) -> messages.ConsentsReported:
        """They are counted. Raises: BadRequest, Overloaded. If cancelled: they may be counted."""
        if self.consents is None:
            raise BadRequest("kind", "this gateway counts no consents", code="not_found")
        return await self.consents.answer(message, app_key)

    # -- tasks

    async def _report(
        self, connection: Caller, message: messages.TaskState | messages.TaskRows | messages.Trace
    ) -> None:
        connection.answer(await self._reports.answer(message, functools.partial(self._may_see, connection)))

    async def _loss(self, connection: Caller, message: Asked) -> None:
        connection.answer(await self.losses.answer(message, connection.session.app_key))

    async def _stop_task(self, connection: Caller, message: messages.StopTask) -> None:
        may_see = functools.partial(self._may_see, connection)
        await self._reports.check_task(message.task_id, may_see)
        ended = await self._control.stop(message.task_id)
        counts = await self._reports.counts(messages.TaskState(id=message.id, task_id=message.task_id), may_see)
        connection.answer(
            messages.TaskStopped(
                id=message.id,
                task_id=message.task_id,
                cancelled=ended.cancelled,
                may_have_arrived=ended.may_have_arrived,
                accepted=counts.accepted,
                states=counts.states,
                channels=counts.channels,
                is_final=counts.is_final,
            )
        )

    async def _revoke_task(self, connection: Caller, message: messages.RevokeTask) -> None:
        replacement = None if message.replacement is None else _checked_replacement(message.replacement)
        await self._reports.check_task(message.task_id, functools.partial(self._may_see, connection))
        revoked = await self._revoking.revoke(message.task_id, replacement)
        connection.answer(
            messages.TaskRevoked(
                id=message.id,
                task_id=message.task_id,
                revoke_task_id=revoked.task_id or bytes(16),
                cancelled=revoked.ended.cancelled,
                may_have_arrived=revoked.ended.may_have_arrived,
                channels=outcomes_by_channel(revoked.counts),
            )
        )

    def _may_see(self, connection: Caller, page: LedgerPage) -> bool:
        session = connection.session
        return session.role == "operator" or self._by_index[page.batch.app].key == session.app_key

    # -- devices

    async def _register(self, connection: Caller, message: messages.RegisterDevices, app: AppView) -> None:
        connection.answer(await self.register(message, app.key))

    async def register(self, message: messages.RegisterDevices, app_key: str) -> messages.DevicesRegistered:
        """The devices are written, durably where the registry is; with `want_passwords` each has its password in the
        answer.

        Raises: BadRequest, StoreError. If cancelled: some are written.
        """
        app = self._apps[app_key]
        registration = check_registration(message, app.check_tokens, None, app.channel_names)
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

    def _named_app(self, connection: Caller, app_key: str) -> AppView:
        """The client's own app, or the one that an operator names."""
        key = connection.session.app_key or app_key
        app = self._apps.get(key)
        if app is None:
            raise BadRequest("app_key", f"app {key!r} is not configured", code="not_found")
        return app

    async def _online_counts(self, connection: Caller, message: messages.OnlineCounts) -> None:
        app = self._named_app(connection, message.app_key)
        connection.answer(await self._presence.counted(message, app.number))

    async def _device(self, connection: Caller, message: messages.Device) -> None:
        app = self._named_app(connection, message.app_key)
        if message.device_id is not None:
            slot = self._devices.find_one(message.device_id, app.number)
        else:
            slots = self._devices.alias_rows(app.number, message.alias.encode())
            slot = int(slots[0]) if len(slots) else -1
        if slot < 0:
            known_by = "this alias" if message.device_id is None else f"id {bytes(message.device_id).hex()}"
            raise BadRequest("device_id", f"app {app.key} has no device of {known_by}", code="not_found")
        device = self._devices.device(slot)
        facts: dict[str, Any] = {
            "app": app.key,
            "channel": Channel(device.channel).name.lower() if device.channel else "long_link",
            "token_hash": short_hash(device.token) if device.token else "",
            "is_muted": device.is_muted,
            "are_notifications_off": self._devices.are_notifications_off(slot),
            **self._presence.facts(slot),
            "is_blocked": device.is_blocked,
            "notifications_closed": device.is_closed,
            "first_seen_unix_s": device.first_seen_unix_s,
            "registered_unix_s": device.registered_unix_s,
            "proven_unix_s": device.proven_unix_s,
            "platform": device.profile.platform.decode(),
            "app_version": device.profile.app_version.decode(),
            "time_zone": device.profile.time_zone.decode(),
            "alias": device.alias.decode(),
            "tags": [tag.decode() for tag in device.tags],
            "messages": await self.last_messages(app.number, device.device_id),
        }
        connection.answer(messages.DeviceFound(id=message.id, device_id=device.device_id, facts=facts))

    async def last_messages(self, app: int, device_id: bytes) -> list[dict[str, Any]]:
        """The newest messages of a device, newest first, with a bound on the search. Raises StoreError."""
        return await self._reports.last_messages(app, device_id)

    def _advance(self, message: messages.ClockAdvance) -> messages.ClockAdvanced:
        if not isinstance(self._clock, DevelopmentClock):
            raise BadRequest(
                "seconds", "the clock is the machine's; [dev] clock = true makes it movable", code="forbidden"
            )
        self._clock.advance(message.seconds)
        return messages.ClockAdvanced(id=message.id, now_unix_ms=self._clock.unix_ms())


def _checked_replacement(content: Variant) -> Variant:
    """Raises BadRequest for one that cannot stand in the place of another message."""
    if content.action != "notification" or content.collapse_id:
        field = "collapse_id" if content.collapse_id else "action"
        text = "a replacement is a notification, and takes the collapse id of what it replaces"
        raise BadRequest(f"replacement.{field}", text)
    return checked_content("replacement", content)


async def _in_steps(steps: Generator[None, None, _T]) -> _T:
    """The result of a routine that is interrupted where it has taken long enough. If cancelled: there is none."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: _T = done.value
            return result
        await trio.lowlevel.checkpoint()
