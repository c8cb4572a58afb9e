"""A small HTTP/1.1 server side on `h11` and asyncio streams: the control port and FCM's OAuth endpoint use it.

The body of a request is bounded; a client that sends a larger one gets 413 and is closed. A reply is either bytes or
an async iterator of pieces, sent chunked with back-pressure.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import h11

from bench.simulators.exchange import Header, Request

READ_BYTES = 65_536
REQUEST_WAIT_S = 60.0  # an open connection that asks nothing for so long is closed


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP/1.1 reply; `pieces` instead of `body` streams it. is_last: close the connection afterwards."""

    status: int
    headers: tuple[Header, ...]
    body: bytes = b""
    pieces: AsyncIterator[bytes] | None = None
    is_last: bool = False


class Hangup(Exception):
    """Raised by the answering side when no reply shall be sent: the fault script wants the connection gone."""


async def serve_http1(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answer: Callable[[Request], Awaitable[Reply]],
    body_bytes_max: int,
) -> None:
    """Requests of one connection have been answered one after another, and the connection is closed.

    Garbage ends the connection after a 400. If cancelled: the connection is aborted.
    """
    conn = h11.Connection(h11.SERVER)
    try:
        while True:
            request = await _next_request(conn, reader, body_bytes_max)
            if request is None:
                break
            reply = Reply(413, (), b"", is_last=True) if request.body_bytes > body_bytes_max else await answer(request)
            await _send(conn, writer, reply)
            if reply.is_last or conn.our_state is not h11.DONE or conn.their_state is not h11.DONE:
                break
            conn.start_next_cycle()
    except h11.RemoteProtocolError as error:
        if conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            with contextlib.suppress(h11.LocalProtocolError, OSError):
                await _send(conn, writer, Reply(error.error_status_hint, (), b"", is_last=True))
    except (Hangup, OSError, TimeoutError):
        pass  # the other side, or a fault, has ended it
    finally:
        writer.close()


async def _next_request(conn: h11.Connection, reader: asyncio.StreamReader, body_bytes_max: int) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    body_bytes = 0
    while True:
        event = conn.next_event()
        if event is h11.NEED_DATA:
            async with asyncio.timeout(REQUEST_WAIT_S):
                conn.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body_bytes += len(event.data)
            body += event.data[: max(0, body_bytes_max - len(body))]
            if body_bytes > body_bytes_max:
                break
        elif isinstance(event, h11.EndOfMessage):
            break
        else:
            return None  # closed, or paused because the last request was not read to its end
    assert head is not None
    return Request(
        head.method.decode("ascii"),
        head.target.decode("latin-1"),
        tuple((bytes(name), bytes(value)) for name, value in head.headers),
        bytes(body),
        body_bytes,
    )


async def _send(conn: h11.Connection, writer: asyncio.StreamWriter, reply: Reply) -> None:
    framing: Header = (b"transfer-encoding", b"chunked")
    if reply.pieces is None:
        framing = (b"content-length", b"%d" % len(reply.body))
    close = ((b"connection", b"close"),) if reply.is_last else ()
    head = h11.Response(status_code=reply.status, headers=[*reply.headers, framing, *close])
    writer.write(conn.send(head) or b"")
    if reply.pieces is None:
        writer.write(conn.send(h11.Data(data=reply.body)) or b"")
    else:
        async for piece in reply.pieces:
            writer.write(conn.send(h11.Data(data=piece)) or b"")
            await writer.drain()
    writer.write(conn.send(h11.EndOfMessage()) or b"")
    await writer.drain()
