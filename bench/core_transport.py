"""The three ends that the core benchmark puts in place of sockets: a client's, a vendor's, and the phones'."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import trio

from gateway.actors.long_link import LongLink
from gateway.columns import I32, U8, U16
from gateway.core.devices import DeviceTable
from gateway.ledger import Channel
from gateway.net.edge_table import FLAG_QOS_1, FLAG_SUBSCRIBED
from gateway.wire.h2.connection import ClientConnection
from gateway.wire.h2.frames import ACK, END_HEADERS, END_STREAM, FrameType
from gateway.wire.mqtt.session import SessionState
from gateway.wire.rpc import codec, proof
from gateway.wire.rpc.framing import FrameReader, frame
from gateway.wire.rpc.messages import Challenge, Hello, Submit, Welcome

STREAMS_MAX = 1000
#: What the transport announces: windows that never stop a burst, as a vendor near by would.
_WINDOW = 1 << 30
#: Of the chunks of bytes handed over, every so many is kept for the comparison: 2 %.
_SAMPLE_EVERY = 50
_SETTINGS = struct.pack(">HLHL", 3, STREAMS_MAX, 4, _WINDOW)
_STATUS_200 = 0x88


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">L", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">L", stream) + payload


#: Answers to as many requests as may be open; their stream ids are laid over it.
_ANSWERS = _frame(FrameType.HEADERS, END_HEADERS | END_STREAM, 0, bytes([_STATUS_200])) * STREAMS_MAX
_ANSWER_BYTES = len(_ANSWERS) // STREAMS_MAX


def greeting() -> bytes:
    """What a vendor says first: its settings, ours acknowledged, a window that never stops a burst."""
    settings = _frame(FrameType.SETTINGS, 0, 0, _SETTINGS) + _frame(FrameType.SETTINGS, ACK, 0, b"")
    return settings + _frame(FrameType.WINDOW_UPDATE, 0, 0, struct.pack(">L", _WINDOW))


def good_answers(machine: ClientConnection, answered: int, sent: int) -> bytes:
    """`:status 200` to requests answered..sent of the connection, and credit where it wants some."""
    n = sent - answered
    assert n <= STREAMS_MAX, f"{n} streams open, limit {STREAMS_MAX}"
    data: bytes | bytearray = bytearray(_ANSWERS[: n * _ANSWER_BYTES])
    np.ndarray((n,), ">u4", data, 5, (_ANSWER_BYTES,))[:] = np.arange(answered * 2 + 1, sent * 2 + 1, 2)
    if not answered:
        # The client allows no header table: the first block says that it is empty (RFC 7541 section 4.2).
        data = _frame(FrameType.HEADERS, END_HEADERS | END_STREAM, 1, bytes([0x20, _STATUS_200])) + data[10:]
    window = machine.send_window()
    if window < _WINDOW // 2:
        return _frame(FrameType.WINDOW_UPDATE, 0, 0, struct.pack(">L", _WINDOW - window)) + data
    return bytes(data)


class CountingStream(trio.abc.Stream):
    """A vendor's end: counts what it is given and answers every request with `:status 200`, in order.

    It need not parse what it counts: request k of a connection has stream id 2k + 1, and how many requests the bytes
    of one write hold is what the connection says it has sent.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.channel = Channel.NONE
        #: (is measured, bytes): what `core_check` gives to `h2`, in order.
        self.chunks: list[tuple[bool, bytes]] = []
        self._connection: Any = None
        self._is_sampling = False
        self._writes = 0
        self._sent = 0
        self._answered = 0
        self._has_greeted = False
        self._bell = trio.Event()

    def attach(self, connection: Any) -> None:
        self._connection = connection

    def start_sampling(self) -> None:
        self._is_sampling = True
        self._writes = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._sent = self._connection.machine.sent_count()
        self.bytes += len(data)
        # The beginning of the connection fills the header table that later chunks refer to.
        if not self._is_sampling or self._writes % _SAMPLE_EVERY == 0:
            if not self._is_sampling and len(self.chunks) >= 8:
                pass
            else:
                self.chunks.append((self._is_sampling, bytes(data)))
                if not self.channel and b"/3/device/" in self.chunks[-1][1]:
                    self.channel = Channel.APNS
                elif not self.channel and b"{" in self.chunks[-1][1]:
                    self.channel = Channel.FCM
        self._writes += 1
        self._bell.set()
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._has_greeted:
            self._has_greeted = True
            await trio.lowlevel.checkpoint()
            return greeting()
        while self._sent == self._answered:
            self._bell = trio.Event()
            await self._bell.wait()
        await trio.lowlevel.checkpoint()
        return self._answers()

    def _answers(self) -> bytes:
        data = good_answers(self._connection.machine, self._answered, self._sent)
        self._answered = self._sent
        return data

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class CountingEdge:
    """The phones' end: the table of the long link holds the online devices as if they had connected and subscribed;
    a write is counted instead of made, and acknowledged in the next turn of the loop."""

    def __init__(
        self,
        long_link: LongLink,
        online: np.ndarray[tuple[int], np.dtype[np.int64]],
        ids: U8,
        devices: DeviceTable,
    ) -> None:
        self.rows = 0
        self.chunks: list[tuple[bool, bytes]] = []
        self._link = long_link
        self._is_sampling = False
        self._waiting: deque[tuple[I32, U16]] = deque()
        self._bell = trio.Event()
        table = long_link.table
        fds = np.arange(len(online), dtype=np.int32)
        table.generation[fds] = 1
        table.state[fds] = SessionState.CONNECTED
        table.flags[fds] = FLAG_SUBSCRIBED | FLAG_QOS_1
        table.device_id[fds] = ids[online]
        for fd, row in enumerate(devices.find(ids[online], 0).tolist()):
            devices.set_online(row, fd, 1, 0)
        long_link.edge.write_rows = self.write_rows  # type: ignore[method-assign]
        long_link.edge.calls.write = self.write  # type: ignore[method-assign]

    def start_sampling(self) -> None:
        self._is_sampling = True

    def write(self, fds: I32, packets: U8 | list[bytes], now: float) -> list[int]:
        """Takes the place of the calls for rows of distinct devices. Packets of one length stay columns, as they do on
        their way to the system calls."""
        if isinstance(packets, list):
            return self.write_rows(fds.tolist(), packets, now)
        self.rows += len(packets)
        if self._is_sampling:
            self.chunks += [(True, packet.tobytes()) for packet in packets[::_SAMPLE_EVERY]]
        at = _packet_id_at(packets[0].tobytes())
        self._wrote(fds, packets[:, at : at + 2].tobytes())
        return []

    def write_rows(self, fds: Sequence[int], packets: Sequence[bytes | memoryview], now: float) -> list[int]:
        """Takes the place of one write(2) per device. Where the packet id stands follows from the topic's length."""
        self.rows += len(packets)
        if self._is_sampling:
            self.chunks += [(True, bytes(packet)) for packet in packets[::_SAMPLE_EVERY]]
        at = _packet_id_at(packets[0])
        if max(map(len, packets)) < 16_384:
            # The topics have one length, and so have the remaining lengths of packets of more than 130 bytes.
            ids = b"".join([packet[at : at + 2] for packet in packets])
        else:
            ids = b"".join([packet[_packet_id_at(packet) :][:2] for packet in packets])
        self._wrote(np.array(fds, np.int32), ids)
        return []

    def _wrote(self, fds: I32, ids: bytes) -> None:
        """ids: the packet identifiers, two bytes each."""
        self._waiting.append((fds, np.frombuffer(ids, ">u2").astype(np.uint16)))
        self._bell.set()

    async def acknowledge(self) -> None:
        """PUBACKs of everything that was written, as one poll of the edge would bring them."""
        while True:
            await self._bell.wait()
            self._bell = trio.Event()
            while self._waiting:
                fds, packet_ids = self._waiting.popleft()
                generations = self._link.table.generation[fds]
                now = trio.current_time()
                self._link._acks.add(fds, generations, packet_ids, now)
                self._link._acks.settle(now)
                await trio.lowlevel.checkpoint()


def _packet_id_at(packet: bytes | memoryview) -> int:
    at = 1
    while packet[at] & 0x80:
        at += 1
    at += 1
    topic = packet[at] << 8 | packet[at + 1]
    return at + 2 + topic


class FeedStream(trio.abc.Stream):
    """A client's end: says hello, then gives out frames that were encoded before; answers are only counted."""

    def __init__(self, app_key: str, secret: bytes) -> None:
        self.answers = 0
        self.pending_rows = 0
        self._app_key = app_key
        self._secret = secret
        self._reader: FrameReader | None = FrameReader(1 << 20)
        self._welcome = trio.Event()
        self._frames: deque[tuple[int, memoryview]] = deque()
        self._bell = trio.Event()
        self._number = 0
        self._out = b""

    async def wait_welcome(self) -> None:
        await self._welcome.wait()

    def encode(self, submits: Sequence[Submit]) -> list[tuple[int, bytes]]:
        """(rows, frame) of each submit, numbered."""
        frames = []
        for submit in submits:
            self._number += 1
            frames.append((submit.n, frame(codec.encode(msgspec.structs.replace(submit, id=self._number)))))
        return frames

    def put(self, data: bytes, rows: int) -> None:
        self._frames.append((rows, memoryview(data)))
        self.pending_rows += rows
        self._bell.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As a socket does: whatever is there, up to max_bytes."""
        limit = max_bytes or 65_536
        if self._frames or self._out:
            await trio.lowlevel.checkpoint()
        while not self._frames and not self._out:
            self._bell = trio.Event()
            await self._bell.wait()
        parts: list[bytes | memoryview] = [self._out]
        size = len(self._out)
        self._out = b""
        while self._frames and size < limit:
            rows, data = self._frames[0]
            part = data[: limit - size]
            parts.append(part)
            size += len(part)
            if len(part) == len(data):
                self._frames.popleft()
                self.pending_rows -= rows
            else:
                self._frames[0] = (rows, data[len(part) :])
        return b"".join(parts)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._reader is None:
            self.answers += bytes(data).count(b"\xa9submitted")
            return
        self._reader.feed(data)
        while (payload := self._reader.next_payload()) is not None:
            message = codec.decode_from_server(payload)
            if isinstance(message, Challenge):
                nonce = bytes(32)
                mac = proof.client_mac(self._secret, message.nonce, nonce, self._app_key)
                hello = Hello(version=proof.VERSION, app_key=self._app_key, nonce=nonce, mac=mac)
                self._out = frame(codec.encode(hello))
                self._bell.set()
            elif isinstance(message, Welcome):
                self._reader = None
                self._welcome.set()
                return

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
