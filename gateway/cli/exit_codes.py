"""Exit codes of `pushgw`: a closed list that scripts rely on (issue 2, item 11)."""

from __future__ import annotations

import enum

from gateway.errors import ConfigError


class ExitCode(enum.IntEnum):
    GOOD = 0
    #: The demo's books do not balance: rows lost, doubled or changed.
    NOT_CONSERVED = 1
    #: The command line, the configuration or the request is wrong; trying again without a change is useless.
    USAGE = 2
    #: Some rows were refused; all others were done.
    ROWS_REFUSED = 3
    #: No gateway answered in time.
    UNREACHABLE = 4
    #: Ctrl-C, as shells count it: 128 + SIGINT.
    INTERRUPTED = 130


class UsageError(Exception):
    """The caller's command line cannot be carried out; the text says what to change."""


#: Answers of the gateway that say "not now" rather than "not like this".
_NOT_NOW = frozenset({"overloaded", "shutting_down", "internal"})


def code_of(error: Exception) -> ExitCode:
    """What a fault that ended a command is called outside."""
    from gateway.client.errors import CallFailed, GatewayUnreachable
    from gateway.errors import StoreError

    if isinstance(error, StoreError):
        return ExitCode.USAGE
    if isinstance(error, GatewayUnreachable):
        return ExitCode.UNREACHABLE
    if isinstance(error, CallFailed):
        return ExitCode.UNREACHABLE if error.code in _NOT_NOW else ExitCode.USAGE
    if isinstance(error, (UsageError, ConfigError)):
        return ExitCode.USAGE
    return ExitCode.UNREACHABLE
