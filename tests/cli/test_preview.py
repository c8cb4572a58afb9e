"""preview.py: what each vendor would receive, without sending anything or reading a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.__main__ import main
from gateway.cli.exit_codes import ExitCode

CONFIG = """
[gateway]
data_dir = "d"
[[apps]]
key = "shop"
secrets = [{ file = "not-there" }]
[apps.huawei]
client_id = "104000001"
client_secret_file = "not-there"
[apps.xiaomi]
package_name = "com.example.app"
app_secret_file = "not-there"
[apps.oppo]
app_key_id = "ak"
master_secret_file = "not-there"
[apps.vivo]
app_id = 10004
app_key_id = "ak"
app_secret_file = "not-there"
[apps.meizu]
app_id = "110000"
app_secret_file = "not-there"
[apps.fcm]
project_id = "p"
service_account_file = "not-there"
"""
ALL = {"huawei", "xiaomi", "oppo", "vivo", "meizu", "fcm"}


@pytest.fixture
def preview(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG)

    def run(lines: list[dict[str, Any]], *options: str) -> tuple[int, Any, str]:
        file = tmp_path / "lines.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        code = main(["preview", str(file), "--config", str(config), *options])
        captured = capsys.readouterr()
        out = json.loads(captured.out) if "--json" in options else captured.out
        return code, out, captured.err

    return run


def test_every_vendor_of_the_app_shows_what_it_would_receive(preview: Any) -> None:
    code, told, _ = preview([{"title": "Hi {{name}}", "body": "b", "vars": {"name": "Ada"}}], "--json")
    assert code == ExitCode.GOOD
    by_vendor = {line["vendor"]: line for line in told["lines"]}
    assert set(by_vendor) == ALL
    for line in by_vendor.values():
        (request,) = line["requests"]
        assert "Hi Ada" in json.dumps(request["body"])
        assert request["rows"] == 1
        assert "TOKEN0001" in json.dumps(request["body"])
    assert by_vendor["huawei"]["requests"][0]["url"] == "https://push-api.cloud.huawei.com/v1/104000001/messages:send"
    assert by_vendor["meizu"]["requests"][0]["body"]["messageJson"]["noticeBarInfo"]["title"] == "Hi Ada"


def test_cuts_are_told_with_field_and_lengths(preview: Any) -> None:
    code, told, _ = preview(
        [{"title": "长" * 60, "body": "b" * 120}], "--json", "--vendor", "xiaomi", "--vendor", "vivo"
    )
    assert code == ExitCode.GOOD
    assert {line["vendor"]: line["cuts"] for line in told["lines"]} == {
        "xiaomi": ["title is cut from 60 to 49 code points"],
        "vivo": ["title is cut from 60 to 20 code points", "body is cut from 120 to 99 code points"],
    }


def test_the_mark_and_whether_texts_are_cut_at_all_are_the_apps(preview: Any, tmp_path: Path) -> None:
    line = {"title": "a" * 60, "body": "b"}
    for section, wanted in (
        ('mark = "..."', "a" * 46 + "..."),
        ('mark = ""', "a" * 49),
        ("enabled = false", "title: title is 60 code points, limit 49 (xiaomi)"),
    ):
        config = tmp_path / "other.toml"
        config.write_text(CONFIG + f"[apps.truncation]\n{section}\n")
        _, told, _ = preview([line], "--json", "--vendor", "xiaomi", "--config", str(config))
        (seen,) = told["lines"]
        assert seen["refused"] == [wanted] if "enabled" in section else wanted in json.dumps(seen["requests"])


def test_lists_and_their_first_steps_are_shown_on_request(preview: Any) -> None:
    _, told, _ = preview([{"title": "t", "body": "b", "category": "marketing"}], "--json", "--rows", "3")
    by_vendor = {line["vendor"]: line["requests"] for line in told["lines"]}
    assert len(by_vendor["fcm"]) == 3
    (huawei,) = by_vendor["huawei"]
    assert huawei["body"]["message"]["token"] == ["TOKEN0001", "TOKEN0002", "TOKEN0003"]
    for vendor, first, second in (
        ("oppo", "save_message_content", "broadcast"),
        ("vivo", "saveListPayload", "pushToList"),
    ):
        (request,) = by_vendor[vendor]
        assert request["url"].endswith(first)
        assert request["then"]["url"].endswith(second)
        assert "NAME_FROM_THE_FIRST_STEP" in json.dumps(request["then"]["body"])
        assert request["rows"] == 3


def test_what_a_vendor_could_never_take_is_said_and_the_others_are_shown(preview: Any) -> None:
    pairs = {f"k{number}": number for number in range(11)}
    lines = [{"title": "t", "body": "b", "data": pairs}, {"title": "t"}]
    code, told, _ = preview(lines, "--json")
    assert code == ExitCode.ROWS_REFUSED
    refused = {line["vendor"]: line["refused"] for line in told["lines"] if line["refused"]}
    assert refused == {"xiaomi": ["data: data has 11 pairs, limit 10 (xiaomi)"]}
    assert told["refused_lines"] == [{"line": 2, "field": "body", "text": "body is required"}]
    assert preview(lines[1:])[2] == "pushgw: line 1: body is required\n"


def test_a_token_as_target_shows_its_vendor_alone_and_never_the_token(preview: Any) -> None:
    code, out, err = preview([{"to": {"vendor": "huawei", "token": "a-real-token"}, "title": "t", "body": "b"}])
    assert code == ExitCode.GOOD
    assert out.startswith("line 1, huawei: POST https://")
    assert "xiaomi" not in out
    assert "a-real-token" not in out + err


def test_an_unknown_vendor_is_a_usage_error(preview: Any) -> None:
    code, _, err = preview([], "--vendor", "apns")
    assert code == ExitCode.USAGE
    assert "no vendor 'apns'" in err
