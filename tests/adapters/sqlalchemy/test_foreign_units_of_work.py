"""The inbox refuses units of work of another database, and names that fit no column."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import containers, providers
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mediator import Command, DistributedEventBroker, DistributedUnitOfWorkBehavior, RequestHandler
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.errors import MisuseError, NoUnitOfWorkError, SettingError
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork, open_engine
from tests.conformance.storages import in_database


async def test_an_invalid_consumer_name_is_refused(tmp_path: Path, postgres_url: str):
    for url in (f"sqlite:///{tmp_path}/names.db", postgres_url):
        async with in_database(url) as storage:
            for consumer in ("x" * 65, "a\0b"):
                with pytest.raises(SettingError, match="consumer"):
                    await storage.inbox.start(consumer, "shop", "1", 8)


async def test_the_inbox_of_another_file_is_refused_before_anything_is_recorded(tmp_path: Path):
    async with in_database(f"sqlite:///{tmp_path}/a.db") as one, in_database(f"sqlite:///{tmp_path}/b.db") as other:
        with pytest.raises(MisuseError, match="belongs to another unit of work or database"):
            async with one.transaction() as unit_of_work:
                await other.inbox.insert(unit_of_work, "advising", "shop", "1")
        assert not await one.inbox.contains("advising", "shop", "1")
        assert not await other.inbox.contains("advising", "shop", "1")


class Act(Command[None]):
    """Does something with the two units of work of a container."""

    def __init__(self, act: Any) -> None:
        self.act = act


class ActHandler(RequestHandler[Act, None]):
    def __init__(self, own: SqlAlchemyUnitOfWork, other: SqlAlchemyUnitOfWork) -> None:
        self._units = own, other

    async def handle(self, command: Act) -> None:
        await command.act(*self._units)


class Two(containers.DeclarativeContainer):
    """A container with two databases. A unit of work runs in one of them."""

    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.own)
    other_engine = providers.Resource(open_engine, config.other)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    other = Scoped(SqlAlchemyUnitOfWork, other_engine)
    events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(transaction))
    act = providers.Factory(ActHandler, unit_of_work, other)


class Base(DeclarativeBase):
    pass


class Rate(Base):
    __tablename__ = "rates"
    id: Mapped[int] = mapped_column(primary_key=True)
    percent: Mapped[int]


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    other = f"sqlite:///{tmp_path}/b.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return {"own": f"sqlite:///{tmp_path}/a.db", "other": other}


async def test_writing_through_the_session_of_another_database_names_the_unit_of_work_that_runs(urls: dict[str, str]):
    async def write(_: Any, other: SqlAlchemyUnitOfWork) -> None:
        await other.session.execute(text("CREATE TABLE something (a INTEGER)"))

    async with lifespan(Two(config=urls), relay_elsewhere=True) as container:
        with pytest.raises(NoUnitOfWorkError) as caught:
            await container.mediator().send(Act(write))

    said = str(caught.value)
    assert said.startswith(
        "Writing to the database needs its own unit of work, but a different one is running in this scope: "
        "SqlAlchemyUnitOfWork of "
    )
    assert "/a.db, " in said
    assert said.endswith(
        "A command writes through one unit of work, in one database. Use the session of the running unit of work, or send a "
        "command for the other database with `mode=TransactionMode.NEW`."
    )


async def test_beginning_the_unit_of_work_of_another_database_names_the_one_that_runs(urls: dict[str, str]):
    async def begin(_: Any, other: SqlAlchemyUnitOfWork) -> None:
        async with other:
            raise AssertionError("begun")

    async with lifespan(Two(config=urls), relay_elsewhere=True) as container:
        with pytest.raises(
            MisuseError, match=r"Another unit of work is running in this scope: SqlAlchemyUnitOfWork of "
        ):
            await container.mediator().send(Act(begin))


async def test_the_error_for_a_unit_of_work_shared_by_two_dispatches_recommends_a_scoped_provider(tmp_path: Path):
    class Shared(Two):
        pass

    Shared.unit_of_work.override(providers.Singleton(SqlAlchemyUnitOfWork, Shared.engine))
    both = asyncio.Barrier(2)

    async def meet(*_: Any) -> None:
        async with asyncio.timeout(10):
            await both.wait()

    given = {"own": f"sqlite:///{tmp_path}/a.db", "other": f"sqlite:///{tmp_path}/b.db"}
    async with lifespan(Shared(config=given), relay_elsewhere=True, check=False) as container:
        send = container.mediator().send
        first = asyncio.create_task(send(Act(meet)))
        second = asyncio.create_task(send(Act(meet)))
        done, waiting = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = done
        with pytest.raises(MisuseError, match="is (already )?running in") as caught:
            await refused
        await both.wait()
        await asyncio.wait(waiting)
    Two.unit_of_work.reset_override()

    said = str(caught.value)
    assert "is running in another dispatch, and this dispatch was given the same object." in said
    assert "declare it as `Scoped(SqlAlchemyUnitOfWork, ...)`, not as a Singleton." in said


async def test_a_transaction_on_another_database_reads_the_state_at_its_begin(urls: dict[str, str]):
    seen: list[Rate] = []

    async def read(_: Any, other: SqlAlchemyUnitOfWork) -> None:
        seen.append(await other.session.get_one(Rate, 1))

    async with lifespan(Two(config=urls), relay_elsewhere=True) as container:
        async with container.other_engine().begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(text("INSERT INTO rates VALUES (1, 5)"))
        async with container.mediator().scope():
            await container.mediator().send(Act(read))
            async with container.other_engine().begin() as connection:
                await connection.execute(text("UPDATE rates SET percent = 7"))
            await container.mediator().send(Act(read))
    assert [each.percent for each in seen] == [5, 7]
