"""Side table of the edge: the connections that have layers between their socket and MQTT (edge_codec.py).

Only connections of listeners with TLS or WebSocket have an entry as long as they last; those behind a balancer have one
until its header is read; all others never. How many there may be is `layered_connections_max`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Set

from gateway.errors import CloseReason, ConfigError
from gateway.net.edge_codec import Layer, Layers, ProxyLayer
from gateway.net.edge_handshakes import ByListener
from gateway.net.edge_settings import EdgeSettings
from gateway.net.edge_table import ConnectionTable
from gateway.net.edge_tls import ServerCertificate, TlsLayer
from gateway.net.edge_websocket import WebSocketLayer


class LayerTable:
    """Layers by file descriptor, and the certificates of the listeners. Owned by the edge."""

    def __init__(self, settings: EdgeSettings, table: ConnectionTable) -> None:
        self._settings = settings
        self._table = table
        self._certificates: dict[int, ServerCertificate] = {}
        self.on_certificate: Callable[[str, str], None] = lambda file, fault: None
        """Told when the files of a certificate have changed: (file, why it cannot be used or "")."""
        self.by_fd: dict[int, Layers] = {}
        self.opening = ByListener()
        """Those whose layers still shake hands."""
        # Connections that end once MQTT has dealt with what came before: (fd, generation, reason).
        self._ending: list[tuple[int, int, CloseReason]] = []

    def load_certificates(self) -> None:
        """Every TLS listener has a context. Raises: ConfigError."""
        for index, listener in enumerate(self._settings.listeners):
            if listener.cert_file:
                try:
                    self._certificates[index] = ServerCertificate(
                        listener.cert_file, listener.key_file or None, self._settings.certificate_check_s
                    )
                except (OSError, ssl.SSLError) as error:
                    key = f"long_link.listeners[{index}].cert_file"
                    raise ConfigError(key, listener.cert_file, f"a certificate with its key ({error})") from error

    def is_full(self) -> bool:
        return len(self.by_fd) >= self._settings.layered_connections_max

    def add(self, fd: int, listener_index: int, now: float) -> None:
        """The new connection gets the layers of its listener, if that has any."""
        settings, listener = self._settings, self._settings.listeners[listener_index]
        layers: list[Layer] = []
        if listener.proxy_protocol:
            layers.append(ProxyLayer())
        if listener.cert_file:
            context = self._certificates[listener_index].context(now, self._table.count_at, self.on_certificate)
            layers.append(TlsLayer(context, settings.tls_handshake_bytes_max))
        if listener.is_websocket:
            layers.append(
                WebSocketLayer(
                    upgrade_bytes_max=settings.upgrade_bytes_max, frame_bytes_max=settings.websocket_frame_bytes_max
                )
            )
        if layers:
            self.by_fd[fd] = Layers(layers)
            self.opening.add(fd, listener_index)

    def receive_data(self, fd: int, layers: Layers, data: bytes) -> tuple[bytes, bytes, str | None]:
        """(what MQTT gets, what the peer is answered, its real address once that is known)."""
        had_ended = layers.close_reason is not None
        payload, answer, counts, address = layers.receive_data(data)
        for counter in counts:
            self._table.count_at[counter] += 1
        if layers.is_open:
            self.opening.discard(fd)
            if layers.is_spent:
                del self.by_fd[fd]
        if layers.close_reason is not None and not had_ended:
            self._ending.append((fd, self._table.generation_at[fd], layers.close_reason))
        return payload, answer, address

    def take_ending(self, after: Set[int] = frozenset()) -> list[tuple[int, CloseReason]]:
        """Connections that ended in their layers; those in `after` the next time, as their last data is still new."""
        ending, self._ending = self._ending, []
        if after:
            self._ending = [one for one in ending if one[0] in after]
        return [
            (fd, reason)
            for fd, generation, reason in ending
            if fd not in after and self._table.generation_at[fd] == generation
        ]

    def remove(self, fd: int) -> Layers | None:
        """The connection is about to end."""
        self.opening.discard(fd)
        return self.by_fd.pop(fd, None)
