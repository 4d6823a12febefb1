"""Installation: what a container has in operation: its databases, stores, brokers and consumers, as far as they open."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mediator.nats import NatsConnection
from mediator.nats.inspection import Inspection, StreamState
from mediator.nats.plan import Item
from mediator.nats.topology import Topology, WantedStream

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What the examination is to go by.

    Attributes:
        timeout: How long opening, and each check, may take, in seconds.
        packages: Names of imported packages with further event classes.
        relay_elsewhere: Whether another process runs the relay of this outbox.
        monitoring: The URL of the monitoring of a nats-server.
        backlog_age: How old an event may get in the outbox, in seconds.
        lag: How many events a consumer may have before it.
        clock: The time in seconds since the epoch.
    """

    timeout: float = 10.0
    packages: tuple[str, ...] = ()
    relay_elsewhere: bool = False
    monitoring: str | None = None
    backlog_age: float = 300.0
    lag: int = 10_000
    clock: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """An object of the container.

    Attributes:
        label: `container.<name>` of its provider, or of what it is a part of.
        provider: Its provider.
        value: Itself.
    """

    label: str
    provider: Any
    value: T


@dataclass(frozen=True, slots=True)
class Store(Generic[T]):
    """An outbox, inbox or parking, with the database it is in.

    Attributes:
        label: `container.<name>` of its provider.
        provider: Its provider.
        value: Itself.
        engine: The engine of its database; `None` when it has none.
    """

    label: str
    provider: Any
    value: T
    engine: Any


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker, with what is wanted of it and what was seen.

    Attributes:
        label: `container.<name>` of what publishes or subscribes there first.
        connection: Where it is.
        wanted: The streams and consumers that are needed.
        seen: What was seen of it.
        compared: How it differs from what is wanted; `None` when that could not be told.
        problem: Why that could not be told.
        offset: How many seconds its clock is ahead of ours; `None` when that could not be told.
    """

    label: str
    connection: NatsConnection
    wanted: Topology
    seen: Inspection
    compared: Sequence[Item] | None = None
    problem: str = ""
    offset: float | None = None

    def with_other_partitions(self) -> list[tuple[WantedStream, StreamState]]:
        """The streams that are not divided as they must be for who publishes into them, or takes from them in order."""
        there = {stream.name: stream for stream in self.seen.streams}
        needed = [each for each in self.wanted.streams if each.name in there and (each.own or each.ordered)]
        pairs = ((wanted, there[wanted.name]) for wanted in needed)
        return [(wanted, stream) for wanted, stream in pairs if stream.partitions != wanted.settings.partitions]


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer of the container, with what it is made of.

    Attributes:
        label: `container.<name>` of its provider.
        concurrency: How many events it handles at a time.
        ordering: `"none"` or `"key"`.
        event_types: `<context>.<name>` of what it handles.
        streams: The names of the streams that it takes from.
        broker: Where these are; `None` when it is not NATS.
        inboxes: What it records events in.
    """

    label: str
    concurrency: int
    ordering: str
    event_types: tuple[str, ...]
    streams: tuple[str, ...]
    broker: NatsConnection | None
    inboxes: tuple[Store[Any], ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be opened.

    Attributes:
        label: `container.<name>` of it.
        kind: `"database"`, `"broker"` or `"part"`.
        error: Why.
        setting: The name of the argument of it that cannot be had or cannot work; empty when that is not known.
    """

    label: str
    kind: str
    error: Exception
    setting: str = ""


@dataclass(slots=True)
class Installation:
    """All of it.

    Attributes:
        container: The container.
        options: What to go by.
        databases: The engines of the databases that answer.
        outboxes: What is to be published.
        inboxes: What has taken effect.
        parkings: What is set aside.
        consumers: What takes events in.
        brokers: The brokers, also those that are away.
        relays: How many relays each engine has, by the engine.
        max_event_bytes: How large the payload of an event may be, in bytes.
        archive_seconds: How long published events are kept, in seconds.
        failures: What could not be opened.
    """

    container: Any
    options: Options
    databases: list[Part[Any]] = field(default_factory=list[Part[Any]])
    outboxes: list[Store[Any]] = field(default_factory=list[Store[Any]])
    inboxes: list[Store[Any]] = field(default_factory=list[Store[Any]])
    parkings: list[Store[Any]] = field(default_factory=list[Store[Any]])
    consumers: list[Consumer] = field(default_factory=list[Consumer])
    brokers: list[Broker] = field(default_factory=list[Broker])
    relays: list[Any] = field(default_factory=list[Any])
    max_event_bytes: int = 1_000_000
    archive_seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list[Failure])
