"""Flow-control windows of both directions, and the bulk accounting against frame after frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RemoteProtocolError
from gateway.wire.h2.flow import ReceiveWindow, SendWindow
from gateway.wire.h2.frames import WINDOW_MAX, ErrorCode


@given(
    target=st.integers(1, 3000),
    used=st.integers(0, 3000),
    sizes=st.one_of(
        st.lists(st.integers(0, 400), max_size=60),
        st.builds(lambda n, size: [size] * n, st.integers(0, 60), st.integers(0, 400)),
    ),
)
def test_consume_frames_does_what_single_frames_do(target: int, used: int, sizes: list[int]) -> None:
    many, single = ReceiveWindow(target), ReceiveWindow(target)
    many.left = single.left = max(target - used, target // 2 + 1)
    increments: list[int] = []
    fault = False
    try:
        for size in sizes:
            single.consume(size)
            if increment := single.credit():
                increments.append(increment)
    except RemoteProtocolError:
        fault = True
    if fault:
        with pytest.raises(RemoteProtocolError):
            many.consume_frames(np.array(sizes, np.int64))
    else:
        assert many.consume_frames(np.array(sizes, np.int64)) == increments
        assert many.left == single.left


def test_receive_window_refuses_more_than_was_allowed() -> None:
    window = ReceiveWindow(100)
    with pytest.raises(RemoteProtocolError) as caught:
        window.consume(101)
    assert caught.value.wire_code == ErrorCode.FLOW_CONTROL_ERROR


def test_receive_window_gives_credit_at_half() -> None:
    window = ReceiveWindow(100)
    window.consume(49)
    assert window.credit() == 0
    window.consume(1)
    assert window.credit() == 50
    assert window.left == 100


def test_send_window_may_be_negative_but_not_over_2_31() -> None:
    window = SendWindow(10)
    window.consume(10)
    window.grow(-100)
    assert window.size == -100
    with pytest.raises(RemoteProtocolError) as caught:
        window.grow(WINDOW_MAX + 101)
    assert caught.value.wire_code == ErrorCode.FLOW_CONTROL_ERROR
