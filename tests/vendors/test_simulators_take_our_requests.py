"""Requests of the vendor files, as rendered, are taken row by row by the strict simulators, which share no code."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import msgspec
import pytest

from bench.simulators.clock import Clock
from bench.simulators.config import SimulatorsConfig
from bench.simulators.exchange import Answer, Request
from bench.simulators.huawei_cloud import AUDIENCE
from bench.simulators.oppo import auth_signature as oppo_signature
from bench.simulators.push_api import Kit, PushApi
from bench.simulators.server import PUSH_APIS
from bench.simulators.vivo import auth_signature as vivo_signature
from gateway.content import Click, Variant
from vendors import (
    aliyun_sms,
    dingtalk,
    dingtalk_robot,
    harmony,
    honor,
    huawei,
    meizu,
    oppo,
    tencent_sms,
    vivo,
    webhook,
    wechat,
    wecom,
    wecom_robot,
    xiaomi,
)
from vendors.auth.ps256 import AccountTokenSigner
from vendors.auth.robot_keys import RobotKeys
from vendors.text_template import TextTemplate

NOW_UNIX_S = 1_763_700_000
CALLBACK = "https://gw.example.com/cb"
FILE = "absent"
LANES = {"system_channel": "private", "marketing_channel": "public"}
_VIVO = vivo.Settings(app_id=10004, app_key_id="sim-vivo-app-key", app_secret_file=FILE, callback_url=CALLBACK)
_ALIYUN = aliyun_sms.Settings(
    access_key_id="sim-aliyun-key-id",
    access_key_secret_file=FILE,
    sign_name="Demo",
    templates={"default": TextTemplate(id="SMS_1", params={"title": "{{title}}", "content": "{{body}}", "c": "k"})},
)
_TENCENT = tencent_sms.Settings(
    secret_id="sim-tencent-secret-id",
    secret_key_file=FILE,
    sdk_app_id="1400000000",
    sign_name="Demo",
    templates={"default": TextTemplate(id="1234567", params={"2": "{{body}}", "1": "{{title}}"})},
)
_WECHAT = wechat.Settings(
    appid="wx0000000000000001",
    app_secret_file=FILE,
    page="pages/index/index",
    web_view_page="pages/web/index?from=push",
    templates={
        "default": TextTemplate(
            id="T" * 43,
            params={
                "thing1": "{{title}}",
                "thing2": "去：{{body}}",
                "time3": "2026年11月21日 21:30",
                "phrase4": "已发货",
            },
        )
    },
)
_WECOM = wecom.Settings(corpid="ww0000000000000001", agentid=1_000_002, corp_secret_file=FILE)
_CARD = "https://example.com/open?a=b#c"
_ROBOTS = b"\n".join(b"%064x %064x SECsim-dingtalk-robot-secret" % (n, n) for n in range(3))
_KEYS = b"\n".join(b"%064x 00000000-0000-0000-0000-%012x" % (n, n) for n in range(3))
_DINGTALK = dingtalk.Settings(app_key_id="ding0000000000000001", agent_id=1_234_567, app_secret_file=FILE)
VENDORS: dict[str, list[Any]] = {
    "huawei": [huawei.Huawei(huawei.Settings(client_id="104000001", client_secret_file=FILE, badge_class="a.B"))],
    "harmony": [harmony.Harmony(harmony.Settings(project_id="388421841221890000", account_key_file=FILE))],
    "honor": [
        honor.Honor(honor.Settings(app_id="104400001", client_id="c", client_secret_file=FILE, badge_class="a.B"))
    ],
    "xiaomi": [xiaomi.Xiaomi(xiaomi.Settings(package_name="com.example.app", app_secret_file=FILE, **LANES))],
    "oppo": [oppo.Oppo(oppo.Settings(app_key_id="sim-oppo-app-key", master_secret_file=FILE, callback_url=CALLBACK))],
    "vivo": [vivo.Vivo(_VIVO), vivo.Vivo(msgspec.structs.replace(_VIVO, receipts="throughput"))],
    "meizu": [meizu.Meizu(meizu.Settings(app_id="110000", app_secret_file=FILE))],
    "webhook": [webhook.Webhook(webhook.Settings(host="hook.example.com", secret_file=FILE, app="shop"))],
    "ups": [webhook.Ups(webhook.Settings(host="hook.example.com", secret_file=FILE))],
    "aliyun_sms": [
        aliyun_sms.AliyunSms(_ALIYUN),
        aliyun_sms.AliyunSms(msgspec.structs.replace(_ALIYUN, rows_per_request_max=1000)),
        aliyun_sms.AliyunSms(msgspec.structs.replace(_ALIYUN, messages_per_request_max=100)),
    ],
    "tencent_sms": [tencent_sms.TencentSms(_TENCENT)],
    "wechat": [wechat.Wechat(_WECHAT)],
    "wecom": [
        wecom.Wecom(_WECOM),
        wecom.Wecom(msgspec.structs.replace(_WECOM, card_url="https://example.com/open?a=b#c")),
    ],
    "dingtalk": [
        dingtalk.Dingtalk(_DINGTALK),
        dingtalk.Dingtalk(msgspec.structs.replace(_DINGTALK, card_url="https://example.com/open?a=b#c")),
    ],
    "wecom_robot": [
        wecom_robot.WecomRobot(wecom_robot.Settings(robots_file=FILE, mentioned=("@all",))),
        wecom_robot.WecomRobot(wecom_robot.Settings(robots_file=FILE, card_url=_CARD)),
    ],
    "dingtalk_robot": [
        dingtalk_robot.DingtalkRobot(dingtalk_robot.Settings(robots_file=FILE, mentioned=("@all", "u"))),
        dingtalk_robot.DingtalkRobot(dingtalk_robot.Settings(robots_file=FILE, card_url=_CARD, style="markdown")),
    ],
}
TOKEN = {"oppo": "CN_{:032x}", "vivo": "{:023d}", "meizu": "R" * 40 + "{}", "xiaomi": "dEmO+regid{}="}
TOKEN |= {"wecom_robot": "{:064x}", "dingtalk_robot": "{:064x}"}
TOKEN |= {"aliyun_sms": "1380000000{}", "tencent_sms": "+861380000000{}", "wechat": "o" * 27 + "{}"}
CONTENTS = {
    "plain": Variant("标题", "Text"),
    "marketing": Variant("t", "b", class_="marketing"),
    "full": Variant(
        'a"&b=%', "长" * 150, data={"k": 1, "s": 'é"'}, ttl_s=3600, category="IM", collapse_id="c-1", badge=3, sound="d"
    ),
    "no ttl": Variant("t", "b", ttl_s=0),
    "long": Variant("长" * 300, "\U0001f468\u200d\U0001f469" * 600, ttl_s=40 * 86_400, class_="marketing"),
    **{f"click {kind}": Variant("t", "b", click=Click(kind, "https://x/a?b=c")) for kind in ("app", "url", "payload")},
    "texts of their own": Variant("h {{x}}", "b{{x}}", data={"k": "{{x}}"}),
}


class Asked:
    """A judge at the time of the renderer."""

    def __init__(self, name: str, directory: Path) -> None:
        kit = Kit(Clock(lambda: NOW_UNIX_S), random.Random(1), Counter(), True, directory, "cn")
        self.name = name
        self.judge: PushApi = PUSH_APIS[name](getattr(SimulatorsConfig(), name), kit)
        self.known = self.judge.credentials("127.0.0.1", 1)

    def ask(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        pairs = tuple((key.encode(), value.encode()) for key, value in headers.items())
        return self.judge.judge(Request("POST", path, pairs, body, len(body)), None)

    def _form(self, path: str, **fields: str) -> Any:
        kind = {"content-type": "application/x-www-form-urlencoded"}
        return json.loads(self.ask(path, kind, urlencode(fields).encode()).body)

    def _got(self, path: str) -> bytes:
        answer = self.judge.judge(Request("GET", path, (), b"", 0), None)
        return str(json.loads(answer.body)["access_token"]).encode()

    def credential(self) -> bytes:
        """What the keeper would have: got from the simulator itself where the vendor gives tokens."""
        known, stamp = self.known, f"{NOW_UNIX_S}000"
        match self.name:
            case "huawei" | "honor":
                keys = {key: known[key] for key in ("client_id", "client_secret")}
                path = {"huawei": "/oauth2/v3/token", "honor": "/auth/token"}[self.name]
                token = self._form(path, grant_type="client_credentials", **keys)["access_token"]
                return b"Bearer " + str(token).encode()
            case "harmony":
                account = json.loads(Path(known["service_account_file"]).read_text())
                claims = {"iss": account["sub_account"], "aud": AUDIENCE, "iat": NOW_UNIX_S, "exp": NOW_UNIX_S + 3600}
                head = {"kid": account["key_id"]}
                return b"Bearer " + jwt.encode(claims, account["private_key"], algorithm="PS256", headers=head).encode()
            case "oppo":
                sign = oppo_signature(known["app_key"], stamp, known["master_secret"])
                said = self._form("/server/v1/auth", app_key=known["app_key"], timestamp=stamp, sign=sign)
                return str(said["data"]["auth_token"]).encode()
            case "vivo":
                sign = vivo_signature("10004", known["app_key"], stamp, known["app_secret"])
                body = {"appId": 10004, "appKey": known["app_key"], "timestamp": int(stamp), "sign": sign}
                answer = self.ask("/message/auth", {"content-type": "application/json"}, json.dumps(body).encode())
                return str(json.loads(answer.body)["authToken"]).encode()
            case "xiaomi":
                return f"key={known['app_secret']}".encode()
            case "webhook" | "ups":
                return str(known["secret"]).encode()
            case "wechat":
                fields = {"grant_type": "client_credential", "appid": known["appid"], "secret": known["secret"]}
                kind = {"content-type": "application/json"}
                answer = self.ask("/cgi-bin/stable_token", kind, json.dumps(fields).encode())
                return str(json.loads(answer.body)["access_token"]).encode()
            case "wecom":
                query = urlencode({key: known[key] for key in ("corpid", "corpsecret")})
                return self._got(f"/cgi-bin/gettoken?{query}")
            case "dingtalk":
                return self._got(f"/gettoken?{urlencode({key: known[key] for key in ('appkey', 'appsecret')})}")
            case "wecom_robot":
                return RobotKeys(_KEYS).issue(0.0).authorization
            case "dingtalk_robot":
                return RobotKeys(_ROBOTS).issue(0.0).authorization
            case "aliyun_sms":
                return str(known["access_key_secret"]).encode()
            case "tencent_sms":
                return str(known["secret_key"]).encode()
            case _:
                return str(known["app_secret"]).encode()


@pytest.mark.parametrize("by_project", [False, True])
def test_huawei_takes_what_the_key_of_a_service_account_signs(
    render: Callable[..., Any], tmp_path: Path, by_project: bool
) -> None:
    asked = Asked("huawei", tmp_path)
    own = {"project_id": asked.known["project_id"]} if by_project else {}
    settings = huawei.Settings(client_id="104000001", account_key_file=str(asked.known["service_account_file"]), **own)
    assert huawei.secret_place(settings).file == settings.account_key_file
    signer = huawei.credential(settings, Path(settings.account_key_file).read_bytes())
    assert isinstance(signer, AccountTokenSigner)
    made = render(
        huawei.Huawei(settings), CONTENTS["full"], ["a", "b"], authorization=signer.issue(NOW_UNIX_S).authorization
    )
    for request in made.requests:
        answer = asked.ask(request.path, request.headers, request.body)
        assert answer.is_success, answer.why
    with pytest.raises(ValueError, match="account_key are both set"):
        huawei.Settings(client_id="1", client_secret_file="s", account_key_file="k")


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize("n", [1, 3])
def test_every_row_is_taken(
    render: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, name: str, content: str, n: int
) -> None:
    directory = tmp_path_factory.getbasetemp() / "judges"
    directory.mkdir(exist_ok=True)
    variables = {"x": ["a", "长" * 60, "c\n"][:n]} if content == "texts of their own" else {}
    tokens = [TOKEN.get(name, "token{}").format(index) for index in range(n)]
    for vendor in VENDORS[name]:
        asked = Asked(name, directory)
        made = render(vendor, CONTENTS[content], tokens, variables=variables, authorization=asked.credential())
        assert made.refused == []
        taken: list[str] = []
        for request in made.requests:
            body = request.body
            if request.save is not None:
                saved = asked.ask(request.save.path, request.save.headers, request.save.body)
                named = vendor.read_saved(saved.status, dict(saved.headers), saved.body)
                assert isinstance(named, str), saved.why
                body = body.replace(b"\x00saved\x00", named.encode())
            host, port = vendor.authority()
            assert port == 443
            answer = asked.ask(request.path, {"host": host} | request.headers, body)
            assert answer.is_success, answer.why
            # A robot is known by its key there, and by its name here.
            taken += [tokens[request.rows[0]] if "robot" in name else row.token for row in answer.rows]
        assert sorted(taken) == tokens


_CARD_PAYLOAD = {"formId": 7, "version": 1, "moduleName": "m", "formName": "f", "abilityName": "a"}
_VIEW_PAYLOAD = {"activityId": 5, "operation": 1, "event": "TAXI", "version": 2, "activityData": {"x": "y"}}
#: Push-type -> raw, and how many rows one request may have.
HARMONY_KINDS: dict[int, tuple[dict[str, Any], int]] = {
    0: ({"pushOptions": {"collapseKey": 3}}, 3),
    1: ({"payload": _CARD_PAYLOAD}, 1),
    2: ({}, 3),
    6: ({"payload": {"proxyData": "ENABLE"}, "pushOptions": {"backgroundMode": 1}}, 3),
    7: ({"payload": _VIEW_PAYLOAD}, 3),
    10: ({}, 3),
}


@pytest.mark.parametrize("push_type", HARMONY_KINDS)
def test_harmony_takes_every_push_type(render: Callable[..., Any], tmp_path: Path, push_type: int) -> None:
    (vendor,) = VENDORS["harmony"]
    raw, rows_max = HARMONY_KINDS[push_type]
    own = {"harmony": msgspec.Raw(json.dumps({"pushType": push_type} | raw).encode())}
    content = Variant('a"', "b {{x}}", data={"k": 1, "s": '"{{x}}'}, raw=own)
    tokens = ["token0", "token1", "token2"]
    for variables in ({"x": ["1", '"', "长\n"]}, {"x": ["1"] * 3}):
        asked = Asked("harmony", tmp_path)
        made = render(vendor, content, tokens, variables=variables, authorization=asked.credential())
        assert made.refused == []
        taken: list[str] = []
        for request in made.requests:
            answer = asked.ask(request.path, request.headers, request.body)
            assert answer.is_success, answer.why
            taken += [row.token for row in answer.rows]
        assert sorted(taken) == tokens
    made = render(vendor, msgspec.structs.replace(content, body="b", data=None), tokens)
    assert max(len(request.rows) for request in made.requests) == rows_max
