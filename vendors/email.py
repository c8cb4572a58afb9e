"""E-mail over SMTP. Targets are addresses.

Source: RFC 5321 (SMTP), RFC 3463 and 5248 (enhanced status codes), RFC 2034, RFC 4954 (AUTH), RFC 8314 (TLS); there is
no vendor, any submission server will do. The connection speaks through the standard library's `smtplib`
(gateway/actors/vendor_connection_smtp.py); what a template fills are the fields of gateway/wire/smtp/message.py.

One message per recipient, so that nobody sees another's address and every row has its own answer. `raw.email` is a JSON
Merge Patch (RFC 7396) over those fields: html, headers (Reply-To, List-Unsubscribe), subject, text.

Verdicts: 4xx is later, 5xx by its enhanced status code; without one a 5xx ends the row and costs no address. A
connection that is lost after the message has begun to leave makes it uncertain.

Doubts, each with a safe default: servers differ in which code they give for an unknown recipient; only 5.1.1, 5.1.2,
5.1.3, 5.1.6 and 5.1.10 unregister an address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parseaddr
from typing import ClassVar, Literal

import msgspec

from gateway.content import Variant
from gateway.template_values import Tree, merge_patch, raw_object, text_value, with_slots
from gateway.vendor import FieldLimit, Limits, Refusal, RequestTemplate, Slot, parse_template, slot_json, slot_text
from gateway.verdict import Answer, Verdict
from vendors.auth.credential import SecretPlace
from vendors.auth.static_key import StaticKey
from vendors.codes import (
    ACCEPTED,
    AUTH_CONFIG,
    DEAD,
    ERROR,
    MUTED,
    PAYLOAD,
    THROTTLED,
    THROTTLED_DEVICE,
    UNREADABLE,
)
from vendors.connecting import ConnectingSettings
from vendors.http_answer import by_status_class
from vendors.neutral import check_at_most_one

MESSAGE_BYTES_MAX = 262_144
#: RFC 5321 section 4.5.3.1: 64 of the local part, 256 of a path with its brackets.
ADDRESS_CHARACTERS_MAX = 254
ADDRESS_FORM = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
PHASE = b"smtp-phase"
#: With `+` and a message id the local part has 64 (RFC 5321 section 4.5.3.1.1).
BOUNCE_LOCAL_CHARACTERS_MAX = 27


class Settings(ConnectingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One account at a submission server. The password is a file or an environment variable, never inline.

    security: tls from the first byte (465), or starttls (587). sender: `Name <address>`; the address's domain stands in
    Message-ID. local_name: what we call ourselves (EHLO). rate_per_s: messages. connections_max: each sends one message
    after the other. bounce_address: where bounces go, with `+` and the message id behind its local part; empty: to the
    sender. callback_secret: the end of the path that they are posted to (vendors/receipts/email.py); without one they
    are not taken.
    """

    host: str
    sender: str
    user_name: str
    password_file: str = ""
    password_env: str = ""
    port: int = 465
    security: Literal["tls", "starttls"] = "tls"
    ca_file: str = ""
    local_name: str = "localhost"
    rate_per_s: float = 50.0
    burst: int = 50
    connections_max: int = 4
    bounce_address: str = ""
    callback_secret_file: str = ""
    callback_secret_env: str = ""
    subject_code_points_max: int = 200
    message_bytes_max: int = MESSAGE_BYTES_MAX

    def __post_init__(self) -> None:
        self.check_connecting()
        if self.proxy or self.certificate_file or self.probes:
            raise ValueError("proxy, certificate_file and probes are not for e-mail")
        if bool(self.password_file) == bool(self.password_env):
            raise ValueError("exactly one of password_file and password_env must be set")
        if not ADDRESS_FORM.fullmatch(parseaddr(self.sender)[1]) or not self.sender.isprintable():
            raise ValueError("sender is not an address, or a name with one in angle brackets")
        check_at_most_one("callback_secret", self.callback_secret_file, self.callback_secret_env)
        if self.bounce_address and (
            not ADDRESS_FORM.fullmatch(self.bounce_address)
            or len(self.bounce_address.partition("@")[0]) > BOUNCE_LOCAL_CHARACTERS_MAX
        ):
            raise ValueError(
                f"bounce_address is not an address with at most {BOUNCE_LOCAL_CHARACTERS_MAX} characters before the @"
            )
        if not self.host or not self.local_name.isascii() or " " in self.local_name:
            raise ValueError("host and local_name must be names")
        if not 0 < self.port < 65_536 or self.rate_per_s <= 0 or self.burst < 1 or self.connections_max < 1:
            raise ValueError("port, rate_per_s, burst and connections_max must be positive")
        if not 1 <= self.subject_code_points_max <= 1000 or not 1024 <= self.message_bytes_max <= 1 << 24:
            raise ValueError("subject_code_points_max takes 1 to 1000, message_bytes_max 1024 to 16777216")


_LATER_S, _GREYLIST_S = 60.0, 300.0
#: Enhanced status code (class.subject.detail, or class.subject) -> answer; the longer one first. RFC 3463 and 5248.
ANSWERS: dict[str, Answer] = {
    "4.2": THROTTLED_DEVICE._replace(retry_after_s=_LATER_S),
    "4.3": ERROR,
    "4.4": ERROR,
    "4.5.3": THROTTLED,
    "4.7": THROTTLED_DEVICE._replace(retry_after_s=_GREYLIST_S),
    "5.1.1": DEAD,
    "5.1.2": DEAD,
    "5.1.3": DEAD,
    "5.1.6": DEAD,
    "5.1.10": DEAD,
    # of the sender: ours to mend
    "5.1.7": AUTH_CONFIG,
    "5.1.8": AUTH_CONFIG,
    "5.2.1": MUTED,
    "5.2": PAYLOAD,
    "5.3": PAYLOAD,
    "5.4": PAYLOAD,
    "5.5": PAYLOAD,
    "5.6": PAYLOAD,
    "5.7": PAYLOAD,
    **dict.fromkeys(["5.7.8", "5.7.9", "5.7.11", "5.7.14"], AUTH_CONFIG),
}
#: Where no enhanced code came: the reply's own (RFC 5321 section 4.2.3, RFC 4954).
REPLIES: dict[int, Answer] = {
    421: ERROR,
    450: THROTTLED_DEVICE._replace(retry_after_s=_GREYLIST_S),
    451: ERROR,
    452: ERROR,
    454: ERROR,
    **dict.fromkeys([530, 534, 535, 538], AUTH_CONFIG),
    **dict.fromkeys([500, 501, 502, 503, 504, 550, 551, 552, 553, 554, 555], PAYLOAD),
}
_ENHANCED = re.compile(rb"\s*([245])\.(\d{1,3})\.(\d{1,3})(?!\d)")

_RAW_FIELDS = frozenset({"subject", "text", "html", "headers"})
_HEADERS_REFUSED = frozenset(
    ["from", "to", "cc", "bcc", "subject", "date", "message-id", "content-type", "content-transfer-encoding"]
)


class Email:
    """The vendor port for one account (gateway/vendor.py)."""

    name: ClassVar[str] = "email"
    bad_tokens_stall: ClassVar[bool] = False
    #: Told apart from vendors with HTTP by this attribute (app_vendors.py).
    speaks_smtp: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._domain = parseaddr(settings.sender)[1].rpartition("@")[2].encode()
        title = FieldLimit("code_points", settings.subject_code_points_max)
        self._limits = Limits(settings.message_bytes_max, title, counts_token=False)

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    def limits(self, variant: Variant) -> Limits:
        """Of the fields as JSON; base64 makes a third more of them."""
        return self._limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = raw_object(variant.raw, self.name)
        if isinstance(raw, str):
            return Refusal("raw", raw)
        refusal = _check_raw(raw)
        if refusal is not None:
            return refusal
        text: object = slot_json("body")
        if variant.click is not None and variant.click.type == "url":
            url = text_value(variant.click.value, with_variables=with_variables)
            shown = bytes(url)[1:-1] if isinstance(url, msgspec.Raw) else msgspec.json.encode(url)[1:-1]
            text = msgspec.Raw(b'"' + slot_text("body") + b"\\n\\n" + shown + b'"')
        fields: Tree = {
            "sender": self.settings.sender,
            "to": slot_json("token"),
            "message_id": msgspec.Raw(b'"' + slot_text("message_id") + b"@" + self._domain + b'"'),
            "unix_s": msgspec.Raw(slot_text("now_unix_s")),
            "subject": msgspec.Raw(b'"' + slot_text("title|lj") + b'"'),
            "text": text,
        }
        if self.settings.bounce_address:
            local, _, domain = self.settings.bounce_address.encode().partition(b"@")
            fields["envelope"] = msgspec.Raw(b'"' + local + b"+" + slot_text("message_id") + b"@" + domain + b'"')
        patch = with_slots(raw, with_variables=with_variables)
        assert isinstance(patch, dict)
        merge_patch(fields, patch)
        return RequestTemplate((b"/", Slot("token")), (), parse_template(msgspec.json.encode(fields)))

    def check_token(self, token: str) -> str:
        if len(token) > ADDRESS_CHARACTERS_MAX or not ADDRESS_FORM.fullmatch(token) or ".." in token:
            return "token is no e-mail address in ASCII"
        return ""

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        """status: the reply's code, 200 for 250. headers: in which phase it came. body: its text."""
        if status == 200:
            # Only a bare 250 counts, and that has no body; anything else is no word of a server.
            return UNREADABLE if body else ACCEPTED
        found = _ENHANCED.match(body)
        phase = headers.get(PHASE, b"")
        if found and found[1] == b"%d" % (status // 100):
            code = ".".join(str(int(part)) for part in found.groups())
            answer = ANSWERS.get(code) or ANSWERS.get(code.rpartition(".")[0])
            if answer is not None:
                return _of_phase(answer, phase)._replace(name="enhanced_" + code.replace(".", "_"))
        answer = REPLIES.get(status)
        if answer is not None:
            return _of_phase(answer, phase)._replace(name=f"reply_{status}")
        return by_status_class(status, "", {})


def _of_phase(answer: Answer, phase: bytes) -> Answer:
    """What a server says before the recipient was named is about us, not about him."""
    if phase == b"mail" and answer.verdict in (Verdict.THROTTLED, Verdict.TOKEN_DEAD, Verdict.TOKEN_MUTED):
        return ERROR
    return answer


def _check_raw(raw: Tree) -> Refusal | None:
    for key in raw:
        if key not in _RAW_FIELDS:
            return Refusal("raw", f"raw.email key {key[:64]} is not one of {', '.join(sorted(_RAW_FIELDS))}")
    headers = raw.get("headers", {})
    if not isinstance(headers, dict):
        return Refusal("raw", "raw.email.headers is not a JSON object")
    for name, value in headers.items():
        is_name = name.isascii() and name.replace("-", "").isalnum()
        if not is_name or name.lower() in _HEADERS_REFUSED or not isinstance(value, str) or not value.isprintable():
            return Refusal("raw", f"raw.email.headers {name[:64]!r} is not a header that may be set")
    if any(not isinstance(raw.get(key, ""), str) for key in ("subject", "text", "html")):
        return Refusal("raw", "raw.email subject, text and html are texts")
    if "\n" in str(raw.get("subject", "")) or "\r" in str(raw.get("subject", "")):
        return Refusal("raw", "raw.email.subject holds a line break")
    return None


def secret_place(settings: Settings) -> SecretPlace:
    """Where the password is."""
    return SecretPlace(settings.password_file, settings.password_env)


def credential(settings: Settings, secret: bytes) -> StaticKey:
    """What the connection logs in with. Raises ValueError for a secret of the wrong form."""
    return StaticKey(secret, what="a password")
