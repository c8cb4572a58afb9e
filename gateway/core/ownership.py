"""Ownership: which worker has which devices, which names and which journals. Contract of DESIGN.md section 4.

    device id --fixed hash--> shard (4,096) --> shard group (`shard_groups`) --> worker      a map with an epoch
    name      --fixed hash--> shard ... the same way: the home of a request id, the place of a thing of which there is
    one journal number --> worker that has it open

A pure function of how many workers there are: two processes that were told the same numbers agree without a word.
Groups go to workers in turn, so that no worker has more than one group above its share, and a group is the unit in
which ownership moves. A worker that is down keeps its groups: it is back in seconds, and what is for it waits
(`parked`).
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from gateway.batch import OwnershipEpoch
from gateway.columns import U8, U64, Rows
from gateway.core.segments import device_shard, device_shards
from gateway.message_id import JOURNALS_MAX

SHARDS = 4096
#: The first 12 bits of a request id's key are its shard.
_KEY_SHIFT = 52
#: As many as stay below the bits of a byte that `core/holders.py` uses for itself, and far above the cores of a
#: machine.
WORKERS_MAX = 64
#: Journals a node may have: one per worker index, whatever the number of workers at this start.
NODES_MAX = JOURNALS_MAX // WORKERS_MAX
FIRST_EPOCH = OwnershipEpoch(1)


def shard_of_name(name: str) -> int:
    """0..4095, the same in every process and at every start."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"shard of name").digest()
    return int.from_bytes(digest, "little") % SHARDS


def journal_of(node: int, worker: int) -> int:
    """The number of the journal that this worker of this node appends to; it stands in its message ids.

    Raises ValueError for numbers that do not fit into a message id.
    """
    if not 0 <= node < NODES_MAX or not 0 <= worker < WORKERS_MAX:
        raise ValueError(f"node {node}, worker {worker}: limits {NODES_MAX - 1} and {WORKERS_MAX - 1}")
    return node * WORKERS_MAX + worker


class GroupRange(NamedTuple):
    """Shards first..stop of one group."""

    first: int
    stop: int


class Ownership:
    """The map of one epoch. workers: how many there are; each index below it owns at least one group.

    Raises ValueError when the groups do not divide the shards or do not reach for the workers.
    """

    __slots__ = ("_worker_of", "_workers_of_shards", "epoch", "shard_groups", "workers")

    def __init__(self, workers: int, *, shard_groups: int = 16, epoch: OwnershipEpoch = FIRST_EPOCH) -> None:
        if shard_groups < 1 or SHARDS % shard_groups:
            raise ValueError(f"shard_groups is {shard_groups}, expected a divisor of {SHARDS}")
        if not 1 <= workers <= min(shard_groups, WORKERS_MAX):
            raise ValueError(f"workers is {workers}, expected 1 to {min(shard_groups, WORKERS_MAX)}")
        self.workers = workers
        self.shard_groups = shard_groups
        self.epoch = epoch
        per_group = SHARDS // shard_groups
        self._workers_of_shards: U8 = (np.arange(SHARDS) // per_group % workers).astype(np.uint8)
        self._worker_of: list[int] = self._workers_of_shards.tolist()

    def group_of_shard(self, shard: int) -> int:
        return shard * self.shard_groups // SHARDS

    def groups_of(self, worker: int) -> list[GroupRange]:
        """The shards of this worker's groups, in order."""
        per_group = SHARDS // self.shard_groups
        return [
            GroupRange(group * per_group, (group + 1) * per_group)
            for group in range(worker, self.shard_groups, self.workers)
        ]

    def owners(self, ids: U8) -> U8:
        """ids: (n, 16) uint8 device ids, contiguous -> (n,) uint8, the worker that owns each."""
        return self._workers_of_shards[device_shards(ids)]

    def owner(self, device_id: bytes) -> int:
        return self._worker_of[device_shard(device_id)]

    def worker_of_shard(self, shard: int) -> int:
        return self._worker_of[shard]

    def owner_of_name(self, name: str) -> int:
        """The worker that has the one thing of this name."""
        return self._worker_of[shard_of_name(name)]

    def home_of_request(self, key: int) -> int:
        """Where a submit with a request id is journaled, whichever worker it arrives at: a retry finds the first
        answer there. key: of the id, 64 bits (core/request_ids.py), which is all that is kept of it."""
        return self._worker_of[key >> _KEY_SHIFT]

    def homes_of_requests(self, keys: U64) -> U8:
        """(n,) the same of many."""
        return self._workers_of_shards[(keys >> np.uint64(_KEY_SHIFT)).astype(np.intp)]

    def worker_of_journal(self, journal: int, node: int) -> int | None:
        """Who has the journal of a message id open; None: not a journal of this node.

        Journals of workers that this start no longer has are open at the others, in turn.
        """
        if journal // WORKERS_MAX != node:
            return None
        return journal % WORKERS_MAX % self.workers

    def journals_of(self, worker: int, node: int) -> list[int]:
        """Numbers of the journals that this worker has to look for at its start; the first is its own."""
        return [journal_of(node, index) for index in range(worker, WORKERS_MAX, self.workers)]


def split_by_owner(owners: U8, me: int) -> tuple[Rows, list[tuple[int, Rows]]]:
    """(n,) owners -> positions of mine, and (worker, positions) of each other, in order."""
    counts = np.bincount(owners)
    others: list[tuple[int, Rows]] = [
        (worker, np.flatnonzero(owners == worker)) for worker in counts.nonzero()[0].tolist() if worker != me
    ]
    mine: Rows = np.flatnonzero(owners == me) if others else np.arange(len(owners))
    return mine, others
