"""output.py: what goes to stdout, what to stderr, and how values look."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from gateway.cli.output import Output, StdoutFull, counted, flat, moment, readable, shown


def test_tables_go_to_stdout_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table("rows", ["state", "n"], [("held", 12345)], numbers=[1])
    captured = capsys.readouterr()
    assert "held" in captured.out
    assert "12,345" in captured.out
    assert captured.err == ""


def test_with_json_stdout_holds_json_lines_only(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(is_json=True)
    output.progress("starting")
    output.table("rows", ["state"], [("held",)])
    output.facts("status", {"lanes": [{"vendor": "apns"}]})
    output.say("done")
    output.error("wrong\ntwice")
    output.document({"text": "你好", "n": 1})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"text": "你好", "n": 1}
    assert captured.out.count("\n") == 1
    for text in ("starting", "held", "apns", "done", "pushgw: wrong", "pushgw: twice"):
        assert text in captured.err


def test_documents_are_for_machines_only(capsys: pytest.CaptureFixture[str]) -> None:
    Output().document({"n": 1})
    assert capsys.readouterr().out == ""


def test_texts_of_users_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.table("[bold]t[/bold]", ["[red]c"], [("[link=x]y[/link] :smile:",)])
    output.error("[nothing]")
    captured = capsys.readouterr()
    for text in ("[bold]t[/bold]", "[red]c", "[link=x]y[/link] :smile:"):
        assert text in captured.out
    assert "[nothing]" in captured.err


def test_a_line_to_copy_is_never_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    Output().text("x" * 500)
    assert capsys.readouterr().out == "x" * 500 + "\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), ("", "-"), (0, "0"), (True, "yes"), (False, "no"), (1234567, "1,234,567"), (1234.56, "1,234.6")],
)
def test_cells_read_well(value: object, text: str) -> None:
    assert shown(value) == text


def test_points_in_time_are_dates_and_bytes_are_hex() -> None:
    assert readable("now_unix_ms", 1_795_304_786_139) == "2026-11-21 23:46:26.139 UTC"
    assert readable("proven_unix_s", 1_795_304_786) == "2026-11-21 23:46:26.000 UTC"
    assert readable("proven_unix_s", 0) is None
    assert readable("device_id", b"\x01\xff") == "01ff"
    assert shown(readable("pid", 17_752)) == "17752"
    assert moment(1 << 62) == str(1 << 62)


def test_nested_facts_get_dotted_names() -> None:
    facts = {"rows": {"held": 1, "by": {"apns": 2}}, "empty": {}, "names": ["a", "b"]}
    assert flat(facts) == [("rows.held", 1), ("rows.by.apns", 2), ("empty", ""), ("names", "a, b")]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_any_answer_of_the_gateway_can_be_shown(value: object) -> None:
    for name, cell in flat({"fact_unix_ms": value, "fact": value}):
        assert isinstance(name, str)
        assert isinstance(shown(cell), str)


@contextlib.contextmanager
def stdout_into(stream: TextIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        yield
    # What could not be written must not be tried again when the file is closed.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    stream.close()


@pytest.mark.parametrize("how", ["table", "say", "text", "document"])
def test_a_reader_that_leaves_is_no_fault_and_a_full_disk_is_named(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """rich would end the process with code 1, which says that rows were lost."""
    ways: dict[str, Callable[[Output], None]] = {
        "table": lambda output: output.table("", ["c"], [("x",)]),
        "say": lambda output: output.say("x"),
        "text": lambda output: output.text("x"),
        "document": lambda output: output.document({"x": 1}),
    }
    reading, writing = os.pipe()
    os.close(reading)
    with stdout_into(os.fdopen(writing, "w"), monkeypatch), pytest.raises(BrokenPipeError):
        ways[how](Output(is_json=how == "document"))
    full = open("/dev/full", "w")  # noqa: SIM115 - closed below
    with stdout_into(full, monkeypatch), pytest.raises(StdoutFull, match="No space left"):
        ways[how](Output(is_json=how == "document"))


def test_one_is_one() -> None:
    assert [counted(n, "row") for n in (0, 1, 1000)] == ["0 rows", "1 row", "1,000 rows"]


def test_a_date_has_no_unit_above_it(capsys: pytest.CaptureFixture[str]) -> None:
    Output().facts("device", {"since_unix_s": 1_795_304_786, "messages": [{"submitted_unix_ms": 1_795_304_786_139}]})
    shown = capsys.readouterr().out
    assert "unix" not in shown
    assert "since" in shown
    assert "submitted" in shown
    assert "2026-11-21 23:46:26.139 UTC" in shown


def test_columns_stay_aligned_under_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table("", ["text", "n"], [("你好，世界", 1), ("👋🏽 hello", 2), ("plain", 3)], numbers=[1])
    lines = capsys.readouterr().out.splitlines()
    assert len({cell_len(line) for line in lines}) == 1
