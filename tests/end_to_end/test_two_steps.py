"""A crash between the two steps of OPPO and vivo: what was saved and not sent is saved and sent at the next start, once
to everybody."""

from __future__ import annotations

import hashlib
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.content import Variant

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
N = 30
SAVES = {"oppo": "/server/v1/message/notification/save_message_content", "vivo": "/message/saveListPayload"}
SECOND_STEPS = {"oppo": "/server/v1/message/notification/broadcast", "vivo": "/message/pushToList"}


@pytest.fixture
def site(folder: Path, simulate: Callable[..., Any]) -> Iterator[Any]:
    with simulate(folder, "--only", "oppo,vivo") as site:
        yield site


def paths(site: Any, name: str) -> Counter[str]:
    """The requests that a simulator has had."""
    told = site.call("GET", f"/requests?simulator={name}&last=100")
    return Counter(request["path"] for requests in told.values() for request in requests)


def tables(ready: dict[str, Any], folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, secret, key in (("oppo", "master_secret", "app_key"), ("vivo", "app_secret", "app_key")):
        told = ready[next(each for each in ready if each == name or each.startswith(f"{name}."))]
        known = told.get("credentials", told)
        (folder / f"{name}.secret").write_text(known[secret])
        made[name] = {
            "host": told["host"],
            "port": told["port"],
            "ca_file": told.get("ca_file", ready.get("ca_file")),
            "app_key_id": known[key],
            f"{secret}_file": str(folder / f"{name}.secret"),
        }
    made["vivo"]["app_id"] = (ready["vivo"].get("credentials") or ready["vivo"])["app_id"]
    return made


def targets(name: str, first: int) -> list[tuple[str, str]]:
    if name == "oppo":
        return [("oppo", f"CN_{number:032x}") for number in range(first, first + N)]
    return [("vivo", f"1{number:022d}") for number in range(first, first + N)]


async def until(condition: Callable[[], Any]) -> None:
    with trio.fail_after(60):
        while not await trio.to_thread.run_sync(condition):
            await trio.sleep(0.05)


async def test_a_crash_between_two_steps_sends_nobody_a_message_twice(
    serve: Callable[..., Any], open_clients: Callable[..., Any], site: Any, folder: Path
) -> None:
    over = {"app": {"durability": "disk"}, "journal": {"segment_bytes": 1 << 20}, "vendors": tables(site.ready, folder)}
    process = await trio.to_thread.run_sync(lambda: serve(None, **over))
    async with open_clients(process.ready) as gateway:
        # Tokens are asked for and both steps known before anything is held up.
        for name in SAVES:
            first = await gateway.client.submit(
                Variant("标题", "一", strategy=2, class_="marketing"), targets(name, 1000)
            )
            assert (await gateway.until_final(first.task_id)).states == {"vendor_accepted": N}
            assert paths(site, name)[SAVES[name]] == 1
            fault = {"simulator": name, "kind": "no_answer", "applies_to": "save", "for_s": 600}
            site.call("PUT", "/fault", fault)
        submitted = {
            ("oppo", "marketing"): targets("oppo", 2000),
            ("vivo", "marketing"): targets("vivo", 2000),
            ("vivo", "system"): targets("vivo", 3000),
        }
        tasks = {}
        for key, to in submitted.items():
            variant = Variant("标题", " ".join(key), strategy=2, class_=key[1])
            tasks[key] = (await gateway.client.submit(variant, to)).task_id
        await until(lambda: paths(site, "oppo")[SAVES["oppo"]] >= 2 and paths(site, "vivo")[SAVES["vivo"]] >= 3)
    await process.end_by(signal.SIGKILL)
    assert [paths(site, name)[SECOND_STEPS[name]] for name in SAVES] == [1, 1]
    site.call("DELETE", "/fault")
    process = await trio.to_thread.run_sync(lambda: serve(None, **over))
    async with open_clients(process.ready) as gateway:
        states = {key: (await gateway.until_final(task)).states for key, task in tasks.items()}
    received: Counter[str] = Counter()
    for name in SAVES:
        for row in site.received(name):
            assert row["copies"] == 1
            received[row["target"]] += 1
    for key, to in submitted.items():
        copies = [received[hashlib.sha256(token.encode()).hexdigest()[:32]] for _, token in to]
        # Marketing too: nothing had been sent, so nothing is uncertain.
        assert (copies, states[key]) == ([1] * N, {"vendor_accepted": N})
