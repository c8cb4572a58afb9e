"""The table of open streams against a dictionary."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.wire.h2.inflight import SENT, UPLOADING, InFlight


class InFlightAgainstDict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = InFlight()
        self.model: dict[int, tuple[int, float, int]] = {}
        self.next_id = 1
        self.next_tag = 100

    @rule(n=st.integers(1, 90), deadline=st.integers(1, 50), state=st.sampled_from([SENT, UPLOADING]))
    def append(self, n: int, deadline: int, state: int) -> None:
        tags = np.arange(self.next_tag, self.next_tag + n)
        self.table.append(self.next_id, tags, float(deadline), state)
        for offset, tag in enumerate(tags.tolist()):
            self.model[self.next_id + 2 * offset] = (tag, float(deadline), state)
        self.next_id += 2 * n
        self.next_tag += n

    @rule(data=st.data())
    def close_some(self, data) -> None:
        if not self.model:
            return
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model)), min_size=1, unique=True))
        positions = self.table.find(np.array(ids, np.int64))
        assert positions is not None
        assert self.table.ids[positions].tolist() == ids
        assert self.table.close(positions).tolist() == [self.model.pop(stream_id)[0] for stream_id in ids]

    @rule(data=st.data())
    def find_with_a_stranger(self, data) -> None:
        strangers = [i for i in range(self.next_id + 3) if i not in self.model]
        stranger = data.draw(st.sampled_from(strangers))
        assert self.table.find_one(stranger) == -1
        assert self.table.find(np.array([*list(self.model)[:3], stranger], np.int64)) is None

    @rule(now=st.integers(0, 60))
    def expire(self, now: int) -> None:
        late = self.table.expired(float(now))
        expected = [stream_id for stream_id, row in self.model.items() if row[1] <= now]
        assert self.table.ids[late].tolist() == expected
        if len(late):
            self.table.close(late)
            for stream_id in expected:
                del self.model[stream_id]

    @rule(above=st.integers(0, 400))
    def look_above(self, above: int) -> None:
        expected = [stream_id for stream_id in self.model if stream_id > above]
        assert self.table.ids[self.table.open_above(above)].tolist() == expected

    @invariant()
    def agrees(self) -> None:
        at = self.table.open_positions()
        assert self.table.ids[at].tolist() == list(self.model)
        assert self.table.tags[at].tolist() == [row[0] for row in self.model.values()]
        assert self.table.states[at].tolist() == [row[2] for row in self.model.values()]
        assert self.table.open_count == len(self.model)
        assert self.table.next_deadline() <= min((row[1] for row in self.model.values()), default=math.inf)
        for stream_id in list(self.model)[:2]:
            assert self.table.ids[self.table.find_one(stream_id)] == stream_id


TestInFlightAgainstDict = InFlightAgainstDict.TestCase
TestInFlightAgainstDict.settings = settings(stateful_step_count=30, deadline=None)


def test_table_stays_small_when_one_stream_is_never_answered() -> None:
    table = InFlight()
    table.append(1, np.array([7]), math.inf)
    for burst in range(500):
        table.append(3 + 200 * burst, np.arange(100), 1.0)
        table.close(table.open_above(1))
    assert len(table.ids) <= 512
    assert table.tags[table.find_one(1)] == 7


def test_next_deadline_is_exact_after_expiry() -> None:
    table = InFlight()
    table.append(1, np.array([1]), 5.0)
    table.append(3, np.array([2]), 9.0)
    assert len(table.expired(4.9)) == 0
    assert table.expired(5.0).tolist() == [0]
    assert table.next_deadline() == 9.0
