"""Topology: `mediator topology` compares and creates the streams and consumers that a container needs."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from mediator.cli.container import report_of
from mediator.cli.options import PACKAGES, SECONDS
from mediator.cli.rows import aligned
from mediator.cli.work import JSON, TARGET, CommandError, reporting
from mediator.dependency_injector import validate
from mediator.dependency_injector.event_flows import event_flows
from mediator.dependency_injector.lifespan import opened
from mediator.dependency_injector.provider_kinds import is_provider
from mediator.nats import NatsConnection, NatsEventPublisher, NatsEventSubscription
from mediator.nats.topology import Item, JetStreamApi, Status, Topology, merged, plan, provision, survey
from mediator.printable import printable, shown, shown_reason

_COLUMNS = ("status", "stream", "consumer", "details")


@dataclass(frozen=True, slots=True)
class BrokerReport:
    """The plan for one broker, with the items that were created or updated. `broker` has the URLs without secrets."""

    broker: str
    items: Sequence[Item]
    done: Sequence[Item] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The report about the brokers of a container."""

    brokers: Sequence[BrokerReport]

    @property
    def is_different(self) -> bool:
        """Whether a wanted stream or consumer is missing on its broker or differs there."""
        return any(item.is_difference for broker in self.brokers for item in broker.items)

    def has(self, status: Status) -> bool:
        """Return whether at least one item has the given status."""
        return any(item.status == status for broker in self.brokers for item in broker.items)

    def differences(self) -> "Report":
        """Return a report of the items that are missing or differ."""
        return Report(
            [replace(each, items=[item for item in each.items if item.is_difference]) for each in self.brokers]
        )

    def as_json(self) -> str:
        """Return the report as JSON."""
        brokers = [
            {"broker": each.broker, "done": list(map(_as_dict, each.done)), "items": list(map(_as_dict, each.items))}
            for each in self.brokers
        ]
        return json.dumps({"different": self.is_different, "brokers": brokers}, indent=2)

    def as_table(self) -> str:
        """Return the report as text, with a table for each broker."""
        return "\n\n".join("\n".join(_table(each)) for each in self.brokers)


async def compare_topology(container: Any, packages: Iterable[str], *, timeout: float) -> Report:  # noqa: ASYNC109
    """Compare the streams and consumers that a container needs with the streams and consumers on its brokers.

    Nothing is changed. Only the resources that the container's publishers and subscriptions need are started.
    `packages` are the names of imported packages with further event classes. `timeout` is the time to wait for each
    broker, in seconds.
    """

    async def compare(api: JetStreamApi, topology: Topology) -> BrokerReport:
        return BrokerReport(api.broker, plan(topology, await survey(api, topology)))

    return await _each_broker(container, packages, timeout, compare)


async def apply_topology(
    container: Any,
    packages: Iterable[str],
    *,
    timeout: float,  # noqa: ASYNC109  # the connection applies the limit
    update_streams: bool,
    prune: bool,
) -> Report:
    """Create missing streams and consumers, and update existing streams and consumers as far as `provision` allows.

    The arguments `container`, `packages` and `timeout` are described at `compare_topology`.
    """

    async def apply(api: JetStreamApi, topology: Topology) -> BrokerReport:
        done: list[Item] = []
        items = await provision(api, topology, done=done.append, update_streams=update_streams, prune=prune)
        return BrokerReport(api.broker, items, done)

    return await _each_broker(container, packages, timeout, apply)


async def _each_broker(container: Any, packages: Iterable[str], seconds: float, act: Callable[..., Any]) -> Report:
    validate(container, relay_elsewhere=True)
    found: dict[NatsConnection, list[Topology]] = {}
    reports: list[BrokerReport] = []
    async with opened(container) as ask:
        for flow in event_flows(container, packages):
            port = await ask(flow.port)
            if isinstance(port, NatsEventPublisher):
                found.setdefault(port.connection, []).append(port.topology(flow.event_types))
            elif isinstance(port, NatsEventSubscription):
                ordering = flow.ordering() if is_provider(flow.ordering) else flow.ordering
                found.setdefault(port.connection, []).append(port.topology(flow.event_types, ordering=ordering))
        if not found:
            raise CommandError(
                "The container has no broker: add a provider of a NatsEventPublisher or a NatsEventSubscription to it."
            )
        wanted = [(connection, merged(topologies)) for connection, topologies in found.items()]
        for connection, topology in wanted:
            client = await connection.client("publish", timeout=seconds)
            reports.append(await act(JetStreamApi(client, connection.broker), topology))
    return Report(reports)


def _as_dict(item: Item) -> dict[str, Any]:
    return {"stream": item.stream, "consumer": item.consumer, "status": item.status, "details": list(item.details)}


def _table(report: BrokerReport) -> Iterator[str]:
    rows = [_COLUMNS, *(row for item in report.items for row in _rows(item))]
    yield shown(report.broker)
    yield from (shown_reason(f"{item.status}d {item.stream} {item.consumer}".rstrip()) for item in report.done)
    if len(rows) == 1:
        yield "nothing to do"
    else:
        yield from aligned(rows)


def _rows(item: Item) -> Iterator[tuple[str, ...]]:
    details = [shown_reason(detail) for detail in item.details] or [""]
    yield item.status, shown(item.stream), shown(item.consumer), details[0]
    yield from (("", "", "", detail) for detail in details[1:])


_TIMEOUT = click.option(
    "--timeout", type=SECONDS, default=10.0, show_default=True, help="Seconds to wait for the broker."
)


@click.group()
def topology() -> None:
    """Compare and create the streams and consumers that a container needs on its brokers."""


@topology.command("plan")
@TARGET
@PACKAGES
@JSON
@_TIMEOUT
def topology_plan(target: str, packages: tuple[str, ...], machine: bool, timeout: float) -> None:
    """Show which streams and consumers `apply` would create or update, which differ, and which are no longer needed."""
    with reporting():
        report = report_of(target, lambda container: compare_topology(container, packages, timeout=timeout), packages)
        _show(report, machine=machine)


@topology.command("diff")
@TARGET
@PACKAGES
@JSON
@_TIMEOUT
def topology_diff(target: str, packages: tuple[str, ...], machine: bool, timeout: float) -> None:
    """Show the differences only, and exit with status 1 when there are any."""
    with reporting():
        report = report_of(target, lambda container: compare_topology(container, packages, timeout=timeout), packages)
        _show(report.differences(), machine=machine)
        sys.exit(1 if report.is_different else 0)


@topology.command("apply")
@TARGET
@PACKAGES
@JSON
@_TIMEOUT
@click.option(
    "--update-streams",
    is_flag=True,
    help="Also change age, size, duplicate window and replicas of streams that the container publishes to.",
)
@click.option("--prune", is_flag=True, help="Also remove from consumers the subjects that no handler needs.")
def topology_apply(target: str, packages: tuple[str, ...], *, machine: bool, **options: Any) -> None:
    """Create missing streams and consumers, and add subjects to consumers. No stream and no consumer is deleted.

    Exits with status 1 when a difference remains that this command does not remove.
    """
    with reporting():
        report = report_of(target, lambda container: apply_topology(container, packages, **options), packages)
        _show(report, machine=machine)
        sys.exit(1 if report.has("differs") else 0)


def _show(report: Report, *, machine: bool) -> None:
    click.echo(printable(report.as_json() if machine else report.as_table()))
