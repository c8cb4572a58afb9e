"""FCM: Firebase Cloud Messaging, HTTP v1 API with a service account.

Source: facts/vendors-international.md section 2 (2026-11), made from firebase.google.com/docs/cloud-messaging
(send, error-codes, throttling-and-quotas, scale-fcm), docs/reference/fcm/rest/v1/projects.messages, the discovery
document of the API and firebase/firebase-admin-python.

How neutral content is written (docs/vendors/fcm.md has the table): title, body and image in `message.notification`;
`data` as strings with `message_id` always, `click_type` and `click_value` for a click; TTL, priority, collapse key,
channel (from category), sound and badge under `message.android`; a minimal `message.apns` for tokens of iOS apps; with
`webpush = true` also TTL, urgency and link of `message.webpush`. `raw.fcm` with `notification` null makes a message for
the app alone: nothing shows or sounds on any platform.
`raw.fcm` is a JSON Merge Patch (RFC 7396) over `message`; variables are not replaced in it.

Doubts, each with a safe default: what counts against 4096 bytes is not said exactly, so the whole body counts; how a
QuotaFailure names a device's own rate is not documented, so the word "device" in it decides, else the project waits;
whether a 400 blames the token shows only in the violated field or in Google's sentence, read by `_blames_token`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import msgspec

from gateway.content import Variant
from gateway.ledger import Reason
from gateway.template_values import Tree, merge_patch, raw_object, scalar_text, text_value
from gateway.vendor import Limits, Refusal, RequestTemplate, Slot, TemplateParts, parse_template, slot_json, slot_text
from gateway.verdict import Answer, Scope, Verdict
from vendors.auth.credential import SecretPlace
from vendors.auth.service_account import ServiceAccountGrant
from vendors.connecting import ConnectingSettings
from vendors.http_answer import by_status_class, decode_object, retry_after_s, text_of

PAYLOAD_BYTES_MAX = 4096
#: Four weeks, the longest `android.ttl`; longer ones are refused, so they are cut.
TTL_S_MAX = 2_419_200
#: Google promises no length; today's tokens have 140 to 200 characters.
TOKEN_CHARACTERS_MAX = 1024
DEFAULT_HOST = "fcm.googleapis.com"
#: Ids, numbers, and ids with the domain in front (`example.com:my-project`).
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,99}")


class Settings(ConnectingSettings, frozen=True, forbid_unknown_fields=True):
    """One Firebase project. The service account's JSON key is a file or an environment variable, never inline.

    rate_per_s: the default quota of a project is 600,000 a minute. burst: rows that may leave at once; Google asks for
    a slow ramp. token_uri: instead of the one in the key file (a simulator). validate_only: Google checks and
    delivers nothing. retry_first_s: before the first retry of a 500 or 503 without Retry-After, doubled from try to try
    up to retry.cap_s; Google asks for at least 10. After a 429 retry.throttled_s does the same.
    webpush: a section for browsers is written into every message; about 100 of its 4096 bytes.
    """

    project_id: str
    service_account_file: str = ""
    service_account_env: str = ""
    token_uri: str = ""
    host: str = DEFAULT_HOST
    port: int = 443
    ca_file: str = ""
    rate_per_s: float = 10_000.0
    burst: int = 2_000
    connections_max: int = 8
    validate_only: bool = False
    retry_first_s: float = 10.0
    webpush: bool = False

    def __post_init__(self) -> None:
        self.check_connecting()
        good = (
            self.project_id.isascii() and self.project_id.replace("-", "").replace(":", "").replace(".", "").isalnum()
        )
        if not good:
            raise ValueError("project_id must be a Firebase project id or number")
        if bool(self.service_account_file) == bool(self.service_account_env):
            raise ValueError("exactly one of service_account_file and service_account_env must be set")
        if not 0 < self.port < 65_536:
            raise ValueError(f"port is {self.port}, expected 1 to 65535")
        if self.rate_per_s <= 0 or self.burst < 1 or self.connections_max < 1:
            raise ValueError("rate_per_s, burst and connections_max must be positive")
        if not 0 < self.retry_first_s <= 86_400:
            raise ValueError(f"retry_first_s is {self.retry_first_s}, expected more than 0, at most 86400")


_RESERVED_KEYS = frozenset({"from", "message_type"})
_RESERVED_PREFIXES = ("google", "gcm")
#: Exactly one target is allowed and it is the row's token; the id is ours.
_RAW_REFUSED = ("token", "topic", "condition", "fid")
_PRIORITIES = {"high": "HIGH", "normal": "NORMAL"}
_APNS_PRIORITIES = {"high": "10", "normal": "5"}

_ACCEPTED = Answer(Verdict.ACCEPTED)
#: Names of our own for the kinds of INVALID_ARGUMENT and QUOTA_EXCEEDED that Google tells apart in the details only.
INVALID_TOKEN = "INVALID_ARGUMENT_token"
DEVICE_RATE = "QUOTA_EXCEEDED_device"
_PROJECT_THROTTLED = Answer(Verdict.THROTTLED, "QUOTA_EXCEEDED", Scope.APP)
_UNAVAILABLE = Answer(Verdict.UNAVAILABLE, "UNAVAILABLE", Scope.APP)
#: (status, code) -> answer: every row of the sheet's section 2.9. Retry-After is obeyed where it comes.
ANSWERS: dict[tuple[int, str], Answer] = {
    (400, INVALID_TOKEN): Answer(Verdict.TOKEN_DEAD, INVALID_TOKEN),
    (400, "INVALID_ARGUMENT"): Answer(Verdict.REJECTED, "INVALID_ARGUMENT"),
    (401, "UNAUTHENTICATED"): Answer(Verdict.CREDENTIAL, "UNAUTHENTICATED", Scope.APP, is_refreshable=True),
    # the Firebase project lacks its APNs or web push key: only its owner can mend that. It is not our credential, and
    # tokens of Android are not concerned.
    (401, "THIRD_PARTY_AUTH_ERROR"): Answer(Verdict.CREDENTIAL, "THIRD_PARTY_AUTH_ERROR", Scope.DEVICE),
    (401, "APNS_AUTH_ERROR"): Answer(Verdict.CREDENTIAL, "APNS_AUTH_ERROR", Scope.DEVICE),
    (403, "SENDER_ID_MISMATCH"): Answer(Verdict.TOKEN_DEAD, "SENDER_ID_MISMATCH"),
    (403, "PERMISSION_DENIED"): Answer(Verdict.CREDENTIAL, "PERMISSION_DENIED", Scope.APP, reason=Reason.NO_PERMISSION),
    (404, "UNREGISTERED"): Answer(Verdict.TOKEN_DEAD, "UNREGISTERED"),
    (404, "NOT_FOUND"): Answer(Verdict.CREDENTIAL, "NOT_FOUND", Scope.APP),
    (429, "QUOTA_EXCEEDED"): _PROJECT_THROTTLED,
    (429, "RESOURCE_EXHAUSTED"): _PROJECT_THROTTLED._replace(name="RESOURCE_EXHAUSTED"),
    (429, DEVICE_RATE): Answer(Verdict.THROTTLED, DEVICE_RATE, Scope.DEVICE),
    (500, "INTERNAL"): _UNAVAILABLE._replace(name="INTERNAL"),
    (503, "UNAVAILABLE"): _UNAVAILABLE,
}
#: Codes that mean the same with every status.
ANSWERS_ANY_STATUS: dict[str, Answer] = {"UNSPECIFIED_ERROR": _UNAVAILABLE._replace(name="UNSPECIFIED_ERROR")}

# Made once: messages whose data differ need a template each.
_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = (
    (b"authorization", (Slot("authorization"),)),
    (b"content-type", (b"application/json; charset=UTF-8",)),
)
_TOKEN, _TITLE, _BODY = slot_json("token"), slot_json("title"), slot_json("body")
_MESSAGE_ID, _COLLAPSE_ID, _EXPIRES = slot_json("message_id"), slot_json("collapse_id"), slot_json("expires_or_zero")
_TTL_S = slot_json(f"ttl_left_s:{TTL_S_MAX}")
_TTL = msgspec.Raw(b'"' + slot_text(f"ttl_left_s:{TTL_S_MAX}") + b's"')

_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"


class Fcm:
    """The vendor port for one project (gateway/vendor.py)."""

    name: ClassVar[str] = "fcm"
    bad_tokens_stall: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._path = f"/v1/projects/{settings.project_id}/messages:send".encode()
        self._limits = Limits(PAYLOAD_BYTES_MAX)

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    def limits(self, variant: Variant) -> Limits:
        """No field has a limit of its own; the whole body, token included, is held under 4096 bytes."""
        return self._limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = raw_object(variant.raw, self.name)
        if isinstance(raw, str):
            return Refusal("raw", raw)
        data = _data(variant, with_variables)
        if isinstance(data, Refusal):
            return data
        # A message for the app alone: what shows or sounds by itself has to go everywhere, not only at the top.
        is_silent = "notification" in raw and raw["notification"] is None
        message: Tree = {"token": _TOKEN, "notification": _notification(variant), "data": data}
        message["android"] = _android(variant, with_variables, is_silent=is_silent)
        message["apns"] = _apns(variant, is_silent=is_silent)
        if self.settings.webpush:
            message["webpush"] = _webpush(variant, with_variables)
        if raw:
            refusal = _check_raw(raw)
            if refusal is not None:
                return refusal
            merge_patch(message, raw)
        whole: Tree = (
            {"validate_only": True, "message": message} if self.settings.validate_only else {"message": message}
        )
        return RequestTemplate((self._path,), _HEADERS, parse_template(msgspec.json.encode(whole)))

    def check_token(self, token: str) -> str:
        if not 0 < len(token) <= TOKEN_CHARACTERS_MAX:
            return f"token is {len(token)} characters, expected 1 to {TOKEN_CHARACTERS_MAX}"
        if not token.isascii() or not token.isprintable() or any(character in token for character in ' "\\'):
            return "token holds a character that no registration token has"
        return ""

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        if status == 200:
            return _ACCEPTED
        error = decode_object(body).get("error")
        code = _code(error) if isinstance(error, dict) else ""
        answer = ANSWERS.get((status, code)) or ANSWERS_ANY_STATUS.get(code)
        if answer is None:
            return by_status_class(status, code, headers)
        if answer.verdict in (Verdict.THROTTLED, Verdict.UNAVAILABLE):
            wait_s = retry_after_s(headers)
            return answer if wait_s is None else answer._replace(retry_after_s=wait_s)
        return answer


def _notification(variant: Variant) -> Tree:
    notification: Tree = {"title": _TITLE, "body": _BODY}
    if variant.image:
        notification["image"] = variant.image
    return notification


def _data(variant: Variant, with_variables: bool) -> Tree | Refusal:
    """Custom key-value pairs, strings only; `message_id` lets the device drop a second copy."""
    data: Tree = {"message_id": _MESSAGE_ID}
    if variant.click is not None:
        data["click_type"] = variant.click.type
        if variant.click.value:
            data["click_value"] = text_value(variant.click.value, with_variables=with_variables)
    for key, value in (variant.data or {}).items():
        if key in _RESERVED_KEYS or key.startswith(_RESERVED_PREFIXES):
            return Refusal("data", f"data key {key} is reserved (fcm)")
        if key in data:
            return Refusal("data", f"data key {key} is taken (fcm)")
        data[key] = scalar_text(value, with_variables=with_variables)
    return data


def _android(variant: Variant, with_variables: bool, *, is_silent: bool) -> Tree:
    notification: Tree = {"sound": variant.sound or "default"}
    if variant.category:
        notification["channel_id"] = variant.category
    if variant.badge is not None:
        notification["notification_count"] = variant.badge
    if variant.click is not None and variant.click.type == "intent":
        notification["click_action"] = text_value(variant.click.value, with_variables=with_variables)
    android: Tree = {"priority": _PRIORITIES[variant.priority], "ttl": _TTL}
    if variant.collapse_id:
        # The key replaces what waits for the device, the tag what is already shown on it.
        android["collapse_key"] = _COLLAPSE_ID
        notification["tag"] = _COLLAPSE_ID
    if not is_silent:
        android["notification"] = notification
    return android


def _apns(variant: Variant, *, is_silent: bool) -> Tree:
    """What an iOS app behind FCM cannot take from the common part. Texts come from `notification`."""
    headers: Tree = {"apns-priority": _APNS_PRIORITIES[variant.priority], "apns-expiration": _EXPIRES}
    if variant.collapse_id:
        headers["apns-collapse-id"] = _COLLAPSE_ID
    if is_silent:
        # Apple: a background push has this type and priority 5, and nothing that shows.
        headers |= {"apns-priority": "5", "apns-push-type": "background"}
        return {"headers": headers, "payload": {"aps": {"content-available": 1}}}
    aps: Tree = {"sound": variant.sound or "default"}
    if variant.badge is not None:
        aps["badge"] = variant.badge
    if variant.category:
        aps["category"] = variant.category
    if variant.image:
        aps["mutable-content"] = 1
    section: Tree = {"headers": headers, "payload": {"aps": aps}}
    if variant.image:
        section["fcm_options"] = {"image": variant.image}
    return section


def _webpush(variant: Variant, with_variables: bool) -> Tree:
    """For browsers: RFC 8030 headers (TTL in seconds, Urgency), and the page that a click opens, HTTPS only."""
    section: Tree = {"headers": {"TTL": _TTL_S, "Urgency": variant.priority}}
    click = variant.click
    if click is not None and click.type == "url" and click.value.startswith("https://"):
        section["fcm_options"] = {"link": text_value(click.value, with_variables=with_variables)}
    return section


def _check_raw(raw: Tree) -> Refusal | None:
    for key in _RAW_REFUSED:
        if key in raw:
            return Refusal("raw", f"raw.fcm key {key} is the gateway's own")
    data = raw.get("data", {})
    if not isinstance(data, dict) or "message_id" in data:
        return Refusal("raw", "raw.fcm key data must be an object without message_id")
    android = raw.get("android")
    if isinstance(android, dict) and "data" in android:
        # It would replace message.data on Android, and with it the message id.
        return Refusal("raw", "raw.fcm key android.data hides message_id; use data")
    return None


def _code(error: dict[str, object]) -> str:
    """The code an answer is known by: FcmError.errorCode, else error.status; refined where details tell more."""
    details = error.get("details")
    found = [entry for entry in details if isinstance(entry, dict)] if isinstance(details, list) else []
    code = ""
    for entry in found:
        if entry.get("@type") == _FCM_ERROR:
            code = text_of(entry.get("errorCode"))
    has_fcm_error = bool(code)
    code = code or text_of(error.get("status"))
    if code == "INVALID_ARGUMENT" and _blames_token(found, text_of(error.get("message")), has_fcm_error):
        return INVALID_TOKEN
    if code in ("QUOTA_EXCEEDED", "RESOURCE_EXHAUSTED") and _blames_device(found):
        return DEVICE_RATE
    return code


def _blames_token(details: list[dict[str, object]], message: str, has_fcm_error: bool) -> bool:
    """Field violations decide where there are any; else Google's one sentence about registration tokens."""
    fields = [text_of(entry.get("field")) for entry in _entries(details, _BAD_REQUEST, "fieldViolations")]
    if fields:
        return "message.token" in fields
    return has_fcm_error and "not a valid FCM registration token" in message


def _blames_device(details: list[dict[str, object]]) -> bool:
    words = [
        text_of(entry.get(key)).lower()
        for entry in _entries(details, _QUOTA_FAILURE, "violations")
        for key in ("subject", "description")
    ]
    return any("device" in word for word in words)


def _entries(details: list[dict[str, object]], kind: str, key: str) -> list[dict[str, object]]:
    """The objects listed under `key` in all details of one @type."""
    out: list[dict[str, object]] = []
    for detail in details:
        listed = detail.get(key) if detail.get("@type") == kind else None
        if isinstance(listed, list):
            out += [entry for entry in listed if isinstance(entry, dict)]
    return out


def secret_place(settings: Settings) -> SecretPlace:
    """Where the service account's JSON key is."""
    return SecretPlace(settings.service_account_file, settings.service_account_env)


def credential(settings: Settings, secret: bytes) -> ServiceAccountGrant:
    """The asker for access tokens. Raises ValueError when the secret is no service account key."""
    return ServiceAccountGrant(secret, token_uri=settings.token_uri)
