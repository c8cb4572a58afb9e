"""The server of `bench http1`: HTTP/1.1 over clear text or TLS, on asyncio and uvloop, as fast as it can.

    python -m bench.http1_responder '{"certificate": null, "key": null}'

It reads requests by their Content-Length, which it trusts, and answers each with a 200 and a body as a vendor does.
Answers carry a Date that moves and a request id of their own, as vendors' answers do: a client that remembers heads
finds nothing to remember. Writes its port to stdout once it listens, and ends when stdin does.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import ssl
import sys
from typing import Any

import uvloop

BODY = b'{"result":"ok","trace_id":"Xcm45b32447638364570Kj","code":0,"data":{"id":"scm1"},"description":"OK"}'


class Responder(asyncio.Protocol):
    date = b""
    count = 0

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        out = []
        while True:
            at = data.find(b"\r\n\r\n")
            if at < 0:
                break
            head = data[:at].lower()
            start = head.index(b"\r\ncontent-length:") + len(b"\r\ncontent-length:")
            end = at + 4 + int(head[start:].partition(b"\r\n")[0])
            if len(data) < end:
                break
            data = data[end:]
            out.append(self._answer())
        self._rest = data
        if out:
            self._transport.write(b"".join(out))

    def _answer(self) -> bytes:
        cls = type(self)
        cls.count += 1
        return (
            b"HTTP/1.1 200 OK\r\nServer: bench\r\nDate: %b\r\nContent-Type: application/json;charset=UTF-8\r\n"
            b"Content-Length: %d\r\nConnection: keep-alive\r\nX-Request-Id: %016x\r\n\r\n%b"
            % (cls.date, len(BODY), cls.count, BODY)
        )


async def _keep_date() -> None:
    while True:
        Responder.date = email.utils.formatdate(usegmt=True).encode()
        await asyncio.sleep(1)


async def serve(certificate: str | None, key: str | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    dates = loop.create_task(_keep_date())
    await asyncio.sleep(0)
    server = await loop.create_server(Responder, "127.0.0.1", 0, ssl=context)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    # The bench closes our stdin, or dies and so closes it.
    await loop.run_in_executor(None, sys.stdin.read)
    dates.cancel()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(**json.loads(sys.argv[1])))
