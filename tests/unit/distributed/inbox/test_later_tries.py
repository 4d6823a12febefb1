"""Events whose quick tries failed are set aside in the database, and the consumer tries them again by itself."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mediator import EventConsumer
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import LastStart, ParkedReplay
from mediator.distributed.inbox.processing import ALONE_SECONDS
from mediator.distributed.inbox.shared_lock import Guard, shared_lock_here
from mediator.distributed.parking import CLAIM_SECONDS, ParkedEvent, ParkedFilter
from mediator.errors import DatabaseUnavailableError, FatalEventError, ParkedEventBlockedError
from mediator.testing.memory import broker as memory_broker
from tests.unit.distributed.inbox.application import (
    TYPE,
    Application,
    OrderPlaced,
    Steady,
    VirtualDatabase,
    failing,
    hanging,
)
from tests.unit.virtual_time import in_virtual_time, now, settle

Act = Callable[[OrderPlaced], Any]


class Patient(Application):
    """An application that tries events later. It records the time of each start, and the events that run at present.

    By default an event has one quick try and two later tries, after 30 s and after another 120 s.
    """

    def __init__(self, options: dict[str, Any] | None = None, **others: Any) -> None:
        self.times: defaultdict[int, list[float]] = defaultdict(list)
        self.present: list[int] = []
        self.overlaps: list[int] = []
        self.most_at_a_time = 0
        usual = {"retry_delays": (), "later_delays": (30.0, 120.0), "circuit_failures": None}
        usual |= {"rng": Steady(), "drain_timeout": 0.0}
        super().__init__({**usual, **(options or {})}, database=VirtualDatabase(), **others)

    async def handle(self, event: OrderPlaced) -> None:
        self.times[event.number].append(now())
        self.overlaps += [event.number] * (event.number in self.present)
        self.present.append(event.number)
        self.most_at_a_time = max(self.most_at_a_time, len(self.present))
        try:
            await super().handle(event)
        finally:
            self.present.remove(event.number)

    @property
    def event(self) -> ParkedEvent:
        """The only parked event."""
        (found,) = self.parking.events
        return found

    async def set_aside(self, *numbers: int, key: str | None = None) -> None:
        """Let events fail at their quick try, and return when they wait."""
        acts, self.acts = self.acts, self.acts | dict.fromkeys(numbers, failing(ValueError("not yet")))
        self.publish(*numbers, key=key)
        async with self.running(self.consuming()):
            await self.settled(len(self.broker.events))
        self.acts = acts

    @asynccontextmanager
    async def dying(self) -> AsyncIterator[None]:
        """Run a process that is killed: it writes nothing to the database when it ends."""
        async with self.running(self.consuming(drain_timeout=0.0)):
            try:
                yield
            finally:
                self.parking.postpone = self.inbox.take_back = _nothing  # type: ignore[method-assign]
        vars(self.parking).pop("postpone", None)
        vars(self.inbox).pop("take_back", None)

    async def replayed(self, **which: Any) -> list[tuple[str, str]]:
        replay = ParkedReplay(self.parking, [self.consumer])
        return [(each.event.event_id, each.outcome) async for each in replay.run(ParkedFilter(**which))]


async def _nothing(*_: object, **__: object) -> None:
    pass


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def waiting_for(go: asyncio.Event) -> Act:
    async def act(_event: OrderPlaced) -> None:
        await go.wait()

    return act


def lasting(seconds: float) -> Act:
    async def act(_event: OrderPlaced) -> None:
        await asyncio.sleep(seconds)

    return act


def lines(logs: Sequence[Any], event: str) -> list[Any]:
    return [line for line in logs if line["event"] == event]


# The course of an event.


@in_virtual_time
async def test_an_event_that_fails_its_quick_tries_takes_effect_once_at_the_later_try_that_succeeds() -> None:
    application = Patient({"retry_delays": (0.0,)})
    application.acts[1] = failing(ValueError("not yet"), times=3)
    application.publish(1)
    with capture_logs() as logs:
        async with application.running():
            await application.settled(1)
            assert now() < 1  # the event keeps no place at the broker
            assert application.parked() == [("e1", "waiting", 2)]
            assert application.event.due_at == pytest.approx(now() + 30)
            assert application.effects == []
            await asyncio.sleep(3000)
    assert application.times[1] == pytest.approx([0, 0, 30, 150], abs=0.1)
    assert [attempt for _, attempt in application.attempts] == [1, 2, 3, 4]
    assert (application.effects, application.parked()) == ([1], [])
    assert [event.type for event in application.database.outbox] == ["warehouse.reserved.v1"]
    (aside,), (failed,), (succeeded,) = (
        lines(logs, event) for event in ("event set aside", "later try failed", "later try succeeded")
    )
    assert (aside["retry_in"], aside["attempts"], aside["error"]) == (30, 2, "ValueError")
    assert (failed["retry_in"], failed["attempts"], failed["error"]) == (120, 3, "ValueError")
    assert (succeeded["attempt"], succeeded["event_id"]) == (4, "e1")
    assert lines(logs, "event parked") == []


@in_virtual_time
async def test_an_event_is_parked_for_a_person_after_its_last_later_try() -> None:
    application = Patient({"retry_delays": (0.0,)})
    application.acts[1] = failing(ValueError("never"))
    application.publish(1)
    with capture_logs() as logs:
        async with application.running():
            await asyncio.sleep(5000)
    assert application.parked() == [("e1", "handler-failed", 4)]
    event = application.event
    assert (event.due_at, event.tries, event.error) == (None, 2, "ValueError: never")
    assert len(application.times[1]) == 4
    (parked,) = lines(logs, "event parked")
    assert (parked["reason"], parked["attempts"], parked["error"]) == ("handler-failed", 4, "ValueError")


@in_virtual_time
async def test_pauses_before_later_tries_differ_from_the_given_pause_by_at_most_a_fifth_in_both_directions() -> None:
    application = Patient({"later_delays": (100.0,), "rng": random.Random(7)})
    application.acts = {number: failing(ValueError(), times=1) for number in range(40)}
    application.publish(*range(40))
    async with application.running():
        await asyncio.sleep(200)
    pauses = [later - first for first, later in application.times.values()]
    assert len(pauses) == 40
    assert 80 <= min(pauses) < 88
    assert 112 < max(pauses) <= 120.3


@in_virtual_time
async def test_without_later_tries_an_event_is_parked_after_its_quick_tries() -> None:
    application = Patient({"later_delays": ()})
    application.acts[1] = failing(ValueError())
    application.publish(1)
    async with application.running():
        await asyncio.sleep(100)
    assert (application.parked(), application.event.due_at) == ([("e1", "handler-failed", 1)], None)


@pytest.mark.parametrize(
    ("error", "reason"), [(FatalEventError("never"), "fatal-error"), (KeyError("unknown currency"), "fatal-error")]
)
@in_virtual_time
async def test_a_fatal_error_in_a_later_try_parks_the_event_at_once(error: Exception, reason: str) -> None:
    application = Patient({"fatal_errors": (LookupError,)})
    await application.set_aside(1)
    application.acts[1] = failing(error)
    async with application.running():
        await asyncio.sleep(40)
    assert (application.parked(), application.event.due_at) == ([("e1", reason, 2)], None)


@in_virtual_time
async def test_an_event_that_cannot_be_read_in_a_later_try_is_parked_at_once() -> None:
    application = Patient()
    await application.set_aside(1)
    await application.parking.edit(application.event.number, data=b"{")
    async with application.running():
        await asyncio.sleep(40)
    assert (application.parked(), application.event.due_at) == ([("e1", "undecodable", 2)], None)


@in_virtual_time
async def test_a_later_try_that_takes_too_long_counts_as_failed() -> None:
    application = Patient({"handler_timeout": 10.0})
    await application.set_aside(1)
    application.acts[1] = hanging
    async with application.running():
        await asyncio.sleep(45)
    event = application.event
    assert (event.reason, event.tries, event.error.partition(":")[0]) == ("waiting", 2, "MessageTimeoutError")
    assert event.due_at == pytest.approx(40 + 120, abs=0.1)


@in_virtual_time
async def test_a_handler_that_cancels_its_own_task_in_a_later_try_is_started_again_after_a_pause() -> None:
    application = Patient()
    await application.set_aside(1)

    async def leave(_event: OrderPlaced) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    application.acts[1] = leave
    async with application.running():
        await asyncio.sleep(40)
        assert 8 <= application.starts[1] <= 13
        del application.acts[1]
        await asyncio.sleep(3)
    assert application.effects == [1]


# Order.


@in_virtual_time
async def test_events_of_a_key_gather_behind_a_waiting_event_and_follow_in_order_while_other_keys_go_on() -> None:
    application = Patient({"ordering": "key"})
    application.acts[1] = failing(ValueError(), times=2)
    async with application.running():
        for number in (1, 2, 3):
            application.publish(number, key="a")
        application.publish(10, key="b")
        await application.settled(4)
        assert now() < 1
        assert application.effects == [10]
        await asyncio.sleep(100)
        assert application.parked() == [("e1", "waiting", 2), ("e2", "key-parked", 0), ("e3", "key-parked", 0)]
        assert [event.due_at is None for event in application.parking.events] == [False, True, True]
        application.publish(4, key="a")
        await application.settled(5)
        await asyncio.sleep(60)
        assert (application.effects, application.parked()) == ([10, 1, 2, 3, 4], [])
        application.publish(5, key="a")
        await application.settled(6)
    assert application.effects == [10, 1, 2, 3, 4, 5]
    assert application.times[4] == pytest.approx([150], abs=2)
    assert set(application.starts.values()) == {1, 3}


@in_virtual_time
async def test_an_event_that_followed_and_failed_has_all_its_later_tries_and_holds_back_the_next_events() -> None:
    application = Patient({"ordering": "key"})
    application.acts = {1: failing(ValueError(), times=1), 2: failing(ValueError())}
    application.publish(1, 2, 3, key="a")
    async with application.running():
        await asyncio.sleep(500)
    assert application.times[2] == pytest.approx([30, 60, 180], abs=2)
    assert application.effects == [1]
    assert application.parked() == [("e2", "handler-failed", 3), ("e3", "key-parked", 0)]


@in_virtual_time
async def test_events_of_many_keys_that_all_fail_at_first_take_effect_in_the_order_of_each_key() -> None:
    application = Patient({"ordering": "key"})
    application.acts = {number: failing(ValueError(), times=number % 3) for number in range(60)}
    async with application.running():
        for number in range(60):
            application.publish(number, key=f"{number % 7}")
        await asyncio.sleep(5000)
    assert application.parked() == []
    for key in range(7):
        effects = [number for number in application.effects if number % 7 == key]
        assert effects == sorted(effects) == list(range(key, 60, 7))


@in_virtual_time
async def test_without_order_a_waiting_event_holds_back_no_event_of_its_key_and_no_replay() -> None:
    application = Patient()
    await application.set_aside(1, 2, key="a")
    async with application.running():
        application.publish(3, key="a")
        await application.settled(3)
        assert application.effects == [3]
        second = application.parking.events[1]
        assert await application.replayed(numbers=(second.number,)) == [("e2", "replayed")]
        assert (application.effects, now() < 1) == ([3, 2], True)
        await asyncio.sleep(40)
    assert application.effects == [3, 2, 1]


# Stops, deaths and other processes.


@in_virtual_time
async def test_a_stop_during_a_later_try_costs_no_attempt_and_another_process_goes_on_at_once() -> None:
    application = Patient()
    await application.set_aside(1)
    application.acts[1] = hanging
    async with application.running(application.consuming()):
        await asyncio.sleep(35)
    event = application.event
    assert (event.reason, event.attempts, event.tries, event.last_start) == ("waiting", 1, 1, LastStart.ENDED)
    application.acts.clear()
    async with application.running(application.consuming()):
        await asyncio.sleep(0.1)
    assert application.attempts == [(1, 1), (1, 2), (1, 2)]
    assert application.effects == [1]


@pytest.mark.parametrize("drain_timeout", [0.0, 10.0])
@in_virtual_time
async def test_a_stop_while_a_later_try_waits_for_a_suspect_gives_the_event_back_at_once(drain_timeout: float) -> None:
    application = Patient({"drain_timeout": drain_timeout})
    await application.set_aside(1)
    with Guard(shared_lock_here(), asyncio.Event()) as guard:
        await guard.exclusive(1)
        async with application.running(application.consuming()):
            await until(lambda: application.event.claim == 1)
            stopped = now()
    assert now() - stopped < 0.1
    assert application.event.due_at == pytest.approx(now(), abs=0.1)
    assert application.event.attempts == 1


@in_virtual_time
async def test_a_stopping_consumer_lets_a_later_try_end_within_its_drain_timeout() -> None:
    application = Patient({"drain_timeout": 10.0})
    await application.set_aside(1)
    application.acts[1] = lasting(8)
    async with application.running():
        await asyncio.sleep(33)
    assert application.effects == [1]
    assert now() == pytest.approx(38, abs=0.2)


@in_virtual_time
async def test_a_stopped_consumer_ends_at_once_while_its_events_wait() -> None:
    application = Patient({"drain_timeout": 100.0})
    await application.set_aside(1)
    async with application.running():
        await asyncio.sleep(10)
        stopped = now()
    assert now() == stopped


@in_virtual_time
async def test_an_event_whose_process_died_in_a_later_try_is_tried_alone_after_its_claim_has_ended() -> None:
    application, go = Patient({"concurrency": 8}), asyncio.Event()
    await application.set_aside(1)
    application.acts = {1: hanging}
    async with application.dying():
        await until(lambda: application.present)
        assert now() == pytest.approx(30, abs=0.1)
    assert (application.event.attempts, application.event.last_start) == (2, LastStart.BESIDE)
    application.acts = {1: waiting_for(go)}
    async with application.running(application.consuming()):
        await until(lambda: application.present)
        assert now() == pytest.approx(30 + CLAIM_SECONDS, abs=1)
        application.publish(2)
        await asyncio.sleep(1)
        assert application.present == [1]
        go.set()
        await application.settled(2)
        await asyncio.sleep(1)
    assert application.effects == [1, 2]
    assert application.attempts == [(1, 1), (1, 2), (1, 3), (2, 1)]


@pytest.mark.parametrize(("later", "is_joined"), [((30.0, 30.0, 30.0), True), ((30.0, 30.0), False)])
@in_virtual_time
async def test_a_suspect_lets_others_begin_after_a_while_and_stays_alone_in_its_last_later_try(
    later: tuple[float, ...], is_joined: bool
) -> None:
    application, other = Patient({"concurrency": 8, "later_delays": later, "handler_timeout": 100.0}), Patient()
    await application.set_aside(1)
    application.acts[1] = hanging
    async with application.dying():
        await until(lambda: application.present)
    async with application.running(application.consuming()), other.running():
        await until(lambda: application.present)
        application.publish(2)
        other.publish(2)
        await asyncio.sleep(ALONE_SECONDS - 0.5)
        assert application.effects == other.effects == []
        await asyncio.sleep(1)
        assert application.effects == other.effects == ([2] if is_joined else [])
        await asyncio.sleep(100)
        assert application.effects == other.effects == [2]


@in_virtual_time
async def test_an_event_whose_process_dies_in_each_later_try_is_parked_at_the_limit() -> None:
    application = Patient({"retry_delays": (0.0,)})
    await application.set_aside(1)
    application.acts = {1: hanging}
    for _ in range(2):
        async with application.dying():
            await until(lambda: application.present)
    with capture_logs() as logs:
        async with application.running(application.consuming()):
            await asyncio.sleep(100)
    assert (application.parked(), application.event.due_at) == ([("e1", "process-died", 4)], None)
    assert "the process ended" in application.event.error
    assert application.starts == {1: 4}
    (line,) = lines(logs, "event parked")
    assert (line["reason"], line["attempts"]) == ("process-died", 4)


@in_virtual_time
async def test_an_innocent_event_whose_later_try_died_beside_a_killer_takes_effect() -> None:
    application = Patient({"concurrency": 8})
    await application.set_aside(1)
    await application.set_aside(2)
    application.acts = {1: hanging, 2: hanging}
    for _ in range(2):
        async with application.dying():
            await until(lambda: 1 in application.present)
            await asyncio.sleep(1)
        application.acts = {1: hanging}
    async with application.running(application.consuming()):
        await asyncio.sleep(200)
    assert application.effects == [2]
    assert application.parked() == [("e1", "process-died", 3)]


@in_virtual_time
async def test_several_processes_start_each_later_try_once() -> None:
    application = Patient({"concurrency": 8})
    await application.set_aside(*range(20))
    application.acts = {number: failing(ValueError(), times=1) for number in range(20)}
    application.acts |= dict.fromkeys(range(5), lasting(CLAIM_SECONDS * 2))
    async with (
        application.running(application.consuming()),
        application.running(application.consuming()),
        application.running(application.consuming()),
    ):
        await asyncio.sleep(1000)
    assert sorted(application.effects) == list(range(20))
    assert application.starts == {number: 2 if number < 5 else 3 for number in range(20)}
    assert application.overlaps == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_no_event_runs_twice_at_a_time_or_takes_effect_twice_although_processes_stop_and_die(seed: int) -> None:
    _stop_and_kill(seed)


@in_virtual_time
async def _stop_and_kill(seed: int) -> None:
    rng = random.Random(seed)
    ordering = rng.choice(["none", "key"])
    application = Patient(
        {
            "ordering": ordering,
            "concurrency": rng.choice([1, 2, 8]),
            "later_delays": (5.0, 20.0, 100.0, 100.0),
            "rng": rng,
        }
    )

    async def act(_event: OrderPlaced) -> None:
        await asyncio.sleep(rng.choice([0, 0.1, 5, 80]))
        if rng.random() < 0.4:
            raise ValueError

    numbers = range(12)
    application.acts = dict.fromkeys(numbers, act)
    for number in numbers:
        application.publish(number, key=f"{number % 3}")

    async def process() -> None:
        for _ in range(3):
            stopping = application.consuming(drain_timeout=rng.choice([0.0, 2.0]))
            async with application.running(stopping) if rng.random() < 0.5 else application.dying():
                await asyncio.sleep(rng.uniform(0, 150))

    await asyncio.gather(process(), process())
    application.acts = {}
    async with application.running(application.consuming()):
        await asyncio.sleep(1500)
        await application.replayed()  # the events that failed too often
    assert application.parking.events == ()
    assert (application.overlaps, sorted(application.effects)) == ([], list(numbers))
    assert len(application.database.outbox) == len(numbers)
    if ordering == "key":
        for key in range(3):
            effects = [number for number in application.effects if number % 3 == key]
            assert effects == sorted(effects)


# Replays by hand.


@in_virtual_time
async def test_a_replay_by_hand_during_a_pause_ends_the_later_tries() -> None:
    application = Patient()
    await application.set_aside(1)
    async with application.running():
        await asyncio.sleep(10)
        assert await application.replayed() == [("e1", "replayed")]
        await asyncio.sleep(1000)
    assert (application.effects, application.starts) == ([1], {1: 2})


@in_virtual_time
async def test_a_replay_by_hand_that_fails_leaves_the_next_later_try_as_it_was() -> None:
    application = Patient()
    await application.set_aside(1)
    application.acts[1] = failing(ValueError("by hand"), times=1)
    async with application.running():
        await asyncio.sleep(10)
        assert await application.replayed() == [("e1", "failed")]
        assert (application.event.reason, application.event.error) == ("waiting", "ValueError: by hand")
        await asyncio.sleep(25)
    assert application.effects == [1]
    assert application.times[1] == pytest.approx([0, 10, 30], abs=0.1)


@in_virtual_time
async def test_an_event_that_becomes_due_during_its_replay_is_not_tried_at_the_same_time() -> None:
    application = Patient()
    await application.set_aside(1)
    application.acts[1] = lasting(100)
    async with application.running():
        await asyncio.sleep(10)
        assert await application.replayed() == [("e1", "replayed")]
        await asyncio.sleep(100)
    assert (application.effects, application.starts) == ([1], {1: 2})


@in_virtual_time
async def test_a_replay_by_hand_waits_for_a_running_later_try_and_finds_nothing_left() -> None:
    application = Patient()
    await application.set_aside(1)
    application.acts[1] = lasting(100)
    async with application.running():
        await asyncio.sleep(40)
        assert await application.replayed() == []
        assert now() == pytest.approx(130, abs=0.2)
    assert (application.effects, application.starts) == ([1], {1: 2})


@in_virtual_time
async def test_an_event_that_a_person_deletes_while_it_is_claimed_ends_nothing() -> None:
    application = Patient()
    await application.set_aside(1)
    with capture_logs() as logs, Guard(shared_lock_here(), asyncio.Event()) as guard:
        await guard.exclusive(1)
        async with application.running():
            await until(lambda: application.event.claim == 1)
            await application.parking.discard(application.event.number)
            guard.release()
            await settle()
            application.publish(2)
            await application.settled(2)
    assert (application.effects, application.starts[1]) == ([2], 1)
    assert lines(logs, "later try not finished") == []


# Outages.


@pytest.mark.parametrize("seconds", [3.0, 2 * CLAIM_SECONDS])
@pytest.mark.parametrize("concurrency", [1, 8])
@in_virtual_time
async def test_an_outage_of_the_database_during_a_later_try_costs_nothing(seconds: float, concurrency: int) -> None:
    application = Patient({"concurrency": concurrency})
    await application.set_aside(1)

    async def lose_the_database(_event: OrderPlaced) -> None:
        application.acts.clear()
        application.database.available = False
        asyncio.get_running_loop().call_later(seconds, setattr, application.database, "available", True)
        raise RuntimeError("whatever a handler makes of a lost connection")

    application.acts[1] = lose_the_database
    with capture_logs() as logs:
        async with application.running():
            await asyncio.sleep(30 + seconds + 6)
    assert application.effects == [1]
    assert application.attempts == [(1, 1), (1, 2), (1, 2)]
    assert len(lines(logs, "consumer waits")) == len(lines(logs, "consumer goes on")) == 1
    assert lines(logs, "later try failed") == []


@in_virtual_time
async def test_an_outage_that_hides_the_count_of_a_later_try_costs_no_attempt() -> None:
    application = Patient({"later_delays": (30.0,)})
    await application.set_aside(1)
    start = application.parking.start

    async def losing_an_answer(*arguments: Any, **options: Any) -> Any:
        application.parking.start = start  # type: ignore[method-assign]
        await start(*arguments, **options)
        raise DatabaseUnavailableError("memory", "the answer is lost")

    application.parking.start = losing_an_answer  # type: ignore[method-assign]
    application.acts[1] = failing(ValueError("not yet"))
    async with application.running():
        await asyncio.sleep(200)
    assert application.starts[1] == 2
    assert application.parked() == [("e1", "handler-failed", 2)]


@in_virtual_time
async def test_an_outage_while_events_wait_delays_them_and_costs_nothing() -> None:
    application = Patient()
    await application.set_aside(1)
    async with application.running():
        await asyncio.sleep(10)
        application.database.available = False
        await asyncio.sleep(100)
        application.database.available = True
        await asyncio.sleep(11)
    assert (application.effects, application.attempts) == ([1], [(1, 1), (1, 2)])


@in_virtual_time
async def test_an_outage_after_the_handlers_failed_does_not_start_them_again_before_their_pause() -> None:
    application = Patient()
    await application.set_aside(1)
    postpone = application.parking.postpone

    async def lose_the_database(*arguments: Any, **options: Any) -> None:
        application.parking.postpone = postpone  # type: ignore[method-assign]
        application.database.available = False
        asyncio.get_running_loop().call_later(10, setattr, application.database, "available", True)
        await postpone(*arguments, **options)

    application.parking.postpone = lose_the_database  # type: ignore[method-assign]
    application.acts[1] = failing(ValueError())
    with capture_logs() as logs:
        async with application.running():
            await asyncio.sleep(100)
    assert (application.event.attempts, application.event.tries) == (2, 2)
    assert application.event.due_at == pytest.approx(40 + 120, abs=5)
    assert len(lines(logs, "later try failed")) == 1


@in_virtual_time
async def test_handlers_that_lose_the_connection_three_times_while_the_database_answers_have_failed() -> None:
    application = Patient()
    await application.set_aside(1)
    application.acts[1] = failing(DatabaseUnavailableError("db", "x"))
    async with application.running():
        await asyncio.sleep(100)
        assert application.starts[1] == 1 + 3
        assert (application.event.attempts, application.event.tries) == (2, 2)
        await asyncio.sleep(200)
    assert application.starts[1] == 1 + 3 + 3
    assert application.parked() == [("e1", "handler-failed", 3)]


@in_virtual_time
async def test_a_full_outbox_in_a_later_try_costs_nothing_and_is_logged_once() -> None:
    application = Patient(max_pending=1)
    await application.set_aside(1)
    waiting = CloudEvent("waits", "warehouse.reserved.v1", "2026-01-02", b"{}")  # type: ignore[arg-type]
    with capture_logs() as logs:
        async with application.running():
            application.database.outbox[:] = [waiting]
            await asyncio.sleep(60)
            assert application.effects == []
            application.database.outbox.clear()
            await asyncio.sleep(10)
    assert application.effects == [1]
    assert {attempt for number, attempt in application.attempts} == {1, 2}
    assert len(lines(logs, "consumer waits")) == len(lines(logs, "consumer goes on")) == 1


@in_virtual_time
async def test_the_outage_of_one_database_during_a_later_try_delays_no_consumer_of_another() -> None:
    away, other = Patient(), Patient()
    await away.set_aside(1)
    async with away.dying():
        away.acts = {1: hanging}
        await until(lambda: away.present)

    async def lose_the_database(_event: OrderPlaced) -> None:
        away.acts.clear()
        away.database.available = False
        raise RuntimeError

    away.acts = {1: lose_the_database}
    async with away.running(away.consuming()), other.running():
        await until(lambda: not away.database.available)
        other.publish(1)
        await asyncio.sleep(0.1)
        assert other.effects == [1]
        away.database.available = True
        await asyncio.sleep(6)
        assert away.effects == [1]


# Places.


@pytest.mark.parametrize(("concurrency", "later"), [(1, 1), (4, 1), (7, 1), (8, 2), (16, 4)])
@in_virtual_time
async def test_later_tries_take_at_most_a_quarter_of_the_places_and_at_least_one(concurrency: int, later: int) -> None:
    application = Patient({"concurrency": concurrency})
    await application.set_aside(*range(20))
    application.acts = dict.fromkeys(range(20), lasting(50))
    async with application.running():
        await asyncio.sleep(40)
        assert len(application.present) == later
        application.publish(*range(20, 20 + concurrency))
        application.acts |= dict.fromkeys(range(20, 20 + concurrency), hanging)
        await asyncio.sleep(5)
        assert len(application.present) == application.most_at_a_time <= concurrency


@in_virtual_time
async def test_a_later_try_that_hangs_keeps_no_delivery_waiting_when_there_are_several_places() -> None:
    application = Patient({"concurrency": 2})
    await application.set_aside(1)
    application.acts[1] = hanging
    async with application.running():
        await until(lambda: application.present)
        for number in range(2, 30):
            application.publish(number)
            published = now()
            await application.settled(number)
            assert now() == published


@in_virtual_time
async def test_a_delivery_that_waits_for_a_later_try_is_not_delivered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    application, delivered = Patient(ack_wait=3.0), list[int]()
    await application.set_aside(1)
    following = memory_broker._Deliveries.next

    async def counted(self: Any) -> Any:
        delivery = await following(self)
        delivered.append(delivery.sequence)
        return delivery

    monkeypatch.setattr(memory_broker._Deliveries, "next", counted)
    application.acts[1] = lasting(50)
    async with application.running():
        await until(lambda: application.present)
        application.publish(2)
        await until(lambda: 2 in application.effects)
    assert application.effects == [1, 2]
    assert delivered == [2]


@in_virtual_time
async def test_a_delivery_that_waits_for_a_later_try_goes_back_when_the_consumer_stops() -> None:
    application, outstanding_at_stop = Patient({"drain_timeout": 20.0}), list[int]()
    await application.set_aside(1)
    application.acts[1] = hanging
    async with application.running(application.consuming()):
        await until(lambda: application.present)
        outstanding = application.broker.group("warehouse", [TYPE]).outstanding
        application.publish(2)
        await asyncio.sleep(1)
        assert sum(outstanding.values()) == 1
        asyncio.get_running_loop().call_later(0.1, lambda: outstanding_at_stop.append(sum(outstanding.values())))
    assert outstanding_at_stop == [0]


@in_virtual_time
async def test_a_long_later_try_of_another_process_keeps_no_place_of_this_process() -> None:
    application = Patient()
    await application.set_aside(1)
    application.acts[1] = lasting(4 * CLAIM_SECONDS)
    async with application.running(application.consuming(prefetch=1)):
        await until(lambda: application.present)
        application.publish(2)  # waits in the first process, whose only place is taken
        await settle()
        async with application.running(application.consuming()):
            await asyncio.sleep(2 * CLAIM_SECONDS)
            began, before = now(), len(application.effects)
            application.publish(*range(12, 32))
            await until(lambda: len(application.effects) == before + 20)
            assert now() - began < 0.1
    assert application.starts[1] <= 2


@in_virtual_time
async def test_many_waiting_events_are_looked_for_seldom() -> None:
    application, looks = Patient({"later_delays": (3000.0,), "concurrency": 16}), list[float]()
    await application.set_aside(*range(30))
    due_in = application.parking.due_in

    async def counting(consumer: str) -> float | None:
        looks.append(now())
        return await due_in(consumer)

    application.parking.due_in = counting  # type: ignore[method-assign]
    async with application.running():
        await asyncio.sleep(1000)
    assert 190 <= len(looks) <= 210


@in_virtual_time
async def test_an_error_of_the_parking_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    application = Patient()
    await application.set_aside(1)
    with capture_logs() as logs:
        for method in ("due_in", "claim", "start"):
            _fail_once(application, method)
        async with application.running():
            await asyncio.sleep(200)
    assert application.effects == [1]
    assert len(lines(logs, "due events not found")) == 1
    assert len(lines(logs, "later try not finished")) == 2


def _fail_once(application: Patient, method: str) -> None:
    works = getattr(application.parking, method)

    async def fail(*_: Any, **__: Any) -> None:
        setattr(application.parking, method, works)
        raise LookupError("a bug")

    setattr(application.parking, method, fail)


@in_virtual_time
async def test_a_process_that_does_not_know_the_type_yet_parks_no_event() -> None:
    application = Patient()
    await application.set_aside(1)
    old = application.consuming()
    old._event_classes = dict  # type: ignore[method-assign]  # an older version of the application
    await _run_for(application, old, 40)
    assert (application.event.reason, application.event.tries) == ("waiting", 2)
    await _run_for(application, application.consuming(), 130)
    assert application.effects == [1]


@in_virtual_time
async def test_an_event_whose_type_no_process_knows_is_parked_after_its_last_later_try() -> None:
    application = Patient()
    await application.set_aside(1)
    old = application.consuming()
    old._event_classes = dict  # type: ignore[method-assign]
    await _run_for(application, old, 500)
    assert (application.parked(), application.event.due_at) == ([("e1", "unknown-type", 1)], None)


async def _run_for(application: Patient, consumer: EventConsumer, seconds: float) -> None:
    async with application.running(consumer):
        await asyncio.sleep(seconds)


@in_virtual_time
async def test_stops_while_the_outbox_is_full_cost_a_later_try_no_attempt() -> None:
    application = Patient(max_pending=1)
    await application.set_aside(1)
    waiting = CloudEvent("waits", "warehouse.reserved.v1", "2026-01-02", b"{}")  # type: ignore[arg-type]
    application.database.outbox[:] = [waiting]
    for _ in range(4):
        async with application.running(application.consuming()):
            await asyncio.sleep(60)
    assert (application.event.attempts, application.event.last_start) == (1, LastStart.ENDED)


@in_virtual_time
async def test_an_error_of_the_parking_that_a_handler_raises_counts_as_its_failure() -> None:
    application = Patient({"later_delays": (1.0, 1.0)})
    await application.set_aside(1)
    application.acts[1] = failing(ParkedEventBlockedError(7, 3))
    async with application.running():
        await asyncio.sleep(100)
    assert application.parked() == [("e1", "handler-failed", 3)]


@in_virtual_time
async def test_an_event_that_waits_for_the_lock_of_a_process_is_given_back_before_its_claim_ends() -> None:
    application = Patient({"concurrency": 8})
    await application.set_aside(1)
    with Guard(shared_lock_here(), asyncio.Event()) as guard:
        await guard.exclusive(1)
        async with application.running(application.consuming()):
            await asyncio.sleep(30 + 100)
            assert 2 <= application.event.claim <= 4
            assert (application.event.attempts, application.effects) == (1, [])
            guard.release()
            await until(lambda: application.effects == [1])
