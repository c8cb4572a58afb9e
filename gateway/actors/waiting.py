"""Wait: somebody is told once when everything that was begun for him is done, and whether all of it went well."""

from __future__ import annotations

from collections.abc import Callable


class Wait:
    """Begins with one part. then: called when the last part is done; whether none went wrong."""

    __slots__ = ("_is_good", "_parts", "_then")

    def __init__(self, then: Callable[[bool], None]) -> None:
        self._then = then
        self._parts = 1
        self._is_good = True

    def hold(self) -> None:
        """There is one more part."""
        self._parts += 1

    def done(self, is_good: bool = True) -> None:
        """A part is done."""
        self._is_good &= is_good
        self._parts -= 1
        if not self._parts:
            self._then(self._is_good)
