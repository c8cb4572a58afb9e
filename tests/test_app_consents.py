"""Consents in the configuration, in WeChat's contents, and in what clients may repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.app_siblings import counter_of_consents
from gateway.client.requests import consents_request
from gateway.client.retry import may_repeat
from gateway.config import Config, load_config, memory_budget
from gateway.config_relations import counts_consents
from gateway.content import Variant
from vendors.wechat import Settings, Wechat

APP = """
[[apps]]
key = "shop"
secrets = [{ env = "HOME" }]
"""
WECHAT = '[apps.wechat]\nappid = "wx1"\napp_secret_env = "HOME"\n'


def load(folder: Path, text: str, workers: int = 1) -> Config:
    path = folder / "gateway.toml"
    path.write_text(f'[gateway]\ndata_dir = "data"\nworkers = {workers}\n{text}')
    return load_config(path)


def test_the_table_is_there_where_an_app_has_a_mini_program(tmp_path: Path) -> None:
    def size(config: Config) -> int:
        return next(part.size_bytes for part in memory_budget(config) if part.part == "consents")

    without, alone = load(tmp_path, APP), load(tmp_path, APP + WECHAT)
    shared = load(tmp_path, APP + WECHAT, workers=2)
    assert [counts_consents(config) for config in (without, alone, shared)] == [False, True, True]
    assert [size(config) for config in (without, alone, shared)] == [0, 36_000_000, 36_000_000]


def test_several_workers_agree_which_of_them_counts(tmp_path: Path) -> None:
    text = APP + WECHAT + 'consents = "strict"\n'
    assert counter_of_consents(load(tmp_path, text)) == 0
    assert 0 <= counter_of_consents(load(tmp_path, text, workers=7)) < 7


def test_the_template_of_a_content_is_what_its_message_names() -> None:
    templates: dict[str, Any] = {name: {"id": name.upper(), "params": {}} for name in ("default", "order", "forever")}
    settings = msgspec.convert(
        {"appid": "wx1", "app_secret_env": "HOME", "templates": templates, "permanent_templates": ["FOREVER"]}, Settings
    )
    vendor = Wechat(settings)

    def raw(value: Any) -> dict[str, msgspec.Raw]:
        return {"wechat": msgspec.Raw(msgspec.json.encode(value))}

    assert vendor.consent_of(Variant("t", "b")) == "DEFAULT"
    assert vendor.consent_of(Variant("t", "b", category="order")) == "ORDER"
    assert vendor.consent_of(Variant("t", "b", category="forever")) == ""
    assert vendor.consent_of(Variant("t", "b", category="order", raw=raw({"template_id": "OWN"}))) == "OWN"
    assert vendor.consent_of(Variant("t", "b", raw=raw({"template_id": "FOREVER"}))) == ""
    bare = Wechat(msgspec.structs.replace(settings, templates={}))
    assert bare.consent_of(Variant("t", "b")) == ""


def test_clients_repeat_only_reports_that_count_the_same_twice() -> None:
    def request(counts: int | list[int], *, is_total: bool = False) -> Any:
        return consents_request(["a", "b"], "T", counts, is_total=is_total, app_key="")

    assert not may_repeat(request(1))
    assert not may_repeat(request([0, 2]))
    assert may_repeat(request(0))
    assert may_repeat(request(3, is_total=True))


def test_columns_of_a_report_have_one_entry_per_user() -> None:
    made = consents_request(["a", "b", "c"], ["T", "U", "T"], [1, 2, 3], is_total=False, app_key="shop")
    assert (made.n, made.templates, made.app_key) == (3, ["T", "U"], "shop")
    assert made.template_index is not None
    assert bytes(made.template_index) == b"\0\1\0"
    for template, counts in ((["T"], 1), ("T", [1, 2])):
        with pytest.raises(ValueError, match="3 users with"):
            consents_request(["a", "b", "c"], template, counts, is_total=False, app_key="")
