"""Events whose process died are handled alone: the event that killed the process is parked, and other events are not."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mediator import EventConsumer
from mediator.distributed.inbox import LastStart, ParkedReplay
from mediator.distributed.inbox.shared_lock import Guard, shared_lock_here
from mediator.distributed.parking import ParkedFilter
from mediator.errors import DatabaseUnavailableError
from mediator.testing import InMemoryEventSubscription
from tests.unit.distributed.inbox.application import TYPE, Application, OrderPlaced, failing, hanging
from tests.unit.virtual_time import settle

BESIDE: dict[str, Any] = {"retry_delays": (0.0,) * 2, "drain_timeout": 0.0, "concurrency": 4}


class MortalApplication(Application):
    """An application whose process dies when it handles a deadly order. The death writes nothing to the database."""

    def __init__(self, deadly: Sequence[int], **options: Any) -> None:
        super().__init__({**BESIDE, **options})
        self.died = asyncio.Event()
        self.inbox.take_back = _nothing  # type: ignore[method-assign]  # a process that dies takes no start back
        self.acts = dict.fromkeys(deadly, self._kill)

    async def _kill(self, _event: OrderPlaced) -> None:
        self.died.set()
        await hanging(_event)

    async def run_process(self, settled: int) -> bool:
        """Run a process, and return whether it survived until the given number of events were settled."""
        self.died.clear()
        async with self.running(self.consuming()), asyncio.timeout(10):
            ends = [asyncio.create_task(self.died.wait()), asyncio.create_task(self.settled(settled))]
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            return ends[1] in done and not self.died.is_set()

    async def run_processes(self, settled: int) -> int:
        """Start processes until all events are settled, and return the number of processes that died."""
        for deaths in itertools.count():
            if await self.run_process(settled):
                return deaths
        raise AssertionError


async def _nothing(*_: object) -> None:
    pass


async def _slow(event: OrderPlaced) -> None:
    """A handler that still runs when another one ends the process."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
@pytest.mark.parametrize("deadly", [(1,), (1, 2)])
async def test_only_the_killers_are_parked_in_any_order_of_events(order: tuple[int, ...], deadly: tuple[int, ...]):
    application = MortalApplication(deadly)
    innocent = [number for number in order if number not in deadly]
    application.acts |= dict.fromkeys(innocent, _slow)
    application.publish(*order)
    deaths = await application.run_processes(3)
    assert sorted(application.parked()) == [(f"e{number}", "process-died", 3) for number in deadly]
    assert sorted(application.effects) == sorted(innocent)
    assert deaths <= 3 * len(deadly)
    assert application.database.starts == {}


async def test_an_event_whose_last_start_died_with_a_killer_is_started_once_more():
    application = MortalApplication((), retry_delays=(0.0,))
    application.acts[1] = failing(ValueError(), times=1)
    together = asyncio.Barrier(2)

    async def beside(event: OrderPlaced) -> None:
        await together.wait()
        await (application._kill if event.number == 2 else hanging)(event)

    application.publish(1)
    async with application.running(application.consuming()), asyncio.timeout(5):
        await application.started.get()
        application.acts = {1: beside, 2: beside}
        application.publish(2)
        await application.died.wait()
    application.acts = {2: application._kill}
    await application.run_processes(2)
    assert application.parked() == [("e2", "process-died", 2)]
    assert application.effects == [1]
    assert [attempt for number, attempt in application.attempts if number == 1] == [1, 2, 3]


async def test_a_suspect_waits_uncounted_for_running_handlers_and_other_events_wait_for_the_suspect():
    application, go, held = Application(BESIDE), asyncio.Event(), asyncio.Event()
    application.acts = {1: lambda _event: _until(held), 2: lambda _event: _until(go)}
    async with suspect_behind(application, application.consuming()):
        application.publish(3)
        await settle()
        assert (application.starts, application.database.starts) == ({2: 1}, {})
        go.set()
        assert await application.started.get() == 1
        await settle()
        assert application.starts == {2: 1, 1: 1}
        held.set()
        await application.settled(3)
    assert application.effects == [2, 1, 3]
    assert application.attempts == [(2, 1), (1, 2), (3, 1)]


async def test_a_waiting_suspect_sends_heartbeats_and_is_not_delivered_to_another_process():
    application, go = Application(BESIDE, ack_wait=0.2), asyncio.Event()
    application.acts = {2: lambda _event: _until(go)}
    async with suspect_behind(application, application.consuming()):
        await asyncio.sleep(0.5)  # longer than the ack wait of the broker
        go.set()
        await application.settled(2)
    assert application.attempts == [(2, 1), (1, 2)]


@asynccontextmanager
async def suspect_behind(application: Application, consumer: EventConsumer) -> AsyncIterator[asyncio.Task[None]]:
    """Start event 2 while event 1 waits; event 1 was delivered earlier and handed back."""
    before = InMemoryEventSubscription(application.broker, "warehouse")
    async with asyncio.timeout(10), before.open([TYPE], prefetch=1) as deliveries:
        application.publish(1)
        suspect = await deliveries.next()
        application.publish(2)
        task = asyncio.create_task(consumer.run())
        assert await application.started.get() == 2
        await suspect.nak(0)
        await settle()
        yield task
        task.cancel()
        await asyncio.wait({task})


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def test_a_failed_event_is_retried_concurrently_with_others():
    application = Application(BESIDE)
    application.acts = {1: hanging, 2: failing(ValueError(), times=2)}
    application.publish(1, 2, 3)
    async with application.running():
        await application.settled(2)  # while the first event runs
        assert application.effects in ([2, 3], [3, 2])
        assert application.starts == {1: 1, 2: 3, 3: 1}


async def test_an_event_interrupted_by_a_stop_is_no_suspect():
    application = Application(BESIDE)
    application.acts = {1: hanging, 2: hanging}
    application.publish(1, 2)
    async with application.running(), asyncio.timeout(5):
        assert {await application.started.get(), await application.started.get()} == {1, 2}
    async with application.running(application.consuming()), asyncio.timeout(5):
        assert {await application.started.get(), await application.started.get()} == {1, 2}


async def test_a_stopped_consumer_hands_a_waiting_suspect_back_at_once_and_uncounted():
    application, go = Application(BESIDE), asyncio.Event()
    application.acts = {2: lambda _event: _until(go)}
    outstanding = application.broker.group("warehouse", [TYPE]).outstanding
    async with suspect_behind(application, application.consuming(drain_timeout=5.0)) as task:
        task.cancel()
        await settle()
        assert sum(outstanding.values()) == 1  # the other consumer ends normally
        go.set()
        await asyncio.wait({task})
    assert (application.effects, application.database.starts) == ([2], {})
    async with application.running(application.consuming()):
        await application.settled(2)
    assert application.attempts[-1] == (1, 2)


async def test_a_cancelled_consumer_leaves_the_other_consumers_of_its_process_running():
    application = Application({**BESIDE, "drain_timeout": 0.0})
    application.acts = {2: hanging}
    async with suspect_behind(application, application.consuming()) as task:
        task.cancel()
        await asyncio.wait({task})
    application.acts = {}
    async with application.running(application.consuming()):
        await application.settled(2)
    assert sorted(application.effects) == [1, 2]


async def test_no_consumer_of_a_process_runs_a_handler_while_a_suspect_runs():
    application = MortalApplication([1])
    application.publish(1)
    assert not await application.run_process(1)
    held = asyncio.Event()
    application.acts = {1: lambda _event: _until(held)}
    async with application.running(application.consuming()), asyncio.timeout(5):
        while application.starts[1] < 2:
            await application.started.get()
        async with application.running(application.consuming()):
            application.publish(2)
            await settle()
            assert application.starts[2] == 0
            held.set()
            await application.settled(2)


async def test_an_event_that_killed_its_process_is_replayed_alone():
    application = MortalApplication([1])
    application.publish(1)
    await application.run_processes(1)
    held = asyncio.Event()
    application.acts = {1: lambda _event: _until(held)}
    async with application.running(application.consuming()), asyncio.timeout(5), asyncio.TaskGroup() as group:
        replay = ParkedReplay(application.parking, [application.consumer])
        group.create_task(_drained(replay))
        while application.starts[1] < 4:
            await application.started.get()
        application.publish(2)
        await settle()
        assert application.starts[2] == 0
        held.set()
        await application.settled(2)
    assert application.effects == [1, 2]


async def _drained(replay: ParkedReplay) -> None:
    async for _ in replay.run(ParkedFilter()):
        pass


async def test_the_suspect_with_the_fewest_starts_is_handled_first():
    application, go = Application(BESIDE), asyncio.Event()
    application.acts = dict.fromkeys((1, 2, 3), hanging)
    take_back, application.inbox.take_back = application.inbox.take_back, _nothing  # type: ignore[method-assign]
    application.publish(1, 2, 3)
    async with application.running(application.consuming()):
        await settle()
    application.inbox.take_back = take_back  # type: ignore[method-assign]
    for number, starts in ((1, 9), (2, 5), (3, 2)):
        application.database.starts["warehouse", "shop", f"e{number}"] = (starts, LastStart.BESIDE)
    application.acts = {4: lambda _event: _until(go)}
    application.attempts.clear()
    application.publish(4)
    with Guard(shared_lock_here(), asyncio.Event()) as guard:
        await guard.shared()
        async with application.running(application.consuming(retry_delays=(0.0,) * 99)):
            await settle()
            assert application.attempts == []
            guard._release()
            go.set()
            await application.settled(4)
    first, *others = (number for number, _ in application.attempts if number < 4)
    assert (first, others) == (
        1,
        [3, 2],
    )  # the first event requested the lock before the starts of the other events were known


async def test_an_event_that_still_waits_when_the_consumer_stops_is_not_started():
    application = Application(BESIDE)
    application.publish(1)
    with Guard(shared_lock_here(), asyncio.Event()) as guard:
        await guard.exclusive(1)
        async with application.running(application.consuming(drain_timeout=60.0)):
            await settle()
    assert application.starts == {}
    assert application.database.starts.get(("warehouse", "shop", "e1"), (0, LastStart.ENDED)) == (0, LastStart.ENDED)


async def test_a_killer_due_to_be_parked_when_the_consumer_stopped_is_not_started_again():
    application = MortalApplication((1,))
    application.publish(1)
    for _ in range(3):
        assert not await application.run_process(1)
    del application.inbox.take_back  # type: ignore[attr-defined]
    park, reached = application.parking.park, asyncio.Event()

    async def hang(*_: object, **__: object) -> bool:
        reached.set()
        await asyncio.Event().wait()
        return False

    application.parking.park = hang  # type: ignore[method-assign]
    async with application.running(application.consuming()), asyncio.timeout(10):
        await reached.wait()
    application.parking.park = park  # type: ignore[method-assign]
    await application.run_process(1)
    assert application.parked() == [("e1", "process-died", 3)]
    assert application.starts[1] == 3


async def test_an_outage_that_hides_the_count_of_the_last_allowed_start_parks_no_event():
    application = MortalApplication([1], retry_delays=(0.0,))
    application.publish(1)
    assert not await application.run_process(1)
    application.acts = {}
    start = application.inbox.start

    async def losing_an_answer(*arguments: Any, **options: Any) -> Any:
        counted = await start(*arguments, **options)
        if not counted.suspect:
            application.inbox.start = start  # type: ignore[method-assign]
            raise DatabaseUnavailableError("memory", "the answer is lost")
        return counted

    application.inbox.start = losing_an_answer  # type: ignore[method-assign]
    assert await application.run_process(1)
    assert (application.effects, application.parked()) == ([1], [])
    assert application.attempts == [(1, 1), (1, 2)]
