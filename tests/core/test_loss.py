"""How far rows came and why no further, against one row at a time; and that nothing is lost from the books."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from gateway.core import loss
from gateway.core.loss import CAUSE_CODES, Stage, cause_name, cause_of, causes_of, funnel, stages_of
from gateway.ledger import OPEN_STATES, Channel, Reason, Receipt, State
from gateway.tally import CellColumns

BUCKETS = {"d2", "d3", "d4", "d5", "d6", "d7", "d8", "d10", "d11", "d12", "d13", "d14"}

facts = st.tuples(
    st.sampled_from(list(Channel)),
    st.sampled_from(list(State)),
    st.sampled_from(list(Reason)),
    st.sampled_from(list(Receipt)),
    st.booleans(),
    st.booleans(),
    st.integers(1, 1000),
)


def cells_of(rows: list[tuple]) -> CellColumns:
    columns = list(zip(*rows, strict=True)) or [()] * 7
    return CellColumns(
        *(np.array([int(value) for value in column], np.uint8) for column in columns[:4]),
        *(np.array(column, np.bool_) for column in columns[4:6]),
        np.array(columns[6], np.int64),
    )


def plain_stage(channel: Channel, state: State, reason: Reason, receipt: Receipt, was_sent: bool) -> Stage:
    if receipt is not Receipt.NONE:
        return {
            Receipt.DELIVERED: Stage.DELIVERED,
            Receipt.DISPLAYED: Stage.DISPLAYED,
            Receipt.CLICKED: Stage.CLICKED,
        }[receipt]
    if state is State.DEVICE_ACKED:
        return Stage.DELIVERED
    if state is State.VENDOR_ACCEPTED:
        return Stage.TAKEN
    if was_sent:
        return Stage.SENT
    if state is State.QUEUED and channel is Channel.NONE:
        return Stage.ACCEPTED
    if state not in OPEN_STATES and reason in loss._NOT_ELIGIBLE:
        return Stage.ACCEPTED
    return Stage.ELIGIBLE


def plain_cause(stage: Stage, state: State, reason: Reason, is_closed: bool) -> str:
    if stage is Stage.CLICKED:
        return "nothing_lost"
    if stage is Stage.DISPLAYED:
        return "not_clicked"
    if stage is Stage.DELIVERED:
        return "notifications_closed" if is_closed else "not_displayed"
    if state in OPEN_STATES:
        return state.name.lower()
    if reason is not Reason.NONE:
        return reason.name.lower()
    return "no_receipt" if stage is Stage.TAKEN else state.name.lower()


@given(st.lists(facts, max_size=30))
def test_stages_and_causes_are_those_of_each_row_by_itself(rows: list[tuple]) -> None:
    cells = cells_of(rows)
    stage = stages_of(cells)
    causes = [cause_name(code) for code in causes_of(cells, stage).tolist()]
    expected = [plain_stage(*row[:5]) for row in rows]
    assert stage.tolist() == expected
    assert causes == [plain_cause(at, row[1], row[2], row[5]) for at, row in zip(expected, rows, strict=True)]


@given(st.lists(facts, max_size=30))
def test_the_differences_of_a_funnel_are_the_sums_of_its_losses(rows: list[tuple]) -> None:
    found = funnel(cells_of(rows))
    assert sum(reached[0] for reached in found.reached.values()) == sum(row[6] for row in rows)
    for channel, reached in found.reached.items():
        lost = [
            sum(line.rows for line in found.lines if line.channel == channel and line.stage == stage)
            for stage in Stage
            if stage is not Stage.CLICKED
        ]
        assert [before - after for before, after in itertools.pairwise(reached)] == lost
        # From the first row of the funnel to its last one.
        assert reached[0] - sum(lost) == reached[-1]
    assert not [line for line in found.lines if line.stage is Stage.CLICKED or line.rows <= 0]


def test_lines_stand_by_stage_the_largest_first_with_bucket_and_advice() -> None:
    found = funnel(
        cells_of(
            [
                (Channel.APNS, State.FAILED, Reason.TOKEN_DEAD, Receipt.NONE, True, False, 3),
                (Channel.APNS, State.FAILED, Reason.REJECTED_BY_VENDOR, Receipt.NONE, True, False, 5),
                (Channel.NONE, State.DROPPED, Reason.UNKNOWN_DEVICE, Receipt.NONE, False, False, 2),
                (Channel.APNS, State.QUEUED, Reason.RETRY, Receipt.NONE, True, False, 1),
            ]
        )
    )
    assert [(line.stage, line.cause, line.bucket, line.rows, line.is_open) for line in found.lines] == [
        (Stage.ACCEPTED, "unknown_device", "d13", 2, False),
        (Stage.SENT, "rejected_by_vendor", "d11", 5, False),
        (Stage.SENT, "token_dead", "d5", 3, False),
        (Stage.SENT, "queued", "", 1, True),
    ]
    assert all(line.advice for line in found.lines)
    assert found.reached == {"none": [2, 0, 0, 0, 0, 0, 0], "apns": [9, 9, 9, 0, 0, 0, 0]}


def test_every_reason_has_a_bucket_and_one_line_of_advice() -> None:
    assert not [reason for reason in Reason if reason not in loss._CAUSES]
    for cause in (loss._CAUSES[reason] for reason in Reason):
        assert cause.bucket in BUCKETS
        assert 10 < len(cause.advice) <= 80
        assert "\n" not in cause.advice


def test_causes_have_names_of_their_own_and_codes_that_fit_beside_reasons() -> None:
    assert max(Reason) < loss._OPEN
    assert len(set(CAUSE_CODES.values())) == len(CAUSE_CODES)
    assert all(cause_name(code) == name for name, code in CAUSE_CODES.items())
    assert all(cause_of(code).bucket == "" for name, code in CAUSE_CODES.items() if name in ("held", "waiting"))
