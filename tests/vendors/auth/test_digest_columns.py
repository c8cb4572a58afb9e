"""Digests of columns against `hashlib` and `hmac`, row by row."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.columns import TextColumn
from vendors.auth.digest_columns import constant_of, hmac_sha256_hex, lead_of, md5_hex, sha256_hex


@given(
    key=st.binary(max_size=130),
    lead=st.binary(max_size=70),
    texts=st.lists(st.binary(max_size=150), max_size=4),
)
def test_each_row_is_digested_as_if_alone(key: bytes, lead: bytes, texts: list[bytes]) -> None:
    plain = [lead + text for text in texts]
    assert [row.tobytes() for row in sha256_hex(lead, texts)] == [hashlib.sha256(t).hexdigest().encode() for t in plain]
    assert [row.tobytes() for row in md5_hex(lead, texts)] == [hashlib.md5(t).hexdigest().encode() for t in plain]
    macs = [hmac.new(key, text, "sha256").hexdigest().encode() for text in plain]
    assert [row.tobytes() for row in hmac_sha256_hex(key, lead, texts)] == macs


def test_a_field_is_told_apart_from_what_differs() -> None:
    column = TextColumn.from_rows([b"x", b"yy"])
    assert constant_of((b"a", b"b")) == b"ab"
    assert lead_of((b"a", column)) == (b"a", (column,))
    assert lead_of((column, b"a")) == (b"", (column, b"a"))
    with pytest.raises(AssertionError, match="differs from row to row"):
        constant_of((b"a", column))
