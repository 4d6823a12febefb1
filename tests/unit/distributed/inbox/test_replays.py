"""A replay handles the selected events once, in order and at its rate, also if other events of their keys are parked."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from mediator.distributed.inbox import ParkedReplay, Replayed
from mediator.distributed.parking import ParkedFilter
from mediator.distributed.throttle import Throttle
from mediator.errors import FatalEventError, ParkedEventBlockedError
from mediator.testing.memory.parking import parked_in
from tests.unit.distributed.inbox.application import Application, OrderPlaced, failing, hanging
from tests.unit.virtual_time import in_virtual_time, now, settle

UNORDERED: dict[str, Any] = {"retry_delays": ()}
ORDERED: dict[str, Any] = {**UNORDERED, "ordering": "key"}


async def park(application: Application, *numbers: int, key: str | None = None) -> list[int]:
    """Let events fail by themselves or park behind a failed event, and return the numbers of the parked events."""
    application.acts |= dict.fromkeys(numbers, failing(FatalEventError()))
    parked = len(application.parking.events)
    application.publish(*numbers, key=key)
    async with application.running(application.consuming()):
        await application.settled(len(application.broker.events))
    return [event.number for event in application.parking.events][parked:]


async def outcomes(
    application: Application, which: ParkedFilter | None = None, *, dry_run: bool = False, **options: Any
) -> list[tuple[str, str]]:
    replay = ParkedReplay(application.parking, [application.consumer], **options)
    found = replay.run(ParkedFilter() if which is None else which, dry_run=dry_run)
    return [(each.event.event_id, each.outcome) async for each in found]


async def test_in_an_unordered_group_only_the_requested_event_of_a_key_is_replayed() -> None:
    application = Application(UNORDERED)
    first, *_ = await park(application, 1, 2, 3, key="a")
    application.acts.clear()
    only = ParkedFilter(numbers=(first,))
    with capture_logs() as logs:
        assert await outcomes(application, only, dry_run=True) == [("e1", "ready")]
        assert await outcomes(application, only) == [("e1", "replayed")]
    assert [line["number"] for line in logs if line["event"] == "event replayed"] == [first]
    assert application.effects == [1]
    assert [event.event_id for event in application.parking.events] == ["e2", "e3"]


async def test_a_replay_includes_the_events_behind_up_to_the_next_one_that_failed_itself() -> None:
    application = Application(ORDERED)
    first, *_ = await park(application, 1, 2, key="a")
    application.acts[3] = failing(FatalEventError())
    application.acts.pop(1)
    application.acts.pop(2)
    only = ParkedFilter(numbers=(first,))
    assert await outcomes(application, only) == [("e1", "replayed"), ("e2", "replayed")]
    third, *_ = await park(application, 3, 4, key="a")
    application.acts.clear()
    application.acts[4] = failing(FatalEventError())
    assert await outcomes(application, ParkedFilter(numbers=(third,))) == [("e3", "replayed"), ("e4", "failed")]
    application.publish(5, key="a")
    async with application.running():
        await application.settled(5)
    assert [(event.event_id, str(event.reason)) for event in application.parking.events] == [
        ("e4", "fatal-error"),
        ("e5", "key-parked"),
    ]
    application.acts.clear()
    assert await outcomes(application) == [("e4", "replayed"), ("e5", "replayed")]
    assert application.effects == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("options", [UNORDERED, ORDERED])
async def test_events_of_several_pages_are_each_replayed_and_reported_once(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mediator.distributed.inbox.replay._PAGE", 4)
    application = Application(options)
    await park(application, *range(10), key="a")
    await park(application, *range(20, 30))
    application.acts.clear()
    ready = await outcomes(application, dry_run=True)
    replayed = await outcomes(application)
    assert [event_id for event_id, _ in ready] == [event_id for event_id, _ in replayed]
    assert [outcome for _, outcome in replayed] == ["replayed"] * 20
    assert application.effects == [*range(10), *range(20, 30)]


async def test_a_dry_run_names_all_events_behind_an_event_over_several_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediator.distributed.inbox.replay._PAGE", 4)
    application = Application(ORDERED)
    first, *_ = await park(application, *range(10), key="a")
    application.acts.clear()
    only = ParkedFilter(numbers=(first,))
    ready = await outcomes(application, only, dry_run=True)
    assert ready == [(f"e{number}", "ready") for number in range(10)]
    assert [event_id for event_id, _ in await outcomes(application, only)] == [event_id for event_id, _ in ready]


async def test_after_a_failed_replay_the_rest_of_the_key_is_blocked_and_does_not_run() -> None:
    application = Application(ORDERED)
    first, second, third = await park(application, 1, 2, 3, key="a")
    application.acts = {2: failing(ValueError("again"))}
    replay = ParkedReplay(application.parking, [application.consumer])
    found: list[Replayed] = [each async for each in replay.run(ParkedFilter())]
    assert [(each.event.number, each.outcome) for each in found] == [
        (first, "replayed"),
        (second, "failed"),
        (third, "blocked"),
    ]
    error = found[-1].error
    assert isinstance(error, ParkedEventBlockedError)
    assert error.head == second
    assert application.starts[3] == 0
    assert application.parking.events[0].error == "ValueError: again"
    assert application.parking.events[0].attempts == 1


async def test_each_blocked_event_names_the_first_event_of_its_key_even_if_the_filter_excludes_that_event() -> None:
    application = Application(ORDERED)
    first, second, third = await park(application, 1, 2, 3, key="a")
    replay = ParkedReplay(application.parking, [application.consumer])
    found = [each async for each in replay.run(ParkedFilter(numbers=(second, third)))]
    assert [each.error.head for each in found if isinstance(each.error, ParkedEventBlockedError)] == [first, first]


async def test_an_event_deleted_during_the_replay_blocks_no_event() -> None:
    application = Application(ORDERED)
    first, second, third = await park(application, 1, 2, 3, key="a")
    application.acts.clear()
    replay = ParkedReplay(application.parking, [application.consumer])
    run = replay.run(ParkedFilter(numbers=(first, second)))
    parking, find = application.parking, application.parking.find

    async def late(*arguments: Any, **options: Any) -> Any:
        found = await find(*arguments, **options)
        if first in [event.number for event in application.parking.events]:
            await parking.discard(first)
        return found

    application.parking.find = late  # type: ignore[method-assign]
    found = [(each.event.number, each.outcome) async for each in run]
    assert found == [(second, "replayed"), (third, "replayed")]


async def test_a_dry_run_reports_each_failed_event_of_a_key_as_ready() -> None:
    application = Application(ORDERED)
    await park(application, 1, 2, key="a")
    parked = parked_in(application.database)  # as if the second event had failed by itself too
    parked.update({number: replace(event, reason="handler-failed") for number, event in parked.items()})
    application.acts.clear()
    assert await outcomes(application, dry_run=True) == [("e1", "ready"), ("e2", "ready")]
    assert await outcomes(application) == [("e1", "replayed"), ("e2", "replayed")]


@in_virtual_time
async def test_an_event_that_arrives_during_the_replay_of_its_key_is_parked_at_once_and_replayed_next() -> None:
    application, go = Application(ORDERED), asyncio.Event()
    await park(application, 1, key="a")

    async def act(_event: OrderPlaced) -> None:
        await go.wait()

    application.acts = {1: act}
    replaying = asyncio.create_task(outcomes(application))
    await settle()
    application.publish(2, key="a")
    async with application.running(application.consuming()):
        await application.settled(2)
        assert [event.event_id for event in application.parking.events] == ["e1", "e2"]
        go.set()
        assert await replaying == [("e1", "replayed"), ("e2", "replayed")]


@in_virtual_time
async def test_idle_time_of_a_replay_is_not_saved_up_for_a_burst() -> None:
    pace = Throttle(2.0, clock=now)
    for _ in range(2):
        await asyncio.sleep(60)
        began = now()
        for _ in range(9):
            await pace.wait(1)
        assert now() - began == pytest.approx(4.0)


@in_virtual_time
async def test_every_attempt_of_a_replay_counts_towards_its_rate() -> None:
    application = Application(ORDERED)
    await park(application, 1, 2, 3, key="a")
    await park(application, 4, 5)
    application.acts = {4: failing(ValueError())}
    times: list[float] = []

    async def note(_event: OrderPlaced) -> None:
        times.append(now())

    application.acts |= dict.fromkeys((1, 2, 3, 5), note)
    began = now()
    found = await outcomes(application, rate=0.5, clock=now)
    assert len(found) == 5
    assert [round(at - began) for at in times] == [0, 2, 4, 8]


async def test_a_suspect_is_replayed_alone_and_other_events_are_replayed_concurrently_with_handlers() -> None:
    application = Application({**UNORDERED, "retry_delays": (0.0,), "concurrency": 2})
    go = asyncio.Event()

    async def wait(_event: OrderPlaced) -> None:
        await go.wait()

    application.acts[1] = hanging
    take_back, application.inbox.take_back = application.inbox.take_back, _nothing  # type: ignore[method-assign]
    application.publish(1)
    for _ in range(3):
        async with application.running(application.consuming(drain_timeout=0.0)):
            await settle()
    application.inbox.take_back = take_back  # type: ignore[method-assign]
    assert [str(event.reason) for event in application.parking.events] == ["process-died"]
    application.acts = {7: wait, 1: _nothing}
    application.publish(7)
    before = application.starts[1]
    async with application.running(application.consuming(drain_timeout=5.0)):
        await settle()
        replaying = asyncio.create_task(outcomes(application))
        await settle()
        assert application.starts[1] == before
        go.set()
        assert await replaying == [("e1", "replayed")]
        go.clear()
        await park_concurrently(application)
        application.publish(7 + 1)
        application.acts[8] = wait
        await settle()
        assert application.starts[8] == 1
        application.acts.pop(9)
        assert await outcomes(application) == [("e9", "replayed")]
        go.set()


async def park_concurrently(application: Application) -> None:
    application.acts[9] = failing(FatalEventError())
    application.publish(9)
    await application.settled(3)


async def _nothing(*_: object) -> None:
    pass


async def test_the_attempt_number_of_a_replay_is_one_more_than_before() -> None:
    application = Application({"retry_delays": (0.0,) * 2})
    application.acts[1] = failing(ValueError())
    application.publish(1)
    async with application.running():
        await application.settled(1)
    assert await outcomes(application) == [("e1", "failed")]
    application.acts.clear()
    assert await outcomes(application) == [("e1", "replayed")]
    assert application.attempts == [(1, attempt) for attempt in range(1, 6)]
