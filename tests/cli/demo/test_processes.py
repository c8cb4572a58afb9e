"""processes.py: children answer in time or are named; all end on every way out."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.demo.processes import Child, Children, DemoFailed


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the children's path."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def program(folder: Path, text: str) -> list[str]:
    (folder / "a_child.py").write_text(textwrap.dedent(text))
    return ["a_child"]


@pytest.fixture
def children(programs: Path) -> Iterator[Children]:
    with Children(programs) as running:
        yield running


ECHO = """
    import sys
    for line in sys.stdin:
        sys.stdout.write(line)
        sys.stdout.flush()
"""


def is_gone(child: Child) -> bool:
    try:
        os.kill(child.pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_lines_come_back_whole_and_in_order(children: Children, programs: Path) -> None:
    child = children.start("echo", program(programs, ECHO))
    for number in range(3):
        child.write_json({"n": number, "text": "你好\n"})
    assert [child.read_json("an echo", 10)["n"] for _ in range(3)] == [0, 1, 2]
    child.check()


def test_silence_ends_with_the_name_of_what_was_waited_for(children: Children, programs: Path) -> None:
    child = children.start("mute", program(programs, "import sys; sys.stdin.read()"))
    with pytest.raises(DemoFailed, match=r"mute gave no ready line within 0\.2 s"):
        child.read_json("ready line", 0.2)


def test_an_early_end_is_told_with_code_and_last_words(children: Children, programs: Path) -> None:
    child = children.start("crash", program(programs, "import sys; sys.exit('no port left')"))
    with pytest.raises(DemoFailed, match=r"(?s)crash ended before ready line \(exit code 1\).*no port left"):
        child.read_json("ready line", 10)
    with pytest.raises(DemoFailed, match="crash has ended"):
        children.check()


def test_a_line_that_is_no_object_is_told(children: Children, programs: Path) -> None:
    child = children.start("chatty", program(programs, "print('Hello!')\nimport sys; sys.stdin.read()"))
    with pytest.raises(DemoFailed, match=r"something else than ready line: b'Hello!'"):
        child.read_json("ready line", 10)


def test_a_command_for_a_dead_child_is_told(children: Children, programs: Path) -> None:
    child = children.start("gone", program(programs, "pass"))
    child.end(10)
    with pytest.raises(DemoFailed, match="does not take commands"):
        child.write_json({"n": 1})


def test_all_end_on_the_way_out_of_an_error(programs: Path) -> None:
    started: list[Child] = []

    def fail() -> None:
        with Children(programs) as running:
            started.append(running.start("echo", program(programs, ECHO)))
            started[0].write_json({})
            started[0].read_json("an echo", 10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert is_gone(started[0])


def test_one_that_ignores_the_end_is_killed(programs: Path) -> None:
    text = """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("{}", flush=True)
        time.sleep(60)
    """
    with Children(programs) as running:
        child = running.start("stubborn", program(programs, text))
        child.read_json("ready", 10)
        child.ask_to_end()
        child.end(0.2)
    assert is_gone(child)


def test_children_find_the_gateway_wherever_they_are_started(children: Children, programs: Path) -> None:
    text = "import gateway, bench, json; print(json.dumps({'path': gateway.__file__}), flush=True)"
    child = children.start("importer", program(programs, text))
    assert child.read_json("a path", 20)["path"].startswith(str(Path(sys.modules["gateway"].__file__ or "").parent))
