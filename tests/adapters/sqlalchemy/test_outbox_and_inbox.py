"""The outbox hands events to one relay at a time, in order; the inbox tells new events from known ones."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from mediator.distributed.inbox import Admission
from mediator.errors import MisuseError
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyOutbox, create_schema, open_engine, schema
from tests.adapters.sqlalchemy.ledger import Do, Ledger, Write
from tests.adapters.sqlalchemy.test_events_at_commit import Blob, adding
from tests.unit.virtual_time import settle


async def archived(ledger: Ledger) -> int:
    async with ledger.engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM mediator_outbox_archive"))).scalar_one())


async def test_a_claim_returns_the_oldest_events_in_the_order_of_commit_and_add(ledger: Ledger) -> None:
    await ledger.send(Do(adding(Blob(1), Blob(2))))
    await ledger.send(Do(adding(Blob(3))))
    async with ledger.outbox.claim(2) as batch:
        assert [event.data for event in batch.events] == [b'{"content":1,"key":null}', b'{"content":2,"key":null}']


async def test_settled_events_move_to_the_archive_and_the_others_stay(ledger: Ledger) -> None:
    await ledger.send(Do(adding(Blob(1), Blob(2), Blob(3))))
    async with ledger.outbox.claim(10) as batch:
        kept = batch.events[1]
        await batch.settle([event.id for event in batch.events if event is not kept])
    async with ledger.outbox.claim(10) as batch:
        assert batch.events == [kept]
    assert await archived(ledger) == 2


async def test_two_claims_return_the_same_event_unchanged(ledger: Ledger) -> None:
    await ledger.send(Do(adding(Blob("ä", key="k"))))
    async with ledger.outbox.claim(1) as first:
        pass
    async with ledger.outbox.claim(1) as second:
        assert first.events == second.events


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_second_relay_gets_no_events_while_the_first_holds_a_claim(ledger: Ledger, url: str) -> None:
    await ledger.send(Write("a"))
    async with open_engine(url) as other_engine:
        other = SqlAlchemyOutbox(other_engine)
        async with ledger.outbox.claim(1) as mine, other.claim(1) as theirs:
            assert (len(mine.events), len(theirs.events)) == (1, 0)
        async with other.claim(1) as theirs:
            assert len(theirs.events) == 1


async def test_a_commit_wakes_a_waiting_relay_even_if_it_came_first(ledger: Ledger) -> None:
    await ledger.send(Write("a"))
    async with asyncio.timeout(5):
        await ledger.outbox.wait(60)
        waiting = asyncio.create_task(ledger.outbox.wait(60))
        await ledger.send(Write("b"))
        await waiting


async def test_a_wake_is_consumed_by_one_claim_or_one_wait(ledger: Ledger) -> None:
    async with asyncio.timeout(5):
        for _ in range(2):
            ledger.outbox.wake()
            async with ledger.outbox.claim(1):
                pass
            for _ in range(2):
                waiting = asyncio.create_task(ledger.outbox.wait(60))
                await settle()
                assert not waiting.done()
                ledger.outbox.wake()
                await waiting


async def test_the_archive_is_cleaned_in_bounded_batches_by_age(ledger: Ledger) -> None:
    ahead = 0.0
    outbox = SqlAlchemyOutbox(ledger.engine, archive_seconds=100, clock_offset=lambda: ahead)
    await ledger.send(Do(adding(Blob(1), Blob(2), Blob(3))))
    async with outbox.claim(10) as batch:
        await batch.settle([event.id for event in batch.events])
    assert await outbox.clean(10) == 0
    ahead = 101.0
    assert [await outbox.clean(2), await outbox.clean(2)] == [2, 1]


async def test_the_inbox_knows_an_event_once_its_transaction_has_committed(ledger: Ledger) -> None:
    inbox = SqlAlchemyInbox(ledger.engine)

    async def insert_and_fail(ledger: Ledger) -> None:
        assert await inbox.insert(ledger.unit_of_work, "group", "source", "1") is Admission.NEW
        raise LookupError

    async def insert(ledger: Ledger) -> Admission:
        return await inbox.insert(ledger.unit_of_work, "group", "source", "1")

    await asyncio.gather(ledger.send(Do(insert_and_fail)), return_exceptions=True)
    assert not await inbox.contains("group", "source", "1")
    assert await ledger.send(Do(insert)) is Admission.NEW
    assert await inbox.contains("group", "source", "1")
    assert await ledger.send(Do(insert)) is Admission.DUPLICATE
    assert not await inbox.contains("other group", "source", "1")
    assert not await inbox.contains("group", "other source", "1")


async def test_the_inbox_lists_events_since_a_time_and_tolerates_a_clock_difference_of_a_minute(ledger: Ledger) -> None:
    inbox = SqlAlchemyInbox(ledger.engine)

    async def insert(ledger: Ledger) -> Admission:
        return await inbox.insert(ledger.unit_of_work, "group", "source", "1")

    await ledger.send(Do(insert))
    now = datetime.now(UTC)
    for seconds, known in ((-9 * 86_400, True), (-1, True), (50, True), (70, False), (86_400, False)):
        since = now + timedelta(seconds=seconds)
        assert await inbox.contains("group", "source", "1", since=since) is known, seconds


async def test_the_inbox_is_cleaned_in_bounded_batches_by_age(ledger: Ledger) -> None:
    ahead = 0.0
    inbox = SqlAlchemyInbox(ledger.engine, keep_seconds=100, clock_offset=lambda: ahead)

    async def insert(ledger: Ledger) -> None:
        for number in range(3):
            await inbox.insert(ledger.unit_of_work, "group", "source", str(number))

    await ledger.send(Do(insert))
    assert await inbox.clean(10) == 0
    ahead = 101.0
    assert [await inbox.clean(2), await inbox.clean(2)] == [2, 1]


async def test_a_parked_event_is_kept_at_any_age(ledger: Ledger) -> None:
    ahead = 0.0
    inbox = SqlAlchemyInbox(ledger.engine, keep_seconds=100, clock_offset=lambda: ahead)

    async def insert(ledger: Ledger) -> None:
        for number in range(3):
            await inbox.insert(ledger.unit_of_work, "group", "source", str(number))
        for direction, consumer in (("in", "group"), ("out", "group"), ("in", "another")):
            event_id = {"out": "0", "in": "1"}[direction] if consumer == "group" else "2"
            await ledger.unit_of_work.session.execute(
                schema.parked.insert().values(
                    direction=direction, consumer=consumer, source="source", event_id=event_id, type="a.b.v1", time="",
                    content_type="", extensions="{}", data=b"", subject="", headers="{}", sequence=1, reason="failed",
                    error="", attempts=1, parked_at=0.0,
                )
            )  # fmt: skip

    await ledger.send(Do(insert))
    ahead = 101.0
    assert await inbox.clean(10) == 2
    assert await inbox.contains("group", "source", "1")

    async def discard(ledger: Ledger) -> None:
        await ledger.unit_of_work.session.execute(schema.parked.delete())

    await ledger.send(Do(discard))
    assert await inbox.clean(10) == 1


async def test_a_unit_of_work_on_another_database_cannot_cancel_events(ledger: Ledger, tmp_path: Path) -> None:
    async with open_engine(f"sqlite:///{tmp_path}/other.db") as other_engine:
        await create_schema(other_engine)
        other = SqlAlchemyOutbox(other_engine)

        async def cancel(ledger: Ledger) -> None:
            with pytest.raises(MisuseError, match="belongs to another unit of work or database"):
                await other.cancel("1", unit_of_work=ledger.unit_of_work)

        await ledger.send(Do(cancel))
