"""Where the gateway listens: `tcp://host:port`, `tls://host:port?ca=FILE`, `unix:///path`."""

from __future__ import annotations

import ssl
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from gateway.errors import ConfigError

_EXPECTED = "tcp://host:port, tls://host:port?ca=FILE or unix:///path"


class Address(NamedTuple):
    """host and port for tcp and tls, path for unix. ca_file: trusted instead of the system's store."""

    kind: Literal["tcp", "tls", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""
    ca_file: str = ""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Raises ConfigError for anything but the three forms."""
    try:
        parts = urlsplit(text)
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        port = parts.port
    except ValueError:
        raise ConfigError("address", text, _EXPECTED) from None
    if parts.scheme == "unix":
        path = unquote(parts.path)
        if parts.netloc or not path or options:
            raise ConfigError("address", text, "unix:///path with three slashes")
        return Address("unix", path=path)
    if parts.username or parts.path or parts.fragment or not parts.hostname or not port:
        raise ConfigError("address", text, _EXPECTED)
    if parts.scheme == "tcp" and not options:
        return Address("tcp", parts.hostname, port)
    if parts.scheme == "tls" and options.keys() <= {"ca"}:
        return Address("tls", parts.hostname, port, ca_file=options.get("ca", ""))
    raise ConfigError("address", text, _EXPECTED)


def tls_context(address: Address) -> ssl.SSLContext:
    """Verifies name and chain. Raises ConfigError where the CA file cannot be read."""
    try:
        return ssl.create_default_context(cafile=address.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("address.ca", address.ca_file, f"a readable PEM file ({error})") from error
