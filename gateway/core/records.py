"""DeviceRecords: the row of each device, 64 bytes, one cache line.

Routing wants several fields of rows scattered over hundreds of megabytes, and what costs is the first touch of a row.
So all of it lies in one record, `gather` copies whole records, and fields are read from the small copy.

    word 0  id_low                      4  token_hash
         1  id_high                     5  registered_unix_s, proven_unix_s
         2  app, channel, flags, fd     6  last_seen_unix_s, profile
         3  generation, token_row       7  token_length, first_seen_unix_s

Row 0 is nobody: offline, of no app, without a token. Unknown rows are -1 and gather as row 0, so that a batch needs no
branch for them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gateway.columns import I32, U64, Bool, Rows
from gateway.core.reserved import Reserved

DEVICE = np.dtype(
    [
        ("id_low", "<u8"),
        ("id_high", "<u8"),
        ("app", "<u2"),
        ("channel", "u1"),
        ("flags", "u1"),
        ("fd", "<i4"),
        ("generation", "<u4"),
        ("token_row", "<u4"),
        ("token_hash", "<u8"),
        ("registered_unix_s", "<u4"),
        ("proven_unix_s", "<u4"),
        ("last_seen_unix_s", "<u4"),
        ("profile", "<u4"),
        ("token_length", "<u2"),
        ("spare", "V2"),
        ("first_seen_unix_s", "<u4"),
    ]
)
RECORD_BYTES = 64
assert DEVICE.itemsize == RECORD_BYTES

#: The vendor asked not to send to this token until the device registers again.
FLAG_MUTED = 1
#: The device has an alias or tags in `Details`.
FLAG_DETAILS = 2
#: The app wants nothing sent to the device (its blacklist), until it says otherwise.
FLAG_BLOCKED = 4
#: The device's user has switched notifications off; as the last registration says.
FLAG_CLOSED = 8
#: The user switched notifications off, as the device reports. Registrations leave it alone.
FLAG_NOTIFICATIONS_OFF = 16

#: App number of row 0; real apps are below.
NO_APP = 0xFFFF
OFFLINE = -1


class DeviceRecords:
    """Room for `devices_max` records, reserved once. Attributes are views of the fields, (devices_max + 1,) each."""

    __slots__ = (
        "_reserved",
        "app",
        "channel",
        "devices_max",
        "fd",
        "first_seen_unix_s",
        "flags",
        "generation",
        "id_high",
        "id_low",
        "last_seen_unix_s",
        "profile",
        "proven_unix_s",
        "records",
        "registered_unix_s",
        "token_hash",
        "token_length",
        "token_row",
        "words",
    )

    def __init__(self, devices_max: int) -> None:
        self.devices_max = devices_max
        words_per_record = RECORD_BYTES // 8
        self._reserved = Reserved((devices_max + 1) * words_per_record)
        self.words: U64 = self._reserved.words.reshape(devices_max + 1, words_per_record)
        self.records: npt.NDArray[np.void] = self.words.view(DEVICE)[:, 0]
        for name in self.__slots__:
            if name in (DEVICE.names or ()):
                setattr(self, name, self.records[name])
        self.app[0] = NO_APP
        self.fd[0] = OFFLINE

    app: npt.NDArray[np.uint16]
    channel: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint8]
    fd: npt.NDArray[np.int32]
    first_seen_unix_s: npt.NDArray[np.uint32]
    generation: npt.NDArray[np.uint32]
    id_low: npt.NDArray[np.uint64]
    id_high: npt.NDArray[np.uint64]
    last_seen_unix_s: npt.NDArray[np.uint32]
    profile: npt.NDArray[np.uint32]
    proven_unix_s: npt.NDArray[np.uint32]
    registered_unix_s: npt.NDArray[np.uint32]
    token_hash: npt.NDArray[np.uint64]
    token_length: npt.NDArray[np.uint16]
    token_row: npt.NDArray[np.uint32]

    def has_grown(self, rows: int) -> None:
        """The first so many rows are in use."""
        self._reserved.has_grown(rows * RECORD_BYTES)

    def put(self, rows: I32, found: npt.NDArray[np.void]) -> None:
        """found: (n,) whole records of the rows."""
        self.words[as_run(rows)] = found.view(np.uint64).reshape(len(rows), -1)

    def gather(self, rows: Rows) -> npt.NDArray[np.void]:
        """(n,) records, a copy; row 0 (nobody) for -1."""
        return self.words.take(rows, axis=0, mode="clip").view(DEVICE)[:, 0]

    def gather_words(self, rows: I32) -> U64:
        """The same as (n, 8) uint64: id in words 0 and 1, app in the low 16 bits of word 2."""
        return self.words.take(rows, axis=0, mode="clip")


def as_run(rows: Rows) -> Rows | slice:
    """The same rows as a slice, where each is the next of the one before: a copy instead of a look at each."""
    n = len(rows)
    if n and int(rows[-1]) - int(rows[0]) == n - 1 and bool((rows[1:] > rows[:-1]).all()):
        return slice(int(rows[0]), int(rows[0]) + n)
    return rows


def are_devices(found: U64, words: U64, app_index: int) -> Bool:
    """(n,) which records (n, 8) are of the devices with these ids, (n, 2) words of 8 bytes, of the app."""
    is_same: Bool = (found[:, 0] == words[:, 0]) & (found[:, 1] == words[:, 1])
    is_same &= (found[:, 2] & np.uint64(0xFFFF)) == app_index
    return is_same
