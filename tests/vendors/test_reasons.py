"""What an answer says beyond its verdict: a word that is forbidden, a right that is missing. Each is named here.

Where a sheet's code lumps rights together with keys, addresses or switches, it has none.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.ledger import Reason
from gateway.verdict import Answer, Verdict
from vendors import REGISTRY

#: Files of vendors; one may serve several names.
FILES = sorted({entry.vendor.__module__.removeprefix("vendors.") for entry in REGISTRY.values()})
#: vendor -> names of its answers.
SENSITIVE = {
    "huawei": {"80100016_sensitive_content"},
    "honor": {"80200056_sensitive_content"},
    "vivo": {"10103_sensitive_content"},
    "wechat": {"45168_sensitive_words"},
    "tencent_sms": {"FailedOperation.ContainSensitiveWord"},
}
NO_PERMISSION = {
    "apns": {"Forbidden"},
    "fcm": {"PERMISSION_DENIED"},
    "huawei": {"80300002_no_push_right", "80300011_no_right_for_priority"},
    "harmony": {"noPushTypeRight", "noRightToSendThisLiveNotificationEvent"},
    "honor": {"80200022_no_right_for_message_type"},
    "meizu": {"201_refused"},
    "oppo": {"27_no_permission", "30_no_permission", "59_no_permission"},
    "wechat": {"48001_not_authorized", "43107_template_banned"},
    "wecom": {"48002_not_authorized", "60011_not_authorized", "301002_not_authorized"},
    "aliyun_sms": {"isp.RAM_PERMISSION_DENY"},
    "tencent_sms": {"UnauthorizedOperation"},
}


def answers_of(vendor: str) -> Iterator[tuple[str, Answer]]:
    """Every answer in a table of the vendor's file, by its name, or its code where the table has no names."""
    module = importlib.import_module(f"vendors.{vendor}")
    tables: list[dict[Any, Any]] = [value for value in vars(module).values() if isinstance(value, dict)]
    for table in tables:
        for code, answer in table.items():
            if isinstance(answer, Answer):
                yield answer.name or str(code), answer


@pytest.mark.parametrize("vendor", FILES)
def test_the_words_of_a_vendor_that_say_more_than_a_verdict_are_these(vendor: str) -> None:
    found: dict[Reason, set[str]] = {reason: set() for reason in (Reason.SENSITIVE_CONTENT, Reason.NO_PERMISSION)}
    for name, answer in answers_of(vendor):
        if answer.reason is not Reason.NONE:
            found[answer.reason].add(name)
    assert found[Reason.SENSITIVE_CONTENT] == SENSITIVE.get(vendor, set())
    assert found[Reason.NO_PERMISSION] == NO_PERMISSION.get(vendor, set())


@pytest.mark.parametrize("vendor", FILES)
def test_a_reason_goes_with_a_verdict_that_ends_rows(vendor: str) -> None:
    verdicts = {Reason.SENSITIVE_CONTENT: Verdict.REJECTED, Reason.NO_PERMISSION: Verdict.CREDENTIAL}
    for name, answer in answers_of(vendor):
        if answer.reason is not Reason.NONE:
            assert answer.verdict is verdicts[answer.reason], name
            assert not answer.is_refreshable, name
