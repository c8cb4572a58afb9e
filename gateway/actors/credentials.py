"""CredentialKeeper: one credential of one (app, vendor), always fresh, never asked for twice at once.

    SelfSigned  needs no task: whoever asks gets the token of the moment, made on the spot when its time has come.
    Granted     `run` asks the token endpoint ahead of expiry; until the answer is there the old one stays in force.

                 replace_at          expires
    |---- in force ---|-- stale, refresh under way --|-- nothing: get() waits, get_nowait() gives None

What a vendor's refusal does (`refused`): the value is dropped and replaced once; a further refusal within `gap_s`
changes nothing, so that a wrong key is never a storm of requests. Failures back off with full jitter and are reported
through a callback; waiting for this keeper holds up one credential's rows and nobody else's.

The keeper's state belongs to the task that runs it; all methods but `get` are synchronous and are called from the same
event loop. No secret and no credential stands in any report.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import NamedTuple

import httpx
import trio

from gateway.clock import Clock
from gateway.net.proxy import HttpProxy
from vendors.auth.credential import Credential, Denied, Granted, Issued, SelfSigned

#: A token endpoint's answer is a few hundred bytes; more is not kept.
ANSWER_BYTES_MAX = 64 << 10
#: Tokens end by the wall clock, sleeps by the monotonic one; where the two drift apart this is how long it may last.
RECHECK_S = 300.0
#: How long before its end a kept token is given up all the same.
_END_MARGIN_S = 10.0


class KeeperSettings(NamedTuple):
    """timeout_s: for one question to a token endpoint. retry_first_s, retry_cap_s: backoff, doubled from try to try,
    each multiplied by a random number of 0.5 to 1. gap_s: between two replacements forced by refusals; a self-signed
    credential's own gap counts where it is longer."""

    timeout_s: float = 10.0
    retry_first_s: float = 1.0
    retry_cap_s: float = 60.0
    gap_s: float = 60.0


class CredentialEvent(NamedTuple):
    """Something to count and to log. kind: issued, failed, refused, refused_again, kept. name: the endpoint's or the
    transport's word. retry_in_s: when it is tried again, for `failed`. is_final: asking again cannot help; mend the
    configuration of this credential. is_one_in_force: rows can be sent all the same."""

    credential: str
    kind: str
    name: str = ""
    retry_in_s: float | None = None
    is_final: bool = False
    is_one_in_force: bool = False


class CredentialKeeper:
    """name: "app/vendor", for reports. random: gives numbers of 0 to 1. open_client: makes the HTTP client of `run`."""

    def __init__(
        self,
        name: str,
        source: Credential,
        *,
        clock: Clock,
        report: Callable[[CredentialEvent], None],
        random: Callable[[], float],
        open_client: Callable[[], httpx.AsyncClient],
        settings: KeeperSettings | None = None,
    ) -> None:
        self.name = name
        self._source = source
        #: Found out once: asking a protocol costs 30 us, and lanes ask for the credential with every burst.
        self._self_signed = source if isinstance(source, SelfSigned) else None
        self._clock = clock
        self._report = report
        self._random = random
        self._open_client = open_client
        self._settings = settings or KeeperSettings()
        self._issued: Issued | None = None
        #: No forced replacement before this moment (monotonic).
        self._forced_again_at = -math.inf
        #: No question to the endpoint before this moment (monotonic), and how many failed in a row.
        self._ask_again_at = -math.inf
        self._failures = 0
        self._wake = trio.Event()
        self._changed = trio.Event()
        #: The endpoint's last word was a final no.
        self.is_denied = False

    # -- what lanes call

    def get_nowait(self) -> bytes | None:
        """The authorization header's value in force, or None while there is none."""
        now = self._unix_s()
        issued = self._issued
        if self._self_signed is not None and (issued is None or now >= issued.replace_at_unix_s):
            issued = self._put(self._self_signed.issue(now))
        if issued is None or now >= issued.expires_unix_s:
            self._wake.set()
            if self._self_signed is not None and not self.is_denied:
                # A certificate past its end; told once, since nothing here can change it.
                self.is_denied = True
                self._report(CredentialEvent(self.name, "failed", "expired", is_final=True))
            return None
        if now >= issued.replace_at_unix_s:
            self._wake.set()
        return issued.authorization

    async def get(self) -> bytes:
        """The value in force, waiting for one where needed; as long as the endpoint fails this does not return.

        If cancelled: nothing has changed.
        """
        while True:
            changed = self._changed
            value = self.get_nowait()
            if value is not None:
                await trio.lowlevel.checkpoint()
                return value
            await changed.wait()

    def refused(self, authorization: bytes) -> None:
        """The vendor refused this value (a refreshable CREDENTIAL verdict): it is replaced, once per gap.

        Late words about a value that is no longer in force are ignored.
        """
        issued = self._issued
        if issued is None or issued.authorization != authorization:
            return
        now = self._clock.monotonic()
        if now < self._forced_again_at:
            self._report(CredentialEvent(self.name, "refused_again"))
            return
        self._report(CredentialEvent(self.name, "refused"))
        if isinstance(self._source, SelfSigned):
            self._forced_again_at = now + max(self._settings.gap_s, self._source.gap_s)
            self._put(self._source.issue(self._unix_s(), fresh=True))
        else:
            self._forced_again_at = now + self._settings.gap_s
            self._issued = None
            self._wake.set()

    def keep_current(self) -> None:
        """The vendor complains of too many different values (TooManyProviderTokenUpdates): the one in force stays as
        long as it may."""
        if not isinstance(self._source, SelfSigned) or self._issued is None:
            return
        issued, gap_s = self._issued, self._source.gap_s
        self._forced_again_at = max(self._forced_again_at, self._clock.monotonic() + gap_s)
        stays_until = min(self._unix_s() + gap_s, issued.expires_unix_s - _END_MARGIN_S)
        self._issued = issued._replace(replace_at_unix_s=max(issued.replace_at_unix_s, stays_until))
        self._report(CredentialEvent(self.name, "kept"))

    def expires_in_s(self) -> float:
        """Until the credential in force ends; 0 when there is none."""
        return 0.0 if self._issued is None else max(0.0, self._issued.expires_unix_s - self._unix_s())

    # -- the task

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps a granted credential fresh until cancelled; returns at once for a self-signed one.

        If cancelled: a question under way is dropped, the credential in force stays.
        """
        source = self._source
        if not isinstance(source, Granted):
            task_status.started()
            return
        # Making a TLS context reads the system's certificates: tens of milliseconds, so not on the loop.
        async with await trio.to_thread.run_sync(self._open_client) as client:
            task_status.started()
            while True:
                await self._clock.sleep_until(self._ask_again_at)
                await self._wait_until_due()
                await self._refresh(source, client)

    async def _wait_until_due(self) -> None:
        """Returns when there is no credential, or when its time to be replaced has come."""
        while self._issued is not None:
            wait_s = self._issued.replace_at_unix_s - self._unix_s()
            if wait_s <= 0:
                return
            self._wake = trio.Event()
            with self._clock.move_on_at(self._clock.monotonic() + min(wait_s, RECHECK_S)):
                await self._wake.wait()

    def _unix_s(self) -> float:
        return self._clock.unix_ms() / 1000.0

    async def _refresh(self, source: Granted, client: httpx.AsyncClient) -> None:
        """One question; its outcome is in force or reported afterwards."""
        asked = self._unix_s()
        outcome = await self._ask(source, client, asked)
        if isinstance(outcome, Issued):
            self._failures = 0
            self._put(outcome)
            return
        self.is_denied = outcome.is_final
        settings = self._settings
        backoff_s = min(settings.retry_first_s * 2.0 ** min(self._failures, 30), settings.retry_cap_s)
        if outcome.is_final:
            # It may be mended at the vendor's side, so it is still tried, but slowly.
            backoff_s = settings.retry_cap_s
        wait_s = max(backoff_s * (0.5 + self._random() / 2), outcome.retry_after_s or 0.0)
        self._failures += 1
        self._ask_again_at = self._clock.monotonic() + wait_s
        is_one_in_force = self.expires_in_s() > 0
        self._report(CredentialEvent(self.name, "failed", outcome.name, wait_s, outcome.is_final, is_one_in_force))

    async def _ask(self, source: Granted, client: httpx.AsyncClient, now_unix_s: float) -> Issued | Denied:
        question = source.request(now_unix_s)
        body = bytearray()
        try:
            with trio.fail_after(self._settings.timeout_s):
                request = client.build_request(
                    question.method, question.url, headers=dict(question.headers), content=question.body
                )
                request.stream = WholeBody(question.body)
                answer = await client.send(request, stream=True)
                async with aclosing(answer):
                    # Read to its end in any case, so that httpx leaves nothing open; the timeout bounds that.
                    async for chunk in answer.aiter_bytes():
                        body += chunk[: ANSWER_BYTES_MAX + 1 - len(body)]
        except httpx.HTTPError as error:
            return Denied(type(error).__name__, is_final=False)
        except trio.TooSlowError:
            return Denied("timeout", is_final=False)
        if len(body) > ANSWER_BYTES_MAX:
            return Denied("answer_too_long", is_final=False)
        headers = {key.lower(): value for key, value in answer.headers.raw}
        return source.parse(answer.status_code, headers, bytes(body), now_unix_s)

    def _put(self, issued: Issued) -> Issued:
        """The value is in force and everybody who waits for one goes on."""
        self._issued = issued
        self.is_denied = False
        self._report(CredentialEvent(self.name, "issued"))
        self._changed.set()
        self._changed = trio.Event()
        return issued


class WholeBody(httpx.AsyncByteStream):
    """A request body in one piece. httpx's own is an asynchronous generator, and one that a lost connection leaves half
    read goes to the garbage collector, which trio rightly complains about."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._left = [body]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return WholeBody(self._body)

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


def open_http_client(
    ca_file: str = "", *, proxy: HttpProxy | None = None, timeout_s: float = 10.0, http2: bool = True
) -> httpx.AsyncClient:
    """The client for token endpoints: TLS 1.2 or newer, own CA file where given, no proxy from the environment."""
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return httpx.AsyncClient(
        http2=http2,
        verify=context,
        timeout=timeout_s,
        trust_env=False,
        proxy=None if proxy is None else _httpx_proxy(proxy),
        limits=httpx.Limits(max_connections=1, keepalive_expiry=30.0),
    )


def _httpx_proxy(proxy: HttpProxy) -> httpx.Proxy:
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    return httpx.Proxy(f"http://{host}:{proxy.port}", auth=(proxy.user, proxy.password) if proxy.user else None)
