"""When a call is tried again, by the clock that is given."""

from __future__ import annotations

import pytest

from gateway.client.errors import CallFailed, GatewayUnreachable
from gateway.client.requests import submit_request
from gateway.client.retry import Lost, Retry, may_repeat
from gateway.content import Variant
from gateway.errors import CloseReason
from gateway.wire.rpc.faults import CODES
from gateway.wire.rpc.messages import ClockAdvance, Error, Request, TaskState

READ = TaskState(id=1, task_id=bytes(16))
CLOCK = ClockAdvance(id=1, seconds=1)
SUBMIT = submit_request(Variant("t", "b"), ["11" * 16])


def lost(reason: CloseReason = CloseReason.PEER_CLOSED, **fields: object) -> Lost:
    return Lost("gone", reason=reason, **fields)  # type: ignore[arg-type]


def test_retry_only_overloaded_and_shutting_down_are_tried_again() -> None:
    for code in CODES:
        retry = Retry(READ, deadline=10.0, spread=0.0)
        error = Error(id=1, code=code, text="", retry_after_ms=1500)  # type: ignore[arg-type]
        if code in ("overloaded", "shutting_down"):
            assert retry.after_error(error, 0.0) == 1.5
        else:
            with pytest.raises(CallFailed) as caught:
                retry.after_error(error, 0.0)
            assert caught.value.code == code


def test_retry_does_not_wait_past_the_deadline() -> None:
    retry = Retry(READ, deadline=10.0, spread=0.0)
    with pytest.raises(CallFailed):
        retry.after_error(Error(id=1, code="overloaded", text="", retry_after_ms=1000), 9.5)
    with pytest.raises(GatewayUnreachable):
        retry.after_loss(lost(), 9.99)


def test_retry_waits_longer_after_each_loss_up_to_a_limit_and_never_in_step() -> None:
    early, late = Retry(READ, deadline=1e9, spread=0.0), Retry(READ, deadline=1e9, spread=1.0)
    waits = [early.after_loss(lost(), 0.0) for _ in range(10)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.025, 1.0)
    assert [late.after_loss(lost(), 0.0) for _ in range(10)] == [2 * wait for wait in waits]


def test_retry_leaves_a_connection_that_was_in_use_at_once_but_only_once() -> None:
    retry = Retry(READ, deadline=1e9, spread=0.0)
    assert retry.after_loss(lost(was_ready=True, was_sent=True), 0.0) == 0.0
    assert retry.after_loss(lost(was_ready=True, was_sent=True), 0.0) == 0.025
    other = Retry(READ, deadline=1e9, spread=0.0)
    assert other.after_loss(lost(), 0.0) == 0.025
    assert other.after_loss(lost(CloseReason.PROTOCOL_ERROR, was_ready=True), 0.0) == 0.05
    with pytest.raises(GatewayUnreachable):
        Retry(READ, deadline=1.0, spread=0.0).after_loss(lost(was_ready=True), 1.0)


@pytest.mark.parametrize(
    "reason", [CloseReason.BAD_CREDENTIALS, CloseReason.UNSUPPORTED_VERSION, CloseReason.CERTIFICATE_INVALID]
)
def test_retry_does_not_try_again_what_waiting_cannot_mend(reason: CloseReason) -> None:
    with pytest.raises(GatewayUnreachable):
        Retry(READ, deadline=10.0, spread=0.0).after_loss(lost(reason), 0.0)
    error = Error(id=0, code="bad_credentials", text="")
    with pytest.raises(CallFailed):
        Retry(READ, deadline=10.0, spread=0.0).after_loss(lost(reason, error=error), 0.0)


@pytest.mark.parametrize(("request_", "may"), [(READ, True), (CLOCK, False), (SUBMIT, False)])
def test_retry_repeats_after_it_was_sent_only_what_may_be_done_twice(request_: Request, may: bool) -> None:
    assert may_repeat(request_) is may
    retry = Retry(request_, deadline=10.0, spread=0.0)
    assert retry.after_loss(lost(), 0.0) > 0
    if may:
        assert retry.after_loss(lost(was_sent=True), 0.0) > 0
    else:
        with pytest.raises(GatewayUnreachable, match="may have been done") as caught:
            retry.after_loss(lost(was_sent=True), 0.0)
        assert caught.value.was_sent


def test_retry_submit_with_a_request_id_may_be_repeated() -> None:
    assert may_repeat(submit_request(Variant("t", "b"), ["11" * 16], request_id="r"))
