"""Signatures of single requests: the webhook's own, Aliyun's ACS3 and Tencent Cloud's TC3. Pure functions of bytes.

Source: facts/vendors-china.md sections 7A.3, 7B.3 and the vectors of section 10 (2026-11), made from the pages of
Alibaba Cloud ("V3 signature") and Tencent Cloud ("signature v3"); the webhook's is this project's own
(docs/vendors/webhook.md).
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime

ACS3 = "ACS3-HMAC-SHA256"
ACS3_SIGNED = "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version"
TC3 = "TC3-HMAC-SHA256"
TC3_SIGNED = "content-type;host"


def webhook_signature(secret: bytes, stamp: bytes, body: bytes) -> bytes:
    """Lower-case hex of HMAC-SHA256 over the seconds, a dot and the body."""
    return hmac.new(secret, stamp + b"." + body, hashlib.sha256).hexdigest().encode()


def acs3_signature(
    secret: bytes, *, host: str, action: str, version: str, date: str, nonce: str, content_sha256: str, query: str = ""
) -> str:
    """Lower-case hex for a POST to /. query: sorted and encoded; SendSms has none."""
    values = (host, action, content_sha256, date, nonce, version)
    lines = "".join(f"{name}:{value}\n" for name, value in zip(ACS3_SIGNED.split(";"), values, strict=True))
    canonical = f"POST\n/\n{query}\n{lines}\n{ACS3_SIGNED}\n{content_sha256}"
    text = f"{ACS3}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def tc3_date(unix_s: int) -> str:
    """The UTC date that stands in the scope."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")


def tc3_signature(secret_key: bytes, *, host: str, service: str, content_type: str, unix_s: int, body: bytes) -> str:
    """Lower-case hex for a POST to / without query."""
    canonical = (
        f"POST\n/\n\ncontent-type:{content_type}\nhost:{host}\n\n{TC3_SIGNED}\n{hashlib.sha256(body).hexdigest()}"
    )
    date = tc3_date(unix_s)
    text = f"{TC3}\n{unix_s}\n{date}/{service}/tc3_request\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"TC3" + secret_key
    for part in (date, service, "tc3_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
