"""DistributedEventHandler: what an application does when an event of another one arrives, and the delivery it sees."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import DistributedEvent
from mediator.errors import NoScopeError
from mediator.scope import current_frame

E_contra = TypeVar("E_contra", bound=DistributedEvent, contravariant=True)


class DistributedEventHandler(ABC, Generic[E_contra]):
    """Handles one type and version of event when the broker delivers it, in a transaction that also records it."""

    @abstractmethod
    async def handle(self, event: E_contra, /) -> None:
        """Take the event in. What is written through the unit of work takes effect once, however often this runs.

        Raises:
            FatalEventError: It can never be handled: it is parked at once. After any other error it is tried again.
        """


@dataclass(frozen=True, slots=True)
class CurrentDelivery:
    """The delivery that is being handled.

    Attributes:
        event: The envelope: id, source, time, extensions. Its id makes effects outside the database idempotent.
        attempt: Which start of its handlers this is, from 1. Those that were broken off for the consumer to stop, or by
            the database going away, do not count.
    """

    event: CloudEvent
    attempt: int

    @property
    def id(self) -> str:
        """The id of the event, unique within its source."""
        return self.event.id


def current_delivery() -> CurrentDelivery:
    """The delivery that is being handled, also from dispatches inside its handlers.

    Raises:
        NoScopeError: No delivery is being handled.
    """
    frame = current_frame()
    while frame is not None:
        delivery = frame.scope.instances.get(CurrentDelivery)
        if isinstance(delivery, CurrentDelivery):
            return delivery
        frame = frame.parent
    raise NoScopeError("the current delivery")
