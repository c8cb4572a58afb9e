"""The in-flight table against a dict, with pages so small that identifiers clash all the time."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.wire.mqtt.in_flight import PAGE_ENTRIES, InFlight

FDS, PAGE, ENTRIES = 3, 5, 13
columns = st.lists(st.integers(0, FDS - 1), min_size=1, max_size=6)


def i32(values: list[int]) -> np.ndarray:
    return np.array(values, np.int32)


class InFlightAgainstDict(RuleBasedStateMachine):
    """Model: (fd, generation, packet id) -> [tag, sent_at, is_lapsed], and those of absent sessions: slot -> rows, each
    [packet id, tag, sent_at, times sent]. Slot = 100 + fd: a device always has the same descriptor here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = InFlight(ENTRIES, page_entries=PAGE)
        self.model: dict[tuple[int, int, int], tuple[int, float, bool]] = {}
        self.generations = np.ones(FDS, np.uint32)
        self.now = 0.0
        self.next_tag = 0
        self.parked: dict[int, list[tuple[int, int, float, int]]] = {}
        self.n_sent: dict[int, int] = {}

    @rule(fds=columns)
    def add(self, fds: list[int]) -> None:
        # A device that is there has resumed its session or begun a new one: nothing of it is parked.
        for slot in {100 + fd for fd in fds} & self.parked.keys():
            expected = sorted(row[1] for row in self.parked.pop(slot))
            assert sorted(self.table.release_parked(i32([slot])).tolist()) == expected
        self.now += 1.0
        tags = np.arange(self.next_tag, self.next_tag + len(fds))
        self.next_tag += len(fds)
        generations = self.generations[fds]
        before = len(self.table)
        entries = self.table.add(i32(fds), generations, tags, self.now)
        good = entries >= 0
        packet_ids = self.table.packet_ids(entries[good]).tolist()
        rows = np.flatnonzero(good).tolist()
        for row, packet_id in zip(rows, packet_ids, strict=True):
            key = (fds[row], int(generations[row]), packet_id)
            assert 1 <= packet_id <= PAGE
            assert key not in self.model
            self.model[key] = (int(tags[row]), self.now, False)
            self.n_sent[int(tags[row])] = 1
        if before + len(fds) <= PAGE:
            # One page cannot clash with itself, and has room.
            assert good.all() or self.table.high_water > PAGE

    @rule(
        acks=st.lists(st.tuples(st.integers(0, FDS - 1), st.integers(1, PAGE)), min_size=1, max_size=8),
        is_old=st.booleans(),
    )
    def settle(self, acks: list[tuple[int, int]], is_old: bool) -> None:
        fds = [fd for fd, _ in acks]
        generations = self.generations[fds] - np.uint32(is_old)
        settled = self.table.settle(i32(fds), generations, np.array([packet_id for _, packet_id in acks], np.uint16))
        expected = {}
        for (fd, packet_id), generation in zip(acks, generations.tolist(), strict=True):
            found = self.model.pop((fd, generation, packet_id), None)
            if found is not None:
                expected[found[0]] = (fd, found[1], found[2])
        got = {
            tag: (fd, sent_at, is_late)
            for tag, fd, sent_at, is_late in zip(
                settled.tags.tolist(),
                settled.fds.tolist(),
                settled.sent_at.tolist(),
                settled.is_late.tolist(),
                strict=True,
            )
        }
        assert got == expected
        assert settled.n_unknown == len(acks) - len(expected)

    @rule(age=st.integers(0, 4))
    def lapse(self, age: int) -> None:
        before = self.now - age
        expected = [tag for tag, sent_at, is_late in self.model.values() if sent_at < before and not is_late]
        for key, (tag, sent_at, is_late) in self.model.items():
            self.model[key] = (tag, sent_at, is_late or sent_at < before)
        assert sorted(self.table.lapse(before).tolist()) == sorted(expected)

    @rule(fd=st.integers(0, FDS - 1))
    def end(self, fd: int) -> None:
        self.generations[fd] += 1
        gone = [key for key in self.model if key[0] == fd]
        expected = [self.model[key][0] for key in gone if not self.model[key][2]]
        for key in gone:
            del self.model[key]
        assert sorted(self.table.release_ended(self.generations).tolist()) == sorted(expected)

    @rule(fds=st.sets(st.integers(0, FDS - 1), min_size=1), stays=st.sets(st.integers(0, FDS - 1)))
    def end_several(self, fds: set[int], stays: set[int]) -> None:
        """Connections end in one step; the sessions of some outlive them."""
        for fd in fds:
            self.generations[fd] += 1
        stays = fds & stays
        expected_lost = []
        for key, (tag, sent_at, is_late) in list(self.model.items()):
            if key[0] not in fds:
                continue
            del self.model[key]
            if is_late:
                continue
            if key[0] in stays:
                self.parked.setdefault(100 + key[0], []).append((key[2], tag, sent_at, self.n_sent[tag]))
            else:
                expected_lost.append(tag)
        if stays:
            kept = sorted(stays, reverse=True)
            self.table.park(self.generations, i32(kept), i32([100 + fd for fd in kept]))
        assert sorted(self.table.release_ended(self.generations).tolist()) == sorted(expected_lost)

    @rule(fds=st.sets(st.integers(0, FDS - 1), min_size=1))
    def resume(self, fds: set[int]) -> None:
        """Devices that have nothing in flight on their connection come back to their sessions."""
        free = [fd for fd in sorted(fds, reverse=True) if not any(key[0] == fd for key in self.model)]
        if not free:
            return
        self.now += 1.0
        slots = [100 + fd for fd in free]
        found = self.table.resume(i32(slots), i32(free), self.generations[free], self.now)
        expected = []
        for fd in free:
            # In the order in which they were first sent: tags grow.
            for packet_id, tag, _, n_sent in sorted(self.parked.pop(100 + fd, []), key=lambda row: row[1]):
                expected.append((fd, int(self.generations[fd]), packet_id, tag, n_sent + 1))
                self.model[fd, int(self.generations[fd]), packet_id] = (tag, self.now, False)
                self.n_sent[tag] = n_sent + 1
        got = list(
            zip(
                found.fds.tolist(),
                found.generations.tolist(),
                self.table.packet_ids(found.entries).tolist(),
                found.tags.tolist(),
                found.n_sent.tolist(),
                strict=True,
            )
        )
        assert got == expected
        assert self.table.still_of(found).all()

    @rule(age=st.integers(0, 4))
    def lapse_parked(self, age: int) -> None:
        before = self.now - age
        expected = [row[1] for rows in self.parked.values() for row in rows if row[2] < before]
        self.parked = {slot: [row for row in rows if row[2] >= before] for slot, rows in self.parked.items()}
        assert sorted(self.table.lapse_parked(before).tolist()) == sorted(expected)

    @rule(slots=st.none() | st.sets(st.integers(100, 100 + FDS), min_size=1))
    def release_parked(self, slots: set[int] | None) -> None:
        gone = list(self.parked) if slots is None else [slot for slot in self.parked if slot in slots]
        expected = [row[1] for slot in gone for row in self.parked.pop(slot)]
        found = self.table.release_parked(None if slots is None else i32(sorted(slots)))
        assert sorted(found.tolist()) == sorted(expected)

    @invariant()
    def sizes_agree(self) -> None:
        n_parked = sum(map(len, self.parked.values()))
        assert self.table.n_parked == n_parked
        assert len(self.table) == len(self.model) + n_parked
        assert self.table.n_waiting() == sum(not is_late for _, _, is_late in self.model.values())
        assert self.table.high_water <= ENTRIES


TestInFlightAgainstDict = InFlightAgainstDict.TestCase


def test_table_takes_no_more_than_its_limit_and_reuses_what_is_released() -> None:
    table = InFlight(4)
    one = np.ones(6, np.uint32)
    entries = table.add(np.arange(6, dtype=np.int32), one, np.arange(6), 0.0)
    assert (entries >= 0).tolist() == [True] * 4 + [False] * 2
    table.release(entries[:2])
    assert (table.add(i32([7, 8, 9]), one[:3], np.arange(3), 1.0) >= 0).tolist() == [True, True, False]
    assert table.high_water == 4


def test_second_page_gives_a_connection_another_packet_id_than_the_first() -> None:
    table = InFlight(2 * PAGE_ENTRIES)
    fds = np.arange(PAGE_ENTRIES, dtype=np.int32)
    first = table.add(fds, np.ones(PAGE_ENTRIES, np.uint32), np.arange(PAGE_ENTRIES), 0.0)
    assert table.packet_ids(first).min() == 1
    assert table.packet_ids(first).max() == 65_535
    # The next fresh entry has packet id 1, which connection 0 holds already.
    second = table.add(i32([0, 5]), np.ones(2, np.uint32), np.array([-1, -2]), 1.0)
    assert (second >= PAGE_ENTRIES).all()
    assert table.packet_ids(second)[0] not in (0, 1)
    settled = table.settle(i32([0, 0]), np.ones(2, np.uint32), np.array([1, table.packet_ids(second)[0]], np.uint16))
    assert sorted(settled.tags.tolist()) == [-1, 0]
