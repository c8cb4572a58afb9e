"""APNs as a judge: one request in, Apple's answer out. No sockets.

Written from facts/vendors-international.md section 1 and facts/field-notes.md section 5; Apple, "Sending notification
requests to APNs" and "Handling notification responses from APNs". Order of the checks: path, method, duplicate headers,
provider token, topic, push type, the other headers, payload, device token, device rate.

Where Apple is silent: the reason for a body that is not a valid payload (`malformed_payload_reason`), and which of two
reasons wins when a request has several faults. Only reachable by an `errors` fault, since no request of a token-based
provider provokes them: BadCertificate, BadCertificateEnvironment, Forbidden, InternalServerError, ServiceUnavailable.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from bench.simulators.apns_payload import fault_of_background, fault_of_payload, texts_of
from bench.simulators.apns_provider_token import ProviderTokens, TokenBond, TokenRefusal
from bench.simulators.clock import Clock
from bench.simulators.exchange import BODY_BYTES_MAX, Answer, Header, Request
from bench.simulators.fates import Fates
from bench.simulators.rate import DeviceWindow
from bench.simulators.received import Message

DEVICE_PATH = "/3/device/"
COLLAPSE_ID_BYTES_MAX = 64
PAYLOAD_BYTES_MAX = 4_096
VOIP_PAYLOAD_BYTES_MAX = 5_120
TOPIC_BYTES_MAX = 255  # Apple gives none for topics; a bundle id is a DNS-like name
UUID_FORM = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TOKEN_FORM = re.compile(r"(?:[0-9a-fA-F]{2}){32,200}")  # even, 64..400 characters
TOPIC_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
EXPIRATION_FORM = re.compile(rb"[0-9]{1,10}")

# push type -> suffix that the topic must have beside the bundle id
TOPIC_SUFFIXES: Mapping[str, str] = {
    "alert": "",
    "background": "",
    "voip": ".voip",
    "complication": ".complication",
    "fileprovider": ".pushkit.fileprovider",
    "location": ".location-query",
    "liveactivity": ".push-type.liveactivity",
    "pushtotalk": ".voip-ptt",
    "widgets": ".push-type.widgets",
    "controls": ".push-type.controls",
    "mdm": "",
}
# push type -> priorities allowed; all others may have 10, 5 or 1
PRIORITIES: Mapping[str, frozenset[bytes]] = {
    "background": frozenset({b"5"}),
    "location": frozenset({b"10", b"5"}),
}
ANY_PRIORITY = frozenset({b"10", b"5", b"1"})

STATUS_OF_REASON: Mapping[str, int] = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "IdleTimeout": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "BadEnvironmentKeyIdInToken": 403,
    "ExpiredProviderToken": 403,
    "Forbidden": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "UnrelatedKeyIdInToken": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}
FATES = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic", "Unregistered", "ExpiredToken"})


class _Refused(Exception):
    """Ends the judgement of one request with Apple's reason; never leaves this file."""

    def __init__(self, reason: str, why: str, timestamp_ms: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.why = why
        self.timestamp_ms = timestamp_ms


class Apns:
    """Apple's judgement; implements exchange.Vendor.

    Args:
        tokens: provider tokens and keys.
        team_topics: team id -> bundle ids that its team-scoped keys may use.
        fates: which device tokens are dead or foreign.
        device_window: consecutive requests one device takes before TooManyRequests.
        is_push_type_required: refuse a request without apns-push-type (Apple: required for watchOS 6 and later).
        is_sandbox: add apns-unique-id, as only the development environment does.
    """

    body_bytes_max = BODY_BYTES_MAX
    name = "apns"

    def __init__(
        self,
        *,
        tokens: ProviderTokens,
        team_topics: Mapping[str, frozenset[str]],
        fates: Fates,
        device_window: DeviceWindow,
        clock: Clock,
        malformed_payload_reason: str,
        is_push_type_required: bool,
        is_sandbox: bool,
    ) -> None:
        self._tokens = tokens
        self._team_topics = team_topics
        self.fates = fates
        self._device_window = device_window
        self._clock = clock
        self._started_unix_s = clock.now_unix_s()
        self._malformed_payload_reason = malformed_payload_reason
        self._is_push_type_required = is_push_type_required
        self._is_sandbox = is_sandbox

    def new_bond(self, certificate_topics: frozenset[str]) -> TokenBond:
        """A connection has seen no token yet, and perhaps a certificate."""
        return TokenBond(certificate_topics=certificate_topics)

    def call_of(self, request: Request) -> str:
        """Every call is a send."""
        return "send"

    def judge(self, request: Request, bond: TokenBond) -> Answer:
        """Apple's answer to `request`."""
        headers = dict(request.headers)
        apns_id = headers.get(b"apns-id", b"")
        try:
            message_id, message = self._judge(request, headers, bond)
        except _Refused as refusal:
            echoed = apns_id if UUID_FORM.fullmatch(apns_id) else _new_id()
            return self._refuse(refusal.reason, refusal.why, echoed, refusal.timestamp_ms)
        own = ((b"apns-unique-id", _new_id()),) if self._is_sandbox else ()
        return Answer(200, ((b"apns-id", message_id), *own), rows=(message,))

    def error(self, status: int, reason: str, request: Request, retry_after_s: int | None) -> Answer:
        """An error scripted by a fault."""
        apns_id = dict(request.headers).get(b"apns-id", b"") or _new_id()
        timestamp_ms = int(self._started_unix_s * 1000) if status == 410 else None
        return self._refuse(reason, "by fault", apns_id, timestamp_ms, status, retry_after_s)

    def throttled(self, request: Request, retry_after_s: int | None) -> Answer:
        """429 TooManyRequests."""
        return self.error(429, "TooManyRequests", request, retry_after_s)

    def shutdown(self, request: Request) -> Answer:
        """503 Shutdown."""
        return self.error(503, "Shutdown", request, None)

    def idle(self, request: Request) -> Answer:
        """400 IdleTimeout."""
        return self.error(400, "IdleTimeout", request, None)

    def goaway_data(self, reason: str) -> bytes:
        """JSON with the reason, as APNs sends it."""
        return msgspec.json.encode({"reason": reason})

    def reset(self) -> None:
        """Device counts are forgotten; connections keep their tokens."""
        window = self._device_window
        self._device_window = DeviceWindow(window.limit, window.window_s, window.devices_max)

    # ---- the checks, in order

    def _judge(self, request: Request, headers: Mapping[bytes, bytes], bond: TokenBond) -> tuple[bytes, Message]:
        """(apns-id, what was received). Raises _Refused."""
        token = self._device_token_in_path(request)
        if request.method != "POST":
            raise _Refused("MethodNotAllowed", f"method is {request.method[:16]}, expected POST")
        if len(headers) != len(request.headers):
            raise _Refused("DuplicateHeaders", "a header is repeated")
        push_type = self._check_topic_and_push_type(headers, self._topics(headers, bond))
        self._check_plain_headers(headers, push_type)
        payload = self._payload(request, push_type)
        message_id = self._message_id(headers, payload)
        self._check_device_token(token)
        title, body = texts_of(payload)
        return message_id, Message(uuid.UUID(message_id.decode()).bytes, token, title, body)

    def _device_token_in_path(self, request: Request) -> str:
        if not request.path.startswith(DEVICE_PATH):
            raise _Refused("BadPath", "the path is not /3/device/<token>")
        token = request.path[len(DEVICE_PATH) :]
        if not token:
            raise _Refused("MissingDeviceToken", "nothing follows /3/device/")
        if "/" in token or "?" in token:
            raise _Refused("BadPath", "the path goes on after the token")
        return token

    def _topics(self, headers: Mapping[bytes, bytes], bond: TokenBond) -> frozenset[str]:
        """The bundle ids that this request may use. With a certificate any provider token is ignored (A-SEND)."""
        if bond.certificate_topics:
            return bond.certificate_topics
        found = self._tokens.judge(headers.get(b"authorization"), bond, self._clock.now_unix_s())
        if isinstance(found, TokenRefusal):
            raise _Refused(found.reason, found.why)
        return found.topics or self._team_topics.get(found.team_id, frozenset())

    def _check_topic_and_push_type(self, headers: Mapping[bytes, bytes], allowed: frozenset[str]) -> str:
        """The push type (derived from the topic when the header is absent); topic and type belong together."""
        topic = headers.get(b"apns-topic", b"").decode("latin-1")
        if not topic:
            raise _Refused("MissingTopic", "apns-topic is missing")
        if len(topic) > TOPIC_BYTES_MAX or not TOPIC_FORM.fullmatch(topic):
            raise _Refused("BadTopic", "apns-topic is not a bundle id")
        declared = headers.get(b"apns-push-type", b"").decode("latin-1")
        if declared and declared not in TOPIC_SUFFIXES:
            raise _Refused("InvalidPushType", "apns-push-type is not a known type")
        if not declared and self._is_push_type_required:
            raise _Refused("InvalidPushType", "apns-push-type is missing")
        base, suffix = _split_topic(topic, allowed)
        if base not in allowed:
            raise _Refused("TopicDisallowed", "the key may not use this topic")
        if not declared:
            return next((name for name, its in TOPIC_SUFFIXES.items() if its == suffix), "alert")
        wanted = TOPIC_SUFFIXES[declared]
        if suffix == wanted:
            return declared
        if not suffix:
            raise _Refused("BadTopic", f"push type {declared} needs the topic suffix {wanted}")
        raise _Refused("InvalidPushType", f"push type {declared} does not go with the topic suffix {suffix}")

    def _check_plain_headers(self, headers: Mapping[bytes, bytes], push_type: str) -> None:
        apns_id = headers.get(b"apns-id")
        if apns_id is not None and not UUID_FORM.fullmatch(apns_id):
            raise _Refused("BadMessageId", "apns-id is not a canonical lower-case UUID")
        expiration = headers.get(b"apns-expiration")
        if expiration is not None and not EXPIRATION_FORM.fullmatch(expiration):
            raise _Refused("BadExpirationDate", "apns-expiration is not Unix seconds")
        priority = headers.get(b"apns-priority", b"10")
        if priority not in PRIORITIES.get(push_type, ANY_PRIORITY):
            raise _Refused("BadPriority", f"apns-priority is not allowed for push type {push_type}")
        collapse_id = headers.get(b"apns-collapse-id")
        if collapse_id is not None and not 1 <= len(collapse_id) <= COLLAPSE_ID_BYTES_MAX:
            raise _Refused("BadCollapseId", f"apns-collapse-id is {len(collapse_id)} bytes, limit 1..64")

    def _payload(self, request: Request, push_type: str) -> Mapping[str, Any]:
        limit = VOIP_PAYLOAD_BYTES_MAX if push_type == "voip" else PAYLOAD_BYTES_MAX
        if request.body_bytes > limit:
            raise _Refused("PayloadTooLarge", f"payload is {request.body_bytes} bytes, limit {limit}")
        if not request.body:
            raise _Refused("PayloadEmpty", "the body is empty")
        try:
            payload = msgspec.json.decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _Refused(self._malformed_payload_reason, "the body is not JSON") from None
        if payload == {}:
            raise _Refused("PayloadEmpty", "the payload is an empty object")
        fault = fault_of_payload(payload, push_type)
        if fault:
            raise _Refused(self._malformed_payload_reason, fault)
        if push_type == "background" and (fault := fault_of_background(payload["aps"])):
            raise _Refused("InvalidPushType", fault)
        assert isinstance(payload, dict)  # fault_of_payload has seen to it
        return payload

    def _message_id(self, headers: Mapping[bytes, bytes], payload: Mapping[str, Any]) -> bytes:
        """apns-id, else the payload's own `message_id` (when a UUID), else a new one.

        Not Apple's rule but this project's: where both are present they must be equal, so that a device that looks into
        the payload and a log that has apns-id speak of the same row.
        """
        apns_id = headers.get(b"apns-id")
        custom = payload.get("message_id")
        own = custom.encode("utf-8", "surrogatepass") if isinstance(custom, str) else b""
        if apns_id is None:
            return own if UUID_FORM.fullmatch(own) else _new_id()
        if custom is not None and own != apns_id:
            raise _Refused("BadMessageId", "apns-id and message_id of the payload differ")
        return apns_id

    def _check_device_token(self, token: str) -> None:
        if not TOKEN_FORM.fullmatch(token):
            raise _Refused("BadDeviceToken", "the token is not hex of even length 64..400")
        fate = self.fates.of(token.lower())
        if fate is not None:
            timestamp_ms = int((self._started_unix_s - fate.dead_since_s) * 1000)
            raise _Refused(fate.fate, "by the configured fate of the token", timestamp_ms)
        if self._device_window.take(token, self._clock.now_unix_s()) > 0:
            raise _Refused("TooManyRequests", f"more than {self._device_window.limit} requests for this device")

    def _refuse(
        self,
        reason: str,
        why: str,
        apns_id: bytes,
        timestamp_ms: int | None,
        status: int | None = None,
        retry_after_s: int | None = None,
    ) -> Answer:
        status = STATUS_OF_REASON.get(reason, 400) if status is None else status
        body: dict[str, Any] = {"reason": reason}
        if status == 410 and timestamp_ms is not None:
            body["timestamp"] = timestamp_ms
        headers: tuple[Header, ...] = ((b"apns-id", apns_id),)
        if retry_after_s is not None:
            headers += ((b"retry-after", b"%d" % retry_after_s),)
        return Answer(status, headers, msgspec.json.encode(body), reason, why)


def _split_topic(topic: str, allowed: frozenset[str]) -> tuple[str, str]:
    """(bundle id, suffix) for the longest suffix that leaves an allowed bundle id; (topic, "") when none does."""
    if topic in allowed:
        return topic, ""
    for suffix in sorted(TOPIC_SUFFIXES.values(), key=len, reverse=True):
        if suffix and topic.endswith(suffix) and topic[: -len(suffix)] in allowed:
            return topic[: -len(suffix)], suffix
    return topic, ""


def _new_id() -> bytes:
    return str(uuid.uuid4()).encode()
