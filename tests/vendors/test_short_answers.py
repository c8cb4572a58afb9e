"""The contract of answers to requests of many rows: what an answer does not name is accepted only where the vendor
names no more than the rows that it refused (`Names`)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from gateway.actors.lane_bursts import InFlight, judge_requests
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.ledger import NO_VERDICT, Burst, Channel, LedgerPage
from gateway.vendor import Bulk, BulkVendor, Names, RequestTemplate
from gateway.verdict import Verdict
from gateway.wire.h2.events import AnswerDetail
from vendors import REGISTRY

TOKENS = ["+8613800000001", "+8613800000002", "+8613800000003", "+8613800000004"]


def said(**fields: Any) -> Callable[[list[str]], dict[str, Any]]:
    return lambda tokens: fields


def numbers(tokens: list[str]) -> dict[str, Any]:
    statuses = [{"PhoneNumber": token, "Code": "Ok", "SerialNo": "1"} for token in tokens]
    return {"Response": {"SendStatusSet": statuses, "RequestId": "r"}}


def batch(tokens: list[str]) -> dict[str, Any]:
    return {"code": 0, "data": [{"messageId": "m", "registrationId": token} for token in tokens]}


#: (vendor, request) -> what it answers when it took the rows with these tokens. shared: one content for all rows.
TAKEN: dict[tuple[str, str], Callable[[list[str]], dict[str, Any]]] = {
    ("huawei", "shared"): said(code="80000000", msg="Success"),
    ("harmony", "shared"): said(code="80000000", msg="Success"),
    ("honor", "shared"): said(code=200, data={"sendResult": True}),
    ("xiaomi", "shared"): said(result="ok", code=0, data={"id": "x"}),
    ("xiaomi", "distinct"): said(result="ok", code=0, data={"id": "x"}),
    ("oppo", "shared"): said(code=0, data={"message_id": "m", "task_id": "t"}),
    ("oppo", "distinct"): batch,
    ("vivo", "shared"): said(result=0, desc="ok", requestId="x"),
    ("meizu", "shared"): said(code="200", value={}, msgId="m"),
    ("webhook", "distinct"): lambda tokens: {"accepted": len(tokens), "rejected": []},
    ("ups", "distinct"): lambda tokens: {"accepted": len(tokens), "rejected": []},
    ("aliyun_sms", "shared"): said(Code="OK", BizId="1"),
    ("aliyun_sms", "distinct"): said(Code="OK", BizId="1"),
    ("tencent_sms", "shared"): numbers,
    ("wecom", "shared"): said(errcode=0, msgid="m"),
    ("dingtalk", "shared"): said(errcode=0, task_id=1),
}
#: Those that name or count every row, as their sheets say.
SPEAK_OF_ALL = {
    ("oppo", "distinct"): Names.ALL_IN_ORDER,
    ("tencent_sms", "shared"): Names.ALL_BY_TOKEN,
    ("webhook", "distinct"): Names.REFUSED_AND_COUNT,
    ("ups", "distinct"): Names.REFUSED_AND_COUNT,
}


def names_of(vendor: BulkVendor, kind: str) -> Names:
    return vendor.distinct_names if kind == "distinct" else vendor.shared_names


def verdicts_of(vendor: BulkVendor, kind: str, answer: dict[str, Any], tokens: list[str] = TOKENS) -> list[str]:
    """Verdict and its name of each row of one request that got this answer."""
    n = len(tokens)
    column = TextColumn.from_texts(tokens)
    bulk = Bulk(np.array([0, n]), column, kind == "distinct", 0)
    places = np.arange(n, dtype=np.uint16)
    no_verdicts = np.full(n, NO_VERDICT, np.uint8)
    burst = Burst(1, 1, Channel.OPPO, 0, places, 0.0, np.zeros(n, np.uint32), no_verdicts, {}, 0, {})
    # No verdict is a page's matter.
    flight = InFlight(cast(LedgerPage, None), np.arange(n), burst, b"", bulk)
    detail = AnswerDetail({}, json.dumps(answer).encode())
    judged = judge_requests(vendor, flight, np.array([0]), np.array([200], np.uint16), [detail])
    assert judged.places.tolist() == list(range(n))
    names = [judged.answers[row].name if row in judged.answers else "" for row in range(n)]
    assert all((row in judged.answers) == bool(judged.verdicts[row]) for row in range(n))
    return [f"{Verdict(code).name} {name}".strip() for code, name in zip(judged.verdicts.tolist(), names, strict=True)]


def test_every_request_of_many_rows_is_in_the_table(vendor_of: Callable[[str], Any]) -> None:
    found = set()
    for name in REGISTRY:
        vendor = vendor_of(name)
        settings = getattr(vendor, "settings", None)
        if hasattr(settings, "messages_per_request_max"):
            vendor = type(vendor)(msgspec.structs.replace(settings, messages_per_request_max=2))
        for class_, has_variables in itertools.product(("system", "marketing"), (False, True)):
            made = vendor.template(Variant("t", "{{x}}", class_=class_), with_variables=has_variables)
            assert isinstance(made, RequestTemplate)
            for kind in ("shared", "distinct"):
                if getattr(made, kind) is not None:
                    found.add((name, kind))
    assert found == set(TAKEN)


@pytest.mark.parametrize(("name", "kind"), sorted(TAKEN))
def test_rows_that_an_answer_leaves_out_count_as_the_vendor_means_it(
    vendor_of: Callable[[str], Any], name: str, kind: str
) -> None:
    vendor = vendor_of(name)
    assert names_of(vendor, kind) is SPEAK_OF_ALL.get((name, kind), Names.REFUSED)
    assert verdicts_of(vendor, kind, TAKEN[name, kind](TOKENS)) == ["ACCEPTED"] * 4
    for left_out in range(4):
        answer = TAKEN[name, kind](TOKENS[:left_out] + TOKENS[left_out + 1 :])
        found = verdicts_of(vendor, kind, answer)
        missing = "UNCERTAIN row_not_in_answer"
        match names_of(vendor, kind):
            case Names.REFUSED:
                assert found == ["ACCEPTED"] * 4
            case Names.ALL_BY_TOKEN:
                assert found == [missing if row == left_out else "ACCEPTED" for row in range(4)]
            case _:
                # One is missing, and nobody says which.
                assert found == [missing] * 4


@pytest.mark.parametrize(("name", "kind"), sorted(SPEAK_OF_ALL))
def test_an_answer_that_leaves_out_all_rows_accepts_none(vendor_of: Callable[[str], Any], name: str, kind: str) -> None:
    found = verdicts_of(vendor_of(name), kind, TAKEN[name, kind]([]))
    assert {verdict.partition(" ")[0] for verdict in found} == {"UNCERTAIN"}


def test_a_list_of_another_length_kills_no_token(vendor_of: Callable[[str], Any]) -> None:
    vendor, dead = vendor_of("oppo"), {"registrationId": "x", "errorCode": 10000, "errorMessage": ""}
    whole = {"code": 0, "data": [{"messageId": "1"}, dead, "?", {}]}
    found = verdicts_of(vendor, "distinct", whole)
    missing = "UNCERTAIN row_not_in_answer"
    assert found == ["ACCEPTED", "TOKEN_DEAD 10000_registration_id_invalid", missing, missing]
    for data in (whole["data"][:3], [*whole["data"], {}]):
        assert verdicts_of(vendor, "distinct", whole | {"data": data}) == [missing] * 4


def test_rows_of_one_number_share_its_answer(vendor_of: Callable[[str], Any]) -> None:
    answer = numbers(TOKENS[:2])
    answer["Response"]["SendStatusSet"][0]["Code"] = "LimitExceeded.PhoneNumberDailyLimit"
    found = verdicts_of(vendor_of("tencent_sms"), "shared", answer, [TOKENS[0], TOKENS[1], TOKENS[0]])
    assert [verdict.partition(" ")[0] for verdict in found] == ["QUOTA", "ACCEPTED", "QUOTA"]


def test_a_receiver_that_counts_fewer_than_it_got_is_not_believed(vendor_of: Callable[[str], Any]) -> None:
    dead = {"index": 1, "reason": "target_dead", "is_target_dead": True}
    for accepted, rest in ((3, "ACCEPTED"), (2, "UNCERTAIN row_not_in_answer"), (-1, "UNCERTAIN row_not_in_answer")):
        found = verdicts_of(vendor_of("webhook"), "distinct", {"accepted": accepted, "rejected": [dead]})
        assert found == [rest, found[1], rest, rest]
        assert found[1].startswith("TOKEN_DEAD")
    beyond = {"accepted": 3, "rejected": [dead | {"index": 4}]}
    assert verdicts_of(vendor_of("webhook"), "distinct", beyond) == ["UNCERTAIN row_not_in_answer"] * 4


@pytest.mark.parametrize(("name", "illegal"), [("huawei", [TOKENS[1]]), ("harmony", {"tokenFormatError": [TOKENS[1]]})])
def test_failures_that_are_counted_and_not_named_leave_the_rest_uncertain(
    vendor_of: Callable[[str], Any], name: str, illegal: Any
) -> None:
    for failures, rest in ((1, "ACCEPTED"), (2, "UNCERTAIN row_not_in_answer")):
        told = {"success": 4 - failures, "failure": failures, "illegalTokens": illegal}
        found = verdicts_of(vendor_of(name), "shared", {"code": "80100000", "msg": json.dumps(told)})
        assert found == [rest, found[1], rest, rest]
        assert found[1].startswith("TOKEN_DEAD")
