"""Signed requests: an HTTP request that proves the app secret, within a window of time and once.

    signature = hex(HMAC-SHA256(app secret, "pushgw-http-1" + LF + app key + LF + timestamp + LF + body))

The timestamp is Unix seconds in decimal digits. A request is taken when one of the app's secrets made its signature,
its timestamp is at most `age_s_max` away from our clock (either side), the same signature was not taken before, and the
app has not used its rate up. So a recorded request is worth nothing, and an app's backend may sign a request for a
device to send without giving the secret away.

Bounds: `used_max` signatures are remembered per app, each until no clock that is `age_s_max` off would let it pass;
when they are full the request is refused (forgetting one would let it be repeated).
Only proven requests cost the app anything: who does not know the secret cannot use its rate up.
Source: RFC 2104; docs/device-protocol.md, "Getting an identity".
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from gateway.core.bucket import TokenBucket

_CONTEXT = b"pushgw-http-1"
#: Compared against when the app key is unknown, so that the time taken does not tell.
_NOBODY = hashlib.sha256(b"pushgw-http-1-nobody").digest()
#: Digits of a timestamp: the year 2286 has eleven; a longer text is no time.
_TIMESTAMP_DIGITS_MAX = 11

RefusalCode: TypeAlias = Literal[
    "bad_request", "bad_credentials", "stale_timestamp", "repeated", "overloaded", "unavailable"
]


class SigningLimits(msgspec.Struct, frozen=True):
    """Reasons beside the defaults in configs/reference.toml, section [http]."""

    age_s_max: float = 300.0
    #: Requests of one app per second, and at once.
    rate_per_s: float = 50.0
    burst: int = 200
    #: Signatures remembered per app.
    used_max: int = 65_536


class Proven(NamedTuple):
    """The request is the app's. secret_index: which of its secrets was used, in the order of the configuration."""

    secret_index: int


class Refused(NamedTuple):
    """Why not; what to mend stands in field, value and limit. retry_after_s: when to come again, where that helps."""

    code: RefusalCode
    field: str
    text: str
    value: int | None = None
    limit: int | None = None
    retry_after_s: float | None = None


def sign_request(secret: bytes, app_key: str, timestamp: str, body: bytes) -> str:
    """64 lower-case hex digits."""
    message = b"\n".join((_CONTEXT, app_key.encode(), timestamp.encode(), body))
    return hmac.digest(secret, message, "sha256").hex()


class _AppState:
    __slots__ = ("bucket", "used")

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        #: Signature -> monotonic time from which it would be too old anyway; in the order of those times.
        self.used: dict[bytes, float] = {}


class SignedRequests:
    """What was taken lately, per app. One owner; state exists only for apps of the configuration."""

    def __init__(self, secrets: Mapping[str, Sequence[bytes]], limits: SigningLimits) -> None:
        self._secrets = secrets
        self._limits = limits
        self._apps: dict[str, _AppState] = {}

    def check(
        self, app_key: str, timestamp: str, signature: str, body: bytes, *, now: float, now_unix_s: float
    ) -> Proven | Refused:
        """Proven: the request is taken, and will not be taken again."""
        fault = _form_fault(timestamp, signature)
        if fault is not None:
            return fault
        secret_index = self._find_secret(app_key, timestamp, signature, body)
        if secret_index < 0:
            return Refused("bad_credentials", "Pushgw-Signature", "app key or signature is wrong")
        limits = self._limits
        age_s = now_unix_s - int(timestamp)
        if abs(age_s) > limits.age_s_max:
            text = f"timestamp is {abs(age_s):.0f} s {'old' if age_s > 0 else 'ahead'}, limit {limits.age_s_max:g} s"
            return Refused("stale_timestamp", "Pushgw-Timestamp", text, round(age_s), round(limits.age_s_max))
        return self._take(app_key, bytes.fromhex(signature), now) or Proven(secret_index)

    def _find_secret(self, app_key: str, timestamp: str, signature: str, body: bytes) -> int:
        """-1 for none. Every secret is tried, so that the time taken does not tell which one is in force."""
        found = -1
        for index, secret in enumerate(self._secrets.get(app_key) or (_NOBODY,)):
            if hmac.compare_digest(sign_request(secret, app_key, timestamp, body), signature):
                found = index
        return found if app_key in self._secrets else -1

    def _take(self, app_key: str, signature: bytes, now: float) -> Refused | None:
        limits = self._limits
        state = self._apps.get(app_key)
        if state is None:
            state = self._apps[app_key] = _AppState(TokenBucket(limits.rate_per_s, limits.burst, now=now))
        used = state.used
        while used and next(iter(used.values())) < now:
            del used[next(iter(used))]
        if signature in used:
            return Refused("repeated", "Pushgw-Signature", "this request was taken before; sign a new one")
        if len(used) >= limits.used_max:
            wait_s = next(iter(used.values())) - now
            text = f"signatures remembered are {len(used)}, limit {limits.used_max} (signatures_max)"
            return Refused("overloaded", "signatures_max", text, len(used), limits.used_max, wait_s)
        if not state.bucket.take(now, 1):
            wait_s = (state.bucket.next_deadline() or math.inf) - now
            text = f"requests per second are above the limit of {limits.rate_per_s:g} (devices_per_s)"
            return Refused("overloaded", "devices_per_s", text, None, math.ceil(limits.rate_per_s), wait_s)
        # A timestamp may be age_s_max ahead of us now, and then passes until it is age_s_max old.
        used[signature] = now + 2 * limits.age_s_max
        return None


def _form_fault(timestamp: str, signature: str) -> Refused | None:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _TIMESTAMP_DIGITS_MAX):
        text = f"timestamp is no Unix time in seconds, expected 1 to {_TIMESTAMP_DIGITS_MAX} digits"
        return Refused("bad_request", "Pushgw-Timestamp", text, len(timestamp), _TIMESTAMP_DIGITS_MAX)
    if len(signature) != 64 or any(letter not in "0123456789abcdef" for letter in signature):
        text = f"signature has {len(signature)} characters, expected 64 lower-case hex digits"
        return Refused("bad_request", "Pushgw-Signature", text, len(signature), 64)
    return None
