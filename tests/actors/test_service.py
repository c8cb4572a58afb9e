"""Service: long because one office serves the tests of every request.

Every request gets exactly one answer, an app sees its own only, and operators are written down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
import trio.testing

from gateway.actors.audience_desk import AudienceDesk
from gateway.actors.audiences import Audiences
from gateway.actors.intake import Intake
from gateway.actors.presence import Presence
from gateway.actors.rpc_listener import RpcListener
from gateway.actors.service import AppView, Service
from gateway.batch import OwnershipEpoch
from gateway.client.requests import (
    DeviceState,
    device_status_request,
    register_request,
    submit_request,
    task_rows_request,
    trace_request,
)
from gateway.clock import DevelopmentClock
from gateway.content import Variant
from gateway.core.admission import AddressClass
from gateway.core.home import row_tags
from gateway.core.identity import device_password
from gateway.core.request_ids import RequestIds
from gateway.errors import Overloaded, StaleEpoch
from gateway.ledger import Channel, Reason, State
from gateway.net.edge_table import ConnectionTable
from gateway.observe.counting import AudienceCounts, IntakeCounts, RpcCounts, ServiceCounts
from gateway.store.memory import MemoryJournal
from gateway.wire.rpc import messages
from gateway.wire.rpc.limits import RpcLimits
from vendors import apns

APNS = apns.Apns(apns.Settings("TEAM123456", "KEY1234567", "com.example.app", key_file="key.p8"))
SECRETS = {"shop": [b"secret"], "news": [b"secret"]}
LATER = messages.TaskState(id=1, task_id=bytes(16))


class FailingJournal(MemoryJournal):
    fails = False

    async def append(self, epoch: Any, records: Any) -> int:
        if self.fails:
            raise StaleEpoch(1, 2)
        return await super().append(epoch, records)


class Sessions:
    """The long link as presence sees it: a table of connections."""

    def __init__(self) -> None:
        self.table = ConnectionTable(64, 40, now=trio.current_time())

    def connect(self, world: Any, app: int, device_id: bytes, fd: int, address_class: int = 0) -> None:
        now = trio.current_time()
        self.table.open(fd, now + 10)
        row = world.owner.connect(app, device_id, fd, self.table.generation_at[fd], now)
        self.table.log_in(fd, row, app, device_id, 60, now)
        self.table.address_class[fd] = address_class


class Office:
    """A service with everything behind it; the apps shop (APNs) and news (no vendor)."""

    def __init__(self, world: Any, nursery: trio.Nursery, new_peer: Any, **limits: Any) -> None:
        self.world, self.nursery, self.new_peer = world, nursery, new_peer
        self.journal = FailingJournal()
        self.check_room: Callable[[], None] = world.router.check_room
        self.intake = Intake(
            home=world.home,
            journal=self.journal,
            epoch=OwnershipEpoch(1),
            secret=b"message id secret",
            clock=world.clock,
            route=world.router.route,
            observer=IntakeCounts(world.metrics, ["shop", "news"]),
            gather_s=0.001,
            gather_busy_s=0.0,
            gather_rows_max=100_000,
            batch_bytes_max=1 << 20,
            request_ids=RequestIds(ids_max=100, age_ms=3_600_000),
            app_keys=["shop", "news"],
            tasks=world.control,
        )
        self.link = Sessions()
        self.presence = Presence(
            n_apps=2,
            devices=world.devices,
            link=lambda: self.link,
            clock=world.clock,
            now=trio.current_time,
        )
        self.audiences = Audiences(
            intake=self.intake,
            home=world.home,
            clock=world.clock,
            observer=AudienceCounts(world.metrics),
            finder=AudienceDesk(devices=world.devices, online=self.presence.online_ids),
            chunk_rows=3,
            queued_rows_max=10,
            running_max=2,
        )
        self.service = Service(
            apps=[
                AppView(0, "shop", frozenset({Channel.APNS}), {Channel.APNS: APNS.check_token}),
                AppView(1, "news", frozenset(), {}),
            ],
            intake=self.intake,
            home=world.home,
            devices=world.devices,
            clock=world.clock,
            observer=ServiceCounts(world.metrics, world.log),
            status=lambda: {"is_ready": True, "rows_open": world.home.rows_open},
            check_room=self.has_room,
            newest_secret=lambda key: SECRETS[key][0],
            presence=self.presence,
            audiences=self.audiences,
            control=world.control,
        )
        self.listener = RpcListener(
            limits=RpcLimits(**limits),
            service=self.service,
            observer=RpcCounts(world.metrics),
            look_up_secret=lambda key: SECRETS.get(key, []),
            connections_max=10,
            hellos_max=10,
            unsent_bytes_max=1 << 24,
            frames_bytes_max=1 << 26,
        )

    def has_room(self) -> None:
        self.check_room()

    async def start(self) -> None:
        await self.world.start(self.nursery)
        self.nursery.start_soon(self.intake.run)
        self.nursery.start_soon(self.service.run)
        self.nursery.start_soon(self.audiences.run)
        await trio.testing.wait_all_tasks_blocked()

    async def client(self, app_key: str = "shop") -> Any:
        """A peer; an operator where app_key is empty."""
        ours, theirs = trio.testing.memory_stream_pair()
        is_operator = not app_key

        async def converse() -> None:
            await self.listener.converse(theirs, "rpc", has_trusted_peer=is_operator)

        self.nursery.start_soon(converse)
        role = {"role": "operator"} if is_operator else {}
        peer = self.new_peer(ours, app_key, None if is_operator else b"secret", **role)
        self.nursery.start_soon(peer.run)
        return await peer.ready()


@pytest.fixture
def office(make_world: Any, nursery: trio.Nursery, new_peer: Any) -> Callable[..., Office]:
    def make(*, clock: Any = None, **limits: Any) -> Office:
        return Office(make_world(clock=clock), nursery, new_peer, **limits)

    return make


def submit(to: Any, *, contents: Any = None, **options: Any) -> messages.Submit:
    return submit_request(contents or Variant("t", "b"), to, **options)


def device_ids(n: int) -> list[bytes]:
    return [b"device" + number.to_bytes(10, "big") for number in range(n)]


def registration(ids: Any, *, channel: str = "", **fields: Any) -> messages.RegisterDevices:
    return register_request(
        [DeviceState(device_id=one, channel=channel, token=one.hex() * 2 if channel else "", **fields) for one in ids]
    )


# -- secrets and passwords


async def test_service_counts_which_secret_a_client_has_proven(
    office: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SECRETS, "shop", [b"newer", b"secret"])
    setting = office()
    await setting.start()
    await setting.client()
    await setting.client("")
    uses = setting.world.metrics.secret_uses
    assert (uses.value("shop", "1", "rpc"), uses.total()) == (1, 1)


async def test_service_registers_with_passwords_when_asked_and_without_when_not(
    office: Any, autojump_clock: Any
) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    ids = device_ids(700)
    request = register_request([DeviceState(device_id=one) for one in [*ids, ids[3]]], want_passwords=True)
    answer = await peer.call(request)
    assert (answer.registered, answer.refused_count) == (700, 1)
    offsets = np.frombuffer(answer.passwords.offsets, "<u4")
    blob = bytes(answer.passwords.blob)
    passwords = [blob[offsets[row] : offsets[row + 1]].decode() for row in range(701)]
    assert passwords == [device_password(b"secret", one.hex()) for one in [*ids, ids[3]]]
    assert (await peer.call(registration(ids))).passwords is None


# -- presence


async def test_service_says_who_is_online_since_when_and_from_where(office: Any, autojump_clock: Any) -> None:
    setting = office(clock=DevelopmentClock())
    await setting.start()
    peer = await setting.client()
    ids = device_ids(3)
    await peer.call(registration(ids[:2], platform="android"))
    setting.link.connect(setting.world, 0, ids[0], 7, AddressClass.PRIVATE)
    began = setting.world.devices.device(setting.world.devices.find_one(ids[0], 0)).last_seen_unix_s
    assert began == pytest.approx(setting.world.clock.unix_ms() // 1000, abs=1)
    await trio.sleep(100)
    setting.link.table.touch(np.array([7]), trio.current_time())
    await trio.sleep(20)
    # Wall time does not jump with the loop's.
    setting.world.clock.advance(120)
    now = setting.world.clock.unix_ms() // 1000
    answer = await peer.call(device_status_request(ids))
    assert answer.n == 3
    assert [bytes(column) for column in (answer.is_known, answer.is_online)] == [b"\1\1\0", b"\1\0\0"]
    assert np.frombuffer(answer.since_unix_s, "<u4").tolist() == [began, 0, 0]
    last_seen = np.frombuffer(answer.last_seen_unix_s, "<u4").tolist()
    assert last_seen[1:] == [0, 0]
    assert last_seen[0] == pytest.approx(now - 20, abs=1)
    assert bytes(answer.address_class) == bytes([AddressClass.PRIVATE, 0, 0])
    assert bytes(answer.platform.blob) == b"androidandroid"
    found = await peer.call(messages.Device(id=1, device_id=ids[0]))
    assert (found.facts["is_online"], found.facts["since_unix_s"]) == (True, began)
    assert found.facts["address_class"] == "private"


async def test_service_shows_a_device_of_another_app_to_nobody_but_it_and_the_operator(
    office: Any, autojump_clock: Any
) -> None:
    setting = office()
    await setting.start()
    (one,) = device_ids(1)
    setting.link.connect(setting.world, 1, one, 7)
    news, shop, operator = [await setting.client(key) for key in ("news", "shop", "")]
    assert bytes((await news.call(device_status_request([one]))).is_online) == b"\1"
    assert bytes((await shop.call(device_status_request([one]))).is_known) == b"\0"
    assert bytes((await shop.call(device_status_request([one], app_key="news"))).is_known) == b"\0"
    assert bytes((await operator.call(device_status_request([one], app_key="news"))).is_online) == b"\1"
    assert (await operator.call(device_status_request([one]))).code == "not_found"


async def test_service_refuses_a_status_of_more_than_a_thousand_devices(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    assert (await peer.call(device_status_request(device_ids(1000)))).n == 1000
    assert (await peer.call(device_status_request(device_ids(1001)))).code == "bad_request"


async def test_service_counts_devices_online_by_platform_and_tag(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    ids = device_ids(4)
    await peer.call(registration(ids[:2], platform="android", tags=("vip",)))
    await peer.call(registration(ids[2:], platform="ios"))
    for fd, one in enumerate(ids[1:], 7):
        setting.link.connect(setting.world, 0, one, fd)
    answer = await peer.call(messages.OnlineCounts(id=1, tag="vip"))
    assert dict(zip(answer.platforms, np.frombuffer(answer.online, "<u4").tolist(), strict=True)) == {
        "android": 1,
        "ios": 2,
    }
    assert (answer.tagged, answer.n, bytes(answer.history)) == (1, 0, b"")
    assert (await peer.call(messages.OnlineCounts(id=1))).tagged is None


# -- submit


async def test_service_answers_a_submit_with_its_task_and_gives_the_credit_back(
    office: Any, autojump_clock: Any
) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    ids = device_ids(3)
    await peer.call(registration(ids, channel="apns"))
    before = (peer.session.credit_rows, peer.session.credit_bytes)
    answer = await peer.call(submit(ids))
    assert (answer.accepted, answer.refused, answer.refused_count, answer.duplicates) == (3, [], 0, 0)
    counts = await peer.call(messages.TaskState(id=1, task_id=answer.task_id))
    assert (counts.accepted, counts.is_routed, counts.is_final) == (3, True, False)
    assert sum(counts.states.values()) == 3
    setting.world.apns.last.answer(n=3)
    counts = await peer.call(messages.TaskState(id=1, task_id=answer.task_id))
    assert (counts.states, counts.is_final) == ({"vendor_accepted": 3}, True)
    assert counts.channels == {"apns": {"vendor_accepted": 3}}
    assert counts.latency_ms["apns"].n == counts.latency_ms["all"].n == 3
    assert (peer.session.credit_rows, peer.session.credit_bytes) == before
    assert setting.world.metrics.submits.value("accepted") == 1


async def test_service_refuses_rows_by_name_and_takes_the_others(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    ids = device_ids(2)
    await peer.call(registration(ids))
    answer = await peer.call(
        submit([ids[0], ("apns", "not hexadecimal"), ids[1], ("fcm", "no such vendor here"), ids[0]])
    )
    assert (answer.accepted, answer.refused_count, answer.duplicates) == (3, 2, 1)
    assert [one.row for one in answer.refused] == [1, 3]
    assert all(one.field and one.text for one in answer.refused)
    assert "not hexadecimal" not in answer.refused[0].text
    rows = await peer.call(task_rows_request(answer.task_id))
    assert np.frombuffer(rows.row, "<u4").tolist() == [0, 2, 4]
    counts = await peer.call(messages.TaskState(id=1, task_id=answer.task_id))
    assert counts.reasons["duplicate_target"] == 1
    assert setting.world.metrics.rows_refused.total() == 2


async def test_service_tells_when_every_row_is_refused(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    answer = await peer.call(submit([("apns", "x"), ("apns", "y")]))
    assert (answer.accepted, answer.refused_count) == (0, 2)


async def test_service_says_overloaded_and_when_to_come_again(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()

    def full() -> None:
        raise Overloaded("parked rows", 11, 10, retry_after_s=2.0)

    setting.check_room = full
    credit = peer.session.credit_rows
    answer = await peer.call(submit(device_ids(1), request_id="r"))
    assert (answer.code, answer.retry_after_ms, answer.limit) == ("overloaded", 2000, 10)
    assert peer.session.credit_rows == credit
    setting.check_room = lambda: None
    assert (await peer.call(submit(device_ids(1), request_id="r"))).accepted == 1
    assert setting.world.metrics.submits.value("overloaded") == 1


async def test_service_answers_a_repeated_request_id_with_the_first_answer(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    first = await peer.call(submit(device_ids(2), request_id="r"))
    again = await (await setting.client()).call(submit(device_ids(2), request_id="r"))
    assert (again.task_id, again.accepted) == (first.task_id, first.accepted)
    other = await peer.call(submit(device_ids(1), request_id="r"))
    assert other.code == "request_id_reused"
    assert (await (await setting.client("news")).call(submit(device_ids(1), request_id="r"))).accepted == 1
    assert setting.world.metrics.rows_accepted.value("shop") == 2


async def test_service_tells_when_rows_could_not_become_durable(
    make_world: Any, new_peer: Any, autojump_clock: Any
) -> None:
    setting: Office | None = None

    async def play() -> None:
        nonlocal setting
        async with trio.open_nursery() as nursery:
            setting = Office(make_world(), nursery, new_peer)
            await setting.start()
            peer = await setting.client()
            setting.journal.fails = True
            await peer.send(submit(device_ids(2)))
            await trio.sleep(1)

    with pytest.raises(BaseExceptionGroup) as crash:
        await play()
    assert setting is not None
    assert crash.group_contains(StaleEpoch)
    assert setting.world.metrics.submits.value("refused") == 1
    assert setting.world.home.rows_open == 0


async def test_service_takes_nothing_during_the_shutdown(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    await setting.intake.stop()
    answer = await peer.call(submit(device_ids(1)))
    assert answer.code == "shutting_down"


# -- tasks


async def test_service_pages_through_the_rows_of_a_task(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    ids = device_ids(25)
    await peer.call(registration(ids[:10]))
    answer = await peer.call(submit(ids))
    pages, first = [], 0
    while first is not None:
        page = await peer.call(task_rows_request(answer.task_id, first, 4))
        pages.append(page)
        first = page.next_first
    rows = [number for page in pages for number in np.frombuffer(page.row, "<u4").tolist()]
    assert rows == list(range(25))
    assert [page.n for page in pages] == [4] * 6 + [1]
    ids_told = b"".join(bytes(page.device_ids) for page in pages)
    assert ids_told == b"".join(ids)
    states = [state for page in pages for state in page.state]
    assert states == [State.HELD] * 10 + [State.DROPPED] * 15


async def test_service_selects_rows_by_state_and_reason(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    ids = device_ids(10)
    await peer.call(registration(ids[::2]))
    answer = await peer.call(submit(ids))
    page = await peer.call(task_rows_request(answer.task_id, states=["dropped"], reasons=["unknown_device"], n=3))
    assert np.frombuffer(page.row, "<u4").tolist() == [1, 3, 5]
    page = await peer.call(task_rows_request(answer.task_id, page.next_first, states=["dropped"]))
    assert np.frombuffer(page.row, "<u4").tolist() == [7, 9]
    assert page.next_first is None
    assert list(page.reason) == [Reason.UNKNOWN_DEVICE] * 2
    wrong = await peer.call(task_rows_request(answer.task_id, states=["flying"]))
    assert (wrong.code, wrong.field) == ("bad_request", "states")


async def test_service_finds_no_task_that_is_not_there_or_not_the_app_s(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    shop, news, operator = await setting.client(), await setting.client("news"), await setting.client("")
    task = (await shop.call(submit(device_ids(1)))).task_id
    forged = bytes(15) + b"\x01"
    for peer, task_id, code in ((news, task, "not_found"), (shop, forged, "not_found"), (operator, task, "")):
        for request in (
            messages.TaskState(id=1, task_id=task_id),
            task_rows_request(task_id),
            trace_request(task_id, device_ids(1)[0]),
        ):
            answer = await peer.call(request)
            assert getattr(answer, "code", "") == code
    assert setting.world.metrics.rpc_errors.value("not_found") == 6


async def test_service_traces_one_message_by_its_id_and_by_its_device(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    ids = device_ids(2)
    await peer.call(registration(ids, channel="apns"))
    answer = await peer.call(submit(ids))
    await setting.world.settle()
    setting.world.apns.last.answer(503)
    await trio.sleep(5)
    setting.world.apns.last.answer(n=2)
    by_device = await peer.call(trace_request(answer.task_id, ids[0]))
    assert [(hop.what, hop.verdict) for hop in by_device.hops] == [
        ("submitted", ""),
        ("routed", ""),
        ("issued", ""),
        ("answered", "unavailable"),
        ("issued", ""),
        ("answered", "accepted"),
        ("state", ""),
    ]
    assert by_device.hops[-1].state == "vendor_accepted"
    by_message = await peer.call(trace_request(message_id=by_device.message_id))
    assert by_message.hops == by_device.hops
    assert by_message.task_id == answer.task_id
    foreign = await (await setting.client("news")).call(trace_request(message_id=by_device.message_id))
    assert foreign.code == "not_found"
    nobody = await peer.call(trace_request(answer.task_id, b"n" * 16))
    assert (nobody.code, nobody.field) == ("not_found", "device_id")


# -- devices


async def test_service_registers_devices_and_refuses_faulty_ones_alone(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    good, bad, foreign, bare = device_ids(4)
    answer = await peer.call(
        register_request(
            [
                DeviceState(device_id=good, channel="apns", token="a" * 64, alias="anna", tags=("red", "blue")),
                DeviceState(device_id=bad, channel="apns", token="not hexadecimal"),
                DeviceState(device_id=foreign, channel="fcm", token="x"),
                DeviceState(device_id=bare, platform="ios", app_version="1.2", time_zone="Asia/Shanghai"),
            ]
        )
    )
    assert (answer.registered, answer.refused_count) == (2, 2)
    assert [one.row for one in answer.refused] == [1, 2]
    found = await peer.call(messages.Device(id=1, device_id=good))
    assert (found.facts["channel"], found.facts["alias"], sorted(found.facts["tags"])) == (
        "apns",
        "anna",
        ["blue", "red"],
    )
    assert "a" * 64 not in str(found.facts)
    assert found.facts["token_hash"]
    by_alias = await peer.call(messages.Device(id=1, alias="anna"))
    assert by_alias.device_id == good
    other = await peer.call(messages.Device(id=1, device_id=bare))
    assert (other.facts["channel"], other.facts["platform"], other.facts["time_zone"]) == (
        "long_link",
        "ios",
        "Asia/Shanghai",
    )
    assert (await peer.call(messages.Device(id=1, device_id=bad))).code == "not_found"


async def test_service_registers_thousands_in_slices(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    ids = device_ids(3500)
    answer = await peer.call(
        register_request([DeviceState(device_id=one, channel="apns", token=one.hex() * 2, platform="p") for one in ids])
    )
    assert (answer.registered, answer.refused_count) == (3500, 0)
    assert len(setting.world.devices) == 3500
    for index in (0, 999, 1000, 3499):
        assert setting.world.token(ids[index]) == (ids[index].hex() * 2).encode()


async def test_service_shows_a_device_its_last_messages_newest_first(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    (one,) = device_ids(1)
    await peer.call(registration([one], channel="apns"))
    for _ in range(25):
        await peer.call(submit([one]))
    await setting.world.settle()
    setting.world.apns.last.answer(n=25)
    found = await peer.call(messages.Device(id=1, device_id=one))
    told = found.facts["messages"]
    assert len(told) == 20
    assert {message["state"] for message in told} == {"vendor_accepted"}
    assert [message["submitted_unix_ms"] for message in told] == sorted(
        (message["submitted_unix_ms"] for message in told), reverse=True
    )


async def test_service_shows_an_app_its_own_device_only(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    shop, news, operator = await setting.client(), await setting.client("news"), await setting.client("")
    (one,) = device_ids(1)
    await shop.call(registration([one], platform="ios"))
    assert (await news.call(messages.Device(id=1, device_id=one))).code == "not_found"
    assert (await operator.call(messages.Device(id=1, device_id=one, app_key="shop"))).facts["app"] == "shop"
    assert (await operator.call(messages.Device(id=1, device_id=one, app_key="nobody"))).code == "not_found"
    assert (await operator.call(messages.Device(id=1, device_id=one))).code == "not_found"
    # an app that names another app still sees its own
    assert (await news.call(messages.Device(id=1, device_id=one, app_key="shop"))).code == "not_found"


# -- operators


async def test_service_writes_down_what_an_operator_does(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    operator = await setting.client("")
    status = await operator.call(messages.Status(id=1))
    assert status.facts == {"is_ready": True, "rows_open": 0}
    log = setting.world.log_lines.getvalue()
    assert log.count('"operator command"') == 2
    assert '"Status"' in log


async def test_service_lets_only_operators_look_at_the_gateway_and_only_apps_submit(
    office: Any, autojump_clock: Any
) -> None:
    setting = office()
    await setting.start()
    app, operator = await setting.client(), await setting.client("")
    for peer, request in (
        (app, messages.Status(id=1)),
        (app, messages.ClockAdvance(id=1, seconds=5)),
        (operator, submit(device_ids(1))),
        (operator, registration(device_ids(1))),
        (operator, messages.SubscribeReceipts(id=1, credit_rows=10)),
    ):
        assert (await peer.call(request)).code == "forbidden"
    assert setting.world.metrics.rows_accepted.total() == 0


async def test_service_moves_only_a_development_clock(office: Any, make_world: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    refused = await (await setting.client("")).call(messages.ClockAdvance(id=1, seconds=60))
    assert refused.code == "forbidden"
    clock = DevelopmentClock()
    setting = office(clock=clock)
    await setting.start()
    before = clock.unix_ms()
    answer = await (await setting.client("")).call(messages.ClockAdvance(id=1, seconds=3600))
    assert answer.now_unix_ms - before == pytest.approx(3_600_000, abs=5000)


# -- life of the actor


async def test_service_that_is_not_running_answers_overloaded(
    make_world: Any, new_peer: Any, nursery: trio.Nursery, autojump_clock: Any
) -> None:
    """Before it runs, and between a crash and its restart, a request that needs a task is refused, not lost."""
    setting = Office(make_world(), nursery, new_peer)
    peer = await setting.client()
    request = registration(device_ids(1))
    assert (await peer.call(request)).code == "overloaded"
    with trio.move_on_after(1):
        await setting.service.run()
    assert (await peer.call(request)).code == "overloaded"
    nursery.start_soon(setting.service.run)
    await trio.testing.wait_all_tasks_blocked()
    assert (await peer.call(request)).registered == 1


async def test_service_keeps_conservation_while_rows_move(office: Any, autojump_clock: Any) -> None:
    setting = office()
    await setting.start()
    peer = await setting.client()
    ids = device_ids(30)
    await peer.call(registration(ids, channel="apns"))
    task = (await peer.call(submit(ids))).task_id
    await setting.world.settle()
    connection = setting.world.apns.last
    for n in (3, 7, 1):
        connection.answer(n=n)
        counts = await peer.call(messages.TaskState(id=1, task_id=task))
        assert sum(counts.states.values()) == counts.accepted == 30
    page = next(setting.world.home.pages())
    setting.world.owner.acknowledged(row_tags(page.batch.address.sequence, np.arange(3)), np.zeros(3), 0.0)
    counts = await peer.call(messages.TaskState(id=1, task_id=task))
    assert sum(counts.states.values()) == 30
    assert counts.receipts == {"delivered": 3}


async def test_service_sends_to_all_who_are_online_and_have_the_tag_as_one_task(
    office: Any, autojump_clock: Any
) -> None:
    setting = office()
    await setting.start()
    shop = await setting.client()
    ids = device_ids(10)
    await shop.call(registration(ids, tags=["fans"]))
    for number, one in enumerate(ids[:8]):
        setting.link.connect(setting.world, 0, one, 5 + number)
    content = Variant("Goal", "1:0")
    answer = await shop.call(messages.SubmitAudience(id=1, content=content, tag="fans", online_only=True))
    assert answer.devices == 8
    await trio.sleep(1)
    counts = await shop.call(messages.TaskState(id=1, task_id=answer.task_id))
    assert counts.accepted == sum(counts.states.values()) == 8
    page = await shop.call(messages.TaskRows(id=1, task_id=answer.task_id))
    assert {bytes(page.device_ids)[16 * k : 16 * k + 16] for k in range(8)} == set(ids[:8])
    assert page.row.cast("I").tolist() == list(range(8))
    nobody = await shop.call(messages.SubmitAudience(id=1, content=content, tag="others"))
    assert (nobody.devices, nobody.task_id) == (0, bytes(16))
    refused = await shop.call(messages.SubmitAudience(id=1, content=Variant("t", "b", ttl_s=-1)))
    assert (refused.code, refused.field) == ("bad_request", "content.ttl_s")
    operator = await setting.client("")
    assert (await operator.call(messages.SubmitAudience(id=1, content=content))).code == "forbidden"


async def test_service_sends_to_all_who_are_registered_and_each_row_goes_its_way(
    office: Any, autojump_clock: Any
) -> None:
    setting = office()
    await setting.start()
    shop, news = await setting.client(), await setting.client("news")
    ids = device_ids(10)
    await shop.call(registration(ids[:8], tags=["fans"]))
    await news.call(registration(ids[8:]))
    setting.link.connect(setting.world, 0, ids[0], 5)
    setting.world.devices.block(setting.world.devices.find_one(ids[1], 0) + np.zeros(1, np.int32), True)
    answer = await shop.call(messages.SubmitAudience(id=1, content=Variant("Goal", "1:0"), tag="fans"))
    assert answer.devices == 8
    running = await shop.call(messages.TaskState(id=1, task_id=answer.task_id))
    assert (running.audience_devices, running.is_final) == (8, False)
    await trio.sleep(2)
    counts = await shop.call(messages.TaskState(id=1, task_id=answer.task_id))
    assert (counts.accepted, counts.audience_devices) == (8, 0)
    assert counts.reasons["device_blocked"] == 1
    page = await shop.call(messages.TaskRows(id=1, task_id=answer.task_id))
    found = [bytes(page.device_ids)[16 * k : 16 * k + 16] for k in range(page.n)]
    assert sorted(found) == sorted(ids[:8])


async def test_service_sends_to_the_devices_of_aliases_and_names_each_that_nobody_has(
    office: Any, autojump_clock: Any
) -> None:
    setting = office()
    await setting.start()
    shop = await setting.client()
    ids = device_ids(4)
    for alias, one in zip(["ada", "ada", "bob", "eve"], ids, strict=True):
        await shop.call(registration([one], alias=alias))
    setting.link.connect(setting.world, 0, ids[2], 5)
    content = Variant("Goal", "1:0")
    asked = messages.SubmitAudience(id=1, content=content, aliases=["bob", "zoe", "ada", "bob"])
    answer = await shop.call(asked)
    assert answer.devices == 3
    assert [list(msgspec.structs.astuple(one)) for one in answer.refused] == [
        [1, "aliases[1]", "no device has the alias 'zoe'"]
    ]
    await trio.sleep(1)
    page = await shop.call(messages.TaskRows(id=1, task_id=answer.task_id))
    assert {bytes(page.device_ids)[16 * k : 16 * k + 16] for k in range(page.n)} == set(ids[:3])
    online = await shop.call(msgspec.structs.replace(asked, online_only=True))
    assert (online.devices, [one.row for one in online.refused]) == (1, [1, 2])
    nobody = await shop.call(messages.SubmitAudience(id=1, content=content, aliases=["zoe", "max"]))
    assert (nobody.code, nobody.field, nobody.text) == ("not_found", "aliases[0]", "no device has the alias 'zoe'")
    both = await shop.call(messages.SubmitAudience(id=1, content=content, aliases=["ada"], tag="fans"))
    assert (both.code, both.field) == ("bad_request", "aliases")


async def test_request_that_meets_a_bug_of_ours_is_answered_and_the_others_go_on(
    office: Any, autojump_clock: Any
) -> None:
    setting = office()
    await setting.start()
    peer, operator = await setting.client(), await setting.client("")
    task = (await peer.call(submit(device_ids(1)))).task_id
    service = setting.service
    changes = service._home.changes

    def breaks(*arguments: Any) -> Any:
        raise KeyError("nobody thought of that")

    service._control.stop = service._home.changes = breaks
    for caller in (peer, operator):
        answer = await caller.call(messages.StopTask(id=1, task_id=task))
        assert (answer.code, "its log" in answer.text) == ("internal", True)
    stream = await peer.send(messages.SubscribeReceipts(id=1, credit_rows=10))
    await peer.until(lambda: len(peer.answers_to(stream)) == 2)
    began, ended = peer.answers_to(stream)
    assert (type(began), ended.code) == (messages.Receipts, "internal")
    assert setting.world.metrics.actor_restarts.value("request") == 3
    assert setting.world.metrics.rpc_errors.value("internal") == 3
    service._home.changes = changes
    assert (await peer.call(messages.TaskState(id=1, task_id=task))).accepted == 1
