"""Names and addresses: looked up anew for each connection, spread over all of them, and none that is dead for long."""

from __future__ import annotations

import socket
from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.addresses import ADDRESSES_MAX, STAGGER_S, in_turn, open_tcp


class Names(trio.abc.HostnameResolver):
    """A name server of our own: every name has `addresses`, numbers are themselves."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.questions = 0

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any) -> Any:
        self.questions += 1
        kind = socket.SOCK_STREAM
        return [(socket.AF_INET, kind, 6, "", (address, port)) for address in self.addresses]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.fixture
async def names() -> Any:
    found = Names()
    trio.socket.set_custom_hostname_resolver(found)
    return found


async def listen(nursery: trio.Nursery, addresses: list[str]) -> tuple[int, Counter[str]]:
    """Listeners on one port of several addresses, and how often each was connected to."""
    taken: Counter[str] = Counter()

    async def serve(stream: trio.SocketStream) -> None:
        taken[stream.socket.getsockname()[0]] += 1
        await stream.receive_some()

    port = 0
    for address in addresses:
        (listener,) = await trio.open_tcp_listeners(port, host=address)
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, [listener])
    return port, taken


@given(st.lists(st.text("0123456789.", min_size=1), min_size=1, max_size=40), st.integers(0, 1 << 40), st.randoms())
def test_each_connection_begins_with_the_next_address(addresses: list[str], turn: int, chance: Any) -> None:
    distinct = set(addresses)
    shuffled = chance.sample(addresses, len(addresses))
    firsts = {in_turn(shuffled, turn + step)[0] for step in range(len(distinct))}
    assert firsts == distinct, "the resolver's own order does not matter"
    tried = in_turn(addresses, turn)
    assert len(tried) == len(set(tried)) == min(len(distinct), ADDRESSES_MAX)
    assert in_turn(addresses, turn + len(distinct)) == tried


async def test_connections_are_spread_over_all_addresses(nursery: trio.Nursery, names: Names) -> None:
    addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    names.addresses = tuple(addresses)
    port, taken = await listen(nursery, addresses)
    streams = [await open_tcp("push.example", port, turn) for turn in range(9)]
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert taken == dict.fromkeys(addresses, 3)
    for stream in streams:
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await stream.aclose()
    nursery.cancel_scope.cancel()


async def test_the_name_is_looked_up_for_every_connection(nursery: trio.Nursery, names: Names) -> None:
    port, taken = await listen(nursery, ["127.0.0.1", "127.0.0.2"])
    for turn, address in enumerate(["127.0.0.1", "127.0.0.2", "127.0.0.2"]):
        names.addresses = (address,)
        await (await open_tcp("push.example", port, turn)).aclose()
        assert names.questions == turn + 1
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert taken == {"127.0.0.1": 1, "127.0.0.2": 2}
    nursery.cancel_scope.cancel()


async def test_a_dead_address_costs_nothing_and_one_that_is_silent_a_moment(
    nursery: trio.Nursery, names: Names
) -> None:
    port, taken = await listen(nursery, ["127.0.0.2"])
    names.addresses = ("127.0.0.1", "127.0.0.2")
    begun = trio.current_time()
    await (await open_tcp("push.example", port, 0)).aclose()
    assert trio.current_time() - begun < STAGGER_S
    # A listener whose queue is full lets further connections wait.
    with socket.create_server(("127.0.0.1", port), backlog=0) as silent:
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        begun = trio.current_time()
        await (await open_tcp("push.example", port, 0)).aclose()
        assert STAGGER_S <= trio.current_time() - begun < 3 * STAGGER_S
        for filler in fillers:
            filler.close()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert taken == {"127.0.0.2": 2}
    nursery.cancel_scope.cancel()


async def test_no_address_that_answers_is_an_error_and_leaves_nothing_open(names: Names) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    names.addresses = ("127.0.0.1", "127.0.0.2")
    with pytest.raises(OSError):
        await open_tcp("push.example", port, 0)
