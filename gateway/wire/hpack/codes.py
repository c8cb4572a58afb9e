"""The two HTTP/2 error codes HPACK faults end a connection with (RFC 9113 section 7)."""

from __future__ import annotations

COMPRESSION_ERROR = 0x9
ENHANCE_YOUR_CALM = 0xB
