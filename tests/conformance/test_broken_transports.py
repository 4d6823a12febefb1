"""A transport that breaks a promise does not pass the conformance suites: each fault is found by a case."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import PublishResult
from mediator.testing import InMemoryBroker, InMemoryEventPublisher, InMemoryEventSubscription
from mediator.testing.conformance import (
    ContainerConformance,
    RequestConformance,
    StorageConformance,
    TransportCapability,
    TransportConformance,
    TransportUnderTest,
)
from mediator.testing.memory import broker as broker_module
from tests.conformance.transports import in_memory
from tests.unit.virtual_time import in_virtual_time

pytestmark = pytest.mark.thorough("runs the conformance suites once for each planted fault")


class LosingPublisher(InMemoryEventPublisher):
    """Reports each event as stored, but does not store the last one."""

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        await super().publish(events[:-1])
        return [PublishResult(event, None) for event in events]


class ReversingPublisher(InMemoryEventPublisher):
    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        return list(reversed(await super().publish(list(reversed(events)))))


class DoublingPublisher(InMemoryEventPublisher):
    """Sends each event with a new message id at each attempt."""

    tries = 0

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        self.tries += 1
        await super().publish([replace(event, id=f"{event.id}-{self.tries}") for event in events])
        return [PublishResult(event, None) for event in events]


class RaisingPublisher(InMemoryEventPublisher):
    """Raises the original error of an outage."""

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        results = await super().publish(events)
        for result in results:
            if result.error is not None:
                raise OSError("connection refused") from result.error
        return results


class UnfilteredSubscription(InMemoryEventSubscription):
    @asynccontextmanager
    async def open(self, event_types: Any, **options: Any) -> AsyncIterator[Any]:
        everything = [*event_types, "shop.order-placed", "shop.order-lost", "else.thing", "shop.other"]
        async with super().open(everything, **options) as deliveries:
            yield deliveries


class OneGroupSubscription(InMemoryEventSubscription):
    """All groups share one position in the stream."""

    def __init__(self, broker: InMemoryBroker, group: str, **options: Any) -> None:
        super().__init__(broker, "everybody", **options)


class OwnerlessSubscription(InMemoryEventSubscription):
    """Does not check which application owns a group."""

    def use_application(self, application: str | None, /) -> None:
        pass


def pausing(**methods: Any) -> Callable[[], Any]:
    """Return deliveries that pause in another way."""
    return lambda: patch.multiple(broker_module._Deliveries, **methods)


_next = broker_module._Deliveries.next


async def lose_while_paused(self: Any) -> Any:
    """Take the events that arrive during a pause, and neither return nor settle them."""
    while self._is_paused:
        self._group.changed.clear()
        while self._group.take(ordered=self._ordered) is not None:
            pass
        await self._group.changed.wait()
    return await _next(self)


def pause_once_more(self: Any) -> None:
    self._is_paused += 1


def resume_once(self: Any) -> None:
    self._is_paused -= bool(self._is_paused)
    self._group.changed.set()


def without_answer(name: str) -> Callable[[], Any]:
    """Return deliveries that do not send one kind of answer to the broker."""

    async def unheard(self: Any, *args: Any) -> None:
        self._timer.cancel() if hasattr(self, "_timer") else None

    return lambda: patch.object(broker_module._Delivery, name, unheard)


@dataclass(frozen=True)
class Broken:
    name: str
    publisher: Callable[..., InMemoryEventPublisher] = InMemoryEventPublisher
    subscription: Callable[..., InMemoryEventSubscription] = InMemoryEventSubscription
    patched: Callable[[], Any] | None = None


BROKEN = [
    Broken("an event reported as stored is not stored", publisher=LosingPublisher),
    Broken("events of a key are stored in another order", publisher=ReversingPublisher),
    Broken("a repeated event is stored twice", publisher=DoublingPublisher),
    Broken("an outage raises another error", publisher=RaisingPublisher),
    Broken("a group receives events of other types", subscription=UnfilteredSubscription),
    Broken("two groups share one position in the stream", subscription=OneGroupSubscription),
    Broken("two applications share a group", subscription=OwnerlessSubscription),
    Broken("an acknowledgement is not sent", patched=without_answer("ack")),
    Broken("a handed back event is not redelivered", patched=without_answer("nak")),
    Broken("a terminated event is redelivered", patched=without_answer("term")),
    Broken("events that arrive during a pause are lost", patched=pausing(next=lose_while_paused)),
    Broken("a pause never ends", patched=pausing(resume=lambda _: None)),
    Broken("a pause is claimed but does nothing", patched=pausing(pause=lambda _: None)),
    Broken("two pauses need two resumes", patched=pausing(pause=pause_once_more, resume=resume_once)),
]


async def failures(broken: Broken) -> list[str]:
    """Run the suite until a case fails, and return the failed case."""

    class Suite(TransportConformance):
        capabilities = frozenset(TransportCapability) - {TransportCapability.SIZE_LIMIT}
        patience = 5.0

        @asynccontextmanager
        async def opened(self) -> AsyncIterator[TransportUnderTest]:
            broker = InMemoryBroker()
            async with in_memory(broker) as healthy:
                yield replace(
                    healthy,
                    publisher=broken.publisher(broker, application="shop"),
                    subscribe=partial(broken.subscription, broker),
                )

    for name in Suite.cases():
        try:
            async with asyncio.timeout(60):  # virtual seconds, several times as long as the longest case takes
                if broken.patched is None:
                    await getattr(Suite(), name)()
                else:
                    with broken.patched():
                        await getattr(Suite(), name)()
        except (Exception, ExceptionGroup):
            return [name]
    return []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
@in_virtual_time
async def test_the_suite_rejects_a_transport_that_breaks_a_promise(broken: Broken) -> None:
    assert await failures(broken) != []


@in_virtual_time
async def test_the_suite_accepts_a_transport_that_keeps_all_promises() -> None:
    assert await failures(Broken("none")) == []


def test_each_suite_has_its_minimum_number_of_cases():
    assert len(StorageConformance.cases()) >= 60
    assert len(TransportConformance.cases()) >= 25
    assert len(ContainerConformance.cases()) >= 10
    assert len(RequestConformance.cases()) >= 10
