"""Generic webhook: signed requests of many messages to an endpoint of one's own, for channels without a public API.

Source: this project's own contract, docs/vendors/webhook.md (2026-11); facts/vendors-china.md section 5 says why: UPS
phones (Smartisan, Sony, Hisense) are reached through an aggregator or a UPS server of the maker, for which no public
interface exists. It is the channel `ups` for those, and `webhook` for what else a company has an adapter for: 5G
messages, digital-human calls, exports of audiences to advertisers. `paths` sends categories to adapters of their own.

    POST /hook
    x-request-id: the message id, or the address of a request of many rows
    x-signature: t=<Unix seconds>,v1=<hex of HMAC-SHA256(secret, t + "." + body)>
    {"app": ..., "messages": [{"message_id", "target", "title", "body", ...}, ...]}

The receiver drops a second copy by request id or by message id, so that sending again does no harm.
`raw.webhook` (`raw.ups`) is a JSON Merge Patch (RFC 7396) over one message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from gateway.columns import Piece, Pieces, join
from gateway.content import Variant
from gateway.template_values import Tree, merge_patch, text_value
from gateway.vendor import (
    BulkAnswer,
    BulkTemplate,
    Limits,
    Names,
    Refusal,
    RequestTemplate,
    RowList,
    SignedFields,
    Slot,
    TemplateParts,
    parse_template,
    slot_json,
    slot_text,
)
from gateway.verdict import Answer
from vendors.auth.credential import SecretPlace
from vendors.auth.digest_columns import constant_of
from vendors.auth.request_hmac import webhook_signatures
from vendors.auth.static_key import StaticKey
from vendors.codes import ACCEPTED, AUTH_CONFIG, DEAD, ERROR, PAYLOAD, THROTTLED, UNREADABLE
from vendors.http_answer import by_status_class, decode_object, retry_after_s, text_of
from vendors.neutral import BulkSettings, BulkVendorBase, check_list_token, check_secret, data_tree, own_raw

MESSAGES_MAX = 1000
#: Of one message; an adapter that takes less says so in the configuration.
MESSAGE_BYTES_MAX = 16_384
NAME_CHARACTERS_MAX = 64


class Settings(BulkSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One endpoint. The secret that signs both ways is a file or an environment variable, never inline.

    path: where messages go; paths: category -> another one. message_bytes_max: of one message; bodies are cut to fit.
    rate_per_s: messages.
    """

    secret_file: str = ""
    secret_env: str = ""
    path: str = "/hook"
    paths: dict[str, str] = msgspec.field(default_factory=dict)
    app: str = ""
    message_bytes_max: int = MESSAGE_BYTES_MAX

    def __post_init__(self) -> None:
        self.check(rows_max=MESSAGES_MAX)
        check_secret("secret", self.secret_file, self.secret_env)
        if not self.host:
            raise ValueError("host must be set: the endpoint is one's own")
        if len(self.app) > NAME_CHARACTERS_MAX:
            raise ValueError(f"app is {len(self.app)} characters, limit {NAME_CHARACTERS_MAX}")
        for path in (self.path, *self.paths.values()):
            if not path.startswith("/") or not path.isascii() or not path.isprintable() or set(path) & set(" #"):
                raise ValueError(f"path {path!r} is not an absolute path in ASCII")
        if not 1024 <= self.message_bytes_max <= 1 << 20:
            raise ValueError(f"message_bytes_max is {self.message_bytes_max}, expected 1024 to {1 << 20}")


#: `error` of the answer -> what it means; every row of the contract.
ERRORS: dict[str, Answer] = {
    "bad_signature": AUTH_CONFIG._replace(name="bad_signature"),
    "not_found": AUTH_CONFIG._replace(name="not_found"),
    "bad_body": PAYLOAD._replace(name="bad_body"),
    "bad_field": PAYLOAD._replace(name="bad_field"),
    "bad_request_id": PAYLOAD._replace(name="bad_request_id"),
    "too_many": PAYLOAD._replace(name="too_many"),
    "too_fast": THROTTLED._replace(name="too_fast"),
    "unavailable": ERROR._replace(name="unavailable"),
}
#: `reason` of a message that was not taken.
_TARGET_DEAD = DEAD._replace(name="target_dead")
_REFUSED = PAYLOAD._replace(name="refused")

_SIGNATURE: TemplateParts = (b"t=", Slot("now_unix_s"), b",v1=", Slot("signature"))
_CONTENT_TYPE: tuple[bytes, TemplateParts] = (b"content-type", (b"application/json",))
_SINGLE_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = (
    _CONTENT_TYPE,
    (b"x-request-id", (Slot("message_id"),)),
    (b"x-signature", _SIGNATURE),
)
_MANY_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = (
    _CONTENT_TYPE,
    (b"x-request-id", (Slot("address"),)),
    (b"x-signature", _SIGNATURE),
)
#: Secret, time, body.
_SIGNED: SignedFields = ((Slot("authorization"),), (Slot("now_unix_s"),), (Slot("payload"),))
_RAW_REFUSED = ("message_id", "target")


class Webhook(BulkVendorBase):
    """The vendor port for one endpoint (gateway/vendor.py)."""

    name: ClassVar[str] = "webhook"
    distinct_names: ClassVar[Names] = Names.REFUSED_AND_COUNT

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._limits = Limits(settings.message_bytes_max)
        self._head = b'{"app":' + msgspec.json.encode(settings.app) + b',"messages":['

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    def limits(self, variant: Variant) -> Limits:
        return self._limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name, _RAW_REFUSED)
        if isinstance(raw, Refusal):
            return raw
        message = self._message(variant, with_variables)
        if isinstance(message, Refusal):
            return message
        element = parse_template(msgspec.json.encode(merge_patch(message, raw)))
        path: TemplateParts = (self.settings.paths.get(variant.category, self.settings.path).encode(),)
        single: TemplateParts = (self._head, *element, b"]}")
        many: TemplateParts = (self._head, Slot("messages"), b"]}")
        distinct = BulkTemplate(
            path,
            _MANY_HEADERS,
            many,
            (RowList("messages", element, b","),),
            self.settings.rows_per_request_max,
            signed=_SIGNED,
        )
        return RequestTemplate(path, _SINGLE_HEADERS, single, signed=_SIGNED, distinct=distinct)

    def _message(self, variant: Variant, with_variables: bool) -> Tree | Refusal:
        if len(variant.category) > NAME_CHARACTERS_MAX:
            text = f"category is {len(variant.category)} characters, limit {NAME_CHARACTERS_MAX} ({self.name})"
            return Refusal("category", text)
        data = data_tree(variant, with_variables=with_variables)
        if isinstance(data, Refusal):
            return data
        message: Tree = {
            "message_id": slot_json("message_id"),
            "target": slot_json("token"),
            "title": slot_json("title"),
            "body": slot_json("body"),
            "ttl_s": msgspec.Raw(slot_text("ttl_left_s")),
            "class": variant.class_,
            "data": data,
        }
        if variant.category:
            message["category"] = variant.category
        if variant.collapse_id:
            message["collapse_id"] = slot_json("collapse_id")
        if variant.click is not None and variant.click.type == "url":
            message["url"] = text_value(variant.click.value, with_variables=with_variables)
        elif variant.click is not None and variant.click.type == "intent":
            data["click_intent"] = text_value(variant.click.value, with_variables=with_variables)
        if variant.image:
            message["image"] = variant.image
        if variant.badge is not None:
            message["badge"] = variant.badge
        return message

    def check_token(self, token: str) -> str:
        return check_list_token(token, separators="")

    def sign(self, fields: Sequence[Pieces], n: int) -> Piece:
        """Hex of 64 characters."""
        secret, stamp, bodies = fields
        return webhook_signatures(constant_of(secret), constant_of(stamp), join(bodies, 0, n))

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        told = self.judge(status, headers, body, is_distinct=True)
        return told.by_position.get(0, told.rest)

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        fields = decode_object(body)
        if status != 200:
            return BulkAnswer(_refused(text_of(fields.get("error")), status, headers))
        rejected = fields.get("rejected")
        accepted = fields.get("accepted")
        if not isinstance(rejected, list) or isinstance(accepted, bool) or not isinstance(accepted, int):
            return BulkAnswer(UNREADABLE)
        told: dict[int, Answer] = {}
        for entry in rejected:
            index = entry.get("index") if isinstance(entry, dict) else None
            if not isinstance(index, int) or isinstance(index, bool) or index < 0:
                # Some were not taken, and we cannot tell which.
                return BulkAnswer(UNREADABLE)
            told[index] = _TARGET_DEAD if entry.get("is_target_dead") is True else _REFUSED
        return BulkAnswer(ACCEPTED, by_position=told, n_told=accepted + len(told))


class Ups(Webhook):
    """The same under the name of the unified push: phones of Smartisan, Sony, Hisense."""

    name: ClassVar[str] = "ups"


def _refused(error: str, status: int, headers: Mapping[bytes, bytes]) -> Answer:
    answer = ERRORS.get(error)
    if answer is None:
        return by_status_class(status, error, headers)
    wait_s = retry_after_s(headers)
    return answer if wait_s is None else answer._replace(retry_after_s=wait_s)


def secret_place(settings: Settings) -> SecretPlace:
    """Where the secret is."""
    return SecretPlace(settings.secret_file, settings.secret_env)


def credential(settings: Settings, secret: bytes) -> StaticKey:
    """What requests are signed with. Raises ValueError for a secret of the wrong form."""
    return StaticKey(secret, what="a webhook secret")
