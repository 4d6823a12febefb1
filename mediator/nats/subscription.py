"""NatsEventSubscription: the event subscription that pulls from durable consumers, of one stream for each context."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.subscription import Deliveries, Delivery, EventSubscription, Ordering
from mediator.errors import SettingError
from mediator.nats.binding import checked_prefix, context_of, from_message
from mediator.nats.connection import NatsConnection
from mediator.nats.consumers import DeliverFrom
from mediator.nats.delivery import NatsDelivery
from mediator.nats.group import SHORTEST_ACK_WAIT, ConsumerGroup, checked_group
from mediator.nats.link import end
from mediator.nats.puller import Puller
from mediator.nats.room import Room
from mediator.nats.streams import DEFAULT_SETTINGS, StreamSettings
from mediator.nats.topology import Topology, WantedConsumer, WantedStream

_TYPE = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+")


class NatsEventSubscription(EventSubscription):
    """Subscribes a group of processes; the broker shares the events out among them.

    Args:
        connection: Where the broker is.
        group: The name of the group; also that of its durable consumers.
        prefix: The first token of streams and subjects.
        provision: Create missing streams and consumers, and add to the subjects of consumers; otherwise wait until
            somebody else has done so.
        settings: How missing streams are created. A stream that differs is consumed, and the difference logged; only
            with `ordering="key"` its partitions must be as many as `settings` says.
        ack_wait: How long the broker waits for an acknowledgement, in seconds; `None` is 30 s, and 10 s with
            `ordering="key"`: so long a partition stands still when the process dies that has its delivery.
        start: Where a new group begins: `"all"` that the stream still has, `"new"` events only, or those since a time. A
            group that exists goes on where it was.

    Attributes:
        group: The name of the group.
        ack_wait: How long the broker waits at least, in seconds.
        max_age: How long streams keep events, in seconds, when they were created with these settings.

    Raises:
        SettingError: The group, prefix, ack_wait or start cannot work.
    """

    def __init__(
        self,
        connection: NatsConnection,
        group: str,
        *,
        prefix: str = "events",
        provision: bool = True,
        settings: StreamSettings = DEFAULT_SETTINGS,
        ack_wait: float | None = None,
        start: DeliverFrom = "all",
    ) -> None:
        if ack_wait is not None and ack_wait <= 0:
            raise SettingError("ack_wait", ack_wait, "use a positive number of seconds")
        self.group: str = checked_group(group)
        self.ack_wait: float = SHORTEST_ACK_WAIT if ack_wait is None else ack_wait
        self.max_age: float | None = settings.max_age
        self._connection = connection
        self._prefix = checked_prefix(prefix)
        self._provision = provision
        self._settings = settings
        self._ack_wait = ack_wait
        self._start: DeliverFrom = _checked_start(start)

    def read(self, headers: Mapping[str, str], data: bytes, /, *, fallback_id: str, stored_at: datetime) -> CloudEvent:
        """See `EventSubscription.read`."""
        return from_message(headers, data, fallback_id=fallback_id, stored_at=stored_at)

    def open(
        self, event_types: Iterable[str], /, *, prefetch: int, ordering: Ordering = "none"
    ) -> AbstractAsyncContextManager[Deliveries]:
        """Start pulling (see `EventSubscription.open`).

        Without an ordering, `prefetch` is shared out among the streams, at least one each: give no fewer than there are
        contexts. With `ordering="key"`, a delivery for which there is no room is handed back to the broker at once.

        Raises:
            SettingError: An event type is not `<context>.<name>`, there is none, `prefetch` is below 1, or the ordering
                is unknown.
        """
        groups = self._groups(event_types, ordering)
        if not groups:
            raise SettingError("event_types", (), "name at least one")
        if prefetch < 1:
            raise SettingError("prefetch", prefetch, "use at least 1")
        return self._open(groups, prefetch, ordering)

    @property
    def connection(self) -> NatsConnection:
        """Where the broker is."""
        return self._connection

    def topology(self, event_types: Iterable[str], *, ordering: Ordering = "none") -> Topology:
        """The streams and consumers that subscribing to events of some types needs.

        Raises:
            SettingError: An event type is not `<context>.<name>`, or the ordering is unknown.
        """
        groups = self._groups(event_types, ordering)
        ordered = ordering == "key"
        return Topology(
            tuple(
                WantedStream(self._prefix, group.context, self._settings, own=False, ordered=ordered)
                for group in groups
            ),
            tuple(WantedConsumer(group.stream, group.name, each) for group in groups for each in group.consumers()),
        )

    def _groups(self, event_types: Iterable[str], ordering: Ordering) -> list[ConsumerGroup]:
        if ordering not in {"none", "key"}:
            raise SettingError("ordering", ordering, 'use "none" or "key"')
        contexts: dict[str, set[str]] = {}
        for event_type in event_types:
            if not _TYPE.fullmatch(event_type):
                raise SettingError("event_types", event_type, "write it as <context>.<name>")
            contexts.setdefault(context_of(event_type), set()).add(event_type)
        return [self._consumer_group(types, ordering) for types in contexts.values()]

    @contextlib.asynccontextmanager
    async def _open(
        self, groups: Sequence[ConsumerGroup], prefetch: int, ordering: Ordering
    ) -> AsyncGenerator[Deliveries]:
        deliveries = _NatsDeliveries()
        if ordering == "key":
            room = Room(prefetch) if prefetch < len(groups) * self._settings.partitions else None
            pullers = [Puller(self._connection, group, 1, room, deliveries.put) for group in groups]
        else:
            pullers = [
                Puller(self._connection, group, limit, None, deliveries.put)
                for group, limit in zip(groups, _shares(prefetch, len(groups)), strict=True)
            ]
        tasks = [asyncio.create_task(puller.run(), name="mediator nats puller") for puller in pullers]
        for task in tasks:
            task.add_done_callback(deliveries.ended)
        try:
            yield deliveries
        finally:
            await end(*tasks)
            try:
                await asyncio.gather(*(puller.leave() for puller in pullers))
            finally:
                await deliveries.hand_back()

    def _consumer_group(self, event_types: set[str], ordering: Ordering) -> ConsumerGroup:
        return ConsumerGroup(
            self.group,
            event_types,
            ordering=ordering,
            prefix=self._prefix,
            provision=self._provision,
            settings=self._settings,
            ack_wait=self._ack_wait,
            start=self._start,
        )


def _shares(prefetch: int, streams: int) -> list[int]:
    share, rest = divmod(prefetch, streams)
    return [max(1, share + (index < rest)) for index in range(streams)]


def _checked_start(start: DeliverFrom) -> DeliverFrom:
    known = start.tzinfo is not None if isinstance(start, datetime) else start in {"all", "new"}
    if not known:
        raise SettingError("start", start, 'use "all", "new" or a time with a zone')
    return start


class _NatsDeliveries(Deliveries):
    """What has arrived and was not taken yet."""

    def __init__(self) -> None:
        self._waiting: deque[NatsDelivery] = deque()
        self._arrived = asyncio.Event()
        self._failure: BaseException | None = None

    async def next(self) -> Delivery:
        while not self._waiting:
            if self._failure is not None:
                raise self._failure
            self._arrived.clear()
            await self._arrived.wait()
        delivery = self._waiting.popleft()
        delivery.unread = False
        return delivery

    def put(self, delivery: NatsDelivery) -> None:
        self._waiting.append(delivery)
        self._arrived.set()

    def ended(self, task: asyncio.Task[None]) -> None:
        """Have a puller that failed, which it never should, end whoever waits for it: nothing would come any more."""
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._arrived.set()

    async def hand_back(self) -> None:
        while self._waiting:
            await self._waiting.popleft().nak(0)
