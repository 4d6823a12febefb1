"""Topology: the streams and durable consumers that an application needs of a broker, as desired state."""

import re
from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass, replace

from mediator.errors import SettingError
from mediator.nats.binding import context_of, stream_name
from mediator.nats.consumers import ConsumerSettings
from mediator.nats.streams import StreamSettings


@dataclass(frozen=True, slots=True)
class WantedStream:
    """The stream of a context.

    Attributes:
        prefix: The first token of its name and subjects.
        context: The context of its events.
        settings: How it is created.
        own: Whether this application publishes into it; the settings of another one's stream are not compared.
        ordered: Whether this application consumes it in order, and must know its number of partitions.
    """

    prefix: str
    context: str
    settings: StreamSettings
    own: bool = True
    ordered: bool = False

    @property
    def name(self) -> str:
        """The name of the stream."""
        return stream_name(self.prefix, self.context)


@dataclass(frozen=True, slots=True)
class WantedConsumer:
    """A durable consumer.

    Attributes:
        stream: The name of its stream.
        group: The group of processes that share its events out; its name, or the beginning of its name.
        settings: How it is created.
    """

    stream: str
    group: str
    settings: ConsumerSettings


@dataclass(frozen=True, slots=True)
class Topology:
    """What is wanted of one broker.

    Attributes:
        streams: In the order of declaration, each name once.
        consumers: In the order of declaration, each name of a stream once.
    """

    streams: tuple[WantedStream, ...] = ()
    consumers: tuple[WantedConsumer, ...] = ()

    @property
    def prefixes(self) -> set[str]:
        """The prefixes of the streams."""
        return {stream.prefix for stream in self.streams}

    def is_of_group(self, consumer: str) -> bool:
        """Whether the name of a consumer is that of a group of this application, or of one of its partitions."""
        groups = {wanted.group for wanted in self.consumers}
        return consumer in groups or _PARTITION.sub("", consumer) in groups


_PARTITION = re.compile(r"-p\d+$")


def published(prefix: str, event_types: Iterable[str], settings: StreamSettings) -> Topology:
    """What publishing events of some types needs: the streams of their contexts."""
    contexts = dict.fromkeys(map(context_of, event_types))
    return Topology(tuple(WantedStream(prefix, context, settings) for context in contexts))


def merged(topologies: Collection[Topology]) -> Topology:
    """What several parts of an application want of one broker, together.

    Raises:
        SettingError: They want the same stream or consumer with different settings, or number of partitions.
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
    """The settings of its publisher count, else those of an ordered group, else the largest: never those declared first."""
    if first.own and second.own and first.settings != second.settings:
        problem = f"two publishers want the stream {first.name} with different settings; give them the same"
        raise SettingError("settings", second.settings, problem)
    partitions = sorted({each.settings.partitions for each in (first, second) if each.own or each.ordered})
    if len(partitions) > 1:
        problem = (
            "the stream {} is needed with {} and with {} partitions; give its publisher and ordered groups the same"
        )
        raise SettingError("settings", second.settings, problem.format(first.name, *partitions))
    chosen = max(first, second, key=lambda each: (each.own, each.ordered, astuple(each.settings)))
    return replace(chosen, ordered=first.ordered or second.ordered)


def _joined_consumers(first: WantedConsumer, second: WantedConsumer) -> WantedConsumer:
    subjects = sorted({*first.settings.subjects, *second.settings.subjects})
    joined = replace(first.settings, subjects=subjects)
    if replace(second.settings, subjects=subjects) != joined:
        problem = f"two subscriptions want the consumer {joined.name} of {first.stream} with different settings"
        raise SettingError("group", first.group, f"{problem}; give each a group of its own")
    return replace(first, settings=joined)
