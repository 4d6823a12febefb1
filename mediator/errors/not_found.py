"""Errors of what was named and is not there. Each function returns the error that tells it."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.root import MediatorError
from mediator.printable import shown


@dataclass(eq=False, repr=False)
class NotFoundError(MediatorError, LookupError):
    """A provider, a consumer group, an event or a failpoint was named that does not exist.

    Attributes:
        name: The name, id or number that was given.
        problem: What does not exist, and what to do about it.
    """

    name: str
    problem: str

    def __str__(self) -> str:
        return self.problem


class ParkedEventNotFoundError(NotFoundError):
    """An event is not parked, or no longer: it was replayed or discarded."""


def no_provider(name: str, nearest: Sequence[str] = ()) -> NotFoundError:
    """A provider was named that the container does not have. The nearest name is suggested."""
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return NotFoundError(name, f"The container has no provider {name!r}.{hint}")


def no_consumer_group(group: str, known: Sequence[str] = ()) -> NotFoundError:
    """A parked event belongs to a consumer group that this application does not have."""
    there = f"There are: {', '.join(known)}." if known else "There is none."
    return NotFoundError(
        group,
        f"No consumer of this container has the group {shown(repr(group))}, which parked the event. "
        f"{there} Replay it with the container of the application that handles it.",
    )


def no_event_in_outbox(event_id: str) -> NotFoundError:
    """No event with an id is in the outbox or its archive."""
    return NotFoundError(
        event_id,
        f"The outbox and its archive have no event with the id {shown(repr(event_id))}. It was never committed, is "
        "older than the archive keeps, or is parked: see `mediator parked list`.",
    )


def not_parked(number: int) -> ParkedEventNotFoundError:
    """No event is parked under a number."""
    return ParkedEventNotFoundError(
        str(number), f"No event is parked under the number {number}: it was replayed or discarded, or never there."
    )


def no_failpoint(name: str, known: Sequence[str]) -> NotFoundError:
    """A test names a failpoint that does not exist."""
    return NotFoundError(name, f"There is no failpoint {name!r}. There are: {', '.join(known)}.")
