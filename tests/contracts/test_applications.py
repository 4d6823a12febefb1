"""Two applications in memory: the real relay and consumer, with a broker and a database in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from dependency_injector import containers, providers
from structlog.testing import capture_logs

from mediator import (
    AggregateRoot,
    CallNext,
    Command,
    Concurrent,
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    DistributedUnitOfWorkBehavior,
    EventConsumer,
    Mediator,
    Notification,
    NotificationHandler,
    OutboxRelay,
    PipelineBehavior,
    RequestHandler,
    TransactionMode,
    current_delivery,
    current_unit_of_work,
)
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.testing import (
    InMemoryBroker,
    InMemoryDatabase,
    InMemoryEventPublisher,
    InMemoryEventSubscription,
    InMemoryInbox,
    InMemoryOutbox,
    InMemoryUnitOfWork,
)


@dataclass(frozen=True, slots=True)
class Enroll(Command[None]):
    name: str


@dataclass(frozen=True, slots=True)
class Enrolled(DistributedEvent):
    event_type: ClassVar[str] = "contract-university.enrolled"
    name: str


class Recorded(Notification):
    pass


class EnrollHandler(RequestHandler[Enroll, None]):
    def __init__(self, distributed_events: DistributedEventBroker) -> None:
        self._distributed_events = distributed_events

    async def handle(self, command: Enroll) -> None:
        self._distributed_events.add(Enrolled(command.name))
        if command.name == "nobody":
            raise LookupError


class Record(DistributedEventHandler[Enrolled]):
    def __init__(self, unit_of_work: InMemoryUnitOfWork, mediator: Mediator, plan: "Plan") -> None:
        self._table = unit_of_work.table("students")
        self._mediator = mediator
        self._plan = plan

    async def handle(self, event: Enrolled) -> None:
        self._table[event.name] = current_delivery().attempt
        await self._plan.act(self._mediator)
        self._plan.handled.set()


class Fail(NotificationHandler[Recorded]):
    async def handle(self, notification: Recorded) -> None:
        raise LookupError("after the commit")


class Independent(Command[None]):
    pass


class IndependentHandler(RequestHandler[Independent, None]):
    def __init__(self, mediator: Mediator) -> None:
        self._mediator = mediator

    async def handle(self, command: Independent) -> None:
        self._mediator.publish_after_commit(Recorded())


class Plan:
    def __init__(self) -> None:
        self.actions: list[Callable[[Mediator], Any]] = []
        self.handled = asyncio.Event()

    async def act(self, mediator: Mediator) -> None:
        if self.actions:
            await self.actions.pop(0)(mediator)


class Sending(containers.DeclarativeContainer):
    broker = providers.Dependency(instance_of=InMemoryBroker)
    database = providers.Singleton(InMemoryDatabase)
    unit_of_work = Scoped(InMemoryUnitOfWork, database)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(InMemoryOutbox, database)
    publisher = providers.Singleton(InMemoryEventPublisher, broker, application="enrollment")
    relay = providers.Singleton(OutboxRelay, outbox, publisher)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    enroll = providers.Factory(EnrollHandler, distributed_events)


class Receiving(containers.DeclarativeContainer):
    broker = providers.Dependency(instance_of=InMemoryBroker)
    plan = providers.Singleton(Plan)
    database = providers.Singleton(InMemoryDatabase)
    unit_of_work = Scoped(InMemoryUnitOfWork, database)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    inbox = providers.Singleton(InMemoryInbox, database)
    outbox = providers.Singleton(InMemoryOutbox, database)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    subscription = providers.Singleton(InMemoryEventSubscription, broker, "advising")
    consumer = providers.Singleton(
        EventConsumer, subscription, inbox, unit_of_work.provider, mediator, retry_delays=(0.01,)
    )
    record = providers.Factory(Record, unit_of_work, mediator, plan)
    fail = providers.Factory(Fail)
    independent = providers.Factory(IndependentHandler, mediator)


@pytest.fixture
def broker() -> InMemoryBroker:
    return InMemoryBroker()


@contextlib.asynccontextmanager
async def both(broker: InMemoryBroker, receiver: Any = None) -> AsyncIterator[tuple[Any, Any]]:
    receiver = receiver or Receiving(broker=broker)
    async with (
        lifespan(Sending(broker=broker), workers=True) as sending,
        lifespan(receiver, workers=True, relay_elsewhere=True) as receiving,
    ):
        yield sending, receiving


async def settled(broker: InMemoryBroker, receiving: Any, count: int) -> None:
    """Wait until the given number of events are acknowledged, and so have taken effect."""
    async with asyncio.timeout(10):
        await broker.wait_until_acknowledged("advising", count)
    assert len(receiving.database().inbox) == count


async def test_a_committed_event_takes_effect_in_the_other_application(broker: InMemoryBroker):
    async with both(broker) as (sending, receiving):
        with pytest.raises(LookupError):
            await sending.mediator().send(Enroll("nobody"))
        await sending.mediator().send(Enroll("Ada"))
        await settled(broker, receiving, 1)
        assert receiving.database().tables["students"] == {"Ada": 1}
        assert len(broker.events) == 1
        assert sending.outbox().pending == ()


async def test_no_event_is_lost_in_an_outage_of_the_broker(broker: InMemoryBroker):
    async with both(broker) as (sending, receiving):
        broker.available = False
        await sending.mediator().send(Enroll("Ada"))
        assert len(sending.outbox().pending) == 1
        broker.available = True
        await settled(broker, receiving, 1)
        assert receiving.database().tables["students"] == {"Ada": 1}


async def test_a_failing_handler_is_retried_and_takes_effect_once(broker: InMemoryBroker):
    async def fail(_mediator: Mediator) -> None:
        raise LookupError

    async with both(broker) as (sending, receiving):
        receiving.plan().actions += [fail, fail]
        await sending.mediator().send(Enroll("Ada"))
        await settled(broker, receiving, 1)
        assert receiving.database().tables["students"] == {"Ada": 3}


class ForgetsOnce(PipelineBehavior[Enrolled, None]):
    def __init__(self) -> None:
        self._forgotten = False

    async def handle(self, event: Enrolled, call_next: CallNext[None]) -> None:
        going = call_next()
        if self._forgotten:
            return await going
        self._forgotten = True
        return going  # type: ignore[return-value]


class Forgetting(Receiving):
    forgets = providers.Singleton(ForgetsOnce)
    mediator = MediatorProvider(behaviors=providers.List(Receiving.transaction, forgets))
    consumer = providers.Singleton(
        EventConsumer,
        Receiving.subscription,
        Receiving.inbox,
        Receiving.unit_of_work.provider,
        mediator,
        retry_delays=(0.01,),
    )
    record = providers.Factory(Record, Receiving.unit_of_work, mediator, Receiving.plan)
    independent = providers.Factory(IndependentHandler, mediator)


async def test_a_delivery_whose_handlers_a_behavior_forgot_to_await_is_redelivered(broker: InMemoryBroker):
    async with both(broker, Forgetting(broker=broker)) as (sending, receiving):
        await sending.mediator().send(Enroll("Ada"))
        await settled(broker, receiving, 1)
        assert receiving.database().tables["students"] == {"Ada": 2}


class Concurrently(Receiving):
    mediator = MediatorProvider(behaviors=providers.List(Receiving.transaction), strategy=Concurrent())
    consumer = providers.Singleton(
        EventConsumer, Receiving.subscription, Receiving.inbox, Receiving.unit_of_work.provider, mediator
    )
    record = providers.Factory(Record, Receiving.unit_of_work, mediator, Receiving.plan)
    independent = providers.Factory(IndependentHandler, mediator)


async def test_the_handlers_of_a_delivery_share_its_transaction_with_any_strategy(broker: InMemoryBroker):
    async with both(broker, Concurrently(broker=broker)) as (sending, receiving):
        await sending.mediator().send(Enroll("Ada"))
        await settled(broker, receiving, 1)
        assert receiving.database().tables["students"] == {"Ada": 1}


async def test_a_failure_after_the_commit_of_a_delivery_is_logged_and_the_delivery_is_not_repeated(
    broker: InMemoryBroker,
):
    async def later(mediator: Mediator) -> None:
        mediator.publish_after_commit(Recorded())

    with capture_logs() as logs:
        async with both(broker) as (sending, receiving):
            receiving.plan().actions.append(later)
            await sending.mediator().send(Enroll("Ada"))
            await settled(broker, receiving, 1)
            await sending.mediator().send(Enroll("Bob"))
            await settled(broker, receiving, 2)
            assert receiving.database().tables["students"] == {"Ada": 1, "Bob": 1}
    events = [line["event"] for line in logs]
    assert events.count("delivery failed after the commit") == 1
    assert "delivery failed" not in events


async def test_a_failure_after_the_commit_of_another_transaction_rolls_the_delivery_back_and_repeats_it(
    broker: InMemoryBroker,
):
    async def independent(mediator: Mediator) -> None:
        await mediator.send(Independent(), mode=TransactionMode.NEW)

    with capture_logs() as logs:
        async with both(broker) as (sending, receiving):
            receiving.plan().actions.append(independent)
            await sending.mediator().send(Enroll("Ada"))
            await settled(broker, receiving, 1)
            assert receiving.database().tables["students"] == {"Ada": 2}
    events = [line["event"] for line in logs]
    assert events.count("delivery failed") == 1
    assert "delivery failed after the commit" not in events


class Advisee(AggregateRoot):
    def __init__(self, name: str) -> None:
        self.name = name
        self.record(AdviseeCame(name))


@dataclass(frozen=True, slots=True)
class AdviseeCame(Notification):
    name: str


class Advise(NotificationHandler[AdviseeCame]):
    def __init__(self, unit_of_work: InMemoryUnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def handle(self, notification: AdviseeCame) -> None:
        self._unit_of_work.table("advised")[notification.name] = current_delivery().attempt
        if current_delivery().attempt == 1:
            raise LookupError


async def test_events_of_aggregates_are_published_in_the_transaction_of_the_delivery(broker: InMemoryBroker):
    class WithAdvisees(Receiving):
        advise = providers.Factory(Advise, Receiving.unit_of_work)

    async def come(_mediator: Mediator) -> None:
        current_unit_of_work().track(Advisee("Ada"))

    async with both(broker, WithAdvisees(broker=broker)) as (sending, receiving):
        receiving.plan().actions += [come, come]
        await sending.mediator().send(Enroll("Ada"))
        await settled(broker, receiving, 1)
        assert receiving.database().tables == {"students": {"Ada": 2}, "advised": {"Ada": 2}}
