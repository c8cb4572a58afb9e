"""PS256 service account tokens (HarmonyOS; HMS, where it has such a key): a JWT that we sign is the bearer token.

Source: facts/vendors-international.md section 4.2 (2026-11), made from Huawei's push-jwt-token; RFC 7518 section 3.5
(RSASSA-PSS, salt as long as the hash). `exp` is documented as iat + 3600; over a day is refused (80300036). Huawei says
nothing against many tokens, so one is made when the one in force has five minutes left. PSS is salted: workers show
different tokens, each of which holds.
"""

from __future__ import annotations

import jwt
import msgspec

from vendors.auth.credential import Issued

AUDIENCE = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"
LIFE_S = 3600
AHEAD_S = 300
#: Issued a little in the past: a clock ahead of Huawei's must not issue from the future.
SKEW_S = 30


class AccountKey(msgspec.Struct, frozen=True):
    """The JSON key file as AppGallery Connect gives it; fields not needed here are left out."""

    project_id: str
    key_id: str
    private_key: str
    sub_account: str

    def __repr__(self) -> str:
        return f"<AccountKey of project {self.project_id}>"


class AccountTokenSigner:
    """Issues the tokens of one account key. Raises ValueError when the secret is no such key, or of another project.

    project_id: what messages are sent for; empty where they are sent for an app (HMS v1), which the key does not name.
    """

    #: Between two forced ones; a refusal for another reason must not become a storm of signatures.
    gap_s = 60.0

    def __init__(self, key_json: bytes, *, project_id: str) -> None:
        try:
            key = msgspec.json.decode(key_json, type=AccountKey)
        except msgspec.DecodeError as error:
            raise ValueError(f"not an account key: {error}") from error
        if project_id and key.project_id != project_id:
            raise ValueError(f"the account key is of project {key.project_id}, project_id is {project_id}")
        self._key = key
        try:
            self._signing_key = jwt.get_algorithm_by_name("PS256").prepare_key(key.private_key)
        except (ValueError, TypeError, jwt.PyJWTError) as error:
            raise ValueError("private_key is not an RSA key in PEM form") from error

    def token(self, iat: int) -> str:
        claims = {"iss": self._key.sub_account, "aud": AUDIENCE, "iat": iat, "exp": iat + LIFE_S}
        return jwt.encode(claims, self._signing_key, algorithm="PS256", headers={"kid": self._key.key_id, "typ": "JWT"})

    def issue(self, now_unix_s: float, *, fresh: bool = False) -> Issued:
        iat = int(now_unix_s) - SKEW_S
        expires = float(iat + LIFE_S)
        return Issued(f"Bearer {self.token(iat)}".encode(), expires - AHEAD_S, expires)
