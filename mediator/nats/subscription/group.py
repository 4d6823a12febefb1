"""ConsumerGroup: the durable consumers of one group on the stream of one domain.

An unordered group has one durable consumer per stream, with the name of the group. An ordered group has one durable
consumer for each partition, with the name `<group>-p<partition>`. JetStream keeps the order of a partition, because the
partition's consumer delivers an event only after the previous event was acknowledged. All processes of the group pull
from all consumers. Therefore no process has to be elected. When a process dies, the other processes continue.
"""

import re
from collections.abc import Collection
from dataclasses import replace

from nats.aio.client import Client

from mediator.distributed.inbox import Ordering
from mediator.errors import SettingError, StreamMismatchError, misuse
from mediator.nats.binding import domain_of, stream_name
from mediator.nats.topology import (
    MAX_ACK_PENDING,
    PARTITIONS,
    ConsumerSettings,
    DeliverFrom,
    JetStreamApi,
    StreamSettings,
    ensure_consumer,
    ensure_stream,
)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PARTITION_NAME = re.compile(r".*-p[0-9]+")
_ACK_WAIT = {"none": 30.0, "key": 10.0}

SHORTEST_ACK_WAIT = min(_ACK_WAIT.values())
"""The default of `ack_wait` for ordered groups, in seconds. The default for unordered groups is longer."""


def checked_group(name: str) -> str:
    """Return the given name; raise a `SettingError` when the name is not valid for a group."""
    if not _NAME.fullmatch(name):
        raise SettingError("group", name, "use 1 to 64 letters, digits, hyphens and underscores")
    if _PARTITION_NAME.fullmatch(name):
        raise SettingError("group", name, "use another ending: names in -p<number> are for ordered groups' consumers")
    return name


class ConsumerGroup:
    """Sets up the durable consumers of one group on one stream.

    All `event_types` belong to one domain. The other arguments are described at `NatsEventSubscription`.
    """

    def __init__(
        self,
        name: str,
        event_types: Collection[str],
        *,
        ordering: Ordering,
        prefix: str,
        provision: bool,
        settings: StreamSettings,
        ack_wait: float | None,
        start: DeliverFrom,
        max_ack_pending: int = MAX_ACK_PENDING,
        application: str | None = None,
    ) -> None:
        self.name = name
        self._application = application
        self.ordering = ordering
        self.ack_wait: float = _ACK_WAIT[ordering] if ack_wait is None else ack_wait
        self.domain: str = domain_of(next(iter(event_types)))
        self.stream: str = stream_name(prefix, self.domain)
        self._types = sorted(f"{prefix}.{event_type}" for event_type in event_types)
        self._prefix = prefix
        self._provision = provision
        self._settings = settings
        self._start: DeliverFrom = start
        self._max_ack_pending = max_ack_pending if ordering == "none" else 1
        self._begun: dict[str, DeliverFrom] = {}

    def consumers(self) -> list[ConsumerSettings]:
        """Return the settings of each consumer of the group."""
        if self.ordering == "none":
            return [self._consumer(self.name, "*")]
        return [self._consumer(f"{self.name}-p{number}", f"{number}") for number in range(self._settings.partitions)]

    async def ensure_stream(self, client: Client, broker: str) -> StreamMismatchError | None:
        """Make sure that the stream exists, and that this group can use the stream.

        Returns:
            `None` when the stream has the wanted settings; an error that lists the differences when the stream has other
            settings. The group can use the stream in spite of these differences, and the caller should log the error.

        Raises:
            StreamNotFoundError: The stream is missing and may not be created.
            StreamMismatchError: The group is ordered, and the stream does not have `settings.partitions` partitions.
            GroupOrderingError: The group is unordered and has a consumer of an ordered group, or the reverse.
            PublisherUnavailableError: The broker did not answer, or could not create the stream.
        """
        mismatch = None
        try:
            await ensure_stream(
                client, self._prefix, self.domain, self._settings, provision=self._provision, broker=broker
            )
        except StreamMismatchError as error:  # only an ordered group depends on the number of partitions
            if self.ordering == "key" and any(each.startswith(PARTITIONS) for each in error.differences):
                raise
            mismatch = error
        other = f"{self.name}-p0" if self.ordering == "none" else self.name
        if await JetStreamApi(client, broker).consumer(self.stream, other) is not None:
            raise misuse.group_ordering(self.name, self.ordering, self.stream, other)
        return mismatch

    async def ensure(self, client: Client, settings: ConsumerSettings, broker: str) -> None:
        """Make sure that one consumer exists and has the right settings; raise the errors of `ensure_consumer`."""
        wanted = replace(settings, deliver=self._begun.get(settings.name, self._start))
        begun = await ensure_consumer(client, self.stream, wanted, broker=broker, provision=self._provision)
        self._begun.setdefault(settings.name, begun)  # if the consumer is deleted, its replacement starts at `begun`

    def _consumer(self, name: str, partition: str) -> ConsumerSettings:
        return ConsumerSettings(
            name,
            [f"{event_type}.{partition}" for event_type in self._types],
            ack_wait=self.ack_wait,
            max_ack_pending=self._max_ack_pending,
            deliver=self._start,
            application=self._application,
        )
