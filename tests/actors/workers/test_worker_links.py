"""Workers in one loop, joined by links over memory streams: rows reach the worker that owns their devices, their home
hears what became of them, and a death loses none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.actors.long_link_port import Unacknowledged
from gateway.actors.worker_link import WorkerLink
from gateway.actors.worker_links import READ_S, LinkLost, WorkerGone, make_hello
from gateway.content import Variant
from gateway.errors import Overloaded
from gateway.ledger import Channel, LedgerPage, Reason, State
from gateway.wire.worker_link.session import LinkSession


def states(page: LedgerPage) -> list[str]:
    return [State(code).name.lower() for code in page.state.tolist()]


# -- rows reach their owners


async def test_rows_go_to_the_worker_that_owns_their_device_and_home_hears_of_their_end(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    mine, theirs = cluster.owned_by(0, 3), cluster.owned_by(1, 4)
    page = await cluster.send(0, [mine[0], *theirs[:2], mine[1], *theirs[2:], mine[2]])
    assert states(page) == ["in_flight"] * 7
    assert (len(cluster.world(0).apns.requests()), len(cluster.world(1).apns.requests())) == (3, 4)
    # Each device got its own message, under its home's id.
    sent = {path: headers["apns-id"] for path, headers, _ in cluster.world(1).apns.requests()}
    for row in (1, 2, 4, 5):
        device_id = page.batch.device_ids[row].tobytes()
        digits = page.batch.message_ids[row].tobytes().hex()
        token = cluster.world(1).token(device_id).decode()
        assert sent[f"/3/device/{token}"].replace("-", "") == digits
    cluster.answer_all(0)
    cluster.answer_all(1)
    await cluster.settle()
    assert states(page) == ["vendor_accepted"] * 7
    assert page.channel.tolist() == [Channel.APNS] * 7
    assert (page.attempts == 1).all()
    assert (page.final_ms > 0).all()
    home = cluster.world(0).home
    assert (home.rows_open, home.rows_not_conserved()) == (0, 0)
    assert cluster.workers[0].spread.holders.rows_at(1) == 0
    assert cluster.world(1).home.shadows.rows_open == 0
    # The burst log is at home, too: one verdict per attempt.
    cluster.world(0).assert_one_verdict_per_attempt(page)


async def test_device_online_at_its_owner_gets_and_acknowledges_rows_of_another_home(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    (device,) = cluster.owned_by(1, 1)
    cluster.world(1).go_online(device)
    page = await cluster.send(0, [device])
    assert states(page) == ["in_flight"]
    assert cluster.world(1).sockets.titles(device) == ["title"]
    cluster.world(1).acknowledge(device)
    await cluster.settle()
    assert states(page) == ["device_acked"]
    assert page.receipt.tolist() == [1]


async def test_row_for_a_device_that_is_away_is_held_by_its_owner_and_delivered_on_its_return(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    (device,) = cluster.owned_by(1, 1, Channel.NONE)
    page = await cluster.send(0, [device])
    assert states(page) == ["held"]
    cluster.world(1).go_online(device)
    await cluster.settle()
    assert states(page) == ["in_flight"]
    cluster.world(1).acknowledge(device)
    await cluster.settle()
    assert states(page) == ["device_acked"]


async def test_unacknowledged_row_passes_to_the_vendor_at_its_owner(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    (device,) = cluster.owned_by(1, 1)
    cluster.world(1).go_online(device)
    page = await cluster.send(0, [device])
    tags = cluster.world(1).sockets.tags(device)
    cluster.world(1).owner.unacknowledged(tags, Unacknowledged.CONNECTION_CLOSED)
    await cluster.settle()
    assert len(cluster.world(1).apns.requests()) == 1
    cluster.answer_all(1)
    await cluster.settle()
    assert states(page) == ["vendor_accepted"]


async def test_row_of_another_home_expires_where_it_waits_and_home_says_so(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    (device,) = cluster.owned_by(1, 1, Channel.NONE)
    page = await cluster.send(0, [device], Variant("title", "body", ttl_s=30))
    await trio.sleep(31)
    assert states(page) == ["expired"]
    assert page.reason.tolist() == [Reason.DEVICE_OFFLINE]


async def test_unknown_device_is_dropped_by_its_owner(make_cluster: Callable[..., Any], autojump_clock: Any) -> None:
    cluster = await make_cluster()
    stranger = next(i for i in (bytes([n]) * 16 for n in range(256)) if cluster.ownership.owner(i) == 1)
    page = await cluster.send(0, [stranger])
    assert (states(page), page.reason.tolist()) == (["dropped"], [Reason.UNKNOWN_DEVICE])


async def test_token_targets_stay_at_home(make_cluster: Callable[..., Any], autojump_clock: Any) -> None:
    cluster = await make_cluster()
    await cluster.send(1, [(Channel.FCM, b"token %d" % n) for n in range(5)])
    assert len(cluster.world(1).fcm.requests()) == 5
    assert cluster.workers[1].watch.rows_sent == 0


async def test_contents_and_texts_of_each_row_arrive_as_they_were(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    targets = [*cluster.owned_by(0, 2), *cluster.owned_by(1, 3)]
    page = await cluster.send(0, targets, [Variant(f"title {n}", "body") for n in range(5)])
    assert states(page) == ["in_flight"] * 5
    titles = {
        body["aps"]["alert"]["title"]
        for world in (cluster.world(0), cluster.world(1))
        for _, _, body in world.apns.requests()
    }
    assert titles == {f"title {n}" for n in range(5)}


# -- room


async def test_rows_beyond_the_credit_wait_at_home_and_intake_is_refused_when_too_many_do(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    limits = {"credit_rows": 4, "parked_rows_max": 5, "foreign_rows_max": 4}
    cluster = await make_cluster(limits=limits)
    cluster.world(1).apns.gate = trio.Event()
    devices = cluster.owned_by(1, 20)
    page = await cluster.send(0, devices)
    spread = cluster.workers[0].spread
    assert cluster.workers[1].watch.received_rows == 4
    assert spread.parked_rows == 16
    with pytest.raises(Overloaded, match="rows parked for other workers is 16, limit 5"):
        spread.check_room()
    cluster.world(1).apns.gate.set()
    with trio.fail_after(60):
        while states(page) != ["vendor_accepted"] * 20:
            cluster.answer_all(1)
            await trio.sleep(0.05)
    spread.check_room()
    assert spread.parked_rows == 0


async def test_two_workers_each_home_of_rows_that_all_belong_to_the_other_drain_with_all_mailboxes_at_size_1(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    limits = {"credit_rows": 1, "credit_bytes": 1, "parked_rows_max": 1, "foreign_rows_max": 1}
    cluster = await make_cluster(limits=limits, lane_rows_max=1, parked_rows_max=1, slice_rows=1, burst_rows_max=1)
    pages = [cluster.world(home).open(cluster.owned_by(1 - home, 12), Variant(f"of {home}", "body")) for home in (0, 1)]
    for home, page in enumerate(pages):
        cluster.world(home).router.route(page)
    with trio.fail_after(600):
        while any(page.n_open for page in pages):
            await trio.sleep(0.01)
            cluster.answer_all(0)
            cluster.answer_all(1)
    assert [states(page) for page in pages] == [["vendor_accepted"] * 12] * 2
    assert [cluster.world(home).home.rows_not_conserved() for home in (0, 1)] == [0, 0]


async def test_peer_that_reads_slowly_holds_nobody_else_up(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster(n=3, limits={"credit_rows": 2, "foreign_rows_max": 2})
    cluster.world(1).apns.gate = trio.Event()
    stuck = await cluster.send(0, cluster.owned_by(1, 10))
    page = await cluster.send(0, cluster.owned_by(2, 10))
    for _ in range(20):
        cluster.answer_all(2)
        await trio.sleep(0.05)
    assert states(page) == ["vendor_accepted"] * 10
    assert set(states(stuck)) == {"queued"}


async def test_draining_worker_gets_no_new_rows_until_it_goes_on_after_all(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    life = cluster.workers[1].life
    cluster.workers[0].links.peer_draining(*life, is_over=False)
    page = await cluster.send(0, cluster.owned_by(1, 3))
    assert states(page) == ["queued"] * 3
    cluster.workers[0].links.peer_draining(*life, is_over=True)
    await cluster.settle()
    assert states(page) == ["in_flight"] * 3


# -- deaths


async def test_death_of_an_owner_sends_unsent_rows_again_and_leaves_sent_ones_uncertain(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster(burst_rows_max=3)
    cluster.world(1).apns.streams_max = 3
    devices, held = cluster.owned_by(1, 20), cluster.owned_by(1, 2, Channel.NONE)
    page = await cluster.send(0, devices + held)
    # A second connection was opened meanwhile; that its rows have left is told with the next late news.
    await cluster.settle()
    sent = [path for path, _, _ in cluster.world(1).apns.requests()]
    assert (states(page).count("held"), states(page).count("in_flight")) == (2, len(sent))
    dead = await cluster.kill(1)
    home = cluster.world(0).home
    uncertain = np.flatnonzero(page.state == State.UNCERTAIN)
    # Those that were sent, and at most the bursts that were made ready beside them.
    assert len(sent) <= len(uncertain) <= len(sent) + 3 * 3
    assert set(page.reason[uncertain].tolist()) == {Reason.PROCESS_ENDED}
    assert states(page).count("queued") == 22 - len(uncertain)
    assert (dead.watch.dropped, home.rows_not_conserved()) == (0, 0)
    await cluster.revive(1, devices + held)
    for _ in range(20):
        cluster.answer_all(1)
        await cluster.settle()
    # What may have left goes to nobody twice.
    again = [path for path, _, _ in cluster.world(1).apns.requests()]
    assert not set(sent) & set(again)
    assert len(set(again)) == len(again) == 20 - len(uncertain)
    ends = {name: states(page).count(name) for name in ("uncertain", "vendor_accepted", "held")}
    assert ends == {"uncertain": len(uncertain), "vendor_accepted": 20 - len(uncertain), "held": 2}
    assert home.rows_not_conserved() == 0


async def test_rows_that_may_go_again_do_and_say_that_they_did(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    cluster.resends = True
    devices = cluster.owned_by(1, 4)
    page = await cluster.send(0, devices)
    await cluster.kill(1)
    assert states(page) == ["queued"] * 4
    assert (page.flags & 16 != 0).all()
    await cluster.revive(1, devices)
    assert states(page) == ["in_flight"] * 4
    assert cluster.world(0).home.rows_not_conserved() == 0


async def test_no_row_leaves_its_holder_before_its_home_knows(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    """At the moment of each request to the vendor, home has been told that its row may be out."""
    cluster = await make_cluster()
    page: LedgerPage = cluster.world(0).open(cluster.owned_by(1, 50))
    told: list[bool] = []
    pool = cluster.world(1).pools[Channel.APNS]
    real = pool.send

    def send(requests: Any, start: int, tags: Any, deadline: float, *role: Any) -> Any:
        taken = real(requests, start, tags, deadline, *role)
        shadows = list(cluster.world(1).home.shadows.of(cluster.workers[0].life))
        told.append(taken[0] <= sum(int(shadow.is_told.sum()) for shadow in shadows))
        return taken

    pool.send = send
    cluster.world(0).router.route(page)
    await cluster.settle()
    assert told
    assert all(told)
    assert page.away is not None
    assert (page.away & 0x80 != 0).all()


async def test_rows_of_a_home_that_died_go_on_and_their_reports_are_counted_and_dropped(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    await cluster.send(0, cluster.owned_by(1, 4))
    await cluster.kill(0)
    owner = cluster.workers[1]
    assert owner.world.home.shadows.rows_open == 4
    assert cluster.answer_all(1) == 4
    await cluster.settle()
    assert (owner.world.home.shadows.rows_open, len(owner.world.home.shadows)) == (0, 0)
    await cluster.revive(0)
    page = await cluster.send(1, cluster.owned_by(0, 1))
    assert states(page) == ["in_flight"]
    assert owner.world.home.shadows.rows_for_the_dead >= 4


async def test_rows_for_a_worker_that_is_down_wait_for_its_next_life_or_their_end(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    devices = cluster.owned_by(1, 3)
    await cluster.kill(1)
    page = await cluster.send(0, devices)
    short = await cluster.send(0, devices, Variant("title", "body", ttl_s=10))
    assert states(page) == ["queued"] * 3
    await trio.sleep(11)
    assert states(short) == ["expired"] * 3
    assert cluster.workers[0].spread.parked_rows == 6
    await cluster.revive(1)
    assert cluster.workers[0].spread.parked_rows == 0
    assert cluster.workers[0].watch.rows_sent == 3


async def test_link_that_ends_while_both_live_is_given_up_by_the_one_that_dialed(
    cluster_type: Any, make_world: Callable[..., Any], autojump_clock: Any
) -> None:
    with pytest.RaisesGroup(LinkLost, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            cluster = cluster_type(nursery, make_world)
            await cluster.start()
            cluster.workers[0].links._links[1].close()
            await trio.sleep(60)


async def test_links_of_a_dead_life_are_refused(make_cluster: Callable[..., Any], autojump_clock: Any) -> None:
    cluster = await make_cluster()
    dead = await cluster.kill(1)
    stream = await cluster.connect(0)
    hello = make_hello(*dead.life, 2, credit_rows=1, credit_bytes=1)
    session = LinkSession(hello)
    await stream.send_all(session.data_to_send())
    while await stream.receive_some(1000):
        pass
    assert cluster.workers[0].watch.links == 0


async def test_next_life_gets_no_rows_before_all_that_the_last_one_held_are_back(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    spread = cluster.workers[0].spread
    devices = cluster.owned_by(1, 3)
    await cluster.kill(1)
    waiting = await cluster.send(0, devices)
    spread.on_died(1)
    assert spread.next_slice(1, 100) is None
    await cluster.settle()
    assert spread.waiting_rows(1) == 3
    await cluster.revive(1, devices)
    assert states(waiting) == ["in_flight"] * 3


# -- questions


async def test_question_is_answered_by_whom_it_is_for_and_fails_when_he_dies(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    waiting: list[Any] = []
    cluster.workers[1].links.answer_with("echo", lambda life, head, body, reply: reply(bytes(body) + head["more"]))
    cluster.workers[1].links.answer_with("later", lambda life, head, body, reply: waiting.append(reply))
    ask = cluster.workers[0].links.ask
    assert bytes(await ask(1, "echo", {"more": b"!"}, b"hello")) == b"hello!"
    with pytest.raises(WorkerGone):
        await ask(1, "nobody answers this", {})
    failed: list[str] = []

    async def ask_later() -> None:
        with pytest.raises(WorkerGone, match="worker 1"):
            await ask(1, "later", {})
        failed.append("gone")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_later)
        await cluster.settle()
        assert len(waiting) == 1
        await cluster.kill(1)
    assert failed == ["gone"]
    with pytest.raises(WorkerGone):
        await ask(1, "echo", {"more": b""})


# -- anything may happen


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_nothing_is_lost_and_nothing_ends_twice_whatever_dies_when(data: Any, request: Any) -> None:
    cluster_type, make_world = request.getfixturevalue("cluster_type"), request.getfixturevalue("make_world")
    trio.run(_storm, data, cluster_type, make_world, clock=trio.testing.MockClock(autojump_threshold=0))


async def _storm(data: Any, cluster_type: Any, make_world: Callable[..., Any]) -> None:
    async with trio.open_nursery() as nursery:
        limits = {
            "credit_rows": data.draw(st.integers(1, 8)),
            "foreign_rows_max": data.draw(st.integers(1, 20)),
            "credit_bytes": 100,
        }
        cluster = cluster_type(nursery, make_world, data.draw(st.integers(2, 3)), limits)
        await cluster.start()
        cluster.resends = data.draw(st.booleans())
        pages: dict[int, list[LedgerPage]] = {}
        for _ in range(data.draw(st.integers(1, 12))):
            index = data.draw(st.integers(0, cluster.ownership.workers - 1))
            match data.draw(st.sampled_from(["send", "send", "answer", "refuse", "die", "wait"])):
                case "send":
                    targets = [
                        device
                        for worker in range(cluster.ownership.workers)
                        for device in cluster.owned_by(worker, data.draw(st.integers(1, 4)))
                    ]
                    pages.setdefault(index, []).append(await cluster.send(index, targets))
                case "answer":
                    cluster.answer_all(index)
                case "refuse":
                    cluster.answer_all(index, 503)
                case "die":
                    await cluster.kill(index)
                    pages.pop(index, None)
                    await cluster.revive(index)
                case _:
                    await trio.sleep(data.draw(st.sampled_from([0.01, READ_S, 5.0])))
            await cluster.settle()
            for at, worker in enumerate(cluster.workers):
                assert worker.world.home.rows_not_conserved() == 0
                assert worker.watch.errors == []
                for page in pages.get(at, []):
                    assert page.counts.sum() == page.n
        with trio.fail_after(3600):
            while any(page.n_open for of_home in pages.values() for page in of_home):
                for index in range(cluster.ownership.workers):
                    cluster.answer_all(index)
                await trio.sleep(0.5)
        nursery.cancel_scope.cancel()


async def test_row_that_is_queued_for_its_owner_twice_goes_there_once(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    cluster.world(1).apns.gate = trio.Event()
    page: LedgerPage = cluster.world(0).open(cluster.owned_by(1, 2))
    spread = cluster.workers[0].spread
    for _ in range(2):
        assert len(spread.send_elsewhere(page, np.arange(2))) == 0
        await cluster.settle()
    assert (spread.parked_rows, cluster.workers[0].watch.rows_sent) == (0, 2)


# -- links that nobody wants


class Unwilling:
    """The ends of a link whose peer is linked already."""

    def __init__(self) -> None:
        self.opened_n = self.taken = 0

    def opened(self, link: WorkerLink, life: Any) -> bool:
        self.opened_n += 1
        return False

    def next_report(self, life: Any) -> None:
        self.taken += 1

    def next_slice(self, life: Any, rows_max: int) -> None:
        self.taken += 1

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a link that is not wanted")


async def test_link_that_is_not_wanted_takes_no_rows_and_no_reports_away() -> None:
    """Its writer may run between the peer's hello and its end: what it took would be gone, though both workers live."""
    for _ in range(30):
        ends = Unwilling()
        ours, theirs = trio.testing.memory_stream_pair()
        link = WorkerLink(ours, make_hello(1, 1, 2, credit_rows=10, credit_bytes=1000), ends)  # type: ignore[arg-type]
        peer = LinkSession(make_hello(0, 2, 2, credit_rows=10, credit_bytes=1000))
        await theirs.send_all(peer.data_to_send())
        await link.run()
        assert (ends.opened_n, ends.taken, link.life) == (1, 0, None)


async def test_worker_that_is_named_twice_is_dialed_once(make_cluster: Callable[..., Any], autojump_clock: Any) -> None:
    cluster = await make_cluster()
    dialed: list[int] = []
    dial = cluster.connect

    async def connect(worker: int) -> trio.abc.Stream:
        dialed.append(worker)
        stream: trio.abc.Stream = await dial(worker)
        return stream

    cluster.connect = connect
    cluster.workers[1].links.peer_up(*cluster.workers[0].life)
    await trio.sleep(1)
    assert dialed == []
    assert len(cluster.workers[0].links.lives()) == 1


async def test_reports_gather_unless_rows_wait_for_them(make_cluster: Callable[..., Any], autojump_clock: Any) -> None:
    cluster = await make_cluster()
    reports: list[int] = []
    home = cluster.workers[0].links
    real = home.on_outcomes
    home.on_outcomes = lambda life, message: (reports.append(message.n), real(life, message))
    devices = cluster.owned_by(1, 8, Channel.NONE)
    for device in devices:
        cluster.world(1).go_online(device)
    page = await cluster.send(0, devices)
    reports.clear()
    for device in devices[:-1]:
        cluster.world(1).acknowledge(device)
        await trio.testing.wait_all_tasks_blocked()
    assert reports == []
    # Nothing more is to come of it.
    cluster.world(1).acknowledge(devices[-1])
    await trio.testing.wait_all_tasks_blocked()
    assert (reports, states(page)) == ([8], ["device_acked"] * 8)
    await cluster.settle()
    assert reports == [8]
    # A lane does not wait for the gathering: its rows are out before any time has passed.
    began = trio.current_time()
    cluster.world(0).router.route(cluster.world(0).open(cluster.owned_by(1, 3)))
    await trio.testing.wait_all_tasks_blocked()
    assert len(cluster.world(1).apns.requests()) == 3
    assert trio.current_time() == began


async def test_row_that_is_acknowledged_soon_is_reported_once_and_one_that_is_not_twice(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster()
    reports: list[tuple[int, list[str]]] = []
    home = cluster.workers[0].links
    real = home.on_outcomes
    device, slow = cluster.owned_by(1, 2, Channel.NONE)
    for each in (device, slow):
        cluster.world(1).go_online(each)
    page = cluster.world(0).open([device, slow])
    home.on_outcomes = lambda life, message: (real(life, message), reports.append((message.n, states(page))))
    cluster.world(0).router.route(page)
    await trio.testing.wait_all_tasks_blocked()
    cluster.world(1).acknowledge(device)
    await cluster.settle()
    assert reports == [(1, ["device_acked", "queued"]), (1, ["device_acked", "in_flight"])]
    cluster.world(1).acknowledge(slow)
    await cluster.settle()
    assert reports[2:] == [(1, ["device_acked", "device_acked"])]


async def test_credit_comes_with_the_report_and_alone_when_much_of_it_is_due(
    make_cluster: Callable[..., Any], autojump_clock: Any
) -> None:
    cluster = await make_cluster(limits={"credit_rows": 8})
    given: list[int] = []
    owner = cluster.workers[1].foreign
    real = owner.take_credit

    def take_credit(life: Any) -> tuple[int, int]:
        rows, size = real(life)
        given.append(rows)
        return rows, size

    owner.take_credit = take_credit
    devices = cluster.owned_by(1, 3, Channel.NONE)
    for device in devices:
        cluster.world(1).go_online(device)
    cluster.world(0).router.route(cluster.world(0).open(devices[:1]))
    await trio.testing.wait_all_tasks_blocked()
    assert given == []
    cluster.world(1).acknowledge(devices[0])
    await cluster.settle()
    assert given == [1]
    # A quarter: its home may come to need it.
    cluster.world(0).router.route(cluster.world(0).open(devices[1:]))
    await trio.testing.wait_all_tasks_blocked()
    assert given == [1, 2]
