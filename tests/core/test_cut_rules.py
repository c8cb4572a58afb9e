"""Each app has its own rule of cutting, for vendors and for the long link."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gateway.batch import Batch
from gateway.columns import join
from gateway.content import Variant
from gateway.core.render import Renderer, TokenGroup
from gateway.core.rendered import CutRule
from gateway.ledger import Reason
from gateway.message_id import BatchAddress, encode_rows
from vendors.apns import Apns, Settings

SECRET = bytes(16)
RULES = {1: CutRule(mark="~"), 2: CutRule(may_cut=False)}


@pytest.mark.parametrize(("app", "end"), [(0, "…"), (1, "~"), (2, None)])
def test_texts_are_cut_by_the_rule_of_the_batchs_app(app: int, end: str | None) -> None:
    address = BatchAddress(1_763_700_000_000, 0, 0)
    ids = encode_rows(SECRET, address, np.arange(1))
    batch = Batch(address, app, 0.0, 1, device_ids=ids, message_ids=ids, variants=[Variant(title="t", body="b" * 5000)])
    renderer = Renderer(rules=RULES, downlink_payload_bytes_max=1024)
    vendor = Apns(Settings("TEAM", "KEY", "com.example.app", key_file="key.p8"))
    row = np.array([0])
    tokens = [TokenGroup(row, np.frombuffer(b"ab" * 32, np.uint8).reshape(1, 64))]
    sent = renderer.render(vendor, batch, row, tokens, authorization=b"bearer value", now_unix_s=1_763_700_001.0)
    shown = renderer.render_downlink(batch, row, now_unix_s=1_763_700_001.0)
    if end is None:
        assert [part.reason for part in (*sent.refused, *shown.refused)] == [Reason.CONTENT_TOO_LONG] * 2
        assert not sent.groups
        assert not shown.groups
        return
    alert = json.loads(join(sent.groups[0].requests.body, 0, 1)[0])["aps"]["alert"]
    assert alert["body"].endswith("b" + end)
    assert json.loads(join(shown.groups[0].payload, 0, 1)[0])["body"].endswith("b" + end)
