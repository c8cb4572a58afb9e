"""Callbacks: tells a service by HTTP what became of its rows, in GeTui's receipt form. One actor per app that wants it.

    Home's ring of changes --take--> queue (rows_max) --batch of lines--> POST --answer--> next batch
                                        |                                  |
                                  full: oldest dropped, counted       none, 429, 5xx: again with backoff, attempts_max

Each request carries the cursor of `subscribe_receipts` behind its rows (`X-Pushgw-Cursor`): a service that lost some
(the log names them, counters count them) reads on from the last one it got, as long as the ring has it; of several
workers each tells of its own ring, and a cursor says whose. Lines come at least once and in order. Where pages are on
the disk, what an ended process had not told is told first (callback_history.py). Waits for: the service's HTTP server,
which delays nobody else; the ledger archive. Is waited for by: nobody.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import NamedTuple, Protocol

import httpx
import numpy as np
import trio

from gateway.actors.credentials import WholeBody
from gateway.actors.receipt_stream import Cursor
from gateway.core.callback_lines import Signer, lines_of
from gateway.core.changes import Change
from gateway.core.home import Home
from gateway.errors import StoreError

#: Changes looked at in one step.
_CHANGES_MAX = 256
#: Lines made in one step: some five microseconds each.
_LINES_PER_STEP = 256
#: How long changes are gathered before they go out.
_GATHER_S = 0.05
#: An answer is not read further than this: consumers answer with any body.
_ANSWER_BYTES_MAX = 64 << 10
_RETRY_FIRST_S, _RETRY_MAX_S = 1.0, 60.0
#: How often it is written down up to when everything was told, and how soon a store that failed is asked again: a crash
#: repeats a second's lines.
_NOTE_S = 1.0


class CallbackSettings(NamedTuple):
    """See [apps.callback] in configs/reference.toml. cursor_bytes: a place in this worker's ring, as
    `subscribe_receipts` takes it. alias_of: of a device, where lines have its alias."""

    app: int
    url: str
    signer: Signer
    batch_rows_max: int
    queue_rows_max: int
    attempts_max: int
    timeout_s: float
    cursor_bytes: Callable[[Cursor], bytes] = Cursor.encode
    alias_of: Callable[[bytes], str] | None = None


class CallbackObserver(Protocol):
    def ended(self, outcome: str, rows: int) -> None:
        """outcome: answered, refused (status 400 to 499), undelivered, dropped (the queue was full, the ring gone)."""
        ...

    def queued(self, rows: int) -> None: ...

    def failing(self, why: str, attempt: int, wait_s: float) -> None: ...

    def lost(self, outcome: str, rows: int, after_cursor: str) -> None: ...


class HistoryPort(Protocol):
    """As `callback_history.py` offers it."""

    def now_unix_ms(self) -> int: ...

    async def begin(self) -> int | None: ...

    async def tell(self, unix_ms: int) -> None: ...

    def changes(self, since_unix_ms: int) -> AsyncGenerator[Change, None]: ...


class _Part(NamedTuple):
    """Rows of one change that are to be told. cursor: of the stream, behind them; before: in front of them; None for
    changes of an earlier process."""

    change: Change
    first: int
    stop: int
    before: Cursor | None
    cursor: Cursor | None


class Callbacks:
    """random: 0 to 1, spreads retries. history: where pages outlive the process; else None."""

    def __init__(
        self,
        settings: CallbackSettings,
        *,
        home: Home,
        open_client: Callable[[], httpx.AsyncClient],
        observer: CallbackObserver,
        random: Callable[[], float],
        history: HistoryPort | None = None,
    ) -> None:
        self._settings = settings
        self._home = home
        self._open_client = open_client
        self._observer = observer
        self._random = random
        self._queue: deque[_Part] = deque()
        self._rows = 0
        #: Without a history nobody but the ring says what ended while the journal was replayed.
        self._position = home.statistics().changes_first if history is None else home.next_cursor
        #: Taken from the queue and not answered yet.
        self._sending: list[_Part] = []
        self._history = history
        #: What processes before had not told is told.
        self._is_resumed = history is None
        #: Something was told that is not written down.
        self._is_noted = True
        self._note_at = -math.inf
        self._noted_unix_ms = 0

    async def run(self) -> None:
        """Tells until cancelled. If cancelled: what was not answered is told by the next run."""
        # What a crashed run was sending goes first.
        self._queue.extendleft(reversed(self._sending))
        self._rows += sum(map(_size, self._sending))
        self._sending = []
        async with self._open_client() as client, trio.open_nursery() as nursery:
            nursery.start_soon(self._take)
            await self._resume(client)
            while True:
                await self._note()
                if not self._queue:
                    await trio.sleep(_GATHER_S)
                    continue
                await self._send(client, self._next_parts())

    # -- what an earlier process was told, and this one has

    async def _resume(self, client: httpx.AsyncClient) -> None:
        """What processes before had not told is told. If cancelled: some is, and all of it by the next run."""
        while self._history is not None and not self._is_resumed:
            try:
                since = await self._history.begin()
                if since is not None:
                    async with aclosing(self._history.changes(since)) as changes:
                        async for change in changes:
                            for part in self._parts(change, None):
                                await self._send(client, [part])
                self._is_resumed, self._is_noted = True, False
            except StoreError as error:
                self._observer.failing(type(error).__name__, 0, _NOTE_S)
                await trio.sleep(_NOTE_S)

    async def _note(self) -> None:
        """Up to when everything was told is written down, now and then. If cancelled: more is told again."""
        if self._history is None or self._is_noted or trio.current_time() < self._note_at:
            return
        untold = [*self._sending, *itertools.islice(self._queue, 1)]
        is_behind = not untold and self._position < self._home.next_cursor
        if is_behind:
            return
        self._note_at = trio.current_time() + _NOTE_S
        until_unix_ms = untold[0].change.at_unix_ms if untold else self._history.now_unix_ms()
        try:
            if until_unix_ms != self._noted_unix_ms:
                await self._history.tell(until_unix_ms)
            self._noted_unix_ms, self._is_noted = until_unix_ms, not untold
        except StoreError as error:
            self._observer.failing(type(error).__name__, 0, _NOTE_S)

    # -- from the ring to the queue

    async def _take(self) -> None:
        """The app's changes are in the queue as they happen, whatever the server does."""
        while True:
            found = self._home.changes(self._position, _CHANGES_MAX)
            if found is None:
                first = self._home.statistics().changes_first
                self._observer.lost("dropped", first - self._position, self._name(Cursor(self._position, 0)))
                self._position = first
                continue
            changes, following = found
            for offset, change in enumerate(changes):
                if change.batch.app == self._settings.app:
                    self._put(change, self._position + offset)
            self._position = following
            self._observer.queued(self._rows)
            await trio.sleep(0 if changes else _GATHER_S)

    def _parts(self, change: Change, position: int | None) -> Iterator[_Part]:
        """The change in requests' worth. position: of the change in the ring."""
        n, size = len(change.rows), self._settings.batch_rows_max
        for first in range(0, n, size):
            stop = min(n, first + size)
            before = behind = None
            if position is not None:
                before = Cursor(position, first)
                behind = Cursor(position + 1, 0) if stop == n else Cursor(position, stop)
            yield _Part(change, first, stop, before, behind)

    def _put(self, change: Change, position: int) -> None:
        self._queue.extend(self._parts(change, position))
        self._rows += len(change.rows)
        while self._rows > self._settings.queue_rows_max and len(self._queue) > 1:
            gone = self._queue.popleft()
            self._rows -= gone.stop - gone.first
            self._observer.ended("dropped", gone.stop - gone.first)
            self._observer.lost("dropped", gone.stop - gone.first, self._name(gone.before))

    # -- from the queue to the server

    async def _send(self, client: httpx.AsyncClient, parts: list[_Part]) -> None:
        """The batch has ended, one way or the other."""
        self._sending = parts if self._is_resumed else []
        rows = sum(map(_size, parts))
        lines: list[bytes] = []
        for part in parts:
            for first in range(part.first, part.stop, _LINES_PER_STEP):
                chosen = np.arange(first, min(first + _LINES_PER_STEP, part.stop))
                lines += lines_of(part.change, chosen, self._settings.signer, self._settings.alias_of)
                await trio.lowlevel.checkpoint()
        outcome = await self._post(client, b"\n".join(lines), parts[-1].cursor) if lines else "answered"
        self._sending = []
        self._is_noted = False
        self._observer.ended(outcome, rows)
        if outcome == "undelivered":
            self._observer.lost(outcome, rows, self._name(parts[0].before))

    def _next_parts(self) -> list[_Part]:
        parts: list[_Part] = []
        rows = 0
        while self._queue and (not parts or rows + _size(self._queue[0]) <= self._settings.batch_rows_max):
            parts.append(self._queue.popleft())
            rows += _size(parts[-1])
        self._rows -= rows
        return parts

    async def _post(self, client: httpx.AsyncClient, body: bytes, cursor: Cursor | None) -> str:
        headers = {"content-type": "text/plain; charset=utf-8"}
        if cursor is not None:
            headers["x-pushgw-cursor"] = self._name(cursor)
        for attempt in range(1, self._settings.attempts_max + 1):
            status, why = await self._attempt(client, body, headers)
            if status and status != 429 and status < 500:
                return "answered" if status < 400 else "refused"
            if attempt < self._settings.attempts_max:
                wait_s = min(_RETRY_MAX_S, _RETRY_FIRST_S * 2.0 ** (attempt - 1)) * (0.5 + self._random() / 2)
                self._observer.failing(why, attempt, wait_s)
                await trio.sleep(wait_s)
        return "undelivered"

    def _name(self, cursor: Cursor | None) -> str:
        return "" if cursor is None else self._settings.cursor_bytes(cursor).hex()

    async def _attempt(self, client: httpx.AsyncClient, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        """The status, 0 without an answer; and a word for it."""
        try:
            with trio.fail_after(self._settings.timeout_s):
                request = client.build_request("POST", self._settings.url, headers=headers, content=body)
                request.stream = WholeBody(body)
                answer = await client.send(request, stream=True)
                read = 0
                async with aclosing(answer):
                    async for chunk in answer.aiter_raw():
                        read += len(chunk)
                        if read > _ANSWER_BYTES_MAX:
                            break
        except httpx.HTTPError as error:
            return 0, type(error).__name__
        except trio.TooSlowError:
            return 0, "timeout"
        return answer.status_code, f"status {answer.status_code}"


def _size(part: _Part) -> int:
    return part.stop - part.first
