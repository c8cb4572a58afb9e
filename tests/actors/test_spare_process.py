"""SpareProcess against real processes."""

from __future__ import annotations

import os
import sys

import pytest
import trio
import trio.testing

from gateway.actors.spare_process import SpareProcess, begin, end

#: Reads what it is told until its control socket ends, and exits with how much that was.
LISTENS = """
import socket, sys
told = 0
with socket.socket(fileno=int(sys.argv[1])) as control:
    while data := control.recv(100):
        told += len(data)
sys.exit(told)
"""
COMMAND = (sys.executable, "-c", LISTENS)


async def until_there_is_one(spare: SpareProcess, *, but: int | None = None) -> int:
    with trio.fail_after(60):
        while spare.pid in (None, but):
            await trio.sleep(0.005)
    assert spare.pid is not None
    return spare.pid


async def test_a_process_that_was_taken_hears_its_taker_and_another_is_made() -> None:
    spare = SpareProcess(COMMAND, list, 0.01)
    assert spare.take() is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spare.run)
        first = await until_there_is_one(spare)
        taken = spare.take()
        assert taken is not None
        assert (taken.process.pid, spare.take()) == (first, None)
        assert await until_there_is_one(spare) != first
        await taken.stream.send_all(b"you are one")
        await taken.stream.aclose()
        assert await taken.process.wait() == len(b"you are one")
        nursery.cancel_scope.cancel()


async def test_one_that_ends_by_itself_is_not_handed_out_and_replaced() -> None:
    spare = SpareProcess(COMMAND, list, 0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spare.run)
        first = await until_there_is_one(spare)
        waiting = spare._begun
        assert waiting is not None
        waiting.process.kill()
        second = await until_there_is_one(spare, but=first)
        taken = spare.take()
        assert taken is not None
        assert taken.process.pid == second
        await taken.stream.aclose()
        await end(taken.process)
        nursery.cancel_scope.cancel()


async def test_one_that_waits_is_gone_when_its_keeper_is_cancelled() -> None:
    spare = SpareProcess(COMMAND, list, 0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spare.run)
        await until_there_is_one(spare)
        waiting = spare._begun
        nursery.cancel_scope.cancel()
    assert waiting is not None
    assert waiting.process.returncode is not None
    assert (spare.pid, spare.take()) == (None, None)


async def test_a_process_that_cannot_be_made_leaves_no_socket() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        await begin(("/no/such/program",), [])
    assert len(os.listdir("/proc/self/fd")) == before


async def test_one_is_made_at_once_for_somebody_who_knows_that_it_will_be_needed() -> None:
    spare = SpareProcess(COMMAND, list, 3600.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spare.run)
        await trio.testing.wait_all_tasks_blocked()
        assert spare.pid is None
        spare.hurry()
        first = await until_there_is_one(spare)
        # There is one.
        spare.hurry()
        taken = spare.take()
        assert taken is not None
        await trio.testing.wait_all_tasks_blocked()
        assert spare.pid is None
        spare.hurry()
        assert await until_there_is_one(spare) != first
        await taken.stream.aclose()
        await end(taken.process)
        nursery.cancel_scope.cancel()
