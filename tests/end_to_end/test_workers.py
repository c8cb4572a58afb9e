"""`pushgw serve` with several workers, as processes: crashes, restarts, ends; devices of the wrong worker; one page."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from gateway.client.errors import CallFailed
from gateway.client.requests import DeviceState
from gateway.core.identity import device_password
from gateway.core.ownership import SHARDS, Ownership
from gateway.wire.rpc.messages import Variant

pytestmark = pytest.mark.slow

SECRET = b"the secret of the shop"
#: Without a process that waits to be a worker: tests count processes, and have one that starts slowly.
TWO = {"workers": 2, "restart_spread_s": 0.2, "spare_after_s": 0}
#: For a process to be started again, imports included, on a busy machine.
BACK_S = 90.0


@pytest.fixture(scope="module")
def _two(serve_for_all: Callable[..., Any]) -> Any:
    return serve_for_all(None, gateway=TWO)


@pytest.fixture
async def two(_two: Any, open_clients: Callable[..., Any]) -> Any:
    """A gateway that tests share: two workers that are ready and have no devices online, with what others counted."""
    async with open_clients(_two.ready) as gateway:

        async def is_at_rest() -> bool:
            found = await workers_of(gateway)
            return all((one["state"], one.get("devices_online")) == ("ready", 0) for one in found)

        await until(is_at_rest)
    return _two


def device_of(worker: int, workers: int = 2) -> bytes:
    """A device id that this worker owns."""
    ownership = Ownership(workers, shard_groups=SHARDS)
    return next(one for one in iter(lambda: os.urandom(16), b"") if ownership.owner(one) == worker)


async def until(holds: Callable[[], Awaitable[Any]], timeout_s: float = BACK_S) -> Any:
    """What `holds` says once that is true; it may fail as long as workers are away."""
    with trio.fail_after(timeout_s):
        while True:
            with contextlib.suppress(httpx.HTTPError, OSError):
                if found := await holds():
                    return found
            await trio.sleep(0.05)


async def workers_of(gateway: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await gateway.operator.status()).facts["workers"]
    return found


async def until_all_ready(gateway: Any) -> list[dict[str, Any]]:
    async def ready() -> list[dict[str, Any]]:
        found = await workers_of(gateway)
        return found if all(one["state"] == "ready" for one in found) else []

    found: list[dict[str, Any]] = await until(ready)
    return found


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_gone(pids: list[int]) -> None:
    async def gone() -> bool:
        return not any(is_alive(pid) for pid in pids)

    await until(gone)


async def test_devices_are_online_at_their_owner_whichever_worker_they_reach(
    two: Any, open_clients: Callable[..., Any], new_phone: Callable[[bytes], Any]
) -> None:
    async with open_clients(two.ready) as gateway, trio.open_nursery() as nursery:
        devices = [device_of(number % 2) for number in range(24)]
        before = Counter(await gateway.metrics())
        for device in devices:
            await new_phone(device).connect(gateway.link_port, nursery)
        assert [one["devices_online"] for one in await workers_of(gateway)] == [12, 12]
        page = await gateway.metrics()
        moved, adopted = (
            page["pushgw_mqtt_events_total", kind] - before["pushgw_mqtt_events_total", kind]
            for kind in ("moved", "adopted")
        )
        assert 0 < moved == adopted
        assert page["pushgw_devices_online", ""] == 24
        assert page["pushgw_connections_open", "long_link"] == 24
        for device in devices:
            assert (await gateway.operator.device(device, app_key="shop")).facts["is_online"]
        nursery.cancel_scope.cancel()


async def test_mosquitto_clients_of_both_versions_are_handed_over(two: Any, open_clients: Callable[..., Any]) -> None:
    async with open_clients(two.ready) as gateway:
        moved = Counter(await gateway.metrics())["pushgw_mqtt_events_total", "moved"]
        clients = []
        for number in range(12):
            name = device_of(number % 2).hex()
            options = ["-h", "127.0.0.1", "-p", str(gateway.link_port), "-i", name, "-u", "shop", "-q", "1"]
            options += [
                "-P",
                device_password(SECRET, name),
                "-t",
                f"d/{name}/down",
                "-V",
                ("311", "5")[number // 2 % 2],
            ]
            clients.append(subprocess.Popen(["mosquitto_sub", *options], stderr=subprocess.PIPE))
        try:

            async def online() -> bool:
                return [one.get("devices_online") for one in await workers_of(gateway)] == [6, 6]

            await until(online)
            assert (await gateway.metrics())["pushgw_mqtt_events_total", "moved"] > moved
        finally:
            for client in clients:
                client.kill()
                client.communicate()


async def test_crash_of_one_worker_leaves_the_other_alone_and_counts_survive_it(
    two: Any, open_clients: Callable[..., Any], new_phone: Callable[[bytes], Any]
) -> None:
    async with open_clients(two.ready) as gateway, trio.open_nursery() as nursery:
        first = Counter(await gateway.metrics())
        phones = [await new_phone(device_of(number % 2)).connect(gateway.link_port, nursery) for number in range(8)]
        logins = (await gateway.metrics())["pushgw_mqtt_events_total", "logins"]
        assert logins - first["pushgw_mqtt_events_total", "logins"] == 8
        before = await workers_of(gateway)
        os.kill(before[0]["pid"], signal.SIGKILL)
        after = await until_all_ready_again(gateway, before[0])
        assert after[0]["incarnation"] > max(one["incarnation"] for one in before)
        assert after[1]["incarnation"] == before[1]["incarnation"]
        assert [one["devices_online"] for one in after] == [0, 4]
        page = await gateway.metrics()
        assert page["pushgw_mqtt_events_total", "logins"] >= logins
        assert page["pushgw_devices_online", ""] == 4
        assert page["pushgw_worker_restarts_total", "0"] - first["pushgw_worker_restarts_total", "0"] == 1
        await new_phone(phones[0].device_id).connect(gateway.link_port, nursery)
        assert (await gateway.metrics())["pushgw_devices_online", ""] == 5
        nursery.cancel_scope.cancel()


async def until_all_ready_again(gateway: Any, before: dict[str, Any]) -> list[dict[str, Any]]:
    async def is_another() -> bool:
        return bool((await workers_of(gateway))[before["worker"]]["incarnation"] != before["incarnation"])

    await until(is_another)
    return await until_all_ready(gateway)


def children_of(pid: int) -> set[int]:
    found = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return set(map(int, found.split()))


async def hold_down(gateway: Any, supervisor: int, worker: int) -> int:
    """That worker has died and its next life is stopped before it is linked; its process.

    It is looked for where the kernel has it: a question to the gateway takes as long as a start on a busy machine.
    """
    before = children_of(supervisor)
    os.kill((await workers_of(gateway))[worker]["pid"], signal.SIGKILL)
    with trio.fail_after(BACK_S):
        while not (new := children_of(supervisor) - before):
            await trio.sleep(0.002)
        (pid,) = new
        # Until then it is a copy of the supervisor, which waits for it.
        while b"app_worker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            await trio.sleep(0.002)
    os.kill(pid, signal.SIGSTOP)
    assert (await workers_of(gateway))[worker]["state"] == "starting"
    return pid


async def test_submits_are_answered_while_a_worker_is_down_and_their_repeats_when_it_is_back(
    two: Any, open_clients: Callable[..., Any]
) -> None:
    async with open_clients(two.ready) as gateway:
        before = Counter(await gateway.metrics())
        content, device = Variant(title="a", body="b"), device_of(0)
        stopped = await hold_down(gateway, two.pid, 1)
        try:
            # Half of these ids have their home at worker 1.
            ids = [os.urandom(16).hex() for _ in range(24)]
            with trio.fail_after(BACK_S):
                tasks = [(await gateway.client.submit(content, [device], request_id=one)).task_id for one in ids]
            assert (await workers_of(gateway))[1]["state"] == "starting"
            with pytest.raises(CallFailed, match="request_id"):
                await gateway.client.submit([Variant(title="c", body="d")], [device], request_id=ids[0])
        finally:
            os.kill(stopped, signal.SIGCONT)
        await until_all_ready(gateway)
        page = await gateway.metrics()
        names = [("pushgw_stand_in_submits_total", "1"), ("pushgw_stand_in_ids_told_total", "")]
        taken, told = (page[name] - before[name] for name in names)
        # The call that was refused is counted where the first id is worker 1's.
        assert 0 < told <= taken <= told + 1 <= len(ids)
        assert [(await gateway.client.submit(content, [device], request_id=one)).task_id for one in ids] == tasks
        for one in ids:
            with pytest.raises(CallFailed, match="request_id"):
                await gateway.client.submit([Variant(title="c", body="d")], [device], request_id=one)


async def test_next_life_of_a_worker_is_the_process_that_waited_to_be_one(
    serve: Callable[..., Any], open_clients: Callable[..., Any]
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(None, gateway=TWO | {"spare_after_s": 0.1}))
    async with open_clients(process.ready) as gateway:
        for worker in (1, 0):
            pids = {one["pid"] for one in await workers_of(gateway)}

            async def there_is_a_spare(pids: set[int] = pids) -> bool:
                return len(children_of(process.pid) - pids) == 1

            await until(there_is_a_spare)
            (spare,) = children_of(process.pid) - pids
            before = (await workers_of(gateway))[worker]
            os.kill(before["pid"], signal.SIGKILL)
            after = await until_all_ready_again(gateway, before)
            assert (after[worker]["pid"], after[worker]["incarnation"] > before["incarnation"]) == (spare, True)
        pids = {one["pid"] for one in await workers_of(gateway)} | children_of(process.pid)
        assert await process.end_by(signal.SIGTERM) == 0
        assert not any(is_alive(pid) for pid in pids)


async def test_gateway_is_ready_only_when_all_its_workers_are(two: Any, open_clients: Callable[..., Any]) -> None:
    async with open_clients(two.ready) as gateway, httpx.AsyncClient(base_url=two.ready["http"]) as http:
        assert (await http.get("/readyz")).status_code == 200
        victim = (await workers_of(gateway))[1]
        os.kill(victim["pid"], signal.SIGKILL)

        async def not_ready() -> bool:
            answer = await http.get("/readyz")
            return answer.status_code == 503 and "worker 1 is" in answer.text

        await until(not_ready)

        async def ready() -> bool:
            return (await http.get("/readyz")).status_code == 200

        await until(ready)
        assert (await http.get("/healthz")).text == "ok\n"


@pytest.mark.parametrize("times", [1, 2])
async def test_sigterm_ends_all_workers_with_exit_code_0(
    serve: Callable[..., Any], open_clients: Callable[..., Any], new_phone: Callable[[bytes], Any], times: int
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(None, gateway=TWO))
    async with open_clients(process.ready) as gateway, trio.open_nursery() as nursery:
        await new_phone(device_of(0)).connect(gateway.link_port, nursery)
        pids = [one["pid"] for one in await workers_of(gateway)]
        for _ in range(times):
            assert await process.end_by(signal.SIGTERM) == 0
        assert not any(is_alive(pid) for pid in pids)
        nursery.cancel_scope.cancel()


async def test_killed_supervisor_takes_its_workers_with_it(
    serve: Callable[..., Any], open_clients: Callable[..., Any]
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(None, gateway=TWO))
    async with open_clients(process.ready) as gateway:
        pids = [one["pid"] for one in await workers_of(gateway)]
        assert await process.end_by(signal.SIGKILL) == -signal.SIGKILL
        await until_gone(pids)


async def test_end_of_stdin_ends_all_where_that_was_asked_for(configure: Callable[..., Path]) -> None:
    command = ["gateway", "serve", "--config", str(configure(gateway=TWO)), "--ready-json", "--exit-with-parent"]
    with subprocess.Popen(
        [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert await trio.to_thread.run_sync(child.stdout.readline)
        child.stdin.close()
        assert await trio.to_thread.run_sync(child.wait) == 0


async def test_address_of_another_gateway_is_refused_with_code_2(two: Any, configure: Callable[..., Path]) -> None:
    file = configure(gateway=TWO, rpc={"listeners": [{"address": two.ready["rpc"][0]}]})
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(file)]
    ended = await trio.run_process(command, capture_stderr=True, check=False)
    assert ended.returncode == 2
    assert b"rpc.listeners[0].address" in ended.stderr


async def connect_5(device: bytes, port: int) -> trio.SocketStream:
    """A device of MQTT 5.0 that has been let in by its owner, and says nothing more."""
    name, stream = device.hex().encode(), await trio.open_tcp_stream("127.0.0.1", port)
    fields = [name, b"shop", device_password(SECRET, device.hex()).encode()]
    body = b"\0\x04MQTT\x05\xc2\0\x3c\0" + b"".join(len(one).to_bytes(2, "big") + one for one in fields)
    assert len(body) < 128
    await stream.send_all(b"\x10" + bytes([len(body)]) + body)
    with trio.fail_after(BACK_S):
        connack = await stream.receive_some(1000)
    assert (connack[0], connack[3]) == (0x20, 0)
    return stream


async def test_rolling_restart_replaces_every_worker_devices_come_back_and_submits_do_not_wait_for_it(
    serve: Callable[..., Any], open_clients: Callable[..., Any], new_phone: Callable[[bytes], Any]
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(None, gateway=TWO | {"restart_spread_s": 1.0}))
    async with open_clients(process.ready) as gateway, trio.open_nursery() as nursery:
        before = await workers_of(gateway)
        devices = [device_of(number % 2) for number in range(8)]
        comebacks, turned_away = [0] * len(devices), [0] * len(devices)

        async def stay(number: int, device: bytes) -> None:
            """As a phone does: connects again whenever it has been closed."""
            while True:
                phone = new_phone(device)
                try:
                    async with trio.open_nursery() as reading:
                        await phone.connect(gateway.link_port, reading)
                        comebacks[number] += 1
                except* (OSError, AssertionError, trio.BrokenResourceError):
                    turned_away[number] += 1
                await phone.close()

        for number, device in enumerate(devices):
            nursery.start_soon(stay, number, device)
        of_5 = [await connect_5(device_of(worker), gateway.link_port) for worker in (0, 1)]

        async def online() -> bool:
            return [one.get("devices_online") for one in await workers_of(gateway)] in ([4, 4], [5, 5])

        async def submit_on() -> None:
            # To nobody, so that no row stays open.
            while True:
                answer = await gateway.client.submit([Variant(title="a", body="b")], [os.urandom(16)])
                assert answer.accepted == 1

        await until(online)
        async with open_clients(process.ready) as patient, trio.open_nursery() as submitting:
            patient.operator._timeout_s = 60.0
            submitting.start_soon(submit_on)
            done = (await patient.operator.restart()).workers
            submitting.cancel_scope.cancel()
        assert [(one.worker, one.outcome, one.rows_open) for one in done] == [
            (0, "restarted", {}),
            (1, "restarted", {}),
        ]
        after = await until_all_ready(gateway)
        assert not {one["pid"] for one in before} & {one["pid"] for one in after}
        await until(online)
        # MQTT 5.0 has a word for it: 0x8B, server shutting down (3.14.2.1); older clients see the end alone.
        for stream in of_5:
            async with stream:
                assert (await stream.receive_some(100))[:3] == b"\xe0\x01\x8b"
        # Once at first, once after the restart of its worker. Who was in the accept queue of a socket when it was
        # closed is reset, and tries again.
        assert comebacks == [2] * len(devices)
        assert sum(turned_away) <= 2
        page = await gateway.metrics()
        assert ("pushgw_worker_restarts_total", "0") not in page
        # Half of the ids have their home at the worker that sends its devices away meanwhile.
        assert sum(page["pushgw_stand_in_submits_total", str(worker)] for worker in (0, 1)) > 0
        nursery.cancel_scope.cancel()


async def test_worker_with_rows_in_memory_alone_is_not_restarted_unless_they_may_be_lost(
    serve: Callable[..., Any], open_clients: Callable[..., Any]
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(None, gateway=TWO | {"drain_s": 0.5}))
    async with open_clients(process.ready) as gateway:
        gateway.operator._timeout_s = 60.0
        (device,) = await gateway.register(1, "")
        task = await gateway.client.submit(Variant(title="wait", body="for it", ttl_s=600), [device])
        before = await workers_of(gateway)
        (home,) = [one["worker"] for one in before if one["rows_open"]]
        done = (await gateway.operator.restart()).workers
        # Its home, and the worker that keeps it until the device is back.
        kept = {home, Ownership(2, shard_groups=SHARDS).owner(device)}
        assert [one.outcome for one in done] == ["kept" if one.worker in kept else "restarted" for one in done]
        assert all(done[worker].rows_open == {"held": 1} for worker in kept)
        after = await until_all_ready(gateway)
        assert after[home]["pid"] == before[home]["pid"]
        assert (await gateway.operator.task_state(task.task_id)).states == {"held": 1}
        # It serves as before, new connections included.
        async with open_clients(process.ready) as again:
            await again.register(1, "")
        done = (await gateway.operator.restart(may_lose=True)).workers
        assert [one.outcome for one in done] == ["restarted", "restarted"]


async def test_development_clock_moves_all_workers_and_those_that_start_later(
    serve: Callable[..., Any], open_clients: Callable[..., Any]
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(None, gateway=TWO))
    async with open_clients(process.ready) as gateway:
        began = (await gateway.operator.status()).facts["now_unix_ms"]
        victim = (await workers_of(gateway))[0]
        assert (await gateway.operator.clock_advance(3600)).now_unix_ms >= began + 3_600_000
        os.kill(victim["pid"], signal.SIGKILL)
        await until_all_ready_again(gateway, victim)
        for worker in (0, 1):
            socket = f"unix://{process.ready['operator'].removeprefix('unix://').rsplit('/', 1)[0]}"
            async with open_clients(process.ready | {"operator": f"{socket}/data/run/operator-{worker}.sock"}) as one:
                assert (await one.operator.status()).facts["now_unix_ms"] >= began + 3_600_000


async def test_connections_of_an_app_are_counted_over_all_workers(
    serve: Callable[..., Any], open_clients: Callable[..., Any], new_phone: Callable[[bytes], Any]
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(None, gateway=TWO, app={"connections_max": 3}))
    async with open_clients(process.ready) as gateway, trio.open_nursery() as nursery:
        for device in (device_of(0), device_of(0), device_of(1)):
            await new_phone(device).connect(gateway.link_port, nursery)
        for worker in (0, 1):
            phone = new_phone(device_of(worker))
            with pytest.raises(AssertionError):
                await phone.connect(gateway.link_port, nursery)
            await phone.close()
        assert (await gateway.metrics())["pushgw_logins_refused_total", "shop,app_connections_max"] == 2
        nursery.cancel_scope.cancel()


async def test_operator_is_told_what_no_worker_knows(two: Any, open_clients: Callable[..., Any]) -> None:
    async with open_clients(two.ready) as gateway:
        with pytest.raises(CallFailed, match="not_found"):
            await gateway.operator.task_state(bytes(16))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory, write_certificate: Callable[..., Path]) -> Path:
    return write_certificate(tmp_path_factory.mktemp("tls") / "devices.pem")


async def test_device_whose_tls_ends_at_the_wrong_worker_is_relayed_to_its_owner(
    serve: Callable[..., Any], open_clients: Callable[..., Any], certificate: Path
) -> None:
    listener = {"address": "tls://127.0.0.1:0", "cert_file": str(certificate), "key_file": str(certificate)}
    process = await trio.to_thread.run_sync(lambda: serve(None, gateway=TWO, long_link={"listeners": [listener]}))
    async with open_clients(process.ready) as gateway:
        clients = []
        for number in range(12):
            name = device_of(number % 2).hex()
            options = ["-h", "localhost", "-p", str(gateway.link_port), "-i", name, "-u", "shop", "-q", "1", "-k", "5"]
            options += ["-P", device_password(SECRET, name), "-t", f"d/{name}/down", "--cafile", str(certificate)]
            clients.append(subprocess.Popen(["mosquitto_sub", *options], stderr=subprocess.PIPE))
        try:

            async def online() -> bool:
                return [one.get("devices_online") for one in await workers_of(gateway)] == [6, 6]

            await until(online)
            page = await gateway.metrics()
            relayed = page["pushgw_mqtt_events_total", "relayed"]
            assert relayed > 0
            assert page["pushgw_mqtt_events_total", "tls_handshakes"] == 12
            assert page["pushgw_mqtt_events_total", "adopted"] == relayed
            for client in clients:
                client.terminate()

            async def offline() -> bool:
                return [one.get("devices_online") for one in await workers_of(gateway)] == [0, 0]

            await until(offline)
            page = await gateway.metrics()
            # Accepted once, taken over by its owner where that is another worker, ended once at each.
            closes = sum(
                n for (name, labels), n in page.items() if name == "pushgw_closes_total" and "long_link" in labels
            )
            assert closes == page["pushgw_connections_total", "long_link"] + relayed
        finally:
            for client in clients:
                client.kill()
                client.communicate()


async def test_worker_that_refuses_the_configuration_ends_the_gateway_with_code_2(
    configure: Callable[..., Path], folder: Path
) -> None:
    # The bans are read by the workers alone.
    (folder / "bans.toml").write_text("colour = 1\n")
    file = configure(gateway=TWO, long_link={"bans_file": str(folder / "bans.toml")})
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(file)]
    with trio.fail_after(90):
        ended = await trio.run_process(command, capture_stderr=True, check=False)
    assert ended.returncode == 2
    assert b"colour" in ended.stderr


async def test_audience_reaches_the_devices_of_all_workers_at_its_speed(
    serve: Callable[..., Any], open_clients: Callable[..., Any], new_phone: Callable[[bytes], Any], folder: Path
) -> None:
    process = await trio.to_thread.run_sync(lambda: serve(None, gateway=TWO, audiences={"chunk_rows_max": 4}))
    async with open_clients(process.ready) as gateway, trio.open_nursery() as nursery:
        phones = [await new_phone(device_of(number % 2)).connect(gateway.link_port, nursery) for number in range(20)]
        began = trio.current_time()
        goal = Variant(title="Goal", body="1:0")
        started = await gateway.client.submit_audience(goal, rows_per_s=16.0, online_only=True)
        assert started.devices == 20
        counts = await gateway.until_final(started.task_id)
        assert counts.states == {"device_acked": 20}
        # The last chunk of four leaves a second after the first.
        assert trio.current_time() - began >= 1.0
        assert [sum(phone.received.values()) for phone in phones] == [1] * 20
        (folder / "one.jsonl").write_text('{"title": "Goal", "body": "2:0"}\n')
        file, config = str(folder / "one.jsonl"), str(folder / "gateway.toml")
        address = process.ready["rpc"][0]
        command = [sys.executable, "-m", "gateway", "submit", file, "--config", config, "--address", address]
        ended = await trio.run_process([*command, "--audience", "all", "--json"], capture_stdout=True)
        assert b'"devices": 20' in ended.stdout or b'"devices":20' in ended.stdout

        async def all_have_both() -> bool:
            return [sum(phone.received.values()) for phone in phones] == [2] * 20

        await until(all_have_both)
        # Registered and away, two at each worker: everybody's message waits for them.
        away = [device_of(number % 2) for number in range(4)]
        states = [DeviceState(device_id=one, alias="ada", tags=("fans",)) for one in away]
        await gateway.client.register_devices(states)
        assert (await gateway.client.submit_audience(goal, online_only=True)).devices == 20
        everybody = await gateway.client.submit_audience(goal)
        assert everybody.devices == 24
        assert (await gateway.client.submit_audience(goal, tag="fans")).devices == 4
        ada = await gateway.client.submit_audience(goal, aliases=["ada", "zoe"])
        assert (ada.devices, [one.field for one in ada.refused]) == (4, ["aliases[1]"])
        late = [await new_phone(one).connect(gateway.link_port, nursery) for one in away]

        async def all_have_their_own() -> bool:
            seen = [sum(phone.received.values()) for phone in phones + late]
            return seen == [4] * 20 + [3] * 4

        await until(all_have_their_own)
        assert all(set(phone.received.values()) == {1} for phone in phones + late)
        rows = await gateway.client.task_rows(everybody.task_id)
        reached = [bytes(rows.device_ids)[16 * row : 16 * row + 16] for row in range(rows.n)]
        assert sorted(reached) == sorted(phone.device_id for phone in phones + late)
        assert (await gateway.client.submit_audience(goal, tag="none")).devices == 0
        with pytest.raises(CallFailed, match="no device has the alias 'zoe'"):
            await gateway.client.submit_audience(goal, aliases=["zoe"])
        nursery.cancel_scope.cancel()
