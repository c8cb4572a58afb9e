"""The server's side of WebSocket for MQTT, sans-IO: the upgrade, then a stream of bytes in binary frames.

Sources: RFC 6455; OASIS MQTT 3.1.1 and 5.0, section 6. wsproto reads the upgrade request and writes the answer. Frames
are read here: wsproto keeps a generator and several buffers per connection, while MQTT packets do not care where frames
end [MQTT-6.0.0-2], so that payload can pass through as it comes and nothing of a frame is kept but an unfinished header
or control frame (139 bytes at most). In the tests wsproto is the referee.

    upgrade --> open --> closed        a fault, or Close from either side; a Close is answered once

No extension is offered: compressed pushes would cost each connection a window of up to 32 KiB.
"""

from __future__ import annotations

import enum

import wsproto.connection
import wsproto.events
import wsproto.handshake
import wsproto.utilities

from gateway.errors import LocalProtocolError, RemoteProtocolError

SUBPROTOCOL = "mqtt"


class Opcode(enum.IntEnum):
    """RFC 6455 section 11.8."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class CloseCode(enum.IntEnum):
    """RFC 6455 section 7.4.1; those that we send."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009


_FIN, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_CONTROL_BYTES_MAX = 125
_END_OF_HEAD = b"\r\n\r\n"


def upgrade_answer(head: bytes) -> bytes:
    """The 101 answer to a request, whose head ends with its empty line.

    Raises: RemoteProtocolError, whose `answer` is the refusal to send, for a request that is not an upgrade to MQTT.
    """
    handshake = wsproto.handshake.H11Handshake(wsproto.connection.ConnectionType.SERVER)
    try:
        handshake.receive_data(head)
        request = next(handshake.events(), None)
    except wsproto.utilities.RemoteProtocolError as error:
        hint = error.event_hint
        is_version = isinstance(hint, wsproto.events.RejectConnection) and hint.status_code == 426
        raise UpgradeRefused(str(error), 426 if is_version else 400) from error
    except UnicodeError as error:
        # wsproto decodes some fields as ASCII without looking.
        raise UpgradeRefused("a field of the request is not ASCII", 400) from error
    if not isinstance(request, wsproto.events.Request):
        raise UpgradeRefused("no request", 400)
    if any(name in (b"content-length", b"transfer-encoding") for name, _ in request.extra_headers):
        # What follows would be taken for frames by us and for a body by something in between.
        raise UpgradeRefused("an upgrade has no body", 400)
    if SUBPROTOCOL not in request.subprotocols:
        raise UpgradeRefused("subprotocol mqtt is not offered", 400)  # [MQTT-6.0.0-3]
    return handshake.send(wsproto.events.AcceptConnection(subprotocol=SUBPROTOCOL))


class UpgradeRefused(RemoteProtocolError):
    """The request is not one for MQTT over WebSocket. `answer` says so in HTTP."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text, wire_code=status)
        reason, field = ("Upgrade Required", "Sec-WebSocket-Version: 13\r\n") if status == 426 else ("Bad Request", "")
        self.answer = f"HTTP/1.1 {status} {reason}\r\n{field}Connection: close\r\nContent-Length: 0\r\n\r\n".encode()


class FrameTooBig(RemoteProtocolError):
    """A frame announces more than `frame_bytes_max`."""


class WebSocketServer:
    """One connection. After an exception it is over; `data_to_send` has what the peer is told."""

    def __init__(self, *, upgrade_bytes_max: int, frame_bytes_max: int) -> None:
        self._upgrade_bytes_max = upgrade_bytes_max
        self._frame_bytes_max = frame_bytes_max
        self.is_open = False
        self.is_closed = False
        """A Close has come, or a fault: nothing is read any more."""
        self._has_sent_close = False
        self._to_send = b""
        # An unfinished request, frame header or control frame; the frame whose payload is coming.
        self._kept = b""
        self._missing = 0
        self._mask = b""
        self._is_fragmented = False
        self._before_fault = b""

    def receive_data(self, data: bytes) -> bytes:
        """The payload of binary frames that is in `data`.

        Raises: RemoteProtocolError at the first fault; what came before it is in `take_payload_before_fault`.
        """
        payload: list[bytes] = []
        try:
            self._receive(data, payload)
        except RemoteProtocolError as error:
            self.is_closed = True
            self._kept = b""
            if isinstance(error, UpgradeRefused):
                self._to_send += error.answer
            elif self.is_open:
                self._send_close(CloseCode(error.wire_code))
            self._before_fault = b"".join(payload)
            raise
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def take_payload_before_fault(self) -> bytes:
        """What the read that raised had brought before its fault, so that chunks do not decide what MQTT sees."""
        payload, self._before_fault = self._before_fault, b""
        return payload

    def data_to_send(self) -> bytes:
        """Answers to the upgrade, Ping and Close since the last call."""
        data, self._to_send = self._to_send, b""
        return data

    def send(self, data: bytes | bytearray | memoryview) -> bytes:
        """One binary frame, unmasked (section 5.1); nothing after our Close, which is the last frame (section 5.5.1).

        Raises: LocalProtocolError before the upgrade.
        """
        if not self.is_open:
            raise LocalProtocolError("the upgrade is not over")
        if self._has_sent_close:
            return b""
        return _header(Opcode.BINARY, len(data)) + data

    def close(self, code: CloseCode) -> bytes:
        """A Close frame, unless one has been sent."""
        self._send_close(code)
        return self.data_to_send()

    def _send_close(self, code: int) -> None:
        if self.is_open and not self._has_sent_close:
            self._has_sent_close = True
            self._to_send += _header(Opcode.CLOSE, 2) + code.to_bytes(2, "big")

    def _receive(self, data: bytes, payload: list[bytes]) -> None:
        if self.is_closed:
            return
        if not self.is_open:
            data = self._take_upgrade(data)
        at = 0
        while at < len(data):
            if self._missing:
                chunk = data[at : at + self._missing]
                at += len(chunk)
                self._missing -= len(chunk)
                payload.append(_unmask(chunk, self._mask))
                shift = len(chunk) % 4
                self._mask = self._mask[shift:] + self._mask[:shift]
                continue
            kept = len(self._kept)
            head = self._kept + data[at : at + _HEAD_BYTES_MAX + _CONTROL_BYTES_MAX - kept]
            used = self._take_frame(head)
            if used is None:
                self._kept = head
                return
            self._kept = b""
            at += used - kept
            if self.is_closed:
                return

    def _take_upgrade(self, data: bytes) -> bytes:
        """Answers a complete request; returns what follows it."""
        # From a little before the end of what was known: the empty line may have come in pieces.
        searched = max(0, len(self._kept) - len(_END_OF_HEAD) + 1)
        self._kept += data
        end = self._kept.find(_END_OF_HEAD, searched, self._upgrade_bytes_max)
        if end < 0:
            if len(self._kept) >= self._upgrade_bytes_max:
                raise UpgradeRefused(f"upgrade request is over {self._upgrade_bytes_max} bytes", 400)
            if self._kept[:4] != b"GET "[: len(self._kept)]:
                raise UpgradeRefused("not a GET request", 400)
            return b""
        end += len(_END_OF_HEAD)
        self._to_send += upgrade_answer(self._kept[:end])
        rest, self._kept = self._kept[end:], b""
        self.is_open = True
        return rest

    def _take_frame(self, head: bytes) -> int | None:
        """Takes a frame's header, or a whole control frame; returns its bytes, or None while some are missing."""
        if len(head) < 2:
            return None
        opcode = self._check_first(head[0], head[1])
        length, size = head[1] & _LENGTH, 2
        if length >= 126:
            size = 4 if length == 126 else 10
            if len(head) < size:
                return None
            shortest = 126 if length == 126 else 1 << 16
            length = int.from_bytes(head[2:size], "big")
            if length < shortest:
                raise _fault("the length of a frame is not in its shortest form")  # section 5.2
        if length > self._frame_bytes_max:
            text = f"frame is {length} bytes, limit {self._frame_bytes_max}"
            raise FrameTooBig(text, wire_code=CloseCode.MESSAGE_TOO_BIG)
        if len(head) < size + 4:
            return None
        mask = head[size : size + 4]
        size += 4
        if opcode < Opcode.CLOSE:
            self._is_fragmented = not head[0] & _FIN
            self._missing, self._mask = length, mask
            return size
        if len(head) < size + length:
            return None
        self._take_control(opcode, _unmask(head[size : size + length], mask))
        return size + length

    def _check_first(self, first: int, second: int) -> Opcode:
        if first & _RESERVED:
            raise _fault("a reserved bit is set and no extension was agreed")
        opcode = first & _OPCODE
        if opcode not in _OPCODES:
            raise _fault(f"opcode {opcode} is not known")
        if not second & _MASKED:
            raise _fault("a frame of a client is not masked")  # section 5.1
        if opcode >= Opcode.CLOSE:
            if not first & _FIN or second & _LENGTH > _CONTROL_BYTES_MAX:
                raise _fault("a control frame is fragmented or too long")  # section 5.5
        elif opcode == Opcode.TEXT:
            raise RemoteProtocolError("text frame [MQTT-6.0.0-1]", wire_code=CloseCode.UNSUPPORTED_DATA)
        elif (opcode == Opcode.CONTINUATION) != self._is_fragmented:
            raise _fault("a message begins within another, or goes on without one")
        return Opcode(opcode)

    def _take_control(self, opcode: Opcode, payload: bytes) -> None:
        if opcode == Opcode.PING:
            self._to_send += _header(Opcode.PONG, len(payload)) + payload
        elif opcode == Opcode.CLOSE:
            code = int.from_bytes(payload[:2], "big") if payload else CloseCode.NORMAL
            if len(payload) == 1 or not _may_come(code):
                raise _fault("a Close frame without a proper code")
            try:
                payload[2:].decode()
            except UnicodeDecodeError as error:
                raise _fault("the reason of a Close frame is not UTF-8") from error
            self._send_close(code)
            self.is_closed = True


#: Opcode, length as 64 bits, mask.
_HEAD_BYTES_MAX = 14
_OPCODES = frozenset(int(opcode) for opcode in Opcode)


def _may_come(code: int) -> bool:
    """Codes that may stand in a frame (RFC 6455 section 7.4 and IANA's registry as of 2024)."""
    return (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999


def _fault(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(text, wire_code=CloseCode.PROTOCOL_ERROR)


def _header(opcode: Opcode, length: int) -> bytes:
    first = _FIN | opcode
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return bytes((first, 126)) + length.to_bytes(2, "big")
    return bytes((first, 127)) + length.to_bytes(8, "big")


def _unmask(data: bytes, mask: bytes) -> bytes:
    """XOR with the mask, over and over: as two numbers, since a loop over bytes takes fifty times as long."""
    n = len(data)
    key = (mask * (n // 4 + 1))[:n]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(n, "little")
