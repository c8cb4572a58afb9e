"""A batch's variants as columns: what router and lanes need to know of each row's options.

Made once per batch and slice of work, not kept: for one variant it is a handful of scalars, for thousands of variants
one short loop over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.batch import Batch
from gateway.columns import U8, U16, Bool, Rows
from gateway.content import LONG_LINK_ONLY, Class, Priority, Variant
from gateway.core.strategy import strategy_table
from gateway.ledger import VENDOR_CHANNELS, Channel
from gateway.regions import VENDOR_OF, VENDORS

_ONE_BIT = np.uint8(1)


class Options(NamedTuple):
    """Per variant: strategies (v, channels) uint8; classes, priorities (v,) uint8; is_now_or_never, is_for_vendors (v,)
    bool."""

    strategies: U8
    classes: U8
    priorities: U8
    is_now_or_never: Bool
    is_for_vendors: Bool

    def variant_index(self, batch: Batch, rows: Rows) -> Rows:
        """(k,) which variant each row has."""
        if batch.variant_index is None:
            return np.zeros(len(rows), np.intp)
        return batch.variant_index[rows]

    def kinds(self, index: Rows) -> U8:
        """(k,) class << 1 | priority of rows with these variants: what tells their lanes and queues apart."""
        return self.classes[index] << _ONE_BIT | self.priorities[index]


class AppDefaults(NamedTuple):
    """What an app's configuration says where a variant does not. marketing_categories: these make a row marketing."""

    strategy: int = 1
    marketing_categories: frozenset[str] = frozenset()


#: Channel name -> code, of the channels a strategy may name; what it says of a vendor holds for its regions.
_CODES = {name: int(channel) for name, channel in VENDOR_CHANNELS.items() if name in VENDORS}


def compile_options(batch: Batch, defaults: AppDefaults, rows: Rows | None = None) -> Options:
    """The options of all variants of a batch; where a few rows are named, what stands at variants of others says
    nothing: an answer about one of 65,536 single messages does not look at all of them."""
    variants = batch.variants
    if rows is not None and batch.variant_index is not None and len(rows) < len(variants) // 4:
        used = np.unique(batch.variant_index[rows])
        return Options._make(
            _spread(column, used, len(variants))
            for column in _compile([variants[at] for at in used.tolist()], defaults)
        )
    if len(variants) > 1 and _are_alike(variants):
        # Single messages of one sender: what holds for the first holds for all.
        of_first = _compile(variants[:1], defaults)
        return Options._make(np.repeat(column, len(variants), axis=0) for column in of_first)
    return _compile(variants, defaults)


def _spread(column: NDArray[Any], at: U16, n: int) -> NDArray[Any]:
    whole = np.zeros((n, *column.shape[1:]), column.dtype)
    whole[at] = column
    return whole


def _are_alike(variants: Sequence[Variant]) -> bool:
    """All that `_compile` reads is the same; False where it may not be."""
    first = variants[0]
    if isinstance(first.strategy, dict):
        return False
    wanted = (first.strategy, first.class_, first.category, first.priority, first.ttl_s == 0, first.action)
    for each in variants:
        if (each.strategy, each.class_, each.category, each.priority, each.ttl_s == 0, each.action) != wanted:
            return False
    return True


def _compile(variants: Sequence[Variant], defaults: AppDefaults) -> Options:
    return Options(
        strategies=_strategies([_strategy_of(variant, defaults) for variant in variants]),
        classes=np.fromiter((class_of(variant, defaults) for variant in variants), np.uint8, len(variants)),
        priorities=np.fromiter((priority_of(variant) for variant in variants), np.uint8, len(variants)),
        is_now_or_never=np.fromiter((variant.ttl_s == 0 for variant in variants), np.bool_, len(variants)),
        is_for_vendors=np.fromiter((variant.action == "notification" for variant in variants), np.bool_, len(variants)),
    )


def _strategy_of(variant: Variant, defaults: AppDefaults) -> int | dict[str, int]:
    """A mapping without `default` says nothing about the channels it does not name: the app's default holds there."""
    if variant.action != "notification":
        return LONG_LINK_ONLY
    if isinstance(variant.strategy, dict):
        return {"default": defaults.strategy, **variant.strategy}
    return variant.strategy or defaults.strategy


def _strategies(strategies: list[int | dict[str, int]]) -> U8:
    plain = [strategy if isinstance(strategy, int) else 0 for strategy in strategies]
    table = np.empty((len(strategies), len(Channel)), np.uint8)
    table[:] = np.array(plain, np.uint8)[:, None]
    for index, strategy in enumerate(strategies):
        if not isinstance(strategy, int):
            table[index] = strategy_table(strategy, _CODES)[VENDOR_OF]
    return table


def class_of(variant: Variant, defaults: AppDefaults) -> Class:
    is_marketing = variant.class_ == "marketing" or variant.category in defaults.marketing_categories
    return Class.MARKETING if is_marketing else Class.SYSTEM


def priority_of(variant: Variant) -> Priority:
    return Priority.NORMAL if variant.priority == "normal" else Priority.HIGH
