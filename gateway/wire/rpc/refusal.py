"""The `error` answer that fits an exception; the same words whoever gives it."""

from __future__ import annotations

import math

from gateway.errors import Overloaded
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.messages import Error


def refusal(request_id: int, cause: BadRequest | Overloaded) -> Error:
    if isinstance(cause, Overloaded):
        return Error(
            id=request_id,
            code="overloaded",
            text=str(cause),
            field=cause.limit,
            limit=cause.limit_value,
            value=cause.value,
            retry_after_ms=math.ceil(cause.retry_after_s * 1000),
        )
    return Error(
        id=request_id, code=cause.code, text=cause.text, field=cause.field, limit=cause.limit, value=cause.value
    )
