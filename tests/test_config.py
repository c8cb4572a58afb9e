"""The configuration: every fault named with file, key, value and what was expected; reference.toml complete."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import config as gateway_config
from gateway.config import (
    Address,
    Config,
    ConfigFaults,
    Secret,
    describe,
    every_key,
    files_needed,
    load_config,
    make_missing_secrets,
    memory_budget,
    message_id_secret,
)
from gateway.errors import ConfigError
from gateway.vendor import HttpVersion

CONFIGS = Path(__file__).parent.parent / "configs"


class FakeVendor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stands for a vendor's Settings: the shape every vendor file has."""

    key_file: str
    topic: str = ""
    port: int = 443
    #: As WeChat's: users agree to each message.
    consents: str = "trust"
    rate_per_s: float = 1000.0
    connections_max: int = 4

    def __post_init__(self) -> None:
        if self.topic == "forbidden":
            raise ValueError("a topic that is allowed")


class FakeHttp1Vendor(FakeVendor, frozen=True, kw_only=True, forbid_unknown_fields=True):
    http_version: HttpVersion = "1.1"
    connections_max: int = 3


VENDORS = {"fake": FakeVendor, "fake_http1": FakeHttp1Vendor}
SMALL = """
[gateway]
data_dir = "data"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "gateway.toml"
    path.write_text(text)
    return path


def load(folder: Path, text: str, **arguments: Any) -> Config:
    return load_config(write(folder, text), vendors=VENDORS, **arguments)


def faults(folder: Path, text: str, **arguments: Any) -> dict[str, ConfigError]:
    with pytest.raises(ConfigFaults) as caught:
        load(folder, text, **arguments)
    return {fault.key: fault for fault in caught.value.faults}


def test_config_of_one_key_is_whole(tmp_path: Path) -> None:
    config = load(tmp_path, SMALL)
    assert config.gateway.data_dir == tmp_path / "data"
    assert config.gateway.step_ms_max == 2.0
    assert config.apps == []
    assert config.operator_socket == tmp_path / "data" / "operator.sock"


def test_config_without_its_required_key_names_it(tmp_path: Path) -> None:
    assert set(faults(tmp_path, "")) == {"gateway.data_dir"}


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("colour = 1", "gateway.colour", "a known key of [gateway]"),
        ("step_ms_mx = 1", "gateway.step_ms_mx", "a known key (did you mean step_ms_max?)"),
        ("step_ms_max = 0", "gateway.step_ms_max", "`float` > 0.0"),
        ('step_ms_max = "2"', "gateway.step_ms_max", "`float`"),
        ("workers = 17", "gateway.workers", "`int` <= 16"),
        ("node = true", "gateway.node", "`int`"),
    ],
)
def test_config_fault_names_key_and_expectation(tmp_path: Path, text: str, key: str, expected: str) -> None:
    fault = faults(tmp_path, SMALL + text)[key]
    assert fault.expected == expected
    assert fault.file == str(tmp_path / "gateway.toml")


def test_config_lists_every_fault_at_once(tmp_path: Path) -> None:
    text = SMALL + 'nodde = 1\nworkers = 0\n[rpc]\ncredit_rows = "many"\n[[apps]]\nkey = "a b"\n[unknown]\n'
    found = faults(tmp_path, text)
    assert set(found) == {
        "gateway.nodde",
        "gateway.workers",
        "rpc.credit_rows",
        "apps[0].key",
        "apps[0].secrets",
        "unknown",
    }


def test_config_fault_text_is_one_line_per_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, SMALL + "nodde = 1\nworkers = 0\n")
    lines = str(caught.value).splitlines()
    assert lines == [
        f"{tmp_path}/gateway.toml: gateway.workers = 0: expected `int` >= 1",
        f"{tmp_path}/gateway.toml: gateway.nodde = 1: expected a known key (did you mean node?)",
    ]


def test_config_that_is_missing_or_no_toml_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigFaults, match="readable TOML file"):
        load_config(tmp_path / "absent.toml", vendors={})
    assert set(faults(tmp_path, "[gateway\n")) == {"(syntax)"}
    write(tmp_path, "").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigFaults, match="expected TOML"):
        load_config(tmp_path / "gateway.toml", vendors={})


# secrets


def app(body: str) -> str:
    return SMALL + '[[apps]]\nkey = "shop"\n' + body


def test_secret_is_read_from_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").write_text("hush\n")
    monkeypatch.setenv("OLD_SECRET", "older")
    config = load(tmp_path, app('secrets = [{ file = "new" }, { env = "OLD_SECRET" }]'))
    assert [secret.read() for secret in config.apps[0].secrets] == [b"hush", b"older"]
    assert "hush" not in repr(config)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[operator]\nadmin_key = "hush"', "operator.admin_key"),
        ('[operator]\npassword = "hush"', "operator.password"),
        ('[gateway.message_id_secret]\nvalue = "hush"', "gateway.message_id_secret"),
        ('[[apps]]\nkey = "shop"\nsecrets = ["hush"]', "apps[0].secrets[0]"),
        ('[[apps]]\nkey = "shop"\nsecrets = [{ inline = "hush" }]', "apps[0].secrets[0]"),
        ('[[apps]]\nkey = "shop"\nsecret = "hush"\nsecrets = [{ env = "HOME" }]', "apps[0].secret"),
        ('[apps.fake]\nprivate_key = "hush"', "apps"),
        ('[[apps]]\nkey = "s"\nsecrets = [{ env = "HOME" }]\n[apps.fake]\nkey = "hush"', "apps[0].fake.key"),
    ],
)
def test_secret_written_inline_is_refused_and_not_repeated(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigFaults) as caught:
        load(tmp_path, SMALL + text)
    assert key in {fault.key for fault in caught.value.faults}
    assert "hush" not in str(caught.value)


def test_secret_given_twice_is_refused(tmp_path: Path) -> None:
    text = SMALL + 'message_id_secret_file = "a"\nmessage_id_secret_env = "B"\n'
    assert "one of" in faults(tmp_path, text)["gateway.message_id_secret"].expected


@pytest.mark.parametrize("content", [None, b"", b"\n"])
def test_secret_that_cannot_be_read_is_a_fault(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "s").write_bytes(content)
    assert "apps[0].secrets[0].file" in faults(tmp_path, app('secrets = [{ file = "s" }]'))


def test_secret_in_a_variable_that_is_not_set_is_a_fault(tmp_path: Path) -> None:
    found = faults(tmp_path, app('secrets = [{ env = "PUSHGW_NOT_SET" }]'))
    assert found["apps[0].secrets[0].env"].value == "PUSHGW_NOT_SET"


def test_files_are_not_asked_for_when_told_so(tmp_path: Path) -> None:
    config = load(tmp_path, app('secrets = [{ file = "absent" }]'), with_files=False)
    assert config.apps[0].secrets == [Secret(file=tmp_path / "absent")]


def test_message_id_secret_is_made_once_and_kept_private(tmp_path: Path) -> None:
    config = load(tmp_path, SMALL)
    first = message_id_secret(config)
    assert message_id_secret(config) == first
    file = config.gateway.data_dir / "message_id.secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["message_id.secret"]


def test_message_id_secret_of_wrong_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("short\n")
    config = load(tmp_path, SMALL + 'message_id_secret_file = "short"\n')
    with pytest.raises(ConfigError, match="16 to 64 bytes, found 5"):
        message_id_secret(config)


def test_missing_secrets_are_made_only_where_asked_for(tmp_path: Path) -> None:
    body = 'secrets = [{ file = "made/shop" }]\n'
    assert "apps[0].secrets[0].file" in faults(tmp_path, app(body))
    config = load(tmp_path, app(body) + "[dev]\nclock = true\nmake_secrets = true\n")
    assert make_missing_secrets(config) == [tmp_path / "made" / "shop"]
    assert make_missing_secrets(config) == []
    assert len(config.apps[0].secrets[0].read()) == 64
    with_no_wish = load(tmp_path, app(body))
    os.unlink(tmp_path / "made" / "shop")
    assert make_missing_secrets(with_no_wish) == []


# vendors' own tables


def test_vendor_settings_are_typed_by_the_vendor(tmp_path: Path) -> None:
    (tmp_path / "k.p8").write_text("pem")
    config = load(tmp_path, app('secrets = [{ env = "HOME" }]\n[apps.fake]\nkey_file = "k.p8"\nport = 8443'))
    assert config.apps[0].vendors == {"fake": FakeVendor(key_file=str(tmp_path / "k.p8"), port=8443)}


def test_vendor_settings_faults_are_named_with_their_path(tmp_path: Path) -> None:
    start = 'secrets = [{ env = "HOME" }]\n[apps.fake]\n'
    assert "apps[0].fake.key_file" in faults(tmp_path, app(start + "port = 1"))
    assert "apps[0].fake.topc" in faults(tmp_path, app(start + 'key_file = "k"\ntopc = "x"'))
    assert faults(tmp_path, app(start + 'key_file = "absent"'))["apps[0].fake.key_file"].expected == "a readable file"
    found = faults(tmp_path, app(start + 'key_file = "k"\ntopic = "forbidden"'))
    assert found["apps[0].fake"].expected == "a topic that is allowed"
    found = faults(tmp_path, app('secrets = [{ env = "HOME" }]\n[apps.fkae]\n'))
    assert found["apps[0].fkae"].expected == "a known key (did you mean fake?)"


# relations and the budget


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("[rpc]\nframe_bytes_max = 67108864", "rpc.frame_bytes_max", "at most rpc.credit_bytes, which is 33554432"),
        ("[lanes]\nburst_rows_max = 100\nlane_rows_max = 50", "lanes.burst_rows_max", "at most lanes.lane_rows_max"),
        ("[retry]\nfirst_s = 100.0\ncap_s = 10.0", "retry.first_s", "at most retry.cap_s, which is 10.0"),
        ("[long_link]\nis_moved = true", "long_link.server_reference", "where devices are to go"),
        ("[gateway]", "long_link.files_max", "at least "),
        ('[[rpc.listeners]]\naddress = "tls://h:1"', "rpc.listeners[0].cert_file", "a file, since"),
        ('[[rpc.listeners]]\naddress = "tcp://h:1"\ncert_file = "c"', "rpc.listeners[0].cert_file", "nothing"),
        ('[[long_link.listeners]]\naddress = "unix://s"', "long_link.listeners[0].address", "tcp://"),
        ('[[long_link.listeners]]\naddress = "wss://h:1"', "long_link.listeners[0].cert_file", "a file, since"),
        ('[[long_link.listeners]]\naddress = "ws://h:1"\nkey_file = "k"', "long_link.listeners[0].key_file", "nothing"),
        ('[[rpc.listeners]]\naddress = "ws://h:1"', "rpc.listeners[0].address", "tcp://"),
        ('[operator]\naddress = "wss://h:1"', "operator.address", "tcp://host:port"),
        ("[long_link]\nlayered_connections_max = 15001", "long_link.layered_connections_max", "at most long_link."),
        ('[http]\naddress = "unix://s"', "http.address", "tcp://host:port"),
        ('[operator]\naddress = "tcp://h:1"', "operator.admin_key", "admin_key_file or admin_key_env"),
        ('[[apps]]\nkey = "a"\nsecrets = []', "apps[0].secrets", "at least one secret"),
        (
            '[[apps]]\nkey = "a"\nsecrets = [{ env = "HOME" }]\n[apps.callback]\nurl = "ftp://h"\nsecret_env = "HOME"',
            "apps[0].callback.url",
            "an http or https URL",
        ),
        (
            '[[apps]]\nkey = "a"\nsecrets = [{ env = "HOME" }]\n[apps.truncation]\nmark = "a\\nb"',
            "apps[0].truncation.mark",
            "characters that can be seen, on one line",
        ),
        ("[dev]\nmake_secrets = true", "dev.make_secrets", "dev.clock = true"),
    ],
)
def test_relation_that_does_not_hold_is_a_fault(tmp_path: Path, text: str, key: str, expected: str) -> None:
    overrides = {"long_link": {"files_max": 100}} if key == "long_link.files_max" else None
    body = SMALL if overrides else SMALL + text
    assert faults(tmp_path, body, overrides=overrides, with_files=False)[key].expected.startswith(expected)


def test_apps_and_addresses_must_be_distinct(tmp_path: Path) -> None:
    text = app('secrets = [{ env = "HOME" }]') + '\n[[apps]]\nkey = "shop"\nsecrets = [{ env = "HOME" }]\n'
    text += '[[rpc.listeners]]\naddress = "tcp://h:1"\n[[long_link.listeners]]\naddress = "tcp://h:1"\n'
    found = faults(tmp_path, text)
    assert found["apps[1].key"].expected == "a key of its own; apps[0] has the same"
    assert found["long_link.listeners[0].address"].expected.endswith("rpc.listeners[0].address has the same")


def test_port_zero_may_be_asked_for_more_than_once(tmp_path: Path) -> None:
    text = SMALL + '[http]\naddress = "tcp://h:0"\n[[rpc.listeners]]\naddress = "tcp://h:0"\n'
    assert load(tmp_path, text).http.address.port == 0


def test_memory_budget_that_does_not_fit_is_refused_with_its_largest_parts(tmp_path: Path) -> None:
    config = load(tmp_path, SMALL)
    total = sum(part.size_bytes for part in memory_budget(config))
    assert load(tmp_path, SMALL + f"memory_bytes_max = {total}")
    fault = faults(tmp_path, SMALL + f"memory_bytes_max = {total - 1}")["gateway.memory_bytes_max"]
    assert fault.expected.startswith(f"at least {total}, the sum of its parts; the largest: request ids 880000000")


def test_memory_budget_grows_with_every_limit_it_names(tmp_path: Path) -> None:
    """Each key in a line of the budget is one that raises that line; none is decoration."""
    (tmp_path / "k").write_text("x")
    text = app('secrets = [{ env = "HOME" }]\n[apps.fake]\nkey_file = "k"\n[apps.fake_http1]\nkey_file = "k"')
    # the memory of WebSocket and TLS is counted where there is a listener with them
    text += '\n[[long_link.listeners]]\naddress = "ws://127.0.0.1:8083"'
    text += '\n[[receipts.listeners]]\naddress = "tcp://127.0.0.1:8084"'
    config = load(tmp_path, text)
    for index, part in enumerate(memory_budget(config)):
        for key in re.findall(r"[a-z0-9_]+\.[a-z0-9_]+", part.keys):
            section, name = key.split(".")
            below = getattr(config, section)
            raised = msgspec.structs.replace(below, **{name: getattr(below, name) * 2})
            larger = memory_budget(msgspec.structs.replace(config, **{section: raised}))
            assert larger[index].size_bytes > part.size_bytes, key


def test_each_socket_of_an_http1_vendor_is_an_open_file(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("x")
    without = files_needed(load(tmp_path, app('secrets = [{ env = "HOME" }]')))
    text = app('secrets = [{ env = "HOME" }]\n[apps.fake_http1]\nkey_file = "k"') + "\n[http1]\nsockets_max = 7\n"
    assert files_needed(load(tmp_path, text)) == without + 3 * 7


def test_open_rows_must_fit_into_the_ledger(tmp_path: Path) -> None:
    found = faults(tmp_path, SMALL + "open_rows_max = 100_000_000")
    assert "so much of open rows cannot leave memory" in found["ledger.ledger_memory_bytes_max"].expected


def test_what_is_spilled_of_open_rows_needs_files_and_no_room_in_the_ledger(tmp_path: Path) -> None:
    spilled = SMALL + 'open_rows_max = 25_000_000\n[store]\ndata_dir = "store"\n'
    spilled += "[ledger]\nledger_memory_bytes_max = 700_000_000\n"
    assert load(tmp_path, spilled).gateway.open_rows_max == 25_000_000
    assert (
        "at 50 bytes each"
        in faults(tmp_path, spilled + "spill_bytes_max = 0")["ledger.ledger_memory_bytes_max"].expected
    )
    on_disk = '\n[store]\ndata_dir = "store"\n[ledger]\nspill_bytes_max = '
    with_files, without = (
        load(tmp_path, app('secrets = [{ env = "HOME" }]') + on_disk + size) for size in ("1_000_000_000", "0")
    )
    assert files_needed(with_files) == files_needed(without) + 2 * 15


def test_files_needed_counts_every_connection_that_the_limits_allow(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("x")
    without = load(tmp_path, app('secrets = [{ env = "HOME" }]'))
    with_vendor = load(tmp_path, app('secrets = [{ env = "HOME" }]\n[apps.fake]\nkey_file = "k"\nconnections_max = 7'))
    assert files_needed(with_vendor) == files_needed(without) + 7


def test_overrides_lie_over_the_file_and_are_checked_alike(tmp_path: Path) -> None:
    config = load(tmp_path, SMALL + "node = 3", overrides={"gateway": {"data_dir": "other"}, "dev": {"clock": True}})
    assert (config.gateway.node, config.gateway.data_dir, config.dev.clock) == (3, tmp_path / "other", True)
    assert "dev.clok" in faults(tmp_path, SMALL, overrides={"dev": {"clok": True}})


# addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:0", Address("tcp", "127.0.0.1", 0)),
        ("tls://push.example:7400", Address("tls", "push.example", 7400)),
        ("tcp://[::1]:80", Address("tcp", "::1", 80)),
        ("unix:///run/x.sock", Address("unix", path="/run/x.sock")),
    ],
)
def test_address_is_read_and_written_back(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "127.0.0.1:1", "http://h:1", "tcp://", "tcp://h", "tcp://:1", "tcp://h:65536", "tcp://h:-1", "tcp://h:²"),
        *("tcp://::1:80", "tcp://[::1:80", "unix://", "unix:///" + "x" * 120),
    ],
)
def test_address_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)


# the files we ship


@pytest.mark.parametrize("name", ["reference.toml", "dev.toml", "demo.toml", "bench.toml"])
def test_shipped_config_is_accepted(name: str, tmp_path: Path) -> None:
    overrides = {"gateway": {"data_dir": str(tmp_path)}}
    text = (CONFIGS / name).read_text()
    if name == "reference.toml":  # its two empty listener tables and its app show examples only
        text = re.sub(r"^\[(\[|apps\.).*\]$(\n|.)*?(?=^\[[^\[]|\Z)", "", text, flags=re.MULTILINE)
    path = tmp_path / name
    path.write_text(text)
    assert describe(load_config(path, vendors={}, overrides=overrides)).startswith("ok\n")


_ENTRY = re.compile(r"^#?([a-z0-9_]+) = (.+)$")
_TABLE = re.compile(r"^\[(\[)?([a-z0-9_.]+)\]")


def reference_entries() -> dict[str, tuple[str, str, bool]]:
    """path -> (value as written, comment above it, written as an example only). Arrays of tables have `[]`."""
    entries: dict[str, tuple[str, str, bool]] = {}
    table, comment, comment_open = "", "", False
    for line in (CONFIGS / "reference.toml").read_text().splitlines():
        if match := _TABLE.match(line):
            # What stands below an array of tables belongs to its last one.
            table, comment = match[2].replace("apps.", "apps[].") + ("[]" if match[1] else ""), ""
        elif match := _ENTRY.match(line):
            # lines of one optional key (NAME_file, NAME_env) share the comment above the first
            entries[f"{table}.{match[1]}"] = (match[2], comment, line.startswith("#"))
        elif line.startswith("#"):
            comment = comment + line[1:] if comment_open else line[1:]
        comment_open = line.startswith("#") and not _ENTRY.match(line)
    return entries


def plain(value: object) -> object:
    """A default as TOML would hold it."""
    return str(value) if isinstance(value, Path | Address) else value


def reference_paths(path: str, field: msgspec.structs.FieldInfo) -> list[str]:
    is_secret = field.type in (Secret, Secret | None)
    return [f"{path}_file", f"{path}_env"] if is_secret else [path]


def test_reference_has_every_key_with_its_default() -> None:
    entries = reference_entries()
    for path, field in every_key():
        for written in reference_paths(path, field):
            assert written in entries, f"configs/reference.toml lacks {written}"
            text, _, is_example = entries[written]
            default = field.default
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            if default in (msgspec.NODEFAULT, None):
                assert is_example, f"{written} has no default and must stand as an example"
            else:
                assert not is_example, written
                assert tomllib.loads(f"value = {text}")["value"] == plain(default), written


def test_reference_has_no_key_that_does_not_exist() -> None:
    known = {written for path, field in every_key() for written in reference_paths(path, field)}
    assert set(reference_entries()) <= known


def test_reference_gives_each_key_its_unit_and_reason() -> None:
    for path, (_, comment, _) in reference_entries().items():
        assert re.search(r"Unit:\s+\S", comment), f"{path} has no unit"
        assert re.search(r"Why:\s+\S", comment), f"{path} has no reason"


def test_every_number_of_the_configuration_says_its_unit_in_its_name() -> None:
    """STYLE.md: units come last, counts end in what they count."""
    endings = re.compile(r"(_s|_ms|_bytes|_per_s)(_max|_min)?$|_(max|reserve)$|\.rows_min$")
    numbers = [path for path, field in every_key() if isinstance(field.default, int | float)]
    unitless = {
        "gateway.node",
        "gateway.workers",
        "store.shard_groups",
        "retry.factor",
        "retry.jitter",
        "apps[].strategy",
    }
    unitless |= {"breaker.failure_share", "unregister_guard.dead_share_normal"}
    for path in numbers:
        kind = dict(every_key())[path].type
        if kind is not bool and path not in unitless:
            assert endings.search(path) or path.endswith(("credit_rows", "keepalive_s_max")), path


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from([path for path, _ in every_key()]),
)
def test_any_value_under_any_key_is_accepted_or_a_config_fault(value: object, path: str) -> None:
    tables: dict[str, Any] = {"gateway": {"data_dir": "d"}}
    *sections, key = path.split(".")
    at: Any = tables
    for section in sections:
        name = section.removesuffix("[]")
        inner: dict[str, Any] = {}
        if section.endswith("[]"):
            at[name] = [inner]
            at = inner
        else:
            at = at.setdefault(name, inner)
    at[key] = value
    # anything but ConfigFaults fails the test
    with contextlib.suppress(ConfigFaults):
        load_config(CONFIGS / "demo.toml", vendors=VENDORS, overrides=tables, with_files=False)


def test_description_shows_listeners_apps_and_budget(tmp_path: Path) -> None:
    text = app('secrets = [{ env = "HOME" }]\n') + '[[rpc.listeners]]\naddress = "tcp://127.0.0.1:7400"\n'
    shown = describe(load(tmp_path, text + "[dev]\nclock = true\n"))
    assert "WARNING: the development clock is on" in shown
    assert "rpc        tcp://127.0.0.1:7400" in shown
    assert "app shop: 1 secret, memory, vendors: none" in shown
    assert len({line.index(" MiB") for line in shown.splitlines() if line.startswith("  ") and " MiB" in line}) == 1
    assert "ledger.ledger_memory_bytes_max" in shown


def test_vendor_settings_come_from_the_registry() -> None:
    settings = gateway_config.vendor_settings()
    assert {"apns", "fcm"} <= set(settings)
    for name, kind in settings.items():
        fields = {field.name for field in msgspec.structs.fields(kind)}
        assert {"rate_per_s", "burst", "connections_max", "ca_file", "host", "port"} <= fields, name


def test_stores_on_the_disk_have_a_shard_group_for_each_worker(tmp_path: Path) -> None:
    text = SMALL + 'workers = 4\n[store]\ndata_dir = "store"\nshard_groups = 2\n'
    found = faults(tmp_path, text)
    assert set(found) == {"gateway.workers"}
    assert "store.shard_groups (2)" in found["gateway.workers"].expected
    assert load(tmp_path, text.replace("workers = 4", "workers = 2")).store.data_dir == tmp_path / "store"
