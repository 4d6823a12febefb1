"""A doorbell wakes the relays of other processes, soon after the commit, and never keeps a commit waiting."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from mediator.errors import SettingError
from mediator.nats import NatsConnection, NatsDoorbell, NatsServer, open_connection, open_doorbell
from mediator.sqlalchemy import SqlAlchemyOutbox, create_schema, open_engine
from tests.adapters.sqlalchemy.ledger import Do, Ledger
from tests.adapters.sqlalchemy.test_events_at_commit import Blob, adding


class Listener:
    """Counts how often it is called."""

    def __init__(self, doorbell: NatsDoorbell) -> None:
        self.calls = 0
        self._called = asyncio.Event()
        doorbell.on_ring(self)

    def __call__(self) -> None:
        self.calls += 1
        self._called.set()

    async def wait(self) -> None:
        async with asyncio.timeout(10):
            await self._called.wait()
        self._called.clear()


@pytest.fixture
async def doorbell(connection: NatsConnection, prefix: str) -> AsyncIterator[NatsDoorbell]:
    async with open_doorbell(connection, prefix) as doorbell:
        yield doorbell


async def test_a_ring_reaches_other_processes_and_not_the_one_that_rang(
    shared_server: NatsServer, doorbell: NatsDoorbell, prefix: str
) -> None:
    mine = Listener(doorbell)
    await mine.wait()  # it listens
    async with open_connection(shared_server.url) as elsewhere, open_doorbell(elsewhere, prefix) as other:
        theirs = Listener(other)
        await theirs.wait()
        before = mine.calls
        doorbell.ring()
        await theirs.wait()
        other.ring()
        await mine.wait()
    assert mine.calls == before + 1


async def test_a_ring_under_another_name_wakes_no_listener(
    shared_server: NatsServer, doorbell: NatsDoorbell, prefix: str
) -> None:
    mine = Listener(doorbell)
    await mine.wait()
    async with open_connection(shared_server.url) as elsewhere, open_doorbell(elsewhere, f"{prefix}-2") as other:
        other.ring()
        async with open_doorbell(elsewhere, prefix) as same:
            await Listener(same).wait()
            same.ring()
            await mine.wait()
    assert mine.calls == 2


async def test_many_rings_become_few_messages(doorbell: NatsDoorbell, raw: Client, prefix: str) -> None:
    messages = await raw.subscribe(f"mediator-wake.{prefix}")
    await raw.flush()
    for _ in range(1000):
        doorbell.ring()
        await asyncio.sleep(0)
    await messages.next_msg(timeout=10)
    await asyncio.sleep(0.05)
    assert messages.pending_msgs < 20


async def test_a_reconnected_listener_looks_for_events_without_a_ring(server: NatsServer) -> None:
    async with open_connection(server.url) as connection, open_doorbell(connection, "shop") as doorbell:
        listener = Listener(doorbell)
        await listener.wait()
        await server.stop()
        doorbell.ring()  # is lost, and does no harm
        await server.start()
        await listener.wait()
        client = await nats.connect(server.url)
        await client.publish("mediator-wake.shop", b"somebody else")
        await listener.wait()
        await client.close()


async def test_a_doorbell_opens_without_a_broker_and_closes_at_once() -> None:
    async with (
        asyncio.timeout(10),
        open_connection("nats://127.0.0.1:9") as connection,
        open_doorbell(connection, "shop") as doorbell,
    ):
        doorbell.ring()


async def test_a_name_is_one_token(connection: NatsConnection) -> None:
    with pytest.raises(SettingError):
        NatsDoorbell(connection, "two.tokens")


async def test_a_commit_wakes_the_outbox_of_another_process(
    shared_server: NatsServer, prefix: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    async with (
        open_engine(url) as web_engine,
        open_engine(url) as worker_engine,
        open_connection(shared_server.url) as web,
        open_connection(shared_server.url) as worker,
        open_doorbell(web, prefix) as web_bell,
        open_doorbell(worker, prefix) as worker_bell,
    ):
        listening = Listener(worker_bell)
        await create_schema(web_engine)
        outbox = SqlAlchemyOutbox(worker_engine, doorbell=worker_bell)
        ledger = Ledger(web_engine)
        ledger.outbox = SqlAlchemyOutbox(web_engine, doorbell=web_bell)
        await listening.wait()
        await outbox.wait(0.1)
        async with asyncio.timeout(10):
            waiting = asyncio.create_task(outbox.wait(60))
            await ledger.send(Do(adding(Blob(1))))
            await waiting
        async with outbox.claim(1) as batch:
            assert len(batch.events) == 1


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_flood_of_rings_makes_the_relay_look_ten_times_a_second_and_no_ring_is_lost(
    connection: NatsConnection, doorbell: NatsDoorbell, raw: Client, prefix: str, tmp_path: Path
) -> None:
    async with open_engine(f"sqlite:///{tmp_path}/ledger.db") as engine:
        await create_schema(engine)
        ledger, outbox = Ledger(engine), SqlAlchemyOutbox(engine, doorbell=doorbell)
        ledger.outbox = outbox
        looks = found = 0

        async def look() -> None:
            nonlocal looks, found
            while True:
                await outbox.wait(60)
                async with outbox.claim(10) as batch:
                    looks, found = looks + 1, found + len(batch.events)
                    await batch.settle([each.id for each in batch.events])

        looking = asyncio.create_task(look())
        clock = asyncio.get_running_loop().time
        begun = clock()
        while clock() < begun + 1:
            await raw.publish(f"mediator-wake.{prefix}", b"stranger")
            await asyncio.sleep(0)
        await raw.flush()
        assert looks <= 2 + 10 * (clock() - begun)
        for number in range(1, 4):  # local commits wait for no ring
            await raw.publish(f"mediator-wake.{prefix}", b"stranger")
            await ledger.send(Do(adding(Blob(number))))
            async with asyncio.timeout(5):
                while found < number:
                    await asyncio.sleep(0.005)
        looking.cancel()
        await asyncio.wait((looking,))


async def test_rings_wake_the_relay_at_once_while_it_finds_events(
    connection: NatsConnection, raw: Client, prefix: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    async with open_engine(url) as web, open_engine(url) as worker, open_doorbell(connection, prefix) as doorbell:
        listening = Listener(doorbell)
        await create_schema(web)
        ledger, outbox = Ledger(web), SqlAlchemyOutbox(worker, doorbell=doorbell)
        await listening.wait()
        await outbox.wait(0.1)
        waits = []
        clock = asyncio.get_running_loop().time
        for number in range(5):
            await ledger.send(Do(adding(Blob(number))))
            begun = clock()
            await raw.publish(f"mediator-wake.{prefix}", b"another process")
            await outbox.wait(60)
            waits.append(clock() - begun)
            async with outbox.claim(10) as batch:
                assert len(batch.events) == 1
                await batch.settle([each.id for each in batch.events])
        assert sorted(waits)[2] < 0.08
