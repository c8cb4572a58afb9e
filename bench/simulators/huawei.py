"""Huawei HMS Push Kit v1 and v2 as a judge: messages:send and the OAuth endpoint. No sockets.

Written from facts/vendors-international.md section 3. Order of the checks: path, method, bearer, content type, JSON,
message and tokens, size, fields, receipt id, then token by token.

Where Huawei is silent: the body of an OAuth error (here error, sub_error and error_description, from memory); whether
an old access token dies when a new one is issued (no); the HTTP status of business codes (`error_status`).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from bench.simulators.access_tokens import AccessTokens
from bench.simulators.config_base import Count, Seconds
from bench.simulators.credentials import make_huawei_account
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import (
    Check,
    Fault,
    an_object,
    coded,
    each,
    flag,
    number,
    octets,
    one_of,
    record,
    seconds_text,
    text,
    to_json,
    whole,
)
from bench.simulators.huawei_cloud import (
    AUDIENCE,
    DEVICE_FATES,
    MARKETING,
    SERVICE_CATEGORIES,
    TAG_BYTES_MAX,
    TOKEN_FORM,
    TOKENS_MAX,
    TTL_S_MAX,
    HuaweiCloud,
    HuaweiCloudSection,
    Send,
    split_forged,
)
from bench.simulators.push_api import JSON_HEADERS, Kit, Refused, form_of, header_of, json_of, path_of, refused_answer
from bench.simulators.rate import DeviceWindow
from bench.simulators.receipts import Callback, Due

TOKEN_PATHS = frozenset({"/oauth2/v3/token", "/oauth2/v2/token"})
SEND_PATH = re.compile(r"/(v1|v2)/([0-9]{1,32})/messages:send")
OAUTH_WINDOW_S = 300.0
COLOR_FORM = re.compile(r"#[0-9a-fA-F]{6}")
HTTPS_FORM = re.compile(r"https://\S+")


def _click_action(value: Any, path: str) -> Iterator[Fault]:
    """type 1 needs intent or action, 2 an HTTPS url, 3 nothing."""
    faults = list(_CLICK_ACTION(value, path))
    yield from faults
    if faults:
        return
    match value["type"]:
        case 1 if not value.get("intent") and not value.get("action"):
            yield Fault(path, "of type 1 has neither intent nor action", "missing")
        case 2 if not HTTPS_FORM.fullmatch(value.get("url", "")):
            yield Fault(path, "of type 2 has no https url", "missing")
        case _:
            pass


_CLICK_ACTION = record(
    {"type": one_of(1, 2, 3), "intent": text(), "action": text(), "url": text(), "rich_resource": text()}, ["type"]
)
_BUTTON = record(
    {
        "name": text(40, 1),
        "action_type": one_of(0, 1, 2, 3, 4),
        "intent_type": one_of(0, 1),
        "intent": text(),
        "data": text(1_024),
    },
    ["name", "action_type"],
)
_COLOR = record(dict.fromkeys(("alpha", "red", "green", "blue"), number))
_NOTIFICATION = record(
    {
        "title": text(),
        "body": text(),
        "click_action": _click_action,
        "image": text(form=HTTPS_FORM),
        "icon": text(),
        "color": text(form=COLOR_FORM),
        "sound": text(),
        "default_sound": flag,
        "channel_id": text(),
        "importance": one_of("LOW", "NORMAL", "HIGH"),
        "notify_id": whole(-1, 2**31 - 1),
        "tag": text(),
        "group": text(),
        "badge": record({"add_num": whole(1, 99), "set_num": whole(0, 99), "class": text(n_min=1)}, ["class"]),
        "style": one_of(0, 1, 3),
        "big_title": text(),
        "big_body": text(),
        "inbox_content": each(text(1_024), 5),
        "when": text(),
        "foreground_show": flag,
        "visibility": one_of("VISIBILITY_UNSPECIFIED", "PUBLIC", "SECRET", "PRIVATE"),
        "use_default_vibrate": flag,
        "vibrate_config": each(text(form=re.compile(r"[0-9]+(\.[0-9]+)?s?")), 10),
        "use_default_light": flag,
        "light_settings": record(
            {"color": _COLOR, "light_on_duration": text(), "light_off_duration": text()},
            ["color", "light_on_duration", "light_off_duration"],
        ),
        "buttons": each(_BUTTON, 3),
        "title_loc_key": text(),
        "title_loc_args": each(text(), 100),
        "body_loc_key": text(),
        "body_loc_args": each(text(), 100),
        "multi_lang_key": an_object,
        "notify_summary": text(),
        "ticker": text(),
        "profile_id": text(64),
    },
    ["click_action"],
)
_ANDROID = record(
    {
        "collapse_key": coded(whole(-1, 100), "80100013"),
        "urgency": one_of("HIGH", "NORMAL"),
        "category": one_of(*SERVICE_CATEGORIES, MARKETING),
        "ttl": seconds_text(TTL_S_MAX, "80100004"),
        "bi_tag": octets(TAG_BYTES_MAX),
        "receipt_id": text(64),
        "target_user_type": one_of(0, 1),
        "fast_app_target": one_of(1, 2),
        "data": text(),
        "notification": _NOTIFICATION,
    }
)
_MESSAGE = record(
    {
        "token": each(text(), TOKENS_MAX),
        "topic": text(n_min=1),
        "condition": text(n_min=1),
        "data": text(),
        "notification": record({"title": text(), "body": text(), "image": text(form=HTTPS_FORM)}),
        "android": _ANDROID,
        "apns": an_object,
        "webpush": an_object,
    }
)
REQUEST: Check = record({"validate_only": flag, "message": _MESSAGE, "review": each(an_object, 10)}, ["message"])


class HuaweiSection(HuaweiCloudSection, frozen=True, kw_only=True):
    """The HMS simulator with its OAuth endpoint."""

    client_id: str = "104000001"
    client_secret: str = "sim-huawei-client-secret"
    access_token_life_s: Seconds = 3_600.0
    token_calls_per_5_min: Count = 1_000
    high_urgency: bool = False


class Huawei(HuaweiCloud):
    """Huawei's judgement on HMS messages; implements exchange.Vendor."""

    name = "huawei"
    known_fates = frozenset({"illegal_token"})
    receipt_fates: ClassVar[Mapping[str, str]] = {
        **DEVICE_FATES,
        "profile_unknown": "144",
        "held": "201",
    }
    events = ("0", "", "")  # a receipt tells delivery and no more
    oauth_paths = TOKEN_PATHS

    def __init__(self, section: HuaweiSection, kit: Kit) -> None:
        super().__init__(section, kit, make_huawei_account(kit.directory, section.project_id, AUDIENCE))
        self._section = section
        self._access = AccessTokens(section.access_token_life_s)
        self._oauth_window = DeviceWindow(section.token_calls_per_5_min, OAUTH_WINDOW_S)

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """Both ways to authorize."""
        return {
            "client_id": self._section.client_id,
            "client_secret": self._section.client_secret,
            "project_id": self.cloud.project_id,
            "token_uri": f"https://{host}:{port}/oauth2/v3/token",
            "service_account_file": str(self.account.path),
        }

    def reset(self) -> None:
        """No access token is valid."""
        super().reset()
        self._access.clear()
        self._oauth_window = DeviceWindow(self._section.token_calls_per_5_min, OAUTH_WINDOW_S)

    def answer_call(self, request: Request) -> Answer:
        """A call of the OAuth endpoint, or a message."""
        if self.call_of(request) == "oauth":
            return self._issue(request)
        send = self.read(request)
        self.pace(len(send.tokens))
        return self._send(send)

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """The OAuth endpoint has errors of its own."""
        if self.call_of(request) != "oauth" or refused.code == "503":
            return super().refusal(refused, request)
        sub_error, description = OAUTH_ERRORS.get(refused.code, (0, refused.code))
        number = int(refused.code) if refused.code.isdigit() else 1101
        body = {"error": number, "sub_error": sub_error, "error_description": description}
        return refused_answer(refused, body, 400)

    # ---- authorization

    def _issue(self, request: Request) -> Answer:
        if request.method != "POST":
            raise Refused("1101", f"method is {request.method[:16]}", status=405)
        form = form_of(request, "1101")
        if form.get("grant_type") != "client_credentials":
            raise Refused("1101", "grant_type is not client_credentials")
        if form.get("client_id") != self._section.client_id:
            raise Refused("1102", "client_id is unknown")
        if form.get("client_secret") != self._section.client_secret:
            raise Refused("1203", "client_secret is wrong")
        if self._oauth_window.take(self._section.client_id, self.now) > 0:
            raise Refused("503", f"more than {self._section.token_calls_per_5_min} calls in five minutes", status=503)
        token = f"DQEB{secrets.token_urlsafe(24)}/{secrets.token_urlsafe(24)}=="
        self._access.add(token, self.now, self._section.client_id)
        body = {"access_token": token, "expires_in": int(self._access.life_s), "token_type": "Bearer"}
        # The raw text escapes the slash: who cuts the token out of it instead of parsing JSON sends a wrong one.
        return Answer(200, JSON_HEADERS, to_json(body).replace(b"/", b"\\/"))

    def _authorize(self, request: Request, version: str, path_id: str) -> None:
        scheme, _, bearer = header_of(request, b"authorization").partition(" ")
        if scheme != "Bearer" or not bearer:
            raise Refused("80200001", "authorization is missing or not Bearer")
        expected = self._section.client_id if version == "v1" else self.cloud.project_id
        if bearer.count(".") == 2:
            self.check_jwt(bearer)
            self.kit.n_seen["authorized by jwt"] += 1
        elif not self._access.is_known(bearer):
            raise Refused("80200001", "the access token is unknown")
        elif not self._access.is_valid(bearer, self.now):
            raise Refused("80200003", "the access token has expired")
        if path_id != expected:
            raise Refused("80200001", f"the id in the path is not {expected}, to which the token belongs")

    # ---- the message

    def read(self, request: Request) -> Send:
        """The request, checked; nothing has changed but counters. Raises Refused."""
        found = SEND_PATH.fullmatch(path_of(request))
        if found is None or request.method != "POST":
            raise Refused("404", f"{request.method[:16]} on an unknown path", status=404)
        self._authorize(request, found.group(1), found.group(2))
        value = json_of(request, "80100003")
        message = value.get("message")
        if not isinstance(message, dict):
            raise Refused("80300010", "message is missing")
        targets = [name for name in ("token", "topic", "condition") if name in message]
        if len(targets) != 1:
            raise Refused("80300010" if not targets else "80100001", f"{len(targets)} targets, expected exactly one")
        tokens = self.check_count(message["token"], TOKENS_MAX) if "token" in message else [message[targets[0]]]
        self.check_size(request)
        fault = self.faults_of(REQUEST, value)
        if fault is not None:
            code = "80100003" if fault.kind in ("type", "unknown") else "80100001"
            raise Refused(fault.code or code, str(fault))
        return self._meaning(value, message, tokens)

    def _meaning(self, value: Mapping[str, Any], message: Mapping[str, Any], tokens: Sequence[str]) -> Send:
        android = message.get("android", {})
        shown = {**message.get("notification", {}), **android.get("notification", {})}
        payload = android.get("data", message.get("data", ""))
        if not shown and not payload:
            raise Refused("80100001", "message has neither data nor notification")
        if shown and not android.get("notification"):
            raise Refused("80100001", "message.android.notification.click_action: is missing")
        if shown and not (shown.get("title") and shown.get("body")) and "title_loc_key" not in shown:
            raise Refused("80100001", "title or body is missing")
        if android.get("urgency") == "HIGH" and (shown or not self._section.high_urgency):
            raise Refused("80300011", "urgency HIGH is for data messages of apps with the right")
        self.callback_url(android.get("receipt_id", ""))
        self.check_words(shown.get("title", ""), shown.get("body", ""))
        return Send(
            tokens=tokens,
            title=shown.get("title", ""),
            body=shown.get("body", ""),
            payload=payload,
            tag=android.get("bi_tag", ""),
            receipt_id=android.get("receipt_id", ""),
            category=android.get("category", MARKETING),
            is_notification=bool(shown),
            is_test=android.get("target_user_type", 0) == 1,
            is_dry=value.get("validate_only", False),
        )

    def _send(self, send: Send) -> Answer:
        if send.is_dry:
            return self.reply("80000000", "Success")
        good = [token for token in send.tokens if self._is_legal(token)]
        bad = [token for token in send.tokens if not self._is_legal(token)]
        if not good:
            raise Refused("80300007", f"none of {len(send.tokens)} tokens is legal")
        listed = {"success": len(good), "failure": len(bad), "illegal_tokens": bad}
        return self.taken(send, good, listed if bad else None, {"illegal_token": len(bad)})

    def _is_legal(self, token: str) -> bool:
        return bool(TOKEN_FORM.fullmatch(token)) and self.sync_fate(token) is None

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """Version 1 of the receipt body."""
        for is_forged, some in split_forged(dues):
            statuses = [
                {
                    "biTag": due.reference,
                    "appid": self._section.client_id,
                    "token": due.token,
                    "status": int(due.event),
                    "timestamp": self.now_ms,
                    "requestId": due.message_id,
                }
                for due in some
            ]
            yield self.callback_of(statuses, is_forged=is_forged)


OAUTH_ERRORS: Mapping[str, tuple[int, str]] = {
    "1101": (20_001, "invalid request"),
    "1102": (20_044, "client id is invalid"),
    "1203": (20_152, "client secret is invalid"),
}
