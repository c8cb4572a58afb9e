"""Rendering requests that carry many rows: lists of tokens for one content, or lists of different messages.

A request's list is cut out of columns: tokens of one length become one 2-D array with their separators between, and a
request is a slice of its bytes; no object per row. Messages that differ are joined row by row, as single bodies are.

Rows are spread evenly over as few requests as there can be, so that none carries one row alone; where that cannot be
avoided (or for one row) the caller's single request is used. The texts are those of the single request: whether and
where a text is cut depends on no other row.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from gateway.columns import I64, Bool, Piece, Pieces, Rows, TextColumn, fill, join, pieces_width
from gateway.content import Variant
from gateway.core.compiled import Compiled, CompiledBulk, base_name
from gateway.core.rendered import Group, RenderedGroup, pieces_of
from gateway.escapes import escape_column
from gateway.vendor import Bulk, Requests, RowList, SaveOnce, slot_text

#: A saved message that is older is saved anew: vendors do not say for how long they keep one.
_SAVED_S_MAX = 60.0
_SAVED = slot_text("saved")


def split_evenly(n: int, rows_max: int) -> I64:
    """Where the requests of n rows begin, and n: as few as rows_max allows, of sizes that differ by one at most."""
    count = max(1, -(-n // rows_max))
    return np.arange(count + 1, dtype=np.int64) * n // count


def lone_rows(n: int, rows_max: int) -> int:
    """How many of n rows, at the end, must go singly so that no request of many carries one."""
    if rows_max < 2 or n < 2:
        return n
    return 1 if rows_max == 2 and n % 2 else 0


def add_shared(group: Group, variant: Variant, template: Compiled, texts: Mapping[str, Pieces], was_cut: bool) -> None:
    """The requests of all rows of the group, which have one content. texts: the slots of its texts.

    At least two rows, and none alone (`lone_rows`).
    """
    bulk = template.shared
    assert bulk is not None
    n = len(group.positions)
    offsets = split_evenly(n, bulk.rows_max)
    rows = group.row_pieces(bulk.list_slots)
    slots: dict[str, Pieces] = dict(texts)
    slots |= _around(group, variant, bulk.body_slots)
    truncated = np.full(n, was_cut)
    save = save_once = None
    if bulk.save is not None:
        save, save_once = _save(group, variant, bulk.save, texts), _save_once(group, variant, texts)
        slots["saved"] = (_SAVED,)
    lists = _Lists(rows, offsets)
    _add(group, variant, bulk, slots, lists, truncated, is_distinct=False, save=save, save_once=save_once)


def add_distinct(
    group: Group, variant: Variant, template: Compiled, row_slots: Mapping[str, Pieces], truncated: Bool
) -> None:
    """The requests of all rows of the group, each with texts of its own. row_slots: every slot of the list, by row."""
    bulk = template.distinct
    assert bulk is not None
    lists = _Lists(row_slots, split_evenly(len(group.positions), bulk.rows_max))
    slots = _around(group, variant, bulk.body_slots)
    _add(group, variant, bulk, slots, lists, truncated, is_distinct=True)


def add_rendered(
    group: Group, variant: Variant, bulk: CompiledBulk, elements: Sequence[bytes], truncated: Bool
) -> None:
    """The same for rows whose elements of the list are already joined."""
    (row_list,) = bulk.lists
    column = TextColumn.from_rows(elements)
    lists = _Lists({}, split_evenly(len(elements), bulk.rows_max), {row_list.name: (column,)})
    _add(group, variant, bulk, _around(group, variant, bulk.body_slots), lists, truncated, is_distinct=True)


def _around(group: Group, variant: Variant, names: Sequence[tuple[str, int]]) -> dict[str, Pieces]:
    """What stands around the lists, the same for all rows. The addresses come later."""
    slots: dict[str, Pieces] = {}
    for name, _ in names:
        base = base_name(name)
        if base == "message_id":
            slots[name] = (_content_id(group),)
        elif base != "address":
            slots[name] = (group.burst.constant(name, variant, in_json=True),)
    return slots


def _addresses(group: Group, names: Sequence[tuple[str, int]], first: int, count: int) -> dict[str, Pieces]:
    """The slots of the requests' addresses, in which no step changes a character."""
    assert group.numbering is not None
    texts = group.numbering.texts(first, count)
    return {name: (texts,) for name, _ in names if base_name(name) == "address"}


class _Lists:
    """The rows of a burst as they stand in lists. joined: of lists whose rows are one column already."""

    __slots__ = ("joined", "offsets", "slots")

    def __init__(self, slots: Mapping[str, Pieces], offsets: I64, joined: Mapping[str, Pieces] | None = None) -> None:
        self.slots = slots
        self.offsets = offsets
        self.joined = joined or {}

    def column(self, row_list: RowList) -> TextColumn:
        """One row per request: its part of the list."""
        pieces = self.joined.get(row_list.name) or pieces_of(row_list.parts, self.slots)
        return escape_column(TextColumn.from_rows(join_lists(pieces, row_list.separator, self.offsets)), row_list.steps)


def join_lists(pieces: Pieces, separator: bytes, offsets: I64) -> list[bytes]:
    """The rows offsets[i]..offsets[i + 1] of the pieces with the separator between them, one bytes for each i."""
    bounds = offsets.tolist()
    n = bounds[-1]
    width = pieces_width(pieces)
    spans = list(itertools.pairwise(bounds))
    if width is not None:
        width += len(separator)
        data = fill((*pieces, separator), 0, n).tobytes()
        return [data[first * width : stop * width - len(separator)] for first, stop in spans]
    rows = join(pieces, 0, n)
    return [separator.join(rows[first:stop]) for first, stop in spans]


def _add(
    group: Group,
    variant: Variant,
    bulk: CompiledBulk,
    slots: dict[str, Pieces],
    lists: _Lists,
    truncated: Bool,
    *,
    is_distinct: bool,
    save: Requests | None = None,
    save_once: SaveOnce | None = None,
) -> None:
    numbering = group.numbering
    assert numbering is not None
    assert group.tokens is not None
    n_requests = len(lists.offsets) - 1
    first = numbering.take(n_requests)
    slots |= _addresses(group, bulk.body_slots, first, n_requests)
    for row_list in bulk.lists:
        slots[row_list.name] = (lists.column(row_list),)
    body = group.signed_body(bulk, slots, n_requests)
    for name in bulk.header_slots:
        slots[name] = (group.burst.constant(name, variant, in_json=False),)
    headers = tuple((name, pieces_of(value, slots)) for name, value in bulk.headers)
    requests = Requests(
        n_requests,
        group.authority,
        pieces_of(bulk.path, slots),
        headers,
        body,
        Bulk(lists.offsets, group.tokens, is_distinct, first, save, save_once),
    )
    group.out.groups.append(RenderedGroup(group.positions, requests, truncated))


def _save(group: Group, variant: Variant, template: Compiled, slots: Mapping[str, Pieces]) -> Requests:
    """The request that goes first. It has a number of its own, so that the vendor takes no other for its repetition."""
    assert group.numbering is not None
    own: dict[str, Pieces] = {**slots, **_around(group, variant, template.body_slots)}
    own |= _addresses(group, template.body_slots, group.numbering.take(1), 1)
    body = pieces_of(template.body, own)
    for name in template.header_slots:
        own[name] = (group.burst.constant(name, variant, in_json=False),)
    headers = tuple((name, pieces_of(value, own)) for name, value in template.headers)
    return Requests(1, group.authority, pieces_of(template.path, own), headers, body)


def _save_once(group: Group, variant: Variant, texts: Mapping[str, Pieces]) -> SaveOnce:
    """One save serves the rows of a content of a batch whose texts came out alike, but for what it says of the time
    left: that is a tenth of the TTL late at most."""
    said = tuple((name, *texts[name]) for name in sorted(texts))
    return SaveOnce((_content_id(group), said), min(_SAVED_S_MAX, variant.ttl_s / 10))


def _content_id(group: Group) -> bytes:
    """What stands for the message id where many rows share a payload: the 26 characters that the ids of the batch
    share, and which of its contents this is. The same on every attempt, so that a device can drop a second copy."""
    burst = group.burst
    index = 0 if burst.variant_index is None else int(burst.variant_index[int(group.positions[0])])
    return burst.id_start + b"-%d" % index


def fill_saved(requests: Requests, saved: str) -> Requests:
    """The requests with what the first step named in the place of its slot."""
    value = saved.encode()

    def filled(pieces: Pieces) -> Pieces:
        return tuple([piece.replace(_SAVED, value) if isinstance(piece, bytes) else piece for piece in pieces])

    assert requests.bulk is not None
    return requests._replace(
        path=filled(requests.path),
        headers=tuple((name, filled(pieces)) for name, pieces in requests.headers),
        body=filled(requests.body),
        bulk=requests.bulk._replace(save=None),
    )


def merged(groups: Sequence[tuple[Rows, Piece]]) -> tuple[Rows, TextColumn]:
    """Token groups of different lengths as one ragged column: lists are filled across lengths. No object per row."""
    blobs: list[bytes] = []
    lengths: list[I64] = []
    for _, tokens in groups:
        assert not isinstance(tokens, bytes)
        if isinstance(tokens, TextColumn):
            blobs.append(tokens.blob)
            lengths.append(tokens.lengths())
        else:
            blobs.append(tokens.tobytes())
            lengths.append(np.full(len(tokens), tokens.shape[1], np.int64))
    offsets = np.zeros(sum(map(len, lengths)) + 1, np.uint32)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    return np.concatenate([positions for positions, _ in groups]), TextColumn(b"".join(blobs), offsets)


def rounds(hashes: Rows) -> list[Rows]:
    """Positions of the rows in as many parts as it takes for no part to hold one hash twice: a list that names a token
    twice is delivered twice or refused. Almost always there is one part, and one sort shows it."""
    parts: list[Rows] = []
    left = np.arange(len(hashes))
    while True:
        here = hashes[left]
        order = np.argsort(here, kind="stable")
        is_repeat = here[order[1:]] == here[order[:-1]]
        if not np.count_nonzero(is_repeat):
            return [*parts, left]
        is_first = np.ones(len(left), np.bool_)
        is_first[order[1:][is_repeat]] = False
        parts.append(left[is_first])
        left = left[~is_first]
