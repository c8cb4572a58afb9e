"""Receipts of vendors: what they report later of messages that they took, in words that all of them share.

A vendor's reader (vendors/receipts) turns one HTTP request of the vendor into `VendorReceipt`s, or says why it is none
of the vendor's. It is pure translation: no I/O, no clock, no state; what a receipt does to a row is decided elsewhere
(core/receipt_reports.py). Every receipt names the request that carried the message, by the callback parameter that we
sent with it, and the tokens it speaks of.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

#: `at_unix_ms` where the vendor does not say when.
TIME_UNKNOWN = -1


class Event(enum.IntEnum):
    """What a vendor says became of a message. The numbers go between workers of one build."""

    DELIVERED = 0
    DISPLAYED = 1
    CLICKED = 2
    #: The user has switched the app's notifications off; the token lives.
    NOTIFICATIONS_CLOSED = 3
    TOKEN_DEAD = 4
    #: Not to be sent to until the device registers again: inactive for long, or another user's.
    TOKEN_MUTED = 5
    #: A daily cap of the app or of the device was reached; this message is lost.
    QUOTA = 6
    #: It will not be delivered, for a reason that says nothing of the token.
    UNDELIVERED = 7
    #: Not yet: another receipt follows.
    PENDING = 8
    #: In no table of the vendor's reader; counted by name.
    UNKNOWN = 9
    #: Another token has taken its place: `VendorReceipt.new_token`.
    TOKEN_REPLACED = 10


class VendorReceipt(NamedTuple):
    """One event of one request, for some of its tokens. address: the callback parameter, "" where none came back.

    name: the vendor's own word where the event is UNKNOWN. own_id: the vendor's number of the message, where it names
    that instead (core/own_ids.py); only with one token. new_token: of TOKEN_REPLACED, which has one token, the old.
    """

    event: Event
    address: str
    tokens: Sequence[str]
    at_unix_ms: int = TIME_UNKNOWN
    name: str = ""
    own_id: str = ""
    new_token: str = ""


class Callback(NamedTuple):
    """One request of a vendor. headers: names in lower case. query: without the question mark."""

    headers: Mapping[bytes, bytes]
    query: str
    body: bytes


class NotTaken(enum.Enum):
    """Why a request told nothing."""

    UNREADABLE = "unreadable"
    #: Its signature is not the vendor's.
    UNPROVEN = "unproven"


class ConsentsTold(NamedTuple):
    """What a user of a mini program chose: templates of which he takes one message more, and none any more. event_id:
    the same when the event comes again."""

    user: str
    accepted: list[str]
    withdrawn: list[str]
    event_id: str


class Reply(NamedTuple):
    """What a vendor is told."""

    status: int
    body: bytes
    content_type: str = "application/json"


class Replies(NamedTuple):
    """What a vendor is told so that it does what we want. taken: it need not send this again. busy: it may, later."""

    taken: Reply
    unreadable: Reply
    unproven: Reply
    busy: Reply


class ReceiptReader(Protocol):
    """One vendor of one app. Where the vendor greets an address by GET before it posts there, a reader has
    `greet(query, now_unix_s) -> Reply` as well."""

    @property
    def replies(self) -> Replies: ...

    def read(self, callback: Callback, now_unix_s: float) -> list[VendorReceipt] | ConsentsTold | NotTaken:
        """What the request tells. Total: arbitrary bytes never raise."""
        ...


class Question(NamedTuple):
    """What asks a vendor by POST. path: with its query."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Told(enum.Enum):
    """What an answer was, where it told nothing of messages."""

    #: Too many questions, or the vendor is not well: later.
    LATER = "later"
    #: The credential is not taken.
    CREDENTIAL = "credential"
    #: The vendor knows nothing of this message, or not what we ask.
    REFUSED = "refused"


class Outcome(NamedTuple):
    """What became of the messages of one request so far. is_settled: nothing of it will change.

    receipts: without addresses.
    """

    receipts: list[VendorReceipt]
    is_settled: bool


class AskTimes(NamedTuple):
    """after_s: from a message to the first question. again_s: from one question to the next. asks_max: of one request.
    waiting_max: requests that wait to be asked for. rate_per_s: questions."""

    after_s: float
    again_s: float
    asks_max: int
    waiting_max: int
    rate_per_s: float


class OutcomeAsker(Protocol):
    """One vendor of one app, which tells only who asks. Pure translation, as readers are."""

    @property
    def times(self) -> AskTimes: ...

    def question(self, own_id: str, authorization: bytes) -> Question: ...

    def read(self, status: int, body: bytes) -> Outcome | Told:
        """What the answer tells. Total: arbitrary bytes never raise."""
        ...
