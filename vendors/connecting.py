"""How a vendor's connections are made: the settings that all vendors share. One base for their Settings.

Source: RFC 9110 section 9.3.6 (2022-06) for proxies; facts/field-notes.md section 5 (2026-11) for probes. What each key means for operators stands in docs/vendors/NAME.md.
"""

from __future__ import annotations

import msgspec


class ConnectingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """probes: rows with unproven tokens go over connections of their own (gateway/core/probing.py); None: where the
    vendor's file says that a bad token stalls the connection that brought it.
    """

    probes: bool | None = None
