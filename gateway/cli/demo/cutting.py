"""What a receiver should have seen: texts with variables filled in, and how a text may have been cut.

Written apart from core/truncate.py and core/render*.py on purpose: a proof must not share the code it judges.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import regex  # type: ignore[import-untyped]  # ships no types

#: Ends a cut text.
MARK = "…"
_VARIABLE = re.compile(r"\{\{([A-Za-z0-9_.-]{1,64})\}\}")


def filled(text: str, variables: Mapping[str, str] | None) -> str:
    """The text with every `{{name}}` replaced; without variables braces are text."""
    if variables is None:
        return text
    return _VARIABLE.sub(lambda found: variables[found[1]], text)


def digest_of(title: str, body: str) -> str:
    """Hex of sha256(title, one zero byte, body), as receivers report it."""
    return hashlib.sha256(title.encode() + b"\x00" + body.encode()).hexdigest()


def is_cut_of(shown: str, whole: str) -> bool:
    """True when `shown` is a beginning of `whole` that ends at a grapheme boundary, followed by the mark."""
    if not shown.endswith(MARK):
        return False
    beginning = shown.removesuffix(MARK)
    return len(beginning) < len(whole) and whole.startswith(beginning) and is_boundary(whole, len(beginning))


def is_boundary(text: str, at: int) -> bool:
    """Whether a grapheme ends (or begins) at this position; reads the text from its start (UAX 29)."""
    if at in (0, len(text)):
        return True
    end = 0
    for cluster in regex.finditer(r"\X", text):
        end = cluster.end()
        if end >= at:
            break
    return bool(end == at)


def are_intact(shown: tuple[str, str], whole: tuple[str, str]) -> bool:
    """Whether title and body of a row that says it was cut are whole or properly cut, and one of them is cut.

    A body may be gone without a mark only where the title alone was too long for the payload.
    """
    is_cut = [is_cut_of(one, other) for one, other in zip(shown, whole, strict=True)]
    is_whole = [one == other for one, other in zip(shown, whole, strict=True)]
    if is_cut[0] and shown[1] == "":
        return True
    return any(is_cut) and all(cut or same for cut, same in zip(is_cut, is_whole, strict=True))
