"""Signatures of single requests: the webhook's own, Aliyun's ACS3 and Tencent Cloud's TC3. Pure functions of bytes.

Source: facts/vendors-china.md sections 7A.3, 7B.3 and the vectors of section 10 (2026-11), made from the pages of
Alibaba Cloud ("V3 signature") and Tencent Cloud ("signature v3"); the webhook's is this project's own
(docs/vendors/webhook.md).
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from functools import lru_cache

ACS3 = "ACS3-HMAC-SHA256"
ACS3_SIGNED = "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version"
TC3 = "TC3-HMAC-SHA256"
TC3_SIGNED = "content-type;host"
_DAY_S = 86_400
#: Accounts whose key of the day is kept: one for each vendor section, with room.
_KEYS_MAX = 256


def webhook_signature(secret: bytes, stamp: bytes, body: bytes) -> bytes:
    """Lower-case hex of HMAC-SHA256 over the seconds, a dot and the body."""
    return hmac.digest(secret, stamp + b"." + body, "sha256").hex().encode()


def acs3_signature(
    secret: bytes, *, host: str, action: str, version: str, date: str, nonce: str, content_sha256: str, query: str = ""
) -> str:
    """Lower-case hex for a POST to /. query: sorted and encoded; SendSms has none."""
    # The lines of the headers stand in the order of ACS3_SIGNED.
    canonical = (
        f"POST\n/\n{query}\nhost:{host}\nx-acs-action:{action}\nx-acs-content-sha256:{content_sha256}\nx-acs-date:{date}\n"
        f"x-acs-signature-nonce:{nonce}\nx-acs-version:{version}\n\n{ACS3_SIGNED}\n{content_sha256}"
    )
    text = f"{ACS3}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.digest(secret, text.encode(), "sha256").hex()


def tc3_date(unix_s: int) -> str:
    """The UTC date that stands in the scope."""
    return _date_of_day(unix_s // _DAY_S)


@lru_cache(maxsize=16)
def _date_of_day(day: int) -> str:
    return datetime.fromtimestamp(day * _DAY_S, UTC).strftime("%Y-%m-%d")


@lru_cache(maxsize=_KEYS_MAX)
def _tc3_key(secret_key: bytes, date: str, service: str) -> bytes:
    """The key that signs a service's requests for a day: three digests, made once and not for each request."""
    key = b"TC3" + secret_key
    for part in (date, service, "tc3_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def tc3_signature(secret_key: bytes, *, host: str, service: str, content_type: str, unix_s: int, body: bytes) -> str:
    """Lower-case hex for a POST to / without query."""
    canonical = (
        f"POST\n/\n\ncontent-type:{content_type}\nhost:{host}\n\n{TC3_SIGNED}\n{hashlib.sha256(body).hexdigest()}"
    )
    date = tc3_date(unix_s)
    text = f"{TC3}\n{unix_s}\n{date}/{service}/tc3_request\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.digest(_tc3_key(secret_key, date, service), text.encode(), "sha256").hex()
