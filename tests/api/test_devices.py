"""POST /v1/devices: who proves the app secret gets an identity; whoever does not learns what to mend."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import h11
import numpy as np
import pytest
import trio
import trio.testing

from gateway.api.conversation import HttpSettings
from gateway.api.devices import DeviceDesk
from gateway.api.health import HealthServer
from gateway.columns import TextColumn
from gateway.core.identity import check_device_password
from gateway.core.signed_requests import SignedRequests, SigningLimits, sign_request
from gateway.errors import Overloaded, StoreError, StoreUnavailable
from gateway.ledger import Channel
from gateway.observe.exposition import Page
from gateway.observe.metric_types import OTHER
from gateway.observe.metrics import Metrics
from gateway.wire.rpc.messages import DevicesRegistered, RefusedRow, RegisterDevices
from gateway.wire.rpc.registration import check_registration

SECRETS = {"shop": (b"new", b"old")}
NOW = 1_800_000_000
ID = bytes(range(16))


class Desk:
    """A listener with a desk, and what was registered through it."""

    def __init__(self, *, body_bytes_max: int = 1024, **limits: Any) -> None:
        self.registered: list[tuple[str, RegisterDevices]] = []
        self.refusal: RefusedRow | None = None
        self.overload: Overloaded | StoreError | None = None
        self.not_ready: list[str] = []
        self.metrics = Metrics()
        desk = DeviceDesk(
            requests=SignedRequests(SECRETS, SigningLimits(**limits)),
            newest_secret=lambda app_key: SECRETS[app_key][0],
            register=self.register,
            new_id=lambda: ID,
            now=trio.current_time,
            now_unix_s=lambda: NOW,
        )
        settings = HttpSettings(body_bytes_max=body_bytes_max)
        self.server = HealthServer(self.page, lambda: self.not_ready, self.metrics, settings, desk)

    async def page(self, accept: str) -> Page:
        return Page("text/plain", b"")

    async def register(self, app_key: str, message: RegisterDevices) -> DevicesRegistered:
        if self.overload is not None:
            raise self.overload
        refused = [RefusedRow(*fault) for fault in check_registration(message, self.check_tokens).faults]
        refused += [] if self.refusal is None else [self.refusal]
        if not refused:
            self.registered.append((app_key, message))
        return DevicesRegistered(id=1, registered=1 - len(refused), refused=refused, refused_count=len(refused))

    def check_tokens(self, channel: Channel, tokens: TextColumn) -> Any:
        """As of an app without FCM."""
        if channel is Channel.FCM:
            return f"app shop has no credentials for {channel.name.lower()}"
        return np.array([token != b"bad" for token in tokens.rows()], np.bool_)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[trio.StapledStream]:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server.converse, theirs)
            yield ours
            await ours.aclose()

    async def ask(self, body: Any, **options: Any) -> tuple[int, dict[str, str], Any]:
        async with self.client() as stream:
            return await ask(stream, post(body, **options))


def post(
    body: Any, *, secret: bytes = b"new", app: str = "shop", at: int = NOW, method: str = "POST", extra: str = ""
) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"{method} /v1/devices HTTP/1.1\r\nHost: h\r\nContent-Length: {len(data)}\r\nPushgw-App: {app}\r\n"
        f"Pushgw-Timestamp: {at}\r\nPushgw-Signature: {sign_request(secret, app, str(at), data)}\r\n{extra}\r\n"
    )
    return head.encode() + data


async def ask(stream: trio.abc.Stream, data: bytes) -> tuple[int, dict[str, str], Any]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=b"POST", target=b"/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    await stream.send_all(data)
    status, headers, body = 0, {}, b""
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(bytes(await stream.receive_some(65536)))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            is_json = headers["content-type"] == "application/json"
            return status, headers, json.loads(body) if is_json else body.decode()


async def test_desk_gives_a_new_id_and_the_password_that_fits_it() -> None:
    desk = Desk()
    status, _, answer = await desk.ask({})
    assert status == 201
    assert (answer["device_id"], answer["user_name"], answer["registered"]) == (ID.hex(), "shop", True)
    assert check_device_password([b"new"], answer["device_id"], answer["password"].encode())
    ((app_key, message),) = desk.registered
    assert (app_key, bytes(message.device_ids), message.tokens) == ("shop", ID, None)
    assert desk.metrics.device_requests.value("shop", "issued") == 1
    assert desk.metrics.secret_uses.value("shop", "0", "http") == 1


async def test_desk_registers_the_whole_state_that_is_given() -> None:
    desk = Desk()
    fields = {"channel": "apns", "token": "a" * 64, "platform": "ios", "alias": "u-1", "tags": ["vip", "beta"]}
    status, _, _ = await desk.ask(fields)
    assert status == 201
    registration = check_registration(desk.registered[0][1])
    assert (registration.faults, registration.device_ids.tobytes()) == ([], ID)
    texts = (registration.tokens, registration.platform, registration.alias, registration.tags)
    assert [column.row(0) for column in texts if column] == [b"a" * 64, b"ios", b"u-1", b"vip\nbeta"]


async def test_desk_registers_a_device_with_the_region_of_its_vendor() -> None:
    desk = Desk()
    await desk.ask({"channel": "xiaomi", "token": "abc", "region": "eu"})
    registration = check_registration(desk.registered[0][1])
    assert registration.channels is not None
    assert registration.channels.tolist() == [Channel.XIAOMI_EU]


async def test_desk_makes_the_password_of_a_given_id_and_writes_nothing() -> None:
    desk = Desk()
    status, _, answer = await desk.ask({"device_id": "ab" * 16}, secret=b"old")
    assert (status, answer["registered"], desk.registered) == (200, False, [])
    # From the newest secret, whichever proved the request: so devices leave the old one.
    assert check_device_password([b"new"], "ab" * 16, answer["password"].encode())
    assert desk.metrics.secret_uses.value("shop", "1", "http") == 1


@pytest.mark.parametrize(
    ("body", "field", "text", "value", "limit"),
    [
        ({"device_id": "AB" * 16}, "device_id", "32 characters that are not ^[0-9a-f]{32}$", None, None),
        ({"device_id": 7}, "device_id", "device_id is a number, expected a text", None, None),
        (
            {"device_id": "ab" * 16, "platform": "x" * 129},
            "platform",
            "platform is 129 characters, limit 128",
            129,
            128,
        ),
        ({"colour": "red"}, "colour", "colour is no key of this request", None, None),
        ({"tags": ["a", "b\nc"]}, "tags", "a tag holds a newline", None, None),
        ({"tags": ["a", ""]}, "tags[1]", "tags[1] is 0 characters, at least 1", 0, 1),
        ({"tags": ["a"] * 101}, "tags", "tags is 101 items, limit 100", 101, 100),
        ({"tags": "a"}, "tags", "tags is a text, expected an array", None, None),
        ({"proven_unix_s": 1 << 32}, "proven_unix_s", "is 4294967296, limit 4294967295", 1 << 32, (1 << 32) - 1),
        ({"proven_unix_s": -1}, "proven_unix_s", "is -1, at least 0", -1, 0),
        ({"proven_unix_s": True}, "proven_unix_s", "is a boolean, expected a whole number", None, None),
        ({"alias": None}, "alias", "alias is null, expected a text", None, None),
        ({"token": "abc"}, "channel", "channel and token come together", None, None),
        ({"channel": "apns"}, "token", "channel and token come together", None, None),
        ({"channel": "xiaomi", "token": "abc", "region": "europe"}, "region", "region is 'europe'", None, None),
        ({"channel": "nokia", "token": "abc"}, "channel", "'nokia' is not known", None, None),
        ({"channel": "fcm", "token": "abc"}, "channel", "app shop has no credentials for fcm", None, None),
        ({"channel": "apns", "token": "bad"}, "token", "not the form of a token of apns", None, None),
        ([], "body", "body is an array, expected an object", None, None),
        (b"{", "body", "not JSON", None, None),
        (b'{"app_version": "1.0 \xfcber"}', "body", "not JSON: 'utf-8' codec", None, None),
        (b'{"tags": ["\xff"]}', "body", "not JSON: 'utf-8' codec", None, None),
        (b'{"alias": "\\ud800x"}', "body", "not JSON", None, None),
        (b'{"device_id": 7, and more', "body", "Expected `str | null`, got `int`", None, None),
        (b'{"alias": 7, "x": "\xff"}', "body", "Expected `str`, got `int`", None, None),
        (b'{"proven_unix_s": 1e400}', "body", "out of range", None, None),
        (b"[" * 1024, "body", "Expected `object`, got `array`", None, None),
        (b'{"tags": ' + b"[" * 1000, "body", "Expected `str`, got `array`", None, None),
    ],
)
async def test_desk_names_the_field_that_is_wrong_its_value_and_its_limit(
    body: Any, field: str, text: str, value: int | None, limit: int | None
) -> None:
    desk = Desk()
    status, _, answer = await desk.ask(body)
    assert (status, answer["error"], answer["field"], desk.registered) == (400, "bad_request", field, [])
    assert text in answer["text"]
    assert (answer.get("value"), answer.get("limit")) == (value, limit)


@pytest.mark.parametrize(
    "body",
    [
        b'{"alias":"\xff"}',
        b'{"alias":"\\ud800"}',
        b'{"alias":1,"x":NaN}',
        b'{"proven_unix_s":1e400}',
        b'{"proven_unix_s":' + b"9" * 4400 + b"}",
        b'{"x":' + b"[" * 4000 + b"]" * 4000 + b"}",
        b'{"alias":' + b"[" * 4000,
        b"[" * 4000,
    ],
)
async def test_desk_refuses_a_signed_body_that_nobody_can_read_and_lives_on(body: bytes) -> None:
    desk = Desk(body_bytes_max=10_000)
    async with desk.client() as stream:
        status, _, answer = await ask(stream, post(body))
        assert (status, answer["error"]) == (400, "bad_request")
        assert answer["text"]
        assert (await ask(stream, post({})))[0] == 201


async def test_desk_passes_on_what_the_device_table_refuses() -> None:
    desk = Desk()
    desk.refusal = RefusedRow(0, "alias", "alias has 10 devices, limit 10 (devices_per_alias_max)")
    status, _, answer = await desk.ask({"alias": "u"})
    assert (status, answer["field"], "limit 10" in answer["text"]) == (400, "alias", True)


async def test_desk_says_overloaded_with_limit_and_when_to_come_again() -> None:
    desk = Desk()
    desk.overload = Overloaded("devices_max", 5, 5, retry_after_s=2.0)
    status, headers, answer = await desk.ask({})
    assert (status, headers["retry-after"]) == (429, "2")
    assert (answer["field"], answer["value"], answer["limit"]) == ("devices_max", 5, 5)


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (StoreUnavailable("the disk is full", retry_after_s=1.0, store="consents"), "consents store"),
        (StoreError("/data/registry", "the disk is full"), "registry store"),
    ],
)
async def test_desk_says_which_store_cannot_take_it_and_that_it_may_be_sent_again(error: Any, field: str) -> None:
    desk = Desk()
    desk.overload = error
    status, headers, answer = await desk.ask({})
    assert (status, headers["retry-after"]) == (503, "1")
    assert (answer["error"], answer["field"]) == ("unavailable", field)
    assert "the disk is full" in answer["text"]


async def test_desk_refuses_what_is_not_proven_and_counts_it_under_no_app() -> None:
    desk = Desk()
    status, _, answer = await desk.ask({}, secret=b"guess", app="shop-of-somebody")
    assert (status, answer["error"], desk.registered) == (401, "bad_credentials", [])
    assert desk.metrics.device_requests.value(OTHER, "bad_credentials") == 1


async def test_desk_answers_a_request_once_and_at_the_apps_rate() -> None:
    desk = Desk(rate_per_s=0.1, burst=2)
    async with desk.client() as stream:
        assert (await ask(stream, post({})))[0] == 201
        status, _, answer = await ask(stream, post({}))
        assert (status, answer["error"]) == (409, "repeated")
        assert (await ask(stream, post({"platform": "a"})))[0] == 201
        status, headers, answer = await ask(stream, post({"platform": "b"}))
        assert (status, answer["field"], headers["retry-after"]) == (429, "devices_per_s", "10")


async def test_desk_refuses_a_body_above_its_limit_and_names_it() -> None:
    desk = Desk()
    status, _, answer = await desk.ask(b" " * 1025)
    assert (status, answer["field"], answer["limit"]) == (413, "body", 1024)
    assert (await desk.ask(b"{}" + b" " * 1022))[0] == 201


async def test_desk_takes_nothing_before_the_gateway_is_ready() -> None:
    desk = Desk()
    desk.not_ready = ["starting"]
    assert (await desk.ask({}))[0] == 503


async def test_desk_answers_post_only() -> None:
    status, headers, _ = await Desk().ask({}, method="PUT")
    assert (status, headers["allow"]) == (405, "POST")


async def test_desk_says_continue_to_who_waits_for_it() -> None:
    desk = Desk()
    request = post({}, extra="Expect: 100-continue\r\n")
    async with desk.client() as stream:
        await stream.send_all(request[:-2])
        assert bytes(await stream.receive_some(1000)).startswith(b"HTTP/1.1 100 ")
        assert (await ask(stream, request[-2:]))[0] == 201


async def test_body_that_does_not_end_is_closed_after_its_time(autojump_clock: Any) -> None:
    desk = Desk()
    async with desk.client() as stream:
        await stream.send_all(post({})[:-1])
        assert await stream.receive_some(1000) == b""
    assert desk.metrics.closes.value("http", "half_frame_timeout") == 1
