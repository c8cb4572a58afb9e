"""FCM v1 as a judge: messages:send and the OAuth endpoint. No sockets.

Written from facts/vendors-international.md section 2. Order of the checks: path, access token, project, JSON form
(all violations at once), meaning of the fields, size, device token, device rate.

Where Google is silent: how the 4096 bytes are counted. Here keys and values (UTF-8) of `notification`, of `data` (or
`android.data`, which replaces it) and of `android.notification` are added up; `apns.payload` and `webpush` are counted
alone, as compact JSON, against the same limit.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from bench.simulators.clock import Clock
from bench.simulators.exchange import BODY_BYTES_MAX, Answer, Request
from bench.simulators.fates import Fates
from bench.simulators.fcm_errors import (
    FCM_CODES,
    JSON_HEADERS,
    PLAIN_CODES,
    bad_request,
    fcm_error,
    plain_error,
    quota_details,
)
from bench.simulators.fcm_oauth import OAuth, oauth_error
from bench.simulators.fcm_schema import read_request
from bench.simulators.rate import DeviceWindow
from bench.simulators.received import Message

TOKEN_PATH = "/token"
SEND_PATH = re.compile(r"/v1/projects/([^/]+)/messages:send(?:\?.*)?")
PAYLOAD_BYTES_MAX = 4_096
TOPIC_PAYLOAD_BYTES_MAX = 2_048
TTL_S_MAX = 2_419_200  # four weeks
CONDITION_TOPICS_MAX = 5
TARGETS = ("token", "topic", "condition", "fid")
TOKEN_FORM = re.compile(r"[A-Za-z0-9_:.%\-]+")
TOPIC_FORM = re.compile(r"[a-zA-Z0-9\-_.~%]{1,900}")
LABEL_FORM = re.compile(r"[a-zA-Z0-9\-_.~%]{1,50}")
COLOR_FORM = re.compile(r"#[0-9a-fA-F]{6}")
FATES = frozenset({"INVALID_ARGUMENT", "UNREGISTERED", "SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR"})
INVALID_TOKEN = "The registration token is not a valid FCM registration token"


class Fcm:
    """Google's judgement; implements exchange.Vendor.

    Args:
        project_id, project_number: either may stand in the path.
        forbidden_projects: exist, but the credential may not send for them (403); all others are 404.
        device_windows: messages per device and window (240 a minute, 5,000 an hour by Google's page).
        token_length_min, token_length_max: characters of a registration token.
        bad_token_form: how a malformed token is answered; both forms were seen: an FcmError whose message speaks of the
            token, or a field violation of message.token.
    """

    body_bytes_max = BODY_BYTES_MAX
    name = "fcm"

    def __init__(
        self,
        *,
        project_id: str,
        project_number: str,
        forbidden_projects: frozenset[str],
        oauth: OAuth,
        fates: Fates,
        device_windows: list[DeviceWindow],
        clock: Clock,
        token_length_min: int,
        token_length_max: int,
        bad_token_form: Literal["fcm_error", "field_violation"],
    ) -> None:
        self.project_id = project_id
        self._projects = {project_id, project_number}
        self._forbidden_projects = forbidden_projects
        self.oauth = oauth
        self.fates = fates
        self._device_windows = device_windows
        self._clock = clock
        self._token_length_min = token_length_min
        self._token_length_max = token_length_max
        self._bad_token_form = bad_token_form
        self.n_without_message_id = 0

    def new_bond(self, certificate_topics: frozenset[str]) -> None:
        """FCM remembers nothing of a connection."""

    def call_of(self, request: Request) -> str:
        """ "oauth" for the token endpoint, else "send"."""
        return "oauth" if request.path.partition("?")[0] == TOKEN_PATH else "send"

    def judge(self, request: Request, bond: None) -> Answer:
        """Google's answer to `request`."""
        now = self._clock.now_unix_s()
        if self.call_of(request) == "oauth":
            return self.oauth.judge(request, now)
        found = SEND_PATH.fullmatch(request.path)
        if found is None or request.method != "POST":
            return plain_error("NOT_FOUND", f"{request.method[:16]} on an unknown path")
        headers = dict(request.headers)
        scheme, _, access_token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not self.oauth.is_valid(access_token, now):
            return plain_error("UNAUTHENTICATED", "the access token is missing, unknown or expired")
        project = found.group(1)
        if project in self._forbidden_projects:
            return plain_error("PERMISSION_DENIED", "the credential may not send for this project")
        if project not in self._projects:
            return plain_error("NOT_FOUND", "unknown project")
        content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if content_type != b"application/json":
            return bad_request(
                [("", "Invalid JSON payload received: content-type is not application/json")], has_fcm_error=False
            )
        return self._judge_body(request, now)

    def error(self, status: int, reason: str, request: Request, retry_after_s: int | None) -> Answer:
        """An error scripted by a fault; a reason of FCM's table gets its FcmError detail."""
        if self.call_of(request) == "oauth":
            return oauth_error(status, reason, "by fault", retry_after_s)
        if reason in PLAIN_CODES and reason not in FCM_CODES:
            return plain_error(reason, "by fault", retry_after_s=retry_after_s)
        return fcm_error(reason, "by fault", retry_after_s=retry_after_s, status=status)

    def throttled(self, request: Request, retry_after_s: int | None) -> Answer:
        """429 QUOTA_EXCEEDED for the project."""
        if self.call_of(request) == "oauth":
            return oauth_error(429, "rate_limit_exceeded", "Rate limit exceeded", retry_after_s)
        details = quota_details(f"project:{self.project_id}", "messages per minute")
        return fcm_error("QUOTA_EXCEEDED", "rate of the project", details=details, retry_after_s=retry_after_s)

    def shutdown(self, request: Request) -> Answer:
        """503 UNAVAILABLE."""
        return self.error(503, "UNAVAILABLE", request, None)

    def idle(self, request: Request) -> Answer:
        """504 DEADLINE_EXCEEDED."""
        return plain_error("DEADLINE_EXCEEDED", "the end of the request did not come")

    def goaway_data(self, reason: str) -> bytes:
        """Google's front ends send a bare word, e.g. session_timed_out."""
        return reason.encode()

    def reset(self) -> None:
        """Access tokens and device counts are forgotten."""
        self.oauth.reset()
        self._device_windows = [DeviceWindow(w.limit, w.window_s, w.devices_max) for w in self._device_windows]
        self.n_without_message_id = 0

    # ---- the message

    def _judge_body(self, request: Request, now: float) -> Answer:
        try:
            value = msgspec.json.decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return bad_request([("", "Invalid JSON payload received. Unexpected token.")], has_fcm_error=False)
        if not isinstance(value, dict):
            return bad_request([("", "Invalid JSON payload received. The root is not an object.")], has_fcm_error=False)
        body, violations = read_request(value)
        if violations:
            return bad_request(violations, has_fcm_error=False)
        message = body.get("message")
        if not message:
            return bad_request([("message", "Message is not set.")], has_fcm_error=True)
        targets = [name for name in TARGETS if name in message]
        if len(targets) > 1:
            text = f"Invalid value at 'message' (oneof), oneof field 'target' is already set. Cannot set '{targets[1]}'"
            return bad_request([("message", text)], has_fcm_error=False)
        if not targets:
            return bad_request([("message", "Recipient of the message is not set.")], has_fcm_error=True)
        violation = _violation_of(message) or _violation_of_size(message)
        if violation is not None:
            return bad_request([violation], has_fcm_error=True)
        refusal = self._judge_target(targets[0], message[targets[0]], now)
        if refusal is not None:
            return refusal
        if body.get("validate_only"):
            name = f"projects/{self.project_id}/messages/fake_message_id"
            return Answer(200, JSON_HEADERS, msgspec.json.encode({"name": name}))
        name = f"projects/{self.project_id}/messages/0:{int(now * 1e6)}%{secrets.token_hex(8)}"
        received = self._received(message, message[targets[0]])
        return Answer(200, JSON_HEADERS, msgspec.json.encode({"name": name}), rows=(received,))

    def _judge_target(self, kind: str, target: str, now: float) -> Answer | None:
        if kind == "topic":
            if not TOPIC_FORM.fullmatch(target):
                return bad_request([("message.topic", "Malformed topic name")], has_fcm_error=True)
            return None
        if kind == "condition":
            topics = target.count(" in topics")
            if not 1 <= topics <= CONDITION_TOPICS_MAX:
                return bad_request(
                    [("message.condition", "Invalid condition expression provided.")], has_fcm_error=True
                )
            return None
        is_length_right = self._token_length_min <= len(target) <= self._token_length_max
        fate = self.fates.of(target)
        if kind == "token" and (not is_length_right or not TOKEN_FORM.fullmatch(target)):
            return self._bad_token("the form of the token")
        if fate is not None and fate.fate == "INVALID_ARGUMENT":
            return self._bad_token("by the configured fate of the token")
        if fate is not None:
            return fcm_error(fate.fate, "by the configured fate of the token")
        for window in self._device_windows:
            wait_s = window.take(target, now)
            if wait_s > 0:
                why = f"more than {window.limit} messages per {window.window_s:.0f} s for this device"
                details = quota_details("device", why)
                return fcm_error("QUOTA_EXCEEDED", why, details=details, retry_after_s=max(1, round(wait_s)))
        return None

    def _bad_token(self, why: str) -> Answer:
        if self._bad_token_form == "field_violation":
            return bad_request([("message.token", "Invalid registration token")], has_fcm_error=True)
        return fcm_error("INVALID_ARGUMENT", why, message=INVALID_TOKEN)

    def _received(self, message: Mapping[str, Any], target: str) -> Message:
        """What is recorded: `data.message_id` when it is a UUID, else a fresh id (counted)."""
        try:
            message_id = uuid.UUID(message.get("data", {}).get("message_id", "")).bytes
        except ValueError:
            self.n_without_message_id += 1
            message_id = uuid.uuid4().bytes
        notification = message.get("notification", {})
        return Message(message_id, target, notification.get("title", ""), notification.get("body", ""))


def _violation_of(message: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first field whose meaning is wrong although its type is right."""
    android = message.get("android", {})
    for path, data in (("message.data", message.get("data", {})), ("message.android.data", android.get("data", {}))):
        for key in data:
            if not key or key in ("from", "message_type") or key.startswith(("google", "gcm")):
                return path, f"Invalid data payload key: {key[:80]}"
    ttl = android.get("ttl")
    if ttl is not None and not 0 <= float(ttl[:-1]) <= TTL_S_MAX:
        return "message.android.ttl", f"Invalid ttl: {ttl[:20]}, expected 0..{TTL_S_MAX} s"
    shown = android.get("notification", {})
    if "color" in shown and not COLOR_FORM.fullmatch(shown["color"]):
        return "message.android.notification.color", "Invalid color: expected #rrggbb"
    if shown.get("notification_count", 0) < 0:
        return "message.android.notification.notification_count", "Invalid notification_count: negative"
    for name in ("", "android", "apns", "webpush"):
        options = (message.get(name, {}) if name else message).get("fcm_options", {})
        path = f"message.{name}.fcm_options" if name else "message.fcm_options"
        if "analytics_label" in options and not LABEL_FORM.fullmatch(options["analytics_label"]):
            return f"{path}.analytics_label", "Invalid analytics label"
    link = message.get("webpush", {}).get("fcm_options", {}).get("link", "https://")
    if not link.startswith("https://"):
        return "message.webpush.fcm_options.link", "Invalid link: expected HTTPS"
    aps = message.get("apns", {}).get("payload", {}).get("aps", {})
    if not isinstance(aps, dict):
        return "message.apns.payload", "Invalid APNs payload: aps is not an object"
    return None


def _violation_of_size(message: Mapping[str, Any]) -> tuple[str, str] | None:
    limit = TOPIC_PAYLOAD_BYTES_MAX if "topic" in message or "condition" in message else PAYLOAD_BYTES_MAX
    android = message.get("android", {})
    parts = (
        message.get("notification", {}),
        android.get("data") or message.get("data", {}),
        android.get("notification", {}),
    )
    size = sum(_size_of(part) for part in parts)
    if size > limit:
        return "message", f"Android message is too big: {size} bytes, limit {limit}"
    for name, part in (
        ("apns.payload", message.get("apns", {}).get("payload", {})),
        ("webpush", message.get("webpush", {})),
    ):
        size = len(msgspec.json.encode(part)) if part else 0
        if size > limit:
            return f"message.{name}", f"{name} is too big: {size} bytes, limit {limit}"
    return None


def _size_of(value: Any) -> int:
    """UTF-8 bytes of all keys and values; numbers and flags as JSON writes them."""
    if isinstance(value, dict):
        return sum(_size_of(key) + _size_of(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(_size_of(item) for item in value)
    return len(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else len(msgspec.json.encode(value))
