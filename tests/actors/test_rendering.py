"""Rendering: the device table's tokens joined with the rows of a page, and every row accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.actors.rendering import LaneRenderer, LinkRenderer
from gateway.columns import join
from gateway.content import Variant
from gateway.core.render import Renderer
from gateway.ledger import Channel, Reason
from vendors import apns

VENDOR = apns.Apns(apns.Settings("TEAM123456", "KEY1234567", "com.example.app", key_file="key.p8"))


def lane_renderer(world: Any) -> LaneRenderer:
    return LaneRenderer(renderer=Renderer(), devices=world.devices, vendor=VENDOR, channel=Channel.APNS)


def routed(world: Any, targets: Any, variants: Any = None) -> Any:
    """A page whose rows have been looked up, as the router leaves it."""
    page = world.open(targets, variants)
    page.slots[:] = world.devices.find(page.batch.device_ids, 0)
    return page


def render(world: Any, page: Any, rows: Any) -> Any:
    return lane_renderer(world).render(page, np.array(rows), b"bearer x", page.batch.born_unix_ms / 1000)


def sent(burst: Any) -> dict[int, tuple[str, dict[str, Any]]]:
    """Row -> (path, body) of every request."""
    out: dict[int, tuple[str, dict[str, Any]]] = {}
    for part in burst.bursts:
        requests = part.requests
        paths = join(requests.path, 0, requests.n)
        bodies = join(requests.body, 0, requests.n)
        assert requests.n == len(part.rows) == len(part.truncated)
        for row, path, body in zip(part.rows.tolist(), paths, bodies, strict=True):
            assert row not in out
            out[row] = (path.decode(), json.loads(body))
    return out


async def test_lane_renderer_makes_the_requests_of_exactly_the_rows_asked_for(make_world: Callable[..., Any]) -> None:
    world = make_world()
    devices = world.register(6)
    page = routed(world, devices)
    burst = render(world, page, [1, 3, 4])
    found = sent(burst)
    assert {row: path for row, (path, _) in found.items()} == {
        row: "/3/device/" + world.token(devices[row]).decode() for row in (1, 3, 4)
    }
    assert (len(burst.tokenless), burst.refused) == (0, [])
    hashes = world.devices.token_hashes(page.slots)
    assert page.token_hashes.tolist() == [int(hashes[row]) if row in (1, 3, 4) else 0 for row in range(6)]


async def test_lane_renderer_takes_token_targets_and_devices_in_one_slice(make_world: Callable[..., Any]) -> None:
    world = make_world()
    (device,) = world.register(1)
    targets = [(Channel.APNS, b"a" * 64), device, (Channel.APNS, b"b" * 80)]
    page = routed(world, targets)
    found = sent(render(world, page, [0, 1, 2]))
    assert {row: path.removeprefix("/3/device/") for row, (path, _) in found.items()} == {
        0: "a" * 64,
        1: world.token(device).decode(),
        2: "b" * 80,
    }
    assert len(set(page.token_hashes.tolist())) == 3
    assert 0 not in page.token_hashes


async def test_lane_renderer_gives_no_row_the_token_of_another_device(make_world: Callable[..., Any]) -> None:
    """The device was removed since it was routed, and its slot belongs to somebody else."""
    world = make_world()
    gone, stays = world.register(2)
    page = routed(world, [gone, stays])
    world.devices.remove(page.slots[:1].copy())
    (other,) = world.register(1, first=50)
    assert world.devices.find_one(other, 0) == page.slots[0]
    burst = render(world, page, [0, 1])
    assert burst.tokenless.tolist() == [0]
    assert list(sent(burst)) == [1]


async def test_lane_renderer_sends_nothing_to_muted_and_to_foreign_tokens(make_world: Callable[..., Any]) -> None:
    world = make_world()
    muted, fine, moved = world.register(3)
    page = routed(world, [muted, fine, moved])
    world.devices.mute_tokens(page.slots[:1], world.devices.token_hashes(page.slots[:1]))
    world.devices.register(0, world.registration([moved], Channel.FCM, [b"fcm"]), 1)
    burst = render(world, page, [0, 1, 2])
    assert sorted(burst.tokenless.tolist()) == [0, 2]
    assert list(sent(burst)) == [1]


@given(data=st.data())
def test_lane_renderer_accounts_for_every_row_once(data: st.DataObject, request: Any) -> None:
    """Tokens of several lengths, none, texts that must be cut, contents that cannot: each row stands in one place."""
    import trio

    make_world = request.getfixturevalue("make_world")

    async def main() -> None:
        world = make_world()
        kinds = data.draw(
            st.lists(st.sampled_from(["short", "long", "none", "unknown", "target"]), min_size=1, max_size=12)
        )
        targets: list[Any] = []
        for number, kind in enumerate(kinds):
            (device,) = world.register(1, Channel.NONE, first=number)
            if kind in ("short", "long"):
                token = (b"%02x" % number) * (32 if kind == "short" else 50)
                world.devices.register(0, world.registration([device], Channel.APNS, [token]), 1)
            targets.append({"unknown": b"u" * 16, "target": (Channel.APNS, b"c" * 64)}.get(kind, device))
        bodies = [data.draw(st.sampled_from(["b", "字" * 3000])) for _ in kinds]
        blobs = [data.draw(st.sampled_from([None, {"k": "x" * 5000}])) for _ in kinds]
        variants = [Variant("t", body, data=blob) for body, blob in zip(bodies, blobs, strict=True)]
        page = routed(world, targets, variants)
        rows = data.draw(st.lists(st.integers(0, len(kinds) - 1), unique=True, min_size=1))
        burst = render(world, page, sorted(rows))
        found = sent(burst)
        refused = {row: reason for part, reason in burst.refused for row in part.tolist()}
        places = [*found, *burst.tokenless.tolist(), *refused]
        assert sorted(places) == sorted(rows)
        for row in rows:
            if kinds[row] in ("none", "unknown"):
                assert row in burst.tokenless
            elif blobs[row] is not None:
                assert refused[row] in (Reason.CONTENT_TOO_LONG, Reason.CONTENT_REFUSED)
            else:
                assert found[row][1]["message_id"].replace("-", "") == page.batch.message_ids[row].tobytes().hex()
        cut = {
            row: bool(flag)
            for part in burst.bursts
            for row, flag in zip(part.rows.tolist(), part.truncated, strict=True)
        }
        assert cut == {row: len(bodies[row]) > 1 for row in found}

    trio.run(main)


async def test_link_renderer_makes_the_payload_of_each_row_and_names_those_it_cannot(
    make_world: Callable[..., Any],
) -> None:
    world = make_world()
    devices = world.register(4, Channel.NONE)
    variants = [
        Variant("one", "b"),
        Variant("two", "b", badge=3, data={"k": "v"}),
        Variant("too much", "b", data={"k": "x" * 20_000}),
        Variant("long", "b" * 30_000),
    ]
    page = routed(world, devices, variants)
    groups, refused = LinkRenderer(Renderer()).render(page, np.arange(4), page.batch.born_unix_ms / 1000)
    found: dict[int, Any] = {}
    for group in groups:
        texts = join(group.payload, 0, len(group.rows))
        assert group.positions.tolist() == group.rows.tolist()
        for row, text, cut in zip(group.rows.tolist(), texts, group.truncated.tolist(), strict=True):
            found[row] = (json.loads(text), cut)
    assert [row for part, _ in refused for row in part.tolist()] == [2]
    assert sorted(found) == [0, 1, 3]
    assert [found[row][1] for row in (0, 1, 3)] == [False, False, True]
    assert (found[1][0]["badge"], found[1][0]["data"]) == (3, {"k": "v"})
    assert found[0][0]["message_id"].replace("-", "") == page.batch.message_ids[0].tobytes().hex()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it makes a new world for each example
@given(data=st.data())
def test_lane_renderer_names_the_rows_whose_tokens_are_unproven(make_world: Callable[..., Any], data: Any) -> None:
    """The plain twin looks at one row after the other. Devices without a token are tokenless, proven or not."""

    async def main() -> None:
        check_division(make_world(), data)

    trio.run(main)


def check_division(world: Any, data: Any) -> None:
    n = data.draw(st.integers(1, 12))
    devices = world.register(n)
    kinds = data.draw(st.lists(st.sampled_from(["proven", "new", "bare", "text", "long"]), min_size=n, max_size=n))
    targets: list[Any] = list(devices)
    now = world.clock.unix_ms() // 1000
    for index, kind in enumerate(kinds):
        token = b"%064d" % index if kind != "long" else b"%080d" % index
        channel = Channel.NONE if kind == "bare" else Channel.APNS
        held = world.registration([devices[index]], channel, [b"" if kind == "bare" else token], kind == "proven")
        world.devices.register(0, held, now)
        if kind == "text":
            # a target that is a token: proven where the device that holds it has proven it
            targets[index] = (Channel.APNS, token)
            if data.draw(st.booleans()):
                kinds[index] = "proven text"
                world.devices.register(0, world.registration([devices[index]], Channel.APNS, [token], 1), now)
    page = routed(world, targets)
    renderer = LaneRenderer(
        renderer=Renderer(), devices=world.devices, vendor=VENDOR, channel=Channel.APNS, needs_proof=True
    )
    burst = renderer.render(page, np.arange(n), b"bearer x", page.batch.born_unix_ms / 1000)
    wanted = dict(enumerate(kinds))
    assert sorted(sent(burst)) == [row for row, kind in wanted.items() if kind.startswith("proven")]
    assert burst.unproven.tolist() == [row for row, kind in wanted.items() if kind in ("new", "text", "long")]
    assert burst.tokenless.tolist() == [row for row, kind in wanted.items() if kind == "bare"]
    # and whoever needs no proof renders them all
    everything = render(world, page, list(range(n)))
    assert sorted(sent(everything)) == [row for row, kind in wanted.items() if kind != "bare"]
    assert len(everything.unproven) == 0
