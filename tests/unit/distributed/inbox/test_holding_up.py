"""Events that hang, kill processes or wait for a database delay other types, groups and databases for seconds only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mediator.distributed.inbox.processing import ALONE_SECONDS
from mediator.distributed.inbox.shared_lock import PATIENCE
from mediator.testing import InMemoryEventSubscription
from tests.unit.distributed.inbox.application import TYPE, Application, hanging
from tests.unit.virtual_time import in_virtual_time, now

BESIDE: dict[str, Any] = {"concurrency": 4, "retry_delays": (0.0,) * 2, "drain_timeout": 0.0}


async def deliver_to_a_dying_process(application: Application, number: int) -> None:
    """Deliver an event that is never settled, as if its process had died."""
    before = InMemoryEventSubscription(application.broker, "warehouse")
    async with before.open([TYPE], prefetch=1) as deliveries:
        application.publish(number)
        await (await deliveries.next()).nak(0)


@asynccontextmanager
async def running(*applications: Application) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each.consuming().run()) for each in applications]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def until_handled(application: Application, number: int) -> float:
    """Return the seconds until an event has taken effect."""
    began = now()
    while number not in application.effects:
        await asyncio.sleep(0.01)
    return now() - began


@in_virtual_time
async def test_a_suspect_that_waits_for_a_hanging_handler_delays_other_groups_for_seconds_at_a_time() -> None:
    hangs, other = Application({**BESIDE, "handler_timeout": 3600.0}), Application(BESIDE)
    await deliver_to_a_dying_process(hangs, 1)
    hangs.acts = {2: hanging}
    async with running(other), running(hangs):  # started before the other consumer, so that the suspect follows event 2
        hangs.publish(2)
        await asyncio.sleep(1)
        for number in range(10, 20):
            other.publish(number)
            assert await until_handled(other, number) <= PATIENCE + ALONE_SECONDS + 0.1
        hangs.publish(3)
        assert await until_handled(hangs, 3) <= PATIENCE + ALONE_SECONDS + 0.1


@in_virtual_time
async def test_other_events_join_a_hanging_suspect_after_seconds_except_in_its_last_start() -> None:
    hangs, other = Application({**BESIDE, "handler_timeout": 100.0}), Application(BESIDE)
    await deliver_to_a_dying_process(hangs, 1)
    hangs.acts = {1: hanging}
    async with running(hangs, other):
        await asyncio.sleep(1)
        assert hangs.starts == {1: 1}
        for number in range(10, 13):
            other.publish(number)
            assert await until_handled(other, number) <= ALONE_SECONDS + 0.1
        assert now() < 15
        while not hangs.parking.events:  # the event failed and is no longer a suspect
            await asyncio.sleep(1)
    assert hangs.parked() == [("e1", "handler-failed", 3)]


@pytest.mark.parametrize(("takes", "fails", "waited"), [(3.0, False, ALONE_SECONDS + 3), (0.0, True, 100.0)])
@in_virtual_time
async def test_other_events_join_a_suspect_only_after_its_shared_start_is_recorded(
    takes: float, fails: bool, waited: float
) -> None:
    hangs, other = Application({**BESIDE, "handler_timeout": 100.0}), Application(BESIDE)
    end = hangs.inbox.end

    async def slow(*row: Any) -> None:
        await asyncio.sleep(takes)
        if fails:
            raise OSError("the disk is full")
        await end(*row)

    hangs.inbox.end = slow  # type: ignore[method-assign]
    await deliver_to_a_dying_process(hangs, 1)
    hangs.acts = {1: hanging}
    async with running(hangs, other):
        await asyncio.sleep(1)
        other.publish(10)
        assert waited - 1.1 <= await until_handled(other, 10) <= waited - 0.9


@in_virtual_time
async def test_nothing_is_recorded_for_a_suspect_that_has_taken_effect() -> None:
    application, written = Application(BESIDE), list[Any]()

    async def end(*row: Any) -> None:
        written.append(row)

    application.inbox.end = end  # type: ignore[method-assign]
    await deliver_to_a_dying_process(application, 1)
    async with running(application):
        await until_handled(application, 1)
        await asyncio.sleep(0)
        tasks = asyncio.all_tasks()
        await asyncio.sleep(2 * ALONE_SECONDS)
        assert asyncio.all_tasks() == tasks
    assert written == []


@in_virtual_time
async def test_a_suspect_runs_its_last_start_alone_so_that_a_slow_killer_is_parked() -> None:
    application = Application({**BESIDE, "handler_timeout": 100.0})
    application.inbox.take_back = _nothing  # type: ignore[method-assign]  # each process is killed
    await deliver_to_a_dying_process(application, 1)
    application.acts = {1: hanging}
    for starts in (1, 2, 3):  # starts: alone and then joined, shared, and alone to the end
        async with running(application):
            await asyncio.sleep(ALONE_SECONDS + 30)
        assert application.starts == {1: starts}
    async with running(application):
        await asyncio.sleep(1)
    assert application.parked() == [("e1", "process-died", 4)]


@in_virtual_time
async def test_only_the_start_before_parking_is_the_last_start_of_a_suspect() -> None:
    for limit in (2, 3):
        application = Application({**BESIDE, "handler_timeout": 100.0, "retry_delays": (0.0,) * (limit - 1)})
        application.inbox.take_back = _nothing  # type: ignore[method-assign]  # each process is killed
        await deliver_to_a_dying_process(application, 1)
        application.acts = {1: hanging}
        for _ in range(2, limit):  # each process is killed while the suspect runs alone
            async with running(application):
                await asyncio.sleep(ALONE_SECONDS / 2)
        async with running(application):
            await asyncio.sleep(ALONE_SECONDS + 30)
        async with running(application):
            await asyncio.sleep(1)
        assert application.parked() == [("e1", "process-died", limit)]
        assert application.starts == {1: limit - 1}  # the first start was in the process that died earlier


async def _nothing(*_: object) -> None:
    pass


@in_virtual_time
async def test_the_outage_of_one_database_delays_no_consumer_of_another_although_there_are_suspects() -> None:
    away, other = Application(BESIDE), Application(BESIDE)
    for application in (away, other):
        await deliver_to_a_dying_process(application, 1)
    gone = asyncio.Event()

    async def loses_its_database(_event: object) -> None:
        away.database.available = False
        gone.set()

    away.acts = {1: loses_its_database}
    async with running(away):
        await gone.wait()
        async with running(other):
            for number in (1, 10, 11):
                other.publish(*({number} - {1}))
                assert await until_handled(other, number) <= 1
            away.database.available = True
            away.acts = {}
            await until_handled(away, 1)
    assert away.parked() == other.parked() == []


@in_virtual_time
async def test_an_event_waits_again_after_an_outage_while_a_suspect_runs_alone() -> None:
    away, other = Application(BESIDE), Application({**BESIDE, "handler_timeout": 100.0})
    await deliver_to_a_dying_process(other, 1)
    other.acts = {1: hanging}

    async def loses_its_database(_event: object) -> None:
        away.database.available = False

    away.acts = {2: loses_its_database}
    away.publish(2)
    async with running(away):
        await away.started.get()
        async with running(other):
            await other.started.get()
            began = now()
            away.acts, away.database.available = {}, True
            await until_handled(away, 2)
            assert ALONE_SECONDS - 0.1 <= now() - began <= ALONE_SECONDS + 0.1


@in_virtual_time
async def test_an_event_that_waits_for_a_worker_stays_outstanding_until_the_consumer_stops() -> None:
    application = Application({"drain_timeout": 25.0}, ack_wait=3.0)
    application.acts = {1: hanging}
    outstanding = application.broker.group("warehouse", [TYPE]).outstanding
    application.publish(1, 2, 3)
    consuming = asyncio.create_task(application.consuming().run())
    await asyncio.sleep(10)
    assert (application.starts, sum(outstanding.values())) == ({1: 1}, 3)
    consuming.cancel()
    await asyncio.sleep(0.01)
    assert sum(outstanding.values()) == 1
    await asyncio.wait({consuming})
    assert now() <= 35.1


@in_virtual_time
async def test_events_of_unknown_types_share_one_line_and_take_no_reserved_place() -> None:
    application = Application({"concurrency": 3, "unknown_type_grace": 0.0, "drain_timeout": 0.0})
    application.now += 60.0

    parked: list[object] = []

    async def hangs(event: object, **_: object) -> bool:
        parked.append(event)
        await asyncio.sleep(3600)
        return False

    application.parking.park = hangs  # type: ignore[method-assign]
    for number in range(1, 10):
        application.publish(number, version=10 + number)
    async with running(application):
        await asyncio.sleep(1)
        assert len(parked) == 2
        for number in (20, 21):
            application.publish(number)
            assert await until_handled(application, number) <= 0.1
