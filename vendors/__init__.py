"""The vendors: one file each, all of one shape, pure translation (DESIGN.md section 7).

To add one: write vendors/<name>.py with `Settings`, a class that satisfies the port of gateway/vendor.py,
`secret_place` and `credential`; add its row here; document it in docs/vendors/<name>.md; write its strict simulator.
The contract test in tests/vendors runs over this registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from gateway.regions import vendor_name
from gateway.vendor import Vendor
from vendors import (
    aliyun_sms,
    apns,
    dingtalk,
    dingtalk_robot,
    email,
    fcm,
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
from vendors.auth.credential import Credential, SecretPlace


class VendorEntry(NamedTuple):
    """What the application needs to run one vendor. The callables take that vendor's own Settings.

    secret_place: where the secret is; the caller reads it. credential: settings and the secret's bytes -> what the
    credential keeper works with; raises ValueError for a secret of the wrong form.
    """

    settings: type[msgspec.Struct]
    vendor: Callable[[Any], Vendor]
    secret_place: Callable[[Any], SecretPlace]
    credential: Callable[[Any, bytes], Credential]


#: Vendor name (the section's name in the config, the channel's name in reports) -> entry.
REGISTRY: dict[str, VendorEntry] = {
    "apns": VendorEntry(apns.Settings, apns.Apns, apns.secret_place, apns.credential),
    "fcm": VendorEntry(fcm.Settings, fcm.Fcm, fcm.secret_place, fcm.credential),
    "huawei": VendorEntry(huawei.Settings, huawei.Huawei, huawei.secret_place, huawei.credential),
    "harmony": VendorEntry(harmony.Settings, harmony.Harmony, harmony.secret_place, harmony.credential),
    "honor": VendorEntry(honor.Settings, honor.Honor, honor.secret_place, honor.credential),
    "xiaomi": VendorEntry(xiaomi.Settings, xiaomi.Xiaomi, xiaomi.secret_place, xiaomi.credential),
    "oppo": VendorEntry(oppo.Settings, oppo.Oppo, oppo.secret_place, oppo.credential),
    "vivo": VendorEntry(vivo.Settings, vivo.Vivo, vivo.secret_place, vivo.credential),
    "meizu": VendorEntry(meizu.Settings, meizu.Meizu, meizu.secret_place, meizu.credential),
    "webhook": VendorEntry(webhook.Settings, webhook.Webhook, webhook.secret_place, webhook.credential),
    "ups": VendorEntry(webhook.Settings, webhook.Ups, webhook.secret_place, webhook.credential),
    "aliyun_sms": VendorEntry(
        aliyun_sms.Settings, aliyun_sms.AliyunSms, aliyun_sms.secret_place, aliyun_sms.credential
    ),
    "tencent_sms": VendorEntry(
        tencent_sms.Settings, tencent_sms.TencentSms, tencent_sms.secret_place, tencent_sms.credential
    ),
    "wechat": VendorEntry(wechat.Settings, wechat.Wechat, wechat.secret_place, wechat.credential),
    "wecom": VendorEntry(wecom.Settings, wecom.Wecom, wecom.secret_place, wecom.credential),
    "dingtalk": VendorEntry(dingtalk.Settings, dingtalk.Dingtalk, dingtalk.secret_place, dingtalk.credential),
    "wecom_robot": VendorEntry(
        wecom_robot.Settings, wecom_robot.WecomRobot, wecom_robot.secret_place, wecom_robot.credential
    ),
    "dingtalk_robot": VendorEntry(
        dingtalk_robot.Settings, dingtalk_robot.DingtalkRobot, dingtalk_robot.secret_place, dingtalk_robot.credential
    ),
    "email": VendorEntry(email.Settings, email.Email, email.secret_place, email.credential),
}


def entry_of(channel: str) -> VendorEntry:
    """The entry of the vendor that the channel with that name belongs to: regions share their vendor's."""
    return REGISTRY[vendor_name(channel)]


#: Vendors where a second copy is worse than none: rows without an answer end uncertain, whatever `on_uncertain` says.
SENT_ONCE = frozenset(name for name, entry in REGISTRY.items() if not getattr(entry.vendor, "may_repeat", True))
