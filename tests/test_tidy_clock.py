"""A house rule as a test: who relies on the jumping clock asks for it by name.

pytest-trio gives a test the clock among its own arguments and looks no further. A test that gets it through a fixture
alone runs on the real clock, passes, and waits for every timer in real time.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from pathlib import Path, PurePath

ROOT = Path(__file__).parent
CLOCK = "autojump_clock"

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def _functions(text: str) -> list[_Function]:
    """Of a module, and of its classes: what pytest finds."""
    top = ast.parse(text).body
    inner = [node for each in top if isinstance(each, ast.ClassDef) for node in each.body]
    return [node for node in (*top, *inner) if isinstance(node, _Function)]


def _arguments(function: _Function) -> list[str]:
    return [each.arg for each in (*function.args.args, *function.args.kwonlyargs)]


def _is_fixture(function: _Function) -> bool:
    return any("fixture" in ast.unparse(each) for each in function.decorator_list)


def _places(path: str, files: Mapping[str, str]) -> list[str]:
    """Where the fixtures that this file sees may stand: conftest.py from the top down, then itself."""
    above = (str(folder / "conftest.py") for folder in reversed(PurePath(path).parents))
    return [place for place in (*above, path) if place in files]


def _fixtures_of(path: str, files: Mapping[str, str]) -> dict[str, list[str]]:
    """What each of them asks for."""
    return {
        function.name: _arguments(function)
        for place in _places(path, files)
        for function in _functions(files[place])
        if _is_fixture(function)
    }


def _reaches_the_clock(names: list[str], fixtures: Mapping[str, list[str]], seen: frozenset[str] = frozenset()) -> bool:
    return CLOCK in names or any(
        _reaches_the_clock(fixtures[name], fixtures, seen | {name})
        for name in names
        if name in fixtures and name not in seen
    )


def clock_faults(files: Mapping[str, str]) -> list[str]:
    """files: text by path."""
    faults = []
    for path in files:
        if not PurePath(path).name.startswith("test_"):
            continue
        if not any(CLOCK in files[place] and "fixture" in files[place] for place in _places(path, files)):
            continue  # most files: to parse them all takes seconds
        fixtures = _fixtures_of(path, files)
        for function in _functions(files[path]):
            names = _arguments(function)
            if (
                isinstance(function, ast.AsyncFunctionDef)
                and function.name.startswith("test_")
                and CLOCK not in names
                and _reaches_the_clock(names, fixtures)
            ):
                faults.append(f"{path}:{function.lineno}: {function.name} does not ask for {CLOCK}")
    return faults


def test_who_relies_on_the_jumping_clock_asks_for_it() -> None:
    names = [*ROOT.rglob("test_*.py"), *ROOT.rglob("conftest.py")]
    files = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in names}
    assert clock_faults(files) == []


def test_clock_rule_finds_a_test_that_gets_the_clock_through_fixtures_alone() -> None:
    conftest = f"@pytest.fixture\ndef world({CLOCK}): ...\n\n@pytest.fixture\ndef town(world): ...\n"
    files = {
        "conftest.py": conftest,
        "core/test_waits.py": "async def test_a(town): ...\n",
        "core/test_asks.py": f"async def test_b(town, {CLOCK}): ...\n",
        "core/test_own.py": "@pytest.fixture\ndef town(): ...\n\nasync def test_c(town): ...\n",
        "core/test_plain.py": "def test_d(town): ...\n",
    }
    assert clock_faults(files) == ["core/test_waits.py:1: test_a does not ask for autojump_clock"]
