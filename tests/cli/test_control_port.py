"""control_port.py against the real control port of real simulators."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from gateway.cli.control_port import ControlPort
from gateway.cli.demo.processes import READY_S, Children
from gateway.cli.exit_codes import UsageError
from gateway.client.errors import GatewayUnreachable


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPort]:
    folder = tmp_path_factory.mktemp("simulators")
    with Children(folder) as children:
        child = children.start("simulators", ["bench.simulators", "--dir", str(folder), "--json", "--exit-with-parent"])
        ready = child.read_json("ready", READY_S)
        yield ControlPort.at(f"http://{ready['control']['host']}:{ready['control']['port']}")


def test_the_clock_moves(control: ControlPort) -> None:
    assert control.advance_clock(3600.0) == 3600.0
    assert control.advance_clock(60.0) == 3660.0


def test_faults_are_armed_on_all_simulators(control: ControlPort) -> None:
    control.arm_fault({"kind": "drop", "for_requests": 3})
    assert set(control.statistics()) == {"apns", "fcm"}


def test_nothing_received_is_no_row(control: ControlPort) -> None:
    assert list(control.received()) == []


def test_a_call_that_is_refused_tells_the_reason(control: ControlPort) -> None:
    with pytest.raises(UsageError, match="400"):
        control.arm_fault({"kind": "explode"})


def test_nobody_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(GatewayUnreachable, match=f"127.0.0.1:{port}"):
        ControlPort.at(f"127.0.0.1:{port}").advance_clock(1.0)


@pytest.mark.parametrize("address", ["", "localhost", ":80", "localhost:http"])
def test_an_address_has_a_host_and_a_port(address: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        ControlPort.at(address)
