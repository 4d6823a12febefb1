"""An event is read from the outbox exactly as it was added, or its command fails and stores nothing."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, MetaData, Table, Uuid, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import DistributedEvent
from mediator.errors import EventError
from mediator.fidelity import change_of
from mediator.msgspec import MsgspecCodec
from mediator.sqlalchemy import create_schema, open_engine
from tests.adapters.sqlalchemy.ledger import Do, Ledger
from tests.adapters.stored_events import EVENTS, Typed

ORDERS = Table("orders", MetaData(), Column("id", Uuid, primary_key=True))


@dataclass(frozen=True, slots=True)
class Keyed(DistributedEvent):
    event_type: ClassVar[str] = "shop.keyed"
    lines: dict[UUID, list[UUID]]


async def check(url: str, events: list[DistributedEvent]) -> None:
    async with open_engine(url) as engine:
        await create_schema(engine)
        ledger, stored = Ledger(engine), []
        for each in events:

            async def add(ledger: Ledger, added: DistributedEvent = each) -> None:
                ledger.events.add(added)

            try:
                await ledger.send(Do(add))
            except EventError:
                event("refused")
            else:
                stored.append(each)
        async with ledger.outbox.claim(100) as batch:
            found = [each for each in batch.events if each.type.startswith("shop.")]
            assert len(found) == len(stored)
            for one, other in zip(sorted(stored, key=type_of), sorted(found, key=lambda each: each.type), strict=True):
                assert other.partitionkey == one.partition_key
                assert change_of(one, MsgspecCodec().decode(other.data, type(one))) is None
            await batch.settle([each.id for each in batch.events])


async def test_an_id_read_from_the_database_may_be_part_of_an_event(ledger: Ledger, engine: AsyncEngine):
    async def read_and_add(ledger: Ledger) -> UUID:
        session = ledger.unit_of_work.session
        await session.execute(insert(ORDERS).values(id=UUID(int=7)))
        found = (await session.scalars(select(ORDERS.c.id))).one()
        ledger.events.add(Typed(uid=found))
        ledger.events.add(Keyed({found: [found]}))
        return found

    async with engine.begin() as connection:
        await connection.run_sync(ORDERS.create)
    assert await ledger.send(Do(read_and_add)) == UUID(int=7)


def type_of(event: DistributedEvent) -> str:
    return event.event_type


@pytest.mark.thorough("waits in real time, or does much work")
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(events=st.lists(EVENTS, min_size=1, max_size=20))
def test_an_event_is_read_from_the_outbox_as_it_was_added_or_its_command_fails(
    url: str, events: list[DistributedEvent]
):
    asyncio.run(check(url, events))
