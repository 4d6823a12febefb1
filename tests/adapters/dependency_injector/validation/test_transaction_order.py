"""Validation of the container checks the order of transactional behaviors and the behaviors inside them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from dependency_injector import containers, providers

from mediator import (
    Command,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    EventConsumer,
    IdempotencyBehavior,
    Query,
    ReadOnlyTransactionBehavior,
    RequestHandler,
)
from mediator.behaviors import CachingBehavior, MemoryCache
from mediator.behaviors.retry import RetryBehavior
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, validate, workers_of
from mediator.errors import ContainerValidationError
from mediator.testing import (
    InMemoryBroker,
    InMemoryDatabase,
    InMemoryEventSubscription,
    InMemoryIdempotency,
    InMemoryInbox,
    InMemoryOutbox,
    InMemoryUnitOfWork,
)


@dataclass(frozen=True, slots=True)
class Find(Query[str]):
    title: str


class FindHandler(RequestHandler[Find, str]):
    async def handle(self, query: Find) -> str:
        return query.title


@dataclass(frozen=True, slots=True)
class Add(Command[str]):
    title: str


class AddHandler(RequestHandler[Add, str]):
    async def handle(self, command: Add) -> str:
        return command.title


def problems(**behaviors: Any) -> list[str]:
    """Return the problems of a container with these behaviors, in this order."""

    class Library(containers.DeclarativeContainer):
        database = providers.Singleton(InMemoryDatabase)
        unit_of_work = Scoped(InMemoryUnitOfWork, database)
        distributed_events = Scoped(DistributedEventBroker, unit_of_work)
        outbox = providers.Singleton(InMemoryOutbox, database)
        idempotency = providers.Singleton(InMemoryIdempotency, database)
        find = providers.Factory(FindHandler)
        add = providers.Factory(AddHandler)

    made = {name: make(Library) for name, make in behaviors.items()}
    for name, provider in made.items():
        setattr(Library, name, provider)
    Library.mediator = MediatorProvider(behaviors=providers.List(*made.values()))
    try:
        validate(Library(), relay_elsewhere=True)
    except ContainerValidationError as error:
        return [f"{problem.label}: {problem.text}" for problem in error.problems]
    return []


def reading(library: Any) -> Any:
    return providers.Factory(ReadOnlyTransactionBehavior, library.unit_of_work)


def writing(library: Any) -> Any:
    parts = (library.unit_of_work, library.distributed_events, library.outbox)
    return providers.Factory(DistributedUnitOfWorkBehavior, *parts)


def once(library: Any) -> Any:
    return providers.Factory(IdempotencyBehavior, library.idempotency)


def retry(_library: Any) -> Any:
    return providers.Factory(RetryBehavior, on=OSError)


def caching(_library: Any) -> Any:
    return providers.Factory(CachingBehavior, providers.Singleton(MemoryCache))


def test_retry_and_cache_belong_outside_the_transaction_of_a_query():
    assert problems(retry=retry, caching=caching, reading=reading) == []


@pytest.mark.parametrize(
    ("inner", "at", "reason"),
    [
        (retry, "container.inner", "each attempt needs its own transaction"),
        (caching, "container.reading", "a cache is not used inside a transaction"),
    ],
)
def test_retry_and_cache_inside_the_transaction_of_a_query_are_found(inner, at, reason):
    (problem,) = problems(reading=reading, inner=inner)
    assert problem.startswith(f"{at}: ")
    assert reason in problem
    assert "the pipeline of Find" in problem


def test_idempotency_belongs_inside_the_transaction_of_the_command():
    assert problems(writing=writing, once=once) == []
    (problem,) = problems(once=once, writing=writing)
    assert problem == (
        "container.once: stands outside the unit of work in the pipeline of Add: it stores the response in the transaction "
        "of the command. Put it after container.writing in the list."
    )


def test_idempotency_without_a_transaction_is_found():
    (problem,) = problems(once=once, reading=reading)
    assert problem == (
        "container.once: has no unit of work around it in the pipeline of Add: it stores the response in the transaction of "
        "the command. Put one before it in the list."
    )


async def test_idempotency_is_found_by_its_type_as_a_worker():
    class Library(containers.DeclarativeContainer):
        database = providers.Singleton(InMemoryDatabase)
        idempotency = providers.Singleton(InMemoryIdempotency, database)

    async with lifespan(Library(), workers=True) as library:
        assert [label for label, _ in workers_of(library)] == ["container.idempotency"]


def problems_of(*behaviors: Any, command: type = Add, consuming: bool = False, given: bool = True) -> list[str]:
    """Return the problems of a container with a unit of work and these behaviors."""

    class Handler(RequestHandler[command, str]):  # type: ignore[valid-type]
        def __init__(self, _repository: dict[str, Any] | None = None) -> None: ...

        async def handle(self, command: Any) -> str:
            return str(command)

    class Library(containers.DeclarativeContainer):
        database = providers.Singleton(InMemoryDatabase)
        unit_of_work = Scoped(InMemoryUnitOfWork, database)
        distributed_events = Scoped(DistributedEventBroker, unit_of_work)
        outbox = providers.Singleton(InMemoryOutbox, database)
        repository = providers.Factory(dict, unit_of_work=unit_of_work)

    made = [make(Library) for make in behaviors]
    for number, provider in enumerate(made):
        setattr(Library, f"behavior_{number}", provider)
    Library.mediator = MediatorProvider(behaviors=providers.List(*made))
    if consuming:
        broker = providers.Singleton(InMemoryBroker)
        subscription = providers.Singleton(InMemoryEventSubscription, broker, group="library")
        inbox = providers.Singleton(InMemoryInbox, Library.database)
        Library.consumer = providers.Singleton(
            EventConsumer, subscription, inbox, Library.unit_of_work.provider, Library.mediator
        )
    Library.handler = providers.Factory(Handler, Library.repository) if given else providers.Factory(Handler)
    try:
        validate(Library(), relay_elsewhere=True)
    except ContainerValidationError as error:
        return [f"{problem.label}: {problem.text}" for problem in error.problems]
    return []


class Ping(Command[str]):
    needs_unit_of_work: ClassVar[bool] = False


class OfBilling(Command[str]):
    pass


class Pay(OfBilling):
    pass


class BillingTransaction(DistributedUnitOfWorkBehavior[OfBilling]):
    pass


def billing(library: Any) -> Any:
    return providers.Factory(BillingTransaction, library.unit_of_work, library.distributed_events, library.outbox)


def test_a_command_without_a_unit_of_work_is_reported_at_its_handler():
    (problem,) = problems_of()
    assert problem.startswith("container.handler: handles Add, which would run in no unit of work")
    assert "needs_unit_of_work" in problem
    assert problems_of(reading) == [problem]
    assert problems_of(billing) == problems_of(billing, given=False) == [problem]


def test_a_command_with_a_unit_of_work_or_without_writes_is_not_reported():
    assert problems_of(writing) == problems_of(billing, command=Pay) == problems_of(given=False) == []
    assert problems_of(command=Ping) == problems_of(billing, command=Ping) == problems_of(command=Find) == []


def test_a_command_sent_by_event_handlers_runs_in_the_unit_of_work_of_their_consumer():
    assert problems_of(consuming=True) == []
    assert len(problems_of(billing, consuming=True)) == 1
