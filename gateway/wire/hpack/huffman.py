"""The Huffman code of RFC 7541 Appendix B.

The code is canonical (section 5.2): codes of one length count up in the order of their symbols, so the table of
lengths is the whole code. Decoding goes by half bytes through a state machine: a state is an inner node of the code
tree. The machine is built by half bytes, which complete at most one symbol since the shortest code has 5 bits, and
goes by bytes; a machine without output checks many strings at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gateway.columns import I64, U8, Bool
from gateway.errors import RemoteProtocolError
from gateway.wire.hpack.codes import COMPRESSION_ERROR

# fmt: off
#: Bits of each symbol's code; the last is EOS, which must never be sent.
LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,  # 0x00
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,  # 0x10
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,  # 0x20
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,  # 0x30
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,  # 0x40
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,  # 0x50
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,  # 0x60
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,  # 0x70
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,  # 0x80
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,  # 0x90
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,  # 0xa0
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,  # 0xb0
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,  # 0xc0
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,  # 0xd0
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,  # 0xe0
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,  # 0xf0
    30,  # EOS
)
# fmt: on
_EOS = 256
#: Padding is the first bits of EOS, all ones, and shorter than a byte.
_PADDING_BITS_MAX = 7


def _canonical_codes(lengths: tuple[int, ...]) -> tuple[int, ...]:
    codes = [0] * len(lengths)
    code = 0
    previous = 0
    for symbol in sorted(range(len(lengths)), key=lambda symbol: (lengths[symbol], symbol)):
        code <<= lengths[symbol] - previous
        previous = lengths[symbol]
        codes[symbol] = code
        code += 1
    return tuple(codes)


CODES = _canonical_codes(LENGTHS)


def _build_tree() -> list[list[int]]:
    """Inner nodes as [child on 0, child on 1]; a child >= 0 is an inner node, a child < 0 is symbol -1 - child."""
    tree = [[0, 0]]
    for symbol, (code, length) in enumerate(zip(CODES, LENGTHS, strict=True)):
        node = 0
        for bit in range(length - 1, 0, -1):
            branch = code >> bit & 1
            if tree[node][branch] == 0:
                tree.append([0, 0])
                tree[node][branch] = len(tree) - 1
            node = tree[node][branch]
        tree[node][code & 1] = -1 - symbol
    return tree


#: What a transition emits when it emits nothing, and when it has read EOS.
_NOTHING = -1
_FAULT = -2


def _build_transitions(tree: list[list[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(next state, emitted symbol) by state * 16 + half byte. All of them bit by bit: every start pays for this."""
    children = np.array(tree, np.int64)
    nibbles = np.tile(np.arange(16), len(tree))
    nodes = np.repeat(np.arange(len(tree)), 16)
    emits = np.full(len(tree) * 16, _NOTHING, np.int64)
    for bit in (3, 2, 1, 0):
        nodes = children[nodes, nibbles >> bit & 1]
        is_symbol = nodes < 0
        emits[is_symbol] = -1 - nodes[is_symbol]
        nodes[is_symbol] = 0
    emits[emits == _EOS] = _FAULT
    return nodes, emits


def _build_accepting(tree: list[list[int]]) -> bytes:
    """1 for each state in which a string may end: nothing begun, or up to 7 ones."""
    accepting = bytearray(len(tree))
    accepting[0] = 1
    node = 0
    for _ in range(_PADDING_BITS_MAX):
        node = tree[node][1]
        accepting[node] = 1
    return bytes(accepting)


_TREE = _build_tree()
_ACCEPTING = _build_accepting(_TREE)
#: A state beyond the tree's inner nodes: the string is broken, or says what a field value must not.
_BROKEN = len(_TREE)


def _build_byte_transitions() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Transitions by whole bytes, which complete at most two symbols: next state by state * 256 + byte; what its two
    halves emit, (2, the same)."""
    nexts, emits = _build_transitions(_TREE)
    states = np.repeat(np.arange(len(_TREE)), 256)
    data = np.tile(np.arange(256), len(_TREE))
    first = states * 16 + (data >> 4)
    second = nexts[first] * 16 + (data & 15)
    return nexts[second], np.stack((emits[first], emits[second]))


def _build_texts(emits: npt.NDArray[np.int64]) -> list[bytes | None]:
    """What a transition emits; None where EOS was read."""
    # As one number, and of the numbers those that occur: each text is made once.
    codes = (emits[0] - _FAULT) * 512 + emits[1] - _FAULT
    occurs = np.bincount(codes) > 0
    pairs = np.flatnonzero(occurs)
    symbols = [b"\xff", b"", *(bytes([symbol]) for symbol in range(_EOS))]
    texts: list[bytes | None] = [
        symbols[first] + symbols[second] if first and second else None
        for first, second in zip((pairs >> 9).tolist(), (pairs & 511).tolist(), strict=True)
    ]
    which = np.cumsum(occurs) - 1
    return list(map(texts.__getitem__, which[codes].tolist()))


_NEXTS, _EMITS = _build_byte_transitions()
_TEXTS = _build_texts(_EMITS)
_NEXTS_LIST: list[int] = _NEXTS.tolist()


def _build_checks(forbidden: bytes) -> tuple[npt.NDArray[np.int64], Bool]:
    """For `huffman_good_rows`: (next state * 256 by state * 256 + byte, whether a string may end there by state).

    EOS and forbidden symbols lead to _BROKEN, from which nothing leads away.
    """
    bad = np.isin(_EMITS, [_FAULT, *forbidden]).any(axis=0)
    follow = np.append(np.where(bad, _BROKEN, _NEXTS), np.full(256, _BROKEN, np.int64)) * 256
    return follow, np.array([*_ACCEPTING, 0], np.bool_)


#: RFC 9113 section 8.2.1: no field value holds NUL, LF or CR.
FORBIDDEN_IN_VALUES = b"\x00\n\r"
_FOLLOW, _MAY_END = _build_checks(FORBIDDEN_IN_VALUES)


def huffman_encode(text: bytes) -> bytes:
    bits = 0
    count = 0
    for byte in text:
        length = LENGTHS[byte]
        bits = bits << length | CODES[byte]
        count += length
    padding = -count % 8
    return (bits << padding | (1 << padding) - 1).to_bytes((count + padding) // 8, "big")


def huffman_length(text: bytes) -> int:
    """Bytes that `huffman_encode(text)` has."""
    return (sum(LENGTHS[byte] for byte in text) + 7) // 8


def huffman_decode(data: bytes) -> bytes:
    """The text. Raises RemoteProtocolError for EOS in the data and for wrong or overlong padding."""
    out: list[bytes] = []
    state = 0
    nexts, texts = _NEXTS_LIST, _TEXTS
    for byte in data:
        at = state << 8 | byte
        text = texts[at]
        if text is None:
            raise RemoteProtocolError("EOS in a Huffman string", wire_code=COMPRESSION_ERROR)
        out.append(text)
        state = nexts[at]
    if not _ACCEPTING[state]:
        raise RemoteProtocolError("wrong padding of a Huffman string", wire_code=COMPRESSION_ERROR)
    return b"".join(out)


def huffman_good_rows(data: U8, lengths: I64) -> Bool:
    """(n,) true where `huffman_decode` gives a text without FORBIDDEN_IN_VALUES.

    data: (n, width) uint8, row i counts up to lengths[i] <= width; what is behind may be anything.
    """
    n, width = data.shape
    states = np.zeros((width + 1, n), np.int64)
    columns = np.ascontiguousarray(data.T)
    for step in range(width):
        # "clip" never clips here; it spares a copy that "raise" makes.
        np.take(_FOLLOW, states[step] + columns[step], out=states[step + 1], mode="clip")
    good: Bool = _MAY_END[states[lengths, np.arange(n)] >> 8]
    return good
