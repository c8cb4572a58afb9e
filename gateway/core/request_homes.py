"""RequestHomes: who answers for a request id while its home is down. A machine; no clock.

An id has one home by its key (core/ownership.py). While that worker is down the next living one stands in for it, in
the order of the indexes, and remembers the id among its own (core/request_ids.py). A worker that begins asks every
living one which ids it took in its stead, and takes none before all have answered:

    worker N begins                                   worker S, living
      linked, has been told of all who were (`met`)
      who are you, what did you take for me? ------->   from now on N is back: S takes nothing more in its stead,
                                                        waits for what it was taking, then tells
      <---------------------------------- ids, and whether S has begun itself
      all living have answered: N has begun

Why no two workers take one id, whatever each has heard so far. Of two lives the one that linked later was told of the
other before `met`, so it asks it before it begins; its question brings the other to see it as back, or, where the
other has not begun either, to ask it in turn. Who has begun is seen as back by all until the supervisor says that it
died; a link that ended says nothing. What differs between two views for a moment is settled by whoever is asked to
take an id that is not its to take: it declines, and the asker looks again.

A worker that leaves in order (`pushgw restart`) lives for some seconds after it took its last id: its devices are sent
away one by one. It answers the ids that it knows and declines all others, for good; whoever would stand in for it, were
it down, takes what it declined, and only that. Who leaves is said by the supervisor before it is asked to.

A worker that dies takes its memory of ids along, those it took for others included. On the disk they come back with
its journal, which nobody else can read meanwhile: so nobody stands in for ids of apps there (actors/stand_ins.py).
"""

from __future__ import annotations

import numpy as np

from gateway.columns import U8, Bool
from gateway.core.ownership import Ownership
from gateway.core.shadow import Life

#: Before any life.
_NEVER = -1


class RequestHomes:
    """me: this worker's index. Lives of others are told in any order; a newer one says that older ones are over."""

    def __init__(self, ownership: Ownership, me: int) -> None:
        self._ownership = ownership
        self._me = me
        n = ownership.workers
        #: By worker: its newest life that anybody spoke of, that was seen to be back, and that is over.
        self._known = [_NEVER] * n
        self._back = [_NEVER] * n
        self._over = [_NEVER] * n
        #: By worker: its newest life that leaves.
        self._leaving = [_NEVER] * n
        self._answered: set[Life] = set()
        #: By worker: not to be asked, someone else answers for its ids.
        self._is_down = [False] * n
        self.has_begun = False

    def home(self, key: int) -> int:
        """Who takes a submit with an id of this key now."""
        at = self._ownership.home_of_request(key)
        while self._is_down[at]:
            at = (at + 1) % len(self._is_down)
        return at

    def next_home(self, key: int) -> int:
        """Who takes what `home` declined, if that one leaves."""
        at = self._ownership.home_of_request(key)
        while self._is_down[at] or self.leaving(at) is not None:
            at = (at + 1) % len(self._is_down)
        return at

    def leaving(self, worker: int) -> Life | None:
        """The life of that worker that ends soon, and may decline ids that it does not know."""
        is_leaving = self._leaving[worker] != _NEVER and self._leaving[worker] >= self._back[worker]
        return Life(worker, self._leaving[worker]) if is_leaving else None

    def takes_declined(self, key: int, by: Life) -> bool:
        """Whether an id that this life declined is this worker's to take."""
        return self.home(key) == by.worker and self.leaving(by.worker) == by and self.next_home(key) == self._me

    def is_mine_by_right(self, key: int) -> bool:
        return self._ownership.home_of_request(key) == self._me

    def on_known(self, life: Life) -> None:
        """That life has a socket for links."""
        self._known[life.worker] = max(self._known[life.worker], life.incarnation)

    def on_back(self, life: Life) -> None:
        """That life begins or has begun: its ids are its own again."""
        self.on_known(life)
        self._back[life.worker] = max(self._back[life.worker], life.incarnation)
        self._look(life.worker)

    def on_leaving(self, life: Life, *, is_over: bool) -> None:
        """That life is about to end; is_over: it goes on after all."""
        if life.worker != self._me:
            self._leaving[life.worker] = _NEVER if is_over else life.incarnation

    def on_over(self, life: Life) -> None:
        """That life and all before it have ended, or have not begun and will ask before they do."""
        self._over[life.worker] = max(self._over[life.worker], life.incarnation)
        self._look(life.worker)

    def _look(self, worker: int) -> None:
        over = self._over[worker]
        # One that nobody spoke of is not known to be down.
        self._is_down[worker] = worker != self._me and over != _NEVER and self._back[worker] <= over

    def lives_to_ask(self) -> list[Life]:
        """Those that have not said yet what they took for this worker."""
        known = [Life(worker, known) for worker, known in enumerate(self._known)]
        return [
            life
            for life in known
            if life.incarnation > self._over[life.worker] and life.worker != self._me and life not in self._answered
        ]

    def on_answered(self, life: Life, *, has_begun: bool) -> None:
        """That life has said what it took. One that has not begun asks this worker before it does."""
        self._answered.add(life)
        if has_begun:
            self.on_back(life)
        else:
            self.on_over(Life(life.worker, life.incarnation - 1))

    def begin(self) -> None:
        """Ids may be taken. Everybody who lives has answered."""
        self.has_begun = True

    def stood_in_for(self, owners: U8 | list[int], newcomer: int) -> Bool:
        """(n,) owners of keys -> which of them this worker can have stood in for in the newcomer's stead: those to
        whom the newcomer is nearer."""
        n = len(self._is_down)
        found = np.asarray(owners, np.int64)
        nearer: Bool = (newcomer - found) % n < (self._me - found) % n
        return nearer
