"""Access tokens of token endpoints: what all grants make of an answer that brings one.

Source: RFC 6749 section 5.1 (2012-10); google-auth-library-python (a token is replaced 3 min 45 s before its end).
"""

from __future__ import annotations

import math

from vendors.auth.credential import Denied, Issued

#: A little more than google-auth, so that there is room for several tries. Huawei's demo takes 5 minutes as well.
AHEAD_S = 300.0
#: A token is not used in its last seconds: the request has to arrive, too.
MARGIN_S = 10.0
#: What a token endpoint may promise; more is not believed.
EXPIRES_IN_S_MAX = 86_400.0
#: Taken when the answer does not say (RFC 6749 section 5.1 only recommends the field).
EXPIRES_IN_S_DEFAULT = 3600.0


def issued_token(
    token: object, life: object, now_unix_s: float, *, scheme: str = "Bearer ", replace_after_s: float = math.inf
) -> Issued | Denied:
    """The credential in an answer's fields, or what is wrong with them. scheme: what stands before the token in the
    header. replace_after_s: at the latest then a newer one is wanted."""
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        return Denied("no_access_token", is_final=False)
    if life is None:
        life = EXPIRES_IN_S_DEFAULT
    if isinstance(life, bool) or not isinstance(life, int | float) or not life > MARGIN_S:
        return Denied("bad_expires_in", is_final=False)
    # Cut first: a number of JSON may be longer than any float.
    expires = now_unix_s + float(min(life, EXPIRES_IN_S_MAX)) - MARGIN_S
    # A short-lived token is replaced at half its life, else AHEAD_S before its end.
    replace_at = max(expires - AHEAD_S, (now_unix_s + expires) / 2)
    return Issued(f"{scheme}{token}".encode(), min(replace_at, now_unix_s + replace_after_s), expires)
