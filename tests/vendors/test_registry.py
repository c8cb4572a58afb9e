"""The contract of every vendor in the registry: one shape, total, pure (DESIGN.md section 7)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.content import Variant
from gateway.ledger import VENDOR_CHANNELS
from gateway.vendor import RequestTemplate, Slot, Vendor
from gateway.verdict import Verdict
from vendors import REGISTRY

#: A token of the vendor's form, where it has a strict one.
TOKENS = {
    "aliyun_sms": "13800000000",
    "tencent_sms": "+8613800000000",
    "wechat": "o" * 28,
    "email": "a.user@example.com",
}
#: What a vendor has no place for.
LACKS: dict[str, set[str]] = {"email": {"authorization"}}
KNOWN_SLOTS = {"title", "body", "token", "message_id", "authorization", "collapse_id"}
KNOWN_SLOTS |= {"expires_unix_s", "expires_or_zero", "ttl_left_s", "ttl", "collapse_number", "collapse_key8"}
KNOWN_SLOTS |= {
    "now_unix_ms",
    "now_unix_s",
    "now_utc",
    "address",
    "signature",
    "payload",
    "saved",
    "notify_number",
    "notify_key8",
}


@pytest.fixture(params=sorted(REGISTRY))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(name: str, settings_of: Callable[[str], Any]) -> Any:
    return settings_of(name)


@pytest.fixture
def vendor(name: str, vendor_of: Callable[[str], Vendor]) -> Vendor:
    return vendor_of(name)


def test_the_name_is_the_key_and_a_channel(name: str, vendor: Vendor) -> None:
    assert vendor.name == name
    assert name in VENDOR_CHANNELS


def test_settings_are_frozen_strict_and_have_what_lanes_need(name: str, settings: Any) -> None:
    config = type(settings).__struct_config__
    assert config.frozen
    assert config.forbid_unknown_fields
    fields = {field.name for field in msgspec.structs.fields(type(settings))}
    assert {"host", "port", "ca_file", "rate_per_s", "burst", "connections_max"} <= fields
    for field in fields:
        is_secret = any(word in field.split("_") for word in ("secret", "password", "key", "account"))
        assert not is_secret or field.endswith(("_file", "_env", "_id")), field


def test_the_secret_is_a_file_or_an_environment_name(name: str, settings: Any) -> None:
    place = REGISTRY[name].secret_place(settings)
    assert bool(place.file) != bool(place.env)


def test_a_wrong_secret_is_a_value_error_that_does_not_quote_it(name: str, settings: Any) -> None:
    with pytest.raises(ValueError) as caught:
        REGISTRY[name].credential(settings, b"hunter2 hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_template_has_known_slots_lower_case_headers_and_no_duplicates(name: str, vendor: Vendor) -> None:
    made = vendor.template(Variant("t", "b", collapse_id="c", badge=1, data={"k": 1}))
    assert isinstance(made, RequestTemplate)
    names = [header for header, _ in made.headers]
    assert len(set(names)) == len(names)
    assert all(header == header.lower() and not header.startswith(b":") for header in names)
    parts = [*made.path, *made.body, *(part for _, value in made.headers for part in value)]
    parts += [part for field in made.signed for part in field]
    slots = {part.base.partition(":")[0] for part in parts if isinstance(part, Slot)}
    assert slots <= KNOWN_SLOTS
    assert {"title", "body", "token", "message_id", "authorization"} - LACKS.get(name, set()) <= slots
    assert made.path[0].startswith(b"/")  # type: ignore[union-attr]


def test_templates_are_deterministic(name: str, vendor_of: Callable[[str], Vendor]) -> None:
    variant = Variant("t", "b", data={"k": "v", "l": 1})
    assert vendor_of(name).template(variant) == vendor_of(name).template(variant)


def test_garbage_is_classified_and_kills_no_token(name: str, vendor: Vendor) -> None:
    for status in range(0, 1000, 7):
        for body in (b"", b"\xff", b"{}", b"[]", b'{"reason":1,"error":[]}'):
            assert vendor.classify(status, {}, body).verdict is not Verdict.TOKEN_DEAD


@pytest.mark.parametrize("character", [" ", "\r", "\n", "\r\nhost: x", "\x00", "\t", "\x7f"])
def test_a_token_that_would_make_two_requests_of_one_is_not_taken(name: str, vendor: Vendor, character: str) -> None:
    good = TOKENS.get(name, "ab" * 32)
    assert vendor.check_token(good) == ""
    for token in (character + good, good[:6] + character + good[6:], good + character):
        assert vendor.check_token(token), repr(token)


def test_limits_are_positive_and_hosts_are_names(name: str, vendor: Vendor) -> None:
    host, port = vendor.authority()
    assert "." in host
    assert port == (465 if name == "email" else 443)
    assert vendor.limits(Variant("t", "b")).payload_bytes_max >= 1024


def test_the_config_block_of_its_page_is_one_that_works(name: str) -> None:
    """A document that is not executed decays."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "vendors" / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.S)
    assert blocks
    for block in blocks:
        apps = tomllib.loads(block)["apps"]
        # Below an app of the file, or standing for one.
        table = (apps[0] if isinstance(apps, list) else apps)[name]
        entry = REGISTRY[name]
        entry.vendor(msgspec.convert(table, entry.settings))


def test_every_key_of_a_vendor_stands_on_its_page_or_on_the_common_one(name: str, settings: Any) -> None:
    folder = Path(__file__).resolve().parents[2] / "docs" / "vendors"
    text = "".join((folder / f"{page}.md").read_text(encoding="utf-8") for page in (name, "lists", "fcm"))
    for field in msgspec.structs.fields(type(settings)):
        assert re.search(rf"\b{field.name}\b", text), field.name
