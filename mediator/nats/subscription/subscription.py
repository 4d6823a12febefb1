"""NatsEventSubscription: the event subscription that pulls from durable consumers, with one stream for each domain."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial

from mediator.blocks import asynccontextmanager
from mediator.distributed.cloudevents import LONGEST_APPLICATION, CloudEvent
from mediator.distributed.inbox import Deliveries, Delivery, EventSubscription, Ordering
from mediator.errors import SettingError
from mediator.nats.binding import checked_prefix, domain_of, from_message
from mediator.nats.connection import NatsConnection, end
from mediator.nats.subscription.delivery import NatsDelivery
from mediator.nats.subscription.group import SHORTEST_ACK_WAIT, ConsumerGroup, checked_group
from mediator.nats.subscription.puller import Puller, Slots
from mediator.nats.topology import (
    DEFAULT_SETTINGS,
    MAX_ACK_PENDING,
    DeliverFrom,
    StreamSettings,
    Topology,
    WantedConsumer,
    WantedStream,
)
from mediator.owner import start_detached
from mediator.settings import LONGEST_OF_BROKER, check_texts, is_count, is_seconds

_FEWEST_PENDING = 2
"""The minimum of the argument `max_ack_pending`. Only the consumers of ordered groups have the value 1."""

_TYPE = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+")


class NatsEventSubscription(EventSubscription):
    """Subscribes a group of processes; the broker delivers each event to one process of the group.

    Args:
        connection: The connection to the broker.
        group: The name of the group, and of its durable consumers.
        prefix: The first token of streams and subjects.
        provision: Whether to create missing streams and consumers, and to add missing subjects to consumers. If not, the
            subscription waits until somebody else has set up the streams and consumers.
        settings: How missing streams are created. An existing stream with other settings is still consumed, and the
            difference is logged. With `ordering="key"`, however, the stream must have `settings.partitions` partitions.
        ack_wait: How long the broker waits for an acknowledgement before redelivering an event, in seconds. The default
            is 30 s, or 10 s with `ordering="key"`. If a process of an ordered group dies while handling an event, the
            event's partition waits until this time is over.
        start: Which events a new group receives: `"all"` events that the stream still has, only `"new"` events, or only
            the events since the given time. An existing group continues where the group stopped.
        max_ack_pending: The maximum number of unacknowledged events of each stream, in all processes of the group
            together. Events that wait for a retry count as unacknowledged. At the maximum, no further event is
            delivered. With `ordering="key"`, the maximum is always one event for each partition.
        application: The name of this application, which is stored in the consumers of the group. Another application
            with the same group name is refused, because the broker would deliver each event to only one of the two
            applications. By default, the event consumer takes the name from the outbox in its database, if there is an
            outbox.

    Attributes:
        connection: The connection to the broker.
        group: The name of the group.
        ack_wait: The argument `ack_wait`; without the argument, the shorter of the two defaults.
        max_age: How long a stream keeps events when the stream is created with `settings`, in seconds.

    Raises:
        SettingError: The group, prefix, ack_wait, start, max_ack_pending or application is not valid.
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
        max_ack_pending: int = MAX_ACK_PENDING,
        application: str | None = None,
    ) -> None:
        if ack_wait is not None and not is_seconds(ack_wait, at_most=LONGEST_OF_BROKER):
            raise SettingError("ack_wait", ack_wait, "use a positive number of seconds")
        if not is_count(max_ack_pending) or max_ack_pending < _FEWEST_PENDING:
            problem = f"use at least {_FEWEST_PENDING}; for one event at a time, use ordering='key'"
            raise SettingError("max_ack_pending", max_ack_pending, problem)
        if not (start.tzinfo if isinstance(start, datetime) else start in {"all", "new"}):
            raise SettingError("start", start, 'use "all", "new" or a time with a zone')
        if application is not None:
            check_texts(longest=LONGEST_APPLICATION, application=application)
        self.group: str = checked_group(group)
        self._application = application
        self.ack_wait: float = SHORTEST_ACK_WAIT if ack_wait is None else ack_wait
        self.max_age: float | None = settings.max_age
        self.connection: NatsConnection = connection
        self._prefix = checked_prefix(prefix)
        self._settings = settings
        self._group_on_stream = partial(
            ConsumerGroup,
            group,
            prefix=prefix,
            provision=provision,
            settings=settings,
            ack_wait=ack_wait,
            start=start,
            max_ack_pending=max_ack_pending,
        )

    def use_application(self, application: str | None, /) -> None:
        self._application = self._application or application

    def read(self, headers: Mapping[str, str], data: bytes, /, *, fallback_id: str, stored_at: datetime) -> CloudEvent:
        return from_message(headers, data, fallback_id=fallback_id, stored_at=stored_at)

    def open(
        self, event_types: Iterable[str], /, *, prefetch: int, ordering: Ordering = "none"
    ) -> AbstractAsyncContextManager[Deliveries]:
        """Start pulling events when the block is entered.

        Without an ordering, `prefetch` is divided among the streams (one for each domain). The share of a stream is at
        least 1. With `ordering="key"`, deliveries that exceed `prefetch` are handed back to the broker at once.

        After `pause`, the broker may still answer the requests that it has: with at most `prefetch` deliveries within
        5 s, or, with `ordering="key"`, with at most one delivery from each partition within 30 s.

        Raises:
            SettingError: An event type is not `<domain>.<name>`, there is no event type, `prefetch` is below 1, or the
                ordering is unknown.
        """
        groups = self._groups(event_types, ordering)
        if not groups:
            raise SettingError("event_types", (), "name at least one")
        if prefetch < 1:
            raise SettingError("prefetch", prefetch, "use at least 1")
        return self._open(groups, prefetch, ordering)

    def topology(self, event_types: Iterable[str], *, ordering: Ordering = "none") -> Topology:
        """Return the streams and consumers that `open` needs for these event types."""
        groups = self._groups(event_types, ordering)
        wanted = partial(WantedStream, settings=self._settings, own=False, ordered=ordering == "key")
        return Topology(
            tuple(wanted(self._prefix, group.domain) for group in groups),
            tuple(WantedConsumer(group.stream, group.name, each) for group in groups for each in group.consumers()),
        )

    def _groups(self, event_types: Iterable[str], ordering: Ordering) -> list[ConsumerGroup]:
        if ordering not in {"none", "key"}:
            raise SettingError("ordering", ordering, 'use "none" or "key"')
        domains: dict[str, set[str]] = {}
        for event_type in event_types:
            if not _TYPE.fullmatch(event_type):
                raise SettingError("event_types", event_type, "write it as <domain>.<name>")
            domains.setdefault(domain_of(event_type), set()).add(event_type)
        make = partial(self._group_on_stream, ordering=ordering, application=self._application)
        return [make(types) for types in domains.values()]

    @asynccontextmanager
    async def _open(
        self, groups: Sequence[ConsumerGroup], prefetch: int, ordering: Ordering
    ) -> AsyncGenerator[Deliveries]:
        deliveries = _NatsDeliveries()
        ordered = ordering == "key"
        slots = Slots(prefetch) if ordered and prefetch < len(groups) * self._settings.partitions else None
        limits = [1] * len(groups) if ordered else _shares(prefetch, len(groups))
        pullers = [
            Puller(self.connection, group, limit, slots, deliveries.put)
            for group, limit in zip(groups, limits, strict=True)
        ]
        deliveries.come_from(pullers)
        tasks = [start_detached(puller.run(), name="mediator nats puller") for puller in pullers]
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


def _shares(prefetch: int, streams: int) -> list[int]:
    share, rest = divmod(prefetch, streams)
    return [max(1, share + (index < rest)) for index in range(streams)]


class _NatsDeliveries(Deliveries):
    """Queues deliveries from their arrival until `next` returns them."""

    def __init__(self) -> None:
        self._waiting: deque[NatsDelivery] = deque()
        self._arrived = asyncio.Event()
        self._failure: BaseException | None = None
        self._pullers: Sequence[Puller] = ()

    def come_from(self, pullers: Sequence[Puller]) -> None:
        """Set the pullers that `pause` and `resume` act on."""
        self._pullers = pullers

    async def next(self) -> Delivery:
        while not self._waiting:
            if self._failure is not None:
                raise self._failure
            self._arrived.clear()
            await self._arrived.wait()
        delivery = self._waiting.popleft()
        delivery.unread = False
        return delivery

    def pause(self) -> None:
        for puller in self._pullers:
            puller.pause()

    def resume(self) -> None:
        for puller in self._pullers:
            puller.resume()

    def put(self, delivery: NatsDelivery) -> None:
        self._waiting.append(delivery)
        self._arrived.set()

    def ended(self, task: asyncio.Task[None]) -> None:
        """Make `next` raise the error with which a puller ended, instead of waiting without end."""
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._arrived.set()

    async def hand_back(self) -> None:
        while self._waiting:
            await self._waiting.popleft().nak(0)
