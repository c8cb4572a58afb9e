"""connection.py: which address, which app, which secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.arguments import parse
from gateway.cli.connection import (
    asking_client,
    choose_app,
    newest_secret,
    operator_client,
    reachable,
    read_config,
    rpc_address,
)
from gateway.cli.exit_codes import UsageError
from gateway.config import Address, Config
from gateway.errors import ConfigError

APP = '[[apps]]\nkey = "{key}"\nsecrets = [{{ file = "{key}.secret" }}]\n'


def config(folder: Path, *parts: str) -> Config:
    file = folder / "gateway.toml"
    file.write_text('[gateway]\ndata_dir = "data"\n' + "\n".join(parts))
    return read_config(file)


def listener(address: str) -> str:
    return f'[[rpc.listeners]]\naddress = "{address}"\n'


def test_the_only_app_need_not_be_named(tmp_path: Path) -> None:
    assert choose_app(config(tmp_path, APP.format(key="shop")), None).key == "shop"


def test_one_of_several_apps_has_to_be_named(tmp_path: Path) -> None:
    both = config(tmp_path, APP.format(key="shop"), APP.format(key="bank"))
    assert choose_app(both, "bank").key == "bank"
    with pytest.raises(UsageError, match="shop, bank"):
        choose_app(both, None)
    with pytest.raises(UsageError, match="app mine is not in the configuration"):
        choose_app(both, "mine")


def test_the_nearest_listener_with_a_known_address_is_dialled(tmp_path: Path) -> None:
    tcp, any_port = listener("tcp://0.0.0.0:7400"), listener("tcp://127.0.0.1:0")
    assert rpc_address(config(tmp_path, any_port, tcp)) == "tcp://127.0.0.1:7400"
    assert rpc_address(config(tmp_path, tcp, listener("unix://rpc.sock"))) == f"unix://{tmp_path}/rpc.sock"
    with pytest.raises(UsageError, match="--address"):
        rpc_address(config(tmp_path, any_port))


def test_a_listener_on_all_addresses_is_dialled_on_loopback() -> None:
    assert reachable(Address("tcp", "::", 7400)) == "tcp://[::1]:7400"
    assert reachable(Address("tcp", "10.0.0.1", 7400)) == "tcp://10.0.0.1:7400"


def test_a_secret_that_is_not_there_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    found = config(tmp_path, APP.format(key="shop"))
    with pytest.raises(ConfigError, match=r"shop\.secret"):
        newest_secret(found, found.apps[0])


def test_a_development_secret_is_made_as_serve_would(tmp_path: Path) -> None:
    found = config(tmp_path, "[dev]\nclock = true\nmake_secrets = true\n", APP.format(key="shop"))
    made = newest_secret(found, found.apps[0])
    assert (tmp_path / "shop.secret").read_bytes().strip() == made
    assert newest_secret(found, found.apps[0]) == made


def test_commands_without_a_configuration_say_so() -> None:
    with pytest.raises(UsageError, match="PUSHGW_CONFIG"):
        read_config(None)


def test_operator_commands_over_tcp_need_the_admin_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="admin_key"):
        operator_client(config(tmp_path), "tcp://127.0.0.1:1", 1.0)


def test_an_operator_needs_no_configuration_for_a_socket_that_he_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUSHGW_CONFIG", raising=False)
    with asking_client(parse(["task", "0" * 32, "--address", "unix:///nowhere/operator.sock"])):
        pass
