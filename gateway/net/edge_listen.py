"""Listening sockets of the edge. Options are set here once, and inherited by what is accepted (Linux)."""

from __future__ import annotations

import socket

from gateway.net.edge_settings import EdgeSettings, ListenerSettings


def open_listener(settings: ListenerSettings, edge: EdgeSettings) -> socket.socket:
    """A listening socket. Raises: OSError for an address that cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if edge.send_buffer_bytes:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, edge.send_buffer_bytes)
        if edge.receive_buffer_bytes:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, edge.receive_buffer_bytes)
        listener.bind((settings.host, settings.port))
        listener.listen(settings.backlog)
    except BaseException:
        listener.close()
        raise
    return listener
