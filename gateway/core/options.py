"""A batch's variants as columns: what router and lanes need to know of each row's options.

Made once per batch and slice of work, not kept: for one variant it is a handful of scalars, for thousands of variants
one short loop over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gateway.batch import Batch
from gateway.columns import U8, Bool, Rows
from gateway.content import Class, Priority, Variant
from gateway.core.strategy import strategy_table


class Options(NamedTuple):
    """Per variant: strategies (v, channels) uint8; classes, priorities (v,) uint8; is_now_or_never (v,) bool."""

    strategies: U8
    classes: U8
    priorities: U8
    is_now_or_never: Bool

    def variant_index(self, batch: Batch, rows: Rows) -> Rows:
        """(k,) which variant each row has."""
        if batch.variant_index is None:
            return np.zeros(len(rows), np.intp)
        return batch.variant_index[rows]


def compile_options(batch: Batch, channel_codes: Mapping[str, int], n_channels: int) -> Options:
    """The options of all variants of a batch. channel_codes: name -> code below n_channels."""
    variants = batch.variants
    return Options(
        strategies=_strategies([variant.strategy for variant in variants], channel_codes, n_channels),
        classes=np.fromiter((class_of(variant) for variant in variants), np.uint8, len(variants)),
        priorities=np.fromiter((priority_of(variant) for variant in variants), np.uint8, len(variants)),
        is_now_or_never=np.fromiter((variant.ttl_s == 0 for variant in variants), np.bool_, len(variants)),
    )


def _strategies(strategies: list[int | dict[str, int]], channel_codes: Mapping[str, int], n_channels: int) -> U8:
    plain = [strategy if isinstance(strategy, int) else 0 for strategy in strategies]
    table = np.empty((len(strategies), n_channels), np.uint8)
    table[:] = np.array(plain, np.uint8)[:, None]
    for index, strategy in enumerate(strategies):
        if not isinstance(strategy, int):
            table[index] = strategy_table(strategy, channel_codes)[:n_channels]
    return table


def class_of(variant: Variant) -> Class:
    return Class.MARKETING if variant.class_ == "marketing" else Class.SYSTEM


def priority_of(variant: Variant) -> Priority:
    return Priority.NORMAL if variant.priority == "normal" else Priority.HIGH
