"""How a vendor's connections are made: the settings that all vendors share. The base of their Settings.

Source: RFC 9110 section 9.3.6 (2022-06) for proxies; facts/field-notes.md section 5 (2026-11) for probes. What each key
means for operators stands in docs/vendors/.
"""

from __future__ import annotations

import msgspec


class ConnectingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """proxy: `host:port` of an HTTP proxy that is asked for a tunnel (CONNECT), for sending and for tokens; empty:
    none. proxy_user with its password, a file or an environment variable: Basic authentication.
    certificate_file, certificate_key_file: a client certificate in PEM; the key may be in the same file.
    probes: rows with unproven tokens go over connections of their own (gateway/core/probing.py); None: where the
    vendor's file says that a bad token stalls the connection that brought it.
    """

    proxy: str = ""
    proxy_user: str = ""
    proxy_password_file: str = ""
    proxy_password_env: str = ""
    certificate_file: str = ""
    certificate_key_file: str = ""
    probes: bool | None = None

    def check_connecting(self) -> None:
        """Raises ValueError, whose text says what was expected. Called by each vendor's own check."""
        if self.proxy:
            self.proxy_place()
        if self.proxy_password_file and self.proxy_password_env:
            raise ValueError("at most one of proxy_password_file and proxy_password_env may be set")
        has_password = bool(self.proxy_password_file or self.proxy_password_env)
        if bool(self.proxy_user) != has_password or (self.proxy_user and not self.proxy):
            raise ValueError("proxy_user needs proxy and one of proxy_password_file and proxy_password_env")
        if ":" in self.proxy_user:
            raise ValueError("proxy_user may hold no colon (RFC 7617)")
        if self.certificate_key_file and not self.certificate_file:
            raise ValueError("certificate_key_file needs certificate_file")

    def proxy_place(self) -> tuple[str, int]:
        """Host and port of the proxy. Raises ValueError."""
        host, mark, port = self.proxy.removeprefix("http://").rpartition(":")
        if not mark or not host or "/" in host or not port.isascii() or not port.isdigit():
            raise ValueError(f"proxy is {self.proxy!r}, expected host:port")
        if not 0 < int(port) < 65_536:
            raise ValueError(f"port of proxy is {port}, expected 1 to 65535")
        return host.strip("[]"), int(port)
