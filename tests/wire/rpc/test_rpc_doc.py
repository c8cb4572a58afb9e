"""docs/rpc.md says what the code does: every kind, key, code and limit, and the worked example."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from gateway.content import Variant
from gateway.ledger import VENDOR_CHANNELS
from gateway.wire.rpc import codec, messages
from gateway.wire.rpc.faults import CODES
from gateway.wire.rpc.messages import ANSWER_OF, OPERATOR_ONLY, Limits, Message

ROOT = Path(__file__).parents[3]
DOC = (ROOT / "docs" / "rpc.md").read_text()
VECTORS = ROOT / "tests" / "vectors" / "rpc"


def section(start: str, end: str) -> str:
    return DOC[DOC.index(start) : DOC.index(end)]


def test_doc_names_every_kind_and_every_key() -> None:
    words = set(re.findall(r"[a-z_0-9]+", DOC))
    assert words >= codec.CLIENT_KINDS | codec.SERVER_KINDS
    for kind in vars(messages).values():
        if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message:
            assert words >= set(kind.__struct_encode_fields__), kind.__name__
    assert words >= set(Variant.__struct_encode_fields__)
    assert words >= set(VENDOR_CHANNELS)


def test_doc_lists_the_codes_and_no_other() -> None:
    table = section("| code | meaning", "## 4. Credit")
    assert tuple(re.findall(r"^\| `([a-z_]+)` \|", table, re.M)) == CODES


def test_doc_table_of_answers_is_the_codes_own() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| .*?`([a-z_]+)`[^|`]*\)? \| (app|both|operator) \|", DOC, re.M)
    said = {request: (answer, who) for request, answer, who in rows}
    for request, answer in ANSWER_OF.items():
        name, (found, who) = str(request.__struct_config__.tag), said[str(request.__struct_config__.tag)]
        assert found == answer.__struct_config__.tag, name
        assert (who == "operator") == (request in OPERATOR_ONLY), name
        assert (who == "app") == (request in messages.APP_ONLY), name
    assert len(said) == len(ANSWER_OF)


def test_doc_names_every_limit_that_welcome_carries() -> None:
    (row,) = re.findall(r"^\| \| limits \| map \| (.*) \|$", DOC, re.M)
    assert row.split(", ") == [field.name for field in msgspec.structs.fields(Limits)]


@pytest.mark.parametrize("name", re.findall(r"<!-- vector: (\w+) -->", DOC))
def test_doc_worked_example_is_the_vector(name: str) -> None:
    block = DOC[DOC.index(f"<!-- vector: {name} -->") :].split("\n\n", 1)[0]
    digits = ""
    for line in block.splitlines()[1:]:
        found = re.match(r"\s*((?:[0-9a-f]{2}\s+)*[0-9a-f]{2})(?=\s|$)", line)
        assert found, line
        digits += re.sub(r"\s", "", found[1])
    vectors = {vector["name"]: vector for vector in json.loads((VECTORS / "frames.json").read_text())}
    assert digits == vectors[name]["frame"]


def test_doc_proof_is_the_vectors() -> None:
    handshake = json.loads((VECTORS / "handshake.json").read_text())
    proof = DOC[DOC.index("<!-- handshake -->") :]
    assert re.findall(r"mac +([0-9a-f]{64})", proof) == [handshake["client_mac"], handshake["server_mac"]]
    assert bytes.fromhex(handshake["secret"]).decode() in DOC
