"""A size limit that is too small for a while parks no event; a limit that stays does."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from mediator import OutboxRelay
from mediator.errors import EventRefusedError, StreamUnavailableError
from mediator.nats import NatsEventPublisher
from mediator.nats.publisher.publisher import SizeLimits
from mediator.testing import InMemoryDatabase, InMemoryOutbox
from mediator.testing.memory.parking import parked_in
from tests.adapters.nats.publisher.test_batches import change_stream, stored
from tests.adapters.nats.publisher.test_publisher_in_time import Broker
from tests.adapters.nats.publisher.test_publisher_in_time import event as small
from tests.unit.virtual_time import in_virtual_time

SIZES = st.integers(1, 1024**2)


async def relay_until(database: InMemoryDatabase, publisher: NatsEventPublisher, enough) -> None:
    task = asyncio.create_task(OutboxRelay(InMemoryOutbox(database), publisher, poll_interval=0.05).run())
    try:
        async with asyncio.timeout(20):
            while not await enough():
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_a_temporarily_too_small_limit_parks_no_event(connection, raw, prefix, event) -> None:
    database, publisher = InMemoryDatabase(), NatsEventPublisher(connection, "app", prefix=prefix)
    await publisher.publish([event("first")])
    await change_stream(raw, f"{prefix}-shop", max_msg_size=2000)
    events = [event(f"{n}", data=b"x" * (3000 if n % 2 else 10)) for n in range(40)]
    database.outbox += events

    async def small_ones_are_stored() -> bool:
        return len(database.archive) == 20

    async def all_are_stored() -> bool:
        return len(database.archive) == 40

    await relay_until(database, publisher, small_ones_are_stored)
    assert (len(database.outbox), parked_in(database)) == (20, {})
    await change_stream(raw, f"{prefix}-shop", max_msg_size=-1)
    await relay_until(database, publisher, all_are_stored)
    assert parked_in(database) == {}
    assert sorted(await stored(raw, f"{prefix}-shop")) == sorted(["first", *(each.id for each in events)])


async def test_a_permanent_limit_parks_events_that_exceed_it(connection, raw, prefix, event) -> None:
    database, publisher = InMemoryDatabase(), NatsEventPublisher(connection, "app", prefix=prefix, size_grace=0.3)
    await publisher.publish([event("first")])
    await change_stream(raw, f"{prefix}-shop", max_msg_size=2000)
    database.outbox += [event("large", data=b"x" * 3000), event("small")]

    async def is_parked() -> bool:
        return bool(parked_in(database)) and len(database.archive) == 1

    await relay_until(database, publisher, is_parked)
    assert [each.event_id for each in parked_in(database).values()] == ["large"]
    [later] = await publisher.publish([event("later", data=b"x" * 3000)])
    assert isinstance(later.error, EventRefusedError)  # the limit is known by now


async def test_an_event_larger_than_the_default_limit_of_every_server_is_refused_at_once(
    connection, prefix, event
) -> None:
    publisher = NatsEventPublisher(connection, "app", prefix=prefix)
    [large, fine] = await publisher.publish([event("1", data=b"x" * 1024**2), event("2")])
    assert isinstance(large.error, EventRefusedError)
    assert fine.error is None


@in_virtual_time
async def test_a_temporarily_too_small_server_limit_refuses_no_event() -> None:
    broker = Broker()
    publisher = NatsEventPublisher(broker.connection, "app")  # type: ignore[arg-type]
    broker.connection.current.max_payload = 20
    [waits] = await publisher.publish([small("1")])
    assert isinstance(waits.error, StreamUnavailableError)
    assert "takes at most 20" in waits.error.reason
    broker.connection.current.max_payload = 1_000_000
    [result] = await publisher.publish([small("1")])
    assert (result.error, broker.stored) == (None, ["1"])


@given(st.lists(st.tuples(st.integers(-1, 2000), st.floats(0.0, 100.0)), min_size=1, max_size=20), SIZES)
def test_a_limit_is_trusted_after_it_has_not_changed_for_the_grace_period(
    looks: list[tuple[int, float]], size: int
) -> None:
    now = 0.0
    limits = SizeLimits(60.0, lambda: now)
    since, before = 0.0, None
    for limit, pause in looks:
        limits.note("shop", limit)
        if limit != before:
            since, before = now, limit
        now += pause
        assert limits.forbid("shop", size) == (0 <= limit < size and now - since >= 60.0)
    assert not limits.forbid("bank", size)
    assert limits.forbid("bank", 1024**2 + 1)
