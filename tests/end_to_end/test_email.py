"""E-mail end to end: lanes, threads and TLS against the strict SMTP simulator; and how a session fails."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from gateway.cli.control_port import ControlPort
from gateway.cli.demo.channels import vendor_tables
from gateway.client.requests import DeviceState
from gateway.content import Variant
from gateway.errors import CloseReason
from gateway.ledger import Flag
from gateway.message_id import to_text
from gateway.net.smtp import SessionFailed, SessionLost, SmtpPlace, SmtpSession
from gateway.net.tls import client_context
from gateway.wire.smtp.message import Mail, compose

pytestmark = pytest.mark.timed
DEAD, LATER = "gone@x.example", "grey@x.example"
TABLE = {
    "received": {"keep_texts": True},
    "email": {"fates": [{"fate": "unknown", "tokens": [DEAD]}, {"fate": "greylisted", "tokens": [LATER]}]},
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, simulate: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """The ready line of the simulator."""
    folder = tmp_path_factory.mktemp("email")
    with simulate(folder, "--only", "email", table=TABLE) as site:
        yield site.ready


async def test_rows_become_messages_and_replies_become_verdicts(
    ready: dict[str, Any], folder: Path, open_gateway: Callable[..., Any]
) -> None:
    addresses = [f"user{index}@x.example" for index in range(20)] + [DEAD]
    ids = [bytes([1]) * 15 + bytes([index]) for index in range(len(addresses))]
    async with open_gateway(None, vendors=vendor_tables(ready)) as gateway:
        states = [
            DeviceState(device_id=one, channel="email", token=address)
            for one, address in zip(ids, addresses, strict=True)
        ]
        assert (await gateway.client.register_devices(states)).registered == len(ids)
        answer = await gateway.client.submit(Variant("标题 title", "正文 body 🎉", strategy=2), ids)
        counts = await gateway.until_final(answer.task_id)
        assert counts.states == {"vendor_accepted": 20, "failed": 1}
        assert counts.reasons == {"token_dead": 1}
        answer = await gateway.client.submit(Variant("{{x}}", "b", strategy=2), ids, variables={"x": ["é"] * len(ids)})
        # The address is gone.
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 20, "dropped": 1}
    place = ready["control"]
    rows = await trio.to_thread.run_sync(lambda: list(ControlPort(place["host"], place["port"]).received()))
    digests = {
        hashlib.sha256(title.encode() + b"\0" + body.encode()).hexdigest()
        for title, body in (("标题 title", "正文 body 🎉"), ("é", "b"))
    }
    assert {row["sha256"] for row in rows} == digests
    assert [row["copies"] for row in rows] == [1] * 40


def session(ready: dict[str, Any], *, password: str = "", ca_file: str | None = "", port: int = 0) -> SmtpSession:
    known = ready["email"]
    place = SmtpPlace(known["host"], port or known["port"], "tls", "me.example", known["user_name"], 10.0)
    context = client_context(ca_file=ready["ca_file"] if ca_file == "" else ca_file, alpn=())
    return SmtpSession.open(place, context, password or known["password"])


def mail(to: str) -> Mail:
    fields = {"sender": "no-reply@sim.example.com", "to": to, "message_id": "1@a.b", "unix_s": 1, "subject": "s"}
    return compose(json.dumps(fields | {"text": ".dots\n..and more"}).encode())


def test_a_session_tells_every_reply_and_stays_usable(ready: dict[str, Any]) -> None:
    smtp = session(ready)
    told = [smtp.send(mail(to)) for to in (DEAD, LATER, "new@x.example")]
    assert [(reply.code, reply.text[:5], reply.phase) for reply in told] == [
        (550, b"5.1.1", "rcpt"),
        (450, b"4.7.1", "rcpt"),
        (250, b"2.0.0", "message"),
    ]
    assert smtp.send(mail("x@x.example")._replace(sender="a@else.example")).phase == "mail"
    smtp.quit()
    with pytest.raises(SessionLost) as caught:
        smtp.send(mail("late@x.example"))
    assert (caught.value.reason, caught.value.may_be_sent) == (CloseReason.PEER_CLOSED, False)


def test_a_session_that_is_lost_in_the_message_may_have_sent_it(ready: dict[str, Any]) -> None:
    smtp = session(ready)
    control = ControlPort(ready["control"]["host"], ready["control"]["port"])
    control.arm_fault({"simulator": "email", "kind": "reset_socket", "recorded": True, "for_requests": 1})
    with pytest.raises(SessionLost) as caught:
        smtp.send(mail("lost@x.example"))
    assert caught.value.may_be_sent


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"password": "wrong"}, CloseReason.BAD_CREDENTIALS),
        ({"ca_file": None}, CloseReason.CERTIFICATE_INVALID),
        ({"port": 1}, CloseReason.CONNECT_FAILED),
    ],
)
def test_a_session_that_does_not_come_about_says_why(
    ready: dict[str, Any], changes: dict[str, Any], reason: CloseReason
) -> None:
    with pytest.raises(SessionFailed) as caught:
        session(ready, **changes)
    assert caught.value.reason is reason
    assert "wrong" not in str(caught.value)


async def test_a_bounce_buries_the_address_of_its_row(
    ready: dict[str, Any], folder: Path, open_gateway: Callable[..., Any]
) -> None:
    """The return path is what the server was told; the bounce is posted as a mail server's pipe does."""
    secret = folder / "bounces.secret"
    secret.write_text("a-secret-of-the-path")
    bounces = {"bounce_address": "bounce@sim.example.com", "callback_secret_file": str(secret)}
    tables = vendor_tables(ready)
    tables["email"] |= bounces
    ids, addresses = [os.urandom(16), os.urandom(16)], ["hard@x.example", "soft@x.example"]
    listeners = {"listeners": [{"address": "tcp://127.0.0.1:0"}]}
    async with open_gateway(None, vendors=tables, receipts=listeners, unregister_guard={"rows_min": 100}) as gateway:
        pairs = zip(ids, addresses, strict=True)
        states = [DeviceState(device_id=one, channel="email", token=address) for one, address in pairs]
        await gateway.client.register_devices(states)
        answer = await gateway.client.submit(Variant("t", "b", strategy=2), ids)
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 2}
        page = next(iter(gateway.worker.home.pages()))
        rows = {one.tobytes(): row for row, one in enumerate(page.batch.device_ids)}
        for one, address, status in zip(ids, addresses, ("5.1.1", "4.4.7"), strict=True):
            named = to_text(page.batch.message_ids[rows[one]].tobytes())
            body = (
                f"From: MAILER-DAEMON\r\nTo: bounce+{named}@sim.example.com\r\nMIME-Version: 1.0\r\n"
                'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
                "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\n"
                f"Final-Recipient: rfc822; {address}\r\nAction: failed\r\nStatus: {status}\r\n\r\n--b--\r\n"
            )
            url = f"http://{gateway.ready['receipts'][0].removeprefix('tcp://')}/v1/receipts/shop/email"
            async with httpx.AsyncClient() as client:
                assert (await client.post(url, content=body)).status_code == 404
                assert (await client.post(f"{url}/a-secret-of-the-path", content=body)).status_code == 200
        devices = gateway.worker.devices
        tokens = [True, True]
        with trio.move_on_after(30):
            while tokens != [False, True]:
                await trio.sleep(0.02)
                tokens = [bool(devices.device(devices.find_one(one, 0)).token) for one in ids]
        assert tokens == [False, True]
        assert [bool(page.flags[rows[one]] & Flag.UNDELIVERED) for one in ids] == [True, True]
