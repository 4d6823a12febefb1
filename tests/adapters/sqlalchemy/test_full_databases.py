"""A database that is full, read-only or broken for a while is an outage: it costs no event an attempt."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from mediator import OutboxRelay
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.parking import ParkedEvent
from mediator.errors import DatabaseWriteError
from mediator.sqlalchemy import SqlAlchemyParking, open_engine
from mediator.sqlalchemy.database import MODE
from mediator.testing import InMemoryBroker, InMemoryEventPublisher
from tests.adapters.sqlalchemy.group import FAILS, Group, prepare
from tests.adapters.sqlalchemy.ledger import Ledger, Write, create_tables
from tests.unit.distributed.inbox.application import TYPE

FULL = ("max_page_count = 1", "max_page_count = 1073741823")
"""SQLite never makes the limit smaller than the number of pages in the file."""
READ_ONLY = ("query_only = 1", "query_only = 0")


@dataclass
class File:
    """An SQLite file whose pragmas a test sets.

    Attributes:
        engine: The engine of the file.
        pragma: Executed for each connection that the pool gives out.
    """

    engine: AsyncEngine
    pragma: str = "query_only = 0"

    def __post_init__(self) -> None:
        event.listen(self.engine.sync_engine, "checkout", self._given_out)

    def _given_out(self, connection: Any, record: Any, _proxy: object) -> None:
        record.info[MODE] = False
        cursor = connection.cursor()
        for pragma in ("query_only = 0", self.pragma):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def publish(group: Group, *numbers: int) -> None:
    for number in numbers:
        at = datetime(2026, 1, 2, tzinfo=UTC)
        data = json.dumps({"number": number}).encode()
        group.broker.store(CloudEvent(f"e{number}", f"{TYPE}.v1", at, data, partitionkey="k", source="shop"))


async def until(said: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not said():
            await asyncio.sleep(0.01)


def names(logs: list[Any]) -> list[str]:
    return [line["event"] for line in logs]


@pytest.fixture
async def file_engine(file: Path) -> AsyncIterator[AsyncEngine]:
    async with open_engine(f"sqlite:///{file}") as opened:
        await prepare(opened)
        yield opened


@pytest.mark.parametrize(("filler", "ordering"), [(5_000, "none"), (2_000_000, "key")])
@pytest.mark.parametrize("what", [FULL, READ_ONLY])
async def test_a_temporarily_full_file_costs_no_event_an_attempt(
    file_engine: AsyncEngine, what: tuple[str, str], ordering: str, filler: int
) -> None:
    file = File(file_engine)
    group = Group(file_engine, filler=filler, ordering=ordering, concurrency=4, retry_delays=(0.0,))
    with capture_logs() as logs:
        async with group.running():
            publish(group, 0)
            await group.settled(1)
            file.pragma = what[0]
            publish(group, 1, 2, 3, 4)
            await until(lambda: "consumer waits" in names(logs))
            file.pragma = what[1]
            await group.settled(5)
    assert await group.effects() == [(number, 1) for number in range(5)]
    assert await group.parked() == []
    assert set(names(logs)) & {"delivery failed", "event parked", "handler failed"} == set()


async def test_an_event_too_large_for_the_database_fails_alone_and_delays_no_other(
    file_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mediator.distributed.inbox.outage._FULL_LOSSES", 3)
    file = File(file_engine, "max_page_count = 500")  # 2 MB
    group = Group(file_engine, retry_delays=())
    large = Group(file_engine, filler=4_000_000, retry_delays=())
    publish(large, 1)
    publish(group, 1)
    async with large.running(), group.running():
        await group.settled(1)
        await large.settled(1)
    assert file.pragma == "max_page_count = 500"
    assert await group.effects() == [(1, 1)]
    (parked,) = await large.parked()
    assert (parked.reason, parked.attempts) == ("handler-failed", 1)
    assert parked.error.startswith("DatabaseWriteError: ")


async def test_the_error_of_a_handler_is_parked_after_the_database_has_room_again(file_engine: AsyncEngine) -> None:
    file = File(file_engine)
    group = Group(file_engine, retry_delays=())
    group.on_failure = lambda: setattr(file, "pragma", READ_ONLY[0])
    publish(group, FAILS)
    with capture_logs() as logs:
        async with group.running():
            await until(lambda: "consumer waits" in names(logs))
            (told,) = [line for line in logs if line["event"] == "handler failed"]
            file.pragma = READ_ONLY[1]
            await group.settled(1)
    assert (told["error"], told["event_id"], told["attempt"]) == ("ValueError", "e13", 1)
    (parked,) = await group.parked()
    assert (parked.reason, parked.attempts, parked.error) == ("handler-failed", 1, "ValueError: e13 cannot be reserved")


class Refusing(SqlAlchemyParking):
    """Fails for a reason other than the database."""

    refusals: int = 3

    async def park(self, event: ParkedEvent, /, **options: Any) -> bool:
        if self.refusals:
            self.refusals -= 1
            raise LookupError("it cannot be parked")
        return await super().park(event, **options)


async def test_an_event_that_cannot_be_parked_is_not_counted_as_killing_processes(engine: AsyncEngine) -> None:
    await prepare(engine)
    group = Group(engine, retry_delays=(), parking=Refusing(engine))
    publish(group, FAILS)
    with capture_logs() as logs:
        async with group.running():
            await group.settled(1)
    assert names(logs).count("event not parked") == 3
    assert [line["error"] for line in logs if line["event"] == "delivery failed"] == ["ValueError"] * 3
    (parked,) = await group.parked()
    assert (parked.reason, parked.error) == ("handler-failed", "ValueError: e13 cannot be reserved")


async def test_a_full_file_fails_commands_and_makes_a_relay_wait(file: Path) -> None:
    async with open_engine(f"sqlite:///{file}") as engine:
        await create_tables(engine)
        found, ledger, broker = File(engine), Ledger(engine), InMemoryBroker()
        await ledger.send(Write("x" * 100_000))
        found.pragma = READ_ONLY[0]
        with pytest.raises(DatabaseWriteError, match="stores nothing at present"):
            await ledger.send(Write("y" * 100_000))
        relay = OutboxRelay(ledger.outbox, InMemoryEventPublisher(broker, application="ledger"))
        with capture_logs() as logs:
            running = asyncio.create_task(relay.run())
            await until(lambda: "relay waits" in names(logs))
            found.pragma = READ_ONLY[1]
            await ledger.send(Write("z"))
            await until(lambda: len(broker.events) == 2)
            running.cancel()
            await asyncio.wait({running})
        assert [line["error"] for line in logs if line["event"] == "relay waits"] == ["DatabaseWriteError"]
        assert await ledger.entries() == ["x" * 100_000, "z"]


async def test_postgresql_that_becomes_read_only_costs_no_event_an_attempt(postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    async with open_engine(postgres_url) as engine, open_engine(postgres_url.replace(f"/{name}", "/postgres")) as other:
        await prepare(engine)

        async def set_read_only(value: str) -> None:
            async with other.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}'))
                end = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
                await connection.execute(end, {"name": name})

        group = Group(engine, ordering="key", retry_delays=(0.0,))
        with capture_logs() as logs:
            async with group.running():
                await set_read_only("on")
                publish(group, 1, 2, 3, 4)
                await until(lambda: any(line.get("error") == "DatabaseWriteError" for line in logs))
                await set_read_only("off")
                await group.settled(4)
        assert await group.effects() == [(number, 1) for number in range(1, 5)]
        assert await group.parked() == []


@pytest.mark.parametrize("code", ["53100", "53200", "53300", "58030"])
async def test_postgresql_without_room_costs_no_event_an_attempt(postgres_url: str, code: str) -> None:
    """The server refuses every row of the library, as it does when its disk is full."""
    async with open_engine(postgres_url) as engine:
        await prepare(engine)
        group = Group(engine, ordering="key", retry_delays=(0.0,))
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                    f"$$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '{code}'; END $$"
                )
            )
            for table in ("mediator_inbox", "mediator_attempts", "mediator_idempotency", "mediator_parked"):
                await connection.execute(
                    text(f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION refuse()")
                )
        publish(group, 1, 2)
        with capture_logs() as logs:
            async with group.running():
                await until(lambda: any(line.get("error") == "DatabaseWriteError" for line in logs))
                async with engine.begin() as connection:
                    await connection.execute(text("DROP FUNCTION refuse CASCADE"))
                await group.settled(2)
        assert await group.effects() == [(1, 1), (2, 1)]
        assert await group.parked() == []


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_file_that_cannot_grow_costs_no_event_an_attempt(file: Path) -> None:
    """It runs in another process, whose files cannot grow for a while because of a limit of the operating system."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.adapters.sqlalchemy.limited", str(file), stdout=-1, stderr=-1, env=environment
    )
    async with asyncio.timeout(90):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    told = json.loads(output)
    assert told["effects"] == [[number, 1] for number in range(5)]
    assert told["parked"] == []
    assert "DatabaseWriteError" in told["waited"]
