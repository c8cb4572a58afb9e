"""`pushgw device-login`: how a device connects, as a line for a shell.

The password follows from the app's secret and the device id (core/identity.py), so no gateway is asked and no device
need be registered: whoever proves the password is known from then on.
"""

from __future__ import annotations

import argparse
import shlex

from gateway.cli.connection import choose_app, newest_secret, read_config
from gateway.cli.exit_codes import ExitCode, UsageError
from gateway.cli.output import Output
from gateway.config import Config
from gateway.core.identity import device_password

#: Seconds of keepalive in the printed line; what the demo's devices use.
_KEEPALIVE_S = 300


def run(options: argparse.Namespace, output: Output) -> int:
    config = read_config(options.config)
    app = choose_app(config, options.app)
    device_id = options.device.hex()
    host, port, has_tls = _long_link(config, options.address)
    password = device_password(newest_secret(config, app), device_id)
    login = {
        "host": host,
        "port": port,
        "tls": has_tls,
        "client_id": device_id,
        "user": app.key,
        "password": password,
        "topic": f"d/{device_id}/down",
    }
    output.document(login)
    if not output.is_json:
        output.text(mosquitto_sub_line(login))
    return ExitCode.GOOD


def mosquitto_sub_line(login: dict[str, str | int]) -> str:
    """MQTT 3.1.1, QoS 1, clean session: what a phone of the app would do."""
    words = ["mosquitto_sub", "-V", "mqttv311", "-h", login["host"], "-p", login["port"], "-i", login["client_id"]]
    # Over TLS it would not look at any certificate by itself, and so not connect at all.
    words += ["--tls-use-os-certs"] if login["tls"] else []
    words += ["-u", login["user"], "-P", login["password"], "-q", 1, "-k", _KEEPALIVE_S, "-t", login["topic"]]
    return shlex.join(map(str, words))


def _long_link(config: Config, address: str | None) -> tuple[str, int, bool]:
    """(host, port, whether over TLS) of a place where mosquitto_sub can be a device: it speaks no WebSocket, and no
    PROXY header."""
    if address is not None:
        scheme, mark, place = address.partition("://")
        host, colon, port = (place if mark else address).rpartition(":")
        if (mark and scheme not in ("tcp", "tls")) or not colon or not host or not port.isdigit():
            raise UsageError(f"{address!r} is not HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT")
        return host.strip("[]"), int(port), bool(mark) and scheme == "tls"
    for scheme in ("tcp", "tls"):
        for listener in config.long_link.listeners:
            found = listener.address
            if found.scheme == scheme and found.port and not listener.proxy_protocol:
                return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(found.host, found.host), found.port, found.has_tls
    raise UsageError(
        "the configuration has no long link with a fixed port over tcp or tls and without PROXY headers; "
        "give --address HOST:PORT"
    )
