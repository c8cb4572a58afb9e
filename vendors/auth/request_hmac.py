"""Signatures of requests: the webhook's own, Aliyun's ACS3 and Tencent Cloud's TC3. Pure functions of columns of bytes.

Source: facts/vendors-china.md sections 7A.3, 7B.3 and the vectors of section 10 (2026-11), made from the pages of
Alibaba Cloud ("V3 signature") and Tencent Cloud ("signature v3"); the webhook's is this project's own
(docs/vendors/webhook.md).

Plain twins: `tests/vendors/auth/test_request_hmac.py`.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np

from gateway.columns import U8, Pieces, fixed_rows, join
from vendors.auth.digest_columns import hmac_sha256_hex, sha256_hex

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


def webhook_signatures(secret: bytes, stamp: bytes, bodies: Sequence[bytes]) -> U8:
    """The same for each body: (n, 64)."""
    return hmac_sha256_hex(secret, stamp + b".", bodies)


def acs3_signatures(
    secret: bytes,
    *,
    host: str,
    action: bytes,
    version: str,
    date: bytes,
    nonces: Pieces,
    bodies: Sequence[bytes],
    query: str = "",
) -> U8:
    """(n, 128): the hash of each body, which is a header as well, and the signature, in lower-case hex, of a POST to /.
    query: sorted and encoded; SendSms has none."""
    contents = sha256_hex(b"", bodies)
    # The lines of the headers stand in the order of ACS3_SIGNED.
    lead = f"POST\n/\n{query}\nhost:{host}\nx-acs-action:".encode() + action + b"\nx-acs-content-sha256:"
    between = b"\nx-acs-date:" + date + b"\nx-acs-signature-nonce:"
    tail = f"\nx-acs-version:{version}\n\n{ACS3_SIGNED}\n".encode()
    canonical = sha256_hex(lead, join((contents, between, *nonces, tail, contents), 0, len(bodies)))
    return np.concatenate([contents, hmac_sha256_hex(secret, f"{ACS3}\n".encode(), fixed_rows(canonical))], axis=1)


def tc3_date(unix_s: int) -> str:
    """The UTC date that stands in the scope."""
    return datetime.fromtimestamp(unix_s // _DAY_S * _DAY_S, UTC).strftime("%Y-%m-%d")


@lru_cache(maxsize=_KEYS_MAX)
def _tc3_key(secret_key: bytes, date: str, service: str) -> bytes:
    """The key that signs a service's requests for a day: three digests, made once and not for each burst."""
    key = b"TC3" + secret_key
    for part in (date, service, "tc3_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def tc3_signatures(
    secret_key: bytes, *, host: str, service: str, content_type: str, unix_s: int, bodies: Sequence[bytes]
) -> U8:
    """(n, 64): the signatures in lower-case hex of POSTs to / without query."""
    lead = f"POST\n/\n\ncontent-type:{content_type}\nhost:{host}\n\n{TC3_SIGNED}\n".encode()
    canonical = sha256_hex(lead, fixed_rows(sha256_hex(b"", bodies)))
    date = tc3_date(unix_s)
    scope = f"{TC3}\n{unix_s}\n{date}/{service}/tc3_request\n".encode()
    return hmac_sha256_hex(_tc3_key(secret_key, date, service), scope, fixed_rows(canonical))
