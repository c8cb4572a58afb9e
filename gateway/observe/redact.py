"""What a log line, a table or an error text may show of a secret: nothing but a short hash.

The hash is keyed with bytes made at the start of the process: equal secrets show equal hashes within one process, so
that lines can be brought together, and nobody can find a phone number by trying them all.
"""

from __future__ import annotations

import hashlib
import os
import re

_KEY = os.urandom(16)
#: Last words of field names whose values are secrets or name a person.
_SENSITIVE = frozenset(
    {
        *("token", "tokens", "secret", "secrets", "password", "passwd", "authorization", "credential", "assertion"),
        *("jwt", "mac", "key", "pem", "phone", "phones", "email", "cookie", "signature"),
    }
)
#: Runs that are secrets wherever they stand: a JSON web token, an APNs token (64 hex digits and more), an FCM token
#: (a colon in a long base64url run), a PEM block. Device ids (32 hex) and message ids pass.
_OPAQUE = re.compile(
    r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|$)"
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"
    r"|(?<![0-9A-Za-z])[0-9A-Fa-f]{64,}(?![0-9A-Za-z])"
    r"|[A-Za-z0-9_-]{8,}:[A-Za-z0-9_-]{60,}",
    re.DOTALL,
)


def short_hash(value: str | bytes) -> str:
    """8 hex digits, the same for equal values within this process."""
    data = value.encode(errors="surrogatepass") if isinstance(value, str) else value
    return hashlib.blake2b(data, key=_KEY, digest_size=4).hexdigest()


class Redacted:
    """Wraps a token, a key or a phone number; every text form of it is the short hash."""

    __slots__ = ("_shown",)

    def __init__(self, value: str | bytes) -> None:
        self._shown = f"<redacted {short_hash(value)}>"

    def __repr__(self) -> str:
        return self._shown

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Redacted) and other._shown == self._shown

    def __hash__(self) -> int:
        return hash(self._shown)


def is_sensitive(field: str) -> bool:
    """Whether a field's name says that its value must not be shown: `token`, `admin_key`, not `key_id`."""
    return field.lower().rpartition("_")[2] in _SENSITIVE


def redact_text(text: str) -> str:
    """The text with every run that looks like a token or a key replaced by its short hash."""
    return _OPAQUE.sub(lambda match: repr(Redacted(match[0])), text)
