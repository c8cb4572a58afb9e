"""What became of DingTalk's work notices: asked for by the task id that the answer to a notice told (getsendresult).

Source: https://open.dingtalk.com, "getsendresult" (2026-11, copies: path, fields, codes); there is no fact sheet.

A notice is settled when it is unread by nobody. What a list means: read: displayed. unread: delivered. forbidden: not
sent, for a flow control or the same text twice on a day. failed: undelivered. invalid: the user is muted, as a refusal
of the notice itself would do (it may be a mistake of the contact list).

Doubts: how long DingTalk keeps results is not documented (they are asked for within an hour or two); how soon they are
complete neither, so the first question waits a minute.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.receipts import AskTimes, Event, Outcome, Question, Told, VendorReceipt
from vendors.http_answer import code_of, decode_object

PATH = "/topapi/message/corpconversation/getsendresult"
#: List of the answer -> event.
EVENTS: dict[str, Event] = {
    "read_user_id_list": Event.DISPLAYED,
    "unread_user_id_list": Event.DELIVERED,
    "forbidden_user_id_list": Event.QUOTA,
    "failed_user_id_list": Event.UNDELIVERED,
    "invalid_user_id_list": Event.TOKEN_MUTED,
}
#: errcode -> what to do; any other refuses.
CODES: dict[str, Told] = {
    **dict.fromkeys(["-1", "90002", "90018", "143103", "143104", "143105"], Told.LATER),
    **dict.fromkeys(["40001", "40014", "42001"], Told.CREDENTIAL),
}
#: Persons of one list; a notice has a hundred.
USERS_MAX = 5_000


class Asker:
    """See gateway/receipts.py."""

    def __init__(self, settings: Any) -> None:
        self._agent_id = settings.agent_id
        self.times = AskTimes(
            settings.results_after_s,
            settings.results_again_s,
            settings.results_asks_max,
            settings.results_waiting_max,
            settings.results_per_s,
        )

    def question(self, own_id: str, authorization: bytes) -> Question:
        body = msgspec.json.encode({"agent_id": self._agent_id, "task_id": int(own_id)})
        return Question(f"{PATH}?access_token={authorization.decode()}", {"content-type": "application/json"}, body)

    def read(self, status: int, body: bytes) -> Outcome | Told:
        fields = decode_object(body)
        code, told = code_of(fields.get("errcode")), fields.get("send_result")
        if code != "0" or status != 200 or not isinstance(told, dict):
            is_passing = status in (408, 429) or status >= 500 or (status == 200 and code in ("", "0"))
            return CODES.get(code, Told.LATER if is_passing else Told.REFUSED)
        receipts: list[VendorReceipt] = []
        for name, event in EVENTS.items():
            listed = told.get(name)
            users = [user for user in listed[:USERS_MAX] if isinstance(user, str)] if isinstance(listed, list) else []
            if users:
                receipts.append(VendorReceipt(event, "", users))
        return Outcome(receipts, is_settled=bool(receipts) and not told.get("unread_user_id_list"))
