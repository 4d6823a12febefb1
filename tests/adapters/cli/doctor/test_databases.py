"""`mediator doctor` reports each fault of the database and of its pending events by its name, and nothing else."""

import asyncio
import functools
import re
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import providers
from filelock import FileLock
from sqlalchemy import insert, text

from mediator.cli.doctor.command import CHECKS
from mediator.cli.doctor.databases import PostgresqlSettings, SqliteSettings, Tables
from mediator.dependency_injector import rewired
from mediator.distributed.inbox import EventConsumer
from mediator.nats import NatsServer
from mediator.sqlalchemy import metadata, open_engine
from mediator.sqlalchemy.migrations import HISTORY, Migration, SchemaHistory
from mediator.sqlalchemy.schema import archive, outbox, parked
from tests.adapters.cli.doctor.application import Container, plain, refusing, with_pragma
from tests.adapters.cli.doctor.examination import config, doctor, found, set_up
from tests.postgres import PostgresServer


@pytest.fixture
def server(shared_server: NatsServer) -> NatsServer:
    return shared_server


@pytest.fixture
async def sqlite(server: NatsServer, tmp_path: Path) -> dict[str, Any]:
    given = settings(server, f"sqlite:///{tmp_path / 'app.db'}")
    await set_up(given)
    return given


@pytest.fixture
async def postgresql(server: NatsServer, postgres_url: str) -> dict[str, Any]:
    given = settings(server, postgres_url)
    await set_up(given)
    return given


@pytest.fixture(params=["sqlite", "postgresql"])
def installed(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.getfixturevalue(request.param)


def settings(server: NatsServer, database: str) -> dict[str, Any]:
    return config(database=database, nats=server.url, prefix=f"t{uuid.uuid4().hex[:10]}")


async def execute(url: str, *statements: Any) -> None:
    async with open_engine(url) as engine, engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            await connection.execute(text(statement) if isinstance(statement, str) else statement)
        await connection.commit()


def waiting(seconds: float, number: int = 1, **others: Any) -> dict[str, Any]:
    """Insert a row into the outbox as if it had been written some seconds ago."""
    return {
        "sequence": number,
        "id": uuid.uuid4().hex,
        "type": "dispatch.order-shipped.v1",
        "time": datetime.fromtimestamp(time.time() - seconds, UTC).isoformat(),
        "bucket": 0,
        "content_type": "application/json",
        "extensions": "{}",
        "data": b"{}",
        **others,
    }


def set_aside(
    direction: str, reason: str, event_type: str = "ordering.order-placed.v1", **others: Any
) -> dict[str, Any]:
    return {
        "direction": direction,
        "consumer": "shipping" if direction == "in" else "",
        "source": "sales",
        "event_id": uuid.uuid4().hex,
        "type": event_type,
        "time": datetime.now(UTC).isoformat(),
        "content_type": "application/json",
        "extensions": "{}",
        "data": b"{}",
        "subject": "",
        "headers": "{}",
        "sequence": 1,
        "reason": reason,
        "error": "",
        "attempts": 1,
        "parked_at": time.time(),
        **others,
    }


async def test_a_healthy_application_has_neither_faults_nor_warnings(installed: dict[str, Any]):
    report = await doctor(installed)
    assert found(report) == []
    assert report.status(strict=True) == 0


async def test_a_database_without_tables_is_one_fault(installed: dict[str, Any]):
    tables = ", ".join(table.name for table in reversed(metadata.sorted_tables))
    for name in tables.split(", "):
        await execute(installed["database"], f"DROP TABLE {name}")
    assert found(await doctor(installed)) == [("fault", "schema-missing")]


async def test_tables_of_another_version_are_one_fault(installed: dict[str, Any]):
    later = SchemaHistory(
        metadata, [*HISTORY.migrations, Migration(HISTORY.version + 1, {"sqlite": (), "postgresql": ()})]
    )
    checks = tuple(Tables(later) if isinstance(check, Tables) else check for check in CHECKS)
    older = await doctor(installed, checks=checks)
    assert found(older) == [("fault", "schema-version")]
    assert f"this library needs version {later.version}" in older.as_text()

    await execute(installed["database"], "INSERT INTO mediator_schema VALUES (9, 0)")
    newer = await doctor(installed)
    assert found(newer) == [("fault", "schema-version")]
    assert f"knows versions up to {HISTORY.version}" in newer.as_text()


async def test_each_difference_of_the_tables_is_a_fault(installed: dict[str, Any]):
    await execute(installed["database"], "DROP INDEX mediator_inbox_by_time", "DELETE FROM mediator_relay_buckets")
    assert found(await doctor(installed)) == [("fault", "schema-differs")] * 2


async def test_an_unreachable_database_is_one_fault_and_the_broker_is_still_checked(sqlite: dict[str, Any]):
    away = {**sqlite, "database": "postgresql://user:hidden@127.0.0.1:1/shop"}
    report = await doctor(away, timeout=2)
    assert found(report) == [("fault", "database-unreachable")]
    assert {"broker", "stream", "consumer"} <= {each.name for each in report.findings}
    assert "hidden" not in report.as_text() + report.as_json()


async def test_a_missing_folder_is_one_fault(sqlite: dict[str, Any]):
    report = await doctor({**sqlite, "database": "sqlite:////no/such/folder/app.db"})
    assert found(report) == [("fault", "database-unreachable")]


async def test_a_database_that_refuses_to_write_is_one_fault(postgresql: dict[str, Any]):
    await alter(postgresql, "default_transaction_read_only = on")
    assert found(await doctor(postgresql)) == [("fault", "database-read-only")]


async def test_a_lock_file_that_cannot_be_used_is_one_fault(sqlite: dict[str, Any]):
    file = Path(sqlite["database"].removeprefix("sqlite:///"))
    relay = file.with_name(f"{file.name}.relay")
    relay.unlink(missing_ok=True)
    relay.mkdir()
    assert found(await doctor(sqlite)) == [("fault", "lock-file")]
    relay.rmdir()
    writer = file.with_name(f"{file.name}.writer")
    writer.unlink()
    writer.mkdir()
    assert found(await doctor(sqlite)) == [("fault", "lock-file")]


async def test_an_engine_that_commits_before_the_disk_has_written_is_one_fault(sqlite: dict[str, Any]):
    assert found(await doctor(sqlite, with_pragma("synchronous=OFF"))) == [("fault", "sqlite-synchronous")]


async def test_an_engine_whose_readers_wait_for_the_writer_is_one_fault(sqlite: dict[str, Any]):
    report = await doctor(sqlite, with_pragma("journal_mode=DELETE"), (SqliteSettings(),))  # others fail
    assert found(report) == [("fault", "sqlite-journal-mode")]


@pytest.mark.thorough("waits for checks to reach their timeout")
async def test_a_writer_that_does_not_end_is_one_fault(sqlite: dict[str, Any]):
    with FileLock(sqlite["database"].removeprefix("sqlite:///") + ".writer"):
        assert found(await doctor(sqlite, timeout=2)) == [("fault", "database-busy")]


async def test_an_engine_that_ends_no_idle_transaction_is_one_warning(postgresql: dict[str, Any]):
    report = await doctor(postgresql, plain)
    assert found(report) == [("warning", "idle-timeout")]


async def test_a_lazily_connecting_engine_is_checked_with_a_connection(postgresql: dict[str, Any]):
    away = {**postgresql, "database": "postgresql://user:hidden@127.0.0.1:1/shop"}
    report = await doctor(away, plain, timeout=2)
    assert found(report) == [("fault", "database-unreachable")]
    assert "hidden" not in report.as_text()


async def test_a_database_whose_connections_fail_in_the_applications_own_code_is_one_fault(sqlite: dict[str, Any]):
    report = await doctor(sqlite, refusing)
    assert found(report) == [("fault", "database-unreachable")]
    assert "LookupError: no token for postgresql://***@server:5432/app" in report.as_text()
    assert "hidden" not in report.as_text() + report.as_json()
    assert {"broker", "stream", "consumer"} <= {each.name for each in report.findings}


async def test_an_asynchronous_commit_is_one_fault(postgresql: dict[str, Any]):
    await alter(postgresql, "synchronous_commit = off")
    assert found(await doctor(postgresql)) == [("fault", "synchronous-commit")]


async def test_a_connection_in_another_encoding_is_one_fault(postgresql: dict[str, Any]):
    latin = functools.partial(plain, connect_args={"server_settings": {"client_encoding": "LATIN1"}})
    report = await doctor(postgresql, latin, (PostgresqlSettings(),))
    assert ("fault", "database-encoding") in found(report)
    assert "the connection has the encoding LATIN1" in report.as_text()


async def test_a_file_in_utf_16_is_one_fault(server: NatsServer, tmp_path: Path):
    file = tmp_path / "wide.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16'")
        connection.execute("CREATE TABLE texts (text TEXT)")
    report = await doctor(settings(server, f"sqlite:///{file}"), plain, (SqliteSettings(),))
    assert found(report) == [("fault", "database-encoding")]


async def test_backslash_escapes_in_strings_are_one_warning(postgresql: dict[str, Any]):
    await alter(postgresql, "standard_conforming_strings = off")
    assert found(await doctor(postgresql)) == [("warning", "standard-conforming-strings")]


async def test_another_isolation_level_is_one_warning(postgresql: dict[str, Any]):
    await alter(postgresql, "default_transaction_isolation = 'repeatable read'")
    assert found(await doctor(postgresql)) == [("warning", "isolation-level")]


@pytest.fixture(scope="module")
def unsafe_server() -> Iterator[PostgresServer]:
    """A server that writes fast and may lose every commit."""
    server = PostgresServer({"fsync": "off", "full_page_writes": "off"})
    with asyncio.Runner() as runner:
        runner.run(server.start())
        yield server
        runner.run(server.close())


async def test_a_server_that_may_lose_the_database_has_a_fault_for_each_setting(server: NatsServer, unsafe_server):
    given = settings(server, unsafe_server.url())
    await set_up(given)
    assert found(await doctor(given)) == [("fault", "fsync"), ("fault", "full-page-writes")]


@pytest.mark.thorough("waits for checks to reach their timeout")
async def test_a_server_that_does_not_answer_is_reported_within_the_timeout(
    server: NatsServer, unsafe_server: PostgresServer
):
    given = settings(server, unsafe_server.url())
    await set_up(given)
    started = time.monotonic()
    unsafe_server.suspend()
    try:
        report = await doctor(given, timeout=1)
    finally:
        unsafe_server.resume()
    assert found(report) == [("fault", "database-unreachable")]
    assert time.monotonic() - started < 15


async def test_a_pool_that_is_too_small_for_the_consumer_is_one_warning(installed: dict[str, Any]):
    report = await doctor({**installed, "concurrency": 12})
    assert found(report) == [("warning", "pool-size")]
    assert "14 are needed" in report.as_text()
    assert found(await doctor({**installed, "pool_size": 1})) == [("warning", "pool-size")]


@rewired
class ByDefault(Container):
    """An application with the default of every setting."""

    engine = providers.Resource(open_engine, Container.config.database)
    consumer = providers.Singleton(
        EventConsumer,
        Container.subscription,
        Container.inbox,
        Container.unit_of_work.provider,
        Container.mediator,
        parking=Container.parking,
        ordering=Container.config.ordering,
    )


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_an_application_with_default_settings_has_no_findings(installed: dict[str, Any], ordering: str):
    given = {**installed, "ordering": ordering, "prefix": f"{installed['prefix']}x"}
    await set_up(given)
    report = await doctor(given, make=ByDefault)

    assert found(report) == []
    assert report.status(strict=True) == 0


async def test_a_clock_difference_is_reported_for_the_database_and_for_the_broker(postgresql: dict[str, Any]):
    report = await doctor(postgresql, clock=lambda: time.time() - 7)
    assert found(report) == [("warning", "clock-offset")] * 2
    offsets = [float(each) for each in re.findall(r"([\d.]+) s ahead", report.as_text())]
    assert offsets == [pytest.approx(7, abs=1)] * 2


async def test_events_that_have_waited_long_without_a_relay_are_one_fault(installed: dict[str, Any]):
    await execute(installed["database"], insert(outbox).values(waiting(400)))
    report = await doctor(installed)
    assert found(report) == [("fault", "outbox-idle")]
    assert found(await doctor(installed, backlog_age=500)) == []
    assert "1 events wait, the oldest one for 40" in report.as_text()


async def test_events_that_wait_while_others_are_published_are_one_fault(installed: dict[str, Any]):
    published = waiting(100, 2, archived_at=time.time() - 90)
    await execute(installed["database"], insert(outbox).values(waiting(400)), insert(archive).values(published))
    assert found(await doctor(installed)) == [("fault", "outbox-backlog")]


async def test_delayed_events_are_no_backlog(installed: dict[str, Any]):
    await execute(installed["database"], insert(outbox).values(waiting(400, deliver_at=time.time() + 1000)))
    assert found(await doctor(installed)) == []


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (set_aside("in", "handler-failed"), "parked-in"),
        (set_aside("in", "unknown-type", "ordering.other.v1"), "parked-in"),
        (set_aside("in", "unknown-type"), "parked-replayable"),
        (set_aside("out", "refused"), "parked-out"),
    ],
)
async def test_events_that_are_parked_are_one_warning(installed: dict[str, Any], row: dict[str, Any], expected: str):
    await execute(installed["database"], insert(parked).values(row))
    report = await doctor(installed)
    assert found(report) == [("warning", expected)]
    assert (report.status(), report.status(strict=True)) == (0, 1)


@pytest.mark.parametrize(
    ("due", "expected", "said"),
    [(30, [], "the next one in "), (-10, [], "the next one in 0 s"), (-400, ["parked-overdue"], "been due for 40")],
)
async def test_events_that_are_tried_later_are_no_warning_unless_nobody_tries_them(
    installed: dict[str, Any], due: float, expected: list[str], said: str
):
    key = {"partition_key": "k"}
    tried_later = [
        set_aside("in", "waiting", due_at=time.time() + due, **key),
        set_aside("in", "key-parked", **key),
        set_aside("in", "waiting", due_at=time.time() + 1000),
    ]
    await execute(installed["database"], *[insert(parked).values(row) for row in tried_later])
    report = await doctor(installed)
    assert found(report) == [("warning", name) for name in expected]
    (finding,) = [each for each in report.findings if each.name in {"parked", "parked-overdue"}]
    assert finding.text.startswith("3 events wait for a later try of their consumer (key-parked: 1, waiting: 2)")
    assert said in finding.text


async def test_events_that_are_tried_later_are_counted_apart_from_events_that_wait_for_a_person(
    installed: dict[str, Any],
):
    rows = [
        set_aside("in", "waiting", due_at=time.time() + 30, partition_key="k", ordered=0),
        set_aside("in", "handler-failed", partition_key="k"),
        set_aside("in", "key-parked", partition_key="k"),
    ]
    await execute(installed["database"], *[insert(parked).values(row) for row in rows])
    report = await doctor(installed)
    assert found(report) == [("warning", "parked-in")]
    assert "1 events wait for a later try of their consumer (waiting: 1), the next one in " in report.as_text()
    assert "2 events that came in are parked (handler-failed: 1, key-parked: 1)" in report.as_text()


async def test_events_that_an_open_circuit_holds_are_a_warning_of_their_own_for_each_group_and_handler(
    installed: dict[str, Any],
):
    held = {"held_by": "shipping.handlers.Prepare", "error": "ConnectionError: refused"}
    rows = [
        set_aside("in", "circuit-open", partition_key="k", parked_at=1_767_323_045.0, **held),
        set_aside("in", "key-parked", partition_key="k"),
        set_aside("in", "key-parked", partition_key="k"),
        set_aside("in", "circuit-open", **held),
        set_aside("in", "circuit-open", held_by="shipping.handlers.Pack", error="another process holds events"),
    ]
    await execute(installed["database"], *[insert(parked).values(row) for row in rows])
    report = await doctor(installed)
    assert found(report) == [("warning", "parked-held")] * 2
    assert (report.status(), report.status(strict=True)) == (0, 1)
    pack, prepare = [each for each in report.findings if each.name == "parked-held"]
    assert prepare.text == (
        "2 events of the group shipping are held, because the circuit of shipping.handlers.Prepare is open "
        "(ConnectionError); the first one was parked at 2026-01-02T03:04:05+00:00, and 2 later events of their keys wait "
        "behind them"
    )
    assert "the circuit of shipping.handlers.Pack is open; the first one was parked at " in pack.text
    assert "`mediator parked show 1`" in prepare.remedy
    assert "`mediator parked replay 1`" in prepare.remedy


async def test_held_events_are_counted_apart_from_other_parked_events_and_are_not_overdue(installed: dict[str, Any]):
    rows = [
        set_aside("in", "circuit-open", partition_key="held", held_by="shipping.Prepare", parked_at=time.time() - 5000),
        set_aside("in", "key-parked", partition_key="held"),
        set_aside("in", "waiting", partition_key="due", due_at=time.time() + 30),
        set_aside("in", "key-parked", partition_key="due"),
        set_aside("in", "handler-failed", partition_key="failed"),
        set_aside("in", "key-parked", partition_key="failed"),
        set_aside("in", "handler-failed"),
    ]
    await execute(installed["database"], *[insert(parked).values(row) for row in rows])
    report = await doctor(installed)
    assert found(report) == [("warning", "parked-held"), ("warning", "parked-in")]
    text = report.as_text()
    assert "1 events of the group shipping are held" in text
    assert "1 later events of their keys wait behind them" in text
    assert "2 events wait for a later try of their consumer (key-parked: 1, waiting: 1), the next one in " in text
    assert "3 events that came in are parked (handler-failed: 2, key-parked: 1)" in text


async def alter(given: dict[str, Any], setting: str) -> None:
    url = given["database"]
    await execute(url, f'ALTER DATABASE "{url.rpartition("/")[2]}" SET {setting}')
