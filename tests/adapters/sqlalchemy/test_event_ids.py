"""An id names one event: adding another event with the id while the first one waits in the outbox is an error."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from mediator import DistributedEventBroker
from mediator.errors import EventIdConflictError
from mediator.testing.failpoints import Pause, failpoint
from tests.adapters.sqlalchemy.ledger import Do, Ledger, postgresql_only, sqlite_only
from tests.adapters.sqlalchemy.test_staging import Moved, statements
from tests.adapters.sqlalchemy.test_statements import restart_numbering


async def add_as(ledger: Ledger, *ids: str) -> None:
    async def action(ledger: Ledger) -> None:
        await ledger.write("written")
        chosen = iter(ids)
        events = DistributedEventBroker(ledger.unit_of_work, ids=lambda: next(chosen))
        for number in range(len(ids)):
            events.add(Moved("secret", number))

    await ledger.send(Do(action))


async def test_the_error_for_a_pending_id_names_the_id_and_the_remedy_and_no_payload(ledger: Ledger) -> None:
    await add_as(ledger, "order-1")
    with statements(ledger.engine) as seen, pytest.raises(EventIdConflictError) as caught:
        await add_as(ledger, "order-1")
    assert str(caught.value) == (
        "An event with the id 'order-1' waits in the outbox already. Each event needs a different id, so nothing was "
        "committed. If it is the same event, do not add it again; otherwise make the `ids` of the DistributedEventBroker "
        "return a new id for each event."
    )
    assert sum("mediator_outbox" in statement for statement, _ in seen) == 1


async def test_the_error_names_an_id_that_two_events_of_a_command_share(ledger: Ledger) -> None:
    ids = [f"order-{number % 2000}" for number in range(2001)]
    with pytest.raises(EventIdConflictError, match="Two events of one command have the id 'order-0'. Each event needs"):
        await add_as(ledger, *ids)
    assert await ledger.outbox.pending() == 0


@postgresql_only
async def test_the_error_on_postgresql_names_the_pending_id(ledger: Ledger) -> None:
    await add_as(ledger, "order-(id)=(order-1)")
    with pytest.raises(EventIdConflictError) as caught:
        await add_as(ledger, *(f"order-{number}" for number in range(50)), "order-(id)=(order-1)")
    assert caught.value.event_ids == ("order-(id)=(order-1)",)


@sqlite_only
async def test_the_error_on_sqlite_names_some_ids_of_the_command(ledger: Ledger) -> None:
    await add_as(ledger, "order-1")
    ids = tuple(f"order-{number}" for number in range(1500))
    with pytest.raises(EventIdConflictError, match=r"one of the ids 'order-0', .* and 1,495 more waits") as caught:
        await add_as(ledger, *ids)
    assert caught.value.event_ids == ids
    assert len(str(caught.value)) < 400


@postgresql_only
async def test_the_second_of_two_concurrent_commands_with_one_id_fails_when_the_first_commits(ledger: Ledger) -> None:
    before_commit = Pause()
    with pytest.raises(EventIdConflictError):
        async with asyncio.timeout(30):
            with failpoint("unit_of_work.before_commit", before_commit):
                first = asyncio.create_task(add_as(ledger, "order-1"))
                await before_commit.reached.wait()
            second = asyncio.create_task(add_as(ledger, "order-1"))
            before_commit.release()
            await first
            await second
    assert await ledger.outbox.pending() == 1


@postgresql_only
async def test_a_duplicate_sequence_in_the_outbox_stays_an_error_of_the_database(ledger: Ledger) -> None:
    await add_as(ledger, "order-1")
    await restart_numbering(ledger.engine)
    with pytest.raises(IntegrityError, match="mediator_outbox_pkey"):
        await add_as(ledger, "order-2")
    assert await ledger.outbox.pending() == 1


async def test_a_unique_violation_in_an_applications_trigger_stays_an_error_of_the_database(ledger: Ledger) -> None:
    async with ledger.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE copies (id INTEGER UNIQUE)"))
        await connection.execute(text("INSERT INTO copies VALUES (1)"))
        if ledger.engine.dialect.name == "sqlite":
            body = "BEGIN INSERT INTO copies VALUES (1); END"
        else:
            body = "EXECUTE FUNCTION copy()"
            function = "BEGIN INSERT INTO copies VALUES (1); RETURN NEW; END"
            create = f"CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS '{function}'"
            await connection.execute(text(create))
        trigger = f"CREATE TRIGGER copying AFTER INSERT ON mediator_outbox FOR EACH ROW {body}"
        await connection.exec_driver_sql(trigger)
    with pytest.raises(IntegrityError, match="copies"):
        await add_as(ledger, "order-1")
