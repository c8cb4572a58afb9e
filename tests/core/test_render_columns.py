"""Parts of rendering by columns that have a plain twin of their own."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch
from gateway.columns import TextColumn, join
from gateway.content import Texts, Variant
from gateway.core.render import Renderer
from gateway.core.render_columns import _replaced, blank_rows
from gateway.message_id import BatchAddress, encode_rows

#: White space of one to three bytes, and characters whose UTF-8 begins like it.
texts = st.text(
    st.sampled_from(" \t\n\r\x0b\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u205f\u3000\u200b\u3001é“aｱ"), max_size=3
)
columns = st.integers(0, 8).flatmap(lambda n: st.lists(st.lists(texts, min_size=n, max_size=n), min_size=1, max_size=3))


@given(columns, texts)
def test_blank_rows_are_those_that_nothing_is_left_of_when_they_are_stripped(told: list[list[str]], text: str) -> None:
    n = len(told[0])
    rows = ["".join(row) + text for row in zip(*told, strict=True)]
    pieces = (*(TextColumn.from_texts(column) for column in told), *([text.encode()] if text else []))
    assert blank_rows(pieces, n) == [index for index, row in enumerate(rows) if not row.strip()]


@given(
    before=st.lists(st.one_of(st.binary(max_size=3), st.none(), st.just("digits")), max_size=3),
    n=st.integers(1, 6),
    is_ragged=st.booleans(),
    data=st.data(),
)
def test_rows_that_are_cut_say_their_new_text_and_others_their_own(
    before: list[bytes | str | None], n: int, is_ragged: bool, data: st.DataObject
) -> None:
    def ragged() -> TextColumn:
        return TextColumn.from_rows(data.draw(st.lists(st.binary(max_size=4), min_size=n, max_size=n)))

    pieces = [
        piece
        if isinstance(piece, bytes)
        else ragged()
        if piece is None
        else np.frombuffer(data.draw(st.binary(min_size=2 * n, max_size=2 * n)), np.uint8).reshape(n, 2)
        for piece in before
    ]
    pieces.append(ragged() if is_ragged or not pieces else b"end")
    whole = join(tuple(pieces), 0, n)
    # What is cut at its end keeps its beginning, as nearly all do; others are other texts altogether.
    cut = {row: data.draw(st.sampled_from([whole[row][:-1] + b"~", b"else"])) for row in range(0, n, 2)}
    replaced = join(_replaced(tuple(pieces), n, cut), 0, n)
    assert replaced == [cut.get(row, text) for row, text in enumerate(whole)]


def test_constants_stay_constants_where_rows_are_cut_in_their_last_value() -> None:
    pieces = (b"for ", TextColumn.from_rows([b"a", b"bc"]), b": ", TextColumn.from_rows([b"long text", b"short"]))
    start, name, colon, rest = _replaced(pieces, 2, {0: b"for a: long~"})
    assert (start, colon) == (b"for ", b": ")
    assert (name, rest.rows()) == (pieces[1], [b"long~", b"short"])


def test_the_long_link_has_texts_of_its_own_too() -> None:
    address = BatchAddress(1_763_700_000_999, 7, 9)
    variant = Variant("all", "{{x}}", texts={"long_link": Texts(body="online: {{x}}"), "vivo": Texts("not this")})
    batch = Batch(
        address,
        0,
        0.0,
        2,
        device_ids=np.zeros((2, 16), np.uint8),
        message_ids=encode_rows(b"secret-of-16-byte", address, np.arange(2)),
        variants=[variant],
        variables={"x": TextColumn.from_texts(["1", "2"])},
    )
    (group,) = Renderer().render_downlink(batch, np.arange(2), now_unix_s=1_763_700_100.0).groups
    shown = [json.loads(payload) for payload in join(group.payload, 0, 2)]
    assert [(each["title"], each["body"]) for each in shown] == [("all", "online: 1"), ("all", "online: 2")]
