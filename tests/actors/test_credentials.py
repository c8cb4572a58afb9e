"""The credential keeper against a real token endpoint: a small TLS server on loopback."""

from __future__ import annotations

import datetime
import ipaddress
import json
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import h11
import httpx
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.actors.credentials import CredentialEvent, CredentialKeeper, KeeperSettings, open_http_client
from vendors.auth.credential import Issued
from vendors.auth.es256 import ProviderTokenSigner
from vendors.auth.service_account import ServiceAccountGrant

START_UNIX_S = 1_763_700_000.0


class TrioClock:
    """Both readings follow trio's own clock, so that they jump with it."""

    def monotonic(self) -> float:
        return trio.current_time()

    def unix_ms(self) -> int:
        return int((START_UNIX_S + trio.current_time()) * 1000)

    def move_on_at(self, deadline: float) -> AbstractContextManager[trio.CancelScope]:
        return trio.move_on_at(deadline)

    async def sleep_until(self, deadline: float) -> None:
        await trio.sleep_until(deadline)

    def moved_between(self, start: float, stop: float) -> bool:
        return False


@pytest.fixture
def clock() -> trio.testing.MockClock:
    # Real sockets are quiet for moments only; a jump needs a longer silence than that.
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A CA file, and certificate plus key of a server on 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, key: ec.EllipticCurvePrivateKey, is_authority: bool) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        builder = builder.add_extension(x509.BasicConstraints(is_authority, None), True)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), False)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        authority_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        builder = builder.add_extension(identifier, False).add_extension(authority_identifier, False)
        return builder.sign(authority_key, hashes.SHA256())

    ca_file, server_file = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(certificate("test authority", authority_key, True).public_bytes(Encoding.PEM))
    server_file.write_bytes(
        certificate("127.0.0.1", server_key, False).public_bytes(Encoding.PEM)
        + server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return ca_file, server_file


class Endpoint:
    """A token endpoint. script: what to answer next, (status, headers, body) or "hang" or "close"; then new tokens."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.questions: list[float] = []
        self.under_way = 0
        self.under_way_max = 0
        self.url = ""

    async def serve(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
                elif isinstance(event, h11.EndOfMessage):
                    await self._answer(connection, stream)
                    connection.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    return
        except (trio.BrokenResourceError, h11.ProtocolError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, connection: h11.Connection, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.questions.append(trio.current_time())
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            step = self.script.pop(0) if self.script else None
            if step == "hang":
                await trio.sleep_forever()
            if step == "close":
                raise trio.BrokenResourceError
            token = {"access_token": f"token-{len(self.questions)}", "expires_in": 3600}
            status, headers, body = step or (200, {}, json.dumps(token).encode())
            fields = {"content-length": str(len(body)), **headers}
            out = connection.send(h11.Response(status_code=status, headers=list(fields.items())))
            out = (
                (out or b"")
                + (connection.send(h11.Data(data=body)) or b"")
                + (connection.send(h11.EndOfMessage()) or b"")
            )
            await stream.send_all(out)
        finally:
            self.under_way -= 1


@asynccontextmanager
async def endpoint_of(server_file: Path) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server_file)
    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    port = listeners[0].transport_listener.socket.getsockname()[1]
    endpoint.url = f"https://127.0.0.1:{port}/token"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, endpoint.serve, listeners)
        yield endpoint
        nursery.cancel_scope.cancel()


RSA_KEY = rsa.generate_private_key(65537, 2048)


def grant(url: str) -> ServiceAccountGrant:
    pem = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return ServiceAccountGrant(json.dumps({"client_email": "a@b", "private_key": pem}).encode(), token_uri=url)


class Kept:
    """A running keeper with what it reported."""

    def __init__(self, source: Any, ca_file: Path | None = None, random: float = 1.0) -> None:
        self.events: list[CredentialEvent] = []
        self.keeper = CredentialKeeper(
            "shop/fcm",
            source,
            clock=TrioClock(),
            report=self.events.append,
            random=lambda: random,
            open_client=lambda: open_http_client(str(ca_file or "")),
            settings=KeeperSettings(),
        )

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@asynccontextmanager
async def granted(certificates: tuple[Path, Path], *script: Any) -> AsyncIterator[tuple[Endpoint, Kept]]:
    ca_file, server_file = certificates
    async with endpoint_of(server_file) as endpoint:
        endpoint.script = list(script)
        kept = Kept(grant(endpoint.url), ca_file)
        async with trio.open_nursery() as nursery:
            await nursery.start(kept.keeper.run)
            yield endpoint, kept
            nursery.cancel_scope.cancel()


# -- granted credentials


async def test_get_waits_for_the_first_token_and_all_waiters_share_one_question(
    clock: trio.testing.MockClock, certificates: tuple[Path, Path]
) -> None:
    async with granted(certificates) as (endpoint, kept):
        assert kept.keeper.get_nowait() is None
        values: list[bytes] = []

        async def wait() -> None:
            values.append(await kept.keeper.get())

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(wait)
        assert values == [b"Bearer token-1"] * 20
        assert kept.keeper.get_nowait() == b"Bearer token-1"
        assert len(endpoint.questions) == 1
        assert kept.kinds() == ["issued"]


async def test_a_token_is_replaced_ahead_of_its_end_and_never_missing(
    clock: trio.testing.MockClock, certificates: tuple[Path, Path]
) -> None:
    async with granted(certificates) as (endpoint, kept):
        await kept.keeper.get()
        for _ in range(50):
            await trio.sleep(240)
            assert kept.keeper.get_nowait() is not None
        gaps = [later - earlier for earlier, later in pairwise(endpoint.questions)]
        assert gaps
        assert all(3200 < gap < 3400 for gap in gaps)
        assert endpoint.under_way_max == 1


async def test_the_old_token_serves_while_the_endpoint_fails_and_until_it_ends(
    clock: trio.testing.MockClock, certificates: tuple[Path, Path]
) -> None:
    failures = [(503, {}, b"{}")] * 100
    async with granted(certificates, None, *failures) as (endpoint, kept):
        await kept.keeper.get()
        await trio.sleep(3400)
        assert len(endpoint.questions) > 2
        assert kept.keeper.get_nowait() == b"Bearer token-1"
        await trio.sleep(200)
        assert kept.keeper.get_nowait() is None
        endpoint.script.clear()
        assert await kept.keeper.get() != b"Bearer token-1"


async def test_failures_back_off_and_say_what_and_until_when(
    clock: trio.testing.MockClock, certificates: tuple[Path, Path]
) -> None:
    failures = [(500, {}, b"{}")] * 9
    async with granted(certificates, *failures) as (endpoint, kept):
        assert await kept.keeper.get() == b"Bearer token-10"
        waits = [event.retry_in_s for event in kept.events if event.kind == "failed"]
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        gaps = [later - earlier for earlier, later in pairwise(endpoint.questions)]
        # a jump of the clock needs some real silence first, so gaps are a little longer than the waits
        assert all(wait <= gap < wait + 2 for wait, gap in zip(waits, gaps, strict=True))  # type: ignore[operator]
        assert kept.events[0] == CredentialEvent("shop/fcm", "failed", "http_500", 1.0, False)


async def test_retry_after_and_final_denials_slow_the_questions(
    clock: trio.testing.MockClock, certificates: tuple[Path, Path]
) -> None:
    script = [(429, {"retry-after": "77"}, b"{}"), (400, {}, b'{"error":"invalid_grant"}')]
    async with granted(certificates, *script) as (_, kept):
        await kept.keeper.get()
        assert [(event.name, event.retry_in_s, event.is_final) for event in kept.events] == [
            ("http_429", 77.0, False),
            ("invalid_grant", 60.0, True),
            ("", None, False),
        ]


@pytest.mark.parametrize(
    ("step", "name"),
    [("hang", "timeout"), ("close", "RemoteProtocolError"), ((200, {}, b"x" * 70_000), "answer_too_long")],
)
async def test_an_endpoint_that_misbehaves_is_a_failure_and_asked_again(
    clock: trio.testing.MockClock, certificates: tuple[Path, Path], step: Any, name: str
) -> None:
    async with granted(certificates, step) as (_, kept):
        assert await kept.keeper.get() == b"Bearer token-2"
        assert kept.kinds() == ["failed", "issued"]
        # where the silence is ours, httpx may give up a moment before we do
        assert kept.events[0].name in (name, "ReadTimeout" if step == "hang" else name, "ReadError")


async def test_an_endpoint_that_is_down_or_has_a_wrong_certificate_is_a_failure(
    clock: trio.testing.MockClock, certificates: tuple[Path, Path]
) -> None:
    async with endpoint_of(certificates[1]) as endpoint:
        # not our CA: the system's own list does not hold it
        kept = Kept(grant(endpoint.url))
        down = Kept(grant("https://127.0.0.1:1/token"), certificates[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.keeper.run)
            nursery.start_soon(down.keeper.run)
            while not (kept.events and down.events):
                await trio.sleep(1)
            nursery.cancel_scope.cancel()
        for one in (kept, down):
            assert {event.kind for event in one.events} == {"failed"}
            # On a busy machine the clock of the test may jump over the time that a connection may take.
            assert {event.name for event in one.events} <= {"ConnectError", "ConnectTimeout"}
        assert endpoint.questions == []


async def test_a_refused_token_is_replaced_once_and_never_hammered(
    clock: trio.testing.MockClock, certificates: tuple[Path, Path]
) -> None:
    async with granted(certificates) as (endpoint, kept):
        first = await kept.keeper.get()
        kept.keeper.refused(first)
        assert kept.keeper.get_nowait() is None
        second = await kept.keeper.get()
        assert second != first
        # late words about the old one, and a storm about the new one
        for _ in range(1000):
            kept.keeper.refused(first)
            kept.keeper.refused(second)
        assert await kept.keeper.get() == second
        assert len(endpoint.questions) == 2
        assert kept.kinds().count("refused") == 1
        assert kept.kinds().count("refused_again") == 1000
        await trio.sleep(61)
        kept.keeper.refused(second)
        assert await kept.keeper.get() not in (first, second)
        assert len(endpoint.questions) == 3


async def test_cancelling_the_task_in_the_middle_of_a_question_leaves_the_keeper_usable(
    clock: trio.testing.MockClock, certificates: tuple[Path, Path]
) -> None:
    async with endpoint_of(certificates[1]) as endpoint:
        endpoint.script = ["hang"]
        kept = Kept(grant(endpoint.url), certificates[0])
        async with trio.open_nursery() as nursery:
            await nursery.start(kept.keeper.run)
            while not endpoint.questions:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert kept.keeper.get_nowait() is None
        with trio.move_on_after(1) as scope:
            await kept.keeper.get()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.keeper.run)
            assert (await kept.keeper.get()).startswith(b"Bearer ")
            nursery.cancel_scope.cancel()


# -- self-signed credentials


EC_PEM = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def self_signed() -> Kept:
    return Kept(ProviderTokenSigner(EC_PEM, key_id="KEY", team_id="TEAM"))


async def test_a_self_signed_token_is_there_at_once_and_changes_every_20_to_60_minutes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    kept = self_signed()
    await kept.keeper.run()
    seen: list[tuple[float, bytes]] = []
    for _ in range(2000):
        value = kept.keeper.get_nowait()
        assert value is not None
        assert value == await kept.keeper.get()
        if not seen or seen[-1][1] != value:
            seen.append((trio.current_time(), value))
        await trio.sleep(30)
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(seen)]
    assert len(gaps) >= 15
    # the first one may have been in force elsewhere for a while: all workers show the same
    assert gaps[0] <= 3360
    assert all(1200 <= gap <= 3360 for gap in gaps[1:])
    assert len({value for _, value in seen}) == len(seen)


async def test_an_expired_token_is_made_anew_once_within_20_minutes(autojump_clock: trio.testing.MockClock) -> None:
    kept = self_signed()
    first = await kept.keeper.get()
    await trio.sleep(10)
    kept.keeper.refused(first)
    second = await kept.keeper.get()
    assert second != first
    await trio.sleep(1190)
    kept.keeper.refused(second)
    assert await kept.keeper.get() == second
    await trio.sleep(20)
    kept.keeper.refused(second)
    assert await kept.keeper.get() != second
    assert kept.kinds() == ["issued", "refused", "issued", "refused_again", "refused", "issued"]


async def test_too_many_updates_keep_the_current_token(autojump_clock: trio.testing.MockClock) -> None:
    kept = self_signed()
    first = await kept.keeper.get()
    kept.keeper.keep_current()
    kept.keeper.refused(first)
    assert await kept.keeper.get() == first
    assert kept.kinds() == ["issued", "kept", "refused_again"]


class Ending:
    """As a client certificate: nothing to show, and gone an hour from now."""

    gap_s = 0.0

    def issue(self, now_unix_s: float, *, fresh: bool = False) -> Issued:
        return Issued(b"", math.inf, START_UNIX_S + 3600)


async def test_a_certificate_past_its_end_is_told_of_once_and_gives_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    kept = Kept(Ending())
    assert kept.keeper.get_nowait() == b""
    assert 3590 < kept.keeper.expires_in_s() <= 3600
    await trio.sleep(3601)
    for _ in range(5):
        assert kept.keeper.get_nowait() is None
    assert kept.keeper.is_denied
    assert kept.kinds() == ["issued", "failed"]
    assert kept.events[-1] == CredentialEvent("shop/fcm", "failed", "expired", is_final=True)


async def test_a_keeper_without_a_token_yet_ignores_words_about_one() -> None:
    kept = self_signed()
    kept.keeper.refused(b"bearer x")
    kept.keeper.keep_current()
    assert kept.events == []


async def test_no_report_holds_a_credential(clock: trio.testing.MockClock, certificates: tuple[Path, Path]) -> None:
    async with granted(certificates, (400, {}, b'{"error":"token-1"}')) as (_, kept):
        value = await kept.keeper.get()
        kept.keeper.refused(value)
        assert value.decode() not in repr(kept.events)
        assert "assertion" not in repr(kept.events)


def test_the_http_client_takes_no_proxy_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://192.0.2.1:1")
    client = open_http_client()
    assert isinstance(client, httpx.AsyncClient)
    assert not client.trust_env
    assert not client._mounts
