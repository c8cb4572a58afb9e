"""Every key that a part understands reaches it, and the defaults of both agree."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import config_settings
from gateway.config import Config, every_key, load_config
from gateway.content import Class

MADE = {
    "rpc_limits": config_settings.rpc_limits,
    "long_link_settings": config_settings.long_link_settings,
    "device_limits": config_settings.device_limits,
    "retry_policy": lambda config: config_settings.retry_policy(config, Class.SYSTEM),
    "client_config": config_settings.client_config,
    "connection_limits": config_settings.connection_limits,
    "http1_config": config_settings.http1_config,
    "keeper_settings": config_settings.keeper_settings,
    "breaker_settings": config_settings.breaker_settings,
    "guard_settings": config_settings.guard_settings,
    "health_settings": config_settings.health_settings,
    "signing_limits": config_settings.signing_limits,
    "admission_limits": config_settings.admission_limits,
}
#: Sections whose keys all go through this module, and the keys that app.py hands on itself.
ELSEWHERE = {
    *("rpc.connections_max", "rpc.hellos_max", "rpc.frames_bytes_max", "rpc.unsent_bytes_max"),
    *(
        "long_link.uplink_events_per_minute_max",
        "long_link.uplink_changes_per_hour_max",
        "long_link.uplink_changes_max",
    ),
    "long_link.presence_changes_max",
    "long_link.presence_tags_max",
    *("long_link.bans_file", "long_link.bans_check_s", "long_link.payload_bytes_max", "http.address"),
    *("retry.strategy4_wait_s", "retry.on_uncertain_marketing"),
    *("http2.connect_timeout_s", "http2.request_timeout_s", "http2.idle_s", "http2.probe_wait_s"),
    "http2.connections_max",
}
SECTIONS = ("rpc", "long_link", "devices", "retry", "credentials", "breaker", "unregister_guard")
SECTIONS += ("http2", "http1", "http")
OTHER_WORDS = {"": "other", "resend": "uncertain", "uncertain": "resend", "recheck": "remove"}


def default_config(tmp_path: Path) -> Config:
    path = tmp_path / "gateway.toml"
    path.write_text('[gateway]\ndata_dir = "d"\n')
    return load_config(path, vendors={})


def other_value(value: Any) -> Any:
    """A value of the same type that differs and breaks no relation between a part's own numbers."""
    if isinstance(value, str):
        return OTHER_WORDS[value]
    if isinstance(value, list):
        return [*value, "x-other"]
    return value + 1 if isinstance(value, int) else value * 1.25


@pytest.mark.parametrize(
    "path",
    [
        path
        for path, field in every_key()
        if path.partition(".")[0] in SECTIONS and "[]" not in path and path not in ELSEWHERE
    ],
)
def test_changing_a_key_changes_what_a_part_is_given(path: str, tmp_path: Path) -> None:
    config = default_config(tmp_path)
    section, key = path.split(".")
    below = getattr(config, section)
    changed = msgspec.structs.replace(below, **{key: other_value(getattr(below, key))})
    other = msgspec.structs.replace(config, **{section: changed})
    assert [name for name, make in MADE.items() if make(config) != make(other)], f"{path} rules nothing"


def test_listeners_of_the_long_link_are_handed_on(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text('[gateway]\ndata_dir = "d"\n[[long_link.listeners]]\naddress = "tcp://[::1]:1883"\n')
    edge = config_settings.long_link_settings(load_config(path, vendors={})).edge
    assert [(listener.host, listener.port) for listener in edge.listeners] == [("::1", 1883)]
    assert config_settings.long_link_settings(default_config(tmp_path)).edge.listeners == ()


def test_address_of_a_long_link_listener_says_which_layers_it_has(
    tmp_path: Path, write_certificate: Callable[..., Path]
) -> None:
    path = tmp_path / "gateway.toml"
    write_certificate(tmp_path / "c.pem")
    files = 'cert_file = "c.pem"\nkey_file = "c.pem"\n'
    listeners = {"tcp": "proxy_protocol = true\n", "tls": files, "ws": "", "wss": files}
    text = '[gateway]\ndata_dir = "d"\n[long_link]\nlayered_connections_max = 5\ncertificate_check_s = 3.0\n'
    for port, (scheme, keys) in enumerate(listeners.items()):
        text += f'[[long_link.listeners]]\naddress = "{scheme}://h:{port + 1}"\n{keys}'
    path.write_text(text)
    edge = config_settings.long_link_settings(load_config(path, vendors={})).edge
    found = [(one.proxy_protocol, bool(one.cert_file), bool(one.key_file), one.is_websocket) for one in edge.listeners]
    assert found == [
        (True, False, False, False),
        (False, True, True, False),
        (False, False, False, True),
        (False, True, True, True),
    ]
    assert [one.is_layered for one in edge.listeners] == [False, True, True, True]
    assert (edge.layered_connections_max, edge.certificate_check_s) == (5, 3.0)


def test_uncertain_rows_are_ruled_by_class(tmp_path: Path) -> None:
    config = default_config(tmp_path)
    assert config_settings.retry_policy(config, Class.SYSTEM).resends_uncertain
    assert not config_settings.retry_policy(config, Class.MARKETING).resends_uncertain
    retry = msgspec.structs.replace(config.retry, on_uncertain_marketing="resend")
    config = msgspec.structs.replace(config, retry=retry)
    assert config_settings.retry_policy(config, Class.MARKETING).resends_uncertain


def test_a_vendor_s_first_wait_takes_the_place_of_the_general_one_up_to_the_longest(tmp_path: Path) -> None:
    config = default_config(tmp_path)
    policy = config_settings.retry_policy(config, Class.SYSTEM, first_s=10.0)
    assert (policy.first_s, policy.cap_s) == (10.0, config.retry.cap_s)
    assert config_settings.retry_policy(config, Class.SYSTEM, first_s=2000.0).first_s == config.retry.cap_s
    assert config_settings.retry_policy(config, Class.SYSTEM).first_s == config.retry.first_s


@pytest.mark.parametrize(
    "name",
    [
        *("rpc_limits", "device_limits", "retry_policy", "keeper_settings", "health_settings"),
        *("breaker_settings", "guard_settings", "http1_config"),
    ],
)
def test_defaults_of_a_part_are_those_of_the_configuration(name: str, tmp_path: Path) -> None:
    """Who tests a part with its defaults tests what is shipped."""
    made = MADE[name](default_config(tmp_path))
    assert made == type(made)()


def test_every_key_is_read_by_the_application() -> None:
    """A key that nothing reads is a promise that nobody keeps."""
    gateway = Path(__file__).parent.parent / "gateway"
    readers = [path for pattern in ("app*.py", "app/*.py", "cli*.py", "cli/*.py") for path in gateway.glob(pattern)]
    if not readers:
        pytest.skip("gateway/app.py is not there yet")
    readers += [gateway / "config_settings.py", gateway / "config.py"]
    text = "".join(path.read_text() for path in readers)
    #: used for checks at start only, and by the command line through describe()
    checked_at_start = {"gateway.memory_bytes_max", "gateway.workers"}
    unread = [
        path
        for path, _ in every_key()
        if path not in checked_at_start and not re.search(rf"\.{path.rpartition('.')[2]}\b", text)
    ]
    assert not unread
