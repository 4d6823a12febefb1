"""Objects bound to a process, a thread or an event loop refuse use from another one at once."""

import asyncio
import gc
import os
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from mediator import Command, Mediator, StreamRequest, TransactionMode
from mediator.behaviors import ConcurrencyLimitBehavior, RateLimitBehavior
from mediator.blocking import BlockingMediator
from mediator.dependency_injector import lifespan
from mediator.distributed.requests import RemoteCall
from mediator.errors import ConcurrencyLimitedError, ContainerError, MisuseError, misuse
from mediator.nats import NatsServer, open_connection
from mediator.owner import Owner
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, create_schema, open_engine
from mediator.testing import InMemoryDatabase, InMemoryOutbox, InMemoryRequestChannel, InMemoryUnitOfWork
from tests.adapters.lifetimes.test_long_lived_work import Container, Work
from tests.postgres import PostgresServer
from tests.unit.samples import EnrollStudent, ExpelStudent, answer_name
from tests.unit.wiring import handles, streams, wire


class Numbers(StreamRequest[int]):
    pass


class Nothing(Command[None]):
    pass


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/app.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with asyncio.Runner() as runner:
        database = server.database()
        yield runner.run(database.__aenter__())
        runner.run(database.__aexit__(None, None, None))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as opened:
        yield opened


def refused_in_a_child(work: Callable[[], object]) -> None:
    """Do work in a forked process, and check that it is refused soon."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
        except MisuseError as error:
            owner, user = str(error).split(", and was used ")
            status = 0 if f"in process {os.getpid()}" in user and str(os.getppid()) in owner else 2
        except BaseException:
            traceback.print_exc()
            status = 3
        finally:
            os._exit(status)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the work hangs in the forked process")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def in_another_loop(work: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
    """Do work in an event loop of another thread while the loop of this thread runs."""

    async def run() -> Any:
        async with asyncio.timeout(10):
            return await work()

    return asyncio.get_running_loop().run_in_executor(ThreadPoolExecutor(1), lambda: asyncio.run(run()))


async def refused(work: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(MisuseError, match="belongs to") as caught:
        await in_another_loop(work)
    assert str(caught.value.subject) in str(caught.value)


def container_of(url: str, count: int) -> Any:
    container = Container()
    container.config.from_dict({"url": url, "count": count})
    return container


def test_a_container_is_used_in_its_own_event_loop(url: str, runner: asyncio.Runner):
    container = container_of(url, 2)

    async def main() -> None:
        async with lifespan(container, relay_elsewhere=True):
            mediator: Mediator = container.mediator()
            first = asyncio.ensure_future(mediator.send(Work()))
            await asyncio.sleep(0)
            await refused(lambda: mediator.send(Work()))
            await refused(lambda: mediator.send(Work(), mode=TransactionMode.SUPPRESS))
            await refused(lambda: container.outbox().wait(1.0))
            await refused(lambda: container.outbox().pending())
            await refused(lambda: lifespan(container, check=False).__aenter__())
            with pytest.raises(ContainerError, match="running already"):
                await lifespan(container, check=False).__aenter__()
            with pytest.raises(MisuseError, match="belongs to"):
                await asyncio.to_thread(container.outbox().wake)
            container.together().release()
            async with asyncio.timeout(10):
                await first
                await mediator.send(Work())

    runner.run(main())


def test_a_container_is_used_in_its_own_process(url: str, runner: asyncio.Runner):
    container = container_of(url, 1)
    opened = lifespan(container, relay_elsewhere=True)
    runner.run(opened.__aenter__())
    mediator: Mediator = container.mediator()
    runner.run(mediator.send(Work()))
    refused_in_a_child(lambda: asyncio.run(mediator.send(Work())))
    refused_in_a_child(lambda: runner.run(mediator.send(Work())))
    refused_in_a_child(lambda: asyncio.run(container.outbox().pending()))
    refused_in_a_child(lambda: asyncio.run(lifespan(container, check=False).__aenter__()))
    runner.run(mediator.send(Work()))
    runner.run(opened.__aexit__(None, None, None))


def test_an_unused_engine_may_be_used_in_a_child_process(url: str):
    engine = create_async_engine(
        url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:")
    )
    unit_of_work = SqlAlchemyUnitOfWork(engine)

    async def ask() -> None:
        async with wire().scope():
            await unit_of_work.session.execute(text("SELECT 1"))
        raise misuse.wrong_owner("", str(os.getppid()), f"in process {os.getpid()}")  # the work was not refused

    refused_in_a_child(lambda: asyncio.run(ask()))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_works_in_successive_event_loops(url: str):
    engine = create_async_engine(
        url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:")
    )
    outbox = SqlAlchemyOutbox(engine)

    async def work() -> None:
        await create_schema(engine)
        mediator = wire()

        async def write() -> None:
            async with mediator.scope(), SqlAlchemyUnitOfWork(engine) as unit_of_work:
                await unit_of_work.session.execute(text("SELECT 1"))

        await asyncio.gather(*(write() for _ in range(5)), outbox.wait(0.01))
        async with outbox.claim(1):
            pass
        outbox.wake()
        await outbox.wait(5.0)

    for _ in range(3):
        asyncio.run(work())
    asyncio.run(engine.dispose())
    gc.collect()  # collects the connections that were left open in earlier loops


async def test_a_scope_is_joined_in_its_own_event_loop(tmp_path: Path):
    async def outer(_message: Any) -> Any:
        return await asyncio.to_thread(lambda: asyncio.run(mediator.send(ExpelStudent())))

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, answer_name))
    async with open_engine(f"sqlite:///{tmp_path}/app.db") as engine:
        with pytest.raises(MisuseError, match="belongs to"):
            async with mediator.scope(), SqlAlchemyUnitOfWork(engine):
                await mediator.send(EnrollStudent())


async def test_a_connection_to_the_broker_is_used_in_its_own_event_loop(shared_server: NatsServer):
    async with open_connection(shared_server.url) as connection:
        await connection.client("publish", timeout=5.0)
        await refused(lambda: connection.client("publish", timeout=5.0))
        await refused(connection.close)
        await asyncio.to_thread(refused_in_a_child, lambda: asyncio.run(connection.client("publish", timeout=5.0)))
    left = open_connection(shared_server.url)
    connection = await left.__aenter__()
    await in_another_loop(lambda: connection.client("publish", timeout=5.0))
    with pytest.raises(MisuseError, match="belongs to"):
        await connection.client("publish", timeout=5.0)
    async with asyncio.timeout(5):
        await left.__aexit__(None, None, None)


async def test_the_adapters_in_memory_are_used_in_their_own_event_loop():
    database, channel, mediator = InMemoryDatabase(), InMemoryRequestChannel(), wire()

    async def write() -> None:
        async with mediator.scope(), InMemoryUnitOfWork(database):
            pass

    async def serve() -> None:
        async with channel.serve(["a.b"], waiting=1):
            pass

    await write()
    await serve()
    await refused(write)
    await refused(serve)
    await refused(lambda: InMemoryOutbox(database).wait(1.0))
    await refused(lambda: channel.call(RemoteCall("a.b", b"", 1.0, {})))


def test_the_adapters_in_memory_work_in_the_next_event_loop():
    database = InMemoryDatabase()
    outbox = InMemoryOutbox(database)
    for _ in range(2):
        asyncio.run(outbox.wait(0.01))


async def test_limits_are_used_in_their_own_event_loop():
    go, started = asyncio.Event(), asyncio.Event()

    async def work(_message: Any) -> None:
        started.set()
        await go.wait()

    limit = ConcurrencyLimitBehavior(limit=1, max_wait=5.0)
    mediator = wire(handles(Nothing, work), behaviors=[limit])
    first = asyncio.ensure_future(mediator.send(Nothing()))
    await started.wait()
    await refused(lambda: mediator.send(Nothing()))
    go.set()
    await first
    rate = wire(handles(Nothing, work), behaviors=[RateLimitBehavior(limit=1, seconds=0.05, max_wait=5.0)])
    await rate.send(Nothing())
    waiting = asyncio.ensure_future(rate.send(Nothing()))
    await asyncio.sleep(0)
    await refused(lambda: rate.send(Nothing()))
    await waiting


def test_limits_keep_their_counts_in_the_next_event_loop():
    async def hang(_message: Any) -> None:
        await asyncio.Event().wait()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await mediator.send(Nothing())
        with pytest.raises(ConcurrencyLimitedError):
            await asyncio.gather(mediator.send(Nothing()), mediator.send(Nothing()))

    mediator = wire(handles(Nothing, hang), behaviors=[ConcurrencyLimitBehavior(limit=1)])
    for _ in range(2):
        asyncio.run(give_up())


async def numbers(_request: Any) -> AsyncIterator[int]:
    yield 1
    yield 2


def blocking() -> BlockingMediator:
    mediator = wire(handles(EnrollStudent, answer_name), streams(Numbers, numbers))
    return BlockingMediator(mediator, mediator.scope())


def test_a_blocking_mediator_is_used_in_its_own_process():
    mediator = blocking()
    with mediator, mediator.stream(Numbers()) as items:
        assert next(items) == 1
        for holding in (False, True):
            if holding:
                mediator._open.acquire()  # a thread of the parent may hold this lock during the fork
            refused_in_a_child(lambda: mediator.send(EnrollStudent()))
            refused_in_a_child(lambda: mediator.publish(Any))
            refused_in_a_child(lambda: mediator.stream(Numbers()).__enter__())
            refused_in_a_child(lambda: next(items))
            refused_in_a_child(lambda: _leave_and_refuse(mediator))
            if holding:
                mediator._open.release()
        assert mediator.send(EnrollStudent()) == "Ada"
        assert next(items) == 2


def _leave_and_refuse(mediator: BlockingMediator) -> None:
    mediator.__exit__(None, None, None)
    mediator.send(EnrollStudent())


def test_a_blocking_mediator_is_opened_once_and_refuses_calls_after_its_end():
    mediator = blocking()
    with mediator:
        with pytest.raises(ContainerError, match="opened only once"):
            mediator.__enter__()
        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(lambda _: mediator.send(EnrollStudent()), range(50))) == {"Ada"}
    with pytest.raises(MisuseError, match="outside the lifespan"):
        mediator.send(EnrollStudent())
    with pytest.raises(ContainerError, match="opened only once"):
        mediator.__enter__()


def test_an_idle_object_moves_to_the_next_loop_and_a_busy_one_only_after_its_loop_has_ended():
    owner, one, two = Owner("A thing"), asyncio.new_event_loop(), asyncio.new_event_loop()

    async def check(**options: bool) -> bool:
        return owner.check(**options)

    assert one.run_until_complete(check()) is False
    assert one.run_until_complete(check()) is False
    with pytest.raises(MisuseError, match="belongs to"):
        two.run_until_complete(check(busy=True))
    with pytest.raises(MisuseError, match="belongs to"):
        two.run_until_complete(check(moves=False))
    assert two.run_until_complete(check()) is True
    assert one.run_until_complete(check()) is True
    one.close()
    assert two.run_until_complete(check(busy=True)) is True
    with pytest.raises(MisuseError, match="belongs to") as caught:
        owner.check()
    assert threading.current_thread().name in str(caught.value)
    two.close()
