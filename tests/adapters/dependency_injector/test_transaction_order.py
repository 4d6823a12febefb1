"""Where the behaviors of transactions, and those inside them, stand in the list: found when the container is validated."""

from dataclasses import dataclass
from typing import Any

import pytest
from dependency_injector import containers, providers

from mediator import (
    CachingBehavior,
    Command,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    IdempotencyBehavior,
    MemoryCache,
    Query,
    ReadOnlyTransactionBehavior,
    RequestHandler,
)
from mediator.behaviors.retry import RetryBehavior
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, validate, workers_of
from mediator.errors import ContainerValidationError
from mediator.testing import InMemoryDatabase, InMemoryIdempotency, InMemoryOutbox, InMemoryUnitOfWork


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
    """What is wrong with a container whose list has these behaviors, in this order."""

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
        (retry, "container.inner", "an attempt needs one of its own"),
        (caching, "container.reading", "a cache neither answers"),
    ],
)
def test_inside_it_they_are_found(inner, at, reason):
    (problem,) = problems(reading=reading, inner=inner)
    assert problem.startswith(f"{at}: ")
    assert reason in problem
    assert "the pipeline of Find" in problem


def test_idempotency_belongs_inside_the_transaction_of_the_command():
    assert problems(writing=writing, once=once) == []
    (problem,) = problems(once=once, writing=writing)
    assert problem == (
        "container.once: stands outside the unit of work in the pipeline of Add: what it stores is part of the transaction "
        "of the command. Put it after container.writing in the list."
    )


def test_idempotency_without_a_transaction_is_found():
    (problem,) = problems(once=once, reading=reading)
    assert problem == (
        "container.once: has no unit of work around it in the pipeline of Add: what it stores is part of the transaction of "
        "the command. Put one before it in the list."
    )


async def test_idempotency_is_a_worker_that_is_found_by_its_type():
    class Library(containers.DeclarativeContainer):
        database = providers.Singleton(InMemoryDatabase)
        idempotency = providers.Singleton(InMemoryIdempotency, database)

    async with lifespan(Library(), workers=True) as library:
        assert [label for label, _ in workers_of(library)] == ["container.idempotency"]
