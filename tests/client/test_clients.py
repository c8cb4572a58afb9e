"""The three clients against one server on real sockets: each test runs for each of them, through one small script."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from gateway.client.async_calls import AsyncCalls
from gateway.client.asyncio_client import AsyncioClient
from gateway.client.blocking import BlockingClient
from gateway.client.errors import CallFailed, GatewayUnreachable
from gateway.client.requests import DeviceState, submit_request
from gateway.client.trio_client import open_trio_client
from gateway.content import Variant

HELLO = Variant("你好", "body")
ID = ["11" * 16, "22" * 16]
Script = Callable[[Any], Awaitable[Any]]


class _AsAsync:
    """The blocking client with async names, so that one script serves all; nothing waits in it but the client."""

    def __init__(self, client: BlockingClient) -> None:
        self.blocking = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.blocking, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            return method(*arguments, **options)

        return call


def run_blocking(script: Script, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    async def main() -> Any:
        with BlockingClient(*arguments, **options) as client:
            return await script(_AsAsync(client))

    return trio.run(main)


def run_trio(script: Script, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    async def main() -> Any:
        async with open_trio_client(*arguments, **options) as client:
            return await script(client)

    return trio.run(main)


def run_asyncio(script: Script, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    async def main() -> Any:
        async with AsyncioClient(*arguments, **options) as client:
            return await script(client)

    return asyncio.run(main())


@pytest.fixture(params=[run_blocking, run_trio, run_asyncio], ids=["blocking", "trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    def start(script: Script, *arguments: Any, **options: Any) -> Any:
        if len(arguments) == 1:
            arguments = (*arguments, "shop", b"shop secret")
        options.setdefault("timeout_s", 10.0)
        return request.param(script, arguments, options)

    return start


@pytest.fixture(params=[run_trio, run_asyncio], ids=["trio", "asyncio"])
def run_async(request: pytest.FixtureRequest) -> Callable[..., Any]:
    def start(script: Script, *arguments: Any, **options: Any) -> Any:
        options.setdefault("timeout_s", 10.0)
        return request.param(script, (*arguments, "shop", b"shop secret"), options)

    return start


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix"])
def test_client_submits_over_every_form_of_address(run: Any, make_server: Any, kind: str) -> None:
    server, address = make_server(kind)

    async def script(client: Any) -> Any:
        return await client.submit(HELLO, ID)

    answer = run(script, address)
    assert (answer.accepted, answer.refused_count) == (2, 0)
    (submission,) = server.submissions
    assert submission.device_ids.tobytes().hex() == "".join(ID)
    assert submission.variants[0] == HELLO


def test_client_has_every_call(run: Any, make_server: Any) -> None:
    server, address = make_server()

    async def script(client: Any) -> list[Any]:
        return [
            await client.submit(
                [HELLO, Variant("{{n}}", "")], [ID[0], ("fcm", "tok")], index=[0, 1], variables={"n": ["a", "b"]}
            ),
            await client.submit_columns(submit_request(HELLO, ID)),
            await client.task_state(b"\1" * 16),
            await client.task_rows(b"\1" * 16, states=["dropped"]),
            await client.trace(message_id=b"\2" * 16),
            await client.register_devices([DeviceState(device_id=ID[0], channel="apns", token="aa")]),
            await client.device(alias="bob"),
            await client.welcome(),
        ]

    found = run(script, address)
    assert [type(answer).__name__ for answer in found] == [
        "Submitted",
        "Submitted",
        "TaskCounts",
        "TaskRowPage",
        "TraceHops",
        "DevicesRegistered",
        "DeviceFound",
        "Welcome",
    ]
    assert server.submissions[0].variables["n"].rows() == [b"a", b"b"]
    assert server.connections == 1
    assert all(request.request_id for request in server.requests[:2])


def test_client_submits_to_an_audience(run: Any, make_server: Any) -> None:
    async def script(client: Any) -> Any:
        await client.submit_audience(Variant("t", "b"), aliases=["ada"], online_only=True)
        return (await client.submit_audience(Variant("t", "b"), tag="fans", rows_per_s=5.0)).devices

    server, address = make_server("tcp")
    assert run(script, address) == 4
    assert server.requests[-1].rows_per_s == 5.0
    (first,) = [one for one in server.requests if getattr(one, "online_only", False)]
    assert first.aliases == ["ada"]
    assert first.request_id


def test_client_asks_for_a_restart_and_for_what_others_have_made(run: Any, make_server: Any) -> None:
    async def script(client: Any) -> Any:
        return (await client.restart()).workers

    _, address = make_server("operator")
    (done,) = run(script, address, "", None, role="operator")
    assert (done.worker, done.outcome) == (0, "restarted")


def test_client_operator_needs_no_secret_on_the_operators_socket_and_a_key_elsewhere(
    run: Any, make_server: Any
) -> None:
    async def script(client: Any) -> Any:
        return (await client.status()).facts, (await client.clock_advance(2)).now_unix_ms

    _, address = make_server("operator")
    assert run(script, address, "", None, role="operator") == ({"devices": 2}, 2000)
    _, address = make_server("tcp")
    assert run(script, address, "", b"admin key", role="operator") == ({"devices": 2}, 2000)
    with pytest.raises(CallFailed, match="forbidden"):
        run(script, address)


def test_client_wrong_secret_fails_at_once(run: Any, make_server: Any) -> None:
    server, address = make_server()

    async def script(client: Any) -> Any:
        return await client.task_state(b"\1" * 16)

    with pytest.raises(CallFailed, match="bad_credentials"):
        run(script, address, "shop", b"wrong")
    assert server.connections == 1


def test_client_error_answer_comes_out_as_it_was_said(run: Any, make_server: Any) -> None:
    _, address = make_server()

    async def script(client: Any) -> Any:
        return await client.task_state(bytes(16))

    with pytest.raises(CallFailed, match="not_found: no such task") as caught:
        run(script, address)
    assert caught.value.code == "not_found"


@pytest.mark.parametrize("fate", ["lose_before", "lose_after", "overloaded", "shutting_down"])
def test_client_repeats_a_submit_and_it_is_done_once(run: Any, make_server: Any, fate: str) -> None:
    server, address = make_server()
    server.script.extend([fate, fate])

    async def script(client: Any) -> Any:
        return await client.submit(HELLO, ID, request_id="order-7")

    assert run(script, address).accepted == 2
    assert len(server.submissions) == 1
    assert len({request.request_id for request in server.requests}) == 1
    assert len(server.requests) == 3


def test_client_does_not_wait_past_its_deadline(run: Any, make_server: Any) -> None:
    server, address = make_server()
    server.script.append("overloaded_for_long")

    async def script(client: Any) -> Any:
        return await client.submit(HELLO, ID)

    with pytest.raises(CallFailed, match="overloaded: later"):
        run(script, address)
    assert server.submissions == []


def test_client_gives_up_when_no_answer_comes_before_its_deadline(run: Any, make_server: Any) -> None:
    server, address = make_server()
    server.script.append("silence")

    async def script(client: Any) -> Any:
        await client.welcome()
        return await client.submit(HELLO, ID)

    with pytest.raises(GatewayUnreachable, match="no answer before the deadline") as caught:
        run(script, address, timeout_s=0.3)
    assert caught.value.was_sent


def test_client_says_when_nobody_listens(run: Any, tmp_path: Path) -> None:
    async def script(client: Any) -> Any:
        return await client.task_state(b"\1" * 16)

    with pytest.raises(GatewayUnreachable, match=r"nothing\.sock") as caught:
        run(script, f"unix://{tmp_path}/nothing.sock", timeout_s=0.2)
    assert not caught.value.was_sent


def test_client_refuses_a_certificate_that_it_does_not_know(run: Any, make_server: Any) -> None:
    server, address = make_server("tls")

    async def script(client: Any) -> Any:
        return await client.task_state(b"\1" * 16)

    with pytest.raises(GatewayUnreachable, match=r"(?i)certificate"):
        run(script, address.partition("?")[0])
    assert server.connections == 1


def test_client_does_not_repeat_a_clock_advance_that_left(run: Any, make_server: Any) -> None:
    server, address = make_server("operator")

    server.script.append("lose_after")

    async def script(client: Any) -> Any:
        await client.status()
        return await client.clock_advance(1)

    with pytest.raises(GatewayUnreachable, match="may have been done") as caught:
        run(script, address, "", None, role="operator")
    assert caught.value.was_sent
    assert sum(type(request).__name__ == "ClockAdvance" for request in server.requests) == 1


def test_client_opens_a_new_connection_after_one_was_lost_between_calls(run: Any, make_server: Any) -> None:
    server, address = make_server()

    async def script(client: Any) -> Any:
        await client.task_state(b"\1" * 16)
        server.drop_connections()
        return (await client.task_state(b"\1" * 16)).accepted

    assert run(script, address) == 1
    assert server.connections == 2


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_client_goes_on_elsewhere_when_its_server_says_that_it_leaves(run: Any, make_server: Any, kind: str) -> None:
    server, address = make_server(kind)
    server.script += ["leave", "", "leave"]

    async def script(client: Any) -> Any:
        return [(await client.submit(HELLO, ID, request_id=str(number))).accepted for number in range(5)]

    assert run(script, address) == [2] * 5
    # The first connection took one submit, the second two.
    assert (server.connections, len(server.submissions)) == (3, 5)


def test_async_client_gets_what_it_asked_of_a_server_that_leaves(make_server: Any) -> None:
    server, address = make_server()

    async def main() -> int:
        async with (
            open_trio_client(address, "shop", b"shop secret", timeout_s=10) as client,
            client.subscribe_receipts() as pages,
        ):
            server.script.append("leave")
            await client.submit(HELLO, ID)
            assert (await client.task_state(b"\1" * 16)).accepted == 1
            assert server.connections == 2
            # The stream is of the first connection.
            return len([await pages.__anext__() for _ in range(server.stream_pages)])

    assert trio.run(main) == server.stream_pages
    assert server.connections == 2


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_blocking_client_asks_no_connection_that_has_ended_meanwhile(make_server: Any, kind: str) -> None:
    server, address = make_server(kind)
    with BlockingClient(address, "", b"admin key", role="operator", timeout_s=10) as client:
        client.status()
        server.drop_connections()
        # Sent to a connection that has ended, it may have been done, and is not repeated.
        assert client.clock_advance(1).now_unix_ms
    assert server.connections == 2


def test_client_waits_for_credit_before_it_submits(run: Any, make_server: Any) -> None:
    server, address = make_server(submit_rows_max=2, credit_rows=4)

    async def script(client: Any) -> Any:
        return [(await client.submit(HELLO, ID)).accepted for _ in range(6)]

    assert run(script, address) == [2] * 6
    assert len(server.submissions) == 6
    assert not any(type(event).__name__ == "Closed" for event in server.events)


def test_client_submit_without_room_leaves_only_when_credit_comes(make_server: Any) -> None:
    server, address = make_server(submit_rows_max=2, credit_rows=2)
    server.script.append("hold_credit")

    async def main() -> None:
        async with open_trio_client(address, "shop", b"shop secret", timeout_s=10) as client:
            await client.submit(HELLO, ID)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.submit, HELLO, ID)
                await trio.testing.wait_all_tasks_blocked(0.02)
                assert len(server.submissions) == 1
                await client.task_state(b"\1" * 16)

    trio.run(main)
    assert [type(request).__name__ for request in server.requests] == ["Submit", "TaskState", "Submit"]


def test_client_stream_brings_pages_and_ends_when_left(run_async: Any, make_server: Any) -> None:
    server, address = make_server()

    async def script(client: AsyncCalls) -> Any:
        found = []
        async with client.subscribe_receipts() as pages:
            async for page in pages:
                found.append(int.from_bytes(page.message_ids, "big"))
                if len(found) == 4:
                    break
        return found, await client.task_state(b"\1" * 16)

    found, state = run_async(script, address)
    assert found == [1, 2, 3, 4]
    assert state.accepted == 1
    assert any(type(event).__name__ == "StreamCancelled" for event in server.events)


def test_client_follows_presence_over_lost_connections(run_async: Any, make_server: Any) -> None:
    server, address = make_server()
    server.pages_per_connection = 2

    async def script(client: AsyncCalls) -> Any:
        found = []
        async with client.subscribe_presence() as pages:
            async for page in pages:
                found.append((int.from_bytes(page.device_ids, "big"), page.change[0]))
                if len(found) == 5:
                    return found

    assert run_async(script, address) == [(number, 1) for number in range(1, 6)]
    assert server.connections == 3


def test_blocking_client_follows_presence_over_lost_connections(make_server: Any) -> None:
    server, address = make_server()
    server.pages_per_connection = 2
    with BlockingClient(address, "shop", b"shop secret", timeout_s=10) as client:
        pages = client.subscribe_presence()
        found = [int.from_bytes(next(pages).device_ids, "big") for _ in range(5)]
        pages.close()  # type: ignore[attr-defined]
    assert found == [1, 2, 3, 4, 5]
    assert server.connections == 3


def test_client_stream_goes_on_after_its_cursor_on_a_new_connection(run_async: Any, make_server: Any) -> None:
    server, address = make_server()
    server.pages_per_connection = 2

    async def script(client: AsyncCalls) -> Any:
        found = []
        async with client.subscribe_receipts() as pages:
            async for page in pages:
                found.append(bytes(page.cursor))
                if len(found) == 6:
                    return found

    assert run_async(script, address) == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert server.connections == 3


def test_client_stream_whose_cursor_is_too_old_fails(run_async: Any, make_server: Any) -> None:
    _, address = make_server()

    async def script(client: AsyncCalls) -> Any:
        async for _ in client.subscribe_receipts(b"old"):
            pass

    with pytest.raises(CallFailed, match="cursor_expired"):
        run_async(script, address)


def test_blocking_stream_goes_on_after_its_cursor_on_a_new_connection(make_server: Any) -> None:
    server, address = make_server()
    server.pages_per_connection = 2
    found = []
    with BlockingClient(address, "shop", b"shop secret", timeout_s=10) as client:
        pages = client.subscribe_receipts()
        for page in pages:
            found.append(bytes(page.cursor))
            if len(found) == 4:
                # A call between two pages uses the same connection.
                assert client.task_state(b"\1" * 16).accepted == 1
            if len(found) == 6:
                break
        pages.close()  # type: ignore[attr-defined]
        with pytest.raises(CallFailed, match="cursor_expired"):
            next(client.subscribe_receipts(b"old"))
    assert found == [b"1", b"2", b"3", b"4", b"5", b"6"]


def test_blocking_client_keeps_many_submits_in_flight_and_in_order(make_server: Any) -> None:
    server, address = make_server(submit_rows_max=2, credit_rows=8)
    server.script.extend(["", "overloaded", "", "lose_after", ""])
    requests = [submit_request(Variant(f"t{k}", ""), ID, request_id=f"r{k}") for k in range(20)]
    with BlockingClient(address, "shop", b"shop secret", timeout_s=10) as client:
        answers = list(client.submit_many(requests))
    assert [answer.accepted for answer in answers] == [2] * 20
    assert sorted(found.request_id for found in server.submissions) == sorted(f"r{k}" for k in range(20))
    by_task = {number.to_bytes(16, "big"): found for number, found in enumerate(server.submissions, 1)}
    assert [by_task[answer.task_id].request_id for answer in answers] == [f"r{k}" for k in range(20)]


def test_async_client_serves_many_tasks_over_one_connection(make_server: Any) -> None:
    server, address = make_server(submit_rows_max=2, credit_rows=4)
    titles: list[str] = []

    async def main() -> None:
        async with open_trio_client(address, "shop", b"shop secret", timeout_s=20) as client:

            async def one(k: int) -> None:
                await client.submit(Variant(f"t{k}", ""), ID)
                titles.append(f"t{k}")

            async with trio.open_nursery() as nursery:
                for k in range(50):
                    nursery.start_soon(one, k)

    trio.run(main)
    assert sorted(titles) == sorted(f"t{k}" for k in range(50))
    assert server.connections == 1
    assert len(server.submissions) == 50


def test_asyncio_client_serves_many_tasks_over_one_connection(make_server: Any) -> None:
    server, address = make_server(submit_rows_max=2, credit_rows=4)

    async def main() -> None:
        async with AsyncioClient(address, "shop", b"shop secret", timeout_s=20) as client:
            await asyncio.gather(*[client.submit(Variant(f"t{k}", ""), ID) for k in range(50)])

    asyncio.run(main())
    assert server.connections == 1
    assert len(server.submissions) == 50


def test_trio_client_lets_the_blocks_own_exception_through(make_server: Any) -> None:
    _, address = make_server()

    async def main() -> None:
        async with open_trio_client(address, "shop", b"shop secret") as client:
            await client.task_state(b"\1" * 16)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trio.run(main)


def test_trio_client_call_may_be_cancelled_and_the_next_one_works(make_server: Any) -> None:
    server, address = make_server()
    server.script.append("lose_before")

    async def main() -> int:
        async with open_trio_client(address, "shop", b"shop secret", timeout_s=10) as client:
            with trio.CancelScope() as scope:
                scope.cancel()
                await client.submit(HELLO, ID)
            assert scope.cancelled_caught
            return (await client.submit(HELLO, ID)).accepted

    assert trio.run(main) == 2
