"""WeChat subscribe messages of a mini program as a judge: both token calls, subscribe/send, the sent event. No sockets.

Written from facts/vendors-china.md section 6 (developers.weixin.qq.com, mp-message-management; parts of it from memory,
as the sheet marks). Order of the checks: path, access token, JSON, openid, template, page, values, consent, limits.

A message has no text of its own: what is recorded as title is the template id, as body the values in the order in which
they came, joined by line feeds. Nothing is echoed either: a row is named by `message_id` in the query of `page`.
43108 (concurrent sends to one user) comes only by an `errors` fault, since requests are judged one after another.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal
from xml.sax.saxutils import escape

import msgspec

from bench.simulators.access_tokens import AccessTokens
from bench.simulators.config_base import Count, Seconds
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import Check, an_object, one_of, parsed, record, text, to_json
from bench.simulators.push_api import (
    DAY_S,
    SHANGHAI_S,
    Kit,
    PushApi,
    PushSection,
    Refused,
    as_number,
    json_answer,
    message_id_of_url,
    new_id,
    path_of,
    query_of,
    refused_answer,
)
from bench.simulators.rate import DeviceWindow
from bench.simulators.receipts import Callback, Due

STABLE_PATH, CLASSIC_PATH = "/cgi-bin/stable_token", "/cgi-bin/token"
SEND_PATH = "/cgi-bin/message/subscribe/send"
RENEW_S = 300.0  # the normal mode gives the same token until so long before its end; an old one lives as long on
FORCED_WAIT_S = 30.0
OPENID_FORM = re.compile(r"[A-Za-z0-9_-]{28}")
TEMPLATE_FORM = re.compile(r"[A-Za-z0-9_-]{43}")
KEY_FORM = re.compile(r"([a-z_]+?)[0-9]{1,2}")
PAGE_FORM = re.compile(r"[A-Za-z0-9_\-/]+(\?[!-~]*)?")
_DATE = r"\d{4}(年\d{1,2}月\d{1,2}日|[-/.]\d{1,2}[-/.]\d{1,2})"
_TIME = r"([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d)?"
_MOMENT = rf"({_DATE} ?)?{_TIME}"
_DAY = rf"{_DATE}( ?{_TIME})?"
VALUE_FORMS: Mapping[str, re.Pattern[str]] = {
    "thing": re.compile(r"(?s).{1,20}"),
    "number": re.compile(r"(?=.{1,33}$)-?[0-9]{1,32}(\.[0-9]+)?"),
    "letter": re.compile(r"[A-Za-z]{1,32}"),
    "symbol": re.compile(r"[^\w\s]{1,5}"),
    "character_string": re.compile(r"[!-~ ]{1,32}"),
    "time": re.compile(rf"{_MOMENT}( ?~ ?{_MOMENT})?"),
    "date": re.compile(rf"{_DAY}( ?~ ?{_DAY})?"),
    "amount": re.compile(r"[¥￥$€£]?[0-9]{1,10}(\.[0-9]+)?元?"),
    "phone_number": re.compile(r"[0-9+\-() ]{1,17}"),
    "car_number": re.compile(r"[\u4e00-\u9fff]?[A-Za-z0-9\-]{1,7}[\u4e00-\u9fff]?"),
    "name": re.compile(r"(?=.*[\u4e00-\u9fff]).{1,10}|[^\u4e00-\u9fff]{1,20}"),
    "phrase": re.compile(r"[\u4e00-\u9fff]{1,5}"),
    "enum": re.compile(r"(?s).+"),
}
TEXTS = {
    "-1": "system error",
    "40001": "invalid credential, access_token is invalid or not latest",
    "40003": "invalid openid",
    "40013": "invalid appid",
    "40014": "invalid access_token",
    "40037": "invalid template_id",
    "40125": "invalid appsecret",
    "41001": "access_token missing",
    "41030": "invalid page",
    "42001": "access_token expired",
    "43101": "user refuse to accept the msg",
    "45009": "reach max api daily quota limit",
    "45011": "api minute-quota reach limit",
    "45168": "sensitive words",
    "47001": "data format error",
}
REQUEST: Check = record(
    {
        "touser": text(128),
        "template_id": text(128),
        "page": text(1_024),
        "data": an_object,
        "miniprogram_state": one_of("developer", "trial", "formal"),
        "lang": one_of("zh_CN", "en_US", "zh_HK", "zh_TW"),
    },
    ["touser", "template_id", "data"],
)


class WechatSection(PushSection, frozen=True, kw_only=True):
    """The WeChat simulator. templates: id -> its keys; empty = any id of the right form with any keys.

    enums: key of a template -> the values it may have. acceptances: of each openid for each template; 0 = no end.
    """

    appid: str = "wx0000000000000001"
    secret: str = "sim-wechat-secret"
    access_token_life_s: Seconds = 7_200.0
    token_calls_per_minute: Count = 10_000
    classic_calls_per_day: Count = 2_000
    forced_calls_per_day: Count = 20
    templates: dict[str, list[str]] = msgspec.field(default_factory=dict)
    enums: dict[str, list[str]] = msgspec.field(default_factory=dict)
    acceptances: Count = 0
    sensitive_words: tuple[str, ...] = ()
    calls_per_day: Count = 10_000_000
    calls_per_minute: Count = 0
    callback_token: str = "sim-wechat-callback-token"
    callback_form: Literal["json", "xml"] = "json"


class Wechat(PushApi):
    """WeChat's judgement; implements exchange.Vendor."""

    name = "wechat"
    known_fates = frozenset({"40003", "43101"})
    receipt_fates: ClassVar[Mapping[str, str]] = {"not_sent": "1"}
    events = ("0", "", "")
    throttle_code = (200, "45011")
    fault_code = (200, "-1")
    oauth_paths = frozenset({STABLE_PATH, CLASSIC_PATH})

    def __init__(self, section: WechatSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self._tokens = AccessTokens(section.access_token_life_s)
        self.reset()

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """The callback token signs the events that WeChat sends."""
        section = self._section
        return {"appid": section.appid, "secret": section.secret, "callback_token": section.callback_token}

    def reset(self) -> None:
        """No token is valid, nothing is used, every consent is as at the start."""
        super().reset()
        section = self._section
        self._tokens.clear()
        self._used: Counter[tuple[str, str]] = Counter()
        self._forced_at = 0.0
        self._per_minute = {"token": DeviceWindow(section.token_calls_per_minute, 60.0)}
        self._per_minute["send"] = DeviceWindow(section.calls_per_minute, 60.0)
        limits = (section.classic_calls_per_day, section.forced_calls_per_day, section.calls_per_day)
        self._per_day = {
            name: DeviceWindow(limit, DAY_S) for name, limit in zip(("classic", "forced", "send"), limits, strict=True)
        }

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`errcode` and `errmsg` with the request's id behind."""
        words = refused.text or TEXTS.get(refused.code, "error")
        rid = f"{secrets.token_hex(4)}-{secrets.token_hex(4)}-{secrets.token_hex(4)}"
        return refused_answer(refused, {"errcode": as_number(refused.code), "errmsg": f"{words} rid: {rid}"})

    def answer_call(self, request: Request) -> Answer:
        """A token, or a message."""
        path = path_of(request)
        if path == STABLE_PATH and request.method == "POST":
            return self._stable_token(request)
        if path == CLASSIC_PATH and request.method == "GET":
            return self._classic_token(query_of(request))
        if path != SEND_PATH or request.method != "POST":
            raise Refused("404", f"{request.method[:16]} {path[:60]} is not simulated", status=404)
        self._authorize(query_of(request).get("access_token", ""))
        value = self.read(request)
        self.pace(1)
        return self._take(value)

    # ---- authorization

    def _stable_token(self, request: Request) -> Answer:
        value = _object_in(request)
        self._check_app(value.get("grant_type"), value.get("appid"), value.get("secret"))
        if self._per_minute["token"].take("", self.now) > 0:
            raise Refused("45011", "too many calls of stable_token in a minute")
        newest = self._tokens.newest(self.now)
        if value.get("force_refresh") is True:
            if self.now - self._forced_at < FORCED_WAIT_S or self._per_day["forced"].take("", self._day_clock) > 0:
                raise Refused("45009", "force_refresh too often")
            self._forced_at = self.now
            self._tokens.expire_all(self.now)
            newest = None
        if newest is not None and self._tokens.is_valid(newest, self.now + RENEW_S):
            return self._told(newest)
        return self._told(self._issue())

    def _classic_token(self, query: Mapping[str, str]) -> Answer:
        self._check_app(query.get("grant_type"), query.get("appid"), query.get("secret"))
        if self._per_day["classic"].take("", self._day_clock) > 0:
            raise Refused("45009", "too many calls of token today")
        self.kit.n_seen["classic token"] += 1
        self._tokens.expire_all(self.now, RENEW_S)
        return self._told(self._issue())

    def _check_app(self, grant_type: Any, appid: Any, secret: Any) -> None:
        if grant_type != "client_credential":
            raise Refused("40002", "grant_type is not client_credential", text="invalid grant_type")
        if appid != self._section.appid:
            raise Refused("40013", "appid is unknown")
        if secret != self._section.secret:
            raise Refused("40125", "secret is wrong")

    def _issue(self) -> str:
        token = f"00_{secrets.token_urlsafe(80)}"
        self._tokens.add(token, self.now)
        return token

    def _told(self, token: str) -> Answer:
        return json_answer(200, {"access_token": token, "expires_in": max(0, int(self._tokens.left(token, self.now)))})

    @property
    def _day_clock(self) -> float:
        return self.now + SHANGHAI_S

    def _authorize(self, token: str) -> None:
        if not token:
            raise Refused("41001", "access_token is missing in the query")
        if not self._tokens.is_known(token):
            raise Refused("40001", "access_token is unknown")
        if not self._tokens.is_valid(token, self.now):
            raise Refused("42001", "access_token has expired or was replaced")

    # ---- the message

    def read(self, request: Request) -> dict[str, Any]:
        """The request, checked; nothing has changed. Raises Refused."""
        value = _object_in(request)
        fault = self.faults_of(REQUEST, value)
        if fault is not None:
            code = {"touser": "40003", "template_id": "40037"}.get(fault.path, "47003")
            raise Refused(code, str(fault), text=f"argument invalid! {fault.path} invalid" if code == "47003" else "")
        if not OPENID_FORM.fullmatch(value["touser"]):
            raise Refused("40003", "touser is no openid of 28 characters")
        template = value["template_id"]
        keys = self._section.templates.get(template)
        if keys is None and (self._section.templates or not TEMPLATE_FORM.fullmatch(template)):
            raise Refused("40037", "template_id is unknown")
        if "page" in value and not PAGE_FORM.fullmatch(value["page"]):
            raise Refused("41030", "page is no path of the mini program")
        self._check_data(value["data"], keys)
        return value

    def _check_data(self, data: Mapping[str, Any], keys: Sequence[str] | None) -> None:
        for key in keys or ():
            if key not in data:
                raise _invalid(key, "is missing")
        if not data:
            raise Refused("47003", "data is empty", text="argument invalid! data invalid")
        for key, entry in data.items():
            if keys is not None and key not in keys:
                raise _invalid(key, "is not in the template")
            value = entry.get("value") if isinstance(entry, dict) else None
            if not isinstance(value, str) or not value.strip():
                raise _invalid(key, "has no text as its value")
            if any(unicodedata.category(letter) == "Cc" for letter in value):
                raise _invalid(key, "has a control character")
            found = KEY_FORM.fullmatch(key)
            form = VALUE_FORMS.get(found.group(1)) if found is not None else None
            if form is None:
                raise _invalid(key, "is not a type and a number")
            if not form.fullmatch(value) or value not in self._section.enums.get(key, [value]):
                raise _invalid(key, f"is {value[:40]!r}, which its type does not take")
            if any(word in value for word in self._section.sensitive_words):
                raise Refused("45168", "a value holds a sensitive word")

    def _take(self, value: Mapping[str, Any]) -> Answer:
        openid, template = value["touser"], value["template_id"]
        fate = self.sync_fate(openid)
        if fate is not None:
            raise Refused(fate.fate, "by the configured fate of the openid")
        limit = self._section.acceptances
        if limit and self._used[openid, template] >= limit:
            raise Refused("43101", "no acceptance of this template is left")
        if self._per_day["send"].take("", self._day_clock) > 0:
            raise Refused("45009", f"more than {self._section.calls_per_day} calls today")
        if self._per_minute["send"].take("", self.now) > 0:
            raise Refused("45011", f"more than {self._section.calls_per_minute} calls in a minute")
        if limit:
            self._used[openid, template] += 1
        message_id = new_id(19)
        named = message_id_of_url(value.get("page", ""))
        values = "\n".join(entry["value"] for entry in value["data"].values())
        due = Due(self._section.receipts.callback_url, openid, named, message_id, "", extra=(("template", template),))
        return json_answer(
            200,
            {"errcode": 0, "errmsg": "ok", "msgid": int(message_id)},
            rows=self.rows_of(named, "", [openid], template, values),
            receipts=tuple(self.receipts_of(openid, due)),
        )

    # ---- events

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """subscribe_msg_sent_event, one per message, signed in the query as the console's URL check is."""
        for due in dues:
            stamp, nonce = str(int(self.now)), secrets.token_hex(8)
            token = "forged" if due.is_forged else self._section.callback_token
            query = (
                ("signature", callback_signature(token, stamp, nonce)),
                ("timestamp", stamp),
                ("nonce", nonce),
                ("openid", due.token),
            )
            body, kind = self._event(due, stamp)
            yield Callback(body, (("content-type", kind),), 1, query)

    def _event(self, due: Due, stamp: str) -> tuple[bytes, str]:
        outcome = {
            "TemplateId": dict(due.extra)["template"],
            "MsgID": due.message_id,
            "ErrorCode": due.event,
            "ErrorStatus": "success" if due.event == "0" else "failed",
        }
        head = {
            "ToUserName": "gh_000000000001",
            "FromUserName": due.token,
            "CreateTime": stamp,
            "MsgType": "event",
            "Event": "subscribe_msg_sent_event",
        }
        if self._section.callback_form == "json":
            return to_json(head | {"List": outcome}), "application/json"
        parts = _xml(head) + f"<SubscribeMsgSentEvent><List>{_xml(outcome)}</List></SubscribeMsgSentEvent>"
        return f"<xml>{parts}</xml>".encode(), "text/xml"


def callback_signature(token: str, timestamp: str, nonce: str) -> str:
    """Lower hex of sha1 over the three, sorted and joined."""
    return hashlib.sha1("".join(sorted((token, timestamp, nonce))).encode(), usedforsecurity=False).hexdigest()


def _xml(fields: Mapping[str, str]) -> str:
    return "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())


def _invalid(key: str, why: str) -> Refused:
    return Refused("47003", f"data.{key[:40]} {why}", text=f"argument invalid! data.{key[:40]}.value invalid")


def _object_in(request: Request) -> dict[str, Any]:
    value = parsed(request.body)
    if not isinstance(value, dict):
        raise Refused("47001", "the body is not an object in JSON")
    return value
