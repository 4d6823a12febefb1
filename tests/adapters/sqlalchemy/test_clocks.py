"""Shared times come from the clock of the database, not from the clock of a process."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import DistributedEventBroker
from mediator.distributed.inbox import Admission
from mediator.distributed.outbox import OutboxFilter
from mediator.distributed.parking import ParkedEvent, ParkedFilter, ParkReason
from mediator.errors import EventNotSerializableError
from mediator.sqlalchemy import SqlAlchemyIdempotency, SqlAlchemyInbox, SqlAlchemyOutbox, SqlAlchemyParking
from tests.adapters.sqlalchemy.ledger import Do, EntryWritten, Ledger, Write

DAY = 86_400.0
MARGIN = 60.0


@pytest.fixture(params=[-9 * DAY, 9 * DAY], ids=["slow", "fast"])
def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Set the clock of this process nine days wrong until `undo()`."""
    real, seconds = time.time, request.param
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + seconds)
        yield patch


async def test_an_inbox_row_of_a_process_with_a_wrong_clock_is_neither_cleaned_at_once_nor_kept_for_longer(
    engine: AsyncEngine, wrong: pytest.MonkeyPatch
):
    ledger, inbox = Ledger(engine), SqlAlchemyInbox(engine)

    async def insert(ledger: Ledger) -> Admission:
        return await inbox.insert(ledger.unit_of_work, "group", "source", "1")

    assert await ledger.send(Do(insert)) is Admission.NEW
    await inbox.start("group", "source", "2", 8, alone=True)
    wrong.undo()
    assert await SqlAlchemyInbox(engine).clean(10) == 0
    assert await ledger.send(Do(insert)) is Admission.DUPLICATE
    assert await SqlAlchemyInbox(engine, clock_offset=lambda: 8 * DAY + MARGIN).clean(10) == 2


async def test_a_process_with_a_wrong_clock_cleans_no_rows_of_other_processes(engine: AsyncEngine, monkeypatch):
    ledger, inbox, outbox = Ledger(engine), SqlAlchemyInbox(engine), SqlAlchemyOutbox(engine)

    async def insert(ledger: Ledger) -> Admission:
        return await inbox.insert(ledger.unit_of_work, "group", "source", "1")

    await ledger.send(Do(insert))
    await ledger.send(Write("a"))
    async with outbox.claim(10) as batch:
        await batch.settle([event.id for event in batch.events])
    monkeypatch.setattr(time, "time", lambda: datetime.now(UTC).timestamp() + 9 * DAY)
    assert await inbox.clean(10) == 0
    assert await outbox.clean(10) == 0
    assert await SqlAlchemyIdempotency(engine).clean(10) == 0


async def test_an_archive_of_a_relay_with_a_wrong_clock_is_kept_as_long_as_any_other(
    engine: AsyncEngine, wrong: pytest.MonkeyPatch
):
    outbox = SqlAlchemyOutbox(engine)
    await Ledger(engine).send(Write("a"))
    async with outbox.claim(10) as batch:
        await batch.settle([event.id for event in batch.events])
    wrong.undo()
    assert await SqlAlchemyOutbox(engine).clean(10) == 0
    assert await SqlAlchemyOutbox(engine, clock_offset=lambda: 3 * DAY + MARGIN).clean(10) == 1


async def test_a_delayed_event_is_due_by_the_clock_of_the_database(engine: AsyncEngine, wrong: pytest.MonkeyPatch):
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)

    async def delay(ledger: Ledger) -> str:
        return DistributedEventBroker(ledger.unit_of_work).add(EntryWritten("a"), deliver_at=in_an_hour)

    await Ledger(engine).send(Do(delay))
    outbox = SqlAlchemyOutbox(engine)
    async with outbox.claim(10) as batch:
        assert list(batch.events) == []
    assert await outbox.due_in() == pytest.approx(3600, abs=MARGIN)
    wrong.undo()
    async with SqlAlchemyOutbox(engine, clock_offset=lambda: 3600 + MARGIN).claim(10) as batch:
        assert len(batch.events) == 1


async def test_a_parked_event_has_the_time_of_the_database(engine: AsyncEngine, wrong: pytest.MonkeyPatch):
    outbox, parking = SqlAlchemyOutbox(engine), SqlAlchemyParking(engine)
    await Ledger(engine).send(Write("a"))
    async with outbox.claim(10) as batch:
        await batch.park(batch.events[0], ParkReason.REFUSED, "too large")
    await parking.park(
        ParkedEvent(
            "in", "group", "source", "1", "a.b.v1", datetime.now(UTC).isoformat(), None, "", {}, b"", "", {}, 1, "failed",
            "", 1,
        )
    )  # fmt: skip
    wrong.undo()
    now = time.time()
    for event in await parking.find(ParkedFilter()):
        assert event.parked_at == pytest.approx(now, abs=MARGIN), event.direction
    async with engine.connect() as connection:
        received = (await connection.execute(text("SELECT received_at FROM mediator_inbox"))).scalar_one()
    assert received == pytest.approx(now, abs=MARGIN)


async def test_a_stored_response_expires_by_the_clock_of_the_database(engine: AsyncEngine, wrong: pytest.MonkeyPatch):
    ledger, kept = Ledger(engine), SqlAlchemyIdempotency(engine)

    async def claim(ledger: Ledger) -> object:
        found = await kept.claim(ledger.unit_of_work, "k", "f")
        await kept.keep(ledger.unit_of_work, "k", b"1")
        return found

    assert await ledger.send(Do(claim)) is None
    wrong.undo()
    assert await SqlAlchemyIdempotency(engine).clean(10) == 0
    assert await ledger.send(Do(claim)) is not None
    assert await SqlAlchemyIdempotency(engine, clock_offset=lambda: DAY + MARGIN).clean(10) == 1


async def add_at(ledger: Ledger, now: datetime) -> None:
    async def add(ledger: Ledger) -> None:
        DistributedEventBroker(ledger.unit_of_work, clock=lambda: now).add(EntryWritten("x"))

    await ledger.send(Do(add))


async def test_an_event_with_a_time_in_any_zone_is_stored_in_utc(ledger: Ledger) -> None:
    zone = timezone(timedelta(hours=23, minutes=59, seconds=59, microseconds=999_999))
    await add_at(ledger, datetime(2026, 1, 2, 0, 0, 0, 1, zone))
    (record,) = await ledger.outbox.contents.find(OutboxFilter(place="waiting"))
    assert record.time.isoformat() == "2026-01-01T00:00:00.000002+00:00"


@pytest.mark.parametrize("now", [datetime(2026, 1, 2), datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))])  # noqa: DTZ001
async def test_an_event_with_a_time_that_no_consumer_can_read_fails_its_command(ledger: Ledger, now: datetime) -> None:
    with pytest.raises(EventNotSerializableError, match="check the argument `clock`"):
        await add_at(ledger, now)
    assert await ledger.outbox.pending() == 0
