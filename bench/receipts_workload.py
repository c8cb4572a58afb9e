"""What `bench receipts` posts: tokens, and the bodies of two vendors as they send them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import time
from collections.abc import Sequence
from typing import NamedTuple

from gateway.burst_address import BurstAddress, encode
from gateway.ledger import Channel
from gateway.message_id import BatchAddress

BATCH_ROWS = 65_536
CHANNELS = (Channel.HUAWEI, Channel.OPPO)
KEY = b"the-callback-key-of-the-console."
USER = "receiver"


def token_of(channel: Channel, row: int) -> str:
    """Of a row of any batch; 130 characters at Huawei, as its own are."""
    return f"IQAAAACy{row:0122x}" if channel is Channel.HUAWEI else f"CN_{row:032x}"


class Workload(NamedTuple):
    """requests of n receipts each. batched: whether the vendor gathers them."""

    name: str
    channel: Channel
    receipts: int
    requests: int


#: Huawei gathers receipts and signs; OPPO has one entry per message and event.
WORKLOADS = (Workload("gathered", Channel.HUAWEI, 10, 5000), Workload("single", Channel.OPPO, 1, 12_000))


def posts(workload: Workload, batches: Sequence[Sequence[int]], secret: bytes, seed: int) -> list[bytes]:
    """Requests as bytes; their rows are drawn at random from the batches."""
    chance = random.Random(seed)
    addresses = [encode(secret, BurstAddress(BatchAddress(*batch), 1)) for batch in batches]
    found = []
    for number in range(workload.requests):
        rows = chance.sample(range(BATCH_ROWS), workload.receipts)
        address = addresses[number % len(addresses)]
        headers = ["content-type: application/json"]
        if workload.channel is Channel.HUAWEI:
            body = _huawei(rows, address)
            headers.append(f"x-huawei-callback-id: {_signature(number)}")
        else:
            body = _oppo(rows, address)
        head = f"POST /v1/receipts/shop/{workload.channel.name.lower()} HTTP/1.1\r\nhost: gateway.example\r\n"
        lines = "".join(f"{header}\r\n" for header in headers)
        found.append(f"{head}{lines}content-length: {len(body)}\r\n\r\n".encode() + body)
    return found


def _huawei(rows: Sequence[int], address: str) -> bytes:
    statuses = [
        {
            "biTag": address,
            "appid": "104000001",
            "token": token_of(Channel.HUAWEI, row),
            "status": 0,
            "timestamp": 1_763_700_001_234,
            "requestId": "157440955549500001002006",
        }
        for row in rows
    ]
    return json.dumps({"statuses": statuses}).encode()


def _oppo(rows: Sequence[int], address: str) -> bytes:
    entry = {
        "messageId": "5b8a8a3c9c2d4f0001a2b3c4",
        "appId": "1001",
        "taskId": "5b8a8a3c9c2d4f0001a2b3c4",
        "registrationIds": ",".join(token_of(Channel.OPPO, row) for row in rows),
        "eventTime": "1763700001234",
        "param": address,
        "eventType": "push_arrive",
    }
    return json.dumps([entry]).encode()


def _signature(number: int) -> str:
    stamp, nonce = str(int(time.time() * 1000)), f"nonce-{number}"
    value = base64.b64encode(hmac.new(KEY, f"{stamp}{nonce}{USER}".encode(), hashlib.sha256).digest()).decode()
    return f"timestamp={stamp}; nonce={nonce}; value={value}"
