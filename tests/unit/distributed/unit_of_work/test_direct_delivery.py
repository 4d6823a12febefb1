"""Direct delivery: events are published once, in order and within a timeout after the commit, despite cancellations."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    Mediator,
    PipelineBehavior,
    current_scope,
)
from mediator.binding import Binding
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import EventPublisher, PublishResult
from mediator.errors import (
    AfterCommitError,
    CommittedError,
    EventHeldBackError,
    EventsNotPublishedError,
    PublisherUnavailableError,
)
from mediator.registry import Registry
from mediator.testing import InMemoryDatabase, InMemoryUnitOfWork
from tests.unit.virtual_time import in_virtual_time, now, settle
from tests.unit.wiring import bind, handles


@dataclass(frozen=True, slots=True)
class Changed(DistributedEvent):
    event_type: ClassVar[str] = "shop.changed"
    number: int


@dataclass(frozen=True, slots=True)
class Change(Command[str]):
    numbers: tuple[int, ...]
    follower_seconds: float | None = None


class Publisher(EventPublisher):
    """A publisher that records the time of each call, takes `seconds`, and fails for the bodies in `failing`."""

    def __init__(self, application: "Application") -> None:
        self.calls: list[tuple[float, list[bytes]]] = []
        self.seconds = 0.0
        self.failing: set[bytes] = set()
        self.held_back: set[bytes] = set()
        self.cancelled: list[float] = []
        self._application = application

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        self.calls.append((now(), [event.data for event in events]))
        self._application.log.append(f"published, {len(self._application.database.tables['changes'])} committed")
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled.append(now())
            raise
        return [PublishResult(event, self._error_of(event)) for event in events]

    def _error_of(self, event: CloudEvent) -> Exception | None:
        if event.data in self.held_back:
            return EventHeldBackError(event.id, event.type)
        return PublisherUnavailableError("nats://broker", "away") if event.data in self.failing else None


class Application:
    def __init__(self, **options: Any) -> None:
        self.database = InMemoryDatabase()
        self.publisher = Publisher(self)
        self.log: list[str] = []
        self._options = options
        behavior = Binding(self._behavior, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior)
        self.mediator = Mediator(Registry([bind(handles(Change, self._handle))], [behavior]))

    def _behavior(self) -> DistributedUnitOfWorkBehavior[Any]:
        mine = self._unit_of_work()
        options: dict[str, Any] = {"publisher": self.publisher, "delivery": "direct", **self._options}
        return DistributedUnitOfWorkBehavior(mine, DistributedEventBroker(mine), **options)

    def _unit_of_work(self) -> InMemoryUnitOfWork:
        instances = current_scope().instances
        if InMemoryUnitOfWork not in instances:
            instances[InMemoryUnitOfWork] = InMemoryUnitOfWork(self.database)
        found: InMemoryUnitOfWork = instances[InMemoryUnitOfWork]
        return found

    async def _handle(self, command: Change) -> str:
        mine = self._unit_of_work()
        for number in command.numbers:
            mine.table("changes")[number] = True
            DistributedEventBroker(mine).add(Changed(number))
        mine.table("changes")
        seconds = command.follower_seconds
        if seconds is not None:

            async def follow() -> None:
                self.log.append("followed")
                await asyncio.sleep(seconds)

            mine.after_commit("the follower", follow)
        return "response"


def body(number: int) -> bytes:
    return b'{"number":%d}' % number


@in_virtual_time
async def test_events_are_published_once_in_order_after_the_commit_and_before_the_after_commit_calls() -> None:
    application = Application()
    for first in (0, 10):
        application.log.clear()
        assert (
            await application.mediator.send(Change((first, first + 1, first + 2), follower_seconds=0.0)) == "response"
        )
        assert application.publisher.calls.pop() == (now(), [body(first + number) for number in range(3)])
        assert application.publisher.calls == []
        assert application.log == [f"published, {3 if first == 0 else 6} committed", "followed"]
    assert application.database.outbox == []
    await application.mediator.send(Change(()))
    assert application.publisher.calls == []


@pytest.mark.parametrize("timeout", [2.0, 30.0])
@in_virtual_time
async def test_each_command_waits_for_a_hanging_publisher_no_longer_than_its_timeout(timeout: float) -> None:
    application = Application(after_commit_timeout=timeout)
    application.publisher.seconds = 86_400.0
    for number in (1, 2):
        began = now()
        with pytest.raises(EventsNotPublishedError) as caught:
            async with asyncio.timeout(3600):
                await application.mediator.send(Change((number,)))
        assert now() - began == pytest.approx(timeout)
        assert caught.value.response == "response"
        assert [event.data for event in caught.value.events] == [body(number)]
        assert isinstance(caught.value.__cause__, TimeoutError)
    assert application.database.tables["changes"] == {1: True, 2: True}
    assert len(application.publisher.cancelled) == 2


@in_virtual_time
async def test_a_cancelled_caller_waits_for_delivery_and_no_longer_than_its_timeout() -> None:
    for seconds, expected in ((5.0, 5.0), (86_400.0, 30.0)):
        application = Application()
        application.publisher.seconds = seconds
        sending = asyncio.create_task(application.mediator.send(Change((1,), follower_seconds=0.0)))
        await settle()
        began = now()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(3600):
                await sending
        assert now() - began == pytest.approx(expected)
        assert application.database.tables["changes"] == {1: True}
        assert application.log == ["published, 1 committed", "followed"]


@in_virtual_time
async def test_no_after_commit_call_follows_a_delivery_that_ended_with_the_event_loop() -> None:
    application = Application()
    application.publisher.seconds = 86_400.0
    sending = asyncio.create_task(application.mediator.send(Change((1,), follower_seconds=0.0)))
    await settle()
    began = now()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:  # as `asyncio.run` does at its end
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert (now(), application.log) == (began, ["published, 1 committed"])


@in_virtual_time
async def test_after_commit_calls_have_their_own_timeout_and_both_failures_are_raised() -> None:
    application = Application(after_commit_timeout=10.0)
    application.publisher.seconds = 86_400.0
    with pytest.raises(AfterCommitError) as caught:
        await application.mediator.send(Change((1,), follower_seconds=86_400.0))
    assert now() == pytest.approx(20.0)
    assert [type(error) for error in caught.value.errors] == [EventsNotPublishedError, TimeoutError]
    assert list(caught.value.notifications) == ["the follower"]
    with pytest.raises(EventsNotPublishedError):
        await application.mediator.send(Change((2,), follower_seconds=9.0))
    assert now() == pytest.approx(20.0 + 10.0 + 9.0)


@in_virtual_time
async def test_exactly_the_events_that_were_not_stored_are_named_with_their_errors() -> None:
    application = Application()
    application.publisher.failing = {body(2), body(4)}
    with pytest.raises(EventsNotPublishedError) as caught:
        await application.mediator.send(Change((1, 2, 3, 4, 5)))
    assert [event.data for event in caught.value.events] == [body(2), body(4)]
    assert len(caught.value.errors) == 2
    assert isinstance(caught.value, CommittedError)
    assert application.database.tables["changes"] == dict.fromkeys(range(1, 6), True)


@in_virtual_time
async def test_events_held_back_behind_a_failed_event_are_named_as_well() -> None:
    application = Application()
    application.publisher.failing, application.publisher.held_back = {body(1)}, {body(2), body(4)}
    with pytest.raises(EventsNotPublishedError) as caught:
        await application.mediator.send(Change((1, 2, 3, 4)))
    assert [event.data for event in caught.value.events] == [body(1), body(2), body(4)]
    failed, *held_back = caught.value.errors
    assert isinstance(failed, PublisherUnavailableError)
    assert [type(error) for error in held_back] == [EventHeldBackError] * 2


@in_virtual_time
async def test_events_without_a_result_are_named_as_they_were_sent() -> None:
    application = Application()
    application.publisher.application, application.publisher.seconds = "shop", 999.0
    with pytest.raises(EventsNotPublishedError) as caught:
        await application.mediator.send(Change((1, 2)))
    assert [(event.data, event.source) for event in caught.value.events] == [(body(1), "shop"), (body(2), "shop")]


@in_virtual_time
async def test_the_source_of_a_directly_delivered_event_is_the_application_of_the_publisher() -> None:
    for name, source in (("shop", "shop"), (None, "")):
        application = Application()
        application.publisher.application = name
        application.publisher.failing = {body(1)}
        with pytest.raises(EventsNotPublishedError) as caught:
            await application.mediator.send(Change((1,)))
        assert [event.source for event in caught.value.events] == [source]
