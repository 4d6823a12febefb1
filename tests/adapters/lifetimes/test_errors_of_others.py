"""Errors of application code pass through container, database, spans and threads as the same object."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import containers, providers
from sqlalchemy import text

from mediator import (
    Command,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    OutboxRelay,
    RequestHandler,
    StreamRequest,
    TransactionMode,
    current_scope,
)
from mediator.blocking import BlockingMediator
from mediator.blocks import asynccontextmanager
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, override
from mediator.opentelemetry import HandlerTelemetryBehavior, TelemetryBehavior
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, create_schema, open_engine
from mediator.testing import InMemoryBroker, InMemoryEventPublisher
from tests.unit.errors.test_errors_of_others import ERRORS, FrozenError, arrives, each_error
from tests.unit.wiring import streams, wire


class Fail(Command[None]):
    def __init__(self, error: BaseException, *, nested: bool = False) -> None:
        self.error = error
        self.nested = nested


class FailHandler(RequestHandler[Fail, None]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork, mediator: Any) -> None:
        self._unit_of_work = unit_of_work
        self._mediator = mediator

    async def handle(self, command: Fail) -> None:
        if command.nested:
            await self._mediator.send(Fail(command.error), mode=TransactionMode.NESTED)
        await self._unit_of_work.session.execute(text("SELECT 1"))
        raise command.error


class Container(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.url)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    publisher = providers.Singleton(InMemoryEventPublisher, providers.Singleton(InMemoryBroker), application="app")
    relay = providers.Singleton(OutboxRelay, outbox, publisher)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(
        behaviors=providers.List(
            providers.Factory(TelemetryBehavior), providers.Factory(HandlerTelemetryBehavior), transaction
        )
    )
    fail = providers.Factory(FailHandler, unit_of_work, mediator)


@pytest.fixture
def container(tmp_path: Path) -> Container:
    made = Container()
    made.config.from_dict({"url": f"sqlite:///{tmp_path}/app.db"})
    return made


async def test_an_error_of_a_handler_passes_through_transactions_and_savepoints_unchanged(container: Container):
    async with lifespan(container):
        for kind in ERRORS:
            error = kind()
            for nested in (False, True):
                await arrives(error, container.mediator().send(Fail(error, nested=nested)))


@each_error
async def test_an_error_of_the_body_passes_through_a_lifespan_and_an_override_unchanged(
    container: Container, kind: Any
):
    error = kind()

    async def work() -> None:
        with override(container, publisher=InMemoryEventPublisher(InMemoryBroker(), application="app")):
            async with lifespan(container):
                raise error

    await arrives(error, work())


@each_error
async def test_an_error_of_a_resource_passes_through_a_lifespan_unchanged(container: Container, kind: Any):
    error = kind()

    @asynccontextmanager
    async def opened(*, at_once: bool) -> AsyncIterator[None]:
        if at_once:
            raise error
        yield
        raise error

    async def work(*, at_once: bool) -> None:
        container.engine.override(providers.Resource(opened, at_once=at_once))
        async with lifespan(container, check=False):
            pass

    await arrives(error, work(at_once=True))
    await arrives(error, work(at_once=False))


@pytest.mark.parametrize("kind", ERRORS[:4], ids=lambda kind: kind.__name__)
async def test_an_error_of_a_worker_passes_through_a_lifespan_unchanged(container: Container, kind: Any):
    error = kind()

    class Relay(OutboxRelay):
        async def run(self) -> None:
            raise error

    container.relay.override(providers.Singleton(Relay, container.outbox, container.publisher))

    async def work() -> None:
        async with lifespan(container, workers=True, check=False):
            await asyncio.Event().wait()

    await arrives(error, work())


@pytest.mark.parametrize("kind", ERRORS[:4], ids=lambda kind: kind.__name__)
def test_errors_of_a_handler_and_of_the_block_pass_through_a_blocking_mediator_unchanged(
    container: Container, kind: Any
):
    error = kind()
    with pytest.raises(kind) as caught, BlockingMediator(container.mediator(), lifespan(container)) as mediator:
        with pytest.raises(kind) as inside:
            mediator.send(Fail(error))
        assert inside.value is error
        raise error
    assert caught.value is error


class Numbers(StreamRequest[int]):
    pass


@pytest.mark.parametrize("kind", ERRORS[:4], ids=lambda kind: kind.__name__)
def test_errors_of_a_stream_and_of_its_reader_pass_through_a_blocking_mediator_unchanged(kind: Any):
    error, told = kind(), []

    async def items(_request: Any) -> AsyncIterator[int]:
        current_scope().on_exit(told.append)
        yield 1
        raise error

    wired = wire(streams(Numbers, items))
    with BlockingMediator(wired, wired.scope()) as mediator:
        with pytest.raises(kind) as caught, mediator.stream(Numbers()) as opened:
            list(opened)
        assert caught.value is error
        with pytest.raises(kind) as caught, mediator.stream(Numbers()) as opened:
            assert next(opened) == 1
            raise error
        assert caught.value is error
    assert [each is error for each in told] == [True, True]


@pytest.mark.parametrize("kind", ERRORS[:4], ids=lambda kind: kind.__name__)
def test_an_error_of_the_startup_passes_through_a_blocking_mediator_unchanged(kind: Any):
    error = kind()

    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        raise error
        yield

    wired = wire()
    with pytest.raises(kind) as caught, BlockingMediator(wired, failing()):
        pytest.fail("the block was entered")
    assert caught.value is error


@pytest.mark.parametrize("kind", ERRORS[:4], ids=lambda kind: kind.__name__)
def test_an_error_of_the_shutdown_passes_through_a_blocking_mediator_unchanged(container: Container, kind: Any):
    error = kind()

    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        async with lifespan(container):
            try:
                yield
            finally:
                raise error

    with pytest.raises(kind) as caught, BlockingMediator(container.mediator(), failing()):
        raise KeyError("of the body")
    assert caught.value is error
    assert isinstance(error.__context__, KeyError)


async def test_an_error_outside_a_unit_of_work_passes_through_an_open_engine_unchanged(tmp_path: Path):
    async def work() -> None:
        async with open_engine(f"sqlite:///{tmp_path}/app.db") as engine:
            await create_schema(engine)
            raise error

    error = FrozenError()
    await arrives(error, work())
