"""A database with version 1 of the tables, and rows that the library wrote then, is upgraded and works."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import DistributedUnitOfWorkBehavior, IdempotencyBehavior, Mediator, PipelineBehavior, RequestHandler
from mediator.binding import Binding
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import Admission, Start
from mediator.distributed.outbox import OutboxFilter
from mediator.distributed.parking import ParkedFilter
from mediator.errors import IdempotencyConflictError, SchemaError, SettingError
from mediator.registry import Registry
from mediator.sqlalchemy import (
    SqlAlchemyIdempotency,
    SqlAlchemyInbox,
    SqlAlchemyOutbox,
    SqlAlchemyParking,
    create_schema,
    open_engine,
    schema_differences,
    schema_rows,
    schema_sql,
    schema_statements,
    upgrade_schema,
)
from tests.adapters.sqlalchemy import version_1
from tests.adapters.sqlalchemy.ledger import Do, Ledger
from tests.adapters.sqlalchemy.version_1 import APPLICATION, ORDER, PlaceOrder

EVENT = "00000000-0000-4000-8000-{:012d}"
ARCHIVED, REFUSED, KEYED, KEYLESS, EMPTY, DELAYED = (EVENT.format(number) for number in range(1, 7))


@pytest.fixture
async def engine(url: str, dialect: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(url) as opened:
        await execute(opened, version_1.statements(dialect))
        yield opened


async def execute(engine: AsyncEngine, statements: Sequence[str]) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


async def claimed(outbox: SqlAlchemyOutbox) -> Sequence[CloudEvent]:
    async with outbox.claim(100) as batch:
        await batch.settle([event.id for event in batch.events])
        return batch.events


async def test_an_upgrade_creates_the_current_tables_and_keeps_their_rows(engine: AsyncEngine):
    with pytest.raises(SchemaError, match="this library needs version"):
        await create_schema(engine)
    assert await upgrade_schema(engine, application=APPLICATION) == [2, 3]
    assert await schema_differences(engine) == []
    assert await upgrade_schema(engine) == []


async def test_the_sql_text_for_a_manual_migration_has_the_same_result(engine: AsyncEngine, dialect: str):
    await execute(engine, schema_statements(dialect, from_version=1, application=APPLICATION))
    assert await schema_differences(engine) == []
    assert {each.source for each in await claimed(SqlAlchemyOutbox(engine))} == {APPLICATION}


async def test_the_row_statements_name_the_events_in_a_migration_generated_by_alembic(
    engine: AsyncEngine, dialect: str
):
    """It adds the columns with the default of the tables, an empty text."""
    added = [
        "ALTER TABLE mediator_outbox ADD COLUMN source VARCHAR(255) DEFAULT '' NOT NULL",
        "ALTER TABLE mediator_outbox_archive ADD COLUMN source VARCHAR(255) DEFAULT '' NOT NULL",
        "CREATE INDEX mediator_outbox_unnamed ON mediator_outbox (sequence) WHERE source = ''",
        *(each for each in schema_statements(dialect, from_version=2) if "mediator_schema" not in each),
    ]
    for _ in range(2):
        await execute(engine, [*added, *schema_rows(dialect, application=APPLICATION)])
        added = []
    assert await schema_differences(engine) == []
    outbox = SqlAlchemyOutbox(engine, application="renamed")
    assert (await outbox.contents.get(ARCHIVED))[0].source == APPLICATION
    assert {each.source for each in await claimed(outbox)} == {APPLICATION}
    (refused,) = await SqlAlchemyParking(engine).find(ParkedFilter(direction="out"))
    assert refused.source == APPLICATION


async def test_existing_events_keep_the_source_under_which_they_were_published(engine: AsyncEngine):
    await upgrade_schema(engine, application=APPLICATION)
    outbox, parking = SqlAlchemyOutbox(engine, application="renamed"), SqlAlchemyParking(engine)
    archived, event = await outbox.contents.get(ARCHIVED)
    assert (archived.source, event.source) == (APPLICATION, APPLICATION)
    assert [each.source for each in await outbox.contents.archived([archived.sequence])] == [APPLICATION]
    (refused,) = await parking.find(ParkedFilter(direction="out"))
    assert (refused.event_id, refused.source) == (REFUSED, APPLICATION)
    await parking.release(refused.number)
    events = {each.id: each.source for each in await claimed(outbox)}
    assert events == dict.fromkeys([REFUSED, KEYED, KEYLESS, EMPTY], APPLICATION)


async def test_an_empty_partition_key_becomes_null(engine: AsyncEngine):
    await upgrade_schema(engine, application=APPLICATION)
    outbox = SqlAlchemyOutbox(engine)
    found = {each.id: each.partition_key for each in await outbox.contents.find(OutboxFilter("waiting"))}
    assert found == {KEYED: "ada", KEYLESS: None, EMPTY: None}
    assert {each.id: each.partitionkey for each in await claimed(outbox)} == found


async def test_processes_of_the_previous_version_continue_and_their_events_get_a_source(
    engine: AsyncEngine, dialect: str
):
    """They store and archive their events without a source."""
    inserted = [each for each in version_1.statements(dialect) if each.startswith("INSERT INTO mediator_outbox")]
    await execute(engine, ["DELETE FROM mediator_outbox", "DELETE FROM mediator_outbox_archive"])
    await upgrade_schema(engine, application="it's 100% {ours}")
    await execute(engine, inserted)
    outbox = SqlAlchemyOutbox(engine, application="renamed")
    assert {each.source for each in await claimed(outbox)} == {"it's 100% {ours}"}
    assert (await outbox.contents.get(ARCHIVED))[0].source == "it's 100% {ours}"


async def test_an_upgrade_leaves_no_event_without_a_source(engine: AsyncEngine, dialect: str):
    with pytest.raises(SettingError, match="mediator_outbox has events: give the name of the application"):
        await upgrade_schema(engine)
    with pytest.raises(SettingError, match="application"):
        schema_statements(dialect, from_version=1)
    for table in "mediator_outbox", "mediator_outbox_archive":
        await execute(engine, [f"DELETE FROM {table}"])
    with pytest.raises(SettingError, match="mediator_parked has events"):
        await upgrade_schema(engine)
    await execute(engine, ["DELETE FROM mediator_parked WHERE direction = 'out'"])
    assert await upgrade_schema(engine) == [2, 3]


@pytest.mark.parametrize("name", ["", " ", "a\nb", "n" * 129])
async def test_an_upgrade_with_an_invalid_source_changes_nothing(engine: AsyncEngine, dialect: str, name: str):
    with pytest.raises(SettingError, match="application"):
        await upgrade_schema(engine, application=name)
    with pytest.raises(SettingError, match="application"):
        schema_sql(dialect, from_version=1, application=name)
    assert "the tables are of version 1, and this library needs version 3" in await schema_differences(engine)


async def test_one_of_several_concurrent_upgrades_names_the_events(url: str, dialect: str, engine: AsyncEngine):
    async with open_engine(url) as other:
        done = await asyncio.gather(*(upgrade_schema(each, application=APPLICATION) for each in (engine, other) * 2))
    assert sorted(version for each in done for version in each) == [2, 3]
    async with engine.connect() as connection:
        sources = await connection.execute(text("SELECT DISTINCT source FROM mediator_outbox"))
        assert list(sources.scalars()) == [APPLICATION]


async def test_an_event_that_took_effect_is_known_after_the_upgrade(engine: AsyncEngine):
    """An event without an id was identified by its place in the stream, which another event may have today."""
    await upgrade_schema(engine, application=APPLICATION)
    inbox, received = SqlAlchemyInbox(engine), datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert await inbox.contains("advising", "shop", "e-1")
    assert await inbox.contains("advising", "shop", "e-3")
    foreign = ("advising", "legacy", "events-university:5")
    assert await inbox.contains(*foreign, since=received - timedelta(days=3))
    assert await inbox.contains(*foreign, since=received + timedelta(seconds=30))
    assert not await inbox.contains(*foreign, since=received + timedelta(minutes=2))
    assert await inbox.start("advising", "shop", "e-2", 8) == Start(3)
    assert (await inbox.start("advising", "shop", "e-1", 8)).taken


async def test_a_parked_event_still_holds_back_the_next_events_of_its_key(engine: AsyncEngine):
    await upgrade_schema(engine, application=APPLICATION)
    ledger, inbox = Ledger(engine), SqlAlchemyInbox(engine)
    (parked,) = await SqlAlchemyParking(engine).find(ParkedFilter(direction="in"))
    assert (parked.event_id, parked.partition_key, dict(parked.extensions)) == ("e-3", "ada", {"tenant": "t"})

    async def insert(ledger: Ledger) -> Admission:
        return await inbox.insert(ledger.unit_of_work, "advising", "shop", "e-9", key="ada")

    assert await ledger.send(Do(insert)) is Admission.KEY_PARKED


@dataclass(eq=False)
class Shop:
    """Handles orders in one process; a second instance on the same engine is another process."""

    engine: AsyncEngine

    def __post_init__(self) -> None:
        self.handled: list[Any] = []
        kept = SqlAlchemyIdempotency(self.engine, keep_seconds=100 * 365 * 86_400.0)
        self.ledger = Ledger(self.engine)
        behaviors = [
            Binding(self._transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior),
            Binding(lambda: IdempotencyBehavior(kept), IdempotencyBehavior, "once", PipelineBehavior),
        ]
        handler = Binding(lambda: PlaceOrderHandler(self), PlaceOrderHandler, "order", RequestHandler)
        self.mediator = Mediator(Registry([handler], behaviors))

    def _transaction(self) -> DistributedUnitOfWorkBehavior[Any]:
        return DistributedUnitOfWorkBehavior(self.ledger.unit_of_work, self.ledger.events, self.ledger.outbox)


class PlaceOrderHandler(RequestHandler[PlaceOrder, int]):
    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def handle(self, command: PlaceOrder, /) -> int:
        self._shop.handled.append(command)
        return 1


async def test_a_handled_command_gets_its_earlier_response(engine: AsyncEngine):
    await upgrade_schema(engine, application=APPLICATION)
    shop, again = Shop(engine), Shop(engine)
    assert [await shop.mediator.send(ORDER), await shop.mediator.send(ORDER), await again.mediator.send(ORDER)] == [
        42
    ] * 3
    with pytest.raises(IdempotencyConflictError):
        await again.mediator.send(replace(ORDER, amount=3))
    assert shop.handled == again.handled == []


async def test_an_earlier_idempotency_key_conflicts_with_another_payload(engine: AsyncEngine):
    await upgrade_schema(engine, application=APPLICATION)
    shop = Shop(engine)
    with pytest.raises(IdempotencyConflictError):
        await shop.mediator.send(replace(ORDER, amount=3))
    assert await shop.mediator.send(ORDER) == 42


async def test_a_command_is_identified_independently_of_its_module(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    await upgrade_schema(engine, application=APPLICATION)
    first, second, new = Shop(engine), Shop(engine), replace(ORDER, idempotency_key="order-8")
    assert await first.mediator.send(new) == 1
    monkeypatch.setattr(PlaceOrder, "__module__", "elsewhere.orders")
    assert await second.mediator.send(new) == 1
    assert (len(first.handled), len(second.handled)) == (1, 0)
