"""Proof of the app secret, both ways, without sending it (HMAC-SHA256, RFC 2104; nonces of 32 bytes each).

client: HMAC(secret, "pushgw-rpc-1"        + server nonce + client nonce + app key as UTF-8)
server: HMAC(secret, "pushgw-rpc-1-server" + server nonce + client nonce + app key as UTF-8)

The server's nonce is fresh per connection, so a recorded hello proves nothing on the next one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

VERSION = 1
_CLIENT = b"pushgw-rpc-1"
_SERVER = b"pushgw-rpc-1-server"
#: Compared against when the app key is unknown, so that the time taken does not tell.
_NOBODY = hashlib.sha256(b"pushgw-rpc-1-nobody").digest()


def client_mac(secret: bytes, server_nonce: bytes, client_nonce: bytes, app_key: str) -> bytes:
    return hmac.digest(secret, _CLIENT + server_nonce + client_nonce + app_key.encode(), "sha256")


def server_mac(secret: bytes, server_nonce: bytes, client_nonce: bytes, app_key: str) -> bytes:
    return hmac.digest(secret, _SERVER + server_nonce + client_nonce + app_key.encode(), "sha256")


def find_secret(
    secrets: Sequence[bytes], mac: bytes, server_nonce: bytes, client_nonce: bytes, app_key: str
) -> bytes | None:
    """The secret that made the mac, or None. Every secret is tried, in constant time, whatever matched before."""
    found: bytes | None = None
    for secret in secrets:
        if hmac.compare_digest(client_mac(secret, server_nonce, client_nonce, app_key), mac):
            found = secret
    if not secrets:
        hmac.compare_digest(client_mac(_NOBODY, server_nonce, client_nonce, app_key), mac)
    return found
