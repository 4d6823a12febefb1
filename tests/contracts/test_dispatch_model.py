"""Random programs of nested dispatches behave exactly like the reference, also when several run concurrently."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from structlog.testing import capture_logs

from mediator import Mediator, Notification
from mediator.dependency_injector import lifespan
from mediator.msgspec import MsgspecCodec
from tests.contracts.model.application import Application, Written, begin_strand
from tests.contracts.model.generation import programs
from tests.contracts.model.program import shape
from tests.contracts.model.reference import Reference


async def outcome_of(run: Awaitable[Any]) -> str | None:
    """Return the response or the error of a program."""
    try:
        return await run
    except BaseException as error:
        return shape(error)


async def run(mediator: Mediator, number: int, message: Any) -> str | None:
    begin_strand(str(number))
    if isinstance(message, Notification):
        return await outcome_of(mediator.publish(message, strategy=message.strategy))
    return await outcome_of(mediator.send(message))


def by_strand(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    strands: dict[str, list[Any]] = defaultdict(list)
    for strand, what in pairs:
        strands[strand].append(what)
    return dict(sorted(strands.items()))


def in_order(notes: Iterable[tuple[str, str, Any]]) -> list[tuple[str, str, Any]]:
    """Return the records of each strand. For concurrent strands, only the order within each strand is compared."""
    strands = by_strand((strand, (strand, text, scope)) for strand, text, scope in notes)
    return [note for strand in strands.values() for note in strand]


def one_to_one(pairs: Iterable[tuple[Any, Any]]) -> bool:
    distinct = set(pairs)
    return len({one for one, _ in distinct}) == len(distinct) == len({other for _, other in distinct})


async def check(messages: list[Any]) -> None:
    container = Application()
    async with lifespan(container, relay_elsewhere=True) as application:
        before = asyncio.all_tasks()
        runs = [run(application.mediator(), *each) for each in enumerate(messages)]
        outcomes = await asyncio.gather(*map(asyncio.create_task, runs))
        assert asyncio.all_tasks() == before
        recorder, database = container.recorder(), container.database()

    reference = Reference()
    assert outcomes == [await outcome_of(reference.run(str(number), each)) for number, each in enumerate(messages)]
    observed, expected = in_order(recorder.notes), in_order(reference.notes)
    assert [note[:2] for note in observed] == [note[:2] for note in expected]
    assert one_to_one((one[2], other[2]) for one, other in zip(observed, expected, strict=True))
    assert recorder.built == reference.built
    events = [MsgspecCodec().decode(each.data, Written) for each in database.outbox]
    assert by_strand((each.strand, each.key) for each in events) == by_strand(reference.committed)
    assert set(database.tables.get("rows", ())) == set(reference.committed)
    assert one_to_one((each, (type(each), each.scope)) for each in recorder.scoped)
    assert {each.disposals for each in recorder.scoped} <= {1}
    event(f"{len(expected) // 20 * 20} notes or more, {min(len(reference.committed), 3)} rows or more")


@pytest.mark.timeout(600)  # half a minute of processor time; a busy machine may take much longer
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(programs())
def test_order_scopes_and_committed_effects_equal_those_of_the_reference_model(messages: list[Any]):
    with capture_logs():
        asyncio.run(check(messages))
