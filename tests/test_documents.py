"""The documents: links lead somewhere, the Chinese README mirrors the English one, commands are all named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.cli.arguments import parse

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_FOLDERS = "gateway|vendors|tests|bench|docs|configs|examples"
_PATH = re.compile(rf"`((?:{_FOLDERS})/[\w/.-]+)`")


def anchors(text: str) -> set[str]:
    """What a heading is called in a link, as the forges make it."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


def dead_ends(document: Path) -> list[str]:
    text = document.read_text(encoding="utf-8")
    found = []
    for link in _LINK.findall(text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found + [
        path for path in _PATH.findall(text) if not any((folder / path).exists() for folder in (ROOT, document.parent))
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    assert dead_ends(document) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("# One\n[x](#one) [y](#two) [z](b.md) `gateway/nowhere.py` [w](https://example.org)\n")
    assert dead_ends(document) == ["#two", "b.md", "gateway/nowhere.py"]


def outline(name: str) -> list[tuple[str, int, int, list[str]]]:
    """Per section: level and paragraphs that begin bold, rows of tables, and the links."""
    text = (ROOT / name).read_text(encoding="utf-8")
    sections = re.split(r"(?m)^(?=#+ )", text)
    return [
        (
            part.split(" ")[0],
            len(re.findall(r"(?m)^\*\*", part)),
            len(re.findall(r"(?m)^\||^- |^```", part)),
            sorted(link for link in _LINK.findall(part) if not link.startswith("README")),
        )
        for part in sections[1:]
    ]


def test_the_chinese_readme_mirrors_the_english_one() -> None:
    assert outline("README.zh-CN.md") == outline("README.md")


def test_the_readme_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    commands = re.findall(r"(?m)^    ([a-z-]+) ", capsys.readouterr().out)
    assert len(commands) > 15
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        table = "".join(line for line in text.splitlines() if line.startswith("| `"))
        assert [command for command in commands if f"`{command}" not in table] == []
