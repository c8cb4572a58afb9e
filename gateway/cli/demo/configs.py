"""What the demo's processes are configured with: configs/demo.toml, and over it folders, ports, app and vendors."""

from __future__ import annotations

import secrets
import tomllib
from pathlib import Path
from typing import Any

import gateway
from gateway.cli.demo.channels import simulator_tables, vendor_tables
from gateway.cli.exit_codes import UsageError
from gateway.cli.toml_text import to_toml

APP_KEY = "demo"
#: Up to so many devices the file's own limits on connections suffice.
_DEVICES_WITHIN_LIMITS = 10_000
#: Files beside those of devices: services, operators, vendors, logs.
_OTHER_FILES = 3_000


def write_simulators_config(directory: Path) -> Path:
    """Texts are kept, since the proof compares them; what else differs from the vendors stands with each channel."""
    file = directory / "simulators.toml"
    file.write_text(to_toml({"received": {"keep_texts": True}} | simulator_tables()))
    return file


def base_config(file: Path | None) -> dict[str, Any]:
    """The table that everything is laid over. Raises UsageError where it cannot be read."""
    path = file or Path(gateway.__file__).resolve().parent.parent / "configs" / "demo.toml"
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; run the demo from a checkout, or give --config FILE") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from error


def write_gateway_config(base: dict[str, Any], directory: Path, simulators: dict[str, Any], n_devices: int) -> Path:
    """A configuration of loopback, free ports, one app with all vendors at the simulators."""
    folder = directory / "gateway"
    secret = directory / "app.secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_hex(32) + "\n")
    table = dict(base)
    table["gateway"] = table.get("gateway", {}) | {"data_dir": str(folder)}
    table["dev"] = {"clock": True}
    # The second one has a fixed place, so that `pushgw submit --config` finds it while the demo runs.
    listeners = [{"address": "tcp://127.0.0.1:0"}, {"address": f"unix://{directory / 'rpc.sock'}"}]
    table["rpc"] = table.get("rpc", {}) | {"listeners": listeners}
    table["operator"] = {"socket": str(directory / "operator.sock")}
    table["http"] = table.get("http", {}) | {"address": "tcp://127.0.0.1:0"}
    table["long_link"] = _long_link(table.get("long_link", {}), n_devices)
    app = {"key": APP_KEY, "name": "Demo", "secrets": [{"file": str(secret)}], "durability": "memory"}
    table["apps"] = [app | vendor_tables(simulators)]
    file = directory / "gateway.toml"
    file.write_text(to_toml(table))
    return file


def app_secret(directory: Path) -> bytes:
    """What devices and services of the demo prove."""
    return (directory / "app.secret").read_bytes().strip()


def _long_link(base: dict[str, Any], n_devices: int) -> dict[str, Any]:
    table = base | {"listeners": [{"address": "tcp://127.0.0.1:0"}]}
    if n_devices > _DEVICES_WITHIN_LIMITS:
        table |= {"connections_max": n_devices + 100, "files_max": n_devices + 100 + _OTHER_FILES}
    return table
