"""Newcomers stand in line while a worker has other work; the long link over real sockets, with a CPU clock of ours."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import pytest

from bench.devices.mqtt import connect
from gateway.core.identity import device_password
from gateway.core.login_turns import STORM_REST_S

SECRET = b"app secret"
#: What each look at the clock costs: a login takes two looks, a step some more.
LOOK_S = 0.0003
PINGREQ, PINGRESP, CONNACK = b"\xc0\x00", b"\xd0\x00", b"\x20\x02\x00\x00"


@pytest.fixture
def site(new_link_site: Callable[..., Any]) -> Any:
    return new_link_site(look_s=LOOK_S, handshaking_per_address_max=4096)


def hello(number: int) -> bytes:
    name = number.to_bytes(16, "big").hex()
    return connect(name, "app", device_password(SECRET, name), 60)


def test_storm_is_let_in_bit_by_bit_and_others_are_read_meanwhile(site: Any) -> None:
    old = site.connect(hello(0))
    site.until(lambda: site.owner.online)
    assert old.recv(4) == CONNACK
    site.others_s = 0.01
    clients = [site.connect(hello(number)) for number in range(1, 101)]
    counts, pings = [], 0
    old.sendall(PINGREQ)
    while len(site.owner.online) < 101:
        counts.append(site.step())
        if select.select([old], [], [], 0)[0]:
            assert old.recv(2) == PINGRESP
            pings += len(site.link.newcomers) > 0
            old.sendall(PINGREQ)
    assert max(counts) <= 2
    assert pings > 5
    for client in clients:
        assert client.recv(4) == CONNACK
    assert site.link.statistics().counts["logins_waited"] > 20
    assert len(site.link.newcomers) == 0


def test_alone_logins_have_the_whole_step(site: Any) -> None:
    for number in range(30):
        site.connect(hello(number))
    counts = site.until(lambda: len(site.owner.online) == 30)
    assert max(counts) > 2


def test_those_in_line_are_let_in_in_the_order_in_which_they_came(site: Any) -> None:
    site.others_s = 0.01
    for number in range(30):
        site.connect(hello(number))
        site.step()
    site.until(lambda: len(site.owner.online) == 30)
    order = [int.from_bytes(device, "big") for device in site.owner.online]
    assert order == sorted(order)


def test_those_of_a_storm_are_accepted_together_and_others_are_served_meanwhile(site: Any) -> None:
    link, edge = site.link, site.link.edge

    def step(wait_s: float = 0.02) -> None:
        select.select([edge.fileno()], [], [], wait_s)
        link.step(site.now)

    first = site.connect(hello(0))
    number = 1
    while edge.accept_again_at is None:
        assert number < 100, "nobody took it for a storm"
        site.connect(hello(number))
        number += 1
        step()
    assert edge.accept_again_at == site.now + STORM_REST_S
    for more in range(number, number + 10):
        site.connect(hello(more))
    first.sendall(PINGREQ)
    accepted = site.count("accepted")
    for _ in range(50):
        step()
    assert site.count("accepted") == accepted
    assert first.recv(6) == CONNACK + PINGRESP
    site.now = edge.accept_again_at
    step()
    assert site.count("accepted") == accepted + 10
    site.until(lambda: len(site.owner.online) == number + 10)


def test_adopted_ones_of_a_storm_are_asked_to_come_together(site: Any) -> None:
    assert site.link.adopted(1) == 0.0
    assert site.link.adopted(30) == STORM_REST_S
    site.now += 5.0
    assert site.link.adopted(1) == 0.0


def test_who_waits_may_say_more_and_who_says_too_much_does_not_wait(site: Any) -> None:
    site.others_s = 0.01
    talker, flood = hello(98), b"\x10\xff\xff\x7f" + b"x" * 5_000
    for number in range(20):
        site.connect(hello(number))
    late = site.connect(talker[:20])
    rude = site.connect(flood)
    site.until(lambda: len(site.link.newcomers) > 3)
    late.sendall(talker[20:] + PINGREQ)
    site.until(lambda: len(site.owner.online) == 21 and not len(site.link.newcomers))
    site.until(lambda: site.link.statistics().closed["frame_too_large"])
    assert late.recv(6) == CONNACK + PINGRESP
    assert rude.recv(1) == b""


def test_one_that_goes_while_it_waits_leaves_its_place(site: Any) -> None:
    site.others_s = 0.01
    for number in range(20):
        site.connect(hello(number))
    gone = site.connect(hello(50))
    site.until(lambda: len(site.link.newcomers) > 3)
    gone.close()
    site.connect(hello(60))
    site.until(lambda: (60).to_bytes(16, "big") in site.owner.online)
    site.until(lambda: not len(site.link.newcomers))
    statistics = site.link.statistics()
    assert statistics.connections in (21, 22)
