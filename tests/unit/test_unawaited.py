"""A coroutine that was not awaited is found when its behavior or handler returns, and is stopped."""

import asyncio
import inspect
from typing import Any

import pytest

import mediator as package
from mediator import (
    Command,
    Concurrent,
    Notification,
    NotificationHandler,
    NotificationPipelineBehavior,
    PipelineBehavior,
    Sequential,
    behaviors,
)
from mediator.behaviors.retry import RetryBehavior
from mediator.binding import Binding
from mediator.collaborators import CollaboratorBehavior
from mediator.errors import MisuseError
from mediator.strategies import PublishStrategy
from mediator.watching import awaits_inner
from tests.unit.samples import EnrollStudent, StudentEnrolled, answer_name
from tests.unit.wiring import handles, listens, wire


class Drops(PipelineBehavior[Command[Any], Any]):
    async def handle(self, message, call_next, /):
        call_next()


class Keeps(PipelineBehavior[Command[Any], Any]):
    async def handle(self, message, call_next, /):
        going = call_next()
        return "kept" if going else None


class Spawns(PipelineBehavior[Command[Any], Any]):
    async def handle(self, message, call_next, /):
        self.task = asyncio.create_task(call_next())
        return "early"


class SpawnsAndLooks(PipelineBehavior[Command[Any], Any]):
    async def handle(self, message, call_next, /):
        self.task = asyncio.create_task(call_next())
        await asyncio.sleep(0)
        return "early"


class SpawnsAndFails(PipelineBehavior[Command[Any], Any]):
    async def handle(self, message, call_next, /):
        self.task = asyncio.create_task(call_next())
        await asyncio.sleep(0)
        raise ConnectionError


class SpawnsAndAwaits(PipelineBehavior[Command[Any], Any]):
    async def handle(self, message, call_next, /):
        task = asyncio.create_task(call_next())
        done, _ = await asyncio.wait({task})
        return done.pop().result()


class InsideAFunction(PipelineBehavior[Command[Any], Any]):
    async def handle(self, message, call_next, /):
        def again():
            return call_next()

        return await again()


class Awaits(PipelineBehavior[Command[Any], Any]):
    async def handle(self, message, call_next, /):
        async with asyncio.timeout(60):
            for _ in range(2):
                response = await call_next(type(message)(*(name for name in ["Bob"])))
            return response


class ForgetsOne(CollaboratorBehavior):
    works_with = ()

    @classmethod
    def applies_to(cls, _message_type, _collaborators, /):
        return True

    async def handle_with(self, collaborators, message, call_next, /):
        call_next()


class ForgetsEach(NotificationPipelineBehavior[Notification]):
    async def handle(self, notification, handler, call_next, /):
        call_next()


@pytest.mark.parametrize("behavior", [Drops, Keeps, ForgetsOne])
async def test_a_dispatch_raises_when_a_behavior_forgets_to_await_call_next(behavior: Any):
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[behavior])
    with pytest.raises(MisuseError, match=r"the coroutine \S*Handler\.handle, which nobody awaited"):
        await mediator.send(EnrollStudent())


async def test_a_publish_raises_when_a_behavior_around_each_handler_forgets_to_await():
    mediator = wire(listens(StudentEnrolled, answer_name), behaviors=[ForgetsEach])
    with pytest.raises(MisuseError, match=r"Listener\.handle"):
        await mediator.publish(StudentEnrolled())


async def test_a_dispatch_raises_when_a_behavior_from_an_asynchronous_provider_forgets_to_await():
    async def resolve() -> Any:
        return Drops()

    behavior = Binding(resolve, Drops, "container.drops", PipelineBehavior)
    with pytest.raises(MisuseError, match="nobody awaited, so it has not run"):
        await wire(handles(EnrollStudent, answer_name), behaviors=[behavior]).send(EnrollStudent())


@pytest.mark.parametrize(
    ("behavior", "error"), [(Spawns, MisuseError), (SpawnsAndLooks, MisuseError), (SpawnsAndFails, ConnectionError)]
)
async def test_a_task_that_a_behavior_leaves_behind_is_cancelled_in_the_scope_and_the_dispatch_fails(
    behavior: Any, error: Any
):
    began: list[str] = []

    async def work(_message: Any) -> None:
        began.append("began")
        await asyncio.Event().wait()

    spawning = behavior()
    with pytest.raises(error) as caught:
        await wire(handles(EnrollStudent, work), behaviors=[spawning]).send(EnrollStudent())
    assert spawning.task.cancelled()
    assert began == ([] if behavior is Spawns else ["began"])
    if error is MisuseError:
        assert f"{behavior.__name__}.handle returned while" in str(caught.value)


@pytest.mark.parametrize("behavior", [SpawnsAndAwaits, InsideAFunction])
async def test_a_behavior_that_awaits_in_another_way_raises_nothing(behavior: Any):
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[behavior])
    for _ in range(2):
        assert await mediator.send(EnrollStudent("Ada")) == "Ada"


def test_a_behavior_that_visibly_awaits_call_next_is_not_watched():
    assert awaits_inner(Awaits())
    for watched in (Drops, Keeps, Spawns, InsideAFunction, ForgetsEach):
        assert not awaits_inner(watched())


def test_no_behavior_of_the_library_is_watched():
    kinds = (PipelineBehavior, NotificationPipelineBehavior)
    offered = [getattr(each, name) for each in (package, behaviors) for name in each.__all__]
    found = [cls for cls in offered if inspect.isclass(cls) and issubclass(cls, kinds) and not inspect.isabstract(cls)]
    assert len(found) > 8
    for cls in (*found, RetryBehavior):
        behavior: Any = cls.__new__(cls)
        if isinstance(behavior, CollaboratorBehavior):
            behavior = type("Equipped", (), {"wrapped_handle": behavior.handle_with})()
        assert awaits_inner(behavior), cls


class ForgetsToAwaitAPublish(NotificationHandler[StudentEnrolled]):
    async def handle(self, notification, /):
        return answer_name(notification)


class OneByOne(PublishStrategy):
    async def run(self, calls, notification, /):
        for call in calls:
            await call()


@pytest.mark.parametrize("strategy", [None, Sequential(on_error="collect"), Concurrent(), OneByOne()])
async def test_a_publish_raises_when_a_notification_handler_returns_a_coroutine(strategy: Any):
    mediator = wire(ForgetsToAwaitAPublish)
    with pytest.raises(MisuseError, match="the coroutine answer_name, which nobody awaited"):
        await mediator.publish(StudentEnrolled(), strategy=strategy)
