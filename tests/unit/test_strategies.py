"""Publish strategies: how the handlers of a notification run."""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from mediator import (
    Concurrent,
    Mediator,
    Notification,
    NotificationPipelineBehavior,
    Sequential,
    TransactionMode,
    current_context,
    current_scope,
)
from mediator.errors import ContainerError, MisuseError
from mediator.registry import Registry
from mediator.strategies import PublishStrategy
from tests.unit.samples import ExpelStudent, StudentChanged, StudentEnrolled
from tests.unit.transactions import Transactional
from tests.unit.wiring import around, bind, handles, listens, wire

COLLECT = Sequential(on_error="collect")


def failing(*errors: BaseException | None, log: list[Any] | None = None) -> list[Any]:
    """Return handlers that raise these errors, or succeed for `None`."""

    def handler(number: int, error: BaseException | None) -> Any:
        async def work(_message: Any) -> None:
            if log is not None:
                log.append(number)
            if error is not None:
                raise error

        return listens(StudentEnrolled, work)

    return [handler(number, error) for number, error in enumerate(errors)]


async def test_the_first_error_stops_unless_errors_are_collected():
    log: list[int] = []
    error = LookupError("first")
    with pytest.raises(LookupError) as caught:
        await wire(*failing(None, error, None, log=log)).publish(StudentEnrolled())
    assert (caught.value, log) == (error, [0, 1])


@pytest.mark.parametrize("strategy", [COLLECT, Concurrent(), Concurrent(limit=1)])
async def test_a_single_collected_error_is_raised_unchanged_after_all_handlers_have_run(strategy: PublishStrategy):
    log: list[int] = []
    error = LookupError("the only one")
    with pytest.raises(LookupError) as caught:
        await wire(*failing(error, None, None, log=log)).publish(StudentEnrolled(), strategy=strategy)
    assert (caught.value, sorted(log)) == (error, [0, 1, 2])


@pytest.mark.parametrize("strategy", [COLLECT, Concurrent()])
async def test_several_collected_errors_are_raised_as_a_group(strategy: PublishStrategy):
    first, second = LookupError("first"), ValueError("second")
    with pytest.raises(ExceptionGroup, match="in the handlers of StudentEnrolled") as caught:
        await wire(*failing(first, None, second)).publish(StudentEnrolled(), strategy=strategy)
    assert list(caught.value.exceptions) == [first, second]


@pytest.mark.parametrize("strategy", [Sequential(), COLLECT, Concurrent()])
async def test_without_handlers_nothing_happens(strategy: PublishStrategy):
    await wire().publish(StudentEnrolled(), strategy=strategy)


async def test_concurrent_handlers_run_concurrently_up_to_the_limit():
    running, most, met = 0, 0, asyncio.Barrier(2)

    async def work(_message: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await met.wait()
        running -= 1

    mediator = wire(*[listens(StudentEnrolled, work) for _ in range(4)])
    async with asyncio.timeout(5):
        await mediator.publish(StudentEnrolled(), strategy=Concurrent(limit=2))
    assert most == 2


async def test_each_concurrent_handler_has_its_own_scope_and_transaction():
    transactional = Transactional()
    scopes: list[Any] = []
    contexts: list[Any] = []

    async def work(_message: Any) -> None:
        scopes.append(current_scope())
        contexts.append(current_context())
        assert current_scope().transaction is transactional.begun[len(scopes) - 1]

    mediator = wire(*[listens(StudentEnrolled, work)] * 3, behaviors=[transactional])
    async with mediator.scope() as outer:
        await mediator.publish(StudentEnrolled(), strategy=Concurrent(limit=1))
        assert outer not in scopes
    assert len({id(scope) for scope in scopes}) == 3
    assert all(scope.closed for scope in scopes)
    assert len(transactional.begun) == 3
    assert len({context.message_id for context in contexts}) == 3
    assert len({context.correlation_id for context in contexts}) == 1


async def test_concurrent_handlers_have_no_transaction_in_mode_suppress():
    transactional = Transactional()

    async def work(_message: Any) -> None:
        assert current_scope().transaction is None

    mediator = wire(listens(StudentEnrolled, work), behaviors=[transactional])
    await mediator.publish(StudentEnrolled(), mode=TransactionMode.SUPPRESS, strategy=Concurrent())
    assert transactional.begun == []


async def test_a_concurrent_publish_inside_a_transaction_is_refused_and_nothing_runs():
    log: list[int] = []

    async def enroll(_message: Any) -> None:
        await mediator.publish(StudentEnrolled(), strategy=Concurrent())

    mediator = wire(handles(ExpelStudent, enroll), *failing(None, log=log), behaviors=[Transactional()])
    with pytest.raises(MisuseError, match="publish_after_commit"):
        await mediator.send(ExpelStudent())
    assert log == []


async def test_a_cancelled_concurrent_publish_cancels_its_handlers_and_leaves_no_task():
    started, ended = asyncio.Barrier(3), []

    async def work(_message: Any) -> None:
        await started.wait()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(asyncio.current_task())

    mediator = wire(*[listens(StudentEnrolled, work)] * 2)
    publishing = asyncio.create_task(mediator.publish(StudentEnrolled(), strategy=Concurrent()))
    await started.wait()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert len(ended) == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("strategy", [Concurrent(), Sequential(), COLLECT])
async def test_a_cancellation_that_a_handler_raises_itself_is_not_swallowed(strategy: PublishStrategy):
    with pytest.raises(asyncio.CancelledError):
        await wire(*failing(asyncio.CancelledError())).publish(StudentEnrolled(), strategy=strategy)


async def test_a_strategy_of_the_call_overrides_the_class_and_the_class_overrides_the_mediator():
    used: list[str] = []

    @dataclass(frozen=True)
    class Named(PublishStrategy):
        name: str

        async def run(self, calls: Any, _notification: Any, /) -> None:
            used.append(self.name)
            for call in calls:
                await call()

    class Undecided(Notification):
        pass

    class Decided(Notification):
        publish_strategy: ClassVar[PublishStrategy | None] = Named("class")

    registry = Registry(
        [bind(listens(Undecided, nothing)), bind(listens(Decided, nothing))], strategy=Named("mediator")
    )
    mediator = Mediator(registry)
    await mediator.publish(Undecided())
    await mediator.publish(Decided())
    await mediator.publish(Decided(), strategy=Named("call"))
    await mediator.publish(Decided())
    assert used == ["mediator", "class", "call", "class"]


@pytest.mark.parametrize(
    "make", [lambda: Concurrent(limit=0), lambda: Sequential(on_error="never")], ids=["limit", "on_error"]
)
def test_a_strategy_with_wrong_arguments_is_refused_by_its_constructor(make: Any):
    with pytest.raises(ContainerError, match="not"):
        make()


@pytest.mark.parametrize("strategy", [Sequential(), COLLECT, Concurrent(limit=1)])
async def test_a_behavior_around_each_handler_receives_the_class_of_the_handler(strategy: PublishStrategy):
    log: list[str] = []

    class Trace(NotificationPipelineBehavior[StudentChanged]):
        async def handle(self, notification: Any, handler: type, call_next: Any) -> None:
            log.append(f"{handler.__name__} in")
            await call_next()
            log.append(f"{handler.__name__} out")

    class Elsewhere(NotificationPipelineBehavior[OtherNotification]):
        async def handle(self, notification: Any, handler: type, call_next: Any) -> None:
            raise AssertionError

    async def whole(_message: Any, call_next: Any) -> None:
        log.append("publish")
        await call_next()

    class First(listens(StudentEnrolled, nothing).__class__):
        pass

    class Second(listens(StudentChanged, nothing).__class__):
        pass

    mediator = wire(First, Second, behaviors=[Trace, around(Notification, whole), Elsewhere])
    await mediator.publish(StudentEnrolled(), strategy=strategy)
    assert log == ["publish", "First in", "First out", "Second in", "Second out"]


async def test_a_behavior_around_each_handler_may_skip_a_handler():
    log: list[int] = []

    class Skip(NotificationPipelineBehavior[Notification]):
        async def handle(self, notification: Any, handler: type, call_next: Any) -> None:
            if log:
                await call_next()
            log.append(7)

    await wire(*failing(None, None, log=log), behaviors=[Skip]).publish(StudentEnrolled())
    assert log == [7, 1, 7]


class OtherNotification(Notification):
    pass


async def nothing(_message: Any) -> None:
    pass


async def test_a_concurrent_handler_whose_task_is_cancelled_fails_and_the_other_handlers_finish():
    log: list[int] = []

    async def cancelled(_message: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    mediator = wire(listens(StudentEnrolled, cancelled), *failing(None, log=log))
    with pytest.raises(asyncio.CancelledError):
        await mediator.publish(StudentEnrolled(), strategy=Concurrent())
    assert log == [0]


async def test_a_group_that_contains_a_cancellation_is_handled_like_any_error():
    log: list[int] = []
    group = BaseExceptionGroup("inside", [asyncio.CancelledError(), LookupError()])
    with pytest.raises(BaseExceptionGroup) as caught:
        await wire(*failing(group, None, ValueError(), log=log)).publish(
            StudentEnrolled(), strategy=Concurrent(limit=1)
        )
    assert (caught.value.exceptions[0], log) == (group, [0, 1, 2])
