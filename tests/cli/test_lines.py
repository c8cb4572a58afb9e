"""lines.py: rows go through, faults are put aside, everything is counted."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.exit_codes import UsageError
from gateway.cli.lines import LISTED_MAX, LineReader, open_lines, read_content

GOOD = json.dumps({"title": "t", "body": "b"}).encode()


def addressed(n: int) -> bytes:
    return json.dumps({"to": [f"{k:032x}" for k in range(1, n + 1)], "title": "t", "body": "b"}).encode()


@given(st.lists(st.one_of(st.integers(1, 4).map(addressed), st.sampled_from([b"", b"  ", b"{", b"[]", GOOD]))))
def test_rows_and_faults_add_up_to_what_the_file_holds(lines: list[bytes]) -> None:
    reader = LineReader(lines)
    rows = list(reader.rows())
    n_good = sum(line.count(b"00000") and len(json.loads(line)["to"]) for line in lines)
    n_bad = sum(1 for line in lines if line.strip() and b'"to"' not in line)
    assert (len(rows), reader.n_faults, reader.n_rows) == (n_good, n_bad, n_good + n_bad)
    assert [fault.line for fault in reader.faults] == [
        number for number, line in enumerate(lines, 1) if line.strip() and b'"to"' not in line
    ]


def test_lines_without_a_target_take_turns() -> None:
    first, second = bytes(16), bytes([1] * 16)
    reader = LineReader([GOOD, addressed(2), GOOD, b"{", GOOD], default_to=cycle([first, second]))
    targets = [row.target for row in reader.rows()]
    assert targets == [first, bytes.fromhex(f"{1:032x}"), bytes.fromhex(f"{2:032x}"), second, first]


def test_faults_beyond_the_limit_are_counted_and_not_kept() -> None:
    reader = LineReader([b"{"] * (LISTED_MAX + 1))
    assert list(reader.rows()) == []
    assert (reader.n_faults, len(reader.faults)) == (LISTED_MAX + 1, LISTED_MAX)


def test_a_file_is_closed_and_a_missing_one_is_a_wrong_usage(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(GOOD)
    with open_lines(str(file)) as stream:
        assert stream.read() == GOOD
    assert stream.closed
    with pytest.raises(UsageError, match="Is a directory"), open_lines(str(tmp_path)):
        pass


def test_one_notification_may_be_written_over_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "sorry.json"
    file.write_text('{\n  "title": "Correction",\n  "data": {\n"a": "b"\n},\n  "body": "b"\n}\n')
    content = read_content(str(file), "that replaces others")
    assert (content.title, content.data) == ("Correction", {"a": "b"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty, expected one notification that replaces others"),
        ('{"title": "t", "body": "b"}\n{"title": "u", "body": "b"}\n', "has several notifications, expected one"),
        ('{"title": "t", "body": "b", "to": "' + "0" * 31 + '1"}', "has neither `to` nor `vars`"),
        ('{"title": "{{x}}", "body": "b", "vars": {"x": "1"}}', "has neither `to` nor `vars`"),
        ("{", "not JSON: Input data was truncated"),
        ("}", r"not JSON: invalid character \(byte 0\)"),
        ('{"titel": "t"}', "unknown key 'titel'"),
    ],
)
def test_what_is_not_one_notification_is_refused_with_its_file(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "sorry.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=f"sorry.json: .*{told}"):
        read_content(str(file), "that replaces others")
