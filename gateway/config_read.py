"""From a TOML table to frozen Structs, with every fault found and none forgiven.

`msgspec.convert` stops at the first fault and cannot say which file a path is relative to, so the walk over sections
is ours and each plain value is msgspec's. Unknown keys are faults; a key that looks like a secret is one whose value
is not repeated. Rules for authors: nothing here knows a particular section; relations are `config_relations.py`'s.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from gateway.config_sections import App
from gateway.config_types import Address, Secret, resolved
from gateway.errors import ConfigError
from gateway.regions import REGIONS, channel_name

S = TypeVar("S", bound=msgspec.Struct)
_SECRET_WORDS = frozenset({"secret", "secrets", "password", "passwd", "key", "token", "pem", "credential"})


class _Shown:
    """A value as a fault may show it: short, and never a secret."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


HIDDEN = _Shown("<not shown>")
MISSING = _Shown("<missing>")


def looks_secret(key: str) -> bool:
    """Whether a key's name says that its value would be a secret: `admin_key`, not `key_id`, `key_file`."""
    return key.lower().rpartition("_")[2] in _SECRET_WORDS


def _shown(key: str, value: object) -> object:
    if looks_secret(key):
        return HIDDEN
    if isinstance(value, dict | list):
        return _Shown("<table>" if isinstance(value, dict) else "<array>")
    text = repr(value)
    return value if len(text) <= 80 else _Shown(text[:77] + "...")


def _bare(kind: Any) -> Any:
    """The type without Annotated and without `| None`."""
    if hasattr(kind, "__metadata__"):
        kind = kind.__origin__
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        if len(parts) == 1:
            return _bare(parts[0])
    return kind


def is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _expected(kind: Any, error: msgspec.ValidationError) -> str:
    """msgspec's words, less what the fault says already: the value and its path."""
    bare = _bare(kind)
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(bare))
    text = str(error).partition(" - at ")[0].partition(", got ")[0]
    return text.removeprefix("Expected ")


class Reader:
    """Reads the tables of one file; collects `faults` instead of stopping at the first.

    vendors: name of a vendor's table under an app -> that vendor's Settings. folder: what relative paths count from.
    """

    def __init__(self, file: str, folder: Path, vendors: Mapping[str, type[msgspec.Struct]]) -> None:
        self.faults: list[ConfigError] = []
        self._file = file
        self._folder = folder
        self._vendors = vendors

    def fault(self, path: str, value: object, expected: str) -> None:
        self.faults.append(ConfigError(path, value, expected, file=self._file))

    def struct(self, kind: type[S], table: object, path: str) -> S | None:
        """The Struct of one table, or None after noting each of its faults."""
        if not isinstance(table, dict):
            self.fault(path, _shown(path, table), "a table")
            return None
        before = len(self.faults)
        rest = dict(table)
        values: dict[str, Any] = {}
        for field in msgspec.structs.fields(kind):
            name = field.encode_name
            if kind is App and name == "vendors":
                values["vendors"] = self._vendor_tables(rest, path)
            elif _bare(field.type) is Secret:
                self._secret_field(field, rest, values, path)
            elif name in rest:
                values[field.name] = self.value(field.type, rest.pop(name), _join(path, name))
            elif field.required and is_struct(_bare(field.type)):
                values[field.name] = self.struct(_bare(field.type), {}, _join(path, name))
            elif field.required:
                self.fault(_join(path, name), MISSING, "a value; this key has no default")
        known = [field.encode_name for field in msgspec.structs.fields(kind)]
        self._unknown(rest, known + (list(self._vendors) if kind is App else []), path)
        if len(self.faults) > before:
            return None
        try:
            return kind(**values)
        except (TypeError, ValueError) as error:  # a Settings' own __post_init__
            self.fault(path, _Shown("<table>"), str(error))
            return None

    def value(self, kind: Any, raw: object, path: str) -> Any:
        """One value as its type wants it, or None after noting its fault."""
        bare = _bare(kind)
        key = path.rpartition(".")[2]
        if bare is Secret:
            return self._secret_table(raw, path)
        if bare is Address or bare is Path:
            return self._text_value(bare, raw, path)
        if is_struct(bare):
            return self.struct(bare, raw, path)
        if get_origin(bare) is list and (is_struct(get_args(bare)[0]) or get_args(bare)[0] is Secret):
            if not isinstance(raw, list):
                self.fault(path, _shown(key, raw), "an array")
                return None
            return [self.value(get_args(bare)[0], item, f"{path}[{index}]") for index, item in enumerate(raw)]
        try:
            value = msgspec.convert(raw, kind, strict=True)
        except msgspec.ValidationError as error:
            self.fault(path, _shown(key, raw), _expected(kind, error))
            return None
        if isinstance(value, str) and value and key.endswith("_file"):
            return str(resolved(self._folder, value))
        return value

    def _text_value(self, kind: Any, raw: object, path: str) -> Any:
        if not isinstance(raw, str) or not raw:
            self.fault(path, _shown("", raw), "an address" if kind is Address else "a path")
            return None
        if kind is Path:
            return resolved(self._folder, raw)
        try:
            return Address.parse(raw, self._folder)
        except ValueError as error:
            self.fault(path, raw, str(error))
            return None

    def _secret_field(
        self, field: msgspec.structs.FieldInfo, rest: dict[str, Any], values: dict[str, Any], path: str
    ) -> None:
        """`NAME_file` or `NAME_env`; the bare NAME would be a secret written into the file."""
        name = field.encode_name
        spelled = f"{name}_file or {name}_env"
        if name in rest:
            del rest[name]
            self.fault(_join(path, name), HIDDEN, f"{spelled}: a secret never stands in a configuration file")
            return
        given = {kind: rest.pop(f"{name}_{kind}") for kind in ("file", "env") if f"{name}_{kind}" in rest}
        if given:
            values[field.name] = self._secret(given, _join(path, name), spelled)
        elif field.required:
            self.fault(_join(path, name), MISSING, spelled)

    def _secret_table(self, raw: object, path: str) -> Secret | None:
        spelled = '{ file = "path" } or { env = "NAME" }'
        if not isinstance(raw, dict) or not set(raw) <= {"file", "env"}:
            self.fault(path, HIDDEN, f"{spelled}: a secret never stands in a configuration file")
            return None
        return self._secret(raw, path, spelled)

    def _secret(self, given: dict[str, Any], path: str, spelled: str) -> Secret | None:
        if len(given) != 1 or not all(isinstance(value, str) and value for value in given.values()):
            self.fault(path, HIDDEN, f"one of {spelled}, not empty")
            return None
        if "file" in given:
            return Secret(file=resolved(self._folder, given["file"]))
        return Secret(env=given["env"])

    def _vendor_tables(self, rest: dict[str, Any], path: str) -> dict[str, msgspec.Struct]:
        tables: dict[str, msgspec.Struct] = {}
        for name, kind in self._vendors.items():
            if name not in rest:
                continue
            table, here = rest.pop(name), _join(path, name)
            regions: object = None
            if name in REGIONS and isinstance(table, dict) and "regions" in table:
                regions = table["regions"]
                table = {key: value for key, value in table.items() if key != "regions"}
            # An app may have regions of a vendor and no main one.
            settings = self.struct(kind, table, here) if table or regions is None else None
            if settings is not None:
                tables[name] = settings
            if regions is not None:
                tables |= self._regions(name, regions, _join(here, "regions"), getattr(settings, "region", ""))
        return tables

    def _regions(self, vendor: str, tables: object, path: str, main: str) -> dict[str, msgspec.Struct]:
        """The Settings of a vendor's further regions, by the names of their channels; each has all keys of its own."""
        found: dict[str, msgspec.Struct] = {}
        if not isinstance(tables, dict):
            self.fault(path, _shown(path, tables), "a table with a table for each region")
            return found
        for region, table in tables.items():
            here, expected = _join(path, region), ", ".join(each for each in REGIONS[vendor] if each != main)
            if region == main:
                self.fault(here, _Shown("<table>"), f"one of {expected}: [{vendor}] itself is region {main}")
            elif region not in REGIONS[vendor]:
                self.fault(here, _Shown("<table>"), f"one of {expected}")
            elif isinstance(table, dict) and table.get("region", region) != region:
                self.fault(_join(here, "region"), table["region"], f"{region}, as the table is called, or nothing")
            else:
                own = table | {"region": region} if isinstance(table, dict) else table
                settings = self.struct(self._vendors[vendor], own, here)
                if settings is not None:
                    found[channel_name(vendor, region)] = settings
        return found

    def _unknown(self, rest: dict[str, Any], known: list[str], path: str) -> None:
        for key, value in rest.items():
            expected = "a known key"
            if looks_secret(key):
                expected = f"a known key; secrets are written as {key}_file or {key}_env"
            else:
                near = difflib.get_close_matches(key, known, 1)
                expected += f" (did you mean {near[0]}?)" if near else f" of [{path}]" if path else ""
            self.fault(_join(path, key), _shown(key, value), expected)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
