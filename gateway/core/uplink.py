"""What a device reports: one payload per event, and what it asks for. Decisions only (docs/device-protocol.md).

    token      {"channel": str, "token": str, "region": str?}  the vendor's token has changed; "" and "": there is none
    displayed  {"message_id": str | "message_ids": [..]}
    clicked    the same
    closed     the same: it was not shown, because notifications are switched off
    switch     {"on": bool}                            the user switched notifications on or off
    tags       {"set": [..]} or {"add": [..], "remove": [..]}
    alias      {"alias": str}                          "": none
    state      {"foreground": bool?, "screen": bool?}
    90000 to 90999                                     events of the app itself: counted, payload not looked at

Keys that are not named here are ignored, so that a newer device may say more. A name that is not named here is counted
and does nothing.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from gateway.core.details import ALIAS_BYTES_MAX, TAGS_PER_DEVICE_MAX
from gateway.core.tags import TAG_BYTES_MAX
from gateway.core.tokens import TOKEN_BYTES_MAX
from gateway.errors import LocalProtocolError
from gateway.ledger import Flag, Receipt
from gateway.message_id import from_text
from gateway.regions import channel_name

EVENTS: Final = ("token", "displayed", "clicked", "closed", "switch", "tags", "alias", "state")
CUSTOM_FIRST = 90_000
#: Message ids in one report; a phone that was away reports what it has shown meanwhile.
MESSAGE_IDS_MAX = 100
#: What stands in for an event that is not known, and for a topic that is not the device's, where only a number fits.
UNKNOWN = "unknown"
_UNKNOWN_NUMBER, _FOREIGN_NUMBER = 0xFFFE, 0xFFFF
_CUSTOM_NUMBER = 0x1000


class AppState(enum.IntFlag):
    """What the device says of itself: one byte. Each pair is known or not, and true or not."""

    FOREGROUND_KNOWN = 1
    FOREGROUND = 2
    SCREEN_KNOWN = 4
    SCREEN_ON = 8
    NOTIFICATIONS_OFF = 16


class TokenUpload(NamedTuple):
    """channel: with the region, as in regions.py."""

    channel: str
    token: str


class Report(NamedTuple):
    """Rows whose receipt is at least `receipt` from now on, and that carry the flag."""

    message_ids: tuple[bytes, ...]
    receipt: Receipt
    flag: Flag | None = None


class Switch(NamedTuple):
    is_on: bool


class TagChange(NamedTuple):
    """set: all tags from now on, None: what the others say."""

    set: tuple[str, ...] | None
    add: tuple[str, ...]
    remove: tuple[str, ...]

    def apply(self, tags: tuple[str, ...]) -> tuple[str, ...]:
        """The tags afterwards, each once, in the order in which they came."""
        if self.set is not None:
            return tuple(dict.fromkeys(self.set))
        kept = [tag for tag in tags if tag not in self.remove]
        return tuple(dict.fromkeys((*kept, *self.add)))


class AliasChange(NamedTuple):
    alias: str


class StateReport(NamedTuple):
    """is_foreground, is_screen_on: None where nothing was said."""

    is_foreground: bool | None
    is_screen_on: bool | None

    def apply(self, state: int) -> int:
        for known, value, said in (
            (AppState.FOREGROUND_KNOWN, AppState.FOREGROUND, self.is_foreground),
            (AppState.SCREEN_KNOWN, AppState.SCREEN_ON, self.is_screen_on),
        ):
            if said is not None:
                state = state & ~value | known | (value if said else 0)
        return state


class CustomEvent(NamedTuple):
    number: int


class Ignored(NamedTuple):
    """An event that this gateway does not know."""


Uplink: TypeAlias = TokenUpload | Report | Switch | TagChange | AliasChange | StateReport | CustomEvent | Ignored
#: What changes the registry: written to it, and so limited by itself.
CHANGES: Final = (TokenUpload, Switch, TagChange, AliasChange)


class MalformedUplink(Exception):
    """The device's fault: the payload has not the form of its event."""


_Tag = Annotated[str, Meta(min_length=1, max_length=TAG_BYTES_MAX)]
_Tags = Annotated[list[_Tag], Meta(max_length=TAGS_PER_DEVICE_MAX)]


class _Token(msgspec.Struct):
    channel: Annotated[str, Meta(max_length=32)]
    token: Annotated[str, Meta(max_length=TOKEN_BYTES_MAX)]
    region: Annotated[str, Meta(max_length=32)] = ""


class _Messages(msgspec.Struct):
    message_id: str | None = None
    message_ids: Annotated[list[str], Meta(max_length=MESSAGE_IDS_MAX)] = []


class _Switch(msgspec.Struct):
    on: bool


class _Tagged(msgspec.Struct):
    set: _Tags | None = None
    add: _Tags = []
    remove: _Tags = []


class _Alias(msgspec.Struct):
    alias: Annotated[str, Meta(max_length=ALIAS_BYTES_MAX)]


class _State(msgspec.Struct):
    foreground: bool | None = None
    screen: bool | None = None


_FORMS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "token": msgspec.json.Decoder(_Token),
    "displayed": msgspec.json.Decoder(_Messages),
    "clicked": msgspec.json.Decoder(_Messages),
    "closed": msgspec.json.Decoder(_Messages),
    "switch": msgspec.json.Decoder(_Switch),
    "tags": msgspec.json.Decoder(_Tagged),
    "alias": msgspec.json.Decoder(_Alias),
    "state": msgspec.json.Decoder(_State),
}
_RECEIPTS: Final = {
    "displayed": (Receipt.DISPLAYED, None),
    "clicked": (Receipt.CLICKED, None),
    # It came, and was not shown.
    "closed": (Receipt.DELIVERED, Flag.NOTIFICATION_CLOSED),
}


def parse_uplink(event: str, payload: bytes) -> Uplink:
    """What the device asks for. Raises: MalformedUplink."""
    number = custom_number(event)
    if number is not None:
        return CustomEvent(number)
    decoder = _FORMS.get(event)
    if decoder is None:
        return Ignored()
    try:
        form = decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedUplink(str(error)) from error
    return _from_form(event, form)


def _from_form(event: str, form: object) -> Uplink:
    match form:
        case _Token():
            if bool(form.channel) != bool(form.token):
                raise MalformedUplink("channel and token come together")
            _check_line(form.token)
            try:
                return TokenUpload(channel_name(form.channel, form.region), form.token)
            except ValueError as error:
                raise MalformedUplink(str(error)) from error
        case _Messages():
            return Report(_message_ids(form), *_RECEIPTS[event])
        case _Switch():
            return Switch(form.on)
        case _Tagged():
            if form.set is not None and (form.add or form.remove):
                raise MalformedUplink("set comes alone")
            for tag in (*(form.set or ()), *form.add, *form.remove):
                _check_line(tag)
            return TagChange(None if form.set is None else tuple(form.set), tuple(form.add), tuple(form.remove))
        case _Alias():
            _check_line(form.alias)
            return AliasChange(form.alias)
        case _State():
            return StateReport(form.foreground, form.screen)
        case _:
            raise LocalProtocolError(f"event {event} has a form that nobody reads")


def _check_line(text: str) -> None:
    """Tags travel joined by newlines, and a lone surrogate has no bytes. Raises: MalformedUplink."""
    if any(character < " " or character == "\x7f" for character in text):
        raise MalformedUplink("text holds a control character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MalformedUplink("text holds a lone surrogate") from error


def _message_ids(form: _Messages) -> tuple[bytes, ...]:
    texts = [*form.message_ids] if form.message_id is None else [form.message_id, *form.message_ids]
    if not texts or len(texts) > MESSAGE_IDS_MAX:
        raise MalformedUplink(f"message ids are {len(texts)}, expected 1 to {MESSAGE_IDS_MAX}")
    found = [from_text(text) for text in texts]
    good = tuple(dict.fromkeys(one for one in found if one is not None))
    if not good or None in found:
        raise MalformedUplink("message id is no UUID")
    return good


# Events as numbers of two bytes: what a topic alias of a connection stands for.


def custom_number(event: str) -> int | None:
    """90000 to 90999, or None."""
    if len(event) == 5 and event.startswith("90") and event.isascii() and event.isdigit():
        return int(event)
    return None


def number_of_event(event: str | None) -> int:
    """Never 0. None stands for a topic that is not the device's."""
    if event is None:
        return _FOREIGN_NUMBER
    if event in EVENTS:
        return EVENTS.index(event) + 1
    number = custom_number(event)
    return _UNKNOWN_NUMBER if number is None else _CUSTOM_NUMBER + number - CUSTOM_FIRST


def event_of_number(number: int) -> str | None:
    """What `number_of_event` was given; of unknown events only that they are."""
    if number == _FOREIGN_NUMBER:
        return None
    if number == _UNKNOWN_NUMBER:
        return UNKNOWN
    return EVENTS[number - 1] if number < _CUSTOM_NUMBER else str(CUSTOM_FIRST + number - _CUSTOM_NUMBER)
