"""The long link: the actor that owns the edge and the sessions of all devices connected to this worker.

What it does in a step, in this order, and never more than fits into `step_s_max`:

    logins that stood in line -> poll (read) -> PUBACKs of the step, vectorised -> other packets -> accept -> report

The router is the *owner* of devices and rows. It hands rows over with `deliver`, one call for many; it is told by
callbacks what became of them, in columns, at the end of a step. A row that was taken comes back exactly once:
`acknowledged`, or `unacknowledged` with the reason. A row that came back as unacknowledged because of `ACK_TIMEOUT` may
be followed by `acknowledged_late`, which is news, not custody.

Callbacks run inside the step and may call `deliver`, but must not wait or close anything.

Sessions: MQTT 3.1.1 and 5.0, identity and topics as in `docs/device-protocol.md`. The rules are in
`wire/mqtt/session.py`; this file carries them out, and `long_link_resume.py` what outlives a connection.
"""

from __future__ import annotations

import collections
import os
import time
from collections.abc import Callable, Mapping
from typing import assert_never

import numpy as np
import trio

from gateway.actors.long_link_downlink import Downlink, Expiry
from gateway.actors.long_link_login import Logins
from gateway.actors.long_link_moves import Elsewhere, Move, Moves
from gateway.actors.long_link_newcomers import Newcomers
from gateway.actors.long_link_port import App, LongLinkSettings, LongLinkStatistics, Owner, Unacknowledged
from gateway.actors.long_link_resume import Resumption
from gateway.actors.long_link_sessions import Sessions
from gateway.actors.long_link_settling import Acknowledgements
from gateway.actors.precedence import wait_rest
from gateway.columns import I32, I64, U8, U16, U32, Bool, Pieces
from gateway.core.admission import Admission, Rule
from gateway.core.login_turns import LOGINS_WAIT_S, LoginTurns
from gateway.core.step_pauses import SMALL_STEP, StepPauses
from gateway.errors import CloseReason, RemoteProtocolError
from gateway.net.edge import Closed, Edge
from gateway.net.edge_calls import Fours
from gateway.net.edge_table import (
    CLOSE_REASONS,
    FLAG_PARTIAL,
    FLAG_SESSION_EXPIRY,
    ConnectionTable,
    Count,
)
from gateway.pace import Pace
from gateway.wire.mqtt import answers
from gateway.wire.mqtt import packets as mqtt
from gateway.wire.mqtt.packets import PacketType
from gateway.wire.mqtt.publish import Pubacks, are_pubacks, read_pubacks, split_pubacks
from gateway.wire.mqtt.reason_codes import ReasonCode
from gateway.wire.mqtt.session import (
    Act,
    SessionState,
    act_for,
    check_disconnect,
)

#: Rows in one call of `deliver` at most: about what a slice of the router has online. Larger calls leave the cache.
_DELIVER_ROWS_MAX = 1600
#: As numpy compares them at once: an enum member costs six times as much.
_CONNECTED, _PARTIAL = np.uint8(SessionState.CONNECTED), np.uint8(FLAG_PARTIAL)
#: Between two looks at how many connections are to be closed by now.
_CLOSE_LOOK_S = 0.01


class LongLink:
    """The actor. Everything it has is touched by the task in `run` and by callers of `deliver` in the same thread."""

    def __init__(
        self,
        settings: LongLinkSettings,
        apps: Mapping[str, App],
        owner: Owner,
        *,
        admission: Admission | None = None,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
        elsewhere: Elsewhere | None = None,
        are_processors_short: Callable[[float], bool] = lambda now: False,
    ) -> None:
        """elsewhere: the other workers, where there are any. are_processors_short: asked at each tick, see
        core/step_pauses.py. cpu_clock: what steps are measured with, so that a busy machine does not make them smaller:
        small steps cost more per row, and the machine would be busier still."""
        self.settings = settings
        self._owner = owner
        self._admission = admission or Admission(apps)
        self._clock = clock
        self._cpu_clock = cpu_clock
        edge = settings.edge
        self.table = ConnectionTable(edge.files_max, edge.connections_max, now=clock())
        self.edge = Edge(edge, self.table, self._farewell)
        self.edge.refusal_of = self._refusal_of
        self._deliver_pace = Pace(edge.step_s_max, most=_DELIVER_ROWS_MAX)
        self._write_pace = Pace(edge.step_s_max, most=_DELIVER_ROWS_MAX)
        self.downlink = Downlink(settings, self.table, self.edge)
        self.downlink.rows_at_once = self._write_pace.items
        self._sessions = Sessions(settings, self.table, owner, lambda fd, data: self.edge.write(fd, data, clock()))
        self._resumption = Resumption(settings, self.table, self.downlink, self._sessions.exchanges, owner)
        self._closed: list[Closed] = []
        self._logins = Logins(
            settings,
            apps,
            self.table,
            self.edge,
            self._admission,
            owner,
            self._sessions,
            self._resumption,
            self._take_closed,
        )
        turns = LoginTurns(edge.login_step_s_max, edge.step_s_max)
        self.newcomers = Newcomers(turns, self.table, self.edge, cpu_clock, settings.connect_bytes_max)
        self._moves = None if elsewhere is None else Moves(elsewhere, self.table, self.edge)
        self.packets_in = np.zeros(16, np.uint64)
        """(16,) packets by PacketType."""
        self._n_parsed = 0
        """Packets that were more than a plain PUBACK."""
        self._next_tick = clock() + settings.tick_s
        self._drain_until: float | None = None
        self._spread_s = 0.0
        self._has_new_bans = False
        self.pauses = StepPauses()
        self._are_processors_short = are_processors_short
        self._stopped = trio.Event()
        # Reads that did not fit into the step in which they were made: (fd, generation, data).
        self._deferred: collections.deque[tuple[int, int, bytes]] = collections.deque()
        self._acks = Acknowledgements(self.table, self.downlink, owner)

    # The task.

    def listen(self) -> list[tuple[str, int]]:
        """Opens the listeners and returns their addresses. Raises: ConfigError."""
        return self.edge.listen()

    async def run(self) -> None:
        """Serves until `stop` has been called and the connections have drained.

        If cancelled: every connection is closed at once, and the owner is told, before it returns.
        """
        try:
            while not self._is_drained():
                wake_at = self._wake_at()
                # One deadline for all steps until it has passed: a scope of its own for each costs as much as its wait.
                with trio.move_on_after(max(0.0, wake_at - self._clock())):
                    while self._wake_at() == wake_at and not self._is_drained():
                        await self._step_and_wait()
            await self._close_all()
        finally:
            self.dispose()

    async def _step_and_wait(self) -> None:
        busy = self.step(now := self._clock())
        if now >= self._next_tick:
            busy = self.tick(now) or busy
        if self.pauses.wait_s:
            await trio.sleep(self.pauses.wait_s)
        elif busy or len(self.edge.backlog):
            # A row for a vendor needs many turns of the loop, and would find a step of logins in each.
            if self.newcomers:
                await wait_rest(LOGINS_WAIT_S)
            else:
                await trio.lowlevel.checkpoint()
            while self.send_rest():
                await trio.lowlevel.checkpoint()
                if busy or self._clock() >= self.pauses.gather_until:
                    break
        else:
            await trio.lowlevel.wait_readable(self.edge.fileno())
            if (pause_s := self.pauses.gather_until - self._clock()) > 0.0:
                await trio.sleep(pause_s)

    async def _close_all(self) -> None:
        """Every connection is closed, evenly over `_spread_s`: a whole worker's must not be back in one moment."""
        began, n_all = self._clock(), self.table.n_open
        while self.table.n_open:
            now = self._clock()
            due = n_all if now >= began + self._spread_s else int(n_all * (now - began) / self._spread_s)
            closes_max = min(self.edge.pace.items(), due - n_all + self.table.n_open)
            if closes_max > 0:
                self.edge.close_some(CloseReason.SHUTDOWN, closes_max)
                self._report(now)
                await trio.lowlevel.checkpoint()
            else:
                self.step(now)
                await trio.sleep(max(_CLOSE_LOOK_S, min(self.settings.tick_s, self._spread_s / n_all)))

    def stop(self, drain_s: float, spread_s: float = 0.0) -> None:
        """No connection and no row is taken from now on. `run` returns when PUBACKs are in or `drain_s` is over, and
        then the connections have been closed, evenly over `spread_s`."""
        self.edge.stop_listening()
        self._spread_s = spread_s
        self._drain_until = self._clock() + drain_s
        self._resumption.end_all()
        self.edge.wake()

    @property
    def is_disposed(self) -> bool:
        """Everything is closed; this object will not serve again."""
        return self._stopped.is_set()

    async def wait_stopped(self) -> None:
        """Returns when every connection is closed and reported. If cancelled: nothing changes."""
        await self._stopped.wait()

    def dispose(self) -> None:
        """Closes whatever is open and reports it. Idempotent."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._resumption.end_all()
        try:
            self.edge.close_some(CloseReason.SHUTDOWN, self.table.files_max)
            self._report(self._clock())
        finally:
            self.edge.dispose()

    def _is_drained(self) -> bool:
        if self._drain_until is None:
            return False
        return self.downlink.in_flight.n_waiting() == 0 or self._clock() >= self._drain_until

    def _wake_at(self) -> float:
        others = (self._drain_until, self.edge.accept_again_at)
        return min([self._next_tick, *(other for other in others if other is not None)])

    def step(self, now: float) -> bool:
        """One bounded step; true when there is more to do, so that another one is worth while at once."""
        started, n_parsed = self._cpu_clock(), self._n_parsed
        self.newcomers.turns.begin(started, now)
        self.newcomers.take(self._take_packets, now)
        self.edge.resume_accepting(now)
        n_reads, n_ended, may_read = 0, 0, True
        if self._deferred:
            self._take_deferred(now, started)
            may_read = not self._deferred and self._cpu_clock() - started < self.settings.edge.step_s_max / 2
        if may_read:
            reads = self.edge.poll(now)
            if len(reads.fours.fds):
                self._take_fours(reads.fours, now)
            if reads.fds:
                self._take_reads(reads.fds, reads.data, now)
            if self._deferred:
                self._take_deferred(now, started)
            for fd, reason in reads.ended:
                if self.table.state_at[fd]:
                    self.edge.close(fd, reason)
            n_reads, n_ended = len(reads.fds) + len(reads.fours.fds), len(reads.ended)
        has_more = bool(self._deferred or self.newcomers) or (may_read and self.edge.may_have_more)
        n_others = self._n_parsed - n_parsed + n_ended
        n_in_flight = len(self.downlink.in_flight) - len(self._acks)
        self.pauses.on_step(now, n_reads, n_others, n_in_flight, is_cut=self.edge.may_have_more)
        # They wait where another step is certain to come, of itself.
        if not (has_more or self.pauses.wait_s) or not self._acks.may_wait(now):
            self._acks.settle(now)
        if n_reads + n_ended >= SMALL_STEP:
            # What a smaller one cost was the step, not its reads.
            self.edge.pace.on_step(n_reads + n_ended, self._cpu_clock() - started)
        accepts_max = self.newcomers.turns.accepts_max(len(self.newcomers), now)
        if n_accepted := self.edge.accept(now, accepts_max):
            n_others += n_accepted
            self.pauses.end()
            if n_accepted < accepts_max and (rest_s := self.newcomers.turns.came(n_accepted, now)):
                self.edge.rest_accepting(now + rest_s)
        self._report(now)
        self.newcomers.turns.end(self._cpu_clock())
        return has_more or n_others >= SMALL_STEP or len(self._acks) > 0

    def tick(self, now: float) -> bool:
        """The scans over deadlines; true when some are left for another step."""
        closes_max = self.edge.pace.items()
        self.pauses.is_short = self._are_processors_short(now)
        self._acks.settle(now)
        has_more = self.edge.close_overdue(now, closes_max) >= closes_max
        has_more = self._close_banned(closes_max) or has_more
        if not has_more:
            self._next_tick = now + self.settings.tick_s
        self._resumption.tick(now)
        self._report(now)
        lapsed = self.downlink.lapse(now)
        if len(lapsed):
            self._owner.unacknowledged(lapsed, Unacknowledged.ACK_TIMEOUT)
        return has_more

    def bans_changed(self) -> None:
        """The bans of the admission are others: open connections of banned devices are closed within a tick."""
        self._has_new_bans = True

    def _close_banned(self, closes_max: int) -> bool:
        """True when some are left for another step."""
        if not self._has_new_bans:
            return False
        table = self.table
        found = [fd for app, ids in self._admission.banned_devices().items() for fd in table.find_devices(app, ids)]
        for fd in found[:closes_max]:
            self.edge.close(fd, CloseReason.BANNED)
        self._has_new_bans = len(found) > closes_max
        return self._has_new_bans

    def _farewell(self, reason: CloseReason, packet_bytes_max: int) -> bytes | None:
        return answers.farewell(reason, packet_bytes_max, self.settings.server_reference)

    def _refusal_of(self, address: str, now: float) -> CloseReason | None:
        rule = self._admission.check_address(address, now)
        return (
            None if rule is None else CloseReason.BANNED if rule is Rule.BANNED_ADDRESS else CloseReason.LOGIN_BACKOFF
        )

    def _count(self, counter: Count, by: int = 1) -> None:
        self.table.count_at[counter] += by

    # Connections of devices that are owned here, accepted by other workers; and the other way round.

    def adopted(self, n: int) -> float:
        """So many were, all that were there: seconds for which others are left to gather."""
        return self.newcomers.turns.came(n, self._clock())

    def adopt(self, fd: int, address: str, data: bytes) -> None:
        """Dealt with in the next step as if accepted here; closed, if this one has crashed. fd -1: it did not come."""
        if (self._drain_until is not None or self.is_disposed) and fd >= 0:
            os.close(fd)
            fd = -1
        if self.edge.moves.adopt(fd, address, self._clock()):
            self._deferred.append((fd, self.table.generation_at[fd], data))
            self.edge.wake()

    def owner_is_back(self, worker: int) -> None:
        """That worker takes connections again: those that waited for it are looked at in the next step."""
        if self._moves is not None:
            self._deferred += [(fd, generation, b"") for fd, generation in self._moves.take_waiting(worker)]
            self.edge.wake()

    # Uplink.

    def _take_reads(self, fds: list[int], data: list[bytes], now: float) -> None:
        """PUBACKs that came alone are settled in columns; whatever else there is goes through the packet parser."""
        table = self.table
        fds_array = np.array(fds, np.int32)
        table.touch(fds_array, now)
        for position in self._take_pubacks(fds_array, split_pubacks(data), now):
            self._deferred.append((fds[position], table.generation_at[fds[position]], data[position]))

    def _take_fours(self, fours: Fours, now: float) -> None:
        """The same for reads that are columns already. Usually everybody is in a session and between two packets."""
        table = self.table
        if table.n_open == table.n_connected and not len(self.edge.partial) and are_pubacks(fours.words):
            self.packets_in[PacketType.PUBACK] += len(fours.fds)
            self._acks.add_read(fours.fds, table.generation.take(fours.fds), fours.words, now)
            return
        table.touch(fours.fds, now)
        for position in self._take_pubacks(fours.fds, read_pubacks(fours.words), now):
            fd = int(fours.fds[position])
            self._deferred.append((fd, table.generation_at[fd], fours.words[position].tobytes()))

    def _take_pubacks(self, fds: I32, pubacks: Pubacks, now: float) -> list[int]:
        """Settles what is a PUBACK of a session; the positions of all other reads."""
        table = self.table
        acking = fds[pubacks.is_puback]
        if len(acking):
            is_plain = (table.state[acking] == _CONNECTED) & (table.flags[acking] & _PARTIAL == 0)
            if np.count_nonzero(is_plain) < len(acking):
                pubacks, acking = pubacks.take(is_plain), acking[is_plain]
            by = acking if pubacks.counts is None else np.repeat(acking, pubacks.counts)
            self.packets_in[PacketType.PUBACK] += len(by)
            self._acks.add(by, table.generation[by], pubacks.packet_ids, now)
        others: list[int] = np.flatnonzero(~pubacks.is_puback).tolist()
        return others

    def _take_deferred(self, now: float, started: float) -> None:
        """Parses reads until the step that began at `started` is over; nothing else is read before all are done.

        A client that sends its smallest packets as fast as it can costs the others a step now and then, no more.
        """
        take_one = self.newcomers.take_one
        while self._deferred:
            fd, generation, data = self._deferred.popleft()
            # A takeover or an eviction may have closed it in the meantime.
            if self.table.generation_at[fd] == generation and not take_one(self._take_packets, fd, data, now):
                self._take_packets(fd, data, now)
            if self._cpu_clock() - started >= self.settings.edge.step_s_max:
                break

    def _take_packets(self, fd: int, data: bytes, now: float) -> None:
        """Parses and carries out what has come on one connection; closes it where it breaks a rule."""
        table, edge = self.table, self.edge
        unparsed = edge.join_partial(fd, data)
        generation = table.generation_at[fd]
        replies = bytearray()
        at = 0
        try:
            while True:
                is_connected = table.state_at[fd] == SessionState.CONNECTED
                limit = self.settings.packet_bytes_max if is_connected else self.settings.connect_bytes_max
                found = mqtt.next_packet(unparsed, at, limit, self._sessions.version(fd))
                if found is None:
                    break
                packet, after = found
                if self._moves is not None and not is_connected and isinstance(packet, mqtt.Connect):
                    move = self._moves.consider(fd, packet, bytes(memoryview(unparsed)[at:]))
                    if move is Move.GONE:
                        return
                    if move is Move.WAITS:
                        break
                at = after
                self._carry_out(fd, packet, replies, now)
                if table.generation_at[fd] != generation:
                    return
        except RemoteProtocolError as error:
            self._refuse(fd, replies, self._logins.answer_fault(fd, error, replies), now)
            return
        edge.keep_partial(fd, unparsed, at, now)
        if replies and table.generation_at[fd] == generation:
            edge.write(fd, replies, now)

    def _refuse(self, fd: int, replies: bytearray, reason: CloseReason, now: float) -> None:
        """Says what is still to be said and closes."""
        generation = self.table.generation_at[fd]
        if replies:
            self.edge.write(fd, replies, now)
        if self.table.generation_at[fd] == generation:
            self.edge.close(fd, reason)

    def _carry_out(self, fd: int, packet: mqtt.Packet, replies: bytearray, now: float) -> None:
        """Does what the packet asks for; answers go to `replies`. Raises: RemoteProtocolError."""
        act = act_for(self.table.state_at[fd], packet)
        self.packets_in[mqtt.TYPE_OF[type(packet)]] += 1
        self._n_parsed += 1
        match act:
            case Act.LOG_IN:
                assert isinstance(packet, mqtt.Connect)
                refusal = self._logins.log_in(fd, packet, replies, now)
                if refusal is not None:
                    self._refuse(fd, replies, refusal, now)
            case Act.TAKE_UPLINK:
                assert isinstance(packet, mqtt.Publish)
                self._sessions.take_uplink(fd, packet, replies)
            case Act.ACKNOWLEDGE:
                assert isinstance(packet, mqtt.Puback)
                is_taken = packet.reason_code < ReasonCode.UNSPECIFIED_ERROR
                self._acks.add_one(fd, self.table.generation_at[fd], packet.packet_id, now, is_taken=is_taken)
            case Act.COMPLETE_UPLINK:
                assert isinstance(packet, mqtt.Pubrel)
                self._sessions.complete_uplink(fd, packet.packet_id, replies)
            case Act.GRANT:
                assert isinstance(packet, mqtt.Subscribe)
                self._sessions.grant(fd, packet, replies)
            case Act.WITHDRAW:
                assert isinstance(packet, mqtt.Unsubscribe)
                self._sessions.withdraw(fd, packet, replies)
            case Act.PONG:
                self._sessions.reply(replies, PacketType.PINGRESP, mqtt.PINGRESP)
            case Act.LEAVE:
                assert isinstance(packet, mqtt.Disconnect)
                may_keep_session = bool(self.table.flags_at[fd] & FLAG_SESSION_EXPIRY)
                check_disconnect(packet, may_keep_session=may_keep_session)
                expiry_s = packet.properties.session_expiry_interval_s
                if expiry_s is not None and self.settings.sessions_max:
                    expiry_s = min(expiry_s, self.settings.session_expiry_s_max)
                    self.table.session_expiry_s_at[fd] = expiry_s
                self._refuse(fd, replies, CloseReason.CLIENT_DISCONNECT, now)
            case _:
                assert_never(act)

    # Reports.

    def _report(self, now: float) -> None:
        """Tells the owner what the step brought: ends first, so that it knows who is offline when rows come back."""
        self._take_closed(now)
        self._resumption.claim(now)
        if self._closed:
            closed, self._closed = self._closed, []
            for ended in closed:
                self._owner.disconnected(ended.slots, ended.fds, ended.generations, ended.reasons)
        lost = self._resumption.take_lost()
        if len(lost):
            self._owner.unacknowledged(lost, Unacknowledged.CONNECTION_CLOSED)
        if self._resumption.send(now):
            self.edge.wake()
        sent_qos_0 = self.downlink.take_sent_qos_0()
        if len(sent_qos_0):
            self._owner.unacknowledged(sent_qos_0, Unacknowledged.QOS_0)
        if self._sessions.subscribed:
            rows, self._sessions.subscribed = np.array(self._sessions.subscribed, np.int64), []
            fds, generations = rows[:, 0].astype(np.int32), rows[:, 1].astype(np.uint32)
            live = self.table.is_live(fds, generations)
            if live.any():
                fds, generations = fds[live], generations[live]
                self._owner.subscribed(self.table.slot[fds], fds, generations, now)

    def _take_closed(self, now: float) -> None:
        """Connections that ended since the last call leave behind what their sessions keep."""
        if self.edge.has_closed():
            # They acknowledged before they went.
            self._acks.settle(now)
            closed = self.edge.take_closed()
            self._resumption.on_closed(closed, now)
            self._closed.append(closed)

    # Downlink.

    def deliver_rows_max(self) -> int:
        """How many rows fit into one step of the loop at the measured pace: the slice to call `deliver` with."""
        # One more than is written at once: only longer calls teach what a call costs beside its writes.
        return max(self._deliver_pace.items(), self._write_pace.items() + 1)

    def send_rest(self) -> bool:
        """Writes a step's worth of the rows that were taken and are still to be written; False where none are."""
        sent = 0
        if len(self.edge.backlog):
            started = self._cpu_clock()
            sent = self.edge.backlog.send(self._write_pace.items(), self._clock())
            if sent >= SMALL_STEP:
                self._write_pace.on_step(sent, self._cpu_clock() - started)
        if self.edge.has_closed():
            self.edge.wake()
        return sent > 0

    def deliver(
        self,
        fds: I32,
        generations: U32,
        device_ids: U8,
        tags: I64,
        payload: Pieces,
        now: float,
        expiry_s: Expiry | None = None,
    ) -> Bool:
        """Takes rows for connected devices: (n,) true where the row is written or pending and will be reported once.

        fds (n,) int32, generations (n,) uint32, device_ids (n, 16), tags (n,) the caller's names, payload: pieces of
        n rows, expiry_s: asked for rows of MQTT 5.0 alone. Not taken: connection gone or another one, not subscribed,
        window or pending output full, longer than the client takes, draining.
        Several rows of one device are written in their order and in one write.
        """
        if self._drain_until is not None:
            self._count(Count.REFUSED_OFFLINE, len(fds))
            return np.zeros(len(fds), np.bool_)
        # What few rows cost is the call, not the rows: no pace learns from it, and the clock is a system call.
        is_small = len(fds) < SMALL_STEP
        started = 0.0 if is_small else self._cpu_clock()
        self._resumption.claim(now)
        waited = len(self.edge.backlog)
        taken = self.downlink.deliver(fds, generations, device_ids, tags, payload, now, expiry_s)
        if (wait := len(self.edge.backlog)) and not waited:
            # Whoever gave them may be one who does not care for the rest.
            self.edge.wake()
        if not is_small:
            pace = self._deliver_pace if wait > waited else self._write_pace
            pace.on_step(int(np.count_nonzero(taken)), self._cpu_clock() - started)
        self.pauses.on_delivered(now, len(self.downlink.in_flight))
        return taken

    def redeliver(
        self,
        fds: I32,
        device_ids: U8,
        packet_ids: U16,
        payload: Pieces,
        now: float,
        expiry_s: Expiry | None = None,
    ) -> Bool:
        """Sends rows again that `Owner.resumed` named, with DUP; (n,) true where it did. Columns as in `deliver`."""
        return self.downlink.redeliver(fds, device_ids, packet_ids, payload, now, expiry_s)

    # Seeing.

    def statistics(self) -> LongLinkStatistics:
        """Counts since start and sizes of everything that can grow."""
        packets_out = self._sessions.packets_out.copy()
        packets_out[PacketType.PUBLISH] += self.downlink.n_published
        packets_out[PacketType.DISCONNECT] += self.table.counts[Count.FAREWELLS]
        return LongLinkStatistics(
            connections=self.table.n_open,
            connected=self.table.n_connected,
            in_flight=len(self.downlink.in_flight),
            side_tables={
                **self.edge.statistics(),
                "qos_2_unreleased": len(self._sessions.exchanges),
                "acks_owed": len(self._sessions.owed),
                **self._resumption.sizes(),
            },
            counts={count.name.lower(): int(self.table.counts[count]) for count in Count},
            closed={reason.value: int(n) for reason, n in zip(CLOSE_REASONS, self.table.closed, strict=True)},
            packets_in={kind.name.lower(): int(self.packets_in[kind]) for kind in PacketType},
            packets_out={kind.name.lower(): int(packets_out[kind]) for kind in PacketType},
            connacks=self._logins.connacks_by_name(),
        )
