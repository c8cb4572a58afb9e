"""The inbox's part of the contract of the store ports; see contract.py."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from contract import CUTS, EPOCH, Cut, EpochsContract, ids_of, tags_of, together
from hypothesis import given

from gateway.batch import OwnershipEpoch
from gateway.store.ports import Inbox, InboxCount, InboxQuery, InboxRows, Kept

DEVICES = [bytes([number]) * 16 for number in range(3)]
FAR_UNIX_MS = 4_000_000_000_000


def rows_for(pairs: list[tuple[int, int]]) -> InboxRows:
    """pairs: (device, tag)."""
    ids = ids_of([DEVICES[device] for device, _ in pairs])
    tags = tags_of(*(tag for _, tag in pairs))
    return InboxRows(ids, tags, np.full(len(pairs), FAR_UNIX_MS, np.int64))


async def peeked(inbox: Inbox, rows_max: int = 100) -> list[list[int]]:
    return [(await inbox.peek(device, rows_max)).tolist() for device in DEVICES]


inbox_steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 14)), max_size=6)),
        st.tuples(st.just("forget"), st.lists(st.integers(0, 14), max_size=6)),
        st.tuples(st.just("peek"), st.integers(1, 4)),
    ),
    max_size=15,
)


class InboxContract(EpochsContract):
    @abstractmethod
    def open(
        self,
        *,
        rows_per_device_max: int = 100,
        rows_max: int = 1000,
        bytes_per_device_max: int = 1 << 40,
        bytes_max: int = 1 << 40,
    ) -> Inbox: ...

    def writes(self, store: Inbox, epoch: OwnershipEpoch) -> list[Callable[[], Awaitable[Any]]]:
        return [lambda: store.put(epoch, rows_for([(0, 7)])), lambda: store.forget(epoch, tags_of(7))]

    async def content(self, store: Inbox) -> Any:
        return await peeked(store)

    @given(inbox_steps)
    async def test_inbox_agrees_with_lists_in_order_of_arrival(self, steps: list[tuple]) -> None:
        per_device, in_all = 4, 8
        inbox = self.open(rows_per_device_max=per_device, rows_max=in_all)
        model: dict[int, list[int]] = {0: [], 1: [], 2: []}

        def holder(tag: int) -> int | None:
            return next((device for device, tags in model.items() if tag in tags), None)

        for name, argument in steps:
            if name == "put":
                kept, _ = await inbox.put(EPOCH, rows_for(argument))
                expected = []
                for device, tag in argument:
                    is_there = holder(tag) is not None
                    has_room = len(model[device]) < per_device and sum(map(len, model.values())) < in_all
                    if not is_there and has_room:
                        model[device].append(tag)
                    expected.append(int(is_there or has_room))
                assert (kept.dtype, kept.tolist()) == (np.uint8, expected)
            elif name == "forget":
                gone = await inbox.forget(EPOCH, tags_of(*argument))
                assert gone == len({tag for tag in argument if holder(tag) is not None})
                model = {device: [tag for tag in tags if tag not in argument] for device, tags in model.items()}
            else:
                assert await peeked(inbox, argument) == [tags[:argument] for tags in model.values()]
            assert await peeked(inbox) == list(model.values())
            for device, tags in model.items():
                assert inbox.holds(DEVICES[device]) or not tags

    async def test_looking_removes_nothing_and_comes_in_order(self) -> None:
        inbox = self.open()
        await inbox.put(EPOCH, rows_for([(0, 30), (1, 1), (0, 10), (0, 20)]))
        for _ in range(2):
            found = await inbox.peek(DEVICES[0], 2)
            assert (found.dtype, found.tolist()) == (np.int64, [30, 10])
        await inbox.forget(EPOCH, tags_of(30, 10))
        assert (await inbox.peek(DEVICES[0], 2)).tolist() == [20]

    async def test_a_device_without_rows_has_none_and_one_with_rows_is_known_to_hold(self) -> None:
        inbox = self.open()
        assert (await inbox.peek(DEVICES[0], 10)).tolist() == []
        await inbox.put(EPOCH, rows_for([(0, 1)]))
        assert inbox.holds(DEVICES[0])

    async def test_a_put_of_nothing_keeps_nothing(self) -> None:
        inbox = self.open()
        nothing = await inbox.put(EPOCH, InboxRows(np.zeros((0, 16), np.uint8), tags_of(), tags_of()))
        assert nothing.kept.tolist() == nothing.replaced.tolist() == []
        assert await inbox.forget(EPOCH, tags_of()) == 0

    async def test_tags_as_large_as_an_address_are_kept(self) -> None:
        inbox = self.open()
        largest = (1 << 38) - 1
        await inbox.put(EPOCH, rows_for([(0, largest), (0, 0)]))
        assert (await inbox.peek(DEVICES[0], 9)).tolist() == [largest, 0]

    @given(st.integers(0, 5), st.integers(1, 3))
    async def test_a_put_that_is_repeated_stores_no_row_twice(self, cut: int, times: int) -> None:
        inbox = self.open()
        rows = rows_for([(0, 1), (1, 2), (0, 3)])
        await Cut(cut).run(lambda: inbox.put(EPOCH, rows))
        for _ in range(times):
            assert (await inbox.put(EPOCH, rows)).kept.tolist() == [1, 1, 1]
        assert [sorted(tags) for tags in await peeked(inbox)] == [[1, 3], [2], []]

    @pytest.mark.parametrize("cut", CUTS)
    async def test_a_cut_put_or_forget_leaves_only_whole_rows(self, cut: int) -> None:
        inbox = self.open()
        await inbox.put(EPOCH, rows_for([(0, 1), (0, 2)]))
        await Cut(cut).run(lambda: inbox.put(EPOCH, rows_for([(0, 3), (1, 4)])))
        assert {tag for tags in await peeked(inbox) for tag in tags} - {3, 4} == {1, 2}
        await Cut(cut).run(lambda: inbox.forget(EPOCH, tags_of(1, 2)))
        left = [tag for tag in (await peeked(inbox))[0] if tag in (1, 2)]
        assert await inbox.forget(EPOCH, tags_of(1, 2)) == len(left)
        assert not {1, 2} & {tag for tags in await peeked(inbox) for tag in tags}

    async def test_a_row_born_later_takes_the_tag_of_one_that_was_left(self) -> None:
        inbox = self.open()
        for device, born in ((0, 5), (1, 6), (2, 6), (2, 4)):
            rows = rows_for([(device, 7), (device, 8 + device)])
            await inbox.put(EPOCH, rows._replace(born_unix_ms=np.full(2, born, np.int64)))
        assert await peeked(inbox) == [[8], [7, 9], [10]]
        assert len(inbox) == 4

    @pytest.mark.parametrize("cut", CUTS)
    async def test_a_cut_look_removes_nothing(self, cut: int) -> None:
        inbox = self.open()
        await inbox.put(EPOCH, rows_for([(0, 1), (0, 2)]))
        await Cut(cut).run(lambda: inbox.peek(DEVICES[0], 1))
        assert (await peeked(inbox))[0] == [1, 2]

    async def test_calls_side_by_side_lose_and_double_nothing(self) -> None:
        inbox = self.open()
        puts = [rows_for([(device, 10 * call + device) for device in range(3)]) for call in range(5)]
        await together(*(lambda rows=rows: inbox.put(EPOCH, rows) for rows in puts))
        assert [sorted(tags) for tags in await peeked(inbox)] == [[10 * c + d for c in range(5)] for d in range(3)]
        answers = await together(*(lambda: inbox.forget(EPOCH, tags_of(0, 10, 20)) for _ in range(3)))
        assert sum(answers) == 3
        assert (await peeked(inbox))[0] == [30, 40] or sorted((await peeked(inbox))[0]) == [30, 40]

    async def test_room_that_became_free_is_used_again(self) -> None:
        inbox = self.open(rows_per_device_max=2, rows_max=3)
        assert (await inbox.put(EPOCH, rows_for([(0, 1), (0, 2), (0, 3), (1, 4), (2, 5)]))).kept.tolist() == [
            1,
            1,
            0,
            1,
            0,
        ]
        await inbox.forget(EPOCH, tags_of(1))
        assert (await inbox.put(EPOCH, rows_for([(0, 3), (2, 5)]))).kept.tolist() == [1, 0]
        assert await peeked(inbox) == [[2, 3], [4], []]

    @given(
        st.lists(
            st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 4)), max_size=4).map(
                lambda rows: list(dict.fromkeys(rows))
            ),
            max_size=5,
        )
    )
    async def test_of_one_collapse_id_the_newest_by_submit_time_stays(self, calls: list) -> None:
        """Rows: (device, collapse, born). Without one (0) nothing is replaced."""
        inbox = self.open()
        model: dict[int, list[tuple[int, int, int]]] = {0: [], 1: []}
        number = 0
        for call in calls:
            tags, kept, replaced = [], [], set()
            for device, collapse, born in call:
                number += 1
                tags.append(number)
                same = [one for one in model[device] if collapse and one[1] == collapse]
                if any(one[2] > born for one in same):
                    kept.append(Kept.SUPERSEDED)
                    continue
                for one in same:
                    model[device].remove(one)
                    if one[0] in tags:
                        kept[tags.index(one[0])] = Kept.SUPERSEDED
                    else:
                        replaced.add(one[0])
                model[device].append((number, collapse, born))
                kept.append(Kept.YES)
            ids = ids_of([DEVICES[device] for device, _, _ in call]) if call else np.zeros((0, 16), np.uint8)
            rows = InboxRows(
                ids,
                tags_of(*tags),
                tags_of(*[FAR_UNIX_MS] * len(call)),
                born_unix_ms=tags_of(*(born for _, _, born in call)),
                collapse=tags_of(*(collapse for _, collapse, _ in call)),
            )
            answer = await inbox.put(EPOCH, rows)
            assert (answer.kept.tolist(), set(answer.replaced.tolist())) == (kept, replaced)
            assert (await peeked(inbox))[:2] == [[one[0] for one in model[device]] for device in (0, 1)]

    async def test_bytes_are_bounded_per_device_and_in_all(self) -> None:
        inbox = self.open(bytes_per_device_max=10, bytes_max=18)

        def rows(*given: tuple[int, int, int]) -> InboxRows:
            pairs = [(device, tag) for device, tag, _ in given]
            return rows_for(pairs)._replace(sizes=tags_of(*(size for _, _, size in given)))

        assert (await inbox.put(EPOCH, rows((0, 1, 6), (0, 2, 4), (0, 3, 1), (1, 4, 8), (2, 5, 1)))).kept.tolist() == [
            1, 1, 0, 1, 0,
        ]  # fmt: skip
        assert (await inbox.put(EPOCH, rows((2, 6, 0)))).kept.tolist() == [1]
        await inbox.forget(EPOCH, tags_of(1))
        assert (await inbox.put(EPOCH, rows((0, 7, 7), (2, 8, 6)))).kept.tolist() == [0, 1]
        assert await inbox.count(InboxQuery()) == InboxCount(4, 18, 3)

    async def test_a_search_for_no_rows_finds_none(self) -> None:
        inbox = self.open()
        await inbox.put(EPOCH, rows_for([(0, 7)]))
        for query in (InboxQuery(), InboxQuery(device_id=DEVICES[0]), InboxQuery(tags=[(0, 9)])):
            found = await inbox.find(query, 0)
            assert [len(column) for column in found] == [0] * 6
            assert found.device_ids.shape == (0, 16)

    async def test_rows_are_counted_and_found_by_app_device_task_age_and_deadline(self) -> None:
        inbox = self.open()
        n = 12
        tags = np.arange(100, 100 + n)
        rows = InboxRows(
            ids_of([DEVICES[number % 3] for number in range(n)]),
            tags,
            5000 + tags,
            apps=tags % 2,
            born_unix_ms=1000 + tags,
            sizes=tags - 99,
        )
        await inbox.put(EPOCH, rows)

        def expected(is_asked_for: Callable[[int], bool]) -> list[int]:
            return [int(tag) for tag in tags if is_asked_for(int(tag))]

        for query, is_asked_for in [
            (InboxQuery(), lambda tag: True),
            (InboxQuery(app=1), lambda tag: tag % 2 == 1),
            (InboxQuery(app=2), lambda tag: False),
            (InboxQuery(device_id=DEVICES[1]), lambda tag: (tag - 100) % 3 == 1),
            (InboxQuery(device_id=bytes([9]) * 16), lambda tag: False),
            (InboxQuery(tags=[(100, 102), (110, 200)]), lambda tag: tag <= 102 or tag >= 110),
            (InboxQuery(tags=[]), lambda tag: False),
            (InboxQuery(born_before_unix_ms=1104), lambda tag: tag < 104),
            (InboxQuery(over_at_unix_ms=5104), lambda tag: tag <= 104),
            (InboxQuery(app=0, born_before_unix_ms=1106, first_tag=103), lambda tag: tag % 2 == 0 and 103 <= tag < 106),
        ]:
            wanted = expected(is_asked_for)
            found = await inbox.find(query, 100)
            assert found.tags.tolist() == wanted
            assert (found.deadlines_unix_ms - found.tags).tolist() == [5000] * len(wanted)
            assert found.born_unix_ms.tolist() == [1000 + tag for tag in wanted]
            assert found.apps.tolist() == [tag % 2 for tag in wanted]
            assert [one.tobytes() for one in found.device_ids] == [DEVICES[(tag - 100) % 3] for tag in wanted]
            assert (await inbox.find(query, 2)).tags.tolist() == wanted[:2]
            counted = await inbox.count(query)
            assert counted[:2] == (len(wanted), sum(tag - 99 for tag in wanted))
            assert counted.devices == len({(tag - 100) % 3 for tag in wanted})
