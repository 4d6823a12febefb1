"""Events whose handlers fail: retried by a schedule and parked at the limit, or parked at once."""

import asyncio
import math
import random
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mediator import ValidationFailure
from mediator.distributed.inbox import RetrySchedule, retry_schedule
from mediator.distributed.inbox.retries import ENDLESS_DELAYS, LATER_DELAYS, LONGEST_QUICK, QUICK_DELAYS
from mediator.distributed.parking import ParkReason
from mediator.errors import FatalEventError, SettingError, ValidationFailedError
from mediator.testing.failpoints import Failure, failpoint
from tests.unit.distributed.inbox.application import Application, OrderPlaced, failing, hanging

QUICK = {"retry_delays": (0.0, 0.001)}


async def test_a_failing_event_is_parked_after_its_attempts_and_other_events_are_handled():
    application = Application(QUICK)
    application.acts[1] = failing(ValueError("secret payload"))
    application.publish(1, 2)
    with capture_logs() as logs:
        async with application.running():
            await application.settled(2)
    assert application.parked() == [("e1", "handler-failed", 3)]
    assert application.attempts == [(1, 1), (2, 1), (1, 2), (1, 3)] or application.starts == {1: 3, 2: 1}
    assert application.effects == [2]
    assert [event.type for event in application.database.outbox] == ["warehouse.reserved.v1"]
    (line,) = (line for line in logs if line["event"] == "event parked")
    expected = {"event_id": "e1", "type": "shop.order-placed.v1", "consumer": "warehouse", "attempts": 3}
    assert {name: line[name] for name in expected} == expected
    assert (line["reason"], line["error"], line["log_level"]) == ("handler-failed", "ValueError", "error")
    assert [line["attempt"] for line in logs if line["event"] == "delivery failed"] == [1, 2]


async def test_a_parked_event_has_the_complete_message_and_the_error():
    application = Application(QUICK)
    application.acts[1] = failing(ValueError("no such customer"))
    application.publish(1, key="k")
    async with application.running():
        await application.settled(1)
    (parked,) = application.parking.events
    assert (parked.error, parked.partition_key, parked.data) == ("ValueError: no such customer", "k", b'{"number": 1}')
    assert (parked.headers["ce-id"], parked.headers["ce-partitionkey"]) == ("e1", "k")
    assert (parked.source, parked.consumer, parked.direction, parked.sequence) == ("shop", "warehouse", "in", 1)
    assert parked.parked_at is not None
    assert parked.parked_at <= application.database.now()
    assert application.database.starts == {}
    assert ("warehouse", "shop", "e1") in application.database.inbox


@pytest.mark.parametrize(
    "error",
    [
        FatalEventError("never"),
        ValidationFailedError("order", [ValidationFailure("number", "is negative")]),
        KeyError("unknown currency"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_fatal_error_parks_an_event_at_once(error: Exception):
    application = Application({"fatal_errors": (LookupError,)})
    application.acts[1] = failing(error)
    application.publish(1)
    async with application.running():
        await application.settled(1)
    assert application.parked() == [("e1", "fatal-error", 1)]


async def test_an_event_takes_effect_at_a_later_attempt_after_a_transient_failure():
    application = Application(QUICK)
    application.acts[1] = failing(ValueError(), times=2)
    application.publish(1)
    async with application.running():
        await application.settled(1)
    assert (application.effects, application.attempts) == ([1], [(1, 1), (1, 2), (1, 3)])
    assert (application.parked(), application.database.starts) == ([], {})


async def test_a_handler_that_takes_too_long_is_cancelled_and_uses_up_an_attempt():
    application = Application({**QUICK, "handler_timeout": 0.02})
    application.acts[1] = hanging
    application.publish(1)
    async with application.running():
        await application.settled(1)
    assert application.parked() == [("e1", "handler-failed", 3)]
    assert application.parking.events[0].error.startswith("MessageTimeoutError: An event of type")
    assert application.effects == []


async def test_a_timeout_after_the_commit_does_not_repeat_the_event():
    application = Application({**QUICK, "handler_timeout": 0.05})
    application.publish(1)

    async def too_late() -> None:
        await asyncio.sleep(0.2)

    with failpoint("consumer.after_commit", too_late), capture_logs() as logs:
        async with application.running():
            await application.settled(1)
    assert (application.effects, application.parked(), application.starts[1]) == ([1], [], 1)
    assert "delivery failed after the commit" in [line["event"] for line in logs]


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_handler_that_cancels_its_own_task_does_not_stop_the_consumer():
    application = Application({**QUICK, "concurrency": 1})

    async def leave(_event: OrderPlaced) -> None:
        del application.acts[1]
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    application.acts[1] = leave
    application.publish(1, 2)
    began = asyncio.get_running_loop().time()
    with capture_logs() as logs:
        async with application.running():
            await application.settled(2)
    assert asyncio.get_running_loop().time() - began >= 1.0  # an immediate redelivery must not cause a busy loop
    assert (sorted(application.effects), application.parked()) == ([1, 2], [])
    assert "handler cancelled its own task" in [line["event"] for line in logs]


async def test_a_handlers_own_timeout_is_a_failure_like_any_other():
    application = Application(QUICK)
    application.acts[1] = failing(TimeoutError("the other side"))
    application.publish(1)
    async with application.running():
        await application.settled(1)
    assert application.parking.events[0].error == "TimeoutError: the other side"


async def test_without_parking_a_failing_event_is_redelivered_without_limit():
    application = Application({**QUICK, "parking": None, "retry_delays": (0.0,)})
    application.acts[1] = failing(FatalEventError("never"), times=10)
    application.publish(1)
    async with application.running():
        await application.settled(1)
    assert (application.effects, application.starts[1]) == ([1], 11)


async def test_an_event_is_parked_once_although_parking_fails_at_first():
    application = Application(QUICK)
    application.acts[1] = failing(FatalEventError("never"))
    application.publish(1)
    with failpoint("consumer.before_park", Failure(LookupError("a bug"))), capture_logs() as logs:
        async with application.running():
            await application.settled(1)
    assert application.parked() == [("e1", "fatal-error", 2)]
    assert [line["error"] for line in logs if line["event"] == "delivery failed"] == ["LookupError"]


async def test_a_parked_event_that_is_redelivered_is_not_handled():
    application = Application(QUICK)
    application.acts[1] = failing(FatalEventError("never"))
    application.publish(1)
    with failpoint("consumer.after_park", Failure(LookupError("before it was terminated"))):
        async with application.running():
            await application.settled(1)
    assert (application.parked(), application.starts[1]) == ([("e1", "fatal-error", 1)], 1)


async def test_unordered_events_are_handled_concurrently_up_to_the_concurrency():
    application = Application({"concurrency": 3})
    go = asyncio.Event()
    for number in range(5):
        application.acts[number] = lambda _: go.wait()  # type: ignore[assignment,return-value]
    application.publish(*range(5))
    async with application.running():
        async with asyncio.timeout(5):
            assert {await application.started.get() for _ in range(3)} == {0, 1, 2}
        await asyncio.sleep(0)
        assert application.started.empty()
        go.set()
        await application.settled(5)
    assert sorted(application.effects) == [0, 1, 2, 3, 4]


class Unspeakable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError


async def test_an_event_whose_error_has_no_text_is_parked_like_any_other():
    application = Application(QUICK)
    application.acts[1] = failing(Unspeakable())
    application.publish(1)
    async with application.running():
        await application.settled(1)
    assert application.parking.events[0].error == "Unspeakable: its text is not available: RuntimeError"


# Settings.


def test_by_default_four_quick_tries_within_five_seconds_are_followed_by_five_later_tries():
    schedule = retry_schedule(parks=True)
    assert schedule == RetrySchedule(QUICK_DELAYS, LATER_DELAYS, ends=True)
    assert (schedule.quick_attempts, schedule.attempts) == (4, 9)
    assert schedule.longest <= LONGEST_QUICK == 5
    assert LATER_DELAYS == (30, 120, 600, 3600, 21_600)


def test_by_default_a_consumer_without_parking_tries_without_end():
    schedule = retry_schedule(parks=False)
    assert schedule == RetrySchedule(ENDLESS_DELAYS, (), ends=False)
    assert (schedule.quick_attempts, schedule.attempts, schedule.longest) == (math.inf, math.inf, math.inf)
    assert ENDLESS_DELAYS == (0, 1, 5, 30, 120, 600)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=10), st.integers(1, 20), st.integers())
def test_a_pause_differs_from_the_schedule_by_at_most_a_fifth(delays: list[float], attempt: int, seed: int):
    schedule, rng = RetrySchedule(tuple(delays), tuple(delays), ends=False), random.Random(seed)
    wanted = delays[min(attempt, len(delays)) - 1]
    assert wanted * 0.8 - 1e-9 <= schedule.quick_delay(attempt, rng) <= wanted * 1.2 + 1e-9
    later = [schedule.later_delay(tries, rng) for tries in range(len(delays) + 1)]
    assert later.pop() is None
    assert all(
        pause * 0.8 - 1e-9 <= (have or 0) <= pause * 1.2 + 1e-9 for pause, have in zip(delays, later, strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"ordering": "total"},
        {"ordering": "key", "parking": None},
        {"retry_delays": (1.0, 5.0)},
        {"retry_delays": (), "parking": None},
        {"later_delays": (1.0,), "parking": None},
        {"later_delays": (1.0, -1.0)},
        {"later_delays": (float("nan"),)},
        {"retry_delays": (1.0, -1.0)},
        {"retry_delays": (float("nan"),)},
        {"retry_delays": (float("inf"),)},
        {"handler_timeout": 0},
        {"handler_timeout": float("nan")},
        {"concurrency": 0},
        {"prefetch": 0},
        {"unknown_type_grace": -1},
        {"drain_timeout": -1},
        {"clean_interval": 0},
        {"fatal_errors": (3,)},
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused_at_once(options: dict[str, Any]):
    with pytest.raises(SettingError):
        Application(options)


def test_an_inbox_must_keep_ids_for_a_day_longer_than_its_stream_keeps_events():
    application = Application()
    application.inbox.keep_seconds = 7 * 86400.0
    application.consumer._subscription.max_age = 7 * 86400.0
    with pytest.raises(SettingError, match="691200 s"):
        application.consumer._check(1.0)
    application.inbox.keep_seconds = 8 * 86400.0
    application.consumer._check(1.0)


def test_every_reason_fits_its_column():
    assert max(len(reason) for reason in ParkReason) <= 32


async def test_an_unconfigured_log_shows_tracebacks_and_no_payload(capsys):
    async def fail(event: OrderPlaced) -> None:
        secret = f"payload-{event!r}"
        raise LookupError(f"about {len(secret)} characters")

    structlog.reset_defaults()
    application = Application({"retry_delays": ()})
    application.acts[4711] = fail
    application.publish(4711)
    async with application.running():
        await application.settled(1)
    output = capsys.readouterr().out
    assert "LookupError" in output
    assert "in fail" in output
    assert "payload-" not in output
    assert "OrderPlaced(" not in output
