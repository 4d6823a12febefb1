"""Every bucket gets its turn: with other relays, with many of them, and after delayed events."""

import asyncio
import itertools
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.cloudevents import BUCKETS, CloudEvent
from mediator.distributed.unit_of_work import StagedEvent
from mediator.errors import ClaimLostError
from mediator.sqlalchemy import create_schema, open_engine
from mediator.sqlalchemy.claims import BucketClaims, DatabaseClock
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.staging import lock_numbers
from tests.unit.distributed.outbox.test_outages import event as an_event

ROW = (
    "INSERT INTO mediator_outbox (id, type, time, bucket, content_type, extensions, data, deliver_at) SELECT "
    "'{0}' || b || '-' || n, 'stock.moved.v1', '2026-01-01T00:00:00+00:00', b, 'a/b', '{{}}', ''::bytea, {1} "
    "FROM generate_series(1, {2}) n, generate_series(0, 63) b ORDER BY n, b"
)


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(postgres_url, pool_size=20) as engine:
        await create_schema(engine)
        yield engine


class Relay:
    """A relay that claims on a clock that the test moves."""

    def __init__(self, engine: AsyncEngine, *, frozen_seconds: float = 10.0) -> None:
        self.now = 0.0
        self.claims = BucketClaims(
            database_of(engine),
            DatabaseClock("postgresql", None),
            archives=True,
            frozen_seconds=frozen_seconds,
            monotonic=lambda: self.now,
        )

    async def look(self, limit: int = 100_000) -> tuple[set[int], float | None]:
        """Return the buckets of the events of a claim, which are left unpublished, and when to claim again."""
        async with self.claims.claim(limit, ()) as batch:
            return buckets_of(batch.events), batch.look_again


def buckets_of(events: object) -> set[int]:
    return {int(each.id[1:].partition("-")[0]) for each in events}  # type: ignore[attr-defined]


async def fill(engine: AsyncEngine, each: int = 1, *, letter: str = "e", deliver_at: str = "NULL") -> None:
    """Add that many events to each bucket."""
    async with engine.begin() as connection:
        await connection.execute(text(ROW.format(letter, deliver_at, each)))


@asynccontextmanager
async def locked(engine: AsyncEngine, *buckets: int) -> AsyncIterator[None]:
    """Lock some buckets, as another relay does."""
    async with engine.begin() as connection:
        wanted = ", ".join(map(str, buckets))
        await connection.execute(text(f"SELECT 1 FROM mediator_relay_buckets WHERE bucket IN ({wanted}) FOR UPDATE"))
        yield


async def test_every_bucket_of_an_endless_backlog_is_claimed_within_four_claims_despite_other_relays(
    engine: AsyncEngine,
) -> None:
    await fill(engine, 3)
    relay = Relay(engine)
    for _ in range(2):  # the second time like the first
        async with locked(engine, 5):
            assert (await relay.look())[0] == set(range(BUCKETS)) - {5}
        for _ in range(3):
            turns = [await relay.look() for _ in range(4)]
            assert [len(buckets) for buckets, _ in turns] == [16] * 4
            assert set().union(*(buckets for buckets, _ in turns)) == set(range(BUCKETS))
            assert {look_again for _, look_again in turns} == {0.0}
        relay.now += 4.9
        assert len((await relay.look())[0]) == 16
        relay.now += 0.2  # no other relay was met for five seconds
        assert await relay.look() == (set(range(BUCKETS)), None)


async def test_two_relays_that_claim_in_turn_share_no_bucket_and_skip_none(engine: AsyncEngine) -> None:
    await fill(engine, 2)
    one, other = Relay(engine), Relay(engine)
    for relay in (one, other):
        async with locked(engine, 0):
            await relay.look()
    seen: set[int] = set()
    for _ in range(8):
        async with AsyncExitStack() as stack:
            batches = [await stack.enter_async_context(each.claims.claim(1000, ())) for each in (one, other)]
            found = [buckets_of(batch.events) for batch in batches]
            assert not found[0] & found[1]
            seen |= found[0] | found[1]
    assert seen == set(range(BUCKETS))


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_relay_without_free_buckets_waits_about_a_second_for_a_different_bucket_each_time(
    engine: AsyncEngine,
) -> None:
    relay, loop = Relay(engine), asyncio.get_running_loop()
    await fill(engine)
    async with locked(engine, *range(BUCKETS)):
        began = loop.time()
        assert await relay.look() == (set(), 0.05)
        assert 0.9 < loop.time() - began < 5
    taken: list[set[int]] = []
    for _ in range(4):
        async with AsyncExitStack() as others:
            await others.enter_async_context(locked(engine, *range(BUCKETS)))
            looking = asyncio.create_task(relay.look())
            await _until_somebody_waits(engine)
            await others.aclose()
            taken.append((await looking)[0])
    assert all(len(each) == 1 for each in taken)
    assert len(set().union(*taken)) == 4


async def _until_somebody_waits(engine: AsyncEngine) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    while True:
        async with engine.connect() as connection:
            if (await connection.execute(waiting)).scalar_one():
                return
        await asyncio.sleep(0.01)


async def test_a_relay_with_an_empty_share_looks_at_all_other_buckets(engine: AsyncEngine) -> None:
    relay = Relay(engine)
    async with locked(engine, 7):
        assert (await relay.look())[1] == 0.05
    async with engine.begin() as connection:
        await connection.execute(text(ROW.format("e", "NULL", 1)))
        await connection.execute(text("DELETE FROM mediator_outbox WHERE bucket <> 63"))
    for _ in range(4):
        assert await relay.look() == ({63}, None)
        async with locked(engine, 7):
            assert await relay.look() == ({63}, 0.0)
    for _ in range(3):  # locks met in the other buckets still count as other relays
        relay.now += 4.0
        async with locked(engine, 7):
            await relay.look()
    await fill(engine, letter="f")
    relay.now += 4.0
    assert len((await relay.look())[0]) == 16


async def test_the_next_look_depends_on_the_remaining_events_and_on_the_buckets_of_others(engine: AsyncEngine) -> None:
    relay = Relay(engine)
    await fill(engine, 2)
    assert (await relay.look(128))[1] == 0.0
    assert (await relay.look(127))[1] == 0.0
    assert (await relay.look(129))[1] is None
    async with locked(engine, 3):
        assert (await relay.look())[1] == 0.0


@pytest.mark.parametrize("deliver_at", ["NULL", "1"])
async def test_a_frozen_relay_loses_its_claim_even_if_it_has_made_delayed_events_ready(
    engine: AsyncEngine, deliver_at: str
) -> None:
    relay = Relay(engine, frozen_seconds=0.4)
    await fill(engine, deliver_at=deliver_at)
    with pytest.raises(ClaimLostError):
        async with relay.claims.claim(100, ()) as batch:
            assert len(batch.events) == BUCKETS
            async with asyncio.timeout(10):
                await _until_nobody_is_idle(engine)
            await batch.settle([batch.events[0].id])


async def _until_nobody_is_idle(engine: AsyncEngine) -> None:
    idle = text(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
    )
    while True:
        async with engine.connect() as connection:
            if not (await connection.execute(idle)).scalar_one():
                return
        await asyncio.sleep(0.02)


async def test_delayed_events_become_ready_in_a_transaction_that_ends_before_anything_is_published(
    engine: AsyncEngine,
) -> None:
    """A command that cancels an event does not wait for the broker, and an error undoes only the claim."""
    await fill(engine, 20, deliver_at="1")
    relay = Relay(engine)
    with pytest.raises(LookupError):
        async with relay.claims.claim(10, ()) as batch:
            assert len(batch.events) == 10
            raise LookupError
    ready = text("SELECT count(*) FROM mediator_outbox WHERE deliver_at IS NULL")
    async with engine.connect() as connection:
        assert (await connection.execute(ready)).scalar_one() == 1000  # the oldest, and no more in one transaction
    assert (await relay.look(2000))[1] is None
    async with engine.connect() as connection:
        assert (await connection.execute(ready)).scalar_one() == 1280


# The locks of keys.


def staged(*keys: str | None) -> list[StagedEvent]:
    return [
        StagedEvent(CloudEvent(f"{n}", "a.b.v1", an_event("x").time, b"", partitionkey=k)) for n, k in enumerate(keys)
    ]


@given(st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=40))
def test_the_locks_of_keys_are_unique_and_sorted_for_any_order_of_keys(keys: list[str | None]) -> None:
    numbers = lock_numbers(staged(*keys))
    assert all(earlier < later for earlier, later in itertools.pairwise(numbers))
    assert numbers == lock_numbers(staged(*reversed(keys)))
    assert {*numbers} == {zlib.crc32(key.encode()) - 2**31 for key in keys if key is not None}
    assert all(-(2**31) <= number < 2**31 for number in numbers)


@pytest.mark.parametrize("count", [2, 20, 300])
def test_the_locks_of_many_keys_are_sorted(count: int) -> None:
    numbers = lock_numbers(staged(*(f"key {number}" for number in range(count))))
    assert numbers == sorted(numbers)
    assert len(numbers) == count
