"""Readers of receipts, one file per vendor that sends any, all of one shape: `EVENTS` and `REPLIES` as literal tables,
`secret_place(settings)` for what a vendor signs with, and `Reader` (gateway/receipts.py).

To add one: write vendors/receipts/<name>.py and add its row here. The contract test in tests/vendors runs over them.
APNs, FCM, WeCom, DingTalk and the robots of the two send no receipts; what became of a notice of DingTalk is asked for
(`ASKERS`). Those of Tencent Cloud SMS and WeChat name neither our request nor our message, only a number of their own,
which is remembered (gateway/core/own_ids.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.receipts import OutcomeAsker, ReceiptReader
from vendors.auth.credential import SecretPlace
from vendors.receipts import (
    aliyun_sms,
    dingtalk,
    email,
    harmony,
    honor,
    huawei,
    meizu,
    oppo,
    tencent_sms,
    vivo,
    webhook,
    wechat,
    xiaomi,
)


class ReaderEntry(NamedTuple):
    """The callables take that vendor's own Settings. secret_place: None where nothing is signed, or nothing checked.

    reader: of settings and the secret's bytes, empty without one. names_own_ids: reports name the vendor's own numbers.
    is_in_path: the vendor signs nothing, so the secret is the end of the path it posts to, and without one there is no
    path.
    """

    secret_place: Callable[[Any], SecretPlace | None]
    reader: Callable[[Any, bytes], ReceiptReader]
    names_own_ids: bool = False
    is_in_path: bool = False


#: Vendor name -> entry.
READERS: dict[str, ReaderEntry] = {
    "huawei": ReaderEntry(huawei.secret_place, huawei.Reader),
    "harmony": ReaderEntry(harmony.secret_place, harmony.Reader),
    "honor": ReaderEntry(honor.secret_place, honor.Reader),
    "xiaomi": ReaderEntry(xiaomi.secret_place, xiaomi.Reader),
    "oppo": ReaderEntry(oppo.secret_place, oppo.Reader),
    "vivo": ReaderEntry(vivo.secret_place, vivo.Reader),
    "meizu": ReaderEntry(meizu.secret_place, meizu.Reader),
    "webhook": ReaderEntry(webhook.secret_place, webhook.Reader),
    "ups": ReaderEntry(webhook.secret_place, webhook.Reader),
    "aliyun_sms": ReaderEntry(aliyun_sms.secret_place, aliyun_sms.Reader),
    "tencent_sms": ReaderEntry(tencent_sms.secret_place, tencent_sms.Reader, names_own_ids=True, is_in_path=True),
    "email": ReaderEntry(email.secret_place, email.Reader, is_in_path=True),
    "wechat": ReaderEntry(wechat.secret_place, wechat.Reader, names_own_ids=True),
}
#: Vendor name -> what asks it later what became of messages: of settings.
ASKERS: dict[str, Callable[[Any], OutcomeAsker]] = {"dingtalk": dingtalk.Asker}
