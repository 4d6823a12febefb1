"""DistributedEventHandler: handles events of other applications, and can see the delivery that it handles."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import DistributedEvent
from mediator.errors import misuse
from mediator.scope import current_frame

E_contra = TypeVar("E_contra", bound=DistributedEvent, contravariant=True)


class DistributedEventHandler(ABC, Generic[E_contra]):
    """Handles one type and version of event when the broker delivers it, in a transaction that also records it."""

    @abstractmethod
    async def handle(self, event: E_contra, /) -> None:
        """Handle the event. Writes through the unit of work take effect once, however often this runs.

        Raises:
            FatalEventError: The event can never be handled: it is parked at once. After any other error it is tried
                again.
        """


@dataclass(frozen=True, slots=True)
class CurrentDelivery:
    """The delivery that is being handled.

    Attributes:
        event: The envelope: id, source, time, extensions. Use its id to make effects outside the database idempotent.
        attempt: The number of this start of its handlers, from 1. Starts that were broken off because the consumer
            stopped or the database went away do not count.
    """

    event: CloudEvent
    attempt: int

    @property
    def id(self) -> str:
        """The id of the event, unique within its source."""
        return self.event.id


def current_delivery() -> CurrentDelivery:
    """Return the delivery that is being handled, also in dispatches inside its handlers.

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
