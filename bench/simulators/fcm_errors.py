"""Error bodies of the FCM v1 API, in Google's shape (fact sheet sections 2.8 and 2.9; Google API design guide, errors).

{"error": {"code": int, "message": str, "status": str, "details": [{"@type": ...}, ...]}}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bench.simulators.exchange import Answer, Header

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"

# FcmError code -> (HTTP status, canonical status, message)
FCM_CODES = {
    "UNSPECIFIED_ERROR": (500, "UNKNOWN", "An unknown error occurred."),
    "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "UNREGISTERED": (404, "NOT_FOUND", "Requested entity was not found."),
    "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED", "SenderId mismatch"),
    "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    "UNAVAILABLE": (503, "UNAVAILABLE", "The service is currently unavailable."),
    "INTERNAL": (500, "INTERNAL", "Internal error encountered."),
    "THIRD_PARTY_AUTH_ERROR": (401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service"),
}
# canonical statuses that come without an FcmError
PLAIN_CODES = {
    "UNAUTHENTICATED": (401, "Request had invalid authentication credentials. Expected OAuth 2 access token."),
    "PERMISSION_DENIED": (403, "Permission 'cloudmessaging.messages.create' denied on resource."),
    "NOT_FOUND": (404, "Requested entity was not found."),
    "RESOURCE_EXHAUSTED": (429, "Resource has been exhausted (e.g. check quota)."),
    "DEADLINE_EXCEEDED": (504, "Deadline expired before operation could complete."),
}
JSON_HEADERS: tuple[Header, ...] = ((b"content-type", b"application/json; charset=UTF-8"),)
Violation = tuple[str, str]  # field path, description


def error_answer(
    status: int,
    canonical: str,
    message: str,
    details: Sequence[dict[str, Any]],
    *,
    reason: str,
    why: str,
    headers: tuple[Header, ...] = (),
) -> Answer:
    """An error in Google's shape. `reason` is counted, `why` goes into GET /refused."""
    error: dict[str, Any] = {"code": status, "message": message, "status": canonical}
    if details:
        error["details"] = list(details)
    return Answer(status, (*JSON_HEADERS, *headers), msgspec.json.encode({"error": error}), reason, why)


def fcm_error(
    code: str,
    why: str,
    *,
    message: str = "",
    details: Sequence[dict[str, Any]] = (),
    retry_after_s: int | None = None,
    status: int | None = None,
) -> Answer:
    """An error with an FcmError detail, e.g. UNREGISTERED; an unknown code is answered as written, with `status`."""
    http_status, canonical, text = FCM_CODES.get(code, (status or 500, code, code))
    return error_answer(
        status or http_status,
        canonical,
        message or text,
        [{"@type": FCM_ERROR, "errorCode": code}, *details],
        reason=code,
        why=why,
        headers=() if retry_after_s is None else ((b"retry-after", b"%d" % retry_after_s),),
    )


def plain_error(code: str, why: str, *, message: str = "", retry_after_s: int | None = None) -> Answer:
    """An error without an FcmError detail, e.g. UNAUTHENTICATED."""
    status, text = PLAIN_CODES[code]
    headers: tuple[Header, ...] = ()
    details: list[dict[str, Any]] = []
    if code == "UNAUTHENTICATED":
        headers = ((b"www-authenticate", b'Bearer realm="https://accounts.google.com/", error="invalid_token"'),)
        details = [{"@type": ERROR_INFO, "reason": "ACCESS_TOKEN_EXPIRED", "domain": "googleapis.com"}]
    if retry_after_s is not None:
        headers += ((b"retry-after", b"%d" % retry_after_s),)
    return error_answer(status, code, message or text, details, reason=code, why=why, headers=headers)


def bad_request(violations: Sequence[Violation], *, has_fcm_error: bool) -> Answer:
    """400 INVALID_ARGUMENT with fieldViolations; the JSON parser's own faults come without an FcmError."""
    details: list[dict[str, Any]] = [
        {
            "@type": BAD_REQUEST,
            "fieldViolations": [{"field": field, "description": text} for field, text in violations],
        }
    ]
    if has_fcm_error:
        details.insert(0, {"@type": FCM_ERROR, "errorCode": "INVALID_ARGUMENT"})
    message = "\n".join(text for _, text in violations)
    return error_answer(400, "INVALID_ARGUMENT", message, details, reason="INVALID_ARGUMENT", why=message)


def quota_details(subject: str, description: str) -> list[dict[str, Any]]:
    """The QuotaFailure detail that tells which quota was hit."""
    return [{"@type": QUOTA_FAILURE, "violations": [{"subject": subject, "description": description}]}]
