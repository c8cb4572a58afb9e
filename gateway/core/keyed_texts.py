"""KeyedTexts: which row has which text, and which rows have a text: aliases of devices, names of tags.

    rows --> words (first cell, length, salt) --> Chains (the bytes)
    texts --> keyed hash --> Segments --> rows whose text is the same

A row has one text or none; a text may be of several rows (an alias of up to ten devices), each of which stands in the
index by itself: its entry is found among the neighbours of the others, and no list has to be kept. The salt tells equal
texts of different apps apart.
"""

from __future__ import annotations

import numpy as np

from gateway.columns import I32, I64, U16, U32, U64, Bool, TextColumn
from gateway.core.chains import Chains, Padded, n_cells_of, padded_texts
from gateway.core.reserved import Reserved
from gateway.core.segment_filling import SegmentsFilling
from gateway.core.segments import HashKey, Segments, hash_shards

#: A word: first cell in the lower 32 bits, length in the next 8, salt in the 16 above; 0 for no text.
_LENGTH_SHIFT = np.uint64(32)
_SALT_SHIFT = np.uint64(40)
_CELL = np.uint64(0xFFFF_FFFF)
_LENGTH = np.uint64(0xFF)


class KeyedTexts:
    """One owner. Rows are 1 to `rows_max`. Salts are below 65,536, one for all or (n,)."""

    __slots__ = ("_chains", "_index", "_key", "_n", "_reserved", "_words")

    def __init__(self, key: HashKey, *, rows_max: int, texts_max: int, text_bytes_max: int, name: str) -> None:
        """texts_max: rows that have a text at a time. text_bytes_max: of each, below 256; so the pool cannot be used up
        before `texts_max`. name: the limit's name in errors."""
        self._key = key
        self._reserved = Reserved(rows_max + 1)
        self._words: U64 = self._reserved.words
        self._chains = Chains(texts_max * n_cells_of(text_bytes_max), name)
        self._index = Segments(texts_max, name)
        self._n = 0

    def __len__(self) -> int:
        """Rows that have a text."""
        return self._n

    def filling(self, n_texts: int) -> SegmentsFilling:
        """For `load` of about so many texts, where no row has one yet."""
        return SegmentsFilling(self._index, n_texts)

    def load(self, rows: I32, texts: Padded, salts: int | U16, filling: SegmentsFilling) -> None:
        """`put` of many: who has a text is known when the filling has ended."""
        hashes = self.hashes(texts, salts)
        filling.add(hash_shards(hashes), hashes, rows)
        self._keep(rows, texts, salts, self._chains.write(texts))

    def put(self, rows: I32, texts: Padded, salts: int | U16 = 0) -> None:
        """Afterwards each row has its text. rows: distinct, none of which has one; no text is empty.

        Raises Overloaded; then nothing changed.
        """
        hashes = self.hashes(texts, salts)
        shards = hash_shards(hashes)
        self._index.reserve(shards)
        heads = self._chains.write(texts)
        self._index.insert(shards, hashes, rows)
        self._keep(rows, texts, salts, heads)

    def _keep(self, rows: I32, texts: Padded, salts: int | U16, heads: U32) -> None:
        self._words[rows] = heads | _tail(texts.lengths, salts) << _LENGTH_SHIFT
        self._n += len(rows)
        self._reserved.has_grown((int(rows.max(initial=0)) + 1) * 8)

    def drop(self, rows: I32) -> None:
        """Afterwards the rows, distinct, have no text."""
        words = self._words[rows]
        if not words.any():
            return
        rows, words = rows[words != 0], words[words != 0]
        lengths = _lengths(words)
        hashes = self.hashes(self._chains.read(_heads(words), lengths), (words >> _SALT_SHIFT).astype(np.uint16))
        self._index.remove(hash_shards(hashes), hashes, rows)
        self._chains.free(_heads(words), lengths)
        self._words[rows] = 0
        self._n -= len(rows)

    def read(self, rows: I32) -> Padded:
        """The text of each row, empty where there is none (also for -1)."""
        words = self._words.take(rows, mode="clip")
        return self._chains.read(_heads(words), _lengths(words))

    def column(self, rows: I32) -> TextColumn:
        """The same as a column."""
        return self.read(rows).column()

    def one(self, row: int) -> bytes:
        """The text of one row."""
        return self.column(np.array([row], np.int32)).blob if self._words.item(row) else b""

    def have(self, rows: I32, texts: Padded, salts: int | U16 = 0) -> Bool:
        """(n,) whether each row has just this text; an empty text is nobody's, nor has -1 any."""
        words = self._words.take(rows, mode="clip")
        if not words.any():
            return np.zeros(len(rows), np.bool_)
        is_same: Bool = (words >> _LENGTH_SHIFT) == _tail(texts.lengths, salts)
        is_same &= texts.lengths > 0
        at = np.flatnonzero(is_same)
        if len(at):
            stored = self._chains.read(_heads(words[at]), texts.lengths[at]).words
            is_same[at] = (stored == texts.words[at, : stored.shape[1]]).all(axis=1)
        return is_same

    def find(self, texts: Padded, salts: int | U16 = 0) -> I32:
        """(n,) int32 a row that has each text, -1 where none has."""
        hashes = self.hashes(texts, salts)

        def verify(index: slice | I64, rows: I32) -> Bool:
            some = salts if isinstance(salts, int) else salts[index]
            return self.have(rows, Padded(texts.words[index], texts.lengths[index]), some)

        rows = self._index.find(hash_shards(hashes), hashes, verify)
        return np.where(texts.lengths > 0, rows, np.int32(-1))

    def find_all(self, text: bytes, salt: int = 0) -> I32:
        """(k,) int32 every row that has the text, in order."""
        texts = padded_texts(TextColumn.from_rows([text]))
        key_hash = self.hashes(texts, salt)
        found = self._index.candidates(int(hash_shards(key_hash)[0]), int(key_hash[0]))
        rows = np.array(sorted(found), np.int32)
        return rows[self.have(rows, texts.take(np.zeros(len(rows), np.int64)), salt)]

    def hashes(self, texts: Padded, salts: int | U16) -> U64:
        """(n,) one hash for a text, whatever stands beside it: only its own cells count, and its length is salt."""
        n = len(texts.lengths)
        wide = np.full(n, salts, np.uint64) if isinstance(salts, int) else salts.astype(np.uint64)
        wide |= texts.lengths.astype(np.uint64) << np.uint64(16)
        n_cells = (texts.lengths + 15) // 16
        matrix = texts.words.view(np.uint8)
        most = int(n_cells.max(initial=0))
        if n and int(n_cells.min()) == most:
            return self._key.hash_rows(matrix[:, : 16 * most], wide)
        hashes = np.zeros(n, np.uint64)
        for count in np.unique(n_cells).tolist():
            at = np.flatnonzero(n_cells == count)
            hashes[at] = self._key.hash_rows(np.ascontiguousarray(matrix[at, : 16 * count]), wide[at])
        return hashes


def _tail(lengths: I64, salts: int | U16) -> U64:
    wide = np.uint64(salts) if isinstance(salts, int) else salts.astype(np.uint64)
    tails: U64 = lengths.astype(np.uint64) | wide << np.uint64(8)
    return tails


def _heads(words: U64) -> U32:
    return (words & _CELL).astype(np.uint32)


def _lengths(words: U64) -> I64:
    return (words >> _LENGTH_SHIFT & _LENGTH).astype(np.int64)
