"""BlockingClient: one connection, one thread, plain sockets.

Rules for callers: not for use by two threads at once; give each thread its own. Many submits are quickest through
`submit_many`, which keeps as many in flight as the gateway's credit allows.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Literal, TypeVar, Unpack

import msgspec

from gateway.client.address import Address, parse_address, tls_context
from gateway.client.consent_calls import BlockingConsentCalls
from gateway.client.loss_calls import BlockingLossCalls
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
from gateway.wire.rpc.client import Answered, ClientSession, Closed, Ready

_A = TypeVar("_A", bound=rpc.Message)
_P = TypeVar("_P", bound="rpc.Receipts | rpc.PresenceChanges")
_READ_BYTES = 256 << 10
#: Rows of a stream that may be on their way to us.
_STREAM_ROWS = 8192


class BlockingClient(BlockingLossCalls, BlockingConsentCalls):
    """address: see address.py. secret None: operator on the operator's Unix socket. timeout_s: per call, all attempts.

    Connects at the first call. Every method raises CallFailed or GatewayUnreachable.
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
        self._socket: socket.socket | None = None
        self._session: ClientSession | None = None
        #: Answers that came while somebody waited for another one.
        self._answers: dict[int, rpc.Answer] = {}
        self._pages: dict[int, deque[rpc.StreamPage]] = {}
        #: Calls given up at their deadline; their answers are dropped.
        self._given_up: set[int] = set()
        self._lost: Lost | None = None

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- calls -------------------------------------------------------------------------------------------------

    def submit(
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
        return self.submit_columns(request)

    def submit_columns(self, request: rpc.Submit) -> rpc.Submitted:
        """The same for columns that the caller has made (requests.py, rows.py)."""
        return self._call(with_request_id(request), rpc.Submitted)

    def submit_many(self, requests: Iterable[rpc.Submit]) -> Iterator[rpc.Submitted]:
        """The answers in the order of the requests, as many in flight as the gateway has room for.

        A submit that meets an error or a lost connection is tried again by itself, as `submit_columns` does.
        """
        waiting: deque[tuple[rpc.Submit, int, ClientSession | None]] = deque()
        for request in requests:
            mine = with_request_id(request)
            number, session = self._send_ahead(mine)
            waiting.append((mine, number, session))
            while waiting and waiting[0][1] in self._answers:
                yield self._collect(*waiting.popleft())
        while waiting:
            yield self._collect(*waiting.popleft())

    def submit_audience(self, content: Variant, **who: Unpack[AudienceOptions]) -> rpc.AudienceSubmitted:
        """The content is on its way to all devices, or to those that the options name."""
        return self._call(audience_request(content, **who), rpc.AudienceSubmitted)

    def task_state(self, task_id: bytes | str) -> rpc.TaskCounts:
        return self._call(rpc.TaskState(id=UNSENT, task_id=id_bytes("task id", task_id)), rpc.TaskCounts)

    def stop_task(self, task_id: bytes | str) -> rpc.TaskStopped:
        """No row of the task that is not under way goes out any more, and it takes no further rows."""
        return self._call(rpc.StopTask(id=UNSENT, task_id=id_bytes("task id", task_id)), rpc.TaskStopped)

    def revoke_task(self, task_id: bytes | str, *, replacement: Variant | None = None) -> rpc.TaskRevoked:
        """The task is stopped; what it shows is taken back, or replaced, where the channel can."""
        request = rpc.RevokeTask(id=UNSENT, task_id=id_bytes("task id", task_id), replacement=replacement)
        return self._call(request, rpc.TaskRevoked)

    def task_rows(
        self,
        task_id: bytes | str,
        first: int = 0,
        n: int = 1000,
        *,
        states: Sequence[str] | None = None,
        reasons: Sequence[str] | None = None,
    ) -> rpc.TaskRowPage:
        return self._call(task_rows_request(task_id, first, n, states=states, reasons=reasons), rpc.TaskRowPage)

    def trace(
        self,
        task_id: bytes | str | None = None,
        device_id: bytes | str | None = None,
        *,
        message_id: bytes | str | None = None,
    ) -> rpc.TraceHops:
        return self._call(trace_request(task_id, device_id, message_id), rpc.TraceHops)

    def register_devices(
        self, devices: Sequence[DeviceState], *, want_passwords: bool = False
    ) -> rpc.DevicesRegistered:
        """want_passwords: the answer carries each device's password of the long link."""
        return self._call(register_request(devices, want_passwords=want_passwords), rpc.DevicesRegistered)

    def device(self, device_id: bytes | str | None = None, *, alias: str = "", app_key: str = "") -> rpc.DeviceFound:
        return self._call(device_request(device_id, alias, app_key), rpc.DeviceFound)

    def device_status(self, device_ids: Sequence[bytes | str], *, app_key: str = "") -> rpc.DeviceStatuses:
        """Presence of up to 1,000 devices, as columns."""
        return self._call(device_status_request(device_ids, app_key), rpc.DeviceStatuses)

    def online_counts(self, *, tag: str = "", app_key: str = "") -> rpc.OnlineCounted:
        """Devices online by platform, now and over 24 hours, and how many have the tag."""
        return self._call(rpc.OnlineCounts(id=UNSENT, tag=tag, app_key=app_key), rpc.OnlineCounted)

    def status(self) -> rpc.GatewayStatus:
        return self._call(rpc.Status(id=UNSENT), rpc.GatewayStatus)

    def erase_devices(self, device_ids: Sequence[bytes | str], *, app_key: str = "") -> rpc.DevicesErased:
        """The devices are forgotten, with what waits for them."""
        return self._call(erase_request(device_ids, app_key), rpc.DevicesErased)

    def block_devices(
        self, device_ids: Sequence[bytes | str], *, blocked: bool = True, app_key: str = ""
    ) -> rpc.DevicesBlocked:
        """Nothing is sent to the devices from now on, or may be again."""
        return self._call(block_request(device_ids, blocked, app_key), rpc.DevicesBlocked)

    def stored_rows(
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
        return self._call(request, rpc.StoredRowsFound)

    def purge_stored(
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
        return self._call(request, rpc.StoredPurged)

    def backup(self, folder: str) -> rpc.BackedUp:
        """Operators: the stores are copied into a new folder on the gateway's machine."""
        return self._call(rpc.Backup(id=UNSENT, folder=folder), rpc.BackedUp)

    def clock_advance(self, seconds: float) -> rpc.ClockAdvanced:
        return self._call(rpc.ClockAdvance(id=UNSENT, seconds=seconds), rpc.ClockAdvanced)

    def restart(self, *, may_lose: bool = False) -> rpc.Restarted:
        """Every worker has been started anew, one after the other, but for those that would lose rows."""
        return self._call(rpc.Restart(id=UNSENT, may_lose=may_lose), rpc.Restarted)

    def welcome(self) -> rpc.Welcome:
        """What the gateway said at the greeting: limits and names of codes. Connects where there is no connection."""
        deadline = time.monotonic() + self._timeout_s
        retry = Retry(rpc.Status(id=UNSENT), deadline=deadline, spread=random.random())
        while True:
            try:
                session = self._connect(deadline)
            except Lost as lost:
                time.sleep(retry.after_loss(lost, time.monotonic()))
                continue
            assert session.welcome is not None
            return session.welcome

    def subscribe_receipts(self, cursor: bytes = b"") -> Iterator[rpc.Receipts]:
        """Pages of changes, without end; on a new connection it goes on after the last page's cursor.

        Close the iterator (or leave the loop and call its `close`) to end the stream. Calls may be made between pages.
        """
        return self._follow(rpc.SubscribeReceipts, rpc.Receipts, cursor)

    def subscribe_presence(self, cursor: bytes = b"") -> Iterator[rpc.PresenceChanges]:
        """Pages of devices that came, went, or said something new of themselves; used as `subscribe_receipts` is."""
        return self._follow(rpc.SubscribePresence, rpc.PresenceChanges, cursor)

    def close(self) -> None:
        """The connection is closed. A later call opens a new one."""
        if self._session is not None:
            self._session.close()
        self._drop(Lost("closed by the caller", reason=CloseReason.CLIENT_DISCONNECT))

    # --- inside ------------------------------------------------------------------------------------------------

    def _follow(
        self, kind: type[rpc.SubscribeReceipts | rpc.SubscribePresence], page_kind: type[_P], cursor: bytes
    ) -> Iterator[_P]:
        losses: Retry | None = None
        while True:
            request = kind(id=UNSENT, cursor=cursor, credit_rows=_STREAM_ROWS)
            if losses is None:
                losses = Retry(request, deadline=time.monotonic() + self._timeout_s, spread=random.random())
            try:
                for page in self._stream(request):
                    if not isinstance(page, page_kind):
                        continue  # the session lets no other through
                    losses = None
                    cursor = page.cursor
                    if page.n:  # the first one only says where the stream begins
                        yield page
                return
            except Lost as lost:
                if losses is None:
                    losses = Retry(request, deadline=time.monotonic() + self._timeout_s, spread=random.random())
                time.sleep(losses.after_loss(lost, time.monotonic()))

    def _call(self, request: rpc.Request, kind: type[_A]) -> _A:
        deadline = time.monotonic() + self._timeout_s
        retry = Retry(request, deadline=deadline, spread=random.random())
        while True:
            number = 0
            try:
                number = self._start(request, deadline, retry)
                answer = self._wait_answer(number, deadline)
            except Lost as lost:
                lost.was_sent = number != 0
                wait_s = retry.after_loss(lost, time.monotonic())
            except TimeoutError:
                self._given_up.add(number)
                raise retry.out_of_time(was_sent=True) from None
            else:
                if isinstance(answer, kind):
                    return answer
                if not isinstance(answer, rpc.Error):
                    raise LocalProtocolError(f"{type(answer).__name__} passed the session as an answer")
                wait_s = retry.after_error(answer, time.monotonic())
            time.sleep(wait_s)

    def _start(self, request: rpc.Request, deadline: float, retry: Retry) -> int:
        """Sends the request once there is room; its number. Raises Lost."""
        session = self._connect(deadline)
        request = msgspec.structs.replace(request, id=session.next_id())
        payload = codec.encode(request)
        while not session.has_room(request, payload):
            try:
                self._read(deadline)
            except TimeoutError:
                raise retry.out_of_time(was_sent=False) from None
        session.send(request, payload)
        self._flush(deadline)
        return request.id

    def _send_ahead(self, request: rpc.Submit) -> tuple[int, ClientSession | None]:
        """Sends without waiting for the answer; (0, None) where that failed: `_collect` then does it from anew."""
        deadline = time.monotonic() + self._timeout_s
        retry = Retry(request, deadline=deadline, spread=random.random())
        try:
            return self._start(request, deadline, retry), self._session
        except Lost:
            return 0, None

    def _collect(self, request: rpc.Submit, number: int, session: ClientSession | None) -> rpc.Submitted:
        if session is not None and session is self._session:
            try:
                answer = self._wait_answer(number, time.monotonic() + self._timeout_s)
            except (Lost, TimeoutError):
                pass
            else:
                if isinstance(answer, rpc.Submitted):
                    return answer
        # Lost, overloaded or refused: the same request_id again gives the first answer, or the error its retry.
        return self._call(request, rpc.Submitted)

    def _wait_answer(self, number: int, deadline: float) -> rpc.Answer:
        while number not in self._answers:
            self._read(deadline)
        return self._answers.pop(number)

    def _stream(self, request: rpc.SubscribeReceipts | rpc.SubscribePresence) -> Iterator[rpc.StreamPage]:
        deadline = time.monotonic() + self._timeout_s
        retry = Retry(request, deadline=deadline, spread=random.random())
        number = self._start(request, deadline, retry)
        session = self._session
        pages = self._pages[number] = deque()
        try:
            while session is not None and session is self._session:
                while pages:
                    page = pages.popleft()
                    yield page
                    session.grant(number, page.n)
                    self._flush(None)
                answer = self._answers.pop(number, None)
                if isinstance(answer, rpc.Error):
                    time.sleep(retry.after_error(answer, time.monotonic()))
                    raise Lost("the stream ended", reason=CloseReason.SHUTDOWN, error=answer)
                if answer is not None:
                    return
                if session is self._session:
                    self._read(None)
            raise self._lost or Lost("the connection was replaced", reason=CloseReason.PEER_CLOSED)
        finally:
            self._pages.pop(number, None)
            if session is not None and session is self._session and session.close_reason is None:
                self._given_up.add(number)
                session.send(rpc.Cancel(id=number))
                self._flush(None)

    def _connect(self, deadline: float) -> ClientSession:
        """A session that is ready. Raises Lost."""
        if self._session is not None and self._session.open_requests == 0:
            self._hear()
        if self._session is not None and self._socket is not None:
            return self._session
        self._answers.clear()
        self._given_up.clear()
        address = self._address
        self._socket = self._dial(deadline)
        self._lost = None
        session = self._session = ClientSession(
            self._app_key, self._secret, nonce=os.urandom(32), now=time.monotonic(), role=self._role
        )
        while session.welcome is None:
            try:
                self._read(min(deadline, session.next_deadline()))
            except TimeoutError:
                self._drop(Lost(f"{address}: no welcome in time", reason=CloseReason.HANDSHAKE_TIMEOUT))
                assert self._lost is not None
                raise self._lost from None
        return session

    def _hear(self) -> None:
        """What came since the last call has been read. A server that leaves, or has left, is left before the next
        request and not because of it."""
        while self._socket is not None and self._session is not None:
            session = self._session
            if session.is_leaving:
                self.close()
                return
            try:
                self._socket.settimeout(0.0)
                data = self._socket.recv(_READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError as error:
                self._on_events(session.peer_closed(CloseReason.PEER_RESET), str(error))
                return
            self._on_events(session.receive_data(data) if data else session.peer_closed(), "")

    def _dial(self, deadline: float) -> socket.socket:
        """An open connection. Raises Lost, or ConfigError for a CA file that cannot be read."""
        address = self._address
        context = tls_context(address) if address.kind == "tls" else None
        opened: socket.socket | None = None
        try:
            timeout_s = max(0.001, deadline - time.monotonic())
            if address.kind == "unix":
                opened = socket.socket(socket.AF_UNIX)
                opened.settimeout(timeout_s)
                opened.connect(address.path)
                return opened
            opened = socket.create_connection((address.host, address.port), timeout_s)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return opened if context is None else context.wrap_socket(opened, server_hostname=address.host)
        except OSError as error:
            if opened is not None:
                opened.close()
            is_certificate = isinstance(error, ssl.SSLCertVerificationError)
            reason = CloseReason.CERTIFICATE_INVALID if is_certificate else CloseReason.CONNECT_FAILED
            raise Lost(f"{address}: {error.strerror or error}", reason=reason) from error

    def _read(self, deadline: float | None) -> None:
        """Takes what the server has sent, waiting for it. Raises Lost, or TimeoutError at the deadline."""
        opened, session = self._socket, self._session
        if opened is None or session is None:
            raise self._lost or Lost("not connected", reason=CloseReason.CONNECT_FAILED)
        try:
            opened.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
            data = opened.recv(_READ_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            data = b""
            events = session.peer_closed(CloseReason.PEER_RESET)
            self._on_events(events, str(error))
        if data:
            self._on_events(session.receive_data(data), "")
            self._flush(deadline)
        else:
            self._on_events(session.peer_closed(), "")
        if self._lost is not None:
            raise self._lost

    def _on_events(self, events: Sequence[object], text: str) -> None:
        for event in events:
            if isinstance(event, Answered):
                number = event.message.id
                if isinstance(event.message, rpc.StreamPage):
                    if number in self._pages:
                        self._pages[number].append(event.message)
                elif number in self._given_up:
                    self._given_up.discard(number)
                else:
                    self._answers[number] = event.message
            elif isinstance(event, Closed):
                was_ready = self._session is not None and self._session.welcome is not None
                text = f"{self._address}: {text or event.text}"
                self._drop(Lost(text, reason=event.reason, error=event.error, was_ready=was_ready))
            elif isinstance(event, Ready):
                pass

    def _flush(self, deadline: float | None) -> None:
        if self._socket is None or self._session is None:
            return
        data = self._session.data_to_send()
        if not data:
            return
        try:
            self._socket.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
            self._socket.sendall(data)
        except OSError as error:
            # Part of a frame may have left: the connection is of no use any more.
            self._on_events(self._session.peer_closed(CloseReason.PEER_RESET), str(error))
            if self._lost is not None:
                raise self._lost from error

    def _drop(self, lost: Lost) -> None:
        self._lost = lost
        if self._socket is not None:
            self._socket.close()
        self._socket = self._session = None
