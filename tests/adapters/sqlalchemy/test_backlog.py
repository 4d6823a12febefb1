"""The size of the outbox: counted rarely when counting takes long, at once when it matters; the limit always holds."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import await_only

from mediator.errors import OutboxFullError
from mediator.sqlalchemy import create_schema, open_engine
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.staging import Backlog, backlog_of
from tests.adapters.sqlalchemy.ledger import Ledger
from tests.adapters.sqlalchemy.test_staging import Moved, add

ROWS = (
    "INSERT INTO mediator_outbox (id, type, time, bucket, content_type, extensions, data, deliver_at) VALUES "
    "('{0}', 'stock.moved.v1', '2026-01-01T00:00:00+00:00', 1, 'a/b', '{{}}', '', {1})"
)


class Outbox:
    """A real outbox with a clock that each count moves by its duration. It records the number of counts."""

    def __init__(self, engine: AsyncEngine, connection: AsyncConnection) -> None:
        self.now = 0.0
        self.counting_takes = 0.0
        self.counts: list[tuple[float, Any]] = []
        self.meanwhile: list[Callable[[], Awaitable[None]]] = []
        self.backlog = Backlog("test", clock=lambda: self.now)
        self.connection = connection
        event.listen(engine.sync_engine, "before_cursor_execute", self._executed)

    def _executed(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "count(*)" in statement:
            self.counts.append((self.now, parameters))
            self.now += self.counting_takes
            if self.meanwhile:
                await_only(self.meanwhile.pop()())

    async def admit(self, adding: int = 1, limit: int = 10, connection: AsyncConnection | None = None) -> bool:
        try:
            await self.backlog.admit(connection or self.connection, adding, limit)
        except OutboxFullError:
            return False
        return True

    async def have(self, waiting: int, delayed: int = 0) -> None:
        await self.connection.execute(text("DELETE FROM mediator_outbox"))
        for number in range(waiting + delayed):
            at = "NULL" if number < waiting else "9e9"
            await self.connection.execute(text(ROWS.format(number, at)))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    async with open_engine(f"sqlite:///{tmp_path / 'app.db'}") as engine:
        await create_schema(engine)
        yield engine


@pytest.fixture
async def outbox(engine: AsyncEngine) -> AsyncIterator[Outbox]:
    async with engine.begin() as connection:
        yield Outbox(engine, connection)


async def test_events_of_this_process_count_at_once_and_events_of_others_after_a_second(outbox: Outbox) -> None:
    outbox.counting_takes = 0.01
    assert [await outbox.admit() for _ in range(11)] == [True] * 10 + [False]
    await outbox.have(9)
    outbox.now += 1.0
    assert [await outbox.admit(), await outbox.admit()] == [True, False]
    await outbox.have(0)
    outbox.now += 0.9
    assert await outbox.admit(10)  # because the outbox seemed to be full


async def test_at_most_the_limit_of_events_may_wait_and_delayed_ones_do_not_count(outbox: Outbox) -> None:
    await outbox.have(7, delayed=50)
    assert not await outbox.admit(4)
    assert await outbox.admit(3)
    assert await outbox.admit(0)  # a command without events is never refused
    await outbox.have(30)
    outbox.now += 60
    assert not await outbox.admit(1)
    assert await outbox.admit(0)


async def test_a_count_reads_at_most_one_row_more_than_the_limit(outbox: Outbox) -> None:
    await outbox.have(60)
    with pytest.raises(OutboxFullError) as caught:
        await outbox.backlog.admit(outbox.connection, 1, 10)
    assert caught.value.pending == 11
    outbox.now += 60
    assert await outbox.admit(1, limit=61)
    assert not await outbox.admit(1, limit=60)


@pytest.mark.parametrize(("takes", "pause"), [(0.0, 1.0), (0.01, 1.0), (0.5, 10.0), (3.0, 60.0)])
async def test_counting_takes_a_twentieth_of_the_time_at_most(outbox: Outbox, takes: float, pause: float) -> None:
    outbox.counting_takes = takes
    for _ in range(3):
        outbox.counts.clear()
        assert await outbox.admit(1, 10_000)
        began = outbox.now
        while len(outbox.counts) < 2:
            outbox.now += pause / 50
            assert await outbox.admit(1, 10_000)
        assert outbox.counts[1][0] - began == pytest.approx(pause, abs=pause / 40)
        outbox.now += 1000


@pytest.mark.parametrize("takes", [0.5, 3.0])
async def test_counting_takes_a_fifth_of_the_time_while_the_outbox_seems_full(outbox: Outbox, takes: float) -> None:
    outbox.counting_takes = takes
    await outbox.have(10)
    for _ in range(2):
        outbox.counts.clear()
        outbox.now += 1000
        assert not await outbox.admit()
        began = outbox.now
        while len(outbox.counts) < 2:
            outbox.now += takes / 10
            await outbox.admit()
        assert outbox.counts[1][0] - began == pytest.approx(takes / 0.2, abs=takes / 5)


async def test_quick_counts_run_every_second_again_after_a_slow_one(outbox: Outbox) -> None:
    for _ in range(2):
        outbox.counting_takes = 10.0
        outbox.now += 1000.0
        await outbox.admit(0)
        outbox.counting_takes = 0.01
        outbox.now += 200.0
        await outbox.admit(0)
        before = len(outbox.counts)
        for _ in range(5):
            outbox.now += 1.0
            await outbox.admit(0)
        assert len(outbox.counts) == before + 5


async def test_commands_use_the_last_count_while_another_command_counts(outbox: Outbox, engine: AsyncEngine) -> None:
    """This holds for a count of any duration and for any number of commands during the count."""
    outbox.counting_takes = 3.0

    async def others() -> None:
        async with engine.connect() as connection:
            for _ in range(20):
                outbox.now += 0.1
                assert await outbox.admit(1, 10_000, connection)

    for _ in range(3):
        assert await outbox.admit(1, 10_000)
        outbox.now += 1000
        outbox.counts.clear()
        outbox.meanwhile = [others]
        assert await outbox.admit(1, 10_000)
        assert len(outbox.counts) == 1


async def test_a_command_during_the_first_count_makes_its_own_count(outbox: Outbox, engine: AsyncEngine) -> None:
    outbox.counting_takes = 3.0

    async def others() -> None:
        async with engine.connect() as connection:
            assert await outbox.admit(1, 10, connection)

    outbox.meanwhile = [others]
    assert await outbox.admit()
    assert len(outbox.counts) == 2


async def test_events_that_this_process_adds_during_a_count_are_not_forgotten(
    outbox: Outbox, engine: AsyncEngine
) -> None:
    """Their transactions have not ended: the count cannot see it."""
    outbox.counting_takes = 0.5
    assert await outbox.admit(0)

    async def others() -> None:
        async with engine.connect() as connection:
            assert await outbox.admit(9, 10, connection)

    outbox.now += 1000
    outbox.meanwhile = [others]
    assert await outbox.admit(0)
    assert [await outbox.admit(), await outbox.admit()] == [True, False]
    assert len(outbox.counts) == 2
    outbox.now += 1000  # the next count includes the outcome
    assert await outbox.admit(10)


async def test_a_failed_count_is_repeated_and_changes_no_known_number(outbox: Outbox) -> None:
    async def fail() -> None:
        raise LookupError

    for known in (0, 10):
        await outbox.have(known)
        outbox.now += 1000
        outbox.meanwhile = [fail]
        with pytest.raises(LookupError):
            await outbox.admit()
        outbox.now += 1.0
        assert await outbox.admit(10 - known)


async def test_all_units_of_work_of_a_database_share_one_backlog(engine: AsyncEngine, tmp_path: Path) -> None:
    database = database_of(engine)
    assert backlog_of(database) is backlog_of(database)
    async with open_engine(f"sqlite:///{tmp_path / 'other.db'}") as other:
        assert backlog_of(database_of(other)) is not backlog_of(database)
    ledger = Ledger(engine, uow_options={"max_pending": 2})
    await add(ledger, Moved("k", 1))
    await add(ledger, Moved("k", 2))
    with pytest.raises(OutboxFullError):
        await add(ledger, Moved("k", 3))
