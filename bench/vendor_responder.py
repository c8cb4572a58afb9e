"""A purpose-made HTTP/2 server for `bench vendor`: answers every request with a bare 200, as fast as it can.

    python -m bench.vendor_responder '{"certificate": ..., "key": ..., "header": "unique"}'

nghttpd cannot put another header value into each answer; this can: `apns-id` with a UUID of its own, plain ("unique")
or Huffman-coded ("unique_huffman"; "constant" is the yardstick), from a pool far larger than any client's memory of
blocks. It knows no more of HTTP/2 than two honest clients need: frames are walked, requests are counted by
END_STREAM, windows are opened so wide that nobody waits. Writes its port to stdout once it listens, and ends when
stdin does.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
import sys
import uuid
from typing import Any

import hpack
import uvloop

STREAMS_MAX = 1000
_PREFACE_BYTES = 24
_WINDOW = (1 << 31) - 1
#: Credit for request bodies is given when so much is used; far below what a window holds.
_CREDIT_BYTES = 1 << 28
#: Different header blocks.
_POOL = 1 << 14
_read_header = struct.Struct(">HBBBL").unpack_from
_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_END_STREAM = _ACK = 1


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">L", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">L", stream) + payload


def answers(header: str) -> list[tuple[bytes, bytes]]:
    """(what stands before the stream id, what stands behind it) of each answer in the pool."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    encoder.encode([(b":status", b"200")])  # takes the size update along
    ids = [str(uuid.uuid4()).encode() for _ in range(1 if header == "constant" else _POOL)]
    out = []
    for value in ids:
        block = encoder.encode([(b":status", b"200"), (b"apns-id", value, True)], huffman=header == "unique_huffman")
        out.append((struct.pack(">L", len(block))[1:] + bytes([_HEADERS, 5]), block))
    return out


class Responder(asyncio.Protocol):
    def __init__(self, pool: list[tuple[bytes, bytes]]) -> None:
        self._pool = pool
        self._rest = b""
        self._has_preface = False
        self._uncredited = 0
        self._count = 0
        self._prefix = b"\x20"

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(
            _frame(_SETTINGS, 0, 0, struct.pack(">HLHL", 3, STREAMS_MAX, 4, _WINDOW))
            + _frame(8, 0, 0, struct.pack(">L", _WINDOW - 65_535))
        )

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        at = 0
        if not self._has_preface:
            if len(data) < _PREFACE_BYTES:
                self._rest = data
                return
            self._has_preface = True
            at = _PREFACE_BYTES
        ids: list[bytes] = []
        out: list[bytes] = []
        last = len(data) - 9
        while at <= last:
            high, low, kind, flags, _ = _read_header(data, at)
            size = high << 8 | low
            end = at + 9 + size
            if end > last + 9:
                break
            if kind == _DATA:
                self._uncredited += size
            if kind <= _HEADERS:
                if flags & _END_STREAM:
                    ids.append(data[at + 5 : at + 9])
            elif kind == _SETTINGS and not flags & _ACK:
                out.append(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                out.append(_frame(_PING, _ACK, 0, data[at + 9 : end]))
            at = end
        self._rest = data[at:]
        if self._uncredited > _CREDIT_BYTES:
            out.append(_frame(8, 0, 0, struct.pack(">L", self._uncredited)))
            self._uncredited = 0
        if ids:
            self._answer(ids, out)
        if out:
            self._transport.write(b"".join(out))

    def _answer(self, ids: list[bytes], out: list[bytes]) -> None:
        if self._prefix:
            # The table's size must be said once, in the first block, by a peer that was told to have none.
            block = self._prefix + self._pool[0][1]
            out += (struct.pack(">L", len(block))[1:] + bytes([_HEADERS, 5]), ids.pop(0), block)
            self._prefix = b""
        pool, n = self._pool, len(self._pool)
        count = self._count
        for stream_id in ids:
            head, block = pool[count % n]
            count += 1
            out += (head, stream_id, block)
        self._count = count


async def serve(certificate: str, key: str, header: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    pool = answers(header)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Responder(pool), "127.0.0.1", 0, ssl=context)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    # The bench closes our stdin, or dies and so closes it.
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(**json.loads(sys.argv[1])))
