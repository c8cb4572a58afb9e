"""WebSocket as a layer of the long link; the protocol itself is `wire/websocket.py`."""

from __future__ import annotations

from gateway.errors import CloseReason, RemoteProtocolError
from gateway.net.edge_table import Count
from gateway.wire.websocket import CloseCode, FrameTooBig, WebSocketServer

#: What a device is told in the Close frame; everything else is a normal end. MQTT 3.1.1 itself has no word for it.
_CODES = {
    CloseReason.SHUTDOWN: CloseCode.GOING_AWAY,
    CloseReason.PROTOCOL_ERROR: CloseCode.PROTOCOL_ERROR,
    CloseReason.FRAME_TOO_LARGE: CloseCode.MESSAGE_TOO_BIG,
    CloseReason.BAD_CREDENTIALS: CloseCode.POLICY_VIOLATION,
    CloseReason.BAD_IDENTITY: CloseCode.POLICY_VIOLATION,
    CloseReason.UNSUPPORTED_VERSION: CloseCode.POLICY_VIOLATION,
    CloseReason.UNSUPPORTED_FEATURE: CloseCode.POLICY_VIOLATION,
}


class WebSocketLayer:
    """One connection (see `Layer` in edge_codec.py)."""

    opened_as = Count.WEBSOCKET_UPGRADES
    failed_as = Count.WEBSOCKET_UPGRADES_REFUSED

    def __init__(self, *, upgrade_bytes_max: int, frame_bytes_max: int) -> None:
        self._server = WebSocketServer(upgrade_bytes_max=upgrade_bytes_max, frame_bytes_max=frame_bytes_max)
        self.is_open = False
        self.is_spent = False
        self.close_reason: CloseReason | None = None

    def receive_data(self, data: bytes) -> bytes:
        if self.close_reason is not None:
            return b""
        server = self._server
        try:
            payload = server.receive_data(data)
        except FrameTooBig:
            self.close_reason = CloseReason.FRAME_TOO_LARGE
            payload = server.take_payload_before_fault()
        except RemoteProtocolError:
            self.close_reason = CloseReason.WEBSOCKET_ERROR if server.is_open else CloseReason.WEBSOCKET_UPGRADE_REFUSED
            payload = server.take_payload_before_fault()
        else:
            if server.is_closed:
                self.close_reason = CloseReason.PEER_CLOSED
        self.is_open = server.is_open
        return payload

    def send(self, data: bytes) -> bytes:
        return self._server.send(data)

    def data_to_send(self) -> bytes:
        return self._server.data_to_send()

    def close(self, reason: CloseReason) -> bytes:
        return self._server.close(_CODES.get(reason, CloseCode.NORMAL))
