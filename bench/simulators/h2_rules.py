"""What an HTTP/2 front is told (rules) and what it keeps of each open stream. Data only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Http2Rules:
    """How this vendor's HTTP/2 front behaves; defaults are those of APNs (field notes, pushy #356, #476, #878)."""

    header_table_size: int = 4_096
    streams_max: int = 1_000
    streams_before_auth: int = 1
    initial_window_bytes: int = 65_535
    frame_bytes_max: int = 16_384
    header_list_bytes_max: int = 8_000
    is_strict: bool = True
    excess: Literal["refuse", "goaway"] = "refuse"
    success_form: Literal["headers", "data", "mixed"] = "headers"
    idle_stream_s: float = 30.0
    idle_close_s: float = 0.0
    errors_until_disconnect: int = 0


@dataclass(slots=True)
class Stream:
    """One open stream. `answer_left` is body that waits for flow control; `is_judged` = too late to refuse it."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    opened_at: float
    body: bytearray = field(default_factory=bytearray)
    body_bytes: int = 0
    is_complete: bool = False
    is_judged: bool = False
    timer: asyncio.TimerHandle | None = None
    answer_left: bytes | None = None
