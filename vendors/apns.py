"""APNs: Apple Push Notification service, HTTP/2 provider API; authentication by provider token or by certificate.

Source: facts/vendors-international.md section 1 (2026-11), made from Apple's pages
developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns,
.../generating-a-remote-notification, .../handling-notification-responses-from-apns and
.../establishing-a-token-based-connection-to-apns.

How neutral content is written (docs/vendors/apns.md has the table): texts and badge inside `aps`; `data` beside it, in
its own JSON types, with `message_id` always and `image` and `click` where present. An image sets `mutable-content`, so
that the app's service extension can fetch it. An empty sound is the system's sound. `raw.apns` is a JSON Merge Patch
(RFC 7396) over the payload, so null removes a key; variables are not replaced in it. Its keys `apns-push-type` and
`apns-priority` become headers instead.

Doubts, each with a safe default: no Retry-After is documented (used when it comes); the size of device tokens is not
promised (64 to 400 hexadecimal digits are taken); the background push type follows from the payload, because Apple
refuses priority 10 with it; which push types besides `location` a certificate does not allow is not listed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import msgspec

from gateway.content import Variant
from gateway.ledger import Reason
from gateway.template_values import Tree, merge_patch, raw_object, scalar_value, text_value
from gateway.vendor import Limits, Refusal, RequestTemplate, Slot, TemplateParts, parse_template, slot_json
from gateway.verdict import Answer, Scope, Verdict
from vendors.auth.certificate import ClientCertificate
from vendors.auth.credential import SecretPlace
from vendors.auth.es256 import LIFE_S_DEFAULT, LIFE_S_MAX, LIFE_S_MIN, ProviderTokenSigner
from vendors.connecting import ConnectingSettings
from vendors.http_answer import by_status_class, decode_object, retry_after_s, text_of

#: Apple's limit on the JSON payload, and that of the push type voip.
PAYLOAD_BYTES_MAX = 4096
VOIP_PAYLOAD_BYTES_MAX = 5120
TOKEN_DIGITS_MIN = 64
TOKEN_DIGITS_MAX = 400
HOSTS = {"production": "api.push.apple.com", "development": "api.sandbox.push.apple.com"}


class Settings(ConnectingSettings, frozen=True, forbid_unknown_fields=True):
    """One app at APNs. The signing key (.p8) is a file or an environment variable, never inline. With a client
    certificate instead (certificate_file) there is no key, no key id and no team id.

    rate_per_s: Apple publishes none; 10,000 is what one well-connected sender has been seen to reach
    (facts/field-notes.md). burst: rows that may leave at once. connections_max: Apple asks for few and lasting ones.
    token_life_s: age at which the provider token is replaced, Apple allows 1200 to 3600.
    host, port: instead of those of the environment (a simulator, or Apple's alternative port 2197).
    """

    team_id: str = ""
    key_id: str = ""
    topic: str = ""
    key_file: str = ""
    key_env: str = ""
    environment: Literal["production", "development"] = "production"
    host: str = ""
    port: int = 443
    ca_file: str = ""
    rate_per_s: float = 10_000.0
    burst: int = 2_000
    connections_max: int = 4
    token_life_s: int = LIFE_S_DEFAULT

    def __post_init__(self) -> None:
        self.check_connecting()
        for name in ("topic",) if self.has_certificate else ("team_id", "key_id", "topic"):
            value = getattr(self, name)
            if not value or not value.isascii() or not value.isprintable():
                raise ValueError(f"{name} must be printable ASCII and not empty")
        if self.has_certificate and (self.key_file or self.key_env or self.key_id or self.team_id):
            raise ValueError("with certificate_file there is no team_id, key_id, key_file and key_env")
        if not self.has_certificate and bool(self.key_file) == bool(self.key_env):
            raise ValueError("exactly one of key_file and key_env must be set, or certificate_file")
        if not LIFE_S_MIN <= self.token_life_s <= LIFE_S_MAX:
            raise ValueError(f"token_life_s is {self.token_life_s}, expected {LIFE_S_MIN} to {LIFE_S_MAX}")
        if not 0 < self.port < 65_536:
            raise ValueError(f"port is {self.port}, expected 1 to 65535")
        if self.rate_per_s <= 0 or self.burst < 1 or self.connections_max < 1:
            raise ValueError("rate_per_s, burst and connections_max must be positive")

    @property
    def has_certificate(self) -> bool:
        """The handshake says who we are."""
        return bool(self.certificate_file)


class PushType(NamedTuple):
    """What goes with a value of apns-push-type. priorities: allowed ones, the fallback first."""

    topic_suffix: bytes = b""
    priorities: tuple[bytes, ...] = (b"10", b"5", b"1")
    payload_bytes_max: int = PAYLOAD_BYTES_MAX
    #: Apple's advice where a late one is worth nothing; the row's own TTL does not go out then.
    is_now_or_never: bool = False
    allows_certificate: bool = True


#: Every push type of the sheet's section 1.3. Without `raw.apns` it is alert.
PUSH_TYPES: dict[bytes, PushType] = {
    b"alert": PushType(),
    b"background": PushType(priorities=(b"5",)),
    b"voip": PushType(b".voip", payload_bytes_max=VOIP_PAYLOAD_BYTES_MAX),
    b"complication": PushType(b".complication"),
    b"fileprovider": PushType(b".pushkit.fileprovider"),
    b"location": PushType(b".location-query", (b"10", b"5"), allows_certificate=False),
    b"liveactivity": PushType(b".push-type.liveactivity"),
    b"pushtotalk": PushType(b".voip-ptt", (b"10",), is_now_or_never=True),
    b"widgets": PushType(b".push-type.widgets"),
    b"controls": PushType(b".push-type.controls"),
    # its topic is the UID of the MDM certificate: that of the settings
    b"mdm": PushType(),
}
_PRIORITIES = {"high": b"10", "normal": b"5"}
#: Keys of `raw.apns` that are headers.
_RAW_PUSH_TYPE, _RAW_PRIORITY = "apns-push-type", "apns-priority"

_ACCEPTED = Answer(Verdict.ACCEPTED)
_REASONS_REJECTED = (
    (400, "BadCollapseId"), (400, "BadExpirationDate"), (400, "BadMessageId"), (400, "BadPriority"),
    (400, "InvalidPushType"), (400, "DuplicateHeaders"), (400, "PayloadEmpty"), (400, "MissingDeviceToken"),
    (404, "BadPath"), (405, "MethodNotAllowed"), (413, "PayloadTooLarge"),
)  # fmt: skip
#: (status, reason) -> answer: every row of the sheet's section 1.9. Retry-After and the 410 timestamp are added later.
ANSWERS: dict[tuple[int, str], Answer] = {
    **{(status, reason): Answer(Verdict.REJECTED, reason) for status, reason in _REASONS_REJECTED},
    (400, "BadDeviceToken"): Answer(Verdict.TOKEN_DEAD, "BadDeviceToken"),
    (400, "DeviceTokenNotForTopic"): Answer(Verdict.TOKEN_DEAD, "DeviceTokenNotForTopic"),
    (410, "Unregistered"): Answer(Verdict.TOKEN_DEAD, "Unregistered"),
    (410, "ExpiredToken"): Answer(Verdict.TOKEN_DEAD, "ExpiredToken"),
    # topic, key or certificate do not fit together: a new token cannot help
    (400, "BadTopic"): Answer(Verdict.CREDENTIAL, "BadTopic", Scope.APP),
    (400, "MissingTopic"): Answer(Verdict.CREDENTIAL, "MissingTopic", Scope.APP),
    (400, "TopicDisallowed"): Answer(Verdict.CREDENTIAL, "TopicDisallowed", Scope.APP),
    (403, "BadCertificate"): Answer(Verdict.CREDENTIAL, "BadCertificate", Scope.APP),
    (403, "BadCertificateEnvironment"): Answer(Verdict.CREDENTIAL, "BadCertificateEnvironment", Scope.APP),
    (403, "InvalidProviderToken"): Answer(Verdict.CREDENTIAL, "InvalidProviderToken", Scope.APP),
    (403, "BadEnvironmentKeyIdInToken"): Answer(Verdict.CREDENTIAL, "BadEnvironmentKeyIdInToken", Scope.APP),
    # what public projects report on the wire for the row above
    (403, "BadEnvironmentKeyInToken"): Answer(Verdict.CREDENTIAL, "BadEnvironmentKeyInToken", Scope.APP),
    (403, "Forbidden"): Answer(Verdict.CREDENTIAL, "Forbidden", Scope.APP, reason=Reason.NO_PERMISSION),
    # a connection that has seen an expired token stays unusable (pushy)
    (403, "ExpiredProviderToken"): Answer(
        Verdict.CREDENTIAL, "ExpiredProviderToken", Scope.APP, is_refreshable=True, needs_new_connection=True
    ),
    (403, "MissingProviderToken"): Answer(Verdict.CREDENTIAL, "MissingProviderToken", Scope.APP, is_refreshable=True),
    (403, "UnrelatedKeyIdInToken"): Answer(
        Verdict.CREDENTIAL, "UnrelatedKeyIdInToken", Scope.APP, is_refreshable=True, needs_new_connection=True
    ),
    (429, "TooManyRequests"): Answer(Verdict.THROTTLED, "TooManyRequests", Scope.DEVICE),
    # Keep the token in force. It may last up to 20 minutes; asking once a minute costs nothing.
    (429, "TooManyProviderTokenUpdates"): Answer(
        Verdict.THROTTLED, "TooManyProviderTokenUpdates", Scope.APP, 60.0, keeps_credential=True
    ),
    (400, "IdleTimeout"): Answer(Verdict.UNAVAILABLE, "IdleTimeout", Scope.APP, needs_new_connection=True),
    (500, "InternalServerError"): Answer(Verdict.UNAVAILABLE, "InternalServerError", Scope.APP),
    (503, "ServiceUnavailable"): Answer(Verdict.UNAVAILABLE, "ServiceUnavailable", Scope.APP),
    (503, "Shutdown"): Answer(Verdict.UNAVAILABLE, "Shutdown", Scope.APP, needs_new_connection=True),
}

# Made once: messages whose data differ need a template each.
_PATH: TemplateParts = (b"/3/device/", Slot("token"))
_AUTHORIZATION: TemplateParts = (Slot("authorization"),)
_MESSAGE_ID: TemplateParts = (Slot("message_id"),)
_EXPIRES: TemplateParts = (Slot("expires_or_zero"),)
_COLLAPSE_ID: TemplateParts = (Slot("collapse_id"),)
_TITLE_JSON, _BODY_JSON, _MESSAGE_ID_JSON = slot_json("title"), slot_json("body"), slot_json("message_id")

_NOT_HEX = re.compile(r"[^0-9A-Fa-f]")


class Apns:
    """The vendor port for one app and environment (gateway/vendor.py)."""

    name: ClassVar[str] = "apns"
    #: Any rejection drops the connection to one stream until the next success (facts/field-notes.md section 5).
    bad_tokens_stall: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._topic = settings.topic.encode()
        self._authorization = () if settings.has_certificate else ((b"authorization", _AUTHORIZATION),)
        self._limits = Limits(PAYLOAD_BYTES_MAX)

    def authority(self) -> tuple[str, int]:
        return self.settings.host or HOSTS[self.settings.environment], self.settings.port

    def limits(self, variant: Variant) -> Limits:
        """No field has a limit of its own; what counts is the whole body."""
        raw = None if variant.raw is None else variant.raw.get(self.name)
        if raw is None or b"voip" not in bytes(raw):
            return self._limits
        named = raw_object(variant.raw, self.name)
        found = PUSH_TYPES.get(_named_push_type(named)) if isinstance(named, dict) else None
        return self._limits if found is None else Limits(found.payload_bytes_max)

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = raw_object(variant.raw, self.name)
        if isinstance(raw, str):
            return Refusal("raw", raw)
        payload = _payload(variant, with_variables)
        if isinstance(payload, Refusal):
            return payload
        if "message_id" in raw:
            return Refusal("raw", "raw.apns key message_id is the gateway's own")
        named, priority = _named_push_type(raw), raw.pop(_RAW_PRIORITY, None)
        raw.pop(_RAW_PUSH_TYPE, None)
        merge_patch(payload, raw)
        push_type = named or _push_type(payload)
        headers = self._headers(variant, push_type, priority)
        if isinstance(headers, Refusal):
            return headers
        body = parse_template(msgspec.json.encode(payload))
        return RequestTemplate(_PATH, headers, body)

    def _headers(
        self, variant: Variant, push_type: bytes, named_priority: object
    ) -> tuple[tuple[bytes, TemplateParts], ...] | Refusal:
        """named_priority: as the raw passthrough has it; None for the variant's own."""
        found = PUSH_TYPES.get(push_type)
        if found is None:
            known = ", ".join(name.decode() for name in PUSH_TYPES)
            return Refusal("raw", f"raw.apns key {_RAW_PUSH_TYPE} is none of {known}")
        if not found.allows_certificate and self.settings.has_certificate:
            return Refusal("raw", f"push type {push_type.decode()} needs a key; this app has a certificate (apns)")
        priority = _PRIORITIES[variant.priority]
        if priority not in found.priorities:
            priority = found.priorities[0]
        if named_priority is not None:
            priority = str(named_priority).encode()
            if priority not in found.priorities:
                allowed = ", ".join(name.decode() for name in found.priorities)
                return Refusal("raw", f"raw.apns key {_RAW_PRIORITY} is none of {allowed} ({push_type.decode()})")
        headers: list[tuple[bytes, TemplateParts]] = [
            *self._authorization,
            (b"apns-id", _MESSAGE_ID),
            (b"apns-push-type", (push_type,)),
            (b"apns-topic", (self._topic + found.topic_suffix,)),
            (b"apns-expiration", (b"0",) if found.is_now_or_never else _EXPIRES),
            (b"apns-priority", (priority,)),
            (b"content-type", (b"application/json",)),
        ]
        if variant.collapse_id:
            headers.append((b"apns-collapse-id", _COLLAPSE_ID))
        return tuple(headers)

    def check_token(self, token: str) -> str:
        if not TOKEN_DIGITS_MIN <= len(token) <= TOKEN_DIGITS_MAX:
            return f"token is {len(token)} characters, expected {TOKEN_DIGITS_MIN} to {TOKEN_DIGITS_MAX}"
        if len(token) % 2:
            return f"token is {len(token)} characters, expected an even number"
        if _NOT_HEX.search(token):
            return "token holds a character that is not a hexadecimal digit"
        return ""

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        if status == 200:
            return _ACCEPTED
        fields = decode_object(body)
        reason = text_of(fields.get("reason"))
        answer = ANSWERS.get((status, reason))
        if answer is None:
            return by_status_class(status, reason, headers)
        if answer.verdict is Verdict.TOKEN_DEAD and status == 410:
            return answer._replace(dead_since_unix_ms=_timestamp(fields.get("timestamp")))
        if answer.verdict in (Verdict.THROTTLED, Verdict.UNAVAILABLE):
            wait_s = retry_after_s(headers)
            return answer if wait_s is None else answer._replace(retry_after_s=wait_s)
        return answer


def _payload(variant: Variant, with_variables: bool) -> Tree | Refusal:
    """The payload tree with slots; texts are always slots, so it holds for every title and body."""
    aps: Tree = {"alert": {"title": _TITLE_JSON, "body": _BODY_JSON}}
    if variant.badge is not None:
        aps["badge"] = variant.badge
    aps["sound"] = variant.sound or "default"
    if variant.category:
        aps["category"] = variant.category
    if variant.image:
        aps["mutable-content"] = 1
    payload: Tree = {"aps": aps, "message_id": _MESSAGE_ID_JSON}
    if variant.image:
        payload["image"] = variant.image
    if variant.click is not None:
        click = variant.click
        payload["click"] = {"type": click.type}
        if click.value:
            payload["click"] = {"type": click.type, "value": text_value(click.value, with_variables=with_variables)}
    for key, value in (variant.data or {}).items():
        if key in payload:
            return Refusal("data", f"data key {key} is taken (apns)")
        payload[key] = scalar_value(value, with_variables=with_variables)
    return payload


def _named_push_type(raw: Tree) -> bytes:
    """As the raw passthrough names it; empty when it does not. What is no text is no push type either."""
    named = raw.get(_RAW_PUSH_TYPE)
    return b"" if named is None else str(named).encode()


def _push_type(payload: Tree) -> bytes:
    """apns-push-type as the payload demands; a mismatch is refused, delayed or dropped by Apple."""
    aps = payload.get("aps")
    if not isinstance(aps, dict):
        return b"alert"
    if "content-state" in aps:
        return b"liveactivity"
    if "content-available" in aps and not aps.keys() & {"alert", "badge", "sound"}:
        return b"background"
    return b"alert"


def _timestamp(value: object) -> int | None:
    """Unix ms of a 410; None for what cannot be one (bool is an int in Python)."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 53:
        return value
    return None


def secret_place(settings: Settings) -> SecretPlace:
    """Where the .p8 key, or the certificate, is."""
    if settings.has_certificate:
        return SecretPlace(settings.certificate_file, "")
    return SecretPlace(settings.key_file, settings.key_env)


def credential(settings: Settings, secret: bytes) -> ProviderTokenSigner | ClientCertificate:
    """The maker of provider tokens, or the certificate. Raises ValueError when the secret is no P-256 private key, or
    no certificate, in PEM form."""
    if settings.has_certificate:
        return ClientCertificate(secret)
    return ProviderTokenSigner(secret, key_id=settings.key_id, team_id=settings.team_id, life_s=settings.token_life_s)
