"""Rows of a batch as a batch of their own: what a home sends to the worker that owns their devices."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from gateway.batch import Batch, TaskSegment
from gateway.columns import Rows


def cut_batch(batch: Batch, rows: Rows) -> Batch:
    """The rows as a batch of their own under the same address; contents that none of them has are left out.

    Its message ids are empty: the holder makes them from the address.
    """
    variants, variant_index = batch.variants, batch.variant_index
    if variant_index is not None:
        used, index = np.unique(variant_index[rows], return_inverse=True)
        variants = [variants[position] for position in used.tolist()]
        variant_index = index.reshape(-1).astype(np.uint16) if len(variants) > 1 else None
    return Batch(
        batch.address,
        batch.app,
        batch.born,
        len(rows),
        device_ids=batch.device_ids.take(rows, axis=0),
        variants=variants,
        variant_index=variant_index,
        channels=None if batch.channels is None else batch.channels[rows],
        tokens=None if batch.tokens is None else batch.tokens.take(rows),
        variables={name: column.take(rows) for name, column in batch.variables.items()},
        segments=cut_segments(batch.segments, rows),
    )


def cut_segments(segments: Sequence[TaskSegment], rows: Rows) -> list[TaskSegment]:
    """Whose the rows are, (k,) rising, when they are a batch of their own: their holder may have to tell it."""
    if len(segments) < 2:
        return [segment._replace(first=0, n=len(rows)) for segment in segments]
    low = bisect.bisect_right(segments, int(rows[0]), key=_first_row) - 1
    used = segments[max(0, low) : bisect.bisect_right(segments, int(rows[-1]), key=_first_row)]
    starts = np.searchsorted(rows, [segment.first for segment in used]).tolist()
    stops = np.searchsorted(rows, [segment.first + segment.n for segment in used]).tolist()
    return [
        segment._replace(first=start, n=stop - start)
        for segment, start, stop in zip(used, starts, stops, strict=True)
        if stop > start
    ]


def _first_row(segment: TaskSegment) -> int:
    return segment.first
