"""SharedLock: any number of events share it, a suspect holds it exclusively, and neither side starves."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.distributed.inbox.shared_lock import PATIENCE, Guard, SharedLock, shared_lock_here
from tests.unit.virtual_time import in_virtual_time, settle


class Process:
    """A process in which participants run until the test ends them."""

    def __init__(self) -> None:
        self.lock = SharedLock()
        self.running: list[str] = []
        self.tasks: dict[str, asyncio.Task[bool]] = {}
        self.stopping: dict[str, asyncio.Event] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def request(self, name: str, alone: int | None = None) -> None:
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
        with Guard(self.lock, self.stopping[name]) as guard:
            if not await (guard.shared() if alone is None else guard.exclusive(alone)):
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
    others = {"_arrivals": None, "_patience": None}
    assert vars(made.lock) | others == vars(SharedLock()) | others


async def test_without_a_suspect_no_event_waits(process: Process):
    for name in "abc":
        await process.request(name)
    assert process.running == ["a", "b", "c"]


async def test_a_free_shared_lock_is_acquired_without_yielding_to_the_event_loop():
    stopping = asyncio.Event()
    with Guard(shared_lock_here(), stopping) as guard:
        with pytest.raises(StopIteration) as ended:
            guard.shared().send(None)
        assert ended.value.value is True


async def test_a_suspect_waits_for_running_events_and_delays_newcomers(process: Process):
    await process.request("a")
    await process.request("suspect", 1)
    await process.request("b")
    assert process.running == ["a"]
    await process.end("a")
    assert process.running == ["suspect"]
    await process.request("c")
    assert process.running == ["suspect"]
    await process.end("suspect")
    assert process.running == ["b", "c"]


async def test_between_two_suspects_all_waiting_events_run(process: Process):
    await process.request("suspect", 1)
    await process.request("other", 1)
    await process.request("a")
    await process.request("b")
    await process.end("suspect")
    assert process.running == ["a", "b"]
    await process.request("c")
    await process.end("a")
    assert process.running == ["b"]
    await process.end("b")
    assert process.running == ["other"]
    await process.end("other")
    assert process.running == ["c"]


async def test_suspects_run_one_by_one_with_the_fewest_starts_first(process: Process):
    await process.request("a")
    for name, starts in (("deadly", 3), ("x", 1), ("y", 2), ("z", 1)):
        await process.request(name, starts)
    await process.end("a")
    for name in ("x", "z", "y", "deadly"):
        assert process.running == [name]
        await process.end(name)


@pytest.mark.parametrize("how", ["cancelled", "stopped"])
async def test_a_suspect_that_stopped_waiting_delays_no_event(process: Process, how: str):
    await process.request("a")
    await process.request("suspect", 1)
    await process.request("b")
    if how == "cancelled":
        await process.cancel("suspect")
    else:
        process.stopping["suspect"].set()
        await settle()
        assert process.tasks["suspect"].result() is False
    assert process.running == ["a", "b"]


@pytest.mark.parametrize("alone", [None, 1])
async def test_a_suspect_cancelled_when_its_turn_comes_passes_the_lock_on(process: Process, alone: int | None):
    await process.request("suspect", 1)
    await process.request("cancelled", alone)
    await process.request("b")
    process._ends["suspect"].set()
    while process.running:
        await asyncio.sleep(0)
    await process.cancel("cancelled")
    assert process.running == ["b"]


async def test_each_event_loop_has_one_shared_lock():
    assert shared_lock_here() is shared_lock_here()

    async def elsewhere() -> SharedLock:
        return shared_lock_here()

    assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) is not shared_lock_here()


@given(st.lists(st.tuples(st.sampled_from(["beside", "alone", "cancel", "end"]), st.integers(0, 9)), max_size=40))
def test_a_suspect_always_runs_alone_and_every_event_gets_its_turn(steps: list[tuple[str, int]]):
    async def scenario() -> None:
        process, alone = Process(), set[str]()
        for number, (what, which) in enumerate(steps):
            names = list(process.tasks)
            if what in ("beside", "alone"):
                name = str(number)
                alone |= {name} if what == "alone" else set()
                await process.request(name, which if what == "alone" else None)
            elif names:
                await (process.cancel if what == "cancel" else process.end)(names[which % len(names)])
            assert not alone.intersection(process.running) or len(process.running) == 1
        await process.end(*process.tasks)
        async with asyncio.timeout(5):
            await asyncio.wait(process.tasks.values()) if process.tasks else None
        assert process.running == []

    asyncio.run(scenario())


@pytest.mark.parametrize("cancelled", [(1,), (3,), (6,), (1, 3), (2, 5, 6)])
async def test_suspects_keep_their_order_when_some_of_them_stop_waiting(process: Process, cancelled: tuple[int, ...]):
    await process.request("a")
    for starts in (5, 1, 3, 2, 6, 4):
        await process.request(f"{starts}", starts)
    for starts in cancelled:
        await process.cancel(f"{starts}")
    await process.end("a")
    for starts in sorted({1, 2, 3, 4, 5, 6}.difference(cancelled)):
        assert process.running == [f"{starts}"]
        await process.end(f"{starts}")


async def test_a_finished_wait_leaves_no_task_behind(process: Process):
    await process.request("suspect", 1)
    before = asyncio.all_tasks()
    for name in ("a", "b"):
        await process.request(name)
    await process.end("suspect")
    assert process.running == ["a", "b"]
    assert asyncio.all_tasks() == before - {process.tasks["suspect"]} | {process.tasks["a"], process.tasks["b"]}


async def test_a_guard_can_be_shared_after_it_was_exclusive():
    lock, stopping = SharedLock(), asyncio.Event()
    for _ in range(2):
        with Guard(lock, stopping) as guard:
            assert await guard.exclusive(1)
            assert guard.is_exclusive
        assert not guard.is_exclusive
        with guard:
            assert await guard.shared()
    assert vars(lock) | {"_arrivals": None} == vars(SharedLock()) | {"_arrivals": None}


async def until_running(process: Process, *names: str) -> None:
    async with asyncio.timeout(5):
        while process.running != [*names]:
            await asyncio.sleep(0.001)


async def test_newcomers_and_a_waiting_suspect_alternate(process: Process):
    process.lock = SharedLock(patience=0.02)
    await process.request("hangs")
    await process.request("suspect", 1)
    await process.request("another suspect", 2)
    names = ["hangs"]
    for name in "abcdef":
        await process.request(name)
        names.append(name)
        await until_running(process, *names)
    await process.end("hangs", *"abcdef")
    assert process.running == ["suspect"]
    await process.request("late")
    await asyncio.sleep(0.1)
    assert process.running == ["suspect"]
    await process.end("suspect")
    await process.end("late")
    await until_running(process, "another suspect")
    await process.end("another suspect")


@in_virtual_time
async def test_newcomers_wait_again_after_each_time_they_were_let_pass_a_suspect() -> None:
    process = Process()
    for number in (1, 2):
        old, new = f"old {number}", f"new {number}"
        await process.request(f"hangs {number}")
        await process.request(f"suspect {number}", 1)
        for guard in (1, 2):
            await asyncio.sleep(PATIENCE + 0.1)
            await process.request(f"{old}.{guard}")
            await asyncio.sleep(PATIENCE + 0.1)
            await process.request(f"{new}.{guard}")
            assert process.running == [f"hangs {number}", f"{old}.1", *[f"{new}.1", f"{old}.2"][: 2 * (guard - 1)]]
        await process.end(f"hangs {number}", f"{old}.1", f"{new}.1", f"{old}.2")
        assert process.running == [f"suspect {number}"]
        await process.end(f"suspect {number}")
        assert process.running == [f"{new}.2"]
        await process.end(f"{new}.2")


@in_virtual_time
async def test_the_waiting_time_of_one_suspect_does_not_shorten_the_time_of_the_next() -> None:
    process = Process()
    await process.request("hangs")
    await process.request("suspect", 1)
    await asyncio.sleep(PATIENCE - 1)
    await process.end("hangs")
    assert process.running == ["suspect"]
    await process.request("hangs again")
    await process.end("suspect")
    await process.request("another suspect", 1)
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(2)
    await process.request("new")
    while process.running == ["hangs again"]:
        await asyncio.sleep(0.1)
    assert asyncio.get_running_loop().time() - began == pytest.approx(PATIENCE, abs=0.2)
    assert process.running == ["hangs again", "new"]
    await process.end("hangs again", "new")
    await process.end("another suspect")


async def test_a_downgraded_guard_lets_others_join_and_counts_as_shared(process: Process):
    await process.request("first", 1)
    await process.request("second", 2)
    await process.request("beside")
    guard = Guard(process.lock, asyncio.Event())
    with guard:
        guard.downgrade()  # has no effect, because the guard holds nothing
        guard.release()
    assert process.running == ["first"]
    await process.end("first")
    assert process.running == ["beside"]
    await process.end("beside")
    assert process.running == ["second"]
    await process.end("second")
    with guard:
        assert await guard.exclusive(1)
        await process.request("joins")
        assert process.running == []
        guard.downgrade()
        await settle()
        assert process.running == ["joins"]
        await process.request("third", 1)
        await process.end("joins")
        assert process.running == []
    await settle()
    assert process.running == ["third"]
    await process.end("third")


@pytest.mark.parametrize("alone", [False, True])
async def test_a_released_guard_lets_others_run_and_reacquires_the_same_mode(process: Process, alone: bool):
    with Guard(process.lock, asyncio.Event()) as guard:
        assert await (guard.exclusive(1) if alone else guard.shared())
        await process.request("suspect", 1)
        assert process.running == []
        guard.release()
        await settle()
        assert process.running == ["suspect"]
        again = asyncio.ensure_future(guard.reacquire(1))
        await settle()
        assert not again.done()
        await process.end("suspect")
        assert await again
        assert guard.is_exclusive == alone
        assert await guard.reacquire(1)


STEPS = st.tuples(
    st.integers(0, 1), st.sampled_from(["shared", "exclusive", "release", "reacquire", "downgrade", "leave"])
)


@settings(max_examples=500)
@given(steps=st.lists(STEPS, min_size=4, max_size=25))
def test_guards_that_have_left_leave_a_free_lock_whatever_they_did_before(steps: list[tuple[int, str]]) -> None:
    async def use(guard: Guard, step: str) -> None:
        if step in {"release", "downgrade"}:
            getattr(guard, step)()
        elif step == "leave":
            guard.__exit__(None, None, None)
        elif step == "shared":
            await guard.shared()
        else:
            await (guard.exclusive(1) if step == "exclusive" else guard.reacquire(1))

    async def run() -> None:
        lock, stopping = SharedLock(), asyncio.Event()
        guards = [Guard(lock, stopping) for _ in range(2)]
        waiting: dict[int, asyncio.Task[None]] = {}
        for number, step in steps:
            if number not in waiting or waiting[number].done():
                waiting[number] = asyncio.create_task(use(guards[number], step))
                await asyncio.sleep(0)
        stopping.set()
        if waiting:
            await asyncio.wait(waiting.values())
        for guard in guards:
            guard.__exit__(None, None, None)
        assert lock.request_exclusive(0).done()
        lock.release(alone=True)
        assert lock.request_shared().done()

    asyncio.run(run())
