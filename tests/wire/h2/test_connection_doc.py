"""docs/http2.md against RFC 9113 and the tree: no section is forgotten, and what the page names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "http2.md").read_text()
#: Sections of RFC 9113 that may ask something of an endpoint: 3 to 10, without those that only introduce others.
#: Chapter.section -> the highest subsection, 0 where there is none.
SUBSECTIONS = {
    **dict.fromkeys(
        ("3.1", "3.2", "3.3", "3.4", "4.1", "4.2", "5.5", "6.1", "6.2", "6.3", "6.4", "6.6", "6.7", "6.8"), 0
    ),
    **dict.fromkeys(("6.7", "6.8", "6.10", "7", "8.5", "8.6", "8.7", "8.8"), 0),
    **dict.fromkeys(("10.1", "10.2", "10.3", "10.4", "10.6", "10.7", "10.8", "10.9"), 0),
    **{"4.3": 1, "5.1": 2, "5.2": 3, "5.3": 2, "5.4": 3, "6.5": 3, "6.9": 3},
    **{"8.1": 1, "8.2": 3, "8.3": 2, "8.4": 2, "9.1": 1, "9.2": 3, "10.5": 2},
}
SECTIONS = set(SUBSECTIONS) | {
    f"{name}.{number}" for name, count in SUBSECTIONS.items() for number in range(1, count + 1)
}
PLACES = ("gateway/wire/h2", "gateway/wire", "gateway/actors", "gateway")
#: What the page calls whole files by.
WORDS = {"laws", "dialogues", "bad days"}


def tables() -> tuple[list[list[str]], list[list[str]]]:
    """(requirements, sections that ask nothing): cells of each row."""
    part = TEXT.partition("## Requirements of RFC 9113")[2].partition("## Intended deviations")[0]
    first, _, second = part.partition("Sections that ask nothing")
    return tuple([_rows(text) for text in (first, second)])  # type: ignore[return-value]


def _rows(text: str) -> list[list[str]]:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    return [row for row in rows if row[0] != "section"]


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_section_stands_in_one_of_the_two_tables() -> None:
    requirements, idle = tables()
    rows = [row for row in (*requirements, *idle) if not row[0].startswith(("HPACK", "-"))]
    found = {name.strip() for row in rows for name in row[0].split(",")}
    assert found == SECTIONS, found ^ SECTIONS
    both = {name.strip() for row in requirements for name in row[0].split(",")} & {
        name.strip() for row in idle for name in row[0].split(",")
    }
    assert both == set()


def test_every_requirement_names_a_place_that_exists() -> None:
    for _, requirement, where, _ in tables()[0]:
        for place in _code(where):
            assert place_exists(place), f"{place} ({requirement})"
        assert _code(where) or where == "all", requirement


def place_exists(place: str) -> bool:
    """`module.name`, `module`, or a path below gateway."""
    if "/" in place:
        return (ROOT / "gateway" / place).exists()
    for folder in PLACES:
        for parts in (1, 2):
            names = place.split(".")
            file = ROOT.joinpath(folder, *names[:parts]).with_suffix(".py")
            rest = names[parts:]
            if file.exists() and all(
                re.search(rf"^\s*(async )?(def|class) {name}\b", file.read_text(), re.M) for name in rest
            ):
                return True
        if ROOT.joinpath(folder, *place.split(".")).is_dir():
            return True
    return False


def test_every_requirement_names_a_test_that_exists() -> None:
    sources = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py")]
    known = set(re.findall(r"^\s*(?:async )?def (test_\w+)", "\n".join(sources), re.M))
    files = {file.name for file in (ROOT / "tests").rglob("test_*.py")}
    for _, requirement, _, how in tables()[0]:
        names = _code(how)
        for name in names:
            assert name in known or name in files or (ROOT / name).exists() or (ROOT / f"{name}.py").exists(), name
        assert names or WORDS & set(re.findall(r"[a-z ]+", how)) or "dialogues" in how, requirement


def test_place_rule_finds_what_is_not_there() -> None:
    assert place_exists("connection.ClientConnection")
    assert place_exists("hpack.decoder")
    assert place_exists("net/tls.py")
    assert not place_exists("connection.conquer")
    assert not place_exists("absent")
