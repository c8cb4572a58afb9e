"""Unix listeners: a socket file that only its owner may use."""

from __future__ import annotations

import contextlib
import os
import socket
import stat

import trio

from gateway.errors import ConfigError

#: Connections that wait for accept; operators are few, services keep theirs open.
BACKLOG = 128


async def open_unix_listener(path: str, *, mode: int, key: str = "socket") -> trio.SocketListener:
    """Listens on the path with the given file mode from the first moment. A socket nobody listens on is replaced.

    Raises ConfigError, naming the key, when the path is no socket, is in use, or cannot be made.
    """
    await trio.lowlevel.checkpoint()
    _remove_stale(path, key)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode is in force before anybody can connect: between bind and listen connections are refused.
    old = os.umask(0o777 & ~mode)
    try:
        listener.bind(path)
        os.chmod(path, mode)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _not_a_place(key, path, error) from error
    finally:
        os.umask(old)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


def _not_a_place(key: str, path: str, error: OSError) -> ConfigError:
    # A path that is too long has no errno: its words are the only argument.
    return ConfigError(key, path, f"a path for a Unix socket ({error.strerror or error})")


def _remove_stale(path: str, key: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _not_a_place(key, path, error) from error
    if not is_socket:
        raise ConfigError(key, path, "a path for a Unix socket, and there is a file of another kind")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(ConnectionRefusedError):
        try:
            probe.connect(path)
        except PermissionError as error:
            raise _not_a_place(key, path, error) from error
        raise ConfigError(key, path, "a Unix socket that nobody else listens on")
    os.unlink(path)
