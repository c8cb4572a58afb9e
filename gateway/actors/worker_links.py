"""WorkerLinks: the links of one worker to all others, their beginning and their end.

The higher index dials the lower, at `<run folder>/worker-<index>.sock`. Who lives is told by the supervisor (`Peers`);
a link is with one life of a worker, and the end of a life is told to everybody here once, after everything that the
dead worker had said has been read:

    peer_died --> the link reads what is left (at most READ_S) --> spread, foreign rows, questions, watchers

A link that ends while both workers live is a bug of ours, and what was under way on it is lost to both: the one that
dialed gives itself up (`LinkLost`), and its death is dealt with like any other.

Questions: `ask` sends one and waits for its answer; `answer_with` names who answers questions of a kind. Waits for:
sockets, answers. Is waited for by: whoever asks.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol, TypeAlias

import trio

from gateway.actors.bell import Bell
from gateway.actors.foreign_rows import ForeignRows, Report
from gateway.actors.spread import Spread
from gateway.actors.worker_link import GATHER_MANY_S, GATHER_S, MANY_ROWS, SOON_S, WorkerLink
from gateway.core.shadow import Life
from gateway.errors import GatewayError, Overloaded, RemoteProtocolError
from gateway.wire.worker_link.messages import U32_MAX, VERSION, Answer, Ask, Hello, Marked, Outcomes, Slice

#: How long what a dead worker had written may take to be read: it is in memory.
READ_S = 1.0
#: A link that ended is forgiven if the supervisor says so long after that its worker died.
LOST_S = 5.0
#: Between two tries to dial: the other's socket is there, or will be in a moment.
_DIAL_AGAIN_S = 0.05
#: Questions that a worker answers before it has read its journal: nobody who asks them is waited for in turn.
EARLY = frozenset({"held", "adopted", "find held", "request ids"})
#: Questions to one worker without an answer; each is a request of a client or a lease.
ASKS_MAX = 4096


class LinkLost(GatewayError):
    """A link ended and both workers live: a bug of ours. This worker gives itself up."""


class WorkerGone(GatewayError):
    """Nobody is at fault: the worker that was asked has died, or is not there yet."""

    def __init__(self, worker: int) -> None:
        self.worker = worker
        super().__init__(f"worker {worker} is not there; it will be back")


class LinksObserver(Protocol):
    def opened(self, worker: int) -> None: ...

    def ended(self, worker: int) -> None: ...

    def broken(self, worker: int, error: RemoteProtocolError) -> None: ...


class DeathWatcher(Protocol):
    def on_died(self, life: Life) -> None: ...


Reply: TypeAlias = Callable[[bytes | memoryview], None]
AnswerAsk: TypeAlias = Callable[[Life, dict[str, Any], memoryview, Reply], None]
#: Called with the answer and whose it is, in the turn in which it was read.
Take: TypeAlias = Callable[[Life, memoryview], None]
Dial: TypeAlias = Callable[[int], Awaitable[trio.abc.Stream]]


class _Asked:
    __slots__ = ("answer", "done", "take")

    def __init__(self, take: Take | None) -> None:
        self.answer: Answer | None = None
        self.done = trio.Event()
        self.take = take


class WorkerLinks:
    """hello: what this worker says of itself. dial: opens a stream to a worker's socket; raises OSError."""

    def __init__(
        self, hello: Hello, *, spread: Spread, foreign: ForeignRows, observer: LinksObserver, dial: Dial
    ) -> None:
        self._hello = hello
        self._spread = spread
        self._foreign = foreign
        self._observer = observer
        self._dial = dial
        self._links: dict[int, WorkerLink] = {}
        self._alive: dict[int, int] = {}
        #: Worker -> its last life that has ended.
        self._dead: dict[int, int] = {}
        self._to_dial: set[int] = set()
        self._draining: set[int] = set()
        self._answerers: dict[str, AnswerAsk] = {}
        self._asked: dict[Life, dict[int, _Asked]] = {}
        self._numbers = itertools.count(1)
        self._watchers: list[DeathWatcher] = []
        self._on_opened: list[Callable[[Life], None]] = []
        self._bell = Bell()
        self._changed = trio.Event()
        #: False until the journal is read: other questions than those of EARLY are answered `unknown`.
        self.is_serving = True
        spread.on_rows = self._ring
        spread.on_marked = self._tell_marked
        foreign.connect(self)

    # -- who lives; called by `Peers`

    def peer_linked(self, worker: int, incarnation: int) -> None:
        """That worker's socket is there; it wants no rows before `peer_up`."""
        if self._alive.get(worker) != incarnation:
            self._draining.add(worker)
            self._meet(worker, incarnation)

    def peer_up(self, worker: int, incarnation: int) -> None:
        """That worker is ready. Said again of the same life, it changes nothing."""
        self.peer_draining(worker, incarnation, is_over=True)
        if self._alive.get(worker) != incarnation:
            self._meet(worker, incarnation)

    def _meet(self, worker: int, incarnation: int) -> None:
        self._alive[worker] = incarnation
        if worker < self._hello.worker:
            self._to_dial.add(worker)
            self._bell.ring()

    def peer_died(self, worker: int, incarnation: int) -> None:
        """That life will say nothing more; what it said is read first."""
        if self._alive.get(worker) == incarnation:
            del self._alive[worker]
        life, link = Life(worker, incarnation), self._links.get(worker)
        if link is not None and link.life == life:
            link.close(after_s=READ_S)
        else:
            self._end(life)

    def peer_draining(self, worker: int, incarnation: int, *, is_over: bool) -> None:
        """It wants no new rows: they wait here until it is over, one way or the other."""
        (self._draining.discard if is_over else self._draining.add)(worker)
        link = self._links.get(worker)
        if link is not None:
            link.is_draining = not is_over
            link.ring()

    def watch_deaths(self, watcher: DeathWatcher) -> None:
        self._watchers.append(watcher)

    def watch_openings(self, opened: Callable[[Life], None]) -> None:
        """Called when there is a link with that life: what could not be asked before can be now."""
        self._on_opened.append(opened)

    def lives(self) -> list[Life]:
        """Those with a link."""
        return [link.life for link in self._links.values() if link.life is not None]

    async def wait_linked(self, lives: Collection[Life]) -> None:
        """There is a link with each of these, or it has ended, maybe before anybody here was told of it."""
        while any(self._alive.get(life.worker) == life.incarnation and life not in self.lives() for life in lives):
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- questions

    def answer_with(self, what: str, answer: AnswerAsk) -> None:
        """Questions of this kind are answered by that call: it calls its `reply` once, then or later."""
        self._answerers[what] = answer

    async def ask(
        self, worker: int, what: str, head: dict[str, Any], body: bytes | memoryview = b"", *, take: Take | None = None
    ) -> memoryview:
        """The answer of that worker. Raises WorkerGone, Overloaded.

        take: for an answer that brings something that its sender has not got any more. If cancelled: the answer is
        dropped when it comes, but for `take`, which gets it all the same.
        """
        link = self._links.get(worker)
        life = None if link is None else link.life
        if link is None or life is None:
            raise WorkerGone(worker)
        open_ = self._asked.setdefault(life, {})
        if len(open_) >= ASKS_MAX:
            raise Overloaded("questions to one worker", len(open_), ASKS_MAX)
        number = next(self._numbers) & U32_MAX
        asked = open_[number] = _Asked(take)
        link.send(Ask(number, what, head, memoryview(body)))
        try:
            await asked.done.wait()
        finally:
            if take is None:
                open_.pop(number, None)
        if asked.answer is None or not asked.answer.is_known:
            raise WorkerGone(worker)
        return asked.answer.body

    # -- the links

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One link that another worker dialed, to its end."""
        await self._run_link(stream)

    async def run(self) -> None:
        """Dials who is to be dialed until cancelled. Raises LinkLost. If cancelled: all dialed links close."""
        async with trio.open_nursery() as nursery:
            self._bell.ring()
            while True:
                await self._bell.wait()
                while self._to_dial:
                    worker = self._to_dial.pop()
                    nursery.start_soon(self._keep_dialed, worker, self._alive.get(worker, -1))

    async def _keep_dialed(self, worker: int, incarnation: int) -> None:
        """A link to that life of the worker, until it has ended."""
        while self._alive.get(worker) == incarnation:
            try:
                stream = await self._dial(worker)
            except OSError:
                await trio.sleep(_DIAL_AGAIN_S)
                continue
            if await self._run_link(stream) != Life(worker, incarnation):
                # The socket of another life, or one that was closed before it had spoken.
                await trio.sleep(_DIAL_AGAIN_S)
                continue
            await trio.sleep(LOST_S)
            if self._alive.get(worker) != incarnation:
                return
            raise LinkLost(f"the link to worker {worker} ended, and it lives")

    async def _run_link(self, stream: trio.abc.Stream) -> Life | None:
        """Whose link it was."""
        link = WorkerLink(stream, self._hello, self)
        try:
            await link.run()
        except* RemoteProtocolError as group:
            for error in _leaves(group):
                self._observer.broken(-1 if link.life is None else link.life.worker, error)
        life = link.life
        if life is None or self._links.get(life.worker) is not link:
            return None
        del self._links[life.worker]
        self._observer.ended(life.worker)
        if self._alive.get(life.worker) != life.incarnation:
            self._end(life)
        # Else it is not known to be dead, and may be sending what it holds: taken back when it is.
        return life

    def _end(self, life: Life) -> None:
        """That life is over: told once."""
        if life.incarnation <= self._dead.get(life.worker, -1):
            return
        self._dead[life.worker] = life.incarnation
        self._change()
        for asked in self._asked.pop(life, {}).values():
            asked.done.set()
        self._foreign.on_died(life)
        self._spread.on_died(life.worker)
        for watcher in self._watchers:
            watcher.on_died(life)

    def _ring(self, worker: int) -> None:
        link = self._links.get(worker)
        if link is not None:
            link.ring()

    # -- what foreign rows have to tell

    def news_later(self, life: Life, rows: int) -> None:
        link = self._links.get(life.worker)
        if link is not None:
            link.ring_within(GATHER_S if rows < MANY_ROWS else GATHER_MANY_S)

    def news_soon(self, life: Life) -> None:
        link = self._links.get(life.worker)
        if link is not None:
            link.ring_within(SOON_S)

    def news_whole(self, life: Life) -> None:
        link = self._links.get(life.worker)
        if link is not None:
            link.ring_whole()

    def late_news(self, life: Life, *, is_some: bool) -> None:
        link = self._links.get(life.worker)
        if link is not None:
            link.ring_late(is_some=is_some)

    def late_news_now(self, life: Life) -> None:
        """Late news waits no longer."""
        link = self._links.get(life.worker)
        if link is not None:
            link.ring_late_now()

    def news_now(self, life: Life) -> None:
        link = self._links.get(life.worker)
        if link is not None:
            link.ring_reports()

    def credit_now(self, life: Life) -> None:
        link = self._links.get(life.worker)
        if link is not None and link.life == life:
            link.give_credit()

    def _tell_marked(self, worker: int, number: int) -> None:
        link = self._links.get(worker)
        if link is not None:
            link.send(Marked(number))

    # -- the ends of a link

    def opened(self, link: WorkerLink, life: Life) -> bool:
        other = self._links.get(life.worker)
        if life.incarnation <= self._dead.get(life.worker, -1) or (other is not None and other.life == life):
            return False
        if other is not None and other.life is not None:
            # The next life speaks, so the one before is over, whether the supervisor has said so or not.
            other.close()
            del self._links[life.worker]
            self._observer.ended(life.worker)
            self._end(other.life)
        self._links[life.worker] = link
        self._change()
        link.is_draining = life.worker in self._draining
        self._observer.opened(life.worker)
        for opened in self._on_opened:
            opened(life)
        return True

    def on_slice(self, life: Life, slice_: Slice) -> None:
        self._foreign.on_slice(life, slice_)

    def on_outcomes(self, life: Life, message: Outcomes) -> None:
        if life.incarnation <= self._dead.get(life.worker, -1):
            self._spread.on_stray_outcomes(life.worker, message.n)
        else:
            self._spread.on_outcomes(life.worker, message)

    def on_marked(self, life: Life, number: int) -> None:
        self._foreign.on_marked(life, number)

    def on_ask(self, life: Life, ask: Ask) -> None:
        answer = self._answerers.get(ask.what)
        reply = functools.partial(self._reply, life, ask.number)
        if answer is None or not (self.is_serving or ask.what in EARLY):
            reply(b"", is_known=False)
        else:
            answer(life, ask.head, ask.body, reply)

    def _reply(self, life: Life, number: int, body: bytes | memoryview, *, is_known: bool = True) -> None:
        link = self._links.get(life.worker)
        if link is not None and link.life == life:
            link.send(Answer(number, memoryview(body), is_known))

    def on_answer(self, life: Life, answer: Answer) -> None:
        asked = self._asked.get(life, {}).pop(answer.number, None)
        if asked is not None:
            asked.answer = answer
            asked.done.set()
            if asked.take is not None and answer.is_known:
                asked.take(life, answer.body)

    def next_report(self, life: Life, *, with_late: bool) -> Report | None:
        return self._foreign.next_report(life, with_late=with_late)

    def take_credit(self, life: Life) -> tuple[int, int]:
        return self._foreign.take_credit(life)

    def next_slice(self, life: Life, rows_max: int) -> Slice | None:
        link = self._links.get(life.worker)
        if link is None or link.life != life:
            # Another life has taken its place: these rows are that one's.
            return None
        return self._spread.next_slice(life.worker, rows_max)


def make_hello(worker: int, incarnation: int, workers: int, *, credit_rows: int, credit_bytes: int) -> Hello:
    """What a worker says of itself."""
    return Hello(VERSION, worker, incarnation, workers, credit_rows, credit_bytes)


def _leaves(group: BaseExceptionGroup[Any]) -> list[Any]:
    return [
        leaf
        for each in group.exceptions
        for leaf in (_leaves(each) if isinstance(each, BaseExceptionGroup) else [each])
    ]
