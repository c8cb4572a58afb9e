"""Ends of a connection that a polite transport has no words for: reset, FIN without close_notify, no FIN at all.

Each works on a duplicate of the file descriptor, so that the event loop's own handle can be aborted in the usual way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct

_LINGER_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with zero seconds: close sends RST (socket(7))


class Severed:
    """A socket that nobody reads and nobody closes: the peer sees acknowledgements, then a full window, never a FIN."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def end(self) -> None:
        """The socket is reset, as by a host that came back without its connections."""
        _reset(self._sock)


def reset(transport: asyncio.Transport) -> None:
    """The connection ends with RST; what was written and not yet sent is lost."""
    sock = _duplicate(transport)
    transport.abort()
    if sock is not None:
        _reset(sock)


def end_without_notify(transport: asyncio.Transport) -> None:
    """The connection ends with FIN and without a TLS close_notify: a truncation in the peer's eyes."""
    sock = _duplicate(transport)
    if sock is not None:
        with contextlib.suppress(OSError):  # the peer was faster; there is nothing left to end
            sock.shutdown(socket.SHUT_WR)
        sock.close()
    transport.abort()


def sever(transport: asyncio.Transport) -> Severed:
    """The loop lets go of the connection while the socket stays open; end it with Severed.end()."""
    sock = _duplicate(transport)
    transport.abort()  # closes the loop's descriptor only: the connection lives on in the duplicate
    return Severed(sock if sock is not None else socket.socket())


def _duplicate(transport: asyncio.Transport) -> socket.socket | None:
    own = transport.get_extra_info("socket")
    if own is None or own.fileno() < 0:
        return None
    return socket.socket(fileno=os.dup(own.fileno()))


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # already dead; closing is all that is left
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    sock.close()
