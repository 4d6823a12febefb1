"""Each constructor refuses numbers that cannot work, and names the setting."""

import math
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from dependency_injector import containers

from mediator.behaviors import Circuit, ConcurrencyLimitBehavior, MemoryCache, RateLimitBehavior, TimeoutBehavior
from mediator.behaviors.retry import RetryBehavior
from mediator.dependency_injector import MediatorProvider, lifespan
from mediator.distributed.inbox import retry_schedule
from mediator.distributed.throttle import Throttle
from mediator.errors import ContainerError, SettingError
from mediator.mediator import Mediator
from mediator.nats import (
    NatsCluster,
    NatsConnection,
    NatsEventPublisher,
    NatsEventSubscription,
    StreamSettings,
    open_connection,
)
from mediator.nats.topology import ConsumerSettings
from mediator.registry import Registry
from mediator.sqlalchemy import open_engine
from mediator.strategies import Concurrent
from mediator.testing import InMemoryDatabase, InMemoryUnitOfWork

COUNT = [0, -1, 1.5, math.nan, math.inf, True, "3", None, 2**63]
SECONDS = [0, -1, -0.5, math.nan, math.inf, -math.inf, True, "3", None]
PAUSE = [-1, -0.5, math.nan, math.inf, True, "3", None]
UNBOUNDED = [0, -1, math.nan, True, "3", None]  # infinity means no bound
CONNECTION: Any = object.__new__(NatsConnection)
DATABASE = InMemoryDatabase()


async def entered(context: Any) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(context)


def unit_of_work(**given: Any) -> object:
    return InMemoryUnitOfWork(DATABASE, **given)


SETTINGS: list[tuple[Callable[..., Any], str, list[Any]]] = [
    (Circuit, "failures", COUNT),
    (Circuit, "seconds", SECONDS),
    (MemoryCache, "max_entries", COUNT),
    (lambda **given: RetryBehavior(on=OSError, **given), "attempts", COUNT),
    (lambda **given: RetryBehavior(on=OSError, **given), "first_wait", PAUSE),
    (lambda **given: RetryBehavior(on=OSError, **given), "last_wait", PAUSE),
    (ConcurrencyLimitBehavior, "limit", COUNT),
    (lambda **given: ConcurrencyLimitBehavior(limit=1, **given), "max_wait", PAUSE),
    (TimeoutBehavior, "seconds", SECONDS),
    (RateLimitBehavior, "limit", COUNT),
    (lambda **given: RateLimitBehavior(limit=1, **given), "seconds", SECONDS),
    (lambda **given: RateLimitBehavior(limit=1, **given), "burst", COUNT[:-2]),
    (lambda **given: RateLimitBehavior(limit=1, **given), "max_wait", PAUSE),
    (lambda **given: Mediator(Registry(), **given), "max_depth", COUNT[:-2]),
    (MediatorProvider, "max_depth", COUNT[:-2]),
    (StreamSettings, "partitions", [*COUNT, 65]),
    (StreamSettings, "replicas", COUNT[:-2]),
    (StreamSettings, "max_bytes", COUNT[:-2]),
    (StreamSettings, "max_age", [*SECONDS, 1e300]),
    (StreamSettings, "duplicate_window", [*SECONDS, 1e300]),
    (lambda **given: ConsumerSettings("shop", ("events.>",), **given), "ack_wait", [*SECONDS, 1e300]),
    (lambda **given: ConsumerSettings("shop", ("events.>",), **given), "max_ack_pending", COUNT),
    (lambda **given: NatsEventPublisher(CONNECTION, "shop", **given), "timeout", SECONDS),
    (lambda **given: NatsEventSubscription(CONNECTION, "shop", **given), "ack_wait", [*SECONDS[:-1], 1e300]),
    (lambda **given: NatsEventSubscription(CONNECTION, "shop", **given), "max_ack_pending", COUNT),
    (NatsCluster, "size", [*COUNT, 2]),
    (lambda **given: open_connection("nats://127.0.0.1:1", **given), "probe_interval", UNBOUNDED),
    (Throttle, "rate", SECONDS[:-1]),
    (lambda retry_delays: retry_schedule(parks=True, retry_delays=(1.0, retry_delays)), "retry_delays", PAUSE),
    (lambda later_delays: retry_schedule(parks=True, later_delays=(1.0, later_delays)), "later_delays", PAUSE),
    (unit_of_work, "max_event_bytes", UNBOUNDED),
    (unit_of_work, "commit_timeout", UNBOUNDED),
    (unit_of_work, "max_domain_events", COUNT[:-2]),
]
CASES = [
    pytest.param(make, setting, value, id=f"{number} {setting}={value!r}")
    for number, (make, setting, values) in enumerate(SETTINGS)
    for value in values
]


@pytest.mark.parametrize(("make", "setting", "value"), CASES)
def test_the_refusal_of_an_impossible_setting_names_the_setting(make: Any, setting: str, value: Any) -> None:
    with pytest.raises(SettingError) as caught:
        make(**{setting: value})
    assert caught.value.subject == setting
    assert str(caught.value).startswith(f"The setting {setting}=")


@pytest.mark.parametrize("value", [0, -1, 1.5, math.nan, True, "3"])
def test_an_impossible_concurrency_is_refused(value: Any) -> None:
    with pytest.raises(ContainerError, match="at least 1"):
        Concurrent(limit=value)


@pytest.mark.parametrize("value", [-5, math.nan, True, "3", None])
async def test_an_impossible_stop_timeout_is_refused_before_anything_starts(value: Any) -> None:
    with pytest.raises(SettingError, match="drain_timeout"):
        await entered(lifespan(containers.DynamicContainer(), drain_timeout=value))


@pytest.mark.parametrize("setting", ["lock_timeout", "idle_timeout", "statement_timeout", "connect_timeout"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 1e300, True, "3", None])
async def test_an_impossible_database_timeout_is_refused(setting: str, value: Any) -> None:
    with pytest.raises(SettingError, match=setting):
        await entered(open_engine("sqlite:///never.db", **{setting: value}))


@pytest.mark.parametrize("value", [-1, math.nan, True, "3", None])
async def test_an_impossible_wait_for_other_writers_is_refused(value: Any) -> None:
    with pytest.raises(SettingError, match="writer_timeout"):
        await entered(open_engine("sqlite:///never.db", writer_timeout=value))
