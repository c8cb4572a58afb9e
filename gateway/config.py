"""The configuration: one TOML file, checked whole before anything starts.

    TOML --config_read--> config_sections (frozen Structs) --config_relations--> Config

`load_config` either returns a configuration that holds every rule, or raises with every fault it found: file, key,
value, what was expected. `configs/reference.toml` lists each key with default, unit and reason. Secrets are named by
file or environment variable and read when needed; nothing here keeps or prints one.
"""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from gateway.config_contents import content_faults
from gateway.config_read import Reader, is_struct
from gateway.config_relations import file_faults, files_needed, memory_budget, relation_faults
from gateway.config_sections import App, Config, Listener, Section
from gateway.config_types import Address, ConfigFaults, Secret
from gateway.errors import ConfigError

__all__ = [
    "Address",
    "App",
    "Config",
    "ConfigFaults",
    "Listener",
    "Secret",
    "Section",
    "describe",
    "every_key",
    "files_needed",
    "load_config",
    "make_missing_secrets",
    "memory_budget",
    "message_id_secret",
    "read_text",
    "vendor_settings",
]

#: Bytes of a secret made by us: the output length of the hash it keys.
_MADE_SECRET_BYTES = 32
#: What `message_id.py` takes as its key.
_MESSAGE_ID_SECRET_BYTES = (16, 64)


def vendor_settings() -> dict[str, type[msgspec.Struct]]:
    """Vendor name -> its Settings, from the registry of `vendors/`."""
    from vendors import REGISTRY

    return {name: entry.settings for name, entry in REGISTRY.items()}


def load_config(
    path: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    vendors: Mapping[str, type[msgspec.Struct]] | None = None,
    with_files: bool = True,
    text: bytes | None = None,
) -> Config:
    """The checked configuration in a file. text: what was read from it before, instead of what it holds now.

    overrides: tables laid over those of the file before anything is checked; arrays replace arrays.
    vendors: the vendors' Settings, by default those of the registry. with_files: also check that each file and
    variable it names is there. Relative paths count from the folder of the file.

    Raises ConfigFaults (a ConfigError) with every fault.
    """
    file = str(path)
    table = _merge(_read_toml(Path(path), text), overrides or {})
    reader = Reader(file, Path(path).resolve().parent, vendor_settings() if vendors is None else vendors)
    table.setdefault("apps", [])
    config = reader.struct(Config, table, "")
    if config is None:
        raise ConfigFaults(reader.faults)
    faults = relation_faults(config, file)
    if with_files:
        faults += file_faults(config, file) + content_faults(config, file)
    if faults:
        raise ConfigFaults(faults)
    return config


def read_text(path: str | Path) -> bytes:
    """What the file holds. Raises ConfigFaults."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        fault = ConfigError("(file)", error.strerror, "a readable TOML file", file=str(path))
        raise ConfigFaults([fault]) from error


def _read_toml(path: Path, text: bytes | None) -> dict[str, Any]:
    try:
        return tomllib.loads((read_text(path) if text is None else text).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigFaults([ConfigError("(syntax)", str(error), "TOML 1.0", file=str(path))]) from error


def _merge(table: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged


def message_id_secret(config: Config) -> bytes:
    """The key of message ids: as configured, else one made once in `data_dir`, mode 0600, and kept there.

    Raises ConfigError when it cannot be read or made, or has a wrong length.
    """
    secret = config.gateway.message_id_secret
    if secret is None:
        secret = Secret(file=config.gateway.data_dir / "message_id.secret")
        _make_secret(secret)
    data = secret.read()
    low, high = _MESSAGE_ID_SECRET_BYTES
    if not low <= len(data) <= high:
        raise ConfigError("gateway.message_id_secret", secret, f"{low} to {high} bytes, found {len(data)}")
    return data


def make_missing_secrets(config: Config) -> list[Path]:
    """Makes the apps' secret files that are not there, where `[dev] make_secrets` asks for it; returns their paths."""
    if not config.dev.make_secrets:
        return []
    return [
        secret.file for app in config.apps for secret in app.secrets if secret.file is not None and _make_secret(secret)
    ]


def _make_secret(secret: Secret) -> bool:
    """Writes a random secret unless the file is there. Two processes that start together end with the same one."""
    file = secret.file
    if file is None or file.exists():
        return False
    part = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(_MADE_SECRET_BYTES) + "\n")
        try:
            os.link(part, file)
        except FileExistsError:
            return False
        finally:
            os.unlink(part)
    except OSError as error:
        raise ConfigError("file", str(file), f"a place to make a secret ({error.strerror})") from error
    return True


def describe(config: Config) -> str:
    """What `pushgw check-config` prints for a good file: listeners, apps, the memory budget, open files."""
    lines = ["ok", ""]
    if config.dev.clock:
        lines += ["WARNING: the development clock is on; never in production", ""]
    workers = _count(config.gateway.workers, "worker")
    lines.append(f"node {config.gateway.node}, {workers}, data in {config.gateway.data_dir}")
    place = config.store.data_dir or "memory: what they hold ends with the process (store.data_dir)"
    lines.append(f"devices, rows that wait for them and archived pages in {place}")
    lines += [f"  rpc        {listener.address}" for listener in config.rpc.listeners]
    lines += [f"  long link  {listener.address}" for listener in config.long_link.listeners]
    lines += [f"  receipts   {listener.address}" for listener in config.receipts.listeners]
    lines += [f"  operator   unix://{config.operator_socket}"]
    lines += [f"  operator   {config.operator.address}"] if config.operator.address is not None else []
    lines += [f"  http       {config.http.address}", ""]
    for app in config.apps:
        vendors = ", ".join(sorted(app.vendors)) or "none"
        lines.append(f"app {app.key}: {_count(len(app.secrets), 'secret')}, {app.durability}, vendors: {vendors}")
    budget = memory_budget(config)
    total = sum(part.size_bytes for part in budget)
    lines += ["", f"memory per worker, limit {_mib(config.gateway.memory_bytes_max)}, allotted {_mib(total)}:"]
    width = max(len(part.part) for part in budget)
    lines += [f"  {part.part:<{width}}{_mib(part.size_bytes):>12}  {part.keys}" for part in budget]
    lines += ["", f"open files per worker, limit {config.long_link.files_max}, needed {files_needed(config)}"]
    return "\n".join(lines) + "\n"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.1f} MiB"


def every_key(kind: type[msgspec.Struct] = Config, path: str = "") -> list[tuple[str, msgspec.structs.FieldInfo]]:
    """Each key of the configuration with its field, in the order of the sections: `("gateway.node", field)`.

    Arrays of tables have `[]` in the path. Vendors' own Settings are theirs to document.
    """
    keys: list[tuple[str, msgspec.structs.FieldInfo]] = []
    for field in msgspec.structs.fields(kind):
        here = f"{path}.{field.encode_name}" if path else field.encode_name
        items = get_args(field.type)
        if is_struct(field.type):
            keys += every_key(field.type, here)
        elif items and is_struct(items[0]):
            keys += every_key(items[0], here + ("[]" if get_origin(field.type) is list else ""))
        elif field.encode_name != "vendors":
            keys.append((here, field))
    return keys
