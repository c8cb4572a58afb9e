"""Every sub-command of `pushgw` with its options, and the module that carries it out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

#: Seconds a question to the gateway may take. An answer takes milliseconds; five cover a gateway that is starting.
TIMEOUT_S = 5.0
#: Seconds one submit may take with its retries, and routing may take afterwards.
SUBMIT_TIMEOUT_S = 30.0
#: Seconds all workers may take to drain, close their devices and come back, one after the other.
RESTART_TIMEOUT_S = 900.0
CONFIG_VARIABLE = "PUSHGW_CONFIG"

_EPILOG = """\
exit codes: 0 all well; 1 not conserved or duplicates; 2 usage or configuration; 3 some rows refused (the rest done);
4 gateway not reachable; 130 Ctrl-C
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with `module` naming who carries them out. Ends the process with code 2 for a wrong usage."""
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pushgw",
        description="A push gateway: binary RPC in, vendors and MQTT out, every message accounted for.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_running(commands)
    _add_submitting(commands)
    _add_asking(commands)
    _add_demo(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, module: str, summary: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(module=f"gateway.cli.{module}")
    return parser


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    return actions.add_parser(name, help=summary, description=summary)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=os.environ.get(CONFIG_VARIABLE),
        help=f"the gateway's configuration (default: ${CONFIG_VARIABLE})",
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")


def _operator(parser: argparse.ArgumentParser, timeout_s: float = TIMEOUT_S) -> None:
    _config(parser)
    parser.add_argument(
        "--address", metavar="ADDRESS", help="instead of the operator socket of the configuration (unix://, tcp://)"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=timeout_s, metavar="S", help="seconds to wait for an answer"
    )
    _json(parser)


def _add_running(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = _command(commands, "serve", "serve", "Run the gateway until SIGTERM.")
    _config(serve)
    serve.add_argument("--ready-json", action="store_true", help="print the addresses as one JSON line when ready")
    serve.add_argument("--exit-with-parent", action="store_true", help="drain and end when stdin closes")
    check = _command(commands, "check-config", "check_config", "Check a configuration; name every fault in it.")
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the same as --config FILE")
    # Without the default of the others: a FILE beside $PUSHGW_CONFIG is no second one.
    check.add_argument("--config", type=Path, metavar="FILE", help=f"the file to check (default: ${CONFIG_VARIABLE})")
    check.add_argument(
        "--without-files", action="store_true", help="do not check that the files and variables it names are there"
    )
    _json(check)
    simulate = _command(commands, "simulate", "simulate", "Run the simulators of the vendors until SIGTERM.")
    simulate.add_argument("--config", type=Path, metavar="FILE", help="configs/simulators.toml documents every key")
    simulate.add_argument("--dir", type=Path, metavar="DIR", help="for certificates and credentials")
    chosen = simulate.add_mutually_exclusive_group()
    chosen.add_argument("--only", metavar="NAMES", help="start these and no others: names joined by commas")
    chosen.add_argument("--all", action="store_true", help="start all, whatever the file enables")
    simulate.add_argument("--exit-with-parent", action="store_true", help="end when stdin closes")
    _json(simulate)


def _add_submitting(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    submit = _command(commands, "submit", "submit", "Submit the notifications of a JSONL file and wait for routing.")
    submit.add_argument("file", metavar="FILE", help="one notification per line; - reads stdin")
    _config(submit)
    submit.add_argument("--app", metavar="KEY", help="submit as this app (default: the only one)")
    submit.add_argument("--address", metavar="ADDRESS", help="instead of the RPC listener of the configuration")
    submit.add_argument("--no-wait", action="store_true", help="do not wait for routing")
    submit.add_argument("--allow-duplicates", action="store_true", help="the same target twice gets both")
    submit.add_argument(
        "--audience",
        action="append",
        metavar="WHO",
        help="all devices; tag:NAME: those with it; alias:NAME (may be repeated): those of it; FILE then has one "
        "notification without `to`",
    )
    submit.add_argument("--online-only", action="store_true", help="with --audience: of these, those that are online")
    submit.add_argument("--per-s", type=_speed, metavar="N", help="with --audience: at most so many rows a second")
    submit.add_argument("--task", metavar="TASK", type=_identifier, help="add the rows to this task of the app")
    submit.add_argument("--group", type=_group, metavar="NAME", help="a label, kept with the rows")
    submit.add_argument(
        "--request-id", type=_request_id, metavar="ID", help="makes a repeated submit of the file harmless"
    )
    submit.add_argument(
        "--timeout", type=_seconds, default=SUBMIT_TIMEOUT_S, metavar="S", help="seconds per submit, and for routing"
    )
    _json(submit)
    preview = _command(commands, "preview", "preview", "Show what each vendor would receive; nothing is sent.")
    preview.add_argument("file", metavar="FILE", help="one notification per line, as for submit; - reads stdin")
    _config(preview)
    preview.add_argument("--app", metavar="KEY", help="with the vendors of this app (default: the only one)")
    preview.add_argument("--vendor", action="append", default=[], metavar="NAME", help="only this vendor; may repeat")
    preview.add_argument(
        "--rows", type=_rows, default=1, metavar="N", help="as if so many devices got each line (default: 1)"
    )
    _json(preview)
    login = _command(commands, "device-login", "device_login", "Print a mosquitto_sub line for a device.")
    login.add_argument("app", metavar="APP", help="app key")
    login.add_argument("device", metavar="DEVICE", type=_device, help="device id, 32 hex digits")
    _config(login)
    login.add_argument(
        "--address", metavar="HOST:PORT", help="instead of the long link of the configuration; tls://HOST:PORT for TLS"
    )
    _json(login)


def _add_asking(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    task = _command(commands, "task", "task", "Where the rows of a task are.")
    task.add_argument("task", metavar="TASK", type=_identifier, help="task id as submit printed it")
    stop = _command(commands, "stop", "stop", "Stop a task: what has not gone out is cancelled.")
    stop.add_argument("task", metavar="TASK", type=_identifier, help="task id")
    trace = _command(commands, "trace", "trace", "The way of one message: when, which channel, which verdict.")
    trace.add_argument("what", metavar="MESSAGE_ID|TASK", type=_identifier, help="message id; a task id with DEVICE")
    trace.add_argument("device", nargs="?", metavar="DEVICE", type=_device, help="device id, 32 hex digits")
    _add_loss(commands)
    device = _command(commands, "device", "device", "A device: token, presence, last messages with their states.")
    device.add_argument("device", metavar="DEVICE", type=_device, help="device id, 32 hex digits")
    revoke = _command(commands, "revoke", "revoke", "Stop a task, and take back what it shows where the channel can.")
    revoke.add_argument("task", metavar="TASK", type=_identifier, help="task id")
    revoke.add_argument(
        "--replace-with", metavar="FILE", help="one notification as JSON, without `to`: it takes their place"
    )
    consents = _command(commands, "consents", "consents", "What a user of a WeChat mini program has agreed to.")
    consents.add_argument("user", metavar="OPENID", help="of the mini program")
    consents.add_argument("template", metavar="TEMPLATE", help="template id")
    said = consents.add_mutually_exclusive_group()
    said.add_argument("--add", type=_listed, default=0, metavar="N", help="he agreed to so many messages more")
    said.add_argument("--set", type=_listed, metavar="N", help="he has just so many left")
    consents.add_argument("--of", metavar="KEY", help="of this app (default: the only one)")
    erase = _command(commands, "erase", "erase", "Forget devices, with what waits for them.")
    erase.add_argument("devices", nargs="+", metavar="DEVICE", type=_device, help="device id, 32 hex digits")
    erase.add_argument("--of", metavar="KEY", help="of this app (default: the only one)")
    for parser in (task, stop, revoke, trace, device, consents, erase):
        parser.add_argument("--app", metavar="KEY", help="ask as this app over the RPC, instead of as operator")
        _operator(parser)
    _operator(_command(commands, "status", "status", "What the gateway is doing."))
    _add_stores(commands)
    restart = _command(
        commands, "restart", "restart", "Start the workers anew, one after the other; no accepted row is lost."
    )
    restart.add_argument(
        "--may-lose", action="store_true", help="also workers that still have rows in memory alone after drain_s"
    )
    _operator(restart, RESTART_TIMEOUT_S)
    clock = _command(commands, "clock", "clock", "The development clock.")
    actions = clock.add_subparsers(dest="action", required=True, metavar="ACTION")
    advance = _action(actions, "advance", "Move the clock of the gateway forward; never in production.")
    advance.add_argument("seconds", type=_seconds, metavar="SECONDS", help="by so much")
    advance.add_argument("--simulators", metavar="HOST:PORT", help="move the simulators at this control port too")
    _operator(advance)


def _add_loss(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    loss = _command(commands, "loss", "loss", "How far the messages of a task, plan or app came, and why.")
    loss.add_argument("what", metavar="TASK|PLAN|APP", help="task id, plan id, app key, or with --kind a group")
    loss.add_argument("--kind", choices=("task", "plan", "group", "app"), help="what it is, where that is not plain")
    loss.add_argument("--from", dest="from_day", type=_day, metavar="DAY", help="YYYY-MM-DD, of the submit")
    loss.add_argument("--to", dest="to_day", type=_day, metavar="DAY", help="the last day, included")
    loss.add_argument("--csv", type=Path, metavar="FILE", help="write the rows of --cause; - writes to stdout")
    loss.add_argument("--cause", metavar="NAME", help="as the table names it; with --csv")
    loss.add_argument("--channel", default="", metavar="NAME", help="with --csv: only rows of this channel")
    loss.add_argument("--stage", default="", metavar="NAME", help="with --csv: only rows that came so far")
    loss.add_argument("--png", type=Path, metavar="FILE", help="write the funnel as a picture")
    loss.add_argument("--recount", action="store_true", help="count the rows themselves, and compare with the counters")
    loss.add_argument("--app", metavar="KEY", help="ask as this app over the RPC, instead of as operator")
    _operator(loss, SUBMIT_TIMEOUT_S)


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day, YYYY-MM-DD") from None


def _add_stores(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    inbox = _command(commands, "inbox", "inbox", "Rows that wait for their devices.")
    actions = inbox.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = _action(actions, "list", "Count the rows that wait, and show the first.")
    listing.add_argument("--rows", type=_listed, default=100, metavar="N", help="rows to show (default: 100)")
    purge = _action(actions, "purge", "End rows that wait: cancelled.")
    purge.add_argument("--all", action="store_true", help="of everybody")
    for parser in (listing, purge):
        parser.add_argument("--app", metavar="KEY", help="of this app only")
        parser.add_argument("--device", type=_device, metavar="DEVICE", help="of this device only")
        parser.add_argument("--task", type=_identifier, metavar="TASK", help="of this task only")
        parser.add_argument("--older-than", type=_seconds, metavar="S", help="submitted so many seconds ago or earlier")
        _operator(parser)
    backup = _command(commands, "backup", "backup", "Copy what the running gateway has on its disk into a new folder.")
    backup.add_argument("folder", type=Path, metavar="DIR", help="of the gateway's machine, empty or not there yet")
    _operator(backup)
    restore = _command(commands, "restore", "backup", "Put a backup into the empty store folder of a configuration.")
    restore.add_argument("folder", type=Path, metavar="DIR", help="what backup made")
    _config(restore)
    _json(restore)


def _listed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 1000")
    return int(text)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = _command(commands, "demo", "demo.run", "Simulators, gateway, devices; every message accounted for.")
    demo.add_argument("--input", type=Path, metavar="FILE.jsonl", help="notifications (default: the shipped sample)")
    demo.add_argument("--devices", type=_count, default=2000, metavar="N", help="devices (default: 2000)")
    demo.add_argument("--online", type=_share, default=0.5, metavar="FRACTION", help="of them online (default: 0.5)")
    demo.add_argument("--fault", choices=("drop", "double"), help="receivers lose or repeat rows; must end with code 1")
    demo.add_argument("--config", type=Path, metavar="FILE", help="what the gateway's configuration starts from")
    demo.add_argument("--keep", action="store_true", help="keep the directory with configuration and logs")
    _json(demo)


def _seconds(text: str) -> float:
    return _above_zero(text, "seconds")


def _speed(text: str) -> float:
    return _above_zero(text, "rows a second")


def _above_zero(text: str, unit: str) -> float:
    value = _number(text)
    if not 0 < value <= 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1,000,000,000 {unit}")
    return value


#: As in wire/rpc/limits.py; each submit of a file puts its number behind the request id.
GROUP_CHARACTERS_MAX = 128
REQUEST_ID_CHARACTERS_MAX = 128 - len("-9999999")


def _group(text: str) -> str:
    return _label(text, GROUP_CHARACTERS_MAX)


def _request_id(text: str) -> str:
    """An empty one is most likely a variable of a shell that was not set; without it a repeat would double rows."""
    return _label(text, REQUEST_ID_CHARACTERS_MAX)


def _label(text: str, most: int) -> str:
    if not 1 <= len(text) <= most:
        raise argparse.ArgumentTypeError(f"it is {len(text)} characters, expected 1 to {most}")
    return text


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


#: Devices of one demo: a process may have so many sockets to one port of one address.
_DEVICES_MAX = 25_000


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _DEVICES_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {_DEVICES_MAX}")
    return int(text)


#: What the largest list of a vendor holds.
_ROWS_MAX = 1000


def _rows(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _ROWS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {_ROWS_MAX}")
    return int(text)


def _identifier(text: str) -> bytes:
    digits = text.replace("-", "")
    try:
        value = bytes.fromhex(digits)
    except ValueError:
        value = b""
    if len(digits) != 32 or len(value) != 16:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a UUID nor 32 hex digits")
    return value


def _device(text: str) -> bytes:
    if len(text) != 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not 32 hex digits")
    return _identifier(text)
