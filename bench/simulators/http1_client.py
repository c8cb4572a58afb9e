"""A small HTTP/1.1 client on `h11` and asyncio streams, for couriers: POST, kept connections, one deadline.

httpx takes 2.3 ms of CPU for each POST here, which bounds a courier to 440 of them a second on one core.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import h11

READ_BYTES = 65_536
ANSWER_BYTES_MAX = 1 << 20  # of one answer's body; a callback that says more is not one


class PostFailed(Exception):
    """No answer came; the text is one word for counters."""


class _Line(NamedTuple):
    """One open connection with nothing in flight."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    conn: h11.Connection


class Http1Client:
    """POSTs to any number of origins; as many connections as calls at the same time, each kept for the next.

    ca_file: PEM that certificates of https must lead to; empty = any certificate is taken.
    """

    def __init__(self, ca_file: str, timeout_s: float) -> None:
        self._context = ssl.create_default_context(cafile=ca_file) if ca_file else _any_certificate()
        self._context.set_alpn_protocols(["http/1.1"])
        self._timeout_s = timeout_s
        self._idle: dict[tuple[str, str], list[_Line]] = defaultdict(list)

    async def post(self, url: str, headers: Iterable[tuple[str, str]], body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer.

        A kept connection that turns out to be closed is replaced by a new one, once.

        Raises:
            PostFailed: no answer within the deadline, or none that is HTTP.
        If cancelled: the connection is gone.
        """
        try:
            where = urlsplit(url)
            async with asyncio.timeout(self._timeout_s):
                return await self._post(where, headers, body)
        except TimeoutError:
            raise PostFailed("timeout") from None
        except (OSError, h11.ProtocolError, EOFError) as error:
            raise PostFailed(type(error).__name__) from error
        except ValueError:
            raise PostFailed("url") from None

    def close(self) -> None:
        """No connection is kept."""
        for lines in self._idle.values():
            for line in lines:
                line.writer.close()
        self._idle.clear()

    async def _post(self, where: SplitResult, headers: Iterable[tuple[str, str]], body: bytes) -> tuple[int, bytes]:
        idle = self._idle[where.scheme, where.netloc]
        if idle:
            try:
                return await self._call(idle.pop(), where, headers, body)
            except (ConnectionError, EOFError, h11.RemoteProtocolError):
                pass  # closed by the other side while it was idle
        return await self._call(await self._open(where), where, headers, body)

    async def _open(self, where: SplitResult) -> _Line:
        if where.scheme not in ("http", "https") or not where.hostname:
            raise ValueError("not an http or https URL")
        is_tls = where.scheme == "https"
        port = where.port or (443 if is_tls else 80)
        reader, writer = await asyncio.open_connection(where.hostname, port, ssl=self._context if is_tls else None)
        return _Line(reader, writer, h11.Connection(h11.CLIENT))

    async def _call(
        self, line: _Line, where: SplitResult, headers: Iterable[tuple[str, str]], body: bytes
    ) -> tuple[int, bytes]:
        target = (where.path or "/") + (f"?{where.query}" if where.query else "")
        fields = [("host", where.netloc), ("content-length", str(len(body))), *headers]
        try:
            head = line.conn.send(h11.Request(method="POST", target=target, headers=fields)) or b""
            line.writer.write(head + (line.conn.send(h11.Data(data=body)) or b""))
            line.conn.send(h11.EndOfMessage())
            await line.writer.drain()
            answer = await _read_answer(line)
        except BaseException:
            line.writer.close()
            raise
        if line.conn.our_state is h11.DONE and line.conn.their_state is h11.DONE:
            line.conn.start_next_cycle()
            self._idle[where.scheme, where.netloc].append(line)
        else:
            line.writer.close()
        return answer


async def _read_answer(line: _Line) -> tuple[int, bytes]:
    status, body = 0, bytearray()
    while True:
        event = line.conn.next_event()
        if event is h11.NEED_DATA:
            data = await line.reader.read(READ_BYTES)
            if not data and not status:
                raise EOFError("closed before an answer")
            line.conn.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > ANSWER_BYTES_MAX:
                raise ConnectionError("the answer is too long")
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
