"""Measuring: twice the work takes twice the time, and all contenders do the same work."""

import asyncio
import inspect
import time

import pytest

from mediator import Mediator
from tests.benchmarks.application import Rename, Renamed, publishing, sending, started
from tests.benchmarks.by_hand import WRITTEN, publishing_by_hand, sending_by_hand
from tests.benchmarks.measuring import DEPTHS, SLICE, Times, measure
from tests.benchmarks.peers import installed_peers

pytestmark = pytest.mark.thorough("measures")


async def work(count: int) -> None:
    for _ in range(count):
        sum(range(100))


async def twice_the_work(count: int) -> None:
    for _ in range(count):
        sum(range(100))
        sum(range(100))


@pytest.mark.alone
def test_twice_the_work_takes_twice_the_time():
    times = measure({"once": work, "twice": twice_the_work}, 10)
    assert 1.5 < times.best_ratio("twice", "once") < 2.7


def test_work_with_a_slow_start_fills_its_slices_too():
    counts: list[int] = []

    async def slow_at_first(count: int) -> None:
        if not counts:
            until = time.thread_time() + SLICE
            while time.thread_time() < until:
                pass
        counts.append(count)
        await work(count)

    measure({"slow at first": slow_at_first, "work": work}, 1)
    assert counts[-1] > 100


def test_the_rounds_begin_at_several_depths_of_the_stack():
    depths: set[int] = set()

    async def note_depth(count: int) -> None:
        frame, depth = inspect.currentframe(), 0
        while frame is not None:
            frame, depth = frame.f_back, depth + 1
        depths.add(depth)
        await work(count)

    measure({"work": note_depth}, len(DEPTHS))
    assert {depth - min(depths) for depth in depths} >= set(DEPTHS)


async def test_measuring_refuses_work_that_waits():
    with pytest.raises(RuntimeError, match="waited for something"):
        measure({"waits": asyncio.sleep}, 1)


def test_ratios_are_computed_per_round_as_median_and_best():
    times = Times({"a": [2.0, 9.0, 4.0], "b": [1.0, 3.0, 4.0]})
    assert (times.typical("a"), times.ratio("a", "b"), times.best_ratio("a", "b")) == (4.0, 2.0, 2.0)


async def test_compared_applications_have_the_same_number_of_behaviors_and_handlers():
    for behaviors in WRITTEN:
        container = sending(behaviors)
        mediator: Mediator = started(container)
        assert len(mediator.registry.pipeline(Rename).behaviors) == behaviors
        await sending_by_hand(container, behaviors, Rename("Ada"))(2)
    for handlers in (1, 5):
        container = publishing(handlers)
        assert len(started(container).registry.pipeline(Renamed).handlers) == handlers
        await publishing_by_hand(container, handlers, Renamed("Ada"))(2)


async def test_every_peer_that_is_installed_can_be_set_up():
    for peer in installed_peers():
        await peer.set_up(3)(2)
