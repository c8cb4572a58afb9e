"""What the trio and the asyncio client share: the calls, their retries, and who waits for which answer.

    caller --call()--> Link.start: request on the wire, a Slot waits --reader task--> Slot.put --> caller wakes

A `Link` is one connection with its session. A reader task feeds the session and hands events to `Link.on_events`; a
writer sends what the session has written. When the connection is gone, every slot learns it and the next call opens a
new link. Only what touches sockets, sleeping and waiting differs between the two libraries: `AsyncBackend`.
"""

from __future__ import annotations

import math
import os
import random
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Literal, Protocol, TypeVar, Unpack

import msgspec

from gateway.client.address import Address, parse_address
from gateway.client.consent_calls import AsyncConsentCalls
from gateway.client.loss_calls import AsyncLossCalls
from gateway.client.requests import (
    UNSENT,
    AudienceOptions,
    DeviceState,
    Target,
    audience_request,
    block_request,
    device_request,
    device_status_request,
    erase_request,
    id_bytes,
    register_request,
    submit_request,
    task_rows_request,
    trace_request,
    with_request_id,
)
from gateway.client.retry import TIMEOUT_S, Lost, Retry
from gateway.content import Variant
from gateway.errors import CloseReason, LocalProtocolError
from gateway.wire.rpc import codec
from gateway.wire.rpc import messages as rpc
from gateway.wire.rpc.client import Answered, ClientSession, Closed, CreditCame, Event, Ready

_A = TypeVar("_A", bound=rpc.Message)
_P = TypeVar("_P", bound="rpc.Receipts | rpc.PresenceChanges")
#: Rows of a stream that may be on their way to us.
STREAM_ROWS = 8192


class Bell(Protocol):
    """A condition that many may wait for and that rings once per change."""

    def ring(self) -> None: ...

    async def wait(self) -> None: ...


class Slot:
    """Where one request's answer, or one stream's pages, arrive. bell rings for each, and when the link is lost."""

    __slots__ = ("answer", "bell", "pages")

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.answer: rpc.Answer | None = None
        self.pages: deque[rpc.StreamPage] = deque()


class Link:
    """One connection: its session, its slots, and three bells. lost is set once, for good."""

    def __init__(self, session: ClientSession, new_bell: Callable[[], Bell], address: Address) -> None:
        self.session = session
        self.address = address
        self.slots: dict[int, Slot] = {}
        self.lost: Lost | None = None
        self._new_bell = new_bell
        #: ready: welcome has come. room: credit or a place may be free. outbox: the session has bytes to send.
        self.ready = new_bell()
        self.room = new_bell()
        self.outbox = new_bell()

    def start(self, request: rpc.Request, payload: bytes) -> Slot:
        """The request is in the session's hands; the slot gets its answer."""
        self.session.send(request, payload)
        slot = self.slots[request.id] = Slot(self._new_bell())
        self.outbox.ring()
        return slot

    def give_up(self, number: int) -> None:
        """Nobody waits for this answer any more; the session still counts it."""
        self.slots.pop(number, None)

    def on_events(self, events: Sequence[Event], text: str = "") -> None:
        for event in events:
            if isinstance(event, Answered):
                self._on_answer(event.message)
                self.room.ring()
            elif isinstance(event, CreditCame):
                self.room.ring()
            elif isinstance(event, Ready):
                self.ready.ring()
            elif isinstance(event, Closed):
                was_ready, text = self.session.welcome is not None, f"{self.address}: {text or event.text}"
                self.on_lost(Lost(text, reason=event.reason, error=event.error, was_ready=was_ready))

    def on_lost(self, lost: Lost) -> None:
        """The connection is of no use any more: everybody who waits for it wakes."""
        if self.lost is None:
            self.lost = lost
        for bell in (self.ready, self.room, self.outbox, *(slot.bell for slot in self.slots.values())):
            bell.ring()

    def loss(self, *, was_sent: bool) -> Lost:
        """A fresh exception for one caller."""
        lost = self.lost
        if lost is None:
            raise LocalProtocolError("the connection is not lost")
        return Lost(str(lost), reason=lost.reason, error=lost.error, was_sent=was_sent, was_ready=lost.was_ready)

    def _on_answer(self, message: rpc.Answer | rpc.StreamPage) -> None:
        slot = self.slots.get(message.id)
        if slot is None:
            return
        if isinstance(message, rpc.StreamPage):
            slot.pages.append(message)
        else:
            slot.answer = message
            del self.slots[message.id]
        slot.bell.ring()


class AsyncCalls(AsyncLossCalls, AsyncConsentCalls):
    """The calls of an async client. Any number of tasks may call at once; they share one connection.

    Every method raises CallFailed or GatewayUnreachable. If cancelled: the request may still be done; a submit that is
    repeated with the same request_id is done once.
    """

    def __init__(
        self,
        address: str | Address,
        app_key: str = "",
        secret: bytes | None = None,
        *,
        role: Literal["app", "operator"] = "app",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._address = parse_address(address) if isinstance(address, str) else address
        self._app_key = app_key
        self._secret = secret
        self._role: Literal["app", "operator"] = role
        self._timeout_s = timeout_s
        self._link: Link | None = None
        #: Links whose server leaves: what they were asked is still answered there.
        self._left: list[Link] = []
        self._is_connecting = False
        self._connected = self._new_bell()

    # --- what a library brings -------------------------------------------------------------------------------------

    @abstractmethod
    def _new_bell(self) -> Bell: ...

    @abstractmethod
    def _now(self) -> float: ...

    @abstractmethod
    async def _sleep(self, seconds: float) -> None: ...

    @abstractmethod
    async def _wait(self, bell: Bell, deadline: float) -> bool:
        """Waits for the bell; False when the deadline came first."""

    @abstractmethod
    async def _open(self, link: Link, deadline: float) -> None:
        """Opens the connection and starts the link's reader and writer. Raises Lost."""

    @abstractmethod
    def _shut(self, link: Link) -> None:
        """The link's socket is closed and its tasks end."""

    # --- calls -------------------------------------------------------------------------------------------------------

    async def submit(
        self,
        contents: Variant | Sequence[Variant],
        to: Sequence[Target],
        *,
        index: Sequence[int] | None = None,
        variables: dict[str, Sequence[str]] | None = None,
        request_id: str = "",
        allow_duplicates: bool = False,
        group: str = "",
        task_id: bytes | str | None = None,
    ) -> rpc.Submitted:
        """The accepted rows are durable under the answer's task id. Without a request_id one is made, for retries.

        task_id: an earlier task that these rows become part of; group: a label, kept with them.
        """
        request = submit_request(
            contents,
            to,
            index=index,
            variables=variables,
            request_id=request_id,
            allow_duplicates=allow_duplicates,
            group=group,
            task_id=task_id,
        )
        return await self.submit_columns(request)

    async def submit_columns(self, request: rpc.Submit) -> rpc.Submitted:
        """The same for columns that the caller has made (requests.py, rows.py)."""
        return await self._call(with_request_id(request), rpc.Submitted)

    async def submit_audience(self, content: Variant, **who: Unpack[AudienceOptions]) -> rpc.AudienceSubmitted:
        """The content is on its way to all devices, or to those that the options name."""
        return await self._call(audience_request(content, **who), rpc.AudienceSubmitted)

    async def task_state(self, task_id: bytes | str) -> rpc.TaskCounts:
        return await self._call(rpc.TaskState(id=UNSENT, task_id=id_bytes("task id", task_id)), rpc.TaskCounts)

    async def stop_task(self, task_id: bytes | str) -> rpc.TaskStopped:
        """No row of the task that is not under way goes out any more, and it takes no further rows."""
        return await self._call(rpc.StopTask(id=UNSENT, task_id=id_bytes("task id", task_id)), rpc.TaskStopped)

    async def revoke_task(self, task_id: bytes | str, *, replacement: Variant | None = None) -> rpc.TaskRevoked:
        """The task is stopped; what it shows is taken back, or replaced, where the channel can."""
        request = rpc.RevokeTask(id=UNSENT, task_id=id_bytes("task id", task_id), replacement=replacement)
        return await self._call(request, rpc.TaskRevoked)

    async def task_rows(
        self,
        task_id: bytes | str,
        first: int = 0,
        n: int = 1000,
        *,
        states: Sequence[str] | None = None,
        reasons: Sequence[str] | None = None,
    ) -> rpc.TaskRowPage:
        return await self._call(task_rows_request(task_id, first, n, states=states, reasons=reasons), rpc.TaskRowPage)

    async def trace(
        self,
        task_id: bytes | str | None = None,
        device_id: bytes | str | None = None,
        *,
        message_id: bytes | str | None = None,
    ) -> rpc.TraceHops:
        return await self._call(trace_request(task_id, device_id, message_id), rpc.TraceHops)

    async def register_devices(
        self, devices: Sequence[DeviceState], *, want_passwords: bool = False
    ) -> rpc.DevicesRegistered:
        """want_passwords: the answer carries each device's password of the long link."""
        return await self._call(register_request(devices, want_passwords=want_passwords), rpc.DevicesRegistered)

    async def device(
        self, device_id: bytes | str | None = None, *, alias: str = "", app_key: str = ""
    ) -> rpc.DeviceFound:
        return await self._call(device_request(device_id, alias, app_key), rpc.DeviceFound)

    async def device_status(self, device_ids: Sequence[bytes | str], *, app_key: str = "") -> rpc.DeviceStatuses:
        """Presence of up to 1,000 devices, as columns."""
        return await self._call(device_status_request(device_ids, app_key), rpc.DeviceStatuses)

    async def online_counts(self, *, tag: str = "", app_key: str = "") -> rpc.OnlineCounted:
        """Devices online by platform, now and over 24 hours, and how many have the tag."""
        return await self._call(rpc.OnlineCounts(id=UNSENT, tag=tag, app_key=app_key), rpc.OnlineCounted)

    async def status(self) -> rpc.GatewayStatus:
        return await self._call(rpc.Status(id=UNSENT), rpc.GatewayStatus)

    async def erase_devices(self, device_ids: Sequence[bytes | str], *, app_key: str = "") -> rpc.DevicesErased:
        """The devices are forgotten, with what waits for them."""
        return await self._call(erase_request(device_ids, app_key), rpc.DevicesErased)

    async def block_devices(
        self, device_ids: Sequence[bytes | str], *, blocked: bool = True, app_key: str = ""
    ) -> rpc.DevicesBlocked:
        """Nothing is sent to the devices from now on, or may be again."""
        return await self._call(block_request(device_ids, blocked, app_key), rpc.DevicesBlocked)

    async def stored_rows(
        self,
        *,
        app_key: str = "",
        device_id: bytes | None = None,
        task_id: bytes | None = None,
        older_than_s: float = 0.0,
        rows_max: int = 100,
    ) -> rpc.StoredRowsFound:
        """Operators: rows that wait for their devices, counted, and the first of them."""
        request = rpc.StoredRows(
            id=UNSENT, app_key=app_key, device_id=device_id, task_id=task_id, older_than_s=older_than_s, n=rows_max
        )
        return await self._call(request, rpc.StoredRowsFound)

    async def purge_stored(
        self,
        *,
        app_key: str = "",
        device_id: bytes | None = None,
        task_id: bytes | None = None,
        older_than_s: float = 0.0,
    ) -> rpc.StoredPurged:
        """Operators: such rows end cancelled."""
        request = rpc.PurgeStored(
            id=UNSENT, app_key=app_key, device_id=device_id, task_id=task_id, older_than_s=older_than_s
        )
        return await self._call(request, rpc.StoredPurged)

    async def backup(self, folder: str) -> rpc.BackedUp:
        """Operators: the stores are copied into a new folder on the gateway's machine."""
        return await self._call(rpc.Backup(id=UNSENT, folder=folder), rpc.BackedUp)

    async def clock_advance(self, seconds: float) -> rpc.ClockAdvanced:
        return await self._call(rpc.ClockAdvance(id=UNSENT, seconds=seconds), rpc.ClockAdvanced)

    async def restart(self, *, may_lose: bool = False) -> rpc.Restarted:
        """Every worker has been started anew, one after the other, but for those that would lose rows."""
        return await self._call(rpc.Restart(id=UNSENT, may_lose=may_lose), rpc.Restarted)

    async def ask(self, request: rpc.Request) -> rpc.Answer:
        """The answer to a request that was made elsewhere; its number is not used."""
        answer: rpc.Answer = await self._call(request, rpc.ANSWER_OF[type(request)])  # type: ignore[arg-type]
        return answer

    async def welcome(self) -> rpc.Welcome:
        """What the gateway said at the greeting: limits and names of codes. Connects where there is no connection."""
        deadline = self._now() + self._timeout_s
        retry = Retry(rpc.Status(id=UNSENT), deadline=deadline, spread=random.random())
        while True:
            try:
                link = await self._connect(deadline)
            except Lost as lost:
                await self._sleep(retry.after_loss(lost, self._now()))
                continue
            if link.session.welcome is not None:
                return link.session.welcome

    def subscribe_receipts(self, cursor: bytes = b"") -> PageStream[rpc.Receipts]:
        """Pages of changes: `async with client.subscribe_receipts() as pages: async for page in pages: ...`"""
        return PageStream(self, rpc.SubscribeReceipts, rpc.Receipts, cursor)

    def subscribe_presence(self, cursor: bytes = b"") -> PageStream[rpc.PresenceChanges]:
        """Pages of devices that came, went, or said something new of themselves; used as `subscribe_receipts` is."""
        return PageStream(self, rpc.SubscribePresence, rpc.PresenceChanges, cursor)

    def close(self) -> None:
        """The connection is closed; calls under way fail. A later call opens a new one."""
        links, self._link = [*self._left, *([] if self._link is None else [self._link])], None
        self._left.clear()
        for link in links:
            link.on_events(link.session.close())
            self._shut(link)

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _call(self, request: rpc.Request, kind: type[_A]) -> _A:
        deadline = self._now() + self._timeout_s
        retry = Retry(request, deadline=deadline, spread=random.random())
        while True:
            try:
                answer = await self._attempt(request, deadline, retry)
            except Lost as lost:
                wait_s = retry.after_loss(lost, self._now())
            else:
                if isinstance(answer, kind):
                    return answer
                if not isinstance(answer, rpc.Error):
                    raise LocalProtocolError(f"{type(answer).__name__} passed the session as an answer")
                wait_s = retry.after_error(answer, self._now())
            await self._sleep(wait_s)

    async def _attempt(self, request: rpc.Request, deadline: float, retry: Retry) -> rpc.Answer:
        link, slot, number = await self._start(request, deadline, retry)
        try:
            while slot.answer is None:
                if link.lost is not None:
                    raise link.loss(was_sent=True)
                if not await self._wait(slot.bell, deadline):
                    raise retry.out_of_time(was_sent=True)
            return slot.answer
        finally:
            link.give_up(number)

    async def _start(self, request: rpc.Request, deadline: float, retry: Retry) -> tuple[Link, Slot, int]:
        """Sends the request once there is room. Raises Lost."""
        link = await self._connect(deadline)
        # A number is not handed out again before 2^32 others, so it may be taken long before it is used.
        numbered = msgspec.structs.replace(request, id=link.session.next_id())
        payload = codec.encode(numbered)
        while not link.session.has_room(numbered, payload):
            if link.lost is not None:
                raise link.loss(was_sent=False)
            if not await self._wait(link.room, deadline):
                raise retry.out_of_time(was_sent=False)
        return link, link.start(numbered, payload), numbered.id

    async def _connect(self, deadline: float) -> Link:
        """A link that is ready; one task opens it while the others wait. Raises Lost."""
        while True:
            link = self._link
            if link is not None and link.lost is None and link.session.welcome is not None:
                if not link.session.is_leaving:
                    return link
                self._left.append(link)
                self._link = None
            if not self._is_connecting:
                break
            if not await self._wait(self._connected, deadline):
                raise Lost(f"{self._address}: no connection in time", reason=CloseReason.CONNECT_TIMEOUT)
        self._is_connecting = True
        try:
            return await self._new_link(deadline)
        finally:
            self._is_connecting = False
            self._connected.ring()

    async def _new_link(self, deadline: float) -> Link:
        if self._link is not None:
            self._shut(self._link)
        for left in [left for left in self._left if left.lost is not None or not left.slots]:
            self._left.remove(left)
            self._shut(left)
        session = ClientSession(self._app_key, self._secret, nonce=os.urandom(32), now=self._now(), role=self._role)
        link = self._link = Link(session, self._new_bell, self._address)
        try:
            await self._open(link, deadline)
            until = min(deadline, session.next_deadline())
            while session.welcome is None:
                if link.lost is not None:
                    raise link.loss(was_sent=False)
                if not await self._wait(link.ready, until):
                    raise Lost(f"{self._address}: no welcome in time", reason=CloseReason.HANDSHAKE_TIMEOUT)
        except BaseException:
            self._shut(link)
            self._link = None
            raise
        return link


class PageStream(Generic[_P]):
    """Pages of a stream, without end. On a new connection it goes on after the last page's cursor.

    An async context manager and iterator; leaving it ends the stream. Raises CallFailed (cursor_expired, ...) and
    GatewayUnreachable where no connection could be had for the client's timeout.
    """

    def __init__(
        self,
        calls: AsyncCalls,
        kind: type[rpc.SubscribeReceipts | rpc.SubscribePresence],
        page: type[_P],
        cursor: bytes,
    ) -> None:
        self._calls = calls
        self._kind = kind
        self._page = page
        self.cursor = cursor
        self._link: Link | None = None
        self._slot: Slot | None = None
        self._number = 0
        self._unpaid = 0
        self._retry: Retry | None = None

    async def __aenter__(self) -> PageStream[_P]:
        """The stream is in place: what changes from now on comes, whoever causes it and wherever."""
        try:
            await self._any_page(until=self._calls._now() + self._calls._timeout_s)
        except BaseException:
            self._cancel()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cancel()

    def __aiter__(self) -> PageStream[_P]:
        return self

    async def __anext__(self) -> _P:
        while not (page := await self._any_page()).n:
            pass  # the first page only says where the stream begins
        return page

    async def _any_page(self, until: float = math.inf) -> _P:
        calls = self._calls
        while True:
            link, slot = await self._begin()
            retry = self._retry_now()
            try:
                page = await self._next_page(link, slot, retry, until)
            except Lost as lost:
                self._slot = None
                await calls._sleep(retry.after_loss(lost, calls._now()))
                continue
            if isinstance(page, self._page):
                self._retry = None
                self.cursor = page.cursor
                self._unpaid = page.n
                return page
            self._slot = None
            if not isinstance(page, rpc.Error):
                raise StopAsyncIteration
            await calls._sleep(retry.after_error(page, calls._now()))

    def _retry_now(self) -> Retry:
        """The attempts since the last page: a stream that brings pages may lose its connection any number of times."""
        if self._retry is None:
            request = self._kind(id=UNSENT, cursor=self.cursor)
            deadline = self._calls._now() + self._calls._timeout_s
            self._retry = Retry(request, deadline=deadline, spread=random.random())
        return self._retry

    async def _begin(self) -> tuple[Link, Slot]:
        """The subscription has been sent on a living link."""
        calls = self._calls
        while self._slot is None or self._link is None:
            retry = self._retry_now()
            deadline = calls._now() + calls._timeout_s
            request = self._kind(id=UNSENT, cursor=self.cursor, credit_rows=STREAM_ROWS)
            try:
                self._link, self._slot, self._number = await calls._start(request, deadline, retry)
            except Lost as lost:
                await calls._sleep(retry.after_loss(lost, calls._now()))
            self._unpaid = 0
        return self._link, self._slot

    async def _next_page(self, link: Link, slot: Slot, retry: Retry, until: float) -> rpc.StreamPage | rpc.Answer:
        if self._unpaid and link.lost is None:
            # The caller has come back for more: the last page is done with.
            link.session.grant(self._number, self._unpaid)
            link.outbox.ring()
            self._unpaid = 0
        while True:
            if slot.pages:
                return slot.pages.popleft()
            if slot.answer is not None:
                return slot.answer
            if link.lost is not None:
                raise link.loss(was_sent=True)
            if until == math.inf:
                await slot.bell.wait()
            elif not await self._calls._wait(slot.bell, until):
                raise retry.out_of_time(was_sent=True)

    def _cancel(self) -> None:
        link = self._link
        if link is not None and self._slot is not None and self._slot.answer is None and link.lost is None:
            link.session.send(rpc.Cancel(id=self._number))
            link.give_up(self._number)
            link.outbox.ring()
        self._slot = None
