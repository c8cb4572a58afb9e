"""From a name to a TCP connection: looked up anew each time, and spread over all of the name's addresses.

A vendor's name stands for several front ends. Whoever always takes the first address has all its connections on one of
them, and loses them together. So the n-th connection of a pool begins with the n-th address, round and round, and goes
on to the next ones in a staggered race (RFC 8305 section 5). A connection that failed is followed by one that begins
elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

#: RFC 8305 section 5, "Connection Attempt Delay": 250 ms is recommended.
STAGGER_S = 0.25
#: Addresses tried for one connection; more than any vendor's name has.
ADDRESSES_MAX = 16


def in_turn(addresses: Sequence[str], turn: int) -> list[str]:
    """The addresses, each once, in the order in which the connection of that number tries them."""
    distinct = list(dict.fromkeys(addresses))
    # Sorted, because resolvers turn their answers round too: two rotations could cancel each other out.
    distinct.sort()
    start = turn % len(distinct)
    return (distinct[start:] + distinct[:start])[:ADDRESSES_MAX]


async def open_tcp(host: str, port: int, turn: int) -> trio.SocketStream:
    """A connection to one of the addresses that the name has now; TCP_NODELAY is on (trio's default).

    Raises OSError: the name is not known, or no address could be reached. If cancelled: nothing stays open.
    """
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    return await _race(in_turn([str(place[4][0]) for place in found], turn), port)


async def _race(addresses: Sequence[str], port: int) -> trio.SocketStream:
    streams: list[trio.SocketStream] = []
    errors: list[OSError] = []

    async def attempt(address: str, is_over: trio.Event) -> None:
        try:
            stream = await trio.open_tcp_stream(address, port)
        except OSError as error:
            errors.append(error)
            is_over.set()
            return
        streams.append(stream)
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                is_over = trio.Event()
                nursery.start_soon(attempt, address, is_over)
                with trio.move_on_after(STAGGER_S):
                    await is_over.wait()
    except BaseException:
        for stream in streams:
            await trio.aclose_forcefully(stream)
        raise
    # Two may have come through in one turn of the loop.
    for late in streams[1:]:
        await trio.aclose_forcefully(late)
    if not streams:
        raise errors[-1]
    return streams[0]
