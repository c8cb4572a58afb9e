"""ReceiptDesk: receipts count once, for the token they are about, whenever and in whatever order they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from gateway import message_id
from gateway.actors.own_ids import OwnIdBook, pack_receipts
from gateway.actors.receipt_desk import ReceiptDesk
from gateway.actors.token_guard import TokenGuard
from gateway.actors.token_renewals import TokenRenewals
from gateway.burst_address import BurstAddress, encode
from gateway.columns import TextColumn
from gateway.core.addresses import Addresses
from gateway.core.holders import Holders
from gateway.core.own_ids import OwnIds
from gateway.core.receipt_notes import ReceiptNotes
from gateway.core.retry import RetryPolicy
from gateway.core.unregister_guard import GuardSettings
from gateway.ledger import Channel, Flag, LedgerPage, Receipt
from gateway.message_id import to_text
from gateway.observe.receipts import ReceiptCounts
from gateway.receipts import Event, VendorReceipt
from gateway.wire.h2.events import TimedOut


class NoGuardNews:
    def holding(self, is_holding: bool, share: float, held: int) -> None: ...

    def held(self, rows: int, dropped: int, held: int) -> None: ...

    def released(self, rechecked: int, removed: int, held: int) -> None: ...


class Site:
    """A desk beside a world; APNs stands for a vendor that sends receipts. `forget_pages`: the archive of the world."""

    def __init__(self, world: Any, **settings: Any) -> None:
        self.world = world
        self.secret = world.home._secret
        self.archive: dict[int, LedgerPage] = {}
        guard = TokenGuard(
            settings.pop("guard", GuardSettings()), devices=world.devices, clock=world.clock, observer=NoGuardNews()
        )
        counts = ReceiptCounts(world.metrics)
        self.book = OwnIdBook(self.secret, OwnIds(100, 3600.0), clock=world.clock, observer=counts)
        guards = {(0, Channel.APNS): guard}
        self.renewals = TokenRenewals(
            devices=world.devices,
            guards=guards,
            check_token={(0, Channel.APNS): lambda token: "" if token.isalnum() else "not its form"},
            clock=world.clock,
            renewals_max=3,
        )
        self.desk = ReceiptDesk(
            secret=self.secret,
            home=world.home,
            devices=world.devices,
            guards=guards,
            renewals=self.renewals,
            switch=self,
            clock=world.clock,
            observer=counts,
            bring_back=self.bring_back,
            own_ids=self.book,
            **{"receipts_max": 1000} | settings,
        )

    def switch_notifications(self, slot: int, *, is_on: bool) -> None:
        self.world.devices.switch_notifications(slot, is_on=is_on)

    def bring_back(self, sequence: int, rows: Any, then: Any, missing: Any) -> bool:
        page = self.archive.pop(sequence, None)
        if page is None:
            missing()
        else:
            self.world.home.adopt(page)
            then(page, rows)
        return True

    def say(self, event: Event, page: LedgerPage, *devices: bytes, **fields: Any) -> None:
        """One receipt of a request of many rows."""
        text = fields.pop("address", encode(self.secret, BurstAddress(page.batch.address, 1)))
        tokens = [self.world.token(one).decode() for one in devices]
        assert self.desk.take(fields.pop("app", 0), Channel.APNS, [VendorReceipt(event, text, tokens, **fields)])

    def outcome(self, name: str) -> int:
        return int(self.world.metrics.vendor_receipts.value(Channel.APNS, name))


@pytest.fixture
async def site(make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any) -> Site:
    world = make_world()
    await world.start(nursery)
    site = Site(world)
    nursery.start_soon(site.desk.run)
    return site


async def taken(site: Site, n: int) -> tuple[list[bytes], LedgerPage]:
    """n devices whose vendor took a message to each."""
    devices = site.world.register(n)
    page = await site.world.send(devices)
    while site.world.states(page).get("in_flight"):
        site.world.apns.last.answer()
        await trio.testing.wait_all_tasks_blocked()
    assert site.world.states(page) == {"vendor_accepted": n}
    return devices, page


async def settled() -> None:
    await trio.sleep(0.05)
    await trio.testing.wait_all_tasks_blocked()


async def test_receipts_rise_whatever_their_order_and_repetition_changes_nothing(
    site: Site, autojump_clock: Any
) -> None:
    devices, page = await taken(site, 3)
    site.say(Event.CLICKED, page, devices[0])
    site.say(Event.DELIVERED, page, *devices[:2])
    site.say(Event.DELIVERED, page, *devices[:2])
    await settled()
    assert page.receipt.tolist() == [Receipt.CLICKED, Receipt.DELIVERED, Receipt.NONE]
    assert site.world.states(page) == {"vendor_accepted": 3}
    assert (site.outcome("counted"), site.outcome("repeated")) == (2, 3)


async def test_a_receipt_by_the_vendors_own_number_finds_its_row(site: Site, autojump_clock: Any) -> None:
    devices, page = await taken(site, 2)
    site.book.told(0, Channel.APNS, page.batch.address, ["2645:1", "2645:2"])
    site.say(Event.DELIVERED, page, devices[0], address="", own_id="2645:1")
    # Of a number that nobody was told.
    site.say(Event.CLICKED, page, devices[1], address="", own_id="2645:9")
    await settled()
    assert page.receipt.tolist() == [Receipt.DELIVERED, Receipt.NONE]
    await trio.sleep(5)
    assert (site.outcome("counted"), site.outcome("unknown_id")) == (1, 1)
    assert site.world.metrics.own_ids.value() == 2


async def test_a_receipt_may_overtake_the_answer_that_tells_its_number(site: Site, autojump_clock: Any) -> None:
    devices, page = await taken(site, 1)
    site.say(Event.DELIVERED, page, devices[0], address="", own_id="2645:1")
    await trio.sleep(0.7)
    site.book.told(0, Channel.APNS, page.batch.address, ["2645:1"])
    await trio.sleep(1)
    assert page.receipt.tolist() == [Receipt.DELIVERED]
    assert site.outcome("unknown_id") == 0


async def test_another_worker_is_told_of_numbers_that_nobody_here_knows(site: Site, autojump_clock: Any) -> None:
    sent: list[tuple[int, str, dict[str, Any], bytes]] = []

    class Others:
        def others(self) -> list[int]:
            return [1, 2]

        def send(self, worker: int, what: str, head: dict[str, Any], body: bytes, rows: int, wait: Any = None) -> bool:
            sent.append((worker, what, head, body))
            return True

    devices, page = await taken(site, 1)
    site.desk._neighbours = Others()  # type: ignore[assignment]
    site.say(Event.DELIVERED, page, devices[0], address="", own_id="2645:1")
    await trio.sleep(5)
    assert [(worker, what) for worker, what, _, _ in sent] == [(1, "own_ids"), (2, "own_ids")]
    assert site.outcome("passed_on") == 1
    # The one that was told the number deals with it.
    site.book.told(0, Channel.APNS, page.batch.address, ["2645:1"])
    site.desk.on_own_ids(sent[0][2], memoryview(sent[0][3]))
    assert page.receipt.tolist() == [Receipt.DELIVERED]
    told = VendorReceipt(Event.CLICKED, "", ("x",), own_id="2645:7")
    site.desk.on_own_ids({"app": 0, "channel": int(Channel.APNS)}, memoryview(pack_receipts([told])))
    assert site.outcome("forged") == site.outcome("unknown_id") == 0


async def test_receipt_of_a_request_of_one_row_is_that_rows_alone(site: Site, autojump_clock: Any) -> None:
    devices, page = await taken(site, 2)
    text = to_text(page.batch.message_ids[0].tobytes())
    site.say(Event.DELIVERED, page, devices[0], address=text)
    site.say(Event.DISPLAYED, page, devices[1], address=text)
    await settled()
    assert page.receipt.tolist() == [Receipt.DELIVERED, Receipt.NONE]
    assert site.outcome("not_the_target") == 1


async def test_forged_and_foreign_receipts_change_nothing_and_are_counted(site: Site, autojump_clock: Any) -> None:
    devices, page = await taken(site, 1)
    _, stranger = site.world.register(2)
    site.say(Event.CLICKED, page, devices[0], address="forged")
    site.say(Event.CLICKED, page, devices[0], address="")
    site.say(Event.CLICKED, page, devices[0], address=encode(b"x" * 32, BurstAddress(page.batch.address, 1)))
    site.say(Event.CLICKED, page, stranger)
    site.say(Event.CLICKED, page, devices[0], app=1)
    for wrong in (page.batch.address._replace(sequence=9999), page.batch.address._replace(journal=99)):
        site.say(Event.CLICKED, page, devices[0], address=encode(site.secret, BurstAddress(wrong, 1)))
    await settled()
    assert page.receipt.tolist() == [Receipt.NONE]
    assert site.outcome("forged") == 2
    assert site.outcome("no_address") == 1
    assert site.outcome("not_the_target") == 1
    assert site.outcome("unknown_row") == 3


async def in_flight(
    make_world: Callable[..., Any], nursery: trio.Nursery, *, resends: bool
) -> tuple[Site, bytes, LedgerPage]:
    """One row at its vendor, which has not answered."""
    world = make_world(policy=RetryPolicy(first_s=100.0, jitter=0.0, resends_uncertain=resends))
    await world.start(nursery)
    site = Site(world)
    nursery.start_soon(site.desk.run)
    (device,) = world.register(1)
    page = await world.send([device])
    assert world.states(page) == {"in_flight": 1}
    return site, device, page


async def test_receipt_turns_an_uncertain_row_into_an_accepted_one(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    site, device, page = await in_flight(make_world, nursery, resends=False)
    site.world.apns.last.tell(TimedOut)
    await settled()
    assert site.world.states(page) == {"uncertain": 1}
    site.say(Event.PENDING, page, device)
    await settled()
    assert site.world.states(page) == {"vendor_accepted": 1}
    assert page.receipt.tolist() == [Receipt.NONE]


async def test_row_whose_receipt_came_before_its_answer_was_lost_is_accepted(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    site, device, page = await in_flight(make_world, nursery, resends=True)
    site.say(Event.DELIVERED, page, device)
    await settled()
    assert site.world.states(page) == {"in_flight": 1}
    site.world.apns.last.tell(TimedOut)
    await settled()
    assert site.world.states(page) == {"vendor_accepted": 1}


async def test_receipt_calls_a_second_attempt_off(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    site, device, page = await in_flight(make_world, nursery, resends=True)
    site.world.apns.last.tell(TimedOut)
    await settled()
    assert site.world.states(page) == {"waiting": 1}
    site.say(Event.DELIVERED, page, device)
    await trio.sleep(1000)
    assert site.world.states(page) == {"vendor_accepted": 1}
    assert len(site.world.apns.last.requests) == 1
    assert site.world.home.rows_not_conserved() == 0


async def test_late_receipt_brings_its_page_back(site: Site, autojump_clock: Any) -> None:
    devices, page = await taken(site, 2)
    home, sequence = site.world.home, page.batch.address.sequence
    site.archive[sequence] = home._pages.pop(sequence)
    site.say(Event.DELIVERED, page, devices[1])
    await settled()
    assert home.page(sequence) is page
    assert page.receipt.tolist() == [Receipt.NONE, Receipt.DELIVERED]


async def test_dead_token_is_removed_and_a_younger_registration_stays(site: Site, autojump_clock: Any) -> None:
    devices, page = await taken(site, 3)
    now_ms = site.world.clock.unix_ms()
    site.say(Event.TOKEN_DEAD, page, devices[0], at_unix_ms=now_ms)
    site.say(Event.TOKEN_DEAD, page, devices[1], at_unix_ms=1)
    await settled()
    table = site.world.devices
    assert [bool(table.device(table.find_one(one, 0)).token) for one in devices] == [False, True, True]
    assert (page.flags & Flag.TOKEN_DEAD).astype(bool).tolist() == [True, True, False]
    assert site.world.metrics.tokens_dead.value(Channel.APNS) == 1


async def test_dead_tokens_are_held_back_when_too_many_come(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    site = Site(world, guard=GuardSettings(rows_min=4))
    nursery.start_soon(site.desk.run)
    devices, page = await taken(site, 8)
    site.say(Event.TOKEN_DEAD, page, *devices)
    await settled()
    table = world.devices
    assert all(table.device(table.find_one(one, 0)).token for one in devices)


async def test_a_token_that_took_the_place_of_another_is_its_devices_and_all_else_stays(
    site: Site, autojump_clock: Any
) -> None:
    world, table = site.world, site.world.devices
    (device,) = world.register(1)
    old, new = world.token(device), b"f" * 64
    column = TextColumn.from_rows
    state = world.registration([device], Channel.APNS, [old], 7)._replace(
        platforms=column([b"android"]),
        aliases=column([b"anna"]),
        tag_counts=np.array([2], np.uint32),
        tags=column([b"a", b"b"]),
        is_closed=np.array([True]),
    )
    table.register(0, state, 1)
    row = table.find_one(device, 0)
    before = table.device(row)
    page = await world.send([(Channel.APNS, old)])
    world.apns.last.answer()
    await settled()
    site.say(Event.TOKEN_REPLACED, page, device, new_token=new.decode())
    # What is said of the old one does not hold for the new one.
    text = encode(site.secret, BurstAddress(page.batch.address, 1))
    assert site.desk.take(0, Channel.APNS, [VendorReceipt(Event.TOKEN_DEAD, text, [old.decode()])])
    await settled()
    after = table.device(row)
    assert (after.token, after.proven_unix_s) == (new, 0)
    stamps = {"token": old, "proven_unix_s": before.proven_unix_s, "registered_unix_s": before.registered_unix_s}
    assert after._replace(**stamps) == before
    assert table.find_tokens(Channel.APNS, column([old, new]), 0).tolist() == [-1, row]
    assert world.metrics.tokens_replaced.value(Channel.APNS) == 1
    assert len(site.renewals) == 0


async def test_a_new_token_changes_nothing_where_it_is_not_proven_to_be_the_devices(
    site: Site, autojump_clock: Any
) -> None:
    devices, page = await taken(site, 3)
    others = site.world.register(2, first=10)
    before = [site.world.token(one) for one in devices]
    new = {"new_token": "f" * 64}
    # Not our address; not the vendor's form; a token that another device has; one that no row was sent to.
    site.say(Event.TOKEN_REPLACED, page, devices[0], address="x" * 46, **new)
    site.say(Event.TOKEN_REPLACED, page, devices[1], new_token="a,b")
    await settled()
    assert len(site.renewals) == 0
    site.say(Event.TOKEN_REPLACED, page, devices[2], new_token=site.world.token(others[0]).decode())
    site.say(Event.TOKEN_REPLACED, page, others[1], **new)
    await settled()
    assert [site.world.token(one) for one in devices] == before
    assert site.world.token(others[1]) != b"f" * 64
    assert site.world.metrics.tokens_replaced.value(Channel.APNS) == 0


async def test_so_many_new_tokens_wait_and_the_guard_holds_them_back(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    site = Site(world, guard=GuardSettings(rows_min=4))
    nursery.start_soon(site.desk.run)
    devices, page = await taken(site, 8)
    for number in range(5):
        site.renewals.keep(0, Channel.APNS, f"old{number}", "new")
    assert len(site.renewals) == 3
    site.say(Event.TOKEN_DEAD, page, *devices[1:])
    await settled()
    before = world.token(devices[0])
    site.say(Event.TOKEN_REPLACED, page, devices[0], new_token="f" * 64)
    await settled()
    assert world.token(devices[0]) == before


async def test_a_new_token_goes_to_every_worker_before_its_event(
    make_world: Callable[..., Any], autojump_clock: Any
) -> None:
    world = make_world()
    sent: list[Any] = []

    class Others:
        def others(self) -> list[int]:
            return [1, 2]

        def send(self, worker: int, what: str, head: dict[str, Any], body: bytes, rows: int) -> bool:
            sent.append((worker, what))
            there.on_renewal(head, memoryview(body))
            return True

    made: dict[str, Any] = {"devices": world.devices, "guards": {}, "clock": world.clock}
    there = TokenRenewals(check_token={}, **made)
    here = TokenRenewals(check_token={(0, Channel.APNS): lambda _: ""}, neighbours=Others(), **made)
    here.keep(0, Channel.APNS, world.token(world.register(1)[0]).decode(), "f" * 64)
    assert sent == [(1, "renewals"), (2, "renewals")]
    (device,) = world.register(1)
    assert there.replace(0, Channel.APNS, np.array([world.devices.find_one(device, 0)], np.int32)) == 1
    assert world.token(device) == b"f" * 64


async def test_muted_and_switched_off_devices_are_remembered_and_keep_their_tokens(
    site: Site, autojump_clock: Any
) -> None:
    devices, page = await taken(site, 2)
    site.say(Event.TOKEN_MUTED, page, devices[0])
    site.say(Event.NOTIFICATIONS_CLOSED, page, devices[1])
    await settled()
    table = site.world.devices
    rows = [table.find_one(one, 0) for one in devices]
    assert [table.device(row).is_muted for row in rows] == [True, False]
    assert [table.are_notifications_off(row) for row in rows] == [False, True]
    assert all(table.device(row).token for row in rows)
    assert page.flags[1] & Flag.NOTIFICATION_CLOSED
    assert (page.flags & Flag.UNDELIVERED).astype(bool).all()


async def test_token_target_is_found_by_its_token_and_removed_from_its_device(site: Site, autojump_clock: Any) -> None:
    (device,) = site.world.register(1)
    page = await site.world.send([(Channel.APNS, site.world.token(device))])
    site.world.apns.last.answer()
    await settled()
    site.say(Event.TOKEN_DEAD, page, device)
    await settled()
    table = site.world.devices
    assert not table.device(table.find_one(device, 0)).token


async def test_a_full_queue_is_said_and_one_large_request_always_fits(
    make_world: Callable[..., Any], autojump_clock: Any
) -> None:
    site = Site(make_world(), receipts_max=10)
    receipt = VendorReceipt(Event.DELIVERED, "x", [str(n) for n in range(30)])
    assert site.desk.take(0, Channel.APNS, [receipt])
    assert not site.desk.take(0, Channel.APNS, [receipt])
    assert site.desk.waiting == 30


async def test_work_goes_on_after_a_crash_and_in_slices(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    site = Site(world, receipts_max=10_000)
    _, page = await taken(site, 1)
    text = encode(site.secret, BurstAddress(page.batch.address, 1))
    many = [VendorReceipt(Event.DELIVERED, text, [f"{n:064x}" for n in range(5000)])]
    assert site.desk.take(0, Channel.APNS, many)
    with trio.CancelScope() as scope:
        scope.cancel()
        await site.desk.run()
    nursery.start_soon(site.desk.run)
    await settled()
    assert site.outcome("not_the_target") == 5000
    assert site.desk.waiting == 0


async def test_receipt_that_overtakes_its_workers_report_waits_for_it(site: Site, autojump_clock: Any) -> None:
    devices = site.world.register(2)
    page = await site.world.send(devices)
    hashes = page.token_hashes.copy()
    # As if another worker had sent them and not said so yet.
    Holders(site.world.home).give(page, np.arange(2), 1)
    page.token_hashes[:] = 0
    site.say(Event.DELIVERED, page, *devices)
    await trio.sleep(0.1)
    assert page.receipt.tolist() == [0, 0]
    page.token_hashes[0] = hashes[0]
    await trio.sleep(10)
    assert page.receipt.tolist() == [Receipt.DELIVERED, Receipt.NONE]
    assert site.outcome("not_the_target") == 1


class OtherSide:
    """Another worker of a gateway of two; what is sent to it arrives at once."""

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.sent: list[str] = []
        self.answers: list[bool] = []

    def worker_of(self, batch: Any) -> int | None:
        return 1 if batch.journal == 1 else None

    def split(self, device_ids: Any) -> Any:
        return np.arange(0), [(1, np.arange(len(device_ids)))]

    def send(self, worker: int, what: str, head: dict[str, Any], body: bytes, rows: int, wait: Any = None) -> bool:
        self.sent.append(what)
        desk = self.sites[0].desk
        if what == "receipts":
            desk.on_reports(head, memoryview(body), self.answers.append)
        else:
            desk.on_words(head, memoryview(body))
        return True


async def test_reports_go_to_the_home_of_their_rows_and_words_to_the_owner_of_the_device(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """The desk of a worker that has neither; the other has both."""
    world = make_world()
    await world.start(nursery)
    owner = Site(world)
    nursery.start_soon(owner.desk.run)
    devices, page = await taken(owner, 2)
    there = OtherSide()
    there.sites = [owner]
    here = Site(world, neighbours=there)
    here.desk._home = make_world().home
    here.desk._home.addresses = Addresses(here.secret, 999)
    there.worker_of = lambda batch: 1  # type: ignore[method-assign]
    nursery.start_soon(here.desk.run)
    here.say(Event.DELIVERED, page, devices[0])
    await settled()
    assert page.receipt.tolist() == [Receipt.DELIVERED, Receipt.NONE]
    # And from a home whose devices are another worker's.
    owner.desk._neighbours = there
    owner.say(Event.TOKEN_DEAD, page, devices[1])
    await settled()
    table = world.devices
    assert not table.device(table.find_one(devices[1], 0)).token
    assert there.sent == ["receipts", "device_words"]


async def test_a_vendor_is_answered_when_all_that_its_request_says_is_durable(
    make_world: Callable[..., Any], nursery: trio.Nursery, autojump_clock: Any
) -> None:
    world = make_world()
    await world.start(nursery)
    notes = ReceiptNotes([0])
    notes.has_archive = True
    world.home.on_heard = notes.note
    site = Site(world, notes=notes, apps_on_disk=[0], receipts_max=5000)
    nursery.start_soon(site.desk.run)
    devices, page = await taken(site, 1100)
    told: list[tuple[str, bool]] = []

    def ask(name: str, events: list[Event], *named: bytes, app: int = 0) -> None:
        text = encode(site.secret, BurstAddress(page.batch.address, 1))
        tokens = [world.token(one).decode() for one in named]
        receipts = [VendorReceipt(event, text, tokens) for event in events]
        assert site.desk.take(app, Channel.APNS, receipts, lambda is_good: told.append((name, is_good)))

    ask("memory", [Event.DELIVERED], devices[0], app=1)
    assert told == [("memory", True)]
    ask("nothing", [])
    assert told[1:] == [("nothing", True)]
    # More than a slice: told once, after all of it.
    ask("large", [Event.DELIVERED], *devices)
    ask("small", [Event.CLICKED, Event.TOKEN_MUTED], devices[0])
    await settled()
    assert told[2:] == []
    record = notes.take()
    assert record is not None
    assert sum(len(one.rows) for one in record.notes) == 1102
    # The same again, while it is being written: it waits for that.
    ask("again", [Event.CLICKED], devices[0])
    ask("other", [Event.DISPLAYED], devices[1])
    await settled()
    notes.written(record, 7)
    assert told[2:] == [("large", True), ("small", True)]
    (record,) = [notes.take()]
    assert record is not None
    notes.unwritten(record)
    # What came with others waited for them.
    assert told[4:] == [("again", False), ("other", False)]
    # Of a page in the archive: when it is back.
    site.archive[page.batch.address.sequence] = page
    del world.home._pages[page.batch.address.sequence]
    ask("late", [Event.DISPLAYED], devices[2])
    await settled()
    record = notes.take()
    assert record is not None
    notes.written(record, 8)
    assert told[6:] == [("late", True)]
    page.saved = page.changes
    notes.archived(page)
    assert sorted(notes.take_free()) == [7, 8]


def test_message_ids_name_the_batch_of_their_home() -> None:
    batch = message_id.BatchAddress(1_763_700_000_000, 66, 123_456)
    identifier = message_id.encode(b"s" * 16, message_id.RowAddress(batch, 7))
    assert message_id.batch_of(identifier) == batch
