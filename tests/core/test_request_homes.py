"""RequestHomes: an id is taken once, whatever each worker has heard so far."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.ownership import Ownership
from gateway.core.request_homes import RequestHomes
from gateway.core.shadow import Life


def key_of(home: int, ownership: Ownership, number: int = 0) -> int:
    return next(
        shard << 52 | number for shard in range(4096) if ownership.home_of_request(shard << 52 | number) == home
    )


def test_home_by_right_takes_an_id_while_it_is_not_known_to_be_down() -> None:
    ownership = Ownership(3)
    homes = RequestHomes(ownership, 2)
    keys = [key_of(home, ownership) for home in range(3)]
    assert [homes.home(key) for key in keys] == [0, 1, 2]
    homes.on_known(Life(0, 7))
    assert [homes.home(key) for key in keys] == [0, 1, 2]
    homes.on_over(Life(0, 7))
    assert [homes.home(key) for key in keys] == [1, 1, 2]
    homes.on_over(Life(1, 3))
    assert [homes.home(key) for key in keys] == [2, 2, 2]
    # What is said late of an earlier life changes nothing.
    homes.on_back(Life(0, 8))
    homes.on_over(Life(0, 6))
    homes.on_known(Life(1, 4))
    assert [homes.home(key) for key in keys] == [0, 2, 2]


@given(st.integers(1, 6), st.data())
def test_ids_to_tell_are_those_of_homes_to_which_the_newcomer_is_nearer(n: int, data: st.DataObject) -> None:
    me, newcomer = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    owners = data.draw(st.lists(st.integers(0, n - 1)))
    found = RequestHomes(Ownership(n), me).stood_in_for(np.array(owners, np.uint8), newcomer)

    def is_met_first(owner: int) -> bool:
        while owner != me:
            if owner == newcomer:
                return True
            owner = (owner + 1) % n
        return False

    assert found.tolist() == [is_met_first(owner) for owner in owners]


class Worker:
    """One life of a worker as actors/stand_ins.py drives it. ids: key -> who took it and when."""

    def __init__(self, world: World, life: Life) -> None:
        self.world = world
        self.life = life
        self.homes = RequestHomes(world.ownership, life.worker)
        self.told: deque[tuple[str, Any]] = deque()
        self.is_linked = self.has_met = self.declines = False
        self.asked: set[Life] = set()
        self.ids: dict[int, object] = {}

    def read(self) -> None:
        """The next word of the supervisor."""
        what, said = self.told.popleft()
        match what:
            case "linked":
                self.homes.on_known(said)
            case "up":
                self.homes.on_back(said)
            case "died":
                self.homes.on_over(said)
            case "leaving":
                self.homes.on_leaving(said, is_over=False)
            case "stays":
                self.homes.on_leaving(said, is_over=True)
            case _:
                for life in said:
                    self.homes.on_over(life)
                self.has_met = True

    def go_on(self) -> None:
        """Asks who is to be asked, or begins when all have answered."""
        if not self.has_met or self.homes.has_begun:
            return
        lives = self.homes.lives_to_ask()
        if not lives:
            self.homes.begin()
            self.world.tell_others(self.life, "up")
        for life in lives:
            if life not in self.asked:
                self.asked.add(life)
                self.world.send(self.life, life, "who?", None)

    def hear(self, sender: Life, what: str, said: Any) -> None:
        match what:
            case "who?":
                self.homes.on_back(sender)
                keys = list(self.ids)
                owners = [self.world.ownership.home_of_request(key) for key in keys]
                passed = self.homes.stood_in_for(owners, sender.worker)
                ids = {key: self.ids[key] for key, is_passed in zip(keys, passed, strict=True) if is_passed}
                self.world.send(self.life, sender, "ids", (self.homes.has_begun, ids))
            case "ids":
                has_begun, ids = said
                for key, answer in ids.items():
                    self.ids.setdefault(key, answer)
                self.homes.on_answered(sender, has_begun=has_begun)
            case "declined":
                self.on_declined(sender, said)
            case _:
                key, declined_by = said
                self.submit(key, brought_by=sender, declined_by=declined_by)

    def submit(self, key: int, *, brought_by: Life | None = None, declined_by: Life | None = None) -> None:
        """A client's, or brought by another worker: taken, passed on, or declined."""
        if not self.homes.has_begun:
            return
        home = self.homes.home(key)
        if home == self.life.worker or (declined_by is not None and self.homes.takes_declined(key, declined_by)):
            if key in self.ids:
                return
            if not self.declines:
                self.ids[key] = self.world.taken(self, key)
            elif brought_by is not None:
                self.world.send(self.life, brought_by, "declined", key)
        elif (other := self.world.workers[home]) is not None:
            self.world.send(self.life, other.life, "submit", (key, None))

    def on_declined(self, by: Life, key: int) -> None:
        leaving = self.homes.leaving(by.worker)
        if leaving is not None:
            after = self.homes.next_home(key)
            if after == self.life.worker:
                self.submit(key, declined_by=leaving)
            elif (other := self.world.workers[after]) is not None:
                self.world.send(self.life, other.life, "submit", (key, leaving))


class World:
    """A supervisor, and workers whose messages arrive in order, each pair and the supervisor at a pace of its own."""

    def __init__(self, n: int) -> None:
        self.ownership = Ownership(n)
        self.workers: list[Worker | None] = [None] * n
        self.last = [Life(worker, 0) for worker in range(n)]
        self.incarnation = 0
        #: The one that leaves, while it lives.
        self.leaving: Life | None = None
        self.on_links: dict[tuple[Life, Life], deque[tuple[str, Any]]] = {}

    def start(self, worker: int) -> None:
        if self.workers[worker] is None:
            self.incarnation += 1
            self.last[worker] = Life(worker, self.incarnation)
            self.workers[worker] = Worker(self, self.last[worker])

    def link(self, index: int) -> None:
        worker = self.workers[index]
        if worker is None or worker.is_linked:
            return
        worker.is_linked = True
        down = []
        for other_index, other in enumerate(self.workers):
            if other is None or not other.is_linked:
                last = self.last[other_index]
                down.append(last if other is None else Life(other_index, last.incarnation - 1))
            elif other is not worker:
                worker.told.append(("linked", other.life))
        worker.told.append(("met", down))
        self.tell_others(worker.life, "linked")

    def leave(self, index: int) -> None:
        """One at a time, and only while all of them work."""
        all_work = all(worker is not None and worker.homes.has_begun and not worker.told for worker in self.workers)
        worker = self.workers[index]
        if all_work and self.leaving is None and worker is not None:
            self.leaving = worker.life
            self.tell_others(worker.life, "leaving")

    def decide(self, index: int, *, stays: bool) -> None:
        """The one that was to leave does, or goes on after all."""
        worker = self.workers[index]
        if worker is None or worker.life != self.leaving or worker.declines:
            return
        if stays:
            self.leaving = None
            self.tell_others(worker.life, "stays")
        else:
            worker.declines = True

    def kill(self, index: int) -> None:
        if self.workers[index] is not None:
            self.workers[index] = None
            if self.leaving == self.last[index]:
                self.leaving = None
            self.tell_others(self.last[index], "died")

    def tell_others(self, life: Life, what: str) -> None:
        for other in self.workers:
            if other is not None and other.life != life:
                other.told.append((what, life))

    def send(self, sender: Life, receiver: Life, what: str, said: Any) -> None:
        self.on_links.setdefault((sender, receiver), deque()).append((what, said))

    def deliver(self, sender: int, receiver: int) -> None:
        """The next message between those two; what was sent by one that has died is read, too."""
        there = self.workers[receiver]
        queue = None if there is None else self.on_links.get((self.last[sender], there.life))
        if there is not None and queue:
            there.hear(self.last[sender], *queue.popleft())

    def taken(self, by: Worker, key: int) -> object:
        others = [one for one in self.workers if one is not None and one is not by and key in one.ids]
        assert not others, f"{by.life} takes an id that {[one.life for one in others]} knows"
        return object()

    def quiet(self) -> None:
        """Everything that was said is heard."""
        before = -1
        while before != (before := self.heard()):
            for index, worker in enumerate(self.workers):
                while worker is not None and worker.told:
                    worker.read()
                for sender in range(len(self.workers)):
                    self.deliver(sender, index)
                if worker is not None:
                    worker.go_on()

    def heard(self) -> int:
        return -2 - sum(
            len(queue)
            for (sender, receiver), queue in self.on_links.items()
            if self.last[sender.worker] == sender and self.last[receiver.worker] == receiver
        )


def step(world: World, kind: str, one: int, other: int) -> None:
    worker = world.workers[one]
    match kind:
        case "start":
            world.start(one)
        case "link":
            world.link(one)
        case "kill":
            world.kill(one)
        case "leave":
            world.leave(one)
        case "take no more" | "stay":
            world.decide(one, stays=kind == "stay")
        case "deliver":
            world.deliver(one, other)
        case "read" if worker is not None and worker.told:
            worker.read()
        case "go on" if worker is not None:
            worker.go_on()
        case "submit" if worker is not None:
            worker.submit(key_of(other, world.ownership))


STEPS = [
    "start",
    "link",
    "kill",
    "leave",
    "take no more",
    "stay",
    "deliver",
    "deliver",
    "deliver",
    "read",
    "read",
    "go on",
    "go on",
    "submit",
    "submit",
]


@given(
    st.integers(2, 4).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(
                st.tuples(st.sampled_from(STEPS), st.integers(0, n - 1), st.integers(0, n - 1)),
                min_size=20,
                max_size=150,
            ),
        )
    ),
    st.booleans(),
)
def test_id_is_taken_once_as_long_as_somebody_lives_who_knows_it(
    case: tuple[int, list[tuple[str, int, int]]], is_running: bool
) -> None:
    """And when all is quiet, workers that live have begun, and agree who takes which id."""
    n, steps = case
    world = World(n)
    if is_running:
        for index in range(n):
            world.start(index)
            world.link(index)
        settle(world)
    for each in steps:
        step(world, *each)
    settle(world)
    living = [worker for worker in world.workers if worker is not None and worker.is_linked]
    assert all(worker.homes.has_begun for worker in living)
    for home in range(n):
        key = key_of(home, world.ownership)
        views = {worker.homes.home(key) for worker in living}
        assert len(views) <= 1
        assert views <= {worker.life.worker for worker in living}
        for worker in living:
            worker.submit(key)
    settle(world)


def settle(world: World) -> None:
    for _ in range(10):
        world.quiet()


@pytest.mark.parametrize("n", [2, 3])
def test_two_that_begin_at_once_ask_each_other_and_neither_waits_for_ever(n: int) -> None:
    world = World(n)
    for index in range(n):
        world.start(index)
    for index in range(n):
        world.link(index)
    settle(world)
    assert all(worker is not None and worker.homes.has_begun for worker in world.workers)


def test_what_a_leaving_worker_declines_is_taken_by_who_would_stand_in_for_it() -> None:
    world = World(3)
    for index in range(3):
        world.start(index)
        world.link(index)
    settle(world)
    leaver, after, asker = (worker for worker in world.workers if worker is not None)
    known, new = (key_of(0, world.ownership, number) for number in (1, 2))
    asker.submit(known)
    settle(world)
    world.leave(0)
    settle(world)
    asker.submit(new)
    settle(world)
    assert (known in leaver.ids, new in leaver.ids) == (True, True)
    world.decide(0, stays=False)
    unheard = key_of(0, world.ownership, 3)
    for key in (known, new, unheard):
        asker.submit(key)
    settle(world)
    assert list(after.ids) == [unheard]
    world.kill(0)
    world.start(0)
    world.link(0)
    settle(world)
    newborn = world.workers[0]
    assert newborn is not None
    assert list(newborn.ids) == [unheard]
    # What was declined by a life that is over is nobody's to take.
    assert not after.homes.takes_declined(unheard, leaver.life)
    assert after.homes.takes_declined(key_of(1, world.ownership), after.life) is False
    assert [homes.homes.leaving(0) for homes in (after, asker)] == [None, None]


def test_worker_that_stays_after_all_is_not_passed_over() -> None:
    homes = RequestHomes(ownership := Ownership(3), 1)
    key = key_of(0, ownership)
    for life in (Life(0, 5), Life(2, 6)):
        homes.on_back(life)
    homes.on_leaving(Life(0, 5), is_over=False)
    assert (homes.home(key), homes.next_home(key), homes.leaving(0)) == (0, 1, Life(0, 5))
    assert homes.takes_declined(key, Life(0, 5))
    assert not homes.takes_declined(key, Life(0, 4))
    homes.on_leaving(Life(0, 5), is_over=True)
    assert (homes.next_home(key), homes.takes_declined(key, Life(0, 5))) == (0, False)
    homes.on_leaving(Life(0, 5), is_over=False)
    homes.on_over(Life(0, 5))
    homes.on_back(Life(0, 7))
    assert (homes.home(key), homes.next_home(key), homes.leaving(0)) == (0, 0, None)
