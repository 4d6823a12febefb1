"""A database with version 2 of the tables, and events that the library parked then, is upgraded and works."""

from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.inbox import Admission
from mediator.distributed.parking import ParkedEvent, ParkedFilter
from mediator.distributed.starts import LastStart
from mediator.errors import ParkedEventBlockedError, SchemaError
from mediator.sqlalchemy import (
    SqlAlchemyInbox,
    SqlAlchemyOutbox,
    SqlAlchemyParking,
    create_schema,
    open_engine,
    schema_differences,
    schema_rows,
    schema_statements,
    upgrade_schema,
)
from tests.adapters.sqlalchemy import version_2
from tests.adapters.sqlalchemy.ledger import Do, Ledger

GROUP = "advising"
REFUSED, WAITING = (f"00000000-0000-4000-8000-{number:012d}" for number in (1, 2))


@pytest.fixture
async def engine(url: str, dialect: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(url) as opened:
        await execute(opened, version_2.statements(dialect))
        yield opened


async def execute(engine: AsyncEngine, statements: Sequence[str]) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


async def replay(ledger: Ledger, number: int) -> ParkedEvent:
    parking = SqlAlchemyParking(ledger.engine)

    async def take(ledger: Ledger) -> ParkedEvent:
        await parking.reserve(ledger.unit_of_work, number)
        return await parking.take(ledger.unit_of_work, number, release_next=True)

    taken: ParkedEvent = await ledger.send(Do(take))
    return taken


async def test_an_upgrade_creates_the_current_tables(engine: AsyncEngine):
    with pytest.raises(SchemaError, match="this library needs version"):
        await create_schema(engine)
    assert "the tables are of version 2, and this library needs version 3" in await schema_differences(engine)
    assert await upgrade_schema(engine) == [3]
    assert await schema_differences(engine) == []
    assert await upgrade_schema(engine) == []


async def test_the_sql_text_for_a_manual_migration_has_the_same_result(engine: AsyncEngine, dialect: str):
    await execute(engine, schema_statements(dialect, from_version=2))
    assert await schema_differences(engine) == []


async def test_the_row_statements_record_the_version_in_a_migration_generated_by_alembic(
    engine: AsyncEngine, dialect: str
):
    altered = [each for each in schema_statements(dialect, from_version=2) if "mediator_schema" not in each]
    await execute(engine, [*altered, *schema_rows(dialect)])
    assert await schema_differences(engine) == []


@pytest.mark.parametrize("recorded", ["DELETE FROM mediator_schema", "DROP TABLE mediator_schema"])
async def test_tables_without_a_recorded_version_are_known_by_their_columns(engine: AsyncEngine, recorded: str):
    await execute(engine, [recorded])
    assert await upgrade_schema(engine) == [2, 3]
    assert await schema_differences(engine) == []
    await execute(engine, [recorded])
    assert await upgrade_schema(engine) == [3]


async def test_parked_events_keep_their_order_and_wait_for_a_person(engine: AsyncEngine):
    await upgrade_schema(engine)
    parking = SqlAlchemyParking(engine)
    refused, *received = await parking.find(ParkedFilter())
    assert (refused.event_id, [each.event_id for each in received]) == (REFUSED, ["e-1", "e-2", "e-3"])
    for each in refused, *received:
        later = (each.ordered, each.due_at, each.tries, each.last_start, each.claim, each.held_by)
        assert later == (True, None, 0, LastStart.ENDED, 0, None)
    assert await parking.count(ParkedFilter(waiting=True)) == 0
    assert (await parking.claim(GROUP), await parking.due_in(GROUP)) == (None, None)
    assert await parking.holders(GROUP) == []


async def test_parked_events_are_replayed_in_their_order(engine: AsyncEngine):
    await upgrade_schema(engine)
    ledger, inbox, parking = Ledger(engine), SqlAlchemyInbox(engine), SqlAlchemyParking(engine)
    first, second, keyless = await parking.find(ParkedFilter(direction="in"))

    async def insert(ledger: Ledger) -> Admission:
        return await inbox.insert(ledger.unit_of_work, GROUP, "shop", "e-9", key="ada")

    assert await ledger.send(Do(insert)) is Admission.KEY_PARKED
    with pytest.raises(ParkedEventBlockedError):
        await replay(ledger, second.number)
    assert (await replay(ledger, keyless.number)).data == b'{"student":"s-3","key":null}'
    assert (await replay(ledger, first.number)).data == b'{"student":"s-1","key":"ada"}'
    claimed = await parking.claim(GROUP)
    assert (claimed and claimed.event_id, claimed and claimed.claim) == ("e-2", 1)
    await replay(ledger, second.number)
    assert await parking.count(ParkedFilter(direction="in")) == 0


async def test_a_refused_event_returns_to_its_place_in_the_outbox(engine: AsyncEngine):
    await upgrade_schema(engine)
    outbox, parking = SqlAlchemyOutbox(engine), SqlAlchemyParking(engine)
    (refused,) = await parking.find(ParkedFilter(direction="out"))
    await parking.release(refused.number)
    async with outbox.claim(10) as batch:
        assert [event.id for event in batch.events] == [REFUSED, WAITING]


async def test_events_that_processes_of_the_previous_version_park_get_the_default_values(
    engine: AsyncEngine, dialect: str
):
    inserted = [each for each in version_2.statements(dialect) if each.startswith("INSERT INTO mediator_parked")]
    await execute(engine, ["DELETE FROM mediator_parked"])
    await upgrade_schema(engine)
    await execute(engine, inserted)
    parking = SqlAlchemyParking(engine)
    for each in await parking.find(ParkedFilter()):
        assert (each.ordered, each.due_at, each.tries, each.claim, each.held_by) == (True, None, 0, 0, None)
        assert each.last_start is LastStart.ENDED
    assert await parking.count(ParkedFilter(waiting=False)) == len(inserted)
