"""Reclaiming: the quietest connection goes first, nobody is kept out, nobody is robbed of his only busy one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.reclaiming import QUIET_S, Holder, Reclaim, choose

HOLDERS = st.lists(
    st.builds(
        Holder,
        quietest=st.none() | st.tuples(st.floats(0, 100), st.integers(1, 9)),
        spare=st.integers(-1, 5),
    ),
    max_size=8,
)


@given(holders=HOLDERS, has_none=st.booleans())
def test_the_choice_is_that_of_the_plain_rule(holders: list[Holder], has_none: bool) -> None:
    found = choose(holders, has_none=has_none, now=100.0)
    idle = [holder.quietest[0] for holder in holders if holder.quietest is not None]
    idle = [since for since in idle if has_none or 100.0 - since >= QUIET_S]
    if idle:
        assert found is not None
        chosen = holders[found.holder].quietest
        assert chosen is not None
        assert (chosen[0], found.number) == (min(idle), chosen[1])
    elif has_none and any(holder.spare > 0 for holder in holders):
        assert found is not None
        assert found.number is None
        assert holders[found.holder].spare == max(holder.spare for holder in holders)
    else:
        assert found is None


def test_of_equals_the_first_makes_room() -> None:
    assert choose([Holder(None, 2), Holder(None, 2)], has_none=True, now=0.0) == Reclaim(0, None)
