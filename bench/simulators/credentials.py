"""Generated credentials that the client under test is given: an APNs .p8 key, FCM's and Huawei's service account files.

Files of an earlier start in the same directory are used again, so that a gateway's configuration stays valid.
"""

from __future__ import annotations

import functools
import json
import secrets
import string
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

RSA_BITS = 2_048  # what Google's service accounts use


@dataclass(frozen=True, slots=True)
class ApnsKey:
    """Provider key: path of the .p8 file, 10-character key id, public key as PEM."""

    path: Path
    key_id: str
    public_pem: bytes


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Service account (FCM, Huawei): path of its JSON file, and what the judge must know of it.

    client_email is the issuer of assertions; Huawei calls it sub_account.
    """

    path: Path
    client_email: str
    private_key_id: str
    public_pem: bytes


def make_apns_key(directory: Path, key_id: str) -> ApnsKey:
    """The file apns_key.p8 exists in `directory`; `key_id` is generated once when empty."""
    path, id_path = directory / "apns_key.p8", directory / "apns_key_id"
    if not path.is_file():
        _write_secret(path, _private_pem(ec.generate_private_key(ec.SECP256R1())))
    if not key_id:
        if not id_path.is_file():
            id_path.write_text("".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(10)))
        key_id = id_path.read_text().strip()
    return ApnsKey(path, key_id, _public_pem(path.read_bytes()))


def make_service_account(directory: Path, project_id: str, token_uri: str) -> ServiceAccount:
    """The file fcm_service_account.json exists in `directory` and names `token_uri`; its key is kept over starts."""
    path = directory / "fcm_service_account.json"
    account = json.loads(path.read_text()) if path.is_file() else {}
    if account.get("project_id") != project_id:
        account = {
            "type": "service_account",
            "project_id": project_id,
            "private_key_id": secrets.token_hex(20),
            "private_key": _private_pem(rsa.generate_private_key(65_537, RSA_BITS)).decode(),
            "client_email": f"firebase-adminsdk@{project_id}.iam.gserviceaccount.com",
            "client_id": str(secrets.randbelow(10**20)),
        }
    account["token_uri"] = token_uri
    _write_secret(path, json.dumps(account, indent=2).encode())
    return ServiceAccount(
        path, account["client_email"], account["private_key_id"], _public_pem(account["private_key"].encode())
    )


def make_huawei_account(directory: Path, project_id: str, audience: str) -> ServiceAccount:
    """The file huawei_service_account.json exists in `directory`, as AppGallery Connect gives it out."""
    path = directory / "huawei_service_account.json"
    account = json.loads(path.read_text()) if path.is_file() else {}
    if account.get("project_id") != project_id:
        account = {
            "project_id": project_id,
            "key_id": secrets.token_hex(16),
            "private_key": _private_pem(rsa.generate_private_key(65_537, RSA_BITS)).decode(),
            "sub_account": str(secrets.randbelow(10**9)),
            "auth_uri": "https://oauth-login.cloud.huawei.com/oauth2/v3/authorize",
            "token_uri": audience,
            "auth_provider_cert_uri": "https://oauth-login.cloud.huawei.com/oauth2/v3/certs",
            "client_cert_uri": "https://oauth-login.cloud.huawei.com/oauth2/v3/x509?client_id=",
        }
        _write_secret(path, json.dumps(account, indent=2).encode())
    return ServiceAccount(path, account["sub_account"], account["key_id"], _public_pem(account["private_key"].encode()))


def _write_secret(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def _private_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@functools.lru_cache(maxsize=16)
def _public_pem(private_pem: bytes) -> bytes:
    # Kept, because reading an RSA key checks it for a tenth of a second.
    key = serialization.load_pem_private_key(private_pem, None)
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
