"""The tables in a database are compared with the tables of the library, and upgraded version by version."""

import asyncio

import pytest
from sqlalchemy import Column, Index, Integer, MetaData, String, Table, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.errors import SchemaError, SettingError
from mediator.sqlalchemy import create_schema, metadata, open_engine, schema_differences, schema_sql, upgrade_schema
from mediator.sqlalchemy.migrations import HISTORY, Migration, SchemaHistory
from tests.adapters.sqlalchemy import version_1

NOW = HISTORY.version
ALL = list(range(1, NOW + 1))


def later() -> SchemaHistory:
    """Return the tables as they might be in two versions: a new column in the next one, a table and an index after it."""
    tables = MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(tables)
    tables.tables["mediator_parked"].append_column(Column("note", String(40)))
    Table("mediator_notes", tables, Column("id", Integer, primary_key=True, autoincrement=False))
    Index("mediator_parked_by_note", tables.tables["mediator_parked"].c.note)
    column = ["ALTER TABLE mediator_parked ADD COLUMN note VARCHAR(40)"]
    others = [
        "CREATE TABLE mediator_notes (id INTEGER NOT NULL PRIMARY KEY)",
        "CREATE INDEX mediator_parked_by_note ON mediator_parked (note)",
    ]
    both = [*HISTORY.migrations, Migration(NOW + 1, dict.fromkeys(("sqlite", "postgresql"), column))]
    return SchemaHistory(tables, [*both, Migration(NOW + 2, dict.fromkeys(("sqlite", "postgresql"), others))])


LATER = later()


async def execute(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def versions(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT version FROM mediator_schema ORDER BY version"))
        return list(rows.scalars())


@pytest.fixture
async def engine(url: str):
    async with open_engine(url) as opened:
        yield opened


async def test_a_database_that_was_just_created_has_no_differences(engine: AsyncEngine):
    await create_schema(engine)
    assert await schema_differences(engine) == []
    assert await versions(engine) == ALL
    assert await upgrade_schema(engine) == []


async def test_a_database_without_tables_lacks_each_table_and_gets_them_by_an_upgrade(engine: AsyncEngine):
    missing = await schema_differences(engine)
    assert missing == [f"the table {table.name} is missing" for table in metadata.sorted_tables]
    assert await upgrade_schema(engine) == ALL
    assert await schema_differences(engine) == []


async def test_an_upgrade_applies_each_missing_version_in_order_and_results_in_the_current_schema(engine: AsyncEngine):
    await create_schema(engine)
    assert f"the tables are of version {NOW}, and this library needs version {NOW + 2}" in await schema_differences(
        engine, history=LATER
    )
    assert await upgrade_schema(engine, history=LATER) == [NOW + 1, NOW + 2]
    assert await versions(engine) == [*ALL, NOW + 1, NOW + 2]
    assert await schema_differences(engine, history=LATER) == []
    assert await upgrade_schema(engine, history=LATER) == []


async def test_a_new_database_begins_with_the_last_version(engine: AsyncEngine):
    assert await upgrade_schema(engine, history=LATER) == [*ALL, NOW + 1, NOW + 2]
    assert await schema_differences(engine, history=LATER) == []


async def test_the_statements_from_a_version_upgrade_the_database(engine: AsyncEngine):
    await create_schema(engine)
    await execute(engine, *LATER.statements(engine.dialect, NOW))
    assert await versions(engine) == [*ALL, NOW + 1, NOW + 2]
    assert await schema_differences(engine, history=LATER) == []
    assert LATER.statements(engine.dialect, NOW + 2) == []
    assert schema_sql(engine.dialect, from_version=HISTORY.version) == ""


async def test_tables_without_a_version_table_count_as_the_first_version(engine: AsyncEngine):
    await execute(engine, *version_1.statements(engine.dialect.name))
    await execute(engine, "DROP TABLE mediator_schema", "DROP TABLE mediator_attempts")
    assert f"the tables are of version 1, and this library needs version {NOW}" in await schema_differences(engine)
    assert await upgrade_schema(engine, application="enrollment") == ALL
    assert await schema_differences(engine) == []


async def test_a_missing_version_record_is_a_difference(engine: AsyncEngine):
    await create_schema(engine)
    await execute(engine, "DROP TABLE mediator_schema")
    assert "no version is recorded" in await schema_differences(engine)
    assert await upgrade_schema(engine, history=LATER) == [NOW, NOW + 1, NOW + 2]
    assert await schema_differences(engine, history=LATER) == []


async def test_an_upgrade_restores_a_lost_version_record(engine: AsyncEngine):
    await create_schema(engine)
    await execute(engine, "DELETE FROM mediator_schema")
    assert await schema_differences(engine) == ["no version is recorded"]
    assert await upgrade_schema(engine) == [NOW]
    assert await versions(engine) == ALL


async def test_a_newer_database_is_refused_and_not_changed(engine: AsyncEngine):
    await upgrade_schema(engine, history=LATER)
    with pytest.raises(SchemaError, match=f"of version {NOW + 2}, and this library knows versions up to {NOW}"):
        await upgrade_schema(engine)
    (difference,) = await schema_differences(engine)
    assert difference.startswith(f"the tables are of version {NOW + 2}, and this library knows versions up to {NOW}")
    await create_schema(engine)
    assert await versions(engine) == [*ALL, NOW + 1, NOW + 2]


async def test_creating_refuses_older_tables(engine: AsyncEngine):
    await create_schema(engine)
    with pytest.raises(SchemaError, match=r"mediator schema upgrade"):
        await create_schema(engine, history=LATER)
    assert await versions(engine) == ALL


async def test_a_failing_version_keeps_the_versions_before_it_and_no_part_of_itself(engine: AsyncEngine):
    await create_schema(engine)
    failing = ["ALTER TABLE mediator_inbox ADD COLUMN half INTEGER", "ALTER TABLE no_such_table ADD COLUMN x INTEGER"]
    broken = SchemaHistory(
        LATER.metadata, [*LATER.migrations[:-1], Migration(NOW + 2, dict.fromkeys(("sqlite", "postgresql"), failing))]
    )
    with pytest.raises(DBAPIError):
        await upgrade_schema(engine, history=broken)
    assert await versions(engine) == [*ALL, NOW + 1]
    async with engine.connect() as connection:
        columns = await connection.run_sync(lambda sync: inspect(sync).get_columns("mediator_inbox"))
    assert "half" not in {column["name"] for column in columns}
    assert await upgrade_schema(engine, history=LATER) == [NOW + 2]


async def test_each_version_is_applied_once_by_concurrent_upgrades(url: str):
    async with open_engine(url) as one, open_engine(url) as other:
        await create_schema(one)
        done = await asyncio.gather(*(upgrade_schema(engine, history=LATER) for engine in (one, other, one, other)))
        assert sorted(version for each in done for version in each) == [NOW + 1, NOW + 2]
        assert await schema_differences(one, history=LATER) == []


async def test_every_difference_is_named(engine: AsyncEngine, dialect: str):
    await create_schema(engine)
    await execute(
        engine,
        "DROP INDEX mediator_outbox_ready",
        "DROP INDEX mediator_inbox_by_time",
        "CREATE INDEX mediator_inbox_by_time ON mediator_inbox (event_id)",
        "DROP INDEX mediator_outbox_by_due",
        "CREATE INDEX mediator_outbox_by_due ON mediator_outbox (deliver_at)",
        "DROP TABLE mediator_attempts",
        "DELETE FROM mediator_relay_buckets WHERE bucket > 60",
        "ALTER TABLE mediator_parked DROP COLUMN error",
        "DROP TABLE mediator_idempotency",
        "CREATE TABLE mediator_idempotency (key INTEGER NOT NULL PRIMARY KEY, fingerprint VARCHAR(64), "
        "response {} NOT NULL, created_at FLOAT NOT NULL)".format("BLOB" if dialect == "sqlite" else "BYTEA"),
    )
    found = await schema_differences(engine)
    assert sorted(found) == sorted(
        [
            "the table mediator_attempts is missing",
            "the column mediator_parked.error is missing",
            "the column mediator_idempotency.key is of type INTEGER, not VARCHAR(64)",
            "the column mediator_idempotency.fingerprint may be NULL",
            "the index mediator_idempotency_by_time of mediator_idempotency is missing",
            "the index mediator_outbox_ready of mediator_outbox is missing",
            "the index mediator_inbox_by_time is on (event_id), not on (received_at)",
            "the index mediator_outbox_by_due covers all rows, but must cover deliver_at IS NOT NULL",
            "the table mediator_relay_buckets lacks 3 of 64 rows (61-63): relays publish nothing until these rows exist",
        ]
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "UPDATE mediator_relay_buckets SET bucket = 64 WHERE bucket = 0",
            (
                "has invalid rows (64; only 0-63 are valid) and lacks 1 of 64 rows (0): "
                "relays publish nothing until these rows exist"
            ),
        ),
        (
            "DELETE FROM mediator_relay_buckets WHERE bucket IN (1, 2, 3, 17, 62, 63)",
            "lacks 6 of 64 rows (1-3, 17, 62-63): relays publish nothing until these rows exist",
        ),
        (
            "DELETE FROM mediator_relay_buckets",
            "lacks 64 of 64 rows (0-63): relays publish nothing until these rows exist",
        ),
        (
            "INSERT INTO mediator_relay_buckets VALUES (-1), (64), (65)",
            "has invalid rows (-1, 64-65; only 0-63 are valid)",
        ),
    ],
)
async def test_missing_bucket_rows_are_named_by_their_numbers(engine: AsyncEngine, change: str, told: str):
    await create_schema(engine)
    await execute(engine, change)
    assert await schema_differences(engine) == [f"the table mediator_relay_buckets {told}"]


async def test_rows_of_a_table_without_the_column_are_not_checked(engine: AsyncEngine):
    await create_schema(engine)
    await execute(engine, "ALTER TABLE mediator_relay_buckets RENAME COLUMN bucket TO place")
    found = await schema_differences(engine)
    assert found[0] == "the column mediator_relay_buckets.bucket is missing"
    assert not any("rows" in each for each in found)


async def test_keys_and_numbering_are_compared(postgres_url: str):
    async with open_engine(postgres_url) as engine:
        await create_schema(engine)
        await execute(
            engine,
            "ALTER TABLE mediator_parked DROP CONSTRAINT mediator_parked_once",
            "ALTER TABLE mediator_inbox DROP CONSTRAINT mediator_inbox_pkey",
            "ALTER TABLE mediator_outbox ALTER sequence DROP IDENTITY",
        )
        assert await schema_differences(engine) == [
            "the primary key of mediator_inbox is ()",
            "the column mediator_outbox.sequence does not number the rows of its table: make it an identity column",
            "the columns (consumer, direction, event_id, source) of mediator_parked are not unique",
        ]


async def test_other_tables_in_the_database_are_no_difference(engine: AsyncEngine):
    await create_schema(engine)
    await execute(
        engine,
        "CREATE TABLE own (id INTEGER)",
        "CREATE INDEX own_index ON mediator_parked (parked_at)",
        "ALTER TABLE mediator_parked ADD COLUMN own INTEGER",
    )
    assert await schema_differences(engine) == []


@pytest.mark.parametrize("numbers", [[1], [3], [2, 4], [3, 2], [2, 2]])
def test_migrations_are_numbered_consecutively(numbers: list[int]):
    with pytest.raises(SettingError, match="migrations"):
        SchemaHistory(metadata, [Migration(number, {}) for number in numbers])


def test_an_unknown_version_or_dialect_has_no_text():
    with pytest.raises(SettingError, match="from_version"):
        schema_sql("sqlite", from_version=HISTORY.version + 1)
    with pytest.raises(SettingError, match="dialect"):
        schema_sql("klingon")
