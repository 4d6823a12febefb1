"""DistributedEventHandler: handles events of other applications. A handler can read the current delivery."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import DistributedEvent
from mediator.errors import misuse
from mediator.scope import current_frame

E_contra = TypeVar("E_contra", bound=DistributedEvent, contravariant=True)


class DistributedEventHandler(ABC, Generic[E_contra]):
    """Handles the events of one class, each in a transaction that also records the event in the inbox."""

    @abstractmethod
    async def handle(self, event: E_contra, /) -> None:
        """Handle the event. Writes through the unit of work take effect once, even if this method runs several times.

        Raises:
            FatalEventError: The event can never be handled, and is parked at once. After any other error the event is
                handled again.
        """


@dataclass(frozen=True, slots=True)
class CurrentDelivery:
    """The delivery that is being handled.

    Attributes:
        event: The envelope: id, source, time, extensions. Use the id to make effects outside the database idempotent.
        attempt: The number of this start of the event's handlers, from 1. A start does not count if a stop of the
            consumer or an outage of the database interrupted the start.
    """

    event: CloudEvent
    attempt: int

    @property
    def id(self) -> str:
        """The id of the event, unique within its source."""
        return self.event.id


def current_delivery() -> CurrentDelivery:
    """Return the delivery that is being handled, also while its handlers dispatch other messages.

    Raises:
        ScopeError: No delivery is being handled.
    """
    frame = current_frame()
    while frame is not None:
        delivery = frame.scope.instances.get(CurrentDelivery)
        if isinstance(delivery, CurrentDelivery):
            return delivery
        frame = frame.parent
    raise misuse.no_scope("the current delivery")
