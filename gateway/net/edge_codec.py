"""What may stand between a socket of the long link and MQTT: a PROXY header, TLS, WebSocket, one upon the other.

A connection over plain TCP has none of it, and no object. Any other has one `Layers` in the edge's side table. The edge
gives it what it read and takes what it has to say; MQTT sees only what comes out above:

    socket -> ProxyLayer -> TlsLayer -> WebSocketLayer -> MQTT         receive_data
    socket <-               TlsLayer <- WebSocketLayer <- MQTT         send

A layer that has nothing more to do (the PROXY header is read) leaves; when none is left the connection becomes one
over plain TCP. Every layer bounds what it keeps: of its handshake by a limit with a name, afterwards by one TLS record
or one control frame. Time and number of handshakes are the edge's, the same as for those of MQTT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.errors import CloseReason, RemoteProtocolError
from gateway.net.edge_table import Count
from gateway.wire.proxy_v2 import parse_proxy_header

#: The balancer's header has addresses, and TLVs of some hundred bytes (names of certificates, ids of clouds).
PROXY_HEADER_BYTES_MAX = 4_096


class Layer(Protocol):
    """One protocol of one connection. It raises nothing: what is wrong with the peer stands in `close_reason`."""

    is_open: bool
    """Its own handshake is over: what the layer above says can be sent."""
    is_spent: bool
    """It passes everything on from now on and can be left out."""
    close_reason: CloseReason | None
    """Set once the connection has to end; nothing more comes out of it then."""
    opened_as: Count
    failed_as: Count
    """What its handshake counts as when it is done, and when it ends with `close_reason`."""

    def receive_data(self, data: bytes) -> bytes:
        """What this says to the layer above; it may be nothing."""
        ...

    def send(self, data: bytes) -> bytes:
        """What stands for `data` below. Only when open; everything returned must be sent, in this order."""
        ...

    def data_to_send(self) -> bytes:
        """What the layer itself has to say to the peer: handshakes, answers, alerts."""
        ...

    def close(self, reason: CloseReason) -> bytes:
        """The last words, where the protocol has any."""
        ...


class ProxyLayer:
    """Takes the header off and says who is there."""

    opened_as = Count.PROXY_HEADERS
    failed_as = Count.PROXY_HEADERS_REFUSED

    def __init__(self) -> None:
        self.is_open = False
        self.is_spent = False
        self.close_reason: CloseReason | None = None
        self.address: str | None = None
        self._data = b""

    def receive_data(self, data: bytes) -> bytes:
        if self.close_reason is not None:
            return b""
        self._data += data
        try:
            header = parse_proxy_header(self._data, PROXY_HEADER_BYTES_MAX)
        except RemoteProtocolError:
            self.close_reason = CloseReason.PROXY_HEADER_INVALID
            self._data = b""
            return b""
        if header is None:
            return b""
        rest, self._data = self._data[header.size :], b""
        self.is_open = self.is_spent = True
        self.address = header.address
        return rest

    def send(self, data: bytes) -> bytes:
        return data

    def data_to_send(self) -> bytes:
        return b""

    def close(self, reason: CloseReason) -> bytes:
        return b""


class Layers:
    """All layers of one connection, the lowest first."""

    __slots__ = ("_layers", "close_reason", "is_open")

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = list(layers)
        self.is_open = False
        self.close_reason: CloseReason | None = None

    @property
    def is_spent(self) -> bool:
        """None is left: the connection is one over plain TCP from now on."""
        return not self._layers

    def receive_data(self, data: bytes) -> tuple[bytes, bytes, list[Count], str | None]:
        """(what MQTT gets, what goes to the peer, handshakes that are over, the peer's real address once it is known).

        When `close_reason` is set afterwards, the connection ends after MQTT has dealt with what it got.
        """
        counts: list[Count] = []
        address: str | None = None
        for layer in self._layers:
            was_open = layer.is_open
            data = layer.receive_data(data)
            if layer.is_open and not was_open:
                counts.append(layer.opened_as)
                if isinstance(layer, ProxyLayer):
                    address = layer.address
            if layer.close_reason is not None:
                if not layer.is_open:
                    counts.append(layer.failed_as)
                # The lowest that ends decides: those above have nothing to speak through.
                self.close_reason = self.close_reason or layer.close_reason
            if not data:
                break
        to_send = b""
        for layer in reversed(self._layers):
            to_send = (layer.send(to_send) if to_send else b"") + layer.data_to_send()
        if self._layers and self._layers[0].is_spent:
            del self._layers[0]
        self.is_open = all(layer.is_open for layer in self._layers)
        return data, to_send, counts, address

    def send(self, data: bytes) -> bytes:
        """What goes to the socket for `data` from MQTT; only when open, and nothing of it may be left out."""
        for layer in reversed(self._layers):
            data = layer.send(data)
        return data

    def close(self, reason: CloseReason) -> bytes:
        """The last words of all layers that are open."""
        words = b""
        for layer in reversed(self._layers):
            if layer.is_open:
                words = (layer.send(words) if words else b"") + layer.close(reason)
        return words
