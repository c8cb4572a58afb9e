"""docs/mqtt.md against the statements of MQTT 5.0 and the tree: none is forgotten, and what the page names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "mqtt.md").read_text()
#: Appendix B of MQTT 5.0: section -> how many statements it has, numbered from 1.
COUNTS = {
    **{"1.5.4": 3, "1.5.5": 1, "1.5.7": 1, "2.1.3": 1, "2.2.2": 1, "3.1.0": 2, "3.1.2": 30, "3.1.3": 12, "3.1.4": 6},
    **{"3.2.0": 2, "3.2.2": 22, "3.3.1": 13, "3.3.2": 20, "3.3.4": 10, "3.4.2": 3, "3.5.2": 3, "3.6.1": 1, "3.6.2": 3},
    **{"3.7.2": 3, "3.8.1": 1, "3.8.3": 5, "3.8.4": 8, "3.9.2": 2, "3.9.3": 2, "3.10.1": 1, "3.10.3": 2, "3.10.4": 6},
    **{"3.11.2": 2, "3.11.3": 2, "3.12.4": 1, "3.14.0": 1, "3.14.1": 1, "3.14.2": 4, "3.14.4": 3, "3.15.1": 1},
    **{"3.15.2": 3, "4.1.0": 2, "4.2": 1, "4.3.1": 1, "4.3.2": 5, "4.3.3": 13, "4.4.0": 2, "4.5.0": 2, "4.6.0": 6},
    **{"4.7.0": 1, "4.7.1": 2, "4.7.2": 1, "4.7.3": 4, "4.8.2": 6, "4.9.0": 3, "4.12.0": 7, "4.12.1": 2, "4.13.1": 1},
    **{"4.13.2": 1, "6.0.0": 4},
}
#: The numbers of 2.2.1 begin with 2.
STATEMENTS = {f"{section}-{number}" for section, count in COUNTS.items() for number in range(1, count + 1)} | {
    f"2.2.1-{number}" for number in range(2, 7)
}
PLACES = ("gateway/wire/mqtt", "gateway/wire", "gateway/actors", "gateway/net", "gateway/core")


def rows(heading: str) -> list[list[str]]:
    """Cells of each row of the table below a heading, its head left out."""
    part = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:2] == "| "]
    assert found, heading
    return found[1:]


def statements(cell: str) -> list[str]:
    return [] if cell == "-" else [name.strip() for name in cell.split(",")]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


HOLDING = "Statements and where they hold"
IDLE = "Statements that ask nothing of this server"


def test_every_statement_of_the_standard_stands_once_in_one_of_the_two_tables() -> None:
    holding = [name for row in rows(HOLDING) for name in statements(row[0])]
    idle = [name for row in rows(IDLE) for name in statements(row[0])]
    assert set(holding) | set(idle) == STATEMENTS, (set(holding) | set(idle)) ^ STATEMENTS
    assert len(holding) + len(idle) == len(STATEMENTS)


def test_every_own_rule_names_the_statements_that_it_touches() -> None:
    for rule, touched, why in rows("Own rules"):
        assert set(statements(touched)) <= STATEMENTS, rule
        assert why, rule


def test_every_statement_names_a_place_that_exists() -> None:
    for _, what, where, _ in rows(HOLDING):
        assert code(where), what
        for place in code(where):
            assert place_exists(place), f"{place} ({what})"


def place_exists(place: str) -> bool:
    """`module`, or `module.name`."""
    module, _, name = place.partition(".")
    for folder in PLACES:
        file = ROOT / folder / f"{module}.py"
        if file.exists() and (not name or re.search(rf"^\s*(async )?(def|class) {name}\b", file.read_text(), re.M)):
            return True
    return False


def test_every_statement_names_a_test_that_exists() -> None:
    sources = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"^\s*(?:async )?def (test_\w+)", sources, re.M))
    known |= set(re.findall(r"^(Test\w+) = ", sources, re.M))
    for _, what, _, how in rows(HOLDING):
        assert code(how), what
        assert set(code(how)) <= known, (what, set(code(how)) - known)


def test_place_rule_finds_what_is_not_there() -> None:
    assert place_exists("in_flight.InFlight")
    assert place_exists("websocket")
    assert not place_exists("in_flight.InSight")
    assert not place_exists("absent")
