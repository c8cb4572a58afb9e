"""Many devices in one process: what `bench longlink` loads a gateway or another broker with.

    python -m bench.longlink_generator      commands on stdin, one answer each on stdout, as lines of JSON

Theory of operation. A device is a row in columns: file descriptor, phase, messages received. There is no object per
socket; what epoll says is done at once by system calls on descriptors, and only packets that arrive in parts are kept
aside. So this process costs a few microseconds per message and is not what is measured. It speaks just as much MQTT
3.1.1 as it needs (CONNECT and SUBSCRIBE in one write, PUBACK at once) and counts whatever it did not expect.

Two clocks end a latency. `latency` ends when this process has read the message: what this process waits for a CPU that
it shares with the server, and for its turn among the other devices here, is in it, and no phone has that. `at_socket`
ends when the message is in the device's socket, by the kernel's time stamp (SO_TIMESTAMPNS, socket(7)).

Device number i has the id `device_id(i)`, whatever process it lives in.
"""

from __future__ import annotations

import base64
import errno
import gc
import hashlib
import heapq
import hmac
import json
import math
import os
import random
import select
import socket
import struct
import sys
import time
from array import array
from typing import Any

from bench.devices.mqtt import connect as connect_packet
from bench.devices.mqtt import subscribe as subscribe_packet

#: Handshakes under way at once, below the usual listen backlog.
CONNECTING_MAX = 256
KEEPALIVE_S = 1200
_READ_BYTES = 65_536
#: Of stamped messages, a few hundred bytes each; the buffer is made for every read, and a large one is mapped anew.
_STAMPED_BYTES = 2_048
_EVENTS_MAX = 512
_NONE, _CONNECTING, _GREETING, _READY = range(4)
_PUBLISH_QOS_1 = 0x32
_DUP = 0x08
_SENT_MARK = b'"sent":"'
#: From asm-generic/socket.h: the time at which the kernel had the packet, as struct timespec of the wall clock.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_NOTES_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
#: How often the end of a wait is looked for.
_LOOK_S = 0.1


def device_id(index: int) -> bytes:
    """16 bytes."""
    return hashlib.blake2b(index.to_bytes(8, "big"), digest_size=16).digest()


def password(secret: bytes, device: bytes) -> str:
    """Of docs/device-protocol.md."""
    mac = hmac.new(secret, b"mqtt1:" + device.hex().encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


class Generator:
    """Devices first..first + n of one command `connect`; see `_commands` for the others."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._epoll.register(0, select.EPOLLIN)
        os.set_blocking(0, False)
        self._input = b""
        self._first = 0
        self._where = ("127.0.0.1", 0)
        self._sources: list[str] = []
        self._user = ""
        self._secret = b""
        self._fds = array("i")
        self._phase = bytearray()
        #: CONNECT and SUBSCRIBE of each device.
        self._hellos: list[bytes] = []
        self._received = array("I")
        self._index_of: dict[int, int] = {}
        self._partial: dict[int, bytes] = {}
        #: (when, device) of those that come back, a heap; and numbers of those that connect as soon as there is room.
        self._due: list[tuple[float, int]] = []
        self._to_connect: list[int] = []
        self._n_connecting = self._n_ready = 0
        self._comes_back_within_s = 0.0
        self._churn_per_s = 0.0
        self._churn_at = 0.0
        self._n_received = self._n_bytes = self._n_dup = self._n_lost = self._n_failed = self._n_churned = 0
        self._last_ns = self._ready_ns = 0
        self._latencies_ns: array[int] | None = None
        self._at_socket_ns = array("q")
        self._stamp_ns = 0
        """When the kernel had what was read last, 0 where it does not say; wall clock, which is `_epoch_ns` ahead."""
        self._epoch_ns = 0
        #: (what is waited for, how many of it, deadline)
        self._waiting: tuple[str, int, float] | None = None
        self._random = random.Random(0)

    def run(self) -> None:
        """Until `quit`, or until stdin ends."""
        while True:
            for fd, _ in self._epoll.poll(self._timeout_s(), _EVENTS_MAX):
                if fd == 0:
                    if not self._read_commands():
                        return
                else:
                    self._on_event(fd)
            if self._due or self._churn_per_s:
                self._on_time()
            while self._to_connect and self._n_connecting < CONNECTING_MAX:
                self._connect(self._to_connect.pop())
            if self._waiting is not None:
                self._answer_wait()

    # -- commands

    def _read_commands(self) -> bool:
        data = os.read(0, _READ_BYTES)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            name = command.pop("cmd")
            if name == "quit":
                return False
            getattr(self, f"on_{name}")(**command)
        return bool(data)

    def _answer(self, **figures: Any) -> None:
        sys.stdout.write(json.dumps(figures) + "\n")
        sys.stdout.flush()

    def on_connect(
        self,
        host: str,
        port: int,
        first: int,
        n: int,
        user: str,
        secret: str,
        sources: list[str],
        comes_back_within_s: float = 0.0,
    ) -> None:
        """All devices connect and subscribe; the answer comes at once, `wait` for `ready`."""
        self._where, self._sources, self._first = (host, port), sources, first
        self._user, self._secret = user, secret.encode()
        self._comes_back_within_s = comes_back_within_s
        self._fds = array("i", [-1]) * n
        self._phase = bytearray(n)
        self._received = array("I", [0]) * n
        self._to_connect = list(range(n - 1, -1, -1))
        # Made before the clock starts: their HMAC is no part of what a server is asked for.
        self._hellos = [self._hello(index) for index in range(n)]
        self._answer(started_ns=time.monotonic_ns())

    def on_wait(self, what: str, n: int, timeout_s: float) -> None:
        """Answers when so many devices are `ready`, or messages `received` since the start, or after the timeout."""
        self._waiting = (what, n, time.monotonic() + timeout_s)

    def on_churn(self, per_s: float) -> None:
        """So many devices a second close their connection and connect anew; 0 ends it."""
        self._churn_per_s, self._churn_at = per_s, time.monotonic()
        self._answer(**self._figures())

    def on_latencies(self) -> None:
        """From now on messages carry the time at which they were sent, in their data field `sent`; what was noted of
        those before is forgotten."""
        if self._latencies_ns is None:
            for fd in self._index_of:
                self._stamp(fd)
        self._latencies_ns, self._at_socket_ns = array("q"), array("q")
        self._epoch_ns = min(time.time_ns() - time.monotonic_ns() for _ in range(10))
        self._answer(**self._figures())

    def on_take_latencies(self) -> None:
        """All that were noted, in microseconds."""
        self._answer(
            latency_us=[ns // 1000 for ns in self._latencies_ns or ()],
            at_socket_us=[ns // 1000 for ns in self._at_socket_ns],
        )

    def on_nice(self, by: int) -> None:
        """This process gives way to others by so much (nice(2)): phones have processors of their own."""
        os.nice(by)
        self._answer(**self._figures())

    def on_figures(self) -> None:
        """Counts alone."""
        self._answer(**self._figures())

    def on_statistics(self) -> None:
        """Counts; and per device how many messages came, as {messages: devices}."""
        per_device: dict[int, int] = {}
        for count in self._received:
            per_device[count] = per_device.get(count, 0) + 1
        self._answer(
            **self._figures(),
            messages_per_device={str(count): devices for count, devices in sorted(per_device.items())},
        )

    def _figures(self) -> dict[str, Any]:
        return {
            "ready": self._n_ready,
            "received": self._n_received,
            "bytes": self._n_bytes,
            "dup": self._n_dup,
            "lost": self._n_lost,
            "failed": self._n_failed,
            "churned": self._n_churned,
            "last_ns": self._last_ns,
            "ready_ns": self._ready_ns,
            "cpu_s": time.process_time(),
        }

    def _answer_wait(self) -> None:
        assert self._waiting is not None
        what, n, deadline = self._waiting
        if (self._n_ready if what == "ready" else self._n_received) >= n or time.monotonic() >= deadline:
            self._waiting = None
            self._answer(**self._figures())

    # -- time

    def _timeout_s(self) -> float:
        """Until the next thing that no socket tells of; -1: there is none."""
        now = time.monotonic()
        wake_at = self._churn_at + 1.0 / self._churn_per_s if self._churn_per_s else math.inf
        if self._due and self._due[0][0] < wake_at:
            wake_at = self._due[0][0]
        if self._waiting is not None:
            wake_at = min(wake_at, now + _LOOK_S, self._waiting[2])
        return -1.0 if wake_at == math.inf else max(0.0, wake_at - now)

    def _on_time(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            self._to_connect.append(heapq.heappop(self._due)[1])
        if self._churn_per_s:
            count = int((now - self._churn_at) * self._churn_per_s)
            self._churn_at += count / self._churn_per_s
            for _ in range(count):
                index = self._random.randrange(len(self._fds))
                if self._phase[index] == _READY:
                    self._close(index)
                    self._n_churned += 1
                    self._to_connect.append(index)

    # -- connections

    def _connect(self, index: int) -> None:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if self._sources:
            # The kernel chooses the port when it knows both addresses: as many connections as ports, for each source.
            made.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            made.bind((self._sources[(self._first + index) % len(self._sources)], 0))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = made.connect_ex(self._where)
        fd = made.detach()
        self._fds[index], self._index_of[fd] = fd, index
        self._phase[index] = _CONNECTING
        self._n_connecting += 1
        if error not in (0, errno.EINPROGRESS):
            self._fail(index)
            return
        self._epoll.register(fd, select.EPOLLOUT)
        if self._latencies_ns is not None:
            self._stamp(fd)

    def _stamp(self, fd: int) -> None:
        """What comes from now on is stamped by the kernel."""
        with socket.socket(fileno=os.dup(fd)) as twin:
            twin.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def _close(self, index: int) -> None:
        fd = self._fds[index]
        self._n_connecting -= self._phase[index] in (_CONNECTING, _GREETING)
        self._n_ready -= self._phase[index] == _READY
        self._phase[index], self._fds[index] = _NONE, -1
        del self._index_of[fd]
        self._partial.pop(fd, None)
        os.close(fd)

    def _fail(self, index: int) -> None:
        """It was refused or lost; it comes back, if devices do."""
        if self._phase[index] == _READY:
            self._n_lost += 1
        else:
            self._n_failed += 1
        self._close(index)
        if self._comes_back_within_s:
            when = time.monotonic() + self._random.random() * self._comes_back_within_s
            heapq.heappush(self._due, (when, index))

    def _on_event(self, fd: int) -> None:
        index = self._index_of.get(fd)
        if index is None:
            return
        try:
            if self._phase[index] == _CONNECTING:
                self._greet(fd, index)
                return
            data = os.read(fd, _READ_BYTES) if self._latencies_ns is None else self._read_stamped(fd)
        except BlockingIOError:
            return
        except OSError:
            self._fail(index)
            return
        if data:
            self._on_data(fd, index, data)
        else:
            self._fail(index)

    def _read_stamped(self, fd: int) -> bytes:
        # The bare type of the C module: a third of what `socket.socket` costs around it.
        device = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
        try:
            data, notes, _, _ = device.recvmsg(_STAMPED_BYTES, _NOTES_BYTES)
        finally:
            device.detach()
        self._stamp_ns = 0
        if notes:
            _, kind, note = notes[0]
            if kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(note)
                self._stamp_ns = seconds * 1_000_000_000 + nanoseconds
        return data

    def _hello(self, index: int) -> bytes:
        device = device_id(self._first + index)
        name = device.hex()
        hello = connect_packet(name, self._user, password(self._secret, device), KEEPALIVE_S)
        return hello + subscribe_packet(1, f"d/{name}/down", 1)

    def _greet(self, fd: int, index: int) -> None:
        # A loopback socket takes a few hundred bytes whole, or has failed to connect.
        os.write(fd, self._hellos[index])
        self._phase[index] = _GREETING
        self._epoll.modify(fd, select.EPOLLIN)

    # -- packets

    def _on_data(self, fd: int, index: int, data: bytes) -> None:
        rest = self._partial.pop(fd, None)
        if rest is not None:
            data = rest + data
        answers = b""
        at, end = 0, len(data)
        while at < end:
            # 2.2.3: up to four bytes of remaining length.
            size, shift, start = 0, 0, at + 1
            while start < end:
                byte = data[start]
                size |= (byte & 0x7F) << shift
                start, shift = start + 1, shift + 7
                if byte < 0x80:
                    break
            else:
                break
            if start + size > end:
                break
            kind = data[at]
            if kind & 0xF7 == _PUBLISH_QOS_1:
                after_topic = start + 2 + (data[start] << 8 | data[start + 1])
                answers += b"\x40\x02" + data[after_topic : after_topic + 2]
                self._on_publish(index, kind, data, after_topic, start + size)
            elif kind == 0x20:
                if data[start + 1]:
                    self._fail(index)
                    return
            elif kind == 0x90:
                if data[start + 2] != 1:
                    self._fail(index)
                    return
                self._phase[index] = _READY
                self._n_connecting -= 1
                self._n_ready += 1
                self._ready_ns = time.monotonic_ns()
            at = start + size
        if at < end:
            self._partial[fd] = data[at:]
        if answers:
            os.write(fd, answers)

    def _on_publish(self, index: int, kind: int, data: bytes, start: int, stop: int) -> None:
        self._last_ns = now = time.monotonic_ns()
        self._n_received += 1
        self._n_bytes += stop - start
        self._n_dup += bool(kind & _DUP)
        self._received[index] += 1
        if self._latencies_ns is not None:
            at = data.find(_SENT_MARK, start, stop)
            if at >= 0:
                at += len(_SENT_MARK)
                sent_ns = int(data[at : data.index(b'"', at)])
                self._latencies_ns.append(now - sent_ns)
                if self._stamp_ns:
                    self._at_socket_ns.append(self._stamp_ns - self._epoch_ns - sent_ns)


if __name__ == "__main__":
    # Nothing here is in a cycle, and a look through the columns of 15,000 devices would be a pause of its own.
    gc.disable()
    Generator().run()
