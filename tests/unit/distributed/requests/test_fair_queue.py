"""FairQueue: workers take work in order of arrival, but no kind of work occupies all places."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator.distributed.requests import FairQueue
from tests.unit.virtual_time import in_virtual_time

KINDS = ("a", "b", "c", "d")
STEPS = st.lists(st.tuples(st.sampled_from(["put", "take", "done"]), st.sampled_from(KINDS)), max_size=60)

LENDING_STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "take", "done", "borrow", "give back"]), st.sampled_from(KINDS)), max_size=60
)


async def taken(queue: FairQueue[int]) -> tuple[str, int] | None:
    """Take the next work if it may begin now; else return `None`."""
    taking = asyncio.ensure_future(queue.take())
    for _ in range(3):
        await asyncio.sleep(0)
    if taking.done():
        return taking.result()
    taking.cancel()
    await asyncio.wait({taking})
    return None


async def borrowed(queue: FairQueue[int]) -> bool:
    """Borrow a place if one may be lent now, and return whether it was."""
    borrowing = asyncio.ensure_future(queue.borrow())
    for _ in range(3):
        await asyncio.sleep(0)
    if borrowing.done():
        return True
    borrowing.cancel()
    await asyncio.wait({borrowing})
    return False


@given(STEPS, st.integers(2, 20))
def test_an_idle_kind_gets_a_place_at_once_although_another_kind_is_busy(
    steps: list[tuple[str, str]], places: int
) -> None:
    async def check() -> None:
        queue, running = FairQueue[int](KINDS, places), Counter[str]()
        for number, (step, kind) in enumerate(steps):
            if step == "put":
                queue.put(kind, number)
            elif step == "done" and running[kind]:
                running[kind] -= 1
                queue.done(kind)
            elif step == "take" and (found := await taken(queue)):
                running[found[0]] += 1
            assert running.total() <= places
        for kind in KINDS:  # only one kind has running work, and could take all places
            while running[kind] and kind != "a":
                running[kind] -= 1
                queue.done(kind)
        queue.clear()
        for number in range(places):
            queue.put("a", number)
        while await taken(queue):
            pass
        queue.put("b", 1)
        assert await taken(queue) == ("b", 1)

    asyncio.run(check())


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "take", "done", "borrow", "give back"]), st.sampled_from(KINDS)), max_size=60
    ),
    st.integers(1, 20),
)
def test_an_idle_kind_gets_a_place_at_once_although_other_work_borrows_all_that_it_can(
    steps: list[tuple[str, str]], places: int
) -> None:
    async def check() -> None:
        queue, running, lent = FairQueue[int](KINDS, places), Counter[str](), 0
        for number, (step, kind) in enumerate(steps):
            if step == "put":
                queue.put(kind, number)
            elif step == "done" and running[kind]:
                running[kind] -= 1
                queue.done(kind)
            elif step == "take" and (found := await taken(queue)):
                running[found[0]] += 1
            elif step == "borrow":
                lent += await borrowed(queue)
            elif step == "give back" and lent:
                lent -= 1
                queue.give_back()
            assert running.total() + lent <= places
        for kind in KINDS:
            while running[kind]:
                running[kind] -= 1
                queue.done(kind)
        queue.clear()
        while await borrowed(queue):
            lent += 1
        queue.put("b", 1)
        assert (await taken(queue) is not None) == (lent < places)
        assert lent < places or places < 4

    asyncio.run(check())


@pytest.mark.parametrize("places", [1, 2, 3, 4, 16])
async def test_other_work_gets_a_place_although_work_of_this_queue_never_ends_waiting(places: int) -> None:
    queue = FairQueue[int](["a", "b"], places)
    for number in range(100):
        queue.put("ab"[number % 2], number)
    busy = [await taken(queue) for _ in range(places)]
    borrowing = asyncio.ensure_future(queue.borrow())
    for _ in range(10):
        for kind, _number in [found for found in busy if found is not None]:
            queue.done(kind)
        busy = [await taken(queue) for _ in range(places)]
    assert borrowing.done()


@given(st.lists(st.sampled_from(KINDS), max_size=30))
def test_work_is_taken_in_the_order_of_its_arrival(kinds: list[str]) -> None:
    async def check() -> None:
        queue = FairQueue[int](KINDS, 1)
        for number, kind in enumerate(kinds):
            queue.put(kind, number)
        for number, kind in enumerate(kinds):
            assert await taken(queue) == (kind, number)
            assert await taken(queue) is None
            queue.done(kind)

    asyncio.run(check())


async def test_a_kind_alone_takes_all_places_except_the_reserved_ones() -> None:
    for kinds, places, expected in ((["a"], 16, 16), (KINDS, 16, 14), (KINDS, 8, 7), (KINDS, 2, 1), (KINDS, 1, 1)):
        queue = FairQueue[int](kinds, places)
        for number in range(places):
            queue.put("a", number)
        count = 0
        while await taken(queue):
            count += 1
        assert count == expected


async def test_a_waiting_worker_is_woken_each_time_a_place_becomes_free() -> None:
    for places in (1, 3):
        queue = FairQueue[int](["a"], places)
        for number in range(places + 2):
            queue.put("a", number)
        for number in range(places):
            assert await queue.take() == ("a", number)
        for number in (places, places + 1):
            waiting = asyncio.ensure_future(queue.take())
            await asyncio.sleep(0)
            assert not waiting.done()
            queue.done("a")
            async with asyncio.timeout(5):
                assert await waiting == ("a", number)


async def test_a_waiting_worker_is_woken_each_time_work_arrives() -> None:
    queue = FairQueue[int](["a", "b"], 3)
    for number, kind in enumerate(("a", "b")):
        waiting = asyncio.ensure_future(queue.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.put(kind, number)
        async with asyncio.timeout(5):
            assert await waiting == (kind, number)


async def test_the_newest_item_of_the_longest_line_makes_room_for_a_shorter_line() -> None:
    queue = FairQueue[int](["a", "b"], 1)
    for number in range(5):
        queue.put("a", number)
    assert queue.drop_newest("a") is None
    assert queue.drop_newest("b") == 4
    queue.put("b", 9)
    assert sorted(queue) == [0, 1, 2, 3, 9]
    assert queue.drop(lambda item: item == 0) == [0]
    assert queue.clear() == [1, 2, 3, 9]
    assert len(queue) == 0


async def test_the_newest_removable_items_of_a_line_that_is_too_long_are_removed() -> None:
    queue = FairQueue[int](["a"], 1)
    for number in range(6):
        queue.put("a", number)
    assert [queue.remove_newest("a", 4, lambda _: True) for _ in range(3)] == [5, 4, None]
    assert [queue.remove_newest("a", 1, lambda number: number != 2) for _ in range(4)] == [3, 1, 0, None]
    assert [*queue] == [2]
    for number in (6, 7, 8):
        queue.put("a", number)
    assert queue.remove_newest("a", 2, lambda number: number == 2) == 2
    assert queue.remove_newest("a", 2, lambda _: True) == 8
    assert [*queue] == [6, 7]


@in_virtual_time
async def test_a_kind_is_stuck_when_it_waits_for_its_own_work_and_none_started_or_ended_recently() -> None:
    queue = FairQueue[int](["a", "b"], 2)
    for number in range(4):
        queue.put("a", number)
    assert queue.stuck(0) == []
    await queue.take()
    await asyncio.sleep(1.9)
    assert queue.stuck(2) == []
    await asyncio.sleep(0.2)
    assert queue.stuck(2) == ["a"]
    queue.done("a")
    await queue.take()
    assert queue.stuck(2) == []
    queue.put("b", 9)
    await asyncio.sleep(3)
    assert queue.stuck(2) == ["a"]
    assert queue.remove_newest("a", 1, lambda number: number != 3) == 2
    assert queue.remove_newest("a", 1, lambda _: True) is None
    assert sorted(queue) == [3, 9]


@in_virtual_time
async def test_a_kind_whose_work_has_just_ended_is_not_stuck_although_another_kind_took_its_place() -> None:
    queue = FairQueue[int](["a", "b"], 4)
    for number, kind in enumerate("aabbbaa"):
        queue.put(kind, number)
    assert [(await queue.take())[0] for _ in range(4)] == ["a", "a", "b", "b"]
    await asyncio.sleep(10)
    assert queue.stuck(2) == ["a", "b"]
    queue.done("a")
    assert await queue.take() == ("b", 4)
    assert queue.stuck(2) == []
    await asyncio.sleep(2)
    assert queue.stuck(2) == ["a"]


async def test_no_place_is_reserved_for_an_unnamed_kind() -> None:
    queue = FairQueue[int](["a"], 16)
    queue.put("stranger", 0)
    assert await taken(queue) == ("stranger", 0)
    queue.done("stranger")
    for number in range(16):
        queue.put("a", number)
    assert len([number for number in range(16) if await taken(queue)]) == 16


@in_virtual_time
async def test_a_kind_that_gets_no_place_for_some_time_is_stuck() -> None:
    queue = FairQueue[int](["a", "b"], 1)
    queue.put("b", 0)
    await queue.take()
    queue.done("b")
    queue.put("a", 1)
    await queue.take()
    for kind in ("b", "stranger"):
        await asyncio.sleep(1000)  # no work waits
        queue.put(kind, 2)
        assert queue.stuck(2) == []
        await asyncio.sleep(1.9)
        queue.put(kind, 3)  # does not restart the waiting time of the first item
        assert queue.stuck(2) == []
        await asyncio.sleep(0.2)
        assert queue.stuck(2) == [kind]
        queue.clear()


@in_virtual_time
async def test_new_work_of_a_kind_that_already_hangs_is_stuck_at_once() -> None:
    queue = FairQueue[int](["a", "b"], 2)
    queue.put("a", 0)
    await queue.take()
    await asyncio.sleep(10)  # the handler of `a` hangs, and no work waits
    for number in (1, 2, 3):
        queue.put("a", number)
        assert queue.stuck(2) == ["a"]
        assert queue.remove_newest("a", 0, lambda _: True) == number
    queue.put("a", 4)
    queue.done("a")
    assert await queue.take() == ("a", 4)
    queue.put("a", 5)
    assert queue.stuck(2) == []
