"""OutboxSelection: which events of which outboxes a command is about, as options of the command line."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click

from mediator.cli.errors import CommandError
from mediator.cli.selection import moment
from mediator.distributed.outbox_contents import OutboxFilter, Place
from mediator.distributed.stream_contents import StreamContents


@dataclass(frozen=True, slots=True)
class OutboxSelection:
    """Which events.

    Attributes:
        which: What they have in common, but for their place.
        stream: The stream that they go to, or its context; `None` for all.
        outbox: The provider of the outbox they are in; `None` for every one of the container.
    """

    which: OutboxFilter
    stream: str | None = None
    outbox: str | None = None

    @property
    def chooses(self) -> bool:
        """Whether anything is said that leaves events out."""
        return self.which != OutboxFilter(self.which.place) or self.stream is not None

    def at(self, place: Place, streams: StreamContents | None = None) -> OutboxFilter:
        """The filter, at a place; the stream is one of those given.

        Raises:
            CommandError: The stream's name is not of the form of those streams.
        """
        return replace(self.which, place=place, context=self._context(streams))

    def _context(self, streams: StreamContents | None) -> str | None:
        given = self.stream
        if given is None or streams is None:
            return given
        prefix = streams.stream("")
        context = given.removeprefix(prefix)
        if not context or not context.replace("-", "").isalnum():
            raise CommandError(f"{given!r} is neither a context nor a stream such as {streams.stream('sales')}.")
        return context


def selecting_events(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose events; it takes them as `selection`."""

    @functools.wraps(command)
    def with_selection(
        *args: Any,
        event_type: str | None,
        key: str | None,
        stream: str | None,
        since: float | None,
        outbox: str | None,
        **options: Any,
    ) -> None:
        which = OutboxFilter("archived", type=event_type, key=key, since=since)
        command(*args, selection=OutboxSelection(which, stream, outbox), **options)

    decorated: Callable[..., None] = with_selection
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


_OPTIONS = (
    click.option("--type", "event_type", help="Of this type on the wire, such as sales.order-placed.v1."),
    click.option("--key", help="Of this partition key."),
    click.option("--stream", help="Of this stream, such as events-sales, or of this context, such as sales."),
    click.option(
        "--since",
        callback=moment,
        help="Archived since then, or raised since then where they wait: ISO 8601 (UTC), or 90s, 30m, 12h, 7d ago.",
    ),
    click.option("--outbox", help="In the outbox of this provider, such as container.outbox."),
)
