"""On PostgreSQL, a replay whose handlers hang does not delay events that arrive for its key."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.inbox import Admission
from mediator.distributed.parking import ParkedFilter, ParkReason
from mediator.mediator import Mediator
from mediator.registry import Registry
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyParking, SqlAlchemyUnitOfWork, create_schema, open_engine
from mediator.testing.conformance.storage import GROUP, parked_event

_BOUND = 5.0
"""Seconds until an event that arrives is parked, on a busy machine."""


async def arrive(engine: AsyncEngine, event_id: str) -> Admission:
    inbox, parking = SqlAlchemyInbox(engine), SqlAlchemyParking(engine)
    async with Mediator(Registry()).scope():
        unit_of_work = SqlAlchemyUnitOfWork(engine)
        async with unit_of_work:
            admission = await inbox.insert(unit_of_work, GROUP, "shop", event_id, key="k")
            if admission is Admission.KEY_PARKED:
                await parking.append(unit_of_work, parked_event(event_id, reason=ParkReason.KEY_PARKED))
    return admission


async def test_an_event_that_arrives_for_a_key_whose_replay_hangs_is_parked_at_once_and_handled_after_it(
    postgres_url: str,
) -> None:
    async with open_engine(postgres_url) as engine:
        await create_schema(engine)
        parking = SqlAlchemyParking(engine)
        await parking.park(parked_event("1"))
        (head,) = await parking.find(ParkedFilter())
        reserved, go = asyncio.Event(), asyncio.Event()

        async def replay() -> None:
            async with Mediator(Registry()).scope():
                unit_of_work = SqlAlchemyUnitOfWork(engine)
                async with unit_of_work:
                    await parking.reserve(unit_of_work, head.number)
                    reserved.set()
                    await go.wait()
                    await parking.take(unit_of_work, head.number)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(replay())
            await reserved.wait()
            for number in range(2, 6):
                async with asyncio.timeout(_BOUND):
                    assert await arrive(engine, f"{number}") is Admission.KEY_PARKED
            go.set()
        assert [each.event_id for each in await parking.find(ParkedFilter())] == ["2", "3", "4", "5"]
