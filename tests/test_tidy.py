"""The house rules as tests (STYLE.md, DESIGN.md section 9). A rule without a check is an opinion.

Each rule is a function from sources to faults, one test that finds none in the tree, and one that proves it can fail.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 80
_SKIPPED_FOLDERS = {".git", ".venv", "build", "dist", "run", "__pycache__"}


@functools.cache
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


def teardown_module() -> None:
    """A million nodes would be gone through by every collection of garbage in the tests that come behind."""
    _parse.cache_clear()


class Source(NamedTuple):
    """A Python file: its path in the tree and its text."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return _parse(self.text)


def tracked() -> list[str]:
    """Files of the project: what git knows or would add; without git, what is not generated."""
    try:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=30).stdout.decode()
        names = [name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
    hidden = (".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis")
    return sorted(
        name
        for name in names
        if (ROOT / name).is_file()
        and not set(Path(name).parts) & _SKIPPED_FOLDERS
        and not name.startswith(hidden)
        and ".egg-info" not in name
    )


FILES = tracked()


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


SOURCES = [Source(name, read(name)) for name in FILES if name.endswith(".py")]
PRODUCT = [source for source in SOURCES if source.path.startswith(("gateway/", "vendors/"))]
CODE = [source for source in SOURCES if source.path.startswith(("gateway/", "vendors/", "bench/"))]


def layer(path: str) -> str:
    """The layer of a file, by DESIGN.md section 9."""
    parts = Path(path).with_suffix("").parts
    if parts[0] == "vendors":
        return "vendors"
    if parts[0] == "bench":
        return f"bench/{parts[1]}" if len(parts) > 1 and parts[1] in ("simulators", "devices") else "bench"
    if parts[0] != "gateway":
        return "outside"
    if len(parts) == 2:
        return "app" if re.match(r"(__main__|app|config|cli)(_|$)", parts[1]) else "words"
    if parts[1] == "wire":
        return "wire/" + (parts[2] if len(parts) > 2 else "__init__")
    return "app" if parts[1] in ("app", "cli") else parts[1]


#: layer -> layers it may import besides itself; patterns. Inside wire a protocol may use the codec it is built on.
EDGES: dict[str, tuple[str, ...]] = {
    "words": (),
    "core": ("words",),
    "wire/h2": ("words", "wire/hpack"),
    "wire/worker_link": ("words", "wire/rpc"),
    "wire/http1": ("words", "wire/h2"),  # lanes hear of both in the same events
    "wire/*": ("words",),
    "vendors": ("words",),
    "observe": ("words",),
    "store": ("words", "observe"),
    "net": ("words", "wire/*", "observe"),
    "actors": ("words", "core", "wire/*", "vendors", "store", "net", "observe"),
    "api": ("words", "core", "wire/*", "vendors", "store", "net", "observe"),
    "client": ("words", "wire/rpc"),
    "app": ("words", "core", "wire/*", "vendors", "store", "net", "observe", "actors", "api", "client"),
    "bench": ("*",),
    "bench/simulators": (),
    "bench/devices": (),
}


def may_import(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    rule = next((EDGES[pattern] for pattern in EDGES if fnmatch.fnmatchcase(importer, pattern)), ())
    return any(fnmatch.fnmatchcase(imported, pattern) for pattern in rule)


def imported_modules(source: Source) -> Iterator[tuple[int, str]]:
    """Absolute names of everything a file imports anywhere, `from a import b` as a.b."""
    package = list(Path(source.path).parent.parts)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *([node.module] if node.module else []), alias.name])


def imported_layer(module: str, known: set[str]) -> str | None:
    """The layer of an imported name of ours; None for a library. known: paths of all Python files."""
    parts = module.split(".")
    if parts[0] not in ("gateway", "vendors", "bench"):
        return None
    for length in range(len(parts), 0, -1):
        path = "/".join(parts[:length])
        for candidate in (f"{path}.py", f"{path}/__init__.py"):
            if candidate in known:
                return layer(candidate)
    return layer("/".join(parts) + ".py")


def edge_faults(sources: list[Source]) -> list[str]:
    known = {source.path for source in SOURCES} | {source.path for source in sources}
    faults = []
    for source, here in ((one, layer(one.path)) for one in sources if layer(one.path) != "outside"):
        for line, module in imported_modules(source):
            there = imported_layer(module, known)
            if there is not None and not may_import(here, there):
                faults.append(f"{source.path}:{line}: {here} imports {there} ({module})")
    return faults


def test_imports_point_down_only() -> None:
    assert edge_faults(SOURCES) == []


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("gateway/batch.py", "from gateway.core import devices"),
        ("gateway/core/lane.py", "import gateway.wire.h2"),
        ("gateway/core/lane.py", "from gateway.observe.metrics import Metrics"),
        ("gateway/wire/mqtt/packets.py", "from gateway.wire.h2 import frames"),
        ("gateway/wire/hpack/decoder.py", "from gateway.wire.h2 import frames"),
        ("gateway/wire/rpc/frames.py", "from ...core import devices"),
        ("vendors/apns.py", "def f():\n    from gateway.core import truncate"),
        ("gateway/store/inbox.py", "from gateway.core import wheel"),
        ("gateway/actors/lane.py", "from gateway.config import Config"),
        ("gateway/actors/lane.py", "from gateway import config"),
        ("gateway/api/health.py", "from gateway.actors import lane"),
        ("gateway/client/blocking.py", "from gateway.wire.mqtt import packets"),
        ("gateway/observe/log.py", "from gateway.actors import lane"),
        ("gateway/app.py", "import bench.simulators"),
        ("bench/simulators/apns.py", "import vendors.apns"),
        ("bench/devices/fleet.py", "from gateway import columns"),
    ],
)
def test_import_rule_finds_an_edge_that_points_up(path: str, statement: str) -> None:
    assert len(edge_faults([Source(path, statement)])) == 1


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("gateway/wire/h2/connection.py", "from gateway.wire.hpack import decoder"),
        ("gateway/core/lane.py", "from gateway.columns import U8"),
        ("gateway/actors/lane.py", "from gateway import errors"),
        ("gateway/app.py", "from gateway.actors import lane"),
        ("bench/core.py", "from gateway.core import devices"),
        ("tests/test_x.py", "from gateway.app import App"),
    ],
)
def test_import_rule_lets_an_edge_that_points_down_pass(path: str, statement: str) -> None:
    assert edge_faults([Source(path, statement)]) == []


# core and wire decide; they have no clock, no chance and no I/O

_IMPURE = {
    *("trio", "anyio", "asyncio", "socket", "select", "selectors", "ssl", "threading", "subprocess", "os", "signal"),
    *("time", "random", "secrets", "httpx", "logging"),
}


def impurity_faults(sources: list[Source]) -> list[str]:
    faults = []
    for source in sources:
        if not layer(source.path).startswith(("core", "wire/")):
            continue
        for line, module in imported_modules(source):
            if module.split(".")[0] in _IMPURE:
                faults.append(f"{source.path}:{line}: imports {module}")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute):
                text = ast.unparse(node)
                if text in ("np.random", "numpy.random", "datetime.now", "datetime.utcnow", "datetime.datetime.now"):
                    faults.append(f"{source.path}:{node.lineno}: uses {text}")
            elif isinstance(node, ast.AsyncFunctionDef | ast.Await):
                faults.append(f"{source.path}:{node.lineno}: is async")
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "open":
                faults.append(f"{source.path}:{node.lineno}: opens a file")
    return faults


def test_core_and_wire_have_no_clock_no_chance_and_no_io() -> None:
    assert impurity_faults(SOURCES) == []


@pytest.mark.parametrize(
    "text",
    [
        *(
            "import time",
            "from time import monotonic",
            "import trio.lowlevel",
            "import socket",
            "from os import urandom",
        ),
        *("async def f(): pass", "x = np.random.default_rng()", "now = datetime.now()", "open('x')", "import random"),
    ],
)
def test_purity_rule_finds_clock_chance_and_io(text: str) -> None:
    assert impurity_faults([Source("gateway/core/x.py", text)])
    assert impurity_faults([Source("gateway/wire/rpc/x.py", text)])
    assert impurity_faults([Source("gateway/actors/x.py", text)]) == []


# names

_BANNED_NAME = re.compile(r"(Manager|Helper|Handler|Util|Utils)(?=[A-Z_0-9]|$)")
_BANNED_FILES = re.compile(r"(^|/)(utils?|helpers?|common|misc)\.py$")


def name_faults(sources: list[Source]) -> list[str]:
    faults = [
        f"{source.path}: a file of this name says nothing" for source in sources if _BANNED_FILES.search(source.path)
    ]
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef) and _BANNED_NAME.search(node.name):
                faults.append(f"{source.path}:{node.lineno}: class {node.name}")
    return faults


def test_names_say_what_a_thing_is() -> None:
    assert name_faults(SOURCES) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("gateway/x.py", "class LaneManager: pass"),
        ("gateway/x.py", "class HandlerOfThings: pass"),
        ("gateway/x.py", "def f():\n    class TokenUtil: pass"),
        ("gateway/core/utils.py", ""),
        ("bench/helpers.py", ""),
    ],
)
def test_name_rule_finds_empty_names(path: str, text: str) -> None:
    assert len(name_faults([Source(path, text)])) == 1


def test_name_rule_lets_whole_words_pass() -> None:
    assert name_faults([Source("gateway/x.py", "class Utilisation: pass\nclass Handlers2Go: pass")]) == []


# errors and output


def broad_except_faults(sources: list[Source]) -> list[str]:
    """`except Exception` and the bare one; BaseException may be caught by whoever raises again."""
    faults = []
    for source in sources:
        if source.path.endswith("/supervisor.py"):
            continue
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = (
                [] if node.type is None else [ast.unparse(n) for n in ast.walk(node.type) if isinstance(n, ast.expr)]
            )
            raises_again = any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
            if node.type is None or "Exception" in caught or ("BaseException" in caught and not raises_again):
                faults.append(f"{source.path}:{node.lineno}: catches everything")
    return faults


def test_only_the_supervisor_catches_everything() -> None:
    assert broad_except_faults(CODE) == []


@pytest.mark.parametrize(
    "caught",
    [
        "except Exception:",
        "except:",
        "except (OSError, Exception) as e:",
        "except* Exception:",
        "except BaseException:",
    ],
)
def test_except_rule_finds_a_catch_of_everything(caught: str) -> None:
    text = f"try:\n    f()\n{caught}\n    pass"
    assert len(broad_except_faults([Source("gateway/actors/lane.py", text)])) == 1
    assert broad_except_faults([Source("gateway/actors/supervisor.py", text)]) == []


def test_except_rule_lets_clean_up_and_named_errors_pass() -> None:
    text = "try:\n    f()\nexcept OSError:\n    pass\nexcept BaseException:\n    g()\n    raise"
    assert broad_except_faults([Source("gateway/x.py", text)]) == []


def print_faults(sources: list[Source]) -> list[str]:
    return [
        f"{source.path}:{node.lineno}: prints"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "pprint", "pprint.pprint", "breakpoint")
    ]


def test_nothing_prints() -> None:
    assert print_faults(PRODUCT) == []


def test_print_rule_finds_a_print() -> None:
    assert len(print_faults([Source("gateway/x.py", "def f():\n    print(1)")])) == 1


_OPEN_END = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b[\s:(]*([^)\n]*)")


def open_end_faults(sources: list[Source], known_gaps: str) -> list[str]:
    """A comment `TODO: words` needs a line in docs/known-gaps.md that holds the same words."""
    faults = []
    # Words are found in a text for a hundredth of what cutting it into tokens costs.
    for source in (one for one in sources if _OPEN_END.search(one.text)):
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            match = _OPEN_END.search(token.string) if token.type == tokenize.COMMENT else None
            if match and (not match[2].strip() or match[2].strip() not in known_gaps):
                faults.append(f"{source.path}:{token.start[0]}: {match[0].strip()}")
    return faults


def test_every_open_end_stands_in_known_gaps() -> None:
    gaps = ROOT / "docs" / "known-gaps.md"
    assert open_end_faults(SOURCES, gaps.read_text(encoding="utf-8") if gaps.exists() else "") == []


def test_open_end_rule_finds_what_is_not_written_down() -> None:
    source = Source("gateway/x.py", "x = 1  # " + "TODO: count leaves\n")
    assert len(open_end_faults([source], "nothing")) == 1
    assert open_end_faults([source], "- count leaves: later") == []
    assert len(open_end_faults([Source("gateway/x.py", "# " + "FIXME\n")], "anything")) == 1


# sizes and docstrings


def size_faults(sources: list[Source]) -> list[str]:
    faults = []
    for source in sources:
        n_lines = source.text.count("\n")
        first_line = (ast.get_docstring(source.tree) or "").partition("\n")[0]
        if n_lines > FILE_LINES_MAX and "long because" not in first_line:
            faults.append(f"{source.path}: {n_lines} lines, limit {FILE_LINES_MAX}")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_MAX:
                    faults.append(
                        f"{source.path}:{node.lineno}: {node.name} has {length} lines, limit {FUNCTION_LINES_MAX}"
                    )
    return faults


def test_files_and_functions_fit_a_screen_and_a_sitting() -> None:
    assert size_faults(SOURCES) == []


def test_size_rule_finds_what_is_too_long() -> None:
    body = "    x = 1\n" * FUNCTION_LINES_MAX
    assert len(size_faults([Source("gateway/x.py", f"def f():\n{body}")])) == 1
    long_file = "x = 1\n" * (FILE_LINES_MAX + 1)
    assert len(size_faults([Source("gateway/x.py", long_file)])) == 1
    assert size_faults([Source("gateway/x.py", '"""A table, long because it is one."""\n' + long_file)]) == []


def docstring_faults(sources: list[Source]) -> list[str]:
    return [
        f"{source.path}: says not what it is"
        for source in sources
        if source.text.strip() and not (ast.get_docstring(source.tree) or "").strip()
    ]


def test_every_module_says_what_it_is() -> None:
    assert docstring_faults(SOURCES) == []


def test_docstring_rule_finds_a_silent_module() -> None:
    assert len(docstring_faults([Source("gateway/x.py", "x = 1")])) == 1
    assert docstring_faults([Source("gateway/__init__.py", "")]) == []


# vendor files


def citation_faults(sources: list[Source]) -> list[str]:
    """Each vendor file names its source (a page or a fact sheet) and when it was read."""
    faults = []
    for source in sources:
        if re.fullmatch(r"vendors/(?!__init__)\w+\.py", source.path):
            text = ast.get_docstring(source.tree) or ""
            if not re.search(r"https://\S+|facts/\S+\.md|RFC \d+", text):
                faults.append(f"{source.path}: cites no source")
            if not re.search(r"\b20\d\d-\d\d", text) and not re.search(r"RFC \d+", text):
                faults.append(f"{source.path}: does not say when the source was read")
    return faults


def test_each_vendor_file_cites_its_source() -> None:
    assert citation_faults(SOURCES) == []


def test_citation_rule_finds_a_vendor_file_without_source_or_date() -> None:
    assert len(citation_faults([Source("vendors/x.py", '"""A vendor."""')])) == 2
    assert len(citation_faults([Source("vendors/x.py", '"""Source: https://vendor.example/push"""')])) == 1
    assert citation_faults([Source("vendors/x.py", '"""Source: https://vendor.example/push, 2026-08."""')]) == []


# what may not stand in any file

#: Written in pieces, so that this file passes its own rule.
_PATHS = re.compile(
    r"(?<![\w.])/(" + "|".join(["wo" + "rk", "ho" + "me", "Us" + "ers", "ro" + "ot"]) + r")/[A-Za-z0-9_.]"
)
_HOSTS = re.compile(
    r"\b("
    + "|".join(
        [
            "pypi" + r"\.org",
            "pythonhosted" + r"\.org",
            "registry" + r"\.npmjs",
            "proxy" + r"\.golang",
            "docker" + r"\.io",
        ]
    )
    + r")\b|--(extra-)?index"
    + "-url|--find"
    + "-links",
    re.IGNORECASE,
)


def place_faults(files: list[tuple[str, str]]) -> list[str]:
    """Paths of one machine and hosts that serve downloads have no place in the tree."""
    return [
        f"{name}:{number}: {match[0]}"
        for name, text in files
        for number, line in enumerate(text.splitlines(), 1)
        for match in [_PATHS.search(line) or _HOSTS.search(line)]
        if match
    ]


def texts() -> list[tuple[str, str]]:
    found = []
    for name in FILES:
        try:
            found.append((name, read(name)))
        except UnicodeDecodeError:
            continue
    return found


def test_no_file_names_a_machine_or_a_download_host() -> None:
    assert place_faults(texts()) == []


@pytest.mark.parametrize(
    "line",
    [
        "see /" + "work/main/x",
        "cd /" + "home/me/x",
        "https://" + "pypi" + ".org/simple",
        "pip install --index" + "-url x",
    ],
)
def test_place_rule_finds_machines_and_hosts(line: str) -> None:
    assert len(place_faults([("x.md", line)])) == 1
    harmless = "/var/lib/pushgw, /etc/pushgw, tests/" + "work/x, https://developer.apple.com"
    assert place_faults([("x.md", harmless)]) == []


# the files we ship for others


def readme_commands(text: str) -> set[tuple[str, str]]:
    """(program, word) of each command in the code blocks and code spans of a document."""
    code = re.findall(r"```(?:\w*)\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    found = set()
    for line in (line.strip().removeprefix("$ ") for block in code for line in block.splitlines()):
        if match := re.match(r"(?:[A-Z_]+=\S+ )*(?:\S*/)?(make|pushgw|python -m bench) ([a-z][\w-]*)", line):
            found.add((match[1], match[2]))
    return found


def command_faults(commands: set[tuple[str, str]], targets: set[str], pushgw: str, benches: set[str]) -> list[str]:
    known = {
        "make": targets.__contains__,
        "python -m bench": benches.__contains__,
        "pushgw": lambda word: re.search(rf"[\"']{re.escape(word)}[\"']", pushgw) is not None,
    }
    return [f"{program} {word}" for program, word in sorted(commands) if not known[program](word)]


def test_commands_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    pushgw = "".join(s.text for s in SOURCES if re.match(r"gateway/(__main__|cli)", s.path))
    benches = {Path(name).stem for name in FILES if re.fullmatch(r"bench/\w+\.py", name)}
    documents = [name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md") if name in FILES]
    commands = set().union(*(readme_commands(read(name)) for name in documents))
    assert command_faults(commands, targets, pushgw, benches) == []


def test_command_rule_finds_a_command_that_does_not_exist() -> None:
    text = "```sh\n$ make demo\npushgw submit x\n.venv/bin/pushgw fly\n```\nor `PROFILE=ci make tset`"
    commands = readme_commands(text)
    assert commands == {("make", "demo"), ("pushgw", "submit"), ("pushgw", "fly"), ("make", "tset")}
    assert command_faults(commands, {"demo", "test"}, 'add("submit")', set()) == ["make tset", "pushgw fly"]


def link_faults(name: str, text: str) -> list[str]:
    """Relative links of a Markdown file whose target is not there."""
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    return [f"{name}: {target}" for target in targets if not (ROOT / name).parent.joinpath(target).exists()]


def test_links_between_documents_lead_somewhere() -> None:
    assert [fault for name in FILES if name.endswith(".md") for fault in link_faults(name, read(name))] == []


def test_link_rule_finds_a_dead_link() -> None:
    assert link_faults("docs/x.md", "[a](absent.md) [b](https://x) [c](#y)") == ["docs/x.md: absent.md"]


def mirror_faults(tests: list[str], sources: set[str]) -> list[str]:
    """tests/core/test_wheel.py belongs to gateway/core/wheel.py (or wheel_*.py, or a package wheel/)."""
    faults = []
    for name in tests:
        match = re.fullmatch(r"tests/(core|store|observe|api)/test_(\w+)\.py", name)
        if match and not any(
            re.match(rf"gateway/{match[1]}/{_stem(match[2])}(_\w+)?(\.py|/)", path) for path in sources
        ):
            faults.append(name)
    return faults


def _stem(words: str) -> str:
    """`wheel_far_deadlines` may belong to wheel.py: any leading run of its words."""
    parts = words.split("_")
    return "(" + "|".join("_".join(parts[:length]) for length in range(len(parts), 0, -1)) + ")"


def test_tests_mirror_the_tree() -> None:
    assert mirror_faults(FILES, {source.path for source in SOURCES}) == []


def test_mirror_rule_finds_a_test_of_nothing() -> None:
    names = ["tests/core/test_wheel.py", "tests/core/test_wheel_far.py", "tests/core/test_absent.py"]
    assert mirror_faults(names, {"gateway/core/wheel.py"}) == ["tests/core/test_absent.py"]
