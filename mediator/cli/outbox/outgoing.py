"""Outgoing: opens the outboxes of a container with their publishers, and chooses and shows events of outboxes."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from mediator.blocks import asynccontextmanager
from mediator.cli.container import is_called, unknown
from mediator.cli.options import KEY, NAME, TYPE, CommandDecorator, moment, selecting
from mediator.cli.rows import as_time, body_of, table
from mediator.cli.work import CommandError
from mediator.dependency_injector.catalog import instances_of
from mediator.dependency_injector.graph import Graph
from mediator.dependency_injector.lifespan import Ask, opened
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import (
    EventPublisher,
    Outbox,
    OutboxContents,
    OutboxCount,
    OutboxFilter,
    OutboxRecord,
    OutboxRelay,
    Place,
    StreamContents,
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An outbox, with the publishers that its events may go through.

    Attributes:
        label: The label of the outbox's provider.
        publishers: The providers of the publishers, by their labels.
        ask: Returns the object of a provider.
    """

    label: str
    outbox: Outbox
    publishers: dict[str, Any]
    ask: Ask

    @property
    def contents(self) -> OutboxContents:
        """The contents of the outbox and its archive."""
        return self.outbox.contents

    async def publisher(self, named: str | None = None) -> EventPublisher:
        """Return the publisher with the given name. Without a name, return the only publisher."""
        found = [provider for label, provider in self.publishers.items() if is_called(label, named)]
        if len(found) == 1:
            publisher: EventPublisher = await self.ask(found[0])
            self.outbox.use_application(publisher.application)
            return publisher
        if not self.publishers:
            raise CommandError(f"No publisher is known for {self.label}: add a provider of an EventPublisher.")
        raise CommandError(f"Choose a publisher for {self.label} with --publisher: {', '.join(self.publishers)}.")

    def streams(self, publisher: EventPublisher) -> StreamContents:
        """Return the contents of the streams that a publisher writes to."""
        found = publisher.contents
        if found is None:
            raise CommandError(f"The {type(publisher).__name__} of {self.label} cannot read its streams.")
        return found


@asynccontextmanager
async def opened_outboxes(container: Any, label: str | None = None) -> AsyncGenerator[Sequence[Outgoing]]:
    """Yield the outboxes of a container, or only the outbox with the given label. Only needed resources are started."""
    known = list(instances_of(container, Outbox))
    chosen = [each for each in known if is_called(each[0], label)]
    if not known:
        raise CommandError("The container has no outbox: add a provider of a SqlAlchemyOutbox to it.")
    if not chosen:
        raise unknown("outbox", label, [each[0] for each in known])
    async with opened(container) as ask:
        yield [Outgoing(name, await ask(each), _publishers(container, each), ask) for name, each, _ in chosen]


def _publishers(container: Any, outbox: Any) -> dict[str, Any]:
    """Return the publishers of the outbox's relays, or all publishers of the container when the outbox has no relay."""
    graph = Graph(container)
    relays = [graph.reachable([relay]) for _, relay, _ in instances_of(container, OutboxRelay)]
    reached = {each for relay in relays if outbox in relay for each in relay}
    known = {label: provider for label, provider, _ in instances_of(container, EventPublisher)}
    return {label: provider for label, provider in known.items() if provider in reached} or known


_COLUMNS = {
    "sequence": "SEQUENCE",
    "place": "PLACE",
    "id": "ID",
    "type": "TYPE",
    "partition_key": "KEY",
    "size": "BYTES",
    "time": "RAISED",
    "moved_at": "ARCHIVED/DUE",
}


def as_row(outbox: str, record: OutboxRecord, event: CloudEvent | None = None) -> dict[str, Any]:
    """Return the fields of an event for output. With `event`, the fields include the payload."""
    row: dict[str, Any] = {
        "outbox": outbox,
        "place": record.place,
        "sequence": record.sequence,
        "id": record.id,
        "source": record.source,
        "type": record.type,
        "partition_key": record.partition_key,
        "size": record.size,
        "time": record.time.isoformat(timespec="seconds"),
        "moved_at": as_time(record.moved_at),
    }
    if event is not None:
        row |= {"content_type": event.datacontenttype, "extensions": dict(event.extensions), **body_of(event.data)}
    return row


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return events of outboxes as a table."""
    return table(rows, _COLUMNS) if rows else "Nothing is there."


def counted(shown: int, counts: Sequence[OutboxCount]) -> str:
    """Return a text with the number of events and the age of the oldest event."""
    total = sum(count.events for count in counts)
    oldest = min((count.oldest for count in counts if count.oldest is not None), default=None)
    text = f"{shown} of {total}" if shown != total else str(total)
    return text if oldest is None else f"{text}, the oldest from {as_time(oldest)}, {_age(time.time() - oldest)} ago"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


@dataclass(frozen=True, slots=True)
class OutboxSelection:
    """The events that a command works on.

    Attributes:
        which: The filter of the events, without the place (waiting, delayed or archived).
        stream: The stream of the events, or its domain; `None` for all streams.
        outbox: The provider of the outbox; `None` for every outbox of the container.
    """

    which: OutboxFilter
    stream: str | None = None
    outbox: str | None = None

    @property
    def chooses(self) -> bool:
        """Whether at least one option excludes events."""
        return self.which != OutboxFilter(self.which.place) or self.stream is not None

    def at(self, place: Place, streams: StreamContents | None = None) -> OutboxFilter:
        """Return the filter for events in the given place: waiting, delayed or archived.

        `streams` is used to find the domain of the selected stream.
        """
        return replace(self.which, place=place, domain=self._domain(streams))

    def _domain(self, streams: StreamContents | None) -> str | None:
        given = self.stream
        if given is None or streams is None:
            return given
        prefix = streams.stream("")
        domain = given.removeprefix(prefix)
        if not domain or not domain.replace("-", "").isalnum():
            raise CommandError(f"{given!r} is neither a domain nor a stream such as {streams.stream('sales')}.")
        return domain


def _selection(
    event_type: str | None, key: str | None, stream: str | None, since: float | None, outbox: str | None
) -> OutboxSelection:
    return OutboxSelection(OutboxFilter("archived", type=event_type, key=key, since=since), stream, outbox)


selecting_events: CommandDecorator = selecting(
    _selection,
    TYPE,
    KEY,
    click.option(
        "--stream",
        type=NAME,
        help="Only events of this stream, such as events-sales, or of this domain, such as sales.",
    ),
    click.option(
        "--since",
        callback=moment,
        help=(
            "Only events archived since this time, or raised since this time if they still wait: ISO 8601 (UTC), or an "
            "age such as 90s, 30m, 12h, 7d."
        ),
    ),
    click.option("--outbox", type=NAME, help="Only events in the outbox of this provider, such as container.outbox."),
)
"""Adds the options that choose events of outboxes to a command."""
