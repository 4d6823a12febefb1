"""Concurrency limits: at most a given number of messages run at a time, in order of arrival, and no place is lost."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import Mediator, TransactionMode
from mediator.behaviors import ConcurrencyLimitBehavior
from mediator.errors import ConcurrencyLimitedError, SettingError
from tests.unit.samples import CountStudents, EnrollStudent, ExpelStudent
from tests.unit.transactions import Transactional
from tests.unit.virtual_time import VirtualTime, settle
from tests.unit.wiring import handles, wire


class Office:
    """Handles messages for as long as a test wants, and records which are being handled."""

    def __init__(self, **options: Any) -> None:
        self.time = VirtualTime()
        self.behavior = ConcurrencyLimitBehavior(sleep=self.time.sleep, **options)
        self.mediator = wire(handles(EnrollStudent, self._handle), behaviors=[self.behavior])
        self.inside: dict[str, asyncio.Future[None]] = {}
        self.came_in: list[str] = []
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    async def _handle(self, command: EnrollStudent) -> str:
        self.came_in.append(command.name)
        self.inside[command.name] = asyncio.get_running_loop().create_future()
        try:
            await self.inside[command.name]
        finally:
            del self.inside[command.name]
        return command.name

    async def send(self, *names: str) -> None:
        for name in names:
            self.tasks[name] = asyncio.create_task(self.mediator.send(EnrollStudent(name)))
            await settle()

    async def end(self, name: str, error: BaseException | None = None) -> None:
        if error is None:
            self.inside[name].set_result(None)
        else:
            self.inside[name].set_exception(error)
        await settle()

    def refused(self, name: str) -> bool:
        task = self.tasks[name]
        return task.done() and not task.cancelled() and isinstance(task.exception(), ConcurrencyLimitedError)


async def test_messages_beyond_the_limit_are_refused_at_once():
    office = Office(limit=2)
    await office.send("a", "b", "c")
    assert list(office.inside) == ["a", "b"]
    with pytest.raises(ConcurrencyLimitedError, match=r"was not handled: 2 messages are being handled") as caught:
        await office.tasks["c"]
    assert (caught.value.message, caught.value.limit, caught.value.waited) == (EnrollStudent("c"), 2, 0)
    await office.end("a")
    await office.send("d")
    assert list(office.inside) == ["b", "d"]


@pytest.mark.parametrize("error", [None, LookupError(), asyncio.CancelledError()])
async def test_the_longest_waiting_message_gets_the_place_of_a_message_that_ended_in_any_way(error):
    office = Office(limit=1, max_wait=10)
    await office.send("a", "b", "c")
    assert list(office.inside) == ["a"]
    await office.end("a", error)
    assert list(office.inside) == ["b"]
    await office.end("b")
    assert list(office.inside) == ["c"]
    await asyncio.wait({office.tasks["a"]})


async def test_a_message_that_has_waited_too_long_is_refused():
    office = Office(limit=1, max_wait=10)
    await office.send("a")
    await office.time.passes(4)
    await office.send("b")
    await office.time.passes(9)
    assert not office.tasks["b"].done()
    await office.time.passes(1)
    with pytest.raises(ConcurrencyLimitedError, match="none ended in 10 s"):
        await office.tasks["b"]
    await office.end("a")
    assert office.behavior.remembered == 0


async def test_a_cancelled_message_leaves_the_queue():
    office = Office(limit=1, max_wait=10)
    await office.send("a", "b", "c")
    office.tasks["b"].cancel()
    await office.end("a")
    assert list(office.inside) == ["c"]


@pytest.mark.parametrize("behind", [True, False])
async def test_a_message_cancelled_when_it_gets_a_place_passes_the_place_on(behind):
    office = Office(limit=1, max_wait=10)
    await office.send("a", "b", *(["c"] if behind else []))
    office.inside["a"].set_result(None)
    while not office.tasks["a"].done():
        await asyncio.sleep(0)
    office.tasks["b"].cancel()
    await settle()
    assert office.tasks["b"].cancelled()
    assert list(office.inside) == (["c"] if behind else [])
    assert office.behavior.remembered == int(behind)


async def test_a_place_given_to_a_message_that_was_just_cancelled_passes_to_the_next_message():
    office = Office(limit=1, max_wait=10)
    await office.send("a", "b", "c")
    office.inside["a"].set_result(None)  # a ends when this test yields, and b is cancelled immediately afterwards
    office.tasks["b"].cancel()
    await settle()
    assert list(office.inside) == ["c"]


async def test_a_finished_wait_leaves_no_task():
    office = Office(limit=1, max_wait=10)
    await office.send("a", "b", "c")
    office.tasks["b"].cancel()
    await office.end("a")
    await office.end("c")
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_each_key_has_its_own_limit_and_is_forgotten_with_its_last_message():
    office = Office(limit=1, key=lambda command, _: command.name[0])
    await office.send("a1", "b1", "b2")
    assert list(office.inside) == ["a1", "b1"]
    assert office.refused("b2")
    assert office.behavior.remembered == 2
    await office.end("a1")
    await office.end("b1")
    assert office.behavior.remembered == 0


async def test_inner_messages_share_the_place_of_their_message():
    async def count(_: Any) -> int:
        return await mediator.send(CountStudents(), mode=TransactionMode.NEW)

    async def seven(_: Any) -> int:
        return 7

    limit = ConcurrencyLimitBehavior(limit=1)
    mediator = wire(handles(EnrollStudent, count), handles(CountStudents, seven), behaviors=[limit])
    assert await mediator.send(EnrollStudent()) == 7
    assert limit.remembered == 0


async def test_no_message_waits_inside_a_running_transaction():
    class ReportLimit(ConcurrencyLimitBehavior[ExpelStudent]):
        pass

    async def expel(_: Any) -> None:
        await mediator.send(ExpelStudent())

    opened, go = asyncio.Event(), asyncio.Event()

    async def wait(_: Any) -> None:
        opened.set()
        await go.wait()

    limit = ReportLimit(limit=1, max_wait=60)
    mediator: Mediator = wire(
        handles(EnrollStudent, expel), handles(ExpelStudent, wait), behaviors=[limit, Transactional()]
    )
    first = asyncio.create_task(mediator.send(ExpelStudent()))
    await opened.wait()
    with pytest.raises(ConcurrencyLimitedError):
        await mediator.send(EnrollStudent())
    go.set()
    await first


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 1, "max_wait": -1}])
def test_settings_that_make_no_sense_are_refused(options: Any):
    with pytest.raises(SettingError):
        ConcurrencyLimitBehavior(**options)


STEPS = st.lists(
    st.tuples(st.sampled_from(["a", "a", "b", "ends", "passes", "gives up"]), st.integers(0, 9)), max_size=30
)


@given(STEPS, st.integers(1, 3), st.sampled_from([0, 1, 4]))
def test_the_limit_is_never_exceeded_and_no_place_is_lost(steps, limit, max_wait):
    async def scenario() -> None:
        office = Office(limit=limit, max_wait=max_wait, key=lambda command, _: command.name[0])
        for what, number in steps:
            if what == "passes":
                await office.time.passes(number / 4)
            elif what in "ab":
                await office.send(f"{what}{len(office.tasks)}")
            elif what == "ends" and office.inside:
                await office.end(list(office.inside)[number % len(office.inside)])
            elif what == "gives up" and office.tasks:
                list(office.tasks.values())[number % len(office.tasks)].cancel()
                await settle()
            check(office, limit)
        while office.inside:
            await office.end(next(iter(office.inside)))
            check(office, limit)
        assert all(task.done() for task in office.tasks.values())
        assert {name for name in office.tasks if office.refused(name)}.isdisjoint(office.came_in)
        assert office.behavior.remembered == 0

    asyncio.run(scenario())


def check(office: Office, limit: int) -> None:
    """Check that the limit holds, that no message waits while a place is free, and that no message overtakes."""
    for key in "ab":
        inside = [name for name in office.inside if name[0] == key]
        open_tasks = [name for name, task in office.tasks.items() if name[0] == key and not task.done()]
        assert len(inside) == min(limit, len(open_tasks))
        came_in = [name for name in office.came_in if name[0] == key]
        assert came_in == sorted(came_in, key=lambda name: int(name[1:]))
