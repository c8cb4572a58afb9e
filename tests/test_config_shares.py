"""One worker's view of the configuration: what is divided, what is not, and which ports it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config, load_config
from gateway.config_shares import share_of_worker, with_addresses

TEXT = """
[gateway]
data_dir = "d"
workers = {workers}
[http]
devices_per_s = 90.0
devices_burst_max = 100
[http2]
connections_max = 7
[[rpc.listeners]]
address = "tcp://127.0.0.1:0"
[[rpc.listeners]]
address = "unix://rpc.sock"
[[long_link.listeners]]
address = "ws://127.0.0.1:0"
[[apps]]
key = "shop"
secrets = [{{ env = "HOME" }}]
connections_max = 10
[apps.fcm]
project_id = "p"
service_account_file = "c.json"
rate_per_s = 300.0
burst = 100
connections_max = 4
"""


def config(folder: Path, workers: int = 3) -> Config:
    file = folder / "g.toml"
    file.write_text(TEXT.format(workers=workers))
    return load_config(file, with_files=False)


def test_rates_and_connections_towards_others_are_divided_with_at_least_one_each(tmp_path: Path) -> None:
    share = share_of_worker(config(tmp_path), 3)
    fcm = share.apps[0].vendors["fcm"]
    assert (fcm.rate_per_s, fcm.burst, fcm.connections_max) == (100.0, 34, 2)
    assert (share.http.devices_per_s, share.http.devices_burst_max) == (30.0, 34)
    assert share.http2.connections_max == 3
    assert share_of_worker(config(tmp_path), 16).apps[0].vendors["fcm"].connections_max == 1


def test_what_a_process_can_hold_is_every_worker_s_own(tmp_path: Path) -> None:
    whole, share = config(tmp_path), share_of_worker(config(tmp_path), 3)
    assert share.gateway == whole.gateway
    assert share.long_link == whole.long_link
    assert share.apps[0].connections_max == whole.apps[0].connections_max


def test_worker_of_one_has_everything(tmp_path: Path) -> None:
    assert share_of_worker(config(tmp_path, 1), 1) == config(tmp_path, 1)


def test_listeners_get_the_ports_that_were_reserved(tmp_path: Path) -> None:
    rpc = ["tcp://127.0.0.1:4001", f"unix://{tmp_path}/rpc.sock"]
    found = with_addresses(config(tmp_path), rpc=rpc, long_link=["ws://127.0.0.1:4002"], http="tcp://127.0.0.1:4003")
    assert [str(one.address) for one in found.rpc.listeners] == rpc
    assert [str(one.address) for one in found.long_link.listeners] == ["ws://127.0.0.1:4002"]
    assert str(found.http.address) == "tcp://127.0.0.1:4003"
    with pytest.raises(ValueError, match="argument"):
        with_addresses(config(tmp_path), rpc=rpc[:1], long_link=[], http="tcp://127.0.0.1:1")
