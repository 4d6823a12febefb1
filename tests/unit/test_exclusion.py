"""Who may run: any number beside each other, a suspect alone, and neither side for ever."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator.distributed.exclusion import Exclusion, Turn, exclusion_here
from tests.unit.virtual_time import settle


class Process:
    """A process in which participants run until they are told to end."""

    def __init__(self) -> None:
        self.exclusion = Exclusion()
        self.running: list[str] = []
        self.tasks: dict[str, asyncio.Task[bool]] = {}
        self.stopping: dict[str, asyncio.Event] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, alone: int | None = None) -> None:
        self._ends[name], self.stopping[name] = asyncio.Event(), asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, alone))
        await settle()

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
        await settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await settle()

    async def _run(self, name: str, alone: int | None) -> bool:
        with Turn(self.exclusion, self.stopping[name]) as turn:
            if not await (turn.beside_others() if alone is None else turn.alone(alone)):
                return False
            self.running.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)
        return True


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    made = Process()
    yield made
    for task in made.tasks.values():
        task.cancel()
    await asyncio.wait(made.tasks.values())
    assert vars(made.exclusion) | {"_arrivals": None} == vars(Exclusion()) | {"_arrivals": None}


async def test_without_a_suspect_nobody_waits(process: Process):
    for name in "abc":
        await process.ask(name)
    assert process.running == ["a", "b", "c"]


async def test_who_may_run_beside_others_does_so_without_letting_the_loop_go_on():
    stopping = asyncio.Event()
    with Turn(exclusion_here(), stopping) as turn:
        with pytest.raises(StopIteration) as ended:
            turn.beside_others().send(None)
        assert ended.value.value is True


async def test_a_suspect_waits_for_those_that_run_and_holds_up_those_that_come(process: Process):
    await process.ask("a")
    await process.ask("suspect", 1)
    await process.ask("b")
    assert process.running == ["a"]
    await process.end("a")
    assert process.running == ["suspect"]
    await process.ask("c")
    assert process.running == ["suspect"]
    await process.end("suspect")
    assert process.running == ["b", "c"]


async def test_between_two_suspects_all_that_waited_run(process: Process):
    await process.ask("suspect", 1)
    await process.ask("other", 1)
    await process.ask("a")
    await process.ask("b")
    await process.end("suspect")
    assert process.running == ["a", "b"]
    await process.ask("c")
    await process.end("a")
    assert process.running == ["b"]
    await process.end("b")
    assert process.running == ["other"]
    await process.end("other")
    assert process.running == ["c"]


async def test_suspects_come_one_after_the_other_those_with_the_fewest_starts_first(process: Process):
    await process.ask("a")
    for name, starts in (("deadly", 3), ("x", 1), ("y", 2), ("z", 1)):
        await process.ask(name, starts)
    await process.end("a")
    for name in ("x", "z", "y", "deadly"):
        assert process.running == [name]
        await process.end(name)


@pytest.mark.parametrize("how", ["cancelled", "stopped"])
async def test_a_suspect_that_waits_no_longer_holds_nobody_up(process: Process, how: str):
    await process.ask("a")
    await process.ask("suspect", 1)
    await process.ask("b")
    if how == "cancelled":
        await process.cancel("suspect")
    else:
        process.stopping["suspect"].set()
        await settle()
        assert process.tasks["suspect"].result() is False
    assert process.running == ["a", "b"]


@pytest.mark.parametrize("alone", [None, 1])
async def test_who_is_cancelled_at_the_moment_in_which_its_turn_comes_passes_it_on(process: Process, alone: int | None):
    await process.ask("suspect", 1)
    await process.ask("cancelled", alone)
    await process.ask("b")
    process._ends["suspect"].set()
    while process.running:
        await asyncio.sleep(0)
    await process.cancel("cancelled")
    assert process.running == ["b"]


async def test_all_of_one_event_loop_share_one_and_other_loops_have_their_own():
    assert exclusion_here() is exclusion_here()

    async def elsewhere() -> Exclusion:
        return exclusion_here()

    assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) is not exclusion_here()


@given(st.lists(st.tuples(st.sampled_from(["beside", "alone", "cancel", "end"]), st.integers(0, 9)), max_size=40))
def test_whatever_comes_ends_or_is_cancelled_a_suspect_is_alone_and_everybody_gets_a_turn(
    steps: list[tuple[str, int]],
):
    async def scenario() -> None:
        process, alone = Process(), set[str]()
        for number, (what, which) in enumerate(steps):
            names = list(process.tasks)
            if what in ("beside", "alone"):
                name = str(number)
                alone |= {name} if what == "alone" else set()
                await process.ask(name, which if what == "alone" else None)
            elif names:
                await (process.cancel if what == "cancel" else process.end)(names[which % len(names)])
            assert not alone.intersection(process.running) or len(process.running) == 1
        await process.end(*process.tasks)
        async with asyncio.timeout(5):
            await asyncio.wait(process.tasks.values()) if process.tasks else None
        assert process.running == []

    asyncio.run(scenario())
