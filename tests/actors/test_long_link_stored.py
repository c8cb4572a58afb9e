"""Stored sessions against a dict, and the exchanges of QoS 2 beside them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.actors.long_link_exchanges import Exchanges
from gateway.actors.long_link_stored import StoredSessions
from gateway.net.edge_table import FLAG_MQTT_5, FLAG_QOS_1, FLAG_SUBSCRIBED

SLOTS = st.integers(0, 6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), SLOTS, st.integers(1, 9)),
        st.tuples(st.just("take"), SLOTS, st.integers(0, 1)),
        st.tuples(st.just("pass"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("clear"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


def id_of(slot: int) -> bytes:
    return bytes([slot]) * 16


@given(st.integers(1, 4), STEPS)
def test_stored_sessions_are_a_dict_with_a_limit(sessions_max: int, steps: list[tuple[str, int, int]]) -> None:
    table = StoredSessions(sessions_max)
    plain: dict[int, float] = {}
    now = 0.0
    for what, first, second in steps:
        if what == "put" and first not in plain:
            evicted = table.put(first, id_of(first), FLAG_SUBSCRIBED | FLAG_MQTT_5, now + second).tolist()
            if len(plain) == sessions_max:
                # One goes, of those that would expire first.
                assert len(evicted) == 1
                assert plain[evicted[0]] == min(plain.values())
                del plain[evicted[0]]
            else:
                assert evicted == []
            plain[first] = now + second
        elif what == "take":
            expires_at = plain.pop(first, None)
            # A slot that is another device's by now has no session.
            found = table.take(first, id_of(first) if second else b"x" * 16, now)
            is_there = expires_at is not None and expires_at > now and bool(second)
            assert found == (FLAG_SUBSCRIBED if is_there else None)
        elif what == "pass":
            now += first
            expired = {slot for slot, expires_at in plain.items() if expires_at <= now}
            assert set(table.expire(now).tolist()) == expired
            plain = {slot: expires_at for slot, expires_at in plain.items() if slot not in expired}
        elif what == "clear":
            table.clear()
            plain = {}
        assert len(table) == len(plain)


def test_session_keeps_its_subscription_and_nothing_of_its_connection() -> None:
    table = StoredSessions(1)
    table.put(5, id_of(5), 0xFF, 10.0)
    assert table.take(5, id_of(5), 0.0) == FLAG_SUBSCRIBED | FLAG_QOS_1
    assert table.take(5, id_of(5), 0.0) is None


def test_exchanges_of_absent_sessions_are_bounded_and_go_on_with_the_next_connection() -> None:
    exchanges = Exchanges(parked_max=3)
    for fd, packet_ids in ((1, (7, 8)), (2, (9, 10))):
        for packet_id in packet_ids:
            exchanges.begin(fd, packet_id)
    assert exchanges.park(1, 101)
    assert not exchanges.park(2, 102)
    assert exchanges.has(2, 9)
    assert exchanges.park(3, 103)  # it has none
    assert (exchanges.n_parked, len(exchanges), exchanges.parked_slots()) == (2, 1, [101])
    exchanges.resume(101, 5)
    exchanges.resume(103, 6)
    assert exchanges.has(5, 7)
    assert exchanges.n_parked == 0
    assert exchanges.park(5, 101)
    exchanges.drop(101)
    exchanges.drop(101)
    assert exchanges.n_parked == 0


def test_slot_that_became_another_devices_has_no_session() -> None:
    table = StoredSessions(1)
    table.put(5, id_of(5), 0, 10.0)
    assert table.take(5, id_of(6), 0.0) is None
    assert len(table) == 0
