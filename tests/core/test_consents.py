"""Consents: the table against one dictionary entry per key, row by row."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.consent_columns import Changed
from gateway.core.consents import ConsentTable, hash_users, key_salts
from gateway.core.segments import HashKey
from gateway.errors import Overloaded

KEYS_MAX = 12
#: More users than there is room for.
ALL_KEYS = hash_users(HashKey(bytes(16)), np.arange(20 * 28, dtype=np.uint8).reshape(20, 28), key_salts("shop", "T"))
users = st.lists(st.integers(0, 19), min_size=1, max_size=12)


class Twin(RuleBasedStateMachine):
    """left and held of each user, one at a time; the store as a dictionary that is written now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ConsentTable(KEYS_MAX)
        self.left: dict[int, int] = {}
        #: (user, place) of rows under way.
        self.held: list[tuple[int, int]] = []
        self.stored: dict[bytes, int] = {}

    def n_held(self, user: int) -> int:
        return sum(one == user for one, _ in self.held)

    def forget_empty(self) -> None:
        self.left = {user: n for user, n in self.left.items() if n or self.n_held(user)}

    @rule(who=users, counts=st.lists(st.integers(0, 3), min_size=12, max_size=12), is_total=st.booleans())
    def users_agree(self, who: list[int], counts: list[int], is_total: bool) -> None:
        wanted: dict[int, int] = {}
        for user, count in zip(who, counts, strict=False):
            wanted[user] = count if is_total else wanted.get(user, 0) + count
        new = [user for user, count in wanted.items() if count and user not in self.left]
        columns = (ALL_KEYS[who], np.array(counts[: len(who)], np.uint64))
        if len(self.left) + len(new) > KEYS_MAX:
            with pytest.raises(Overloaded, match="keys_max"):
                self.table.report(*columns, is_total=is_total)
            return
        self.table.report(*columns, is_total=is_total)
        for user, count in wanted.items():
            if is_total:
                if user in self.left or count:
                    self.left[user] = self.n_held(user) + count
            elif count or user in self.left:
                self.left[user] = self.left.get(user, 0) + count
        self.forget_empty()

    @rule(who=users)
    def rows_go(self, who: list[int]) -> None:
        expected = []
        for user in who:
            may_go = self.left.get(user, 0) > self.n_held(user)
            expected.append(may_go)
            if may_go:
                self.held.append((user, -1))
        places = self.table.hold(ALL_KEYS[who])
        assert (places >= 0).tolist() == expected
        granted = iter(places[places >= 0].tolist())
        self.held = [(user, next(granted) if place < 0 else place) for user, place in self.held]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), fate=st.sampled_from(["spend", "give_back", "empty"]))
    def rows_end(self, data: st.DataObject, fate: str) -> None:
        n = data.draw(st.integers(1, len(self.held)))
        ended, self.held = self.held[:n], self.held[n:]
        getattr(self.table, fate)(np.array([place for _, place in ended], np.int32))
        for user, _ in ended:
            if fate == "spend":
                self.left[user] = max(0, self.left[user] - 1)
            elif fate == "empty":
                self.left[user] = 0
        self.forget_empty()

    @rule(fails=st.booleans())
    def store_writes(self, fails: bool) -> None:
        changed = self.table.take_changed()
        if fails:
            self.table.mark(changed.keys)
            return
        for key, left in zip(changed.keys, changed.left.tolist(), strict=True):
            self.stored.pop(key.tobytes(), None)
            if left:
                self.stored[key.tobytes()] = left

    @rule()
    def the_process_ends(self) -> None:
        """Rows under way are forgotten; the store knows the rest, once it was written."""
        self.store_writes(False)
        self.held.clear()
        self.forget_empty()
        self.table = ConsentTable(KEYS_MAX)
        keys = np.frombuffer(b"".join(self.stored), np.uint64).reshape(-1, 2)
        self.table.restore(Changed(keys, np.array(list(self.stored.values()), np.uint16)))

    @invariant()
    def they_agree(self) -> None:
        expected = [max(0, self.left.get(user, 0) - self.n_held(user)) for user in range(20)]
        assert self.table.left(ALL_KEYS).tolist() == expected
        assert self.table.are_held(ALL_KEYS).tolist() == [self.n_held(user) > 0 for user in range(20)]
        assert self.table.statistics() == (len(self.left), len(self.held))


TestTwin = Twin.TestCase


def test_templates_and_apps_have_keys_of_their_own() -> None:
    key, user = HashKey(bytes(16)), np.full((1, 28), 65, np.uint8)
    salts = {key_salts(app, template) for app in ("a", "b") for template in ("", "T", "U")}
    assert len({hash_users(key, user, salt).tobytes() for salt in salts}) == 6


@given(st.integers(0, 1 << 40))
def test_a_count_above_two_bytes_is_what_two_bytes_hold(count: int) -> None:
    table = ConsentTable(4)
    for _ in range(2):
        table.report(ALL_KEYS[:1], np.array([count], np.uint64), is_total=False)
    assert table.left(ALL_KEYS[:1]).tolist() == [min(2 * min(count, 0xFFFF), 0xFFFF)]
