"""An inbox deletes old records by the time of the last start, in bounded batches, and no record of a parked event."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.inbox import Admission, Start
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyParking, create_schema, open_engine
from mediator.testing.conformance.storage import parked_event
from tests.adapters.sqlalchemy.ledger import Do, Ledger

DAY = 86_400.0


class Receiver:
    """An inbox that keeps events for ten days, on a clock that a test moves."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.offset = 0.0
        self.ledger = Ledger(engine)
        self.inbox = SqlAlchemyInbox(engine, keep_seconds=10 * DAY, clock_offset=lambda: self.offset)

    async def take_in(self, *ids: str) -> list[Admission]:
        async def action(ledger: Ledger) -> list[Admission]:
            return [await self.inbox.insert(ledger.unit_of_work, "g", "s", each) for each in ids]

        found: list[Admission] = await self.ledger.send(Do(action))
        return found

    async def start(self, event_id: str, *, alone: bool = False) -> Start:
        return await self.inbox.start("g", "s", event_id, 5, alone=alone)

    async def known(self, table: str) -> list[str]:
        async with self.ledger.engine.connect() as connection:
            rows = await connection.execute(text(f"SELECT event_id FROM mediator_{table} ORDER BY event_id"))
            return [row.event_id for row in rows]


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    async with open_engine(f"sqlite:///{tmp_path / 'app.db'}") as engine:
        await create_schema(engine)
        yield Receiver(engine)


async def tables(receiver: Receiver) -> tuple[str, str]:
    """Return the names of the tables of recorded events and of counted starts."""
    async with receiver.ledger.engine.connect() as connection:
        rows = await connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))
        names = [row.name.removeprefix("mediator_") for row in rows if row.name.startswith("mediator_")]
    return next(name for name in names if "inbox" in name), next(name for name in names if "attempts" in name)


async def test_records_older_than_the_retention_are_deleted_and_no_others_each_time(receiver: Receiver) -> None:
    taken, _ = await tables(receiver)
    for life in (1, 2):
        await receiver.take_in("a", "b")
        receiver.offset += 6 * DAY
        await receiver.take_in("c")
        receiver.offset += 4 * DAY - 60
        assert await receiver.inbox.clean(100) == 0
        receiver.offset += 120
        assert await receiver.inbox.clean(100) == 2
        assert await receiver.known(taken) == ["c"]
        assert await receiver.take_in("c") == [Admission.DUPLICATE]
        receiver.offset += 6 * DAY
        assert await receiver.inbox.clean(100) == 1, life


async def test_a_batch_is_bounded_for_old_rows_in_either_table(receiver: Receiver) -> None:
    taken, counted = await tables(receiver)
    await receiver.take_in(*(f"{number}" for number in range(5)))
    for number in range(4):
        assert (await receiver.start(f"s{number}", alone=True)).attempt == 2
    receiver.offset += 11 * DAY
    deleted = [await receiver.inbox.clean(2) for _ in range(6)]
    assert max(deleted) == 2
    assert sum(deleted) == 9
    assert (await receiver.known(taken), await receiver.known(counted)) == ([], [])


async def test_a_batch_that_finishes_one_table_uses_only_the_rest_of_its_limit_for_the_other(
    receiver: Receiver,
) -> None:
    _, counted = await tables(receiver)
    await receiver.take_in("a")
    for number in range(4):
        await receiver.start(f"s{number}", alone=True)
    receiver.offset += 11 * DAY
    assert await receiver.inbox.clean(3) == 3
    assert len(await receiver.known(counted)) == 2


async def test_the_age_of_an_attempt_count_is_the_time_of_its_last_attempt(receiver: Receiver) -> None:
    _, counted = await tables(receiver)
    for _ in range(3):
        await receiver.start("a", alone=True)
        await receiver.inbox.end("g", "s", "a", 1)
        receiver.offset += 6 * DAY
        assert await receiver.inbox.clean(100) == 0
    assert await receiver.known(counted) == ["a"]
    assert (await receiver.start("a", alone=True)).attempt == 5
    receiver.offset += 10 * DAY + 60
    assert await receiver.inbox.clean(100) == 1


async def test_the_record_of_a_parked_event_is_kept_until_the_event_is_gone(receiver: Receiver) -> None:
    taken, _ = await tables(receiver)
    await receiver.take_in("parked", "other")
    insert = (
        "INSERT INTO mediator_parked (direction, consumer, source, event_id, type, time, content_type, extensions, data, "
        "subject, headers, sequence, reason, error, attempts, parked_at) VALUES "
        "('{0}', 'g', 's', '{1}', 't', '', '', '{{}}', X'', '', '{{}}', 1, 'r', '', 1, 1.0)"
    )
    async with receiver.ledger.engine.begin() as connection:
        await connection.execute(text(insert.format("in", "parked")))
        await connection.execute(text(insert.format("out", "other")))
    receiver.offset += 30 * DAY
    assert await receiver.inbox.clean(100) == 1
    assert await receiver.known(taken) == ["parked"]
    async with receiver.ledger.engine.begin() as connection:
        await connection.execute(text("DELETE FROM mediator_parked"))
    assert await receiver.inbox.clean(100) == 1


async def test_parking_an_event_deletes_its_attempt_count(receiver: Receiver) -> None:
    _, counted = await tables(receiver)
    for each in ("parked", "other"):
        await receiver.start(each, alone=True)
    parking = SqlAlchemyParking(receiver.ledger.engine)
    assert await parking.park(parked_event("parked", consumer="g", source="s"))
    assert await receiver.known(counted) == ["other"]
