"""RunningTransaction: the state of one transaction, with the events that it has collected."""

import enum
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mediator.aggregates import AggregateRoot
from mediator.context import MessageContext
from mediator.distributed.cloudevents import CloudEvent, outgoing
from mediator.distributed.events import DistributedEvent, EventCodec, wire_type
from mediator.distributed.storable import LONGEST_EVENT_ID, LONGEST_TEXT, is_storable
from mediator.distributed.unit_of_work.after_commit import AfterCommitQueue
from mediator.distributed.unit_of_work.domain_events import RecordedEventQueue
from mediator.distributed.unit_of_work.staging import StagedEvent
from mediator.errors import EventLimitError, EventNotDecodableError, EventNotSerializableError, RolledBackError, misuse
from mediator.errors.root import name_of
from mediator.fidelity import change_of
from mediator.scope import Frame, Scope


class UnitOfWorkState(enum.Enum):
    """Whether a transaction runs, and whether that transaction may commit or can only be rolled back."""

    IDLE = "idle"
    ACTIVE = "active"
    ROLLBACK_ONLY = "rollback only"


@dataclass(frozen=True, slots=True)
class CollectedEvent:
    """An event that waits for the commit.

    Attributes:
        id: The id, made once when the event was added.
        time: When the event was added, in UTC.
        context: The context of the message that was being handled when the event was added.
        deliver_at: The earliest time to publish the event, timezone-aware; `None` to publish the event at once.
        data: The payload, encoded when the event was added; `None` to encode the payload at the commit.
    """

    event: DistributedEvent
    id: str
    time: datetime
    context: MessageContext
    deliver_at: datetime | None = None
    data: bytes | None = None

    def encode(self, codec: EventCodec, limit: int, source: str = "") -> CloudEvent:
        """Return the envelope to store, after checking that its payload decodes to an equal event.

        The payload may have up to `limit` bytes. `source` is the name of this application, or empty if the name is not
        known here.

        Raises:
            EventNotSerializableError: The payload, partition key, id or time cannot be stored; the payload does not
                decode to an equal event; or the event was changed after it was added.
            EventLimitError: The payload is larger than `limit` bytes.
        """
        data = codec.encode(self.event) if self.data is None else self.data
        if len(data) > limit:
            raise EventLimitError(self.event, len(data), limit)
        if (problem := _problem(codec, self.event, data)) is not None:
            if self.data is not None and _problem(codec, self.event, codec.encode(self.event)) is None:
                problem = f"it was changed after it was added: {problem}"
            raise EventNotSerializableError(self.event, problem)
        if not (self.id and is_storable(self.id, LONGEST_EVENT_ID)):
            problem = f"its id is empty, longer than {LONGEST_EVENT_ID} characters, or has a NUL character"
            remedy = "check the argument `ids` of DistributedEventBroker"
            raise EventNotSerializableError(self.event, f"{problem}; {remedy}")
        return CloudEvent(
            id=self.id,
            type=wire_type(type(self.event)),
            time=_moment(self.event, self.time),
            data=data,
            source=source,
            datacontenttype=codec.content_type,
            partitionkey=_partition_key(self.event),
            extensions=outgoing(self.context),
        )


def _problem(codec: EventCodec, event: DistributedEvent, data: bytes) -> str | None:
    """Return why a payload does not decode to the event; `None` when it decodes to the event."""
    try:
        change = change_of(event, codec.decode(data, type(event)))
    except EventNotDecodableError as error:
        return f"its payload cannot be read again: {error.reason}"
    except RecursionError:
        return "it is nested too deeply to be compared with the decoded event"
    return None if change is None else f"its payload decodes to another event: {change}"


def _moment(event: DistributedEvent, time: datetime) -> datetime:
    """Return the given time in UTC, so that every consumer can read the time."""
    try:
        if time.utcoffset() is not None:
            return time.astimezone(UTC)
        problem = "has no time zone"
    except OverflowError:
        problem = "is outside the years 1 to 9999 in UTC"
    raise EventNotSerializableError(event, f"its time {problem}; check the argument `clock` of DistributedEventBroker")


def _partition_key(event: DistributedEvent) -> str | None:
    key: object = event.partition_key
    if key is None:
        return None
    if not isinstance(key, str):
        raise EventNotSerializableError(event, f"its partition_key is of type {type(key).__name__}, not str")
    if not key:
        raise EventNotSerializableError(event, "its partition_key is empty; use None for an event without order")
    if len(key) > LONGEST_TEXT or "\0" in key:
        problem = f"its partition_key is longer than {LONGEST_TEXT} characters, or has a NUL character"
        raise EventNotSerializableError(event, problem)
    try:
        return key.encode().decode()  # a plain string, even if the key is a member of an enumeration of strings
    except UnicodeEncodeError as error:
        raise EventNotSerializableError(event, "its partition_key is not valid Unicode") from error


@dataclass(frozen=True, slots=True)
class Doom:
    """The reason why a transaction, or its work since the innermost savepoint, can only be rolled back."""

    message: object
    error: BaseException


@dataclass(slots=True)
class _Level:
    """The counts of events and after-commit calls at a savepoint or at `begin`, and the doom of the work since then."""

    events: int
    calls: int
    recorded: int = 0
    doom: Doom | None = None


@dataclass(slots=True)
class RunningTransaction:
    """The state of one transaction.

    Attributes:
        message: The message that the transaction was begun for, or a text.
        max_domain_events: How many domain events the transaction may publish; `None` for any number.
        events: The events collected so far, in the order of `add`.
        recorded: The domain events that wait to be published before the commit.
        sealed: `True` once the transaction has begun to store its events. It accepts no more events from then on.
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
    def dispatch(self) -> Frame:
        """The frame of the dispatch, or of the scope, in which the transaction began."""
        return self.frame.dispatch or self.frame

    def encode_events(self, codec: EventCodec, limit: int, *, stage: bool, source: str = "") -> Sequence[StagedEvent]:
        """Accept no more events, and return the encoded events.

        If `stage` is false, the events are delivered directly. Direct delivery of a delayed event raises a
        `MisuseError`, because nothing could keep the event. An event that cannot be encoded raises an `EventError`.
        """
        self.sealed = True
        for each in self.events:
            if each.deliver_at is not None and not stage:
                raise misuse.delivery_time(each.event, "direct delivery has no outbox in which the event could wait")
        return [
            StagedEvent(each.encode(codec, limit, source), type(each.event).key_locking, each.deliver_at)
            for each in self.events
        ]

    async def publish_recorded(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Write the session's changes and publish the recorded events, alternately, until nothing is left.

        Raises:
            ScopeError: A dispatch that joined the transaction is still running.
            RolledBackError: The transaction can only be rolled back.
            DispatchDepthError: Domain events cause each other without end, or there are too many of them.
        """
        while True:
            self.frame.check_last()
            self.scope.close_to_others()  # a dispatch that joined now could miss the commit
            self.raise_doom()
            await flush()
            self.raise_doom()
            if not self.recorded:
                return
            self.scope.open_to_others(self.frame)
            await self.recorded.publish()

    def log_fields(self) -> dict[str, Any]:
        """Return the fields that describe the transaction in log lines."""
        return {
            "transaction_id": self.id,
            "message_type": name_of(self.message),
            "milliseconds": round((self.clock() - self.started) * 1000, 3),
            "events": len(self.events),
            **self.frame.context.log_fields(),
        }

    @property
    def doom(self) -> Doom | None:
        """The reason why the work since the innermost savepoint can only be rolled back, or `None`."""
        return self._levels[-1].doom

    def doomed(self, message: object, error: BaseException) -> None:
        """Allow only a rollback to the innermost savepoint or `begin` from now on. The first call gives the reason."""
        level = self._levels[-1]
        if level.doom is None:
            level.doom = Doom(message, error)

    def raise_doom(self) -> None:
        """Raise a `RolledBackError` if the work since the innermost savepoint can only be rolled back."""
        if (doom := self.doom) is not None:
            raise RolledBackError(self.id, doom.message, doom.error) from doom.error

    def enter_savepoint(self) -> None:
        """Begin a savepoint. Events and after-commit calls added later can be dropped without the earlier ones."""
        self._levels.append(_Level(len(self.events), len(self.after_commit), len(self.recorded)))

    def leave_savepoint(self, *, keep: bool) -> None:
        """Keep or drop the events and calls that were collected since the savepoint."""
        level = self._levels.pop()
        if not keep:
            del self.events[level.events :]
            self.after_commit.drop(level.calls)
            self.recorded.drop(level.recorded)
