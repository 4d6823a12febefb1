"""ConsumerGroup: the durable consumers of one group on the stream of one context.

An unordered group has one durable consumer a stream, named like the group. An ordered group has one for each partition,
`<group>-p<partition>`, each with at most one delivery outstanding among all processes: JetStream itself then keeps the
order, and another process goes on when one dies, without a leader.
"""

import re
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime

from nats.aio.client import Client

from mediator.distributed.subscription import Ordering
from mediator.errors import GroupOrderingError, SettingError, StreamMismatchError
from mediator.nats.api import JetStreamApi
from mediator.nats.binding import context_of, stream_name
from mediator.nats.consumers import ConsumerSettings, DeliverFrom, ensure_consumer
from mediator.nats.streams import PARTITIONS, StreamSettings, ensure_stream

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PARTITION_NAME = re.compile(r".*-p[0-9]+")
_ACK_WAIT = {"none": 30.0, "key": 10.0}
_MAX_ACK_PENDING = {"none": 1000, "key": 1}

SHORTEST_ACK_WAIT = min(_ACK_WAIT.values())
"""How long the broker waits at least for an acknowledgement, in seconds, unless told otherwise."""


def checked_group(name: str) -> str:
    """The name of a group.

    Raises:
        SettingError: It is not one.
    """
    if not _NAME.fullmatch(name):
        raise SettingError("group", name, "use 1 to 64 letters, digits, hyphens and underscores")
    if _PARTITION_NAME.fullmatch(name):
        raise SettingError("group", name, "use another ending: the consumers of ordered groups end in -p<number>")
    return name


class ConsumerGroup:
    """Names, describes and sets up the durable consumers.

    Args:
        name: The name of the group.
        event_types: The event types wanted, all of one context.
        ordering: `"none"`, or `"key"` for one consumer a partition.
        prefix: The first token of streams and subjects.
        provision: Create the stream and the consumers when they are missing, and adapt the consumers.
        settings: How it is created, and into how many partitions it is divided.
        ack_wait: After how long without an acknowledgement the broker delivers again, in seconds; `None` is 30 s, and
            10 s with `ordering="key"`, where an event that nobody acknowledges holds up its partition.
        start: Where the group begins when it is new.
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
    ) -> None:
        self.name = name
        self.ordering = ordering
        self.ack_wait: float = _ACK_WAIT[ordering] if ack_wait is None else ack_wait
        self.context: str = context_of(next(iter(event_types)))
        self.stream: str = stream_name(prefix, self.context)
        self._types = sorted(f"{prefix}.{event_type}" for event_type in event_types)
        self._prefix = prefix
        self._provision = provision
        self._settings = settings
        self._start: DeliverFrom = start

    def consumers(self) -> list[ConsumerSettings]:
        """How each consumer of the group is to be."""
        if self.ordering == "none":
            return [self._consumer(self.name, "*")]
        return [self._consumer(f"{self.name}-p{number}", f"{number}") for number in range(self._settings.partitions)]

    async def ensure_stream(self, client: Client, broker: str) -> StreamMismatchError | None:
        """Make sure that the stream exists, and that this group can be on it.

        Returns:
            How it differs from the settings, when that is of no consequence here.

        Raises:
            StreamNotFoundError: It is missing, and is not to be created.
            StreamMismatchError: It has another number of partitions, and the group is ordered.
            GroupOrderingError: The group has consumers of the other ordering.
            PublisherUnavailableError: The broker did not answer, or could not create it.
        """
        mismatch = None
        try:
            await ensure_stream(
                client, self._prefix, self.context, self._settings, provision=self._provision, broker=broker
            )
        except StreamMismatchError as error:  # its publisher's business, unless partitions would be left out
            if self.ordering == "key" and any(each.startswith(PARTITIONS) for each in error.differences):
                raise
            mismatch = error
        other = f"{self.name}-p0" if self.ordering == "none" else self.name
        if await JetStreamApi(client, broker).consumer(self.stream, other) is not None:
            raise GroupOrderingError(self.name, self.ordering, self.stream, other)
        return mismatch

    async def ensure(self, client: Client, settings: ConsumerSettings, broker: str) -> None:
        """Make sure that one consumer exists and fits.

        Raises:
            StreamMismatchError: It exists and cannot be used. It was not changed.
            StreamNotFoundError: The stream is missing.
            ConsumerNotFoundError: It is missing, and is not to be created.
            PublisherUnavailableError: The broker did not answer, or could not create it.
        """
        wanted = replace(settings, deliver=self._start)
        await ensure_consumer(client, self.stream, wanted, broker=broker, provision=self._provision)

    def begun(self) -> None:
        """Note that the group exists: a consumer that is lost from now on begins here again, and misses nothing."""
        if self._start == "new":
            self._start = datetime.now(UTC)

    def _consumer(self, name: str, partition: str) -> ConsumerSettings:
        subjects = [f"{event_type}.{partition}" for event_type in self._types]
        limit = _MAX_ACK_PENDING[self.ordering]
        return ConsumerSettings(name, subjects, ack_wait=self.ack_wait, max_ack_pending=limit, deliver=self._start)
