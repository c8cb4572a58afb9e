"""HarmonyOS Push Kit v3 as a judge. No sockets.

Written from facts/vendors-international.md section 4 (push-scenariozed-api-request-struct, -param, -response,
push-jwt-token, push-msg-freq-control). Order of the checks: path, method, JWT, push-type, content type, JSON, tokens,
size, fields, rights, then token by token with the reason keys of `illegalTokens`.

Where Huawei is silent: a push-type that the app has no right to is refused per token with noPushTypeRight, as the
reason keys suggest; no figure is given for a burst of test messages (80300029), which comes only by an `errors` fault.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from bench.simulators.config_base import Count
from bench.simulators.credentials import make_huawei_account
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import Check, an_object, each, flag, octets, one_of, record, text, to_json, whole
from bench.simulators.huawei_cloud import (
    AUDIENCE,
    DEVICE_FATES,
    MARKETING,
    REPEATED,
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
from bench.simulators.push_api import DAY_S, Kit, Refused, header_of, json_of, path_of
from bench.simulators.rate import DeviceWindow
from bench.simulators.receipts import Callback, Due
from bench.simulators.received import target_of

SEND_PATH = re.compile(r"/v3/([0-9]{1,32})/messages:send")
TEST_TOKENS_MAX = 10
FORM_TOKENS_MAX = 1
ALERT, FORM_REFRESH, VOICE, BACKGROUND, LIVE_VIEW, CALL = 0, 1, 2, 6, 7, 10
MESSAGE_ID_FORM = re.compile(r"[A-Za-z0-9+/=\-_ ]{1,64}")
HTTPS_FORM = re.compile(r"https://\S+")
DEDUPE_S = (
    DAY_S  # the same appMessageId within 24 hours: only the earliest is shown; here days of UTC, not any 24 hours
)

_CLICK_ACTION = record(
    {"actionType": one_of(0, 1, 3, 5), "action": text(), "uri": text(), "data": an_object}, ["actionType"]
)
_NOTIFICATION = record(
    {
        "category": one_of(*SERVICE_CATEGORIES, MARKETING),
        "title": text(n_min=1),
        "body": text(n_min=1),
        "clickAction": _CLICK_ACTION,
        "image": text(form=HTTPS_FORM),
        "style": one_of(0, 1, 3),
        "bigTitle": text(),
        "bigBody": text(),
        "inboxContent": each(text(1_024), 3),
        "notifyId": whole(-1, 2**31 - 1),
        "appMessageId": text(64, 1, MESSAGE_ID_FORM),
        "profileId": text(64),
        "badge": record({"addNum": whole(1, 99), "setNum": whole(0, 99)}),
        "sound": text(),
        "soundDuration": whole(1, 60),
        "foregroundShow": flag,
    },
    ["category", "title", "body", "clickAction"],
)
_IMAGE = record({"keyName": text(), "url": text(form=HTTPS_FORM), "require": one_of(0, 1)}, ["keyName", "url"])
PAYLOADS: Mapping[int, Check] = {
    ALERT: record({"notification": _NOTIFICATION}, ["notification"]),
    FORM_REFRESH: record(
        {
            "formId": whole(0, 2**63 - 1),
            "version": whole(0, 2**31 - 1),
            "moduleName": text(),
            "formName": text(),
            "abilityName": text(),
            "formData": an_object,
            "images": each(_IMAGE, 1),
        },
        ["formId", "version", "moduleName", "formName", "abilityName", "formData"],
    ),
    VOICE: record({"notification": _NOTIFICATION, "extraData": text()}, ["notification"]),
    BACKGROUND: record({"extraData": text(), "proxyData": one_of("ENABLE")}, ["extraData"]),
    LIVE_VIEW: record(
        {
            "activityId": whole(0, 2**31 - 1),
            "operation": one_of(0, 1, 2),
            "event": text(n_min=1),
            "status": text(),
            "version": whole(0, 2**31 - 1),
            "activityData": an_object,
        },
        ["activityId", "operation", "event"],
    ),
    CALL: record({"extraData": text()}, ["extraData"]),
}
_OPTIONS = record(
    {
        "testMessage": flag,
        "ttl": whole(1, TTL_S_MAX),
        "biTag": octets(TAG_BYTES_MAX),
        "receiptId": text(64),
        "collapseKey": whole(-1, 100),
        "backgroundMode": one_of(0, 1),
    }
)
_TARGET = record({"token": each(text(), TOKENS_MAX)}, ["token"])
ENVELOPE: Check = record({"payload": an_object, "target": _TARGET, "pushOptions": _OPTIONS}, ["payload", "target"])


class HarmonySection(HuaweiCloudSection, frozen=True, kw_only=True):
    """The HarmonyOS simulator. push_types: those that the app has the right to."""

    test_messages_per_day: Count = 1_000
    push_types: tuple[int, ...] = (ALERT, FORM_REFRESH, VOICE, BACKGROUND, LIVE_VIEW, CALL)
    form_refreshes_per_device_per_day: Count = 2
    images_verified: bool = True


class Harmony(HuaweiCloud):
    """Huawei's judgement on HarmonyOS messages; implements exchange.Vendor."""

    name = "harmony"
    known_fates = frozenset(
        {
            "tokenFormatError",
            "tokenPlatformNotSupport",
            "noRight",
            "noPushTypeRight",
            "disableSendHuaweiMsgBecauseOfPenalty",
            "appinfoError",
            "countryNotSupport",
        }
    )
    receipt_fates: ClassVar[Mapping[str, str]] = {
        **DEVICE_FATES,
        "device_control": "102",
        "profile_unknown": "144",
        "not_shown": "151",
        "launch_failed": "188",
        "content_rejected": "259",
    }
    events = ("0", "", "")

    def __init__(self, section: HarmonySection, kit: Kit) -> None:
        super().__init__(section, kit, make_huawei_account(kit.directory, section.project_id, AUDIENCE))
        self._section = section
        self._forms = DeviceWindow(section.form_refreshes_per_device_per_day, DAY_S)
        self._shown = DeviceWindow(1, DEDUPE_S)

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """The service account is all there is."""
        return {"project_id": self.cloud.project_id, "service_account_file": str(self.account.path)}

    def reset(self) -> None:
        """Nothing has been shown."""
        super().reset()
        self._forms = DeviceWindow(self._section.form_refreshes_per_device_per_day, DAY_S)
        self._shown = DeviceWindow(1, DEDUPE_S)

    def answer_call(self, request: Request) -> Answer:
        """A message."""
        send = self.read(request)
        self.pace(len(send.tokens))
        illegal: dict[str, list[str]] = defaultdict(list)
        for token in send.tokens:
            reason = self._reason_of(token, send.push_type)
            if reason:
                illegal[reason].append(token)
        bad = {token for tokens in illegal.values() for token in tokens}
        good = [token for token in send.tokens if token not in bad]
        listed = {"success": len(good), "failure": len(send.tokens) - len(good), "illegalTokens": illegal}
        if not good:
            raise Refused("80300007", "no token is legal", text=to_json(listed).decode())
        reasons = {reason: len(tokens) for reason, tokens in illegal.items()}
        return self.taken(send, good, listed if bad else None, reasons)

    # ---- the message

    def read(self, request: Request) -> Send:
        """The request, checked; nothing has changed but counters. Raises Refused."""
        found = SEND_PATH.fullmatch(path_of(request))
        if found is None or request.method != "POST":
            raise Refused("404", f"{request.method[:16]} on an unknown path", status=404)
        self._authorize(request, found.group(1))
        push_type = self._push_type(request)
        value = json_of(request, "80100003")
        target, options = value.get("target"), value.get("pushOptions", {})
        if not isinstance(target, dict) or "token" not in target:
            raise Refused("80300010", "target.token is missing")
        is_test = isinstance(options, dict) and options.get("testMessage") is True
        tokens = self.check_count(target["token"], FORM_TOKENS_MAX if push_type == FORM_REFRESH else TOKENS_MAX)
        if is_test:
            self.check_count(tokens, TEST_TOKENS_MAX, "80300030")
        self.check_size(request)
        fault = self.faults_of(ENVELOPE, value) or self.faults_of(PAYLOADS[push_type], value["payload"])
        if fault is not None:
            raise Refused("80100003" if fault.kind in ("type", "unknown") else "80100001", str(fault))
        return self._meaning(value["payload"], options, tokens, push_type)

    def _authorize(self, request: Request, project_id: str) -> None:
        scheme, _, bearer = header_of(request, b"authorization").partition(" ")
        if scheme != "Bearer" or not bearer:
            raise Refused("80200001", "authorization is missing or not Bearer")
        self.check_jwt(bearer)
        if project_id != self.cloud.project_id:
            raise Refused("80200001", "the project in the path is not the account's")

    def _push_type(self, request: Request) -> int:
        value = header_of(request, b"push-type")
        if not re.fullmatch(r"[0-9]{1,2}", value) or int(value) not in PAYLOADS:
            raise Refused("80100001", f"push-type is {value[:16]!r}, expected one of {', '.join(map(str, PAYLOADS))}")
        return int(value)

    def _meaning(
        self, payload: Mapping[str, Any], options: Mapping[str, Any], tokens: Sequence[str], push_type: int
    ) -> Send:
        shown = payload.get("notification", {})
        action = shown.get("clickAction", {})
        if action.get("actionType") == 1 and not (action.get("action") or action.get("uri")):
            raise Refused("80100001", "payload.notification.clickAction of type 1 has neither action nor uri")
        if action.get("actionType") == 5:
            raise Refused("80100001", "payload.notification.clickAction of type 5 is for live views only")
        if (shown.get("category") == "PLAY_VOICE") != (push_type == VOICE) and shown:
            raise Refused("80100001", "category PLAY_VOICE and push-type 2 belong together")
        if "collapseKey" in options and options["collapseKey"] != -1 and push_type not in (ALERT, VOICE):
            raise Refused("80100013", "collapseKey is for push-type 0 and 2")
        if "backgroundMode" in options and push_type != BACKGROUND:
            raise Refused("80100001", "backgroundMode is for push-type 6")
        if "image" in shown and not self._section.images_verified:
            raise Refused("80100022", "the image has not been checked")
        self.callback_url(options.get("receiptId", ""))
        self.check_words(shown.get("title", ""), shown.get("body", ""))
        data = action.get("data", {}) if shown else payload.get("extraData", "")
        return Send(
            tokens=tokens,
            title=shown.get("title", ""),
            body=shown.get("body", ""),
            payload=data if isinstance(data, str) else to_json(data).decode(),
            tag=options.get("biTag", ""),
            receipt_id=options.get("receiptId", ""),
            category=shown.get("category", ""),
            is_notification=bool(shown),
            is_test=options.get("testMessage", False),
            push_type=push_type,
            dedupe_id=shown.get("appMessageId", ""),
        )

    def _reason_of(self, token: str, push_type: int) -> str:
        """The key under which an illegal token is listed; empty for a legal one."""
        if not TOKEN_FORM.fullmatch(token):
            return "tokenFormatError"
        if push_type not in self._section.push_types:
            return "noPushTypeRight"
        fate = self.sync_fate(token)
        return "" if fate is None else fate.fate

    def over_cap(self, send: Send, token: str) -> str | None:
        """Beside the caps: cards have their own, and a repeated appMessageId is not shown."""
        if send.push_type == FORM_REFRESH:
            return None if self._forms.take(token, self.now) <= 0 else "262"
        if send.dedupe_id and self._shown.take(f"{send.dedupe_id} {target_of(token).hex()}", self.now) > 0:
            self.kit.n_seen["appMessageId repeated"] += 1
            return REPEATED
        return super().over_cap(send, token)

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """Version 2 of the receipt body."""
        for is_forged, some in split_forged(dues):
            statuses = [self._status(due) for due in some]
            yield self.callback_of(statuses, is_forged=is_forged)

    def _status(self, due: Due) -> dict[str, Any]:
        push_type = dict(due.extra)["pushType"]
        outcome = {"result": int(due.event), "timestamp": self.now_ms}
        place = {"formStatus": outcome | {"formId": 0}} if push_type == FORM_REFRESH else {"deliveryStatus": outcome}
        return {
            "token": due.token,
            "pushType": push_type,
            "appPackageName": "com.example.app",
            "biTag": due.reference,
            "requestId": due.message_id,
        } | place
