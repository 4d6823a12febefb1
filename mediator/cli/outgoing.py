"""Outgoing: an outbox of a container, by the name of its provider, with the publisher that its events go through."""

import inspect
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mediator.cli.errors import CommandError
from mediator.cli.target import nearest
from mediator.dependency_injector.catalog import instances_of
from mediator.dependency_injector.graph import Graph
from mediator.distributed.outbox import Outbox
from mediator.distributed.outbox_contents import OutboxContents
from mediator.distributed.publisher import EventPublisher
from mediator.distributed.relay import OutboxRelay
from mediator.distributed.stream_contents import StreamContents


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An outbox.

    Attributes:
        label: `container.<name>` of its provider.
        contents: What is in it and in its archive.
        publishers: The providers of the publishers that its events may go through, by their labels.
    """

    label: str
    contents: OutboxContents
    publishers: dict[str, Any]

    async def publisher(self, named: str | None = None) -> EventPublisher:
        """The publisher of a name, or the one there is.

        Raises:
            CommandError: There is none, or there are several to choose from.
        """
        found = [label for label in self.publishers if named in {None, label, _name(label)}]
        if len(found) == 1:
            made: EventPublisher = await _made(self.publishers[found[0]])
            return made
        if not self.publishers:
            raise CommandError(f"No publisher is known for {self.label}: add a provider of an EventPublisher.")
        raise CommandError(f"Say --publisher for {self.label}, with one of {', '.join(self.publishers)}.")

    def streams(self, publisher: EventPublisher) -> StreamContents:
        """What the streams of a publisher hold.

        Raises:
            CommandError: That cannot be read.
        """
        found = publisher.contents
        if found is None:
            raise CommandError(f"What {type(publisher).__name__} has published cannot be read back, for {self.label}.")
        return found


@asynccontextmanager
async def opened_outboxes(container: Any, label: str | None = None) -> AsyncGenerator[Sequence[Outgoing]]:
    """The outboxes of a container, or the one of a label; only what is used of it is started.

    Raises:
        CommandError: It has none, or none of that label.
        Exception: What a resource or the database raised.
    """
    try:
        graph = Graph(container)
        known = list(instances_of(container, Outbox))
        chosen = [each for each in known if label in {None, each[0], _name(each[0])}]
        if not known:
            raise CommandError("The container has no outbox: add a provider of a SqlAlchemyOutbox to it.")
        if not chosen:
            raise CommandError(
                f"The container has no outbox {label!r}.{nearest(str(label), [_name(each[0]) for each in known])}"
            )
        yield [
            Outgoing(name, (await _made(provider)).contents, _publishers(container, graph, provider))
            for name, provider, _ in chosen
        ]
    finally:
        stopping = container.shutdown_resources()
        if inspect.isawaitable(stopping):
            await stopping


def _publishers(container: Any, graph: Graph, outbox: Any) -> dict[str, Any]:
    """Those of the relays of an outbox; of all that the container has, when it has no relay of it."""
    relayed = dict(_relayed(container, graph, outbox))
    return relayed or {label: provider for label, provider, _ in instances_of(container, EventPublisher)}


def _relayed(container: Any, graph: Graph, outbox: Any) -> Iterator[tuple[str, Any]]:
    for _, relay, _ in instances_of(container, OutboxRelay):
        reached = graph.reachable([relay])
        if outbox in reached:
            yield from (
                (label, provider)
                for label, provider, _ in instances_of(container, EventPublisher)
                if provider in reached
            )


async def _made(provider: Any) -> Any:
    made = provider()
    return await made if inspect.isawaitable(made) else made


def _name(label: str) -> str:
    return label.rpartition(".")[2]
