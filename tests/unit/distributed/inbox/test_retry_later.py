"""A handler that raises RetryLater is called again at the time that it asks for, and no attempt counts."""

import asyncio
from datetime import timedelta

import pytest

from mediator.errors import EventError, RetryLater
from tests.unit.distributed.inbox.application import failing
from tests.unit.distributed.inbox.test_later_tries import Patient
from tests.unit.virtual_time import in_virtual_time, now


def later(**time: float) -> RetryLater:
    return RetryLater(after=timedelta(**time))


@in_virtual_time
async def test_an_event_waits_as_long_as_its_handler_asks_and_no_attempt_counts() -> None:
    application = Patient({"retry_delays": (0.0,), "now": now})
    application.acts[1] = failing(later(minutes=10), times=3)
    application.publish(1)
    async with application.running():
        await application.settled(1)
        event = application.event
        assert (event.reason, event.attempts, event.due_at) == ("waiting", 0, pytest.approx(now() + 600, abs=1))
        await asyncio.sleep(4000)
    assert application.times[1] == pytest.approx([0, 600, 1200, 1800], abs=1)
    assert [attempt for _, attempt in application.attempts] == [1, 1, 1, 1]
    assert application.effects == [1]


@in_virtual_time
async def test_failures_after_a_wait_that_was_asked_for_have_all_later_tries() -> None:
    application = Patient()
    asked = False

    async def act(_event: object) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise later(seconds=5)
        raise ValueError("never")

    application.acts[1] = act
    application.publish(1)
    async with application.running():
        await asyncio.sleep(1000)
    assert application.times[1] == pytest.approx([0, 5, 35, 155], abs=0.5)
    assert application.parked() == [("e1", "handler-failed", 3)]


@in_virtual_time
async def test_with_key_ordering_the_event_holds_its_key_and_no_other() -> None:
    application = Patient({"ordering": "key", "concurrency": 4})
    application.acts[1] = failing(later(hours=1), times=1)
    async with application.running():
        application.publish(1, 2, key="a")
        application.publish(3, key="b")
        await asyncio.sleep(10)
        assert application.effects == [3]
        await asyncio.sleep(3600)
    assert application.effects == [3, 1, 2]


@in_virtual_time
async def test_without_order_only_the_event_waits() -> None:
    application = Patient()
    application.acts[1] = failing(later(hours=1), times=1)
    async with application.running():
        application.publish(1, 2, key="a")
        await asyncio.sleep(10)
        assert application.effects == [2]
        await asyncio.sleep(3600)
    assert application.effects == [2, 1]


@in_virtual_time
async def test_an_event_that_would_wait_for_longer_than_allowed_is_parked_and_its_handlers_are_not_blamed() -> None:
    application = Patient({"longest_wait": 1500.0, "now": now})
    application.acts[1] = failing(later(minutes=7), times=100)
    application.publish(1)
    async with application.running():
        await asyncio.sleep(3000)
    assert application.times[1] == pytest.approx([minutes * 60 for minutes in (0, 7, 14, 21)], abs=2)
    assert application.parked() == [("e1", "handler-failed", 0)]
    assert application.event.due_at is None
    assert application.event.error.startswith("RetryLater: ")


@in_virtual_time
async def test_the_time_that_an_event_was_parked_behind_another_one_does_not_count() -> None:
    application = Patient({"ordering": "key", "longest_wait": 1500.0, "later_delays": (3000.0,), "now": now})
    application.acts[1] = failing(ValueError(), times=1)
    application.acts[2] = failing(later(minutes=7), times=2)
    application.publish(1, 2, key="a")
    async with application.running():
        await asyncio.sleep(5000)
    assert application.effects == [1, 2]


@in_virtual_time
async def test_without_parking_the_broker_redelivers_the_event_after_the_wait() -> None:
    application = Patient({"parking": None, "later_delays": None, "retry_delays": (1.0,)})
    application.acts[1] = failing(later(seconds=20), times=2)
    application.publish(1)
    async with application.running():
        await asyncio.sleep(100)
    assert application.times[1] == pytest.approx([0, 20, 40], abs=0.5)
    assert application.effects == [1]


def test_outside_of_a_delivery_the_error_says_where_it_may_be_raised() -> None:
    error = later(seconds=30)
    assert isinstance(error, EventError)
    assert str(error) == (
        "A handler asked to be called again after 30 s. Only the consumer of distributed events does so: raise "
        "RetryLater only in the handler of a distributed event."
    )


@pytest.mark.parametrize("after", [timedelta(seconds=-1), timedelta(0), 30, "soon", None])
def test_a_time_that_has_passed_or_is_none_means_at_once(after: object) -> None:
    assert RetryLater(after).seconds == 0.0  # type: ignore[arg-type]


@in_virtual_time
async def test_an_event_waits_although_the_consumer_has_no_later_tries() -> None:
    application = Patient({"later_delays": (), "now": now})
    application.acts[1] = failing(later(minutes=1), times=2)
    application.publish(1)
    async with application.running():
        await asyncio.sleep(300)
    assert application.effects == [1]
    assert application.times[1] == pytest.approx([0, 60, 120], abs=1)


@in_virtual_time
async def test_a_request_for_a_later_try_is_no_fatal_error_whatever_errors_are_fatal() -> None:
    application = Patient({"fatal_errors": (ValueError,), "now": now})
    application.acts[1] = failing(later(minutes=1), times=1)
    application.publish(1)
    async with application.running():
        await asyncio.sleep(100)
    assert application.effects == [1]


@in_virtual_time
async def test_an_event_whose_handler_asks_for_a_time_that_has_passed_pauses_for_a_second() -> None:
    application = Patient({"now": now})
    application.acts[1] = failing(later(seconds=0), times=1000)
    application.publish(1)
    async with application.running():
        await asyncio.sleep(10)
    assert len(application.times[1]) <= 11


@in_virtual_time
async def test_a_first_request_for_longer_than_allowed_parks_the_event() -> None:
    application = Patient({"longest_wait": 3600.0, "now": now})
    application.acts[1] = failing(later(days=30))
    application.publish(1)
    async with application.running():
        await application.settled(1)
    assert (application.parked(), application.event.due_at) == ([("e1", "handler-failed", 0)], None)
