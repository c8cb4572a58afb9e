"""`pushgw`, and `python -m gateway`: one sub-command per module of `gateway/cli`.

Exit codes: `gateway/cli/exit_codes.py`. Nothing heavy is imported here, so that `pushgw --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from gateway.cli.arguments import parse
from gateway.cli.exit_codes import ExitCode, UsageError, code_of
from gateway.cli.output import Output, StdoutFull
from gateway.errors import ConfigError, GatewayError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command has run; returns its exit code. Faults of the caller end as one line on stderr, never as a trace."""
    options = parse(arguments)
    output = Output(is_json=getattr(options, "json", False))
    command = importlib.import_module(options.module)
    try:
        return int(command.run(options, output))
    except StdoutFull as error:
        # Python must not try once more at its own end.
        sys.stdout = None
        output.error(str(error))
        return ExitCode.USAGE
    except (GatewayError, UsageError) as error:
        output.error(text_of(error, options))
        return code_of(error)
    except BrokenPipeError:
        # The reader of our output has left (`pushgw task ... | head`); nor here.
        sys.stdout = None
        return ExitCode.GOOD
    except KeyboardInterrupt:
        output.error("interrupted")
        return ExitCode.INTERRUPTED


def text_of(error: Exception, options: argparse.Namespace) -> str:
    """The error's own text; where it was found beyond the file's reader, with the file or option that is meant."""
    if type(error) is not ConfigError or error.file:
        return str(error)
    if error.key.partition(".")[0] == "address" and getattr(options, "address", None):
        return f"--address {error.value!r}: expected {error.expected}"
    return str(ConfigError(error.key, error.value, error.expected, file=str(getattr(options, "config", "") or "")))


if __name__ == "__main__":
    sys.exit(main())
