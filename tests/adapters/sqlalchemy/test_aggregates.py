"""Aggregates that SQLAlchemy maps, in each of its styles: the session's unit of work publishes their events."""

import gc
import weakref
from dataclasses import dataclass, field

import pytest
from sqlalchemy import Column, Integer, String, Table, event, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column, registry

from mediator import AggregateRoot, Notification, NotificationHandler, TransactionMode
from mediator.registry import Binding, Registry
from tests.adapters.sqlalchemy.ledger import Do, Ledger


@dataclass(frozen=True, slots=True)
class Renamed(Notification):
    name: str


class Base(DeclarativeBase):
    pass


class Declared(AggregateRoot, Base):
    __tablename__ = "declared"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]

    def rename(self, name: str) -> None:
        self.name = name
        self.record(Renamed(name))


class Derived(Declared):
    """A subclass in the same table."""


class DataBase(MappedAsDataclass, DeclarativeBase):
    metadata = Base.metadata


class Data(AggregateRoot, DataBase):
    __tablename__ = "data"
    name: Mapped[str]
    id: Mapped[int] = mapped_column(primary_key=True, init=False)

    def rename(self, name: str) -> None:
        self.name = name
        self.record(Renamed(name))


@dataclass
class Imperative(AggregateRoot):
    name: str
    id: int | None = field(default=None)

    def rename(self, name: str) -> None:
        self.name = name
        self.record(Renamed(name))


_imperative = Table("imperative", Base.metadata, Column("id", Integer, primary_key=True), Column("name", String))
registry(metadata=Base.metadata).map_imperatively(Imperative, _imperative)

every_mapping = pytest.mark.parametrize("cls", [Declared, Derived, Data, Imperative])


class _Listen(NotificationHandler[Renamed]):
    def __init__(self, log: list[str]) -> None:
        self._log = log

    async def handle(self, event: Renamed) -> None:
        self._log.append(event.name)


@pytest.fixture
async def log(engine: AsyncEngine, ledger: Ledger) -> list[str]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    seen: list[str] = []
    known = ledger.mediator.registry
    listen = Binding(lambda: _Listen(seen), _Listen, "listen", NotificationHandler)
    ledger.mediator.rebind(Registry([*known.handlers, listen], known.behaviors))
    return seen


@pytest.fixture
def session(ledger: Ledger):
    def of_now() -> AsyncSession:
        return ledger.unit_of_work.session

    return of_now


@every_mapping
async def test_events_of_new_loaded_and_deleted_aggregates_are_published(cls, ledger, log, session):
    async def add(ledger: Ledger) -> None:
        ada = cls(name="Ada")
        ada.rename("Eda")
        session().add(ada)

    async def change(ledger: Ledger) -> None:
        (await session().scalars(select(cls))).one().rename("Ida")

    async def remove(ledger: Ledger) -> None:
        ida = (await session().scalars(select(cls))).one()
        await session().delete(ida)
        ida.record(Renamed("nobody"))
        await session().flush()
        ida.record(Renamed("really nobody"))

    for action in (add, change, remove):
        await ledger.send(Do(action))

    assert log == ["Eda", "Ida", "nobody", "really nobody"]


@every_mapping
async def test_events_of_a_flushed_and_forgotten_aggregate_are_published(cls, ledger, log, session):
    async def add(ledger: Ledger) -> None:
        session().add_all([cls(name="Ada"), cls(name="Carl")])

    async def change(ledger: Ledger) -> None:
        students = list(await session().scalars(select(cls).order_by(cls.id)))
        gone = [weakref.ref(student) for student in students]
        for student in students:
            student.rename(f"{student.name}!")
        await session().flush()
        del student, students
        gc.collect()
        assert [each() for each in gone] == [None, None]

    await ledger.send(Do(add))
    await ledger.send(Do(change))

    assert log == ["Ada!", "Carl!"]


async def test_a_loaded_aggregate_without_events_is_not_kept_alive(ledger, log, session):
    async def add(ledger: Ledger) -> None:
        session().add(Declared(name="Ada"))

    async def look(ledger: Ledger) -> None:
        seen = weakref.ref((await session().scalars(select(Declared))).one())
        gc.collect()
        assert seen() is None

    await ledger.send(Do(add))
    await ledger.send(Do(look))


async def test_handlers_of_aggregate_events_see_the_rows_of_new_objects(ledger, log, session):
    counts: list[int] = []

    class Count(NotificationHandler[Renamed]):
        async def handle(self, notification: Renamed) -> None:
            connection = await ledger.unit_of_work.connection()
            counts.append((await connection.execute(select(func.count()).select_from(Declared))).scalar_one())

    known = ledger.mediator.registry
    counting = Binding(Count, Count, "count", NotificationHandler)
    ledger.mediator.rebind(Registry([*known.handlers, counting], known.behaviors))

    async def add(ledger: Ledger) -> None:
        ada = Declared(name="Ada")
        session().add(ada)
        ada.rename("Eda")

    await ledger.send(Do(add))

    assert counts == [1]


async def test_events_recorded_during_a_flush_are_published(ledger, log, session):
    def inserted(_mapper: object, _connection: object, entity: Declared) -> None:
        entity.record(Renamed(f"inserted {entity.name}"))

    async def add(ledger: Ledger) -> None:
        session().add(Declared(name="Ada"))

    event.listen(Declared, "after_insert", inserted)
    try:
        await ledger.send(Do(add))
    finally:
        event.remove(Declared, "after_insert", inserted)
    assert log == ["inserted Ada"]


async def test_events_of_an_expunged_aggregate_are_not_published(ledger, log, session):
    async def work(ledger: Ledger) -> None:
        ada, carl = Declared(name="Ada"), Declared(name="Carl")
        session().add_all([ada, carl])
        await session().flush()
        session().expunge(carl)
        carl.rename("Karl")
        ada.rename("Eda")

    await ledger.send(Do(work))

    assert log == ["Eda"]


async def test_events_of_an_aggregate_belong_to_its_session_even_inside_another_dispatch(ledger, log, session):
    rows: list[str] = []

    async def inner(ledger: Ledger) -> None:
        ada.rename("Eda")

    async def outer(ledger: Ledger) -> None:
        nonlocal ada
        ada = Declared(name="Ada")
        session().add(ada)
        await ledger.send(Do(inner), mode=TransactionMode.NEW)
        assert log == []
        rows.append("outer")

    ada = Declared(name="nobody")
    await ledger.send(Do(outer))

    assert (rows, log) == (["outer"], ["Eda"])


async def test_events_recorded_before_a_transaction_are_for_the_next_one_of_the_session(ledger, log, session):
    async def add(ledger: Ledger) -> None:
        session().add(Declared(name="Ada"))

    await ledger.send(Do(add))
    async with ledger.mediator.scope():
        ada = (await session().scalars(select(Declared))).one()
        ada.record(Renamed("Eda"))
        async with ledger.unit_of_work:
            assert log == []
        assert log == ["Eda"]
        async with ledger.unit_of_work:
            ada.rename("Ida")
    assert log == ["Eda", "Ida"]
