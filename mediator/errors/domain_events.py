"""Errors of domain events: those that one transaction publishes before its commit come to no end."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.circle import circle_in, shown
from mediator.errors.dispatch import DispatchDepthError
from mediator.errors.root import MediatorError


@dataclass(eq=False, repr=False)
class DomainEventDepthError(DispatchDepthError):
    """The handlers of domain events made aggregates record events, whose handlers did so too, and so on.

    Attributes:
        limit: The `max_depth` of the mediator.
        path: The events, each recorded by the handlers of the one before it.
    """

    def __str__(self) -> str:
        return (
            f"{len(self.path)} domain events follow from each other, more than max_depth ({self.limit}): "
            f"{shown(self.path)}. "
            + (
                "They cause each other without end. Break the circle"
                if self.cycle
                else "Let fewer follow from each other"
            )
            + ", or raise `max_depth` of the mediator."
        )


@dataclass(eq=False, repr=False)
class TooManyDomainEventsError(MediatorError, RuntimeError):
    """One transaction has more domain events than it may publish, most likely because they cause each other in a circle.

    Attributes:
        limit: The `max_domain_events` of the unit of work.
        path: The events that led to the last one, each recorded by the handlers of the one before it.
    """

    limit: int
    path: Sequence[object]

    @property
    def cycle(self) -> Sequence[str]:
        """The names of the events that cause each other, once each; empty when there is no circle."""
        return circle_in(self.path)

    def __str__(self) -> str:
        return (
            f"One transaction has more domain events than max_domain_events ({self.limit:,}): {shown(self.path)}. "
            + ("They cause each other without end. Break the circle" if self.cycle else "Do less in one command")
            + ", or raise `max_domain_events` of the unit of work."
        )
