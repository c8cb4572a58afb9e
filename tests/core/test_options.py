"""Options of variants as columns, against asking each variant."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given

from gateway.batch import Batch
from gateway.content import STRATEGY_CHANNELS, Class, Priority, Variant
from gateway.core.options import AppDefaults, class_of, compile_options, priority_of
from gateway.ledger import VENDOR_CHANNELS, Channel
from gateway.message_id import BatchAddress
from gateway.regions import REGIONS

variants = st.builds(
    Variant,
    title=st.just("t"),
    body=st.just("b"),
    strategy=st.integers(0, 4)
    | st.dictionaries(st.sampled_from(sorted(STRATEGY_CHANNELS)), st.integers(1, 4), max_size=4),
    ttl_s=st.sampled_from([0, 1, 7200]),
    category=st.sampled_from(["", "ads", "chat"]),
    class_=st.sampled_from(["system", "marketing"]),
    priority=st.sampled_from(["high", "normal"]),
)
defaults = st.builds(
    AppDefaults, strategy=st.integers(1, 4), marketing_categories=st.frozensets(st.sampled_from(["ads", "chat"]))
)


def batch_of(made: list[Variant], index: list[int] | None) -> Batch:
    n = len(index) if index else 3
    ids = np.zeros((n, 16), np.uint8)
    column = None if index is None else np.array(index, np.uint16)
    return Batch(BatchAddress(0, 0, 0), 0, 0.0, n, device_ids=ids, message_ids=ids, variants=made, variant_index=column)


def plain_strategy(variant: Variant, app: AppDefaults, channel: Channel) -> int:
    if isinstance(variant.strategy, int):
        return variant.strategy or app.strategy
    # A device without a vendor channel is reached by the long link only.
    name = "long_link" if channel is Channel.NONE else channel.name.lower()
    name = next((vendor for vendor in REGIONS if name.startswith(f"{vendor}_")), name)
    return variant.strategy.get(name, variant.strategy.get("default", app.strategy))


@pytest.mark.parametrize("odd", [0, 4, None])
@pytest.mark.parametrize(
    "change",
    [
        *({"strategy": 3}, {"strategy": {"apns": 2}}, {"ttl_s": 0}, {"category": "ads"}),
        *({"class_": "marketing"}, {"priority": "normal"}, {"action": "badge"}, {"body": "other"}),
    ],
)
def test_options_of_variants_that_are_alike_but_for_one_are_those_of_each(
    change: dict[str, Any], odd: int | None
) -> None:
    app = AppDefaults(1, frozenset({"ads"}))
    usual = Variant(title="t", body="b")
    made = [msgspec.structs.replace(usual, **(change if at == odd or odd is None else {})) for at in range(5)]
    together = compile_options(batch_of(made, None), app)
    for position, each in enumerate(made):
        alone = compile_options(batch_of([each], None), app)
        assert all((whole[position] == one[0]).all() for whole, one in zip(together, alone, strict=True))
        assert all(whole.dtype == one.dtype for whole, one in zip(together, alone, strict=True))


@given(st.lists(variants, min_size=1, max_size=40), defaults, st.data())
def test_options_of_some_rows_are_those_of_all_at_their_variants(
    made: list[Variant], app: AppDefaults, data: st.DataObject
) -> None:
    index = data.draw(st.lists(st.integers(0, len(made) - 1), min_size=1, max_size=60))
    rows = np.array(data.draw(st.lists(st.integers(0, len(index) - 1), max_size=12)), np.int64)
    batch = batch_of(made, index)
    whole, some = compile_options(batch, app), compile_options(batch, app, rows)
    at = whole.variant_index(batch, rows)
    for all_of, few in zip(whole, some, strict=True):
        assert all_of.shape == few.shape
        assert all_of.dtype == few.dtype
        assert (all_of[at] == few[at]).all()


def test_options_of_one_row_ask_one_variant() -> None:
    class Counted(list[Variant]):
        asked = 0

        def __getitem__(self, at: Any) -> Any:
            self.asked += 1
            return super().__getitem__(at)

        def __iter__(self) -> Any:
            raise AssertionError

    batch = batch_of([Variant(title=str(at), body="b") for at in range(65_536)], list(range(65_536)))
    counted = batch.variants = Counted(batch.variants)
    options = compile_options(batch, AppDefaults(3), np.array([65_535]))
    assert options.strategies[65_535].tolist() == [3] * len(Channel)
    assert counted.asked == 1


@given(st.lists(variants, min_size=1, max_size=4), defaults)
def test_options_agree_with_asking_each_variant(made: list[Variant], app: AppDefaults) -> None:
    options = compile_options(batch_of(made, None), app)
    assert options.strategies.shape == (len(made), len(Channel))
    for position, variant in enumerate(made):
        for channel in [Channel.NONE, *VENDOR_CHANNELS.values()]:
            assert options.strategies[position, channel] == plain_strategy(variant, app, channel)
        is_marketing = variant.class_ == "marketing" or variant.category in app.marketing_categories
        assert options.classes[position] == class_of(variant, app) == (Class.MARKETING if is_marketing else 0)
        assert options.priorities[position] == priority_of(variant)
        assert priority_of(variant) is (Priority.NORMAL if variant.priority == "normal" else Priority.HIGH)
        assert options.is_now_or_never[position] == (variant.ttl_s == 0)


@pytest.mark.parametrize("has_index", [False, True])
def test_the_variant_of_rows_is_what_the_index_says(has_index: bool) -> None:
    made = [Variant("a", ""), Variant("b", "")]
    batch = batch_of(made, [1, 0, 1] if has_index else None)
    found = compile_options(batch, AppDefaults()).variant_index(batch, np.array([2, 1, 1]))
    assert found.tolist() == ([1, 0, 0] if has_index else [0, 0, 0])


def test_a_strategy_of_one_channel_leaves_the_others_to_the_app() -> None:
    batch = batch_of([Variant("t", "b", strategy={"apns": 4})], None)
    strategies = compile_options(batch, AppDefaults(strategy=2)).strategies[0]
    assert strategies[Channel.APNS] == 4
    assert strategies[Channel.FCM] == strategies[Channel.NONE] == 2


def test_class_and_category_rule_the_lane_of_a_row() -> None:
    app = AppDefaults(marketing_categories=frozenset({"ads"}))
    assert class_of(Variant("", "", category="ads"), app) is Class.MARKETING
    assert class_of(Variant("", "", class_="marketing"), app) is Class.MARKETING
    assert class_of(Variant("", "", category="news"), app) is Class.SYSTEM
