"""Was what the core handed over what its input asked for? Read by others' parsers: `h2`, `json`, the phones' MQTT.

At least 1 % of all bytes; each row found is looked up in the submits by its device, and its texts are compared: equal,
or, where the vendor's limit is below them, cut at a grapheme with the mark, and no further than needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.settings
import numpy as np
import regex

from bench.devices import mqtt
from bench.workloads import Job
from gateway.columns import U8, TextColumn
from gateway.ledger import Channel

MARK = "…"
PAYLOAD_BYTES_MAX = {Channel.APNS: 4096, Channel.FCM: 4096, Channel.LONG_LINK: 16_384}


class Sample(NamedTuple):
    """channel; chunks: (is measured, bytes) in order."""

    channel: Channel
    chunks: Sequence[tuple[bool, bytes]]


class Seen(NamedTuple):
    """One row as its receiver would see it."""

    device: bytes
    message_id: str
    title: str
    body: str
    payload_bytes: int


def check(samples: Sequence[Sample], jobs: Sequence[Job], ids: U8, tokens: TextColumn, channels: U8) -> dict[str, Any]:
    """Compares; raises AssertionError naming the first row that is wrong."""
    where = np.full((len(ids), 2), -1, np.int64)
    for number, job in enumerate(jobs):
        where[job.devices, 0] = number
        where[job.devices, 1] = np.arange(len(job.devices))
    by_token = {tokens.row(index): index for index in range(len(ids))}
    by_id = {ids[index].tobytes(): index for index in range(len(ids))}
    rows = cut = checked_bytes = 0
    message_ids: set[str] = set()
    for sample in samples:
        find = by_id if sample.channel is Channel.LONG_LINK else by_token
        for seen in _rows(sample):
            device = find[seen.device]
            number, row = where[device].tolist()
            assert number >= 0, f"{sample.channel.name}: a row that nobody submitted"
            if sample.channel is not Channel.LONG_LINK:
                assert channels[device] == sample.channel, f"{sample.channel.name}: a row of another vendor"
            expected = jobs[number].expected(row)
            what = f"{sample.channel.name}, submit {number}, row {row}"
            assert seen.message_id not in message_ids, f"{what}: message id {seen.message_id} came twice"
            message_ids.add(seen.message_id)
            limit = PAYLOAD_BYTES_MAX[sample.channel]
            assert seen.payload_bytes <= limit, f"{what}: {seen.payload_bytes} bytes, limit {limit}"
            assert seen.title == expected.title, f"{what}: title differs"
            if seen.body != expected.body:
                _check_cut(what, seen, expected.body, limit)
                cut += 1
            rows += 1
            checked_bytes += seen.payload_bytes
    assert rows, "no row was sampled"
    return {"checked_rows": rows, "checked_bytes": checked_bytes, "checked_cut": cut}


def _check_cut(what: str, seen: Seen, body: str, limit: int) -> None:
    assert seen.body.endswith(MARK), f"{what}: body differs and is not marked as cut"
    kept = seen.body.removesuffix(MARK)
    assert body.startswith(kept), f"{what}: the cut body is not a beginning of the body"
    clusters = regex.findall(r"\X", body[: len(kept) + 64])
    ends = np.cumsum([len(cluster) for cluster in clusters]).tolist()
    assert len(kept) in (0, *ends), f"{what}: cut inside of a grapheme"
    following = clusters[ends.index(len(kept)) + 1 if kept else 0]
    size = seen.payload_bytes + len(following.encode())
    assert size > limit, f"{what}: cut further than needed, {size} of {limit} bytes would fit"


def _rows(sample: Sample) -> Iterator[Seen]:
    match sample.channel:
        case Channel.LONG_LINK:
            yield from _mqtt_rows(sample)
        case Channel.APNS | Channel.FCM:
            yield from _http_rows(sample)
        case Channel.NONE:
            assert not any(measured for measured, _ in sample.chunks), "bytes of an unknown vendor"


def _mqtt_rows(sample: Sample) -> Iterator[Seen]:
    for _, chunk in sample.chunks:
        (packet,) = mqtt.Reader().receive_data(chunk)
        assert isinstance(packet, mqtt.Publish), "the edge was given something else than a PUBLISH"
        prefix, device, suffix = packet.topic.split("/")
        assert (prefix, suffix, packet.qos) == ("d", "down", 1), f"topic {packet.topic}"
        payload = json.loads(packet.payload)
        yield Seen(bytes.fromhex(device), payload["message_id"], payload["title"], payload["body"], len(packet.payload))


def _http_rows(sample: Sample) -> Iterator[Seen]:
    server = _server()
    requests: dict[int, tuple[dict[bytes, bytes], bytearray]] = {}
    for measured, chunk in sample.chunks:
        for event in server.receive_data(chunk):
            if isinstance(event, h2.events.RequestReceived):
                requests[event.stream_id] = ({bytes(name): bytes(value) for name, value in event.headers}, bytearray())
            elif isinstance(event, h2.events.DataReceived):
                requests[event.stream_id][1].extend(event.data)
            elif isinstance(event, h2.events.StreamEnded):
                headers, body = requests.pop(event.stream_id)
                # Answered at once, so that h2 may forget the stream: it looks at all open ones with every new one.
                server.send_headers(event.stream_id, [(b":status", b"200")], end_stream=True)
                server.data_to_send()
                if measured:
                    yield _request(sample.channel, headers, bytes(body))
    assert not requests, f"{len(requests)} requests without their end"


def _server() -> h2.connection.H2Connection:
    """A referee that takes everything a server with large windows would take. Its answer is never needed."""
    config = h2.config.H2Configuration(client_side=False, header_encoding=None)
    server = h2.connection.H2Connection(config)
    server.local_settings = h2.settings.Settings(
        client=False,
        initial_values={
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1 << 30,
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30,
        },
    )
    server.initiate_connection()
    server.increment_flow_control_window((1 << 30) - 65_535)
    return server


def _request(channel: Channel, headers: dict[bytes, bytes], body: bytes) -> Seen:
    payload = json.loads(body)
    path = headers[b":path"]
    assert headers[b":method"] == b"POST", "not a POST"
    if channel is Channel.APNS:
        token = path.removeprefix(b"/3/device/")
        alert = payload["aps"]["alert"]
        message_id = headers[b"apns-id"].decode()
        assert payload["message_id"] == message_id, "apns-id and message_id differ"
        return Seen(token, message_id, alert.get("title", ""), alert.get("body", ""), len(body))
    assert path == b"/v1/projects/bench/messages:send", f"path {path!r}"
    message = payload["message"]
    shown = message["notification"]
    return Seen(
        message["token"].encode(),
        message["data"]["message_id"],
        shown.get("title", ""),
        shown.get("body", ""),
        len(body),
    )
