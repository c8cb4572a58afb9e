"""The two frames that the `h2` library cannot be asked for without changing its own state.

h2 enforces an announced stream limit by ending the connection, while APNs refuses single streams; and its
close_connection() leaves no way to answer what is still open after a GOAWAY. So these two are serialised here with
hyperframe, and the bookkeeping is done by `h2_server`. RFC 9113 sections 6.5 and 6.8.
"""

from __future__ import annotations

from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame, SettingsFrame

LAST_STREAM_ID_MAX = 2**31 - 1  # "I have not decided yet": first step of a graceful GOAWAY


def stream_limit_frame(limit: int) -> bytes:
    """SETTINGS with nothing but MAX_CONCURRENT_STREAMS."""
    frame = SettingsFrame(0)
    frame.settings = {int(SettingCodes.MAX_CONCURRENT_STREAMS): limit}
    return bytes(frame.serialize())


def goaway_frame(last_stream_id: int, error_code: int, debug_data: bytes) -> bytes:
    """GOAWAY; `debug_data` is what APNs fills with a JSON reason."""
    frame = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=error_code, additional_data=debug_data)
    return bytes(frame.serialize())
