"""Padding, priority fields and header blocks in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RemoteProtocolError
from gateway.wire.h2.frames import PADDED, ErrorCode
from gateway.wire.h2.reader import BlockAssembly, strip_padding, strip_priority


@given(data=st.binary(max_size=20), padding=st.integers(0, 255))
def test_padding_is_stripped(data: bytes, padding: int) -> None:
    payload = bytes([padding]) + data + bytes(padding)
    assert strip_padding(PADDED, payload) == data
    assert strip_padding(0, payload) == payload


@pytest.mark.parametrize(("payload", "code"), [(b"", ErrorCode.FRAME_SIZE_ERROR), (b"\x02a", ErrorCode.PROTOCOL_ERROR)])
def test_padding_longer_than_the_frame_is_refused(payload: bytes, code: ErrorCode) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        strip_padding(PADDED, payload)
    assert caught.value.wire_code == code


def test_priority_fields_are_stripped() -> None:
    assert strip_priority(0x20, b"\x80\x00\x00\x01\x10block") == b"block"
    with pytest.raises(RemoteProtocolError) as caught:
        strip_priority(0x20, b"\x80\x00\x00\x01")
    assert caught.value.wire_code == ErrorCode.FRAME_SIZE_ERROR


def test_block_assembly_refuses_many_empty_fragments_and_many_bytes() -> None:
    assembly = BlockAssembly(1, 0, 100)
    for _ in range(BlockAssembly.FRAMES_MAX):
        assembly.add(b"")
    with pytest.raises(RemoteProtocolError) as caught:
        assembly.add(b"")
    assert caught.value.wire_code == ErrorCode.ENHANCE_YOUR_CALM
    with pytest.raises(RemoteProtocolError):
        BlockAssembly(1, 0, 100).add(b"a" * 101)
