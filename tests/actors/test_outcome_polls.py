"""OutcomePolls: every request is asked for until it is settled or asked for often enough, whatever the vendor says."""

from __future__ import annotations

import gc
import json
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio

from gateway.actors.outcome_polls import OutcomePolls
from gateway.burst_address import decode
from gateway.clock import SystemClock
from gateway.message_id import BatchAddress
from gateway.receipts import Event, VendorReceipt
from vendors import dingtalk as vendor
from vendors.receipts.dingtalk import Asker

SECRET = b"secret-of-16-byte"
BATCH = BatchAddress(1_763_700_000_000, 7, 9)
READ = {"errcode": 0, "send_result": {"read_user_id_list": ["a"]}}
UNREAD = {"errcode": 0, "send_result": {"unread_user_id_list": ["a"]}}


class Far:
    """A vendor in memory: answers in turn, the last one again and again. `asked`: when, and for which task."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, int]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((trio.current_time(), json.loads(request.content)["task_id"]))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)


class Site:
    def __init__(self, far: Far, **times: Any) -> None:
        self.far = far
        self.taken: list[VendorReceipt] = []
        self.has_room = True
        self.counts = Counter[str]()
        self.credential: bytes | None = b"TOKEN"
        self.refusals = 0
        wanted = {"results_after_s": 60.0, "results_again_s": 600.0, "results_per_s": 1.0} | times
        settings = vendor.Settings(app_key_id="d", agent_id=7, app_secret_file="s", **wanted)
        self.polls = OutcomePolls(
            Asker(settings),
            base_url="https://oapi.example.com",
            secret=SECRET,
            credentials=self,
            open_client=lambda: httpx.AsyncClient(transport=httpx.MockTransport(far)),
            take=self.take,
            clock=SystemClock(),
            observer=self,
        )

    def asked(self, outcome: str, questions: int = 1) -> None:
        self.counts[outcome] += questions

    def take(self, receipts: list[VendorReceipt]) -> bool:
        if self.has_room:
            self.taken += receipts
        return self.has_room

    def get_nowait(self) -> bytes | None:
        return self.credential

    def refused(self, value: bytes) -> None:
        self.refusals += 1


@pytest.fixture
def start(nursery: trio.Nursery, autojump_clock: Any) -> Callable[..., Site]:
    def started(*answers: Any, **times: Any) -> Site:
        site = Site(Far(*answers), **times)
        nursery.start_soon(site.polls.run)
        return site

    return started


def times(site: Site) -> list[int]:
    return [round(at) for at, _ in site.far.asked]


async def test_a_request_is_asked_for_until_it_is_settled(start: Callable[..., Site], autojump_clock: Any) -> None:
    site = start(UNREAD, READ)
    site.polls.told(BATCH, ["7"])
    await trio.sleep(5000)
    assert times(site) == [60, 660]
    assert [receipt.event for receipt in site.taken] == [Event.DELIVERED, Event.DISPLAYED]
    found = decode(SECRET, site.taken[0].address)
    assert found is not None
    assert found.batch == BATCH
    assert (site.counts, len(site.polls)) == ({"open": 1, "settled": 1}, 0)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (UNREAD, "open"),
        ({"errcode": 90018}, "later"),
        ({"errcode": 42001}, "later"),
        (httpx.Response(503, text="<html>"), "later"),
        (httpx.Response(200, content=b"\xff" * (2 << 20)), "failed"),
        (httpx.ConnectError("down"), "failed"),
        (httpx.ReadTimeout("slow"), "failed"),
    ],
)
async def test_it_goes_on_whatever_the_vendor_says_and_gives_up_after_so_many_questions(
    start: Callable[..., Site], autojump_clock: Any, answer: Any, outcome: str
) -> None:
    site = start(answer, results_asks_max=3)
    site.polls.told(BATCH, ["7", "8"])
    await trio.sleep(50_000)
    assert Counter(task for _, task in site.far.asked) == {7: 3, 8: 3}
    assert site.counts == {outcome: 4, "given_up": 2}
    assert site.refusals == (6 if answer == {"errcode": 42001} else 0)


async def test_what_is_refused_is_not_asked_for_again_and_nobody_is_asked_where_that_is_off(
    start: Callable[..., Site], autojump_clock: Any
) -> None:
    site, off = start({"errcode": 40035}), start(READ, results_asks_max=0)
    for one in (site, off):
        one.polls.told(BATCH, ["7"])
    await trio.sleep(5000)
    assert (len(site.far.asked), site.counts) == (1, {"refused": 1})
    assert (off.far.asked, off.counts) == ([], {})


async def test_questions_keep_their_rate_and_the_oldest_make_room(
    start: Callable[..., Site], autojump_clock: Any
) -> None:
    site = start(READ, results_waiting_max=3)
    site.polls.told(BATCH, ["1", "2", "3", "4", "5"])
    await trio.sleep(5000)
    assert [task for _, task in site.far.asked] == [3, 4, 5]
    assert times(site) == [60, 61, 62]
    assert site.counts == {"dropped": 2, "settled": 3}


async def test_without_a_credential_or_room_nothing_is_lost(start: Callable[..., Site], autojump_clock: Any) -> None:
    site = start(READ)
    site.credential, site.has_room = None, False
    site.polls.told(BATCH, ["7"])
    await trio.sleep(700)
    assert site.far.asked == []
    site.credential = b"TOKEN"
    await trio.sleep(700)
    site.has_room = True
    await trio.sleep(700)
    assert [receipt.event for receipt in site.taken] == [Event.DISPLAYED]
    assert site.counts["settled"] == 1


class Gone(httpx.AsyncBaseTransport):
    """A vendor that goes away while it reads a question."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        async for _ in request.stream:
            raise httpx.WriteError("gone")
        raise AssertionError("a question has a body")


async def test_a_connection_that_ends_amid_a_question_leaves_nothing_to_the_garbage_collector(
    nursery: trio.Nursery, autojump_clock: Any
) -> None:
    site = Site(Far(READ))
    site.polls._open_client = lambda: httpx.AsyncClient(transport=Gone())
    nursery.start_soon(site.polls.run)
    site.polls.told(BATCH, ["7"])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        await trio.sleep(100)
        gc.collect()
        await trio.sleep(1)
    assert [str(one.message) for one in told] == []
    assert site.counts == {"failed": 1}
