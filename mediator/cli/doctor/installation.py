"""Installation: the opened databases, stores, brokers and consumers of a container, which the checks look at."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from mediator.cli.doctor.inspection import Inspection, StreamState, inspect_broker
from mediator.distributed.inbox import RetrySchedule
from mediator.errors import PublisherUnavailableError
from mediator.nats.connection import NatsConnection
from mediator.nats.topology import Item, JetStreamApi, Topology, WantedStream, plan, survey

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `mediator doctor`.

    Attributes:
        timeout: Seconds that each check, and the opening of each part, may take.
        packages: The names of imported packages with further event classes.
        relay_elsewhere: Whether another process runs the relay of the application's outbox.
        monitoring: The URL of a nats-server's monitoring, such as `http://host:8222`.
        backlog_age: Seconds that an event may wait in the outbox, or be overdue for a later try.
        lag: The number of events that may wait for a consumer.
        clock: Returns the time in seconds since the epoch.
    """

    timeout: float = 10.0
    packages: tuple[str, ...] = ()
    relay_elsewhere: bool = False
    monitoring: str | None = field(default=None, repr=False)
    backlog_age: float = 300.0
    lag: int = 10_000
    clock: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """An object of the container.

    Attributes:
        label: `container.<name>` of its provider. A provider inside another provider has the outer provider's label.
        engine: The engine that an outbox, inbox or parking uses; `None` for other objects.
    """

    label: str
    provider: Any
    value: T
    engine: Any = None


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker, with the streams and consumers that the application wants, and their state.

    Attributes:
        label: `container.<name>` of the first part that publishes to the broker or subscribes there.
        compared: The comparison of the existing streams and consumers with `wanted`; `None` when the comparison failed.
        problem: Why the comparison failed; empty when the comparison did not fail.
        offset: Seconds by which the broker's clock is ahead of this machine's clock; `None` when unknown.
    """

    label: str
    connection: NatsConnection
    wanted: Topology
    seen: Inspection
    compared: Sequence[Item] | None = None
    problem: str = ""
    offset: float | None = None

    def with_other_partitions(self) -> list[tuple[WantedStream, StreamState]]:
        """Return the streams that do not have the wanted number of partitions, as pairs (wanted, existing).

        The number matters only for streams that this application publishes to, or consumes in order.
        """
        there = {stream.name: stream for stream in self.seen.streams}
        needed = [each for each in self.wanted.streams if each.name in there and (each.own or each.ordered)]
        pairs = ((wanted, there[wanted.name]) for wanted in needed)
        return [(wanted, stream) for wanted, stream in pairs if stream.partitions != wanted.settings.partitions]


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer of the container, with its parts and settings.

    Attributes:
        label: `container.<name>` of the consumer's provider.
        group: The name of the consumer's group; empty when the subscription is not available.
        ordering: `"none"` or `"key"`.
        event_types: The event types that the consumer handles, as `<domain>.<name>`.
        broker: The connection to the streams' broker; `None` when the broker is not NATS.
        retries: How often the consumer tries a failing event, and the pause before each further try.
    """

    label: str
    group: str
    concurrency: int
    ordering: str
    event_types: tuple[str, ...]
    streams: tuple[str, ...]
    broker: NatsConnection | None
    inboxes: tuple[Part[Any], ...]
    retries: RetrySchedule


@dataclass(frozen=True, slots=True)
class Failure:
    """A part that could not be opened.

    Attributes:
        label: `container.<name>` of the part.
        kind: `"database"`, `"broker"` or `"part"`.
        setting: The name of the argument that is unavailable or not valid; empty when no argument is the cause.
    """

    label: str
    kind: str
    error: Exception
    setting: str = ""


@dataclass(slots=True)
class Installation:
    """The opened parts of a container.

    Attributes:
        databases: The engines of the databases that answer.
        brokers: The brokers, including brokers that do not answer.
        relays: The engine that each relay uses; an engine with two relays is listed twice.
        max_event_bytes: The maximum size of an event's payload, in bytes.
        archive_seconds: Seconds for which outboxes keep published events.
    """

    container: Any
    options: Options
    databases: list[Part[Any]] = field(default_factory=list[Part[Any]])
    outboxes: list[Part[Any]] = field(default_factory=list[Part[Any]])
    inboxes: list[Part[Any]] = field(default_factory=list[Part[Any]])
    parkings: list[Part[Any]] = field(default_factory=list[Part[Any]])
    consumers: list[Consumer] = field(default_factory=list[Consumer])
    brokers: list[Broker] = field(default_factory=list[Broker])
    relays: list[Any] = field(default_factory=list[Any])
    max_event_bytes: int = 1_000_000
    archive_seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list[Failure])


async def view_broker(label: str, connection: NatsConnection, wanted: Topology, options: Options) -> Broker:
    """Inspect a broker, and change nothing. A failure is described in the result, and not raised."""
    try:
        async with asyncio.timeout(2 * options.timeout):  # connecting has its own time limit
            seen = await inspect_broker(connection, wanted, timeout=options.timeout, monitoring=options.monitoring)
            if not (seen.reachable and seen.jetstream):
                return Broker(label, connection, wanted, seen)
            client = await connection.client("publish", timeout=options.timeout)
            api = JetStreamApi(client, connection.broker)
            compared, problem = await _compared(api, wanted)
            return Broker(label, connection, wanted, seen, compared, problem, await _offset(api, seen, options))
    except TimeoutError:
        problem = f"no answer within {options.timeout:g} s"
    except Exception as error:  # for example a lost connection, or a server that is no NATS server
        problem = f"{type(error).__name__}: {error}"
    return Broker(label, connection, wanted, Inspection(connection.broker, problems=(problem,)))


async def _compared(api: JetStreamApi, wanted: Topology) -> tuple[list[Item] | None, str]:
    try:
        return plan(wanted, await survey(api, wanted)), ""
    except PublisherUnavailableError as error:
        return None, error.reason


async def _offset(api: JetStreamApi, seen: Inspection, options: Options) -> float | None:
    """Return the seconds by which the broker's clock is ahead; `None` when there is no stream to ask for the time."""
    if not seen.streams:
        return None
    before = options.clock()
    try:
        info: dict[str, Any] = await api.stream(seen.streams[0].name) or {}
    except PublisherUnavailableError:
        return None
    now = (before + options.clock()) / 2
    return datetime.fromisoformat(_microseconds(info["ts"])).timestamp() - now if "ts" in info else None


def _microseconds(time: str) -> str:
    """Return an RFC 3339 time in UTC with exactly six decimals."""
    seconds, _, fraction = time.rstrip("Z").partition(".")
    return f"{seconds}.{fraction[:6]:0<6}+00:00"
