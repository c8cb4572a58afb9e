"""Everything a caller can ask of APNs and FCM, as the strict simulators see it."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.content import Click, Variant


def apns(raw: Any, **fields: Any) -> Variant:
    values = {"title": "t", "body": "b", "strategy": 2} | fields
    return Variant(**values, raw={"apns": msgspec.Raw(msgspec.msgpack.encode(raw))})


def fcm(raw: Any, **fields: Any) -> Variant:
    values = {"title": "t", "body": "b", "strategy": 2} | fields
    return Variant(**values, raw={"fcm": msgspec.Raw(msgspec.msgpack.encode(raw))})


SILENT = {"aps": {"alert": None, "sound": None, "content-available": 1}}
ACTIVITY = {"aps": {"event": "update", "timestamp": 1_700_000_000, "content-state": {"n": 1}}}
APNS = {
    "alert": apns({}),
    "alert, power first": apns({"apns-priority": 1}),
    "everything neutral": apns(
        {"aps": {"thread-id": "x", "interruption-level": "time-sensitive", "relevance-score": 0.5}},
        badge=3,
        sound="ping.caf",
        category="ORDER",
        image="https://cdn.example.com/a.png",
        click=Click("url", "https://example.com/"),
        data={"a": 1, "b": True, "c": 1.5, "d": "x"},
        collapse_id="c" * 64,
        priority="normal",
        ttl_s=0,
    ),
    "background, derived": apns(SILENT),
    "background, named": apns(SILENT | {"apns-push-type": "background"}),
    "voip": apns({"apns-push-type": "voip"}, data={"k": "x" * 4_700}),
    "complication": apns({"apns-push-type": "complication"}),
    "fileprovider": apns({"apns-push-type": "fileprovider", "container-identifier": "x"}),
    "location": apns({"apns-push-type": "location"}, priority="normal"),
    "liveactivity": apns(ACTIVITY),
    "pushtotalk": apns({"apns-push-type": "pushtotalk"}),
    "widgets": apns({"apns-push-type": "widgets", "aps": {"content-changed": True}}),
    "controls": apns({"apns-push-type": "controls"}),
    "mdm": apns({"apns-push-type": "mdm", "aps": None, "mdm": "magic"}),
}
FCM = {
    "everything neutral": fcm(
        {},
        badge=3,
        sound="ping",
        category="orders",
        image="https://cdn.example.com/a.png",
        click=Click("intent", "OPEN"),
        data={"a": 1, "b": True},
        collapse_id="c",
        priority="normal",
        ttl_s=0,
    ),
    "a page": fcm({}, click=Click("url", "https://example.com/")),
    "for the app alone": fcm({"notification": None}),
    "all of android": fcm(
        {
            "android": {
                "restricted_package_name": "com.example.app",
                "direct_boot_ok": True,
                "notification": {
                    "icon": "i",
                    "color": "#112233",
                    "ticker": "t",
                    "sticky": True,
                    "event_time": "2026-10-02T15:01:23Z",
                    "local_only": True,
                    "notification_priority": "PRIORITY_MAX",
                    "default_vibrate_timings": True,
                    "vibrate_timings": ["0.1s", "1s"],
                    "visibility": "SECRET",
                    "title_loc_key": "k",
                    "title_loc_args": ["a"],
                },
                "fcm_options": {"analytics_label": "label"},
            }
        }
    ),
    "other platforms": fcm(
        {
            "fcm_options": {"analytics_label": "label"},
            "webpush": {"headers": {"Topic": "x"}, "fcm_options": {"link": "https://example.com/"}},
            "apns": {"payload": {"aps": {"thread-id": "x"}, "custom": 1}},
        }
    ),
}


@pytest.mark.parametrize(("channel", "table"), [("apns", APNS), ("fcm", FCM)])
async def test_whatever_a_message_asks_for_is_taken_by_the_strict_simulator(
    channel: str, table: dict[str, Variant], open_gateway: Callable[..., Any], simulators: Any
) -> None:
    # With the section for browsers, so that the schema judges it as well.
    async with open_gateway(simulators.ready, fcm={"webpush": True}) as gateway:
        devices = await gateway.register(len(table), channel)
        answer = await gateway.client.submit(list(table.values()), devices, index=list(range(len(table))))
        counts = await gateway.until_final(answer.task_id)
        refused = simulators.call("GET", f"/refused?simulator={channel}&last=50")
        assert counts.states == {"vendor_accepted": len(table)}, refused
        assert len(simulators.copies(channel)) == len(table)


async def test_a_voip_payload_may_be_longer_than_others(open_gateway: Callable[..., Any], simulators: Any) -> None:
    """Beyond the limit the body is cut, not refused; and 5,120 bytes are really used."""
    async with open_gateway(simulators.ready) as gateway:
        (device,) = await gateway.register(1)
        answer = await gateway.client.submit(apns({"apns-push-type": "voip"}, body="x" * 9_000), [device])
        assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 1}
        (row,) = simulators.call("GET", "/received?simulator=apns")
        assert 4_700 < len(row["body"]) < 5_120


async def test_a_token_that_was_registered_after_the_vendor_saw_it_dead_is_kept(
    open_gateway: Callable[..., Any], simulators: Any
) -> None:
    async with open_gateway(simulators.ready) as gateway:
        device, late = await gateway.register(2)
        for one, since_s in ((device, 86_400.0), (late, -86_400.0)):
            fate = {"simulator": "apns", "fate": "Unregistered", "tokens": [one.hex() * 2], "dead_since_s": since_s}
            simulators.call("PUT", "/tokens", fate)
        answer = await gateway.client.submit(apns({}), [device, late])
        assert (await gateway.until_final(answer.task_id)).reasons == {"token_dead": 2}
        assert (await gateway.metrics())["pushgw_tokens_dead_total", "apns"] == 1
        simulators.reset()
        again = await gateway.client.submit(apns({}), [device, late])
        assert (await gateway.until_final(again.task_id)).states == {"vendor_accepted": 1, "dropped": 1}


# -- certificate authentication, against a server that asks for one


def make_certificate(path: Path, name: str) -> Path:
    """Self-signed, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = builder.add_extension(address, False).add_extension(x509.BasicConstraints(True, None), True)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    path.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


class CertificateServer:
    """Takes every request of a client that has shown the certificate; keeps the headers."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.subjects: set[str] = set()

    async def serve(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        async with stream:
            await stream.send_all(connection.data_to_send())
            shown = stream.getpeercert()
            self.subjects.add(str(shown["subject"][0][0][1]))
            while data := await stream.receive_some():
                for event in connection.receive_data(bytes(data)):
                    match event:
                        case h2.events.RequestReceived():
                            fields = {bytes(name).decode(): bytes(value).decode() for name, value in event.headers}
                            self.requests.append(fields)
                        case h2.events.StreamEnded():
                            connection.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
                await stream.send_all(connection.data_to_send())


async def test_certificate_authentication_shows_the_certificate_and_no_header(
    open_gateway: Callable[..., Any], folder: Path
) -> None:
    server_file, ours = make_certificate(folder / "server.pem", "server"), make_certificate(folder / "ours.pem", "ours")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(server_file)
    context.set_alpn_protocols(["h2"])
    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    server = CertificateServer()
    settings = {
        "topic": "com.example.app",
        "certificate_file": str(ours),
        "host": "127.0.0.1",
        "port": listeners[0].transport_listener.socket.getsockname()[1],
        "ca_file": str(server_file),
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        async with open_gateway(apns=settings) as gateway:
            devices = await gateway.register(20)
            answer = await gateway.client.submit(apns({}), devices)
            assert (await gateway.until_final(answer.task_id)).states == {"vendor_accepted": 20}
            metrics = await gateway.metrics()
            assert 80_000 < metrics["pushgw_credential_expires_seconds", "apns"] <= 86_400
        nursery.cancel_scope.cancel()
    assert server.subjects == {"ours"}
    assert len(server.requests) == 20
    for headers in server.requests:
        assert "authorization" not in headers
        assert headers["apns-topic"] == "com.example.app"
