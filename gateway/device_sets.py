"""DeviceSet: some devices, by app and id, of which it is asked whether thousands of others are among them."""

from __future__ import annotations

import numpy as np

from gateway.columns import U8, U16, U64, Bool
from gateway.device_columns import mixed_keys

#: Bits for each device of a set: one in so many of the others has to be looked up.
_BITS_PER_DEVICE = 16
#: Odd: 2^64 / golden ratio. Multiplied with it, the upper bits depend on all.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class DeviceSet:
    """Immutable. A table of bits answers for most of those that are not in it, a search by a hash of 64 bits for the
    rest, and whole keys are compared where that finds one."""

    __slots__ = ("_hashes", "_is_taken", "_keys", "_shift")

    def __init__(self, ids: U8, apps: U16) -> None:
        """ids: (n, 16), apps: (n,). A device may stand there twice."""
        hashes = mixed_keys(ids, apps)
        order = np.argsort(hashes)
        self._hashes = hashes[order]
        self._keys = _keys(ids, apps)[order]
        self._shift = np.uint64(64 - max(len(ids) * _BITS_PER_DEVICE, 2).bit_length())
        self._is_taken = np.zeros(1 << 64 - int(self._shift), np.bool_)
        self._is_taken[self._places(hashes)] = True

    def __len__(self) -> int:
        return len(self._hashes)

    def have(self, ids: U8, apps: U16) -> Bool:
        """(k,) which of the devices are in the set."""
        hashes = mixed_keys(ids, apps)
        found: Bool = self._is_taken[self._places(hashes)]
        at = np.flatnonzero(found)
        if len(at):
            places = np.minimum(np.searchsorted(self._hashes, hashes[at]), len(self) - 1)
            keys = _keys(ids[at], apps[at])
            found[at] = self._keys[places] == keys
            # Of two of one hash the search finds the first.
            doubtful = np.flatnonzero(~found[at] & (self._hashes[places] == hashes[at]))
            if len(doubtful):
                found[at[doubtful]] = np.isin(keys[doubtful], self._keys)
        return found

    def _places(self, hashes: U64) -> U64:
        places: U64 = (hashes * _SPREAD) >> self._shift
        return places


def _keys(ids: U8, apps: U16) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """(n,) app and id as 18 bytes each."""
    keys = np.empty((len(ids), 18), np.uint8)
    keys[:, :16] = ids
    keys[:, 16:] = np.ascontiguousarray(apps, "<u2").view(np.uint8).reshape(-1, 2)
    found: np.ndarray[tuple[int], np.dtype[np.void]] = keys.view("V18")[:, 0]
    return found
