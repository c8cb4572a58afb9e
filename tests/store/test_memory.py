"""The in-memory twins keep the contract of the store ports; what is theirs alone stands below."""

from __future__ import annotations

import numpy as np
from contract import (
    EPOCH,
    JournalContract,
    record_of,
    tags_of,
)
from contract_inbox import InboxContract, rows_for
from contract_ledger import LedgerArchiveContract
from contract_registry import RegistryContract

from gateway.store.memory import MemoryInbox, MemoryJournal, MemoryLedgerArchive, MemoryRegistry
from gateway.store.ports import JournalRecord


class TestMemoryJournal(JournalContract):
    def open(self) -> MemoryJournal:
        return MemoryJournal()


class TestMemoryInbox(InboxContract):
    def open(self, **limits: int) -> MemoryInbox:
        return MemoryInbox(**{"rows_per_device_max": 100, "rows_max": 1000} | limits)


class TestMemoryRegistry(RegistryContract):
    def open(self) -> MemoryRegistry:
        return MemoryRegistry()


class TestMemoryLedgerArchive(LedgerArchiveContract):
    def open(self) -> MemoryLedgerArchive:
        return MemoryLedgerArchive()


async def test_the_memory_journal_copies_no_buffer() -> None:
    journal = MemoryJournal()
    column = np.arange(4, dtype=np.uint32)
    view = column.view(np.uint8).data
    await journal.append(EPOCH, [JournalRecord(1, (view,))])
    async for _, record in journal.replay(0):
        assert record.buffers[0] is view


async def test_the_memory_journal_forgets_what_was_released() -> None:
    journal = MemoryJournal()
    await journal.append(EPOCH, [record_of(name) for name in range(3)])
    assert len(journal) == 3
    await journal.release(EPOCH, [0, 2])
    assert len(journal) == 1


async def test_the_memory_inbox_counts_its_rows_and_forgets_empty_devices() -> None:
    inbox = MemoryInbox(rows_per_device_max=10, rows_max=10)
    await inbox.put(EPOCH, rows_for([(0, 1), (1, 2)]))
    assert len(inbox) == 2
    await inbox.forget(EPOCH, tags_of(1))
    assert len(inbox) == 1
    assert not inbox.holds(bytes(16))
    assert inbox.holds(bytes([1]) * 16)
