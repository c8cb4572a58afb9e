"""Receipts and consents of WeChat mini programs: events of its message push, in XML or JSON, plain or encrypted.

Source: facts/vendors-china.md section 6.14 (2026-11, from memory there); developers.weixin.qq.com, "message push" and
"subscribe message" (copies, 2026-11), for the form of events and of encrypted bodies.

The console's address is greeted by GET: `echostr` goes back where `signature` is SHA-1 over the sorted token, timestamp
and nonce. Events are signed the same way, encrypted ones by `msg_signature`, which covers the body too: AES-256-CBC
under the EncodingAESKey, 16 random bytes, 4 of length, the message, the appid. An event names the openid and `MsgID`,
which the answer to the message told (gateway/core/own_ids.py). Other events of the same address (consent, service) are
taken and say nothing here.

Where `consent_events` is set, `subscribe_msg_popup_event` and `subscribe_msg_change_event` say what users chose: each
accepted template of a popup is one message more, a template that is rejected in the settings has none left. A rejection
in a popup takes nothing back that was accepted before. FromUserName, CreateTime and the event name one occurrence.

Doubts: which ErrorCode means what is documented for 0 alone, so any other is undelivered and costs no openid; a nonce
may come again, since a receipt that is repeated changes nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from gateway.receipts import Callback, ConsentsTold, Event, NotTaken, Replies, Reply, VendorReceipt
from vendors.auth.credential import SecretPlace
from vendors.http_answer import code_of, decode_object, text_of
from vendors.neutral import OWN_ID_CHARACTERS_MAX
from vendors.receipts.parts import ENTRIES_MAX, unix_ms

#: How far the sender's clock may be from ours.
CLOCK_SKEW_S = 600.0
REPLIES = Replies(
    taken=Reply(200, b"success", "text/plain"),
    unreadable=Reply(400, b"not an event", "text/plain"),
    unproven=Reply(401, b"not proven", "text/plain"),
    busy=Reply(503, b"again later", "text/plain"),
)
EVENT = "subscribe_msg_sent_event"
#: What a user chose when a mini program asked, and in the settings; and the words for it.
POPUP, CHANGE = "subscribe_msg_popup_event", "subscribe_msg_change_event"
ACCEPT, REJECT = "accept", "reject"
#: A mini program asks for three templates at once, and has some dozens.
_TEMPLATES_MAX, _TEMPLATE_CHARACTERS_MAX = 200, 128
#: ErrorCode -> event; any other number is undelivered.
EVENTS: dict[str, Event] = {"0": Event.DELIVERED}
#: Largest echostr, and what may stand in one: it goes back as it came.
_ECHO_FORM = re.compile(r"[0-9A-Za-z_=+/-]{1,128}")
_KEY_CHARACTERS = 43
#: A leaf, or one that holds others; nothing here expands anything. A strange body is looked at before it is proven, so
#: one look at each character has to do: what is in a CDATA section ends where another one begins.
_LEAF = re.compile(
    r"<([A-Za-z_]{1,64})>"
    r"(?:<!\[CDATA\[([^]<]*(?:(?:\](?!\]>)|<(?!!\[CDATA\[))[^]<]*)*)\]\]>|([^<]{0,4096}))"
    r"</\1>"
)
#: The padding of these bodies is to 32 bytes, whatever AES's block.
_PADDING_MAX = 32


def secret_place(settings: Any) -> SecretPlace | None:
    """Where the console's token is; None: events are not taken."""
    file, env = settings.callback_secret_file, settings.callback_secret_env
    return SecretPlace(file, env) if file or env else None


class Reader:
    """See gateway/receipts.py. secret: the token, and on a second line the EncodingAESKey; without one nothing is
    believed.

    Raises ValueError for a key of the wrong form.
    """

    replies = REPLIES

    def __init__(self, settings: Any, secret: bytes) -> None:
        token, _, key = secret.decode("ascii", "replace").partition("\n")
        self._token, self._appid = token.strip(), str(getattr(settings, "appid", ""))
        self._reads_consents = bool(getattr(settings, "consent_events", False))
        self._key = _aes_key(key.strip()) if key.strip() else b""

    def greet(self, query: str, now_unix_s: float) -> Reply:
        """What the console's check of the address is told."""
        given = _given(query)
        echo = given.get("echostr", "")
        if not self._is_signed(given, given.get("signature", ""), now_unix_s) or not _ECHO_FORM.fullmatch(echo):
            return REPLIES.unproven
        return Reply(200, echo.encode(), "text/plain")

    def read(self, callback: Callback, now_unix_s: float) -> list[VendorReceipt] | ConsentsTold | NotTaken:
        given = _given(callback.query)
        body = callback.body.decode("utf-8", "replace")
        if not self._key:
            is_proven = self._is_signed(given, given.get("signature", ""), now_unix_s)
            return self._told(body) if is_proven else NotTaken.UNPROVEN
        sealed = _fields_of(body).get("Encrypt", "")
        if not sealed or not self._is_signed(given, given.get("msg_signature", ""), now_unix_s, sealed):
            return NotTaken.UNPROVEN
        opened = self._opened(sealed)
        return NotTaken.UNREADABLE if opened is None else self._told(opened)

    def _told(self, text: str) -> list[VendorReceipt] | ConsentsTold | NotTaken:
        fields = _fields_of(text)
        event = fields.get("Event")
        if not event:
            return NotTaken.UNREADABLE
        if event == EVENT:
            return _receipts(text, fields)
        if not self._reads_consents or event not in (POPUP, CHANGE):
            return []
        return _consents(event, fields, _entries(text))

    def _is_signed(self, given: Mapping[str, str], signature: str, now_unix_s: float, *more: str) -> bool:
        stamp = given.get("timestamp", "")
        is_young = len(stamp) <= 12 and stamp.isascii() and stamp.isdigit()
        if not self._token or not is_young or abs(now_unix_s - int(stamp)) > CLOCK_SKEW_S:
            return False
        text = "".join(sorted([self._token, stamp, given.get("nonce", ""), *more]))
        expected = hashlib.sha1(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))

    def _opened(self, sealed: str) -> str | None:
        """The message in an encrypted body; None where there is none of ours."""
        try:
            data = base64.b64decode(sealed, validate=True)
            opener = Cipher(algorithms.AES(self._key), modes.CBC(self._key[:16])).decryptor()
            plain = opener.update(data) + opener.finalize()
        except (binascii.Error, ValueError):
            return None
        padding = plain[-1] if plain else 0
        if not 1 <= padding <= _PADDING_MAX or len(plain) < 20 + padding:
            return None
        plain = plain[16:-padding]
        size = int.from_bytes(plain[:4], "big")
        message, appid = plain[4 : 4 + size], plain[4 + size :]
        if len(message) != size or appid.decode("utf-8", "replace") != self._appid:
            return None
        return message.decode("utf-8", "replace")


def _given(query: str) -> dict[str, str]:
    """The parameters; none where there are too many."""
    try:
        return dict(parse_qsl(query, max_num_fields=20))
    except ValueError:
        return {}


def _aes_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text + "=", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(text) != _KEY_CHARACTERS or len(key) != 32:
        raise ValueError(
            f"not an EncodingAESKey: {_KEY_CHARACTERS} characters of Base64 are expected on the second line"
        )
    return key


def _fields_of(text: str) -> dict[str, str]:
    """Leaves of XML, or texts and numbers of JSON; of one that comes twice the last."""
    if text.lstrip()[:1] == "{":
        fields = decode_object(text.encode())
        return {name: text_of(value) or code_of(value) for name, value in fields.items()}
    return {name: cdata or plain.strip() for name, cdata, plain in _LEAF.findall(text)}


def _entries(text: str) -> list[dict[str, str]]:
    """What stands in the event's list; JSON has one entry as an object, too."""
    if text.lstrip()[:1] == "{":
        told = decode_object(text.encode()).get("List")
        listed = [one for one in (told if isinstance(told, list) else [told]) if isinstance(one, dict)]
        return [
            {name: text_of(value) or code_of(value) or _number(value) for name, value in one.items()}
            for one in listed[:ENTRIES_MAX]
        ]
    entries = [rest.partition("</List>") for rest in text.split("<List>")[1:]]
    return [_fields_of(entry) for entry, end, _ in entries[:ENTRIES_MAX] if end]


def _consents(event: str, fields: Mapping[str, str], entries: list[dict[str, str]]) -> ConsentsTold:
    user, choices = fields.get("FromUserName", ""), entries[:_TEMPLATES_MAX]
    wanted = ACCEPT if event == POPUP else REJECT
    chosen = [entry["TemplateId"] for entry in choices if entry.get("SubscribeStatusString") == wanted]
    chosen = [template for template in chosen if 0 < len(template) <= _TEMPLATE_CHARACTERS_MAX]
    event_id = hashlib.blake2b(
        "\0".join([user, fields.get("CreateTime", ""), event, *chosen]).encode("utf-8", "replace"), digest_size=16
    ).hexdigest()
    return ConsentsTold(user, chosen if event == POPUP else [], chosen if event == CHANGE else [], event_id)


def _receipts(text: str, fields: Mapping[str, str]) -> list[VendorReceipt]:
    at_unix_ms = unix_ms(f"{fields.get('CreateTime', '')}000")
    return [_receipt(fields.get("FromUserName", ""), entry, at_unix_ms) for entry in _entries(text)]


def _number(value: object) -> str:
    """MsgID is a number of 19 digits."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64 else ""


def _receipt(openid: str, entry: Mapping[str, str], at_unix_ms: int) -> VendorReceipt:
    code = code_of(entry.get("ErrorCode"))
    event = EVENTS.get(code, Event.UNDELIVERED if code else Event.UNKNOWN)
    name = "" if code else "no_code"
    return VendorReceipt(event, "", (openid,), at_unix_ms, name, own_id=entry.get("MsgID", "")[:OWN_ID_CHARACTERS_MAX])
