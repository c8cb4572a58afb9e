"""The link between two workers of one machine: frames of MessagePack over a Unix socket."""

from __future__ import annotations

from gateway.wire.worker_link.messages import Answer, Ask, Credit, Hello, Message, Outcomes, Slice
from gateway.wire.worker_link.session import Closed, LinkLimits, LinkSession, Opened

__all__ = [
    "Answer",
    "Ask",
    "Closed",
    "Credit",
    "Hello",
    "LinkLimits",
    "LinkSession",
    "Message",
    "Opened",
    "Outcomes",
    "Slice",
]
