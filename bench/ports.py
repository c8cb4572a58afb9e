"""Ports of listeners that must be known before they are there, or be where they were after a restart."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

#: How many ports below the kernel's own are chosen from.
_PORTS = 12_000


def free_port() -> int:
    """A port of 127.0.0.1 that stays free until somebody asks for it by its number: it is below those that the kernel
    gives to whoever connects or asks for any, which a moment later may be another's."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(first - _PORTS, first)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
