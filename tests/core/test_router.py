"""Router: the decision for every combination of facts, against rules written as sentences."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gateway.batch import Batch
from gateway.columns import TextColumn
from gateway.content import Class, Priority, Variant
from gateway.core.device_answers import Routing
from gateway.core.options import AppDefaults, compile_options
from gateway.core.router import (
    Routed,
    live_rows,
    reroute_after_long_link,
    reroute_after_vendor,
    reroute_offline,
    route,
)
from gateway.ledger import Channel, LedgerPage, Reason, State
from gateway.message_id import BatchAddress

APP = 3
HAS_LANE = np.zeros(len(Channel), np.bool_)
HAS_LANE[[Channel.APNS, Channel.FCM]] = True


class PlainDevice:
    def __init__(self, number: int, channel: int, has_token: bool, is_online: bool) -> None:
        self.device_id = bytes([number + 1]) * 16
        self.slot = number
        self.channel, self.has_token, self.is_online = channel, has_token, is_online
        self.filters = 0
        self.fd, self.generation = (number + 10, number + 100) if is_online else (-1, 0)


class PlainTable:
    """What the router asks of the device table, from a list of devices of one app."""

    def __init__(self, devices: list[PlainDevice]) -> None:
        self.devices = devices
        self.by_id = {device.device_id: device.slot for device in devices}

    def locate(self, ids: np.ndarray, app_index: int) -> tuple[np.ndarray, Routing]:
        assert app_index == APP
        rows = np.array([self.by_id.get(one.tobytes(), -1) for one in ids], np.int32)
        found = [self.devices[row] if row >= 0 else None for row in rows.tolist()]

        def column(of: Callable[[PlainDevice], int], absent: int, dtype: type) -> np.ndarray:
            return np.array([absent if device is None else of(device) for device in found], dtype)

        return rows, Routing(
            is_known=rows >= 0,
            is_online=column(lambda device: device.is_online, 0, np.bool_),
            has_token=column(lambda device: device.has_token, 0, np.bool_),
            channel=column(lambda device: device.channel, 0, np.uint8),
            fd=column(lambda device: device.fd, -1, np.int32),
            generation=column(lambda device: device.generation, 0, np.uint32),
            proven_unix_s=column(lambda device: 0, 0, np.uint32),
            filters=column(lambda device: device.filters, 0, np.uint8),
        )


def page_of(
    ids: list[bytes],
    variants: list[Variant],
    index: list[int],
    channels: list[int] | None = None,
) -> LedgerPage:
    n = len(ids)
    tokens = None if channels is None else TextColumn.from_rows([b"token" if channel else b"" for channel in channels])
    return LedgerPage(
        Batch(
            BatchAddress(0, 0, 0),
            APP,
            0.0,
            n,
            device_ids=np.frombuffer(b"".join(ids), np.uint8).reshape(n, 16),
            message_ids=np.zeros((n, 16), np.uint8),
            variants=variants,
            variant_index=np.array(index, np.uint16) if len(variants) > 1 else None,
            channels=None if channels is None else np.array(channels, np.uint8),
            tokens=tokens,
        )
    )


Way = tuple[object, ...]


def ways(routed: Routed) -> dict[int, Way]:
    """Row -> its way; fails if a row stands in two columns."""
    found: list[tuple[int, Way]] = []
    assert len(routed.long_link) == len(routed.fds) == len(routed.generations)
    for row, fd, generation in zip(
        routed.long_link.tolist(), routed.fds.tolist(), routed.generations.tolist(), strict=True
    ):
        found.append((row, ("long_link", fd, generation)))
    for group in routed.vendor:
        assert len(group.rows)
        found += [(row, ("vendor", group.channel, group.class_, group.priority)) for row in group.rows.tolist()]
        assert group.rows.tolist() == sorted(group.rows.tolist())
    found += [(row, ("inbox",)) for row in routed.inbox.tolist()]
    for reason, rows in routed.dropped:
        found += [(row, ("dropped", reason)) for row in rows.tolist()]
    found += [(row, ("failed",)) for row in routed.failed.tolist()]
    found += [(row, ("expired",)) for row in routed.expired.tolist()]
    assert len({row for row, _ in found}) == len(found)
    return dict(found)


def vendor_way(channel: int, variant: Variant) -> Way:
    class_ = Class.MARKETING if variant.class_ == "marketing" else Class.SYSTEM
    return ("vendor", Channel(channel), class_, Priority.NORMAL if variant.priority == "normal" else Priority.HIGH)


def strategy_of(variant: Variant, device: PlainDevice | None) -> int:
    if isinstance(variant.strategy, int):
        return variant.strategy or 1
    channel = Channel(device.channel) if device is not None else Channel.NONE
    name = "long_link" if channel is Channel.NONE else channel.name.lower()
    return variant.strategy.get(name, variant.strategy.get("default", 1))


def plain_first(variant: Variant, device: PlainDevice | None, token_channel: int, is_online: bool | None = None) -> Way:
    if token_channel:
        return vendor_way(token_channel, variant)
    if device is None:
        return ("dropped", Reason.UNKNOWN_DEVICE)
    online = device.is_online if is_online is None else is_online
    can_vendor = device.has_token and bool(HAS_LANE[device.channel])
    strategy = strategy_of(variant, device)
    long_link = ("long_link", device.fd, device.generation)
    if strategy == 4 and can_vendor:
        return vendor_way(device.channel, variant)
    if strategy in (1, 3, 4) and online:
        return long_link
    if strategy in (1, 2) and can_vendor:
        return vendor_way(device.channel, variant)
    if strategy == 2:
        return ("dropped", Reason.NO_CHANNEL)
    return ("dropped", Reason.DEVICE_OFFLINE) if variant.ttl_s == 0 else ("inbox",)


def plain_after_vendor(variant: Variant, device: PlainDevice | None, token_channel: int) -> Way:
    if token_channel or device is None or strategy_of(variant, device) != 4:
        return ("failed",)
    if device.is_online:
        return ("long_link", device.fd, device.generation)
    return ("failed",) if variant.ttl_s == 0 else ("inbox",)


def plain_after_long_link(variant: Variant, device: PlainDevice) -> Way:
    can_vendor = device.has_token and bool(HAS_LANE[device.channel])
    strategy = strategy_of(variant, device)
    if strategy in (1, 2) and can_vendor:
        return vendor_way(device.channel, variant)
    if strategy == 2:
        return ("failed",)
    return ("expired",) if variant.ttl_s == 0 else ("inbox",)


# Every combination

BOTH = (False, True)
DEVICES = [
    PlainDevice(number, channel, has_token, is_online)
    for number, (channel, has_token, is_online) in enumerate(
        [
            (channel, has_token, is_online)
            for channel, has_token, is_online in itertools.product(
                (Channel.NONE, Channel.APNS, Channel.FCM, Channel.VIVO), BOTH, BOTH
            )
            if channel or not has_token
        ]
    )
]
VARIANTS = [
    Variant("t", "b", strategy=strategy, ttl_s=ttl, class_=class_, priority=priority)
    for strategy, ttl, class_, priority in itertools.product(
        (0, 1, 2, 3, 4, {"default": 2, "apns": 4, "long_link": 3}, {"fcm": 3}),
        (0, 60),
        ("system", "marketing"),
        ("high", "normal"),
    )
]
UNKNOWN = bytes([250]) * 16
CASES = [(device, variant, 0) for device in [*DEVICES, None] for variant in range(len(VARIANTS))]
TOKEN_CASES = [(None, variant, channel) for variant in range(len(VARIANTS)) for channel in (Channel.APNS, Channel.FCM)]


def page_of_cases(cases: list[tuple[PlainDevice | None, int, int]], *, with_channels: bool) -> LedgerPage:
    ids = [bytes(16) if channel else (UNKNOWN if device is None else device.device_id) for device, _, channel in cases]
    index = [variant for _, variant, _ in cases]
    return page_of(ids, VARIANTS, index, [channel for *_, channel in cases] if with_channels else None)


def decided(decide: Callable, page: LedgerPage, rows: np.ndarray) -> dict[int, Way]:
    options = compile_options(page.batch, AppDefaults())
    states = page.state.copy()
    found = ways(decide(page, rows, PlainTable(DEVICES), options, HAS_LANE))
    assert sorted(found) == sorted(rows.tolist())
    assert page.state.tolist() == states.tolist()
    return found


def test_the_first_way_is_as_the_rules_say_in_every_case() -> None:
    page = page_of_cases(CASES, with_channels=False)
    found = decided(route, page, np.arange(page.n))
    for row, (device, variant, channel) in enumerate(CASES):
        assert found[row] == plain_first(VARIANTS[variant], device, channel), (vars(device or object), variant)
        assert page.slots[row] == (-1 if device is None else device.slot)


def test_a_token_goes_to_its_vendor_in_every_case_beside_devices() -> None:
    cases = [case for pair in zip(itertools.cycle(TOKEN_CASES), CASES, strict=False) for case in pair]
    page = page_of_cases(cases, with_channels=True)
    found = decided(route, page, np.arange(page.n))
    for row, (device, variant, channel) in enumerate(cases):
        assert found[row] == plain_first(VARIANTS[variant], device, channel)


def test_tokens_alone_need_no_device() -> None:
    page = page_of_cases(TOKEN_CASES, with_channels=True)
    found = decided(route, page, np.arange(page.n))
    assert found == {row: vendor_way(channel, VARIANTS[v]) for row, (_, v, channel) in enumerate(TOKEN_CASES)}


def test_after_a_vendors_refusal_the_way_is_as_the_rules_say_in_every_case() -> None:
    cases = [*CASES, *TOKEN_CASES]
    page = page_of_cases(cases, with_channels=True)
    found = decided(reroute_after_vendor, page, np.arange(page.n))
    for row, (device, variant, channel) in enumerate(cases):
        assert found[row] == plain_after_vendor(VARIANTS[variant], device, channel)


def test_after_a_silent_socket_the_way_is_as_the_rules_say_in_every_case() -> None:
    cases = [case for case in CASES if case[0] is not None]
    page = page_of_cases(cases, with_channels=False)
    found = decided(reroute_after_long_link, page, np.arange(page.n))
    for row, (device, variant, _) in enumerate(cases):
        assert found[row] == plain_after_long_link(VARIANTS[variant], device)


def test_a_socket_that_takes_nothing_counts_as_offline_in_every_case() -> None:
    cases = [case for case in CASES if case[0] is not None]
    page = page_of_cases(cases, with_channels=False)
    found = decided(reroute_offline, page, np.arange(page.n))
    for row, (device, variant, _) in enumerate(cases):
        assert found[row] == plain_first(VARIANTS[variant], device, 0, is_online=False)
        assert found[row][0] != "long_link"


@given(
    st.lists(st.sampled_from([*CASES, *TOKEN_CASES]), min_size=1, max_size=20),
    st.data(),
    st.sampled_from([np.uint16, np.int64]),
)
def test_any_slice_of_a_batch_is_routed_row_by_row_alike(cases: list, data: st.DataObject, dtype: type) -> None:
    page = page_of_cases(cases, with_channels=data.draw(st.booleans()) or any(case[2] for case in cases))
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, page.n - 1), min_size=1))), dtype)
    found = decided(route, page, rows)
    for row in rows.tolist():
        device, variant, channel = cases[row]
        assert found[row] == plain_first(VARIANTS[variant], device, channel)


@pytest.mark.parametrize("decide", [route, reroute_after_vendor, reroute_after_long_link, reroute_offline])
def test_one_variant_is_routed_as_many(decide: Callable) -> None:
    for variant in VARIANTS:
        alone = page_of([device.device_id for device in DEVICES], [variant], [])
        index = [VARIANTS.index(variant)] * len(DEVICES)
        among = page_of([device.device_id for device in DEVICES], VARIANTS, index)
        rows = np.arange(len(DEVICES))
        assert decided(decide, alone, rows) == decided(decide, among, rows)


@pytest.mark.parametrize("with_channels", BOTH)
def test_neighbours_are_routed_as_rows_one_by_one(with_channels: bool) -> None:
    cases = [*CASES, *TOKEN_CASES] if with_channels else CASES
    gathered, spanned = (page_of_cases(cases, with_channels=with_channels) for _ in BOTH)
    rows, span = np.arange(5, len(cases) - 3), slice(5, len(cases) - 3)
    found = decided(functools.partial(route, span=span), spanned, rows)
    assert found == decided(route, gathered, rows)
    assert spanned.slots.tolist() == gathered.slots.tolist()


def test_without_lanes_a_token_is_no_way() -> None:
    online = PlainDevice(0, Channel.APNS, True, False)
    page = page_of([online.device_id], [Variant("t", "b", strategy=2)], [])
    options = compile_options(page.batch, AppDefaults())
    no_lane = np.zeros(len(Channel), np.bool_)
    assert ways(route(page, rows_of(0), PlainTable([online]), options, no_lane)) == {0: ("dropped", Reason.NO_CHANNEL)}


def rows_of(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@given(
    st.lists(st.sampled_from([State.QUEUED, State.DROPPED, State.CANCELLED, State.EXPIRED]), min_size=1, max_size=12)
)
def test_live_rows_are_those_still_queued(states: list[State]) -> None:
    page = page_of([bytes(16)] * len(states), [Variant("t", "b")], [])
    for row, state in enumerate(states):
        if state is not State.QUEUED:
            page.move(rows_of(row), state)
    for first in range(len(states) + 1):
        for stop in range(first, len(states) + 1):
            expected = [row for row in range(first, stop) if states[row] is State.QUEUED]
            assert live_rows(page, first, stop).tolist() == expected
