"""Topology: the streams and consumers of a container compared with those of its brokers, and created there."""

import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from mediator.cli.errors import CommandError
from mediator.dependency_injector import validate
from mediator.dependency_injector.event_flows import event_flows
from mediator.dependency_injector.provider_kinds import is_provider
from mediator.nats import NatsConnection, NatsEventPublisher, NatsEventSubscription
from mediator.nats.api import JetStreamApi
from mediator.nats.plan import Item, Status, plan
from mediator.nats.provisioning import provision
from mediator.nats.survey import survey
from mediator.nats.topology import Topology, merged
from mediator.printable import printable

_COLUMNS = ("status", "stream", "consumer", "details")


@dataclass(frozen=True, slots=True)
class BrokerReport:
    """What is to be said of one broker.

    Attributes:
        broker: Its URLs, without secrets.
        items: Its streams and consumers.
        done: What was created or updated.
    """

    broker: str
    items: Sequence[Item]
    done: Sequence[Item] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What is to be said of the brokers of a container."""

    brokers: Sequence[BrokerReport]

    @property
    def is_different(self) -> bool:
        """Whether a broker has something else than what is wanted."""
        return any(item.is_difference for broker in self.brokers for item in broker.items)

    def has(self, status: Status) -> bool:
        """Whether there is an item of a status."""
        return any(item.status == status for broker in self.brokers for item in broker.items)

    def differences(self) -> "Report":
        """The report with nothing in it that is as it should be."""
        return Report(
            [replace(each, items=[item for item in each.items if item.is_difference]) for each in self.brokers]
        )

    def as_json(self) -> str:
        """The report for programs."""
        brokers = [
            {"broker": each.broker, "done": list(map(_as_dict, each.done)), "items": list(map(_as_dict, each.items))}
            for each in self.brokers
        ]
        return json.dumps({"different": self.is_different, "brokers": brokers}, indent=2)

    def as_table(self) -> str:
        """The report for people."""
        return "\n\n".join("\n".join(_table(each)) for each in self.brokers)


async def compare_topology(container: Any, packages: Iterable[str], *, timeout: float) -> Report:  # noqa: ASYNC109
    """Compare, and change nothing.

    Args:
        container: The container. Only what its publishers and subscriptions need is started.
        packages: Names of imported packages with further event classes.
        timeout: How long to wait for each broker, in seconds.

    Raises:
        CommandError: The container has neither publisher nor subscription for NATS.
        ContainerValidationError: The container is faulty.
        PublisherUnavailableError: A broker did not answer.
        SettingError: Two parts of the container want the same thing differently.
    """

    async def compare(api: JetStreamApi, topology: Topology) -> BrokerReport:
        return BrokerReport(api.broker, plan(topology, await survey(api, topology)))

    return await _each_broker(container, packages, timeout, compare)


async def apply_topology(
    container: Any,
    packages: Iterable[str],
    *,
    timeout: float,  # noqa: ASYNC109  # passed on to what waits
    update_streams: bool,
    prune: bool,
) -> Report:
    """Create what is missing and update what may be (see `compare_topology` and `provision`)."""

    async def apply(api: JetStreamApi, topology: Topology) -> BrokerReport:
        done: list[Item] = []
        items = await provision(api, topology, done=done.append, update_streams=update_streams, prune=prune)
        return BrokerReport(api.broker, items, done)

    return await _each_broker(container, packages, timeout, apply)


async def _each_broker(container: Any, packages: Iterable[str], seconds: float, act: Callable[..., Any]) -> Report:
    validate(container, relay_elsewhere=True)
    async with _wanted(container, packages) as wanted:
        reports: list[BrokerReport] = []
        for connection, topology in wanted:
            client = await connection.client("publish", timeout=seconds)
            reports.append(await act(JetStreamApi(client, connection.broker), topology))
        return Report(reports)


@asynccontextmanager
async def _wanted(container: Any, packages: Iterable[str]) -> AsyncIterator[list[tuple[NatsConnection, Topology]]]:
    """What the publishers and subscriptions of a container want, by their connections, which are open meanwhile."""
    found: dict[NatsConnection, list[Topology]] = {}
    try:
        for flow in event_flows(container, packages):
            port = flow.port()
            if inspect.isawaitable(port):
                port = await port
            if isinstance(port, NatsEventPublisher):
                found.setdefault(port.connection, []).append(port.topology(flow.event_types))
            elif isinstance(port, NatsEventSubscription):
                ordering = flow.ordering() if is_provider(flow.ordering) else flow.ordering
                found.setdefault(port.connection, []).append(port.topology(flow.event_types, ordering=ordering))
        if not found:
            raise CommandError(
                "The container has no broker: add a provider of a NatsEventPublisher or a NatsEventSubscription to it."
            )
        yield [(connection, merged(topologies)) for connection, topologies in found.items()]
    finally:
        stopping = container.shutdown_resources()
        if inspect.isawaitable(stopping):
            await stopping


def _as_dict(item: Item) -> dict[str, Any]:
    return {"stream": item.stream, "consumer": item.consumer, "status": item.status, "details": list(item.details)}


def _table(report: BrokerReport) -> Iterator[str]:
    rows = [_COLUMNS, *(row for item in report.items for row in _rows(item))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    yield printable(report.broker)
    yield from (printable(f"{item.status}d {item.stream} {item.consumer}".rstrip()) for item in report.done)
    if len(rows) == 1:
        yield "nothing to do"
    else:
        yield from ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _rows(item: Item) -> Iterator[tuple[str, ...]]:
    details = [printable(detail).replace("\n", "\\n") for detail in item.details] or [""]
    yield item.status, printable(item.stream), printable(item.consumer), details[0]
    yield from (("", "", "", detail) for detail in details[1:])
