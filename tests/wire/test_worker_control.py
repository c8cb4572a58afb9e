"""The control socket's machine: every message there and back, any chunks, and nothing else taken for one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.worker_control import (
    FRAME_BYTES_MAX,
    AllRefreshed,
    AskRefresh,
    BadControlFrame,
    Kept,
    Message,
    PeerDied,
    PeerDraining,
    PeerUp,
    Ping,
    Pong,
    Ready,
    Refresh,
    Refreshed,
    Restart,
    Start,
    Stop,
    SupervisorEnd,
    Whole,
    WorkerEnd,
    encode,
)

START = Start(
    worker=1,
    workers=2,
    incarnation=7,
    run_folder="/x/run",
    config_file="/x/g.toml",
    config_text=b"[gateway]\n",
    rpc=["tcp://127.0.0.1:1"],
    long_link=[],
    http="tcp://127.0.0.1:2",
    unix_listeners={"/x/rpc.sock": 9},
    metric_files=[4, 5, 6],
    clock_offset_s=3600.0,
)
TO_WORKER: list[Message] = [
    START,
    PeerUp(worker=0, incarnation=3),
    PeerDied(worker=0, incarnation=3),
    PeerDraining(worker=0, incarnation=3, is_over=True),
    Whole(not_ready=["worker 0 is starting"]),
    Ping(round=0),
    Refresh(round=4),
    AllRefreshed(round=4),
    Stop(),
    Restart(spread_s=0.5, may_lose=False),
]
TO_SUPERVISOR: list[Message] = [
    Ready(),
    Pong(round=0),
    Refreshed(round=4),
    AskRefresh(round=5),
    Kept(rows_open={"held": 2}),
]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[first:stop] for first, stop in itertools.pairwise(edges)]


@given(places=st.lists(st.integers(0, 10_000), max_size=20))
def test_messages_do_not_depend_on_chunks(places: list[int]) -> None:
    for messages, end in ((TO_WORKER, WorkerEnd()), (TO_SUPERVISOR, SupervisorEnd())):
        found: list[Message] = []
        for chunk in cut(b"".join(map(encode, messages)), places):
            found += end.receive_data(chunk)
        assert found == messages


@given(data=st.binary(max_size=200))
def test_bytes_are_messages_or_bad_control_frames(data: bytes) -> None:
    for end in (WorkerEnd(), SupervisorEnd()):
        try:
            end.receive_data(len(data).to_bytes(4, "big") + data)
        except BadControlFrame:
            continue


@pytest.mark.parametrize("message", TO_SUPERVISOR, ids=lambda message: type(message).__name__)
def test_worker_takes_nothing_that_only_a_worker_says(message: Message) -> None:
    with pytest.raises(BadControlFrame):
        WorkerEnd().receive_data(encode(message))


def test_frame_over_the_limit_is_refused_by_its_length() -> None:
    with pytest.raises(BadControlFrame, match=f"limit {FRAME_BYTES_MAX}"):
        SupervisorEnd().receive_data((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
