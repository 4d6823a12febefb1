"""Messages of strangers on the real tables: on every database, each one takes effect or is parked as a whole."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import String
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from mediator.distributed.cloudevents import CloudEvent, bucket_of
from mediator.distributed.inbox import Ordering, ParkedReplay
from mediator.distributed.parking import ParkedEvent, ParkedFilter
from mediator.sqlalchemy import open_engine
from mediator.sqlalchemy.schema import metadata
from tests.adapters.sqlalchemy.group import Group, prepare
from tests.postgres import PostgresServer
from tests.unit.distributed.inbox.application import TYPE

Message = tuple[dict[str, str], bytes]
CE = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "legacy", "ce-type": f"{TYPE}.v1"}
GOOD = b'{"number": 7}'
FAILING = b'{"number": 13}'
"""The body of an event whose handler fails, so that the event is parked with everything that can be read of it."""
TEXTS = ("id", "source", "partitionkey", "datacontenttype", "subject", "correlationid", "tenant")
ATTRIBUTES = (*TEXTS, "type", "time")
SIZES = sorted(
    {
        size + more
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, String) and (size := column.type.length) is not None
        for more in (0, 1)
    }
)
"""The lengths of the columns, in characters, and one character more."""
EXTREME_TIMES = [
    "2026-01-01T00:00:00.000001+23:59:59.999999",
    "2026-01-01T00:00:00.000001-23:59:59.999999",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999-23:59",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z",
    "2026-W01-1T00:00:00Z",
    "-1-01-01T00:00:00Z",
]
REFUSED = ["\x00", "a\x00b", "%00", "\udc80", "%ED%B2%80", "\ufffe\uffff", "\U0010ffff" * 300, "\x7f\x9b", "\u202e"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log no tracebacks of the thousand failing handlers."""
    with capture_logs():
        yield


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    async with open_engine(url) as opened:
        await prepare(opened)
        yield opened


async def take(group: Group, messages: Sequence[Message]) -> Sequence[ParkedEvent]:
    """Consume messages of one partition and a good event after them, and return the parked ones."""
    for headers, data in messages:
        group.broker.store_message(TYPE, headers, data)
    key = next(key for key in map(str, itertools.count()) if bucket_of(key, "") % 16 == 0)
    at = datetime(2026, 1, 2, tzinfo=UTC)
    group.broker.store(CloudEvent("last", f"{TYPE}.v1", at, b'{"number": 99}', partitionkey=key, source="shop"))
    async with group.running():
        await group.settled(len(messages) + 1)
    assert (99, 1) in await group.effects()
    return await group.parked()


def different(group: Group, messages: Sequence[Message]) -> int:
    """Return how many events the messages are: readable messages with the same source and id are one event."""
    readable = [(each.source, each.id) for each in group.broker.events]
    return len(messages) + 1 - len(readable) + len(set(readable))


def structured(**changes: Any) -> Message:
    members = {name[3:]: value for name, value in CE.items()} | {"data": {"number": 13}} | changes
    return {"content-type": "application/cloudevents+json"}, json.dumps(members).encode()


async def test_events_with_any_time_take_effect_or_are_parked(engine: AsyncEngine) -> None:
    group = Group(engine, ordering="key")
    times = [(time, data) for time in EXTREME_TIMES for data in (FAILING, GOOD)]
    messages = [({**CE, "ce-id": f"{number}", "ce-time": time}, data) for number, (time, data) in enumerate(times)]
    parked = await take(group, messages)
    effects = [number for number, _ in await group.effects()]
    assert len(parked) + len(effects) == len(messages) + 1
    assert effects.count(7) > len(EXTREME_TIMES) / 2


async def test_events_with_attributes_of_any_length_and_characters_can_be_parked(engine: AsyncEngine) -> None:
    group, messages = Group(engine, ordering="key"), list[Message]()
    for value in [fill * size for size in SIZES for fill in ("x", "\U0001f600")] + REFUSED:
        messages.append(({**CE, **{f"ce-{name}": value for name in TEXTS}}, FAILING))
        messages.append(structured(**dict.fromkeys(TEXTS, value)))
        messages.append(({**CE, "ce-type": value, "ce-time": value, "ce-partitionkey": value}, FAILING))
    parked = await take(group, messages)
    assert len(parked) == different(group, messages) - 1
    sent = [(json.dumps(headers), data) for headers, data in messages]
    assert all((json.dumps(dict(each.headers)), each.data) in sent for each in parked)


async def test_a_parked_event_with_extreme_values_is_replayed(engine: AsyncEngine) -> None:
    group = Group(engine, ordering="key")
    headers = {
        **CE,
        "ce-time": EXTREME_TIMES[0],
        "ce-id": "%00",
        "ce-source": "s" * 300,
        "ce-partitionkey": "\U0001f600" * 99,
    }
    (parked,) = await take(group, [(headers, FAILING)])
    await group.parking.edit(parked.number, data=GOOD)
    replay = ParkedReplay(group.parking, [group.consumer])
    assert [result.outcome async for result in replay.run(ParkedFilter(consumer=group.name))] == ["replayed"]
    assert await group.effects() == [(7, 2), (99, 1)]


texts = st.one_of(
    st.text(max_size=300),
    st.sampled_from([*EXTREME_TIMES, *REFUSED]),
    st.builds(lambda char, size: char * size, st.characters(), st.sampled_from(SIZES)),
    st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
)
names = st.one_of(st.sampled_from([*(f"ce-{name}" for name in ATTRIBUTES), "content-type", "x"]), st.text(max_size=99))
bodies = st.one_of(
    st.sampled_from([GOOD, FAILING, b"", b"[" * 100_000]),
    st.binary(max_size=100),
    st.dictionaries(st.sampled_from(ATTRIBUTES), texts).map(lambda members: structured(**members)[1]),
)
any_message = st.builds(
    lambda base, more, body: ({**base, **more}, body),
    st.sampled_from([{}, CE, {"content-type": "application/cloudevents+json"}]),
    st.dictionaries(names, texts, max_size=4),
    bodies,
)


@pytest.mark.thorough("waits in real time, or does much work")
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_every_message_takes_effect_or_is_parked(dialect: str, tmp_path: Any, request: pytest.FixtureRequest) -> None:
    with asyncio.Runner() as runner:
        server: PostgresServer | None = request.getfixturevalue("postgres") if dialect == "postgresql" else None

        async def check(engine: AsyncEngine, messages: Sequence[Message], ordering: Ordering) -> None:
            group = Group(engine, ordering=ordering)
            parked = await take(group, messages)
            assert len(parked) + len(await group.effects()) == different(group, messages)

        @asynccontextmanager
        async def opened() -> AsyncIterator[AsyncEngine]:
            async with AsyncExitStack() as stack:
                file = f"sqlite:///{tmp_path}/strangers.db"
                url = file if server is None else await stack.enter_async_context(server.database())
                engine = await stack.enter_async_context(open_engine(url))
                await prepare(engine)
                yield engine

        database = opened()
        engine = runner.run(database.__aenter__())

        @settings(max_examples=12)
        @given(messages=st.lists(any_message, min_size=1, max_size=10), ordering=st.sampled_from(["none", "key"]))
        def property_holds(messages: list[Message], ordering: Ordering) -> None:
            runner.run(check(engine, messages, ordering))

        try:
            property_holds()
        finally:
            runner.run(database.__aexit__(None, None, None))
