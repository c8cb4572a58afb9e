"""What both SMS simulators share: telephone numbers and how often one may get a text. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.simulators.rate import DeviceWindow

MAINLAND_FORM = re.compile(r"1[3-9][0-9]{9}")
FOREIGN_FORM = re.compile(r"[1-9][0-9]{6,14}")
URL_FORM = re.compile(r"https?://|www\.", re.IGNORECASE)


class Frequency:
    """At most so many texts to a number in each window; a window without limit is left out.

    windows: (name, seconds, limit); the name is given back when that one is full.
    """

    def __init__(self, windows: Sequence[tuple[str, float, int]]) -> None:
        self._setting = windows
        self.reset()

    def reset(self) -> None:
        """No number has had a text."""
        self._windows = [(name, DeviceWindow(limit, seconds)) for name, seconds, limit in self._setting]

    def take(self, number: str, now: float) -> str:
        """The name of the first full window; empty when this text may go, which counts it in all of them."""
        for name, window in self._windows:
            if window.take(number, now) > 0:
                return name
        return ""


def mainland(number: str) -> str | None:
    """The eleven digits of a mainland number, written with or without its country code; None for any other."""
    for prefix in ("+86", "0086", "86", ""):
        rest = number.removeprefix(prefix)
        if number.startswith(prefix) and MAINLAND_FORM.fullmatch(rest):
            return rest
    return None


def is_number(number: str) -> bool:
    """Whether this is a mainland number, or a foreign one with its country code."""
    return mainland(number) is not None or bool(FOREIGN_FORM.fullmatch(number.removeprefix("+").removeprefix("00")))
