"""What can be wrong with a request: the closed list of error codes, and the exception that carries one."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from gateway.errors import RemoteProtocolError

#: Closed: a client may match on these; a new one is a new protocol version.
Code: TypeAlias = Literal[
    "bad_frame",  # not one MessagePack map with a kind; the connection ends
    "unknown_kind",  # a kind this server does not know
    "frame_too_large",  # the length prefix is over the limit; the connection ends
    "bad_credentials",  # unknown app key or wrong mac; the connection ends
    "already_authenticated",  # a second hello; the connection ends
    "not_authenticated",  # anything but hello before welcome; the connection ends
    "bad_request",  # a field is missing, of the wrong type or contradicts another
    "overloaded",  # a named limit is reached; come back after retry_after_ms
    "request_id_reused",  # the same request_id with another body
    "not_found",  # no such task, device or message, or not this app's
    "task_stopped",  # the named task takes no rows any more; only a call that names one can meet it
    "forbidden",  # this role may not ask that
    "cursor_expired",  # the receipts after this cursor are gone; subscribe without one
    "shutting_down",  # the gateway takes no more work; connect again after retry_after_ms
    "internal",  # our fault; counted and logged on the server
]
CODES: tuple[str, ...] = get_args(Code)
#: The text of `internal` where nobody had thought of what happened.
CRASHED = "the gateway failed at this request; its log says where"


class BadRequest(RemoteProtocolError):
    """The peer's request cannot be taken as a whole. The connection goes on; the answer names field and reason."""

    def __init__(
        self, field: str, text: str, *, code: Code = "bad_request", limit: int | None = None, value: int | None = None
    ) -> None:
        self.field = field
        self.text = text
        self.code: Code = code
        self.limit = limit
        self.value = value
        super().__init__(f"{code}: {field}: {text}" if field else f"{code}: {text}")
