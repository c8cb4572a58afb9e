"""From a configuration to a connected client: which address, which app, which secret.

Operator commands go to the operator's Unix socket, whose file mode is the right to use it; over TCP they prove the
admin key. App commands prove the app's newest secret.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.cli.arguments import CONFIG_VARIABLE
from gateway.cli.exit_codes import UsageError
from gateway.client.address import parse_address
from gateway.client.blocking import BlockingClient
from gateway.config import Address, App, Config, load_config, make_missing_secrets

#: Listeners by how good a way they are for a command on the same machine.
_PREFERENCE = ("unix", "tcp", "tls")
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def read_config(path: Path | str | None) -> Config:
    """The configuration that a client command goes by; files of vendors need not be there. Raises ConfigError."""
    if path is None:
        raise UsageError(f"give --config FILE or set {CONFIG_VARIABLE}")
    return load_config(path, with_files=False)


def choose_app(config: Config, key: str | None) -> App:
    """The app of that key, or the only one there is."""
    keys = ", ".join(app.key for app in config.apps) or "none"
    if key is None:
        if len(config.apps) != 1:
            raise UsageError(f"say which app with --app; the configuration has: {keys}")
        return config.apps[0]
    app = config.app(key)
    if app is None:
        raise UsageError(f"app {key} is not in the configuration, which has: {keys}")
    return app


def reachable(address: Address) -> str:
    """A listener's address as a client on this machine dials it."""
    if address.scheme == "unix":
        return str(address)
    return str(address._replace(host=_WILDCARDS.get(address.host, address.host)))


def rpc_address(config: Config) -> str:
    """The best listener for this machine; one with port 0 cannot be known from here."""
    fixed = [one.address for one in config.rpc.listeners if one.address.scheme == "unix" or one.address.port]
    if not fixed:
        raise UsageError("the configuration has no RPC listener with a fixed address; give --address")
    return reachable(min(fixed, key=lambda address: _PREFERENCE.index(address.scheme)))


def newest_secret(config: Config, app: App) -> bytes:
    """What services and devices of the app prove. Raises ConfigError where it cannot be read.

    Where `[dev] make_secrets` asks for it, a missing one is made here just as `serve` would, so that a newcomer may run
    commands in any order.
    """
    make_missing_secrets(config)
    return app.secrets[0].read()


def app_client(config: Config, app: App, address: str | None, timeout_s: float) -> BlockingClient:
    """Connects at its first call. Raises ConfigError where the app's secret cannot be read."""
    return BlockingClient(address or rpc_address(config), app.key, newest_secret(config, app), timeout_s=timeout_s)


def operator_client(config: Config | None, address: str | None, timeout_s: float) -> BlockingClient:
    """config None: only for a Unix socket given as address."""
    if address is None:
        assert config is not None
        address = f"unix://{config.operator_socket}"
    secret = None
    if parse_address(address).kind != "unix":
        if config is None or config.operator.admin_key is None:
            raise UsageError("operator commands over TCP need [operator] admin_key in the configuration")
        secret = config.operator.admin_key.read()
    return BlockingClient(address, secret=secret, role="operator", timeout_s=timeout_s)


def asking_client(options: argparse.Namespace) -> BlockingClient:
    """What task, trace and device ask through: the app named by --app, else the operator."""
    if options.app is not None:
        config = read_config(options.config)
        return app_client(config, choose_app(config, options.app), options.address, options.timeout)
    return operator_only(options)


def operator_only(options: argparse.Namespace) -> BlockingClient:
    """What status and clock ask through. The configuration may be missing where a Unix socket is named."""
    address: str | None = options.address
    if options.config is None and address is not None and parse_address(address).kind == "unix":
        return operator_client(None, address, options.timeout)
    return operator_client(read_config(options.config), address, options.timeout)
