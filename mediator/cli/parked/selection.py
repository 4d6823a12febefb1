"""Selection: chooses the parked events that a command works on, by the options of the command."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from mediator.blocks import asynccontextmanager
from mediator.cli.container import is_called, unknown
from mediator.cli.options import KEY, NAME, TYPE, CommandDecorator, moment, selecting
from mediator.cli.work import CommandError
from mediator.dependency_injector import lifespan
from mediator.dependency_injector.catalog import instances_of
from mediator.dependency_injector.lifespan import Ask, made, opened
from mediator.distributed.inbox import EventConsumer
from mediator.distributed.parking import ParkedEvent, ParkedFilter, Parking, ParkReason

_PAGE = 500
"""The number of events that are read from the database at a time, without their bodies."""
_PAGE_WITH_BODIES = 20
"""The number of events that are read at a time with their bodies. A body may have a megabyte."""


@dataclass(frozen=True, slots=True)
class LabeledParking:
    """A parking with the label of its provider."""

    label: str
    parking: Parking

    async def events(self, which: ParkedFilter, *, bodies: bool) -> AsyncIterator[ParkedEvent]:
        """Yield all matching events, which are read from the database in pages."""
        last, limit = 0, _PAGE_WITH_BODIES if bodies else _PAGE
        while page := await self.parking.find(which, after=last, limit=limit, bodies=bodies):
            for event in page:
                last = event.number
                yield event


@asynccontextmanager
async def opened_parkings(container: Any) -> AsyncGenerator[Sequence[LabeledParking]]:
    """Yield the parkings of a container. Only the resources that the parkings need are started."""
    async with opened(container) as ask:
        yield await _parkings(container, ask)


@asynccontextmanager
async def replaying_parkings(
    container: Any,
) -> AsyncGenerator[tuple[Sequence[LabeledParking], Sequence[EventConsumer]]]:
    """Start a container without its workers, and yield its parkings and consumers."""
    async with lifespan(container, relay_elsewhere=True):
        consumers = [provider for _, provider, _ in instances_of(container, EventConsumer)]
        yield await _parkings(container, made), [await made(each) for each in consumers]


async def _parkings(container: Any, ask: Ask) -> Sequence[LabeledParking]:
    found = [LabeledParking(label, await ask(provider)) for label, provider, _ in instances_of(container, Parking)]
    if not found:
        raise CommandError("The container has no parking: add a provider of a SqlAlchemyParking to it.")
    return found


def chosen_parking(parkings: Sequence[LabeledParking], label: str | None) -> LabeledParking:
    """Return the parking with the given label. Without a label, return the only parking."""
    labels = [labeled.label for labeled in parkings]
    if label is None and len(parkings) > 1:
        raise CommandError(f"There are several parkings: give --parking with one of {', '.join(labels)}.")
    for labeled in parkings:
        if is_called(labeled.label, label):
            return labeled
    raise unknown("parking", label, labels)


@dataclass(frozen=True, slots=True)
class Selection:
    """The parked events that a command works on, in one parking or in all parkings of the container."""

    which: ParkedFilter
    parking: str | None = None

    def restricted(self, numbers: Sequence[int], *, everything: bool) -> "Selection":
        """Return this selection, limited to `numbers` if numbers are given.

        If neither numbers nor options choose events, `everything` (`--all`) has to be true.
        """
        chosen = replace(self, which=replace(self.which, numbers=tuple(numbers) or None))
        chooses = chosen.which != ParkedFilter()
        if chooses and everything:
            raise CommandError("--all cannot be combined with numbers or with options that choose events.")
        if not chooses and not everything:
            raise CommandError("Choose events by numbers, by options such as --consumer and --reason, or by --all.")
        return chosen

    def of(self, parkings: Sequence[LabeledParking]) -> Sequence[LabeledParking]:
        """Return the parkings that are selected."""
        if self.parking is not None or self.which.numbers is not None:
            return [chosen_parking(parkings, self.parking)]
        return parkings


def _selection(
    *,
    consumer: str | None,
    event_type: str | None,
    key: str | None,
    reason: str | None,
    direction: Any,
    since: float | None,
    waiting: bool | None,
    held_by: str | None,
    parking: str | None,
) -> Selection:
    which = ParkedFilter(
        direction=direction,
        consumer=consumer,
        type=event_type,
        key=key,
        reason=reason,
        since=since,
        waiting=waiting,
        held_by=held_by,
    )
    return Selection(which, parking)


selecting_parked: CommandDecorator = selecting(
    _selection,
    click.option("--consumer", type=NAME, help="Only events of the consumer with this group."),
    TYPE,
    KEY,
    click.option(
        "--reason",
        type=click.Choice([each.value for each in ParkReason]),
        help="Only events that were parked for this reason.",
    ),
    click.option("--direction", type=click.Choice(["in", "out"]), help="Only incoming or only outgoing events."),
    click.option(
        "--since",
        callback=moment,
        help="Only events parked since this time: ISO 8601 (UTC), or an age such as 90s, 30m, 12h, 7d.",
    ),
    click.option(
        "--waiting/--not-waiting",
        default=None,
        help="Only events that their consumer tries again by itself (--waiting), or only the others (--not-waiting).",
    ),
    click.option(
        "--held-by",
        type=NAME,
        help="Only events that the circuit of this handler holds. Give the module and the class, as `show` prints them.",
    ),
    click.option(
        "--parking", type=NAME, help="Only events in the parking of this provider, such as container.parking."
    ),
)
"""Adds the options that choose parked events to a command."""
