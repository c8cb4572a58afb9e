"""Shadow: rows of another home behave here as our own do, and their home hears of every change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import message_id
from gateway.batch import Batch, TaskSegment
from gateway.columns import TextColumn
from gateway.content import Variant
from gateway.core.holders import PATHS
from gateway.core.outcomes import burst_at_home
from gateway.core.shadow import KEEP_S, Life, ShadowPage, Shadows
from gateway.core.slices import cut_batch, cut_segments
from gateway.ledger import LEGAL_MOVES, NO_VERDICT, Burst, Channel, LedgerPage, Reason, Receipt, State
from gateway.message_id import SEQUENCES_MAX, BatchAddress

SECRET = b"message id secret"
HOME = Life(3, 7)
ADDRESS = BatchAddress(1_700_000_000_000, 5, 77)


def make_batch(n: int, *, variants: int = 1, seed: int = 0, born: float = 100.0) -> Batch:
    """Every third row's target is a token; each row has a text of its own."""
    random = np.random.default_rng(seed)
    is_token = np.arange(n) % 3 == 0
    return Batch(
        ADDRESS,
        1,
        born,
        n,
        device_ids=random.integers(0, 256, (n, 16), np.uint8),
        message_ids=np.zeros((n, 16), np.uint8),
        variants=[Variant("title", f"body {number}", ttl_s=60 + number) for number in range(variants)],
        variant_index=random.integers(0, variants, n).astype(np.uint16) if variants > 1 else None,
        channels=np.where(is_token, Channel.APNS, 0).astype(np.uint8),
        tokens=TextColumn.from_rows([b"token %d" % row if is_token[row] else b"" for row in range(n)]),
        variables={"name": TextColumn.from_rows([b"name %d" % row for row in range(n)])},
    )


def open_shadow(n: int = 6, rows: list[int] | None = None) -> tuple[Shadows, ShadowPage]:
    shadows = Shadows(SECRET)
    positions = np.arange(n) if rows is None else np.array(rows)
    batch = cut_batch(make_batch(int(positions.max()) + 1), positions)
    return shadows, shadows.open(HOME, batch, positions.astype(np.uint16), 100)


@given(st.integers(1, 40), st.integers(1, 5), st.data())
def test_cut_rows_are_those_of_the_batch(n: int, variants: int, data: Any) -> None:
    batch = make_batch(n, variants=variants)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1))))
    part = cut_batch(batch, rows)
    assert part.n == len(rows)
    assert part.address == batch.address
    assert len(part.variants) <= len(batch.variants)
    assert part.channels is not None
    assert batch.channels is not None
    assert part.tokens is not None
    assert batch.tokens is not None
    for at, row in enumerate(rows.tolist()):
        assert part.variant_of(at) == batch.variant_of(row)
        assert part.device_ids[at].tobytes() == batch.device_ids[row].tobytes()
        assert part.channels[at] == batch.channels[row]
        assert part.tokens.row(at) == batch.tokens.row(row)
        assert part.variables["name"].row(at) == batch.variables["name"].row(row)
    if part.variant_index is None:
        assert len(part.variants) == 1
    else:
        assert set(part.variant_index.tolist()) == set(range(len(part.variants)))


def test_shadow_has_its_homes_message_ids_and_a_number_no_batch_has() -> None:
    _, page = open_shadow(rows=[2, 5, 9])
    wanted = message_id.encode_rows(SECRET, ADDRESS, np.array([2, 5, 9]))
    assert page.batch.message_ids[np.arange(3)].tobytes() == wanted.tobytes()
    assert page.batch.address.sequence >= SEQUENCES_MAX
    assert page.home_address == ADDRESS
    assert page.batch.born_unix_ms == ADDRESS.unix_ms


@pytest.mark.parametrize("home_rows", [[0, 1], [0, 2, 1], [0, 0, 1]])
def test_slice_whose_rows_do_not_fit_is_refused(home_rows: list[int]) -> None:
    batch = cut_batch(make_batch(3), np.arange(3))
    with pytest.raises(ValueError, match="expected as many, rising"):
        Shadows(SECRET).open(HOME, batch, np.array(home_rows, np.uint16), 100)


def test_report_holds_what_changed_since_the_last_one_once_however_often_it_changed() -> None:
    shadows, page = open_shadow(rows=[2, 5, 9])
    assert shadows.take_news(HOME, 0.0) is None
    rows = np.array([0, 2])
    for state in (State.IN_FLIGHT, State.WAITING, State.QUEUED, State.IN_FLIGHT, State.VENDOR_ACCEPTED):
        came = page.move(rows, state)
        page.moved(rows, state, came, 101.0)
    news = shadows.take_news(HOME, 0.0)
    assert news is not None
    assert news[2].rows.tolist() == [2, 9]
    assert news[2].state.tolist() == [State.VENDOR_ACCEPTED] * 2
    assert news[2].final_ms.tolist() == [1000, 1000]
    assert shadows.take_news(HOME, 0.0) is None
    assert shadows.rows_open == 1


def leave(page: ShadowPage, rows: list[int]) -> None:
    which = np.array(rows)
    page.moved(which, State.IN_FLIGHT, page.move(which, State.IN_FLIGHT), 101.0)


def acknowledge(page: ShadowPage, rows: list[int]) -> None:
    which = np.array(rows)
    page.moved(which, State.DEVICE_ACKED, page.move(which, State.DEVICE_ACKED), 101.0)


def test_that_a_row_has_left_is_told_with_what_becomes_of_it_or_with_all_late_news() -> None:
    shadows, page = open_shadow(n=4)
    told: list[bool] = []
    shadows.on_late = lambda life, is_some: told.append(is_some)
    leave(page, [0, 1])
    leave(page, [2])
    assert told == [True]
    assert shadows.has_news(HOME)
    assert shadows.take_news(HOME, 0.0) is None
    acknowledge(page, [1])
    first = shadows.take_news(HOME, 0.0)
    assert first is not None
    assert (first[2].rows.tolist(), first[2].state.tolist()) == ([1], [State.DEVICE_ACKED])
    assert shadows.take_news(HOME, 0.0) is None
    second = shadows.take_news(HOME, 0.0, with_late=True)
    assert second is not None
    assert (second[2].rows.tolist(), second[2].state.tolist()) == ([0, 2], [State.IN_FLIGHT] * 2)
    assert told == [True, False]
    assert not shadows.has_news(HOME)
    acknowledge(page, [0, 2])
    assert told == [True, False]


def test_late_news_is_none_any_more_when_all_its_rows_have_other_news() -> None:
    shadows, page = open_shadow(n=3)
    told: list[bool] = []
    shadows.on_late = lambda life, is_some: told.append(is_some)
    leave(page, [0, 2])
    acknowledge(page, [0, 2])
    assert told == [True, False]
    news = shadows.take_news(HOME, 0.0)
    assert news is not None
    assert news[2].rows.tolist() == [0, 2]
    assert shadows.take_news(HOME, 0.0, with_late=True) is None


def test_of_a_batch_that_goes_on_with_a_task_it_is_told_at_once_that_rows_have_left() -> None:
    batch = make_batch(2)
    batch.segments = [TaskSegment(b"t" * 16, 0, 2, "", is_continued=True)]
    shadows = Shadows(SECRET)
    page = shadows.open(HOME, cut_batch(batch, np.arange(2)), np.arange(2, dtype=np.uint16), 100)
    leave(page, [0])
    news = shadows.take_news(HOME, 0.0)
    assert news is not None
    assert news[2].state.tolist() == [State.IN_FLIGHT]


def test_late_news_for_a_home_that_has_died_is_dropped_and_its_next_life_hears_all() -> None:
    shadows, page = open_shadow(n=2)
    leave(page, [0])
    shadows.home_died(HOME)
    assert shadows.rows_for_the_dead == 1
    leave(page, [1])
    assert shadows.rows_for_the_dead == 2
    assert not shadows.has_news(HOME)

    shadows, page = open_shadow(n=2)
    shadows.awaits_home = lambda app: True
    leave(page, [0])
    shadows.home_died(HOME)
    back = HOME._replace(incarnation=HOME.incarnation + 1)
    shadows.adopt(back, {ADDRESS})
    news = shadows.take_news(back, 0.0)
    assert news is not None
    assert news[2].state.tolist() == [State.IN_FLIGHT, State.QUEUED]
    assert not shadows.has_news(back)


def test_bursts_go_home_when_every_row_has_its_answer() -> None:
    shadows, page = open_shadow(rows=[2, 5, 9])
    verdicts = np.array([0, NO_VERDICT], np.uint8)
    rows = np.array([0, 2], np.uint16)
    names = ({1: "BadToken"}, -1, {0: "its request"})
    page.bursts.append(Burst(4, 1, Channel.APNS, 11, rows, 100.5, np.zeros(2, np.uint32), verdicts, *names))
    page.touch(np.array([0]))
    first = shadows.take_news(HOME, 0.0)
    verdicts[1] = 1
    page.touch(np.array([2]))
    second = shadows.take_news(HOME, 0.0)
    assert first is not None
    assert second is not None
    assert first[2].bursts == []
    (burst,) = second[2].bursts
    assert (burst.rows.tolist(), burst.issued_ms, burst.names) == ([2, 9], 500, {1: "BadToken"})
    assert burst_at_home(burst, 100.0).request_ids == {0: "its request"}
    assert page.bursts == []


def test_rows_may_leave_when_the_report_of_them_is_out_and_whoever_waits_is_rung() -> None:
    shadows, page = open_shadow()
    rung: list[int] = []
    rows = np.array([1, 2])
    page.announce(rows)
    assert not page.may_leave(rows, lambda: rung.append(1))
    news = shadows.take_news(HOME, 0.0)
    assert news is not None
    assert news[2].is_announced.all()
    assert not page.may_leave(rows, lambda: rung.append(2))
    page.told(news[1])
    assert rung == [1, 2]
    assert page.may_leave(rows, lambda: rung.append(3))
    assert not page.may_leave(np.array([0, 1]), lambda: rung.append(4))


def test_row_that_got_its_answer_is_announced_anew_before_its_next_attempt() -> None:
    shadows, page = open_shadow()
    rows = np.array([1])
    page.announce(rows)
    news = shadows.take_news(HOME, 0.0)
    assert news is not None
    page.told(news[1])
    for state in (State.IN_FLIGHT, State.WAITING):
        page.moved(rows, state, page.move(rows, state), 101.0)
    news = shadows.take_news(HOME, 0.0)
    assert news is not None
    assert not news[2].is_announced.any()
    page.told(news[1])
    page.moved(rows, State.QUEUED, page.move(rows, State.QUEUED), 102.0)
    page.announce(rows)
    assert not page.may_leave(rows, lambda: None)


def test_news_for_a_home_that_died_are_counted_and_dropped_and_its_rows_go_on() -> None:
    shadows, page = open_shadow()
    rung: list[int] = []
    page.announce(np.array([0]))
    assert not page.may_leave(np.array([0]), lambda: rung.append(1))
    assert shadows.home_died(HOME) == 6
    assert rung == [1]
    assert page.may_leave(np.array([0]), lambda: None)
    assert shadows.rows_for_the_dead == 1
    rows = np.arange(6)
    page.moved(rows, State.DROPPED, page.move(rows, State.DROPPED, Reason.NO_CHANNEL), 101.0)
    assert shadows.rows_for_the_dead == 7
    assert shadows.take_news(HOME, 0.0) is None
    assert (shadows.rows_open, len(shadows)) == (0, 0)


def test_ended_shadow_stays_for_late_receipts_and_then_goes() -> None:
    shadows, page = open_shadow(n=2)
    sequence = page.batch.address.sequence
    rows = np.arange(2)
    page.moved(rows, State.DROPPED, page.move(rows, State.DROPPED, Reason.NO_CHANNEL), 101.0)
    assert shadows.take_news(HOME, 10.0) is not None
    assert shadows.get(sequence) is page
    page.receipt[0] = Receipt.DELIVERED
    page.touch(rows[:1])
    late = shadows.take_news(HOME, 10.0 + KEEP_S)
    assert late is not None
    assert late[2].receipt.tolist() == [Receipt.DELIVERED]
    assert shadows.get(sequence) is None


def test_every_pair_of_states_that_moves_connect_has_a_way_of_legal_moves() -> None:
    for (start, end), way in PATHS.items():
        assert way[-1] is end
        for at, to in zip((start, *way), way, strict=False):
            assert LEGAL_MOVES[at, to]
    # What a report may leave out: everything between queued and any end.
    assert {end for start, end in PATHS if start is State.QUEUED} == set(State) - {State.QUEUED}


def test_pages_of_this_worker_are_no_shadows() -> None:
    assert not isinstance(LedgerPage(make_batch(1)), ShadowPage)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    data=st.data(),
)
def test_rows_of_a_slice_know_their_tasks_as_one_by_one(sizes: list[int], data: st.DataObject) -> None:
    n = sum(sizes)
    rows = data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True).map(sorted))
    firsts = np.cumsum([0, *sizes[:-1]]).tolist()
    segments = [TaskSegment(bytes([at]) * 16, firsts[at], size) for at, size in enumerate(sizes)]
    plain = [next(s.task_id for s in segments if s.first <= row < s.first + s.n) for row in rows]
    cut = cut_segments(segments, np.array(rows))
    assert [task for segment in cut for task in [segment.task_id] * segment.n] == plain
    assert [segment.first for segment in cut] == np.cumsum([0, *(segment.n for segment in cut[:-1])]).tolist()


def open_durable() -> tuple[Shadows, ShadowPage]:
    """A slice of an app whose home keeps a journal on the disk."""
    shadows = Shadows(b"message id secret")
    shadows.awaits_home = lambda _app: True
    return shadows, shadows.open(HOME, make_batch(6), np.arange(6, dtype=np.uint16) * 2, 10)


def test_rows_of_a_durable_home_leave_when_it_answers_what_they_were_announced_under() -> None:
    shadows, page = open_durable()
    rung: list[int] = []
    first, second = np.array([0, 1]), np.array([3])
    page.announce(first)
    page.announce(second)
    news = shadows.take_news(HOME, 0.0)
    assert news is not None
    numbers = [(number, rows.tolist()) for number, rows in news[2].questions]
    assert [rows for _, rows in numbers] == [[0, 2], [6]]
    # That the report is out says nothing.
    page.told(news[1])
    assert not page.may_leave(first, lambda: rung.append(1))
    shadows.answered(HOME, numbers[1][0])
    assert rung == [1]
    assert (page.may_leave(first, lambda: None), page.may_leave(second, lambda: None)) == (False, True)
    shadows.answered(HOME, numbers[0][0])
    assert page.may_leave(np.array([0, 1, 3]), lambda: None)
    # What was asked is asked once.
    page.touch(np.arange(6))
    news = shadows.take_news(HOME, 0.0)
    assert news is not None
    assert not news[2].questions


def test_an_answer_is_about_the_announcement_that_it_names_and_no_later_one() -> None:
    shadows, page = open_durable()
    rows = np.array([2])
    page.announce(rows)
    news = shadows.take_news(HOME, 0.0)
    assert news is not None
    (question,) = news[2].questions
    page.stay_here(rows)
    page.announce(rows)
    shadows.answered(HOME, question.number)
    assert not page.may_leave(rows, lambda: None)
    # Nor does a row that ended keep the rest of its burst back.
    page.moved(rows, State.CANCELLED, page.move(rows, State.CANCELLED), 101.0)
    assert page.may_leave(rows, lambda: None)


def test_rows_of_a_durable_home_that_is_down_wait_and_are_announced_anew_when_it_is_back() -> None:
    shadows, page = open_durable()
    sent, waits, asked = np.array([0]), np.array([1]), np.array([2])
    for rows in (sent, asked):
        page.announce(rows)
    news = shadows.take_news(HOME, 0.0)
    assert news is not None
    numbers = [question.number for question in news[2].questions]
    shadows.answered(HOME, numbers[0])
    page.moved(sent, State.IN_FLIGHT, page.move(sent, State.IN_FLIGHT), 101.0)
    shadows.home_died(HOME)
    page.announce(waits)
    assert page.waits_for_home
    # An answer that was under way when the home died comes from nobody.
    shadows.answered(HOME, numbers[1])
    assert not page.may_leave(asked, lambda: None)
    assert not page.may_leave(waits, lambda: None)
    back = Life(HOME.worker, HOME.incarnation + 1)
    shadows.adopt(back, {page.home_address})
    assert not page.waits_for_home
    assert page.is_announced.tolist() == [True] + [False] * 5
    assert not page.is_announced_whole(np.array([1, 2]))
    # All of it is reported; what left is known to have left, and nothing is asked of it.
    news = shadows.take_news(back, 0.0)
    assert news is not None
    assert (len(news[1]), len(news[2].questions)) == (6, 0)
    page.announce(waits)
    news = shadows.take_news(back, 0.0)
    assert news is not None
    assert [rows.tolist() for _, rows in news[2].questions] == [[2]]


def test_rows_that_the_next_life_of_their_home_does_not_know_go_on() -> None:
    shadows, page = open_durable()
    page.announce(np.array([0]))
    shadows.home_died(HOME)
    rung: list[int] = []
    assert not page.may_leave(np.array([0]), lambda: rung.append(1))
    shadows.adopt(Life(HOME.worker, HOME.incarnation + 1), set())
    assert rung == [1]
    assert page.may_leave(np.array([0]), lambda: None)
