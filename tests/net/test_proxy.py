"""CONNECT tunnels: against memory streams, and with TLS inside of a real one."""

from __future__ import annotations

import base64

import pytest
import trio
import trio.testing

from gateway.net.proxy import HttpProxy, ProxyRefused, ask_for_tunnel

PROXY = HttpProxy("proxy.example", 3128)


async def talk(answer: bytes, proxy: HttpProxy = PROXY, host: str = "push.example", step: int = 1 << 16) -> bytes:
    """What a proxy that answers so was asked."""
    ours, theirs = trio.testing.memory_stream_pair()

    async def serve() -> None:
        for at in range(0, len(answer), step):
            await theirs.send_all(answer[at : at + step])
        await theirs.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await ask_for_tunnel(ours, host, 443, proxy)
    await ours.send_eof()
    asked = b""
    async for data in theirs:
        asked += data
    return asked


@pytest.mark.parametrize("step", [1, 1 << 16])
async def test_tunnel_is_asked_for_by_host_and_port(step: int) -> None:
    asked = await talk(b"HTTP/1.1 200 Connection established\r\n\r\n", step=step)
    assert asked == b"CONNECT push.example:443 HTTP/1.1\r\nhost: push.example:443\r\n\r\n"


async def test_address_of_ip_version_6_stands_in_brackets() -> None:
    asked = await talk(b"HTTP/1.1 200 OK\r\n\r\n", host="2001:db8::1")
    assert asked.startswith(b"CONNECT [2001:db8::1]:443 ")


async def test_user_and_password_are_shown_to_the_proxy_and_to_nobody_else() -> None:
    proxy = HttpProxy("proxy.example", 3128, "user", "pass:word")
    asked = await talk(b"HTTP/1.1 200 OK\r\n\r\n", proxy)
    assert b"\r\nproxy-authorization: basic " + base64.b64encode(b"user:pass:word").lower() in asked.lower()
    assert "pass" not in repr(proxy)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407"),
        (b"HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n", "302"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "as HTTP"),
        (b"", "as HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * (20 << 10), "as HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n220 hello", "behind its answer"),
    ],
)
async def test_other_answers_are_refusals(answer: bytes, text: str) -> None:
    with trio.fail_after(60), pytest.RaisesGroup(pytest.RaisesExc(ProxyRefused, match=text)):
        await talk(answer)
