"""DeviceReports over links: a device's report counts wherever the home of its rows is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

from gateway.actors.device_reports import DeviceReports, DistantReports
from gateway.actors.report_post import KEEP_S
from gateway.actors.waiting import Wait
from gateway.core.receipt_notes import ReceiptNotes
from gateway.core.uplink import Report
from gateway.errors import Overloaded
from gateway.ledger import Channel, Flag, Receipt


class Refused(list[str]):
    def refused(self, why: str) -> None:
        self.append(why)


class Desks:
    """The reports of each worker of a cluster."""

    def __init__(self, cluster: Any, reports_max: int = 100) -> None:
        self.cluster = cluster
        self.refused: list[Refused] = []
        self.desks: list[DeviceReports] = []
        for worker in cluster.workers:
            self.open(worker, reports_max)

    def open(self, worker: Any, reports_max: int = 100) -> None:
        index, world, refused = worker.life.worker, worker.world, Refused()
        desk = DeviceReports(devices=world.devices, home=world.home, clock=world.clock, observer=refused)
        desk.distant = DistantReports(
            links=worker.links,
            ownership=self.cluster.ownership,
            me=index,
            node=0,
            here=desk,
            observer=refused,
            reports_max=reports_max,
        )
        worker.nursery.start_soon(desk.distant.run)
        self.desks[index:], self.refused[index:] = (
            [desk, *self.desks[index + 1 :]],
            [refused, *self.refused[index + 1 :]],
        )

    async def report(self, owner: int, device: bytes, ids: list[bytes], receipt: Receipt, flag: Any = None) -> None:
        self.desks[owner].report(0, device, Report(tuple(ids), receipt, flag))
        await self.cluster.settle()


def ids_of(page: Any) -> list[bytes]:
    return [row.tobytes() for row in page.batch.message_ids[np.arange(page.n)]]


async def test_report_of_a_device_raises_receipts_at_every_home(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster(3)
    desks = Desks(cluster)
    (device,) = cluster.owned_by(1, 1)
    (other,) = cluster.owned_by(1, 1)
    pages = [await cluster.send(home, [device, other]) for home in range(3)]
    cluster.answer_all(1)
    await cluster.settle()
    await desks.report(1, device, [ids_of(page)[0] for page in pages], Receipt.CLICKED)
    assert [page.receipt.tolist() for page in pages] == [[Receipt.CLICKED, Receipt.NONE]] * 3
    await desks.report(1, other, [ids_of(pages[0])[1]], Receipt.DELIVERED, Flag.NOTIFICATION_CLOSED)
    assert pages[0].flags[1] & Flag.NOTIFICATION_CLOSED
    assert desks.refused == [[], [], []]
    # Rows of others, and ids that are none of ours, are refused where they would have to be.
    await desks.report(1, other, [ids_of(pages[2])[0], bytes(16)], Receipt.CLICKED)
    assert desks.refused == [["unknown_message"], [], ["not_the_target"]]
    assert cluster.world(1).home.rows_not_conserved() == 0


async def test_report_counts_for_a_row_whose_target_was_the_devices_token(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    desks = Desks(cluster)
    device, other = cluster.owned_by(1, 2)
    page = await cluster.send(0, [(Channel.APNS, cluster.world(1).token(device))])
    cluster.answer_all(0)
    await cluster.settle()
    await desks.report(1, other, ids_of(page), Receipt.CLICKED)
    assert (page.receipt.tolist(), desks.refused[0]) == ([Receipt.NONE], ["not_the_target"])
    await desks.report(1, device, ids_of(page), Receipt.DISPLAYED)
    assert page.receipt.tolist() == [Receipt.DISPLAYED]


async def test_a_device_hears_that_its_report_is_durable_when_all_homes_say_so(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster(3)
    desks = Desks(cluster)
    (device,) = cluster.owned_by(1, 1)
    pages = [await cluster.send(home, [device]) for home in range(3)]
    cluster.answer_all(1)
    await cluster.settle()
    journals: list[ReceiptNotes] = []
    for home in range(3):
        notes = ReceiptNotes([0])
        notes.has_archive = True
        cluster.world(home).home.on_heard = notes.note
        desks.desks[home]._notes = notes
        journals.append(notes)
    told: list[bool] = []

    async def report(receipt: Receipt) -> None:
        ids = tuple(ids_of(page)[0] for page in pages)
        desks.desks[1].report(0, device, Report(ids, receipt), Wait(told.append))
        await cluster.settle()

    await report(Receipt.DISPLAYED)
    for notes in journals:
        assert told == []
        record = notes.take()
        assert record is not None
        notes.written(record, 1)
        await cluster.settle()
    assert told == [True]
    await report(Receipt.CLICKED)
    for at, notes in enumerate(journals):
        record = notes.take()
        assert record is not None
        notes.written(record, 2) if at != 2 else notes.unwritten(record)
        await cluster.settle()
    assert told == [True, False]


async def test_reports_for_a_home_that_is_down_are_counted_and_those_that_wait_are_bounded(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    desks = Desks(cluster, reports_max=3)
    (device,) = cluster.owned_by(0, 1)
    page = await cluster.send(1, [device])
    cluster.answer_all(0)
    await cluster.settle()
    await cluster.kill(1)
    for _ in range(3):
        desks.desks[0].report(0, device, Report(tuple(ids_of(page)), Receipt.CLICKED))
    with pytest.raises(Overloaded):
        desks.desks[0].report(0, device, Report(tuple(ids_of(page)), Receipt.CLICKED))
    await trio.sleep(2 * KEEP_S)
    assert desks.refused[0] == ["reports_max", "home_is_down", "home_is_down", "home_is_down"]
    await cluster.revive(1)
    desks.open(cluster.workers[1])
    page = await cluster.send(1, [device])
    cluster.answer_all(0)
    await desks.report(0, device, ids_of(page), Receipt.CLICKED)
    assert page.receipt.tolist() == [Receipt.CLICKED]
