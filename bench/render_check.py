"""What a vendor would read in the bytes of `bench render`: rows by token, title and body; and whether they are right.

Written for the wire and not from the encoders: JSON by `json`, forms by `urllib.parse`, HTTP/2 by `h2`, HTTP/1.1 heads
by hand, e-mail by `email`. Signatures are computed anew.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import h2.config
import h2.connection
import h2.events
import regex
from h2.settings import SettingCodes, Settings

_WINDOW = (1 << 31) - 1
MARK = "…"


class Seen(NamedTuple):
    token: str
    title: str
    body: str


class Request(NamedTuple):
    """headers: empty where no check asks for them."""

    path: str
    headers: dict[str, str]
    body: bytes


def http1_requests(data: Iterable[bytes]) -> Iterator[Request]:
    """Requests that are one `bytes` each."""
    for request in data:
        head, _, body = request.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        method, path, version = first.split(" ")
        headers = dict(line.split(": ", 1) for line in lines)
        assert (method, version) == ("POST", "HTTP/1.1")
        assert int(headers["content-length"]) == len(body), "content-length differs from the body"
        yield Request(path, headers, body)


def h2_requests(chunks: Iterable[bytes]) -> Iterator[Request]:
    """The requests in the first bytes of a connection."""
    config = h2.config.H2Configuration(client_side=False)
    peer = h2.connection.H2Connection(config)
    # What the transport of the benchmark announces: no limit that a burst could meet.
    wide = {SettingCodes.MAX_CONCURRENT_STREAMS: 1 << 20, SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW}
    peer.local_settings = Settings(client=False, initial_values=wide)
    peer.initiate_connection()
    peer.increment_flow_control_window(_WINDOW - 65_535)
    paths: dict[int, str] = {}
    bodies: dict[int, bytes] = {}
    for chunk in chunks:
        for event in peer.receive_data(chunk):
            if isinstance(event, h2.events.RequestReceived):
                fields = {name.decode(): value.decode() for name, value in event.headers}
                assert fields[":method"] == "POST"
                paths[event.stream_id], bodies[event.stream_id] = fields[":path"], b""
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] += event.data
                if event.flow_controlled_length:
                    peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                yield Request(paths.pop(event.stream_id), {}, bodies.pop(event.stream_id))
                peer.reset_stream(event.stream_id)
        peer.data_to_send()


def form(body: bytes) -> dict[str, str]:
    parsed = parse_qs(body.decode("ascii"), strict_parsing=True, keep_blank_values=True)
    assert all(len(values) == 1 for values in parsed.values())
    return {name: values[0] for name, values in parsed.items()}


def _apns(request: Request) -> list[Seen]:
    alert = json.loads(request.body)["aps"]["alert"]
    return [Seen(request.path.rpartition("/")[2], alert["title"], alert["body"])]


def _fcm(request: Request) -> list[Seen]:
    message = json.loads(request.body)["message"]
    return [Seen(message["token"], message["notification"]["title"], message["notification"]["body"])]


def _huawei(request: Request) -> list[Seen]:
    message = json.loads(request.body)["message"]
    shown = message["android"]["notification"]
    return [Seen(token, shown["title"], shown["body"]) for token in message["token"]]


def _harmony(request: Request) -> list[Seen]:
    told = json.loads(request.body)
    shown = told["payload"]["notification"]
    return [Seen(token, shown["title"], shown["body"]) for token in told["target"]["token"]]


def _honor(request: Request) -> list[Seen]:
    told = json.loads(request.body)
    shown = told["notification"]
    return [Seen(token, shown["title"], shown["body"]) for token in told["token"]]


def _xiaomi(request: Request) -> list[Seen]:
    fields = form(request.body)
    if "messages" in fields:
        listed = json.loads(fields["messages"])
        return [Seen(one["target"], one["message"]["title"], one["message"]["description"]) for one in listed]
    return [Seen(token, fields["title"], fields["description"]) for token in fields["registration_id"].split(",")]


def _meizu(request: Request) -> list[Seen]:
    fields = form(request.body)
    sign = fields.pop("sign")
    text = "".join(f"{name}={fields[name]}" for name in sorted(fields)) + "CREDENTIAL"
    assert sign == hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(), "meizu: the signature is wrong"
    shown = json.loads(fields["messageJson"])["noticeBarInfo"]
    return [Seen(token, shown["title"], shown["content"]) for token in fields["pushIds"].split(",")]


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), "sha256").digest()


def _webhook(request: Request) -> list[Seen]:
    stamp, signature = (part.partition("=")[2] for part in request.headers["x-signature"].split(","))
    wanted = hmac.new(b"CREDENTIAL", f"{stamp}.".encode() + request.body, "sha256").hexdigest()
    assert signature == wanted, "webhook: the signature is wrong"
    return [Seen(one["target"], one["title"], one["body"]) for one in json.loads(request.body)["messages"]]


def _aliyun_sms(request: Request) -> list[Seen]:
    fields, headers = form(request.body), request.headers
    digest = hashlib.sha256(request.body).hexdigest()
    assert headers["x-acs-content-sha256"] == digest, "aliyun_sms: the hash of the body is wrong"
    names = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    lines = "".join(f"{name}:{headers[name]}\n" for name in names.split(";"))
    canonical = f"POST\n/\n\n{lines}\n{names}\n{digest}"
    text = "ACS3-HMAC-SHA256\n" + hashlib.sha256(canonical.encode()).hexdigest()
    wanted = _hmac(b"CREDENTIAL", text).hex()
    assert headers["authorization"].endswith(f"Signature={wanted}"), "aliyun_sms: the signature is wrong"
    told = json.loads(fields["TemplateParam"])
    return [Seen(number, told["a"], told["b"]) for number in fields["PhoneNumbers"].split(",")]


def _tencent_sms(request: Request) -> list[Seen]:
    headers, stamp = request.headers, int(request.headers["x-tc-timestamp"])
    names = "content-type;host"
    lines = "".join(f"{name}:{headers[name]}\n" for name in names.split(";"))
    canonical = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(request.body).hexdigest()}"
    date = datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%d")
    scope = f"{date}/sms/tc3_request"
    text = f"TC3-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"TC3CREDENTIAL"
    for part in scope.split("/"):
        key = _hmac(key, part)
    wanted = _hmac(key, text).hex()
    assert headers["authorization"].endswith(f"Signature={wanted}"), "tencent_sms: the signature is wrong"
    told = json.loads(request.body)
    return [Seen(number, *told["TemplateParamSet"]) for number in told["PhoneNumberSet"]]


def _wechat(request: Request) -> list[Seen]:
    told = json.loads(request.body)
    return [Seen(told["touser"], told["data"]["thing1"]["value"], told["data"]["thing2"]["value"])]


def _wecom(request: Request) -> list[Seen]:
    told = json.loads(request.body)
    title, _, text = told["text"]["content"].partition("\n")
    return [Seen(user, title, text) for user in told["touser"].split("|")]


def _dingtalk(request: Request) -> list[Seen]:
    told = json.loads(request.body)
    title, _, text = told["msg"]["text"]["content"].partition("\n")
    return [Seen(user, title, text) for user in told["userid_list"].split(",")]


def _mail(data: bytes) -> Seen:
    message = email.message_from_bytes(data, policy=email.policy.SMTP)
    text = str(message.get_content()).replace("\r\n", "\n").removesuffix("\n")
    return Seen(str(message["To"]), str(message["Subject"]), text)


def rows_seen(vendor: str, chunks: Iterable[bytes], greeting: list[bytes] | None) -> Iterator[Seen]:
    """Rows in the order they were sent. greeting: what an HTTP/2 connection said first; None: it is none."""
    if vendor == "email":
        yield from map(_mail, chunks)
        return
    reader = reader_of(vendor)
    for request in http1_requests(chunks) if greeting is None else h2_requests([*greeting, *chunks]):
        yield from reader(request)


class _Steps:
    """Vendors with two steps: a list has the texts that were saved before it."""

    def __init__(self) -> None:
        self.saved = ("", "")

    def oppo(self, request: Request) -> list[Seen]:
        fields = form(request.body)
        match request.path.rpartition("/")[2]:
            case "save_message_content":
                self.saved = (fields["title"], fields["content"])
                return []
            case "broadcast":
                return [Seen(token, *self.saved) for token in fields["target_value"].split(";")]
        listed = json.loads(fields["messages"]) if "messages" in fields else [json.loads(fields["message"])]
        return [
            Seen(one["target_value"], one["notification"]["title"], one["notification"]["content"]) for one in listed
        ]

    def vivo(self, request: Request) -> list[Seen]:
        told = json.loads(request.body)
        match request.path.rpartition("/")[2]:
            case "saveListPayload":
                self.saved = (told["title"], told["content"])
                return []
            case "pushToList":
                return [Seen(token, *self.saved) for token in told["regIds"]]
        return [Seen(told["regId"], told["title"], told["content"])]


def reader_of(vendor: str) -> Callable[[Request], list[Seen]]:
    """Reads one request of the vendor."""
    steps = _Steps()
    readers: dict[str, Any] = {
        "apns": _apns,
        "fcm": _fcm,
        "huawei": _huawei,
        "harmony": _harmony,
        "honor": _honor,
        "xiaomi": _xiaomi,
        "meizu": _meizu,
        "oppo": steps.oppo,
        "vivo": steps.vivo,
        "webhook": _webhook,
        "aliyun_sms": _aliyun_sms,
        "tencent_sms": _tencent_sms,
        "wechat": _wechat,
        "wecom": _wecom,
        "dingtalk": _dingtalk,
    }
    reader: Callable[[Request], list[Seen]] = readers[vendor]
    return reader


def assert_is(what: str, seen: str, wanted: str) -> bool:
    """The text is what was asked for, or a beginning of it in whole graphemes with the mark. True where it was cut."""
    if seen == wanted:
        return False
    kept = seen.removesuffix(MARK)
    assert seen.endswith(MARK), f"{what}: a text differs and is not marked as cut"
    assert wanted.startswith(kept), f"{what}: the cut text is not a beginning of the text"
    ends = 0
    for cluster in regex.findall(r"\X", wanted[: len(kept) + 64]):
        if ends >= len(kept):
            break
        ends += len(cluster)
    assert ends == len(kept), f"{what}: cut inside of a grapheme"
    return True
