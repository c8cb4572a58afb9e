"""The far end of the generic webhook: many messages in one signed request, an answer for each, signed receipts back.

There is no vendor behind it: the contract is this project's own and stands in docs/vendors/webhook.md. It is for
channels without a public API (UPS phones through an aggregator, 5G messages, digital-human calls, audience exports).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from bench.simulators.config_base import Positive, Seconds
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import Check, an_object, each, one_of, record, text, to_json, whole
from bench.simulators.push_api import (
    Kit,
    PushApi,
    PushSection,
    Refused,
    header_of,
    json_answer,
    json_of,
    path_of,
    refused_answer,
)
from bench.simulators.receipts import Callback, Due
from bench.simulators.received import Message, message_id_in

SIGNATURE_FORM = re.compile(r"t=([0-9]{10}),v1=([0-9a-f]{64})")
REQUEST_ID_FORM = re.compile(r"[!-~]{1,64}")
REMEMBERED_MAX = 100_000  # answers by request id; the oldest goes first
MESSAGE: Check = record(
    {
        "message_id": text(36, 32),
        "target": text(512, 1),
        "title": text(),
        "body": text(),
        "data": an_object,
        "ttl_s": whole(0, 2**31 - 1),
        "class": one_of("system", "marketing"),
        "category": text(64),
        "collapse_id": text(64),
        "url": text(2_048),
        "image": text(2_048),
        "badge": whole(0, 2**31 - 1),
    },
    ["message_id", "target"],
)
REQUEST: Check = record({"app": text(64), "messages": each(MESSAGE, 1_000_000, 1)}, ["messages"])


class WebhookSection(PushSection, frozen=True, kw_only=True):
    """The webhook's far end. secret signs both ways."""

    path: str = "/hook"
    secret: str = "sim-webhook-secret"
    messages_max: Positive = 1_000
    skew_s: Seconds = 300.0


class Webhook(PushApi):
    """The judgement on one request; implements exchange.Vendor."""

    name = "webhook"
    known_fates = frozenset({"dead", "refused"})
    receipt_fates: ClassVar[Mapping[str, str]] = {"dead_later": "target_dead", "closed": "closed"}
    events = ("delivered", "displayed", "clicked")
    throttle_code = (429, "too_fast")
    fault_code = (503, "unavailable")

    def __init__(self, section: WebhookSection, kit: Kit) -> None:
        super().__init__(section, kit)
        self._section = section
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """URL and secret."""
        return {"url": f"https://{host}:{port}{self._section.path}", "secret": self._section.secret}

    def reset(self) -> None:
        """No request id is known."""
        super().reset()
        self._answers.clear()

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`error` in one word, `detail` for people."""
        return refused_answer(refused, {"error": refused.code, "detail": refused.why}, 400)

    def answer_call(self, request: Request) -> Answer:
        """Messages, taken or rejected one by one."""
        if path_of(request) != self._section.path or request.method != "POST":
            raise Refused("not_found", f"{request.method[:16]} {path_of(request)[:60]}", status=404)
        self._authorize(request)
        request_id = header_of(request, b"x-request-id")
        if not REQUEST_ID_FORM.fullmatch(request_id):
            raise Refused("bad_request_id", "x-request-id is missing or not 1..64 printable characters")
        known = self._answers.get(request_id)
        if known is not None:
            self.kit.n_seen["request id repeated"] += 1
            return known
        messages = self.read(request)
        self.pace(len(messages))
        answer = self._take(messages)
        self._answers[request_id] = answer.without_rows()
        if len(self._answers) > REMEMBERED_MAX:
            self._answers.popitem(last=False)
        return answer

    def _authorize(self, request: Request) -> None:
        found = SIGNATURE_FORM.fullmatch(header_of(request, b"x-signature"))
        if found is None:
            raise Refused("bad_signature", "x-signature is missing or not t=<seconds>,v1=<hex>", status=401)
        if abs(int(found.group(1)) - self.now) > self._section.skew_s:
            raise Refused("bad_signature", f"t is more than {self._section.skew_s:.0f} s off", status=401)
        if signature(self._section.secret, found.group(1), request.body) != found.group(2):
            raise Refused("bad_signature", "v1 is not hmac-sha256 of t, a dot and the body", status=401)

    def read(self, request: Request) -> list[dict[str, Any]]:
        """The messages of a request, checked; nothing has changed. Raises Refused."""
        value = json_of(request, "bad_body")
        fault = self.faults_of(REQUEST, value)
        if fault is not None:
            raise Refused("bad_field", str(fault))
        messages: list[dict[str, Any]] = value["messages"]
        if len(messages) > self._section.messages_max:
            raise Refused("too_many", f"{len(messages)} messages, limit {self._section.messages_max}", status=413)
        for index, message in enumerate(messages):
            if message_id_in(message["message_id"]) is None:
                raise Refused("bad_field", f"messages[{index}].message_id: is no UUID")
        return messages

    def _take(self, messages: Sequence[Mapping[str, Any]]) -> Answer:
        rows: list[Message] = []
        dues: list[Due] = []
        rejected = []
        for index, message in enumerate(messages):
            message_id, target = message["message_id"], message["target"]
            fate = self.sync_fate(target)
            if fate is not None:
                is_dead = fate.fate == "dead"
                reason = "target_dead" if is_dead else "refused"
                told = {"index": index, "message_id": message_id, "reason": reason, "is_target_dead": is_dead}
                rejected.append(told)
                continue
            rows += self.rows_of(message_id, "", [target], message.get("title", ""), message.get("body", ""))
            dues += self.receipts_of(target, Due(self._section.receipts.callback_url, target, message_id, "", ""))
        reasons = {"rejected": len(rejected)} if rejected else None
        body = {"accepted": len(rows), "rejected": rejected}
        return json_answer(200, body, rows=tuple(rows), receipts=tuple(dues), row_reasons=reasons)

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """Receipts, signed as the messages were."""
        told = [
            {"message_id": due.reference, "target": due.token, "event": due.event, "unix_ms": self.now_ms}
            for due in dues
        ]
        body = to_json({"receipts": told})
        stamp = str(int(self.now))
        secret = "forged" if any(due.is_forged for due in dues) else self._section.secret
        signed = f"t={stamp},v1={signature(secret, stamp, body)}"
        yield Callback(body, (("content-type", "application/json"), ("x-signature", signed)), len(told))


class Ups(Webhook):
    """The same under the name of the unified push."""

    name = "ups"


def signature(secret: str, stamp: str, body: bytes) -> str:
    """Lower hex of HMAC-SHA256 over the seconds, a dot and the body."""
    return hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
