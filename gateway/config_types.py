"""The value types of the configuration: addresses, secrets, faults.

A secret never stands in a configuration file. A key `NAME` of type `Secret` is written as `NAME_file = "path"` or
`NAME_env = "VARIABLE"`; in a list, as `{ file = "path" }` or `{ env = "VARIABLE" }`. Its bytes are read when they are
needed, so that a rotated file takes effect without a new configuration.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.errors import ConfigError

#: The longest path a Unix socket may have: sun_path of Linux holds 108 bytes with its closing zero (unix(7)).
UNIX_PATH_BYTES_MAX = 107
#: A secret file is a line or a PEM block; a larger one is a mistake (a log, a core file).
SECRET_BYTES_MAX = 1 << 16
_SCHEMES = ("tcp", "tls", "unix", "ws", "wss")


def resolved(folder: Path, path: str) -> Path:
    """A path of the configuration, which counts from the folder of its file; `..` is taken out, links stay."""
    return Path(os.path.normpath(folder / path))


class ConfigFaults(ConfigError):
    """The operator's configuration is wrong in one or several places: one line of text per fault.

    key, value, expected and file are those of the first fault.
    """

    def __init__(self, faults: Sequence[ConfigError]) -> None:
        if not faults:
            raise ValueError("no fault, no exception")
        first = faults[0]
        super().__init__(first.key, first.value, first.expected, file=first.file)
        self.faults = tuple(faults)
        self.args = ("\n".join(str(fault) for fault in faults),)


class Address(NamedTuple):
    """Where to listen or connect: `tcp://host:port`, `tls://host:port` or `unix://path`. Port 0: the system chooses.

    `ws://host:port` and `wss://host:port` (WebSocket, and over TLS) are for the long link.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str, folder: Path | None = None) -> Address:
        """Raises ValueError, whose text says what was expected. A relative Unix path counts from `folder`."""
        scheme, mark, rest = text.partition("://")
        if not mark or scheme not in _SCHEMES:
            raise ValueError("tcp://host:port, tls://host:port or unix://path")
        if scheme == "unix":
            if not rest:
                raise ValueError("a path after unix://")
            path = str(resolved(folder or Path(), rest))
            if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
                raise ValueError(f"a socket path of at most {UNIX_PATH_BYTES_MAX} bytes once resolved")
            return cls(scheme, path=path)
        host, mark, port = rest.rpartition(":")
        if not mark or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{scheme}://host:port with a port from 0 to 65535")
        if host.startswith("[") != host.endswith("]") or ("[" not in host and ":" in host):
            raise ValueError(f"{scheme}://[host]:port for an IPv6 host")
        return cls(scheme, host=host.strip("[]"), port=int(port))

    @property
    def has_tls(self) -> bool:
        return self.scheme in ("tls", "wss")

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Secret:
    """Where a secret is kept: a file or an environment variable. Its repr names the place and never the bytes."""

    __slots__ = ("env", "file")

    def __init__(self, *, file: Path | None = None, env: str = "") -> None:
        if (file is None) == (not env):
            raise ValueError("exactly one of file and env")
        self.file = file
        self.env = env

    def read(self) -> bytes:
        """The secret without the line end that editors leave.

        Raises ConfigError when the file cannot be read, the variable is not set, or there is nothing in it.
        """
        if self.file is None:
            data = os.environb.get(os.fsencode(self.env))
            if data is None:
                raise ConfigError("env", self.env, "an environment variable that is set")
        else:
            try:
                with self.file.open("rb") as stream:
                    data = stream.read(SECRET_BYTES_MAX + 1)
            except OSError as error:
                raise ConfigError("file", str(self.file), f"a readable file ({error.strerror})") from error
        data = data.rstrip(b"\r\n")
        if not 0 < len(data) <= SECRET_BYTES_MAX:
            raise ConfigError(self._kind(), self._place(), f"1 to {SECRET_BYTES_MAX} bytes, found {len(data)}")
        return data

    def _kind(self) -> str:
        return "env" if self.file is None else "file"

    def _place(self) -> str:
        return self.env if self.file is None else str(self.file)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self.file, self.env) == (other.file, other.env)

    def __hash__(self) -> int:
        return hash((self.file, self.env))

    def __repr__(self) -> str:
        return f"<Secret in {self._kind()} {self._place()}>"
