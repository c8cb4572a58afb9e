"""What HMS v1/v2 and HarmonyOS v3 share: answers, the service account's JWT, caps, receipts and their signature.

Written from facts/vendors-international.md sections 3 and 4 (Huawei, https-send-api, copy of 2025-08; push-jwt-token,
push-api-response, push-msg-receipt of 2026-04). Which HTTP status goes with which code is said only in general terms
(400 parameter, 401 authorization): `error_status` of the configuration chooses between that and 200 throughout.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from bench.simulators.config_base import Count
from bench.simulators.credentials import ServiceAccount
from bench.simulators.exchange import Answer, Request
from bench.simulators.fields import to_json
from bench.simulators.push_api import (
    JSON_HEADERS,
    DayCaps,
    Kit,
    PushApi,
    PushSection,
    Refused,
    bytes_without_tokens,
    new_id,
    retry_after,
)
from bench.simulators.receipts import Callback, Due

AUDIENCE = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"
JWT_S = 3_600
JWT_S_MAX = 86_400
SKEW_S_MAX = 300  # Huawei gives none and asks for an accurate clock; its cloud APIs elsewhere allow five minutes
REPEATED = "repeated"  # instead of an event: the device has it already, nothing is shown and nothing reported
TOKENS_MAX = 1_000
MESSAGE_BYTES_MAX = 4_096
TAG_BYTES_MAX = 64
TTL_S_MAX = 1_296_000
TOKEN_FORM = re.compile(r"[!-~]{1,512}")
MARKETING = "MARKETING"
SERVICE_CATEGORIES = (
    *("IM", "VOIP", "MISS_CALL", "SUBSCRIPTION", "TRAVEL", "HEALTH", "WORK", "ACCOUNT", "EXPRESS", "FINANCE"),
    *("DEVICE_REMINDER", "MAIL", "PLAY_VOICE"),
)
DEVICE_FATES = {  # fate of a token -> result in its receipt
    "uninstalled": "2",
    "token_mismatch": "5",
    "notifications_off": "6",
    "inactive": "10",
    "network": "14",
    "replaced": "15",
    "user_mismatch": "22",
    "cached": "27",
    "page_missing": "31",
    "locked": "51",
}
CODE_FORM = re.compile(r"8[0-9]{7}")
TEXTS = {
    "80000000": "Success",
    "80100000": "Some tokens are right, the others are illegal",
    "80100001": "Incorrect message parameters",
    "80100003": "Incorrect message structure",
    "80100004": "The expiration time is earlier than the current time",
    "80100013": "The collapse_key message field is invalid",
    "80100016": "The message contains sensitive information",
    "80100022": "The image has not been verified",
    "80200001": "OAuth authentication error",
    "80200003": "OAuth token expired",
    "80200005": "JWT token expired",
    "80300002": "The current app does not have the permission to send messages",
    "80300007": "All tokens are invalid",
    "80300008": "The message body size exceeds the default value",
    "80300010": "The number of tokens in the message body exceeds the default value",
    "80300011": "You are not authorized to send high-priority notification messages",
    "80300013": "The receipt address or certificate is wrong",
    "80300029": "Test messages are sent too often",
    "80300030": "The number of tokens of a test message exceeds 10",
    "80300036": "The life of the JWT exceeds one day",
    "80300037": "The app is punished",
    "80600003": "Failed to request the OAuth service",
    "81000001": "An internal error of the system occurs",
}


class HuaweiCloudSection(PushSection, frozen=True, kw_only=True):
    """Keys that both have. receipt_ids: receipt id -> callback URL; empty = every id means receipts.callback_url."""

    project_id: str = "388421841221890000"
    rate_per_s: float = 6_000.0
    error_status: Literal["mapped", "always_200"] = "mapped"
    categories: tuple[str, ...] = SERVICE_CATEGORIES
    sensitive_words: tuple[str, ...] = ()
    device_messages_per_day: Count = 3_000
    marketing_per_device_per_day: Count = 2
    test_messages_per_day: Count = 500
    receipt_ids: dict[str, str] = msgspec.field(default_factory=dict)
    callback_user: str = ""
    callback_secret: str = ""
    callback_secret_form: Literal["base64", "text"] = "base64"


@dataclass(frozen=True, slots=True)
class Send:
    """A request that has passed all checks of form.

    tokens: as sent, repeats kept. is_test: outside the caps of devices. is_dry: checked and not delivered.
    """

    tokens: Sequence[str]
    title: str
    body: str
    payload: str
    tag: str
    receipt_id: str
    category: str
    is_notification: bool
    is_test: bool = False
    is_dry: bool = False
    push_type: int = 0
    dedupe_id: str = ""


class HuaweiCloud(PushApi):
    """Base of the two judges."""

    throttle_code = (503, "503")
    fault_code = (500, "81000001")

    def __init__(self, section: HuaweiCloudSection, kit: Kit, account: ServiceAccount) -> None:
        super().__init__(section, kit)
        self.cloud = section
        self.account = account
        self.jwt = ServiceJwt(account)
        self.caps = DayCaps(
            {"test": section.test_messages_per_day},
            {"all": section.device_messages_per_day, MARKETING: section.marketing_per_device_per_day},
        )

    def reset(self) -> None:
        """Caps are unused."""
        super().reset()
        self.caps.reset()

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """`code` and `msg` in JSON; flow control, wrong paths and broken gateways have an empty body."""
        code = refused.code
        if not CODE_FORM.fullmatch(code):
            return Answer(refused.status or 500, retry_after(refused), b"", code, refused.why)
        text = refused.text or TEXTS.get(code, refused.why)
        return self.reply(code, text, refused.status or self._status_of(code), refused)

    def reply(self, code: str, text: str, status: int = 200, refused: Refused | None = None, **fields: Any) -> Answer:
        """The body that every answer of the push service has."""
        body = to_json({"code": code, "msg": text, "requestId": new_id(24)})
        if refused is None:
            return Answer(status, JSON_HEADERS, body, **fields)
        return Answer(status, (*JSON_HEADERS, *retry_after(refused)), body, code, refused.why)

    def _status_of(self, code: str) -> int:
        if self.cloud.error_status == "always_200":
            return 200
        return {"8010": 400, "8020": 401, "8100": 500}.get(code[:4], 200)

    def check_jwt(self, bearer: str) -> None:
        """`bearer` is a good JWT; one that lives longer than documented is counted. Raises Refused."""
        if not self.jwt.check(bearer, self.now):
            self.kit.n_seen["jwt life over one hour"] += 1

    def check_count(self, tokens: Any, n_max: int, code: str = "80300010") -> list[str]:
        """The tokens of a request: a list of 1..n_max strings. Raises Refused."""
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise Refused("80300010", "token is missing or no list of strings")
        if not 1 <= len(tokens) <= n_max:
            raise Refused(code, f"{len(tokens)} tokens, expected 1..{n_max}")
        return tokens

    def check_size(self, request: Request) -> None:
        """The body without its tokens is small enough. Raises Refused."""
        size = bytes_without_tokens(request)
        if size > MESSAGE_BYTES_MAX:
            raise Refused("80300008", f"the message is {size} bytes without its tokens, limit {MESSAGE_BYTES_MAX}")

    def check_words(self, *texts: str) -> None:
        """No text holds a word of the list. Raises Refused."""
        for word in self.cloud.sensitive_words:
            if any(word in text for text in texts):
                raise Refused("80100016", "a text holds a sensitive word")

    def callback_url(self, receipt_id: str) -> str:
        """Where receipts go. Raises Refused for an id that the console does not know."""
        known = self.cloud.receipt_ids
        if receipt_id and known and receipt_id not in known:
            raise Refused("80300013", f"receipt id {receipt_id[:40]!r} is not configured")
        return known.get(receipt_id, self.cloud.receipts.callback_url)

    def class_of(self, category: str) -> str:
        """MARKETING for a category that the app has no right to, silently, as Huawei does."""
        if category in self.cloud.categories:
            return category
        if category not in ("", MARKETING):
            self.kit.n_seen[f"category without right {category[:32]}"] += 1
        return MARKETING

    def taken(
        self, send: Send, good: Sequence[str], listed: Mapping[str, Any] | None, reasons: Mapping[str, int]
    ) -> Answer:
        """The answer to a request of which `good` was taken; rows over a cap are taken and reported later.

        listed: what `msg` tells of the tokens that were not, None when there are none.
        """
        request_id = new_id(24)
        url = self.callback_url(send.receipt_id)
        events = [(token, self.over_cap(send, token)) for token in good]
        shown = [token for token, event in events if event != REPEATED]
        rows = self.rows_of(send.tag, send.payload, shown, send.title, send.body) if shown else ()
        dues: list[Due] = []
        for token, event in events:
            if event != REPEATED:
                extra = (("pushType", send.push_type),)
                dues += self.receipts_of(token, Due(url, token, send.tag, request_id, "", extra=extra), event)
        code, msg = ("80000000", "Success") if listed is None else ("80100000", to_json(listed).decode())
        body = to_json({"code": code, "msg": msg, "requestId": request_id})
        counted = {name: count for name, count in reasons.items() if count}
        return Answer(200, JSON_HEADERS, body, rows=rows, receipts=tuple(dues), row_reasons=counted)

    def over_cap(self, send: Send, token: str) -> str | None:
        """The result that a receipt will tell instead of a delivery, for a row that is over a cap."""
        if send.is_test:
            room = self.caps.app_room("test", self.now)
            self.caps.use_app("test", 1, self.now)
            return None if room >= 1 else "256"
        if not self.caps.use_device("all", token, self.now):
            return "102"
        is_capped = send.is_notification and self.class_of(send.category) == MARKETING
        return None if not is_capped or self.caps.use_device(MARKETING, token, self.now) else "256"

    # ---- receipts

    def callback_of(self, statuses: Sequence[Mapping[str, Any]], *, is_forged: bool) -> Callback:
        """The POST with these entries, signed when user name and secret are set."""
        headers = [("content-type", "application/json")]
        if self.cloud.callback_user and self.cloud.callback_secret:
            headers.append(("x-huawei-callback-id", self._signature(is_forged=is_forged)))
        return Callback(to_json({"statuses": statuses}), tuple(headers), len(statuses))

    def _signature(self, *, is_forged: bool) -> str:
        secret = self.cloud.callback_secret.encode()
        key = base64.b64decode(secret) if self.cloud.callback_secret_form == "base64" else secret
        now_ms, nonce = self.now_ms, str(uuid.uuid4())
        value = callback_signature(b"forged" if is_forged else key, f"{now_ms}{nonce}{self.cloud.callback_user}")
        return f"timestamp={now_ms}; nonce={nonce}; value={value}"

    def is_receipt_taken(self, status: int, body: bytes) -> bool:
        """HTTP 200; a body other than {"code":"0"} is counted."""
        self.kit.n_seen["receipt answer " + ("code 0" if b'"0"' in body else "other")] += 1
        return status == 200


class ServiceJwt:
    """Judges the JWT of a service account, which is itself the bearer token."""

    def __init__(self, account: ServiceAccount) -> None:
        self._account = account
        key = load_pem_public_key(account.public_pem)
        assert isinstance(key, RSAPublicKey)
        self._key = key

    def check(self, bearer: str, now_unix_s: float) -> bool:
        """The JWT is good; False when it lives longer than the documented hour.

        Raises:
            Refused: 80200001 (not this account's), 80200005 (expired), 80300036 (lives longer than a day).
        """
        try:
            header = jwt.get_unverified_header(bearer)
            if header.get("alg") != "PS256":
                raise Refused("80200001", f"alg of the JWT is {header.get('alg')!r}, expected PS256")
            if header.get("kid") != self._account.private_key_id:
                raise Refused("80200001", "kid of the JWT is not a key of this account")
            claims = jwt.decode(
                bearer,
                self._key,
                algorithms=["PS256"],
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False},
            )
        except jwt.InvalidTokenError as error:
            raise Refused("80200001", f"the bearer token is no JWT of this account: {type(error).__name__}") from None
        return self._check_claims(claims, now_unix_s)

    def _check_claims(self, claims: Mapping[str, Any], now_unix_s: float) -> bool:
        if claims.get("iss") != self._account.client_email:
            raise Refused("80200001", "iss of the JWT is not the sub_account")
        if claims.get("aud") != AUDIENCE:
            raise Refused("80200001", f"aud of the JWT is not {AUDIENCE}")
        issued, expires = claims.get("iat"), claims.get("exp")
        if any(isinstance(value, bool) or not isinstance(value, int) for value in (issued, expires)):
            raise Refused("80200001", "iat and exp of the JWT must be Unix seconds")
        assert isinstance(issued, int)
        assert isinstance(expires, int)
        if issued > now_unix_s + SKEW_S_MAX:
            raise Refused("80200001", "iat of the JWT is in the future")
        if expires - issued > JWT_S_MAX:
            raise Refused("80300036", f"the JWT lives {expires - issued} s, limit {JWT_S_MAX}")
        if expires <= now_unix_s:
            raise Refused("80200005", "the JWT has expired")
        return expires - issued <= JWT_S


def callback_signature(key: bytes, text: str) -> str:
    """Base64 of HMAC-SHA256 over timestamp + nonce + user name."""
    return base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()


def split_forged(dues: Iterable[Due]) -> Iterator[tuple[bool, list[Due]]]:
    """The honest reports, then the forged ones; no empty list."""
    found = list(dues)
    for is_forged in (False, True):
        some = [due for due in found if due.is_forged == is_forged]
        if some:
            yield is_forged, some
