"""The ownership epoch of a store: who wrote last, and who has lost the right to."""

from __future__ import annotations

from gateway.batch import OwnershipEpoch
from gateway.errors import StaleEpoch


class NewestEpoch:
    """The newest epoch seen; older writers are refused."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def check(self, epoch: OwnershipEpoch) -> None:
        """Raises StaleEpoch for an older one; a newer one counts from now on."""
        if epoch.number < self.number:
            raise StaleEpoch(epoch.number, self.number)
        self.number = epoch.number
