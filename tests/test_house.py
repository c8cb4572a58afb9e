"""The house: lock file, Makefile, CI, image and the rule for tools, checked as far as no network is needed."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """Package -> version of the lock file; every line must be an exact pin."""
    found = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.+!-]+)", line)
            assert match, f"requirements.lock: {line!r} is not an exact pin"
            found[canonical(match[1])] = match[2]
    return found


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def test_lock_file_pins_every_dependency_within_its_bounds() -> None:
    locked = pins()
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    wanted += tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for requirement in wanted:
        match = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)", requirement)
        assert match, requirement
        assert canonical(match[1]) in locked, f"{match[1]} is not in requirements.lock; run make lock"
        assert numbers(locked[canonical(match[1])]) >= numbers(match[2]), requirement


def test_lock_file_pins_what_the_dependencies_need_in_turn() -> None:
    locked = pins()
    for name in locked:
        try:
            needs = importlib.metadata.distribution(name).requires or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in needs:
            needed = re.match(r"[\w.-]+", need)
            if needed and ";" not in need:
                assert canonical(needed[0]) in locked, f"{name} needs {needed[0]}"


def test_every_import_of_the_product_is_a_declared_dependency() -> None:
    """What is imported without being named would vanish with the package that happens to bring it."""
    modules = importlib.metadata.packages_distributions()
    extras = {name: named for name, named in PROJECT["optional-dependencies"].items() if name != "dev"}
    named = [*PROJECT["dependencies"], *itertools.chain(*extras.values())]
    declared = {canonical(re.split(r"[\[>]", requirement)[0]) for requirement in named}
    ours = {"gateway", "vendors", "bench"}
    for path in (path for folder in ours for path in (ROOT / folder).rglob("*.py")):
        for name in imported_packages(path.read_text()) - sys.stdlib_module_names - ours:
            packages = {canonical(package) for package in modules.get(name, [])}
            assert packages & declared, f"{path.relative_to(ROOT)} imports {name}"


def imported_packages(text: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def environment_of_make() -> dict[str, str]:
    """Neither the make that runs these tests nor what it was given (PYTHON=...) may speak for the make of a test."""
    settings = re.findall(r"^(?:ifndef )?([A-Z_]+)(?: \?=|$)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {
        key: value
        for key, value in os.environ.items()
        if key not in settings and not key.startswith(("MAKE", "MFLAGS"))
    }


def make(*arguments: str, folder: Path = ROOT) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        env=environment_of_make(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("demo", ".venv/bin/pushgw demo"),
        ("test", ".venv/bin/python -m pytest"),
        ("check", ".venv/bin/mypy"),
        ("check", ".venv/bin/ruff format --check ."),
        ("bench", ".venv/bin/python -m bench core --json"),
    ],
)
def test_make_target_does_its_set_up_and_its_work(target: str, command: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    planned = make("-n", target, folder=tmp_path)
    assert "-m venv .venv" in planned
    assert "pip install" in planned.partition(command)[0]
    assert command in planned


@needs_make
def test_make_install_does_nothing_twice(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    (tmp_path / ".venv" / ".installed").touch()
    assert "pip" not in make("-n", "install", folder=tmp_path)
    os.utime(tmp_path / "requirements.lock", (4e9, 4e9))
    planned = make("-n", "install", folder=tmp_path)
    assert "pip install" in planned
    assert "-m venv" not in planned


def machine_without_venv(folder: Path, user_id: int) -> dict[str, str]:
    """A Debian without python3-venv, as far as the Makefile can see: its python, id and apt-get."""
    programs = {
        "python3": 'case "$*" in *ensure*) [ -e installed ];; *venv*) mkdir -p .venv/bin; : > .venv/bin/python;; esac',
        "id": f"echo {user_id}",
        "apt-get": 'echo "apt-get $*" >> calls; case "$*" in *install*) touch installed;; esac',
    }
    (folder / "bin").mkdir()
    for name, script in programs.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    shutil.copy(ROOT / "Makefile", folder)
    return {
        **environment_of_make(),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "SYSTEM_PYTHON": str(folder / "bin" / "python3"),
    }


def make_venv(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["make", ".venv/bin/python"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@needs_make
def test_make_installs_what_venv_needs_where_it_may(tmp_path: Path) -> None:
    done = make_venv(tmp_path, machine_without_venv(tmp_path, user_id=0))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv" / "bin" / "python").exists()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[1] for call in calls] == ["update", "install"]
    assert calls[1].endswith("python3-venv")


@needs_make
def test_make_says_what_venv_needs_where_it_may_not(tmp_path: Path) -> None:
    done = make_venv(tmp_path, machine_without_venv(tmp_path, user_id=1000))
    assert done.returncode != 0
    assert "sudo apt-get install python3-venv" in done.stderr
    assert not (tmp_path / "calls").exists()
    assert not (tmp_path / ".venv").exists()


@needs_make
@pytest.mark.parametrize(("will_do", "taken"), [(True, "of the system"), (False, "of the path")])
def test_make_takes_the_systems_own_python_where_it_will_do(will_do: bool, taken: str, tmp_path: Path) -> None:
    """Distributions build theirs with profiles; one that is too old, or has no venv, is left alone."""
    environment = machine_without_venv(tmp_path, user_id=1000)
    verdict = "exit 0" if will_do else "exit 1"
    for name, script in [
        (
            "of-the-system",
            f'case "$*" in *version_info*ensure*|*ensure*version_info*) {verdict};; esac; echo of the system >> taken',
        ),
        ("python3", "echo of the path >> taken"),
    ]:
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    environment["SYSTEM_PYTHON"] = str(tmp_path / "bin" / "of-the-system")
    assert make_venv(tmp_path, environment).returncode == 0
    assert set((tmp_path / "taken").read_text().splitlines()) == {taken}


@needs_make
def test_make_test_uses_the_profile_it_is_given() -> None:
    assert "PROFILE=dev " in make("-n", "test")
    assert "PROFILE=ci " in make("-n", "test", "PROFILE=ci")


@needs_make
def test_make_fuzz_prints_the_seed_that_it_uses() -> None:
    planned = make("-n", "fuzz", "FUZZ_EXAMPLES=7")
    seeds = set(re.findall(r"SEED=(\d+)|--hypothesis-seed=(\d+)", planned))
    assert len({seed for pair in seeds for seed in pair if seed}) == 1
    assert "FUZZ_EXAMPLES=7" in planned
    assert "--hypothesis-seed=42" in make("-n", "fuzz", "SEED=42")


def test_ci_checks_and_then_tests_with_all_tools() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    text = script.read_text()
    assert "set -euo pipefail" in text
    commands = [line for line in text.splitlines() if line.startswith(("make", "PUSHGW"))]
    assert commands == ["make check", "PUSHGW_REQUIRE_TOOLS=1 PROFILE=ci make test"]
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)


def test_image_runs_as_nobody_in_particular_and_asks_for_its_own_health() -> None:
    text = (ROOT / "Dockerfile").read_text()
    stages = [line for line in text.splitlines() if line.startswith("FROM")]
    assert len(stages) == 2
    final = text.partition(stages[1])[2]
    assert re.search(r"^USER (?!root|0)\w+", final, re.MULTILINE)
    assert "HEALTHCHECK" in final
    assert "/healthz" in final
    assert 'CMD ["serve", "--config"' in final
    for port in re.findall(r"EXPOSE (.*)", final)[0].split():
        assert re.search(rf":{port}\b", (ROOT / "configs" / "reference.toml").read_text()), port


def test_image_is_built_from_files_that_exist_and_are_let_in() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), name
                assert name.split("/")[0] in allowed, name


def run_pytest(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest over one test that needs a tool nobody has, with our conftest and our markers."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "conftest.py")
    shutil.copy(ROOT / "pyproject.toml", folder / "pyproject.toml")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_tool.py").write_text(
        "import pytest\n"
        '@pytest.mark.needs_tools("no-such-tool")\n'
        "def test_with_tool() -> None: pass\n"
        '@pytest.mark.needs_tools("sh")\n'
        "def test_with_shell() -> None: pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, "tests"]
    plain = {key: value for key, value in os.environ.items() if key not in ("PUSHGW_REQUIRE_TOOLS", "PROFILE")}
    return subprocess.run(
        command, cwd=folder, env={**plain, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "several"])
def test_test_without_its_tool_is_skipped_and_listed_at_the_end(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run_pytest(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    summary = done.stdout.partition("skipped for want of tools")[2]
    assert "tests/test_tool.py::test_with_tool: needs the tools no-such-tool" in summary


def test_test_without_its_tool_fails_where_tools_are_required(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, PUSHGW_REQUIRE_TOOLS="1", PROFILE="ci")
    assert done.returncode == 1
    assert "needs the tools no-such-tool, and PUSHGW_REQUIRE_TOOLS=1 is set" in done.stdout
    assert "profile ci" in done.stdout


def test_license_is_the_one_that_the_project_declares() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
