"""Opening: opens the parts of a container for the checks. A part that does not open is recorded as a failure."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable
from functools import partial
from typing import Any

from mediator.blocks import asynccontextmanager
from mediator.cli.doctor.installation import Consumer, Failure, Installation, Options, Part, view_broker
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import instances_of
from mediator.dependency_injector.declared import given_argument, gives
from mediator.dependency_injector.event_flows import EventFlow, event_flows
from mediator.dependency_injector.graph import Graph
from mediator.dependency_injector.lifespan import made
from mediator.dependency_injector.resolution import forget_modes
from mediator.distributed.inbox import EventConsumer, Inbox, Ordering, retry_schedule, usual_concurrency
from mediator.distributed.outbox import ARCHIVE_SECONDS, EventPublisher, Outbox, OutboxRelay
from mediator.distributed.parking import Parking
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import SettingError
from mediator.nats import NatsConnection, NatsEventPublisher, NatsEventSubscription
from mediator.nats.topology import Topology, merged
from mediator.settings import check_counts, check_not_negative, check_positive


class Resources:
    """Starts and stops the resources that parts of a container need.

    Attributes:
        errors: The errors of the resources that could not be started, by the provider of the resource.
        skipped: The resources that were not tried, because they need a resource that could not be started.
    """

    def __init__(self, graph: Graph, seconds: float) -> None:
        self.errors: dict[Any, Exception] = {}
        self.skipped: set[Any] = set()
        self._graph = graph
        self._seconds = seconds
        self._started: list[Any] = []

    async def start(self, wanted: Collection[Any]) -> None:
        """Start the wanted resources, each after the resources that it needs."""
        running: dict[Any, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            for resource in self._graph.resources():
                if resource in wanted:
                    needs = self._graph.reachable([resource])
                    before = [task for other, task in running.items() if other in needs]
                    running[resource] = group.create_task(self._start(resource, before))

    def away(self, provider: Any) -> bool:
        """Return whether a resource that a provider needs could not be started."""
        return not self._graph.reachable([provider]).isdisjoint({*self.errors, *self.skipped})

    async def stop(self) -> None:
        """Stop the started resources in reverse order. Errors are ignored, since the checks are over."""
        for resource in reversed(self._started):
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._seconds):
                    stopping = resource.shutdown()
                    if stopping is not None:
                        await stopping

    async def _start(self, resource: Any, before: list[asyncio.Task[None]]) -> None:
        if before:
            await asyncio.wait(before)
        if self.away(resource):
            self.skipped.add(resource)
            return
        try:
            async with asyncio.timeout(self._seconds):
                starting = resource.init()
                if asyncio.isfuture(starting) or asyncio.iscoroutine(starting):
                    await starting
        except TimeoutError:
            self.errors[resource] = TimeoutError(f"no answer within {self._seconds:g} s")
        except Exception as error:  # the report shows the error
            self.errors[resource] = error
        else:
            self._started.append(resource)


def _arguments(provider: Any) -> dict[str, Any]:
    effective = kinds.effective(provider)
    return dict(effective.kwargs) if isinstance(effective, kinds.CALLING) else {}


@asynccontextmanager
async def opened(container: Any, options: Options, databases: Any) -> AsyncGenerator[Installation]:
    """Open the databases, stores and brokers of a container for the block, and close them at the end."""
    installation = Installation(container, options)
    opening = _InstallationReader(installation, databases)
    try:
        await opening.run()
        yield installation
    finally:
        await opening.resources.stop()
        forget_modes(container)


class _InstallationReader:
    def __init__(self, installation: Installation, engines: Any) -> None:
        container, options = installation.container, installation.options
        self._to = installation
        self._graph = Graph(container)
        self._engines = engines
        self._flows = event_flows(container, options.packages)
        self._values: dict[Any, Any] = {}
        self._wanted: dict[Any, Topology] = {}
        self.resources = Resources(self._graph, options.timeout)
        self._settings: dict[tuple[Any, str], Any] = {}

    async def run(self) -> None:
        to, workers = self._to, self._named(OutboxRelay, EventConsumer)
        stores = {cls: self._all(cls, workers) for cls in (Outbox, Inbox, Parking)}
        holders = [*workers, *(store for each in stores.values() for store in each)]
        engines = self._all(self._engines.AsyncEngine, holders) if self._engines else []
        ports = [*(flow.port for flow in self._flows), *self._named(NatsConnection)]
        await self.resources.start(self._graph.reachable([*engines, *ports, *(p for s in stores.values() for p in s)]))
        forget_modes(to.container)
        for resource, error in self.resources.errors.items():
            to.failures.append(Failure(self._graph.labels[resource], self._kind(resource), error))
        if self._engines:
            to.databases += await self._engines.answering(
                to, [(self._graph.labels[e], e, v) async for e, v in self._made(engines)]
            )
        for cls, found in ((Outbox, to.outboxes), (Inbox, to.inboxes), (Parking, to.parkings)):
            found += [store async for store in self._stores(stores[cls], engines)]
        to.relays += [engine for relay in self._named(OutboxRelay) if (engine := self._engine_of(relay, engines))]
        await self._measure(stores[Outbox])
        await self._find_brokers()
        self._compare_applications()
        await self._find_consumers()

    def _named(self, *classes: type) -> list[Any]:
        found = (each for cls in classes for _, each, _ in instances_of(self._to.container, cls))
        return list(dict.fromkeys(found))

    def _all(self, cls: type, workers: Iterable[Any]) -> list[Any]:
        """Return all named providers of a class, and its unnamed providers if a worker calls them."""
        named, reached = self._named(cls), self._graph.reachable(workers)
        known = {*named, *map(kinds.effective, named)}  # a named provider and its overriding provider count once
        inside = (each for each in self._graph.calls if each in reached - known and self._gives(each, cls))
        return [*named, *inside]

    @staticmethod
    def _gives(provider: Any, cls: type) -> bool:
        return provider.last_overriding is None and gives(provider, cls)

    def _kind(self, resource: Any) -> str:
        if self._engines and self._gives(resource, self._engines.AsyncEngine):
            return "database"
        return "broker" if self._gives(resource, NatsConnection) else "part"

    async def _made(self, providers: Iterable[Any]) -> AsyncIterator[tuple[Any, Any]]:
        """Yield each provider with its object. If the object cannot be created, record a failure instead."""
        for provider in providers:
            if provider not in self._values and not self.resources.away(provider):
                try:
                    async with asyncio.timeout(self._to.options.timeout):
                        self._values[provider] = await made(provider)
                except Exception as error:  # the report shows the error
                    self._to.failures.append(Failure(self._graph.labels[provider], self._kind(provider), error))
                    self._values[provider] = None
            if self._values.get(provider) is not None:
                yield provider, self._values[provider]

    def _engine_of(self, provider: Any, engines: Iterable[Any]) -> Any:
        """Return the engine that a provider needs; `None` when the engine's database does not answer."""
        reached = self._graph.reachable([provider])
        answering = {part.provider for part in self._to.databases}
        return next((self._values[each] for each in engines if each in reached and each in answering), None)

    async def _stores(self, providers: Iterable[Any], engines: list[Any]) -> AsyncIterator[Part[Any]]:
        known = {part.provider for part in self._to.databases}
        for provider in providers:
            needed = [each for each in engines if each in self._graph.reachable([provider])]
            if known.issuperset(needed):
                async for _, value in self._made([provider]):
                    yield Part(self._graph.labels[provider], provider, value, self._engine_of(provider, engines))

    async def _setting(self, provider: Any, name: str, check: Callable[..., object]) -> Any:
        """Return the value of a provider's argument `name`; `None` when the provider has no such argument.

        The provider is not called. If the value is unavailable or fails the check, the result is `None`, and a failure is
        recorded. Reading the argument again records no second failure.
        """
        if (provider, name) not in self._settings:
            self._settings[provider, name] = await self._read(provider, name, check)
        return self._settings[provider, name]

    async def _read(self, provider: Any, name: str, check: Callable[..., object]) -> Any:
        arguments, seconds = _arguments(provider), self._to.options.timeout
        if name not in arguments:
            return None
        given = arguments[name]
        if kinds.is_provider(given) and given in self._graph.calls and self.resources.away(given):
            return None  # the failure of the resource is recorded already
        try:
            async with asyncio.timeout(seconds):
                value = await made(given) if kinds.is_provider(given) else given
            check(**{name: value})
        except Exception as error:  # the report shows the error
            reason = TimeoutError(f"no answer within {seconds:g} s") if isinstance(error, TimeoutError) else error
            self._to.failures.append(Failure(self._graph.labels[provider], "part", reason, name))
            return None
        return value

    async def _measure(self, outboxes: Iterable[Any]) -> None:
        units = self._named(UnitOfWork)
        sizes = [await self._setting(each, "max_event_bytes", check_positive) for each in units]
        usual = self._to.max_event_bytes
        known = (usual if each is None else int(min(each, sys.maxsize)) for each in sizes)  # a size may be infinite
        self._to.max_event_bytes = max(known, default=usual)
        kept = [await self._archive_of(each) for each in outboxes]
        self._to.archive_seconds = max(kept, default=0.0)

    async def _archive_of(self, outbox: Any) -> float:
        """Return the seconds for which an outbox keeps published events; the default if the outbox could not be created."""
        failed = outbox in self._values and self._values[outbox] is None
        kept = None if failed else await self._setting(outbox, "archive_seconds", check_not_negative)
        return ARCHIVE_SECONDS if kept is None else float(kept)

    def _compare_applications(self) -> None:
        """Record a failure for each relay whose outbox and publisher have different application names."""
        for relay in self._named(OutboxRelay):
            given = [given_argument(relay, name) for name in ("outbox", "publisher")]
            outbox, publisher = (self._values.get(each) if kinds.is_provider(each) else None for each in given)
            if isinstance(outbox, Outbox) and isinstance(publisher, EventPublisher):
                try:
                    outbox.use_application(publisher.application)
                except SettingError as error:
                    self._to.failures.append(Failure(self._graph.labels[relay], "part", error))

    async def _find_brokers(self) -> None:
        wanted: dict[NatsConnection, list[Topology]] = {}
        labels: dict[NatsConnection, str] = {}
        for flow in self._flows:
            async for _, port in self._made([flow.port]):
                if isinstance(port, NatsEventPublisher | NatsEventSubscription):
                    labels.setdefault(port.connection, flow.label)
                    wanted.setdefault(port.connection, []).extend(await self._topology(flow, port))
        # Add the connections that no flow uses, such as a connection for requests only.
        async for provider, connection in self._made(self._named(NatsConnection)):
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
            else:  # without the ordering, only the wanted streams are known
                found = Topology(port.topology(flow.event_types).streams)
        except Exception as error:  # the report shows the error
            self._to.failures.append(Failure(flow.label, "part", error))
            return []
        self._wanted[flow.port] = found
        return [found]

    def _consumer_of(self, flow: EventFlow) -> Any:
        """Return the provider of the consumer that uses a subscription; `None` when there is no such consumer."""
        named = reversed(self._named(EventConsumer))
        return next((each for each in named if flow.port in self._graph.reachable([each])), None)

    async def _ordering(self, consumer: Any) -> Any:
        """Return the ordering of a consumer; `None` when the setting is unavailable or not valid."""
        if consumer is None or "ordering" not in _arguments(consumer):
            return "none"
        return await self._setting(consumer, "ordering", _check_ordering)

    def _merged(self, label: str, topologies: list[Topology]) -> Topology:
        try:
            return merged(topologies)
        except Exception as error:  # the report shows the error
            self._to.failures.append(Failure(label, "part", error))
            return topologies[0] if topologies else Topology()

    async def _find_consumers(self) -> None:
        for provider in self._named(EventConsumer):
            reached = self._graph.reachable([provider])
            ordering: Ordering = await self._ordering(provider) or "none"
            given = await self._setting(provider, "concurrency", check_counts)
            parks = _arguments(provider).get("parking") is not None
            check_delays = partial(retry_schedule, parks=parks)
            quick = await self._setting(provider, "retry_delays", check_delays)
            later = await self._setting(provider, "later_delays", check_delays)
            found = (each for each in self._flows if each.port in reached)
            flow = next((e for e in found if isinstance(self._values.get(e.port), NatsEventSubscription)), None)
            wanted = self._wanted.get(flow.port, Topology()) if flow else Topology()
            self._to.consumers.append(
                Consumer(
                    label=self._graph.labels[provider],
                    group=self._values[flow.port].group if flow else "",
                    concurrency=usual_concurrency(ordering) if given is None else given,
                    ordering=ordering,
                    event_types=flow.event_types if flow else (),
                    streams=tuple(stream.name for stream in wanted.streams),
                    broker=self._values[flow.port].connection if flow else None,
                    inboxes=tuple(store for store in self._to.inboxes if store.provider in reached),
                    retries=retry_schedule(parks=parks, retry_delays=quick, later_delays=later),
                )
            )


def _check_ordering(*, ordering: object) -> None:
    if ordering not in ("none", "key"):
        raise SettingError("ordering", ordering, "use 'none' or 'key'")
