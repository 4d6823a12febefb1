"""RunningTransaction: what one transaction has collected, and whether it may still commit."""

import enum
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mediator.aggregates import AggregateRoot
from mediator.context import MessageContext
from mediator.distributed.after_commit import AfterCommitQueue
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import DistributedEvent, wire_type
from mediator.distributed.identity import is_storable
from mediator.distributed.propagation import outgoing
from mediator.distributed.recorded_events import RecordedEventQueue
from mediator.distributed.serialization import EventCodec
from mediator.distributed.staging import StagedEvent
from mediator.errors import (
    DeliveryTimeError,
    EventNotDecodableError,
    EventNotSerializableError,
    EventTooLargeError,
    UnitOfWorkRolledBackError,
)
from mediator.errors.root import name_of
from mediator.scope import Frame, Scope

_LONGEST_ID = 64
_LONGEST_KEY = 255
"""Of a partition key, in characters: what every database can store and index."""


class UnitOfWorkState(enum.Enum):
    """Whether a transaction runs in a unit of work."""

    IDLE = "idle"
    ACTIVE = "active"
    ROLLBACK_ONLY = "rollback only"


@dataclass(frozen=True, slots=True)
class CollectedEvent:
    """An event that waits for the commit.

    Attributes:
        event: As it was added; it is encoded at the commit.
        id: Drawn once, when it was added.
        time: When it was added, UTC.
        context: Of the message in whose handling it was added.
        deliver_at: Not to be published before this time (timezone-aware); `None` for at once.
    """

    event: DistributedEvent
    id: str
    time: datetime
    context: MessageContext
    deliver_at: datetime | None = None

    def encode(self, codec: EventCodec, limit: int) -> CloudEvent:
        """The envelope to store; its payload has been read back, so that what is stored can be handled.

        Raises:
            EventNotSerializableError: The payload, the partition key or the id cannot be encoded or stored, or the payload
                not be decoded again.
            EventTooLargeError: It is larger than `limit` bytes.
        """
        data = codec.encode(self.event)
        if len(data) > limit:
            raise EventTooLargeError(self.event, len(data), limit)
        try:
            codec.decode(data, type(self.event))
        except EventNotDecodableError as error:
            raise EventNotSerializableError(
                self.event, f"what it gives cannot be read again: {error.reason}"
            ) from error
        if not (self.id and is_storable(self.id, _LONGEST_ID)):
            problem = f"its id is empty, longer than {_LONGEST_ID} characters, or has a NUL character; see `ids`"
            raise EventNotSerializableError(self.event, problem)
        return CloudEvent(
            id=self.id,
            type=wire_type(type(self.event)),
            time=self.time,
            data=data,
            datacontenttype=codec.content_type,
            partitionkey=_partition_key(self.event),
            extensions=outgoing(self.context),
        )


def _partition_key(event: DistributedEvent) -> str | None:
    key: object = event.partition_key
    if key is None:
        return None
    if not isinstance(key, str):
        raise EventNotSerializableError(event, f"its partition_key is of type {type(key).__name__}, not str")
    if len(key) > _LONGEST_KEY or "\0" in key:
        problem = f"its partition_key is longer than {_LONGEST_KEY} characters, or has a NUL character"
        raise EventNotSerializableError(event, problem)
    try:
        return key.encode().decode()  # plain, also when it is a member of an enumeration of strings
    except UnicodeEncodeError as error:
        raise EventNotSerializableError(event, "its partition_key is not valid Unicode") from error


@dataclass(frozen=True, slots=True)
class Doom:
    """Why a transaction, or what follows its innermost savepoint, can only be rolled back."""

    message: object
    error: BaseException


@dataclass(slots=True)
class _Level:
    mark: int
    calls: int
    recorded: int = 0
    doom: Doom | None = None


@dataclass(slots=True)
class RunningTransaction:
    """The state that belongs to one transaction and dies with it.

    Attributes:
        id: For logs and errors.
        message: What it was begun for.
        scope: The scope in which it runs.
        frame: The dispatch that began it.
        max_domain_events: How many domain events it may publish; `None` for any number.
        events: Collected so far, in the order of `add`.
        after_commit: What is to be called after the commit.
        tracked: Aggregates that are tracked until it ends.
        recorded: Domain events that wait to be published before the commit.
        sealed: The events are being stored: one that is added now would be lost.
        clock: Monotonic time in seconds.
    """

    id: str
    message: object
    scope: Scope
    frame: Frame
    max_domain_events: int | None
    events: list[CollectedEvent] = field(default_factory=list[CollectedEvent])
    after_commit: AfterCommitQueue = field(default_factory=AfterCommitQueue)
    tracked: list[AggregateRoot] = field(default_factory=list[AggregateRoot])
    sealed: bool = False
    clock: Callable[[], float] = time.perf_counter
    started: float = 0.0
    recorded: RecordedEventQueue = field(init=False)
    _levels: list[_Level] = field(default_factory=lambda: [_Level(0, 0)])

    def __post_init__(self) -> None:
        self.started = self.clock()
        self.recorded = RecordedEventQueue(self.frame.origin, self.max_domain_events)

    @property
    def milliseconds(self) -> float:
        """How long it has been running."""
        return round((self.clock() - self.started) * 1000, 3)

    def encode_events(self, codec: EventCodec, limit: int, *, stage: bool) -> Sequence[StagedEvent]:
        """Accept no more events, and encode those there are; `stage` is false when they do not go to an outbox.

        Raises:
            DeliveryTimeError: One is delayed, and there is no outbox in which it could wait.
            EventError: One cannot be encoded.
        """
        self.sealed = True
        for each in self.events:
            if each.deliver_at is not None and not stage:
                raise DeliveryTimeError(each.event, "direct delivery has no outbox in which it could wait")
        return [
            StagedEvent(each.encode(codec, limit), type(each.event).ordering, each.deliver_at) for each in self.events
        ]

    async def come_to_rest(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Write what the session holds and publish what aggregates recorded, in turn, until nothing is left of both.

        Raises:
            ConcurrentDispatchError: A dispatch has joined and still runs.
            UnitOfWorkRolledBackError: What was done may not be kept.
            DomainEventDepthError: Domain events cause each other in a circle.
            TooManyDomainEventsError: There are more of them than allowed.
        """
        while True:
            self.close_to_others()
            self.raise_doom()
            await flush()
            self.raise_doom()
            if not self.recorded:
                return
            self.open_to_others()
            await self.recorded.publish()

    def close_to_others(self) -> None:
        """Let no dispatch join from here on, since what it does might be lost.

        Raises:
            ConcurrentDispatchError: One has joined and still runs.
        """
        self.frame.check_last()
        self.scope.tip = None

    def open_to_others(self) -> None:
        """Let dispatches join the scope again, after `close_to_others`."""
        if self.scope.tip is None:
            self.scope.tip = self.frame

    def log_fields(self) -> dict[str, Any]:
        """What log lines say of it."""
        return {
            "transaction_id": self.id,
            "message": name_of(self.message),
            "milliseconds": self.milliseconds,
            "events": len(self.events),
            **self.frame.context.log_fields(),
        }

    @property
    def doom(self) -> Doom | None:
        """Why the innermost level can only be rolled back, if so."""
        return self._levels[-1].doom

    def doomed(self, message: object, error: BaseException) -> None:
        """Doom the innermost level; the first reason stays."""
        level = self._levels[-1]
        if level.doom is None:
            level.doom = Doom(message, error)

    def raise_doom(self) -> None:
        """Go on only if what was done since the innermost savepoint may be kept.

        Raises:
            UnitOfWorkRolledBackError: It may not.
        """
        if (doom := self.doom) is not None:
            raise UnitOfWorkRolledBackError(self.id, doom.message, doom.error) from doom.error

    def enter_savepoint(self) -> None:
        """What is collected from here on can be dropped alone."""
        self._levels.append(_Level(len(self.events), len(self.after_commit), len(self.recorded)))

    def leave_savepoint(self, *, keep: bool) -> None:
        """Keep what was collected since the savepoint, or drop it."""
        level = self._levels.pop()
        if not keep:
            del self.events[level.mark :]
            self.after_commit.drop(level.calls)
            self.recorded.drop(level.recorded)
