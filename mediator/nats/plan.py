"""Plan: what is to be done so that a broker has what an application wants, and what is left as it is."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from mediator.nats.consumers import adapted, consumer_config, consumer_differences, consumer_updates, surplus
from mediator.nats.streams import (
    changeable_differences,
    changed_stream,
    fixed_differences,
    partition_differences,
    stream_config,
)
from mediator.nats.survey import Survey
from mediator.nats.topology import Topology, WantedConsumer, WantedStream

Status = Literal["present", "create", "update", "differs", "unwanted", "other"]
"""`differs`: it is never changed unasked. `unwanted`: nothing needs it any more. `other`: it is another application's."""


@dataclass(frozen=True, slots=True)
class Item:
    """One stream or consumer.

    Attributes:
        stream: The name of the stream.
        consumer: The name of the consumer; empty for the stream itself.
        status: What it is, and what is to be done.
        details: Every difference, each as a text.
        config: What is sent to create or update it; `None` when nothing is to be done.
    """

    stream: str
    consumer: str
    status: Status
    details: tuple[str, ...] = ()
    config: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def is_difference(self) -> bool:
        """Whether the broker has something else than what is wanted."""
        return self.status not in {"present", "other"}


def plan(topology: Topology, found: Survey, *, update_streams: bool = False, prune: bool = False) -> list[Item]:
    """Compare what is wanted with what is there. Nothing is deleted, whatever is found.

    Args:
        topology: What is wanted.
        found: What is there.
        update_streams: Whether `max_age`, `max_bytes`, `duplicate_window` and replicas of own streams are changed.
        prune: Whether subjects are taken from consumers that nothing here handles any more.
    """
    partitions = {wanted.name: _partitions(wanted, found) for wanted in topology.streams}
    return [
        *(_stream(wanted, found, update=update_streams) for wanted in topology.streams),
        *(_consumer(wanted, found, partitions.get(wanted.stream, []), prune=prune) for wanted in topology.consumers),
        *_unplanned(topology, found),
    ]


def _stream(wanted: WantedStream, found: Survey, *, update: bool) -> Item:
    config = stream_config(wanted.prefix, wanted.context, wanted.settings)
    info = found.streams.get(wanted.name)
    if info is None:
        return Item(wanted.name, "", "create", config=config)
    there: dict[str, Any] = info["config"]
    if not wanted.own:
        partitions = _partitions(wanted, found)
        return Item(wanted.name, "", "differs" if partitions else "present", tuple(partitions))
    fixed, changeable = fixed_differences(config, there), changeable_differences(config, there)
    if not fixed and not changeable:
        return Item(wanted.name, "", "present")
    if update and not fixed:
        return Item(wanted.name, "", "update", tuple(changeable), changed_stream(config, there))
    return Item(wanted.name, "", "differs", (*fixed, *changeable))


def _partitions(wanted: WantedStream, found: Survey) -> list[str]:
    """Why an ordered group refuses a stream that exists."""
    info = found.streams.get(wanted.name)
    if info is None or not wanted.ordered:
        return []
    return partition_differences(stream_config(wanted.prefix, wanted.context, wanted.settings), info["config"])


def _consumer(wanted: WantedConsumer, found: Survey, partitions: list[str], *, prune: bool) -> Item:
    stream, name = wanted.stream, wanted.settings.name
    config = consumer_config(wanted.settings)
    info = found.consumers.get((stream, name))
    if partitions and name != wanted.group:  # its group refuses the stream, and would never take anything from it
        left = "not created" if info is None else "left as it is"
        return Item(stream, name, "differs", tuple(f"{left}: of the stream, {each}" for each in partitions))
    if info is None and (other := _other_ordering(wanted, found)):
        return Item(stream, name, "differs", (f"not created: its group consumes with the other ordering, as {other}",))
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


def _other_ordering(wanted: WantedConsumer, found: Survey) -> str:
    """The consumer that shows that a group consumes with the other ordering; its instances would stop if it had both."""
    other = f"{wanted.group}-p0" if wanted.settings.name == wanted.group else wanted.group
    return other if (wanted.stream, other) in found.consumers else ""


def _unplanned(topology: Topology, found: Survey) -> Iterator[Item]:
    wanted = {(consumer.stream, consumer.settings.name) for consumer in topology.consumers}
    own = {stream.name for stream in topology.streams if stream.own}
    for stream, name in sorted(found.consumers.keys() - wanted):
        if topology.is_of_group(name):
            yield Item(stream, name, "unwanted", ("nothing consumes it any more; it is never deleted",))
        elif stream in own:
            yield Item(stream, name, "other")
