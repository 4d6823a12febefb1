"""Lot: one parking of a container, by the name of its provider."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mediator.cli.errors import CommandError
from mediator.cli.target import nearest
from mediator.dependency_injector import lifespan
from mediator.dependency_injector.catalog import instances_of
from mediator.distributed.consumer import EventConsumer
from mediator.distributed.parking import ParkedEvent, ParkedFilter, Parking

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Lot:
    """A parking.

    Attributes:
        label: `container.<name>` of its provider.
        parking: Itself.
    """

    label: str
    parking: Parking

    async def events(self, which: ParkedFilter) -> AsyncIterator[ParkedEvent]:
        """All events that fit, page by page."""
        last = 0
        while page := await self.parking.find(which, after=last, limit=_PAGE):
            for event in page:
                last = event.number
                yield event


@asynccontextmanager
async def opened_lots(container: Any) -> AsyncGenerator[Sequence[Lot]]:
    """The parkings of a container; only what they need is started.

    Raises:
        CommandError: It has none.
        Exception: What a resource or the database raised.
    """
    try:
        yield await _lots(container)
    finally:
        stopping = container.shutdown_resources()
        if inspect.isawaitable(stopping):
            await stopping


@asynccontextmanager
async def replaying_lots(container: Any) -> AsyncGenerator[tuple[Sequence[Lot], Sequence[EventConsumer]]]:
    """The parkings and the consumers of a container that is started, without its workers.

    Raises:
        CommandError: It has no parking.
        ContainerValidationError: It is faulty.
        Exception: What a resource or the database raised.
    """
    async with lifespan(container, relay_elsewhere=True):
        lots = await _lots(container)
        consumers = [await _made(provider) for _, provider, _ in instances_of(container, EventConsumer)]
        yield lots, consumers


async def _lots(container: Any) -> Sequence[Lot]:
    found = [Lot(label, await _made(provider)) for label, provider, _ in instances_of(container, Parking)]
    if not found:
        raise CommandError("The container has no parking: add a provider of a SqlAlchemyParking to it.")
    return found


async def _made(provider: Any) -> Any:
    made = provider()
    return await made if inspect.isawaitable(made) else made


def chosen_lot(lots: Sequence[Lot], label: str | None) -> Lot:
    """The one parking of that label, or the only one there is.

    Raises:
        CommandError: There is none of that label, or several to choose from.
    """
    labels = [lot.label for lot in lots]
    if label is None and len(lots) > 1:
        raise CommandError(f"There are several parkings: say --parking with one of {', '.join(labels)}.")
    for lot in lots:
        if label in {None, lot.label, lot.label.rpartition(".")[2]}:
            return lot
    shorter = [each.rpartition(".")[2] for each in labels]
    raise CommandError(f"The container has no parking {label!r}.{nearest(str(label), shorter)}")
