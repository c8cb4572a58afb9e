"""`pushgw`, and `python -m gateway`: one sub-command per module of `gateway/cli`.

Exit codes: `gateway/cli/exit_codes.py`. Nothing heavy is imported here, so that `pushgw --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from gateway.cli.arguments import parse
from gateway.cli.exit_codes import ExitCode, UsageError, code_of
from gateway.cli.output import Output, StdoutFull
from gateway.errors import GatewayError


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
        output.error(str(error))
        return code_of(error)
    except BrokenPipeError:
        # The reader of our output has left (`pushgw task ... | head`); nor here.
        sys.stdout = None
        return ExitCode.GOOD
    except KeyboardInterrupt:
        output.error("interrupted")
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
