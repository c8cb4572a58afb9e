"""DeviceTags: which device has which tags, as numbers; each distinct tag text is kept once, for all apps.

    row --> word (first cell, count) --> Chains: numbers of 4 bytes, in the order of the registration
    number --> KeyedTexts (the text), and how many devices have it; a number without devices is used again

There is no list of a tag's devices: whoever wants them looks through the devices of a shard or of an app (`have`, 40 ns
a device), which costs a broadcast nothing beside sending and each registration no second index.
"""

from __future__ import annotations

import numpy as np

from gateway.columns import I32, I64, U32, U64, Bool, TextColumn
from gateway.core.chains import BYTES_PER_CELL, CELL_BYTES, Chains, Padded, n_cells_of, padded, padded_texts
from gateway.core.keyed_texts import KeyedTexts
from gateway.core.reserved import Reserved
from gateway.core.segments import HashKey
from gateway.core.tokens import FreeRows
from gateway.errors import Overloaded
from gateway.tag_columns import TagColumns

#: 32 characters of up to 4 bytes.
TAG_BYTES_MAX = 128
#: Bytes of a tag's number.
_NUMBER_BYTES = 4
#: Bytes per distinct tag at most: its text with links, its word, its count, its entries in the index.
BYTES_PER_TAG = n_cells_of(TAG_BYTES_MAX) * BYTES_PER_CELL + 8 + 4 + 32
_COUNT_SHIFT = np.uint64(32)


def _cells_max(devices_max: int, bindings_max: int) -> int:
    """The last cell of each device may have one number in it."""
    return bindings_max * _NUMBER_BYTES // CELL_BYTES + min(devices_max, bindings_max)


def tag_binding_bytes(devices_max: int, bindings_max: int) -> int:
    """Memory of that many devices with that many tags among them, at most: words and cells."""
    return devices_max * 8 + _cells_max(devices_max, bindings_max) * BYTES_PER_CELL


class DeviceTags:
    """One owner. rows: of devices, distinct in each call."""

    __slots__ = ("_chains", "_devices", "_free", "_fresh", "_names", "_reserved", "_tags_max", "_words", "bindings")

    def __init__(self, key: HashKey, *, devices_max: int, tags_max: int, bindings_max: int) -> None:
        """tags_max: distinct texts. bindings_max: (device, tag) pairs, which the caller counts."""
        self._names = KeyedTexts(
            key, rows_max=tags_max, texts_max=tags_max, text_bytes_max=TAG_BYTES_MAX, name="tags_max"
        )
        self._tags_max = tags_max
        self._reserved = (Reserved(devices_max + 1), Reserved(tags_max // 2 + 1))
        self._words: U64 = self._reserved[0].words
        self._devices: U32 = self._reserved[1].words.view(np.uint32)
        self._chains = Chains(_cells_max(devices_max, bindings_max), "tag_bindings_max")
        self._free = FreeRows()
        self._fresh = 1
        self.bindings = 0

    def __len__(self) -> int:
        """Distinct tags."""
        return len(self._names)

    def find(self, texts: TextColumn) -> I32:
        """(n,) the number of each tag, -1 for one that no device has."""
        return self._names.find(padded_texts(texts))

    def hashes(self, texts: Padded) -> U64:
        """(n,) those of the index."""
        return self._names.hashes(texts, 0)

    def write(self, rows: I32, tags: TagColumns | None) -> None:
        """Afterwards the devices have these tags and no others. tags: as its type says, though texts may repeat.

        Raises Overloaded where there are more distinct tags than `tags_max`; then nothing changed.
        """
        if tags is None or not len(tags.numbers):
            self._unbind(rows)
            return
        n_devices = np.bincount(tags.numbers, minlength=len(tags.texts))
        known = self._interned(tags.texts, n_devices > 0)
        # The new ones first: a tag that the devices keep must not lose its number in between.
        np.add.at(self._devices, known, n_devices.astype(np.uint32))
        self._unbind(rows)
        numbers = known[tags.numbers]
        counts = tags.counts.astype(np.int64)
        heads = self._chains.write(padded(numbers.tobytes(), tags.starts[:-1] * _NUMBER_BYTES, counts * _NUMBER_BYTES))
        self._words[rows] = heads | counts.astype(np.uint64) << _COUNT_SHIFT
        self._reserved[0].has_grown((int(rows.max(initial=0)) + 1) * 8)
        self.bindings += len(numbers)

    def columns(self, rows: I32) -> TagColumns:
        """The tags of the devices."""
        words = self._words.take(rows, mode="clip")
        counts = _counts(words)
        used, numbers = np.unique(self._numbers(words, counts), return_inverse=True)
        return TagColumns(counts.astype(np.uint8), numbers.astype(np.uint32), self._names.column(used.astype(np.int32)))

    def of(self, row: int) -> tuple[bytes, ...]:
        """The tags of one device."""
        if not self._words.item(row):
            return ()
        words = self._words[row : row + 1]
        return tuple(self._names.column(self._numbers(words, _counts(words)).astype(np.int32)).rows())

    def have(self, rows: I32, tag: bytes) -> Bool:
        """(n,) which devices have the tag; -1 has none."""
        number = int(self.find(TextColumn.from_rows([tag]))[0])
        has = np.zeros(len(rows), np.bool_)
        if number < 0:
            return has
        words = self._words.take(rows, mode="clip")
        at = np.flatnonzero(words)
        heads, counts = words[at].astype(np.uint32), _counts(words[at])
        strings = self._chains.read(heads, counts * _NUMBER_BYTES)
        has[at] = (strings.words.view(np.uint32) == np.uint32(number)).any(axis=1)
        return has

    def _unbind(self, rows: I32) -> None:
        words = self._words[rows]
        if not words.any():
            return
        rows, words = rows[words != 0], words[words != 0]
        counts = _counts(words)
        used, n_devices = np.unique(self._numbers(words, counts), return_counts=True)
        self._devices[used] -= n_devices.astype(np.uint32)
        self._chains.free(words.astype(np.uint32), counts * _NUMBER_BYTES)
        self._words[rows] = 0
        self.bindings -= int(counts.sum())
        unused = used[self._devices[used] == 0]
        self._names.drop(unused.astype(np.int32))
        self._free.give(unused)

    def _numbers(self, words: U64, counts: I64) -> U32:
        """The numbers of all devices, one device after the other."""
        blob = self._chains.read(words.astype(np.uint32), counts * _NUMBER_BYTES).column().blob
        return np.frombuffer(blob, np.uint32)

    def _interned(self, column: TextColumn, is_used: Bool) -> U32:
        """(n,) a number for each text that is used, 0 for others; a loop over those that are new, which few are."""
        texts = padded_texts(column)
        found = self._names.find(texts)
        fresh = np.flatnonzero(is_used & (found < 0))
        if len(fresh):
            firsts: dict[bytes, int] = {}
            places = [firsts.setdefault(column.row(at), len(firsts)) for at in fresh.tolist()]
            numbers = self._new_numbers(len(firsts))
            _, first = np.unique(places, return_index=True)
            self._names.put(numbers.astype(np.int32), texts.take(fresh[first]))
            found[fresh] = numbers[places]
        return np.maximum(found, 0).astype(np.uint32)

    def _new_numbers(self, count: int) -> U32:
        if len(self) + count > self._tags_max:
            raise Overloaded("tags_max", len(self) + count, self._tags_max)
        numbers = self._free.take(count)
        n_fresh = count - len(numbers)
        self._fresh += n_fresh
        fresh = np.arange(self._fresh - n_fresh, self._fresh, dtype=np.uint32)
        return np.concatenate([numbers, fresh])


def _counts(words: U64) -> I64:
    return (words >> _COUNT_SHIFT).view(np.int64)
