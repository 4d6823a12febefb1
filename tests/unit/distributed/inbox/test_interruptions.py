"""Interrupted handlers: the consumer stops, the process dies, or the database becomes unavailable."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from mediator import DistributedEventBroker
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox.outage import is_outage
from mediator.errors import DatabaseUnavailableError, RolledBackError
from mediator.testing.failpoints import Failure, failpoint
from tests.unit.distributed.inbox.application import Application, OrderPlaced, Reserved, failing, hanging

QUICK: dict[str, Any] = {"retry_delays": (0.0,) * 2, "drain_timeout": 0.0}


async def test_eight_stops_in_the_middle_of_a_handler_cost_no_attempt():
    application = Application(QUICK)
    application.acts[1] = hanging
    application.publish(1)
    for _ in range(8):
        async with application.running(application.consuming()):
            async with asyncio.timeout(5):
                await application.started.get()
    assert application.attempts == [(1, 1)] * 8
    del application.acts[1]
    async with application.running(application.consuming()):
        await application.settled(1)
    assert (application.effects, application.parked(), application.database.starts) == ([1], [], {})


async def test_a_stop_takes_back_the_interrupted_start_and_keeps_the_failed_ones():
    application = Application(QUICK)
    application.acts[1] = failing(ValueError(), times=1)
    application.publish(1)
    async with application.running():
        async with asyncio.timeout(5):
            await application.started.get()
            application.acts[1] = hanging
            await application.started.get()
    application.acts[1] = failing(ValueError())
    async with application.running(application.consuming()):
        await application.settled(1)
    assert application.attempts == [(1, 1), (1, 2), (1, 2), (1, 3)]
    assert application.parked() == [("e1", "handler-failed", 3)]


async def test_a_start_that_was_counted_while_an_earlier_delivery_committed_is_forgotten():
    application = Application(QUICK)
    application.acts[1] = failing(ValueError(), times=1)
    application.publish(1)

    async def commit_elsewhere() -> None:
        async with application.mediator.scope(), application.unit_of_work() as unit_of_work:
            await application.inbox.insert(unit_of_work, "warehouse", "shop", "e1")

    with failpoint("consumer.after_count", commit_elsewhere):
        async with application.running():
            await application.settled(1)
    assert (application.starts, application.effects, application.database.starts) == ({1: 1}, [], {})


async def test_a_handler_that_ends_within_the_drain_timeout_takes_effect():
    application = Application({"drain_timeout": 5.0})
    go = asyncio.Event()

    async def act(_event: OrderPlaced) -> None:
        await go.wait()

    application.acts[1] = act
    application.publish(1)
    async with application.running():
        async with asyncio.timeout(5):
            await application.started.get()
        asyncio.get_running_loop().call_later(0.05, go.set)
    assert application.effects == [1]
    await application.settled(1)


async def test_an_event_is_acknowledged_although_the_consumer_stops_after_the_commit():
    application = Application(QUICK)
    application.publish(1)
    reached = asyncio.Event()

    async def wait() -> None:
        reached.set()
        await asyncio.Event().wait()

    with failpoint("consumer.after_commit", wait):
        async with application.running():
            async with asyncio.timeout(5):
                await reached.wait()
    await application.settled(1)
    assert (application.effects, application.database.starts) == ([1], {})


async def test_starts_that_ended_with_their_process_are_counted_and_park_at_the_limit(monkeypatch: pytest.MonkeyPatch):
    application = Application({**QUICK, "retry_delays": (0.0,) * 3})
    application.acts[1] = hanging
    application.publish(1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(application.inbox, "take_back", _nothing)  # a dying process takes no start back
        for _ in range(4):
            async with application.running(application.consuming()):
                async with asyncio.timeout(5):
                    while await application.started.get() != 1:
                        pass
    async with application.running(application.consuming()):
        await application.settled(2)
    assert application.parked() == [("e1", "process-died", 4)]
    assert [attempt for number, attempt in application.attempts if number == 1] == [1, 2, 3, 4]
    assert "the process ended" in application.parking.events[0].error
    assert application.effects == [2]


async def _nothing(*_: object) -> None:
    pass


async def test_a_consumer_waits_during_a_database_outage_and_logs_the_wait_once():
    application = Application(QUICK)
    application.publish(1, 2)
    application.database.available = False
    with capture_logs() as logs:
        async with application.running():
            async with asyncio.timeout(10):
                while not any(line["event"] == "consumer waits" for line in logs):
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.3)
                assert application.effects == []
                application.database.available = True
                await application.settled(2)
    events = [line["event"] for line in logs]
    assert (events.count("consumer waits"), events.count("consumer goes on")) == (1, 1)
    assert "delivery failed" not in events
    assert (application.effects, application.parked(), application.database.starts) == ([1, 2], [], {})


async def test_a_database_outage_during_a_handler_costs_no_attempt():
    application = Application({**QUICK, "retry_delays": ()})

    async def act(_event: OrderPlaced) -> None:
        application.acts.clear()
        application.database.available = False
        asyncio.get_running_loop().call_later(0.2, setattr, application.database, "available", True)
        raise RuntimeError("whatever a handler makes of a lost connection")

    application.acts[1] = act
    application.publish(1)
    async with application.running():
        await application.settled(1)
    assert (application.effects, application.attempts) == ([1], [(1, 1), (1, 1)])


async def test_parking_waits_for_a_database_outage_to_end_and_no_handler_runs_twice():
    application = Application({**QUICK, "retry_delays": ()})

    async def act(_event: OrderPlaced) -> None:
        raise LookupError

    async def outage() -> None:
        application.database.available = False
        asyncio.get_running_loop().call_later(0.2, setattr, application.database, "available", True)

    application.acts[1] = act
    application.publish(1)
    with failpoint("consumer.before_park", _once(outage)):
        async with application.running():
            await application.settled(1)
    assert (application.parked(), application.starts[1]) == ([("e1", "handler-failed", 1)], 1)


def _once(action: Any) -> Any:
    done: list[bool] = []

    async def act() -> None:
        if not done:
            done.append(True)
            await action()

    return act


async def test_a_handler_that_loses_the_connection_three_times_uses_up_an_attempt():
    application = Application({**QUICK, "retry_delays": (0.0,)})
    application.acts[1] = failing(DatabaseUnavailableError("db", "the server closed the connection"))
    application.publish(1)
    async with application.running():
        await application.settled(1)
    assert application.parked() == [("e1", "handler-failed", 2)]
    assert application.starts[1] == 6  # three starts for each attempt


async def test_a_consumer_that_waits_for_the_database_stops_at_once():
    application = Application({**QUICK, "drain_timeout": 60.0})
    application.publish(1)
    application.database.available = False
    with capture_logs() as logs:
        async with asyncio.timeout(5):
            async with application.running():
                while not any(line["event"] == "consumer waits" for line in logs):
                    await asyncio.sleep(0.01)
    application.database.available = True
    async with application.running(application.consuming()):
        await application.settled(1)
    assert application.effects == [1]


async def test_an_outage_of_the_broker_costs_no_attempt():
    application = Application({**QUICK, "retry_delays": ()})
    application.publish(1)
    application.broker.available = False
    async with application.running():
        await asyncio.sleep(0.05)
        application.broker.available = True
        await application.settled(1)
    assert application.attempts == [(1, 1)]


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_full_outbox_costs_handlers_no_attempt_and_is_logged_once():
    application = Application({**QUICK, "retry_delays": (), "concurrency": 2}, max_pending=1)
    application.database.put(CloudEvent("waits", "warehouse.reserved.v1", datetime(2026, 1, 2, tzinfo=UTC), b"{}"))
    application.publish(1, 2, 3)
    with capture_logs() as logs:
        async with application.running():
            async with asyncio.timeout(10):
                while min(application.starts[1], application.starts[2]) < 3:
                    await application.started.get()
            assert application.effects == []
            assert (application.parked(), application.database.starts) == ([], {})
            application.max_pending = None
            await application.settled(3)
    assert sorted(application.effects) == [1, 2, 3]
    assert {attempt for _, attempt in application.attempts} == {1}
    assert application.parked() == []
    events = [(line["event"], line.get("error", line.get("after"))) for line in logs]
    assert events.count(("consumer waits", "OutboxFullError")) == 1
    assert events.count(("consumer goes on", "OutboxFullError")) == 1
    assert "delivery failed" not in dict(events)


async def test_an_event_whose_handlers_raise_more_events_than_the_outbox_can_hold_is_parked_without_a_wait():
    application = Application({**QUICK, "retry_delays": (0.0,)}, max_pending=1)

    async def one_more(_event: OrderPlaced) -> None:
        DistributedEventBroker(application.unit_of_work()).add(Reserved(0))

    application.acts[1] = one_more
    application.publish(1, 2)
    with capture_logs() as logs:
        async with application.running():
            await application.settled(2)
    assert application.parked() == [("e1", "handler-failed", 2)]
    assert application.effects == [2]
    assert not any(line["event"] == "consumer waits" for line in logs)


async def test_a_consumer_that_waits_for_room_in_the_outbox_stops_and_the_start_does_not_count():
    application = Application({**QUICK, "drain_timeout": 60.0}, max_pending=1)
    application.publish(1, 2)
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            async with application.running():
                while not any(line["event"] == "consumer waits" for line in logs):
                    await asyncio.sleep(0.01)
    assert [count for count, _ in application.database.starts.values() if count] == []
    application.max_pending = None
    async with application.running(application.consuming()):
        await application.settled(2)
    assert application.effects == [1, 2]


def test_an_outage_is_recognized_in_the_cause_of_an_error():
    away = DatabaseUnavailableError("db", "away")
    handlers = RuntimeError("failed")
    handlers.__cause__ = away
    assert is_outage(away)
    assert is_outage(handlers)
    assert not is_outage(ConnectionError("of somebody else"))
    assert not is_outage(RolledBackError("1", "m", ValueError()))
    circle = ValueError()
    circle.__cause__ = circle
    assert not is_outage(circle)


async def test_a_delivery_whose_start_cannot_be_counted_fails_and_is_redelivered():
    application = Application(QUICK)
    application.acts[1] = failing(ValueError(), times=1)
    application.publish(1)
    with failpoint("consumer.after_count", Failure(LookupError("a bug"))):
        async with application.running():
            await application.settled(1)
    assert application.effects == [1]
