"""HarmonyOS: Push Kit v3 (HarmonyOS 5 and NEXT; older devices are vendors/huawei.py).

Source: facts/vendors-international.md section 4 (2026-11), made from developer.huawei.com
push-scenariozed-api-request-struct, -request-param, -response, push-jwt-token, push-msg-freq-control, push-apply-right.

One request takes 1 to 1000 tokens of one content (10 where `test_messages` is on); different texts go one by one. The
bearer is a JWT that we sign ourselves. Behaviour follows `category`: one without an approved right counts as marketing.
`raw.harmony` is a JSON Merge Patch (RFC 7396) over the whole body, so other fields need no release.

Its key `pushType` is the header's; without it `push_types` of the configuration says it by category, category
PLAY_VOICE is push-type 2, and all else an alert. What the payload of a push-type is made of:

    0 alert, 2 voice      `notification` of the content; 2 has category PLAY_VOICE, and the data as `extraData` as well
    6 background, 10 call `extraData`: the data as JSON in a string; title and body are not sent
    1 form (card)         `formData`: the data; which card is in raw (`formId` ...). One token a request
    7 live view           all in raw (`activityId`, `operation`, `event` ...): the sheet does not say what stands where

Doubts, each with a safe default: which HTTP status comes with which code is said in general terms only, so the code
decides wherever there is one; `noRight` is also what a wrong project looks like, so it is left to the guard against
mass unregistration. A call rings for `call_ttl_s` at most (30 to 60 are advised). Live views have rates per view and
device that nobody counts here: what exceeds them is told in receipts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from gateway.content import Variant
from gateway.template_values import Json, Tree, json_text, merge_patch, text_value
from gateway.vendor import (
    BulkAnswer,
    BulkTemplate,
    Limits,
    Refusal,
    RequestTemplate,
    RowList,
    Slot,
    TemplateParts,
    parse_template,
    slot_json,
    slot_text,
)
from gateway.verdict import NOT_IN_ANSWER, Answer
from vendors.auth.credential import SecretPlace
from vendors.auth.ps256 import AccountTokenSigner
from vendors.codes import (
    ACCEPTED,
    AUTH,
    AUTH_CONFIG,
    DEAD,
    ERROR,
    PAYLOAD,
    REFUSED,
    RIGHT,
    THROTTLED,
    UNREADABLE,
    answer_of,
    is_fewer,
    table,
)
from vendors.http_answer import code_of, counted_name, decode_object, text_of
from vendors.neutral import (
    BADGE_MAX,
    BulkSettings,
    BulkVendorBase,
    category_of,
    check_callback_secret,
    check_identifier,
    check_list_token,
    check_secret,
    data_tree,
    own_raw,
)

PAYLOAD_BYTES_MAX = 4096
TOKENS_MAX, TEST_TOKENS_MAX = 1000, 10
TTL_S_MAX = 1_296_000
ALERT, FORM, VOICE, BACKGROUND, LIVE_VIEW, CALL = 0, 1, 2, 6, 7, 10
#: Push-type -> what its payload must have.
PAYLOAD_KEYS: dict[int, tuple[str, ...]] = {
    ALERT: ("notification",),
    FORM: ("formId", "version", "moduleName", "formName", "abilityName", "formData"),
    VOICE: ("notification",),
    BACKGROUND: ("extraData",),
    LIVE_VIEW: ("activityId", "operation", "event"),
    CALL: ("extraData",),
}
#: Members of pushOptions that only some push-types take.
OPTION_TYPES: dict[str, tuple[int, ...]] = {"collapseKey": (ALERT, VOICE), "backgroundMode": (BACKGROUND,)}
PLAY_VOICE = "PLAY_VOICE"
#: Of alerts.
CATEGORIES = frozenset(
    [
        *("IM", "VOIP", "MISS_CALL", "SUBSCRIPTION", "TRAVEL", "HEALTH", "WORK", "ACCOUNT", "EXPRESS", "FINANCE"),
        *("DEVICE_REMINDER", "MAIL", "MARKETING"),
    ]
)


class Settings(BulkSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One project. The account key (JSON) is a file or an environment variable, never inline.

    rate_per_s: devices; AppGallery Connect shows the project's own. default_category: of system messages whose category
    says nothing; it is a required field. push_types: a message's category as services write it -> push-type, where that
    is no alert. call_ttl_s: a call (push-type 10) rings no longer. receipt_id: which receipt configuration is told.
    callback_user, callback_secret_*: as in that configuration; receipts must be signed with them then.
    """

    project_id: str
    account_key_file: str = ""
    account_key_env: str = ""
    host: str = "push-api.cloud.huawei.com"
    rate_per_s: float = 6_000.0
    burst: int = 6_000
    default_category: str = "WORK"
    push_types: dict[str, int] = msgspec.field(default_factory=dict)
    call_ttl_s: int = 60
    receipt_id: str = ""
    callback_user: str = ""
    callback_secret_file: str = ""
    callback_secret_env: str = ""
    test_messages: bool = False

    def __post_init__(self) -> None:
        self.check(rows_max=TOKENS_MAX)
        check_secret("account_key", self.account_key_file, self.account_key_env)
        check_identifier("project_id", self.project_id)
        check_callback_secret(self.callback_user, self.callback_secret_file, self.callback_secret_env)
        if self.default_category not in CATEGORIES:
            raise ValueError(f"default_category is {self.default_category!r}, expected one of {sorted(CATEGORIES)}")
        for category, push_type in self.push_types.items():
            if push_type not in PAYLOAD_KEYS:
                raise ValueError(f"push_types.{category} is {push_type}, expected one of {_known_types()}")
        if not 1 <= self.call_ttl_s <= TTL_S_MAX:
            raise ValueError(f"call_ttl_s is {self.call_ttl_s}, expected 1 to {TTL_S_MAX}")


def _known_types() -> str:
    return ", ".join(map(str, PAYLOAD_KEYS))


#: Code -> answer: every row of the sheet's section 4.9.
ANSWERS = table(
    {
        "80000000": ("success", ACCEPTED),
        # with a map of tokens; `judge` reads it
        "80100000": ("partly_sent", ACCEPTED),
        "80100001": ("bad_parameter", PAYLOAD),
        "80100003": ("message_structure", PAYLOAD),
        "80100004": ("ttl_is_past", PAYLOAD),
        "80100022": ("image_not_verified", PAYLOAD),
        "80200001": ("token_wrong", AUTH),
        "80200005": ("jwt_expired", AUTH),
        "80200006": ("token_disabled", AUTH_CONFIG),
        "80300002": ("service_off", AUTH_CONFIG),
        # per reason; without one it names nobody
        "80300007": ("all_tokens_invalid", PAYLOAD),
        "80300008": ("payload_too_large", PAYLOAD),
        "80300010": ("token_count", PAYLOAD),
        "80300029": ("test_messages_throttled", THROTTLED),
        "80300030": ("test_tokens", PAYLOAD),
        "80300036": ("jwt_life", AUTH),
        "80300037": ("penalty", AUTH_CONFIG),
        "81000001": ("internal_error", ERROR),
    }
)
STATUSES: dict[int, Answer] = {
    400: PAYLOAD._replace(name="http_400"),
    401: AUTH._replace(name="http_401"),
    404: AUTH_CONFIG._replace(name="http_404"),
    500: ERROR._replace(name="http_500"),
    502: ERROR._replace(name="http_502"),
    503: THROTTLED._replace(name="http_503"),
}
#: Reasons of illegal tokens, section 4.8.
REASONS: dict[str, Answer] = {
    reason: answer._replace(name=reason)
    for reason, answer in {
        "tokenFormatError": DEAD,
        "tokenPlatformNotSupport": DEAD,
        "noRight": DEAD,
        "noPushTypeRight": RIGHT,
        "noRightToSendThisLiveNotificationEvent": RIGHT,
        "atomicUnableSendUnsubscribedMsg": REFUSED,
        "appinfoError": REFUSED,
        "countryNotSupport": REFUSED,
        "disableSendHuaweiMsgBecauseOfPenalty": AUTH_CONFIG,
        "differentImgVerifyPolicy": PAYLOAD,
        "notSupportPlayVoice": PAYLOAD,
    }.items()
}
PARTLY_SENT, ALL_INVALID = "80100000", "80300007"
_RAW_REFUSED = ("target",)

_HEADERS: tuple[tuple[bytes, TemplateParts], ...] = (
    (b"authorization", (Slot("authorization"),)),
    (b"content-type", (b"application/json",)),
)
_ONE = msgspec.Raw(b"[" + slot_json("token") + b"]")
_MANY = msgspec.Raw(b"[" + slot_text("tokens") + b"]")
_LIST = RowList("tokens", (b'"', Slot("token"), b'"'), b",")


class Harmony(BulkVendorBase):
    """The vendor port for one project (gateway/vendor.py)."""

    name: ClassVar[str] = "harmony"
    request_id_keys: ClassVar[tuple[str, ...]] = ("requestId",)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._path: TemplateParts = (f"/v3/{settings.project_id}/messages:send".encode(),)
        self._limits = Limits(PAYLOAD_BYTES_MAX, counts_token=False, needs_texts=True)
        most = TEST_TOKENS_MAX if settings.test_messages else TOKENS_MAX
        self._rows_max = min(settings.rows_per_request_max, most)

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    def limits(self, variant: Variant) -> Limits:
        """4096 bytes without the tokens; title and body have no limit of their own."""
        return self._limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        raw = own_raw(variant, self.name, _RAW_REFUSED)
        if isinstance(raw, Refusal):
            return raw
        push_type = self._push_type(variant, raw.pop("pushType", None))
        if isinstance(push_type, Refusal):
            return push_type
        payload = self._payload(variant, push_type, with_variables)
        if isinstance(payload, Refusal):
            return payload
        ttl_s_max = self.settings.call_ttl_s if push_type == CALL else TTL_S_MAX
        options: Tree = {"ttl": msgspec.Raw(slot_text(f"ttl:s:1:{ttl_s_max}")), "biTag": slot_json("address")}
        if self.settings.receipt_id:
            options["receiptId"] = self.settings.receipt_id
        if self.settings.test_messages:
            options["testMessage"] = True
        body: Tree = {"payload": payload, "target": {"token": _ONE}, "pushOptions": options}
        merge_patch(body, raw)
        wrong = _misplaced(body, push_type)
        if wrong:
            return Refusal("raw", f"{wrong} (harmony)")
        headers = (*_HEADERS, (b"push-type", (str(push_type).encode(),)))
        single = parse_template(msgspec.json.encode(body))
        if push_type == FORM:
            return RequestTemplate(self._path, headers, single)
        body["target"] = {"token": _MANY}
        many = parse_template(msgspec.json.encode(body))
        shared = BulkTemplate(self._path, headers, many, (_LIST,), self._rows_max)
        return RequestTemplate(self._path, headers, single, shared=shared)

    def _push_type(self, variant: Variant, own: Json) -> int | Refusal:
        """own: what the caller's raw object says."""
        if own is not None:
            if type(own) is not int or own not in PAYLOAD_KEYS:
                return Refusal("raw", f"raw.harmony key pushType is none of {_known_types()}")
            return own
        if variant.category in self.settings.push_types:
            return self.settings.push_types[variant.category]
        is_voice = category_of(variant, self.settings.categories, frozenset([PLAY_VOICE])) == PLAY_VOICE
        return VOICE if is_voice else ALERT

    def _payload(self, variant: Variant, push_type: int, with_variables: bool) -> Tree | Refusal:
        """What the content gives; the caller's raw object may add the rest."""
        data = data_tree(variant, with_variables=with_variables)
        if isinstance(data, Refusal) or push_type == LIVE_VIEW:
            return data if isinstance(data, Refusal) else {}
        if push_type == FORM:
            return {"formData": data}
        extra: Tree = {} if push_type == ALERT else {"extraData": json_text(data)}
        if push_type in (BACKGROUND, CALL):
            return extra
        category = PLAY_VOICE if push_type == VOICE else self._category(variant)
        notification = self._notification(variant, category, data, with_variables)
        return notification if isinstance(notification, Refusal) else {"notification": notification, **extra}

    def _category(self, variant: Variant) -> str:
        default = "MARKETING" if variant.class_ == "marketing" else self.settings.default_category
        return category_of(variant, self.settings.categories, CATEGORIES) or default

    def _notification(self, variant: Variant, category: str, data: Tree, with_variables: bool) -> Tree | Refusal:
        action: Tree = {"actionType": 0}
        if variant.click is not None and variant.click.type in ("url", "intent"):
            value = text_value(variant.click.value, with_variables=with_variables)
            # A URI opens the page that declares it; a name without a scheme is an action.
            is_uri = variant.click.type == "url" or ":" in variant.click.value
            action = {"actionType": 1, "uri" if is_uri else "action": value}
        action["data"] = data
        notification: Tree = {
            "category": category,
            "title": slot_json("title"),
            "body": slot_json("body"),
            "clickAction": action,
            # The same on every attempt: of two copies within a day the device shows the first.
            "appMessageId": slot_json("message_id"),
        }
        if variant.image:
            if not variant.image.startswith("https://"):
                return Refusal("image", "image must be an https URL (harmony)")
            notification["image"] = variant.image
        if variant.collapse_id:
            notification["notifyId"] = msgspec.Raw(slot_text("collapse_number"))
        if variant.badge is not None:
            notification["badge"] = {"setNum": min(variant.badge, BADGE_MAX)}
        if variant.sound:
            notification["sound"] = variant.sound
        return notification

    def check_token(self, token: str) -> str:
        return check_list_token(token)

    def classify(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        told = self.judge(status, headers, body, is_distinct=False)
        return next(iter(told.by_token.values()), told.rest)

    def judge(self, status: int, headers: Mapping[bytes, bytes], body: bytes, *, is_distinct: bool) -> BulkAnswer:
        fields = decode_object(body)
        code = code_of(fields.get("code"))
        answer = answer_of(ANSWERS, code, status, headers, STATUSES)
        if code not in (PARTLY_SENT, ALL_INVALID):
            return BulkAnswer(answer)
        told = decode_object(text_of(fields.get("msg")).encode("utf-8", "replace"))
        tokens = _illegal_tokens(told)
        if code == PARTLY_SENT and (status != 200 or not tokens):
            # Some were not sent, and we cannot tell which.
            return BulkAnswer(UNREADABLE)
        if code == PARTLY_SENT and is_fewer(len(tokens), told.get("failure")):
            return BulkAnswer(NOT_IN_ANSWER, tokens)
        return BulkAnswer(answer, tokens)


def _misplaced(body: Tree, push_type: int) -> str:
    """What does not belong to the push-type, or is missing; "" when all is well."""
    payload, options = body.get("payload"), body.get("pushOptions")
    if not isinstance(payload, dict) or not isinstance(options, dict):
        return "payload and pushOptions must be objects"
    missing = [key for key in PAYLOAD_KEYS[push_type] if key not in payload]
    if missing:
        return f"payload of push-type {push_type} has no {missing[0]}"
    if "notification" in payload and push_type not in (ALERT, VOICE):
        return f"payload of push-type {push_type} takes no notification"
    notification = payload.get("notification")
    category = notification.get("category") if isinstance(notification, dict) else None
    if notification is not None and (category == PLAY_VOICE) != (push_type == VOICE):
        return "category PLAY_VOICE and push-type 2 belong together"
    for name, types in OPTION_TYPES.items():
        # -1 is the default of collapseKey
        if options.get(name, -1) != -1 and push_type not in types:
            return f"{name} is not for push-type {push_type}"
    return ""


def _illegal_tokens(told: dict[str, object]) -> dict[bytes, Answer]:
    """Token -> answer, by its reason; keys may have stray blanks. A list without reasons names no cause."""
    illegal = told.get("illegalTokens", told.get("illegal_tokens"))
    named = illegal if isinstance(illegal, dict) else {"": illegal}
    answers: dict[bytes, Answer] = {}
    for key, listed in named.items():
        reason = key.strip()
        answer = REASONS.get(reason)
        if answer is None:
            answer = PAYLOAD._replace(name=counted_name(reason, 200), is_unknown=True)
        if isinstance(listed, list):
            answers |= {token.encode("utf-8", "replace"): answer for token in listed if isinstance(token, str)}
    return answers


def secret_place(settings: Settings) -> SecretPlace:
    """Where the account key is."""
    return SecretPlace(settings.account_key_file, settings.account_key_env)


def credential(settings: Settings, secret: bytes) -> AccountTokenSigner:
    """The signer of bearer tokens. Raises ValueError when the secret is no account key of this project."""
    return AccountTokenSigner(secret, project_id=settings.project_id)
