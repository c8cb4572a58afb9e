"""Honor Push as a judge: sendMessage and the token endpoint. No sockets.

Written from facts/vendors-international.md section 5 and vendors-addendum.md 2.1, which corrects it (codes of an
aggregator's table made from Honor's pages). Order of the checks: path and app id, bearer, timestamp, JSON, tokens,
size, fields, rights, test cap, then token by token.

Where the sheets are silent: whether `code` is a number or a text (`code_form`); how far the timestamp may be off
(`timestamp_skew_s`); whether 4,096 bytes include the tokens (they cannot, with a thousand of them: they do not here);
what happens to messages between midnight and six (`night`). Fields that single clients send are taken and counted.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bench.simulators.access_tokens import AccessTokens
from bench.simulators.config_base import Count, Seconds
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import Check, each, flag, one_of, record, seconds_text, text, to_json, variant, whole
from bench.simulators.push_api import (
    SHANGHAI_S,
    DayCaps,
    Kit,
    PushApi,
    PushSection,
    Refused,
    bytes_without_tokens,
    form_of,
    header_of,
    json_answer,
    json_of,
    new_id,
    path_of,
    refused_answer,
)
from bench.simulators.receipts import Callback, Due

TOKEN_PATHS = frozenset({"/auth/token", "/auth/realms/developer/protocol/openid-connect/token"})
SEND_PATH = re.compile(r"/api/v1/([0-9A-Za-z]{1,32})/sendMessage")
TOKENS_MAX = 1_000
MESSAGE_BYTES_MAX = 4_096
TTL_S_MAX = 1_296_000
HTTPS_FORM = re.compile(r"https://\S+")
TOKEN_FORM = re.compile(r"[!-~]{1,512}")
NIGHT_ENDS_H = 6
HELD_AT_NIGHT = "40000013"
TEXTS = {
    "200": "success",
    "400": "parameter error",
    "403": "Forbidden",
    "404": "Not Found",
    "503": "Service Unavailable",
    "80100000": "part of the tokens sent",
    "80300007": "all push tokens are invalid",
}

_CLICK_ACTION = record({"type": one_of(1, 2, 3), "intent": text(), "action": text(), "url": text()}, ["type"])
_BUTTON = record(
    {
        "name": text(40, 1),
        "actionType": one_of(0, 1, 2),
        "intentType": one_of(0, 1),
        "intent": text(),
        "data": text(1_024),
    },
    ["name", "actionType"],
)
_SHOWN = record({"title": text(), "body": text(), "image": text(form=HTTPS_FORM)})
_NOTIFICATION = record(
    {
        "title": text(),
        "body": text(),
        "clickAction": _CLICK_ACTION,
        "image": text(form=HTTPS_FORM),
        "style": one_of(0, 1),
        "bigTitle": text(),
        "bigBody": text(),
        "importance": one_of("LOW", "NORMAL"),
        "notifyId": whole(-1, 2**31 - 1),
        "tag": text(),
        "group": text(),
        "when": text(),
        "badge": record({"addNum": whole(1, 99), "setNum": whole(0, 99), "badgeClass": text(n_min=1)}, ["badgeClass"]),
        "buttons": each(_BUTTON, 3),
        "useDefaultVibrate": variant(flag),
        "visibility": variant(text()),
        "foregroundShow": variant(flag),
        "channelId": variant(text()),
    },
    ["clickAction"],
)
_ANDROID = record(
    {
        "ttl": seconds_text(TTL_S_MAX),
        "biTag": text(),
        "data": text(),
        "targetUserType": one_of(0, 1),
        "notification": _NOTIFICATION,
        "receiptId": variant(text()),
        "category": variant(text()),
    }
)
REQUEST: Check = record(
    {"token": each(text(), 1_000_000), "data": text(), "notification": _SHOWN, "android": _ANDROID}, ["token"]
)


class HonorSection(PushSection, frozen=True, kw_only=True):
    """The Honor simulator. self_classification: the right to importance NORMAL. receipt_ids: empty = any is taken."""

    protocols: tuple[Literal["h2", "http/1.1"], ...] = ("http/1.1",)
    app_id: str = "104400001"
    client_id: str = "sim-honor-client"
    client_secret: str = "sim-honor-client-secret"
    access_token_life_s: Seconds = 3_600.0
    rate_per_s: Seconds = 3_000.0
    code_form: Literal["number", "text"] = "number"
    timestamp_skew_s: Seconds = 600.0
    self_classification: bool = True
    marketing_per_device_per_day: Count = 2
    test_messages_per_day: Count = 1_000
    night: Literal["ignored", "held"] = "ignored"
    sensitive_words: tuple[str, ...] = ()
    receipt_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Send:
    """A request that has passed all checks of form."""

    tokens: Sequence[str]
    title: str
    body: str
    payload: str
    tag: str
    is_marketing: bool
    is_notification: bool
    is_test: bool


class Honor(PushApi):
    """Honor's judgement; implements exchange.Vendor."""

    name = "honor"
    known_fates = frozenset({"fail", "expired"})
    receipt_fates: ClassVar[Mapping[str, str]] = {
        "cached": "40000000",
        "not_installed": "40000003",
        "token_unknown": "40000004",
        "notifications_off": "40000005",
        "app_disabled": "40000006",
        "not_supported": "40000008",
        "target_failed": "40000011",
        "user_mismatch": "40000014",
        "show_failed": "40000015",
    }
    events = ("40000002", "", "")
    throttle_code = (503, "503")
    oauth_paths = TOKEN_PATHS

    def __init__(self, section: HonorSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self._access = AccessTokens(section.access_token_life_s)
        self._caps = DayCaps({"test": section.test_messages_per_day}, {"LOW": section.marketing_per_device_per_day})

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """The app id is for the path, the client id and secret are for the token."""
        return {
            "app_id": self._section.app_id,
            "client_id": self._section.client_id,
            "client_secret": self._section.client_secret,
            "token_uri": f"https://{host}:{port}/auth/token",
        }

    def reset(self) -> None:
        """No access token is valid, nothing is used."""
        super().reset()
        self._access.clear()
        self._caps.reset()

    def answer_call(self, request: Request) -> Answer:
        """A token, or a message."""
        if self.call_of(request) == "oauth":
            return self._issue(request)
        send = self.read(request)
        self.pace(len(send.tokens))
        if send.is_test:
            if self._caps.app_room("test", self.now) < 1:
                raise Refused("80200047", f"more than {self._section.test_messages_per_day} test messages today")
            self._caps.use_app("test", 1, self.now)
        return self._take(send)

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """An OAuth error in words, or a code; the low codes are HTTP statuses too."""
        code = refused.code
        if self.call_of(request) == "oauth":
            return refused_answer(refused, {"error": code, "error_description": refused.why}, 401)
        body = self._body(code, refused.text or TEXTS.get(code, refused.why), refused.data)
        return refused_answer(refused, body, int(code) if len(code) == 3 else 200)

    def _body(self, code: str, message: str, data: Any) -> dict[str, Any]:
        is_number = self._section.code_form == "number" and code.isdigit()
        return {"code": int(code) if is_number else code, "message": message, "data": data}

    # ---- authorization

    def _issue(self, request: Request) -> Answer:
        if request.method != "POST":
            raise Refused("invalid_request", f"method is {request.method[:16]}", status=405)
        form = form_of(request, "invalid_request")
        if form.get("grant_type") != "client_credentials":
            raise Refused("invalid_grant", "grant_type is not client_credentials", status=400)
        if form.get("client_id") != self._section.client_id:
            raise Refused("invalid_client", "client_id is unknown")
        if form.get("client_secret") != self._section.client_secret:
            raise Refused("unauthorized_client", "client_secret is wrong")
        self.kit.n_seen[f"token path {path_of(request)}"] += 1
        token = f"eyJ{secrets.token_urlsafe(48)}"
        self._access.add(token, self.now)
        return json_answer(200, {"access_token": token, "expires_in": int(self._access.life_s), "token_type": "Bearer"})

    # ---- the message

    def read(self, request: Request) -> Send:
        """The request, checked; nothing has changed but counters. Raises Refused."""
        found = SEND_PATH.fullmatch(path_of(request))
        if found is None or request.method != "POST" or found.group(1) != self._section.app_id:
            raise Refused("404", f"{request.method[:16]} on an unknown path or app id")
        scheme, _, bearer = header_of(request, b"authorization").partition(" ")
        if scheme != "Bearer" or not self._access.is_valid(bearer, self.now):
            raise Refused("403", "the access token is missing, unknown or expired")
        self._check_timestamp(header_of(request, b"timestamp"))
        value = json_of(request, "400")
        tokens = self._tokens_in(value)
        size = bytes_without_tokens(request)
        if size > MESSAGE_BYTES_MAX:
            raise Refused("80300008", f"the message is {size} bytes without its tokens, limit {MESSAGE_BYTES_MAX}")
        fault = self.faults_of(REQUEST, value)
        if fault is not None:
            raise Refused("80100003" if fault.kind in ("type", "unknown") else "400", str(fault), text=str(fault))
        return self._meaning(value, tokens)

    def _check_timestamp(self, value: str) -> None:
        if not value:
            raise Refused("10001", "the header timestamp is missing")
        if not re.fullmatch(r"[0-9]{13}", value):
            raise Refused("10207", "the header timestamp is not Unix milliseconds")
        off_s = abs(int(value) / 1000 - self.now)
        if off_s > self._section.timestamp_skew_s:
            raise Refused("10207", f"the header timestamp is {off_s:.0f} s off")

    def _tokens_in(self, value: Mapping[str, Any]) -> list[str]:
        tokens = value.get("token")
        if not isinstance(tokens, list) or not tokens or not all(isinstance(one, str) and one for one in tokens):
            raise Refused("10300", "token is missing, empty, or holds something else than texts")
        if len(tokens) > TOKENS_MAX:
            raise Refused("80300010", f"{len(tokens)} tokens, limit {TOKENS_MAX}")
        if len(set(tokens)) != len(tokens):
            repeated = [token for token, count in Counter(tokens).items() if count > 1]
            raise Refused("80300006", f"{len(repeated)} tokens are repeated")
        return tokens

    def _meaning(self, value: Mapping[str, Any], tokens: Sequence[str]) -> Send:
        android = value.get("android", {})
        own = android.get("notification", {})
        shown = {**value.get("notification", {}), **own}
        payload = android.get("data", value.get("data", ""))
        if not shown and not payload:
            raise Refused("80100003", "neither data nor notification")
        if shown:
            self._check_shown(shown)
        known = self._section.receipt_ids
        if "receiptId" in android and known and android["receiptId"] not in known:
            raise Refused("80200020", "receiptId is not one of the console's")
        return Send(
            tokens=tokens,
            title=shown.get("title", ""),
            body=shown.get("body", ""),
            payload=payload,
            tag=android.get("biTag", ""),
            is_marketing=shown.get("importance", "LOW") == "LOW" or not self._section.self_classification,
            is_notification=bool(shown),
            is_test=android.get("targetUserType", 0) == 1,
        )

    def _check_shown(self, shown: Mapping[str, Any]) -> None:
        action = shown.get("clickAction")
        if action is None:
            raise Refused("400", "android.notification.clickAction: is missing")
        if not shown.get("title") or not shown.get("body"):
            raise Refused("400", "title or body is missing")
        if action["type"] == 1 and not (action.get("intent") or action.get("action")):
            raise Refused("400", "clickAction of type 1 has neither intent nor action")
        if action["type"] == 2 and not HTTPS_FORM.fullmatch(action.get("url", "")):
            raise Refused("400", "clickAction of type 2 has no https url")
        if shown.get("style") == 1:
            big = (shown.get("bigTitle"), shown.get("bigBody"))
            if big != (shown["title"], shown["body"]):
                raise Refused("400", "bigTitle and bigBody must equal title and body")
        importance = shown.get("importance", "LOW")
        if importance == "NORMAL" and not self._section.self_classification:
            raise Refused("80200022", "importance NORMAL needs the right of self-classification")
        if importance == "LOW" and "image" in shown:
            raise Refused("80200050", "a marketing message carries an image")
        if any(word in shown["title"] or word in shown["body"] for word in self._section.sensitive_words):
            raise Refused("80200056", "a text holds a sensitive word")

    def _take(self, send: Send) -> Answer:
        failed, expired, good = [], [], []
        for token in send.tokens:
            fate = self.sync_fate(token)
            if not TOKEN_FORM.fullmatch(token) or (fate is not None and fate.fate == "fail"):
                failed.append(token)
            elif fate is not None:
                expired.append(token)
            else:
                good.append(token)
        request_id = new_id(20)
        data = {"sendResult": bool(good), "requestId": request_id, "failTokens": failed, "expireTokens": expired}
        if not good:
            raise Refused("80300007", "no token is valid", data=data)
        url = self._section.receipts.callback_url
        dues: list[Due] = []
        for token in good:
            dues += self.receipts_of(token, Due(url, token, send.tag, request_id, ""), self._event_of(send, token))
        code = "80100000" if failed else "200"
        counts = {"fail": len(failed), "expired": len(expired)}
        return json_answer(
            200,
            self._body(code, TEXTS[code], data),
            rows=self.rows_of(send.tag, send.payload, good, send.title, send.body),
            receipts=tuple(dues),
            row_reasons={name: count for name, count in counts.items() if count},
        )

    def _event_of(self, send: Send, token: str) -> str | None:
        """What a receipt will tell instead of a delivery."""
        is_capped = send.is_notification and send.is_marketing and not send.is_test
        if is_capped and not self._caps.use_device("LOW", token, self.now):
            return "40000009"
        hour = (self.now + SHANGHAI_S) % 86_400 / 3_600
        if self._section.night == "held" and hour < NIGHT_ENDS_H:
            return HELD_AT_NIGHT
        fate = self.fates.of(token)
        return "40000001" if not send.is_notification and fate is None else None

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """`statuses`, as one public client decodes it; no signature is known."""
        statuses = [
            {
                "biTag": due.reference,
                "appid": self._section.app_id,
                "token": due.token,
                "status": int(due.event),
                "timestamp": self.now_ms,
                "requestId": due.message_id,
            }
            for due in dues
        ]
        body = to_json({"statuses": statuses})
        yield Callback(body, (("content-type", "application/json"),), len(statuses))
