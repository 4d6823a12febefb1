"""The source of an event is stored with it, and does not change when the application is renamed."""

from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import OutboxRelay
from mediator.distributed.outbox import OutboxFilter, Republishing, Verification
from mediator.distributed.parking import ParkedFilter, ParkReason
from mediator.errors import SettingError
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyParking, open_engine, statements
from mediator.testing import InMemoryBroker, InMemoryEventPublisher
from tests.adapters.sqlalchemy.ledger import Ledger, Write, create_tables

ALL = OutboxFilter("archived")


@pytest.fixture
async def renamed(url: str, engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """Open the same database as a later process, in which the application has another name."""
    async with open_engine(url) as opened:
        SqlAlchemyOutbox(opened, application="renamed")
        yield opened


async def published(outbox: SqlAlchemyOutbox, publisher: InMemoryEventPublisher) -> None:
    OutboxRelay(outbox, publisher)
    async with outbox.claim(100) as batch:
        await publisher.publish(batch.events)
        await batch.settle([event.id for event in batch.events])


async def sources(engine: AsyncEngine, table: str = "mediator_outbox") -> Sequence[str]:
    async with engine.connect() as connection:
        return list((await connection.execute(text(f"SELECT source FROM {table} ORDER BY sequence"))).scalars())


async def test_the_source_is_stored_in_the_transaction_that_adds_the_event(engine: AsyncEngine):
    ledger = Ledger(engine)
    SqlAlchemyOutbox(engine, application="ledger")
    await ledger.send(Write("a"))
    assert await sources(engine) == ["ledger"]


async def test_a_refill_after_a_renaming_has_the_same_sources(engine: AsyncEngine, renamed: AsyncEngine):
    broker = InMemoryBroker()
    await Ledger(engine).send(Write("a"))
    await published(SqlAlchemyOutbox(engine, application="ledger"), InMemoryEventPublisher(broker))
    (event,) = broker.events
    assert event.source == "ledger"

    outbox, publisher = SqlAlchemyOutbox(renamed, application="renamed"), InMemoryEventPublisher(broker)
    assert [each async for each in Verification(outbox.contents, publisher.contents).run(ALL)] == []
    broker.lose(event.id)
    republishing = Republishing(outbox.contents, publisher)
    (absent,) = [
        each async for each in Verification(outbox.contents, publisher.contents, republishing=republishing).run(ALL)
    ]
    assert (absent.outcome, absent.record.source) == ("refilled", "ledger")
    broker.lose(event.id)
    assert [each.stored async for each in Republishing(outbox.contents, publisher).run(ALL)] == [1]
    assert [(each.source, each.id) for each in broker.events] == [("ledger", event.id)]


@pytest.mark.parametrize("at", ["outbox", "publisher"])
async def test_an_event_pending_during_a_renaming_keeps_its_old_source(
    engine: AsyncEngine, renamed: AsyncEngine, at: str
):
    broker, old = InMemoryBroker(), SqlAlchemyOutbox(engine, application="ledger")
    await Ledger(engine).send(Write("a"))
    if at == "publisher":
        await published(SqlAlchemyOutbox(renamed), InMemoryEventPublisher(broker, application="renamed"))
    else:
        await published(SqlAlchemyOutbox(renamed, application="renamed"), InMemoryEventPublisher(broker))
    assert old.application == "ledger"
    assert [each.source for each in broker.events] == ["ledger"]


async def test_an_unknown_source_is_stored_before_the_event_is_published(engine: AsyncEngine, renamed: AsyncEngine):
    """The process that published it dies before it settles it, and the next process has another name."""
    broker, outbox = InMemoryBroker(), SqlAlchemyOutbox(engine)
    await Ledger(engine).send(Write("a"))
    assert await sources(engine) == [""]
    publisher = InMemoryEventPublisher(broker, application="ledger")
    OutboxRelay(outbox, publisher)
    with pytest.raises(LookupError):
        async with outbox.claim(10) as batch:
            await publisher.publish(batch.events)
            raise LookupError
    assert await sources(renamed) == ["ledger"]
    await published(SqlAlchemyOutbox(renamed, application="renamed"), InMemoryEventPublisher(broker))
    assert [each.source for each in broker.events] == ["ledger"]
    assert await sources(renamed, "mediator_outbox_archive") == ["ledger"]


async def test_a_refused_event_is_put_back_with_its_source(engine: AsyncEngine, renamed: AsyncEngine):
    outbox = SqlAlchemyOutbox(engine, application="ledger")
    await Ledger(engine).send(Write("a"))
    async with outbox.claim(10) as batch:
        await batch.park(batch.events[0], ParkReason.REFUSED, "too large")
    parking = SqlAlchemyParking(renamed)
    (refused,) = await parking.find(ParkedFilter(direction="out"))
    assert refused.source == "ledger"
    await parking.release(refused.number)
    assert await sources(renamed) == ["ledger"]


async def test_an_event_added_after_the_naming_waits_together_with_its_successors(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    outbox = SqlAlchemyOutbox(engine, application="ledger")
    for entry in "abc":
        await Ledger(engine).send(Write(entry))

    async def none_yet(*_: object) -> bool:
        return False

    async with engine.begin() as connection:
        second = "SELECT min(sequence) + 1 FROM mediator_outbox"
        await connection.execute(text(f"UPDATE mediator_outbox SET source = '' WHERE sequence = ({second})"))
    with monkeypatch.context() as patch:
        patch.setattr(statements, "name_events", none_yet)
        async with outbox.claim(10) as batch:
            assert len(batch.events) == 1
            assert batch.look_again == pytest.approx(0.05)
    async with outbox.claim(10) as batch:
        assert [each.source for each in batch.events] == ["ledger"] * 3


async def test_unnamed_events_beyond_one_statement_are_all_named(engine: AsyncEngine, monkeypatch):
    monkeypatch.setattr(statements, "_NAMED", 2)
    for entry in "abcde":
        await Ledger(engine).send(Write(entry))
    async with SqlAlchemyOutbox(engine, application="ledger").claim(10) as batch:
        assert [each.source for each in batch.events] == ["ledger"] * 5


async def test_a_publisher_with_another_name_is_refused(engine: AsyncEngine):
    outbox = SqlAlchemyOutbox(engine, application="ledger")
    with pytest.raises(SettingError, match=r"the outbox stores its events under 'ledger'"):
        OutboxRelay(outbox, InMemoryEventPublisher(InMemoryBroker(), application="bank"))
    OutboxRelay(outbox, InMemoryEventPublisher(InMemoryBroker(), application="ledger"))


@pytest.mark.parametrize("name", ["", " ", "a\nb", "n" * 129])
async def test_an_invalid_source_is_refused(engine: AsyncEngine, name: str):
    with pytest.raises(SettingError, match="application"):
        SqlAlchemyOutbox(engine, application=name)


async def test_events_without_any_source_are_kept_and_not_published(url: str):
    async with open_engine(url) as engine:
        await create_tables(engine)
        await Ledger(engine).send(Write("a"))
        outbox, publisher = SqlAlchemyOutbox(engine), InMemoryEventPublisher(InMemoryBroker())
        OutboxRelay(outbox, publisher)
        with pytest.raises(SettingError, match="give the name of the application to the outbox"):
            async with outbox.claim(10) as batch:
                await publisher.publish(batch.events)
        assert await sources(engine) == [""]
