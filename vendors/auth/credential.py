"""The two kinds of credential there are, as the credential keeper sees them. Words only: no I/O, no clock.

SelfSigned   we make the value ourselves from a key and the time (APNs, HarmonyOS)
Granted      a token endpoint gives it for a while (FCM, Huawei, Honor, OPPO, vivo)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable


class SecretPlace(NamedTuple):
    """A file path or an environment name, exactly one of them not empty."""

    file: str
    env: str


class Issued(NamedTuple):
    """A credential in force. authorization: the header's value. Times are Unix seconds.

    replace_at_unix_s: from then on a newer one is wanted. expires_unix_s: from then on the vendor refuses it.
    """

    authorization: bytes
    replace_at_unix_s: float
    expires_unix_s: float


class Denied(NamedTuple):
    """A token endpoint said no. name: its own word, for metrics. is_final: asking again the same way cannot help."""

    name: str
    is_final: bool
    retry_after_s: float | None = None


class TokenRequest(NamedTuple):
    """What asks a token endpoint."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"


@runtime_checkable
class SelfSigned(Protocol):
    def issue(self, now_unix_s: float, *, fresh: bool = False) -> Issued:
        """The credential for this moment. fresh: one that differs from those given before this moment."""
        ...

    @property
    def gap_s(self) -> float:
        """Seconds that must lie between two credentials."""
        ...


@runtime_checkable
class Granted(Protocol):
    def request(self, now_unix_s: float) -> TokenRequest: ...

    def parse(self, status: int, headers: Mapping[bytes, bytes], body: bytes, now_unix_s: float) -> Issued | Denied:
        """What the endpoint's answer means; now_unix_s is when the question left. Total: never raises."""
        ...


Credential: TypeAlias = SelfSigned | Granted
