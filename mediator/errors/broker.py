"""Errors of the broker that carries distributed events, and of its streams and consumers."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.events import EventError
from mediator.errors.root import MediatorError


@dataclass(eq=False, repr=False)
class PublisherUnavailableError(MediatorError, ConnectionError):
    """The broker cannot be reached or did not answer; nothing is known of the event, and it may be sent again."""

    broker: str
    reason: str

    def __str__(self) -> str:
        return f"{self.broker} is not available: {self.reason}"


@dataclass(eq=False, repr=False)
class DuplicateDroppedError(PublisherUnavailableError):
    """The broker remembers the id of an event that its stream holds no longer, and dropped it as a duplicate."""

    event_id: str = ""

    def __str__(self) -> str:
        return (
            f"{self.broker} dropped the event {self.event_id} as a duplicate: {self.reason}. Refill with "
            "`mediator outbox verify --republish`, which gets around that, or wait until the stream's duplicate_window is "
            "over."
        )


@dataclass(eq=False, repr=False)
class StreamNotFoundError(PublisherUnavailableError):
    """The stream of an event does not exist."""

    stream: str = ""

    def __str__(self) -> str:
        return (
            f"The stream {self.stream} does not exist at {self.broker}: {self.reason}. Create it with `mediator topology "
            "apply`, or let the publisher do so with `provision=True`. Events stay in the outbox meanwhile."
        )


@dataclass(eq=False, repr=False)
class StreamUnavailableError(PublisherUnavailableError):
    """The broker can be reached, and the stream of an event takes nothing at present: it is full, or has no leader."""

    stream: str = ""

    def __str__(self) -> str:
        return (
            f"The stream {self.stream} at {self.broker} takes no events: {self.reason}. They stay in the outbox meanwhile, "
            "and those of other streams go on."
        )


@dataclass(eq=False, repr=False)
class ConsumerNotFoundError(PublisherUnavailableError):
    """The durable consumer of a group does not exist, and the application is not to create it."""

    stream: str = ""
    consumer: str = ""

    def __str__(self) -> str:
        return (
            f"The consumer {self.consumer} of the stream {self.stream} does not exist at {self.broker}: {self.reason}. "
            "Create it with `mediator topology apply`, or let the subscription do so with `provision=True`. Events stay "
            "in the stream meanwhile."
        )


@dataclass(eq=False, repr=False)
class StreamMismatchError(PublisherUnavailableError):
    """A stream exists with other settings than this application needs; it is never changed silently."""

    stream: str = ""
    differences: Sequence[str] = ()

    def __str__(self) -> str:
        return (
            f"The stream {self.stream} at {self.broker} differs from what is needed: {'; '.join(self.differences)}. "
            "Change the stream or the settings so that they agree. Events stay in the outbox meanwhile."
        )


@dataclass(eq=False, repr=False)
class GroupOrderingError(EventError):
    """A group that consumed with one ordering is to consume with the other one, and would begin again from its start."""

    group: str
    ordering: str
    stream: str
    consumer: str

    def __str__(self) -> str:
        return (
            f"The group {self.group} cannot consume {self.stream} with ordering={self.ordering!r}: the consumer "
            f"{self.consumer} shows that it did so with the other ordering, and its progress cannot be taken over. Use "
            f"another group; or stop every instance of this one and delete its consumers on {self.stream}: it then begins "
            "where `start` says, and the inbox recognizes what it has taken in before."
        )


@dataclass(eq=False, repr=False)
class ServerStartError(MediatorError, RuntimeError):
    """A nats-server could not be started."""

    reason: str
    log: str = ""

    def __str__(self) -> str:
        tail = f"\nThe end of its log:\n{self.log}" if self.log else ""
        return f"nats-server did not start: {self.reason}{tail}"
