"""Verdict: what a vendor's answer to one attempt of one row means. A value, in columns; never an exception.

DESIGN.md section 7 maps the classes of the fact sheets to these.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from gateway.ledger import Reason


class Verdict(enum.IntEnum):
    """One byte per attempt and row. Every attempt ends in exactly one."""

    #: The vendor took the message. Not proof of delivery.
    ACCEPTED = 0
    #: The request is wrong and stays wrong: payload, parameter, size.
    REJECTED = 1
    #: The token is dead; the registry forgets it (under the mass-unregister guard).
    TOKEN_DEAD = 2
    #: The token is kept but not sent to until the device registers again.
    TOKEN_MUTED = 3
    #: Too fast; wait until the not-before time of the given scope.
    THROTTLED = 4
    #: A daily quota is used up; wait until the vendor's next day.
    QUOTA = 5
    #: Our credential was refused; `refreshable` tells whether a new one can help.
    CREDENTIAL = 6
    #: The vendor cannot answer now (5xx, connection refused, no connection): nothing was taken.
    UNAVAILABLE = 7
    #: Bytes left, no answer came: the vendor may or may not have taken it.
    UNCERTAIN = 8


class Scope(enum.IntEnum):
    """To whom a THROTTLED or QUOTA verdict applies."""

    DEVICE = 0
    CLASS = 1
    APP = 2


class Answer(NamedTuple):
    """One vendor answer, classified. Made once per distinct answer, not per row, wherever answers repeat."""

    verdict: Verdict
    #: The vendor's own name for it ("Unregistered"), counted by name; "" when accepted.
    name: str = ""
    scope: Scope = Scope.DEVICE
    #: Seconds the vendor asks us to wait (Retry-After); None when it does not say.
    retry_after_s: float | None = None
    #: TOKEN_DEAD: Unix ms since when the token is known to be dead; None when the vendor does not say.
    dead_since_unix_ms: int | None = None
    #: CREDENTIAL: a fresh credential may help.
    is_refreshable: bool = False
    #: The connection that brought this answer is of no more use and must be replaced.
    needs_new_connection: bool = False
    #: We changed our credential too often: the present one has to stay as long as it may.
    keeps_credential: bool = False
    #: It stands in no table of the vendor file and was judged by its status class.
    is_unknown: bool = False
    #: Why a row that this ends has ended, where the vendor says more than the verdict does; else NONE.
    reason: Reason = Reason.NONE


#: Of a row that an answer to many should have named, and did not.
NOT_IN_ANSWER = Answer(Verdict.UNCERTAIN, "row_not_in_answer")
