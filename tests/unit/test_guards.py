"""Dispatching refuses a late `call_next`, a coroutine not awaited, and messages that send each other endlessly."""

import asyncio
from typing import Any

import pytest

from mediator import Command, Concurrent, Notification, NotificationHandler, NotificationPipelineBehavior, Sequential
from mediator.errors import DispatchDepthError, MisuseError, NoUnitOfWorkError, misuse
from tests.unit.samples import EnrollStudent, StudentEnrolled, answer_name
from tests.unit.transactions import Transactional
from tests.unit.wiring import around, handles, listens, wire


async def test_call_next_is_refused_after_the_behavior_has_returned():
    kept: list[Any] = []

    async def keep(_message: Any, call_next: Any) -> Any:
        kept.append(call_next)
        return await call_next()

    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[around(Command[Any], keep)])
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"
    with pytest.raises(MisuseError, match=r"EnrollStudent after \S*Around\.handle had ended"):
        await kept[0]()


async def test_call_next_is_refused_in_a_task_that_outlived_the_behavior():
    tasks: list[asyncio.Task[Any]] = []
    go = asyncio.Event()

    async def spawn(_message: Any, call_next: Any) -> str:
        async def later() -> None:
            await go.wait()
            await call_next()

        tasks.append(asyncio.create_task(later()))
        return "early"

    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[around(Command[Any], spawn)])
    assert await mediator.send(EnrollStudent()) == "early"
    go.set()
    with pytest.raises(MisuseError, match="had ended"):
        await tasks[0]


async def test_call_next_may_be_called_in_a_task_that_the_behavior_awaits():
    async def spawn(_message: Any, call_next: Any) -> Any:
        return await asyncio.create_task(call_next())

    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[around(Command[Any], spawn)])
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"


async def test_call_next_is_refused_after_a_behavior_from_an_asynchronous_provider_has_returned():
    kept: list[Any] = []

    async def keep(_message: Any, call_next: Any) -> Any:
        kept.append(call_next)
        return await call_next()

    behavior = around(Command[Any], keep)

    async def resolve() -> Any:
        return behavior

    binding = wire(behaviors=[behavior]).registry.behaviors[0]
    later = type(binding)(resolve, binding.cls, binding.label, binding.kind)
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[later])
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"
    with pytest.raises(MisuseError, match="had ended"):
        await kept[0]()


async def test_a_dispatch_raises_and_commits_nothing_when_a_behavior_forgets_to_await():
    async def forget(_message: Any, call_next: Any) -> Any:
        return call_next()

    outcomes: list[str] = []

    async def transaction(_message: Any, call_next: Any) -> Any:
        response = await call_next()
        outcomes.append("committed")
        return response

    behaviors = [around(Command[Any], forget), around(Command[Any], transaction)]
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=behaviors)
    with pytest.raises(MisuseError, match=r"is the coroutine \S*Around\.handle, which nobody awaited"):
        await mediator.send(EnrollStudent())
    assert outcomes == []


@pytest.mark.parametrize("strategy", [Sequential(), Sequential(on_error="collect"), Concurrent()])
async def test_a_publish_raises_when_a_behavior_around_each_handler_forgets_to_await(strategy: Any):
    class Forgets(NotificationPipelineBehavior[Notification]):
        async def handle(self, notification: Any, handler: type, call_next: Any) -> None:
            return call_next()

    mediator = wire(listens(StudentEnrolled, answer_name), behaviors=[Forgets])
    with pytest.raises(MisuseError, match=r"is the coroutine \S*Listener\.handle, which nobody awaited"):
        await mediator.publish(StudentEnrolled(), strategy=strategy)


@pytest.mark.parametrize("strategy", [None, Sequential(on_error="collect"), Concurrent()])
@pytest.mark.parametrize("others", [0, 1])
async def test_a_publish_raises_when_a_notification_handler_forgets_to_await(strategy: Any, others: int):
    class Forgets(NotificationHandler[StudentEnrolled]):
        async def handle(self, notification: Any) -> Any:
            return answer_name(notification)

    handlers: list[Any] = [Forgets, *[listens(StudentEnrolled, answer_name)] * others]
    with pytest.raises(MisuseError, match=r"is the coroutine answer_name, which nobody awaited"):
        await wire(*handlers).publish(StudentEnrolled(), strategy=strategy)


def circle(length: int) -> list[type[Notification]]:
    return [type(f"N{number}", (Notification,), {}) for number in range(length)]


@pytest.mark.parametrize("length", [1, 2, 3])
async def test_notifications_that_cause_each_other_hit_the_depth_limit_and_the_error_names_the_cycle(length: int):
    classes = circle(length)
    count = 0

    def passing_on(following: type[Notification]) -> Any:
        async def work(_message: Any) -> None:
            nonlocal count
            count += 1
            await mediator.publish(following())

        return work

    handlers = [listens(cls, passing_on(classes[(n + 1) % length])) for n, cls in enumerate(classes)]

    async def start(_message: Any) -> None:
        await mediator.publish(classes[0]())

    mediator = wire(handles(EnrollStudent, start), *handlers, max_depth=20)
    with pytest.raises(DispatchDepthError, match="dispatches are nested") as caught:
        await mediator.send(EnrollStudent())
    assert count == 19
    assert sorted(caught.value.cycle) == sorted(cls.__name__ for cls in classes)
    assert f"{caught.value.cycle[-1]} -> {caught.value.cycle[0]}" in str(caught.value)
    assert caught.value.path[0] == EnrollStudent()


async def test_scopes_of_handlers_and_blocks_do_not_count_towards_the_depth_limit():
    heard: list[Any] = []

    async def hear(notification: Any) -> None:
        heard.append(notification)

    async def start(_message: Any) -> None:
        await mediator.publish(StudentEnrolled(), strategy=Concurrent())
        async with mediator.scope():
            heard.append("in a scope")

    mediator = wire(handles(EnrollStudent, start), listens(StudentEnrolled, hear), max_depth=2)
    await mediator.send(EnrollStudent())
    assert heard == [StudentEnrolled(), "in a scope"]
    async with mediator.scope():
        with pytest.raises(DispatchDepthError):
            await mediator.send(EnrollStudent())


async def test_sequential_dispatches_do_not_add_depth():
    mediator = wire(handles(EnrollStudent, answer_name), max_depth=1)
    for _ in range(3):
        assert await mediator.send(EnrollStudent("Ada")) == "Ada"


async def test_tasks_that_outlive_their_dispatch_start_at_depth_zero():
    tasks: list[asyncio.Task[Any]] = []

    async def work(_message: Any) -> None:
        async def later() -> None:
            await asyncio.wait({asyncio.create_task(asyncio.sleep(0))})
            if len(tasks) < 20:
                await mediator.send(EnrollStudent())

        tasks.append(asyncio.create_task(later()))

    mediator = wire(handles(EnrollStudent, work), max_depth=2)
    await mediator.send(EnrollStudent())
    for task in tasks:  # grows
        await task
    assert len(tasks) == 20


def test_the_depth_error_without_a_cycle_shows_the_whole_path():
    error = misuse.dispatch_depth(2, [EnrollStudent(), StudentEnrolled(), "mediator.scope()"])
    assert error.cycle == []
    assert "EnrollStudent -> StudentEnrolled -> mediator.scope()" in str(error)


async def test_publish_after_commit_is_refused_without_a_transaction():
    async def work(_message: Any) -> None:
        mediator.publish_after_commit(StudentEnrolled())

    mediator = wire(handles(EnrollStudent, work))
    with pytest.raises(NoUnitOfWorkError, match="StudentEnrolled needs a unit of work, and none is running"):
        await mediator.send(EnrollStudent())
    mediator = wire(handles(EnrollStudent, work), behaviors=[transactional := Transactional()])
    await mediator.send(EnrollStudent())
    assert transactional.begun[0].log == ["after the commit: StudentEnrolled"]
