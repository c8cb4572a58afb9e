"""The vectors in tests/vectors/rpc, byte by byte: against a MessagePack writer of a few lines, and against ours."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.ledger import VENDOR_CHANNELS
from gateway.wire.rpc import codec, proof
from gateway.wire.rpc.framing import FrameReader, frame
from gateway.wire.rpc.messages import Message, Submit
from gateway.wire.rpc.submit import check_submit

VECTORS = Path(__file__).parents[2] / "vectors" / "rpc"
FRAMES: list[dict[str, Any]] = json.loads((VECTORS / "frames.json").read_text())
HANDSHAKE: dict[str, str] = json.loads((VECTORS / "handshake.json").read_text())


def write(value: Any) -> bytes:
    """MessagePack by its specification, shortest forms; {"bin": hex} is a bin."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        if value < 128:
            return bytes([value])
        size = next(size for size in (1, 2, 4, 8) if value < 1 << 8 * size)
        return bytes([{1: 0xCC, 2: 0xCD, 4: 0xCE, 8: 0xCF}[size]]) + value.to_bytes(size, "big")
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return (bytes([0xA0 | len(text)]) if len(text) < 32 else bytes([0xD9, len(text)])) + text
    if isinstance(value, dict) and value.keys() == {"bin"}:
        data = bytes.fromhex(value["bin"])
        return bytes([0xC4, len(data)]) + data
    if isinstance(value, dict):
        return bytes([0x80 | len(value)]) + b"".join(write(k) + write(v) for k, v in value.items())
    return bytes([0x90 | len(value)]) + b"".join(map(write, value))


@pytest.mark.parametrize("vector", FRAMES, ids=lambda vector: vector["name"])
def test_vector_is_what_its_map_says_and_what_we_write(vector: dict[str, Any]) -> None:
    payload = bytes.fromhex(vector["payload"])
    assert write(vector["map"]) == payload
    assert frame(payload).hex() == vector["frame"]
    reader = FrameReader(1 << 16)
    reader.feed(bytes.fromhex(vector["frame"]))
    assert reader.next_payload() == payload
    decode = codec.decode_from_client if vector["from"] == "client" else codec.decode_from_server
    message = decode(payload)
    assert isinstance(message, Message)
    # The same message, though not always in the shortest form: a map of up to 15 keys may be written as one of 65,535.
    assert msgspec.msgpack.decode(codec.encode(message)) == msgspec.msgpack.decode(payload)


def test_vectors_hold_every_kind_of_either_side() -> None:
    for side, kinds in (("client", codec.CLIENT_KINDS), ("server", codec.SERVER_KINDS)):
        assert {vector["map"]["kind"] for vector in FRAMES if vector["from"] == side} == kinds


@pytest.mark.parametrize("vector", [v for v in FRAMES if "rows" in v], ids=lambda vector: vector["name"])
def test_vector_of_a_submit_means_the_rows_it_names(vector: dict[str, Any]) -> None:
    submit = codec.decode_from_client(bytes.fromhex(vector["payload"]))
    assert isinstance(submit, Submit)
    found = check_submit(submit)
    assert found.n == len(vector["rows"])
    for position, row in enumerate(vector["rows"]):
        if "device_id" in row:
            assert found.device_ids[position].tobytes().hex() == row["device_id"]
        else:
            assert found.channels is not None
            assert found.channels[position] == VENDOR_CHANNELS[row["vendor"]]
            assert found.tokens is not None
            assert found.tokens.row(position).decode() == row["token"]
        variant = found.variants[0 if found.variant_index is None else int(found.variant_index[position])]
        assert (variant.title, variant.body) == (row["title"], row["body"])
        assert {name: column.row(position).decode() for name, column in found.variables.items()} == row["variables"]


def test_vector_of_the_handshake_is_hmac_of_the_stated_bytes() -> None:
    value = {name: bytes.fromhex(text) if name != "app_key" else text for name, text in HANDSHAKE.items()}
    secret, app_key = value["secret"], HANDSHAKE["app_key"]
    tail = value["server_nonce"] + value["client_nonce"] + app_key.encode()  # type: ignore[operator]
    assert hmac.new(secret, b"pushgw-rpc-1" + tail, hashlib.sha256).digest() == value["client_mac"]  # type: ignore[arg-type]
    assert hmac.new(secret, b"pushgw-rpc-1-server" + tail, hashlib.sha256).digest() == value["server_mac"]  # type: ignore[arg-type]
    nonces = bytes.fromhex(HANDSHAKE["server_nonce"]), bytes.fromhex(HANDSHAKE["client_nonce"])
    key = bytes.fromhex(HANDSHAKE["secret"])
    assert proof.client_mac(key, *nonces, app_key).hex() == HANDSHAKE["client_mac"]
    assert proof.server_mac(key, *nonces, app_key).hex() == HANDSHAKE["server_mac"]


def test_vectors_of_the_greeting_carry_the_handshakes_macs() -> None:
    maps = {vector["name"]: vector["map"] for vector in FRAMES}
    assert maps["hello"]["mac"]["bin"] == HANDSHAKE["client_mac"]
    assert maps["welcome"]["mac"]["bin"] == HANDSHAKE["server_mac"]
    assert maps["challenge"]["nonce"]["bin"] == HANDSHAKE["server_nonce"]
