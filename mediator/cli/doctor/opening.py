"""Opening: an installation made from a container, with whatever does not open told instead of raised."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from mediator.cli.doctor.broker_view import view_broker
from mediator.cli.doctor.installation import Consumer, Failure, Installation, Options, Store
from mediator.cli.doctor.resources import Resources
from mediator.cli.doctor.settings import Settings, resolved
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import instances_of
from mediator.dependency_injector.declared import provided_class
from mediator.dependency_injector.event_flows import EventFlow, event_flows
from mediator.dependency_injector.graph import Graph
from mediator.dependency_injector.resources import forget_modes
from mediator.distributed.bounds import check_counts, check_not_negative, check_positive
from mediator.distributed.consumer import EventConsumer
from mediator.distributed.inbox import Inbox
from mediator.distributed.outbox import Outbox
from mediator.distributed.parking import Parking
from mediator.distributed.relay import OutboxRelay
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import SettingError
from mediator.nats import NatsConnection, NatsEventPublisher, NatsEventSubscription
from mediator.nats.topology import Topology, merged

_ARCHIVE_SECONDS = 72 * 3600.0


@asynccontextmanager
async def opened(container: Any, options: Options, find_engines: Any) -> AsyncGenerator[Installation]:
    """Open what the databases, stores and brokers of a container need, and close it in the end.

    Args:
        container: The container.
        options: What to go by.
        find_engines: The class of engines, and what tries one; `None` without SQLAlchemy.
    """
    installation = Installation(container, options)
    opening = _Opening(installation, find_engines)
    try:
        await opening.run()
        yield installation
    finally:
        await opening.resources.stop()
        forget_modes(container)


class _Opening:
    def __init__(self, installation: Installation, engines: Any) -> None:
        container, options = installation.container, installation.options
        self._to = installation
        self._graph = Graph(container)
        self._engines = engines
        self._flows = event_flows(container, options.packages)
        self._values: dict[Any, Any] = {}
        self._wanted: dict[Any, Topology] = {}
        self.resources = Resources(self._graph, options.timeout)
        self._settings = Settings(installation, self._graph, self.resources)

    async def run(self) -> None:
        to, workers = self._to, self._named(OutboxRelay, EventConsumer)
        stores = {cls: self._all(cls, workers) for cls in (Outbox, Inbox, Parking)}
        holders = [*workers, *(store for each in stores.values() for store in each)]
        engines = self._all(self._engines.cls, holders) if self._engines else []
        ports = [*(flow.port for flow in self._flows), *self._named(NatsConnection)]
        await self.resources.start(self._graph.reachable([*engines, *ports, *(p for s in stores.values() for p in s)]))
        forget_modes(to.container)
        for resource, error in self.resources.errors.items():
            to.failures.append(Failure(self._graph.labels[resource], self._kind(resource), error))
        if self._engines:
            to.databases += await self._engines.answering(
                to, [(self._graph.labels[e], e, v) async for e, v in self._made(engines)]
            )
        to.outboxes += [store async for store in self._stores(stores[Outbox], engines)]
        to.inboxes += [store async for store in self._stores(stores[Inbox], engines)]
        to.parkings += [store async for store in self._stores(stores[Parking], engines)]
        to.relays += [engine for relay in self._named(OutboxRelay) if (engine := self._engine_of(relay, engines))]
        await self._measure(stores[Outbox])
        await self._find_brokers()
        await self._find_consumers()

    def _named(self, *classes: type) -> list[Any]:
        found = (each for cls in classes for _, each, _ in instances_of(self._to.container, cls))
        return list(dict.fromkeys(found))

    def _all(self, cls: type, workers: Iterable[Any]) -> list[Any]:
        """Those with names, and those that stand inside a worker."""
        named, reached = self._named(cls), self._graph.reachable(workers)
        known = {*named, *map(kinds.effective, named)}  # what overrides one with a name is the same
        inside = (each for each in self._graph.calls if each in reached - known and self._gives(each, cls))
        return [*named, *inside]

    @staticmethod
    def _gives(provider: Any, cls: type) -> bool:
        found = provided_class(provider) if provider.last_overriding is None else None
        return found is not None and issubclass(found, cls)

    def _kind(self, resource: Any) -> str:
        if self._engines and self._gives(resource, self._engines.cls):
            return "database"
        return "broker" if self._gives(resource, NatsConnection) else "part"

    async def _made(self, providers: Iterable[Any]) -> AsyncIterator[tuple[Any, Any]]:
        """What can be made, with its provider; what cannot is a failure."""
        for provider in providers:
            if provider not in self._values and not self.resources.away(provider):
                try:
                    async with asyncio.timeout(self._to.options.timeout):
                        self._values[provider] = await resolved(provider)
                except Exception as error:  # told in the report
                    self._to.failures.append(Failure(self._graph.labels[provider], self._kind(provider), error))
                    self._values[provider] = None
            if self._values.get(provider) is not None:
                yield provider, self._values[provider]

    def _engine_of(self, provider: Any, engines: Iterable[Any]) -> Any:
        """The engine that a provider needs, as far as it answers."""
        reached = self._graph.reachable([provider])
        answering = {part.provider for part in self._to.databases}
        return next((self._values[each] for each in engines if each in reached and each in answering), None)

    async def _stores(self, providers: Iterable[Any], engines: list[Any]) -> AsyncIterator[Store[Any]]:
        known = {part.provider for part in self._to.databases}
        for provider in providers:
            needed = [each for each in engines if each in self._graph.reachable([provider])]
            if known.issuperset(needed):
                async for _, value in self._made([provider]):
                    yield Store(self._graph.labels[provider], provider, value, self._engine_of(provider, engines))

    async def _measure(self, outboxes: Iterable[Any]) -> None:
        units = self._named(UnitOfWork)
        sizes = [await self._settings.of(each, "max_event_bytes", check_positive) for each in units]
        usual = self._to.max_event_bytes
        known = (usual if each is None else int(min(each, sys.maxsize)) for each in sizes)  # it may be infinite
        self._to.max_event_bytes = max(known, default=usual)
        kept = [await self._archive_of(each) for each in outboxes]
        self._to.archive_seconds = max(kept, default=0.0)

    async def _archive_of(self, outbox: Any) -> float:
        """How long an outbox keeps what was published. Why one cannot be made is told already."""
        failed = outbox in self._values and self._values[outbox] is None
        kept = None if failed else await self._settings.of(outbox, "archive_seconds", check_not_negative)
        return _ARCHIVE_SECONDS if kept is None else float(kept)

    async def _find_brokers(self) -> None:
        wanted: dict[NatsConnection, list[Topology]] = {}
        labels: dict[NatsConnection, str] = {}
        for flow in self._flows:
            async for _, port in self._made([flow.port]):
                if isinstance(port, NatsEventPublisher | NatsEventSubscription):
                    labels.setdefault(port.connection, flow.label)
                    wanted.setdefault(port.connection, []).extend(await self._topology(flow, port))
        async for provider, connection in self._made(self._named(NatsConnection)):  # for requests or a doorbell only
            labels.setdefault(connection, self._graph.labels[provider])
            wanted.setdefault(connection, [])
        viewed = (
            view_broker(labels[each], each, self._merged(labels[each], of), self._to.options)
            for each, of in wanted.items()
        )
        self._to.brokers += await asyncio.gather(*viewed)

    async def _topology(self, flow: EventFlow, port: Any) -> list[Topology]:
        try:
            if isinstance(port, NatsEventPublisher):
                found = port.topology(flow.event_types)
            elif (ordering := await self._ordering(self._consumer_of(flow))) is not None:
                found = port.topology(flow.event_types, ordering=ordering)
            else:  # which consumers are wanted goes by the ordering, the streams do not
                found = Topology(port.topology(flow.event_types).streams)
        except Exception as error:  # told in the report
            self._to.failures.append(Failure(flow.label, "part", error))
            return []
        self._wanted[flow.port] = found
        return [found]

    def _consumer_of(self, flow: EventFlow) -> Any:
        """The provider of the consumer that a subscription is for; `None` when there is none."""
        named = reversed(self._named(EventConsumer))
        return next((each for each in named if flow.port in self._graph.reachable([each])), None)

    async def _ordering(self, consumer: Any) -> Any:
        """The ordering of a consumer; `None` when it gives one that cannot be had or cannot work."""
        if consumer is None or not self._settings.is_given(consumer, "ordering"):
            return "none"
        return await self._settings.of(consumer, "ordering", _check_ordering)

    def _merged(self, label: str, topologies: list[Topology]) -> Topology:
        try:
            return merged(topologies)
        except Exception as error:  # told in the report
            self._to.failures.append(Failure(label, "part", error))
            return topologies[0] if topologies else Topology()

    async def _find_consumers(self) -> None:
        for provider in self._named(EventConsumer):
            reached = self._graph.reachable([provider])
            ordering = await self._ordering(provider) or "none"
            given = await self._settings.of(provider, "concurrency", check_counts)
            flow = next((each for each in self._flows if each.port in reached and self._is_subscription(each)), None)
            wanted = self._wanted.get(flow.port, Topology()) if flow else Topology()
            self._to.consumers.append(
                Consumer(
                    label=self._graph.labels[provider],
                    concurrency=given if given is not None else (16 if ordering == "key" else 1),
                    ordering=ordering,
                    event_types=flow.event_types if flow else (),
                    streams=tuple(stream.name for stream in wanted.streams),
                    broker=self._values[flow.port].connection if flow else None,
                    inboxes=tuple(store for store in self._to.inboxes if store.provider in reached),
                )
            )

    def _is_subscription(self, flow: EventFlow) -> bool:
        return isinstance(self._values.get(flow.port), NatsEventSubscription)


def _check_ordering(*, ordering: object) -> None:
    if ordering not in ("none", "key"):
        raise SettingError("ordering", ordering, "use 'none' or 'key'")
