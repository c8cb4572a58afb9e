"""Consents that WeChat reports by itself: counted once, and again where they could not be."""

from __future__ import annotations

from typing import Any

import trio

from gateway.api.consent_events import ConsentEvents
from gateway.errors import StoreUnavailable
from gateway.receipts import ConsentsTold
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.messages import ConsentsReported, ReportConsents


class Counter:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls: list[tuple[str, bytes, list[str], bytes, bytes, bool]] = []
        self.events = ConsentEvents(["shop", "forum"], self.report)

    async def report(self, call: ReportConsents, app_key: str) -> ConsentsReported:
        if self.error is not None:
            raise self.error
        assert call.template_index is not None
        assert call.counts is not None
        users = bytes(call.users.blob)
        self.calls.append(
            (app_key, users, call.templates, bytes(call.template_index), bytes(call.counts), call.is_total)
        )
        return ConsentsReported(id=1, n=call.n, left=memoryview(bytes(4 * call.n)))


def told(accepted: list[str], withdrawn: list[str], event_id: str = "e") -> ConsentsTold:
    return ConsentsTold("o1", accepted, withdrawn, event_id)


async def test_what_was_accepted_adds_and_what_was_withdrawn_leaves_none() -> None:
    counter = Counter()
    assert await counter.events.take(1, told(["T", "A", "T"], ["W"]))
    one, zero = (1).to_bytes(4, "little"), bytes(4)
    assert counter.calls == [
        ("forum", b"o1o1o1", ["A", "T"], bytes([1, 0, 1]), one * 3, False),
        ("forum", b"o1", ["W"], bytes([0]), zero, True),
    ]


async def test_an_event_that_comes_again_counts_once_and_one_that_could_not_be_counted_then() -> None:
    counter = Counter()
    counter.error = StoreUnavailable("full", retry_after_s=1.0, store="consents")
    assert not await counter.events.take(0, told(["T"], []))
    counter.error = None
    assert await counter.events.take(0, told(["T"], []))
    assert await counter.events.take(0, told(["T"], []))
    assert await counter.events.take(1, told(["T"], []))
    assert [call[0] for call in counter.calls] == ["shop", "forum"]


async def test_what_no_report_could_mend_is_taken_and_counts_nothing() -> None:
    counter = Counter()
    errors: list[Any] = [BadRequest("users", "no openid")]
    counter.error = errors[0]
    assert await counter.events.take(0, told(["T"], []))
    counter.error = None
    assert await counter.events.take(0, told(["T"], []))
    assert counter.calls == []


async def test_a_repetition_is_not_taken_while_the_event_may_yet_fail(autojump_clock: Any) -> None:
    counter = Counter()
    answers: list[bool] = []
    is_slow = True

    async def report(call: ReportConsents, app_key: str) -> ConsentsReported:
        if is_slow:
            await trio.sleep(6)
            raise StoreUnavailable("full", retry_after_s=1.0, store="consents")
        return await counter.report(call, app_key)

    async def take() -> None:
        answers.append(await events.take(0, told(["T"], [])))

    events = ConsentEvents(["shop"], report)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await trio.sleep(5)
        nursery.start_soon(take)
    assert answers == [False, False]
    is_slow = False
    assert await events.take(0, told(["T"], []))
    assert len(counter.calls) == 1


async def test_an_event_whose_second_half_could_not_be_counted_counts_the_first_once() -> None:
    counter = Counter()
    busy = [StoreUnavailable("full", retry_after_s=1.0, store="consents")]

    async def report(call: ReportConsents, app_key: str) -> ConsentsReported:
        if call.is_total and busy:
            raise busy.pop()
        return await counter.report(call, app_key)

    events = ConsentEvents(["shop"], report)
    assert not await events.take(0, told(["T"], ["W"]))
    assert await events.take(0, told(["T"], ["W"]))
    assert await events.take(0, told(["T"], ["W"]))
    assert [call[-1] for call in counter.calls] == [False, True]
