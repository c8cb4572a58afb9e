"""The shipped sample: made by bench/samples/make.py, valid, and as varied as the demo needs it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import regex

from bench.samples.make import FILE, lines
from gateway.client.rows import LineFault, parse_lines


@pytest.fixture(scope="module")
def sample() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def test_the_file_is_what_its_program_writes() -> None:
    assert FILE.read_text(encoding="utf-8") == "".join(f"{line}\n" for line in lines())


def test_every_line_is_valid_and_there_are_at_least_500() -> None:
    with FILE.open("rb") as stream:
        found = list(parse_lines(stream, default_to=iter(lambda: bytes(16), None)))
    assert [one for one in found if isinstance(one, LineFault)] == []
    assert len(found) >= 500


def test_every_key_of_the_contract_occurs(sample: list[dict[str, Any]]) -> None:
    keys = {key for line in sample for key in line}
    assert keys == {
        "to",
        "title",
        "body",
        "data",
        "ttl_s",
        "strategy",
        "category",
        "collapse_id",
        "badge",
        "sound",
        "image",
        "click",
        "vars",
        "plan_id",
    }
    assert {line["click"]["type"] for line in sample if "click" in line} == {"app", "url", "intent", "payload"}
    strategies = [line["strategy"] for line in sample if "strategy" in line]
    assert {one for one in strategies if isinstance(one, int)} == {1, 2, 3, 4}
    assert {"default", "apns", "fcm"} == {key for one in strategies if isinstance(one, dict) for key in one}
    ttls = {line["ttl_s"] for line in sample if "ttl_s" in line}
    assert {0, 40 * 86_400} <= ttls


def test_texts_are_what_breaks_careless_code(sample: list[dict[str, Any]]) -> None:
    texts = [line["title"] + "\n" + line["body"] for line in sample]
    size = len(texts)
    assert sum(regex.search(r"\p{Han}", text) is not None for text in texts) > size / 4
    assert sum(text.isascii() or not regex.search(r"\p{Han}", text) for text in texts) > size / 4
    assert sum("\u200d" in text for text in texts) >= 20
    assert sum(len(text.encode()) > 4096 for text in texts) >= 20
    assert any(len(text.encode()) > 16_384 for text in texts)
    for piece in ('"', "\\", "\n", "\t", "\r", "<b>", "&", "{{neither_is_this}}", "\u0301"):
        assert any(piece in text for text in texts), piece
    assert any(line["title"] == "" for line in sample)
    assert any(line["body"] == "" for line in sample)
