"""The application: a worker is built from its configuration, says where it listens, survives crashes of its actors,
and ends in order."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.app import Ready, Worker
from gateway.app_doors import server_context
from gateway.app_parts import app_view, make_log
from gateway.client.requests import DeviceState
from gateway.client.trio_client import open_trio_client
from gateway.clock import DevelopmentClock, SystemClock
from gateway.columns import TextColumn
from gateway.config import Address, Config, Listener
from gateway.content import Variant
from gateway.errors import ConfigError
from gateway.ledger import Channel
from gateway.observe.log import Log
from gateway.observe.metrics import Metrics
from gateway.observe.processor_wait import ProcessorWait, Times

SECRET = b"the secret of the shop"


class Running:
    """A worker that runs, with what it logged."""

    def __init__(self, config: Config) -> None:
        self.lines = io.StringIO()
        self.metrics = Metrics()
        self.worker = Worker(config, log=Log(stream=self.lines), metrics=self.metrics)
        self.ready: Ready | None = None
        self.has_returned = trio.Event()

    async def run(self) -> None:
        await self.worker.run(self._on_ready)
        self.has_returned.set()

    def _on_ready(self, ready: Ready) -> None:
        self.ready = ready

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.lines.getvalue().splitlines()) if line["event"] == event]

    @property
    def addresses(self) -> Ready:
        assert self.ready is not None
        return self.ready

    async def until(self, is_so: Callable[[], Any]) -> None:
        with trio.fail_after(60):
            while not is_so():
                await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(config: Config) -> AsyncIterator[Running]:
    found = Running(config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        await found.until(lambda: found.ready is not None)
        yield found
        nursery.cancel_scope.cancel()


async def get(address: str, path: str) -> int:
    """The status of an HTTP request."""
    host, port = address.removeprefix("http://").rsplit(":", 1)
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        await stream.send_all(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
        data = await stream.receive_some(65536)
    return int(data.split(b" ", 2)[1])


# -- building


def test_worker_takes_the_clock_that_its_configuration_names(make_config: Callable[..., Config]) -> None:
    async def clocks() -> tuple[type, type]:
        quiet = Log(stream=io.StringIO())
        return (
            type(Worker(make_config(), log=quiet).clock),
            type(Worker(make_config(dev={"clock": True}), log=quiet).clock),
        )

    assert trio.run(clocks) == (SystemClock, DevelopmentClock)


@pytest.mark.parametrize("fault", ["no key", "not a CA"])
async def test_worker_refuses_a_credential_or_certificate_that_is_unusable(
    fault: str, make_config: Callable[..., Config], folder: Path
) -> None:
    (folder / "bad.pem").write_text("this is neither\n")
    (folder / "key.p8").write_text("this is no key\n")
    table = {
        "team_id": "DEF123GHIJ",
        "key_id": "ABC123DEFG",
        "topic": "com.example.app",
        "key_file": str(folder / "key.p8"),
    }
    if fault == "not a CA":
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "key.p8").write_bytes(pem)
        table["ca_file"] = str(folder / "bad.pem")
    config = make_config(app={"apns": table})
    with pytest.raises(ConfigError) as refused:
        Worker(config, log=Log(stream=io.StringIO()))
    assert refused.value.key == "apps.shop.apns"
    assert "no key" not in str(refused.value)


def test_listener_with_unusable_certificate_names_the_key(folder: Path) -> None:
    (folder / "cert.pem").write_text("no certificate\n")
    listener = Listener(
        address=Address("tls", "127.0.0.1", 0), cert_file=folder / "cert.pem", key_file=folder / "cert.pem"
    )
    with pytest.raises(ConfigError, match="cert_file") as refused:
        server_context(listener)
    assert isinstance(refused.value.__cause__, (OSError, ssl.SSLError))


def test_app_view_checks_tokens_as_the_app_s_vendors_do(make_config: Callable[..., Config], folder: Path) -> None:
    (folder / "key.p8").write_text("read later\n")
    table = {
        "team_id": "DEF123GHIJ",
        "key_id": "ABC123DEFG",
        "topic": "com.example.app",
        "key_file": str(folder / "key.p8"),
    }
    view = app_view(3, make_config(app={"apns": table}).apps[0])
    assert (view.number, view.key, view.channels) == (3, "shop", {Channel.APNS})
    tokens = TextColumn.from_rows([b"a" * 64, b"not hexadecimal", b"", b"\xff" * 64])
    assert view.check_tokens(Channel.APNS, tokens).tolist() == [True, False, False, False]
    assert view.check_tokens(Channel.FCM, tokens) == "app shop has no credentials for fcm"


def test_log_of_a_worker_keeps_to_its_level_and_counts_lines(
    make_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = Metrics()
    log = make_log(make_config(observe={"log_level": "warning", "log_lines_per_s_max": 2}), metrics)
    log.info("not seen")
    for _ in range(5):
        log.warning("seen")
    told = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert 2 <= len(told) <= 4
    assert set(told) == {"seen"}
    assert metrics.log_lines.value("warning") == len(told)
    assert metrics.log_lines.value("info") == 0
    assert metrics.log_lines_suppressed.value() == 5 - len(told)


# -- running


async def test_worker_listens_where_it_says(make_config: Callable[..., Config], folder: Path) -> None:
    async with running(make_config()) as found:
        ready = found.addresses
        assert ready.operator == f"unix://{folder}/operator.sock"
        assert os.stat(folder / "operator.sock").st_mode & 0o777 == 0o600
        for address in (*ready.rpc, *ready.long_link):
            host, port = address.removeprefix("tcp://").rsplit(":", 1)
            assert int(port) > 0
            stream = await trio.open_tcp_stream(host, int(port))
            await stream.aclose()
        assert [await get(ready.http, path) for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
        (line,) = found.logged("ready")
        assert line["rpc"] == ready.rpc


async def test_worker_says_what_it_is_doing(make_config: Callable[..., Config]) -> None:
    async with running(make_config()) as found:
        ready = found.addresses
        async with (
            open_trio_client(ready.rpc[0], "shop", SECRET) as client,
            open_trio_client(ready.operator, role="operator") as operator,
        ):
            devices = [bytes([number]) * 16 for number in (1, 2, 3)]
            await client.register_devices([DeviceState(device_id=device) for device in devices])
            await client.submit(Variant("t", "b"), devices)
            await found.until(lambda: found.worker.status()["inbox_rows"] == 3)
            facts = (await operator.status()).facts
        assert facts["is_ready"]
        assert facts["rows_open"] == {"queued": 0, "held": 3, "in_flight": 0, "waiting": 0}
        assert (facts["devices"], facts["devices_online"], facts["pages"], facts["inbox_rows"]) == (3, 0, 1, 3)
        assert facts["connections"] == 2


async def test_worker_warns_of_a_development_clock(make_config: Callable[..., Config]) -> None:
    async with running(make_config(dev={"clock": True})) as found:
        assert any("DEVELOPMENT CLOCK" in line for line in found.lines.getvalue().splitlines())
    async with running(make_config()) as found:
        assert "DEVELOPMENT CLOCK" not in found.lines.getvalue()


async def test_worker_restarts_a_crashed_actor_and_loses_no_row(make_config: Callable[..., Config]) -> None:
    async with running(make_config()) as found:
        worker = found.worker
        keep = worker.inbox_store.put
        crashes = [True]

        async def put(*args: Any) -> Any:
            if crashes:
                crashes.clear()
                raise OSError("the disk has a bad day")
            return await keep(*args)

        worker.inbox_store.put = put  # type: ignore[method-assign]
        async with open_trio_client(found.addresses.rpc[0], "shop", SECRET) as client:
            await client.register_devices([DeviceState(device_id=b"d" * 16)])
            answer = await client.submit(Variant("t", "b"), [b"d" * 16])
            await found.until(lambda: len(worker.inbox_store) == 1)
            assert (await client.task_state(answer.task_id)).states == {"held": 1}
        assert found.metrics.actor_restarts.value("inbox") == 1
        (line,) = found.logged("actor crashed")
        assert line["actor"] == "inbox"


async def test_worker_replaces_a_crashed_long_link_on_the_same_address(make_config: Callable[..., Config]) -> None:
    async with running(make_config()) as found:
        worker = found.worker
        first = worker.long_link
        host, port = found.addresses.long_link[0].removeprefix("tcp://").rsplit(":", 1)
        before = await trio.open_tcp_stream(host, int(port))

        def step(now: float) -> bool:
            raise ZeroDivisionError("a bug in the edge")

        first.step = step  # type: ignore[method-assign]
        await before.send_all(b"x")
        await found.until(lambda: worker.long_link is not first)
        with trio.fail_after(60), contextlib.suppress(trio.BrokenResourceError):
            assert await before.receive_some(10) == b""
        await before.aclose()
        with trio.fail_after(60):
            while True:
                try:
                    stream = await trio.open_tcp_stream(host, int(port))
                    break
                except OSError:
                    await trio.sleep(0.02)
        await found.until(lambda: worker.long_link.statistics().connections == 1)
        await stream.aclose()
        assert found.metrics.actor_restarts.value("long link") == 1


async def test_long_link_of_a_worker_hears_that_processors_are_short(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = itertools.count(1)
    monkeypatch.setattr(ProcessorWait, "_times", lambda self: Times(0.0, float(next(waits))))
    async with running(make_config()) as found:
        link, now = found.worker.long_link, trio.current_time()
        link.tick(now)
        link.tick(now + 1.0)
        assert link.pauses.is_short
        assert found.metrics.processor_wait_s.value() >= 2.0


async def test_worker_gives_up_when_an_actor_crashes_again_and_again(
    make_config: Callable[..., Config], autojump_clock: Any
) -> None:
    """A worker that cannot work must not look alive."""
    found = Running(make_config())

    async def run() -> None:
        raise ZeroDivisionError("a bug that no restart heals")

    found.worker.inbox.run = run  # type: ignore[method-assign]
    with pytest.raises(BaseExceptionGroup) as ended, trio.fail_after(60):
        await found.run()
    assert ended.group_contains(ZeroDivisionError)
    assert len(found.logged("actor crashed")) == 10


# -- the end


async def test_worker_stops_once_however_often_it_is_told(make_config: Callable[..., Config]) -> None:
    async with running(make_config()) as found:
        found.worker.stop()
        found.worker.stop()
        with trio.fail_after(60):
            await found.has_returned.wait()
        assert [line["event"] for line in found.logged("stopping") + found.logged("stopped")] == ["stopping", "stopped"]
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", int(found.addresses.rpc[0].rsplit(":", 1)[1]))


async def test_worker_reports_what_is_left_and_is_not_ready_while_it_stops(make_config: Callable[..., Config]) -> None:
    async with running(make_config()) as found:
        ready = found.addresses
        async with open_trio_client(ready.rpc[0], "shop", SECRET) as client:
            await client.register_devices([DeviceState(device_id=b"d" * 16)])
            await client.submit(Variant("t", "b"), [b"d" * 16] * 4, allow_duplicates=True)
            await found.until(lambda: found.worker.status()["inbox_rows"] == 4)
            # something that keeps the drain busy: a router that is not idle
            page = next(found.worker.home.pages())
            found.worker.router.queued_rows += 1
            found.worker.stop()
            await found.until(lambda: found.logged("stopping"))
            assert await get(ready.http, "/readyz") == 503
            assert await get(ready.http, "/healthz") == 200
            found.worker.router.queued_rows -= 1
            with trio.fail_after(60):
                await found.has_returned.wait()
        (line,) = found.logged("stopped")
        assert line["rows_open"] == {"queued": 0, "held": 4, "in_flight": 0, "waiting": 0}
        assert page.n_open == 4


async def test_worker_that_is_cancelled_closes_at_once(make_config: Callable[..., Config]) -> None:
    found = Running(make_config())
    begun = trio.current_time()
    with trio.move_on_after(0.5):
        await found.run()
    assert trio.current_time() - begun < 2
    assert found.logged("stopping") == []
    assert found.ready is not None
