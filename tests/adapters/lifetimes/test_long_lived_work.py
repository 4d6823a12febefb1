"""Objects that outlive a dispatch (connections, tasks, timers) keep neither its message nor its context."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import containers, providers
from sqlalchemy import text

from mediator import (
    Command,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    Mediator,
    OutboxRelay,
    RequestHandler,
    TimeoutBehavior,
    TransactionMode,
)
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.dependency_injector.workers import running
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.requests import RemoteCall
from mediator.errors import PublisherUnavailableError
from mediator.nats import NatsEventPublisher, NatsRequestChannel, NatsServer, open_connection
from mediator.nats.doorbell import open_doorbell
from mediator.scope import current_frame
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, open_engine
from mediator.testing import InMemoryBroker, InMemoryEventPublisher
from tests.postgres import PostgresServer
from tests.unit.wiring import handles, wire

MARK: ContextVar[str | None] = ContextVar("mark", default=None)
"""The name of the dispatch in which an object was created, like a tenant, a log field or a span."""

PARALLEL = 5


class Work(Command[None]):
    def __init__(self) -> None:
        self.payload = bytearray(1000)


async def sent(mediator: Mediator, count: int, **options: Any) -> list[weakref.ref[Work]]:
    """Send messages concurrently, each in its own marked task."""
    made: list[weakref.ref[Work]] = []

    async def one(number: int) -> None:
        MARK.set(f"dispatch {number}")
        work = Work()
        made.append(weakref.ref(work))
        with contextlib.suppress(PublisherUnavailableError):
            await mediator.send(work, **options)

    await asyncio.gather(*(one(number) for number in range(count)))
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    return made


def objects_of_ended_dispatches() -> list[str]:
    """Return the objects in the context of an ended dispatch. Cancelled timers stay in it until they are due."""
    contexts = [each for each in gc.get_objects() if type(each) is Context and each.get(MARK) is not None]
    holders = [holder for each in contexts for holder in gc.get_referrers(each)]
    handles = [each for each in holders if isinstance(each, asyncio.Handle) and not each.cancelled()]
    tasks = [each for each in holders if isinstance(each, asyncio.Task)]
    return [repr(each) for each in (*handles, *tasks)]


class WorkHandler(RequestHandler[Work, None]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork, together: "Together") -> None:
        self._unit_of_work = unit_of_work
        self._together = together

    async def handle(self, command: Work) -> None:
        session = self._unit_of_work.session
        await session.execute(text("SELECT 1"))
        await self._together.wait()
        assert current_frame() is not None


class Together:
    """A barrier for concurrent handlers, so that each has its own connection."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._all = asyncio.Event()

    async def wait(self) -> None:
        self._missing -= 1
        if self._missing <= 0:
            self._all.set()
        await self._all.wait()

    def release(self) -> None:
        self._all.set()


class Container(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.url)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    broker = providers.Singleton(InMemoryBroker)
    publisher = providers.Singleton(InMemoryEventPublisher, broker, application="app")
    relay = providers.Singleton(OutboxRelay, outbox, publisher)
    limit = providers.Factory(TimeoutBehavior, 30.0)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(limit, transaction))
    together = providers.Singleton(Together, config.count)
    work = providers.Factory(WorkHandler, unit_of_work, together)


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/app.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    async with server.database() as opened:
        yield opened


@pytest.mark.thorough("waits in real time, or does much work")
@pytest.mark.parametrize("mode", [TransactionMode.DEFAULT, TransactionMode.SUPPRESS])
async def test_connections_of_a_pool_belong_to_no_dispatch(url: str, mode: TransactionMode):
    at_a_time = PARALLEL if url.startswith("postgresql") or mode is TransactionMode.SUPPRESS else 1
    container = Container()
    container.config.from_dict({"url": url, "count": at_a_time})
    async with lifespan(container, relay_elsewhere=True):
        for count in (at_a_time, 1, at_a_time):
            made = await sent(container.mediator(), count, mode=mode)
            assert [each() for each in made] == [None] * count
            assert objects_of_ended_dispatches() == []
        assert container.engine().pool.checkedin() >= at_a_time


async def test_connections_to_the_broker_belong_to_no_dispatch(shared_server: NatsServer):
    event = CloudEvent(
        id="e1", type="work.done.v1", time=datetime(2026, 1, 2, tzinfo=UTC), data=b"{}", source="app", partitionkey=None
    )
    async with open_connection(shared_server.url) as connection:
        publisher = NatsEventPublisher(connection, "app", prefix="nobodys")
        channel = NatsRequestChannel(connection, "app", prefix="nobodys-requests")

        async def work(_command: Work) -> None:
            async with open_doorbell(connection, "nobodys") as doorbell:
                doorbell.ring()
                (result,) = await publisher.publish([event])
                assert result.error is None
                await channel.call(RemoteCall("advising.find", b"{}", 5.0, {}))

        mediator = wire(handles(Work, work))
        for _ in range(2):
            made = await sent(mediator, 1)
            assert [each() for each in made] == [None]
            assert objects_of_ended_dispatches() == []
        assert connection.epoch("publish") == 1


async def test_workers_started_in_a_dispatch_run_outside_of_it():
    seen: list[Any] = []

    class Worker:
        async def run(self) -> None:
            seen.append((current_frame(), MARK.get()))
            await asyncio.Event().wait()

    async def work(_command: Work) -> None:
        async with running([("worker", Worker())], 1.0):
            while not seen:
                await asyncio.sleep(0)

    mediator = wire(handles(Work, work))
    MARK.set("set for the whole application")
    await mediator.send(Work())
    assert seen == [(None, "set for the whole application")]


async def test_a_task_that_outlives_its_dispatch_keeps_the_message_class_and_the_flow():
    go, tasks = asyncio.Event(), []

    async def later() -> tuple[object, str]:
        await go.wait()
        frame = current_frame()
        assert frame is not None
        return frame.message, frame.context.correlation_id

    async def work(_command: Work) -> None:
        tasks.append(asyncio.create_task(later()))

    mediator = wire(handles(Work, work))
    for opened in (mediator.scope(), mediator.context(tenant="t")):
        async with opened:
            (made,) = await sent(mediator, 1)
    assert made() is None
    go.set()
    for task in tasks:
        message, correlation_id = await task
        assert message is Work
        assert correlation_id
