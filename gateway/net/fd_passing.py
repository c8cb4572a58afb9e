"""Connections handed to another process: a descriptor with what was read of it, one message on a Unix socket.

The socket is of type SOCK_SEQPACKET: a message comes whole or not at all, with its descriptor (SCM_RIGHTS, unix(7)), so
nothing of it has to be kept while it is incomplete. A descriptor that was sent is open at both ends until the sender
closes its own.

    message   u16 bytes of the address, the address (UTF-8), the bytes that were read and not yet dealt with

Source: unix(7), "Ancillary messages"; cmsg(3).
"""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

_LENGTH_BYTES = 2
#: A CONNECT with what came after it in the same reads is some kilobytes; the kernel takes up to net.core.wmem_max.
DATA_BYTES_MAX = 60_000
_MESSAGE_BYTES_MAX = 65_536
#: Workers that connect at the same moment: there are at most sixteen.
BACKLOG = 64


class Passed(NamedTuple):
    """A connection that came. fd: the receiver's, -1 where it had no descriptor free for it. address: of the peer."""

    fd: int
    address: str
    data: bytes


def open_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.setblocking(False)
    return made


def listen(path: str) -> socket.socket:
    """Takes connections of other workers. Raises: OSError."""
    listener = open_socket()
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def send_connection(to: socket.socket, fd: int, address: str, data: bytes) -> None:
    """The other process has the connection, or will when it reads. The descriptor stays open here.

    data: at most DATA_BYTES_MAX. Raises: BlockingIOError when the socket's queue is full; OSError when the other
    process is gone.
    """
    name = address.encode()
    message = len(name).to_bytes(_LENGTH_BYTES, "big") + name + data
    socket.send_fds(to, [message], [fd], socket.MSG_DONTWAIT)


def receive_connection(source: socket.socket) -> Passed | None:
    """The next connection, or None when the other process has gone.

    Raises: BlockingIOError when there is none now; OSError as for an end of the other process.
    """
    message, fds, _, _ = socket.recv_fds(
        source, _MESSAGE_BYTES_MAX, 1, socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    )
    if not message and not fds:
        return None
    for fd in fds:
        os.set_inheritable(fd, False)
    size = int.from_bytes(message[:_LENGTH_BYTES], "big")
    address = message[_LENGTH_BYTES : _LENGTH_BYTES + size].decode(errors="replace")
    return Passed(fds[0] if fds else -1, address, message[_LENGTH_BYTES + size :])
