"""Addresses of batches as one home keeps them: its own, and those of journals whose worker this start does not have.

    own journal       sequence                        as in message ids
    adopted journal   worker << 22 | sequence         so that pages of several journals stand in one table
    shadows           SHADOWS_FROM and more           slices of other homes (core/shadow.py)

With another number of workers a journal may have another worker (`Ownership.worker_of_journal`), back and forth. So
what is written for all of them, the tags in the inbox, names a batch by its *number*, worker << 22 | sequence, whoever
is its home now. The numbers of worker 0 are its sequences: what a worker alone has written needs no translation.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway import message_id
from gateway.core.ownership import WORKERS_MAX
from gateway.message_id import MESSAGE_DOMAIN, SEQUENCES_MAX, BatchAddress, RowAddress

SHADOWS_FROM = WORKERS_MAX * SEQUENCES_MAX


def number_of(address: BatchAddress) -> int:
    """The batch's number in its data folder, however its home keeps it."""
    return address.journal % WORKERS_MAX * SEQUENCES_MAX + address.sequence % SEQUENCES_MAX


def as_sent(address: BatchAddress) -> BatchAddress:
    """The address as message ids have it."""
    return address._replace(sequence=address.sequence % SEQUENCES_MAX)


class Addresses:
    """journal: that the home appends to. adopted: others of the node that it answers for."""

    __slots__ = ("_adopted", "_journal", "_secret", "_worker")

    def __init__(self, secret: bytes, journal: int, adopted: Collection[int] = ()) -> None:
        self._secret = secret
        self._journal = journal
        self._worker = journal % WORKERS_MAX
        self._adopted = frozenset(adopted) - {journal}

    def is_ours(self, address: BatchAddress) -> bool:
        return address.journal == self._journal or address.journal in self._adopted

    def kept(self, address: BatchAddress) -> BatchAddress:
        """The address as this home keeps it. Again changes nothing."""
        sequence = number_of(address) if address.journal in self._adopted else address.sequence % SEQUENCES_MAX
        return address._replace(sequence=sequence)

    def of_sequence(self, unix_ms: int, sequence: int) -> BatchAddress:
        """The address of a page that is kept under this sequence."""
        worker = sequence // SEQUENCES_MAX
        journal = self._journal - self._worker + worker if worker else self._journal
        return BatchAddress(unix_ms, journal, sequence)

    def sequence_of(self, number: int) -> int | None:
        """Under which sequence a page of that number is kept here; None: by another home."""
        worker = number // SEQUENCES_MAX
        if worker == self._worker:
            return number % SEQUENCES_MAX
        return number if self._journal - self._worker + worker in self._adopted else None

    def decode(self, identifier: bytes, domain: bytes = MESSAGE_DOMAIN) -> RowAddress | None:
        """The address in an id, as it is kept here; None when it is not ours."""
        found = message_id.decode(self._secret, identifier, domain)
        return None if found is None or not self.is_ours(found.batch) else found._replace(batch=self.kept(found.batch))
