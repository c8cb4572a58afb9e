"""Content: what the caller wants shown, in neutral words; Variant: a content with its options.

Field checks that need no knowledge of devices happen here (`check_variant`), so that every door (RPC, command line,
later REST) refuses the same faults with the same words.
"""

from __future__ import annotations

import enum
import math
import re
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msgspec

#: 40 days, the longest tier of the offline inbox (facts/features.md).
TTL_S_MAX = 40 * 86400
TTL_S_DEFAULT = 7200
#: A badge is shown as a number on an icon; vendors take 0..99 (Huawei) to any int32 (APNs).
BADGE_MAX = 99_999
#: Bytes of one title or body at the door; what a vendor takes is far less and is cut per vendor.
TEXT_BYTES_MAX = 1 << 16
DATA_KEYS_MAX = 64
DATA_BYTES_MAX = 1 << 15
#: APNs takes 64 bytes, the smallest of all; a longer one could not collapse everywhere.
COLLAPSE_ID_BYTES_MAX = 64
NAME_BYTES_MAX = 128
#: What a service wants to hear again in callbacks: an id of its own, or a small JSON object. GeTui publishes no limit.
CUSTOM_CALLBACK_BYTES_MAX = 256
#: What a strategy per channel may name: the channels of `ledger.Channel` (which imports this file, so that a test keeps
#: the two equal) that are no region of another one, and the rest.
STRATEGY_CHANNELS = frozenset(
    [
        *("default", "long_link", "apns", "fcm", "huawei", "harmony", "honor", "xiaomi", "oppo", "vivo", "meizu"),
        *("webhook", "ups", "aliyun_sms", "tencent_sms", "wechat", "wecom", "dingtalk", "email"),
        *("wecom_robot", "dingtalk_robot"),
    ],
)
#: The others: what a step of a fallback may name, too.
REGION_CHANNELS = frozenset(
    [
        *("xiaomi_cn", "xiaomi_ru", "xiaomi_in", "xiaomi_eu", "xiaomi_global"),
        *("oppo_cn", "oppo_intl", "meizu_cn", "meizu_overseas"),
    ]
)
_FALLBACK_CHANNELS = (STRATEGY_CHANNELS | REGION_CHANNELS) - {"default", "long_link"}
URL_BYTES_MAX = 2048
#: Channels that a row may go on to, one after the other.
FALLBACK_STEPS_MAX = 3
#: The strategy of whatever is no notification.
LONG_LINK_ONLY = 3

Action: TypeAlias = Literal["notification", "transmission", "revoke", "badge"]
Scalar: TypeAlias = str | int | float | bool


class Class(enum.IntEnum):
    """What the message is to its reader. Lanes, quotas and uncertain rows are ruled per class."""

    SYSTEM = 0
    MARKETING = 1


class Priority(enum.IntEnum):
    HIGH = 0
    NORMAL = 1


class Click(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What a tap does. value: a URL, an intent, or a payload text; unused for `app`."""

    type: Literal["app", "url", "intent", "payload"]
    value: str = ""


class FallbackStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Where a row goes on that has not reached its receiver by then, or finally failed before.

    channel: of a vendor. after_s: seconds after the submit. target: the variable whose value is the row's target there
    (a phone number, an openid, a URL); empty: the token that its device has of that channel, or of another region of
    that vendor.
    """

    channel: str
    after_s: int
    target: str = ""


class Texts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What one channel's devices read instead; None: what everybody reads."""

    title: str | None = None
    body: str | None = None


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One content with its options. Texts may hold `{{name}}`, replaced in rows that bring variables.

    strategy: 1 online -> long link, else vendor; 2 vendor only; 3 long link only; 4 vendor first, then long link;
    0 (when absent) the app's own default. A mapping gives one per channel and `default`. raw: vendor name -> JSON
    object merged over the vendor's message. action: what the device is to do: show it; hand `body` and `data` to the
    app; take back what it shows under `collapse_id`, or the message that `data.revokes` names; set its badge. All but
    the first go over the long link alone, since a vendor would show them. texts: channel name -> texts of its own, cut
    and filled in as the others are.
    """

    title: str
    body: str
    data: dict[str, Scalar] | None = None
    ttl_s: int = TTL_S_DEFAULT
    strategy: int | dict[str, int] = 0
    category: str = ""
    collapse_id: str = ""
    badge: int | None = None
    sound: str = ""
    image: str = ""
    click: Click | None = None
    class_: Literal["system", "marketing"] = msgspec.field(default="system", name="class")
    priority: Literal["high", "normal"] = "high"
    plan_id: str = ""
    raw: dict[str, msgspec.Raw] | None = None
    action: Action = "notification"
    #: In order, each later than the one before.
    fallback: tuple[FallbackStep, ...] = ()
    texts: dict[str, Texts] | None = None
    #: Said again in each callback about its rows (docs/callbacks.md); no device and no vendor sees it.
    custom_callback: str = ""


def variant_for(variant: Variant, channel: str) -> Variant:
    """The variant as this channel's devices read it."""
    own = None if variant.texts is None else variant.texts.get(channel)
    if own is None:
        return variant
    title = variant.title if own.title is None else own.title
    return msgspec.structs.replace(variant, title=title, body=variant.body if own.body is None else own.body)


class Fault(NamedTuple):
    """Why a field was refused: a caller can mend his request from this line alone."""

    field: str
    text: str


_VAR = re.compile(r"\{\{([A-Za-z0-9_.-]{1,64})\}\}")


_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def template_parts(text: str) -> list[str]:
    """Constants and variable names in turn: `"a{{x}}b"` -> `["a", "x", "b"]`. Even positions are constants."""
    return _VAR.split(text)


def variable_names(variant: Variant) -> frozenset[str]:
    """The variables the variant's texts ask for."""
    texts = [variant.title, variant.body]
    if variant.data:
        texts += [value for value in variant.data.values() if isinstance(value, str)]
    if variant.click is not None:
        texts.append(variant.click.value)
    for own in (variant.texts or {}).values():
        texts += [text for text in (own.title, own.body) if text is not None]
    return frozenset(name for text in texts if "{{" in text for name in _VAR.findall(text))


def _check_text(field: str, text: str, bytes_max: int) -> Fault | None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return Fault(field, f"{field} holds a lone surrogate at character {error.start}")
    if size > bytes_max:
        return Fault(field, f"{field} is {size} bytes, limit {bytes_max}")
    if "\x00" in text:
        return Fault(field, f"{field} holds a NUL character at {text.index(chr(0))}")
    return None


#: Nothing that is read holds these: controls but for tab and line ends, and the two signs that turn the order of what
#: follows them (U+202D, U+202E), which hide what a text says. Marks of direction for Arabic and Hebrew are no fault.
_NOT_SHOWN = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f\u202d\u202e]")


#: No text of so many characters is longer than TEXT_BYTES_MAX.
_SURE_CHARACTERS = TEXT_BYTES_MAX // 4


def _check_shown(field: str, text: str) -> Fault | None:
    """For title and body."""
    if len(text) <= _SURE_CHARACTERS and (text.isprintable() or text.replace("\n", "").isprintable()):
        # As nearly all: nothing of what is looked for below is printable, or ends a line.
        return None
    fault = _check_text(field, text, TEXT_BYTES_MAX)
    if fault is None and not text.isprintable():
        found = _NOT_SHOWN.search(text)
        if found is not None:
            what = "a control character" if found[0] < "\x80" else "a sign that overrides the direction of text"
            return Fault(field, f"{field} holds {what} at {found.start()}")
    return fault


def _check_line(field: str, text: str, bytes_max: int) -> Fault | None:
    """For values that may become header values: no control characters at all."""
    fault = _check_text(field, text, bytes_max)
    if fault is None and any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        return Fault(field, f"{field} holds a control character")
    return fault


def _check_url(field: str, url: str) -> Fault | None:
    fault = _check_line(field, url, URL_BYTES_MAX)
    if fault is not None:
        return fault
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and " " not in url
    except ValueError:
        good = False
    return None if good else Fault(field, f"{field} is not an http or https URL")


def _check_strategy(strategy: int | dict[str, int]) -> Fault | None:
    values = strategy if isinstance(strategy, dict) else {"default": strategy}
    for channel, value in values.items():
        if channel not in STRATEGY_CHANNELS:
            return Fault("strategy", f"strategy names {channel[:64]!r}, which is no channel")
        if not 1 <= value <= 4:
            return Fault("strategy", f"strategy of {channel} is {value}, expected 1, 2, 3 or 4")
    return None


def _check_data(data: dict[str, Scalar]) -> Fault | None:
    if len(data) > DATA_KEYS_MAX:
        return Fault("data", f"data has {len(data)} keys, limit {DATA_KEYS_MAX}")
    size = 0
    for key, value in data.items():
        if key == "message_id":
            return Fault("data", "data key message_id is the gateway's own")
        if isinstance(value, float) and not math.isfinite(value):
            return Fault("data", "data holds a number that JSON has no form for")
        text = value if isinstance(value, str) else ""
        fault = _check_line("data", key, NAME_BYTES_MAX) or _check_text("data", text, DATA_BYTES_MAX)
        if fault is not None:
            return fault
        size += len(key.encode()) + len(text.encode())
    if size > DATA_BYTES_MAX:
        return Fault("data", f"data is {size} bytes, limit {DATA_BYTES_MAX}")
    return None


def check_variant(variant: Variant) -> Fault | None:
    """The first fault of form, or None. Costs a few microseconds; called once per variant, not per row."""
    fault = _check_shown("title", variant.title) or _check_shown("body", variant.body)
    if fault is not None:
        return fault
    if not 0 <= variant.ttl_s <= TTL_S_MAX:
        return Fault("ttl_s", f"ttl_s is {variant.ttl_s}, expected 0 to {TTL_S_MAX}")
    if variant.strategy != 0:
        fault = _check_strategy(variant.strategy)
    if fault is None and variant.badge is not None and not 0 <= variant.badge <= BADGE_MAX:
        fault = Fault("badge", f"badge is {variant.badge}, expected 0 to {BADGE_MAX}")
    if fault is None and variant.collapse_id:
        fault = _check_line("collapse_id", variant.collapse_id, COLLAPSE_ID_BYTES_MAX)
    if fault is None and variant.category:
        fault = _check_line("category", variant.category, NAME_BYTES_MAX)
    if fault is None and variant.sound:
        fault = _check_line("sound", variant.sound, NAME_BYTES_MAX)
    if fault is None and variant.plan_id:
        fault = _check_line("plan_id", variant.plan_id, NAME_BYTES_MAX)
    if fault is None and variant.custom_callback:
        fault = _check_text("custom_callback", variant.custom_callback, CUSTOM_CALLBACK_BYTES_MAX)
    if fault is None and variant.image:
        fault = _check_url("image", variant.image)
    if fault is None and variant.data:
        fault = _check_data(variant.data)
    if fault is None and variant.click is not None:
        fault = _check_click(variant.click)
    if fault is None and variant.action != "notification":
        fault = _check_action(variant)
    if fault is None and variant.fallback:
        fault = _check_fallback(variant)
    if fault is None and variant.texts:
        fault = _check_texts(variant.texts)
    return fault


def fallback_variables(variant: Variant) -> frozenset[str]:
    """Variables that hold targets."""
    return frozenset(step.target for step in variant.fallback if step.target)


def _check_fallback(variant: Variant) -> Fault | None:
    steps = variant.fallback
    if len(steps) > FALLBACK_STEPS_MAX:
        return Fault("fallback", f"fallback has {len(steps)} steps, limit {FALLBACK_STEPS_MAX}")
    if variant.action != "notification":
        return Fault("fallback", f"action {variant.action} goes over the long link only")
    earlier = 0
    for step in steps:
        if step.channel not in _FALLBACK_CHANNELS:
            return Fault("fallback", f"fallback names {step.channel[:64]!r}, which is no channel of a vendor")
        if not earlier < step.after_s < variant.ttl_s:
            text = f"fallback to {step.channel} after {step.after_s} s, expected above {earlier} and below ttl_s"
            return Fault("fallback", text)
        if step.target and _NAME.fullmatch(step.target) is None:
            return Fault("fallback", "target of a fallback is not the name of a variable")
        earlier = step.after_s
    if len({step.channel for step in steps}) < len(steps):
        return Fault("fallback", "fallback names a channel twice")
    return None


def _check_texts(texts: dict[str, Texts]) -> Fault | None:
    for channel, own in texts.items():
        if channel == "default" or channel not in STRATEGY_CHANNELS:
            return Fault("texts", f"texts names {channel[:64]!r}, which is no channel")
        for name in ("title", "body"):
            fault = _check_shown(f"texts.{channel}.{name}", getattr(own, name) or "")
            if fault is not None:
                return fault
    return None


def _check_action(variant: Variant) -> Fault | None:
    if variant.action == "badge" and variant.badge is None:
        return Fault("badge", "action badge needs badge")
    if variant.action == "revoke" and not variant.collapse_id and not revoked_message(variant):
        return Fault("collapse_id", "action revoke needs collapse_id, or data.revokes with a message id")
    strategies = variant.strategy.values() if isinstance(variant.strategy, dict) else (variant.strategy,)
    if any(strategy not in (0, LONG_LINK_ONLY) for strategy in strategies):
        text = f"action {variant.action} goes over the long link only: strategy 3, or none"
        return Fault("strategy", text)
    return None


def revoked_message(variant: Variant) -> str:
    """The one message that a revoke is about: its id, or the variable that has it; "": it is about a collapse id."""
    found = (variant.data or {}).get("revokes", "")
    return found if isinstance(found, str) else ""


def _check_click(click: Click) -> Fault | None:
    if click.type == "url" and "{{" not in click.value:
        fault = _check_url("click.value", click.value)
        return None if fault is None else Fault("click", fault.text)
    if click.type != "app" and not click.value:
        return Fault("click", f"click of type {click.type} needs a value")
    return _check_text("click", click.value, URL_BYTES_MAX)
