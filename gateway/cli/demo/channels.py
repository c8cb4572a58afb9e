"""The channels of the demo: for each vendor a token of its form, and its configuration at its simulator.

A channel that the registry knows and this table does not is a failing test, so that the demo shows all there are.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

#: Writes a secret into a file and tells its path.
SecretFile = Callable[[str], str]
Table = dict[str, Any]


class DemoChannel(NamedTuple):
    """platform: of its devices. token: 64 bytes of a device -> a token of the vendor's form. table: what the simulator
    tells of its credentials -> the vendor's table in the configuration, but for host, port and ca_file.

    simulator: keys of the simulator's section that the demo sets: caps per device are off, since a file of any length
    may be for few devices. texts: what the simulator kept as title and body -> those of the message, where a vendor
    shows templates with parameters; raises ValueError where they are not there. is_one_line: it has line ends of its
    own. nth_token: where the configuration names all targets.
    """

    platform: str
    token: Callable[[bytes], str]
    table: Callable[[Mapping[str, Any], SecretFile], Table]
    simulator: Table
    texts: Callable[[str, str], tuple[str, str]] | None = None
    is_one_line: bool = False
    nth_token: Callable[[int], str] | None = None

    def token_of(self, digest: bytes, nth: int) -> str:
        """The token of the nth device of this channel."""
        return self.token(digest) if self.nth_token is None else self.nth_token(nth)


def _apns(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {
        "team_id": known["team_id"],
        "key_id": known["key_id"],
        "key_file": known["key_file"],
        "topic": known["topics"][0],
    }


def _fcm(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {"project_id": known["project_id"], "service_account_file": known["service_account_file"]}


def _huawei(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {
        "client_id": known["client_id"],
        "client_secret_file": secret(known["client_secret"]),
        "token_uri": known["token_uri"],
    }


def _harmony(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {"project_id": known["project_id"], "account_key_file": known["service_account_file"]}


def _honor(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return _huawei(known, secret) | {"app_id": known["app_id"]}


def _xiaomi(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {
        "package_name": known["packages"][0],
        "app_secret_file": secret(known["app_secret"]),
        "system_channel": "private",
        "marketing_channel": "public",
    }


def _oppo(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {"app_key_id": known["app_key"], "master_secret_file": secret(known["master_secret"])}


def _vivo(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {
        "app_id": known["app_id"],
        "app_key_id": known["app_key"],
        "app_secret_file": secret(known["app_secret"]),
    }


def _meizu(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {"app_id": known["app_id"], "app_secret_file": secret(known["app_secret"])}


def _webhook(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {"secret_file": secret(known["secret"])}


def _aliyun_sms(known: Mapping[str, Any], secret: SecretFile) -> Table:
    template = {"id": "SMS_1", "params": {"title": "{{title}}", "content": "{{body}}"}}
    return {
        "access_key_id": known["access_key_id"],
        "access_key_secret_file": secret(known["access_key_secret"]),
        "sign_name": "Demo",
        "templates": {"default": template},
    }


def _aliyun_texts(title: str, body: str) -> tuple[str, str]:
    params = json.loads(body)
    return params["title"], params["content"]


def _tencent_sms(known: Mapping[str, Any], secret: SecretFile) -> Table:
    template = {"id": "1234567", "params": {"1": "{{title}}", "2": "{{body}}"}}
    return {
        "secret_id": known["secret_id"],
        "secret_key_file": secret(known["secret_key"]),
        "sdk_app_id": known["sdk_app_id"],
        "sign_name": "Demo",
        "templates": {"default": template},
    }


def _wechat(known: Mapping[str, Any], secret: SecretFile) -> Table:
    template = {"id": "T" * 43, "params": {"thing1": "{{title}}", "thing2": "{{body}}"}}
    return {
        "appid": known["appid"],
        "app_secret_file": secret(known["secret"]),
        "templates": {"default": template},
        "page": "pages/index/index",
        "web_view_page": "pages/web/index",
    }


def _wecom(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {
        "corpid": known["corpid"],
        "agentid": known["agentid"],
        "corp_secret_file": secret(known["corpsecret"]),
        "card_url": "https://example.com/open",
    }


def _dingtalk(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {
        "app_key_id": known["appkey"],
        "agent_id": known["agent_id"],
        "app_secret_file": secret(known["appsecret"]),
        "card_url": "https://example.com/open",
    }


#: As many groups as devices of the demo take turns with.
ROBOTS = 200


def _robot_key(nth: int) -> str:
    """The key of a robot of WeCom; it is the robot's name as well, by which its messages are found again."""
    return str(uuid.UUID(int=nth % ROBOTS + 1))


def _robot_token(nth: int) -> str:
    """The same of DingTalk."""
    return f"{nth % ROBOTS + 1:064x}"


#: The demo's groups read as fast as it writes.
_ROBOT: Table = {"messages_per_minute": 100_000, "rate_per_s": 1000.0, "burst": 1000}
_ROBOT |= {"card_url": "https://example.com/open"}


def _wecom_robot(known: Mapping[str, Any], secret: SecretFile) -> Table:
    keys = map(_robot_key, range(ROBOTS))
    return {"robots_file": secret("\n".join(f"{key} {key}" for key in keys)), **_ROBOT}


def _dingtalk_robot(known: Mapping[str, Any], secret: SecretFile) -> Table:
    lines = [f"{token} {token} {known['robot_secret']}" for token in map(_robot_token, range(ROBOTS))]
    return {"robots_file": secret("\n".join(lines)), **_ROBOT}


def _markdown_texts(title: str, body: str) -> tuple[str, str]:
    """The title stands in asterisks on a line of its own, a link behind the text."""
    first, _, rest = body.partition("\n")
    return first.removeprefix("**").removesuffix("**"), re.sub(r"\n\n\[[^\]]*\]\([^)]*\)\Z", "", rest)


def _email(known: Mapping[str, Any], secret: SecretFile) -> Table:
    return {
        "sender": known["sender"],
        "user_name": known["user_name"],
        "password_file": secret(known["password"]),
        "security": known["security"],
        # The demo's machine has other work than one message after the other at a server's pace.
        "rate_per_s": 1000.0,
        "burst": 1000,
    }


def _two_lines(title: str, body: str) -> tuple[str, str]:
    """Parameters joined by line feeds: the first is the title, which has none of its own in the sample."""
    first, _, second = body.partition("\n")
    return first, second


def _fcm_token(digest: bytes) -> str:
    """A prefix of 22 characters, a colon and 140 more."""
    long = (digest.hex() + hashlib.sha512(digest).hexdigest()).translate(str.maketrans("01", "-_"))
    return f"{long[:22]}:APA91b{long[22:156]}"


def _mail_texts(title: str, body: str) -> tuple[str, str]:
    """The link of a click stands behind the text."""
    return title, re.sub(r"\n\nhttps?://\S+\Z", "", body)


def _number(digest: bytes) -> str:
    """A mainland number."""
    return f"139{int.from_bytes(digest[16:24], 'big') % 10**8:08d}"


_PER_DEVICE_OFF = {"marketing_per_device_per_day": 0}
CHANNELS: dict[str, DemoChannel] = {
    "apns": DemoChannel("ios", lambda digest: digest[16:48].hex(), _apns, {}),
    "fcm": DemoChannel("android", _fcm_token, _fcm, {"device_messages_per_minute": 0, "device_messages_per_hour": 0}),
    "huawei": DemoChannel("android", lambda digest: "IQAAAACy0" + digest.hex(), _huawei, _PER_DEVICE_OFF),
    "harmony": DemoChannel("harmony", lambda digest: "MAMz" + digest[16:].hex(), _harmony, _PER_DEVICE_OFF),
    "honor": DemoChannel("android", lambda digest: "BAEAAAAAB." + digest[16:].hex(), _honor, _PER_DEVICE_OFF),
    "xiaomi": DemoChannel("android", lambda digest: f"d+E/{digest[16:40].hex()}=", _xiaomi, {}),
    "oppo": DemoChannel("android", lambda digest: "CN_" + digest[16:32].hex(), _oppo, {}),
    "vivo": DemoChannel("android", lambda digest: f"1{int.from_bytes(digest[16:25], 'big'):022d}", _vivo, {}),
    "meizu": DemoChannel(
        "android",
        lambda digest: f"RA50{digest[16:34].hex()}",
        _meizu,
        {"public_per_device_per_day": 0, "device_messages_per_minute": 0},
    ),
    "webhook": DemoChannel("web", lambda digest: f"user-{digest[16:24].hex()}", _webhook, {}),
    "ups": DemoChannel("android", lambda digest: f"ups_{digest[16:32].hex()}", _webhook, {}),
    "aliyun_sms": DemoChannel("phone", _number, _aliyun_sms, {}, _aliyun_texts),
    "tencent_sms": DemoChannel(
        "phone",
        lambda digest: f"+86{_number(digest)}",
        _tencent_sms,
        {"number_per_30_s": 0, "number_per_hour": 0, "number_per_day": 0},
        _two_lines,
    ),
    "wechat": DemoChannel("mini_program", lambda digest: f"o{digest[16:30].hex()[:27]}", _wechat, {}, _two_lines, True),
    "wecom": DemoChannel(
        "work_chat",
        lambda digest: f"user.{digest[16:24].hex()}",
        _wecom,
        {"user_per_minute": 0, "user_per_hour": 0},
    ),
    "email": DemoChannel(
        "mail", lambda digest: f"user.{digest[16:24].hex()}@example.com", _email, {}, _mail_texts, True
    ),
    "dingtalk": DemoChannel(
        "work_chat", lambda digest: digest[16:24].hex(), _dingtalk, {"same_text_once_a_day": False}
    ),
    "wecom_robot": DemoChannel(
        "work_chat", bytes.hex, _wecom_robot, {"messages_per_minute": 0}, _markdown_texts, nth_token=_robot_key
    ),
    "dingtalk_robot": DemoChannel(
        "work_chat", bytes.hex, _dingtalk_robot, {"messages_per_minute": 0}, nth_token=_robot_token
    ),
}


def vendor_tables(simulators: Mapping[str, Any]) -> dict[str, Table]:
    """[apps.NAME] of every channel that has a simulator there. simulators: the ready line of `pushgw simulate --json`.

    Secrets become files beside the simulators' certificates.
    """
    tables: dict[str, Table] = {}
    folder = Path(simulators["ca_file"]).parent
    for name in CHANNELS.keys() & simulators.keys():
        told = simulators[name]
        place = {"host": told["host"], "port": told["port"], "ca_file": simulators["ca_file"]}
        tables[name] = CHANNELS[name].table(told, partial(_written, folder / f"{name}.secret")) | place
    return tables


def simulator_tables() -> dict[str, Table]:
    """What the demo sets in the simulators' configuration, by simulator."""
    return {name: channel.simulator for name, channel in CHANNELS.items() if channel.simulator}


def _written(file: Path, text: str) -> str:
    file.touch(mode=0o600)
    file.write_text(text)
    return str(file)
