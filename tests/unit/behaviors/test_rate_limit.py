"""Rate limits: the rate is never exceeded, messages run in order of arrival, and each one is handled or refused."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import Mediator, MessageContext, TransactionMode
from mediator.behaviors import RateLimitBehavior
from mediator.errors import RateLimitedError, SettingError
from mediator.testing import run_behavior
from tests.unit.samples import CountStudents, EnrollStudent, ExpelStudent, answer_name
from tests.unit.transactions import Transactional
from tests.unit.virtual_time import VirtualTime, settle
from tests.unit.wiring import handles, wire


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


def limit(time: VirtualTime, **options: Any) -> RateLimitBehavior[Any]:
    return RateLimitBehavior(clock=time.clock, sleep=time.sleep, **options)


def limited(time: VirtualTime, work: Any = answer_name, **options: Any) -> Mediator:
    return wire(handles(EnrollStudent, work), behaviors=[limit(time, **options)])


async def send(mediator: Mediator, *names: str) -> list[str]:
    return [await mediator.send(EnrollStudent(name)) for name in names]


async def test_a_burst_is_handled_at_once_and_then_one_message_each_interval(time):
    mediator, message = limited(time, limit=4, seconds=60, burst=2), EnrollStudent()
    await send(mediator, "Ada", "Bob")
    with pytest.raises(
        RateLimitedError, match=r"EnrollStudent was not handled: the limit of 4 in 60 s.*in 15 s"
    ) as caught:
        await mediator.send(message)
    error = caught.value
    assert (error.message, error.limit, error.seconds, error.retry_after) == (message, 4, 60, 15.0)
    time.now += error.retry_after
    await send(mediator, "Cyd")
    with pytest.raises(RateLimitedError):
        await send(mediator, "Dee")


async def test_a_message_retried_exactly_at_the_suggested_time_is_handled_despite_rounding(time):
    mediator = limited(time, limit=10, seconds=1.0)
    for _ in range(200):
        try:
            await send(mediator, "Ada")
        except RateLimitedError as error:
            time.now += error.retry_after
            await send(mediator, "Ada")


async def test_after_an_idle_time_only_one_burst_is_available(time):
    mediator = limited(time, limit=2)
    time.now = 3600.0
    await send(mediator, "Ada", "Bob")
    with pytest.raises(RateLimitedError):
        await send(mediator, "Cyd")


async def test_waiting_messages_are_handled_one_by_one_in_the_order_of_arrival(time):
    handled: list[tuple[str, float]] = []

    async def note(command: EnrollStudent) -> None:
        handled.append((command.name, time.now))

    mediator = limited(time, note, limit=1, max_wait=10)
    tasks = [asyncio.create_task(send(mediator, name)) for name in "abcd"]
    await time.passes(10)
    await asyncio.gather(*tasks)
    assert handled == [("a", 0.0), ("b", 1.0), ("c", 2.0), ("d", 3.0)]


async def test_a_late_message_does_not_overtake_a_message_that_still_sleeps(time):
    handled: list[str] = []

    async def note(command: EnrollStudent) -> None:
        handled.append(command.name)

    mediator = limited(time, note, limit=1, burst=2, max_wait=10)
    tasks = [asyncio.create_task(send(mediator, name)) for name in "abc"]
    await settle()
    time.now = 2.0
    tasks.append(asyncio.create_task(send(mediator, "d")))
    await time.passes(0)
    await asyncio.gather(*tasks)
    assert handled == ["a", "b", "c", "d"]


async def test_a_message_that_would_wait_too_long_is_refused_at_once(time):
    mediator = limited(time, limit=1, max_wait=1)
    first, second = [asyncio.create_task(send(mediator, name)) for name in "ab"]
    await settle()
    with pytest.raises(RateLimitedError) as caught:
        await send(mediator, "c")
    assert caught.value.retry_after == 2.0
    await time.passes(1)
    assert await first + await second == ["a", "b"]


@pytest.mark.parametrize("place", [1, 2])
async def test_a_cancelled_message_leaves_its_place_to_later_messages(time, place):
    mediator = limited(time, limit=1, max_wait=10)
    tasks = [asyncio.create_task(send(mediator, name)) for name in "abcd"]
    await settle()
    tasks[place].cancel()
    await time.passes(2)
    assert [task.done() for task in tasks] == [True] * 4
    assert tasks[place].cancelled()


async def test_each_key_has_its_own_limit(time):
    mediator = limited(time, limit=1, key=lambda _, context: context.tenant)
    for tenant in ("north", "south"):
        async with mediator.context(tenant=tenant):
            await send(mediator, "Ada")
    async with mediator.context(tenant="south"):
        with pytest.raises(RateLimitedError) as caught:
            await send(mediator, "Ada")
    assert caught.value.key == "south"
    assert "south" not in str(caught.value)


async def test_keys_are_forgotten_once_their_limit_has_fully_recovered(time):
    behavior = limit(time, limit=1, key=lambda command, _: command.name)
    for number in range(1000):
        time.now += 0.1
        await run_behavior(behavior, EnrollStudent(str(number)))
        assert behavior.remembered <= 22
    time.now += 1
    for _ in range(12):
        await run_behavior(behavior, EnrollStudent("Ada"))
        time.now += 1
    assert behavior.remembered == 1


async def test_keys_in_constant_use_do_not_keep_idle_keys_in_memory(time):
    behavior = limit(time, limit=1, seconds=1, burst=2, key=lambda command, _: command.name)
    for name in ("Ada", "Bob"):
        await run_behavior(behavior, EnrollStudent(name))  # one a second: never recovers fully
    for number in range(100):
        for name in ("Ada", "Bob", str(number)):
            await run_behavior(behavior, EnrollStudent(name))
        assert behavior.remembered <= 5
        time.now += 1


async def test_a_key_with_a_waiting_message_is_not_forgotten(time):
    behavior = limit(time, limit=1, seconds=1, max_wait=5, key=lambda command, _: command.name)
    await run_behavior(behavior, EnrollStudent("Ada"))
    second = asyncio.create_task(run_behavior(behavior, EnrollStudent("Ada")))
    await settle()
    time.now = 1.0  # a place is free again, and the message that waits for the place still sleeps
    for number in range(5):
        await run_behavior(behavior, EnrollStudent(str(number)))
    third = asyncio.create_task(run_behavior(behavior, EnrollStudent("Ada")))
    await time.passes(0)
    assert (second.done(), third.done()) == (True, False)
    await time.passes(1)
    assert third.done()


async def test_inner_messages_do_not_count_separately(time):
    async def count(_: Any) -> int:
        return await mediator.send(CountStudents(), mode=TransactionMode.NEW)

    async def seven(_: Any) -> int:
        return 7

    behavior = limit(time, limit=2)
    mediator = wire(handles(EnrollStudent, count), handles(CountStudents, seven), behaviors=[behavior])
    assert await mediator.send(EnrollStudent()) == 7
    assert await mediator.send(CountStudents()) == 7
    with pytest.raises(RateLimitedError):
        await mediator.send(EnrollStudent())


async def test_messages_of_a_task_that_outlives_its_message_count_separately(time):
    go, left = asyncio.Event(), []

    async def leave(_: Any) -> None:
        async def later() -> None:
            await go.wait()
            await mediator.send(ExpelStudent(), mode=TransactionMode.NEW)

        left.append(asyncio.create_task(later()))

    mediator = wire(handles(EnrollStudent, leave), handles(ExpelStudent, leave), behaviors=[limit(time, limit=1)])
    await mediator.send(EnrollStudent())
    go.set()
    with pytest.raises(RateLimitedError):
        await left[0]


@pytest.mark.parametrize("mode", [TransactionMode.DEFAULT, TransactionMode.NEW])
async def test_no_message_waits_inside_a_running_transaction(time, mode):
    class MailLimit(RateLimitBehavior[ExpelStudent]):
        pass

    async def mail(_: Any) -> None:
        await mediator.send(ExpelStudent(), mode=mode)

    async def nothing(_: Any) -> None:
        pass

    behavior = MailLimit(limit=1, max_wait=60, clock=time.clock, sleep=time.sleep)
    handlers = handles(EnrollStudent, mail), handles(ExpelStudent, nothing)
    mediator = wire(*handlers, behaviors=[behavior, Transactional()])
    await mediator.send(EnrollStudent())
    with pytest.raises(RateLimitedError):
        await mediator.send(EnrollStudent())
    waiting = asyncio.create_task(mediator.send(ExpelStudent()))
    await time.passes(1)
    await waiting


async def test_all_limits_of_one_message_hold(time):
    minute, second = limit(time, limit=3, seconds=60), limit(time, limit=2, seconds=1)
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[minute, second])
    await send(mediator, "Ada", "Bob")
    with pytest.raises(RateLimitedError, match="2 in 1 s"):
        await send(mediator, "Cyd")
    time.now = 10.0
    with pytest.raises(RateLimitedError, match="3 in 60 s"):
        await send(mediator, "Cyd")


async def test_the_key_function_receives_the_message_and_its_context(time):
    asked: list[Any] = []

    def key(message: Any, context: MessageContext) -> str | None:
        asked.append((message, context.principal))
        return context.principal

    context = MessageContext("1", "1", principal="ada")
    await run_behavior(limit(time, limit=1, key=key), EnrollStudent(), context=context)
    assert asked == [(EnrollStudent(), "ada")]


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 0},
        {"limit": 1, "seconds": 0},
        {"limit": 1, "seconds": float("nan")},
        {"limit": 1, "burst": 0},
        {"limit": 1, "max_wait": -1},
        {"limit": 1, "max_wait": float("inf")},
    ],
)
def test_settings_that_make_no_sense_are_refused(options: Any):
    with pytest.raises(SettingError):
        RateLimitBehavior(**options)


class Rush:
    """Messages that arrive, wait and give up. Records the time at which each message is handled."""

    def __init__(self, *, limit: int, seconds: float, burst: int, max_wait: float) -> None:
        self.time = VirtualTime()
        self.rate, self.burst, self.max_wait = limit / seconds, burst, max_wait
        self.behavior = RateLimitBehavior(
            limit=limit,
            seconds=seconds,
            burst=burst,
            max_wait=max_wait,
            key=lambda command, _: command.name[0],
            clock=self.time.clock,
            sleep=self.time.sleep,
        )
        self.mediator = wire(handles(EnrollStudent, self._note), behaviors=[self.behavior])
        self.came: dict[str, float] = {}
        self.let_through: dict[str, float] = {}
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    async def _note(self, command: EnrollStudent) -> None:
        self.let_through[command.name] = self.time.now

    async def run(self, steps: list[tuple[str, int]]) -> None:
        for what, number in steps:
            if what == "passes":
                await self.time.passes(number / 4)
            elif what == "gives up" and self.tasks:
                list(self.tasks.values())[number % len(self.tasks)].cancel()
            elif what in "ab":
                name = f"{what}{len(self.tasks)}"
                self.came[name] = self.time.now
                self.tasks[name] = asyncio.create_task(self.mediator.send(EnrollStudent(name)))
                await settle()
        await self.time.passes(1000)

    def of(self, key: str) -> Iterator[tuple[str, float]]:
        return ((name, at) for name, at in self.let_through.items() if name[0] == key)

    async def check(self) -> None:
        for key in "ab":
            names, times = [name for name, _ in self.of(key)], [at for _, at in self.of(key)]
            assert names == sorted(names, key=lambda name: int(name[1:]))
            for first, since in enumerate(times):
                for number, until in enumerate(times[first:], 1):
                    assert number <= self.burst + (until - since) * self.rate
        assert all(at - self.came[name] <= self.max_wait for name, at in self.let_through.items())
        for name, task in self.tasks.items():
            assert task.done()
            refused = not task.cancelled() and isinstance(task.exception(), RateLimitedError)
            assert (name in self.let_through) != (task.cancelled() or refused)
        for number in range(self.burst):  # cancelled messages use no place
            await self.mediator.send(EnrollStudent(f"a{len(self.tasks) + number}"))
        await run_behavior(self.behavior, EnrollStudent("c"))
        assert self.behavior.remembered <= 3


STEPS = st.lists(st.tuples(st.sampled_from(["a", "a", "b", "passes", "gives up"]), st.integers(0, 9)), max_size=30)


@given(
    STEPS, st.sampled_from([1, 2, 4]), st.sampled_from([1.0, 2.0, 8.0]), st.integers(1, 4), st.sampled_from([0, 1, 5])
)
def test_the_rate_is_never_exceeded_and_every_message_is_handled_or_refused(steps, limit, seconds, burst, max_wait):
    async def scenario() -> None:
        rush = Rush(limit=limit, seconds=seconds, burst=burst, max_wait=max_wait)
        await rush.run(steps)
        await rush.check()

    asyncio.run(scenario())
