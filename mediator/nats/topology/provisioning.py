"""Topology: the streams and consumers that an application needs, and the plan by which they are set up on a broker."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Literal

from mediator.errors import PublisherUnavailableError, SettingError
from mediator.nats.binding import domain_of, stream_name
from mediator.nats.topology.api import ApiError, JetStreamApi
from mediator.nats.topology.consumers import (
    ConsumerSettings,
    adapted,
    consumer_config,
    consumer_differences,
    consumer_updates,
    create_consumer,
    surplus,
    update_consumer,
)
from mediator.nats.topology.streams import (
    StreamSettings,
    changeable_differences,
    changed_stream,
    create_stream,
    partition_differences,
    stream_config,
    stream_differences,
    update_stream,
)


@dataclass(frozen=True, slots=True)
class WantedStream:
    """A stream that the application needs for a domain.

    Attributes:
        prefix: The first token of the stream's name and subjects.
        domain: The domain of the stream's events.
        settings: How the stream is created.
        own: Whether this application publishes to the stream. The settings are compared only for own streams.
        ordered: Whether an ordered group of this application consumes the stream. If so, the number of partitions is
            compared even when the application does not publish to the stream.
    """

    prefix: str
    domain: str
    settings: StreamSettings
    own: bool = True
    ordered: bool = False

    @property
    def name(self) -> str:
        """The name of the stream."""
        return stream_name(self.prefix, self.domain)


@dataclass(frozen=True, slots=True)
class WantedConsumer:
    """A durable consumer that the application needs.

    Attributes:
        stream: The name of the consumer's stream.
        group: The group that the consumer belongs to. The consumer has the group's name, or `<group>-p<partition>`.
        settings: How the consumer is created.
    """

    stream: str
    group: str
    settings: ConsumerSettings


@dataclass(frozen=True, slots=True)
class Topology:
    """The streams and consumers that are wanted on one broker.

    Attributes:
        streams: The streams in the order of declaration, each name once.
        consumers: The consumers in the order of declaration, each name once per stream.
    """

    streams: tuple[WantedStream, ...] = ()
    consumers: tuple[WantedConsumer, ...] = ()

    def is_of_group(self, consumer: str) -> bool:
        """Return whether a consumer is named after a wanted group, with or without the ending `-p<partition>`."""
        groups = {wanted.group for wanted in self.consumers}
        return consumer in groups or _PARTITION.sub("", consumer) in groups


_PARTITION = re.compile(r"-p\d+$")


def published(prefix: str, event_types: Iterable[str], settings: StreamSettings) -> Topology:
    """Return the streams that are needed to publish events of the given types."""
    domains = dict.fromkeys(map(domain_of, event_types))
    return Topology(tuple(WantedStream(prefix, domain, settings) for domain in domains))


def merged(topologies: Collection[Topology]) -> Topology:
    """Merge the topologies of several publishers and subscriptions of one application on one broker.

    Raises:
        SettingError: Two topologies have the same stream or consumer with contradictory settings.
    """
    streams: dict[str, WantedStream] = {}
    for stream in (stream for topology in topologies for stream in topology.streams):
        streams[stream.name] = _joined_streams(streams[stream.name], stream) if stream.name in streams else stream
    consumers: dict[tuple[str, str], WantedConsumer] = {}
    for consumer in (consumer for topology in topologies for consumer in topology.consumers):
        key = consumer.stream, consumer.settings.name
        consumers[key] = _joined_consumers(consumers[key], consumer) if key in consumers else consumer
    return Topology(tuple(streams.values()), tuple(consumers.values()))


def _joined_streams(first: WantedStream, second: WantedStream) -> WantedStream:
    """Merge two descriptions of a stream. The order of the two descriptions makes no difference.

    The settings of a publisher's description are kept. If there is no publisher, the settings for an ordered group are
    kept. If there is no ordered group either, the larger settings (in tuple order) are kept.
    """
    if first.own and second.own and first.settings != second.settings:
        problem = f"two publishers want the stream {first.name} with different settings; give both the same settings"
        raise SettingError("settings", second.settings, problem)
    partitions = sorted({each.settings.partitions for each in (first, second) if each.own or each.ordered})
    if len(partitions) > 1:
        problem = (
            "the stream {} is needed with {} and with {} partitions; give its publisher and groups the same number"
        )
        raise SettingError("settings", second.settings, problem.format(first.name, *partitions))
    chosen = max(first, second, key=lambda each: (each.own, each.ordered, astuple(each.settings)))
    return replace(chosen, ordered=first.ordered or second.ordered)


def _joined_consumers(first: WantedConsumer, second: WantedConsumer) -> WantedConsumer:
    subjects = sorted({*first.settings.subjects, *second.settings.subjects})
    joined = replace(first.settings, subjects=subjects)
    if replace(second.settings, subjects=subjects) != joined:
        problem = f"two subscriptions want the consumer {joined.name} of {first.stream} with different settings"
        raise SettingError("group", first.group, f"{problem}; give each subscription its own group")
    return replace(first, settings=joined)


@dataclass(frozen=True, slots=True)
class Survey:
    """The broker's information about its existing streams and consumers.

    Attributes:
        streams: The wanted streams that exist, by name.
        consumers: All consumers of the streams that have a wanted prefix, by stream and name.
    """

    streams: Mapping[str, dict[str, Any]]
    consumers: Mapping[tuple[str, str], dict[str, Any]]


async def survey(api: JetStreamApi, topology: Topology) -> Survey:
    """Read the streams and consumers of a broker without changing anything.

    Raises:
        PublisherUnavailableError: The broker did not answer, or the application's user may not send the requests.
    """
    prefixes = tuple({f"{stream.prefix}-" for stream in topology.streams})
    names = [name async for name in _pages(api, "STREAM.NAMES", "streams") if name.startswith(prefixes)]
    wanted = [stream.name for stream in topology.streams]
    streams = {name: found for name in wanted if name in names and (found := await api.stream(name)) is not None}
    consumers = {
        (stream, info["name"]): info
        for stream in names
        async for info in _pages(api, f"CONSUMER.LIST.{stream}", "consumers")
    }
    return Survey(streams, consumers)


async def _pages(api: JetStreamApi, subject: str, key: str) -> AsyncIterator[Any]:
    offset = 0
    while True:
        try:
            answer = await api.call(subject, {"offset": offset})
        except ApiError as error:
            raise PublisherUnavailableError(api.broker, f"{subject} cannot be listed: {error}") from error
        page: list[Any] = answer.get(key) or []
        for each in page:
            yield each
        offset += len(page)
        if not page or offset >= answer.get("total", 0):
            return


Status = Literal["present", "create", "update", "differs", "unwanted", "other"]
"""The state of a stream or consumer.

- `present`: exists as wanted
- `create`: is missing, and will be created
- `update`: differs, and will be changed
- `differs`: differs, and will not be changed
- `unwanted`: is not needed, or receives subjects that are not needed
- `other`: belongs to another application
"""


@dataclass(frozen=True, slots=True)
class Item:
    """The plan for one stream or consumer.

    Attributes:
        stream: The name of the stream.
        consumer: The name of the consumer; empty for the stream itself.
        status: The state of the stream or consumer.
        details: A text for each difference.
        config: The configuration for creating or updating the stream or consumer; `None` when nothing will be done.
    """

    stream: str
    consumer: str
    status: Status
    details: tuple[str, ...] = ()
    config: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def is_difference(self) -> bool:
        """Whether the stream or consumer differs from the topology."""
        return self.status not in {"present", "other"}


def plan(topology: Topology, found: Survey, *, update_streams: bool = False, prune: bool = False) -> list[Item]:
    """Compare the wanted with the existing streams and consumers, and plan what will be done. Nothing is deleted.

    Args:
        topology: The wanted streams and consumers.
        found: The existing streams and consumers.
        update_streams: Whether `max_age`, `max_bytes`, `duplicate_window`, replicas and atomic batches of own streams
            are changed.
        prune: Whether to remove from consumers the subjects that no handler of this application needs.
    """
    partitions = {wanted.name: _partitions(wanted, found) for wanted in topology.streams}
    return [
        *(_stream(wanted, found, update=update_streams) for wanted in topology.streams),
        *(_consumer(wanted, found, partitions.get(wanted.stream, []), prune=prune) for wanted in topology.consumers),
        *_unplanned(topology, found),
    ]


def _stream(wanted: WantedStream, found: Survey, *, update: bool) -> Item:
    config = stream_config(wanted.prefix, wanted.domain, wanted.settings)
    info = found.streams.get(wanted.name)
    if info is None:
        return Item(wanted.name, "", "create", config=config)
    there: dict[str, Any] = info["config"]
    if not wanted.own:
        partitions = _partitions(wanted, found)
        return Item(wanted.name, "", "differs" if partitions else "present", tuple(partitions))
    fixed, changeable = stream_differences(config, there), changeable_differences(config, there)
    if not fixed and not changeable:
        return Item(wanted.name, "", "present")
    if update and not fixed:
        return Item(wanted.name, "", "update", tuple(changeable), changed_stream(config, there))
    return Item(wanted.name, "", "differs", (*fixed, *changeable))


def _partitions(wanted: WantedStream, found: Survey) -> list[str]:
    """Return why ordered groups cannot use a stream; an empty list when ordered groups can use the stream."""
    info = found.streams.get(wanted.name)
    if info is None or not wanted.ordered:
        return []
    return partition_differences(stream_config(wanted.prefix, wanted.domain, wanted.settings), info["config"])


def _consumer(wanted: WantedConsumer, found: Survey, partitions: list[str], *, prune: bool) -> Item:
    stream, name = wanted.stream, wanted.settings.name
    config = consumer_config(wanted.settings)
    info = found.consumers.get((stream, name))
    if partitions and name != wanted.group:  # an ordered group cannot use this stream
        left = "not created" if info is None else "left as it is"
        return Item(stream, name, "differs", tuple(f"{left} because of its stream: {each}" for each in partitions))
    if info is None and (other := _other_ordering(wanted, found)):
        return Item(stream, name, "differs", (f"{OTHER_ORDERING} {other} with the other ordering",))
    if info is None:
        return Item(stream, name, "create", tuple(f"receives {each}" for each in config["filter_subjects"]), config)
    there: dict[str, Any] = info["config"]
    fixed, updates, more = consumer_differences(config, there), consumer_updates(config, there), surplus(config, there)
    details = (*fixed, *updates, *more)
    if fixed:
        return Item(stream, name, "differs", details)
    if updates or (prune and more):
        return Item(stream, name, "update", details, adapted(config, there, prune=prune))
    return Item(stream, name, "unwanted" if more else "present", details)


OTHER_ORDERING = "not created: the group already has the consumer"
"""Beginning of a text in `Item.details`. The name of a consumer with the other ordering follows."""


def _other_ordering(wanted: WantedConsumer, found: Survey) -> str:
    """Return the group's existing consumer with the other ordering (`sales` -> `sales-p0`, or the reverse), or `""`.

    A group that has consumers of both orderings cannot consume.
    """
    other = f"{wanted.group}-p0" if wanted.settings.name == wanted.group else wanted.group
    return other if (wanted.stream, other) in found.consumers else ""


def _unplanned(topology: Topology, found: Survey) -> Iterator[Item]:
    wanted = {(consumer.stream, consumer.settings.name) for consumer in topology.consumers}
    own = {stream.name for stream in topology.streams if stream.own}
    for stream, name in sorted(found.consumers.keys() - wanted):
        if topology.is_of_group(name):
            text = "no subscription uses this consumer any more; `mediator topology` never deletes a consumer"
            yield Item(stream, name, "unwanted", (text,))
        elif stream in own:
            yield Item(stream, name, "other")


_ROUNDS = 10
_SETTLING = (0.05, 0.2)


async def provision(
    api: JetStreamApi,
    topology: Topology,
    *,
    done: Callable[[Item], None],
    update_streams: bool = False,
    prune: bool = False,
    rng: random.Random | None = None,
) -> list[Item]:
    """Create missing streams and consumers, make the allowed updates, and return the final plan.

    Several processes may provision at the same time, and the API has no conditional updates. Therefore the streams and
    consumers are read again after a short random pause, until nothing is left to do. `done` is called after each
    creation and update. `update_streams` and `prune` are described at `plan`.

    Raises:
        PublisherUnavailableError: The broker did not answer or refused a request, or other processes repeatedly changed
            the same streams or consumers.
    """
    rng = rng or random.Random()  # noqa: S311  (jitter, no secret)
    names = ""
    for _ in range(_ROUNDS):
        items = plan(topology, await survey(api, topology), update_streams=update_streams, prune=prune)
        pending = [item for item in items if item.config is not None]
        if not pending:
            return items
        names = ", ".join(item.consumer or item.stream for item in pending)
        for item in pending:
            await _perform(api, item)
            done(item)
        await asyncio.sleep(rng.uniform(*_SETTLING))
    raise PublisherUnavailableError(api.broker, f"another process keeps changing {names}")


async def _perform(api: JetStreamApi, item: Item) -> None:
    config = item.config or {}
    if item.consumer and item.status == "create":
        await create_consumer(api, item.stream, config)
    elif item.consumer:
        await update_consumer(api, item.stream, config)
    elif item.status == "create":
        await create_stream(api, config)
    else:
        await update_stream(api, config)
