"""NatsEventSubscription: the event subscription that pulls from one durable consumer for each stream."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.subscription import Deliveries, Delivery, EventSubscription, Ordering
from mediator.errors import SettingError
from mediator.nats.binding import checked_prefix, context_of, from_message
from mediator.nats.connection import NatsConnection
from mediator.nats.delivery import NatsDelivery
from mediator.nats.link import end
from mediator.nats.puller import Puller
from mediator.nats.streams import DEFAULT_SETTINGS, StreamSettings

_GROUP = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TYPE = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+")


class NatsEventSubscription(EventSubscription):
    """Subscribes a group of processes; the broker shares the events out among them.

    Args:
        connection: Where the broker is.
        group: The name of the group; also that of its durable consumers.
        prefix: The first token of streams and subjects.
        provision: Create missing streams; otherwise wait for them.
        settings: How missing streams are created. A stream that differs is consumed, and the difference logged.
        ack_wait: How long the broker waits for an acknowledgement, in seconds.

    Raises:
        SettingError: The group, prefix or ack_wait cannot work.
    """

    def __init__(
        self,
        connection: NatsConnection,
        group: str,
        *,
        prefix: str = "events",
        provision: bool = True,
        settings: StreamSettings = DEFAULT_SETTINGS,
        ack_wait: float = 30.0,
    ) -> None:
        if not _GROUP.fullmatch(group):
            raise SettingError("group", group, "use 1 to 64 letters, digits, hyphens and underscores")
        if ack_wait <= 0:
            raise SettingError("ack_wait", ack_wait, "use a positive number of seconds")
        self.group = group
        self.ack_wait = ack_wait
        self.max_age = settings.max_age
        self._connection = connection
        self._prefix = checked_prefix(prefix)
        self._provision = provision
        self._settings = settings

    def read(self, headers: Mapping[str, str], data: bytes, /, *, fallback_id: str, stored_at: datetime) -> CloudEvent:
        """See `EventSubscription.read`."""
        return from_message(headers, data, fallback_id=fallback_id, stored_at=stored_at)

    def open(
        self,
        event_types: Iterable[str],
        /,
        *,
        prefetch: int,
        ordering: Ordering = "none",  # noqa: ARG002  # not yet
    ) -> AbstractAsyncContextManager[Deliveries]:
        """Start pulling (see `EventSubscription.open`).

        `prefetch` is shared out among the streams, at least one each: give no fewer than there are contexts.

        Raises:
            SettingError: An event type is not `<context>.<name>`, there is none, or `prefetch` is below 1.
        """
        contexts: dict[str, set[str]] = {}
        for event_type in event_types:
            if not _TYPE.fullmatch(event_type):
                raise SettingError("event_types", event_type, "write it as <context>.<name>")
            contexts.setdefault(context_of(event_type), set()).add(event_type)
        if not contexts:
            raise SettingError("event_types", (), "name at least one")
        if prefetch < 1:
            raise SettingError("prefetch", prefetch, "use at least 1")
        return self._open(contexts, prefetch)

    @contextlib.asynccontextmanager
    async def _open(self, contexts: dict[str, set[str]], prefetch: int) -> AsyncGenerator[Deliveries]:
        deliveries = _NatsDeliveries()
        share, rest = divmod(prefetch, len(contexts))
        pullers = [
            self._puller(types, max(1, share + (index < rest)), deliveries)
            for index, types in enumerate(contexts.values())
        ]
        tasks = [asyncio.create_task(puller.run(), name="mediator nats puller") for puller in pullers]
        try:
            yield deliveries
        finally:
            await end(*tasks)
            try:
                await asyncio.gather(*(puller.leave() for puller in pullers))
            finally:
                await deliveries.hand_back()

    def _puller(self, event_types: set[str], limit: int, deliveries: "_NatsDeliveries") -> Puller:
        return Puller(
            self._connection,
            self.group,
            event_types,
            prefix=self._prefix,
            provision=self._provision,
            settings=self._settings,
            ack_wait=self.ack_wait,
            limit=limit,
            arrived=deliveries.put,
        )


class _NatsDeliveries(Deliveries):
    """What has arrived and was not taken yet."""

    def __init__(self) -> None:
        self._waiting: deque[NatsDelivery] = deque()
        self._arrived = asyncio.Event()

    async def next(self) -> Delivery:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        delivery = self._waiting.popleft()
        delivery.unread = False
        return delivery

    def put(self, delivery: NatsDelivery) -> None:
        self._waiting.append(delivery)
        self._arrived.set()

    async def hand_back(self) -> None:
        while self._waiting:
            await self._waiting.popleft().nak(0)
