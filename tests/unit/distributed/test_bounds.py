"""Impossible settings are refused by the constructors of unit of work, outbox, inbox, relay and consumer."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mediator import OutboxRelay
from mediator.errors import SettingError
from mediator.msgspec import MsgspecCodec
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyOutbox, SqlAlchemyUnitOfWork
from mediator.testing import (
    InMemoryBroker,
    InMemoryDatabase,
    InMemoryEventPublisher,
    InMemoryOutbox,
    InMemoryUnitOfWork,
)
from tests.unit.distributed.inbox.application import Application

WRONG: dict[str, tuple[Any, ...]] = {
    "count": (0, -1, 1.5, math.nan, True, "5"),
    "positive": (0, -1, math.nan, "5"),
    "not negative": (-1, math.nan, "5"),
    "a day": (0, 86_401, math.inf, math.nan),
}


def wrong_settings(**settings: str) -> pytest.MarkDecorator:
    """Return each setting with each number that must be refused."""
    cases = [(name, value) for name, kind in settings.items() for value in WRONG[kind.replace("_", " ")]]
    return pytest.mark.parametrize(("name", "value"), cases)


@pytest.fixture
def engine(tmp_path: Path) -> AsyncEngine:
    return create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")


def refuses(make: Callable[..., object], name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=name):
        make(**{name: value})


@wrong_settings(max_pending="count", max_domain_events="count", max_event_bytes="positive", commit_timeout="positive")
async def test_a_unit_of_work_refuses_numbers_that_cannot_work(engine: AsyncEngine, name: str, value: Any):
    refuses(lambda **options: SqlAlchemyUnitOfWork(engine, **options), name, value)
    refuses(lambda **options: InMemoryUnitOfWork(InMemoryDatabase(), **options), name, value)
    SqlAlchemyUnitOfWork(engine, max_pending=1, max_domain_events=1, max_event_bytes=1, commit_timeout=0.1)


@pytest.mark.parametrize("value", ["", "x" * 128, "a\nb", "a\0b", None, 3])
async def test_a_unit_of_work_refuses_a_codec_whose_content_type_cannot_be_stored(engine: AsyncEngine, value: Any):
    class Codec(MsgspecCodec):
        content_type = value

    with pytest.raises(SettingError, match="content_type"):
        SqlAlchemyUnitOfWork(engine, codec=Codec())
    with pytest.raises(SettingError, match="content_type"):
        InMemoryUnitOfWork(InMemoryDatabase(), codec=Codec())


@wrong_settings(archive_seconds="not negative", frozen_seconds="a day")
async def test_an_outbox_refuses_numbers_that_cannot_work(engine: AsyncEngine, name: str, value: Any):
    refuses(lambda **options: SqlAlchemyOutbox(engine, **options), name, value)
    SqlAlchemyOutbox(engine, archive_seconds=0, frozen_seconds=0.5)


@wrong_settings(keep_seconds="positive")
async def test_an_inbox_refuses_numbers_that_cannot_work(engine: AsyncEngine, name: str, value: Any):
    refuses(lambda **options: SqlAlchemyInbox(engine, **options), name, value)


@wrong_settings(
    batch_size="count",
    poll_interval="positive",
    batch_timeout="positive",
    drain_timeout="not negative",
    clean_interval="not negative",
)
def test_a_relay_refuses_numbers_that_cannot_work(name: str, value: Any):
    outbox = InMemoryOutbox(InMemoryDatabase())
    publisher = InMemoryEventPublisher(InMemoryBroker(), application="shop")
    refuses(lambda **options: OutboxRelay(outbox, publisher, **options), name, value)
    OutboxRelay(outbox, publisher, batch_size=1, drain_timeout=0, clean_interval=0)


@wrong_settings(
    concurrency="count",
    prefetch="count",
    handler_timeout="positive",
    clean_interval="positive",
    unknown_type_grace="not negative",
    drain_timeout="not negative",
)
def test_a_consumer_refuses_numbers_that_cannot_work(name: str, value: Any):
    refuses(Application().consuming, name, value)
    Application().consuming(concurrency=1, prefetch=1, retry_delays=(), unknown_type_grace=0, drain_timeout=0)
